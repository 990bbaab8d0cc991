//! Follows a rotation to its end, and shows its progress: a bar on a terminal, plain lines elsewhere.
//!
//! The rollout is the coordinator's work: nothing changes when nothing follows it.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ask::Fleet;
pub(super) use super::judge::Goal;
use super::judge::{End, expected, judge};
use super::verdict::line;
use tfo_cli::bar::Bar;
use tfo_cli::plain::{NAMES_MAX, names, plain};
use tfo_cli::plan::{slot, until_then};
use tfo_cli::report::{Failure, Outcome, Report};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::fleet::{BlockedBy, HoldReason, Severity};
use tfo_model::named::Named;
use tfo_model::node::Expected;
use tfo_model::problem::Problem;
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::v1::fleet::{AuditLine, Done, PoolStatus};

/// How often the coordinator is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A line that only counts further is written at most this often.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// The state of a pool on one line.
pub(super) fn progress(status: &PoolStatus) -> String {
    let waves = status.waves.map_or(String::new(), |waves| format!(" wave {}/{}", waves.opened, waves.of));
    let mut line = format!(
        "{}{waves}  generation {}  {},{}  {}/{} converged",
        status.phase.as_str(),
        status.generation,
        status.primary.map_or_else(|| "-".to_owned(), |slot| slot.fingerprint.to_string()),
        status.backup.map_or_else(|| "-".to_owned(), |slot| slot.fingerprint.to_string()),
        status.converged,
        status.required
    );
    if !status.waiting_for.is_empty() {
        line += &format!("  {}", waits_for(status));
    }
    line
}

/// Whom the pool waits for.  Many names say nothing on one line, and break it.
fn waits_for(status: &PoolStatus) -> String {
    match &status.waiting_for[..] {
        few if few.len() <= NAMES_MAX => format!("waits for {}: {}", few.len(), names(few)),
        many => format!("waits for {}", many.len()),
    }
}

/// When the first node is excluded, in words.
fn exclusion(status: &PoolStatus, now: UnixTime) -> Option<String> {
    let at = status.next_exclusion_at.filter(|_| !status.waiting_for.is_empty())?;
    Some(format!("the first is excluded at {at} ({}) if it stays silent", until_then(at, now)))
}

/// What stands behind the bar.
fn beside_bar(status: &PoolStatus, now: UnixTime) -> String {
    let mut parts = vec![status.phase.as_str().to_owned()];
    if let Some(waves) = status.waves {
        parts.push(format!("wave {}/{}", waves.opened, waves.of));
    }
    let watched_until = status.next_at.filter(|_| status.blocked_by == Some(BlockedBy::Health.into()));
    // The names come last: the line is cut at the terminal's width.
    if let Some(at) = status.next_exclusion_at.filter(|_| !status.waiting_for.is_empty()) {
        parts.push(format!("next exclusion {}", until_then(at, now)));
    } else if let Some(at) = watched_until {
        parts.push(format!("next wave {}", until_then(at, now)));
    }
    if !status.waiting_for.is_empty() {
        parts.push(waits_for(status));
    }
    parts.join(", ")
}

/// The part of a status whose change is shown at once.
fn key(status: &PoolStatus) -> impl PartialEq + use<> {
    let waves = status.waves.map(|waves| waves.opened);
    (status.phase.as_str(), status.generation, waves, status.paused.is_some(), status.hold.clone())
}

/// A command that was followed, and how it ended.
#[derive(Debug, Serialize)]
pub(super) struct Followed {
    /// The answer to the command.
    #[serde(flatten)]
    pub(super) done: Done,
    /// `done`, `aborted`, `stopped`, `not_converged`, `interrupted`.
    pub(super) result: &'static str,
    /// Time from the command to the end, in seconds.
    pub(super) elapsed_secs: u64,
    /// The pool as it was last seen.
    pub(super) status: Option<PoolStatus>,
    #[serde(skip)]
    end: End,
}

impl Followed {
    /// The exit code.
    pub(super) fn outcome(&self) -> Outcome {
        match self.end {
            End::Reached => Outcome::Done,
            End::Aborted { .. } | End::Stopped { .. } => Outcome::Refused,
            End::TimeOver => Outcome::NotConverged,
            End::Interrupted => Outcome::Interrupted,
        }
    }
}

