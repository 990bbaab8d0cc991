//! The running daemon: what it says, shows, dumps and passes to the kernel.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use tfo_testbed::SOON;
use tfo_testbed::host::KEY_FILE;

use super::*;

/// A running daemon, killed if the test ends before it.
struct Daemon(Child);

impl Daemon {
    fn start(mut command: Command, host: &Host) -> Self {
        let log = std::fs::File::create(host.path("log")).expect("a step of the test works");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a step of the test works"))
            .stderr(log)
            .spawn()
            .expect("a step of the test works");
        let daemon = Self(child);
        daemon.until("it is ok", || status(host).is_some_and(|status| status["state"] == "ok"));
        daemon
    }

    #[track_caller]
    fn until(&self, what: &str, look: impl FnMut() -> bool) {
        assert!(tfo_testbed::poll_until(SOON, look), "not within {SOON:?}: {what}");
    }

    fn signal(&self, signal: rustix::process::Signal) {
        tfo_testbed::signal::send(self.0.id(), signal);
    }

    /// A file of its /proc directory.
    fn proc(&self, name: &str) -> std::path::PathBuf {
        format!("/proc/{}/{name}", self.0.id()).into()
    }

    fn ended(&mut self) -> std::process::ExitStatus {
        tfo_testbed::poll_some(SOON, || self.0.try_wait().expect("a step of the test works")).expect("it ends")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn status(host: &Host) -> Option<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(host.path("run/status.json")).ok()?).ok()
}

/// What a scrape of the daemon gets.
fn scrape(host: &Host) -> Option<String> {
    host.netns().run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9440").ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

#[test]
fn a_daemon_at_its_most_talkative_shows_no_key() {
    skip_unless!(tfo_testbed::need_netns());
    let secrets = all_secrets();
    let host = secret_host();
    std::fs::create_dir(host.path("metrics")).unwrap();
    let config = "verify_interval = \"1s\"\n[metrics]\nlisten = \"127.0.0.1:9440\"\ntextfile = \"@/metrics/tfo.prom\"\n\
                  [source]\nkind = \"file\"\npath = \"@/etc/keys\"\n";
    host.use_keys(FIRST);
    host.configure(config);
    for journal in [None, Some("8:1")] {
        host.write("etc/keys", FIRST, 0o400);
        let mut command = host.agent("run");
        command.env("TFO_LOG", "trace").envs(journal.map(|stream| ("JOURNAL_STREAM", stream)));
        let mut daemon = Daemon::start(command, &host);
        daemon.until("the first pair", || host.kernel() == FIRST);
        host.write("etc/keys", SECOND, 0o400);
        daemon.until("the second pair", || host.kernel() == SECOND);
        host.set_kernel(FIRST);
        daemon.until("the repair", || host.kernel() == SECOND);
        // A key file that is broken, a configuration that is, and what the agent says of them.
        host.write("etc/keys", format!("{FIRST}garbage"), 0o400);
        daemon.until("it is degraded", || status(&host).is_some_and(|status| status["state"] == "degraded"));
        secrets.absent("status.json, degraded", std::fs::read(host.path("run/status.json")).unwrap());
        host.configure(&format!("[source]\nkind = \"file\"\npath = \"{FIRST}\"\n"));
        daemon.signal(rustix::process::Signal::HUP);
        let log = || std::fs::read_to_string(host.path("log")).unwrap();
        daemon.until("the refusal", || log().contains("keeping the old one"));
        host.configure(config);
        host.write("etc/keys", SECOND, 0o400);
        daemon.until("it is ok", || status(&host).is_some_and(|status| status["state"] == "ok"));

        let page = scrape(&host).expect("the daemon can be scraped");
        assert!(page.contains("tfo_agent_key{") && page.contains("tfo_agent_drift_repairs_total"), "{page}");
        secrets.absent("/metrics", page);
        for name in ["cmdline", "environ", "comm", "status", "maps", "limits"] {
            let content = std::fs::read(daemon.proc(name)).unwrap();
            assert!(!content.is_empty(), "{name}");
            secrets.absent(name, content);
        }
        daemon.signal(rustix::process::Signal::TERM);
        assert!(daemon.ended().success());
        assert!(log().contains("drift") && log().contains("installed"), "{}", log());
        left_files(&host, |place, content| secrets.absent(place, content));
    }
}

/// Lets a command dump as much core as it likes, and end by any signal.
///
/// A shell without job control starts `command &` with SIGINT and SIGQUIT ignored (POSIX, "Asynchronous Lists"), and
/// every program below it inherits that: tests that were started in the background sent SIGQUIT to no effect.
fn unlimited_core(command: &mut Command) {
    let shell = "ulimit -c unlimited && exec env --default-signal \"$0\" \"$@\"";
    let (program, arguments): (std::ffi::OsString, Vec<std::ffi::OsString>) =
        (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned).collect());
    let (directory, environment): (Option<std::path::PathBuf>, Vec<_>) = (
        command.get_current_dir().map(ToOwned::to_owned),
        command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect(),
    );
    *command = Command::new("sh");
    command.args(["-c", shell]).arg(program).args(arguments);
    directory.map(|directory| command.current_dir(directory));
    command.envs(environment.into_iter().filter_map(|(key, value)| Some((key, value?))));
}

