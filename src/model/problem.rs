//! One problem, described so that the reader can fix it: where it is, what is wrong, what to do.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// How serious a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Works, but needs a look.
    Warning,
    /// The command cannot do its work, or would be unsafe.
    Error,
}

/// A problem with its place and its remedy.  Wire v1: `problems[]` of every `--format json` (docs/reference/json.md).
///
/// Never holds key or secret bytes: messages are built from names, sizes and fingerprints only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable name in snake case that scripts may match.
    pub kind: &'static str,
    /// How serious it is.
    pub severity: Severity,
    /// The file of the problem, if it is in one.
    pub file: Option<PathBuf>,
    /// Line in that file, from 1.
    pub line: Option<usize>,
    /// Configuration key, dotted, for example `source.schedule.interval`.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// An error.
    #[must_use]
    pub fn error(kind: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(kind, Severity::Error, message.into(), remedy.into())
    }

    /// A warning.
    #[must_use]
    pub fn warning(kind: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(kind, Severity::Warning, message.into(), remedy.into())
    }

    fn new(kind: &'static str, severity: Severity, message: String, remedy: String) -> Self {
        Self { kind, severity, file: None, line: None, key: None, message, remedy }
    }

    /// The same problem, in this file.
    #[must_use]
    pub fn in_file(mut self, file: impl AsRef<Path>) -> Self {
        self.file = Some(file.as_ref().to_owned());
        self
    }

    /// The same problem, on this line (from 1).
    #[must_use]
    pub fn on_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }

    /// `FILE:LINE: KEY: `, as far as they are known.
    fn place(&self, to: &mut impl fmt::Write) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(to, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(to, "{line}:")?;
            }
            to.write_str(" ")?;
        }
        if let Some(key) = &self.key {
            write!(to, "{key}: ")?;
        }
        Ok(())
    }

    /// The same problem, at this configuration key.
    #[must_use]
    pub fn at_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// The first error; warnings do not count.
#[must_use]
pub fn first_error(problems: &[Problem]) -> Option<&Problem> {
    problems.iter().find(|problem| problem.severity == Severity::Error)
}

/// One error with all its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("writing to a string cannot fail");
        cause = error.source();
    }
    text
}

/// A text on one line and without control of a terminal: what came from outside may have line ends, escape sequences, and
/// marks that turn the direction of writing.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

impl fmt::Display for Problem {
    /// `error: FILE:LINE: KEY: message` and, on a line of its own, the remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Warning => "warning: ",
            Severity::Error => "error: ",
        })?;
        self.place(f)?;
        write!(f, "{}\n  remedy: {}", self.message, self.remedy)
    }
}

/// What `systemctl status` shows after a reload that was refused, until one succeeds: the first error with its place,
/// on one line.  None without an error.
#[must_use]
pub fn refusal(problems: &[Problem]) -> Option<String> {
    let first = first_error(problems)?;
    let mut text = "reload refused: ".to_owned();
    first.place(&mut text).expect("writing to a string cannot fail");
    text += &first.message;
    let more = problems.iter().filter(|problem| problem.severity == Severity::Error).count() - 1;
    if more > 0 {
        write!(text, " (and {more} more)").expect("writing to a string cannot fail");
    }
    text += "; keeping the old configuration";
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printable_has_one_line_and_no_escapes() {
        for same in ["", "plain", "Zürich → ok", "back\\slash"] {
            assert!(matches!(printable(same), Cow::Borrowed(text) if text == same));
        }
        let forged = "x`\n<2>2026 ERROR \u{1b}[2J\r\t\0\u{85}\u{9b}\u{2028}\u{202e}\u{2066}y";
        let shown = "x`\\n<2>2026 ERROR \\u{1b}[2J\\r\\t\\u{0}\\u{85}\\u{9b}\\u{2028}\\u{202e}\\u{2066}y";
        assert_eq!(printable(forged), shown);
    }

    #[test]
    fn a_problem_says_where_what_and_what_to_do() {
        let problem = Problem::warning("w", "not so bad", "leave it");
        assert_eq!(problem.to_string(), "warning: not so bad\n  remedy: leave it");
        let problem = Problem::error("e", "no source", "write one").in_file("/etc/a.toml").on_line(2).at_key("source");
        assert_eq!(problem.to_string(), "error: /etc/a.toml:2: source: no source\n  remedy: write one");
    }

    #[test]
    fn a_chain_of_causes_is_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the file")]
        struct Outer(#[source] std::io::Error);

        let cause = std::io::Error::other("the disk is on fire");
        assert_eq!(chain(&cause), "the disk is on fire");
        assert_eq!(chain(&Outer(cause)), "cannot read the file: the disk is on fire");
    }

    #[test]
    fn a_refusal_is_the_first_error_on_one_line() {
        let warning = Problem::warning("w", "not so bad", "leave it");
        let error = Problem::error("e", "there is no source \"moon\"", "write another").in_file("/etc/a.toml");
        let error = error.on_line(2).at_key("source.kind");
        assert_eq!(refusal(std::slice::from_ref(&warning)), None);
        assert_eq!(
            refusal(&[warning, error.clone()]).unwrap(),
            "reload refused: /etc/a.toml:2: source.kind: there is no source \"moon\"; keeping the old configuration"
        );
        assert!(refusal(&[error.clone(), error]).unwrap().contains("\"moon\" (and 1 more); keeping the old"));
    }
}
