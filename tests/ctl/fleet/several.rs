//! Several fleets in one configuration, errors as JSON, and what the shell completes.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::fake::{FakeCoordinator, Operator, node, pool, text, three, with_pool};
use tfo_testbed::{config::client_files, need_tool, program, skip_unless};

/// An operator with two coordinators: `edge` in the context `home`, `bulk` in the context `lab`.
fn two_fleets() -> (Operator, [FakeCoordinator; 2]) {
    let operator = Operator::new();
    let coordinators = [(); 2].map(|()| operator.coordinator());
    with_pool(&coordinators[0], &pool(json!({})), &three());
    with_pool(&coordinators[1], &pool(json!({"pool": "bulk"})), &json!([node("lab1.test", json!({}))]));
    let file = |name: &str| operator.path("pki").join(name);
    let files = client_files(&file("ca.crt"), &file("ops1.test.crt"), &file("ops1.test.key"));
    let context = |name: &str, url: &str, pool: &str| {
        format!("[contexts.{name}]\nurls = [\"{url}\"]\npool = \"{pool}\"\n{files}\n")
    };
    let [home, lab] = [&coordinators[0], &coordinators[1]].map(FakeCoordinator::url);
    let text = format!("context = \"home\"\n{}{}", context("home", &home, "edge"), context("lab", &lab, "bulk"));
    operator.write("ctl.toml", &text, 0o644);
    (operator, coordinators)
}

#[test]
fn each_fleet_has_a_context() {
    let (operator, coordinators) = two_fleets();
    let pool_of = |arguments: &[&str]| operator.json(arguments, 0)["pools"][0]["pool"].clone();
    assert_eq!(pool_of(&["pools"]), "edge");
    assert_eq!(pool_of(&["pools", "--context", "lab"]), "bulk");
    assert_eq!(pool_of(&["--context", "lab", "pools"]), "bulk", "before the command too");
    let by_variable =
        |arguments: &[&str]| text(&operator.command(arguments).env("TFO_CONTEXT", "lab").output().unwrap().stdout);
    assert!(by_variable(&["nodes"]).starts_with("pool bulk:"));
    assert!(by_variable(&["nodes", "--context", "home"]).starts_with("pool edge:"), "an option is stronger");
    assert_eq!(operator.json(&["nodes", "--context", "lab"], 0)["nodes"][0]["node"], "lab1.test");
    let (_, stderr) = operator.ends(&["pools", "--context", "moon"], 2);
    assert!(stderr.contains("no context \"moon\"") && stderr.contains("home, lab"), "{stderr}");
    let shown = operator.json(&["contexts"], 0);
    let urls = coordinators.each_ref().map(FakeCoordinator::url);
    let expected = json!({"contexts": [
        {"name": "home", "current": true, "pool": "edge", "urls": [urls[0]]},
        {"name": "lab", "current": false, "pool": "bulk", "urls": [urls[1]]},
    ]});
    assert_eq!(shown, expected);
    let lines = operator.ok(&["contexts", "--context", "lab"]);
    assert!(lines.lines().nth(2).is_some_and(|line| line.starts_with("*        lab      bulk")), "{lines}");
}

fn problems(program_name: &str, arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(program(program_name)).args(arguments).output().unwrap();
    let shown = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{program_name} {arguments:?}: {error}: {}", text(&output.stdout)));
    (output, shown)
}

