//! The nodes' side of the coordinator: a sync is recorded first and answered then (docs/protocol.md#rules, rules 7, 8, 10).
//!
//! The driver's order, which is the safety of it:
//! 1. read the snapshot, call [`record`]; if it says [`Recording::First`], write that record **durably** before anything
//!    else (on a version conflict start again); [`Recording::Later`] may be batched;
//! 2. read the snapshot **again**, from the store (SQLite: the file, etcd: a quorum read), show it to
//!    [`crate::convergence::Life::observe`], and call [`answer`] on it with the presence that this gives: one of an
//!    earlier look has not heard whoever came since, and answers [`SyncRefused::NotHeard`];
//! 3. on [`Answer::Nothing`] hold the request until the document changes or `wait_secs` are over, then step 2 again.
//!
//! Beyond rule 10: a report that is further ahead than any restored store can be is refused before it is stored
//! ([`REPORT_LEAD_MAX`]), so that one bogus report does not freeze the pool, or end its numbers.
//!
//! Nodes whose keys come from elsewhere (`[report]`) are recorded like all others, so that they are seen, and told nothing.
//!
//! Nothing is ever answered from a cache.  A store that cannot be reached is 503, or 204 for a session that is held.

use super::document::{Document, Instruction, Snapshot};
use super::gates::counted_under;
use super::operator::{REPORT_LEAD_MAX, end_of_exclusion_admits};
use super::record::{Exclusion, Fence, NodeRecord, RecordChange, Report, Standing, Window};
use super::wave::told;
use crate::convergence::{Presence, conflict, conflicts};
use tfo_model::count::Generation;
use tfo_model::ids::NodeId;
use tfo_model::node::Session;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// How far a node's clock may be ahead of a coordinator's, as far as the ordinals of sessions go: ten years.
const CLOCK_AHEAD_MAX_SECS: u64 = 10 * 366 * 86_400;

/// What a node sends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sync {
    /// This run of the agent at this coordinator.
    pub session: Session,
    /// The highest generation that it was told, installable or not.
    pub seen: Generation,
    /// What it has.
    pub report: Report,
}

/// How a sync is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recording {
    /// First of a session: durable before the document is read for the answer.
    First(RecordChange),
    /// Later in a session: may be batched with others.
    Later(RecordChange),
    /// Says less than what is stored of this session: a late repetition.
    Stale,
}

/// Why a sync is neither recorded nor answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncRefused {
    /// 403 denied.
    #[error("the node is denied")]
    Denied,
    /// 409: the node's file belongs to another pool.
    #[error("the node's keys belong to another pool")]
    OtherPool,
    /// 409: no pool is so far ahead of its store ([`REPORT_LEAD_MAX`]); the node's file is damaged, or it lies.
    #[error("the report is further ahead of this pool than a restored store can be behind")]
    TooFarAhead,
    /// 409: a later session of the node is open.  The agent opens one above `ordinal` and asks again.
    #[error("a later session of this node is open")]
    SessionClosed {
        /// Of the session that is open.
        ordinal: u64,
    },
    /// 409 `pool_frozen`.
    #[error("the pool is frozen: its store was restored from a backup")]
    Frozen,
    /// 503: the record changed between admission and answer; ask again.
    #[error("the node is not admitted any more; ask again")]
    NotAdmitted,
    /// 503, never 204: until every required node was heard in this life, nobody is told anything new, because a restored
    /// store would tell lost history to joiners; and the node must not take silence for "your keys are the pool's".
    #[error("this coordinator has not heard every required node yet")]
    NotHeard,
}

/// What a node is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200: hold these slots.
    Tell(Instruction),
    /// 204, or keep waiting.
    Nothing,
}

