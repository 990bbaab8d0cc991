//! Which file sets the key at boot: every file in the sysctl.d directories and /etc/sysctl.conf that names it.
//!
//! Two programs read them, and they do not agree (sysctl.d(5), sysctl(8), docs/kernel.md#the-key-file):
//! * `systemd-sysctl` takes `*.conf` by name from all directories, the first directory of `DIRECTORIES` that has a name
//!   masks the others, dotfiles are ignored; it merges and writes the last value once.  It does not read /etc/sysctl.conf.
//! * `sysctl --system` (procps) takes the same, dotfiles too, and /etc/sysctl.conf last; it writes each value in turn.
//!
//! In lines they differ too (tests/agent/kernel/boot_order.rs runs both): `-name` without a value, or a name without a value,
//! takes the name's earlier values away under systemd-sysctl and is nothing to procps, and so is a space after the `-`.
//! A pattern (`net.ipv4.tcp_fastopen_k*`) never wins over a line with the whole name, so patterns are not looked at.
//!
//! Never reads a value, only its place.  A value that the kernel will refuse counts like any other.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::sysctl_d::SYSCTL_NAME;
use crate::runtime::files;
use tfo_model::problem::Problem;

/// Directories in the order in which they mask each other.
const DIRECTORIES: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];
/// Read by procps only, after all others.
const SYSCTL_CONF: &str = "/etc/sysctl.conf";
/// Longest line that is looked at, in bytes: systemd's own limit is 1 MiB for a whole file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One line that sets the key, or takes its earlier values away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setter {
    /// The file.
    pub file: PathBuf,
    /// The last line in it that does, from 1.
    pub line: usize,
}

/// Which files set the key at boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootOrder {
    /// The line whose value remains after `systemd-sysctl`.
    pub systemd: Option<Setter>,
    /// The line whose value remains after `sysctl --system`.
    pub procps: Option<Setter>,
}

impl BootOrder {
    /// Files other than `own` that set the key and win over it under at least one of the two programs.
    pub fn winners_over<'a>(&'a self, own: &'a Path) -> impl Iterator<Item = &'a Setter> {
        let procps = self.procps.as_ref().filter(|winner| Some(*winner) != self.systemd.as_ref());
        self.systemd.iter().chain(procps).filter(move |winner| !same_file(&winner.file, own))
    }

