//! `ctl.toml`: see config/ctl.toml, which has every key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::contact::base_urls;
use super::reader::{ConfigFile, Findings, Table, absolute};
use tfo_host::secret::SecretPath;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_wire::base_url::BaseUrl;

/// Where the configuration is looked for last.
pub const SYSTEM_FILE: &str = "/etc/tfo-fleet/ctl.toml";
/// Where it is looked for first, below the user's configuration directory.
const USER_FILE: &str = "tfo-fleet/ctl.toml";

/// Longest name of a context in bytes.
const CONTEXT_BYTES_MAX: usize = 64;

/// The configuration: one fleet, or several by the names of their contexts.
#[derive(Debug)]
pub struct CtlFile {
    file: PathBuf,
    /// The settings outside all contexts.
    outside: Option<CtlSettings>,
    contexts: BTreeMap<String, CtlSettings>,
    /// `context`: the one that is used unless another is named.
    default: Option<String>,
}

/// Checked settings of the fleet commands, for one fleet.
#[derive(Debug)]
pub struct CtlSettings {
    /// Addresses of the coordinator, in the order in which they are asked; at least one.
    pub urls: Vec<BaseUrl>,
    /// Certificates of the authority.
    pub ca: PathBuf,
    /// The operator's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: SecretPath,
    /// The pool that commands are for.
    pub pool: Option<PoolName>,
}

/// What one fleet needs, and how to write it.
const REQUIRED: [(&str, &str); 4] = [
    ("urls", "write the coordinator's address, for example urls = [\"https://coordinator.example.org:9443\"]"),
    ("ca", "write the absolute path of the authority's certificate (ca.crt)"),
    ("cert", "write the absolute path of your certificate; `tfoctl pki issue --operator NAME` makes one"),
    ("key", "write the absolute path of your private key"),
];

impl ConfigFile for CtlFile {
    type Named = ();

    fn convert(file: &Path, mut root: Table<'_, '_>, findings: &mut Findings, (): &mut ()) -> Option<Self> {
        let sections = root.table("contexts", findings).map(|mut table| table.sections(findings));
        let default = root.string("context", findings);
        let mut contexts = BTreeMap::new();
        let mut names = Vec::new();
        for (name, mut table) in sections.into_iter().flatten() {
            names.push(name.clone());
            if name.is_empty() || name.len() > CONTEXT_BYTES_MAX || name.chars().any(char::is_control) {
                let message = "this cannot be the name of a context";
                let remedy = format!("use 1 to {CONTEXT_BYTES_MAX} characters");
                findings.add_at(&table.place("", findings), Problem::error("bad_value", message, remedy));
            }
            let settings = CtlSettings::convert(&mut table, findings);
            table.finish(findings);
            contexts.extend(settings.map(|settings| (name, settings)));
        }
        // Without contexts the settings outside are the only ones.
        let has_outside = names.is_empty() || REQUIRED.iter().any(|(key, _)| root.has(key));
        let outside = has_outside.then(|| CtlSettings::convert(&mut root, findings));
        if let Some(default) = default.as_ref().filter(|default| !names.contains(&default.value)) {
            let remedy = format!("write a section [contexts.{}], or one of: {}", default.value, names.join(", "));
            findings.add_at(default, Problem::error("unknown_context", "there is no such context", remedy));
        }
        root.finish(findings);
        let outside = match outside {
            Some(converted) => Some(converted?),
            None => None,
        };
        Some(Self { file: file.to_owned(), outside, contexts, default: default.map(|default| default.value) })
    }
}

impl CtlFile {
    /// The settings of the context that is named; without a name those of `context`, those outside all contexts, or of the
    /// only context.
    ///
    /// # Errors
    /// Fails if there is no such context, or if one has to be named.
    pub fn choose(mut self, named: Option<&str>) -> Result<CtlSettings, Problem> {
        let only = || self.contexts.keys().next().filter(|_| self.contexts.len() == 1).cloned();
        let chosen = named.map(str::to_owned).or_else(|| self.default.clone());
        let chosen = chosen.or_else(|| if self.outside.is_none() { only() } else { None });
        let names = self.contexts.keys().cloned().collect::<Vec<_>>().join(", ");
        let Some(chosen) = chosen else {
            let problem = || {
                let message = format!("there are {} contexts: {names}", self.contexts.len());
                let remedy = "choose one with --context NAME, TFO_CONTEXT, or context = \"NAME\" in the file";
                Problem::error("no_context", message, remedy).in_file(&self.file)
            };
            return self.outside.take().ok_or_else(problem);
        };
        let problem = || {
            let has = if names.is_empty() {
                "the file has no [contexts.NAME]".to_owned()
            } else {
                format!("there are: {names}")
            };
            Problem::error("unknown_context", format!("there is no context {chosen:?}"), has).in_file(&self.file)
        };
        self.contexts.remove(&chosen).ok_or_else(problem)
    }

