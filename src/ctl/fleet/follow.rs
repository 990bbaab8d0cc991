//! Follows a rotation to its end: shows its progress, and judges how it ended.
//!
//! The rollout is the coordinator's work: nothing changes when nothing follows it.  [`judge`] is pure.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ask::Fleet;
use super::shown::{gate, slot};
use tfo_cli::plain::{names, plain};
use tfo_cli::report::{Failure, Outcome, Report};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::fleet::{Action, BlockedBy, HoldReason, NodeState};
use tfo_model::ids::NodeId;
use tfo_model::node::Expected;
use tfo_model::state::Phase;
use tfo_model::time::duration_text;
use tfo_wire::v1::fleet::{AuditLine, Done, NodeStatus, PoolStatus};

/// How often the coordinator is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A line that only counts further is written at most this often.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// What a rotation is followed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// The new key is primary everywhere.
    Settled,
    /// The keys are in no slot of any required node.
    DrivenOut,
    /// These nodes have the first key.
    Given(Option<Expected>),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It has reached its goal.
    Reached,
    /// It was aborted.
    Aborted {
        /// The operator; none for the coordinator itself.
        by: Option<NodeId>,
        /// The operator's reason.
        reason: String,
    },
    /// The pool holds or is frozen: it does not continue by itself.
    Held(String),
    /// Time is over.
    TimeOver,
}

/// Whether it has ended, by the pool's state, its audit log since the start, and (for [`Goal::Given`] by name) its nodes.
pub(super) fn judge(goal: &Goal, status: &PoolStatus, since: &[AuditLine], nodes: &[NodeStatus]) -> Option<End> {
    if status.blocked_by == Some(BlockedBy::Frozen.into()) {
        return Some(End::Held("frozen: the coordinator's store is older than its fleet".to_owned()));
    }
    let did = |action: Action| since.iter().find(|line| line.action == action);
    let all_acked = status.waiting_for.is_empty() && status.converged == status.required;
    let reached = match goal {
        Goal::Settled => did(Action::Settle).is_some(),
        Goal::DrivenOut => status.phase == Phase::Steady && status.revoking.is_empty() && all_acked,
        Goal::Given(asked) => {
            let expect = expected(status, asked.as_ref());
            status.required > 0 && all_acked && are_here(expect, status, nodes)
        }
    };
    // An abort that comes after the end is of another rotation.
    if reached && (*goal != Goal::DrivenOut || did(Action::Abort).is_none()) {
        return Some(End::Reached);
    }
    if let Some(line) = did(Action::Abort) {
        return Some(End::Aborted { by: line.operator.clone(), reason: line.reason.clone() });
    }
    match (&status.hold, goal) {
        (Some(hold), Goal::Settled) if status.phase == Phase::Steady => Some(End::Held(hold.to_string())),
        _ => None,
    }
}

/// The nodes that the pool itself waits for, or those that the operator named.
fn expected<'a>(status: &'a PoolStatus, asked: Option<&'a Expected>) -> Option<&'a Expected> {
    status.expect.as_ref().or(asked)
}

fn are_here(expect: Option<&Expected>, status: &PoolStatus, nodes: &[NodeStatus]) -> bool {
    match expect {
        None => true,
        Some(Expected::Number(number)) => status.required >= *number,
        Some(Expected::Names(names)) => {
            // One whose connection has gone has acknowledged all the same.
            let has_it =
                |node: &NodeStatus| node.state == NodeState::Converged || node.state == NodeState::Disconnected;
            names.iter().all(|name| nodes.iter().any(|node| node.node == *name && has_it(node)))
        }
    }
}

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
    if let Some(blocked_by) = &status.blocked_by {
        line += &format!("  {}", gate(blocked_by));
    }
    if !status.waiting_for.is_empty() {
        line += &format!("  waits for {}: {}", status.waiting_for.len(), names(&status.waiting_for));
    }
    line
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
    /// `done`, `aborted`, `held`, `not_converged`.
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
            End::Aborted { .. } | End::Held(_) => Outcome::Refused,
            End::TimeOver => Outcome::NotConverged,
        }
    }
}

