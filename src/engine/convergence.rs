//! Who is here, who has done what it was told, and whom a barrier waits for (docs/protocol.md#rules, rules 5, 6, 8, 10, 11).
//!
//! [`Barrier`] and [`NodeState`] are functions of one snapshot.  [`Life`] is the only memory that a coordinator has
//! beside the store: whom it has heard since it started, on its own monotonic clock.  Must not know: wall clocks.
//!
//! Invariants: a coordinator that starts has heard nobody, whatever the store says; time in which it does not serve
//! makes nobody absent; a store that went back is a new life; what is not known to have been heard was not.
//!
//! Known limit: a store that goes back under a running coordinator is noticed by what this coordinator has seen of the
//! lost history, so one that saw nothing of it notices nothing.  [`BLIND_MAX`] bounds that: what is lost must be
//! younger than a minute, and this coordinator the only one that had not looked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::rollout::document::{Document, Instruction, PoolKey, Slots, Snapshot, Stage};
use crate::rollout::record::{Exclusion, Installed, NodeRecord, SlotCount, Standing};
use crate::rollout::wave::{has_acked, instructions, is_opened};
use tfo_model::count::{Generation, Revision};
use tfo_model::fleet::NodeState;
use tfo_model::ids::NodeId;
use tfo_model::key::KeyFingerprint;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// Periods that a node may miss before it is absent (rule 11; rule 17: a timer node never before three).
const MISSED_PERIODS_MAX: u64 = 3;

/// Longest span between two looks that counts as served.
///
/// A coordinator that was stopped or starved for an hour has not listened for an hour: it was not the nodes that were
/// silent.
pub const SERVED_GAP_MAX: Duration = Duration::from_secs(10);

/// Longest span between two looks at the store within one life.
///
/// A coordinator that was cut off for longer cannot know whether its store went back and forth again in the meantime: no
/// backup is made, outrun and restored within a minute.
pub const BLIND_MAX: Duration = Duration::from_secs(60);

/// What a barrier sees in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// Required nodes.
    pub required: usize,
    /// Fewest that must be required: `min_present` of the pool's members, at least one (rule 5).
    pub needed: usize,
    /// Required nodes that have not acknowledged what they are told now, in name order.
    pub waiting_for: Vec<NodeId>,
}

impl Barrier {
    /// Over all required nodes.
    #[must_use]
    pub fn of_all(snapshot: &Snapshot) -> Self {
        Self::over(snapshot, |_| true)
    }

    /// Over the required nodes in the opened waves; over all outside a promotion.
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

    /// Whether the next kind of move may be made.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.required >= self.needed && self.waiting_for.is_empty()
    }

    /// How many required nodes may be excluded before fewer than `min_present` are left (rule 11).
    #[must_use]
    pub fn spare(&self) -> usize {
        self.required.saturating_sub(self.needed)
    }
}

/// A report that this store cannot have caused: the store was restored (rule 10).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Conflict {
    /// Who reported it.
    pub node: NodeId,
    /// The generation that it was told.
    pub generation: Generation,
}

/// The report with the highest generation that this document cannot have told, if there is one.
///
/// A pool with such a report is frozen: no commit, no keys, until `recover`.  What a denied node said counts for nothing
/// (beyond docs/protocol.md#rule-10: that is the way out of a bogus report).
#[must_use]
pub fn conflict(snapshot: &Snapshot) -> Option<Conflict> {
    let document = &snapshot.document;
    let told = instructions(document);
    snapshot
        .nodes
        .iter()
        .filter_map(|(node, record)| Some((node, contradicts(document, &told, record)?)))
        .max_by_key(|(_, generation)| *generation)
        .map(|(node, generation)| Conflict { node: node.clone(), generation })
}

/// Whether this record alone freezes the pool.
#[must_use]
pub fn conflicts(document: &Document, record: &NodeRecord) -> bool {
    contradicts(document, &instructions(document), record).is_some()
}

