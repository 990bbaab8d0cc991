//! What a pool knows of one node: its record, session and report (docs/protocol.md#rule-6; rules 7, 8).
//!
//! A node without a record is *unknown*.  A record is never stored: it is merged from the parts that are (`parts`).
//! Invariants: `syncs` rises only with a sync of the node itself, and the session's ordinal never falls, so that a delayed
//! request of a closed session cannot bring an old ack back.
//!
//! Persisted: the parts of it, but not the record; no secrets.

use serde::{Deserialize, Serialize};

use super::parts::Ack;
use super::policy::Policy;
use super::shared::Shared;
use super::slots::{Fence, Instruction};
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::ExclusionReason;
use tfo_model::ids::{CoordinatorName, PoolId};
use tfo_model::key::KeyFingerprint;
use tfo_model::node::{Counters, KeySource, Session};
use tfo_model::state::{Phase, SlotPrints};
use tfo_model::time::UnixTime;

/// How long the session of a forgotten node is remembered: no request is in flight for a day.
const FORGOTTEN_KEPT_SECS: u64 = 86_400;

/// Whether the kernel holds the slots of the fence in every namespace.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Installed {
    /// The file is durable, no other file wins at boot, and every namespace reads back as instructed: this
    /// acknowledges.
    ReadBack,
    /// A kernel holds other keys.
    Drifted,
    /// A write or a read failed, or another file wins at boot.
    Failed,
}

/// Number of keys that the node's kernel takes.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotCount {
    /// Primary and backup, SipHash cookies (Linux 5.3 and later).
    Two,
    /// Primary alone, or cookies that others cannot check: never required (rule 16).
    One,
}

/// Counters over one phase of one rotation.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The phase that it covers.
    pub phase: Phase,
    /// Epoch of the key that is primary, or comes, in that phase: tells one rotation from the next.
    pub epoch: Epoch,
    /// Counters when the node first reported in that phase, or after they were reset.
    pub first: Counters,
    /// Counters of the latest report.
    pub last: Counters,
}

/// A node's latest report.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// The node's fence; none on a node that never had keys of a pool.
    pub fence: Option<Fence>,
    /// Whether the slots of the fence are installed.
    pub installed: Installed,
    /// Primary of a node without a fence: a key from elsewhere (rule 14).
    pub foreign: Option<KeyFingerprint>,
    /// Number of slots of its kernel.
    pub slot_count: SlotCount,
    /// Seconds until its next sync at the latest: `next_contact_secs` of the sync.
    pub next_sync_secs: u64,
    /// TFO counters, if its kernel has them.
    pub counters: Option<Counters>,
    /// The highest generation that it received in its session, installable or not.  Stored from
    /// [`super::sync::Sync::seen`]; a value that a sync has here is ignored.
    #[serde(default)]
    pub seen: Generation,
    /// Source of its keys.
    #[serde(default)]
    pub source: KeySource,
    /// The slots that it reports to hold, whatever their source, where its fence does not say it: shown only, never decided by.
    #[serde(default)]
    pub holds: Option<Shared<SlotPrints>>,
}

impl Report {
    /// Whether the node takes its keys from a pool; one that does not is only shown (`[report]`).
    #[must_use]
    pub fn takes_keys(&self) -> bool {
        self.source == KeySource::Coordinator
    }

    /// Whether the pool's nodes can share keys with it: two slots, and keys from the pool.
    #[must_use]
    pub fn can_share(&self) -> bool {
        self.slot_count == SlotCount::Two && self.takes_keys()
    }

    /// The same report without what could bind the pool, if the node only reports: no fence, no foreign key, no `seen`.
    #[must_use]
    pub fn bounded(self) -> Self {
        if self.takes_keys() {
            return self;
        }
        Self { fence: None, foreign: None, seen: Generation::ZERO, ..self }
    }

    /// The period that the pool waits for: what the node declares, as far as the policy allows it.
    #[must_use]
    pub fn period_secs(&self, policy: &Policy) -> u64 {
        self.next_sync_secs.min(policy.period_max_secs)
    }

    /// Whether it reports exactly this instruction as durable and read back (rule 8).
    #[must_use]
    pub fn acknowledges(&self, pool_id: &PoolId, instruction: &Instruction) -> bool {
        self.installed == Installed::ReadBack
            && self.fence.as_ref().is_some_and(|fence| {
                fence.pool_id == *pool_id
                    && fence.generation == instruction.generation
                    && fence.slots.pair() == instruction.slots.pair()
            })
    }
}

/// Why a node is not waited for.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Exclusion {
    /// Not seen for too long; its next sync admits it again.
    Absent,
    /// Left behind by `advance` or by the short barrier of a revoke; its next sync admits it again.
    LeftBehind,
    /// An operator excluded it until this time; its first sync after that admits it again.
    Operator {
        /// End of the exclusion, by wall clock.
        until: UnixTime,
    },
    /// An operator made it unknown.  Its record keeps the ordinal of its last session, so that a repeated old request
    /// does not admit it while an old answer is in flight.  It is shown nowhere and counts for nothing.
    Forgotten,
    /// An operator moved it to another pool.  The record stays, so that the node is told whenever it asks here, until it is
    /// forgotten; it counts for nothing.
    Moved {
        /// The pool that it belongs to now.
        to: PoolId,
    },
    /// An operator denied it: its syncs are answered with 403 until the record is forgotten.
    Denied,
}