/// What to store for a sync.
///
/// # Errors
/// Fails if the node is denied, belongs to another pool, has a later session, or reports absurd numbers.
pub fn record(
    document: &Document,
    before: Option<&NodeRecord>,
    node: &NodeId,
    sync: &Sync,
    wall: UnixTime,
) -> Result<Recording, SyncRefused> {
    let is_of_other = |fence: &Fence| fence.pool_id != document.pool_id;
    if sync.report.takes_keys() && sync.report.fence.as_ref().is_some_and(is_of_other) {
        return Err(SyncRefused::OtherPool);
    }
    if is_too_far_ahead(document, sync) || has_absurd_ordinal(before, sync, wall) {
        return Err(SyncRefused::TooFarAhead);
    }
    let Some(before) = before else {
        let next = stored(document, None, (node, sync), wall, Standing::Admitted);
        return Ok(Recording::First(RecordChange { node: node.clone(), expected: None, next: Some(next) }));
    };
    if before.standing == Standing::Excluded(Exclusion::Denied) {
        return Err(SyncRefused::Denied);
    }
    let is_later = match before.session {
        None => true,
        Some(open) if open == sync.session && changes_kind(before, sync) => {
            return Err(SyncRefused::SessionClosed { ordinal: open.ordinal });
        }
        Some(open) if open == sync.session => false,
        Some(open) if open.ordinal >= sync.session.ordinal => {
            return Err(SyncRefused::SessionClosed { ordinal: open.ordinal });
        }
        Some(_) => true,
    };
    let (standing, is_admission) = match before.standing {
        Standing::Admitted => (Standing::Admitted, is_later),
        // An exclusion closes the session: an answer that was read before the node was admitted again, and is still on
        // its way, must not be the answer to a request that admits it.
        Standing::Excluded(exclusion) if end_of_exclusion_admits(exclusion, wall) => match before.session {
            Some(open) if !is_later => return Err(SyncRefused::SessionClosed { ordinal: open.ordinal }),
            Some(_) | None => (Standing::Admitted, true),
        },
        Standing::Excluded(exclusion) => (Standing::Excluded(exclusion), is_later),
    };
    if !is_admission && is_stale(before, sync) {
        return Ok(Recording::Stale);
    }
    let next = stored(document, Some(before), (node, sync), wall, standing);
    let change = RecordChange { node: node.clone(), expected: Some(before.version), next: Some(next) };
    Ok(if is_admission { Recording::First(change) } else { Recording::Later(change) })
}

/// Whether the node would become required, or cease to be, by a sync that is no admission: a session is of one kind.
///
/// Beyond rule 7: such a sync may be batched, so the pool would move on while its answer is in flight.
fn changes_kind(before: &NodeRecord, sync: &Sync) -> bool {
    before.report.as_ref().is_some_and(|report| report.can_share() != sync.report.can_share())
}

fn is_too_far_ahead(document: &Document, sync: &Sync) -> bool {
    let last_generation = document.generation.get().saturating_add(REPORT_LEAD_MAX);
    let last_epoch = document.next_epoch.get().saturating_add(REPORT_LEAD_MAX);
    if !sync.report.takes_keys() {
        return false;
    }
    let fence_is = |fence: &Fence| {
        let keys = [Some(fence.slots.primary), fence.slots.backup];
        fence.generation.get() > last_generation || keys.iter().flatten().any(|key| key.epoch.get() > last_epoch)
    };
    sync.seen.get() > last_generation || sync.report.fence.as_ref().is_some_and(fence_is)
}

/// A session's ordinal is the node's clock, or one above the one that is open.  One far above both would be the last of
/// its name: no later session could be above it.
fn has_absurd_ordinal(before: Option<&NodeRecord>, sync: &Sync, wall: UnixTime) -> bool {
    let open = before.and_then(|record| record.session).map_or(0, |session| session.ordinal);
    let by_clock = wall.secs().saturating_add(CLOCK_AHEAD_MAX_SECS).saturating_mul(1_000);
    sync.session.ordinal > by_clock.max(open.saturating_add(1))
}

/// Inside a session acks only rise (rule 8).
fn is_stale(before: &NodeRecord, sync: &Sync) -> bool {
    let generation = |report: &Report| report.fence.as_ref().map(|fence| fence.generation);
    before.report.as_ref().is_some_and(|stored| generation(&sync.report) < generation(stored))
}

fn stored(
    document: &Document,
    before: Option<&NodeRecord>,
    (node, sync): (&NodeId, &Sync),
    wall: UnixTime,
    standing: Standing,
) -> NodeRecord {
    let (window, baseline) = windows(document, before, node, &sync.report);
    let same_session = before.filter(|record| record.session == Some(sync.session));
    let seen_before = same_session.and_then(|record| record.report.as_ref()).map_or(Generation::ZERO, |r| r.seen);
    NodeRecord {
        version: before.map_or(0, |record| record.version) + 1,
        syncs: before.map_or(0, |record| record.syncs) + 1,
        standing,
        session: Some(sync.session),
        report: Some(Report { seen: sync.seen.max(seen_before), ..sync.report.clone() }.bounded()),
        window,
        baseline,
        last_report_at: Some(wall),
    }
}

