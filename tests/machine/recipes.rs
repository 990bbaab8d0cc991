//! What Ansible and Puppet have to bring about on three hosts, whichever of them does it: a fleet that waits for its first
//! key, one that has rotated, a key of the host's own; and no secret in what they print.

use super::boot::installed_key;
use super::boot::site::Site;
use tfo_testbed::host::{KEY_FILE, UNSET};
use tfo_testbed::machine::Machine;
use tfo_testbed::{SOON, poll_until};

/// The nodes of the fleet, and their names in it.
pub(crate) const NODES: [(&str, &str); 2] = [("cp1", "cp1.example.org"), ("cp2", "cp2.example.org")];

/// The coordinator's host is a server, too, and makes the keys of its own from this.
pub(crate) const SECRET: &str = "Dz6q0vXk1rT9sYb4Lw8nGmHcJ2eUaPfK";
/// The same, as Ansible's variable has it.
pub(crate) const SECRET_BASE64: &str = "RHo2cTB2WGsxclQ5c1liNEx3OG5HbUhjSjJlVWFQZks=";
/// The longest interval: a key that changes between two runs of one test is a once-a-week event.
pub(crate) const CONFIG: &str = "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"/etc/tfo-fleet/fleet.secret\"\n\
                                 interval = \"7d\"\nstage_lead = \"1h\"\n";

/// The timer must not repair what a run is to find.
const RARELY: &str = "[Timer]\nOnCalendar=\nOnCalendar=yearly\n";

/// A server that the agent's unit orders itself before, and that wants the agent.
const SERVER: &str = "[Unit]\nRequires=tfo-agent.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                      ExecStart=/bin/true\n";

/// A key that no agent has made.
const FOREIGN: &str = "00000001-00000002-00000003-00000004";

/// What no machine has of its own before the first run.
#[track_caller]
pub(crate) fn assert_fresh(machine: &Machine) {
    for path in ["/etc/tfo-fleet", "/usr/bin/tfo-agent", "/usr/bin/tfo-coordinator", "/var/lib/tfo-agent"] {
        assert!(!machine.path(path).exists(), "{path}");
    }
}

/// What differs on these machines from those of a fleet: the timer, and how dpkg writes.
pub(crate) fn prepare(site: &Site) {
    for name in ["tfo1", "cp1", "cp2"] {
        let machine = site.on(name);
        machine.run(&["mkdir", "-p", "/etc/systemd/system/tfo-agent-once.timer.d"]);
        machine.write_new("/etc/systemd/system/tfo-agent-once.timer.d/rarely.conf", RARELY);
        machine.write_new("/etc/dpkg/dpkg.cfg.d/unsafe", "force-unsafe-io\n");
    }
}

/// Agents before the key: each node has joined, its daemon is ready, and a server that waits for it starts, as at a boot.
#[track_caller]
pub(crate) fn assert_waiting_for_the_first_key(site: &Site) {
    for (name, _) in NODES {
        let node = site.on(name);
        assert!(node.path("/var/lib/tfo-agent/node.pem").exists(), "{name} has not joined");
        assert_eq!(node.property("tfo-agent", "UnitFileState"), "enabled");
        assert_eq!(node.property("tfo-agent", "ActiveState"), "active");
        assert_eq!(node.property("tfo-agent", "NRestarts"), "0", "{}", node.journal(Some("tfo-agent")));
        let shown = node.property("tfo-agent", "StatusText");
        assert!(shown.starts_with("degraded: pool edge has no key yet; `tfoctl rotate --first`"), "{shown}");
        assert_eq!(installed_key(node), UNSET);
        node.write_new("/etc/systemd/system/nginx.service", SERVER);
        node.run(&["systemctl", "daemon-reload"]);
        node.run(&["systemctl", "stop", "tfo-agent"]);
        node.run(&["systemctl", "start", "nginx"]);
        assert_eq!(node.property("tfo-agent", "ActiveState"), "active");
        assert_eq!(node.run(&["systemctl", "list-units", "--failed", "--no-legend", "--plain"]), "");
    }
}

/// The first key and one rotation, each seen in both kernels.
#[track_caller]
pub(crate) fn rotate(site: &mut Site) {
    site.hasten();
    site.type_on("tfo1", "tfoctl rotate --first --expect 2 --wait --yes");
    let first = site.keys();
    assert!(first != UNSET && !first.contains(','), "one first key: {first}");
    site.type_on("tfo1", "tfoctl resume");
    site.type_on("tfo1", "tfoctl rotate --reason weekly --wait");
    let rotated = site.keys();
    let (primary, backup) = rotated.split_once(',').unwrap_or_else(|| panic!("two keys: {rotated}"));
    assert!(backup == first && primary != first, "{rotated}");
    for (name, _) in NODES {
        let said = || site.on(name).property("tfo-agent", "StatusText");
        assert!(poll_until(SOON, || said().starts_with("primary ")), "{name}: {}", said());
        assert_eq!(site.on(name).property("tfo-agent", "NRestarts"), "0");
    }
}

/// The key that the secret leads to, by the timer; gives it.
#[track_caller]
pub(crate) fn own_key(site: &Site) -> String {
    let center = site.on("tfo1");
    assert_eq!(center.property("tfo-agent-once.timer", "ActiveState"), "active");
    assert_eq!(center.property("tfo-agent-once.timer", "UnitFileState"), "enabled");
    assert_eq!(center.property("tfo-agent", "ActiveState"), "inactive");
    let key = installed_key(center);
    assert_ne!(key, UNSET);
    key
}

/// Gives the host another key, as a hand or a program would.
pub(crate) fn spoil(machine: &Machine) {
    machine.run(&["sh", "-c", &format!("echo {FOREIGN} > {KEY_FILE}")]);
}

/// Whether that key is still there.
pub(crate) fn is_spoilt(machine: &Machine) -> bool {
    installed_key(machine) == FOREIGN
}

/// Neither the shared secret, nor a key that was made from it, nor the token's secret was printed.
#[track_caller]
pub(crate) fn assert_untold(text: &str, key: &str, token: &str) {
    let token = token.split('.').nth(2).expect("version, id, secret, pin, addresses");
    let hex: String = key.split(['-', ',']).collect();
    let groups: Vec<&str> = key.split(['-', ',']).collect();
    assert!(token.len() > 10 && groups.len() == 8, "{key}");
    for secret in [SECRET, SECRET_BASE64, token, key, &hex, groups[0], groups[7]] {
        assert!(!text.contains(secret), "a secret was printed:\n{text}");
    }
}

/// The first block of a page in this language.
#[track_caller]
pub(crate) fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("the page has such a block");
    rest.split_once("```").expect("it ends").0
}
