//! Other programs that may write the key while the host runs: enabled units, cron jobs and what they start, by their text.
//!
//! A guess, only for warnings: a program that reads the key names it too.  Not seen are programs without readable text, what a script starts
//! in turn, services that another unit's text, a generator, D-Bus or udev starts, drop-ins for all services (`service.d`), and users'
//! own units.  What sets the key at boot is `boot_order`'s.  Never reads a value: only where the key is named.
//!
//! The paths come from texts of others: only regular files are opened, and none below `NOT_PROGRAMS`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::runtime::files;
use tfo_model::problem::Problem;

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
/// Kinds of units that start a service: one of their own name, or the one that this setting names (systemd.timer(5), systemd.socket(5)).
const STARTERS: [(&str, &str); 3] = [("timer", "Unit="), ("path", "Unit="), ("socket", "Service=")];
/// Our own units name the key too.
const OUR_SERVICES: [&str; 2] = ["tfo-agent.service", "tfo-agent-once.service"];
/// The program that they start.
const OUR_PROGRAM: &str = "tfo-agent";
/// Where the kernel's and running programs' files are.
const NOT_PROGRAMS: [&str; 4] = ["/dev/", "/proc/", "/run/", "/sys/"];
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
        let message =
            "this program is in use and names the key: if it writes the key, it and the agent overwrite each other";
        let remedy = "stop it on every node first, between two of its runs; if it only reads the key, ignore this";
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
    path.rsplit('/').next() == Some(OUR_PROGRAM)
}

/// Names in a directory; none if it is not there.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Units by name, and their drop-ins by the name of the directory, `UNIT.d`, and their own; the first directory that has a name
/// masks the others.
#[derive(Default)]
struct Units {
    files: BTreeMap<String, PathBuf>,
    drop_ins: BTreeMap<String, BTreeMap<String, PathBuf>>,
    /// What is linked below a `.wants` or `.requires`.
    wanted: BTreeSet<String>,
}

impl Units {
    fn below(root: &Path) -> Self {
        let mut units = Self::default();
        for directory in UNIT_DIRECTORIES.map(|directory| under(root, directory)) {
            for name in names(&directory) {
                let path = directory.join(&name);
                if name.ends_with(".wants") || name.ends_with(".requires") {
                    units.wanted.extend(names(&path));
                } else if name.ends_with(".d") {
                    let known = units.drop_ins.entry(name).or_default();
                    for file in names(&path).into_iter().filter(|file| file.ends_with(".conf")) {
                        known.entry(file.clone()).or_insert_with(|| path.join(file));
                    }
                } else {
                    units.files.entry(name).or_insert(path);
                }
            }
        }
        units
    }

    /// A unit's file, or that of its template, and its drop-ins; none if it is masked or not there.
    fn of(&self, name: &str) -> Vec<PathBuf> {
        let template =
            name.split_once('@').zip(name.rsplit_once('.')).map(|((stem, _), (_, kind))| format!("{stem}@.{kind}"));
        let names = [Some(name), template.as_deref().filter(|template| *template != name)];
        let found =
            names.iter().flatten().find_map(|name| self.files.get(*name)).filter(|file| text_of(file).is_some());
        let drop_ins = names.iter().flatten().filter_map(|name| self.drop_ins.get(&format!("{name}.d")));
        let drop_ins = drop_ins.flat_map(BTreeMap::values);
        found.map(|file| std::iter::once(file).chain(drop_ins).cloned().collect()).unwrap_or_default()
    }

    /// The service that a wanted unit is or starts.
    fn service(&self, wanted: &str) -> Option<String> {
        let (stem, kind) = wanted.rsplit_once('.')?;
        if kind == "service" {
            return Some(wanted.to_owned());
        }
        let (_, setting) = STARTERS.iter().find(|(starter, _)| *starter == kind)?;
        let texts = self.of(wanted).into_iter().filter_map(|file| text_of(&file));
        let named = |text: String| {
            text.lines().rev().find_map(|line| Some(line.trim().strip_prefix(setting)?.trim().to_owned()))
        };
        // The last one counts, and those of drop-ins come last.
        Some(texts.filter_map(named).next_back().unwrap_or_else(|| format!("{stem}.service")))
    }
}

