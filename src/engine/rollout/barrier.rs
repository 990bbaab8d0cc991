//! Whom a barrier waits for, which reports contradict the document, and the state of each node
//! (docs/protocol.md#rule-5; rules 6, 8, 10, 14).
//!
//! Everything here is a function of one snapshot and, for [`node_state`] and `may_commit`, of one [`Presence`].
//! Must not know: clocks.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, Snapshot, Stage};
use super::input::{Now, Reason};
use super::presence::Presence;
use super::record::{Exclusion, Installed, Membership, NodeRecord, SlotCount};
use super::slots::{Instruction, Slots};
use super::wave::{has_acked, instructions, is_opened};
use tfo_model::count::Generation;
use tfo_model::fleet::NodeState;
use tfo_model::ids::NodeId;
use tfo_model::key::KeyFingerprint;

/// What a barrier sees in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// Number of required nodes.
    pub required: usize,
    /// Fewest nodes that must be required: `min_present` of the pool's members, at least one.
    pub needed: usize,
    /// Required nodes that have not acknowledged their present instruction, in name order.
    pub waiting_for: Vec<NodeId>,
}

impl Barrier {
    /// The barrier over all required nodes.
    #[must_use]
    pub fn of_all(snapshot: &Snapshot) -> Self {
        Self::over(snapshot, |_| true)
    }

    /// The barrier over the required nodes in the opened waves; outside a promotion, over all.
    #[must_use]
    pub fn of_opened(snapshot: &Snapshot) -> Self {
        match &snapshot.document.stage {
            Stage::Promoted { next, wave, .. } => {
                Self::over(snapshot, |node| is_opened(&snapshot.document, next.epoch, wave, node))
            }
            Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => Self::of_all(snapshot),
        }
    }

    fn over(snapshot: &Snapshot, is_in: impl Fn(&NodeId) -> bool) -> Self {
        let document = &snapshot.document;
        let (mut members, mut required, mut waiting_for) = (0, 0, Vec::new());
        for (node, record) in &snapshot.nodes {
            members += usize::from(record.counts_as_member());
            if !record.is_required() {
                continue;
            }
            required += 1;
            if is_in(node) && !has_acked(document, node, record) {
                waiting_for.push(node.clone());
            }
        }
        Self { required, needed: document.policy.min_present.of_count(members).max(1), waiting_for }
    }

    /// Whether a move of the other kind may be made.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.required >= self.needed && self.waiting_for.is_empty()
    }

    /// Number of required nodes that may be excluded before fewer than `min_present` are left (rule 11).
    #[must_use]
    pub fn spare(&self) -> usize {
        self.required.saturating_sub(self.needed)
    }

    /// Refuses a move that needs this barrier while it is closed.
    pub(super) fn require(self) -> Result<(), Reason> {
        if self.required < self.needed {
            return Err(Reason::TooFew { left: self.required, needed: self.needed });
        }
        if self.waiting_for.is_empty() { Ok(()) } else { Err(Reason::Barrier(self.waiting_for)) }
    }
}

/// A report that this store cannot have caused: the store was restored, or the node's report is false (rule 10).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Conflict {
    /// The node that reported the highest generation of them.
    pub node: NodeId,
    /// The generation that the node received.
    pub generation: Generation,
    /// Number of nodes with such a report.
    pub witnesses: usize,
}

/// A single witness is credible up to this many generations above the document: some hundred rotations that a restored
/// store has missed.  Nothing else tells a restored store that is older from one false report.
const CREDIBLE_LEAD: u64 = 1_000;

impl Conflict {
    /// Whether to take the store for a restored one also towards nodes that ask whether they have what they were told:
    /// the generation is near, or a second node agrees.
    #[must_use]
    pub fn is_credible(&self, document: &Document) -> bool {
        let lead = self.generation.get().saturating_sub(document.generation.get());
        self.witnesses > 1 || lead <= CREDIBLE_LEAD
    }
}

/// The report with the highest generation that this document cannot have given out, if there is one.
///
/// A pool with such a report is frozen until `recover`: no commit, no keys.  The reports of a denied node count for
/// nothing, so denying a node is the way out of a false report.
#[must_use]
pub fn conflict(snapshot: &Snapshot) -> Option<Conflict> {
    let (node, generation) = conflicting(snapshot).max_by_key(|(_, generation)| *generation)?;
    Some(Conflict { node: node.clone(), generation, witnesses: conflicting(snapshot).count() })
}

/// The nodes with such a report, the highest generation first.
#[must_use]
pub fn witnesses(snapshot: &Snapshot) -> Vec<NodeId> {
    let mut found: Vec<(&NodeId, Generation)> = conflicting(snapshot).collect();
    found.sort_by_key(|(_, generation)| std::cmp::Reverse(*generation));
    found.into_iter().map(|(node, _)| node.clone()).collect()
}

fn conflicting(snapshot: &Snapshot) -> impl Iterator<Item = (&NodeId, Generation)> {
    let document = &snapshot.document;
    let instructions = instructions(document);
    let nodes = snapshot.nodes.iter();
    nodes.filter_map(move |(node, record)| Some((node, contradicts(document, &instructions, record)?)))
}

