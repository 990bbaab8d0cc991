//! Whole-process time of `tfo-agent once` beside its peers, as ratios; and what an idle `tfo-agent run` weighs.
//!
//! `cargo bench --bench once` as root.  Peers: the shell recipe (openssl, a file, chmod, chown, sysctl -p), and tofurkey
//! if `TOFURKEY` names its program (it is not in Debian; build it from its own source).  Everything runs in a network
//! namespace of its own and in a directory under target/, so on a real disk: the agent's two fsyncs count.  /run is a tmpfs.
//! `TFO_SMOKE=1` runs each once, to see that it still works; its figures mean nothing.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Runs of each command; taken in turn, so that a drift of the machine's speed meets all alike.
const RUNS: usize = 300;
/// How long the idle daemon is watched.
const IDLE: Duration = Duration::from_secs(65);
/// Set for the process that is inside its own network namespace.
const INSIDE: &str = "TFO_BENCH_INSIDE";

/// What people use today (Wikitech, "TCP Fast Open"), with its errors mended: one random key, a file, sysctl -p.
const RECIPE: &str = r#"
set -e
key=$(openssl rand -hex 16 | sed -E 's/(.{8})(.{8})(.{8})(.{8})/\1-\2-\3-\4/')
echo "net.ipv4.tcp_fastopen_key=$key" > "$0"
chmod 0600 "$0"
chown root:root "$0"
sysctl -q -p "$0"
"#;

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to write the kernel's key in a network namespace");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("the path of this program");
        // /run is a tmpfs wherever systemd runs; here it may be on the disk.
        let inside = "mount -t tmpfs -o mode=755 tmpfs /run && exec \"$0\"";
        let mut unshare = Command::new("unshare");
        let inside = unshare.args(["--net", "--mount", "sh", "-c", inside]).arg(own).env(INSIDE, "1").status();
        return if inside.expect("unshare (util-linux)").success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let smoke = std::env::var_os("TFO_SMOKE").is_some();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("once-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory under target/");
    compare(&dir, if smoke { 2 } else { RUNS });
    weigh(&dir, if smoke { Duration::from_secs(2) } else { IDLE });
    fs::remove_dir_all(&dir).expect("our own directory");
    ExitCode::SUCCESS
}

fn agent(command: &str, config: &Path) -> Command {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_tfo-agent"));
    agent.arg(command).arg("--config").arg(config);
    agent
}

fn secret(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let mut bytes = [0; 32];
    tfo_crypto::random::fill(&mut bytes).expect("randomness");
    fs::write(&path, bytes).expect("writing a secret");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("chmod");
    path
}

/// A configuration with a secret of its own: running two of them in turn changes the keys each time.
fn config(dir: &Path, name: &str) -> PathBuf {
    let secret = secret(dir, &format!("{name}.secret"));
    let (dir_text, secret) = (dir.display(), secret.display());
    let text = format!(
        "[agent]\nruntime_dir = \"/run/tfo-agent\"\n[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"{secret}\"\n\
         interval = \"7d\"\n[install]\nsysctl_file = \"{dir_text}/50-tcp_fastopen_key.conf\"\n"
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).expect("writing a configuration");
    path
}

/// Wall time of a whole process; it must succeed.
fn time(mut command: Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let start = Instant::now();
    let status = command.status().expect("starting a command");
    let taken = start.elapsed();
    assert!(status.success(), "{command:?} ended with {status}");
    taken
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn compare(dir: &Path, runs: usize) {
    let (a, b) = (config(dir, "a"), config(dir, "b"));
    let tofurkey = std::env::var_os("TOFURKEY");
    let tofurkey_secret = secret(dir, "tofurkey.secret");
    let names = ["/bin/true", "once, changed key", "once, unchanged", "shell recipe", "tofurkey -o"];
    let mut times: [Vec<Duration>; 5] = Default::default();
    for run in 0..runs {
        let (config, recipe_file) = (if run % 2 == 0 { &a } else { &b }, dir.join("recipe.conf"));
        times[0].push(time(Command::new("/bin/true")));
        times[1].push(time(agent("once", config)));
        times[2].push(time(agent("once", config)));
        let mut recipe = Command::new("/bin/bash");
        recipe.arg("-c").arg(RECIPE).arg(recipe_file);
        times[3].push(time(recipe));
        if let Some(program) = &tofurkey {
            let mut command = Command::new(program);
            command.args(["-o", "-i", "604800", "-k"]).arg(&tofurkey_secret);
            times[4].push(time(command));
        }
    }
    let medians = times.each_mut().map(|times| (!times.is_empty()).then(|| median(times).as_secs_f64() * 1e3));
    println!("whole process, median of {runs} runs in turn");
    for (name, median) in names.iter().zip(medians) {
        match median {
            Some(ms) => println!("  {name:<20} {ms:8.2} ms"),
            None => println!("  {name:<20}      not measured: TOFURKEY names no program"),
        }
    }
    let ratio = |a: usize, b: usize| medians[a].zip(medians[b]).map(|(a, b)| a / b);
    let rows = [
        ("shell recipe / once, changed key (aim: at least 6)", ratio(3, 1)),
        ("once, changed key / tofurkey (aim: at most 1.4; tofurkey persists nothing)", ratio(1, 4)),
        ("once, unchanged / tofurkey (aim: at most 1)", ratio(2, 4)),
    ];
    for (name, ratio) in rows {
        ratio.map_or_else(|| println!("  {name}: not measured"), |ratio| println!("  {name}: {ratio:.2}"));
    }
}

/// Memory, threads and wake-ups of an idle daemon with the default poll of 30 s.
fn weigh(dir: &Path, idle: Duration) {
    let mut daemon = agent("run", &config(dir, "idle"));
    daemon.stdin(Stdio::null()).stderr(Stdio::null());
    let mut daemon = daemon.spawn().expect("starting the daemon");
    let process = PathBuf::from(format!("/proc/{}", daemon.id()));
    let installed = Instant::now();
    while !fs::read_to_string("/run/tfo-agent/status.json").is_ok_and(|status| status.contains("\"state\":\"ok\"")) {
        assert!(installed.elapsed() < Duration::from_secs(10), "the daemon does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = switches(&process);
    std::thread::sleep(idle);
    let woken = switches(&process) - before;
    println!("tfo-agent run, idle, derive source, default poll of 30 s");
    println!(
        "  resident {} kB; of it private {} kB written, {} kB its own program's pages; threads {}",
        field(&process, "smaps_rollup", "Rss:"),
        field(&process, "smaps_rollup", "Private_Dirty:"),
        field(&process, "smaps_rollup", "Private_Clean:"),
        field(&process, "status", "Threads:")
    );
    println!("  {woken} wake-ups in {} s", idle.as_secs());
    daemon.kill().expect("our own child");
    daemon.wait().expect("our own child");
}

/// A number out of a `/proc/PID` file of `Name: value` lines.
fn field(process: &Path, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(process.join(file)).expect("a file of our own child");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel shows this field");
    line.split_whitespace().next().and_then(|value| value.parse().ok()).expect("a number")
}

fn switches(process: &Path) -> u64 {
    field(process, "status", "voluntary_ctxt_switches:")
}
