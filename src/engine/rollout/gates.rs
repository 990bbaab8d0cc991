//! The gates that time, counters and expected nodes open: schedule, drain, health (docs/protocol.md#rule-12; rules 3,
//! 11, 14).
//!
//! Barriers are not here: no gate and no force replaces one.  Wall clocks only decide when a rotation is due; where the
//! wall clock contradicts the document, this coordinator's served time counts instead.

use super::barrier::Barrier;
use super::document::{Document, Snapshot, Stage, Wave};
use super::input::{Now, Reason, Wait};
use super::observed::unheard;
use super::policy::Share;
use super::record::{NodeRecord, SlotCount};
use super::tally::{tallies, untold, worst};
use super::wave::{has_acked, instruction_for, is_opened};
use tfo_model::count::Epoch;
use tfo_model::fleet::BlockedBy;
use tfo_model::ids::NodeId;
use tfo_model::node::{Counters, Expected};
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// Seconds since `since`; if the clock stepped back behind it, the served time.
fn elapsed_secs(now: Now<'_>, since: UnixTime) -> u64 {
    if now.wall >= since { now.wall.secs_since(since) } else { now.presence.phase_secs }
}

/// Open `secs` after `since`, by a clock that the other coordinators share; otherwise what it waits for.
fn after(now: Now<'_>, since: UnixTime, secs: u64, blocked_by: BlockedBy) -> Result<(), Wait> {
    let elapsed = elapsed_secs(now, since);
    if elapsed >= secs && now.presence.clock_off_secs.is_some() {
        return Err(Wait::on(BlockedBy::Clock));
    }
    if elapsed >= secs { Ok(()) } else { Err(Wait::until(blocked_by, now.wall.plus(secs - elapsed))) }
}

/// Open when a rotation is due, and the calendar lets it start.
pub(super) fn due(document: &Document, now: Now<'_>) -> Result<(), Wait> {
    let policy = &document.policy;
    match after(now, document.rotated_at, policy.interval_secs, BlockedBy::Schedule) {
        Err(wait) => Err(Wait { next_at: wait.next_at.map(|at| policy.free_from(at)), ..wait }),
        Ok(()) if policy.freeze_at(now.wall).is_some() => {
            Err(Wait::until(BlockedBy::Calendar, policy.free_from(now.wall)))
        }
        Ok(()) => Ok(()),
    }
}

/// When the next rotation is due by schedule and calendar, if nothing else is in its way.
#[must_use]
pub(super) fn due_at(document: &Document, wall: UnixTime) -> UnixTime {
    let by_schedule = document.rotated_at.plus(document.policy.interval_secs);
    document.policy.free_from(if document.policy.freeze_at(wall).is_some() {
        by_schedule.max(wall)
    } else {
        by_schedule
    })
}

/// Open when the clients have left the backup key, or had long enough to.
///
/// Only the key that the last rotation replaced drains.  The backup of a first key, an import or an abort has cookies,
/// too, but their promise ends with the next stage (rule 4), so they get the same time.
pub(super) fn drained(snapshot: &Snapshot, now: Now<'_>) -> Result<(), Wait> {
    let document = &snapshot.document;
    let Stage::Steady { current, backup: Some(_) } = &document.stage else { return Ok(()) };
    let policy = &document.policy;
    let sum = since_steady(snapshot, current.epoch);
    if sum.passive >= policy.drain_min_samples && Share::of(sum.passive_alt_key, sum.passive) < policy.drain_below {
        return Ok(());
    }
    after(now, document.since, policy.drain_max_secs, BlockedBy::Drain)
}

/// What the nodes have counted under this key since the pool has been steady with it.
fn since_steady(snapshot: &Snapshot, epoch: Epoch) -> Counters {
    let evidence_min = snapshot.document.policy.drain_min_samples;
    let untold = untold(snapshot, Phase::Steady, epoch);
    let own = sum_of(untold, evidence_min, |record| window_of(record, Phase::Steady, epoch));
    tallies(snapshot, Phase::Steady, epoch).fold(own, |sum, told| sum.plus(&told.since))
}

