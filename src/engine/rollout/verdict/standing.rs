//! How single nodes stand in the way of a rotation.

use super::words::listed;
use crate::rollout::barrier::Barrier;
use crate::rollout::document::{Document, Snapshot};
use crate::rollout::input::Now;
use crate::rollout::policy::AbsentPolicy;
use crate::rollout::record::{Installed, NodeRecord};
use crate::rollout::wave::{has_acked, instruction_for};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// Why a required node has not acknowledged, or will not next time; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// It could not write, read back or persist.
    Failed,
    /// A kernel holds other keys.
    Drifted,
    /// It has received the instruction, and reports other keys.
    Stuck,
    /// Not seen for longer than its limit.
    Silent,
    /// Its report is overdue, and its instruction is open.
    Late,
    /// The instruction is on its way.
    InFlight,
}

impl Trouble {
    /// What a sentence says beside the name; as docs/glossary.md#node-states where that has a word.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Drifted => "drifted",
            Self::Stuck => "straggler",
            Self::Silent => "silent",
            Self::Late => "no report",
            Self::InFlight => "in flight",
        }
    }

    /// Whether time alone heals it: the instruction arrives, or the node becomes silent.
    pub(super) const fn is_brief(self) -> bool {
        matches!(self, Self::Late | Self::InFlight)
    }
}

/// The node's trouble, if it has one.
pub(super) fn trouble(document: &Document, now: Now<'_>, node: &NodeId, record: &NodeRecord) -> Option<Trouble> {
    let report = record.report.as_ref()?;
    if now.presence.absent.contains(node) {
        return Some(Trouble::Silent);
    }
    let instruction = instruction_for(document, node, report.slot_count)?;
    let installed = report.fence.as_ref().map(|fence| fence.generation);
    // Whatever a node reports before it has received its instruction, such as that it has no keys yet, is of the past.
    if Some(report.seen).max(installed) < Some(instruction.generation) {
        let is_late = now.presence.overdue.contains_key(node);
        return Some(if is_late { Trouble::Late } else { Trouble::InFlight });
    }
    match report.installed {
        Installed::Failed => Some(Trouble::Failed),
        Installed::Drifted => Some(Trouble::Drifted),
        Installed::ReadBack if has_acked(document, node, record) => None,
        Installed::ReadBack => Some(Trouble::Stuck),
    }
}

/// The required nodes that are in trouble, the worst first, and in name order among equals.
pub(super) fn troubled(snapshot: &Snapshot, now: Now<'_>) -> Vec<(Trouble, NodeId)> {
    let required = snapshot.nodes.iter().filter(|(_, record)| record.is_required());
    let mut found: Vec<(Trouble, NodeId)> = required
        .filter_map(|(node, record)| Some((trouble(&snapshot.document, now, node, record)?, node.clone())))
        .collect();
    found.sort();
    found
}

/// `a (failed), b (silent) and 3 more`.
pub(super) fn described(troubled: &[(Trouble, NodeId)]) -> String {
    let described: Vec<String> =
        troubled.iter().map(|(trouble, node)| format!("{node} ({})", trouble.as_str())).collect();
    listed(&described)
}

/// The names alone.
pub(super) fn names(troubled: &[(Trouble, NodeId)]) -> Vec<NodeId> {
    troubled.iter().map(|(_, node)| node.clone()).collect()
}

/// Whether so many absent nodes are excluded without an operator.
pub(super) fn may_exclude(snapshot: &Snapshot, barrier: &Barrier, count: usize) -> bool {
    snapshot.document.policy.absent_policy == AbsentPolicy::Exclude && count <= barrier.spare()
}

/// When the last of these nodes is excluded if none of them reports; none if that is unknown or does not happen.
pub(super) fn excluded_by(snapshot: &Snapshot, now: Now<'_>, barrier: &Barrier, nodes: &[NodeId]) -> Option<UnixTime> {
    if !may_exclude(snapshot, barrier, nodes.len()) || now.presence.deaf_secs.is_some() {
        return None;
    }
    let left = nodes.iter().filter_map(|node| now.presence.absent_in(node)).max()?;
    Some(now.wall.plus(left))
}
