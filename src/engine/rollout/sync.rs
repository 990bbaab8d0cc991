//! The nodes' side of the coordinator: a sync is recorded first and answered then (docs/protocol.md#rule-7; rules 8,
//! 10).
//!
//! The driver's order makes this safe:
//! 1. read the snapshot and call [`record`].  For [`Recording::First`], write the record **durably** before anything
//!    else (on a version conflict start again); [`Recording::Later`] may be batched;
//! 2. read the snapshot **again**, from the store (SQLite: the file; etcd: a quorum read), show it to
//!    [`super::presence::Life::observe`], make a [`PoolView`] with the presence that results, and call its
//!    [`answer`](PoolView::answer).  The presence of an earlier look has not seen nodes that came since, and gives
//!    [`SyncRefused::NotHeard`];
//! 3. on [`Answer::Nothing`] hold the request until the document changes or its hold is over, then do step 2 again.
//!    On [`SyncRefused::NotHeard`] it may be kept for some seconds, until all are heard: what ends that is never "nothing
//!    new".
//!
//! Reports have a limit ([`REPORT_LEAD_MAX`]): one that is further ahead than any restored store can be behind is
//! refused before it is stored, so one false report can neither freeze the pool nor exhaust its numbers.
//!
//! Nodes that only report (`[report]`) are recorded like all others, so that they are shown, and receive no
//! instruction.
//!
//! No answer ever comes from a cache.  If the store cannot be reached, the answer is 503; a session that is open is held
//! until the coordinator is blind ([`super::policy::Policy::blind_max`]), and gets 503 then, too.
//!
//! | sync | recorded as |
//! |---|---|
//! | of an unknown node, a new session, or after an exclusion | first: durable before the answer |
//! | later in its session | later: may be batched |
//! | below what its session reported | stale: not stored |
//! | moved to another pool | not stored, answered with the order |
//! | denied, other pool, closed session, too far ahead, too long a period | refused |

use super::barrier::conflict;
use super::document::{Document, Snapshot};
use super::gates::counted_under;
use super::operator::RECOVER_JUMP;
use super::parts::{Ack, Entry, Later};
use super::presence::{Life, Presence};
use super::record::{Exclusion, Membership, NodeRecord, Report, Window};
use super::shared::Shared;
use super::slots::Instruction;
use super::wave::instruction_for;
use crate::fence::MoveOrder;
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::{CoordinatorName, NodeId, PoolId};
use tfo_model::node::{Counters, Session};
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// How far a report may be ahead of the document, in generations and in epochs.  A report further ahead is not one of
/// this pool's nodes, and is not stored: `recover` could not count beyond it.
///
/// Room for a thousand recoveries since the backup that was restored, or for a generation every second for 31 years.
pub const REPORT_LEAD_MAX: u64 = 1_000 * RECOVER_JUMP;

/// How far the ordinals of sessions may be ahead of a coordinator's clock: ten years.
const CLOCK_AHEAD_MAX_SECS: u64 = 10 * 366 * 86_400;

/// The request of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sync {
    /// This run of the agent at this coordinator.
    pub session: Session,
    /// The highest generation that it received, installable or not.
    pub seen: Generation,
    /// The node's report.
    pub report: Shared<Report>,
}

/// How a sync is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recording {
    /// First of a session: durable before the document is read for the answer.
    First(Entry),
    /// Later in a session: may be batched with others.
    Later(Later),
    /// Below what this session reported already: a late repetition.
    Stale,
}

