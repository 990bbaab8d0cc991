//! Where network namespaces are that come and go: names under /run/netns, files in a directory, processes of a unit or cgroup.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::ids::NamespaceName;

/// Longest place, in bytes.
const BYTES_MAX: usize = 1_024;

/// A pattern of names: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob(String);

impl Glob {
    /// Whether it fits a name as a whole.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        // Where to go on after the last `*`, if what follows it does not fit from here.
        let (mut p, mut n, mut star) = (0, 0, None);
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(byte) if *byte == b'?' || *byte == name[n] => (p, n) = (p + 1, n + 1),
                _ => {
                    let Some((at, from)) = star else { return false };
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An entry of `[install] namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespacePlace {
    /// One name under /run/netns, which has to be there.
    Named(NamespaceName),
    /// The names under /run/netns that fit.
    Names(Glob),
    /// The files of a directory that fit: `/run/docker/netns/*`.
    Files {
        /// The directory.
        directory: PathBuf,
        /// Its files.
        names: Glob,
    },
    /// The processes of the units that fit: `unit:nginx@*.service`.
    Unit(Glob),
    /// The processes of the cgroups whose whole path fits: `cgroup:/machine.slice/*`.
    Cgroup(Glob),
}

/// The text is not a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a name under /run/netns, a pattern of them (\"cni-*\"), of files (\"/run/docker/netns/*\"), of units \
     (\"unit:nginx@*.service\") or of cgroups (\"cgroup:/machine.slice/*\")"
)]
pub struct BadPlace;

impl FromStr for NamespacePlace {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        if text.len() > BYTES_MAX || text.chars().any(char::is_control) {
            return Err(BadPlace);
        }
        let glob = |text: &str| if text.is_empty() { Err(BadPlace) } else { Ok(Glob(text.to_owned())) };
        if let Some(unit) = text.strip_prefix("unit:") {
            return if unit.contains('/') { Err(BadPlace) } else { glob(unit).map(Self::Unit) };
        }
        if let Some(path) = text.strip_prefix("cgroup:") {
            return if path.starts_with('/') { glob(path).map(Self::Cgroup) } else { Err(BadPlace) };
        }
        if text.starts_with('/') {
            let (directory, names) = text.rsplit_once('/').ok_or(BadPlace)?;
            let is_plain = |path: &str| !path.contains(['*', '?']) && path.split('/').all(|step| step != "..");
            if directory.is_empty() || names == ".." || !is_plain(directory) {
                return Err(BadPlace);
            }
            return Ok(Self::Files { directory: Path::new(directory).to_owned(), names: glob(names)? });
        }
        if text.contains(['*', '?']) {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*' | b'?');
            return if text.bytes().all(is_name) && !text.starts_with('.') {
                glob(text).map(Self::Names)
            } else {
                Err(BadPlace)
            };
        }
        text.parse().map(Self::Named).map_err(|_| BadPlace)
    }
}

impl fmt::Display for NamespacePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "{name}"),
            Self::Names(names) => write!(f, "{names}"),
            Self::Files { directory, names } => write!(f, "{}/{names}", directory.display()),
            Self::Unit(names) => write!(f, "unit:{names}"),
            Self::Cgroup(path) => write!(f, "cgroup:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_whole_names() {
        let rows = [
            ("cni-*", "cni-1", true),
            ("cni-*", "cni-", true),
            ("cni-*", "xcni-1", false),
            ("*", "", true),
            ("*.service", "nginx@a.service", true),
            ("nginx@*.service", "nginx@.service", true),
            ("nginx@*.service", "nginx.service", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaab", true),
            ("*a*b", "xaabc", false),
            ("**", "x", true),
            ("a*a", "a", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ];
        for (glob, name, fits) in rows {
            assert_eq!(Glob(glob.to_owned()).fits(name), fits, "{glob} {name}");
        }
    }

    #[test]
    fn a_place_is_what_its_form_says_and_reads_back() {
        let kind = |text: &str| {
            let place = text.parse::<NamespacePlace>().unwrap();
            assert_eq!(place.to_string(), text);
            match place {
                NamespacePlace::Named(_) => "named",
                NamespacePlace::Names(_) => "names",
                NamespacePlace::Files { .. } => "files",
                NamespacePlace::Unit(_) => "unit",
                NamespacePlace::Cgroup(_) => "cgroup",
            }
        };
        let rows = [
            ("blue", "named"),
            ("cni-*", "names"),
            ("netns-????", "names"),
            ("/run/docker/netns/*", "files"),
            ("/var/run/netns/blue", "files"),
            ("unit:nginx@*.service", "unit"),
            ("unit:nginx.service", "unit"),
            ("cgroup:/machine.slice/*", "cgroup"),
        ];
        for (text, expected) in rows {
            assert_eq!(kind(text), expected, "{text}");
        }
        for bad in [
            "",
            "a b",
            "../x",
            ".hidden",
            ".*",
            "a/b",
            "a/*",
            "unit:",
            "unit:a/b",
            "cgroup:",
            "cgroup:x",
            "/*",
            "/",
            "/run/*/x",
            "/run/../x/*",
            "/run/netns/..",
            "/run/netns/",
            "cni-*\n",
            &"x".repeat(1_025),
        ] {
            assert!(bad.parse::<NamespacePlace>().is_err(), "{bad:?}");
        }
    }
}