/// Why the drain gate is closed.
pub(super) fn not_drained(snapshot: &Snapshot, wait: &Wait) -> Reason {
    let counted = match &snapshot.document.stage {
        Stage::Steady { current, .. } => since_steady(snapshot, current.epoch),
        Stage::Empty | Stage::Staged { .. } | Stage::Promoted { .. } => Counters::default(),
    };
    Reason::NotDrained {
        accepted: counted.passive,
        by_backup: counted.passive_alt_key,
        samples_min: snapshot.document.policy.drain_min_samples,
        until: wait.next_at,
    }
}

/// Result of the health gate for the opened waves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// Observed for long enough, and well.
    Good,
    /// Not observed for long enough.
    Observing {
        /// Seconds that are left.
        left_secs: u64,
    },
    /// Observed for long enough, and the counters of these nodes are older than that.
    Asking {
        /// In name order.
        nodes: Vec<NodeId>,
    },
    /// More cookies are rejected than before the promotion.
    Bad {
        /// Share since the promotion.
        rejected: Share,
        /// Share while staged.
        baseline: Share,
        /// The nodes that rejected most, the worst first.
        worst: Vec<NodeId>,
    },
}

/// The cookies of the opened nodes since the promotion, and those of the same nodes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejections {
    /// Share of rejected cookies since the promotion.
    pub(super) rejected: Share,
    /// The same while staged.
    pub(super) baseline: Share,
    /// Number of cookies in the smaller of the two windows.
    pub(super) cookies: u64,
    /// The nodes that rejected most since the promotion, the worst first: some of them.
    pub(super) worst: Vec<NodeId>,
}

/// Compares the opened nodes' share of rejected cookies with the same nodes' share while the pool was staged.
///
/// A staged window that is too small falls back to the steady window before it.
pub(super) fn rejections(snapshot: &Snapshot, epoch: Epoch, wave: &Wave) -> Rejections {
    let document = &snapshot.document;
    let evidence_min = document.policy.health_min_connections;
    let opened = untold(snapshot, Phase::Promoted, epoch).filter(|(node, _)| is_opened(document, epoch, wave, node));
    let told = || tallies(snapshot, Phase::Promoted, epoch);
    let since = sum_of(opened.clone(), evidence_min, |record| window_of(record, Phase::Promoted, epoch));
    let since = told().fold(since, |sum, told| sum.plus(&told.since));
    let before = sum_of(opened.clone(), evidence_min, |record| baseline_of(record, epoch));
    let before = told().fold(before, |sum, told| sum.plus(&told.before));
    let named = told().flat_map(|told| told.worst.iter().map(|(node, failures)| (node, *failures)));
    let mut worst: Vec<(NodeId, u64)> = worst(opened, epoch, named).into_iter().collect();
    worst.sort_by_key(|(_, failures)| std::cmp::Reverse(*failures));
    Rejections {
        rejected: rejected_of(&since),
        baseline: rejected_of(&before),
        cookies: since.cookies().min(before.cookies()),
        worst: worst.into_iter().map(|(node, _)| node).collect(),
    }
}

/// The health gate (rule 12).  A baseline of less than `health_min_connections` is not evidence: the wave passes after
/// `health_window`.
pub(super) fn health(snapshot: &Snapshot, now: Now<'_>, epoch: Epoch, wave: &Wave) -> Health {
    let policy = &snapshot.document.policy;
    let Rejections { rejected, baseline, cookies, worst } = rejections(snapshot, epoch, wave);
    let is_evidence = cookies >= policy.health_min_connections;
    let risen = rejected.ppm() > baseline.ppm().saturating_add(policy.health_rise_max.ppm());
    if is_evidence && risen && !wave.health_waived {
        return Health::Bad { rejected, baseline, worst };
    }
    match policy.health_window_secs.saturating_sub(now.presence.wave_secs) {
        0 => match unheard(snapshot, now.presence) {
            nodes if nodes.is_empty() || wave.health_waived => Health::Good,
            nodes => Health::Asking { nodes },
        },
        left_secs => Health::Observing { left_secs },
    }
}

