//! From three fresh hosts to a fleet that has rotated, from the packages alone; docs/tutorial.md has the transcript, which
//! is read from there, typed again and compared.  And on the same machines what else is to be seen of the coordinator's
//! package.

use super::site::Site;
use super::{KEY_FILE, UNSET, need, probed, told};
use tfo_testbed::machine::Machine;
use tfo_testbed::package::Packages;
use tfo_testbed::{SOON, poll_until, skip_unless, transcript};

/// The page.
pub(crate) const TUTORIAL: &str = include_str!("../../../docs/tutorial.md");
/// The section whose transcript it is.
pub(crate) const SECTION: &str = "## From packages to the first rotation";

/// Types it all, on cp2 also what is typed on cp1; brings files and waits where a person would.
fn from_packages_to_rotated(packages: &Packages, shown: &str) -> Site {
    let mut site = Site::new(packages);
    let mut first = UNSET.to_owned();
    for (prompt, command) in &transcript::typed(shown) {
        let host = prompt.trim_end_matches("# ");
        if command.starts_with("cat > /etc/tfo-fleet/agent.toml") {
            for node in ["cp1", "cp2"] {
                site.bring("pki/ca.crt", node, "/etc/tfo-fleet/ca.crt");
                site.bring(&format!("pki/{node}.cache.example.org.crt"), node, "/etc/tfo-fleet/node.crt");
                site.bring(&format!("pki/{node}.cache.example.org.key"), node, "/etc/tfo-fleet/node.key");
            }
        }
        if command == "tfoctl nodes" && first == UNSET {
            assert!(poll_until(SOON, || nodes(&site).len() == 2), "{:?}", nodes(&site));
        }
        site.type_on(host, command);
        if host == "cp1" {
            let so_far = site.transcript.clone();
            site.type_on("cp2", command);
            site.transcript = so_far;
        }
        if command == "tfoctl resume" {
            first = site.keys();
        }
    }
    assert!(first != UNSET && !first.contains(','), "one first key: {first}");
    let rotated = site.keys();
    let (primary, backup) = rotated.split_once(',').expect("two keys");
    assert_eq!(backup, first);
    assert!(primary != first && primary != UNSET, "{rotated}");
    for node in ["cp1", "cp2"] {
        assert_eq!(super::persisted_key(&site.on(node).read(super::SYSCTL_FILE)), rotated, "{node}");
        assert!(poll_until(SOON, || site.on(node).property("tfo-agent", "ActiveState") == "active"), "{node}");
    }
    site
}

/// The nodes that the coordinator knows.
fn nodes(site: &Site) -> Vec<serde_json::Value> {
    let output = site.on("tfo1").output(&["tfoctl", "nodes", "--format", "json"]);
    let mut found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    found["nodes"].as_array_mut().map(std::mem::take).unwrap_or_default()
}

#[test]
fn a_fleet_comes_from_packages_and_rotates_as_the_tutorial_shows() {
    let Some(packages) = need() else { return };
    skip_unless!(tfo_testbed::need_tool("python3"));
    let shown = transcript::below(TUTORIAL, SECTION);
    let site = from_packages_to_rotated(packages, shown);
    let center = site.on("tfo1");
    a_reload_of_the_coordinator_is_answered(center);
    the_sandbox_lets_the_coordinator_do_its_work_and_nothing_else(center);
    an_upgrade_a_removal_and_a_purge_of_the_coordinator_leave_the_nodes_alone(&site);

    let said = &site.transcript;
    assert_eq!(transcript::plain(shown), transcript::plain(said), "as it printed now:\n{said}");
}

fn a_reload_of_the_coordinator_is_answered(center: &Machine) {
    let file = "/etc/tfo-fleet/coordinator.toml";
    let (service, good) = (center.property("tfo-coordinator", "MainPID"), center.read(file));
    let said = || center.property("tfo-coordinator", "StatusText");
    let serving = "serving edge on [::]:9443";
    center.run(&["systemctl", "reload", "tfo-coordinator"]);
    assert_eq!(said(), serving);

    center.write(file, &good.replace("\noperators", "\noperatrs"));
    let reload = center.output(&["systemctl", "reload", "tfo-coordinator"]);
    assert!(!reload.status.success(), "a broken config was taken");
    assert!(told(&reload).contains("See \"systemctl status tfo-coordinator.service\""), "{}", told(&reload));
    let refused = |line: &str| {
        line.starts_with("reload refused: /etc/tfo-fleet/coordinator.toml:")
            && line.ends_with(&format!("; keeping the old configuration; {serving}"))
    };
    assert!(poll_until(SOON, || refused(&said())), "{}", said());
    let shown = center.run(&["systemctl", "status", "--no-pager", "--lines=0", "tfo-coordinator"]);
    assert!(shown.contains("Status: \"reload refused: "), "{shown}");
    assert!(center.output(&["tfoctl", "pools"]).status.success(), "the operators are the old ones");

    center.write(file, &good);
    center.run(&["systemctl", "reload", "tfo-coordinator"]);
    assert!(poll_until(SOON, || said() == serving), "{}", said());
    assert_eq!(center.property("tfo-coordinator", "MainPID"), service, "it is the same one");
}

fn the_sandbox_lets_the_coordinator_do_its_work_and_nothing_else(center: &Machine) {
    let (done, told) = probed(center, "tfo-coordinator.service", "coordinator");
    assert_eq!(done, ["own directory", super::BESIDE_LIBRARIES], "{told}");
    center.run(&["systemctl", "start", "tfo-coordinator"]);
}

fn an_upgrade_a_removal_and_a_purge_of_the_coordinator_leave_the_nodes_alone(site: &Site) {
    let (center, key) = (site.on("tfo1"), site.keys());
    let service = center.property("tfo-coordinator", "MainPID");
    let state = "/var/lib/tfo-coordinator/state.db";
    center.run(&["sh", "-c", "dpkg -i /root/tfo-coordinator_*.deb"]);
    assert!(poll_until(SOON, || center.property("tfo-coordinator", "ActiveState") == "active"));
    assert_ne!(center.property("tfo-coordinator", "MainPID"), service, "it was not restarted");
    let converged = || nodes(site).iter().filter(|node| node["state"] == "converged").count();
    assert!(poll_until(SOON, || converged() == 2), "{:#?}", nodes(site));
    assert_eq!(site.keys(), key);

    let said = center.run(&["dpkg", "--remove", "tfo-coordinator"]);
    assert!(said.contains("the pools stay in /var/lib/tfo-coordinator"), "{said}");
    assert_ne!(center.property("tfo-coordinator", "ActiveState"), "active");
    assert!(center.path(state).exists());
    center.run(&["dpkg", "--purge", "tfo-coordinator"]);
    for gone in ["/var/lib/tfo-coordinator", "/etc/tfo-fleet/coordinator.toml", "/usr/bin/tfo-coordinator"] {
        assert!(!center.path(gone).exists(), "{gone} is still there");
    }
    assert!(center.path("/etc/tfo-fleet/kek").exists(), "what an operator made is not the package's to remove");
    assert_eq!(site.keys(), key);
    for node in ["cp1", "cp2"] {
        assert_eq!(site.on(node).run(&["cat", KEY_FILE]), key);
        assert_eq!(site.on(node).property("tfo-agent", "ActiveState"), "active", "{node} goes on");
    }
}
