//! No 4 consecutive bytes of any key or secret, raw, hex or base64, in anything that the agent shows or leaves behind.
//!
//! The search decodes what it looks at: every run of hex digits at both offsets, every run of base64 characters at all
//! four, so a piece is found wherever it starts.  It is proven with planted keys first.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use tfo_testbed::{SOON, skip_unless};

use tfo_testbed::host::{Host, KEY_FILE};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::secrets::{base64_value, decode, hex_value};

/// Bytes of a secret that may appear in a row: fewer than this.
const WINDOW: usize = 4;

/// Random and fixed: made once with `openssl rand -hex 32`.
const SECRET: [u8; 32] = [
    0xb9, 0x4e, 0xd1, 0x07, 0x6a, 0xf3, 0x92, 0x5c, 0xe8, 0x13, 0xc5, 0x8f, 0x2b, 0xd6, 0x70, 0xa9, 0x34, 0xfd, 0x81,
    0x4b, 0x9e, 0xc2, 0x57, 0xe0, 0x1d, 0xa6, 0x78, 0xcb, 0x05, 0xf9, 0x62, 0xb3,
];
/// Kernel text of two pairs: the second one follows the first.
const FIRST: &str = "d3a95f1e-c86b20f7-9b41e5d8-5ae7c39d,8fc61b72-e9d4a053-b7250f9c-ac93d6f1";
const SECOND: &str = "97be40c5-fa18d36b-e2c95d87-b06cf4a1,d3a95f1e-c86b20f7-9b41e5d8-5ae7c39d";

/// What must not be seen.
type Secrets = tfo_testbed::secrets::Secrets<WINDOW>;

/// The secret, both pairs, and what the kernel of a derive host holds.
fn all_secrets() -> Secrets {
    let mut secrets = Secrets::new();
    secrets.add("secret", &SECRET);
    secrets.add_pair("first", FIRST);
    secrets.add_pair("second", SECOND);
    secrets
}

// ---- the search itself ----

fn base64(bytes: &[u8], alphabet: [u8; 2]) -> String {
    let digit = |value: u32| {
        (0..=255)
            .find(|byte| base64_value(*byte, alphabet) == u8::try_from(value).ok())
            .expect("a step of the test works")
    };
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let all = chunk.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(digit(all >> (18 - 6 * at) & 63)));
        }
    }
    text
}

#[test]
fn the_search_finds_four_planted_bytes_in_every_writing() {
    let secrets = all_secrets();
    let mut planted = 0;
    let mut plant = |how: &str, text: Vec<u8>| {
        for around in [(&b""[..], &b""[..]), (b"log: key=", b" end\n"), (b"\"", b"\"")] {
            let hay = [around.0, &text, around.1].concat();
            assert!(!secrets.find(&hay).is_empty(), "{how} is not found: {}", String::from_utf8_lossy(&hay));
            planted += 1;
        }
    };
    for at in 0..=SECRET.len() - WINDOW {
        let piece = &SECRET[at..at + WINDOW];
        let lower: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        plant("raw", piece.to_vec());
        plant("hex", lower.clone().into());
        plant("upper hex", lower.to_uppercase().into());
        plant("hex at an odd digit", format!("0x0{lower}f").into());
        plant("hex with colons", piece.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":").into());
        plant("escaped", piece.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>().into());
        plant("decimal", format!("{piece:?}").into());
        for alphabet in [*b"+/", *b"-_"] {
            for before in 0..3 {
                let with = [&b"\0\0\0"[..before], piece, b"\xff"].concat();
                plant("base64", base64(&with, alphabet).into());
            }
        }
    }
    // The kernel's text, cut anywhere so that four whole bytes are left.
    for key in FIRST.split(',') {
        for end in (8..=key.len()).filter(|end| key[..*end].replace('-', "").len() % 2 == 0) {
            let digits: Vec<(usize, char)> = key[..end].char_indices().filter(|(_, c)| *c != '-').collect();
            let (start, _) = digits[digits.len() - 8];
            plant("kernel text", key[start..end].into());
        }
    }
    assert!(planted > 1_000, "{planted}");
    // The search ignores three bytes of a secret, and whatever the agent may show.
    assert!(secrets.find(format!("{:02x?}", &SECRET[..3]).as_bytes()).is_empty());
    secrets
        .absent("a fingerprint", "primary 6c3f8e4b21cc43a0, backup 8733a57999198333; next change 2026-11-23T00:00:00Z");
}

// ---- what commands print ----

fn secret_host() -> Host {
    let host = Host::new();
    host.write("etc/secret", SECRET, 0o400);
    host
}

const DERIVE: &str = "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"@/etc/secret\"\n";

/// Adds what the kernel of a derive host holds, which depends on the time: windows that may come up by chance are left.
fn add_kernel(secrets: &mut Secrets, host: &Host) {
    let mut derived = Secrets::new();
    for key in host.kernel().split(',') {
        for window in key.replace('-', "").as_bytes().windows(2 * WINDOW).step_by(2) {
            let bytes = decode(window, 4, hex_value);
            let mut values = bytes.clone();
            values.sort_unstable();
            values.dedup();
            if values.len() == WINDOW {
                derived.add("derived", &bytes);
                derived.add("derived, reversed", &bytes.iter().rev().copied().collect::<Vec<_>>());
            }
        }
    }
    assert!(derived.0.len() > 20, "the kernel holds keys");
    secrets.0.extend(derived.0);
}

