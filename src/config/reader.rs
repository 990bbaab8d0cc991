//! Reads a TOML file table by table and collects every problem with its line, instead of stopping at the first.
//!
//! Not with serde: it stops at the first error, and an operator would have to fix a file one error at a time.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use tfo_host::runtime::files;
use tfo_host::secret::{BadSecretPath, SecretPath};
use tfo_model::problem::Problem;
use tfo_model::time::parse_duration;
use zeroize::Zeroizing;

/// Longest configuration file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How alike two names are, from 0 to 1, if one was probably meant by the other: clap's own bound.
const LIKE_ENOUGH: f64 = 0.7;

/// A value and the place where it was written, for problems that are found later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Dotted key.
    pub key: String,
    /// Line in the configuration file, from 1; none for a default.
    pub line: Option<usize>,
}

impl<T> Located<T> {
    /// A problem at this place.
    #[must_use]
    pub fn locate(&self, file: &Path, problem: Problem) -> Problem {
        let problem = problem.in_file(file).at_key(&*self.key);
        match self.line {
            Some(line) => problem.on_line(line),
            None => problem,
        }
    }
}

/// Collects the problems of one file.
#[derive(Debug)]
pub struct Findings {
    file: PathBuf,
    text: String,
    problems: Vec<Problem>,
}

impl Findings {
    /// Adds a problem at a byte range of the text.
    fn add(&mut self, span: &Range<usize>, key: &str, problem: Problem) {
        let line = self.line_of(span);
        self.problems.push(problem.in_file(&self.file).on_line(line).at_key(key));
    }

    /// Adds a problem at a place that was noted earlier.
    pub fn add_at<T>(&mut self, place: &Located<T>, problem: Problem) {
        let problem = place.locate(&self.file, problem);
        self.problems.push(problem);
    }

    /// Line of a byte range, from 1.
    fn line_of(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// All problems, in the order of their lines.
    #[must_use]
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }
}

/// A kind of configuration file.  What it names, such as secrets, certificates and a store, is not opened here.
pub trait ConfigFile: Sized {
    /// What a file names on this host, as far as it could be read, so that all of it can be checked although something is
    /// wrong.
    type Named: Default;

    /// Takes the keys of the file.  None where a problem was added.
    fn convert(file: &Path, root: Table<'_, '_>, findings: &mut Findings, named: &mut Self::Named) -> Option<Self>;

    /// Reads and checks the file.
    ///
    /// # Errors
    /// Fails with all problems at once: it cannot be read, its syntax is wrong, or what it says.
    fn load(file: &Path) -> Result<Self, Vec<Problem>> {
        Self::load_noting(file, &mut Self::Named::default())
    }

    /// The same, and records what the file names, even if it is refused.
    ///
    /// # Errors
    /// As [`Self::load`].
    fn load_noting(file: &Path, named: &mut Self::Named) -> Result<Self, Vec<Problem>> {
        let text = read_text(file).map_err(|problem| vec![problem.in_file(file)])?;
        read(file, &text, named)
    }

    /// The same for a text; `file` names it in problems.
    ///
    /// # Errors
    /// As [`Self::load`].
    fn parse(file: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        read(file, text, &mut Self::Named::default())
    }
}

fn read<F: ConfigFile>(file: &Path, text: &str, named: &mut F::Named) -> Result<F, Vec<Problem>> {
    let mut findings = Findings { file: file.to_owned(), text: text.to_owned(), problems: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    // After a syntax error the tables are guesses, and so are all further problems, of syntax too: one missing bracket
    // makes an error of each line below it.
    let first = errors.into_iter().min_by_key(|error| error.span().unwrap_or_default().start);
    if let Some(error) = first {
        let remedy = "fix the TOML syntax (https://toml.io) there or just above; nothing below it was read";
        let line = findings.line_of(&error.span().unwrap_or_default());
        findings.problems.push(Problem::error("syntax", error.message(), remedy).in_file(file).on_line(line));
        return Err(findings.into_problems());
    }
    let converted = F::convert(file, Table::new(String::new(), root.span(), root.get_ref()), &mut findings, named);
    match converted {
        Some(settings) if findings.problems.is_empty() => Ok(settings),
        _ => {
            assert!(!findings.problems.is_empty(), "settings are missing only with a problem");
            Err(findings.into_problems())
        }
    }
}

fn read_text(file: &Path) -> Result<String, Problem> {
    let found = files::open_regular(file).and_then(|opened| {
        let mut text = String::new();
        // One byte more than allowed, to detect a longer file.
        opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("the file has more than {FILE_BYTES_MAX} bytes")));
        }
        Ok(text)
    });
    found.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Problem::error(
            "config_missing",
            "the configuration file does not exist",
            "name it with --config FILE, or create one with `tfo-agent init`",
        ),
        _ => {
            Problem::error("config_unreadable", format!("cannot read the file: {error}"), "make it readable UTF-8 text")
        }
    })
}