/// Every program has one shape for what is wrong, in the place of the result.
#[test]
fn errors_are_json_too() {
    let failing: [(&str, &[&str], i32, &str); 12] = [
        ("tfoctl", &["--format", "json", "pools", "--config", "/nowhere.toml"], 2, "config_missing"),
        ("tfoctl", &["pools", "--format=json", "--no-such-option"], 2, "usage"),
        ("tfoctl", &["keygen", "--format", "json", "--out", "/nowhere/key"], 1, "file_not_made"),
        ("tfo-agent", &["check", "--format", "json", "--config", "/nowhere.toml"], 2, "config_missing"),
        ("tfo-agent", &["--format", "json", "once", "--config", "/nowhere.toml"], 2, "config_missing"),
        ("tfo-agent", &["init", "--format", "json", "--dir", "/dev/null/x"], 1, "init"),
        ("tfo-agent", &["check", "--format", "json", "--depth"], 2, "usage"),
        ("tfo-coordinator", &["check", "--format", "json", "--config", "/nowhere.toml"], 2, "config_missing"),
        (
            "tfo-coordinator",
            &["export", "--format", "json", "--config", "/nowhere.toml", "--to", "/x"],
            2,
            "config_missing",
        ),
        ("tfo-coordinator", &["--format", "json", "import", "--config", "/nowhere.toml"], 2, "usage"),
        ("tfo-demo", &["--format", "json", "--nodes", "1"], 2, "usage"),
        ("tfo-demo", &["--rotations", "0", "--format=json"], 2, "usage"),
    ];
    for (name, arguments, code, kind) in failing {
        let (output, shown) = problems(name, arguments);
        let place = format!("{name} {arguments:?}: {shown}\n{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{place}");
        assert_eq!(text(&output.stderr), "", "{place}");
        let problem = &shown["problems"][0];
        assert_eq!(problem["kind"], kind, "{place}");
        for field in ["severity", "message", "remedy"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {place}");
        }
    }
    let (operator, _coordinator) = Operator::with(&pool(json!({})), &three());
    let unknown = operator.json(&["nodes", "cp9.test"], 1);
    assert_eq!(unknown["problems"][0]["kind"], "unknown_node");
}

/// What the shell gets when Tab is pressed after these words.
fn completed(operator: &Operator, words: &[&str]) -> Vec<String> {
    let mut tab = operator.bare();
    tab.env("TFOCTL_COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    let output = tab.arg("--").args(words).output().unwrap();
    assert_eq!(text(&output.stderr), "", "{words:?}");
    text(&output.stdout).lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn names_are_completed_from_the_fleet_that_the_line_names() {
    let (operator, coordinators) = two_fleets();
    let config = operator.path("ctl.toml");
    let config = config.to_str().unwrap();
    let after = |words: &[&str]| completed(&operator, &[&["tfoctl", "--config", config], words].concat());
    assert_eq!(after(&["exclude", "cp"]), ["cp1.test", "cp2.test", "cp3.test"]);
    assert_eq!(after(&["--context", "lab", "deny", ""]).iter().filter(|name| name.contains("lab1.test")).count(), 1);
    assert_eq!(after(&["nodes", "--pool", "e"]), ["edge"]);
    assert_eq!(after(&["pools", "--context", ""]), ["home", "lab"]);
    assert_eq!(after(&["nodes", "--state", "disc"]), ["disconnected"]);
    // No file names where none belong.
    for words in [&["exclude", "cp1.test", "--for", ""][..], &["pause", "--reason", ""], &["audit", "--since", ""]] {
        let offered = after(words);
        assert!(offered.iter().all(|word| word.starts_with('-')), "{words:?}: {offered:?}");
    }
    // Nothing, and nothing said, without an answer.
    drop(coordinators);
    assert_eq!(after(&["exclude", "cp"]), [""; 0]);
    assert_eq!(completed(&operator, &["tfoctl", "exclude", "cp"]), [""; 0]);
}

#[test]
fn bash_completes_commands() {
    skip_unless!(need_tool("bash"));
    let operator = Operator::new();
    let script = operator.bare().args(["completions", "bash"]).output().unwrap();
    let script = operator.write("tfoctl.bash", &text(&script.stdout), 0o644);
    let path = std::path::Path::new(program("tfoctl")).parent().unwrap();
    // As bash asks when Tab is pressed after `tfoctl no`.
    let ask = format!(
        "PATH={}:$PATH; . {}; COMP_WORDS=(tfoctl no); COMP_CWORD=1; COMP_TYPE=9; _clap_complete_tfoctl tfoctl no tfoctl; \
         echo \"${{COMPREPLY[@]}}\"",
        path.display(),
        script.display()
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "nodes", "{}", text(&output.stderr));
}