impl Later {
    /// Whether it says something that others may decide by, so that it has to be stored.  Anything else only says that the
    /// node is alive, which its coordinator hears and vouches for (rule 10), and what it has counted since.
    ///
    /// `before` is the record without it.
    #[must_use]
    pub fn is_news(&self, before: &NodeRecord) -> bool {
        fn judged(report: &Report) -> impl PartialEq + '_ {
            let Report { fence, installed, foreign, slot_count, next_sync_secs, counters: _, seen, source, holds } =
                report;
            (fence, installed, foreign, slot_count, next_sync_secs, seen, source, holds)
        }
        /// A window that begins is stored: the next ones continue it, also after a restart of the coordinator.
        fn begun(window: Option<Window>) -> Option<(Phase, Epoch, Counters)> {
            window.map(|window| (window.phase, window.epoch, window.first))
        }
        let same_report = before.report.as_ref().is_some_and(|report| judged(report) == judged(&self.ack.report));
        let same_windows = begun(before.window) == begun(self.ack.window) && before.baseline == self.ack.baseline;
        before.silent || before.session != Some(self.session) || !same_report || !same_windows
    }

    /// Whether no barrier waits for what is new in it: in a steady pool, that a window begins or that the node asks in another
    /// rhythm.  Every node says this once after a rotation, each in its own time.
    ///
    /// `before` is the record without it.
    #[must_use]
    pub fn may_wait(&self, before: &NodeRecord) -> bool {
        let next_sync_secs = self.ack.report.next_sync_secs;
        let report = before.report.as_deref().map(|report| Report { next_sync_secs, ..report.clone() }.into());
        let like_this = NodeRecord { window: self.ack.window, baseline: self.ack.baseline, report, ..before.clone() };
        self.ack.window.is_some_and(|window| window.phase == Phase::Steady) && !self.is_news(&like_this)
    }
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
    /// 409 with the order: an operator moved the node to another pool (rule 9).
    #[error("this node was moved to another pool")]
    Moved {
        /// The pool that it belongs to now.
        to: PoolId,
    },
    /// 409: no pool is so far ahead of its store ([`REPORT_LEAD_MAX`]); the node's file is damaged, or its report is
    /// false.
    #[error("the report is further ahead of this pool than a restored store can be behind")]
    TooFarAhead,
    /// 409: the node declares a longer period than the policy allows (`period_max`).
    #[error("the node declares {declared_secs} s until its next contact, and period_max of the pool is {max_secs} s")]
    PeriodTooLong {
        /// The declared period.
        declared_secs: u64,
        /// `period_max` of the policy.
        max_secs: u64,
    },
    /// 409: a later session of the node is open.  The agent opens one above `ordinal` and asks again.
    #[error("a later session of this node is open")]
    SessionClosed {
        /// Ordinal of the session that is open.
        ordinal: u64,
    },
    /// 409 `pool_frozen`.
    #[error("the pool is frozen: a node reports what its store never gave out")]
    Frozen,
    /// 503: the record changed between admission and answer; ask again.
    #[error("the node is no longer admitted; ask again")]
    NotAdmitted,
    /// 503, never 204: until every required node was seen in this life, no node receives anything new, because a
    /// restored store would give lost history to joiners.  And the node must not take 204 for "your keys are the
    /// pool's".
    #[error("this coordinator has not seen every required node yet")]
    NotHeard,
}

/// The answer to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200: hold these slots.
    Instruct(Instruction),
    /// 204, or keep waiting.
    Nothing,
}

/// Decides what the coordinator `by` stores for a sync, in its own roster.
///
/// A session lives at one coordinator: the same one at another, behind a balancer, closes it.
///
/// # Errors
/// Fails if the node is denied, was moved or belongs to another pool, has a later session, reports impossible numbers, or declares
/// too long a period.
pub fn record(
    document: &Document,
    before: Option<&NodeRecord>,
    node: &NodeId,
    sync: &Sync,
    (by, wall): (&CoordinatorName, UnixTime),
) -> Result<Recording, SyncRefused> {
    // First: a node that has arrived there, and still asks here after its start, reports that pool's fence.
    if let Some(to) = before.and_then(NodeRecord::moved_to) {
        return Err(SyncRefused::Moved { to });
    }
    let of_other_pool = sync.report.fence.as_ref().is_some_and(|fence| fence.pool_id != document.pool_id);
    if of_other_pool && sync.report.takes_keys() {
        return Err(SyncRefused::OtherPool);
    }
    if is_too_far_ahead(document, sync) || has_impossible_ordinal(before, sync, wall) {
        return Err(SyncRefused::TooFarAhead);
    }
    let (declared_secs, max_secs) = (sync.report.next_sync_secs, document.policy.period_max_secs);
    if declared_secs > max_secs && sync.report.takes_keys() {
        return Err(SyncRefused::PeriodTooLong { declared_secs, max_secs });
    }
    let ack = ack(document, before, node, sync, wall);
    let Some(before) = before else {
        return Ok(Recording::First(Entry { session: sync.session, answers: None, first: ack }));
    };
    if before.is_denied() {
        return Err(SyncRefused::Denied);
    }
    let is_later = match before.session {
        None => true,
        Some(open) if open == sync.session && (changes_kind(before, sync) || is_of_another(before, by)) => {
            return Err(SyncRefused::SessionClosed { ordinal: open.ordinal });
        }
        Some(open) if open == sync.session => false,
        Some(open) if open.ordinal >= sync.session.ordinal => {
            return Err(SyncRefused::SessionClosed { ordinal: open.ordinal });
        }
        Some(_) => true,
    };
    let (is_admitted, is_admission) = match before.membership {
        Membership::Admitted => (true, is_later),
        // An exclusion closes the session: an answer that was read before the node was admitted again, and is still in
        // flight, must not be the answer to the request that admits it.
        Membership::Excluded(exclusion) if ends_with_sync(exclusion, wall) => match before.session {
            Some(open) if !is_later => return Err(SyncRefused::SessionClosed { ordinal: open.ordinal }),
            Some(_) | None => (true, true),
        },
        Membership::Excluded(_) => (false, is_later),
    };
    if !is_admission && is_stale(before, sync) {
        return Ok(Recording::Stale);
    }
    Ok(if is_admission {
        let answers = before.exclusion.filter(|_| is_admitted);
        Recording::First(Entry { session: sync.session, answers, first: ack })
    } else {
        Recording::Later(Later { session: sync.session, ack, silent: false })
    })
}