/// One table; every key must be taken before [`Table::finish`].
pub struct Table<'t, 'i> {
    path: String,
    span: Range<usize>,
    left: BTreeMap<&'t str, (Range<usize>, &'t Spanned<DeValue<'i>>)>,
    known: Vec<&'static str>,
}

impl<'t, 'i> Table<'t, 'i> {
    fn new(path: String, span: Range<usize>, table: &'t DeTable<'i>) -> Self {
        let left = table.iter().map(|(key, value)| (key.get_ref().as_ref(), (key.span(), value))).collect();
        Self { path, span, left, known: Vec::new() }
    }

    /// A place for a value that may be missing: the key, and the table's own line.
    #[must_use]
    pub fn place(&self, key: &str, findings: &Findings) -> Located<()> {
        Located { value: (), key: self.dotted(key), line: Some(findings.line_of(&self.span)) }
    }

    fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.left.remove(key).map(|(_, value)| value)
    }

    /// Whether the key is in the table and not taken yet.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    /// Adds a problem if the key is missing.
    pub fn require(&self, key: &str, remedy: impl Into<String>, findings: &mut Findings) {
        if !self.has(key) {
            let place = self.place(key, findings);
            findings.add_at(&place, Problem::error("missing_key", "required key is missing", remedy));
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        findings: &mut Findings,
        pick: impl FnOnce(&'t DeValue<'i>) -> Option<T>,
    ) -> Option<Located<T>> {
        let value = self.take(key)?;
        let dotted = self.dotted(key);
        let line = Some(findings.line_of(&value.span()));
        if let Some(value) = pick(value.get_ref()) {
            return Some(Located { value, key: dotted, line });
        }
        let found = value.get_ref().type_str();
        let problem =
            Problem::error("wrong_type", format!("the value is of type {found}"), format!("write {expected}"));
        findings.add(&value.span(), &dotted, problem);
        None
    }

    /// A string.
    pub fn string(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<String>> {
        self.typed(key, "a string in quotes", findings, |value| value.as_str().map(str::to_owned))
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<bool>> {
        self.typed(key, "true or false, without quotes", findings, DeValue::as_bool)
    }

    /// A list of strings.
    pub fn strings(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<Vec<String>>> {
        self.typed(key, "a list of strings, for example [\"a\", \"b\"]", findings, |value| {
            value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        })
    }

    /// A string that `parse` understands; its error is the message.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &'static str,
        findings: &mut Findings,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Located<T>> {
        let Located { value, key, line } = self.string(key, findings)?;
        match parse(&value) {
            Ok(value) => Some(Located { value, key, line }),
            Err(error) => {
                let place = Located { value: (), key, line };
                let message = format!("invalid value {value:?}");
                findings.add_at(&place, Problem::error("bad_value", message, format!("{error}")));
                None
            }
        }
    }

    /// Path of a secret.  The text is never quoted: it may be the secret itself, by mistake.
    pub fn secret_path(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<SecretPath>> {
        let Located { value, key, line } = self.string(key, findings)?;
        match value.parse() {
            Ok(value) => Some(Located { value, key, line }),
            Err(error) => {
                let error: BadSecretPath = error;
                let place = Located { value: (), key, line };
                let problem = Problem::error("bad_value", error.to_string(), error.remedy());
                findings.add_at(&place, problem);
                None
            }
        }
    }

    /// A duration of whole seconds with its unit.
    pub fn span(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<Duration>> {
        // Not like other strings: a number without a unit is the common mistake here.
        let Located { value, key, line } =
            self.typed(key, "a duration in quotes with its unit, for example \"24h\" or \"90s\"", findings, |value| {
                value.as_str().map(str::to_owned)
            })?;
        match parse_duration(&value) {
            Ok(value) => Some(Located { value, key, line }),
            Err(error) => {
                let place = Located { value: (), key, line };
                findings.add_at(
                    &place,
                    Problem::error("bad_unit", format!("{value:?} is not a duration"), error.to_string()),
                );
                None
            }
        }
    }

    /// A table inside this one.
    pub fn table(&mut self, key: &'static str, findings: &mut Findings) -> Option<Table<'t, 'i>> {
        let path = self.dotted(key);
        let value = self.take(key)?;
        if let Some(table) = value.get_ref().as_table() {
            return Some(Table::new(path, value.span(), table));
        }
        let remedy = format!("write a section [{path}]");
        findings.add(&value.span(), &path, Problem::error("wrong_type", "this is not a section", remedy));
        None
    }

    /// An array of tables inside this one.
    pub fn tables(&mut self, key: &'static str, findings: &mut Findings) -> Vec<Table<'t, 'i>> {
        let path = self.dotted(key);
        let Some(value) = self.take(key) else { return Vec::new() };
        let items = value.get_ref().as_array().map(|array| {
            array.iter().zip(0..).map(|(item, index)| {
                let table = item.get_ref().as_table()?;
                Some(Table::new(format!("{path}[{index}]"), item.span(), table))
            })
        });
        if let Some(tables) = items.and_then(Iterator::collect::<Option<Vec<_>>>) {
            return tables;
        }
        let remedy = format!("write it as [[{path}]], once for each");
        findings.add(&value.span(), &path, Problem::error("wrong_type", "this is not a list of sections", remedy));
        Vec::new()
    }

    /// A whole number, not below 0.
    pub fn count(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<u64>> {
        self.typed(key, "a whole number, not below 0, without quotes", findings, |value| {
            let number = value.as_integer()?;
            u64::from_str_radix(number.as_str(), number.radix()).ok()
        })
    }

    /// A number from 0 to 1, in millionths.
    pub fn share_ppm(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<u32>> {
        self.typed(key, "a number from 0 to 1 with at most six decimals, for example 0.01", findings, |value| {
            let text = value.as_float().map(toml::de::DeFloat::as_str);
            ppm_of(text.or_else(|| value.as_integer().map(toml::de::DeInteger::as_str))?)
        })
    }

    /// All tables inside this one, with their names.
    pub fn sections(&mut self, findings: &mut Findings) -> Vec<(String, Table<'t, 'i>)> {
        let mut found = Vec::new();
        for (name, (span, value)) in std::mem::take(&mut self.left) {
            let path = self.dotted(name);
            if let Some(table) = value.get_ref().as_table() {
                found.push((name.to_owned(), Table::new(path, span, table)));
            } else {
                let problem =
                    Problem::error("wrong_type", "this is not a section", format!("write a section [{path}]"));
                findings.add(&span, &path, problem);
            }
        }
        found
    }

    /// Adds a problem for every key that was not taken.
    pub fn finish(self, findings: &mut Findings) {
        let known = self.known.join(", ");
        for (key, (span, _)) in &self.left {
            let place = if self.path.is_empty() { "at the top".to_owned() } else { format!("in [{}]", self.path) };
            let remedy = match nearest(key, self.known.iter().copied()) {
                Some(near) => format!("did you mean {near}? known keys: {known}"),
                None => format!("known keys: {known}"),
            };
            let problem = Problem::error("unknown_key", format!("unknown key {place}"), remedy);
            findings.add(span, &self.dotted(key), problem);
        }
    }
}

/// The name that was probably meant, as clap finds it for arguments.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = known.map(|known| (strsim::jaro(name, known), known));
    likeness.filter(|(like, _)| *like > LIKE_ENOUGH).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// A path from the root.
pub(super) fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    if text.starts_with('/') { Ok(text.into()) } else { Err("write an absolute path") }
}

/// Adds a problem if a list has more than `max` entries.
pub(super) fn bound(list: &Located<Vec<String>>, max: usize, findings: &mut Findings) {
    if list.value.len() > max {
        let message = format!("the list has more than {max} entries");
        findings.add_at(list, Problem::error("out_of_range", message, "use a pattern, or remove some"));
    }
}

/// Millionths of a decimal number from 0 to 1; none for anything else, and for more than six decimals.
pub(super) fn ppm_of(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(decimals) {
        return None;
    }
    let millionths: u32 = format!("{decimals:0<6}").parse().ok()?;
    let ppm = whole.parse::<u32>().ok()?.checked_mul(1_000_000)?.checked_add(millionths)?;
    (ppm <= 1_000_000).then_some(ppm)
}

impl Located<SecretPath> {
    /// Reads the secret; a problem names its place in the configuration.
    ///
    /// # Errors
    /// As [`SecretPath::read`].
    pub fn read_for(&self, config: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, Problem> {
        self.value.read(max).map_err(|problem| self.locate(config, problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Example;

    impl ConfigFile for Example {
        type Named = ();

        fn convert(_: &Path, mut root: Table<'_, '_>, findings: &mut Findings, (): &mut ()) -> Option<Self> {
            let mut inner = root.table("inner", findings)?;
            inner.span("span", findings);
            inner.boolean("flag", findings);
            inner.strings("names", findings);
            for mut item in root.tables("item", findings) {
                item.string("name", findings);
                item.finish(findings);
            }
            inner.finish(findings);
            root.finish(findings);
            Some(Self)
        }
    }

    fn problems(text: &str) -> Vec<(usize, String, &'static str)> {
        let found = Example::parse(Path::new("x.toml"), text);
        let problems = found.err().unwrap_or_default();
        problems.into_iter().map(|p| (p.line.unwrap(), p.key.unwrap_or_default(), p.kind)).collect()
    }

    #[test]
    fn all_problems_come_at_once_with_their_lines() {
        let text = "top = 1\n[inner]\nspan = 24\nflag = \"yes\"\nnames = [1]\nother = 2\n[[item]]\nname = 3\nx = 1\n";
        let expected = [
            (1, "top", "unknown_key"),
            (3, "inner.span", "wrong_type"),
            (4, "inner.flag", "wrong_type"),
            (5, "inner.names", "wrong_type"),
            (6, "inner.other", "unknown_key"),
            (8, "item[0].name", "wrong_type"),
            (9, "item[0].x", "unknown_key"),
        ];
        let found = problems(text);
        let found: Vec<_> = found.iter().map(|(line, key, kind)| (*line, key.as_str(), *kind)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_first_syntax_error_has_a_line_and_stops_the_reading() {
        let found = problems("[inner]\nspan = \n\nflag = = 1\nother = 5\n");
        assert_eq!(found, [(2, String::new(), "syntax")]);
        let lines: String = (0..20).map(|number| format!("key{number} = \"value\"\n")).collect();
        let found = problems(&format!("[inner]\nnames = [\"a\", \"b\"\n{lines}"));
        assert_eq!(found.len(), 1, "one missing bracket: {found:?}");
    }

    #[test]
    fn shares_are_exact_millionths() {
        for (text, ppm) in [("0", 0), ("1", 1_000_000), ("1.0", 1_000_000), ("0.01", 10_000), ("0.000001", 1)] {
            assert_eq!(ppm_of(text), Some(ppm), "{text}");
        }
        for bad in ["", ".5", "1.000001", "2", "-0.1", "0.0000001", "1e-3", "nan", "99999999"] {
            assert_eq!(ppm_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_key_that_was_meant_is_named() {
        let meant = |name: &str| nearest(name, ["wait", "urls", "schedule", "absent_after"].into_iter());
        for (name, expected) in [("url", "urls"), ("shedule", "schedule"), ("absent-after", "absent_after")] {
            assert_eq!(meant(name), Some(expected), "{name}");
        }
        assert_eq!(meant("colour"), None);
    }

    #[test]
    fn units_are_asked_for() {
        assert_eq!(
            problems("[inner]\nspan = \"24\"\nflag = true\nnames = []\n"),
            [(2, "inner.span".to_owned(), "bad_unit")]
        );
        assert!(problems("[inner]\nspan = \"24h\"\nflag = true\nnames = []\n").is_empty());
    }
}
