//! Which file sets the key at boot: every file in the sysctl.d directories and /etc/sysctl.conf that names it.
//!
//! Two programs read them, and they do not agree (sysctl.d(5), sysctl(8), KERNEL.md section 1):
//! * `systemd-sysctl` takes `*.conf` by name from all directories, the first directory of `DIRECTORIES` that has a name
//!   masks the others, dotfiles are ignored; it merges and writes the last value once.  It does not read /etc/sysctl.conf.
//! * `sysctl --system` (procps) takes the same, dotfiles too, and /etc/sysctl.conf last; it writes each value in turn.
//!
//! Never reads a value: only where one stands.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::sysctl_d::SYSCTL_NAME;

/// Directories in the order in which they mask each other.
const DIRECTORIES: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];
/// Read by procps only, after all others.
const SYSCTL_CONF: &str = "/etc/sysctl.conf";
/// Longest line that is looked at, in bytes: systemd's own limit is 1 MiB for a whole file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One line that sets the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setter {
    /// The file.
    pub file: PathBuf,
    /// The last line in it that sets the key, from 1.
    pub line: usize,
}

/// Who sets the key at boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootOrder {
    /// All that are read by either program, in the order in which procps applies them.
    pub setters: Vec<Setter>,
    /// Whose value stands after `systemd-sysctl`.
    pub systemd: Option<Setter>,
    /// Whose value stands after `sysctl --system`.
    pub procps: Option<Setter>,
}

impl BootOrder {
    /// Files other than `own` that set the key and win over it under at least one of the two programs.
    pub fn winners_over<'a>(&'a self, own: &'a Path) -> impl Iterator<Item = &'a Setter> {
        let procps = self.procps.as_ref().filter(|winner| Some(*winner) != self.systemd.as_ref());
        self.systemd.iter().chain(procps).filter(move |winner| !same_file(&winner.file, own))
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || std::fs::canonicalize(a).ok().is_some_and(|a| std::fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// Looks through all files below `root` (`/`, except in tests).
#[must_use]
pub fn scan(root: &Path) -> BootOrder {
    let under = |path: &str| root.join(path.trim_start_matches('/'));
    // By name; the first directory that has the name wins.
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        let Ok(entries) = std::fs::read_dir(under(directory)) else { continue };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.ends_with(".conf") {
                files.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    let mut order = BootOrder::default();
    for (name, file) in files {
        let Some(line) = last_line_that_sets_the_key(&file) else { continue };
        let setter = Setter { file, line };
        if !name.starts_with('.') {
            order.systemd = Some(setter.clone());
        }
        order.setters.push(setter);
    }
    let conf = under(SYSCTL_CONF);
    if let Some(line) = last_line_that_sets_the_key(&conf) {
        order.setters.push(Setter { file: conf, line });
    }
    order.procps = order.setters.last().cloned();
    order
}

/// A masked (`/dev/null`), broken or unreadable file sets nothing.
fn last_line_that_sets_the_key(file: &Path) -> Option<usize> {
    let opened = std::fs::File::open(file).ok()?;
    if !opened.metadata().ok()?.is_file() {
        return None;
    }
    let lines = BufReader::new(std::io::Read::take(opened, FILE_BYTES_MAX)).split(b'\n');
    let setting = lines.map_while(Result::ok).zip(1..).filter(|(line, _)| sets_the_key(line));
    setting.map(|(_, number)| number).last()
}

/// `net.ipv4.tcp_fastopen_key=…`, with slashes or dots, spaces, and a `-` before it (sysctl.d(5)).
fn sets_the_key(line: &[u8]) -> bool {
    let Some(equals) = line.iter().position(|byte| *byte == b'=') else { return false };
    let Ok(name) = std::str::from_utf8(&line[..equals]) else { return false };
    let name = name.trim();
    if name.starts_with(['#', ';']) {
        return false;
    }
    let name = name.strip_prefix('-').unwrap_or(name).trim_start();
    name.replace('/', ".") == SYSCTL_NAME
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
            let order = scan(self.0.path());
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
        let order = scan(tree.0.path());
        let own = tree.0.path().join(own);
        assert_eq!(order.winners_over(&own).count(), 1);
        let tree = Tree::new(&[("etc/sysctl.d/.hidden.conf", SETS)]);
        assert_eq!(tree.winners(), (None, Some("etc/sysctl.d/.hidden.conf".to_owned())));
    }

    #[test]
    fn debians_link_to_sysctl_conf_counts_for_both() {
        let tree = Tree::new(&[("etc/sysctl.d/50-tcp.conf", SETS), ("etc/sysctl.conf", SETS)]);
        std::os::unix::fs::symlink("../sysctl.conf", tree.0.path().join("etc/sysctl.d/99-sysctl.conf")).unwrap();
        assert_eq!(tree.winners().0.as_deref(), Some("etc/sysctl.d/99-sysctl.conf"));
    }

    #[test]
    fn spellings_of_the_name() {
        for line in [
            "net.ipv4.tcp_fastopen_key=x",
            "net/ipv4/tcp_fastopen_key = x",
            "  net.ipv4.tcp_fastopen_key =x",
            "-net.ipv4.tcp_fastopen_key=x",
            "- net.ipv4.tcp_fastopen_key=x",
        ] {
            assert!(sets_the_key(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "# net.ipv4.tcp_fastopen_key=x",
            "; net.ipv4.tcp_fastopen_key=x",
            "net.ipv4.tcp_fastopen=3",
            "net.ipv4.tcp_fastopen_key",
            "net.ipv4.tcp_fastopen_keys=x",
            "x=net.ipv4.tcp_fastopen_key",
        ] {
            assert!(!sets_the_key(line.as_bytes()), "{line}");
        }
        let tree =
            Tree::new(&[("etc/sysctl.d/a.conf.tmp", SETS), ("etc/sysctl.d/a.conf~", SETS), ("etc/sysctl.d/a", SETS)]);
        assert_eq!(tree.winners(), (None, None));
    }

    #[test]
    fn the_last_line_counts() {
        let tree = Tree::new(&[("etc/sysctl.d/a.conf", &format!("# x\n{SETS}vm.swappiness=1\n{SETS}"))]);
        assert_eq!(scan(tree.0.path()).systemd.unwrap().line, 4);
    }
}
