//! Why an input was refused: the reason first, then the phase; what to do, and until when it holds.
//!
//! The reasons are those of docs/protocol.md#rule-3 and rules 10 to 15.  Must not know: how a refusal travels.

use std::fmt;

use super::document::{CHANGED_MAX, NAMED_MAX};
use super::input::Wait;
use super::policy::{BadPolicy, Share};
use tfo_model::count::{Generation, Revision};
use tfo_model::fleet::BlockedBy;
use tfo_model::ids::NodeId;
use tfo_model::key::KeyFingerprint;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// Most nodes that a pool can expect, as in the configuration file.
pub const EXPECTED_MAX: usize = 1_000_000;

/// Most names that a first key or an import can wait for: they are in the document.
pub const EXPECTED_NAMES_MAX: usize = 512;

/// A refused input: the state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (phase {})", .phase.as_str())]
pub struct Refused {
    /// The phase that it was refused in.
    pub phase: Phase,
    /// Why the input was refused.
    pub reason: Reason,
}

impl Refused {
    /// When the reason ends by time alone, if it does.
    #[must_use]
    pub fn until(&self) -> Option<UnixTime> {
        match self.reason {
            Reason::NotDrained { until, .. } => until,
            Reason::Calendar { until, .. } => Some(until),
            _ => None,
        }
    }

    /// What to do about it; every command that it names helps in this state.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match &self.reason {
            Reason::Frozen { .. } => {
                "if the store was restored: `tfoctl recover`; if that node lies: `tfoctl rotate --mode revoke --deny` it"
            }
            Reason::NotHeard(_) => {
                "wait for their reports, or take out the nodes that do not return: `tfoctl exclude`, `forget` or `deny`"
            }
            Reason::WrongPhase(_) => match self.phase {
                Phase::Empty => {
                    "give the pool its key: `tfoctl rotate --first`, or `tfoctl import` if the nodes share one"
                }
                Phase::Steady => "no rotation runs; `tfoctl rotate` starts one",
                Phase::Staged | Phase::Promoted => {
                    "a rotation runs: wait for its end, or turn it back (`tfoctl abort`)"
                }
            },
            Reason::RevisionMoved(_) | Reason::GenerationMoved(_) | Reason::MoreBehind(_) => {
                "the pool has changed: look again (`tfoctl pools`, `tfoctl audit`), then decide"
            }
            Reason::TooFew { .. } => {
                "bring nodes back; those that are gone for good do not count once they are forgotten (`tfoctl forget`)"
            }
            Reason::Barrier(_) => {
                "`tfoctl nodes` says why they are behind: repair them, or leave them out (`tfoctl exclude`)"
            }
            Reason::ExpectedNodes { .. } => {
                "deploy the others, or expect fewer (`tfoctl expect`, or expected_nodes in the coordinator's file); \
                 --force skips this gate once"
            }
            Reason::NotDrained { .. } => "wait until then; --force skips this gate, and costs these clients one cookie",
            Reason::Calendar { .. } => {
                "wait until then; --force starts it all the same, and a revoke (--mode revoke) never waits for the calendar"
            }
            Reason::Paused => "`tfoctl resume` first",
            Reason::Held => "`tfoctl resume` first",
            Reason::Expected(_) => "wait for them, or go on without those that never came: `tfoctl resume --force`",
            Reason::RevokeRuns => "let it finish; `tfoctl abort --force` gives the revoke up, and its keys stay in use",
            Reason::NoSuchKey => "`tfoctl pools` shows the keys and their epochs",
            Reason::KeyReused(_) => "use a key that was never in this pool",
            Reason::ForeignKey { .. } => "take it over with `tfoctl import`; --force gives it up",
            Reason::NotReported => "`tfoctl pools` lists the keys that can be taken over",
            Reason::UnknownNodes(_) => "`tfoctl nodes --all` lists the nodes; nothing was done",
            Reason::WrongNodes { .. } => "leave these names out; nothing was done",
            Reason::SamePool => "name another pool; `tfoctl pools` lists them",
            Reason::ExpectedInFile(_) => "change it there, and `systemctl reload tfo-coordinator`",
            Reason::ExpectedOutOfRange => "write another number",
            Reason::ExpectedNames(_) => "expect a number",
            Reason::TooManyNodes(_) => "name fewer at once; nothing was done",
            Reason::Policy(_) => "correct the configuration file",
            Reason::DocumentTooLarge { .. } => {
                "shorten `nodes` and `promote_waves` in the coordinator's file (patterns in place of names), or expect a \
                 number"
            }
            Reason::Exhausted => "this is a bug, please report it",
        }
    }
}

