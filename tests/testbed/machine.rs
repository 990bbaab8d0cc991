//! A throw-away machine with a real systemd: a container whose PID 1 is this host's /lib/systemd/systemd.
//!
//! `machine.sh` is its inside; here is its life.  Nothing of it survives: the kernel ends the machine when the thread
//! that booted it ends (parent-death signals down to PID 1, also when the test process is killed), when its time to live
//! is over, or when the value is dropped.  On the host there is a scratch directory and a cgroup while it lives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::leftovers::{cgroup_root, name, remove_cgroup};
use crate::output::{stderr, stdout};
use crate::{poll_some, scratch};

/// The script that makes a process into PID 1 of the machine.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/machine.sh");

/// How long a boot may take: 0.5 s on an idle machine, the rest is for two shared cores.
const BOOT_MAX: Duration = Duration::from_secs(40);

/// How long one command inside may take, in seconds: Puppet needs some minutes where all cores are busy.
const COMMAND_MAX_SECS: &str = "400";

/// The whole machine ends by itself after this time, in seconds: as nextest ends its test.
const TIME_TO_LIVE_SECS: &str = "1200";

/// Where units of packages live.
const UNIT_DIR: &str = "/usr/lib/systemd/system";

/// True if this host can boot a machine; otherwise skips and returns false.
#[track_caller]
pub fn need_machine() -> bool {
    if !crate::need_netns() || !crate::need_tool("setpriv") || !crate::need_tool("systemctl") {
        return false;
    }
    if !Path::new("/lib/systemd/systemd").exists() || cgroup_root().is_none() {
        crate::skip("needs systemd and a cgroup2 tree");
        return false;
    }
    true
}

/// What a machine has beyond this host's `/`, which it sees without the host's units, /etc/sysctl.d and /etc/tfo-fleet.
pub struct Image {
    dir: TempDir,
    enable: Vec<String>,
}

impl Image {
    /// A machine with nothing of its own.
    pub fn new() -> Self {
        let dir = scratch();
        for name in ["root", "files"] {
            fs::create_dir(dir.path().join(name)).expect("the scratch directory is ours");
        }
        Self { dir, enable: Vec::new() }
    }