/// Mask of the signals that the process handles.
fn handlers(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(daemon.proc("status")).expect("a step of the test works");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("proc_pid_status(5) has it");
    u64::from_str_radix(mask.trim(), 16).expect("a step of the test works")
}

#[test]
fn a_crash_leaves_no_core() {
    use rustix::process::Signal;
    skip_unless!(tfo_testbed::need_netns());
    let host = secret_host();
    host.use_keys(FIRST);
    let cores = host.path("cores");
    std::fs::create_dir(&cores).unwrap();
    // Any other process dumps core here, as far as the machine's core_pattern lets us see it.
    let mut control = Command::new("sleep");
    control.arg("60").current_dir(&cores);
    unlimited_core(&mut control);
    let mut control = Daemon(control.stdin(Stdio::null()).spawn().unwrap());
    control.until("the control runs", || std::fs::read(control.proc("comm")).unwrap() == b"sleep\n");
    control.signal(Signal::SEGV);
    let dumps = control.ended().core_dumped();
    if !dumps {
        tfo_testbed::skip("this machine dumps no core of any process (core_pattern), so none can be missed");
    }
    for signal in [Signal::SEGV, Signal::ABORT, Signal::QUIT] {
        for entry in std::fs::read_dir(&cores).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let mut command = host.agent("run");
        command.current_dir(&cores);
        unlimited_core(&mut command);
        std::fs::remove_file(host.path("run/status.json")).ok();
        let mut daemon = Daemon::start(command, &host);
        let limits = std::fs::read_to_string(daemon.proc("limits")).unwrap();
        let core: Vec<&str> =
            limits.lines().find(|line| line.starts_with("Max core")).unwrap().split_whitespace().collect();
        assert_eq!(core, ["Max", "core", "file", "size", "0", "0", "bytes"], "hard limit too: nobody can raise it");
        // Where we may lift the limit from outside (CAP_SYS_RESOURCE): it is not dumpable, whatever the limit is.
        let mut prlimit = Command::new("prlimit");
        prlimit.arg(format!("--pid={}", daemon.0.id())).arg("--core=unlimited").output().ok();
        daemon.signal(signal);
        if signal == Signal::SEGV {
            // Rust's handler looks for a stack overflow at the first one, and lets the next one through.
            daemon.until("the handler is gone", || handlers(&daemon) & (1 << (Signal::SEGV.as_raw() - 1)) == 0);
            daemon.signal(signal);
        }
        let ended = daemon.ended();
        assert_eq!(ended.signal(), Some(signal.as_raw()));
        assert!(!ended.core_dumped(), "{signal:?} made a core");
        assert_eq!(std::fs::read_dir(&cores).unwrap().count(), 0, "{signal:?} made a core");
    }
}

