//! What goes into the engine and what comes out: [`Now`], [`Input`], [`Step`], [`Wait`]; refusals are in `refusal`.
//!
//! Commands are those of docs/protocol.md#rule-3 and rules 10 to 15.

use std::collections::BTreeSet;

use super::document::{Document, Pause, Proposal, Stage};
use super::policy::Policy;
use super::presence::Presence;
pub use super::refusal::{Reason, Refused};
use super::slots::Slots;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::BlockedBy;
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::key::PairPrint;
use tfo_model::node::Expected;
use tfo_model::time::UnixTime;

/// Longest time for which ticks of a pool are left out that waits for nodes.
const RESTS_MAX_SECS: u64 = 60;

/// Everything about the present that the engine may know.
#[derive(Debug, Clone, Copy)]
pub struct Now<'a> {
    /// This coordinator's wall clock: schedule and audit only.
    pub wall: UnixTime,
    /// The nodes that this coordinator has seen, by its monotonic clock.
    pub presence: &'a Presence,
}

/// What the engine is to act on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// Something may have changed: drive the walk by at most one commit.
    Tick,
    /// An operator sent a command.
    Request(OperatorRequest),
}

/// A command with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OperatorRequest {
    /// The operator's name in the certificate.
    pub operator: NodeId,
    /// The operator's reason, for the audit log.
    pub reason: String,
    /// Refused if the document has moved on from this revision, which the operator saw (rule 15).
    pub if_revision: Option<Revision>,
    /// The command.
    pub command: Command,
}

/// Which keys a revoke drives out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RevokeKeys {
    /// Every key that some node is instructed to hold now: what a stolen node had.
    AllInstructed,
    /// The keys of these epochs.
    Epochs(BTreeSet<Epoch>),
}

/// The commands of an operator.  `force` passes over gates, never over barriers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Give an empty pool its first key, freshly made.
    FirstKey {
        /// Nodes that must be here before the pool moves.
        expect: Expected,
        /// Also if nodes share a foreign key.
        force: bool,
    },
    /// Give an empty pool the keys that its nodes hold already.
    Import {
        /// Fingerprints of the keys.
        keys: PairPrint,
        /// Nodes that must be here before the pool moves.
        expect: Expected,
    },
    /// Take over the state of a fleet that is ahead of a restored store.
    Recover {
        /// One of [`super::barrier::recoverable`].
        slots: Slots,
    },
    /// Start a rotation now, without waiting for the schedule.  The fresh key may be one with given bytes.
    Rotate {
        /// Also if the clients have not left the backup key, or fewer nodes than `expected_nodes` are required.
        force: bool,
    },
    /// Stop in the present phase.
    Pause,
    /// Continue after a pause or a hold.
    Resume {
        /// Also without the nodes that a first key or an import expects and that never came.
        force: bool,
    },
    /// Turn back with a move of the same kind, and hold.
    Abort {
        /// Also if the rotation drives out a revoked key.
        force: bool,
    },
    /// Drive keys out.
    Revoke {
        /// The keys to drive out.
        keys: RevokeKeys,
        /// Nodes to deny in the same commit.
        deny: BTreeSet<NodeId>,
    },
    /// Pass this barrier without the nodes that are behind (rule 15).
    Advance {
        /// The generation that the operator saw.
        generation: Generation,
        /// The nodes that the operator saw behind.
        leave: BTreeSet<NodeId>,
    },
    /// Take nodes out of all barriers until a time.
    Exclude {
        /// The nodes to take out.
        nodes: BTreeSet<NodeId>,
        /// End of the exclusion, by wall clock.
        until: UnixTime,
    },
    /// End an operator's exclusion of nodes now.
    Include {
        /// The excluded nodes.
        nodes: BTreeSet<NodeId>,
    },
    /// Give nodes no keys any more.
    Deny {
        /// The nodes to deny.
        nodes: BTreeSet<NodeId>,
    },
    /// End a deny: the nodes may come again as new ones.
    Allow {
        /// The denied nodes.
        nodes: BTreeSet<NodeId>,
    },
    /// Make nodes unknown.
    Forget {
        /// The nodes to forget.
        nodes: BTreeSet<NodeId>,
        /// What becomes of the expected number.
        expected: Expectation,
    },
    /// Lead nodes over to another pool of the same coordinators.
    Move {
        /// The nodes to lead over.
        nodes: BTreeSet<NodeId>,
        /// Where to.
        to: Target,
        /// What becomes of the expected number.
        expected: Expectation,
    },
    /// Expect so many nodes from now on.
    Expect {
        /// Fewest required nodes with which a rotation starts.
        number: usize,
    },
    /// Take another policy into the document.
    SetPolicy {
        /// The whole policy.
        policy: Box<Policy>,
    },
}

