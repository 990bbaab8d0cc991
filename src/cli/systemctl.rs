//! A command that enables and starts its service at its end (`--enable`).

use std::process::Command;

use super::report::{Failure, Outcome};
use tfo_model::problem::{Problem, printable};

/// Enables and starts a unit, from now on and at every boot; `done` says what stays done if that fails.  Changes nothing
/// where it is enabled and runs.
///
/// # Errors
/// Fails with what systemd says.
pub fn enable_now(unit: &str, done: &str) -> Result<(), Failure> {
    let ran = Command::new("systemctl").args(["enable", "--now", unit]).output();
    let why = match ran {
        Ok(ended) if ended.status.success() => return Ok(()),
        Ok(ended) => String::from_utf8_lossy(&ended.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("{done}, but {unit} was not enabled and started: {}", printable(&why));
    let remedy = format!("see `journalctl -u {unit}`, then: systemctl enable --now {unit}");
    Err(Failure::new(Outcome::Failed, Problem::error("not_enabled", message, remedy)))
}
