//! The gates that time and counters open: schedule, drain, health (docs/protocol.md#rules, rules 3, 11, 12).
//!
//! Barriers are not here: no gate and no force replaces one.  Wall clocks only say when a rotation is due; where the
//! wall clock contradicts the document, the served time of this coordinator counts instead.

use super::document::{Document, Snapshot, Stage, Wave};
use super::input::{BlockedBy, Now, Wait};
use super::policy::Share;
use super::record::{NodeRecord, SlotCount};
use super::wave::{is_opened, told};
use tfo_model::count::Epoch;
use tfo_model::ids::NodeId;
use tfo_model::node::Counters;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// Seconds since `since`; a clock that stepped back behind it is replaced by the served time.
fn elapsed_secs(now: Now<'_>, since: UnixTime) -> u64 {
    if now.wall >= since { now.wall.secs_since(since) } else { now.presence.phase_secs }
}

/// Open, or what it waits for.
fn after(now: Now<'_>, since: UnixTime, secs: u64, blocked_by: BlockedBy) -> Result<(), Wait> {
    let elapsed = elapsed_secs(now, since);
    if elapsed >= secs { Ok(()) } else { Err(Wait::until(blocked_by, now.wall.plus(secs - elapsed))) }
}

/// Whether a rotation is due.
pub(super) fn due(document: &Document, now: Now<'_>) -> Result<(), Wait> {
    after(now, document.rotated_at, document.policy.interval_secs, BlockedBy::Schedule)
}

/// Whether the clients have left the backup key, or were given long enough.
///
/// Only the key that the last rotation replaced is drained: the backup of a first key, an import or an abort has
/// cookies too, but their promise ends with the next stage (rule 4), so they get the same time.
pub(super) fn drained(snapshot: &Snapshot, now: Now<'_>) -> Result<(), Wait> {
    let document = &snapshot.document;
    let Stage::Steady { current, backup: Some(_) } = &document.stage else { return Ok(()) };
    let policy = &document.policy;
    let sum = sum_of(snapshot, |_, record| window_of(record, Phase::Steady, current.epoch));
    if sum.passive >= policy.drain_min_samples && Share::of(sum.passive_alt_key, sum.passive) < policy.drain_below {
        return Ok(());
    }
    after(now, document.since, policy.drain_max_secs, BlockedBy::Drain)
}

/// What the health gate says of the opened waves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// Looked at long enough, and well.
    Good,
    /// Not looked at long enough.
    Looking {
        /// Seconds that are left.
        left_secs: u64,
    },
    /// More cookies are rejected than before the promotion.
    Bad {
        /// Share since the promotion.
        rejected: Share,
        /// Share while staged.
        baseline: Share,
    },
}

/// Compares the opened nodes' share of rejected cookies with the same nodes' share while the pool was staged.
///
/// Beyond docs/protocol.md#rule-12: a node whose staged window says nothing is compared with its steady window before that,
/// and a baseline with less than `health_min_connections` is no evidence: the wave passes after its window.
pub(super) fn health(snapshot: &Snapshot, now: Now<'_>, epoch: Epoch, wave: &Wave) -> Health {
    let document = &snapshot.document;
    let policy = &document.policy;
    let of_opened = |counted: &dyn Fn(&NodeRecord) -> Option<Counters>| {
        sum_of(snapshot, |node, record| if is_opened(document, epoch, wave, node) { counted(record) } else { None })
    };
    let since = of_opened(&|record| window_of(record, Phase::Promoted, epoch));
    let before = of_opened(&|record| baseline_of(record, epoch));
    let rejected = Share::of(since.passive_fail, since.cookies());
    let baseline = Share::of(before.passive_fail, before.cookies());
    let says_something = since.cookies().min(before.cookies()) >= policy.health_min_connections;
    let risen = rejected.ppm() > baseline.ppm().saturating_add(policy.health_rise_max.ppm());
    if says_something && risen && !wave.health_waived {
        return Health::Bad { rejected, baseline };
    }
    match policy.health_window_secs.saturating_sub(now.presence.wave_secs) {
        0 => Health::Good,
        left_secs => Health::Looking { left_secs },
    }
}

/// What the node counted in that phase of the rotation of that key.
fn window_of(record: &NodeRecord, phase: Phase, epoch: Epoch) -> Option<Counters> {
    let windows = [record.window, record.baseline];
    let window = windows.into_iter().flatten().find(|window| window.phase == phase && window.epoch == epoch)?;
    window.last.since(&window.first)
}

/// What the node counted before it was promoted to that key: while staged, or in the steady phase before, which is kept
/// where the staged window was too small.
fn baseline_of(record: &NodeRecord, epoch: Epoch) -> Option<Counters> {
    window_of(record, Phase::Staged, epoch).or_else(|| {
        let steady = record.baseline.filter(|window| window.phase == Phase::Steady)?;
        steady.last.since(&steady.first)
    })
}

fn sum_of(snapshot: &Snapshot, counted: impl Fn(&NodeId, &NodeRecord) -> Option<Counters>) -> Counters {
    snapshot
        .nodes
        .iter()
        .filter(|(_, record)| record.is_required())
        .filter_map(|(node, record)| counted(node, record))
        .fold(Counters::default(), |sum, one| sum.plus(&one))
}

/// The phase and the key that a node's counters are counted under now: by what it is told, so a node outside the opened
/// waves adds to its baseline.
pub(super) fn counted_under(document: &Document, node: &NodeId, slot_count: SlotCount) -> Option<(Phase, Epoch)> {
    match &document.stage {
        Stage::Empty => None,
        Stage::Steady { current, .. } => Some((Phase::Steady, current.epoch)),
        Stage::Staged { next, .. } => Some((Phase::Staged, next.epoch)),
        Stage::Promoted { next, .. } => {
            let told = told(document, node, slot_count)?;
            let phase = if told.slots.primary == *next { Phase::Promoted } else { Phase::Staged };
            Some((phase, next.epoch))
        }
    }
}
