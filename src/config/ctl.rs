//! `ctl.toml`: see config/ctl.toml, which has every key.

use std::path::{Path, PathBuf};

use super::contact::base_urls;
use super::reader::{Findings, Table, absolute, read_file, read_str};
use tfo_host::secret::SecretPath;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_wire::client::BaseUrl;

/// Where the configuration is looked for last.
pub const SYSTEM_FILE: &str = "/etc/tfo-fleet/ctl.toml";
/// Where it is looked for first, below the user's configuration directory.
const USER_FILE: &str = "tfo-fleet/ctl.toml";

/// Checked settings of the fleet commands.
#[derive(Debug)]
pub struct CtlSettings {
    /// The configuration file, for problems that are found later.
    pub file: PathBuf,
    /// Coordinators, in the order in which they are asked; at least one.
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

impl CtlSettings {
    /// Reads and checks the file.  Keys and certificates are not opened here.
    ///
    /// # Errors
    /// Fails with all problems at once.
    pub fn load(file: &Path) -> Result<Self, Vec<Problem>> {
        read_file(file, |root, findings| Self::convert(file, root, findings))
    }

    /// The same for a text; `file` names it in problems.
    ///
    /// # Errors
    /// As [`CtlSettings::load`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        read_str(file, text, |root, findings| Self::convert(file, root, findings))
    }

    fn convert(file: &Path, mut root: Table<'_, '_>, findings: &mut Findings) -> Option<Self> {
        for (key, remedy) in [
            ("urls", "write the coordinators, for example urls = [\"https://coordinator.example.org:9443\"]"),
            ("ca", "write the absolute path of the authority's certificate (ca.crt)"),
            ("cert", "write the absolute path of your certificate; `tfoctl pki issue --operator NAME` makes one"),
            ("key", "write the absolute path of your private key"),
        ] {
            root.require(key, remedy, findings);
        }
        let urls = root.strings("urls", findings).and_then(|texts| base_urls(texts, findings));
        let ca = root.parsed("ca", findings, absolute);
        let cert = root.parsed("cert", findings, absolute);
        let key = root.secret_path("key", findings);
        let pool = root.parsed("pool", findings, str::parse::<PoolName>);
        root.finish(findings);
        Some(Self {
            file: file.to_owned(),
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
        let found = CtlSettings::parse(Path::new("ctl.toml"), text).err().unwrap_or_default();
        found.into_iter().map(|problem| (problem.line, problem.key.unwrap_or_default(), problem.kind)).collect()
    }

    #[test]
    fn the_shipped_example_is_valid() {
        let settings = CtlSettings::parse(Path::new("ctl.toml"), include_str!("../../config/ctl.toml")).unwrap();
        assert_eq!(settings.urls.len(), 2);
        assert_eq!(settings.pool.as_ref().map(PoolName::as_str), Some("edge"));
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