#[track_caller]
fn quiet(secrets: &Secrets, what: &str, output: &Output) {
    secrets.absent(&format!("{what}: stdout"), stdout(output));
    secrets.absent(&format!("{what}: stderr"), stderr(output));
}

/// Every file below the host's directory that is not meant to hold keys.
fn left_files(host: &Host, mut look: impl FnMut(&str, &[u8])) {
    let meant = ["secret", "keys", "50-tcp_fastopen_key.conf", "strace"];
    let mut directories = vec![host.path("")];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a step of the test works") {
            let path = entry.expect("a step of the test works").path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| !meant.iter().any(|name| file.ends_with(name)));
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        look(&file.display().to_string(), &std::fs::read(&file).expect("a step of the test works"));
    }
}

#[test]
fn no_command_prints_a_key() {
    skip_unless!(tfo_testbed::need_netns());
    let mut secrets = all_secrets();
    let host = secret_host();
    let every = |secrets: &Secrets, what: &str| {
        for (command, more) in [
            ("once", &["--dry-run"][..]),
            ("once", &["--dry-run", "--format", "json"]),
            ("check", &[]),
            ("check", &["--format", "json"]),
            ("once", &["--format", "json"]),
            ("once", &[]),
        ] {
            quiet(secrets, &format!("{what}: {command} {more:?}"), &host.run(command, more));
        }
        left_files(&host, |place, content| secrets.absent(place, content));
    };
    host.use_keys(FIRST);
    every(&secrets, "first");
    assert_eq!(host.kernel(), FIRST);
    host.use_keys(SECOND);
    every(&secrets, "second");
    assert_eq!(host.kernel(), SECOND);
    host.configure(DERIVE);
    every(&secrets, "derive");
    add_kernel(&mut secrets, &host);
    every(&secrets, "derive, known");
    host.configure("[source]\nkind = \"random\"\n");
    every(&secrets, "random");
    add_kernel(&mut secrets, &host);
    every(&secrets, "random, known");
}

#[test]
fn no_error_quotes_a_key() {
    skip_unless!(tfo_testbed::need_netns());
    let secrets = all_secrets();
    let host = secret_host();
    host.use_keys(FIRST);
    let every = |what: &str| {
        for (command, more) in
            [("once", &[][..]), ("once", &["--format", "json"]), ("check", &["--format", "json"]), ("run", &[])]
        {
            let output = host.agent(command).args(more).env("TFO_LOG", "trace").output().unwrap();
            assert_ne!(output.status.code(), Some(0), "{what}: {command}");
            quiet(&secrets, &format!("{what}: {command}"), &output);
        }
    };
    // Garbage near a key.
    let (primary, backup) = FIRST.split_once(',').unwrap();
    for text in [
        format!("{FIRST}x"),
        format!("{FIRST},{backup}"),
        format!("{primary}:{backup}"),
        FIRST.to_uppercase(),
        format!("{primary},{primary}"),
        format!("key = {FIRST}\n"),
        FIRST.replace('-', ""),
        FIRST[..60].to_owned(),
    ] {
        host.use_keys(&text);
        every(&text);
    }
    host.write("etc/keys", SECRET, 0o400);
    every("a secret where key text should be");
    // A secret or a key that an operator wrote into the configuration.
    let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    for value in [hex.as_str(), primary, FIRST, &base64(&SECRET, *b"+/")] {
        for text in [
            DERIVE.replace("@/etc/secret", value),
            DERIVE.replace("@/etc/secret", &format!("credential:/{value}")),
            DERIVE.replace("\"@/etc/secret\"", value),
            DERIVE.replace("\"@/etc/secret\"", &format!("\"{value}")),
            DERIVE.replace("\"@/etc/secret\"", &format!("[\"{value}\"]")),
            format!("[source]\nkind = \"file\"\npath = \"{value}\"\n"),
            format!("{DERIVE}key = \"{value}\"\n"),
            format!("{DERIVE}algorithm = \"static\"\nkey_file = \"{value}\"\n"),
            format!("{DERIVE}{value}\n"),
        ] {
            host.configure(&text);
            every(&text);
        }
    }
    // The wrong file named as the configuration.
    for (content, what) in [(&SECRET[..], "raw"), (hex.as_bytes(), "hex"), (FIRST.as_bytes(), "key text")] {
        host.write("etc/agent.toml", content, 0o600);
        every(&format!("--config {what}"));
    }
    // What stands in the sysctl.d file when it is not ours, or was changed.
    host.use_keys(FIRST);
    for text in [format!("net.ipv4.tcp_fastopen_key = {SECOND}\n"), format!("# {SECOND} {hex}\n")] {
        host.write("sysctl.d/50-tcp_fastopen_key.conf", text, 0o600);
        for command in ["check", "once"] {
            quiet(&secrets, "another's file", &host.run(command, &["--format", "json"]));
        }
    }
}

// ---- the daemon ----

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

    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("a step of the test works");
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
