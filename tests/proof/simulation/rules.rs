//! Rules that are switched off, so that a test sees that the checks notice.

use std::collections::BTreeMap;

use tfo_engine::rollout::document::Snapshot;
use tfo_engine::rollout::parts::{Entry, Writes};
use tfo_engine::rollout::presence::Presence;
use tfo_engine::rollout::record::{Installed, SlotCount};
use tfo_engine::rollout::slots::Fence;
use tfo_engine::rollout::wave;
use tfo_model::ids::NodeId;

use super::fleet::{Fleet, pool_id};

/// A rule that is switched off, to see that its check notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleOff {
    /// Every node counts as having acknowledged.
    Barriers,
    /// The key that was replaced is dropped at once: no pair of nodes is ever incompatible, but clients are.
    Promise,
    /// A coordinator sets the policy of its file whenever the pool has another one.
    FileProposes,
    /// A coordinator holds requests without its store for as long as it likes.
    Blindness,
    /// Nodes are excluded when `absent_after` is over since the record of their last sync.
    DetachedFirst,
    /// Time in which no node is heard makes nodes absent.
    Deafness,
    /// Acks count for a node whatever session they were made in: also those of a coordinator that stood still, and writes
    /// them when their nodes have been elsewhere for long.
    AcksOfOpenSessions,
    /// A beat vouches for nodes whose reports its writer still has to write.
    PresenceCarriesReport,
    /// The health gate asks no node, and passes on counters that are old.
    FreshCounters,
}

impl Fleet {
    /// A rule about what coordinators hear is off: then nothing else stops the fleet, so that every seed comes to what it is for.
    pub(super) fn is_about_ears(&self) -> bool {
        matches!(
            self.rule_off,
            Some(
                RuleOff::Blindness
                    | RuleOff::DetachedFirst
                    | RuleOff::Deafness
                    | RuleOff::AcksOfOpenSessions
                    | RuleOff::FreshCounters
            )
        )
    }

    /// A presence under a rule that is off.
    pub(super) fn judged(&self, snapshot: &Snapshot, mut presence: Presence) -> Presence {
        if self.rule_off == Some(RuleOff::DetachedFirst) {
            let policy = &snapshot.document.policy;
            let too_early = (policy.hold_max() + policy.beat() * 2).as_secs();
            let is_early = |node: &&NodeId| presence.absent_in(node).is_some_and(|left| left <= too_early);
            let early: Vec<NodeId> = presence.overdue.keys().filter(is_early).cloned().collect();
            presence.absent.extend(early);
        }
        if self.rule_off == Some(RuleOff::FreshCounters) {
            presence.unobserved.clear();
        }
        presence
    }

    /// What a coordinator looks at: with a node that is heard at every look if deafness is off.
    pub(super) fn looked_at(&self, snapshot: &Snapshot) -> Option<Snapshot> {
        (self.rule_off == Some(RuleOff::Deafness)).then(|| {
            let mut heard = snapshot.clone();
            if let Some(mut record) = heard.nodes.values().next().cloned() {
                (record.session, record.syncs, record.silent) = (None, 1 + self.now, false);
                heard.nodes.insert("zz-always-heard".parse().unwrap(), record);
            }
            heard
        })
    }
}

/// A snapshot, as if every node had acknowledged.
pub(super) fn all_acked(snapshot: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for (id, record) in &mut snapshot.nodes {
        let told = wave::instruction_for(&snapshot.document, id, SlotCount::Two);
        if let (Some(told), Some(report)) = (told, &mut record.report) {
            report.installed = Installed::ReadBack;
            report.fence = Some(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots });
        }
    }
    snapshot
}

/// Acks that are taken for those of their nodes' open sessions.
pub(super) fn unfenced(queue: Writes, stored: &Snapshot) -> Writes {
    let mut writes = Writes { acks: BTreeMap::new(), ..queue };
    for (node, later) in queue.acks {
        let record = stored.nodes.get(&node);
        match record.and_then(|record| record.session).filter(|open| *open != later.session) {
            Some(session) => {
                let answers = record.and_then(|record| record.exclusion);
                writes.entries.insert(node, Entry { session, answers, first: later.ack.clone() }.into());
            }
            None => {
                writes.acks.insert(node, later);
            }
        }
    }
    writes
}
