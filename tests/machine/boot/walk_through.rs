//! docs/tutorial.md, typed: from fresh hosts with packages to the first rotation in ten commands, with nothing copied but one
//! token.  And on the same machines what `init` promises beyond that.

use super::site::Site;
use super::{KEY_FILE, UNSET, need, told};
use tfo_testbed::package::Packages;
use tfo_testbed::{skip_unless, transcript};

/// The page.
const TUTORIAL: &str = include_str!("../../../docs/tutorial.md");
/// The section whose transcript it is.
const SECTION: &str = "## From packages to the first rotation";
/// What the whole way may take.
const COMMANDS_MAX: usize = 10;
/// What `tfo-agent join` asks on a terminal (tests/agent/join.rs types there); the page shows it with the token.
const PROMPT: &str = "Token, then Enter: ";

/// Types it all; pastes the token where it is asked for.
fn walk(packages: &Packages, shown: &str) -> Site {
    let mut site = Site::new(packages);
    let mut token = String::new();
    for (prompt, command) in &transcript::typed(shown) {
        let host = prompt.trim_end_matches("# ");
        if command.contains("--token-file -") {
            assert!(token.starts_with("tfo1."), "{token}");
            site.type_with(host, command, Some((PROMPT, &token)));
        } else {
            let said = site.type_on(host, command);
            if command.starts_with("tfoctl token create") {
                token = said.trim().to_owned();
            }
        }
        if command.starts_with("tfo-coordinator init") {
            site.hasten();
        }
    }
    site
}

#[test]
fn the_tutorial_makes_a_fleet_in_ten_commands_with_one_token() {
    let Some(packages) = need() else { return };
    skip_unless!(tfo_testbed::need_tool("python3"));
    let shown = transcript::below(TUTORIAL, SECTION);
    let typed = transcript::typed(shown);
    assert!(typed.len() <= COMMANDS_MAX, "{} commands", typed.len());
    for (_, command) in &typed {
        let copies = ["cp ", "scp ", "cat ", "> /", "sed "].iter().any(|word| command.contains(word));
        assert!(!copies && !command.contains('\n'), "{command}: nothing is copied or edited");
    }
    let site = walk(packages, shown);
    let keys = site.keys();
    assert!(keys.contains(',') && keys != UNSET, "both have the two keys of a rotation: {keys}");
    for node in ["cp1", "cp2"] {
        assert_eq!(site.on(node).run(&["cat", KEY_FILE]), keys);
        assert_eq!(site.on(node).property("tfo-agent", "UnitFileState"), "enabled");
    }
    what_init_made_is_guarded_and_checked(&site);
    a_second_run_changes_nothing_and_another_name_is_refused(&site);
    the_operator_renews_over_its_own_connection(&site);
    the_coordinator_comes_back_and_an_installation_after_a_purge_too(&site);
    let said = &site.transcript;
    assert_eq!(transcript::plain(shown), transcript::plain(said), "as it printed now:\n{said}");
}

/// What a path is for its users: mode, owner.
fn guarded(site: &Site, path: &str) -> String {
    site.on("tfo1").run(&["stat", "--format=%a %U", path])
}

fn what_init_made_is_guarded_and_checked(site: &Site) {
    for (path, expected) in [
        ("/etc/tfo-fleet/pki", "700 root"),
        ("/etc/tfo-fleet/pki/ca.key", "600 root"),
        ("/etc/tfo-fleet/kek", "400 root"),
        ("/etc/tfo-fleet/operator.pem", "400 root"),
        ("/etc/tfo-fleet/coordinator.toml", "644 root"),
        ("/var/lib/tfo-coordinator", "700 tfo-coordinator"),
        ("/var/lib/tfo-coordinator/coordinator.key", "400 tfo-coordinator"),
        ("/var/lib/tfo-coordinator/coordinator.crt", "644 tfo-coordinator"),
        ("/var/lib/tfo-coordinator/crl.pem", "644 tfo-coordinator"),
    ] {
        assert_eq!(guarded(site, path), expected, "{path}");
    }
    let center = site.on("tfo1");
    let check = told(&center.output(&["tfo-coordinator", "check"]));
    assert!(check.contains("0 errors, 0 warnings"), "{check}");
    // It may write what it renews, in its sandbox.
    let journal = center.journal(Some("tfo-coordinator"));
    assert!(!journal.contains("not_renewed") && !journal.contains("list_not_writable"), "{journal}");
    // Others than root and the service see no private key, in no log and no argument.
    for node in ["cp1", "cp2"] {
        let pair = site.on(node).run(&["stat", "--format=%a %U", "/var/lib/tfo-agent/node.pem"]);
        assert_eq!(pair, "400 root", "{node}");
    }
}

