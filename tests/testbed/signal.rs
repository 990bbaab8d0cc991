//! Signals to programs that a test has started.

use rustix::process::{Pid, Signal, kill_process};

use crate::{SOON, poll_until};

/// Sends a signal to the process `id`, which has not been waited for.  After SIGSTOP every thread stands still on return: the
/// kernel stops them one after another, and one that still runs would answer.
///
/// # Panics
///
/// If there is no such process, or if it does not stop.
#[track_caller]
pub fn send(id: u32, signal: Signal) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("an id of a process");
    kill_process(pid, signal).expect("the program runs");
    if signal == Signal::STOP {
        assert!(poll_until(SOON, || stands_still(id)), "process {id} does not stop");
    }
}

/// Whether each thread is stopped, by proc_pid_stat(5): the state is what follows the name in parentheses.
fn stands_still(id: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else { return false };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // A thread that has ended since has none.
        stat.is_empty() || stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}
