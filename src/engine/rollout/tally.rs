//! What one coordinator's nodes have counted together, for the gates of the others (docs/protocol.md#rule-12).
//!
//! A coordinator knows its own nodes' latest counters, and its beats carry the sums.  Invariants: a tally counts for the
//! phase and the key that it was made for and no other, so one that is late is less evidence, and never wrong evidence;
//! no node weighs more in it than all others, as in the gates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::{Snapshot, Stage, WORST_NODES_MAX, Wave};
use super::gates::{baseline_of, sum_of, window_of};
use super::observed;
use super::presence::Presence;
use super::record::NodeRecord;
use super::wave::is_opened;
use tfo_model::count::Epoch;
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::node::Counters;
use tfo_model::state::Phase;

/// The sums of the required nodes of one coordinator.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tally {
    /// The phase that it was made for: steady or promoted.
    pub phase: Phase,
    /// Epoch of the key that is primary, or comes, in that phase.
    pub epoch: Epoch,
    /// In that phase; when promoted, of the opened nodes.
    pub since: Counters,
    /// When promoted: of the same nodes, before their promotion.
    pub before: Counters,
    /// When promoted: the nodes that rejected most, with the number of cookies, at most [`WORST_NODES_MAX`].
    pub worst: BTreeMap<NodeId, u64>,
    /// When promoted: the index of the last wave that was opened, if this coordinator has observed it to the end, and has heard
    /// the counters of its nodes since.
    #[serde(default)]
    pub observed: Option<usize>,
}

impl Tally {
    /// That of the nodes whose sessions are at the coordinator `own`; none in a phase in which no gate counts.
    #[must_use]
    pub fn of(snapshot: &Snapshot, own: &CoordinatorName, presence: &Presence) -> Option<Self> {
        let (document, policy) = (&snapshot.document, &snapshot.document.policy);
        let is_own = |record: &NodeRecord| record.coordinator.as_ref() == Some(own);
        let nodes = || snapshot.nodes.iter().filter(|(_, record)| is_own(record));
        match &document.stage {
            Stage::Empty | Stage::Staged { .. } => None,
            Stage::Steady { current, .. } => {
                let (phase, epoch) = (Phase::Steady, current.epoch);
                let since = sum_of(nodes(), policy.drain_min_samples, |record| window_of(record, phase, epoch));
                let (before, worst) = (Counters::default(), BTreeMap::new());
                Some(Self { phase, epoch, since, before, worst, observed: None })
            }
            Stage::Promoted { next, wave, .. } => {
                let (phase, epoch) = (Phase::Promoted, next.epoch);
                let opened = || nodes().filter(|(node, _)| is_opened(document, epoch, wave, node));
                let evidence_min = policy.health_min_connections;
                Some(Self {
                    phase,
                    epoch,
                    since: sum_of(opened(), evidence_min, |record| window_of(record, phase, epoch)),
                    before: sum_of(opened(), evidence_min, |record| baseline_of(record, epoch)),
                    worst: worst(opened(), epoch, std::iter::empty()),
                    observed: observed::has_observed(snapshot, presence),
                })
            }
        }
    }

    /// Whether its coordinator has observed this wave to the end.
    pub(super) fn has_observed(&self, wave: &Wave) -> bool {
        self.observed == Some(wave.opened)
    }

    fn is_for(&self, phase: Phase, epoch: Epoch) -> bool {
        (self.phase, self.epoch) == (phase, epoch)
    }
}

/// The tallies of the other coordinators for this phase and key.
pub(super) fn tallies(snapshot: &Snapshot, phase: Phase, epoch: Epoch) -> impl Iterator<Item = &Tally> {
    let told = snapshot.beats.values().filter_map(|beat| beat.tally.as_ref());
    told.filter(move |tally| tally.is_for(phase, epoch))
}

/// The tallies of the other coordinators for the promotion of this key.
pub(super) fn promoted(snapshot: &Snapshot, epoch: Epoch) -> impl Iterator<Item = (&CoordinatorName, &Tally)> {
    let told = snapshot.beats.iter().filter_map(|(by, beat)| Some((by, beat.tally.as_ref()?)));
    told.filter(move |(_, tally)| tally.is_for(Phase::Promoted, epoch))
}

/// The nodes that no other coordinator's tally counts.
pub(super) fn untold(
    snapshot: &Snapshot,
    phase: Phase,
    epoch: Epoch,
) -> impl Iterator<Item = (&NodeId, &NodeRecord)> + Clone {
    let is_told = move |record: &NodeRecord| {
        let beat = record.coordinator.as_ref().and_then(|by| snapshot.beats.get(by));
        beat.and_then(|beat| beat.tally.as_ref()).is_some_and(|tally| tally.is_for(phase, epoch))
    };
    snapshot.nodes.iter().filter(move |(_, record)| !is_told(record))
}

/// The nodes that rejected most since their promotion, with the number of cookies, at most [`WORST_NODES_MAX`].
pub(super) fn worst<'a>(
    nodes: impl Iterator<Item = (&'a NodeId, &'a NodeRecord)>,
    epoch: Epoch,
    told: impl Iterator<Item = (&'a NodeId, u64)>,
) -> BTreeMap<NodeId, u64> {
    let required = nodes.filter(|(_, record)| record.is_required());
    let counted = required
        .filter_map(|(node, record)| Some((node, window_of(record, Phase::Promoted, epoch)?.passive_fail)))
        .chain(told)
        .filter(|(_, failures)| *failures > 0);
    let mut counted: Vec<(&NodeId, u64)> = counted.collect();
    counted.sort_by_key(|(node, failures)| (std::cmp::Reverse(*failures), *node));
    counted.into_iter().take(WORST_NODES_MAX).map(|(node, failures)| (node.clone(), failures)).collect()
}
