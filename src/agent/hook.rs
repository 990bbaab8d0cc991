//! The command that an operator wants run when this node has lost contact: to withdraw it from traffic.
//!
//! It runs as the agent does, inside its sandbox: without a capability, and with next to nothing writable.  What needs more is
//! a unit of its own that the command starts (`systemctl start`), for systemd starts that outside.  Must not know: keys.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::contact::Standing;
use crate::runtime::clock;

/// Longest run of the command: after it the node is as detached as before.
const RUN_MAX: Duration = Duration::from_secs(60);

/// The command, and whether it was run for the present loss of contact.
#[derive(Debug, Default)]
pub struct Hook {
    done: bool,
    running: Option<(Child, Instant)>,
}

impl Hook {
    /// Runs `command` once for each time that the node becomes detached; called after every pass.
    pub fn update(&mut self, command: &[String], standing: Option<Standing>) {
        self.reap();
        let detached = standing == Some(Standing::Detached);
        if detached && !self.done {
            self.run(command);
        }
        self.done = detached;
    }

    fn run(&mut self, command: &[String]) {
        let [program, arguments @ ..] = command else { return };
        if self.running.is_some() {
            warn!(program, "on_detached is still running from the last time: not run again");
            return;
        }
        // Nothing of it goes into our log: it is not ours, and its output may be anything.
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => {
                warn!(program, pid = child.id(), "detached: on_detached is run");
                self.running = Some((child, clock::monotonic()));
            }
            Err(error) => tracing::error!(program, %error, "detached, and on_detached cannot be run"),
        }
    }

    fn reap(&mut self) {
        let Some((child, since)) = &mut self.running else { return };
        match child.try_wait() {
            Ok(None) if clock::left_of(RUN_MAX, *since).is_zero() => {
                warn!(pid = child.id(), "on_detached takes too long and is killed");
                if let Err(error) = child.kill() {
                    warn!(%error, "cannot kill on_detached");
                }
            }
            Ok(None) => {}
            Ok(Some(status)) => {
                if status.success() {
                    info!("on_detached is done");
                } else {
                    tracing::error!(%status, "on_detached has failed");
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
