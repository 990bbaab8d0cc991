//! What goes into the engine and what comes out: [`Now`], [`Input`], [`Step`], [`Wait`], [`Refused`].
//!
//! Commands and refusals are those of docs/protocol.md#rule-3 and rules 10 to 15.

use std::collections::BTreeSet;
use std::fmt;

use super::document::Proposal;
use super::policy::{BadPolicy, Policy};
use super::presence::Presence;
use super::slots::Slots;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::BlockedBy;
use tfo_model::ids::NodeId;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::node::Expected;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

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
    /// Take a node out of all barriers until a time.
    Exclude {
        /// The node to take out.
        node: NodeId,
        /// End of the exclusion, by wall clock.
        until: UnixTime,
    },
    /// Give a node no keys any more.
    Deny {
        /// The node to deny.
        node: NodeId,
    },
    /// Make a node unknown.
    Forget {
        /// The node to forget.
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
    /// Nothing now: wait.
    Wait(Wait),
    /// Make a key and ask again, with its fingerprint, on the same snapshot.
    MakeKey {
        /// Epoch of the key to make.
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
}

/// A refused input: the state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused in phase {}: {reason}", .phase.as_str())]
pub struct Refused {
    /// The phase that it was refused in.
    pub phase: Phase,
    /// Why the input was refused.
    pub reason: Reason,
}

impl From<&Refused> for Wait {
    /// What a policy that may not be taken yet waits for.
    fn from(refused: &Refused) -> Self {
        match &refused.reason {
            Reason::Frozen { .. } => Self::on(BlockedBy::Frozen),
            Reason::NotHeard(nodes) => Self::for_nodes(BlockedBy::Barrier, nodes.clone()),
            _ => Self::on(BlockedBy::Held),
        }
    }
}

/// Why an input was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The store is behind its own fleet.
    Frozen {
        /// The node that reported it.
        node: NodeId,
        /// The generation that the node received.
        generation: Generation,
    },
    /// These required nodes were not seen since this coordinator started.
    NotHeard(Vec<NodeId>),
    /// The command has no meaning in this phase; the text explains it.
    WrongPhase(&'static str),
    /// The document has moved to this revision.
    RevisionMoved(Revision),
    /// The pool has moved to this generation.
    GenerationMoved(Generation),
    /// These nodes are behind, and the operator did not agree to leave them.
    MoreBehind(Vec<NodeId>),
    /// Fewer than `min_present` would be left.
    TooFew {
        /// Number of required nodes that would be left.
        left: usize,
        /// Number of required nodes that are needed.
        needed: usize,
    },
    /// These required nodes have not acknowledged.
    Barrier(Vec<NodeId>),
    /// Fewer nodes than `expected_nodes`.
    ExpectedNodes {
        /// Number of required nodes now.
        required: usize,
        /// `expected_nodes` of the policy.
        expected: usize,
    },
    /// Clients still come with cookies of the backup key.
    NotDrained,
    /// An operator or the health gate paused the pool.
    Paused,
    /// The pool holds.
    Held,
    /// These nodes are expected after a first key or an import, and are not here or have not acknowledged.
    Expected(Vec<String>),
    /// A rotation of a revoked key is aborted only by force.
    RevokeRuns,
    /// No such key is in a slot.
    NoSuchKey,
    /// The key was revoked, is in a slot, or is in both slots of the command.
    KeyReused(KeyFingerprint),
    /// Nodes share a key that is not the pool's: import it.
    ForeignKey {
        /// Fingerprint of the shared key.
        fingerprint: KeyFingerprint,
        /// Number of nodes that report it.
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
                write!(
                    f,
                    "frozen: {node} reports generation {generation}, which this store never gave out: the store was \
                     restored (recover), or {node} lies (deny it)"
                )
            }
            Self::NotHeard(nodes) => {
                f.write_str("not seen since this coordinator started: ")?;
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
                write!(f, "{required} nodes are required, and expected_nodes is {expected} (--force skips this gate)")
            }
            Self::NotDrained => f.write_str("clients still use cookies of the backup key (--force skips this gate)"),
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
