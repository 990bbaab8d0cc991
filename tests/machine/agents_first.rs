//! Agents first, key later: config management installs agents while the pool is empty, its play is green at once, and the
//! first key reaches every node when an operator makes it.

use super::boot::site::Site;
use super::boot::transcript::{PAGE, SECTION};
use super::recipes;
use tfo_testbed::host::UNSET;
use tfo_testbed::machine::{Machine, need_machine};
use tfo_testbed::package::need_packages;
use tfo_testbed::{SOON, by_size, poll_until, transcript};

const CONFIG: &str = "[source]\nkind = \"coordinator\"\nurls = [\"https://tfo1.example.org:9443\"]\npool = \"edge\"\n\
                      ca = \"/etc/tfo-fleet/ca.crt\"\ncert = \"/etc/tfo-fleet/node.crt\"\n\
                      key = \"/etc/tfo-fleet/node.key\"\n";

/// A server that the agent's unit orders itself before, and that wants the agent.
const SERVER: &str = "[Unit]\nRequires=tfo-agent.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                      ExecStart=/bin/true\n";

/// One run of the Ansible role on a node; gives how many tasks changed something.
#[track_caller]
fn play(machine: &Machine, mode: &str) -> u32 {
    recipes::play(machine, "tfo_agent", &serde_json::json!({ "tfo_agent_mode": mode, "tfo_agent_config": CONFIG }), &[])
        .0
}

/// The fleet of that page, as far as its coordinator: the pool is empty, and no node has an agent yet.
fn with_a_coordinator(packages: &tfo_testbed::package::Packages) -> Site {
    let mut site = Site::new(packages);
    let shown = transcript::below(PAGE, SECTION);
    for (prompt, command) in transcript::typed(shown).iter().take_while(|(prompt, _)| *prompt == "tfo1# ") {
        site.type_on(prompt.trim_end_matches("# "), command);
    }
    site
}

/// The role, the package and the certificates on a node: what an inventory and a vault bring.
fn prepare(site: &Site, node: &str) {
    let machine = site.on(node);
    recipes::bring(machine, "tfo_agent");
    machine.run(&["mkdir", "-p", "/etc/tfo-fleet"]);
    for file in ["ca.crt", "node.crt", "node.key"] {
        site.bring(&format!("pki/{node}.cache.example.org/{file}"), node, &format!("/etc/tfo-fleet/{file}"));
    }
    machine.run(&["sh", "-c", "dpkg --force-unsafe-io --install /root/tfo-agent_*.deb"]);
    machine.write_new("/etc/systemd/system/nginx.service", SERVER);
    machine.run(&["systemctl", "daemon-reload"]);
}

#[test]
fn config_management_brings_agents_before_the_pool_has_a_key() {
    let (true, Some(packages)) = (need_machine() && tfo_testbed::need_tool("ansible-playbook"), need_packages()) else {
        return;
    };
    let mut site = with_a_coordinator(packages);
    let nodes = by_size(&["cp1"][..], &["cp1", "cp2"], &["cp1", "cp2"]);
    for node in nodes {
        prepare(&site, node);
        // As a timer, too: `once` has nothing to install, and nothing has failed.
        let both = if *node == "cp1" { &["timer", "daemon"][..] } else { &["daemon"] };
        let modes = by_size(&["daemon"][..], both, both);
        for mode in modes {
            assert!(play(site.on(node), mode) > 0, "{node}: {mode}");
        }
        let machine = site.on(node);
        assert_eq!(machine.run(&["systemctl", "is-active", "tfo-agent"]), "active");
        assert_eq!(machine.property("tfo-agent", "NRestarts"), "0", "{}", machine.journal(Some("tfo-agent")));
        let shown = machine.property("tfo-agent", "StatusText");
        assert!(shown.starts_with("degraded: pool edge has no key yet; `tfoctl rotate --first`"), "{shown}");
        // A server that waits for the agent, as at a boot.
        machine.run(&["systemctl", "stop", "tfo-agent"]);
        machine.run(&["systemctl", "start", "nginx"]);
        assert_eq!(machine.property("tfo-agent", "ActiveState"), "active");
        assert_eq!(machine.run(&["systemctl", "list-units", "--failed", "--no-legend", "--plain"]), "");
        assert_eq!(super::boot::installed_key(machine), UNSET);
    }
    assert_eq!(play(site.on("cp1"), "daemon"), 0, "a second run changes nothing");
    site.type_on("tfo1", &format!("tfoctl rotate --first --expect {} --wait --yes", nodes.len()));
    let key = super::boot::installed_key(site.on("cp1"));
    assert!(key != UNSET && !key.contains(','), "one first key: {key}");
    for node in nodes {
        assert_eq!(super::boot::installed_key(site.on(node)), key);
        let said = || site.on(node).property("tfo-agent", "StatusText");
        assert!(poll_until(SOON, || said().starts_with("primary ")), "{node}: {}", said());
        assert_eq!(site.on(node).property("tfo-agent", "NRestarts"), "0");
    }
}
