//! `--enable`: the daemon, from now on and at every boot.

use std::process::Command;

use tfo_cli::report::{Failure, Outcome};
use tfo_model::problem::Problem;

/// The unit of the daemon.
const UNIT: &str = "tfo-agent.service";

/// Enables and starts it.  One that runs already takes the new files by itself.
pub(super) fn service() -> Result<(), Failure> {
    let ran = Command::new("systemctl").args(["enable", "--now", UNIT]).output();
    let why = match ran {
        Ok(done) if done.status.success() => return Ok(()),
        Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("this host has joined, but {UNIT} was not enabled: {}", tfo_model::problem::printable(&why));
    let remedy = format!("`systemctl enable --now {UNIT}`, and see `journalctl -u {UNIT}`");
    Err(Failure::new(Outcome::Failed, Problem::error("not_enabled", message, remedy)))
}