fn contradicts(document: &Document, told: &[Instruction], record: &NodeRecord) -> Option<Generation> {
    let report = record.report.as_ref().filter(|_| !record.is_denied())?;
    // Told, and not installed: beyond rule 10, and as good a witness.
    if report.seen > document.generation {
        return Some(report.seen);
    }
    let fence = report.fence.as_ref()?;
    if fence.pool_id != document.pool_id {
        return None;
    }
    let other_keys = told.iter().any(|instruction| {
        let pair = instruction.slots.pair();
        instruction.generation == fence.generation
            && fence.slots.pair() != pair
            && fence.slots.pair() != pair.primary_alone()
    });
    (fence.generation > document.generation || other_keys).then_some(fence.generation)
}

/// What `recover` may take over: the slots that two-slot nodes were told under the highest generation among them; and, if
/// nobody was told a higher one than the document's own, what the document tells.
///
/// More than one if the lost store and the restored one went different ways.  The document's own is the one to take where
/// it was driven on since the restore, for every required node followed it: the other way is that of a node that it did
/// not know.  A one-slot node's file lacks the backup, so it says nothing about what the others must accept.
#[must_use]
pub fn recoverable(snapshot: &Snapshot) -> BTreeSet<Slots> {
    let document = &snapshot.document;
    let reports = || {
        let believed = snapshot.nodes.values().filter(|record| !record.is_denied());
        believed.filter_map(|record| record.report.as_ref())
    };
    let all = || reports().filter_map(|report| Some((report, report.fence.as_ref()?)));
    let fences = || all().filter(|(_, fence)| fence.pool_id == document.pool_id);
    let two_slot = || fences().filter(|(report, _)| report.slot_count == SlotCount::Two).map(|(_, fence)| fence);
    let Some(highest) = two_slot().map(|fence| fence.generation).max() else { return BTreeSet::new() };
    let told = fences().map(|(_, fence)| fence.generation).chain(reports().map(|report| report.seen)).max();
    let own = instructions(document).first().filter(|own| Some(own.generation) >= told).map(|own| own.slots);
    two_slot().filter(|fence| fence.generation == highest).map(|fence| fence.slots).chain(own).collect()
}

/// What a coordinator's own clock and ears say, for one decision.
///
/// Fails closed: the default has heard nobody, a node that it does not name was not heard, and for a store that is behind
/// [`Presence::revision`] nobody was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// The revision of the snapshot that this was computed from.
    pub revision: Revision,
    /// Nodes that have been heard in this life of the coordinator.
    pub heard: BTreeSet<NodeId>,
    /// Nodes that have not been heard for longer than their limit.
    pub absent: BTreeSet<NodeId>,
    /// Seconds served since this coordinator first saw the present instruction, or a later revoke.
    pub phase_secs: u64,
    /// Seconds served since it first saw the present wave.
    pub wave_secs: u64,
}

impl Presence {
    /// Required nodes that are not known to have been heard in this life: nothing is committed, and nobody told
    /// anything new, before they have (rule 10).
    #[must_use]
    pub fn unheard_required(&self, snapshot: &Snapshot) -> Vec<NodeId> {
        let is_of_this_life = snapshot.document.revision >= self.revision;
        let heard = self.heard.iter().map(|node| (node, ()));
        beside(snapshot.nodes.iter(), heard)
            .filter(|(_, record, heard)| record.is_required() && !(is_of_this_life && heard.is_some()))
            .map(|(node, _, _)| node.clone())
            .collect()
    }

    /// Whether the node was heard in the life that this snapshot belongs to.
    #[must_use]
    pub fn has_heard(&self, snapshot: &Snapshot, node: &NodeId) -> bool {
        snapshot.document.revision >= self.revision && self.heard.contains(node)
    }
}

/// Whether a coordinator could have heard its nodes since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It listened and reached its store.
    Yes,
    /// It did not; this time makes nobody absent.
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    syncs: u64,
    in_this_life: bool,
    /// On the clock of served time.
    at: Duration,
}

/// Since when something has been seen, on the clock of served time.
type Seen<T> = Option<(T, Duration)>;

/// What tells one revoke from another; whom it left behind is not part of it.
type Ordered = (UnixTime, BTreeSet<PoolKey>);