fn rejected_of(counted: &Counters) -> Share {
    Share::of(counted.passive_fail, counted.cookies())
}

/// What the node counted in that phase of the rotation of that key.
pub(super) fn window_of(record: &NodeRecord, phase: Phase, epoch: Epoch) -> Option<Counters> {
    let windows = [record.window, record.baseline];
    let window = windows.into_iter().flatten().find(|window| window.phase == phase && window.epoch == epoch)?;
    window.last.since(&window.first)
}

/// What the node counted before it was promoted to that key: while staged or, if the staged window was too small, in
/// the steady phase before.
pub(super) fn baseline_of(record: &NodeRecord, epoch: Epoch) -> Option<Counters> {
    window_of(record, Phase::Staged, epoch).or_else(|| {
        let steady = record.baseline.filter(|window| window.phase == Phase::Steady)?;
        steady.last.since(&steady.first)
    })
}

/// What the required ones of these nodes counted together.  No node weighs more than all others, beyond `evidence_min`
/// tenfold: one node's word must not decide for a pool, and a pool whose clients all come to one node must still be
/// judged.
pub(super) fn sum_of<'a>(
    nodes: impl Iterator<Item = (&'a NodeId, &'a NodeRecord)>,
    evidence_min: u64,
    counted: impl Fn(&NodeRecord) -> Option<Counters>,
) -> Counters {
    let required = nodes.filter(|(_, record)| record.is_required());
    let all: Vec<Counters> = required.filter_map(|(_, record)| counted(record)).collect();
    let cookies = all.iter().fold(0_u64, |sum, one| sum.saturating_add(one.cookies()));
    all.iter().fold(Counters::default(), |sum, one| {
        let others = cookies.saturating_sub(one.cookies());
        sum.plus(&one.scaled_to(others.max(evidence_min.saturating_mul(10))))
    })
}

/// The phase and the key under which a node's counters count now.  The node's instruction decides, so a node outside
/// the opened waves adds to its baseline.
pub(super) fn counted_under(document: &Document, node: &NodeId, slot_count: SlotCount) -> Option<(Phase, Epoch)> {
    match &document.stage {
        Stage::Empty => None,
        Stage::Steady { current, .. } => Some((Phase::Steady, current.epoch)),
        Stage::Staged { next, .. } => Some((Phase::Staged, next.epoch)),
        Stage::Promoted { next, .. } => {
            let instruction = instruction_for(document, node, slot_count)?;
            let phase = if instruction.slots.primary == *next { Phase::Promoted } else { Phase::Staged };
            Some((phase, next.epoch))
        }
    }
}

/// The expected nodes that are missing, by name or by number.  Required nodes that have not acknowledged always are.
pub(super) fn missing(snapshot: &Snapshot, expect: &Expected) -> Vec<String> {
    let document = &snapshot.document;
    let is_here =
        |node| snapshot.nodes.get(node).is_some_and(|record| record.is_required() && has_acked(document, node, record));
    let behind = Barrier::of_all(snapshot).waiting_for;
    let mut missing: Vec<String> = behind.iter().map(ToString::to_string).collect();
    match expect {
        Expected::Names(names) => {
            let absent = names.iter().filter(|node| !is_here(node) && !behind.contains(node));
            missing.extend(absent.map(ToString::to_string));
        }
        Expected::Number(number) => {
            let here = snapshot.nodes.keys().filter(|node| is_here(node)).count();
            if here < *number {
                missing.push(format!("{} of {number} nodes", number - here));
            }
        }
    }
    missing
}
