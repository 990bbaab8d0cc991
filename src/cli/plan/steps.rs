//! `pause`, `resume`, `abort`, `advance`: commands to a rotation that runs.

use super::{Plan, slot, until_then};
use crate::plain::{NAMES_MAX, count_of_nodes, names};
use tfo_engine::rollout::policy::Share;
use tfo_model::fleet::{NodeState, PausedBy};
use tfo_model::ids::NodeId;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::{NodeStatus, PoolStatus};
use tfo_wire::v1::orders::Waiver;

/// A pause.
#[must_use]
pub fn pause(status: &PoolStatus) -> Plan {
    Plan::new("pause", status, status.required)
        .harmless()
        .line(format!("the pool stays {} until `tfoctl resume`", status.phase.as_str()))
        .line("nodes keep their current keys; nothing else changes")
}

/// A resume; `force`: without the expected nodes that never came.
#[must_use]
pub fn resume(status: &PoolStatus, force: bool) -> Plan {
    let waives = status.paused.as_ref().is_some_and(|paused| paused.by == PausedBy::Health);
    let plan = if waives { waiving(status) } else { resuming(status) };
    match (force, waives) {
        (true, _) => plan.line("--force: it does not wait for expected nodes that have never reported"),
        (false, true) => plan,
        (false, false) => plan.harmless(),
    }
}

fn resuming(status: &PoolStatus) -> Plan {
    let what = match (&status.hold, &status.paused) {
        (Some(hold), _) => format!("the hold ({hold}) ends, and rotations start by schedule again"),
        (None, Some(_)) => format!("the pool continues from {}", status.phase.as_str()),
        (None, None) => match status.phase {
            Phase::Empty => "the pool has no key, and nothing to resume: the coordinator will refuse this".to_owned(),
            _ => "the pool is neither paused nor held: the coordinator will refuse this".to_owned(),
        },
    };
    Plan::new("resume", status, status.required)
        .line(what)
        .line(format!("required: {}", count_of_nodes(status.required)))
}

/// A resume after the health gate has stopped a wave: which evidence it passes over, and for which nodes.
fn waiving(status: &PoolStatus) -> Plan {
    let plan = |nodes| Plan::new("resume", status, nodes);
    let plan = match &status.waiver {
        Some(Waiver { wave, of, rejected_ppm, baseline_ppm, nodes, next }) => {
            let (rejected, baseline) = (percent(*rejected_ppm), percent(*baseline_ppm));
            let more = if *nodes > next.len() { format!(" and {} more", nodes - next.len()) } else { String::new() };
            let get = if *nodes == 1 { "gets" } else { "get" };
            plan(*nodes)
                .line(format!(
                    "the health gate is waived for wave {wave} of {of}: rejected {rejected} of its cookies now, \
                     {baseline} before"
                ))
                .line(match nodes {
                    0 => "no further node gets the key in the next wave".to_owned(),
                    _ => format!("{} {get} the key next: {}{more}", count_of_nodes(*nodes), next_names(next)),
                })
        }
        None => plan(status.required).line("the health gate is waived for the wave that it has stopped"),
    };
    let worst = status.paused.as_ref().map(|paused| names(&paused.worst)).filter(|worst| !worst.is_empty());
    let plan = match worst {
        Some(worst) => plan.line(format!("most cookies were rejected by {worst}")),
        None => plan,
    };
    plan.line("the other way is `tfoctl abort`: the opened nodes return to the old key, and cookies of both stay valid")
}

fn next_names(next: &[NodeId]) -> String {
    next.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

/// An abort; none where no rotation runs.
#[must_use]
pub fn abort(status: &PoolStatus) -> Option<Plan> {
    let what = match status.phase {
        Phase::Empty | Phase::Steady => return None,
        Phase::Staged => {
            format!("the staged key {} is dropped; no node has made cookies with it", slot(status.backup))
        }
        Phase::Promoted => "nodes return to the old key at once; cookies of the new key stay valid".to_owned(),
    };
    let affected = count_of_nodes(status.required);
    let plan = Plan::new("abort", status, status.required)
        .line(what)
        .line(format!("affects {affected}; the pool then holds until `tfoctl resume`"))
        .line("the epoch of the aborted key is never used again");
    if status.revoking.is_empty() {
        return Some(plan);
    }
    let keys = names(status.revoking.iter().map(|key| slot(Some(*key))));
    Some(plan.line(format!("this is a revoke: {keys} stay in use (refused without --force)")))
}

/// An advance; none where the pool waits for no node.
#[must_use]
pub fn advance(status: &PoolStatus, nodes: &[NodeStatus], now: UnixTime) -> Option<Plan> {
    let PoolStatus { required, waiting_for, .. } = status;
    if waiting_for.is_empty() {
        return None;
    }
    let behind = count_of_nodes(waiting_for.len());
    let plan = Plan::new("advance", status, waiting_for.len())
        .line(format!("leaves {behind} of {required} required behind: {}", names(waiting_for)))
        .line("they are excluded: while they still serve, their clients may lose TFO")
        .line("each returns with its next contact; refused if more nodes are behind by then");
    Some(with_advice(plan, status, nodes, now))
}

/// What an operator should know before nodes are left behind: those that still report are back at once.
fn with_advice(plan: Plan, status: &PoolStatus, nodes: &[NodeStatus], now: UnixTime) -> Plan {
    let plan = match (status.unseen, status.next_exclusion_at) {
        (0, _) => plan,
        (unseen, at) => {
            let since = format!("{} not seen since this coordinator started", are(unseen));
            let until = at.map_or_else(String::new, |at| format!(" ({})", until_then(at, now)));
            plan.line(format!("{since}: refused until they report, or count as absent{until}"))
        }
    };
    if status.unseen > 0 {
        return plan;
    }
    // In name order.
    let is_behind = |node: &NodeStatus| status.waiting_for.binary_search(&node.node).is_ok();
    let still_reports = |node: &&NodeStatus| node.state != NodeState::Silent && is_behind(node);
    let mut back: Vec<&NodeStatus> = nodes.iter().filter(still_reports).collect();
    back.sort_by(|a, b| a.node.cmp(&b.node));
    if back.is_empty() {
        return plan;
    }
    let described = back.iter().map(|node| match &node.error {
        Some(error) => format!("{} ({}, {error})", node.node, node.state),
        None => format!("{} ({})", node.node, node.state),
    });
    let command = match &back[..] {
        few if few.len() <= NAMES_MAX => {
            let few: Vec<&str> = few.iter().map(|node| node.node.as_str()).collect();
            format!("tfoctl exclude {} --for 1h", few.join(" "))
        }
        _ => "tfoctl exclude --file NAMES --for 1h".to_owned(),
    };
    plan.line(format!("{} still connected: {}", are(back.len()), names(described)))
        .line(format!("the pool waits for them again as soon as they report, within 30s; without them: `{command}`"))
}

fn are(count: usize) -> String {
    format!("{} {}", count_of_nodes(count), if count == 1 { "is" } else { "are" })
}

fn percent(ppm: u32) -> String {
    Share::from_ppm(ppm).unwrap_or(Share::ALL).to_string()
}
