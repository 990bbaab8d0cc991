//! From three fresh hosts to a fleet that has rotated, with an authority that is kept by hand: docs/how-to/authority_kept_off.md
//! has the transcript, which is read from there, typed again and compared.  And on the same machines what else is to be seen of the coordinator's
//! package.

use super::site::Site;
use super::{KEY_FILE, UNSET, need, probed, told};
use tfo_testbed::machine::Machine;
use tfo_testbed::package::Packages;
use tfo_testbed::{SOON, poll_until, skip_unless, transcript};

/// The page.
pub(crate) const PAGE: &str = include_str!("../../../docs/how-to/authority_kept_off.md");
/// The page about backups.
const BACKUP_PAGE: &str = include_str!("../../../docs/how-to/backup.md");
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
                for file in ["ca.crt", "node.crt", "node.key"] {
                    site.bring(
                        &format!("pki/{node}.cache.example.org/{file}"),
                        node,
                        &format!("/etc/tfo-fleet/{file}"),
                    );
                }
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
fn a_fleet_comes_from_packages_and_rotates_as_the_page_shows() {
    let Some(packages) = need() else { return };
    skip_unless!(tfo_testbed::need_tool("python3"));
    let shown = transcript::below(PAGE, SECTION);
    let site = from_packages_to_rotated(packages, shown);
    let center = site.on("tfo1");
    a_reload_of_the_coordinator_is_answered(center);
    a_reload_that_needs_a_restart_fails_and_names_the_key(center);
    a_denied_node_and_a_revoked_one_are_cut_off_at_once(&site);
    a_backup_is_made_by_its_unit_and_fills_a_new_store(&site);
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

fn a_reload_that_needs_a_restart_fails_and_names_the_key(center: &Machine) {
    let file = "/etc/tfo-fleet/coordinator.toml";
    let good = center.read(file);
    center.write(file, &good.replace("#listen = \"[::]:9443\"", "listen = \"[::]:9444\""));
    assert!(!center.output(&["systemctl", "reload", "tfo-coordinator"]).status.success(), "it cannot be taken");
    let said = || center.property("tfo-coordinator", "StatusText");
    let named = "api.listen: the running coordinator cannot change this; it takes effect at a restart";
    assert!(poll_until(SOON, || said().starts_with("reload refused: ") && said().contains(named)), "{}", said());
    let check = center.output(&["tfo-coordinator", "check"]);
    let warned = told(&check).lines().any(|line| line.starts_with("warning: ") && line.contains(named));
    assert!(check.status.success() && warned, "{}", told(&check));
    let check = center.output(&["tfo-coordinator", "check", "--reload"]);
    assert!(check.status.code() == Some(2) && told(&check).contains("systemctl restart"), "{}", told(&check));
    center.write(file, &good);
    center.run(&["systemctl", "reload", "tfo-coordinator"]);
    // And a credential that the unit loads from nowhere is found before the next start finds it.
    center.run(&["mv", "/etc/tfo-fleet/kek", "/etc/tfo-fleet/kek.away"]);
    let check = center.output(&["tfo-coordinator", "check"]);
    assert!(told(&check).contains("loads it from /etc/tfo-fleet/kek, which does not exist"), "{}", told(&check));
    center.run(&["mv", "/etc/tfo-fleet/kek.away", "/etc/tfo-fleet/kek"]);
}

/// How long a denied or revoked node may be served: what `tfoctl pki revoke` says.
const CUT_OFF_SECS: f64 = 5.0;

/// The clock that all machines have, in seconds.
fn clock(machine: &Machine) -> f64 {
    machine.run(&["date", "+%s.%N"]).parse().unwrap()
}

/// When a unit logged this first, after `since`.
#[track_caller]
fn logged(machine: &Machine, unit: &str, text: &str, since: f64) -> f64 {
    let mut found = None;
    let line = || {
        machine.run(&["journalctl", "--sync"]);
        let journal = machine.run(&["journalctl", "--no-pager", "--output=short-unix", "--unit", unit]);
        found = journal.lines().filter(|line| line.contains(text)).find_map(|line| {
            let at: f64 = line.split_whitespace().next()?.parse().ok()?;
            (at > since).then_some(at)
        });
        found.is_some()
    };
    assert!(poll_until(SOON, line), "{text}: {}", machine.journal(Some(unit)));
    found.expect("it was found")
}

fn a_denied_node_and_a_revoked_one_are_cut_off_at_once(site: &Site) {
    let (center, key) = (site.on("tfo1"), site.keys());
    let converged = || nodes(site).iter().filter(|node| node["state"] == "converged").count();
    // Denied while its long poll is open: it is refused, and again with each request, until it is forgotten.
    let began = clock(center);
    center.run(&["tfoctl", "deny", "cp1.cache.example.org", "--yes", "--reason", "a test"]);
    let denied = logged(site.on("cp1"), "tfo-agent", "kind=\"denied\"", began) - began;
    assert!(denied < CUT_OFF_SECS, "{denied} s");
    center.run(&["tfoctl", "forget", "cp1.cache.example.org", "--yes", "--reason", "a test"]);
    assert!(poll_until(SOON, || converged() == 2), "{:#?}", nodes(site));

    // Revoked: by the file alone, as the command says, without a reload.
    let said = center.run(&["sh", "-c", "cd /root && tfoctl pki revoke --dir pki cp2.cache.example.org"]);
    for part in ["crl = \"/etc/tfo-fleet/crl.pem\"", "within 5 s", "copy it to every coordinator"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let began = clock(center);
    center.run(&["cp", "/root/pki/crl.pem", "/etc/tfo-fleet/crl.pem"]);
    let closed = logged(center, "tfo-coordinator", "connection closed: its certificate is no longer accepted", began);
    assert!(closed - began < CUT_OFF_SECS, "{} s", closed - began);
    logged(site.on("cp2"), "tfo-agent", "kind=\"certificate_revoked\"", began);
    let check = site.on("cp2").output(&["tfo-agent", "check"]);
    assert!(told(&check).contains("this node's certificate was revoked: "), "{}", told(&check));
    assert_eq!(site.keys(), key, "they keep what they have");

    // A new certificate brings it back, without a restart.
    center.run(&["sh", "-c", "cd /root && tfoctl pki issue --dir pki --node cp2.cache.example.org --out new"]);
    for file in ["node.key", "node.crt"] {
        site.bring(&format!("new/{file}"), "cp2", &format!("/etc/tfo-fleet/{file}"));
    }
    assert!(poll_until(SOON, || converged() == 2), "{:#?}", nodes(site));
}

fn a_backup_is_made_by_its_unit_and_fills_a_new_store(site: &Site) {
    let (center, key) = (site.on("tfo1"), site.keys());
    assert_eq!(center.property("tfo-coordinator-backup.timer", "UnitFileState"), "disabled");
    center.run(&["systemctl", "start", "tfo-coordinator-backup"]);
    let directory = "/var/lib/tfo-coordinator-backup";
    let name = center.run(&["ls", directory]);
    assert!(name.starts_with("tfo-fleet-2") && name.ends_with("Z.backup") && !name.contains('\n'), "{name}");
    let file = format!("{directory}/{name}");
    let owned = center.run(&["stat", "--format=%a %U", directory, &file]);
    assert_eq!(owned, "700 tfo-coordinator\n600 tfo-coordinator");
    center.run(&["systemctl", "enable", "--now", "tfo-coordinator-backup.timer"]);
    assert_eq!(center.property("tfo-coordinator-backup.timer", "ActiveState"), "active");
    center.run(&["systemctl", "disable", "--now", "tfo-coordinator-backup.timer"]);

    // The host is lost; the page says how the backup is imported.
    center.run(&["systemctl", "stop", "tfo-coordinator"]);
    center.run(&["sh", "-c", "rm /var/lib/tfo-coordinator/state.db*"]);
    let line = BACKUP_PAGE.lines().find(|line| line.contains("import --from")).expect("the page has it").trim();
    center.run(&["sh", "-c", &line.replace("FILE", &file)]);
    center.run(&["systemctl", "start", "tfo-coordinator"]);
    let converged = || nodes(site).iter().filter(|node| node["state"] == "converged").count();
    assert!(poll_until(SOON, || converged() == 2), "{:#?}", nodes(site));
    assert_eq!(site.keys(), key);
}

fn the_sandbox_lets_the_coordinator_do_its_work_and_nothing_else(center: &Machine) {
    for unit in ["tfo-coordinator.service", "tfo-coordinator-backup.service"] {
        let (done, told) = probed(center, unit, "coordinator");
        assert_eq!(done, ["own directory", super::BESIDE_LIBRARIES], "{unit}: {told}");
    }
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
    for kept in ["/etc/tfo-fleet/kek", "/etc/tfo-fleet/crl.pem", "/var/lib/tfo-coordinator-backup"] {
        assert!(center.path(kept).exists(), "{kept}: what an operator made is not the package's to remove");
    }
    assert_eq!(site.keys(), key);
    for node in ["cp1", "cp2"] {
        assert_eq!(site.on(node).run(&["cat", KEY_FILE]), key);
        assert_eq!(site.on(node).property("tfo-agent", "ActiveState"), "active", "{node} continues");
    }
}
