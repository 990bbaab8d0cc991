//! The one document of a pool (docs/protocol.md#rule-1) and what is committed with it: plain data, no key bytes.
//!
//! **The boundary of keys.**  The document names a key by [`PoolKey`], its epoch and its fingerprint, so it can be
//! cloned, hashed, compared, logged and serialised.  The bytes lie beside it in a [`KeyRing`], which allows none of
//! that.  A store keeps, for a document:
//! * the document itself, without secrets (serde);
//! * one sealed row for each epoch of [`Document::keys_held`] (AEAD, additional data = `pool_id` and epoch), read
//!   through [`KeyRing::key`] and given back by [`KeyRing::insert`].
//!
//! A commit ([`Proposal`] and the ring with its fresh keys) is one transaction: the document if the stored revision is
//! [`Proposal::expected`], the exclusions, the audit entry, rows for fresh epochs that the new document holds, and the **erasure of every row whose epoch it does not hold**.  If an epoch is held but
//! has neither a row nor fresh bytes, the commit is refused.
//!
//! Must not know: clocks, stores, sockets.  Persisted: every type here; a field may be added with a serde default, and
//! anything else needs a new schema version.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::parts::{Beat, Excluded};
use super::policy::{Policy, Share, WaveRule};
use super::proposed::Replaced;
use super::record::{NodeRecord, Report};
use super::slots::PoolKey;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::Action;
use tfo_model::fleet::HoldReason;
use tfo_model::ids::{CoordinatorName, NodeId, PoolId};
use tfo_model::key::TfoKey;
use tfo_model::node::Expected;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// Longest list of revoked keys; the oldest is dropped first.
///
/// Their bytes are erased anyway, so the list only keeps the same key from coming back by `recover`.
pub const REVOKED_MAX: usize = 256;

/// Most nodes that a document, an audit entry or a refusal names; the rest is counted.
///
/// Enough for the canaries of any fleet, and for what a person reads.
pub const NAMED_MAX: usize = 100;

/// Most nodes whose records one commit changes; the next commit takes the next ones.
///
/// A site of thirty thousand nodes may be lost at once, and a transaction stays within what every store takes.
pub const CHANGED_MAX: usize = 10_000;

/// Most bytes of a document's JSON; a commit that would exceed them is refused.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// What commands that write lists into a document leave of that: more than a rotation adds by itself (copied waves, nodes
/// taken in, revoked keys, nodes left behind), so that no rotation stops for want of room.
pub const DOCUMENT_BYTES_KEPT: usize = 64 << 10;

/// Most nodes that a stop by the health gate names.
pub const WORST_NODES_MAX: usize = 5;

/// The phase of the pool, with exactly the keys of that phase.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Stage {
    /// No key yet: nodes are instructed to hold nothing.
    Empty,
    /// All nodes hold `[current, backup]`.
    Steady {
        /// The primary of all nodes.
        current: PoolKey,
        /// The key before it, or the aborted one after it, or none.
        backup: Option<PoolKey>,
    },
    /// All nodes hold `[current, next]`.
    Staged {
        /// The primary of all nodes.
        current: PoolKey,
        /// The next primary.
        next: PoolKey,
        /// What an abort puts back into the backup slot.
        prior_backup: Option<PoolKey>,
    },
    /// Nodes in the opened waves hold `[next, current]` under the document's generation, all others `[current, next]`
    /// under the one before it.
    Promoted {
        /// The primary before.
        current: PoolKey,
        /// The next primary.
        next: PoolKey,
        /// The generation under which nodes outside the opened waves hold `[current, next]`.
        staged_generation: Generation,
        /// The opened waves.
        wave: Wave,
    },
}

/// The opened waves of a promotion.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Wave {
    /// The waves of this rotation: fixed when it is promoted, so a change of policy never moves a node out of one.
    pub rules: Vec<WaveRule>,
    /// Waves 0 to this one are open; the last wave takes in every node.
    pub opened: usize,
    /// Nodes that were taken into a wave that had no present member (rule 12).
    pub taken_in: BTreeSet<NodeId>,
    /// When this wave was opened, by the wall clock of the coordinator that opened it; shown, never measured with.
    pub opened_at: UnixTime,
    /// An operator resumed after the health gate had paused this wave: it does not pause it again.
    pub health_waived: bool,
}

impl Wave {
    /// Whether every node is in.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.opened + 1 >= self.rules.len()
    }
}

impl Stage {
    /// The name of the phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::Empty => Phase::Empty,
            Self::Steady { .. } => Phase::Steady,
            Self::Staged { .. } => Phase::Staged,
            Self::Promoted { .. } => Phase::Promoted,
        }
    }
}

