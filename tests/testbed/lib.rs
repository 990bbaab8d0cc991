//! Shared parts of the tests: counted skips, polling, scratch directories, namespaces, machines, the programs, and
//! fleets of them.
//!
//! Not shipped.  A test that needs something the machine may lack calls `skip_unless!(need_root());`: the
//! skip is printed and recorded, and `tests/run` counts it as skipped, not as passed.
//!
//! Everything that is made here has a name of `leftovers`, and goes with the value that stands for it.

pub mod axe;
pub mod browser;
pub mod cable;
pub mod cluster;
pub mod config;
pub mod coordinator;
pub mod daemon;
pub mod etcd;
pub mod fake_coordinator;
pub mod fleet;
pub mod history;
pub mod host;
pub mod kernel_clock;
pub mod large;
pub mod leftovers;
pub mod levers;
pub mod machine;
mod netns;
pub mod output;
pub mod package;
pub mod pki;
pub mod ports;
pub mod proxy;
pub mod random;
pub mod secrets;
pub mod signal;
pub mod soaked;
pub mod swarm;
pub mod terminal;
pub mod transcript;
pub mod wall_clock;

pub use netns::{NetNs, ip};
pub use ports::free_port;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// File that takes one line per skipped test, `test name<TAB>reason`.  `tests/run` sets it and counts its lines.
const SKIP_LOG: &str = "TFO_SKIP_LOG";

/// Set by `tests/run` to `short`, `long` or `full`; a test that is run by hand is short.
const SIZE: &str = "TFO_SIZE";

/// Longest wait for anything that a program does at once.
pub const SOON: Duration = Duration::from_secs(20);

/// Longest wait for anything that takes some seconds on an idle machine: agents pause up to 8 s after failures.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long `poll_until` waits between two looks, at first.
pub const POLL_EVERY: Duration = Duration::from_millis(10);

/// After a while it is a part of the time that it has waited, so that who waits for minutes leaves the processors to the others,
/// and no more than this.
const POLL_EVERY_MAX: Duration = Duration::from_millis(250);
const POLL_PARTS: u32 = 50;

/// Says that this test cannot run here, and why.  The caller returns afterwards.
///
/// Written to the process's stderr directly: libtest would swallow what `eprintln!` prints in a passing test.
#[track_caller]
pub fn skip(reason: &str) {
    let name = test_name(Location::caller());
    let line = format!("SKIPPED {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr takes the skip");
    if let Some(log) = std::env::var_os(SKIP_LOG).filter(|log| !log.is_empty()) {
        // One write with O_APPEND: test binaries that run side by side do not mix their lines.
        let mut log = OpenOptions::new().create(true).append(true).open(log).expect("TFO_SKIP_LOG can be opened");
        log.write_all(format!("{name}\t{reason}\n").as_bytes()).expect("TFO_SKIP_LOG takes the skip");
    }
}

/// `binary::test`: the binary from its file, `agent-0123456789abcdef`, the test from the thread that libtest names after it.
///
/// With `--test-threads=1` libtest runs tests on the main thread; the place of the call then stands for the name.
fn test_name(at: &Location<'_>) -> String {
    let file = test_executable();
    let file = file.file_stem().expect("a program is a file").to_string_lossy();
    let binary = file.rsplit_once('-').map_or(&*file, |(binary, _)| binary);
    match std::thread::current().name() {
        Some(name) if name != "main" => format!("{binary}::{name}"),
        _ => format!("{binary}::{}:{}", at.file(), at.line()),
    }
}

/// Ends the calling test, which has said that it was skipped: `skip_unless!(need_netns() && need_tool("nginx"));`
#[macro_export]
macro_rules! skip_unless {
    ($needs:expr) => {
        if !($needs) {
            return;
        }
    };
}

/// True for uid 0; otherwise skips and returns false.
#[track_caller]
pub fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// True if this machine lets us make network namespaces (root, and not locked into a container); otherwise skips.
#[track_caller]
pub fn need_netns() -> bool {
    let made = need_root() && need_tool("ip") && need_tool("nsenter");
    if made && !quiet(Command::new("unshare").args(["--net", "true"])) {
        skip("needs to make network namespaces");
        return false;
    }
    made
}

