//! The verdict on pools as text, as exit code, and the command `check`.  The coordinator computes it; here it is only
//! written.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::connect::{ConnectArgs, block_on};
use tfo_cli::plain::plain;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver_as};
use tfo_model::fleet::Severity;
use tfo_model::ids::PoolName;
use tfo_model::named::Named;
use tfo_wire::v1::fleet::{PoolStatus, Verdict};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Option of the commands that show verdicts beside other things.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct VerdictCodeArgs {
    /// Exit with 1 on a warning, 2 if critical, 3 if it cannot be known
    #[arg(long = "detailed-exit-codes")]
    is_detailed: bool,
}

impl VerdictCodeArgs {
    /// The exit code of a command that gives its verdict, or fails.
    ///
    /// # Errors
    /// Fails as the command did.
    pub(super) fn apply(self, ended: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
        if self.is_detailed { ended.map_err(unknown) } else { ended.map(|_| Outcome::Done) }
    }
}

/// A failure of a command whose exit code is a verdict: it cannot be known.
fn unknown(failure: Failure) -> Failure {
    Failure { outcome: Outcome::Unknown, ..failure }
}

/// The exit code for these verdicts: that of the worst.
pub(super) fn outcome<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Outcome {
    let rank = |outcome: &Outcome| {
        [Outcome::Done, Outcome::Warning, Outcome::Unknown, Outcome::Critical].iter().position(|known| known == outcome)
    };
    let outcomes = verdicts.map(|verdict| match &verdict.severity {
        Named::Known(Severity::Ok | Severity::Notice) => Outcome::Done,
        Named::Known(Severity::Warning) => Outcome::Warning,
        Named::Known(Severity::Critical) => Outcome::Critical,
        Named::Unknown(_) => Outcome::Unknown,
    });
    outcomes.max_by_key(rank).unwrap_or(Outcome::Unknown)
}

/// The verdict in one line: severity, sentence, and the next command if there is one.
pub(super) fn line(verdict: &Verdict) -> String {
    let next = verdict.next.as_ref().map_or_else(String::new, |next| format!("; next: {}", plain(next)));
    format!("{}: {}{next}", plain(verdict.severity.as_str()), plain(&verdict.sentence))
}

/// The verdicts of `check`.
#[derive(Debug, Serialize)]
struct Checked {
    /// Whether no pool has anything to do.
    ok: bool,
    pools: Vec<CheckedPool>,
}

/// The verdict on one pool.
#[derive(Debug, Serialize)]
struct CheckedPool {
    pool: PoolName,
    verdict: Verdict,
}

impl Report for Checked {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.pools.is_empty() {
            return writeln!(out, "the coordinator has no pools: add [pools.NAME] to its configuration");
        }
        self.pools.iter().try_for_each(|checked| writeln!(out, "{}: {}", checked.pool, line(&checked.verdict)))
    }
}

/// Prints the verdict on every pool, or on the one of `--pool`.
///
/// # Errors
/// Fails with its problems, and 3 as the exit code: the verdict cannot be known.
pub(crate) fn check(arguments: &CheckArgs, format: Format) -> Result<Outcome, Failure> {
    let checked = || {
        let connection = arguments.connect.open(format)?;
        let pools: Vec<PoolStatus> = block_on(connection.looked_at())?;
        let outcome = outcome(pools.iter().map(|status| &status.verdict));
        let pools = pools.into_iter().map(|PoolStatus { pool, verdict, .. }| CheckedPool { pool, verdict }).collect();
        deliver_as(&Checked { ok: outcome == Outcome::Done, pools }, format, outcome)
    };
    checked().map_err(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(severity: &str) -> Verdict {
        let value = serde_json::json!({
            "severity": severity, "kind": "absent", "since": null, "sentence": "it waits\u{1b}[2J", "nodes": [],
            "more": 0, "numbers": {}, "next": "tfoctl nodes", "docs": null
        });
        serde_json::from_value(value).expect("it is a verdict")
    }

    #[test]
    fn the_worst_verdict_decides_and_none_is_not_known() {
        for (severities, expected) in [
            (&["ok", "notice"][..], 0),
            (&["ok", "warning", "notice"], 1),
            (&["critical", "warning"], 2),
            (&["warning", "of_a_later_release"], 3),
            (&["critical", "of_a_later_release"], 2),
            (&[], 3),
        ] {
            let verdicts: Vec<Verdict> = severities.iter().map(|severity| verdict(severity)).collect();
            assert_eq!(outcome(verdicts.iter()).code(), expected, "{severities:?}");
        }
    }

    #[test]
    fn a_line_has_severity_sentence_and_command_and_moves_no_cursor() {
        assert_eq!(line(&verdict("warning")), "warning: it waits\u{fffd}[2J; next: tfoctl nodes");
    }
}
