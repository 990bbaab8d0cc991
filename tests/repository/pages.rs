//! The generated pages of docs/reference are what the generator writes today, its command line can be asked for help, and
//! links between pages, and from verdicts to pages, lead somewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tfo_engine::rollout::verdict::page;
use tfo_model::fleet::{BlockedBy, NodeState, VerdictKind};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{need_tool, skip_unless};

use super::root;

/// How the pages are made again.
const MAKE: &str = "cargo run --bin tfo-manual -- --docs docs/reference";

fn manual(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(tfo_testbed::program("tfo-manual"));
    command.current_dir(directory).args(arguments).output().expect("tfo-manual can be run")
}

#[test]
fn the_generated_pages_are_up_to_date() {
    let made = tempfile::tempdir().expect("a directory for the pages");
    let output = manual(made.path(), &["--docs", "."]);
    assert!(output.status.success(), "{}", stderr(&output));
    let read = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}; remedy: {MAKE}", path.display()))
    };
    let committed = root().join("docs/reference");
    for page in ["commands.md", "configuration.md"] {
        let (new, old) = (read(&made.path().join(page)), read(&committed.join(page)));
        let differs = new.lines().zip(old.lines()).position(|(new, old)| new != old);
        assert!(
            new == old,
            "docs/reference/{page} differs from the programs and config/*.toml from line {} on; remedy: {MAKE}",
            differs.map_or_else(|| new.lines().count().min(old.lines().count()) + 1, |line| line + 1)
        );
    }
}

#[test]
fn help_prints_usage_and_makes_no_directory() {
    let here = tempfile::tempdir().expect("a directory for the pages");
    let output = manual(here.path(), &["--help"]);
    let printed = stdout(&output);
    assert!(output.status.success() && printed.contains("Usage: tfo-manual"), "{printed}");
    assert!(manual(here.path(), &["--no-such-option"]).status.code() == Some(2));
    assert_eq!(std::fs::read_dir(here.path()).expect("it is there").count(), 0, "something was written");
}

#[test]
fn man_pages_have_their_sections_and_no_warning() {
    let made = tempfile::tempdir().expect("a directory for the pages");
    assert!(manual(made.path(), &["."]).status.success());
    let man = made.path().join("man");
    let read = |name: &str| std::fs::read_to_string(man.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for name in ["tfo-agent.8", "tfo-coordinator.8", "tfoctl.1"] {
        let page = read(name);
        for section in ["EXIT STATUS", "EXAMPLES", "FILES", "ENVIRONMENT", "SEE ALSO"] {
            assert!(page.contains(&format!(".SH \"{section}\"")), "{section} is not in {name}");
        }
    }
    let page = read("tfoctl.1");
    for state in NodeState::ALL {
        assert!(page.contains(&format!(".B {}\n", state.as_str())), "state {state} is not explained");
    }
    for gate in BlockedBy::ALL {
        let name = gate.as_str();
        assert!(
            page.lines().any(|line| line.starts_with(".B ") && line.contains(name)),
            "gate {name} is not explained"
        );
    }
    // Pages of all packages share one directory.
    let pages: Vec<PathBuf> =
        std::fs::read_dir(&man).expect("it is there").map(|entry| entry.expect("it can be read").path()).collect();
    assert!(pages.iter().all(|page| page.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tfo"))));
    skip_unless!(need_tool("groff"));
    for page in pages {
        let output = Command::new("groff").args(["-ww", "-man", "-Tutf8", "-z"]).arg(&page).output().expect("it runs");
        let said = stderr(&output);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", page.display());
    }
}

/// README.md, CONTRIBUTING.md and everything below docs.
fn pages() -> Vec<PathBuf> {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    let mut directories = vec![root.join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("docs can be read") {
            let path = entry.expect("its entries can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The lines of a page outside fenced blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    page.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The places of a page that a link may name: its headings as GitHub and mdBook spell them, and what is named by hand.
pub(super) fn anchors(page: &str) -> Vec<String> {
    let slug = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect::<String>()
    };
    let headings = prose(page).filter(|line| line.starts_with('#'));
    let mut found: Vec<String> = headings.map(|line| slug(line.trim_start_matches('#').trim())).collect();
    for (before, after) in [("id=\"", '"'), ("{#", '}')] {
        let named = page.split(before).skip(1).filter_map(|rest| rest.split_once(after));
        found.extend(named.map(|(name, _)| name.to_owned()));
    }
    found
}

/// What the page links to, other sites left out.
fn links(page: &str) -> Vec<String> {
    let targets = prose(page).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://")).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut broken = Vec::new();
    for page in pages() {
        for link in links(&read(&page)) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            let there =
                target.exists() && (anchor.is_empty() || anchors(&read(&target)).iter().any(|name| name == anchor));
            if !there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "links that lead nowhere; remedy: correct the link, or the heading:\n{}",
        broken.join("\n")
    );
    assert_eq!(anchors("# A b: `c_d`\n```\n# x\n```\n<a id=\"rule-1\"></a>\n"), ["a-b-c_d", "rule-1"]);
    assert_eq!(links("[a](b.md#c) [d](https://e)\n```\n[f](g)\n```\n"), ["b.md#c"]);
}

/// A page that the summary leaves out is in no book of mdBook.
#[test]
fn the_summary_has_every_page_once() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let mut listed = links(&std::fs::read_to_string(&summary).expect("it is there"));
    listed.sort_unstable();
    let below = pages().into_iter().filter(|page| *page != summary);
    let below = below.filter_map(|page| Some(page.strip_prefix(&docs).ok()?.display().to_string()));
    let mut below: Vec<String> = below.collect();
    below.sort_unstable();
    assert_eq!(listed, below, "remedy: name each page below docs once in docs/SUMMARY.md");
}

#[test]
fn every_verdict_names_a_page_that_there_is() {
    let docs = root().join("docs");
    let leads_nowhere: Vec<String> = VerdictKind::ALL
        .into_iter()
        .filter_map(page)
        .filter(|link| {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let text = std::fs::read_to_string(docs.join(file)).unwrap_or_default();
            text.is_empty() || !(anchor.is_empty() || anchors(&text).iter().any(|name| name == anchor))
        })
        .map(str::to_owned)
        .collect();
    assert_eq!(leads_nowhere, [""; 0], "remedy: write the page, or correct src/engine/rollout/verdict");
    // The table of the kinds is complete.
    let reference = std::fs::read_to_string(docs.join("reference/json.md")).expect("it is there");
    let missing = VerdictKind::ALL.into_iter().filter(|kind| !reference.contains(&format!("| `{kind}` |")));
    assert_eq!(missing.count(), 0, "docs/reference/json.md#verdict lacks a kind");
}