/// Whether another coordinator opened the session: its acks are not ours to write (rule 8).
fn is_of_another(before: &NodeRecord, by: &CoordinatorName) -> bool {
    before.coordinator.as_ref() != Some(by)
}

/// Whether a sync ends this exclusion by admitting the node again (rule 6).
fn ends_with_sync(exclusion: Exclusion, wall: UnixTime) -> bool {
    match exclusion {
        Exclusion::Absent | Exclusion::LeftBehind | Exclusion::Forgotten => true,
        Exclusion::Operator { until } => wall >= until,
        Exclusion::Moved { .. } | Exclusion::Denied => false,
    }
}

/// Whether a sync within the session would make the node required, or end that: a session is of one kind (rule 7).
///
/// Such a sync may be batched, so the pool would move on while its answer is in flight.
fn changes_kind(before: &NodeRecord, sync: &Sync) -> bool {
    before.report.as_ref().is_some_and(|report| report.can_share() != sync.report.can_share())
}

fn is_too_far_ahead(document: &Document, sync: &Sync) -> bool {
    let last_generation = document.generation.get().saturating_add(REPORT_LEAD_MAX);
    let last_epoch = document.next_epoch.get().saturating_add(REPORT_LEAD_MAX);
    let fence_is = sync.report.fence.as_ref().is_some_and(|fence| {
        fence.generation.get() > last_generation || fence.slots.highest_epoch().get() > last_epoch
    });
    sync.report.takes_keys() && (fence_is || sync.seen.get() > last_generation)
}

/// A session's ordinal is the node's clock, or one above the open session.  One far above both would be the last of its
/// name, because no later session could exceed it.
fn has_impossible_ordinal(before: Option<&NodeRecord>, sync: &Sync, wall: UnixTime) -> bool {
    let open = before.and_then(|record| record.session).map_or(0, |session| session.ordinal);
    let by_clock = wall.secs().saturating_add(CLOCK_AHEAD_MAX_SECS).saturating_mul(1_000);
    sync.session.ordinal > by_clock.max(open.saturating_add(1))
}

/// Inside a session acknowledgements only rise (rule 8).
fn is_stale(before: &NodeRecord, sync: &Sync) -> bool {
    let generation = |report: &Report| report.fence.as_ref().map(|fence| fence.generation);
    before.report.as_ref().is_some_and(|stored| generation(&sync.report) < generation(stored))
}

/// What is stored of this sync.
fn ack(document: &Document, before: Option<&NodeRecord>, node: &NodeId, sync: &Sync, wall: UnixTime) -> Ack {
    // If the clock stepped back, the least time counts, and the window may start again.
    let last_report_at = before.and_then(|record| record.last_report_at);
    let elapsed_secs = last_report_at.map_or(0, |at| wall.secs_since(at));
    let (window, baseline) = windows(document, before, node, &sync.report, elapsed_secs);
    let same_session = before.filter(|record| record.session == Some(sync.session));
    let seen_before = same_session.and_then(|record| record.report.as_ref()).map_or(Generation::ZERO, |r| r.seen);
    let seen = sync.seen.max(seen_before);
    let report = if sync.report.seen == seen && sync.report.takes_keys() {
        // As it came, and so it is there once for the request that waits, too.
        sync.report.clone()
    } else {
        Report { seen, ..Report::clone(&sync.report) }.bounded().into()
    };
    Ack { report, syncs: before.map_or(0, |record| record.syncs) + 1, window, baseline, at: wall }
}

/// Most cookies in a second that a node is believed: some times what one machine can accept.
const PLAUSIBLE_RATE: u64 = 1_000_000;

/// Whether a node's counters rose faster since its last report than any machine counts.
fn jumps(last: &Counters, now: &Counters, elapsed_secs: u64) -> bool {
    let most = PLAUSIBLE_RATE.saturating_mul(elapsed_secs.max(1));
    now.since(last).is_some_and(|counted| counted.cookies().max(counted.passive_alt_key) > most)
}

/// Carries the counters over, as window and baseline: a new phase starts a window; counters that were reset, or that
/// jump, restart the present one.
fn windows(
    document: &Document,
    before: Option<&NodeRecord>,
    node: &NodeId,
    report: &Report,
    elapsed_secs: u64,
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
        Some(window) if now.since(&window.last).is_some() && !jumps(&window.last, &now, elapsed_secs) => {
            (Some(Window { last: now, ..window }), baseline)
        }
        Some(_) | None => (Some(fresh), baseline),
    }
}

