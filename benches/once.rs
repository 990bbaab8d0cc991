//! Whole-process time of `tfo-agent once` beside its peers, as ratios; and what an idle `tfo-agent run` weighs.
//!
//! `cargo bench --bench once` as root.  Peers: the floor (benches/floor.c: the same work on file and kernel, and nothing else;
//! needs a C compiler, as the build does), the shell recipe (openssl, a file, chmod, chown, sysctl -p), `once` without
//! Landlock, and tofurkey if `TOFURKEY` names its program (it is not in Debian; build it from its own source).  Everything
//! runs in a network namespace of its own and in a directory under target/, so on a real disk: the agent's two fsyncs count.
//! /run is a tmpfs.  Times are of the clock on the wall and of the processor: the second one is a process's own, and means something on
//! a machine that does other work, but says nothing of fsync.  `TFO_ONCE_AGENT` names
//! another build's agent.  `TFO_SMOKE=1` runs each once, to see that it still works; its figures mean nothing.  What the figures were:
//! docs/explanation/one-shot.md.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::json;

use tfo_testbed::config::client_files;
use tfo_testbed::coordinator::World;
use tfo_testbed::{SOON, poll_until};

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

/// What is timed, in the order in which they run.
const NAMES: [&str; 8] = [
    "/bin/true",
    "floor, changed key",
    "once, changed key",
    "once, unchanged",
    "  without Landlock, changed key",
    "  without Landlock, unchanged",
    "shell recipe",
    "tofurkey -o",
];
// Their places in it.
const TRUE: usize = 0;
const FLOOR: usize = 1;
const CHANGED: usize = 2;
const UNCHANGED: usize = 3;
const OPEN_CHANGED: usize = 4;
const OPEN_UNCHANGED: usize = 5;
const RECIPE_RUN: usize = 6;
const TOFURKEY: usize = 7;

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to write the kernel's key in a network namespace");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("the path of this program");
        // /run is a tmpfs wherever systemd runs; here it may be on the disk.
        let inside = "ip link set lo up && mount -t tmpfs -o mode=755 tmpfs /run && exec \"$0\"";
        let mut unshare = Command::new("unshare");
        let inside = unshare.args(["--net", "--mount", "sh", "-c", inside]).arg(own).env(INSIDE, "1").status();
        return if inside.expect("unshare (util-linux)").success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let smoke = std::env::var_os("TFO_SMOKE").is_some();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("once-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory under target/");
    let idle = if smoke { Duration::from_secs(2) } else { IDLE };
    compare(&dir, if smoke { 2 } else { RUNS });
    weigh("derive", &derived(&dir, "idle", ""), idle);
    weigh_with_coordinator(&dir, idle);
    fs::remove_dir_all(&dir).expect("our own directory");
    ExitCode::SUCCESS
}

fn agent(command: &str, config: &Path) -> Command {
    let program = std::env::var_os("TFO_ONCE_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_tfo-agent").into());
    let mut agent = Command::new(program);
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

/// A configuration with this source; `agent` are further lines of `[agent]`.
fn config(dir: &Path, name: &str, agent: &str, source: &str) -> PathBuf {
    let file = dir.join("50-tcp_fastopen_key.conf");
    let text = format!(
        "[agent]\nruntime_dir = \"/run/tfo-agent\"\n{agent}[source]\n{source}[install]\nsysctl_file = {file:?}\n"
    );
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).expect("writing a configuration");
    path
}

/// A configuration with a secret of its own: running two of them in turn changes the keys each time.
fn derived(dir: &Path, name: &str, agent: &str) -> PathBuf {
    let secret = secret(dir, &format!("{name}.secret"));
    let schedule = format!("kind = \"derive\"\n[[source.schedule]]\nsecret = {secret:?}\ninterval = \"7d\"\n");
    config(dir, name, agent, &schedule)
}

/// What one process took.
#[derive(Clone, Copy)]
struct Taken {
    wall: Duration,
    /// Without its children: for a shell it means nothing.
    processor: Duration,
    /// Minor page faults.
    faults: u64,
}