/// Carries the counters over: a new phase starts a window, and a reset of the counters starts the present one again.
fn windows(
    document: &Document,
    before: Option<&NodeRecord>,
    node: &NodeId,
    report: &Report,
) -> (Option<Window>, Option<Window>) {
    let (window, baseline) = before.map_or((None, None), |record| (record.window, record.baseline));
    let (Some(now), Some((phase, epoch))) = (report.counters, counted_under(document, node, report.slot_count)) else {
        return (window, baseline);
    };
    let fresh = Window { phase, epoch, first: now, last: now };
    match window {
        Some(window) if (window.phase, window.epoch) != (phase, epoch) => {
            (Some(fresh), Some(finished(document, window, baseline)))
        }
        Some(window) if now.since(&window.last).is_some() => (Some(Window { last: now, ..window }), baseline),
        Some(_) | None => (Some(fresh), baseline),
    }
}

/// The baseline once a window is finished: a staged window that is too small for the health gate leaves the steady one
/// before it in place.
fn finished(document: &Document, window: Window, before: Option<Window>) -> Window {
    let cookies = window.last.since(&window.first).map_or(0, |counted| counted.cookies());
    let is_small = window.phase == Phase::Staged && cookies < document.policy.health_min_connections;
    before.filter(|before| is_small && before.phase == Phase::Steady).unwrap_or(window)
}

/// What every answer from one snapshot depends on besides the node's own record: made once, then asked by all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolView {
    frozen: bool,
    all_heard: bool,
}

impl PoolView {
    /// Looks at all nodes.
    #[must_use]
    pub fn of(snapshot: &Snapshot, presence: &Presence) -> Self {
        Self { frozen: conflict(snapshot).is_some(), all_heard: presence.unheard_required(snapshot).is_empty() }
    }

    /// The same after one sync was recorded, by a document that has not changed; `presence` has taken it in.
    ///
    /// Only ever stricter than [`Self::of`] would be now: that the last node was heard, or that a pool is frozen no more,
    /// is seen by the next look at all.
    #[must_use]
    pub fn after(self, snapshot: &Snapshot, presence: &Presence, node: &NodeId, record: &NodeRecord) -> Self {
        let frozen = self.frozen || conflicts(&snapshot.document, record);
        let all_heard = self.all_heard && (!record.is_required() || presence.has_heard(snapshot, node));
        Self { frozen, all_heard }
    }

    /// Whether some report contradicts the document (rule 10).
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// What to answer, from the snapshot that this was made of; looks at one node.
    ///
    /// # Errors
    /// As [`answer`].
    pub fn answer(&self, snapshot: &Snapshot, node: &NodeId, sync: &Sync) -> Result<Answer, SyncRefused> {
        let only_reports = !sync.report.takes_keys();
        if self.frozen && !only_reports {
            return Err(SyncRefused::Frozen);
        }
        let record = snapshot.nodes.get(node).ok_or(SyncRefused::NotAdmitted)?;
        match record.standing {
            Standing::Admitted | Standing::Excluded(Exclusion::Operator { .. }) => {}
            Standing::Excluded(Exclusion::Absent | Exclusion::LeftBehind | Exclusion::Forgotten) => {
                return Err(SyncRefused::NotAdmitted);
            }
            Standing::Excluded(Exclusion::Denied) => return Err(SyncRefused::Denied),
        }
        match record.session {
            Some(open) if open == sync.session => {}
            Some(open) => return Err(SyncRefused::SessionClosed { ordinal: open.ordinal }),
            None => return Err(SyncRefused::NotAdmitted),
        }
        if only_reports {
            return Ok(Answer::Nothing);
        }
        let told = told(&snapshot.document, node, sync.report.slot_count);
        let Some(instruction) = told else { return Ok(Answer::Nothing) };
        // Not "differs": a node that cannot install, or a coordinator that lags, would loop without pause.
        let has_it = sync.report.acknowledges(&snapshot.document.pool_id, &instruction);
        if instruction.generation <= sync.seen || has_it {
            return Ok(Answer::Nothing);
        }
        if self.all_heard { Ok(Answer::Tell(instruction)) } else { Err(SyncRefused::NotHeard) }
    }
}

/// What to answer, from a snapshot that was read from the store after the sync was recorded.
///
/// # Errors
/// Fails if the pool is frozen, the record is not (or not any more) that of this session, or the answer would tell
/// something new before every required node was heard in this life.
pub fn answer(snapshot: &Snapshot, presence: &Presence, node: &NodeId, sync: &Sync) -> Result<Answer, SyncRefused> {
    PoolView::of(snapshot, presence).answer(snapshot, node, sync)
}