/// As a user of its own, which is how the unit may run it: that user's other processes cannot look into it.
#[test]
fn its_own_user_cannot_look_into_it() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("setpriv"));
    let as_nobody = |command: &mut Command| {
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=+net_admin",
            "--ambient-caps=+net_admin",
        ]);
    };
    let host = secret_host();
    host.use_keys(FIRST);
    std::fs::create_dir(host.path("run")).unwrap();
    for name in ["etc/keys", "sysctl.d", "run"] {
        std::os::unix::fs::chown(host.path(name), Some(65_534), Some(65_534)).unwrap();
    }
    std::fs::copy(tfo_testbed::agent_path(), host.path("tfo-agent")).unwrap();
    // What RuntimeDirectory= does for the unit's user: the lock is in that directory.
    let directory =
        "mkdir -p /run/tfo-agent && mount -t tmpfs -o mode=755,uid=65534 tmpfs /run/tfo-agent && exec \"$@\"";
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", directory, "sh", "setpriv"]);
    as_nobody(&mut command);
    command.arg(host.path("tfo-agent")).args(["run", "--config"]).arg(host.config_file());
    let daemon = Daemon::start(command, &host);
    assert_eq!(host.kernel(), FIRST);

    let mut control = host.command("setpriv");
    as_nobody(&mut control);
    let control = Daemon(control.args(["sleep", "60"]).spawn().unwrap());
    control.until("the control runs", || std::fs::read(control.proc("comm")).unwrap() == b"sleep\n");
    let owner = |process: &Daemon| std::fs::metadata(process.proc("mem")).unwrap().uid();
    assert_eq!((owner(&daemon), owner(&control)), (0, 65_534), "files in /proc of what is not dumpable are root's");
    for name in ["environ", "maps", "mem"] {
        let read = |process: &Daemon| {
            let mut reader = host.command("setpriv");
            as_nobody(&mut reader);
            // Opening is enough: mem cannot be read from its start.
            reader.args(["sh", "-c", "exec <\"$0\""]).arg(process.proc(name)).output().unwrap()
        };
        assert!(read(&control).status.success(), "{name} of the control can be opened");
        let refused = read(&daemon);
        assert!(
            !refused.status.success() && stderr(&refused).contains("ermission denied"),
            "{name}: {}",
            stderr(&refused)
        );
    }
}

// ---- system calls ----

/// Every system call with key bytes in it is one of those that must have them.
#[test]
fn key_bytes_pass_through_no_other_system_call() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("strace"));
    let host = secret_host();
    let traced = |secrets: &Secrets| {
        let trace = host.path("strace");
        let mut strace = host.command("strace");
        strace.args(["-f", "-qqq", "-x", "-y", "-s", "65536", "-o"]).arg(&trace).arg("--");
        strace.arg(tfo_testbed::agent_path()).args(["once", "--format", "json", "--config"]).arg(host.config_file());
        let output = strace.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let text = std::fs::read_to_string(trace).unwrap();
        let mut kinds: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !secrets.find(line.as_bytes()).is_empty()) {
            let call = line.split_once(' ').unwrap().1.trim_start();
            let (name, rest) = call.split_once('(').unwrap();
            let file = rest.split(['<', '>']).nth(1).unwrap_or_else(|| panic!("no file: {line}"));
            kinds.push(format!("{name} {}", file.replace(&host.text_path(""), "")));
        }
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let secrets = all_secrets();
    let (kernel_read, kernel_write) = (format!("read {KEY_FILE}"), format!("write {KEY_FILE}"));
    let temporary = "write sysctl.d/50-tcp_fastopen_key.conf.tmp";
    host.use_keys(FIRST);
    assert_eq!(traced(&secrets), [&kernel_read, "read etc/keys", &kernel_write, temporary]);
    host.use_keys(SECOND);
    let own_file = "read sysctl.d/50-tcp_fastopen_key.conf";
    assert_eq!(traced(&secrets), [&kernel_read, "read etc/keys", own_file, &kernel_write, temporary]);
    host.configure(DERIVE);
    let derived = traced(&secrets);
    // The secret is only read; the second pair, which was installed before, too.
    assert_eq!(derived, [&kernel_read, "read etc/secret", own_file]);
    let mut secrets = secrets;
    add_kernel(&mut secrets, &host);
    host.set_kernel(FIRST);
    std::fs::remove_file(host.sysctl_file()).unwrap();
    assert_eq!(traced(&secrets), [&kernel_read, "read etc/secret", &kernel_write, temporary]);
}
