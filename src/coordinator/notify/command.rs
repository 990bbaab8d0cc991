//! Delivers an event to a command: on its stdin, in bounded time, with bounded output.
//!
//! No shell.  The command runs inside the unit's sandbox, as the coordinator's user, with nothing of its environment but a
//! PATH.  It has a process group of its own, which ends with it, so it leaves nothing behind.  Must not know: keys.

use std::io::{self, PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use tfo_host::runtime::clock;

/// Longest run.
pub(super) const RUN_MAX: Duration = Duration::from_secs(30);
/// How often a running command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most bytes of its output that are logged.
const OUTPUT_BYTES_MAX: usize = 2_048;
/// What it finds programs by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command has not taken the event: why, and the begin of what it said.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// It could not be started.
    #[error("cannot start {program}")]
    NotStarted {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended, and not with success.
    #[error("{program} ended with {how}{}", said(output))]
    Failed {
        /// The program.
        program: String,
        /// `exit status: 1`, `signal: 9`.
        how: String,
        /// What it wrote.
        output: String,
    },
    /// It ran for too long, or the coordinator stops.
    #[error("{program} was killed after {} s{}", .after.as_secs(), said(output))]
    Killed {
        /// The program.
        program: String,
        /// After this time.
        after: Duration,
        /// What it wrote.
        output: String,
    },
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said: {output}") }
}

/// Kills all that the command has started, whatever way the run ends.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // An error: nothing of it is left.
        kill_process_group(self.0, Signal::KILL).ok();
    }
}

/// Blocking: runs the command to its end, at most `run_max`; `stop` ends it at once.
///
/// # Errors
/// Fails if it cannot be started, fails, or runs for too long.
pub(super) fn run(words: &[String], event: &[u8], run_max: Duration, stop: &AtomicBool) -> Result<(), NotTaken> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    let not_started = |source| NotTaken::NotStarted { program: program.clone(), source };
    let (reader, mut child) = start(program, arguments).map_err(not_started)?;
    let group = Group(Pid::from_child(&child));
    let begun = clock::monotonic();
    let mut output = Output { reader, kept: Vec::new() };
    let mut input = Input { stdin: child.stdin.take(), left: event };
    let is_over = loop {
        output.read();
        input.write();
        if has_ended(&child) {
            break true;
        }
        if clock::left_of(run_max, begun).is_zero() || stop.load(Ordering::Acquire) {
            break false;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    // Before it is reaped: until then no other group can have its number.
    drop(group);
    let status = child.wait().map_err(not_started)?;
    output.read();
    let (program, output) = (program.clone(), output.shown());
    if !is_over {
        return Err(NotTaken::Killed { program, after: clock::monotonic().duration_since(begun), output });
    }
    if status.success() { Ok(()) } else { Err(NotTaken::Failed { program, how: status.to_string(), output }) }
}

/// Whether the command itself has ended; it stays unreaped.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(Pid::from_child(child)), options).is_ok_and(|status| status.is_some())
}

/// The event, as far as the command has not read it.
struct Input<'a> {
    stdin: Option<ChildStdin>,
    left: &'a [u8],
}

impl Input<'_> {
    /// Writes what the pipe takes now, and closes it behind the last byte.
    fn write(&mut self) {
        while let Some(stdin) = &mut self.stdin {
            match stdin.write(self.left) {
                Ok(written) if written < self.left.len() => self.left = &self.left[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // All of it; or an error: it does not read.
                Ok(_) | Err(_) => self.stdin = None,
            }
        }
    }
}

fn start(program: &str, arguments: &[String]) -> io::Result<(PipeReader, Child)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    let child = Command::new(program)
        .args(arguments)
        // None of our own: neither the notify socket nor where the credentials are.
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    if let Some(stdin) = &child.stdin {
        rustix::io::ioctl_fionbio(stdin, true)?;
    }
    Ok((reader, child))
}

/// What the command writes: the begin is kept, the rest read and dropped, so that it never waits for a reader.
struct Output {
    reader: PipeReader,
    kept: Vec<u8>,
}

impl Output {
    /// Reads what is there.
    fn read(&mut self) {
        let mut bytes = [0; 4_096];
        // As much as a pipe holds: who writes without end does not keep us here.
        for _ in 0..16 {
            match self.reader.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    let room = OUTPUT_BYTES_MAX.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&bytes[..read.min(room)]);
                }
            }
        }
    }

    /// On one line, printable.
    fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let words = text.split(|c: char| c.is_control()).map(str::trim).filter(|line| !line.is_empty());
        words.collect::<Vec<_>>().join(" / ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).into()
    }

    fn says(result: Result<(), NotTaken>) -> String {
        result.err().map(|error| tfo_model::problem::chain(&error)).unwrap_or_default()
    }

    #[test]
    fn the_event_is_on_stdin_and_nothing_of_ours_in_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let (event, environment) = (dir.path().join("event"), dir.path().join("environment"));
        let script = format!("cat > {}; env | sed 's/=.*//' | sort > {}", event.display(), environment.display());
        run(&sh(&script), b"{\"version\":1}\n", LONG, &AtomicBool::new(false)).unwrap();
        assert_eq!(std::fs::read(event).unwrap(), b"{\"version\":1}\n");
        // What the shell itself sets is not ours.
        let names = std::fs::read_to_string(environment).unwrap();
        let ours: Vec<&str> = names.lines().filter(|name| !["PWD", "SHLVL", "OLDPWD", "_"].contains(name)).collect();
        assert_eq!(ours, ["LANG", "PATH"]);
    }

    #[test]
    fn a_failure_says_how_and_the_begin_of_the_output() {
        let run_it = |words: &[String]| says(run(words, b"{}", LONG, &AtomicBool::new(false)));
        assert_eq!(
            run_it(&sh("echo no >&2; echo route; exit 7")),
            "/bin/sh ended with exit status: 7; it said: no / route"
        );
        assert_eq!(run_it(&sh("exit 0")), "");
        assert!(run_it(&["/no/such/program".to_owned()]).starts_with("cannot start /no/such/program: "));
        // A command that reads nothing, and one that writes without end before it fails.
        assert_eq!(run_it(&sh("exec <&-; exit 0")), "");
        let much = run_it(&sh("head -c 1000000 /dev/zero | tr '\\0' x; exit 1"));
        assert!(much.len() < OUTPUT_BYTES_MAX + 200 && much.contains("xxx"), "{} bytes", much.len());
    }

    #[test]
    fn what_runs_too_long_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        for (run_max, stop) in [(Duration::from_millis(300), false), (LONG, true)] {
            let killed = run(&sh(&script), b"{}", run_max, &AtomicBool::new(stop)).unwrap_err();
            assert!(matches!(killed, NotTaken::Killed { .. }), "{killed}");
        }
        // What it leaves behind when it ends by itself, too.
        run(&sh(&format!("sleep 1000 & echo $! > {}; exit 0", pid.display())), b"{}", LONG, &AtomicBool::new(false))
            .unwrap();
        let left: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        let deadline = clock::monotonic() + LONG;
        while !is_gone() && clock::monotonic() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        assert!(is_gone(), "{left}");
    }
}