/// The baseline once a window is finished: a staged window that is too small for the health gate leaves the steady
/// window before it in place.
fn finished(document: &Document, window: Window, before: Option<Window>) -> Window {
    let cookies = window.last.since(&window.first).map_or(0, |counted| counted.cookies());
    let is_small = window.phase == Phase::Staged && cookies < document.policy.health_min_connections;
    before.filter(|before| is_small && before.phase == Phase::Steady).unwrap_or(window)
}

/// The order that this pool has for a node that an operator moved.  A coordinator gives it to the node in this pool, and in
/// any other pool that the node asks with this one's fence (rule 9).
#[must_use]
pub fn order_for(snapshot: &Snapshot, node: &NodeId) -> Option<MoveOrder> {
    let to = snapshot.nodes.get(node)?.moved_to()?;
    Some(MoveOrder { from: snapshot.document.pool_id, to })
}

/// What every answer from one snapshot depends on besides the node's own record; made once for all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolView {
    is_frozen: bool,
    /// No node is even told that it has what it was told.
    is_silent: bool,
    all_seen: bool,
}

impl PoolView {
    /// Looks at all nodes.
    #[must_use]
    pub fn of(snapshot: &Snapshot, presence: &Presence) -> Self {
        let conflict = conflict(snapshot);
        Self {
            is_frozen: conflict.is_some() || presence.thawing.is_some(),
            is_silent: conflict.is_some_and(|conflict| conflict.is_credible(&snapshot.document)),
            all_seen: presence.unseen_required(snapshot).is_empty(),
        }
    }

    /// The same from what a life has kept by change, as of its last look at this document.
    #[must_use]
    pub fn kept(life: &Life, document: &Document) -> Self {
        let conflict = life.conflict();
        Self {
            is_frozen: conflict.is_some() || life.presence().thawing.is_some(),
            is_silent: conflict.is_some_and(|conflict| conflict.is_credible(document)),
            all_seen: life.has_seen_all(),
        }
    }

    /// Whether some report contradicts the document, or did less than a minute ago (rule 10).
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// The answer from the snapshot that this was made of; looks at one node.
    ///
    /// A node that has no keys of the pool, and has received none in its session, gets [`Answer::Nothing`] only while the
    /// pool has no key: it is ready then ([`Link::nothing_new`](crate::fence::Link::nothing_new)).
    ///
    /// # Errors
    /// Fails if the pool is frozen, the record is not (or no longer) that of this session, or the answer would instruct
    /// the node before every required node was seen in this life.
    pub fn answer(&self, snapshot: &Snapshot, node: &NodeId, sync: &Sync) -> Result<Answer, SyncRefused> {
        let only_reports = !sync.report.takes_keys();
        if self.is_silent && !only_reports {
            return Err(SyncRefused::Frozen);
        }
        let record = snapshot.nodes.get(node).ok_or(SyncRefused::NotAdmitted)?;
        match record.membership {
            Membership::Admitted | Membership::Excluded(Exclusion::Operator { .. }) => {}
            Membership::Excluded(Exclusion::Absent | Exclusion::LeftBehind | Exclusion::Forgotten) => {
                return Err(SyncRefused::NotAdmitted);
            }
            Membership::Excluded(Exclusion::Moved { to }) => return Err(SyncRefused::Moved { to }),
            Membership::Excluded(Exclusion::Denied) => return Err(SyncRefused::Denied),
        }
        match record.session {
            Some(open) if open == sync.session => {}
            Some(open) => return Err(SyncRefused::SessionClosed { ordinal: open.ordinal }),
            None => return Err(SyncRefused::NotAdmitted),
        }
        if only_reports {
            return Ok(Answer::Nothing);
        }
        let instruction = instruction_for(&snapshot.document, node, sync.report.slot_count);
        let Some(instruction) = instruction else {
            // The node takes it for "the pool has no key yet", which a restored store may only claim (rule 10).
            return if self.all_seen { Ok(Answer::Nothing) } else { Err(SyncRefused::NotHeard) };
        };
        // Not "differs": a node that cannot install, or a coordinator that lags, would loop without pause.
        let has_it = sync.report.acknowledges(&snapshot.document.pool_id, &instruction);
        if instruction.generation <= sync.seen || has_it {
            return Ok(Answer::Nothing);
        }
        if self.is_frozen {
            return Err(SyncRefused::Frozen);
        }
        if self.all_seen { Ok(Answer::Instruct(instruction)) } else { Err(SyncRefused::NotHeard) }
    }
}