impl Exclusion {
    /// Its name; none for a node that is denied or moved, which are states of their own, or forgotten, which is not shown.
    #[must_use]
    pub const fn reason(self) -> Option<ExclusionReason> {
        match self {
            Self::Absent => Some(ExclusionReason::Absent),
            Self::LeftBehind => Some(ExclusionReason::LeftBehind),
            Self::Operator { .. } => Some(ExclusionReason::Operator),
            Self::Forgotten | Self::Moved { .. } | Self::Denied => None,
        }
    }
}

/// Whether the pool counts on the node; unknown nodes have no record (rule 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Membership {
    /// Barriers wait for it, if it has two slots and keys from the pool.
    Admitted,
    /// Barriers do not wait for it, and the invariant does not cover it.
    Excluded(Exclusion),
}

/// The record of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeRecord {
    /// Rises with every stored sync: by this other coordinators see that the node is alive.
    pub syncs: u64,
    /// The coordinator of its session has not heard it for too long, and does not vouch for it.
    pub silent: bool,
    /// Admitted or excluded.
    pub membership: Membership,
    /// The document revision that made its latest exclusion; none if it never was excluded.  Its next admission names it.
    pub exclusion: Option<Revision>,
    /// The open session; none for a node that an operator excluded before it ever came.
    pub session: Option<Session>,
    /// The coordinator that the session was opened at; none if no roster has the node.
    pub coordinator: Option<CoordinatorName>,
    /// Its latest report; none as above.
    pub report: Option<Shared<Report>>,
    /// Counters over the present phase; none if not known.
    pub window: Option<Window>,
    /// Counters over the phase before.
    pub baseline: Option<Window>,
    /// Wall clock of the coordinator at the latest sync; shown, never measured with (rule 11).
    pub last_report_at: Option<UnixTime>,
}

impl NodeRecord {
    /// Whether barriers wait for it (rule 6): admitted, with two slots, and with keys from the pool.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.membership == Membership::Admitted && self.can_share()
    }

    /// Whether it counts for `min_present` (rule 5): required, or excluded as absent or left behind.
    ///
    /// Nodes that an operator took out by name do not count: that is how a pool shrinks.
    #[must_use]
    pub fn counts_as_member(&self) -> bool {
        let counts = match self.membership {
            Membership::Admitted | Membership::Excluded(Exclusion::Absent | Exclusion::LeftBehind) => true,
            Membership::Excluded(
                Exclusion::Operator { .. } | Exclusion::Forgotten | Exclusion::Moved { .. } | Exclusion::Denied,
            ) => false,
        };
        counts && self.can_share()
    }

    /// Whether the node was forgotten so long ago that none of its requests is in flight.
    #[must_use]
    pub fn is_long_forgotten(&self, wall: UnixTime) -> bool {
        let since = self.last_report_at.map_or(u64::MAX, |at| wall.secs_since(at));
        !self.is_known() && since > FORGOTTEN_KEPT_SECS
    }

    /// Whether the node is known, so that lists of nodes show it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.membership != Membership::Excluded(Exclusion::Forgotten)
    }

    /// Whether an operator denied it: its reports count for nothing.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.membership == Membership::Excluded(Exclusion::Denied)
    }

    /// The pool that an operator moved the node to.
    #[must_use]
    pub fn moved_to(&self) -> Option<PoolId> {
        match self.membership {
            Membership::Excluded(Exclusion::Moved { to }) => Some(to),
            Membership::Excluded(_) | Membership::Admitted => None,
        }
    }

    /// Whether it only reports (`[report]`).
    #[must_use]
    pub fn only_reports(&self) -> bool {
        self.report.as_ref().is_some_and(|report| !report.takes_keys())
    }

    /// The slots that the node reports to hold, whatever their source.
    #[must_use]
    pub fn holds(&self) -> Option<SlotPrints> {
        let report = self.report.as_ref()?;
        let of_fence = || report.fence.as_ref().map(|fence| fence.slots.prints());
        report.holds.as_deref().copied().or_else(of_fence)
    }

    /// Adds a sync of its open session that says nothing new and is not stored.  False: nothing of the node counts.
    pub(super) fn add_heard(&mut self, ack: &Ack) -> bool {
        let Some(report) = &mut self.report else { return false };
        report.counters = ack.report.counters;
        if *report == ack.report {
            // As good as always: then it is there once.
            report.clone_from(&ack.report);
        }
        (self.window, self.baseline, self.last_report_at) = (ack.window, ack.baseline, Some(ack.at));
        true
    }

    fn can_share(&self) -> bool {
        self.report.as_deref().is_some_and(Report::can_share)
    }
}
