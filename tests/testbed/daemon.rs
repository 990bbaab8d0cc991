//! A host ([`Host`]) whose agent runs as a daemon, with a notify socket and a log that the test reads.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::Signal;

use crate::host::{Host, read_keys};
use crate::kernel_clock::KernelClock;
use crate::output::stderr;
use crate::{NetNs, SOON, agent_path, now, poll_some, poll_until};

/// Python by its path: a version manager's shim takes longer than a whole test.
pub const PYTHON: &str = "/usr/bin/python3";

/// The message that ends the reader of the notify socket.
const END: &[u8] = b"END";

/// A secret of its owner's, with no byte like the next.
pub fn secret_bytes(seed: u8) -> Vec<u8> {
    (0..48u8).map(|at| at.wrapping_mul(37).wrapping_add(seed)).collect()
}

/// A derive source with `fleet.secret` of the host's directory.
pub fn derive(host: &DaemonHost, interval: &str, lead: &str) -> String {
    let secret = host.path("fleet.secret");
    format!(
        "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = {secret:?}\ninterval = \"{interval}\"\nstage_lead = \"{lead}\"\n"
    )
}

/// A derive source whose slots do not change within the next ten minutes.
pub fn lasting(host: &DaemonHost) -> String {
    let now = tfo_host::runtime::clock::now().secs();
    let interval = [604_800, 518_400, 432_000].into_iter().find(|i| (600..i - 600).contains(&(now % i))).unwrap();
    // Early in the interval the staging is far in the future, later in the past.
    let lead = if now % interval < interval / 2 { interval / 4 } else { interval / 4 * 3 };
    derive(host, &format!("{interval}s"), &format!("{lead}s"))
}

/// The kernel's text of a key in which every digit is `n`.
pub fn key_text(n: u8) -> String {
    [format!("{n:08x}"), format!("{n:08x}"), format!("{n:08x}"), format!("{n:08x}")].join("-")
}

/// A host for a daemon.
pub struct DaemonHost(Host);

impl std::ops::Deref for DaemonHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.0
    }
}

impl DaemonHost {
    /// A host with `fleet.secret` and an empty sysctl.d.  Needs `need_netns()`.
    pub fn new() -> Self {
        let host = Self(Host::new());
        host.put("fleet.secret", &secret_bytes(1), 0o400);
        host
    }

    /// Replaces a file.
    pub fn put(&self, name: &str, content: &[u8], mode: u32) {
        self.write(name, content, mode);
    }

    /// Writes agent.toml: `source` is a `[source]` section, `install` are further lines of `[install]`, and what follows.
    pub fn configure(&self, source: &str, install: &str) {
        let (run, file) = (self.path("run"), self.sysctl_file());
        let text = format!("[agent]\nruntime_dir = {run:?}\n{source}\n[install]\nsysctl_file = {file:?}\n{install}\n");
        self.put("etc/agent.toml", text.as_bytes(), 0o644);
    }

    /// Runs `tfo-agent once`.
    pub fn once(&self, more: &[&str]) -> Output {
        self.run("once", more)
    }

    /// Runs `tfo-agent once`, which must succeed.
    pub fn once_ok(&self) {
        let output = self.once(&[]);
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// status.json.
    pub fn status(&self) -> serde_json::Value {
        let text = fs::read(self.path("run/status.json")).expect("status.json is there");
        serde_json::from_slice(&text).expect("status.json is JSON")
    }

    /// Starts `tfo-agent run` as systemd would.
    pub fn start(&self) -> Daemon {
        self.start_with("exec \"$@\"")
    }

    /// Starts it beside a kernel whose clock the test synchronises.
    pub fn start_beside(&self, clock: &KernelClock) -> Daemon {
        let set = clock.environment().map(|(name, value)| format!("export {name}={}", value.display()));
        self.start_with(&format!("{}; exec \"$@\"", set.join("; ")))
    }

    /// Starts the agent through a shell script, which gets the agent and its arguments as `"$@"`.
    pub fn start_with(&self, script: &str) -> Daemon {
        let mut command = self.command("setpriv");
        command.args(["--pdeathsig", "KILL", "/bin/sh", "-c", script, "sh"]).arg(agent_path());
        command.arg("run").arg("--config").arg(self.config_file());
        Daemon::start(command, &self.path(""))
    }
}

/// What the kernel holds in a namespace, without the newline.
pub fn kernel_of(netns: &NetNs) -> String {
    netns.run(read_keys)
}

/// One datagram to the notify socket, and when it came.
#[derive(Debug, Clone)]
pub struct Message {
    pub at: Instant,
    pub text: String,
}

impl Message {
    /// The value of `NAME=value` in it.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

/// A running daemon.  Killed when dropped; its log is shown if the test failed.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    messages: Arc<Mutex<Vec<Message>>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(mut command: Command, dir: &Path) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (socket, log) = (dir.join(format!("notify-{number}")), dir.join(format!("log-{number}")));
        let datagrams = UnixDatagram::bind(&socket).expect("the notify socket can be made");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&messages);
        // Read all the time, as systemd does: a full socket would block the agent.
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = datagrams.recv(&mut buffer) {
                if &buffer[..length] == END {
                    break;
                }
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                into.lock().unwrap().push(Message { at: now(), text });
            }
        });
        let stderr = fs::File::create(&log).unwrap();
        command.env("NOTIFY_SOCKET", &socket).env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("the agent starts");
        Self { child, socket, log, messages, reader: Some(reader) }
    }

    /// The process id: `nsenter`, `setpriv` and `sh` have become the agent.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All messages until now.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }

    /// The log until now.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a message with `NAME=value` after the first `seen` ones, and returns it.
    #[track_caller]
    pub fn expect(&self, seen: usize, line: &str) -> Message {
        let has = |message: &Message| message.text.lines().any(|other| other == line);
        let found = poll_some(SOON, || self.messages().into_iter().skip(seen).find(has));
        found.unwrap_or_else(|| panic!("no {line}: {:?}\n{}", self.messages(), self.log()))
    }

    /// Waits for READY=1.
    #[track_caller]
    pub fn ready(&self) -> Message {
        self.expect(0, "READY=1")
    }

    /// Waits until the log has this text.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        assert!(poll_until(SOON, || self.log().contains(text)), "no {text:?} in the log: {}", self.log());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        crate::signal::send(self.pid(), signal);
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let ended = poll_some(SOON, || self.child.try_wait().unwrap());
        ended.unwrap_or_else(|| panic!("the agent does not end: {}", self.log()))
    }

    /// Sends SIGTERM, and checks that it exits with 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0), "{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if UnixDatagram::unbound().and_then(|socket| socket.send_to(END, &self.socket)).is_ok()
            && let Some(reader) = self.reader.take()
        {
            reader.join().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the agent\n{}", self.log());
        }
    }
}