impl Report for Followed {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (pool, elapsed) = (&self.done.pool, duration_text(self.elapsed_secs));
        match &self.end {
            End::Reached => write!(out, "{} in pool {pool}: done after {elapsed}", plain(self.done.action.as_str()))?,
            End::Aborted { by, reason } => {
                let by = by.as_ref().map_or_else(|| "the coordinator".to_owned(), ToString::to_string);
                write!(out, "{} in pool {pool}: aborted by {by}", plain(self.done.action.as_str()))?;
                if !reason.is_empty() {
                    write!(out, " (\"{}\")", plain(reason))?;
                }
            }
            End::Held(why) => {
                write!(out, "{} in pool {pool}: stopped: {}", plain(self.done.action.as_str()), plain(why))?;
            }
            End::TimeOver => {
                write!(
                    out,
                    "{} in pool {pool}: not converged after {elapsed}; the coordinator continues",
                    plain(self.done.action.as_str())
                )?;
            }
        }
        let Some(status) = &self.status else { return writeln!(out) };
        writeln!(out, "; {}, generation {}", status.phase.as_str(), status.generation)?;
        writeln!(out, "primary {}, backup {}", slot(status.primary), slot(status.backup))?;
        if self.end != End::Reached && !status.waiting_for.is_empty() {
            writeln!(out, "waits for {}: {}", status.waiting_for.len(), names(&status.waiting_for))?;
        }
        if status.hold == Some(HoldReason::FirstKey.into()) {
            writeln!(out, "the pool holds: `tfoctl resume` lets rotations begin")?;
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
}

/// Follows the command that ended in `done`, for at most `patience`.
pub(super) async fn follow(fleet: &Fleet, done: Done, goal: Goal, patience: Duration) -> Result<Followed, Failure> {
    let start = clock::monotonic();
    let mut follower =
        Follower { fleet, goal, since: done.revision, lines: Vec::new(), status: None, written: None, failure: None };
    let end = loop {
        match follower.look(&done).await {
            Ok(Some(end)) => break end,
            Ok(None) => {}
            // A coordinator may be restarting; the rotation outlives that.
            Err(failure) if failure.outcome == Outcome::Failed => follower.show_failure(&failure),
            Err(failure) => return Err(failure),
        }
        let left = clock::left_of(patience, start);
        if left.is_zero() {
            break End::TimeOver;
        }
        tokio::time::sleep(LOOK_EVERY.min(left)).await;
    };
    let result = match end {
        End::Reached => "done",
        End::Aborted { .. } => "aborted",
        End::Held(_) => "held",
        End::TimeOver => "not_converged",
    };
    let elapsed_secs = clock::monotonic().duration_since(start).as_secs();
    Ok(Followed { done, result, elapsed_secs, status: follower.status, end })
}

impl Follower<'_> {
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
            // If stderr is closed, the result still counts.
            drop(writeln!(io::stderr(), "{}  {}", clock::now(), progress(status)));
            self.written = Some((status.clone(), clock::monotonic()));
        }
    }

    fn show_failure(&mut self, failure: &Failure) {
        let text: Vec<String> = failure.problems.iter().map(|problem| problem.message.clone()).collect();
        let text = text.join("; ");
        if self.failure.as_ref() != Some(&text) {
            // As above.
            drop(writeln!(
                io::stderr(),
                "{}  {text}; asking again: nodes keep their keys, and the pool moves on with its coordinator",
                clock::now()
            ));
            self.failure = Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_model::count::Generation;

    fn status(phase: Phase, converged: usize) -> PoolStatus {
        let text = serde_json::json!({
            "pool": "edge", "pool_id": "0".repeat(32), "revision": 9, "generation": 4, "phase": phase,
            "primary": {"epoch": 2, "fingerprint": "00000000000000aa"}, "backup": null, "paused": null, "hold": null, "verdict": {"severity": "ok", "kind": "agree", "since": null, "sentence": "", "nodes": [], "more": 0, "numbers": {}, "next": null, "docs": null},
            "required": 3, "converged": converged, "reporting": 0, "waiting_for": [], "next_at": null,
            "blocked_by": null, "since": "2026-11-22T22:00:00Z", "waves": null, "revoking": [], "recoverable": [],
            "drives": true
        });
        serde_json::from_value(text).unwrap()
    }

    fn line(action: Action, operator: Option<&str>) -> AuditLine {
        AuditLine {
            at: clock::now(),
            revision: Revision::new(9),
            generation: Generation::new(4),
            phase: Phase::Steady,
            operator: operator.map(|name| name.parse().unwrap()),
            action: action.into(),
            nodes: std::collections::BTreeSet::new(),
            reason: "why".to_owned(),
        }
    }

    #[test]
    fn a_rotation_ends_settled_aborted_or_held() {
        let on_the_way = [line(Action::Promote, None), line(Action::OpenWave, None)];
        assert_eq!(judge(&Goal::Settled, &status(Phase::Promoted, 3), &on_the_way, &[]), None);
        let settled = [line(Action::Promote, None), line(Action::Settle, None)];
        assert_eq!(judge(&Goal::Settled, &status(Phase::Steady, 3), &settled, &[]), Some(End::Reached));
        // Also if the next one has begun meanwhile, and was aborted.
        let more = [line(Action::Settle, None), line(Action::Stage, None), line(Action::Abort, Some("ops2"))];
        assert_eq!(judge(&Goal::Settled, &status(Phase::Steady, 3), &more, &[]), Some(End::Reached));
        let by = Some("ops2".parse().unwrap());
        let aborted = End::Aborted { by, reason: "why".to_owned() };
        let lines = [line(Action::Promote, None), line(Action::Abort, Some("ops2"))];
        assert_eq!(judge(&Goal::Settled, &status(Phase::Steady, 0), &lines, &[]), Some(aborted));
        let held = PoolStatus { hold: Some(HoldReason::Aborted.into()), ..status(Phase::Steady, 0) };
        assert_eq!(judge(&Goal::Settled, &held, &[], &[]), Some(End::Held("aborted".to_owned())));
        let frozen = PoolStatus { blocked_by: Some(BlockedBy::Frozen.into()), ..status(Phase::Staged, 3) };
        assert!(matches!(judge(&Goal::Settled, &frozen, &[], &[]), Some(End::Held(_))));
        // An operator may end a pause; it is waited for.
        let paused = PoolStatus { blocked_by: Some(BlockedBy::Paused.into()), ..status(Phase::Staged, 3) };
        assert_eq!(judge(&Goal::Settled, &paused, &[], &[]), None);
    }

    #[test]
    fn a_revoke_ends_when_no_required_node_holds_the_key() {
        let goal = Goal::DrivenOut;
        let revoking =
            PoolStatus { revoking: vec![status(Phase::Steady, 3).primary.unwrap()], ..status(Phase::Steady, 3) };
        assert_eq!(judge(&goal, &revoking, &[], &[]), None);
        assert_eq!(judge(&goal, &status(Phase::Steady, 2), &[], &[]), None, "one still holds it");
        assert_eq!(judge(&goal, &status(Phase::Promoted, 3), &[], &[]), None);
        assert_eq!(judge(&goal, &status(Phase::Steady, 3), &[], &[]), Some(End::Reached));
        let forced = [line(Action::Abort, Some("ops2"))];
        assert!(matches!(judge(&goal, &status(Phase::Steady, 3), &forced, &[]), Some(End::Aborted { .. })));
    }

    #[test]
    fn a_first_key_ends_when_the_expected_have_it() {
        let steady = status(Phase::Steady, 3);
        let number = |n| Goal::Given(Some(Expected::Number(n)));
        assert_eq!(judge(&number(3), &steady, &[], &[]), Some(End::Reached));
        assert_eq!(judge(&number(4), &steady, &[], &[]), None);
        assert_eq!(judge(&number(3), &status(Phase::Steady, 2), &[], &[]), None);
        assert_eq!(judge(&Goal::Given(None), &steady, &[], &[]), Some(End::Reached));
        // The pool knows which nodes it waits for, also if none was named.
        let waits = PoolStatus { expect: Some(Expected::Number(4)), ..status(Phase::Steady, 3) };
        assert_eq!(judge(&Goal::Given(None), &waits, &[], &[]), None);
        assert_eq!(judge(&number(3), &waits, &[], &[]), None);
        let names = Expected::Names(["a".parse().unwrap()].into());
        let waits = PoolStatus { expect: Some(names), ..status(Phase::Steady, 3) };
        assert_eq!(judge(&Goal::Given(None), &waits, &[], &[]), None);
        let none = PoolStatus { required: 0, ..status(Phase::Steady, 0) };
        assert_eq!(judge(&Goal::Given(None), &none, &[], &[]), None);
        let named = Goal::Given(Some(Expected::Names(["a".parse().unwrap()].into())));
        assert_eq!(judge(&named, &steady, &[], &[]), None);
    }
}
