//! Who sets the key at boot: our prediction beside the real `systemd-sysctl` and `sysctl --system`, each in a mount and
//! network namespace in which the directories are a tree of ours.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tfo_host::kernel::boot_order::{self, Setter};

use tfo_testbed::daemon::key_text;
use tfo_testbed::output::stderr;
use tfo_testbed::{need_netns, need_tool, scratch, skip, skip_unless};

const SYSTEMD: &str = "/lib/systemd/systemd-sysctl";
const NAME: &str = "net.ipv4.tcp_fastopen_key";

/// What stands at a path: lines in which `K1` means key 1, or a link.
enum Entry {
    Text(&'static str),
    Link(&'static str),
}
use Entry::{Link, Text};

/// Winner under systemd-sysctl and under procps, as key numbers; 0 for none.
type Winners = (u8, u8);

/// Paths below the root.
type Files = Vec<(&'static str, Entry)>;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(entries: &[(&str, Entry)]) -> Self {
        let tree = Self(scratch());
        for dir in ["etc/sysctl.d", "run/sysctl.d", "usr/lib/sysctl.d", "usr/local/lib/sysctl.d"] {
            std::fs::create_dir_all(tree.path(dir)).unwrap();
        }
        symlink("usr/lib", tree.path("lib")).unwrap();
        for (path, entry) in entries {
            match entry {
                Text(text) => {
                    std::fs::create_dir_all(tree.path(path).parent().unwrap()).unwrap();
                    let keys = (1..=4).fold((*text).to_owned(), |text, n| text.replace(&format!("K{n}"), &key_text(n)));
                    std::fs::write(tree.path(path), keys.replace("NAME", NAME)).unwrap();
                }
                Link(target) => symlink(target, tree.path(path)).unwrap(),
            }
        }
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// The key that stands on the line that our scan names.
    fn predicted(&self) -> Winners {
        let order = boot_order::scan(self.0.path(), Path::new("/none"));
        let key = |setter: Option<&Setter>| setter.map_or(0, |setter| key_on(&setter.file, setter.line));
        (key(order.systemd.as_ref()), key(order.procps.as_ref()))
    }

    /// The key that the kernel holds after each program.
    fn observed(&self) -> Winners {
        // All of /etc, because /etc/sysctl.conf need not exist on the host; neither program needs anything else from it.
        let script = format!(
            "set -e; cd {tree}
             mount --bind etc /etc
             mount --bind usr/lib/sysctl.d /usr/lib/sysctl.d
             mount --bind usr/local/lib /usr/local/lib
             mount -t tmpfs tmpfs /run; mkdir /run/sysctl.d; mount --bind run/sysctl.d /run/sysctl.d
             for program in {SYSTEMD} 'sysctl --system'; do
                 unshare --net /bin/sh -c \"$program > /dev/null 2>&1; cat /proc/sys/net/ipv4/tcp_fastopen_key\"
             done",
            tree = self.0.path().display()
        );
        let output = Command::new("unshare").args(["--mount", "/bin/sh", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let shown = String::from_utf8(output.stdout).unwrap();
        let number =
            |shown| (0..=9).find(|n| key_text(*n) == shown).unwrap_or_else(|| panic!("the kernel holds {shown}"));
        let shown: Vec<u8> = shown.lines().map(number).collect();
        assert_eq!(shown.len(), 2);
        (shown[0], shown[1])
    }
}

/// Which of the keys stands on a line, counted from 1; 0 for none.
fn key_on(file: &Path, line: usize) -> u8 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().nth(line - 1).unwrap();
    (1..=4).find(|n| line.contains(&key_text(*n))).unwrap_or(0)
}

/// Name, files, and who must win by what was measured before (docs/kernel.md#the-key-file).
fn layouts() -> Vec<(&'static str, Files, Winners)> {
    let own = || ("etc/sysctl.d/50-tcp_fastopen_key.conf", Text("# ours\nNAME = K1\n"));
    vec![
        ("nothing", vec![], (0, 0)),
        ("ours alone", vec![own()], (1, 1)),
        ("a later name", vec![own(), ("usr/lib/sysctl.d/99-x.conf", Text("NAME=K2\n"))], (2, 2)),
        ("an earlier name", vec![own(), ("etc/sysctl.d/10-x.conf", Text("NAME=K2\n"))], (1, 1)),
        (
            "one name in all directories",
            vec![
                ("etc/sysctl.d/50-x.conf", Text("NAME=K1\n")),
                ("run/sysctl.d/50-x.conf", Text("NAME=K2\n")),
                ("usr/local/lib/sysctl.d/50-x.conf", Text("NAME=K3\n")),
                ("usr/lib/sysctl.d/50-x.conf", Text("NAME=K4\n")),
            ],
            (1, 1),
        ),
        (
            "run over local over lib",
            vec![
                ("run/sysctl.d/50-x.conf", Text("NAME=K2\n")),
                ("usr/local/lib/sysctl.d/50-x.conf", Text("NAME=K3\n")),
                ("usr/local/lib/sysctl.d/40-y.conf", Text("NAME=K4\n")),
                ("usr/lib/sysctl.d/40-y.conf", Text("NAME=K1\n")),
            ],
            (2, 2),
        ),
        (
            "local over lib",
            vec![
                ("usr/local/lib/sysctl.d/50-x.conf", Text("NAME=K3\n")),
                ("usr/lib/sysctl.d/50-x.conf", Text("NAME=K4\n")),
            ],
            (3, 3),
        ),
        (
            "a mask by /dev/null",
            vec![
                own(),
                ("usr/lib/sysctl.d/99-x.conf", Text("NAME=K2\n")),
                ("etc/sysctl.d/99-x.conf", Link("/dev/null")),
            ],
            (1, 1),
        ),
        (
            "a mask by an empty file",
            vec![own(), ("usr/lib/sysctl.d/99-x.conf", Text("NAME=K2\n")), ("run/sysctl.d/99-x.conf", Text(""))],
            (1, 1),
        ),
        ("sysctl.conf", vec![own(), ("etc/sysctl.conf", Text("NAME=K2\n"))], (1, 2)),
        (
            "Debian's link to sysctl.conf",
            vec![
                own(),
                ("etc/sysctl.conf", Text("# x\nNAME=K2\n")),
                ("etc/sysctl.d/99-sysctl.conf", Link("../sysctl.conf")),
            ],
            (2, 2),
        ),
        (
            "sysctl.conf after a later name than its link",
            vec![
                ("etc/sysctl.conf", Text("NAME=K2\n")),
                ("etc/sysctl.d/99-sysctl.conf", Link("../sysctl.conf")),
                ("etc/sysctl.d/99-tcp.conf", Text("NAME=K1\n")),
            ],
            (1, 2),
        ),
        ("a dotfile", vec![own(), ("etc/sysctl.d/.hidden.conf", Text("NAME=K2\n"))], (1, 1)),
        ("a dotfile alone", vec![("etc/sysctl.d/.hidden.conf", Text("NAME=K2\n"))], (0, 2)),
        (
            "names that nobody reads",
            vec![
                own(),
                ("etc/sysctl.d/99-x.conf.tmp", Text("NAME=K2\n")),
                ("etc/sysctl.d/99-x.conf~", Text("NAME=K2\n")),
                ("etc/sysctl.d/99-x", Text("NAME=K2\n")),
            ],
            (1, 1),
        ),
        ("slashes", vec![own(), ("etc/sysctl.d/99-x.conf", Text("net/ipv4/tcp_fastopen_key = K2\n"))], (2, 2)),
        ("a dash before it", vec![own(), ("etc/sysctl.d/99-x.conf", Text("-NAME = K2\n"))], (2, 2)),
        ("spaces and tabs", vec![own(), ("etc/sysctl.d/99-x.conf", Text(" \tNAME\t=\tK2  \n"))], (2, 2)),
        ("a dash and a space", vec![own(), ("etc/sysctl.d/99-x.conf", Text("- NAME = K2\n"))], (2, 1)),
        ("comments", vec![own(), ("etc/sysctl.d/99-x.conf", Text("#NAME = K2\n;NAME = K2\n # NAME=K3\n"))], (1, 1)),
        ("two lines in one file", vec![("etc/sysctl.d/50-x.conf", Text("NAME = K2\nNAME = K3\n"))], (3, 3)),
        ("no final newline", vec![own(), ("etc/sysctl.d/99-x.conf", Text("NAME = K2"))], (2, 2)),
        ("CRLF", vec![own(), ("etc/sysctl.d/99-x.conf", Text("NAME = K2\r\n"))], (2, 2)),
        (
            "a slash, then dots",
            vec![own(), ("etc/sysctl.d/99-x.conf", Text("net/ipv4.tcp_fastopen_key = K2\n"))],
            (1, 1),
        ),
        (
            "a dot, then slashes",
            vec![own(), ("etc/sysctl.d/99-x.conf", Text("net.ipv4/tcp_fastopen_key = K2\n"))],
            (1, 1),
        ),
        (
            "a pattern after the name",
            vec![own(), ("etc/sysctl.d/99-x.conf", Text("net.ipv4.tcp_fastopen_k* = K2\n"))],
            (1, 1),
        ),
        ("the name left out after ours", vec![own(), ("etc/sysctl.d/99-x.conf", Text("-NAME\n"))], (0, 1)),
        ("the name left out before ours", vec![own(), ("etc/sysctl.d/10-x.conf", Text("-NAME\n"))], (1, 1)),
        ("no value", vec![own(), ("etc/sysctl.d/99-x.conf", Text("NAME =\n"))], (0, 1)),
        ("no equals sign", vec![own(), ("etc/sysctl.d/99-x.conf", Text("NAME K2\n"))], (1, 1)),
        ("a path", vec![own(), ("etc/sysctl.d/99-x.conf", Text("/proc/sys/net/ipv4/tcp_fastopen_key = K2\n"))], (1, 1)),
        ("a leading slash", vec![own(), ("etc/sysctl.d/99-x.conf", Text("/net/ipv4/tcp_fastopen_key = K2\n"))], (2, 2)),
        ("two slashes", vec![own(), ("etc/sysctl.d/99-x.conf", Text("net//ipv4/tcp_fastopen_key = K2\n"))], (2, 2)),
        ("a leading dot", vec![own(), ("etc/sysctl.d/99-x.conf", Text(".NAME = K2\n"))], (2, 2)),
        ("two dots", vec![own(), ("etc/sysctl.d/99-x.conf", Text("net..ipv4.tcp_fastopen_key = K2\n"))], (2, 2)),
        ("a dot at the end", vec![own(), ("etc/sysctl.d/99-x.conf", Text("NAME. = K2\n"))], (2, 1)),
        (
            "a slash at the end",
            vec![own(), ("etc/sysctl.d/99-x.conf", Text("net/ipv4/tcp_fastopen_key/ = K2\n"))],
            (2, 1),
        ),
        ("another separator at the end", vec![own(), ("etc/sysctl.d/99-x.conf", Text("NAME/ = K2\n"))], (1, 1)),
        (
            "a step back",
            vec![own(), ("etc/sysctl.d/99-x.conf", Text("net/../net/ipv4/tcp_fastopen_key = K2\n"))],
            (1, 2),
        ),
        (
            "a link to elsewhere",
            vec![own(), ("etc/x", Text("NAME=K2\n")), ("etc/sysctl.d/99-x.conf", Link("../x"))],
            (2, 2),
        ),
        (
            "a broken link is a mask",
            vec![own(), ("usr/lib/sysctl.d/99-x.conf", Text("NAME=K2\n")), ("etc/sysctl.d/99-x.conf", Link("gone"))],
            (1, 1),
        ),
        (
            "a directory is a mask",
            vec![own(), ("usr/lib/sysctl.d/99-x.conf", Text("NAME=K2\n")), ("etc/sysctl.d/99-x.conf/y", Text(""))],
            (1, 1),
        ),
        (
            "only the ending",
            vec![own(), ("etc/sysctl.d/99-x.CONF", Text("NAME=K2\n")), ("etc/sysctl.d/.conf", Text("NAME=K3\n"))],
            (1, 1),
        ),
    ]
}

#[test]
fn the_prediction_is_what_the_real_programs_do() {
    skip_unless!(need_netns() && need_tool("sysctl") && need_tool("unshare"));
    if !Path::new(SYSTEMD).exists() || !Path::new("/usr/lib/sysctl.d").is_dir() {
        skip("needs systemd-sysctl and /usr/lib/sysctl.d");
        return;
    }
    let mut wrong = Vec::new();
    for (name, entries, expected) in layouts() {
        let tree = Tree::new(&entries);
        let observed = tree.observed();
        let predicted = tree.predicted();
        if (observed, predicted) != (expected, expected) {
            wrong.push(format!("{name}: expected {expected:?}, observed {observed:?}, predicted {predicted:?}"));
        }
    }
    assert!(wrong.is_empty(), "(systemd-sysctl, procps):\n{}", wrong.join("\n"));
}