impl From<&Refused> for Wait {
    /// What a tick waits for that a number at its end, or a key that was there before, keeps from its step.
    fn from(_: &Refused) -> Self {
        Self::on(BlockedBy::Held)
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
    /// Clients still come with cookies of the backup key, or too few came to tell.
    NotDrained {
        /// Cookies that the nodes accepted since the pool has been steady.
        accepted: u64,
        /// Those of them that were made with the backup key.
        by_backup: u64,
        /// Fewer accepted cookies are not evidence.
        samples_min: u64,
        /// When the gate opens by time alone.
        until: Option<UnixTime>,
    },
    /// The calendar lets no rotation start.
    Calendar {
        /// What the configuration gives as the reason; may be empty.
        reason: String,
        /// When it lets one start again.
        until: UnixTime,
    },
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
    /// The nodes are unknown.
    UnknownNodes(Vec<NodeId>),
    /// The command has no meaning for these nodes; the text explains it.
    WrongNodes {
        /// What the nodes are, or are not.
        why: &'static str,
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// Nodes are moved to another pool, not to their own.
    SamePool,
    /// The number of expected nodes is in the configuration file.
    ExpectedInFile(usize),
    /// No pool expects so many nodes, or none.
    ExpectedOutOfRange,
    /// So many names are expected.
    ExpectedNames(usize),
    /// The command names so many nodes.
    TooManyNodes(usize),
    /// The policy cannot be driven.
    Policy(BadPolicy),
    /// The document would be longer than any may be.
    DocumentTooLarge {
        /// Bytes that it would have.
        bytes: usize,
        /// Most bytes that it may have after this command.
        bytes_max: usize,
    },
    /// A counter is at its end.
    Exhausted,
}

fn not_drained(f: &mut fmt::Formatter<'_>, accepted: u64, by_backup: u64, samples_min: u64) -> fmt::Result {
    const UNKNOWN: &str = "so clients may still use cookies of the backup key";
    match accepted {
        0 => write!(f, "no node has counted a cookie since the last rotation, {UNKNOWN}"),
        few if few < samples_min => write!(f, "only {few} cookies were counted since the last rotation, {UNKNOWN}"),
        _ => {
            let share = Share::of(by_backup, accepted);
            write!(f, "clients still use cookies of the backup key ({share} of {accepted} accepted)")
        }
    }
}

/// The first names, and how many more there are.
fn names(f: &mut fmt::Formatter<'_>, nodes: &[impl fmt::Display]) -> fmt::Result {
    for (i, node) in nodes.iter().take(NAMED_MAX).enumerate() {
        write!(f, "{}{node}", if i == 0 { "" } else { ", " })?;
    }
    match nodes.len().saturating_sub(NAMED_MAX) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frozen { node, generation } => {
                write!(
                    f,
                    "frozen: {node} reports generation {generation}, which this store never gave out: the store was restored, or {node} lies"
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
                write!(f, "{required} nodes are required, and expected_nodes is {expected}")
            }
            Self::NotDrained { accepted, by_backup, samples_min, until } => {
                not_drained(f, *accepted, *by_backup, *samples_min)?;
                until.map_or(Ok(()), |until| write!(f, "; the gate opens at {until} at the latest"))
            }
            Self::Calendar { reason, until } => {
                write!(f, "the pool's calendar lets no rotation start before {until}")?;
                if reason.is_empty() { Ok(()) } else { write!(f, " ({reason})") }
            }
            Self::Paused => f.write_str("the pool is paused"),
            Self::Held => f.write_str("the pool is held"),
            Self::Expected(nodes) => {
                f.write_str("expected, and not here with the pool's keys: ")?;
                names(f, nodes)
            }
            Self::RevokeRuns => f.write_str("a revoked key is being driven out"),
            Self::NoSuchKey => f.write_str("no such key is in a slot"),
            Self::KeyReused(key) => write!(f, "key {key} is revoked or in use"),
            Self::ForeignKey { fingerprint, nodes } => {
                write!(f, "{nodes} nodes share key {fingerprint} already")
            }
            Self::NotReported => f.write_str("no node reports these keys under its highest generation"),
            Self::UnknownNodes(nodes) => {
                f.write_str("the pool has no node ")?;
                names(f, nodes)
            }
            Self::WrongNodes { why, nodes } => {
                write!(f, "{why}: ")?;
                names(f, nodes)
            }
            Self::SamePool => f.write_str("the nodes are in this pool already"),
            Self::ExpectedInFile(number) => {
                write!(f, "expected_nodes = {number} is set in the coordinator's configuration file, which decides")
            }
            Self::ExpectedOutOfRange => write!(f, "a pool expects 1 to {EXPECTED_MAX} nodes"),
            Self::ExpectedNames(names) => {
                write!(f, "{names} names are expected, and {EXPECTED_NAMES_MAX} is the most")
            }
            Self::TooManyNodes(nodes) => {
                write!(f, "{nodes} nodes are named, and one command takes at most {CHANGED_MAX}")
            }
            Self::Policy(bad) => bad.fmt(f),
            Self::DocumentTooLarge { bytes, bytes_max } => {
                write!(f, "the pool's document would have {bytes} bytes, and {bytes_max} is the most")
            }
            Self::Exhausted => f.write_str("a counter is at its end"),
        }
    }
}