/// One life of a coordinator: from its start, or from the moment its store went back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Life {
    served: Duration,
    last_look: Option<Duration>,
    /// When it last read the store.
    last_seen: Option<Duration>,
    begun: bool,
    highest: Revision,
    nodes: BTreeMap<NodeId, Heard>,
    instruction: Seen<(Generation, Phase, Option<Ordered>)>,
    wave: Seen<(Generation, usize, usize)>,
}

impl Life {
    /// Advances the clock of served time to `monotonic`, and looks at a snapshot.
    ///
    /// To be called at least every [`SERVED_GAP_MAX`]; longer gaps count as that much, and one of more than
    /// [`BLIND_MAX`] ends the life.  Who wants to decide on a snapshot shows it to this first: a node that came since the
    /// last look is not known to have been heard.
    pub fn observe(&mut self, monotonic: Duration, serving: Serving, snapshot: &Snapshot) {
        self.pass(monotonic, serving);
        let blind_for = monotonic.saturating_sub(self.last_seen.unwrap_or(monotonic));
        if self.begun && (blind_for > BLIND_MAX || self.went_back(snapshot)) {
            self.begin_anew();
        }
        self.last_seen = Some(monotonic);
        self.highest = snapshot.document.revision;
        let (begun, served) = (self.begun, self.served);
        let mut before = std::mem::take(&mut self.nodes).into_iter().peekable();
        let now = snapshot.nodes.iter().map(|(node, record)| {
            while before.next_if(|(known, _)| known < node).is_some() {}
            let heard = Heard { syncs: record.syncs, in_this_life: true, at: served };
            match before.next_if(|(known, _)| known == node) {
                Some((node, known)) if record.syncs > known.syncs => (node, heard),
                Some(known) => known,
                None => (node.clone(), Heard { in_this_life: begun, ..heard }),
            }
        });
        self.nodes = now.collect();
        let document = &snapshot.document;
        let ordered = document.revoke.as_ref().map(|revoke| (revoke.since, revoke.keys.clone()));
        Self::mark(&mut self.instruction, (document.generation, document.stage.phase(), ordered), served);
        let wave = match &document.stage {
            Stage::Promoted { wave, .. } => (document.generation, wave.opened, wave.taken_in.len()),
            Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => (document.generation, 0, 0),
        };
        Self::mark(&mut self.wave, wave, served);
        self.begun = true;
    }

    /// Takes in one record that this coordinator has just written for a sync: what [`Self::observe`] would do for this
    /// node alone.  Thousands of nodes that acknowledge at once would else be looked at once for each write.
    pub fn hear(&mut self, node: &NodeId, record: &NodeRecord, presence: &mut Presence) {
        let fresh = Heard { syncs: record.syncs, in_this_life: true, at: self.served };
        match self.nodes.get_mut(node) {
            Some(known) if record.syncs > known.syncs => *known = fresh,
            Some(_) => return,
            // As at any first look: it was heard if this life had begun before it came.
            None => drop(self.nodes.insert(node.clone(), Heard { in_this_life: self.begun, ..fresh })),
        }
        if self.begun {
            presence.absent.remove(node);
            if !presence.heard.contains(node) {
                presence.heard.insert(node.clone());
            }
        }
    }

    /// Advances the clock of served time alone: the store could not be read.
    pub fn pass(&mut self, monotonic: Duration, serving: Serving) {
        let since = monotonic.saturating_sub(self.last_look.unwrap_or(monotonic));
        if serving == Serving::Yes {
            self.served += since.min(SERVED_GAP_MAX);
        }
        self.last_look = Some(monotonic);
    }

    /// What this life says about the nodes of the snapshot that was observed last.
    #[must_use]
    pub fn presence(&self, snapshot: &Snapshot) -> Presence {
        let mut presence = Presence {
            revision: self.highest,
            phase_secs: self.since(&self.instruction),
            wave_secs: self.since(&self.wave),
            ..Presence::default()
        };
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for (node, record, heard) in beside(snapshot.nodes.iter(), self.nodes.iter()) {
            if heard.is_some_and(|heard| heard.in_this_life) {
                present.push(node.clone());
            }
            let period = record.report.as_ref().map_or(0, |report| report.next_sync_secs);
            let limit = snapshot.document.policy.absent_after_secs.max(period.saturating_mul(MISSED_PERIODS_MAX));
            let silent_for = heard.map_or(Duration::ZERO, |heard| self.served.saturating_sub(heard.at));
            if silent_for > Duration::from_secs(limit) {
                absent.push(node.clone());
            }
        }
        presence.heard = present.into_iter().collect();
        presence.absent = absent.into_iter().collect();
        presence
    }

