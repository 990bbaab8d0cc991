//! Who else may write the key while the host runs: enabled units, cron jobs and what they start, as far as their text tells.
//!
//! A guess, for warnings alone: whoever reads the key names it too, and a program without readable text is not seen.  What sets the
//! key at boot is `boot_order`'s.  Never reads a value: only where the key is named.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::model::problem::Problem;

/// What names the key, as a file, as a sysctl, or as the program that does nothing else.
const SIGNS: [&str; 2] = ["tcp_fastopen_key", "tofurkey"];
/// Where units are, in the order in which a name masks another (systemd.unit(5)).
const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Where jobs and tables of cron are.
const CRON_DIRECTORIES: [&str; 6] = [
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/var/spool/cron/crontabs",
];
/// Files of the same kind.
const FILES: [&str; 2] = ["/etc/crontab", "/etc/rc.local"];
/// Our own units name the key too.
const OURS: &str = "tfo-agent";
/// Longest file that is taken for a unit or a script, in bytes.
const FILE_BYTES_MAX: u64 = 65_536;

/// A line that names the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writer {
    /// The file.
    pub file: PathBuf,
    /// The first line in it that does, from 1.
    pub line: usize,
}

impl Writer {
    /// The same for people.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let message = "this names the key, and something runs it: who writes second takes the other's key away";
        let remedy = "stop it on every node first, between two of its runs; if it only reads the key, all is well";
        Problem::warning("other_writer", message, remedy).in_file(&self.file).on_line(self.line)
    }
}

/// Looks through units and jobs below `root` (`/`, except in tests), and one step further: at the programs that they name.
#[must_use]
pub fn scan(root: &Path) -> Vec<Writer> {
    let mut found = BTreeSet::new();
    for file in enabled_units(root).into_iter().chain(jobs(root)) {
        let Some(text) = text_of(&file) else { continue };
        if let Some(line) = line_that_names_it(&text) {
            found.insert(Writer { file, line });
            continue;
        }
        let started = paths_in(&text).filter(|path| !is_ours(path)).map(|path| under(root, path));
        found.extend(started.filter_map(|file| {
            let line = line_that_names_it(&text_of(&file)?)?;
            Some(Writer { file, line })
        }));
    }
    found.into_iter().collect()
}

fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn is_ours(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(OURS))
}

/// Names in a directory; none if it is not there.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The services that something starts: they, or their timers, sockets or paths, are linked below a `.wants` or `.requires`.
fn enabled_units(root: &Path) -> Vec<PathBuf> {
    let mut services: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for directory in UNIT_DIRECTORIES.map(|directory| under(root, directory)) {
        for name in names(&directory) {
            if let Some(stem) = name.strip_suffix(".service") {
                services.entry(stem.to_owned()).or_insert_with(|| directory.join(&name));
            } else if name.ends_with(".wants") || name.ends_with(".requires") {
                let links = names(&directory.join(&name)).into_iter();
                wanted.extend(links.filter_map(|link| Some(link.rsplit_once('.')?.0.to_owned())));
            }
        }
    }
    services.retain(|stem, _| wanted.contains(stem) && !stem.starts_with(OURS));
    services.into_values().collect()
}

fn jobs(root: &Path) -> Vec<PathBuf> {
    let directories = CRON_DIRECTORIES.iter().map(|directory| under(root, directory));
    let inside = directories.flat_map(|directory| {
        let found = names(&directory);
        found.into_iter().map(move |name| directory.join(name))
    });
    inside.chain(FILES.iter().map(|file| under(root, file))).collect()
}

/// None for what is masked (`/dev/null`), a program, or too long for a script.
fn text_of(file: &Path) -> Option<String> {
    let opened = std::fs::File::open(file).ok()?;
    let found = opened.metadata().ok()?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        return None;
    }
    let mut text = String::new();
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn line_that_names_it(text: &str) -> Option<usize> {
    let code = |line: &str| !line.trim_start().starts_with(['#', ';']);
    let at = text.lines().position(|line| code(line) && SIGNS.iter().any(|sign| line.contains(sign)))?;
    Some(at + 1)
}