/// Why no rotation starts by itself until an operator's `resume`.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Hold {
    /// A rotation was aborted, or a key revoked by aborting it (rule 3).
    Aborted,
    /// The pool got its first key, or the keys of a running fleet (rule 14).
    FirstKey {
        /// Nodes that must be admitted and have acknowledged before the pool moves.
        expect: Expected,
    },
    /// `recover` took over the state of a fleet that was ahead of a restored store (rule 10).
    Recovered,
}

impl Hold {
    /// Its name.
    #[must_use]
    pub fn reason(&self) -> HoldReason {
        match self {
            Self::Aborted => HoldReason::Aborted,
            Self::FirstKey { .. } => HoldReason::FirstKey,
            Self::Recovered => HoldReason::Recovered,
        }
    }
}

/// What stopped the pool in its present phase.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pause {
    /// When it was paused, by the wall clock of the coordinator that committed it.
    pub since: UnixTime,
    /// The author of the pause, and the cause.
    pub cause: PauseCause,
}

/// Why a pool is paused.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum PauseCause {
    /// An operator paused it.
    Operator {
        /// The operator's name in the certificate.
        operator: NodeId,
        /// The operator's reason; may be empty.
        reason: String,
    },
    /// The health gate (rule 12): more cookies are rejected in the wave than before it was promoted.
    Health {
        /// Share of rejected cookies since the promotion.
        rejected: Share,
        /// The same while the pool was staged.
        baseline: Share,
        /// The nodes that rejected most, the worst first, at most [`WORST_NODES_MAX`].
        worst: Vec<NodeId>,
    },
}

impl Pause {
    /// Whether the health gate paused the pool.
    #[must_use]
    pub fn is_health(&self) -> bool {
        matches!(self.cause, PauseCause::Health { .. })
    }
}

/// A running revoke (rule 13).  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revoke {
    /// The keys that must leave the slots, as long as they are in one.
    pub keys: BTreeSet<PoolKey>,
    /// Nodes that the short barrier has left behind, for the operator; at most [`NAMED_MAX`].
    pub left_behind: BTreeSet<NodeId>,
    /// How often it left a node behind that `left_behind` does not name.
    #[serde(default)]
    pub left_behind_more: usize,
    /// When it began.
    pub since: UnixTime,
}

impl Revoke {
    /// A revoke that begins now, and has left no node behind.
    #[must_use]
    pub fn of(keys: BTreeSet<PoolKey>, since: UnixTime) -> Self {
        Self { keys, left_behind: BTreeSet::new(), left_behind_more: 0, since }
    }
}

/// The document of a pool (rule 1).  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Document {
    /// Identity of the pool, made once.
    pub pool_id: PoolId,
    /// Rises with every commit: the token of the compare-and-swap.
    pub revision: Revision,
    /// Rises when the slots that some node is instructed to hold change: the fence of the nodes.
    pub generation: Generation,
    /// The phase and its keys.
    pub stage: Stage,
    /// Epoch of the next key that is made; an aborted rotation uses its epoch up, too.
    pub next_epoch: Epoch,
    /// Keys that never come back (rule 13), oldest first, at most [`REVOKED_MAX`].
    pub revoked: Vec<PoolKey>,
    /// If set, the pool stays in its present phase until `resume`; only abort, revoke and node commands still act.
    pub paused: Option<Pause>,
    /// If set, no rotation starts by itself.
    pub hold: Option<Hold>,
    /// Keys that are being driven out of the slots.
    pub revoke: Option<Revoke>,
    /// When this phase began, by the wall clock of the coordinator that committed it.
    pub since: UnixTime,
    /// When the primary last changed: a rotation is due one interval later.
    pub rotated_at: UnixTime,
    /// Schedule, waves and gates.  Every coordinator drives by these, not by its own file (rule 11).
    pub policy: Policy,
    /// The policies before it, the oldest first: no start of a coordinator takes one of them back.
    #[serde(default)]
    pub replaced: Vec<Replaced>,
    /// Number of nodes that operators expect; counts only if the policy has none.
    #[serde(default = "Document::expected_by_default")]
    pub expected: usize,
}

impl Document {
    /// The document of a pool that was just made.
    #[must_use]
    pub fn new(pool_id: PoolId, policy: Policy, now: UnixTime) -> Self {
        Self {
            pool_id,
            revision: Revision::ZERO,
            generation: Generation::ZERO,
            stage: Stage::Empty,
            next_epoch: Epoch::FIRST,
            revoked: Vec::new(),
            paused: None,
            hold: None,
            revoke: None,
            since: now,
            rotated_at: now,
            policy,
            replaced: Vec::new(),
            expected: Self::expected_by_default(),
        }
    }

    /// Any node at all.
    const fn expected_by_default() -> usize {
        1
    }

    /// Fewest required nodes with which a rotation starts: those of the policy, otherwise those of the operators.
    #[must_use]
    pub fn expected_nodes(&self) -> usize {
        self.policy.expected_nodes.unwrap_or(self.expected)
    }

