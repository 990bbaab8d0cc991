//! docs/explanation/threat-model.md shows what it claims: each test that it names is there, and each attack has one.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex_lite::Regex;

use super::{text, tracked};

const PAGE: &str = "docs/explanation/threat-model.md";
/// The heading of the table of attacks.
const ATTACKS: &str = "## Attacks that were tried";

/// A test, whatever else is said of it before its name.
static TEST: LazyLock<Regex> = LazyLock::new(|| {
    let attributes = r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*";
    Regex::new(&format!(r"{attributes}(?:async )?fn (\w+)")).expect("a correct pattern")
});
/// A name that is long enough to be a sentence: a test's, not a key's of a configuration.
static SENTENCE: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[a-z0-9]+(?:_[a-z0-9]+){3,}$").expect("as above"));

/// Names of the tests in a source file.
fn tests(source: &str) -> impl Iterator<Item = String> {
    TEST.captures_iter(source).map(|found| found[1].to_owned())
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of the table below a heading, without its head: their cells.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let below = page.split_once(heading).map_or("", |(_, below)| below);
    let table = below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    table.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_attack_has_its_tests_and_every_test_that_is_named_is_there() {
    let sources = tracked().into_iter().filter(|file| file.ends_with(".rs"));
    let known: BTreeSet<String> =
        sources.filter_map(|file| text(&file)).flat_map(|source| tests(&source).collect::<Vec<_>>()).collect();
    let page = text(PAGE).expect("the page");
    let mut wrong: Vec<String> = quoted(&page)
        .filter(|name| SENTENCE.is_match(name) && !known.contains(*name))
        .map(|name| format!("there is no test {name}"))
        .collect();
    let rows = rows(&page, ATTACKS);
    for row in &rows {
        let [attack, _, shown] = row[..] else { panic!("three columns: {row:?}") };
        let named: Vec<&str> = quoted(shown).collect();
        if named.is_empty() {
            wrong.push(format!("{attack}: names no test"));
        }
        let missing = named.into_iter().filter(|name| !known.contains(*name));
        wrong.extend(missing.map(|name| format!("{attack}: there is no test {name}")));
    }
    assert!(wrong.is_empty(), "{PAGE}; remedy: name the test that shows it, or write it:\n{}", wrong.join("\n"));
    assert!(rows.len() > 30 && known.len() > 500, "{} attacks, {} tests", rows.len(), known.len());
}

#[test]
fn tests_and_rows_are_found() {
    let source =
        "#[test]\nfn one() {}\n#[tokio::test(start_paused = true)]\n#[ignore]\nasync fn two() {}\nfn three() {}";
    assert_eq!(tests(source).collect::<Vec<_>>(), ["one", "two"]);
    let page = "## A\n\ntext\n\n| a | b |\n|---|---|\n| `x_y` | `z` |\n\n| c |\n";
    assert_eq!(rows(page, "## A"), [["`x_y`", "`z`"]]);
    assert_eq!(quoted("`a` b `c`").collect::<Vec<_>>(), ["a", "c"]);
}
