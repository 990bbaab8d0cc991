//! `on_detached` under systemd: what the sandboxed agent may start runs outside its sandbox.

use std::path::Path;

use tfo_testbed::machine::{Image, need_machine};
use tfo_testbed::poll_until;
use tfo_testbed::{SOON, agent_path, skip_unless};

#[test]
fn with_the_example_drop_in_the_agent_can_start_a_unit_that_withdraws_the_node() {
    skip_unless!(need_machine());
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let drop_ins = "/etc/systemd/system/tfo-agent.service.d";
    // The unit's own sandbox, with the command of config/agent.toml in the agent's place, some time after the start.
    let probe = "[Service]\nType=exec\nWatchdogSec=0\nRestart=no\nExecStart=\n\
                 ExecStart=/bin/sh -c 'touch /run/tfo-agent/up; until [ -e /run/detached ]; do sleep 0.1; done; \
                 exec /usr/bin/systemctl start --no-block withdraw-vip.service'\n";
    // Needs what no agent has: CAP_NET_ADMIN and AF_NETLINK.
    let withdraw =
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'ip link add withdrawn type bridge'\n";
    let config = "[source]\nkind = \"coordinator\"\nurls = [\"https://127.0.0.1:9\"]\npool = \"edge\"\n\
                  ca = \"/none\"\ncert = \"/none\"\nkey = \"/none\"\n\
                  on_detached = [\"/usr/bin/systemctl\", \"start\", \"withdraw-vip.service\"]\n";
    let machine = Image::new()
        .copy(agent_path(), "/usr/bin/tfo-agent", 0o755)
        .file("/etc/tfo-fleet/agent.toml", config, 0o644)
        .copy(&systemd.join("tfo-agent.service"), "/etc/systemd/system/tfo-agent.service", 0o644)
        .file(&format!("{drop_ins}/probe.conf"), probe, 0o644)
        .unit("withdraw-vip.service", withdraw)
        .boot();
    let checked = || machine.output(&["tfo-agent", "check", "--format", "json"]).stdout;
    let warns = || String::from_utf8_lossy(&checked()).contains("hook_not_allowed");
    assert!(warns(), "{}", String::from_utf8_lossy(&checked()));
    let example = std::fs::read_to_string(systemd.join("examples/on-detached.conf")).unwrap();
    machine.write_new(&format!("{drop_ins}/on-detached.conf"), &example);
    machine.run(&["systemctl", "daemon-reload"]);
    assert!(!warns(), "{}", String::from_utf8_lossy(&checked()));
    machine.run(&["systemctl", "start", "tfo-agent"]);
    assert!(poll_until(SOON, || machine.path("/run/tfo-agent/up").exists()), "{}", machine.journal(None));
    // As an upgrade does it.
    machine.run(&["sh", "-c", "cp /usr/bin/systemctl /usr/bin/x && mv /usr/bin/x /usr/bin/systemctl"]);
    machine.run(&["touch", "/run/detached"]);
    let withdrawn = || machine.output(&["ip", "link", "show", "withdrawn"]).status.success();
    assert!(poll_until(SOON, withdrawn), "{}", machine.journal(None));
}