    /// A store that shows less than this life has seen was restored from a backup.
    ///
    /// Also one that has been driven on since, past the revision that this life saw last: the nodes' own counts are lower
    /// then.  A node that was forgotten and came again while this coordinator was not looking seems to be another case of
    /// that, which only costs the waiting of a new life.
    fn went_back(&self, snapshot: &Snapshot) -> bool {
        let revision = snapshot.document.revision;
        let is_older = |(_, known, record): (&NodeId, &Heard, Option<&NodeRecord>)| match record {
            Some(record) => record.syncs < known.syncs,
            // A node is forgotten by a commit, so at one revision none may vanish.
            None => revision == self.highest,
        };
        revision < self.highest || beside(self.nodes.iter(), snapshot.nodes.iter()).any(is_older)
    }

    fn begin_anew(&mut self) {
        *self = Self { served: self.served, last_look: self.last_look, ..Self::default() };
    }

    fn mark<T: PartialEq>(seen: &mut Seen<T>, now: T, served: Duration) {
        if seen.as_ref().is_none_or(|(before, _)| *before != now) {
            *seen = Some((now, served));
        }
    }

    fn since<T>(&self, seen: &Seen<T>) -> u64 {
        seen.as_ref().map_or(0, |(_, at)| self.served.saturating_sub(*at).as_secs())
    }
}

/// Two lists in the order of nodes, side by side: one pass, where a lookup of each node of the first in the second
/// would be most of what a coordinator of ten thousand nodes does.
fn beside<'a, A, B>(
    left: impl Iterator<Item = (&'a NodeId, A)>,
    right: impl Iterator<Item = (&'a NodeId, B)>,
) -> impl Iterator<Item = (&'a NodeId, A, Option<B>)> {
    let mut right = right.peekable();
    left.map(move |(node, of_left)| {
        while right.next_if(|(other, _)| *other < node).is_some() {}
        let of_right = right.next_if(|(other, _)| *other == node).map(|(_, of_right)| of_right);
        (node, of_left, of_right)
    })
}

/// The state of one node.
#[must_use]
pub fn node_state(document: &Document, node: &NodeId, record: &NodeRecord, presence: &Presence) -> NodeState {
    match (record.standing, record.report.as_ref()) {
        (Standing::Excluded(Exclusion::Denied), _) => NodeState::Denied,
        (Standing::Excluded(_), _) => NodeState::Excluded,
        (Standing::Admitted, _) if presence.absent.contains(node) => NodeState::Silent,
        (Standing::Admitted, Some(report)) if !report.takes_keys() => NodeState::Reporting,
        (Standing::Admitted, Some(report)) if report.slot_count == SlotCount::One => NodeState::OneSlot,
        (Standing::Admitted, Some(report)) if report.installed == Installed::Drifted => NodeState::Drifted,
        (Standing::Admitted, Some(report)) if report.installed == Installed::Failed => NodeState::Failed,
        (Standing::Admitted, _) if has_acked(document, node, record) => NodeState::Converged,
        (Standing::Admitted, _) => NodeState::Straggler,
    }
}

/// The one primary that two or more nodes, and most of those that report, hold without having it from this pool.
///
/// A first key is refused while there is one: these nodes share a key already, which `import` takes over (rule 14).
#[must_use]
pub fn common_foreign_key(snapshot: &Snapshot) -> Option<(KeyFingerprint, usize)> {
    let mut holders: BTreeMap<KeyFingerprint, usize> = BTreeMap::new();
    for report in snapshot.nodes.values().filter_map(|record| record.report.as_ref()) {
        if let Some(foreign) = report.foreign {
            *holders.entry(foreign).or_default() += 1;
        }
    }
    let reporting: usize = holders.values().sum();
    holders.into_iter().find(|(_, count)| *count >= 2 && 2 * count > reporting)
}

#[cfg(test)]
mod tests;
