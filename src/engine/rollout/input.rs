//! What goes into the machine and what comes out: [`Now`], [`Input`], [`Step`], [`Wait`], [`Refused`].

use std::collections::BTreeSet;
use std::fmt;

use super::document::{Expect, PoolKey, Proposal, Slots};
use super::policy::{BadPolicy, Policy};
use crate::convergence::Presence;
use tfo_model::count::{Epoch, Generation, Revision};
pub use tfo_model::fleet::BlockedBy;
use tfo_model::ids::NodeId;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// Everything about the present that the machine may know.
#[derive(Debug, Clone, Copy)]
pub struct Now<'a> {
    /// This coordinator's wall clock: schedule and audit only.
    pub wall: UnixTime,
    /// Its ears and its monotonic clock.
    pub presence: &'a Presence,
}

/// Why the machine is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// Something may have changed: drive the walk by at most one commit.
    Tick,
    /// An operator wants something.
    Order(Order),
}

/// A command with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order {
    /// Who, by the certificate.
    pub operator: NodeId,
    /// Why, as the operator put it; for the audit log.
    pub reason: String,
    /// Refused if the document has moved on from what the operator saw (rule 15).
    pub if_revision: Option<Revision>,
    /// What.
    pub command: Command,
}

/// Whether the operator insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Force {
    /// Gates count.
    No,
    /// Gates that only protect comfort are passed over; barriers never are.
    Yes,
}

/// Which keys a revoke drives out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RevokeKeys {
    /// Every key that some node is told now: what a stolen node had.
    AllTold,
    /// The keys of these epochs.
    Epochs(BTreeSet<Epoch>),
}

/// What an operator can want.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Give an empty pool its first key, freshly made.
    FirstKey {
        /// Who must be here before it goes on.
        expect: Expect,
        /// Also if nodes share a foreign key.
        force: Force,
    },
    /// Give an empty pool the keys that its nodes hold already.
    Import {
        /// Fingerprints of the keys.
        keys: PairPrint,
        /// Who must be here before it goes on.
        expect: Expect,
    },
    /// Take over the state of a fleet that is ahead of a restored store.
    Recover {
        /// One of [`crate::convergence::recoverable`].
        slots: Slots,
    },
    /// Start a rotation now, without waiting for the schedule.  The fresh key may be one with given bytes.
    Rotate {
        /// Also if it is not drained, or fewer nodes than `expected_nodes` are here.
        force: Force,
    },
    /// Stop at the present phase.
    Pause,
    /// Go on after a pause or a hold.
    Resume {
        /// Also if nodes that a first key or an import expects have never come: they are not waited for any more.
        force: Force,
    },
    /// Turn back with a move of the same kind, and hold.
    Abort {
        /// Also if the rotation is there to drive out a revoked key.
        force: Force,
    },
    /// Drive keys out.
    Revoke {
        /// Which.
        keys: RevokeKeys,
        /// Nodes to deny in the same commit.
        deny: BTreeSet<NodeId>,
    },
    /// Pass this barrier without the nodes that are behind (rule 15).
    Advance {
        /// The generation that the operator saw.
        generation: Generation,
        /// The nodes behind, as the operator saw them.
        leave: BTreeSet<NodeId>,
    },
    /// Take a node out of all barriers until a time.
    Exclude {
        /// Which.
        node: NodeId,
        /// Until when, by wall clock.
        until: UnixTime,
    },
    /// Give a node no keys any more.
    Deny {
        /// Which.
        node: NodeId,
    },
    /// Make a node unknown.
    Forget {
        /// Which.
        node: NodeId,
    },
    /// Take another policy into the document.
    SetPolicy {
        /// The whole policy.
        policy: Box<Policy>,
    },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing now; what for, and whom for.
    Wait(Wait),
    /// Make a key and ask again, with its fingerprint, on the same snapshot.
    MakeKey {
        /// The epoch that it is to have.
        epoch: Epoch,
    },
    /// Commit this, then adopt and publish it; on a conflict drop it, reload and ask again.
    Commit(Box<Proposal>),
}

/// Why nothing moves (docs/reference/json.md, `pools`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The gate that is closed.
    pub blocked_by: BlockedBy,
    /// The nodes that it waits for, in name order.
    pub waiting_for: Vec<NodeId>,
    /// When it opens by time alone, by this coordinator's wall clock, if that is known.
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
}