/// The pool that nodes are moved to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its identity, which the order is about: a pool that is made again under the name is not meant.
    pub pool_id: PoolId,
    /// Its name, for the audit log.
    pub name: PoolName,
}

/// What `forget` and `move` do to the number of expected nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expectation {
    /// It stays.
    Keep,
    /// It falls to the number of required nodes that are left, if it is higher.
    Lower,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing now: wait.
    Wait(Wait),
    /// Make a key and ask again, with its fingerprint, on the same snapshot.
    MakeKey {
        /// Epoch of the key to make.
        epoch: Epoch,
    },
    /// Commit this, then adopt and publish it; on a conflict drop it, reload and ask again.
    Commit(Box<Proposal>),
    /// The same for the first nodes of a command that changes more records than one commit takes: then ask again, with
    /// the same command.  Nothing passes a barrier in between, because the other nodes are still waited for.
    Part(Box<Proposal>),
}

/// Why nothing moves (docs/reference/json.md, `pools`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The gate that is closed.
    pub blocked_by: BlockedBy,
    /// The nodes that the pool waits for, in name order.
    pub waiting_for: Vec<NodeId>,
    /// When the gate opens by time alone, by this coordinator's wall clock, if that is known.
    pub next_at: Option<UnixTime>,
}

impl Wait {
    pub(super) fn on(blocked_by: BlockedBy) -> Self {
        Self { blocked_by, waiting_for: Vec::new(), next_at: None }
    }

    pub(super) fn until(blocked_by: BlockedBy, next_at: UnixTime) -> Self {
        Self { blocked_by, waiting_for: Vec::new(), next_at: Some(next_at) }
    }

    pub(super) fn for_nodes(blocked_by: BlockedBy, waiting_for: Vec<NodeId>) -> Self {
        Self { blocked_by, waiting_for, next_at: None }
    }

    /// Until when the next ticks come to the same, by a wall clock that does not go back, as long as neither the document
    /// nor a record nor the presence of a node changes: they need not be taken.  None: the next one may come to something
    /// else, because counters or served time decide.
    #[must_use]
    pub fn rests_until(&self, document: &Document, wall: UnixTime) -> Option<UnixTime> {
        if document.revoke.is_some() || document.paused.as_ref().is_some_and(Pause::is_health) {
            return None;
        }
        match self.blocked_by {
            BlockedBy::Drain | BlockedBy::Health | BlockedBy::Clock => None,
            // Before the last rotation served time counts in place of the clock.
            BlockedBy::Schedule | BlockedBy::Calendar => self.next_at.filter(|_| wall >= document.rotated_at),
            BlockedBy::Paused | BlockedBy::Held | BlockedBy::NoKey | BlockedBy::Frozen => Some(UnixTime::MAX),
            // Counters stop a wave also while its nodes are waited for.
            _ if matches!(&document.stage, Stage::Promoted { wave, .. } if !wave.is_last()) => None,
            // A calendar may close meanwhile, and what operators read names times that move.  And before these two times served
            // time opens the gates in front of a barrier, which close again when the clock comes there.
            BlockedBy::Barrier | BlockedBy::Absent | BlockedBy::ExpectedNodes => {
                let by_served_time = [document.rotated_at, document.since].into_iter().filter(|at| wall < *at);
                by_served_time.chain([wall.plus(RESTS_MAX_SECS)]).min()
            }
        }
    }
}