impl Report for Followed {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let elapsed = duration_text(self.elapsed_secs);
        write!(out, "{} in pool {}: ", plain(self.done.action.as_str()), self.done.pool)?;
        match &self.end {
            End::Reached => write!(out, "done after {elapsed}")?,
            End::Aborted { by, reason } => {
                let by = by.as_ref().map_or_else(|| "the coordinator".to_owned(), ToString::to_string);
                write!(out, "aborted by {by}")?;
                if !reason.is_empty() {
                    write!(out, " (\"{}\")", plain(reason))?;
                }
            }
            End::Stopped { cause, .. } => write!(out, "stopped: {cause}")?,
            End::TimeOver => write!(out, "still running after {elapsed}; the coordinator continues")?,
            End::Interrupted => write!(out, "followed no longer; the rotation continues")?,
        }
        let Some(status) = &self.status else { return writeln!(out) };
        writeln!(out, "; {}, generation {}", status.phase.as_str(), status.generation)?;
        writeln!(out, "primary {}, backup {}", slot(status.primary), slot(status.backup))?;
        if self.end != End::Reached && !status.waiting_for.is_empty() {
            writeln!(out, "waits for {}: {}", status.waiting_for.len(), names(&status.waiting_for))?;
        }
        match &self.end {
            End::Stopped { next: Some(next), .. } => writeln!(out, "next: {next}")?,
            End::Interrupted => {
                writeln!(out, "`tfoctl watch` shows it; `tfoctl pause` stops it, `tfoctl abort` turns it back")?
            }
            _ if status.hold == Some(HoldReason::FirstKey.into()) => {
                writeln!(out, "the pool holds: `tfoctl resume` lets rotations begin")?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// What is kept from look to look.
struct Follower<'a> {
    fleet: &'a Fleet,
    goal: Goal,
    /// Revision of the command's own entry.
    since: Revision,
    lines: Vec<AuditLine>,
    status: Option<PoolStatus>,
    written: Option<(PoolStatus, Instant)>,
    failure: Option<String>,
    bar: Bar,
}

/// Ctrl-C, caught from the moment at which a command is sent that will be followed.
pub(super) struct Interrupt(Signal);

impl Interrupt {
    /// Catches it from now on.
    ///
    /// # Errors
    /// Fails if the system allows no handler.
    pub(super) fn catch() -> Result<Self, Failure> {
        signal(SignalKind::interrupt()).map(Self).map_err(|error| {
            let message = format!("cannot catch Ctrl-C: {error}");
            let problem = Problem::error("signal", message, "run it without --wait, and follow it with `tfoctl watch`");
            Failure::new(Outcome::Failed, problem)
        })
    }
}

/// Follows the command that ended in `done`, for at most `patience`, and until Ctrl-C.
pub(super) async fn follow(
    fleet: &Fleet,
    done: Done,
    goal: Goal,
    patience: Duration,
    mut interrupt: Interrupt,
) -> Result<Followed, Failure> {
    let start = clock::monotonic();
    let mut follower = Follower {
        fleet,
        goal,
        since: done.revision,
        lines: Vec::new(),
        status: None,
        written: None,
        failure: None,
        bar: Bar::on_stderr("nodes"),
    };
    let end = tokio::select! {
        ended = follower.until_it_ends(&done, patience) => ended,
        _ = interrupt.0.recv() => Ok(End::Interrupted),
    };
    follower.bar.close();
    let end = end?;
    let result = match end {
        End::Reached => "done",
        End::Aborted { .. } => "aborted",
        End::Stopped { .. } => "stopped",
        End::TimeOver => "not_converged",
        End::Interrupted => "interrupted",
    };
    let elapsed_secs = clock::monotonic().duration_since(start).as_secs();
    Ok(Followed { done, result, elapsed_secs, status: follower.status, end })
}

impl Follower<'_> {
    async fn until_it_ends(&mut self, done: &Done, patience: Duration) -> Result<End, Failure> {
        let start = clock::monotonic();
        loop {
            match self.look(done).await {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {}
                // A coordinator may be restarting; the rotation outlives that.
                Err(failure) if failure.outcome == Outcome::Failed => self.show_failure(&failure),
                Err(failure) => return Err(failure),
            }
            let left = clock::left_of(patience, start);
            if left.is_zero() {
                return Ok(End::TimeOver);
            }
            tokio::time::sleep(LOOK_EVERY.min(left)).await;
        }
    }

    async fn look(&mut self, done: &Done) -> Result<Option<End>, Failure> {
        let fleet = self.fleet;
        let mut status = fleet.status(&done.pool).await?;
        let known = self.lines.last().map_or(self.since, |line| line.revision);
        if status.revision > known {
            self.lines.extend(fleet.audit_after(&done.pool, known).await?);
            // The log was read later: the status that is shown must not be older than the log that decides.
            if self.lines.last().is_some_and(|line| line.revision > status.revision) {
                status = fleet.status(&done.pool).await?;
            }
        }
        let nodes = match &self.goal {
            Goal::Given(asked) if matches!(expected(&status, asked.as_ref()), Some(Expected::Names(_))) => {
                fleet.nodes(&done.pool).await?.nodes
            }
            Goal::Settled | Goal::DrivenOut | Goal::Given(_) => Vec::new(),
        };
        self.show(&status);
        let end = judge(&self.goal, &status, &self.lines, &nodes);
        self.status = Some(status);
        self.failure = None;
        Ok(end)
    }

    /// Writes a line for a new phase at once, for a new count now and then.
    fn show(&mut self, status: &PoolStatus) {
        let is_due = match &self.written {
            None => true,
            Some((last, at)) => {
                key(last) != key(status)
                    || (progress(last) != progress(status) && clock::left_of(COUNT_EVERY, *at).is_zero())
            }
        };
        if is_due {
            // First the bar, so that it is not drawn empty beside the line.
            self.draw(status);
            let now = clock::now();
            let excluded = exclusion(status, now).map_or_else(String::new, |excluded| format!("  {excluded}"));
            // Of a rotation that runs well, the line says all already.
            let is_well = matches!(status.verdict.severity, Named::Known(Severity::Ok | Severity::Notice));
            let verdict = if is_well { String::new() } else { format!("  {}", line(&status.verdict)) };
            self.bar.line(&format!("{now}  {}{verdict}{excluded}", progress(status)));
            self.written = Some((status.clone(), clock::monotonic()));
        }
        self.draw(status);
    }

    fn draw(&self, status: &PoolStatus) {
        self.bar.at(status.converged, status.required, &beside_bar(status, clock::now()));
    }

    fn show_failure(&mut self, failure: &Failure) {
        let text: Vec<String> = failure.problems.iter().map(|problem| problem.message.clone()).collect();
        let text = text.join("; ");
        if self.failure.as_ref() != Some(&text) {
            let waiting = "asking again: nodes keep their keys, and the pool stands still without its coordinator";
            self.bar.line(&format!("{}  {text}; {waiting}", clock::now()));
            self.failure = Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_the_bar_are_the_wave_and_the_next_exclusion() {
        let at = |text: &str| text.parse::<UnixTime>().unwrap();
        let now = at("2026-11-22T22:00:00Z");
        let text = serde_json::json!({
            "pool": "edge", "pool_id": "0".repeat(32), "revision": 9, "generation": 4, "phase": "promoted",
            "primary": null, "backup": null, "paused": null, "hold": null, "required": 9, "converged": 7,
            "verdict": {"severity": "ok", "kind": "agree", "since": null, "sentence": "", "nodes": [], "more": 0,
                "numbers": {}, "next": null, "docs": null},
            "reporting": 0, "waiting_for": ["a", "b"], "next_at": null, "blocked_by": "barrier",
            "since": "2026-11-22T22:00:00Z", "waves": {"opened": 1, "of": 3}, "revoking": [], "recoverable": []
        });
        let mut status: PoolStatus = serde_json::from_value(text).unwrap();
        assert_eq!(beside_bar(&status, now), "promoted, wave 1/3, waits for 2: a, b");
        assert_eq!(exclusion(&status, now), None);
        status.next_exclusion_at = Some(at("2026-11-22T22:02:05Z"));
        assert_eq!(beside_bar(&status, now), "promoted, wave 1/3, next exclusion in 2m 5s, waits for 2: a, b");
        let excluded = exclusion(&status, now).unwrap();
        assert_eq!(excluded, "the first is excluded at 2026-11-22T22:02:05Z (in 2m 5s) if it stays silent");
        status.waiting_for = Vec::new();
        status.next_at = Some(at("2026-11-22T22:00:34Z"));
        assert_eq!(beside_bar(&status, now), "promoted, wave 1/3", "the next rotation is not a part of this one");
        status.blocked_by = Some(BlockedBy::Health.into());
        assert_eq!(beside_bar(&status, now), "promoted, wave 1/3, next wave in 34s");
        status.waiting_for = (0..11).map(|number| format!("n{number}").parse().unwrap()).collect();
        assert!(progress(&status).ends_with("  waits for 11"), "no line of many names: {}", progress(&status));
    }
}
