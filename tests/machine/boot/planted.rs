//! A local user who plants files where the agent's lock could be, with every kind of file, also while the agent starts.

use super::{SYSCTL_FILE, installed, installed_key, need, persisted_key, told};
use tfo_testbed::host::UNSET;

/// Plants one file of each kind in turn, in every directory that a lock could be in, under every name that it could have:
/// `KIND` once, or `race` for as long as it may.
const PLANT: &str = r#"
import fcntl, os, shutil, socket, sys

space = os.stat("/proc/self/ns/net").st_ino
names = [f"tfo-agent.net-{space}.lock", f"net-{space}.lock"]
places = [f"{directory}/{name}" for directory in ["/run", "/run/lock", "/run/tfo-agent"] for name in names]
places.append("/run/tfo-agent")
held = []


def mode(path, bits):
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, bits)
    os.fchmod(descriptor, bits)
    return descriptor


def locked(path):
    held.append(mode(path, 0o666))
    fcntl.flock(held[-1], fcntl.LOCK_EX)


def bound(path):
    socket.socket(socket.AF_UNIX).bind(path)


kinds = {
    "readable": lambda path: os.close(mode(path, 0o644)),
    "closed": lambda path: os.close(mode(path, 0o600)),
    "locked": locked,
    "pipe": lambda path: os.mkfifo(path, 0o600),
    "directory": lambda path: os.makedirs(path + "/full"),
    "link": lambda path: os.symlink("/etc/shadow", path),
    "socket": bound,
}


def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


def attempt(step, path):
    try:
        step(path)
        return True
    except OSError:
        return False


def plant(kind):
    planted = 0
    for path in places:
        attempt(remove, path)
        planted += attempt(kinds[kind], path)
    return planted


if sys.argv[1] == "race":
    print("racing", flush=True)
    while True:
        for kind in kinds:
            plant(kind)
        for descriptor in held:
            os.close(descriptor)
        held.clear()
else:
    print(plant(sys.argv[1]), flush=True)
    if sys.argv[1] == "locked":
        import time
        time.sleep(300)
"#;

/// As `nobody`, who owns nothing, in the background if the kind is held by a process.
const AS_NOBODY: [&str; 6] =
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "/usr/lib/tfo-test/plant.py"];

const RACE: &str = "[Unit]\nDefaultDependencies=no\nAfter=systemd-tmpfiles-setup.service\nBefore=tfo-agent.service\n\
     [Service]\nUser=nobody\nExecStart=/usr/bin/python3 /usr/lib/tfo-test/plant.py race\n\
     [Install]\nWantedBy=multi-user.target\n";

#[test]
fn no_local_user_keeps_the_agent_from_starting() {
    let Some(packages) = need() else { return };
    tfo_testbed::skip_unless!(tfo_testbed::need_tool("python3") && tfo_testbed::need_tool("setpriv"));
    let image = || installed(packages).file("/usr/lib/tfo-test/plant.py", PLANT, 0o644);
    // The first boot of all, with a user who races from before the agent's first start.
    let machine = image().unit("race.service", RACE).enable("race").enable("tfo-agent").boot();
    assert_eq!(machine.property("race", "ActiveState"), "active", "{}", machine.journal(Some("race")));
    assert_eq!(machine.property("tfo-agent", "ActiveState"), "active");
    assert_eq!(machine.property("tfo-agent", "NRestarts"), "0");
    assert_eq!(installed_key(&machine), persisted_key(&machine.read(SYSCTL_FILE)));
    for _ in 0..3 {
        machine.run(&["systemctl", "restart", "tfo-agent"]);
    }
    machine.run(&["systemctl", "stop", "tfo-agent"]);
    machine.run(&["systemctl", "start", "tfo-agent-once"]);
    drop(machine);

    // Each kind without a race: the agent never looks where `nobody` may plant it.
    let machine = image().boot();
    for kind in ["readable", "closed", "locked", "pipe", "directory", "link", "socket"] {
        let command = format!("timeout 20 {} {kind} > /run/planted-{kind} & sleep 0.01", AS_NOBODY.join(" "));
        machine.run(&["sh", "-c", &command]);
        let planted = || machine.read(&format!("/run/planted-{kind}"));
        assert!(tfo_testbed::poll_until(tfo_testbed::SOON, || !planted().is_empty()), "{kind} is not planted");
        assert_eq!(planted().trim(), "2", "{kind}: both names in /run/lock, and nothing elsewhere");
        for unit in ["tfo-agent", "tfo-agent-once"] {
            let started = machine.output(&["systemctl", "start", unit]);
            assert!(started.status.success(), "{kind}, {unit}: {}", told(&started));
            assert_ne!(installed_key(&machine), UNSET);
            machine.run(&["systemctl", "stop", unit]);
        }
    }
    // The lock still excludes: by hand and by timer beside the daemon, whatever the configuration says.
    machine.run(&["systemctl", "start", "tfo-agent"]);
    let other =
        "sed 's,^.source.,[agent]\\nruntime_dir = \"/run/other\"\\n[source],' /etc/tfo-fleet/agent.toml > /run/b.toml";
    machine.run(&["sh", "-c", other]);
    let second = machine.output(&["tfo-agent", "once", "--config", "/run/b.toml"]);
    assert!(!second.status.success() && told(&second).contains("another agent already manages"), "{}", told(&second));
    machine.run(&["systemctl", "stop", "tfo-agent"]);
    machine.run(&["tfo-agent", "once", "--config", "/run/b.toml"]);
    let left = machine.run(&["sh", "-c", "ls /run/tfo-agent"]);
    assert!(!left.contains(".lock"), "locks are removed with their agents: {left}");
}
