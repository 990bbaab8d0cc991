//! What an operator's command will do to a pool, and to how many nodes, in words: `tfoctl` says it before it sends a
//! command, and the pages of the coordinator before a button is pressed.
//!
//! `steps` are the commands to a rotation, `rotations` those that begin one, `members` those about named nodes.  Must not
//! know: how a command is confirmed or sent.

pub mod members;
pub mod rotations;
pub mod steps;

use std::io::{self, Write};

use serde::Serialize;

use super::plain::plain;
use super::report::Report;
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::PoolName;
use tfo_model::state::SlotPrint;
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::v1::fleet::PoolStatus;

/// What a command will do.  Its JSON is that of `--dry-run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    dry_run: bool,
    pool: PoolName,
    action: &'static str,
    /// The pool as the operator sees it.
    revision: Revision,
    generation: Generation,
    /// How many nodes it affects.
    nodes: usize,
    plan: Vec<String>,
    #[serde(skip)]
    harmful: bool,
}

impl Plan {
    /// A plan for this pool, as it is now.
    #[must_use]
    pub fn new(action: &'static str, status: &PoolStatus, nodes: usize) -> Self {
        let PoolStatus { pool, revision, generation, .. } = status;
        Self {
            dry_run: true,
            pool: pool.clone(),
            action,
            revision: *revision,
            generation: *generation,
            nodes,
            plan: Vec::new(),
            harmful: true,
        }
    }

    /// A plan that needs no confirmation.
    #[must_use]
    pub fn harmless(self) -> Self {
        Self { harmful: false, ..self }
    }

    /// Adds a line.
    #[must_use]
    pub fn line(mut self, text: impl AsRef<str>) -> Self {
        self.plan.push(plain(text.as_ref()));
        self
    }

    /// The command.
    #[must_use]
    pub fn action(&self) -> &'static str {
        self.action
    }

    /// How many nodes it affects.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// What it does, line by line.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.plan
    }

    /// Whether it can do harm, so that it needs a confirmation.
    #[must_use]
    pub fn is_harmful(&self) -> bool {
        self.harmful
    }
}

impl Report for Plan {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} in pool {}, generation {}:", self.action, self.pool, self.generation)?;
        self.plan.iter().try_for_each(|line| writeln!(out, "  {line}"))
    }
}

/// A slot: its fingerprint, and the epoch where it has one.
#[must_use]
pub fn slot(slot: Option<SlotPrint>) -> String {
    match slot {
        None => "-".to_owned(),
        Some(SlotPrint { epoch: None, fingerprint }) => fingerprint.to_string(),
        Some(SlotPrint { epoch: Some(epoch), fingerprint }) => format!("{fingerprint} ({epoch})"),
    }
}

/// How long it is until an instant: `in 5h 12m`.
#[must_use]
pub fn until_then(until: UnixTime, now: UnixTime) -> String {
    let secs = until.secs_since(now);
    // Seconds are noise beyond minutes.
    format!("in {}", duration_text(if secs > 600 { secs - secs % 60 } else { secs }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_as_exact_as_it_is_near() {
        let now = UnixTime::from_secs(1_000);
        for (secs, text) in [(0, "in 0s"), (59, "in 59s"), (600, "in 10m"), (18_725, "in 5h 12m"), (601, "in 10m")] {
            assert_eq!(until_then(now.plus(secs), now), text);
        }
    }
}