    /// Every context with its name; none for the settings outside all contexts.
    pub fn contexts(&self) -> impl Iterator<Item = (Option<&str>, &CtlSettings)> {
        let named = self.contexts.iter().map(|(name, settings)| (Some(name.as_str()), settings));
        self.outside.iter().map(|settings| (None, settings)).chain(named)
    }

    /// Whether a context is the one that is used when `asked` is asked for.
    #[must_use]
    pub fn is_chosen(&self, context: Option<&str>, asked: Option<&str>) -> bool {
        match asked.or(self.default.as_deref()) {
            Some(name) => context == Some(name),
            None => context.is_none() || (self.outside.is_none() && self.contexts.len() == 1),
        }
    }
}

impl CtlSettings {
    fn convert(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Self> {
        for (key, remedy) in REQUIRED {
            table.require(key, remedy, findings);
        }
        let urls = table.strings("urls", findings).and_then(|texts| base_urls(texts, findings));
        let ca = table.parsed("ca", findings, absolute);
        let cert = table.parsed("cert", findings, absolute);
        let key = table.secret_path("key", findings);
        let pool = table.parsed("pool", findings, str::parse::<PoolName>);
        Some(Self {
            urls: urls?.value,
            ca: ca?.value,
            cert: cert?.value,
            key: key?.value,
            pool: pool.map(|pool| pool.value),
        })
    }
}

/// Files to look for without `--config`, best first.
#[must_use]
pub fn default_files() -> Vec<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // XDG Base Directory Specification: a relative path is to be ignored.
    let user = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    user.map(|directory| directory.join(USER_FILE)).into_iter().chain([PathBuf::from(SYSTEM_FILE)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(Option<usize>, String, &'static str)> {
        let found = CtlFile::parse(Path::new("ctl.toml"), text).err().unwrap_or_default();
        found.into_iter().map(|problem| (problem.line, problem.key.unwrap_or_default(), problem.kind)).collect()
    }

    fn parse(text: &str) -> CtlFile {
        CtlFile::parse(Path::new("ctl.toml"), text).unwrap()
    }

    #[test]
    fn the_shipped_example_is_valid() {
        let settings = parse(include_str!("../../config/ctl.toml")).choose(None).unwrap();
        assert_eq!(settings.urls.len(), 1);
        assert_eq!(settings.pool.as_ref().map(PoolName::as_str), Some("edge"));
    }

    #[test]
    fn a_context_is_named_by_the_command_the_file_or_by_being_the_only_one() {
        let one = |name: &str| {
            format!("urls = [\"https://{name}\"]\nca = \"/a\"\ncert = \"/b\"\nkey = \"/c\"\npool = \"{name}\"\n")
        };
        let chosen = |text: &str, named: Option<&str>| match parse(text).choose(named) {
            Ok(settings) => settings.pool.unwrap().to_string(),
            Err(problem) => problem.kind.to_owned(),
        };
        let (a, b) = (format!("[contexts.a]\n{}", one("a")), format!("[contexts.b]\n{}", one("b")));
        assert_eq!(chosen(&a, None), "a");
        assert_eq!(chosen(&a, Some("b")), "unknown_context");
        assert_eq!(chosen(&format!("{a}{b}"), None), "no_context");
        assert_eq!(chosen(&format!("{a}{b}"), Some("b")), "b");
        assert_eq!(chosen(&format!("context = \"b\"\n{a}{b}"), None), "b");
        assert_eq!(chosen(&format!("context = \"b\"\n{a}{b}"), Some("a")), "a");
        assert_eq!(chosen(&format!("{}{a}", one("outside")), None), "outside");
        assert_eq!(chosen(&one("outside"), Some("a")), "unknown_context");
        let file = parse(&format!("{}{a}{b}", one("outside")));
        let names: Vec<_> = file.contexts().map(|(name, _)| (name, file.is_chosen(name, Some("b")))).collect();
        assert_eq!(names, [(None, false), (Some("a"), false), (Some("b"), true)]);
        assert_eq!(problems("context = \"c\"\n[contexts.a]\nurl = 1\n").len(), 6, "one of each kind, at once");
    }

    #[test]
    fn everything_wrong_comes_at_once() {
        let text = "urls = [\"http://c\"]\nca = \"ca.crt\"\nkey = 1\npool = \"A B\"\nsecret = \"x\"\n";
        let found = problems(text);
        let found: Vec<_> = found.iter().map(|(line, key, kind)| (line.unwrap(), key.as_str(), *kind)).collect();
        let expected = [
            (1, "cert", "missing_key"),
            (1, "urls", "bad_value"),
            (2, "ca", "bad_value"),
            (3, "key", "wrong_type"),
            (4, "pool", "bad_value"),
            (5, "secret", "unknown_key"),
        ];
        assert_eq!(found, expected);
        let rest = "ca = \"/a\"\ncert = \"/b\"\nkey = \"/c\"\n";
        assert_eq!(problems(&format!("urls = []\n{rest}")), [(Some(1), "urls".to_owned(), "out_of_range")]);
        assert!(problems(&format!("urls = [\"https://c\"]\n{rest}")).is_empty(), "a pool may be left open");
    }
}