/// The files of the services that something starts.
fn enabled_units(root: &Path) -> Vec<PathBuf> {
    let units = Units::below(root);
    let services: BTreeSet<String> = units.wanted.iter().filter_map(|wanted| units.service(wanted)).collect();
    let others = services.iter().filter(|service| !OUR_SERVICES.contains(&service.as_str()));
    others.flat_map(|service| units.of(service)).collect()
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
    // Even to open a device or a pipe may do something, or wait.  Between the two looks it may have been replaced.
    if !std::fs::metadata(file).ok()?.is_file() {
        return None;
    }
    let opened = files::open_regular(file).ok()?;
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    let is_text = bytes.len() as u64 <= FILE_BYTES_MAX && !bytes.contains(&0);
    // Of a comment in another encoding the rest is still to be read.
    is_text.then(|| String::from_utf8_lossy(&bytes).into_owned())
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
        (path.starts_with('/') && !NOT_PROGRAMS.iter().any(|below| path.starts_with(below))).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str =
        "#!/bin/sh\n# tcp_fastopen_key\necho net.ipv4.tcp_fastopen_key=$new,$old > /etc/sysctl.d/50-x.conf\n";

    /// In a tree: a pipe without a writer.
    const PIPE: &str = "|";

    /// Files and links below a root; a link has its target after `->`.
    fn found(tree: &[(&str, &str)]) -> Vec<(String, usize)> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in tree {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match (content.strip_prefix("->"), *content) {
                (Some(target), _) => std::os::unix::fs::symlink(target, path).unwrap(),
                (_, PIPE) => {
                    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap()
                }
                _ => std::fs::write(path, content).unwrap(),
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

    #[test]
    fn a_pipe_keeps_nobody_waiting_and_an_odd_byte_hides_nothing() {
        let table = ("etc/cron.d/tfo", "0 0 * * * root /opt/pipe; cat /run/x/rotate /sys/rotate; /opt/rotate\n");
        let pipes = [("opt/pipe", PIPE), ("etc/crontab", PIPE)];
        let scripts = [("run/x/rotate", SCRIPT), ("sys/rotate", SCRIPT), ("opt/rotate", SCRIPT)];
        let tree = [table, pipes[0], pipes[1], scripts[0], scripts[1], scripts[2]];
        assert_eq!(found(&tree), [("opt/rotate".to_owned(), 3)]);
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let file = root.path().join("etc/rc.local");
        std::fs::write(&file, b"# gr\xfc\xdfe\nsysctl -w net.ipv4.tcp_fastopen_key=$1\n").unwrap();
        assert_eq!(scan(root.path()), [Writer { file, line: 2 }]);
    }

    #[test]
    fn drop_ins_templates_and_what_a_timer_names_are_found() {
        let enabled = |name: &str| format!("etc/systemd/system/multi-user.target.wants/{name}");
        let service = ("lib/systemd/system/web.service", "[Service]\nExecStart=/usr/sbin/web\n");
        let drop_in = ("etc/systemd/system/web.service.d/key.conf", "[Service]\nExecStartPre=/opt/rotate\n");
        let script = ("opt/rotate", SCRIPT);
        let seen = [("opt/rotate".to_owned(), 3)];
        assert_eq!(found(&[service, drop_in, script, (&enabled("web.service"), "->x")]), seen);
        let masked = ("etc/systemd/system/web.service.d/key.conf", "->/dev/null");
        let drop_in_below = ("lib/systemd/system/web.service.d/key.conf", drop_in.1);
        assert_eq!(found(&[service, drop_in_below, masked, script, (&enabled("web.service"), "->x")]), []);
        assert_eq!(found(&[drop_in, script, (&enabled("web.service"), "->x")]), [], "there is no such unit");
        let template = ("lib/systemd/system/rotate@.service", "[Service]\nExecStart=/opt/rotate %i\n");
        assert_eq!(found(&[template, script, (&enabled("rotate@eth0.service"), "->x")]), seen);
        let timer = ("etc/systemd/system/daily.timer", "[Timer]\nOnCalendar=daily\nUnit=rotate@eth0.service\n");
        assert_eq!(found(&[template, timer, script, (&enabled("daily.timer"), "->x")]), seen);
        assert_eq!(found(&[template, timer, script]), [], "nothing runs it");
    }

    #[test]
    fn only_what_has_exactly_our_names_is_ours() {
        let enabled = ("etc/systemd/system/multi-user.target.wants/tfo-agent-keys.service", "->x");
        let service = ("etc/systemd/system/tfo-agent-keys.service", "[Service]\nExecStart=/opt/tfo-agent-rotate\n");
        assert_eq!(found(&[service, enabled, ("opt/tfo-agent-rotate", SCRIPT)]).len(), 1);
        assert_eq!(found(&[("etc/cron.d/tfo", "* * * * * root /opt/tfo-agent once\n"), ("opt/tfo-agent", SCRIPT)]), []);
    }
}
