//! From three fresh hosts to a fleet that has rotated, from the packages alone; the README has the transcript, which is
//! typed here again and compared.  And on the same machines what else is to be seen of the coordinator's package.
//!
//! Times, versions, fingerprints, serials, ids and paths differ from run to run; everything else must be as it stands there.

use super::site::Site;
use super::{KEY_FILE, UNSET, need, probed, told};
use tfo_testbed::machine::Machine;
use tfo_testbed::package::Packages;
use tfo_testbed::{SOON, poll_until, skip_unless};

/// The README.
const README: &str = include_str!("../../../README.md");

/// What is typed on which host.  What is typed on cp1 is typed on cp2 as well.
const TYPED: [(&str, &str); 24] = [
    ("tfo1", "dpkg -i tfo-coordinator_*.deb tfoctl_*.deb"),
    ("tfo1", "tfoctl pki init --dir pki"),
    ("tfo1", "tfoctl pki issue --dir pki --coordinator tfo1.example.org"),
    ("tfo1", "tfoctl pki issue --dir pki --operator ops1.example.org"),
    ("tfo1", "tfoctl pki issue --dir pki --node cp1.cache.example.org"),
    ("tfo1", "tfoctl pki issue --dir pki --node cp2.cache.example.org"),
    ("tfo1", "cp pki/ca.crt pki/ops1.example.org.* /etc/tfo-fleet/"),
    ("tfo1", "cp pki/tfo1.example.org.crt /etc/tfo-fleet/coordinator.crt"),
    ("tfo1", "install -o tfo-coordinator -m 400 pki/tfo1.example.org.key /etc/tfo-fleet/coordinator.key"),
    ("tfo1", "(umask 377; head -c 32 /dev/urandom > /etc/tfo-fleet/kek)"),
    (
        "tfo1",
        "cat >> /etc/tfo-fleet/coordinator.toml <<'END'\nexpected_nodes = 2\npromote_waves = [\"100%\"]\nhealth_window = \"0s\"\nEND",
    ),
    ("tfo1", "sed -i 's,^urls = .*,urls = [\"https://tfo1.example.org:9443\"],' /etc/tfo-fleet/ctl.toml"),
    ("tfo1", "tfo-coordinator check"),
    ("tfo1", "systemctl enable --now tfo-coordinator"),
    ("cp1", "dpkg -i tfo-agent_*.deb"),
    (
        "cp1",
        "cat > /etc/tfo-fleet/agent.toml <<'END'\n[source]\nkind = \"coordinator\"\nurls = [\"https://tfo1.example.org:9443\"]\npool = \"text\"\nca   = \"/etc/tfo-fleet/ca.crt\"\ncert = \"/etc/tfo-fleet/node.crt\"\nkey  = \"/etc/tfo-fleet/node.key\"\nEND",
    ),
    ("cp1", "tfo-agent check"),
    ("cp1", "systemctl enable --now --no-block tfo-agent"),
    ("tfo1", "tfoctl nodes"),
    ("tfo1", "tfoctl rotate --first --expect 2 --wait --yes"),
    ("tfo1", "tfoctl resume"),
    ("tfo1", "tfoctl rotate --reason weekly --wait"),
    ("tfo1", "tfoctl nodes"),
    ("cp2", "systemctl status --no-pager --lines=0 tfo-agent"),
];

/// What systemd says of a service only on some hosts.
const SOMETIMES: [&str; 4] = ["Invocation:", "Tasks:", "Memory:", "CPU:"];

/// Whether a word differs from run to run: a path, or a word with a digit that is no name and no count.
fn varies(word: &str) -> bool {
    let core = word.trim_matches(|c: char| !c.is_alphanumeric());
    // Counts of nodes, keys, generations and problems are small: users and processes have greater numbers.
    let is_count = |text: &str| !text.is_empty() && text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_count(core) || core.split_once('/').is_some_and(|(part, whole)| is_count(part) && is_count(whole)) {
        return false;
    }
    word.contains('/') || (word.chars().any(|c| c.is_ascii_digit()) && !word.contains("example.org"))
}

