//! The transcript of the README is what really happens: its commands are run, and what they print is compared.
//!
//! Numbers, times, fingerprints, serials and paths differ from run to run; everything else must be as it stands there.

use std::fmt::Write as _;

use tfo_testbed::PATIENCE;
use tfo_testbed::config::fast;
use tfo_testbed::fleet::Fleet;
use tfo_testbed::{need_netns, poll_until, skip_unless};

/// The README.
const README: &str = include_str!("../../../README.md");

/// What is typed, in order.
const COMMANDS: [&str; 12] = [
    "tfoctl pki init --dir pki",
    "tfoctl pki issue --dir pki --coordinator tfo1.example.org --address 10.99.0.1",
    "tfoctl pki issue --dir pki --operator ops1.example.org",
    "tfoctl pki issue --dir pki --node cp1.example.org",
    "tfo-coordinator check --config coordinator.toml",
    "tfoctl nodes",
    "tfoctl rotate --first --expect 3 --wait --yes",
    "tfoctl resume",
    "tfoctl rotate --reason weekly --wait",
    "tfoctl nodes",
    "tfoctl pools",
    "tfoctl audit",
];

/// Runs the commands as they are typed; starts what the text says is started in between.
fn transcript() -> String {
    let mut fleet = Fleet::new(3, &fast(3));
    std::fs::rename(fleet.center.path("pki"), fleet.center.path("pki-of-the-fleet")).unwrap();
    let mut said = String::new();
    for (number, command) in COMMANDS.iter().enumerate() {
        if *command == "tfoctl nodes" && number < 6 {
            fleet.serve();
            fleet.start_agents();
            fleet.until_known(3);
        }
        let script = format!("{command} 2>&1");
        let output = fleet.shell(&script);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
        write!(said, "$ {command}\n{}", String::from_utf8_lossy(&output.stdout)).unwrap();
    }
    let well = || fleet.hosts.iter().all(|host| host.status()["state"] == "ok");
    assert!(poll_until(PATIENCE, well));
    said
}

/// Without what differs from run to run: a word with a digit is `#`, and so is a path; spaces do not count.
fn plain(text: &str) -> Vec<String> {
    let word = |word: &str| {
        let varies = word.contains('/') || (word.chars().any(|c| c.is_ascii_digit()) && !word.contains("example.org"));
        if varies { "#".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = text.lines().map(line).collect();
    // Which steps of the way are seen depends on how long they take.
    lines.retain(|line| !(line.starts_with("# ") && line.contains(" generation # ")));
    lines
}

#[test]
fn the_readme_shows_what_is_printed() {
    skip_unless!(need_netns());
    let said = transcript();
    let (_, section) = README.split_once("## A fleet with a coordinator\n").expect("the README has the section");
    let shown = section.split("```").find(|block| block.contains("$ tfoctl pki init")).expect("it has the transcript");
    let shown = shown.strip_prefix("text\n").unwrap_or(shown).trim_start_matches('\n');
    assert_eq!(plain(shown), plain(&said), "as it printed now:\n{said}");
}
