//! The Ansible collection and the Puppet module as text: what they say twice is the same in both places.  Their linters and
//! their runs are in tests/machine/ansible.rs and tests/machine/puppet.rs.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;

use super::text;

const COLLECTION: &str = "config/ansible";
const MODULE: &str = "config/puppet/tfo_fleet";
/// The roles with the prefix of their variables.
const ROLES: [(&str, &str); 2] = [("agent", "tfo_agent_"), ("coordinator", "tfo_coordinator_")];

#[track_caller]
fn read(file: &str) -> String {
    text(file).unwrap_or_else(|| panic!("{file} is missing"))
}

/// The keys at this depth of indentation in YAML as it is written here, with what is behind them.
fn keys(yaml: &str, depth: usize) -> BTreeMap<&str, &str> {
    let at_depth = yaml.lines().filter(|line| line.len() - line.trim_start().len() == depth);
    let pairs = at_depth.filter_map(|line| line.trim_start().split_once(':'));
    let pairs = pairs
        .filter(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'));
    pairs.map(|(key, value)| (key, value.trim())).collect()
}

/// The options of a role's specification with their defaults, if they have one.
fn specified(specification: &str) -> BTreeMap<&str, Option<&str>> {
    let (_, options) = specification.split_once("\n    options:\n").expect("it has options");
    let mut found = BTreeMap::new();
    let mut option = "";
    for line in options.lines() {
        if let Some(name) = line.strip_prefix("      ").filter(|rest| rest.starts_with("tfo_")) {
            option = name.trim_end_matches(':');
            found.insert(option, None);
        } else if let Some(default) = line.strip_prefix("        default: ") {
            found.insert(option, Some(default));
        }
    }
    found
}

/// What differs between a role's defaults and its specification.  A default that is computed, or that has several lines, is
/// only described there.
fn differences(defaults: &str, specification: &str) -> Vec<String> {
    let (values, options) = (keys(defaults, 0), specified(specification));
    let names: BTreeSet<&str> = values.keys().chain(options.keys()).copied().collect();
    let differs = |name: &&str| match (values.get(name), options.get(name)) {
        (Some(value), Some(Some(default))) => value != default,
        (Some(value), Some(None)) => !(value.contains("{{") || *value == "|"),
        _ => true,
    };
    names.into_iter().filter(differs).map(str::to_owned).collect()
}

#[test]
fn every_variable_of_a_role_is_specified_with_its_default_and_no_other_is_used() {
    for (role, prefix) in ROLES {
        let file = |name: &str| format!("{COLLECTION}/roles/{role}/{name}/main.yml");
        let specification = read(&format!("{COLLECTION}/roles/{role}/meta/argument_specs.yml"));
        assert_eq!(differences(&read(&file("defaults")), &specification), [""; 0], "{role}");
        let tasks = read(&file("tasks")) + &text(&file("handlers")).unwrap_or_default();
        let word = Regex::new(&format!(r"\b{prefix}\w+")).expect("a correct pattern");
        let registered = Regex::new(r"register: (\w+)").expect("a correct pattern");
        let registered: BTreeSet<&str> =
            registered.captures_iter(&tasks).filter_map(|found| found.get(1)).map(|name| name.as_str()).collect();
        let options = specified(&specification);
        let used: BTreeSet<&str> = word.find_iter(&tasks).map(|found| found.as_str()).collect();
        let unknown: Vec<_> =
            used.iter().filter(|name| !registered.contains(**name) && !options.contains_key(**name)).collect();
        assert!(unknown.is_empty(), "{role}: {unknown:?}");
        assert!(used.len() > 8, "{role}: {used:?}");
    }
}

#[test]
fn a_variable_that_is_specified_otherwise_is_found() {
    let specification = "argument_specs:\n  main:\n    options:\n      tfo_a:\n        type: str\n        default: x\n      tfo_b:\n        type: str\n";
    for (defaults, wrong) in [
        ("tfo_a: x\ntfo_b: \"{{ tfo_a }}\"\n", &[][..]),
        ("tfo_a: x\ntfo_b: |\n  tfo_c: y\n", &[]),
        ("tfo_a: y\ntfo_b: |\n", &["tfo_a"]),
        ("tfo_a: x\ntfo_b: 1\n", &["tfo_b"]),
        ("tfo_a: x\n", &["tfo_b"]),
        ("tfo_a: x\ntfo_b: |\ntfo_c: 1\n", &["tfo_c"]),
    ] {
        assert_eq!(differences(defaults, specification), wrong, "{defaults}");
    }
}

#[test]
fn versions_and_licences_are_those_of_the_programs() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(keys(&read(&format!("{COLLECTION}/galaxy.yml")), 0)["version"], version);
    let metadata: serde_json::Value = serde_json::from_str(&read(&format!("{MODULE}/metadata.json"))).expect("JSON");
    assert_eq!(metadata["version"], version);
    assert!(read(&format!("{COLLECTION}/changelogs/changelog.yaml")).contains(&format!("\n  {version}:\n")));
    for place in [COLLECTION, MODULE] {
        // Made by antsibull-changelog in the collection, which escapes every point.
        let changes = read(&format!("{place}/CHANGELOG.md")).replace('\\', "");
        assert!(changes.lines().any(|line| line.contains(version)), "{place}: {changes}");
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            assert_eq!(read(&format!("{place}/{licence}")), read(licence), "{place}");
        }
    }
}
