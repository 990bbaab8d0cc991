//! Whether a rotation that is followed has ended, and how.

use tfo_cli::plain::plain;
use tfo_model::fleet::{Action, BlockedBy, NodeState, PausedBy, VerdictKind};
use tfo_model::ids::NodeId;
use tfo_model::named::Named;
use tfo_model::node::Expected;
use tfo_model::state::Phase;
use tfo_wire::v1::fleet::{AuditLine, NodeStatus, Paused, PoolStatus};

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
    /// The pool is paused, held or frozen: it does not continue by itself.
    Stopped {
        /// The cause, in words.
        cause: String,
        /// The next command, if there is one.
        next: Option<String>,
    },
    /// Time is over, and it is still running.
    TimeOver,
    /// Ctrl-C: it is followed no longer.
    Interrupted,
}

/// Whether it has ended, by the pool's state, its audit log since the start, and (for [`Goal::Given`] by name) its nodes.
pub(super) fn judge(goal: &Goal, status: &PoolStatus, since: &[AuditLine], nodes: &[NodeStatus]) -> Option<End> {
    if status.blocked_by == Some(BlockedBy::Frozen.into()) {
        return Some(stopped(status, "frozen"));
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
    match (&status.paused, &status.hold, goal) {
        // Nodes still install what they were told: a first key may arrive everywhere in a paused pool.
        (_, _, Goal::Given(_)) => None,
        (Some(paused), ..) => Some(stopped(status, &cause_of(paused))),
        (None, Some(hold), Goal::Settled) if status.phase == Phase::Steady => {
            Some(stopped(status, &format!("held: {hold}")))
        }
        _ => None,
    }
}

/// The coordinator's verdict where it is about the stop; otherwise `cause`.
fn stopped(status: &PoolStatus, cause: &str) -> End {
    use VerdictKind::{Frozen, Held, Paused, StoppedByHealth};
    let verdict = &status.verdict;
    let is_about_it = matches!(verdict.kind, Named::Known(Frozen | Held | Paused | StoppedByHealth));
    let cause = if is_about_it && !verdict.sentence.is_empty() { &verdict.sentence } else { cause };
    End::Stopped { cause: plain(cause), next: verdict.next.as_deref().filter(|_| is_about_it).map(plain) }
}

fn cause_of(paused: &Paused) -> String {
    let by = match (&paused.by, &paused.operator) {
        (Named::Known(PausedBy::Health), _) => "stopped by the health gate".to_owned(),
        (_, Some(operator)) => format!("paused by {operator}"),
        (_, None) => "paused".to_owned(),
    };
    if paused.reason.is_empty() { by } else { format!("{by} (\"{}\")", paused.reason) }
}

/// The nodes that the pool itself waits for, or those that the operator named.
pub(super) fn expected<'a>(status: &'a PoolStatus, asked: Option<&'a Expected>) -> Option<&'a Expected> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_host::runtime::clock;
    use tfo_model::count::{Generation, Revision};
    use tfo_model::fleet::HoldReason;

    fn status(phase: Phase, converged: usize) -> PoolStatus {
        let text = serde_json::json!({
            "pool": "edge", "pool_id": "0".repeat(32), "revision": 9, "generation": 4, "phase": phase,
            "primary": {"epoch": 2, "fingerprint": "00000000000000aa"}, "backup": null, "paused": null, "hold": null, "verdict": {"severity": "ok", "kind": "agree", "since": null, "sentence": "", "nodes": [], "more": 0, "numbers": {}, "next": null, "docs": null},
            "required": 3, "converged": converged, "reporting": 0, "waiting_for": [], "next_at": null,
            "blocked_by": null, "since": "2026-11-22T22:00:00Z", "waves": null, "revoking": [], "recoverable": []
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
            more: 0,
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
        let more = [line(Action::Settle, None), line(Action::Rotate, None), line(Action::Abort, Some("ops2"))];
        assert_eq!(judge(&Goal::Settled, &status(Phase::Steady, 3), &more, &[]), Some(End::Reached));
        let by = Some("ops2".parse().unwrap());
        let aborted = End::Aborted { by, reason: "why".to_owned() };
        let lines = [line(Action::Promote, None), line(Action::Abort, Some("ops2"))];
        assert_eq!(judge(&Goal::Settled, &status(Phase::Steady, 0), &lines, &[]), Some(aborted));
        let held = PoolStatus { hold: Some(HoldReason::Aborted.into()), ..status(Phase::Steady, 0) };
        assert_eq!(judge(&Goal::Settled, &held, &[], &[]), Some(by_itself("held: aborted")));
        let frozen = PoolStatus { blocked_by: Some(BlockedBy::Frozen.into()), ..status(Phase::Staged, 3) };
        assert!(matches!(judge(&Goal::Settled, &frozen, &[], &[]), Some(End::Stopped { .. })));
    }

    fn by_itself(cause: &str) -> End {
        End::Stopped { cause: cause.to_owned(), next: None }
    }

    fn paused(by: PausedBy, operator: Option<&str>, reason: &str) -> PoolStatus {
        let operator = operator.map(|name| name.parse().unwrap());
        let (since, reason) = (clock::now(), reason.to_owned());
        let (rejected_ppm, baseline_ppm, worst) = (None, None, Vec::new());
        let paused = Paused { by: by.into(), since, operator, reason, rejected_ppm, baseline_ppm, worst };
        PoolStatus { paused: Some(paused), ..status(Phase::Promoted, 3) }
    }

    #[test]
    fn a_pause_ends_it_with_its_cause() {
        let by_operator = paused(PausedBy::Operator, Some("ops2"), "lunch");
        for goal in [Goal::Settled, Goal::DrivenOut] {
            assert_eq!(judge(&goal, &by_operator, &[], &[]), Some(by_itself("paused by ops2 (\"lunch\")")));
        }
        let mut by_health = paused(PausedBy::Health, None, "");
        assert_eq!(judge(&Goal::Settled, &by_health, &[], &[]), Some(by_itself("stopped by the health gate")));
        // The verdict knows more.
        by_health.verdict.kind = VerdictKind::StoppedByHealth.into();
        by_health.verdict.sentence = "12% of the cookies are rejected".to_owned();
        by_health.verdict.next = Some("tfoctl abort".to_owned());
        let end =
            End::Stopped { cause: "12% of the cookies are rejected".to_owned(), next: Some("tfoctl abort".to_owned()) };
        assert_eq!(judge(&Goal::Settled, &by_health, &[], &[]), Some(end));
        // A verdict about something else does not explain the stop.
        let mut split = paused(PausedBy::Operator, None, "");
        split.verdict.kind = VerdictKind::Split.into();
        split.verdict.sentence = "split".to_owned();
        assert_eq!(judge(&Goal::Settled, &split, &[], &[]), Some(by_itself("paused")));
        // What was reached before the pause was reached.
        let settled = [line(Action::Settle, None)];
        assert_eq!(judge(&Goal::Settled, &by_operator, &settled, &[]), Some(End::Reached));
        // A first key arrives in a paused pool, too.
        let given = PoolStatus { phase: Phase::Steady, ..by_operator };
        assert_eq!(judge(&Goal::Given(None), &given, &[], &[]), Some(End::Reached));
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
