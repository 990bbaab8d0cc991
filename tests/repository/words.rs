//! Plain English: words and turns that a reader has to decode are not used in code, messages and pages.

use std::sync::LazyLock;

use regex_lite::Regex;

use super::{text, tracked};

/// What is not written, and what is written for it.
const WORDS: [(&str, &str); 12] = [
    (r"who(?:so)?(?:m)?ever", "the one that …, any client that …"),
    (r"whence", "where … comes from"),
    (r"anew", "again"),
    (r"mend(?:s|ed|ing)?", "fix, correct"),
    (r"(?:no|some|every)body", "no node, an operator, each client"),
    (r"(?:is|are) no (?:longer\b|more\b)?", "is not a …, there is no …"),
    (r"goes on", "continues, stays in force"),
    (r"of ours", "our …"),
    (r"in vain", "without success"),
    (r"parts them", "separates them"),
    (r"hither|thither|thence", "here, there, from there"),
    (r"lest", "so that … does not"),
];

/// [`WORDS`], to search with.
static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let pattern = |word: &str| Regex::new(&format!(r"(?i)\b(?:{word})")).expect("a correct pattern");
    WORDS.map(|(word, instead)| (pattern(word), instead)).into()
});

/// Where people read: code with its comments and messages, pages, examples, units.
fn is_read(file: &str) -> bool {
    let prose = [".rs", ".md", ".toml", ".service", ".timer", ".conf", ".yml"];
    let place = ["src/", "docs/", "config/", "systemd/", "README.md", "CONTRIBUTING.md", "SECURITY.md"];
    place.iter().any(|start| file.starts_with(start)) && prose.iter().any(|end| file.ends_with(end))
}

/// The lines of a text that use one of the words, with what to write.
fn used(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (pattern, instead) in PATTERNS.iter() {
        for (index, line) in text.lines().enumerate() {
            for hit in pattern.find_iter(line) {
                let after = line[hit.end()..].chars().next();
                let whole = hit.as_str().ends_with(' ') || !after.is_some_and(|c| c.is_alphanumeric() || c == '_');
                // "is no longer" is plain; so is "there is no …"; `nobody` is an account.
                let before = line[..hit.start()].to_lowercase();
                let plain = ["longer", "more"].iter().any(|end| hit.as_str().ends_with(end))
                    || (hit.as_str().to_lowercase().contains(" no ")
                        && ["there ", "if there "].iter().any(|end| before.ends_with(end)))
                    || before.ends_with('`');
                if whole && !plain {
                    found.push((index + 1, format!("\"{}\": write {instead}", hit.as_str().trim())));
                }
            }
        }
    }
    found
}

#[test]
fn text_for_people_is_plain_english() {
    let mut wrong = Vec::new();
    for file in tracked().iter().filter(|file| is_read(file)) {
        let found = used(&text(file).unwrap_or_default());
        wrong.extend(found.into_iter().map(|(line, what)| format!("{file}:{line}: {what}")));
    }
    assert!(wrong.is_empty(), "{} places (docs/glossary.md has the terms):\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_word_is_found_and_plain_text_is_not() {
    for bad in
        ["Whoever asks", "to mend it", "it is mended", "Nobody waits", "this is no backup", "it goes on.", "anew"]
    {
        assert_eq!(used(bad).len(), 1, "{bad}");
    }
    for good in ["it is no longer needed", "there is no key", "amend, recommend", "`nobody` owns it", "is not a key"] {
        assert_eq!(used(good), [], "{good}");
    }
}
