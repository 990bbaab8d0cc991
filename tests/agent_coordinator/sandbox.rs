//! `on_detached` under systemd: what the sandboxed agent may start runs outside its sandbox.

use std::path::Path;

use crate::support::daemon::SOON;
use crate::support::machine::{Image, need_machine};
use crate::support::poll_until;

#[test]
fn the_sandboxed_agent_can_start_a_unit_that_withdraws_the_node() {
    if !need_machine() {
        return;
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/tfo-agent.service");
    // The unit's own sandbox, with the command of config/agent.toml in the agent's place.
    let drop_in = "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nExecStart=\n\
                   ExecStart=/usr/bin/systemctl start --no-block withdraw-vip.service\n";
    // Needs what no agent has: CAP_NET_ADMIN and AF_NETLINK.
    let withdraw =
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'ip link add withdrawn type bridge'\n";
    let machine = Image::new()
        .copy(&unit, "/etc/systemd/system/tfo-agent.service", 0o644)
        .file("/etc/systemd/system/tfo-agent.service.d/probe.conf", drop_in, 0o644)
        .unit("withdraw-vip.service", withdraw)
        .boot();
    machine.run(&["systemctl", "start", "tfo-agent"]);
    let withdrawn = || machine.output(&["ip", "link", "show", "withdrawn"]).status.success();
    assert!(poll_until(SOON, withdrawn), "{}", machine.journal(None));
}
