//! `on_detached`: the operator's command for a node that has lost contact, to withdraw it from traffic.
//!
//! It runs inside the agent's sandbox, which examples/on-detached.conf opens for it: without capabilities, and with next to
//! nothing writable.  A command that needs more starts a unit of its own (`systemctl start`).  Must not know: keys.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tracing::{info, warn};

use super::contact::Standing;
use tfo_host::runtime::clock;

/// Longest run of the command.
const RUN_MAX: Duration = Duration::from_secs(60);

/// The command, and whether it ran for the current loss of contact.
#[derive(Debug, Default)]
pub struct Hook {
    done: bool,
    /// It could not be started, and that was logged.
    failed: bool,
    running: Option<(Child, Instant)>,
}

impl Hook {
    /// Runs `command` once for each time that the node becomes detached; called after every pass.
    pub fn update(&mut self, command: &[String], standing: Option<Standing>) {
        let detached = standing == Some(Standing::Detached);
        if !detached {
            (self.done, self.failed) = (false, false);
        } else if !self.done {
            self.run(command);
        }
    }

    fn run(&mut self, command: &[String]) {
        let [program, arguments @ ..] = command else { return };
        // Still running from the last time: tried again at the next pass.
        if self.running.is_some() {
            return;
        }
        // Its output may be anything, so it does not go into the agent's log.
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own, so that all that it starts can be killed.
            .process_group(0)
            .spawn();
        match started {
            Ok(child) => {
                warn!(program, pid = child.id(), "detached: running on_detached");
                self.running = Some((child, clock::monotonic()));
                self.done = true;
            }
            // Tried again at every pass, and logged once.
            Err(error) if !self.failed => {
                tracing::error!(program, %error, "detached, and on_detached cannot be started");
                self.failed = true;
            }
            Err(_) => {}
        }
    }

    /// Kills a command that runs too long; called after every pass, whatever the settings are now.
    pub fn reap(&mut self) {
        let Some((child, since)) = &mut self.running else { return };
        match child.try_wait() {
            Ok(None) if clock::left_of(RUN_MAX, *since).is_zero() => {
                warn!(pid = child.id(), "on_detached runs for too long: killing it");
                if let Err(error) = kill_process_group(Pid::from_child(child), Signal::KILL) {
                    warn!(%error, "cannot kill on_detached");
                }
            }
            Ok(None) => {}
            Ok(Some(status)) => {
                if status.success() {
                    info!("on_detached succeeded");
                } else {
                    tracing::error!(%status, "on_detached failed");
                }
                self.running = None;
            }
            Err(error) => {
                warn!(%error, "cannot wait for on_detached");
                self.running = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_could_not_be_started_is_tried_again_and_one_that_was_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, mark) = (dir.path().join("missing"), dir.path().join("mark"));
        let detached = Some(Standing::Detached);
        let mut hook = Hook::default();
        hook.update(&[missing.display().to_string()], detached);
        assert!(!hook.done && hook.failed && hook.running.is_none());
        let touch = ["/bin/sh".to_owned(), "-c".to_owned(), format!("echo x >> {}", mark.display())];
        hook.update(&touch, detached);
        assert!(hook.done && hook.running.is_some());
        let (child, _) = hook.running.as_mut().unwrap();
        child.wait().unwrap();
        // Still counted as running until it is reaped: the next loss of contact waits for that, and is not forgotten.
        hook.update(&touch, Some(Standing::Connected));
        hook.update(&touch, detached);
        assert!(!hook.done);
        hook.reap();
        assert!(hook.running.is_none());
        hook.update(&touch, detached);
        hook.update(&touch, detached);
        let (child, _) = hook.running.as_mut().unwrap();
        child.wait().unwrap();
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "x\nx\n");
    }
}