/// A refused input: the state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused in phase {}: {reason}", .phase.as_str())]
pub struct Refused {
    /// The phase that it was refused in.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
}

/// Why an input was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The store is behind its own fleet.
    Frozen {
        /// Who reported it.
        node: NodeId,
        /// What it was told.
        generation: Generation,
    },
    /// Not every required node was heard since this coordinator started.
    NotHeard(Vec<NodeId>),
    /// The command has no meaning in this phase.
    WrongPhase(&'static str),
    /// The document has moved.
    RevisionMoved(Revision),
    /// The generation has moved.
    GenerationMoved(Generation),
    /// More nodes are behind than the operator agreed to leave.
    MoreBehind(Vec<NodeId>),
    /// Fewer than `min_present` would be left.
    TooFew {
        /// Left.
        left: usize,
        /// Needed.
        needed: usize,
    },
    /// Not all required nodes have acknowledged.
    Barrier(Vec<NodeId>),
    /// Fewer nodes than `expected_nodes`.
    ExpectedNodes {
        /// Required now.
        required: usize,
        /// Expected.
        expected: usize,
    },
    /// Not drained.
    NotDrained,
    /// Paused.
    Paused,
    /// Held.
    Held,
    /// Nodes that a first key or an import expects are not here, or have not acknowledged.
    Expected(Vec<String>),
    /// A rotation of a revoked key is aborted only by force.
    RevokeRuns,
    /// No such key in a slot.
    NoSuchKey,
    /// The key was revoked, is in a slot, or is in both slots of the command.
    KeyReused(KeyFingerprint),
    /// Nodes share a key that is not the pool's: import it.
    ForeignKey {
        /// The key.
        fingerprint: KeyFingerprint,
        /// How many nodes report it.
        nodes: usize,
    },
    /// No node reported these slots under its highest generation.
    NotReported,
    /// The node is unknown.
    UnknownNode(NodeId),
    /// The policy cannot be driven.
    Policy(BadPolicy),
    /// A counter is at its end.
    Exhausted,
}

fn names(f: &mut fmt::Formatter<'_>, nodes: &[impl fmt::Display]) -> fmt::Result {
    for (i, node) in nodes.iter().enumerate() {
        write!(f, "{}{node}", if i == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frozen { node, generation } => {
                write!(f, "frozen: {node} was told generation {generation}, which this store never told; recover")
            }
            Self::NotHeard(nodes) => {
                f.write_str("not heard since this coordinator started: ")?;
                names(f, nodes)
            }
            Self::WrongPhase(why) => f.write_str(why),
            Self::RevisionMoved(now) => write!(f, "the document is at revision {now} now"),
            Self::GenerationMoved(now) => write!(f, "the pool is at generation {now} now"),
            Self::MoreBehind(nodes) => {
                f.write_str("also behind: ")?;
                names(f, nodes)
            }
            Self::TooFew { left, needed } => {
                write!(f, "{left} required nodes would be left, and min_present is {needed}")
            }
            Self::Barrier(nodes) => {
                f.write_str("not acknowledged by: ")?;
                names(f, nodes)
            }
            Self::ExpectedNodes { required, expected } => {
                write!(f, "{required} nodes are here, and expected_nodes is {expected} (--force passes it over)")
            }
            Self::NotDrained => f.write_str("clients still use cookies of the backup key (--force passes them over)"),
            Self::Paused => f.write_str("paused; resume first"),
            Self::Held => f.write_str("held; resume first"),
            Self::Expected(nodes) => {
                f.write_str("expected, and not here with the pool's keys: ")?;
                names(f, nodes)
            }
            Self::RevokeRuns => f.write_str("a revoked key is being driven out; abort needs force"),
            Self::NoSuchKey => f.write_str("no such key is in a slot"),
            Self::KeyReused(key) => write!(f, "key {key} is revoked or in use"),
            Self::ForeignKey { fingerprint, nodes } => {
                write!(f, "{nodes} nodes share key {fingerprint} already; import it")
            }
            Self::NotReported => f.write_str("no node reports these keys under its highest generation"),
            Self::UnknownNode(node) => write!(f, "{node} is not known"),
            Self::Policy(bad) => bad.fmt(f),
            Self::Exhausted => f.write_str("a counter is at its end"),
        }
    }
}

/// The key that a fresh fingerprint becomes.
pub(super) fn fresh_key(epoch: Epoch, fingerprint: KeyFingerprint) -> PoolKey {
    PoolKey { epoch, fingerprint }
}