    /// Puts a file at the absolute `path`, owned by root.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Self {
        let to = self.place(path);
        fs::write(&to, content).expect("the scratch directory is ours");
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("the scratch directory is ours");
        self
    }

    /// Copies a file of this host to the absolute `path`.
    pub fn copy(self, from: &Path, path: &str, mode: u32) -> Self {
        let content = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.file(path, content, mode)
    }

    /// Puts a unit where packages put theirs.
    pub fn unit(self, name: &str, text: &str) -> Self {
        self.file(&format!("{UNIT_DIR}/{name}"), text, 0o644)
    }

    /// `systemctl enable` before the boot.
    pub fn enable(mut self, unit: &str) -> Self {
        self.enable.push(unit.to_owned());
        self
    }

    /// Boots and returns when the boot is over (running or degraded).  Panics with the journal if it does not get there.
    ///
    /// The machine dies with the calling thread.
    pub fn boot(self) -> Machine {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = name(&format!("machine-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let cgroup = cgroup_root().expect("need_machine() was asked").join(name);
        fs::create_dir(&cgroup).expect("root can make a cgroup");
        let dir = self.dir.path();
        fs::write(dir.join("cgroup"), cgroup.to_str().expect("an ASCII path")).expect("the scratch directory is ours");
        fs::write(dir.join("enable"), self.enable.iter().map(|unit| format!("{unit}\n")).collect::<String>())
            .expect("the scratch directory is ours");
        let log = fs::File::create(dir.join("log")).expect("the scratch directory is ours");
        // Each link dies with the one before it; `unshare --fork` ignores SIGTERM, hence KILL throughout.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "timeout", "--foreground", "-s", "KILL", TIME_TO_LIVE_SECS])
            .args(["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child=KILL", SCRIPT, "root"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be doubled"))
            .stderr(log)
            .spawn()
            .expect("setpriv starts");
        let mut machine = Machine { child, pid: 0, dir: self.dir, cgroup };
        machine.wait_for_boot();
        machine
    }

    /// The tree that is copied over the machine's `/`.
    pub fn root_of_files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// The place of `path` in the tree of additions, with its directories made.
    fn place(&self, path: &str) -> PathBuf {
        let relative = path.strip_prefix('/').expect("an absolute path");
        let to = self.root_of_files().join(relative);
        fs::create_dir_all(to.parent().expect("a file has a directory")).expect("the scratch directory is ours");
        to
    }
}

/// A running machine.
pub struct Machine {
    /// `timeout`, the parent of `unshare`, the parent of PID 1.
    child: Child,
    /// PID 1 of the machine as the host counts.
    pid: u32,
    dir: TempDir,
    cgroup: PathBuf,
}

impl Machine {
    /// A command inside, in all of the machine's namespaces, without input.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(SCRIPT);
        command.arg("enter").arg(self.dir.path()).arg(self.pid.to_string());
        command.args(["timeout", "-k", "1", COMMAND_MAX_SECS, program]).stdin(Stdio::null());
        command
    }

    /// Runs a command inside.
    pub fn output(&self, command: &[&str]) -> Output {
        let (program, args) = command.split_first().expect("a program");
        self.command(program).args(args).output().expect("the command starts")
    }

    /// Runs a command inside that must succeed, and gives its stdout without the last newline.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> String {
        let output = self.output(command);
        let text = stdout(&output).trim_end().to_owned();
        let errors = stderr(&output);
        assert!(output.status.success(), "{}: {}\n{text}\n{errors}", command.join(" "), output.status);
        text
    }

    /// One property of a unit, as `systemctl show` prints it.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, unit])
    }

    /// The host's `ip` in the machine's network: only it can wire one machine to another.
    pub fn ip(&self, line: &str) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid)).arg("ip").args(line.split(' '));
        let output = command.output().expect("nsenter starts");
        assert!(output.status.success(), "ip {line}: {}", stderr(&output));
    }

    /// PID 1 of the machine as the host counts: for `ip link ... netns PID`.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The host's view of a path inside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// Reads a file inside.
    pub fn read(&self, inside: &str) -> String {
        let path = self.path(inside);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Replaces a file inside; its mode stays.
    pub fn write(&self, inside: &str, content: &str) {
        let path = self.path(inside);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Writes a file inside, new or not, for root alone.
    pub fn write_new(&self, inside: &str, content: &str) {
        let path = self.path(inside);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it was just written");
    }

    /// The journal, of one unit if named.
    pub fn journal(&self, unit: Option<&str>) -> String {
        self.output(&["journalctl", "--sync"]);
        let mut command = vec!["journalctl", "--no-pager", "--output=short-monotonic"];
        command.extend(unit.map(|_| "--unit").into_iter().chain(unit));
        String::from_utf8_lossy(&self.output(&command).stdout).into_owned()
    }

    /// What stands for the machine on the host: PID 1 (its root: a zombie has none), its cgroup, its scratch directory.
    pub fn traces_on_host(&self) -> [PathBuf; 3] {
        [self.path("/"), self.cgroup.clone(), self.dir.path().to_owned()]
    }

    /// Walks away without ending it, as a killed test process does; gives the traces.  For the harness's own test.
    pub fn abandon(self) -> [PathBuf; 3] {
        let traces = self.traces_on_host();
        std::mem::forget(self);
        traces
    }

    /// Names PID 1 and waits until it says that the boot is over.
    fn wait_for_boot(&mut self) {
        let timeout = self.child.id();
        let found = poll_some(BOOT_MAX, || {
            let pid = only_child(only_child(timeout)?)?;
            let is_systemd = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "systemd";
            let listens = Path::new(&format!("/proc/{pid}/root/run/systemd/private")).exists();
            (is_systemd && listens).then_some(pid)
        });
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        self.pid = found.unwrap_or_else(|| panic!("PID 1 did not come up: {}", log()));
        let state = self.output(&["systemctl", "is-system-running", "--wait"]);
        let state = stdout(&state).trim().to_owned();
        assert!(matches!(&*state, "running" | "degraded"), "the boot ended as {state:?}: {}", log());
    }
}

impl Drop for Machine {
    /// A machine of a test that failed shows its journal first.
    fn drop(&mut self) {
        if std::thread::panicking() && self.pid != 0 {
            let journal = self.journal(None);
            let from = journal.lines().count().saturating_sub(120);
            eprintln!("--- journal of the machine\n{}", journal.lines().skip(from).collect::<Vec<_>>().join("\n"));
        }
        // PID 1 first, so that `unshare` and `timeout` end by themselves and leave no zombies to the host's PID 1.
        fs::write(self.cgroup.join("cgroup.kill"), "1").ok();
        poll_some(Duration::from_secs(5), || self.child.try_wait().ok().flatten());
        self.child.kill().ok();
        self.child.wait().ok();
        if !remove_cgroup(&self.cgroup) && !std::thread::panicking() {
            panic!("{} could not be removed", self.cgroup.display());
        }
    }
}

/// The one child of a process with one thread.
fn only_child(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Removes what an abandoned machine left on the host.
pub fn remove(cgroup: &Path, dir: &Path) {
    remove_cgroup(cgroup);
    fs::remove_dir_all(dir).ok();
}