/// Without what differs from run to run: in what is said it is `#`; spaces do not count.
fn plain(text: &str) -> Vec<String> {
    let word = |word: &str| if varies(word) { "#".to_owned() } else { word.to_owned() };
    // How long ago it was, and on which day of the week.
    let lines = text.lines().map(|line| line.split_once(" since ").map_or(line, |(line, _)| line));
    // What dpkg says of the packages that the host has besides.
    let lines = lines.filter(|line| !line.starts_with("(Reading database") && !line.starts_with("Processing triggers"));
    let lines = lines.filter(|line| !SOMETIMES.iter().any(|label| line.trim_start().starts_with(label)));
    let typed = |line: &str| ["tfo1# ", "cp1# ", "cp2# ", "> "].iter().any(|prompt| line.starts_with(prompt));
    let line = |line: &str| match typed(line) {
        true => line.to_owned(),
        false if line.trim_start().starts_with("Main PID:") => "Main PID: #".to_owned(),
        false => line.split_whitespace().map(word).collect::<Vec<_>>().join(" "),
    };
    let mut lines: Vec<String> = lines.map(line).collect();
    // Which steps of the way are seen depends on how long they take.
    lines.retain(|line| !(line.starts_with("# ") && line.contains(" generation ")));
    lines
}

#[test]
fn counts_are_compared_and_what_differs_from_run_to_run_is_not() {
    for counted in ["2", "2/2", "(1)", "0", "1,", "3\"", "cp1.cache.example.org", "coordinator,"] {
        assert!(!varies(counted), "{counted}");
    }
    for differs in [
        "2026-11-23T02:22:01Z",
        "1s;",
        "(1s",
        "88ms",
        "134",
        "└─134",
        "995.",
        "0.1.0-1",
        "(0.1.0-1)",
        "36dfb53f8ac17b5a,4cf234b509bfbf1f",
        "4cf234b509bfbf1f,-",
        "722e3f741f75613f2bd84acfd5c28f33,",
        "/etc/tfo-fleet/kek",
        "pki/ca.crt",
    ] {
        assert!(varies(differs), "{differs}");
    }
    let [old, new] =
        ["     Active: active (running)\n     CPU: 8ms\n", "     Active: active (running)\n   Invocation: 3f\n"];
    assert_eq!(plain(old), plain(new));
    assert_ne!(plain("0 errors, 1 warnings"), plain("0 errors, 2 warnings"));
}

/// Types it all; brings files and waits where a person would.
fn from_packages_to_rotated(packages: &Packages) -> Site {
    let mut site = Site::new(packages);
    let mut first = UNSET.to_owned();
    for (host, command) in TYPED {
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
            let shown = site.transcript.clone();
            site.type_on("cp2", command);
            site.transcript = shown;
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
fn a_fleet_comes_from_packages_and_rotates_as_the_readme_shows() {
    let Some(packages) = need() else { return };
    skip_unless!(tfo_testbed::need_tool("python3"));
    let site = from_packages_to_rotated(packages);
    let center = site.on("tfo1");
    a_reload_of_the_coordinator_is_answered(center);
    the_sandbox_lets_the_coordinator_do_its_work_and_nothing_else(center);
    an_upgrade_a_removal_and_a_purge_of_the_coordinator_leave_the_nodes_alone(&site);

    let (_, section) =
        README.split_once("## From packages to the first rotation\n").expect("the README has the section");
    let shown = section.split("```").find(|block| block.contains("# dpkg -i")).expect("it has the transcript");
    let said = &site.transcript;
    assert_eq!(plain(shown.trim_start_matches('\n')), plain(said), "as it printed now:\n{said}");
}

fn a_reload_of_the_coordinator_is_answered(center: &Machine) {
    let file = "/etc/tfo-fleet/coordinator.toml";
    let (service, good) = (center.property("tfo-coordinator", "MainPID"), center.read(file));
    let said = || center.property("tfo-coordinator", "StatusText");
    let serving = "serving text on [::]:9443";
    center.run(&["systemctl", "reload", "tfo-coordinator"]);
    assert_eq!(said(), serving);

    center.write(file, &good.replace("\noperators", "\noperatrs"));
    let reload = center.output(&["systemctl", "reload", "tfo-coordinator"]);
    assert!(!reload.status.success(), "a broken config was taken");
    assert!(told(&reload).contains("See \"systemctl status tfo-coordinator.service\""), "{}", told(&reload));
    let refused = |line: &str| {
        line.starts_with("reload refused: /etc/tfo-fleet/coordinator.toml:")
            && line.ends_with(&format!("; the old configuration goes on; {serving}"))
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