/// True if the program `name` is in `PATH`; otherwise skips and returns false.
#[track_caller]
pub fn need_tool(name: &str) -> bool {
    let found = has_tool(name);
    if !found {
        skip(&format!("needs {name}, which is not in PATH"));
    }
    found
}

/// True if the program `name` is in `PATH`.
pub fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// How many cases a test tries if there are many: some under `tests/run`, more under `--long` as CI does, all under `--full`.
pub fn by_size<T>(short: T, long: T, full: T) -> T {
    match std::env::var(SIZE).as_deref() {
        Ok("full") => full,
        Ok("long") => long,
        Ok("short") | Err(std::env::VarError::NotPresent) => short,
        other => panic!("{SIZE} is {other:?}; remedy: short, long or full"),
    }
}

/// True under `tests/run --full`.
pub fn full() -> bool {
    by_size(false, false, true)
}

/// Starts a program that the kernel ends when the calling thread does, without input.
pub fn mortal(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// Runs a command without its output; true if it ended with 0.
fn quiet(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn test_executable() -> PathBuf {
    std::env::current_exe().expect("a process has an executable")
}

/// A program under test, by its name: `target/PROFILE/NAME`, beside `target/PROFILE/deps` with the test.
///
/// Cargo builds the programs of the root package before its tests; `CARGO_BIN_EXE_...` is not there for a library.
pub fn program(name: &str) -> &'static str {
    let deps = test_executable();
    let program = deps.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps").join(name);
    assert!(program.is_file(), "{} is missing: build it with `cargo build --bin {name}`", program.display());
    // As long as the process: one path for each program and call.
    String::leak(program.into_os_string().into_string().expect("target paths are UTF-8"))
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).canonicalize().expect("the sources are there").join(path)
}

/// The `tfo-agent` binary under test.
pub fn agent_path() -> &'static Path {
    Path::new(program("tfo-agent"))
}

/// A command for the `tfo-agent` binary under test, with no input.
pub fn agent() -> Command {
    let mut command = Command::new(agent_path());
    command.stdin(Stdio::null());
    command
}

/// An empty directory that goes away with the value.
pub fn scratch() -> TempDir {
    scratch_below(&std::env::temp_dir()).expect("a scratch directory can be made")
}

/// The same in memory, if there is such a place: for very many files.
pub fn scratch_in_memory() -> TempDir {
    scratch_below(Path::new(leftovers::MEMORY_DIR)).unwrap_or_else(|_| scratch())
}

fn scratch_below(dir: &Path) -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix(&leftovers::name("")).tempdir_in(dir)
}

/// A lock over all processes for tests of one kind that cannot run beside each other, released on drop.
pub fn alone(kind: &str) -> File {
    let file = File::create(shared(&format!("{kind}.lock"))).expect("target/tmp takes it");
    file.lock().expect("a lock can be waited for");
    file
}

/// `target/tmp/tfo-test-NAME`: what tests share that run in processes of their own.
pub fn shared(name: &str) -> PathBuf {
    let executable = test_executable();
    let target = executable.ancestors().nth(3).expect("tests are in target/PROFILE/deps");
    let dir = target.join("tmp");
    std::fs::create_dir_all(&dir).expect("target is ours");
    dir.join(format!("tfo-test-{name}"))
}

/// Looks again and again until `look` returns something, for at most `deadline`.  `None`: time is up.
///
/// Looks at least once, and once more at the end, so a slow machine never fails on a condition that holds.
pub fn poll_some<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = now();
    loop {
        let last_look = started.elapsed() >= deadline;
        let seen = look();
        if seen.is_some() || last_look {
            return seen;
        }
        std::thread::sleep((started.elapsed() / POLL_PARTS).clamp(POLL_EVERY, POLL_EVERY_MAX));
    }
}

/// Looks again and again until `look` is true, for at most `deadline`.  False: time is up.
#[must_use]
pub fn poll_until(deadline: Duration, mut look: impl FnMut() -> bool) -> bool {
    poll_some(deadline, || look().then_some(())).is_some()
}

/// The monotonic clock, for deadlines and durations of tests.
#[expect(
    clippy::disallowed_methods,
    reason = "tests wait for other processes, which runtime/clock.rs cannot stand for"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for times in what a scripted server says.
#[expect(clippy::disallowed_methods, reason = "as above")]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}