/// Absolute paths of programs and scripts that a text names.
fn paths_in(text: &str) -> impl Iterator<Item = &str> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '=' | '"' | '\'' | ';' | '&' | '|' | '(' | ')');
    text.lines().filter(|line| !line.starts_with('#')).flat_map(move |line| line.split(is_end)).filter_map(|word| {
        // systemd's prefixes of ExecStart=.
        let path = word.trim_start_matches(['-', '@', ':', '+', '!']);
        (path.starts_with('/') && !path.starts_with("/dev/") && !path.starts_with("/proc/")).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str =
        "#!/bin/sh\n# tcp_fastopen_key\necho net.ipv4.tcp_fastopen_key=$new,$old > /etc/sysctl.d/50-x.conf\n";

    /// Files and links below a root; a link has its target after `->`.
    fn found(tree: &[(&str, &str)]) -> Vec<(String, usize)> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in tree {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content.strip_prefix("->") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => std::fs::write(path, content).unwrap(),
            }
        }
        let shown = |path: &Path| path.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned();
        scan(root.path()).iter().map(|writer| (shown(&writer.file), writer.line)).collect()
    }

    #[test]
    fn a_timer_is_found_by_the_script_that_its_service_starts() {
        let service = ("etc/systemd/system/rotate.service", "[Service]\nExecStart=-/usr/local/bin/rotate --now\n");
        let script = ("usr/local/bin/rotate", SCRIPT);
        let enabled = ("etc/systemd/system/timers.target.wants/rotate.timer", "->../rotate.timer");
        assert_eq!(found(&[service, script, enabled]), [("usr/local/bin/rotate".to_owned(), 3)]);
        assert_eq!(found(&[service, script]), [], "nothing runs it");
    }

    #[test]
    fn a_service_that_names_the_key_or_is_tofurkey_is_found_unless_it_is_masked() {
        let enabled = |name: &str| format!("etc/systemd/system/multi-user.target.wants/{name}");
        let own = enabled("key.service");
        let direct =
            ("usr/lib/systemd/system/key.service", "[Service]\nExecStart=sysctl -w net.ipv4.tcp_fastopen_key=x\n");
        assert_eq!(found(&[direct, (&own, "->x")]), [("usr/lib/systemd/system/key.service".to_owned(), 2)]);
        let masked = ("etc/systemd/system/key.service", "->/dev/null");
        assert_eq!(found(&[direct, (&own, "->x"), masked]), []);
        let tofurkey = ("lib/systemd/system/tofurkey.service", "[Service]\nExecStart=/usr/sbin/tofurkey -k /etc/t\n");
        assert_eq!(found(&[tofurkey, (&enabled("tofurkey.service"), "->x")]).len(), 1);
        let agent = ("lib/systemd/system/tfo-agent.service", "ReadWritePaths=/proc/sys/net/ipv4/tcp_fastopen_key\n");
        assert_eq!(found(&[agent, (&enabled("tfo-agent.service"), "->x")]), []);
    }

    #[test]
    fn jobs_of_cron_are_found_and_what_they_start() {
        assert_eq!(found(&[("etc/cron.daily/rotate", SCRIPT)]), [("etc/cron.daily/rotate".to_owned(), 3)]);
        let table = ("etc/cron.d/tfo", "0 0 * * * root /opt/rotate >/dev/null\n");
        assert_eq!(found(&[table, ("opt/rotate", SCRIPT)]), [("opt/rotate".to_owned(), 3)]);
        assert_eq!(found(&[table, ("opt/rotate", "\u{7f}ELF")]), []);
        assert_eq!(found(&[("etc/cron.d/tfo", "*/10 * * * * root tfo-agent once\n")]), []);
        assert_eq!(found(&[("usr/local/bin/rotate", SCRIPT)]), []);
    }
}