    /// The keys in the four slots, each once: exactly those whose bytes a store keeps.
    #[must_use]
    pub fn keys_held(&self) -> BTreeSet<PoolKey> {
        match &self.stage {
            Stage::Empty => BTreeSet::new(),
            Stage::Steady { current, backup } => [*current].into_iter().chain(*backup).collect(),
            Stage::Staged { current, next, prior_backup } => {
                [*current, *next].into_iter().chain(*prior_backup).collect()
            }
            Stage::Promoted { current, next, .. } => [*current, *next].into(),
        }
    }

    /// Length of its JSON.
    pub(super) fn json_bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |json| json.len())
    }

    /// Whether this key was revoked, by epoch or by bytes.
    #[must_use]
    pub fn is_revoked(&self, key: PoolKey) -> bool {
        self.revoked.iter().any(|gone| gone.epoch == key.epoch || gone.fingerprint == key.fingerprint)
    }
}

/// Document and node records of **one** consistent read of the store (rule 5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The document.
    pub document: Document,
    /// Every node that is not unknown.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The last beat of each other coordinator.
    pub beats: BTreeMap<CoordinatorName, Beat>,
}

impl Snapshot {
    /// The reports of all nodes that are not denied.
    pub fn believed_reports(&self) -> impl Iterator<Item = &Report> {
        self.nodes.values().filter(|record| !record.is_denied()).filter_map(|record| record.report.as_deref())
    }
}

/// The author of a change.  Has no default, so that every change is attributed.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A coordinator, driving the walk.
    Engine,
    /// An operator, by the name in the certificate.
    Operator(NodeId),
}

/// What the barrier saw over which a commit decided (rule 5): of the opened waves if it opens the next one, otherwise of all
/// nodes.  Every commit counts, also one that needs no barrier.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BarrierCount {
    /// Number of required nodes.
    pub required: usize,
    /// Fewest that must be required.
    pub needed: usize,
    /// How many of them had not acknowledged.
    pub behind: usize,
}

/// One line of the audit log, committed with the document.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Wall clock of the coordinator that committed it.
    pub at: UnixTime,
    /// The revision that it made.
    pub revision: Revision,
    /// The generation after it.
    pub generation: Generation,
    /// The phase after it.
    pub phase: Phase,
    /// The author of the change.
    pub actor: Actor,
    /// A transition of rule 3 or a command.
    pub action: Action,
    /// The nodes that it took out: excluded, denied, left behind, forgotten.  For a promotion, an opened
    /// wave and a node that is taken in: the required nodes that are newly in the wave; a wave of all nodes lists none.
    /// For a stop by the health gate: the nodes that rejected most.  At most [`NAMED_MAX`], the first in name order.
    pub nodes: BTreeSet<NodeId>,
    /// How many more nodes it is about.
    #[serde(default)]
    pub more: usize,
    /// The operator's reason, or the engine's; may be empty.
    pub reason: String,
    /// Of the snapshot that it was decided from.
    pub barrier: BarrierCount,
}

/// What the engine wants committed: all of it in one transaction, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// The revision that must still be stored.
    pub expected: Revision,
    /// The document to put in its place; its revision is the one after `expected`.
    pub document: Document,
    /// The nodes that it excludes: each exclusion takes the place of an earlier one.
    pub exclusions: BTreeMap<NodeId, Excluded>,
    /// Nodes whose exclusion is removed: forgotten long ago, and in no roster.
    pub dropped: BTreeSet<NodeId>,
    /// Its entry in the audit log.
    pub audit: AuditEntry,
}

impl Proposal {
    /// Whether it changes a part of some node's record.
    #[must_use]
    pub fn changes_parts(&self) -> bool {
        !self.exclusions.is_empty() || !self.dropped.is_empty()
    }
}

/// The bytes beside a document, by epoch.  No `Clone`, no `Serialize`; `Debug` shows epochs only.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<Epoch, TfoKey>,
}

impl KeyRing {
    /// Inserts the bytes of an epoch; wipes bytes that were there.
    pub fn insert(&mut self, epoch: Epoch, key: TfoKey) {
        self.keys.insert(epoch, key);
    }

    /// The bytes of an epoch: for sealing, and for the answer to a node.
    #[must_use]
    pub fn key(&self, epoch: Epoch) -> Option<&TfoKey> {
        self.keys.get(&epoch)
    }

    /// The epochs whose bytes are here.
    pub fn epochs(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.keys.keys().copied()
    }

    /// Wipes everything that the document does not hold.
    pub fn retain_held_by(&mut self, document: &Document) {
        let held: BTreeSet<Epoch> = document.keys_held().iter().map(|key| key.epoch).collect();
        self.keys.retain(|epoch, _| held.contains(epoch));
    }
}