fn a_second_run_changes_nothing_and_another_name_is_refused(site: &Site) {
    let center = site.on("tfo1");
    let sums = || {
        let files = "find /etc/tfo-fleet /etc/systemd/system /var/lib/tfo-coordinator/coordinator.* -type f -o -type l";
        center.run(&["sh", "-c", &format!("{files} | sort | xargs sha256sum")])
    };
    let before = sums();
    let init = |name: &str| center.output(&["tfo-coordinator", "init", "--enable", "--name", name]);
    let again = init("tfo1.example.org");
    assert!(again.status.success() && told(&again).contains("initialised already"), "{}", told(&again));
    let other = init("tfo9.example.org");
    let said = told(&other);
    assert!(
        other.status.code() == Some(3) && said.contains("coordinator.crt") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(sums(), before);
    let user =
        center.output(&["setpriv", "--reuid=65534", "--clear-groups", "tfo-coordinator", "init", "--name", "a.b"]);
    assert!(told(&user).contains("run it as root"), "{}", told(&user));
    // More operators, by the same authority.
    let issued = center.run(&["tfoctl", "pki", "issue", "--dir", "/etc/tfo-fleet/pki", "--operator", "alice"]);
    assert!(issued.contains("operators = [\"alice\"]"), "{issued}");
}

fn the_operator_renews_over_its_own_connection(site: &Site) {
    let center = site.on("tfo1");
    let pair = || center.read("/etc/tfo-fleet/operator.pem");
    let before = pair();
    let early = center.run(&["tfoctl", "renew", "--if-needed"]);
    assert!(early.contains("nothing was done") && pair() == before, "{early}");
    let said = center.run(&["tfoctl", "renew"]);
    assert!(said.contains("root-tfo1 has a new certificate"), "{said}");
    let after = pair();
    let key = |text: &str| text.split("PRIVATE KEY").nth(1).map(str::to_owned);
    assert!(after != before && key(&after) != key(&before), "a new key each time");
    assert_eq!(guarded(site, "/etc/tfo-fleet/operator.pem"), "400 root");
    assert!(!center.path("/etc/tfo-fleet/operator.pem.next").exists());
    center.run(&["tfoctl", "pools"]);
    let again = told(&center.output(&["tfo-coordinator", "init", "--name", "tfo1.example.org"]));
    assert!(again.contains("initialised already"), "{again}");
}

fn the_coordinator_comes_back_and_an_installation_after_a_purge_too(site: &Site) {
    let (center, keys) = (site.on("tfo1"), site.keys());
    let said = center.run(&["dpkg", "--purge", "tfo-coordinator"]);
    assert!(said.contains("the authority stays in /etc/tfo-fleet/pki"), "{said}");
    assert!(
        !center.path("/etc/systemd/system/tfo-coordinator.service.d").exists(),
        "it would keep the unit from starting"
    );
    assert!(center.path("/etc/tfo-fleet/kek").exists());
    center.run(&["sh", "-c", "dpkg --force-unsafe-io --no-triggers -i /root/tfo-coordinator_*.deb"]);
    let said = center.run(&["tfo-coordinator", "init", "--enable", "--name", "tfo1.example.org"]);
    assert!(
        !said.contains("/etc/tfo-fleet/pki ") && said.contains("coordinator.crt"),
        "the authority is the old one: {said}"
    );
    // The store is new, the authority is not: the nodes and the operator are known by their certificates.
    assert_eq!(center.property("tfo-coordinator", "ActiveState"), "active");
    assert!(center.run(&["tfoctl", "pools"]).contains("empty"));
    assert_eq!(site.keys(), keys, "and the nodes keep their keys");
}