/// What a whole process takes; it must succeed.
fn time(mut command: Command) -> Taken {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let start = Instant::now();
    let mut child = command.spawn().expect("starting a command");
    // Not reaped yet, so that its counters are still there.
    waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("our own child");
    let wall = start.elapsed();
    let taken = Taken { wall, processor: processor(&child), faults: faults(&child) };
    let status = child.wait().expect("our own child");
    assert!(status.success(), "{command:?} ended with {status}");
    taken
}

/// The first field of /proc/PID/schedstat, in nanoseconds (Linux, Documentation/scheduler/sched-stats.rst).
fn processor(child: &Child) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/schedstat", child.id())).expect("a kernel with CONFIG_SCHED_INFO");
    Duration::from_nanos(stat.split(' ').next().and_then(|spent| spent.parse().ok()).expect("a number"))
}

/// The tenth field of /proc/PID/stat (proc(5)); the second one is the name, which may have spaces.
fn faults(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("a file of our own child");
    let (_, fields) = stat.rsplit_once(") ").expect("the name is in parentheses");
    fields.split(' ').nth(7).and_then(|faults| faults.parse().ok()).expect("a number")
}

/// The floor, compiled.
fn floor(dir: &Path) -> PathBuf {
    let program = dir.join("floor");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(&program).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/floor.c"));
    assert!(cc.status().expect("a C compiler").success(), "floor.c does not compile");
    program
}

/// Two texts of keys that have nothing in common.
const FLOOR_KEYS: [&str; 2] = ["13121110-17161514-1b1a1918-1f1e1d1c", "deadbeef-00000002-cafef00d-00000004"];

/// The median.
fn middle<T: Ord>(taken: &[Taken], of: impl Fn(&Taken) -> T) -> T {
    let mut values: Vec<T> = taken.iter().map(of).collect();
    values.sort_unstable();
    values.swap_remove(values.len() / 2)
}

/// What one round runs: every `once` after another that changed the key, so that each finds what it is named for.
fn round(dir: &Path, run: usize, tools: &Tools) -> Vec<(usize, Command)> {
    let mut floor = Command::new(&tools.floor);
    let [one, two] = if run.is_multiple_of(2) { [0, 1] } else { [1, 0] }.map(|key| FLOOR_KEYS[key]);
    floor.arg(dir.join("floor.conf")).args([one, two]);
    let mut recipe = Command::new("/bin/bash");
    recipe.arg("-c").arg(RECIPE).arg(dir.join("recipe.conf"));
    let mut commands = vec![
        (TRUE, Command::new("/bin/true")),
        (FLOOR, floor),
        (CHANGED, agent("once", &tools.confined)),
        (UNCHANGED, agent("once", &tools.confined)),
        (OPEN_CHANGED, agent("once", &tools.open)),
        (OPEN_UNCHANGED, agent("once", &tools.open)),
        (RECIPE_RUN, recipe),
    ];
    if let Some(program) = &tools.tofurkey {
        let mut command = Command::new(program);
        command.args(["-o", "-i", "604800", "-k"]).arg(&tools.tofurkey_secret);
        commands.push((TOFURKEY, command));
    }
    commands
}

/// What the rounds need.
struct Tools {
    floor: PathBuf,
    confined: PathBuf,
    open: PathBuf,
    tofurkey: Option<std::ffi::OsString>,
    tofurkey_secret: PathBuf,
}

fn compare(dir: &Path, runs: usize) {
    let tools = Tools {
        floor: floor(dir),
        confined: derived(dir, "confined", ""),
        open: derived(dir, "open", "landlock = false\n"),
        tofurkey: std::env::var_os("TOFURKEY"),
        tofurkey_secret: secret(dir, "tofurkey.secret"),
    };
    let mut taken: [Vec<Taken>; NAMES.len()] = Default::default();
    for run in 0..runs {
        round(dir, run, &tools).into_iter().for_each(|(row, command)| taken[row].push(time(command)));
    }
    let load = fs::read_to_string("/proc/loadavg").expect("proc(5)");
    println!("whole process, median of {runs} runs in turn; load {}", load.split(' ').next().unwrap_or_default());
    println!("  {:<32}      wall  processor  page faults", "");
    for (row, name) in NAMES.iter().enumerate() {
        if taken[row].is_empty() {
            println!("  {name:<32} not measured: TOFURKEY names no program");
            continue;
        }
        let faults = middle(&taken[row], |one| one.faults);
        let [wall, processor] = [WALL, PROCESSOR].map(|of| middle(&taken[row], of).as_secs_f64() * 1e3);
        let processor = if row == RECIPE_RUN { String::new() } else { format!("{processor:.2} ms") };
        println!("  {name:<32} {wall:6.2} ms {processor:>10} {faults:12}");
    }
    for (name, (above, below)) in RATIOS {
        let ratio = |of: fn(&Taken) -> Duration| {
            let [above, below] = [above, below].map(|row| (!taken[row].is_empty()).then(|| middle(&taken[row], of)));
            let (above, below) = above.zip(below)?;
            Some(format!("{:.2}", above.as_secs_f64() / below.as_secs_f64()))
        };
        let processor = if above == RECIPE_RUN { None } else { ratio(PROCESSOR) };
        let [wall, processor] = [ratio(WALL), processor].map(|ratio| ratio.unwrap_or_else(|| "-".to_owned()));
        println!("  {name}: wall {wall}, processor {processor}");
    }
}

