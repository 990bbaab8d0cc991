//! What a confined agent can still do, by trespass; and what becomes of it where the kernel has no Landlock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, getppid, test_kill_process};
use tfo_host::runtime::confine::{Allowed, confine};
use tfo_host::runtime::files::{Durability, replace};
use tfo_model::state::Confinement;

use crate::{running, start_ready};
use tfo_testbed::daemon::{DaemonHost, PYTHON, key_text, lasting};
use tfo_testbed::host::{Host, KEY_FILE, read_keys};
use tfo_testbed::{SOON, need_netns, need_tool, poll_until, skip, skip_unless};

/// Another sysctl beside the key.
const OTHER_SYSCTL: &str = "/proc/sys/net/ipv4/tcp_fastopen";

/// Runs what follows under a kernel that knows no landlock_create_ruleset(2), as those before 5.13: seccomp answers ENOSYS.
const WITHOUT_LANDLOCK: &str = r#"
import ctypes, os, struct, sys
filter = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7fff0000)]
text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in filter))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(filter), ctypes.addressof(text))), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// A listener on loopback, and its port.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn connect(port: u16) -> io::Result<()> {
    TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map(drop)
}

#[track_caller]
fn refused<T>(what: &str, tried: io::Result<T>) {
    let error = tried.err().unwrap_or_else(|| panic!("{what} was possible"));
    // EXDEV is what Landlock says of a rename to another directory, so that programs copy.
    assert!(matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::CrossesDevices), "{what}: {error}");
}

