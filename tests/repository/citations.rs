//! What comments cite exists: pages of docs/ and their headings, numbered rules, files of the repository.  And each rule
//! of docs/protocol.md is cited, so that a rule that the code has lost shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex_lite::Regex;

use super::pages::anchors;
use super::{page, text, tracked};

/// The page of the numbered rules.
const PROTOCOL: &str = "docs/protocol.md";
/// Where comments are, by the end of the file's name.
const COMMENTED: [&str; 10] = [".rs", ".toml", ".service", ".timer", ".conf", ".py", ".sh", ".yml", "/run", "/build"];

/// A page, perhaps with a heading.
static PAGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?"));
/// One or more rules.
static RULES: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b[Rr]ules? (\d+(?:(?:, and |, | and | to |-)\d+)*)"));
/// A range of rules.
static RANGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\d+)(?: to |-)(\d+)"));
/// A number.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d+"));
/// A file below a directory.
static FILE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\b(?:[\w.-]+/)+[\w.-]+\.(?:rs|toml|md|py|sh|service|timer|snap|json|yml)\b"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a correct pattern")
}

/// What a text cites.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cited {
    /// Pages with the heading, empty for the whole page.
    pages: BTreeSet<(String, String)>,
    /// Rules of [`PROTOCOL`].
    rules: BTreeSet<u32>,
    /// Other files, from the top level or by the end of their path.
    files: BTreeSet<String>,
}

/// The comments of a source file, one line each; the whole line of other files.
fn comments(file: &str, text: &str) -> String {
    let marker = if file.ends_with(".rs") { "//" } else { "#" };
    let lines = text.lines().filter_map(|line| line.split_once(marker)).map(|(_, comment)| comment.trim());
    lines.collect::<Vec<_>>().join("\n")
}

fn cited(comments: &str) -> Cited {
    // The brackets around a rule's number may stand at the end of one line, and the number on the next.
    let joined = comments.replace("\n/ ", " ").replace("\n! ", " ").replace('\n', " ");
    let mut cited = Cited::default();
    for found in PAGE.captures_iter(&joined) {
        let heading = found.get(2).map_or("", |heading| heading.as_str());
        cited.pages.insert((found[1].to_owned(), heading.to_owned()));
        if let Some(rule) = heading.strip_prefix("rule-") {
            cited.rules.extend(rule.parse::<u32>());
        }
    }
    for found in RULES.captures_iter(&joined) {
        for range in RANGE.captures_iter(&found[1]) {
            let end = |index: usize| range[index].parse::<u32>().expect("digits");
            cited.rules.extend(end(1)..=end(2));
        }
        cited.rules.extend(NUMBER.find_iter(&found[1]).filter_map(|number| number.as_str().parse::<u32>().ok()));
    }
    for found in FILE.find_iter(&joined) {
        let before = joined[..found.start()].chars().next_back();
        if !matches!(before, Some('/' | '.' | '*' | '~' | '$' | '}' | '<' | '…')) {
            cited.files.insert(found.as_str().to_owned());
        }
    }
    cited
}

/// Whether one of the tracked files has this path, or ends in it.
fn exists(tracked: &[String], path: &str) -> bool {
    tracked.iter().any(|file| file == path || file.ends_with(&format!("/{path}")))
}

/// Numbers of the rules of a page, by their headings.
fn rules(page: &str) -> BTreeSet<u32> {
    page.lines().filter_map(|line| line.strip_prefix("### Rule ")?.trim().parse().ok()).collect()
}

#[test]
fn what_comments_cite_exists_and_every_rule_is_cited() {
    let tracked = tracked();
    let rules = rules(&text(PROTOCOL).expect("the page of the rules"));
    let mut headings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut wrong, mut in_use) = (Vec::new(), BTreeSet::new());
    for file in tracked.iter().filter(|file| COMMENTED.iter().any(|end| file.ends_with(end))) {
        let cited = cited(&comments(file, &text(file).unwrap_or_default()));
        for (path, heading) in &cited.pages {
            let known = headings.entry(path.clone()).or_insert_with(|| anchors(&text(path).unwrap_or_default()));
            if !page(path).is_file() {
                wrong.push(format!("{file}: there is no page {path}"));
            } else if !heading.is_empty() && !known.contains(heading) {
                wrong.push(format!("{file}: {path} has no heading #{heading}"));
            }
        }
        wrong.extend(cited.rules.difference(&rules).map(|rule| format!("{file}: there is no rule {rule}")));
        let files = cited.files.iter().filter(|path| !exists(&tracked, path));
        wrong.extend(files.map(|path| format!("{file}: there is no file {path}")));
        in_use.extend(cited.rules);
    }
    wrong.extend(rules.difference(&in_use).map(|rule| format!("{PROTOCOL}: nothing cites rule {rule}")));
    assert!(wrong.is_empty(), "remedy: correct the citation, or cite the rule where it is kept:\n{}", wrong.join("\n"));
    assert!(rules.len() >= 17, "the rules are not found any more: {rules:?}");
}

#[test]
fn each_form_of_a_citation_is_seen() {
    let of = |comment: &str| cited(&comments("a.rs", comment));
    let page = |path: &str, heading: &str| (path.to_owned(), heading.to_owned());
    let found = of("let x = 1; // why (docs/protocol.md#rule-13), and docs/kernel.md");
    assert_eq!(found.pages, [page("docs/protocol.md", "rule-13"), page("docs/kernel.md", "")].into());
    assert_eq!(found.rules, [13].into());
    assert_eq!(of("/// Rules 3, 7 to 9 and 12.").rules, [3, 7, 8, 9, 12].into());
    assert_eq!(of("/// as rule\n/// 4 wants").rules, [4].into());
    assert_eq!(of("//! see server/body.rs, and /etc/tfo-fleet/agent.toml").files, ["server/body.rs".to_owned()].into());
    assert_eq!(of("let rule = \"rule 99\";"), Cited::default());
    assert_eq!(comments("a.service", "# one\nX=1\nY=2 # two"), "one\ntwo");
    let tracked = ["src/coordinator/server/body.rs".to_owned()];
    assert!(
        exists(&tracked, "server/body.rs") && !exists(&tracked, "erver/body.rs") && !exists(&tracked, "driver/mod.rs")
    );
    assert_eq!(rules("### Rule 1\n### Rule 2\n## Rule 3\n"), [1, 2].into());
}
