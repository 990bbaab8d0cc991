//! Signals to programs that a test has started.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Sends a signal to a child of this process that was not waited for.  After SIGSTOP all of its threads stand still on return:
/// the kernel stops them one after another, and one that still ran could answer.
///
/// # Panics
///
/// If there is no such child.
#[track_caller]
pub fn send(id: u32, signal: Signal) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("an id of a process");
    kill_process(pid, signal).expect("the program runs");
    if signal == Signal::STOP {
        // wait(2) tells of a stop when the last thread has stopped.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), stopped).expect("it is a child");
    }
}