#[test]
fn a_trespass_is_refused_and_the_work_is_not() {
    skip_unless!(need_netns());
    let host = Host::new();
    for name in ["other", "sysctl.d/below"] {
        fs::create_dir(host.path(name)).unwrap();
    }
    host.write("other/file", "as it was", 0o644);
    let (own, other) = (host.path("sysctl.d/50-x.conf"), host.path("other/file"));
    // A thread of its own is confined, and ends.
    host.netns().run(|| {
        let ((_one, one), (_two, two)) = (listener(), listener());
        let free = |port: u16| (port..).find(|port| ![one, two].contains(port)).unwrap();
        let (may_listen, may_not_listen) = (free(9_440), free(9_450));
        let allowed = Allowed {
            directories: BTreeSet::from([host.path("sysctl.d")]),
            files: BTreeSet::from([KEY_FILE.into()]),
            connect: BTreeSet::from([one]),
            bind: BTreeSet::from([may_listen]),
        };
        let confined = confine(allowed);
        if confined.level != Confinement::Full {
            return skip("this kernel has no Landlock, or not all of it");
        }
        // The work.
        for content in ["first", "second"] {
            replace(&own, content.as_bytes(), 0o600, Durability::Synced).unwrap();
        }
        fs::write(KEY_FILE, key_text(7)).unwrap();
        assert_eq!((read_keys(), fs::read_to_string(&other).unwrap().as_str()), (key_text(7), "as it was"));
        connect(one).unwrap();
        drop(TcpListener::bind((Ipv4Addr::LOCALHOST, may_listen)).unwrap());
        fs::remove_file(&own).unwrap();
        // Anything else.
        replace(&own, b"again", 0o600, Durability::Synced).unwrap();
        let elsewhere = |name: &str| host.path("other").join(name);
        refused("a new file elsewhere", File::create(elsewhere("new")));
        refused("a file elsewhere", OpenOptions::new().write(true).open(&other));
        refused(
            "a truncation elsewhere",
            OpenOptions::new().append(true).open(&other).and_then(|file| file.set_len(0)),
        );
        refused("a removal elsewhere", fs::remove_file(&other));
        refused("a rename out of the directory", fs::rename(&own, elsewhere("moved")));
        refused("a link out of the directory", fs::hard_link(&own, elsewhere("linked")));
        refused("a rename into the directory", fs::rename(&other, host.path("sysctl.d/60-y.conf")));
        refused("a directory in it", fs::create_dir(host.path("sysctl.d/new")));
        refused("the removal of one", fs::remove_dir(host.path("sysctl.d/below")));
        refused("a link in it", std::os::unix::fs::symlink("/etc/shadow", host.path("sysctl.d/60-y.conf")));
        refused("another sysctl", fs::write(OTHER_SYSCTL, "3"));
        refused("another sysctl of the kernel", OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern"));
        refused("a unit", File::create("/run/tfo-test-no-such.service"));
        refused("a program", Command::new("/bin/true").stdin(Stdio::null()).status());
        refused("another port", connect(two));
        refused("another address to listen on", TcpListener::bind((Ipv4Addr::LOCALHOST, may_not_listen)));
        refused("a signal", test_kill_process(getppid().unwrap()).map_err(io::Error::from));
        assert_eq!(fs::read_to_string(&own).unwrap(), "again", "what is its own is untouched by all that");
    });
    assert!(!Path::new("/run/tfo-test-no-such.service").exists());
}

fn no_new_privileges(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:")).unwrap().trim().to_owned()
}

/// Whether this kernel has all of it: asked in a thread, which is confined by that.
fn need_landlock() -> bool {
    let level = std::thread::spawn(|| confine(Allowed::default()).level).join().unwrap();
    if level != Confinement::Full {
        skip("this kernel has no Landlock, or not all of it");
    }
    level == Confinement::Full
}

#[test]
fn a_daemon_confines_itself_and_takes_new_places_by_a_restart_alone() {
    skip_unless!(need_netns() && need_landlock());
    let (host, mut daemon) = running("verify_interval = \"1s\"");
    assert_eq!((&host.status()["landlock"], no_new_privileges(daemon.pid()).as_str()), (&"full".into(), "1"));
    let config = fs::read_to_string(host.config_file()).unwrap();
    fs::create_dir(host.path("elsewhere")).unwrap();
    let moved = config.replace("sysctl.d/50-", "elsewhere/50-");
    host.put("etc/agent.toml", moved.as_bytes(), 0o644);
    daemon.signal(Signal::HUP);
    daemon.logs("needs_restart");
    daemon.logs(&format!("cannot write {}", host.path("elsewhere").display()));
    // The old configuration runs.
    let key = host.kernel();
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
    daemon.stop();
    let mut daemon = start_ready(&host);
    assert!(host.path("elsewhere/50-tcp_fastopen_key.conf").exists(), "{}", daemon.log());
    daemon.stop();

    host.put("etc/agent.toml", config.replace("[agent]", "[agent]\nlandlock = false").as_bytes(), 0o644);
    let daemon = start_ready(&host);
    assert_eq!((&host.status()["landlock"], no_new_privileges(daemon.pid()).as_str()), (&"off".into(), "0"));
}

#[test]
fn nothing_fails_where_the_kernel_has_no_landlock() {
    skip_unless!(need_netns() && need_tool("python3"));
    let host = DaemonHost::new();
    let textfile = host.path("tfo.prom");
    host.configure(&lasting(&host), &format!("verify_interval = \"1s\"\n[metrics]\ntextfile = {textfile:?}"));
    let script: PathBuf = host.write("without_landlock.py", WITHOUT_LANDLOCK, 0o644);
    let mut daemon = host.start_with(&format!("exec {PYTHON} {} \"$@\"", script.display()));
    daemon.ready();
    assert_eq!((&host.status()["landlock"], &host.status()["state"]), (&"none".into(), &"ok".into()));
    let metrics = fs::read_to_string(&textfile).unwrap();
    assert!(metrics.contains("tfo_agent_landlock{level=\"none\"} 1"), "{metrics}");
    let key = host.kernel();
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
    daemon.stop();
    let mut once = host.command(PYTHON);
    once.arg(&script).arg(tfo_testbed::agent_path()).args(["once", "--config"]).arg(host.config_file());
    assert!(once.status().unwrap().success());
}