const WALL: fn(&Taken) -> Duration = |taken| taken.wall;
const PROCESSOR: fn(&Taken) -> Duration = |taken| taken.processor;

/// What is compared with what.
const RATIOS: [(&str, (usize, usize)); 6] = [
    ("once, changed key / floor (aim: at most 1.5)", (CHANGED, FLOOR)),
    ("shell recipe / once, changed key (aim: at least 5)", (RECIPE_RUN, CHANGED)),
    ("once, unchanged / tofurkey (aim: at most 1)", (UNCHANGED, TOFURKEY)),
    ("once, changed key / tofurkey (tofurkey persists nothing)", (CHANGED, TOFURKEY)),
    ("Landlock, changed key: with / without", (CHANGED, OPEN_CHANGED)),
    ("Landlock, unchanged: with / without", (UNCHANGED, OPEN_UNCHANGED)),
];

/// The same with a coordinator, whose request is answered, and the next one waits there.
fn weigh_with_coordinator(dir: &Path, idle: Duration) {
    let mut world = World::new("interval = \"7d\"\nexpected_nodes = 1\n");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tfo-coordinator"));
    serve.args(["serve", "--config"]).arg(world.path("coordinator.toml")).stdin(Stdio::null());
    world.spawn_by(serve);
    assert!(poll_until(SOON, || world.observed("/readyz").is_some_and(|(status, _)| status == 200)), "{}", world.log());
    let (status, body) =
        world.operator().post("/v1/pools/edge/rotations", &json!({"mode": "first", "reason": "bench"}));
    assert_eq!(status, 200, "{body}");
    let identity = world.ca.client(&["a.cache.example.org"]);
    world.put("node.crt", identity.cert_pem.as_bytes(), 0o644);
    world.put("node.key", identity.key_pem.as_bytes(), 0o400);
    let files = client_files(&world.path("ca.crt"), &world.path("node.crt"), &world.path("node.key"));
    let url = format!("https://{}", world.api);
    let source = format!("kind = \"coordinator\"\nurls = [{url:?}]\npool = \"edge\"\n{files}");
    // Its file, with keys that no pool gave out, is another source's.
    let own = dir.join("coordinated");
    fs::create_dir_all(&own).expect("our own directory");
    weigh("coordinator (aim: at most 5 000 kB resident)", &config(&own, "coordinated", "", &source), idle);
}

/// Memory, threads and wake-ups of an idle daemon with the default poll of 30 s.
fn weigh(source: &str, config: &Path, idle: Duration) {
    // What another run left there is not this one's.
    fs::remove_file("/run/tfo-agent/status.json").ok();
    let mut daemon = agent("run", config);
    daemon.stdin(Stdio::null()).stderr(Stdio::null());
    let mut daemon = daemon.spawn().expect("starting the daemon");
    let process = PathBuf::from(format!("/proc/{}", daemon.id()));
    let is_well =
        || fs::read_to_string("/run/tfo-agent/status.json").is_ok_and(|text| text.contains("\"state\":\"ok\""));
    assert!(poll_until(SOON, is_well), "the daemon does not come up");
    std::thread::sleep(Duration::from_secs(1));
    let before = switches(&process);
    std::thread::sleep(idle);
    let woken = switches(&process) - before;
    println!("tfo-agent run, idle, default poll of 30 s, source {source}");
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