    /// What is wrong with it for a host whose key `own` should set.
    #[must_use]
    pub fn problems(&self, own: &Path) -> Vec<Problem> {
        let problem = |setter: &Setter| {
            let reader = match (self.systemd.as_ref() == Some(setter), self.procps.as_ref() == Some(setter)) {
                (true, true) => "systemd-sysctl and `sysctl --system`",
                (true, false) => "systemd-sysctl",
                _ => "`sysctl --system`",
            };
            let message = format!("this line wins over {} at boot, under {reader}", own.display());
            let remedy = "remove the line: after a boot, this host would use another key until the agent runs";
            Problem::error("boot_order", message, remedy).in_file(&setter.file).on_line(setter.line)
        };
        let mut problems: Vec<Problem> = self.winners_over(own).map(problem).collect();
        if self.systemd.is_none() {
            let message = format!("{} is not read at boot, and no other file sets the key", own.display());
            let remedy = "name a file in /etc/sysctl.d that no file of the same name masks: after a boot, the kernel makes its own key \
                 for the first listener until the agent runs";
            problems.push(Problem::warning("not_read_at_boot", message, remedy));
        }
        problems
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || std::fs::canonicalize(a).ok().is_some_and(|a| std::fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// Looks through all files below `root` (`/`, except in tests), as if `own` was written already.
#[must_use]
pub fn scan(root: &Path, own: &Path) -> BootOrder {
    let under = |path: &str| root.join(path.trim_start_matches('/'));
    // By name; the first directory that has the name wins.
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        let directory = under(directory);
        let there = std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let own = (own.parent() == Some(&directory)).then(|| own.to_owned());
        for file in there.chain(own) {
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(".conf") {
                files.entry(name.to_owned()).or_insert(file);
            }
        }
    }
    let mut order = BootOrder::default();
    for (name, file) in files {
        let found = if file == own { LastLines::of_own() } else { last_lines(&file) };
        let setter = |line| Setter { file: file.clone(), line };
        if !name.starts_with('.') {
            order.systemd = found.systemd.map(setter).or(order.systemd);
        }
        order.procps = found.procps.map(setter).or(order.procps);
    }
    let conf = under(SYSCTL_CONF);
    order.procps = last_lines(&conf).procps.map(|line| Setter { file: conf, line }).or(order.procps);
    order
}

/// The last line of one file that each program goes by, from 1.
#[derive(Debug, Default)]
struct LastLines {
    systemd: Option<usize>,
    procps: Option<usize>,
}

impl LastLines {
    /// Of the agent's file as it will be, whatever is there now.
    fn of_own() -> Self {
        Self { systemd: Some(1), procps: Some(1) }
    }
}

/// A masked (`/dev/null`), broken or unreadable file sets nothing.
fn last_lines(file: &Path) -> LastLines {
    let mut last = LastLines::default();
    // Not a pipe in the place of a file, which would wait for its writer.
    let Ok(opened) = files::open_regular(file) else { return last };
    let lines = BufReader::new(std::io::Read::take(opened, FILE_BYTES_MAX)).split(b'\n');
    for (line, number) in lines.map_while(Result::ok).zip(1..) {
        let Effect { systemd, procps } = effect(&line);
        last.systemd = systemd.then_some(number).or(last.systemd);
        last.procps = procps.then_some(number).or(last.procps);
    }
    last
}

/// For which program a line decides about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Effect {
    systemd: bool,
    procps: bool,
}

/// `net.ipv4.tcp_fastopen_key=…`, with slashes or dots, spaces, and a `-` before it (sysctl.d(5)).
fn effect(line: &[u8]) -> Effect {
    let line = line.trim_ascii();
    let equals = line.iter().position(|byte| *byte == b'=');
    let (name, value) = equals.map_or((line, None), |at| (&line[..at], Some(line[at + 1..].trim_ascii())));
    let (dash, name) = name.strip_prefix(b"-").map_or((false, name), |name| (true, name));
    let Effect { systemd, procps } = names_the_key(name.trim_ascii());
    let to_procps = match value {
        None => return Effect { systemd: systemd && dash, procps: false },
        Some(value) => !(value.is_empty() || dash && name.trim_ascii_start() != name),
    };
    Effect { systemd, procps: procps && to_procps }
}

/// For whom a name is that of the key.
///
/// Both decide by the first separator: if it is a dot, dots and slashes change places, and it is a path then.  systemd simplifies
/// that path, so that empty steps and `.` count for nothing, at its end too (`sysctl_normalize` in `src/shared/sysctl-util.c`, systemd
/// 252).  procps opens it below /proc/sys (`src/sysctl.c`, procps 4.0), where the kernel does the same, follows `..`, and takes no file
/// for a directory.
fn names_the_key(name: &[u8]) -> Effect {
    let dots_first = name.iter().find(|byte| matches!(byte, b'.' | b'/')) == Some(&b'.');
    let path = name.iter().map(|byte| match byte {
        b'.' if dots_first => b'/',
        b'/' if dots_first => b'.',
        other => *other,
    });
    let path: Vec<u8> = path.collect();
    let steps = || path.split(|byte| *byte == b'/');
    let is_the_key = |steps: &[&[u8]]| SYSCTL_NAME.split('.').map(str::as_bytes).eq(steps.iter().copied());
    let simple: Vec<&[u8]> = steps().filter(|step| !matches!(*step, b"" | b".")).collect();
    let followed = simple.iter().try_fold(Vec::new(), |mut to: Vec<&[u8]>, step| {
        if *step == b".." {
            to.pop()?;
        } else {
            to.push(step);
        }
        Some(to)
    });
    let ends_in_a_file = steps().next_back().is_some_and(|last| !matches!(last, b"" | b"." | b".."));
    Effect { systemd: is_the_key(&simple), procps: ends_in_a_file && followed.is_some_and(|to| is_the_key(&to)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETS: &str = "net.ipv4.tcp_fastopen_key = 1-2-3-4\n";

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (path, content) in files {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            Self(dir)
        }

        /// (systemd's winner, procps' winner), below the root.
        fn winners(&self) -> (Option<String>, Option<String>) {
            let order = scan(self.0.path(), Path::new("/none"));
            let name = |setter: Option<Setter>| {
                setter.map(|s| s.file.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned())
            };
            (name(order.systemd), name(order.procps))
        }
    }

    fn both(path: &str) -> (Option<String>, Option<String>) {
        (Some(path.to_owned()), Some(path.to_owned()))
    }

    #[test]
    fn the_later_name_wins_wherever_it_lies() {
        let tree = Tree::new(&[("etc/sysctl.d/50-tcp.conf", SETS), ("usr/lib/sysctl.d/99-x.conf", SETS)]);
        assert_eq!(tree.winners(), both("usr/lib/sysctl.d/99-x.conf"));
        let tree = Tree::new(&[("etc/sysctl.d/50-tcp.conf", SETS), ("etc/sysctl.d/10-x.conf", SETS)]);
        assert_eq!(tree.winners(), both("etc/sysctl.d/50-tcp.conf"));
    }

    #[test]
    fn the_same_name_in_etc_masks_the_others() {
        let tree = Tree::new(&[("etc/sysctl.d/99-x.conf", "# nothing\n"), ("usr/lib/sysctl.d/99-x.conf", SETS)]);
        assert_eq!(tree.winners(), (None, None));
        let tree = Tree::new(&[("usr/lib/sysctl.d/99-x.conf", SETS)]);
        std::fs::create_dir_all(tree.0.path().join("etc/sysctl.d")).unwrap();
        std::os::unix::fs::symlink("/dev/null", tree.0.path().join("etc/sysctl.d/99-x.conf")).unwrap();
        assert_eq!(tree.winners(), (None, None));
    }

    #[test]
    fn procps_reads_more() {
        let tree = Tree::new(&[("etc/sysctl.d/50-tcp.conf", SETS), ("etc/sysctl.conf", SETS)]);
        let own = "etc/sysctl.d/50-tcp.conf".to_owned();
        assert_eq!(tree.winners(), (Some(own.clone()), Some("etc/sysctl.conf".to_owned())));
        let own = tree.0.path().join(own);
        let order = scan(tree.0.path(), &own);
        assert_eq!(order.winners_over(&own).count(), 1);
        let tree = Tree::new(&[("etc/sysctl.d/.hidden.conf", SETS)]);
        assert_eq!(tree.winners(), (None, Some("etc/sysctl.d/.hidden.conf".to_owned())));
    }

    #[test]
    fn our_file_counts_before_it_is_written() {
        let tree = Tree::new(&[("etc/sysctl.d/10-x.conf", SETS), ("usr/lib/sysctl.d/60-x.conf", "# nothing\n")]);
        let winners = |own: &str| {
            let own = tree.0.path().join(own);
            scan(tree.0.path(), &own).winners_over(&own).count()
        };
        assert_eq!(winners("etc/sysctl.d/50-tcp.conf"), 0, "it will win over 10-x.conf");
        assert_eq!(winners("etc/sysctl.d/05-tcp.conf"), 1);
        assert_eq!(winners("etc/sysctl.d/60-x.conf"), 0);
        assert_eq!(winners("elsewhere/50-tcp.conf"), 1, "it is not read at boot");
    }

    #[test]
    fn debians_link_to_sysctl_conf_counts_for_both() {
        let tree = Tree::new(&[("etc/sysctl.d/50-tcp.conf", SETS), ("etc/sysctl.conf", SETS)]);
        std::os::unix::fs::symlink("../sysctl.conf", tree.0.path().join("etc/sysctl.d/99-sysctl.conf")).unwrap();
        assert_eq!(tree.winners().0.as_deref(), Some("etc/sysctl.d/99-sysctl.conf"));
    }

    /// Each was tried with both programs (tests/agent/kernel/boot_order.rs tries some again).
    #[test]
    fn spellings_of_the_name() {
        const BOTH: (bool, bool) = (true, true);
        const SYSTEMD: (bool, bool) = (true, false);
        const PROCPS: (bool, bool) = (false, true);
        const NONE: (bool, bool) = (false, false);
        for (line, expected) in [
            ("net.ipv4.tcp_fastopen_key=x", BOTH),
            ("net/ipv4/tcp_fastopen_key = x", BOTH),
            ("/net//ipv4/tcp_fastopen_key = x", BOTH),
            (" \tnet.ipv4.tcp_fastopen_key =x", BOTH),
            ("-net.ipv4.tcp_fastopen_key=x", BOTH),
            ("- net.ipv4.tcp_fastopen_key=x", SYSTEMD),
            ("-net.ipv4.tcp_fastopen_key", SYSTEMD),
            ("-net.ipv4.tcp_fastopen_key.", SYSTEMD),
            ("net.ipv4.tcp_fastopen_key = ", SYSTEMD),
            (".net.ipv4.tcp_fastopen_key=x", BOTH),
            ("..net.ipv4.tcp_fastopen_key=x", BOTH),
            ("net..ipv4.tcp_fastopen_key=x", BOTH),
            ("net...ipv4.tcp_fastopen_key=x", BOTH),
            ("net./.ipv4.tcp_fastopen_key=x", BOTH),
            ("net.ipv4./.tcp_fastopen_key=x", BOTH),
            ("net/./ipv4/tcp_fastopen_key=x", BOTH),
            ("/./net/ipv4/tcp_fastopen_key=x", BOTH),
            ("net.ipv4.tcp_fastopen_key.=x", SYSTEMD),
            (".net.ipv4.tcp_fastopen_key..=x", SYSTEMD),
            ("net/ipv4/tcp_fastopen_key/=x", SYSTEMD),
            ("net/ipv4/tcp_fastopen_key//=x", SYSTEMD),
            ("net/ipv4/tcp_fastopen_key/.=x", SYSTEMD),
            ("net/ipv4/../ipv4/tcp_fastopen_key=x", PROCPS),
            ("net/../net/ipv4/tcp_fastopen_key=x", PROCPS),
            ("", NONE),
            ("# net.ipv4.tcp_fastopen_key=x", NONE),
            ("; net.ipv4.tcp_fastopen_key=x", NONE),
            ("net.ipv4.tcp_fastopen=3", NONE),
            ("net.ipv4.tcp_fastopen_key", NONE),
            ("net.ipv4.tcp_fastopen_keys=x", NONE),
            ("net.ipv4/tcp_fastopen_key=x", NONE),
            ("net/ipv4.tcp_fastopen_key=x", NONE),
            ("net./ipv4.tcp_fastopen_key=x", NONE),
            ("net.//.ipv4.tcp_fastopen_key=x", NONE),
            ("net.ipv4.tcp_fastopen_key/=x", NONE),
            ("net/ipv4/tcp_fastopen_key.=x", NONE),
            (".net/ipv4/tcp_fastopen_key=x", NONE),
            ("./net/ipv4/tcp_fastopen_key=x", NONE),
            ("/net.ipv4.tcp_fastopen_key=x", NONE),
            ("../sys/net/ipv4/tcp_fastopen_key=x", NONE),
            ("/../proc/sys/net/ipv4/tcp_fastopen_key=x", NONE),
            ("/proc/sys/net/ipv4/tcp_fastopen_key=x", NONE),
            ("x=net.ipv4.tcp_fastopen_key", NONE),
            ("=x", NONE),
        ] {
            let Effect { systemd, procps } = effect(line.as_bytes());
            assert_eq!((systemd, procps), expected, "{line}");
        }
        let tree =
            Tree::new(&[("etc/sysctl.d/a.conf.tmp", SETS), ("etc/sysctl.d/a.conf~", SETS), ("etc/sysctl.d/a", SETS)]);
        assert_eq!(tree.winners(), (None, None));
    }

    #[test]
    fn the_last_line_counts() {
        let tree = Tree::new(&[("etc/sysctl.d/a.conf", &format!("# x\n{SETS}vm.swappiness=1\n{SETS}"))]);
        assert_eq!(scan(tree.0.path(), Path::new("/none")).systemd.unwrap().line, 4);
    }
}
