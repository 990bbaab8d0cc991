//! Which nodes one coordinator has seen in its life, and which are absent (docs/protocol.md#rule-10; rule 11).
//!
//! [`Life`] is the only memory that a coordinator has besides the store: the nodes that it has seen since it started,
//! on its own monotonic clock.  [`Presence`] is what it gives to one decision.  Must not know: wall clocks.
//!
//! A look takes in what has changed, and a look without news costs the same with ten nodes and with a hundred thousand:
//! counts and lists are kept by change (`census`).  [`Life::observe`] looks at all nodes and defines what
//! [`Life::follow`] comes to.
//!
//! A coordinator hears its own nodes itself ([`Life::hear`]), and those of others by their beats: a beat vouches for all nodes
//! of its writer's roster that are not marked as silent, so a sync that says nothing new is written nowhere.  A node whose
//! request it holds is heard for as long as the connection has not ended ([`Life::hold`], [`Life::release`]); absence counts
//! from the sync all the same, because the node counts from the answer to it.
//!
//! Invariants: a coordinator that starts has seen no node, whatever the store holds; time in which it does not serve, or
//! hears no node at all, makes no node absent; a store that went back begins a new life; a node counts as seen only if
//! that is known.
//!
//! Known limit: a coordinator notices that its store went back by what it has seen of the lost history, so one that saw
//! nothing of it notices nothing.  [`BLIND_MAX`] bounds that: what is lost must be younger than a minute, and this
//! coordinator the only one that had not looked.

mod census;
mod life;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::life::Life;
use super::barrier::Conflict;
use super::document::Snapshot;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, merge_join};

/// Longest time between two looks that counts as served.
///
/// A coordinator that was stopped or starved for an hour did not listen for an hour: the nodes were not silent.
pub const SERVED_GAP_MAX: Duration = Duration::from_secs(10);

/// Longest time between two looks at the store within one life.
///
/// A coordinator that was cut off for longer cannot know whether its store went back and forth again in the meantime:
/// no backup is made, outrun and restored within a minute.
pub const BLIND_MAX: Duration = Duration::from_secs(60);

/// How long a pool stays frozen after its last conflict vanished without a commit by an operator: a node that reports this
/// and that must not freeze and thaw the pool many times a second.
pub const THAW: Duration = Duration::from_secs(60);

/// One coordinator's view of its nodes, for one decision.
///
/// Fails closed: by default no node was seen, a node that it does not name was not seen, and with a store that is
/// behind [`Presence::revision`] none was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// Revision of the snapshot that this was computed from.
    pub revision: Revision,
    /// Nodes that have been seen in this life of the coordinator.
    pub seen: BTreeSet<NodeId>,
    /// Nodes that have not been seen for longer than their limit.
    pub absent: BTreeSet<NodeId>,
    /// When these nodes are absent, on the clock of served time: those that were not seen in this life, or for longer than
    /// their period.  Shown only; nothing is decided by it.
    pub overdue: BTreeMap<NodeId, Duration>,
    /// Nodes that this coordinator can ask, because their requests wait here, and that have to be: the observation of the
    /// present wave has come to a point since which they have not reported their counters (rule 12).
    pub unobserved: BTreeSet<NodeId>,
    /// The clock of served time.
    pub served: Duration,
    /// Seconds served since this coordinator first saw the present instruction, or a later revoke.
    pub phase_secs: u64,
    /// Seconds served since it first saw the present wave.
    pub wave_secs: u64,
    /// A conflict that vanished by itself less than [`THAW`] ago: the pool is still frozen.
    pub thawing: Option<Conflict>,
    /// Seconds since this coordinator has heard of any node, once it is deaf: its time stands still, and it takes no
    /// node for absent (rule 11).
    pub deaf_secs: Option<u64>,
    /// Seconds by which this coordinator's wall clock is off those of the others, if that is too much: it opens no gate
    /// then ([`super::clocks`]).
    pub clock_off_secs: Option<i64>,
}

impl Presence {
    /// Required nodes that are not known to have been seen in this life.  Before all of them have been, nothing is
    /// committed, and no node is instructed to hold anything new (rule 10).
    #[must_use]
    pub fn unseen_required(&self, snapshot: &Snapshot) -> Vec<NodeId> {
        let is_of_this_life = snapshot.document.revision >= self.revision;
        let seen = self.seen.iter().map(|node| (node, ()));
        merge_join(snapshot.nodes.iter(), seen)
            .filter(|(_, record, seen)| record.is_required() && !(is_of_this_life && seen.is_some()))
            .map(|(node, _, _)| node.clone())
            .collect()
    }

    /// Seconds until the node is absent, if it is overdue and stays away.
    #[must_use]
    pub fn absent_in(&self, node: &NodeId) -> Option<u64> {
        let at = self.overdue.get(node)?;
        Some(at.saturating_sub(self.served).as_secs().saturating_add(1))
    }

    /// Whether the node was seen in the life that this snapshot belongs to.
    #[must_use]
    pub fn has_seen(&self, snapshot: &Snapshot, node: &NodeId) -> bool {
        snapshot.document.revision >= self.revision && self.seen.contains(node)
    }
}