/// The generation by which this record contradicts the document, if it does; `instructions` are the document's.
pub(super) fn contradicts(
    document: &Document,
    instructions: &[Instruction],
    record: &NodeRecord,
) -> Option<Generation> {
    let report = record.report.as_ref().filter(|_| !record.is_denied())?;
    // Received and not installed: as good a witness.
    if report.seen > document.generation {
        return Some(report.seen);
    }
    let fence = report.fence.as_ref()?;
    if fence.pool_id != document.pool_id {
        return None;
    }
    let other_keys = instructions.iter().any(|instruction| {
        let pair = instruction.slots.pair();
        instruction.generation == fence.generation
            && fence.slots.pair() != pair
            && fence.slots.pair() != pair.primary_alone()
    });
    (fence.generation > document.generation || other_keys).then_some(fence.generation)
}

/// Refuses every commit while the pool is frozen (rule 10).
pub(super) fn not_frozen(snapshot: &Snapshot, presence: &Presence) -> Result<(), Reason> {
    match frozen_by(snapshot, presence) {
        None => Ok(()),
        Some(Conflict { node, generation, .. }) => Err(Reason::Frozen { node, generation }),
    }
}

/// The conflict that freezes the pool: one of the snapshot's, or one that vanished without an operator less than a
/// minute ago.
#[must_use]
pub fn frozen_by(snapshot: &Snapshot, presence: &Presence) -> Option<Conflict> {
    conflict(snapshot).or_else(|| presence.thawing.clone())
}

/// Refuses every commit while the pool is frozen, and before every required node was seen in this life (rule 10).
pub(super) fn may_commit(snapshot: &Snapshot, now: Now<'_>) -> Result<(), Reason> {
    not_frozen(snapshot, now.presence)?;
    let unseen = now.presence.unseen_required(snapshot);
    if unseen.is_empty() { Ok(()) } else { Err(Reason::NotHeard(unseen)) }
}

/// What `recover` may take over: the slots of two-slot nodes under the highest generation among them and, if no node
/// received a generation above the document's own, what the document instructs.
///
/// There is more than one candidate if the lost store and the restored one went different ways.  If the restored store
/// was driven on, its own slots are the ones to take: every required node followed it, and the other way is that of a
/// node that it did not know.  A one-slot node's file lacks the backup, so it does not show what the others must
/// accept.
#[must_use]
pub fn recoverable(snapshot: &Snapshot) -> BTreeSet<Slots> {
    let document = &snapshot.document;
    let all = || snapshot.believed_reports().filter_map(|report| Some((report, report.fence.as_ref()?)));
    let fences = || all().filter(|(_, fence)| fence.pool_id == document.pool_id);
    let two_slot = || fences().filter(|(report, _)| report.slot_count == SlotCount::Two).map(|(_, fence)| fence);
    let Some(highest) = two_slot().map(|fence| fence.generation).max() else { return BTreeSet::new() };
    let seen = snapshot.believed_reports().map(|report| report.seen);
    let received = fences().map(|(_, fence)| fence.generation).chain(seen).max();
    let own = instructions(document).first().filter(|own| Some(own.generation) >= received).map(|own| own.slots);
    two_slot().filter(|fence| fence.generation == highest).map(|fence| fence.slots).chain(own).collect()
}

/// The state of one node.
#[must_use]
pub fn node_state(document: &Document, node: &NodeId, record: &NodeRecord, presence: &Presence) -> NodeState {
    match (record.membership, record.report.as_ref()) {
        (Membership::Excluded(Exclusion::Denied), _) => NodeState::Denied,
        (Membership::Excluded(Exclusion::Moved { .. }), _) => NodeState::Moved,
        (Membership::Excluded(_), _) => NodeState::Excluded,
        (Membership::Admitted, _) if presence.absent.contains(node) => NodeState::Silent,
        (Membership::Admitted, Some(report)) if !report.takes_keys() => NodeState::Reporting,
        (Membership::Admitted, Some(report)) if report.slot_count == SlotCount::One => NodeState::OneSlot,
        (Membership::Admitted, Some(report)) if report.installed == Installed::Drifted => NodeState::Drifted,
        (Membership::Admitted, Some(report)) if report.installed == Installed::Failed => NodeState::Failed,
        (Membership::Admitted, _) if has_acked(document, node, record) => NodeState::Converged,
        (Membership::Admitted, _) => NodeState::Straggler,
    }
}

/// Refuses a first key while two or more nodes, and most of those that report a foreign key, share one foreign primary:
/// `import` should take that key over (rule 14).
pub(super) fn no_common_foreign_key(snapshot: &Snapshot) -> Result<(), Reason> {
    let mut holders: BTreeMap<KeyFingerprint, usize> = BTreeMap::new();
    for foreign in snapshot.nodes.values().filter_map(|record| record.report.as_ref()?.foreign) {
        *holders.entry(foreign).or_default() += 1;
    }
    let reporting: usize = holders.values().sum();
    match holders.into_iter().find(|(_, nodes)| *nodes >= 2 && 2 * nodes > reporting) {
        Some((fingerprint, nodes)) => Err(Reason::ForeignKey { fingerprint, nodes }),
        None => Ok(()),
    }
}
