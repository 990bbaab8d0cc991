//! What the integration tests share: skips that are counted, polling, scratch directories, namespaces, the programs.
//!
//! Each test binary compiles this file for itself and uses a part of it, hence the `dead_code` exceptions.
//! A test that needs something which the machine lacks says `if !support::need_root() { return; }`: the skip is printed
//! and recorded, and `tests/run` counts it as skipped, not as passed.

#[allow(dead_code, reason = "each test binary uses its own part")]
#[allow(clippy::unwrap_used, reason = "a test ends where its daemon is not what it made")]
pub(crate) mod daemon;
#[allow(dead_code, reason = "each test binary uses its own part")]
#[allow(clippy::unwrap_used, reason = "a test ends where its coordinator is not what it made")]
pub(crate) mod fake_coordinator;
#[allow(dead_code, reason = "each test binary uses its own part")]
#[allow(clippy::unwrap_used, reason = "a test ends where its fleet is not what it made")]
pub(crate) mod fleet;
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) mod host;
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) mod machine;
#[allow(dead_code, reason = "each test binary uses its own part")]
mod netns;
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) mod package;
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) mod pki;
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) mod secrets;
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) mod transcript;
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use netns::NetNs;

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// File that takes one line per skipped test, `test name<TAB>reason`.  `tests/run` sets it and counts its lines.
const SKIP_LOG: &str = "TFO_SKIP_LOG";

/// Set to `1` by `tests/run --full`: tests with a long matrix then run all of it.
const FULL: &str = "TFO_FULL";

/// How long `poll_until` waits between two looks.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(10);

/// Says that this test cannot run here, and why.  The caller returns afterwards.
///
/// Written to the process's stderr directly: libtest would swallow what `eprintln!` prints in a passing test.
#[track_caller]
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn skip(reason: &str) {
    let name = test_name(Location::caller());
    let line = format!("SKIPPED {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr takes the skip");
    if let Some(log) = std::env::var_os(SKIP_LOG).filter(|log| !log.is_empty()) {
        // One write with O_APPEND: test binaries that run side by side do not mix their lines.
        let mut log = OpenOptions::new().create(true).append(true).open(log).expect("TFO_SKIP_LOG can be opened");
        log.write_all(format!("{name}\t{reason}\n").as_bytes()).expect("TFO_SKIP_LOG takes the skip");
    }
}

/// `binary::test`, from the thread that libtest names after the test.
///
/// With `--test-threads=1` libtest runs tests on the main thread; the place of the call then stands for the name.
fn test_name(at: &Location<'_>) -> String {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name != "main" => format!("{}::{name}", env!("CARGO_CRATE_NAME")),
        _ => format!("{}::{}:{}", env!("CARGO_CRATE_NAME"), at.file(), at.line()),
    }
}

/// True for uid 0; otherwise skips and returns false.
#[track_caller]
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// True if this machine lets us make network namespaces (root, and not locked into a container); otherwise skips.
#[track_caller]
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn need_netns() -> bool {
    let made = need_root() && need_tool("ip") && need_tool("nsenter");
    if made && !quiet(Command::new("unshare").args(["--net", "true"])) {
        skip("needs to make network namespaces");
        return false;
    }
    made
}

/// True if the program `name` is in `PATH`; otherwise skips and returns false.
#[track_caller]
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn need_tool(name: &str) -> bool {
    let found = has_tool(name);
    if !found {
        skip(&format!("needs {name}, which is not in PATH"));
    }
    found
}

/// True if the program `name` is in `PATH`.
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// True under `tests/run --full`.
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn full() -> bool {
    std::env::var_os(FULL).is_some_and(|value| value == "1")
}

/// Runs a command without its output; true if it ended with 0.
fn quiet(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// The `tfo-agent` binary under test.
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn agent_path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tfo-agent"))
}

/// A command for the `tfo-agent` binary under test, with no input.
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn agent() -> Command {
    let mut command = Command::new(agent_path());
    command.stdin(Stdio::null());
    command
}

/// An empty directory that goes away with the value.
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("tfo-test-").tempdir().expect("a scratch directory can be made")
}

/// Looks again and again until `look` returns something, for at most `deadline`.  `None`: time is up.
///
/// Looks at least once, and once more at the end, so a slow machine never fails on a condition that holds.
#[allow(dead_code, reason = "each test binary uses its own part")]
pub(crate) fn poll_some<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = now();
    loop {
        let last_look = started.elapsed() >= deadline;
        let seen = look();
        if seen.is_some() || last_look {
            return seen;
        }
        std::thread::sleep(POLL_EVERY);
    }
}

/// Looks again and again until `look` is true, for at most `deadline`.  False: time is up.
#[allow(dead_code, reason = "each test binary uses its own part")]
#[must_use]
pub(crate) fn poll_until(deadline: Duration, mut look: impl FnMut() -> bool) -> bool {
    poll_some(deadline, || look().then_some(())).is_some()
}

/// The monotonic clock, for deadlines and durations of tests.
#[allow(dead_code, reason = "each test binary uses its own part")]
#[expect(
    clippy::disallowed_methods,
    reason = "tests wait for other processes, which runtime/clock.rs cannot stand for"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
