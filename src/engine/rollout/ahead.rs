//! What comes next, for operators who decide: what a `resume` waives, how near a wave is to the health gate's limit, and when
//! a node that is waited for is excluded
//! (docs/protocol.md#rule-12; rules 11, 13).
//!
//! Commits nothing.  Asks the walk's own functions, so that what an operator reads is what will happen.

use super::barrier::Barrier;
use super::calendar::{Freeze, Span};
use super::document::{Pause, Snapshot, Stage};
use super::gates::{Rejections, due_at, rejections};
use super::input::Now;
use super::policy::{AbsentPolicy, Share};
use super::walk::{following, new_members};
use tfo_model::count::Epoch;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// What a `resume` would waive, and for whom: a rotation that the health gate stopped in a wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// The wave that would pass in spite of its rejected cookies, from 1.
    pub wave: usize,
    /// Number of all waves.
    pub of: usize,
    /// Share of rejected cookies in the opened waves since the promotion, as it is now.
    pub rejected: Share,
    /// The same before the promotion.
    pub baseline: Share,
    /// Required nodes that would get the new primary next, in name order.
    pub next: Vec<NodeId>,
}

/// See [`Waiver`]; none if the health gate has not stopped a wave.
///
/// The nodes are those that the walk would take in now.  The wave opens when its barrier is passed.
#[must_use]
pub fn waiver(snapshot: &Snapshot, now: Now<'_>) -> Option<Waiver> {
    let document = &snapshot.document;
    let Stage::Promoted { next, wave, .. } = &document.stage else { return None };
    if wave.is_last() || !document.paused.as_ref().is_some_and(Pause::is_health) {
        return None;
    }
    let Rejections { rejected, baseline, .. } = rejections(snapshot, next.epoch, wave);
    let following = following(snapshot, now, next.epoch, wave);
    let next = new_members(snapshot, next.epoch, &following, Some(wave)).cloned().collect();
    Some(Waiver { wave: wave.opened + 1, of: wave.rules.len(), rejected, baseline, next })
}

/// When the next rotation is due by schedule and calendar; none if none starts by itself, or one runs.
#[must_use]
pub fn next_rotation_at(snapshot: &Snapshot, now: Now<'_>) -> Option<UnixTime> {
    let document = &snapshot.document;
    let rotates =
        matches!(document.stage, Stage::Steady { .. }) && document.paused.is_none() && document.hold.is_none();
    rotates.then(|| due_at(document, now.wall))
}

/// The span of the calendar that is on now or, without one, that delays the next rotation.
#[must_use]
pub fn calendar<'a>(snapshot: &'a Snapshot, now: Now<'_>) -> Option<(&'a Freeze, Span)> {
    let policy = &snapshot.document.policy;
    policy.freeze_at(now.wall).or_else(|| policy.freeze_at(next_rotation_at(snapshot, now)?.minus(1)))
}

/// The cookies of the opened waves, beside the limit at which the health gate stops them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaveCookies {
    /// Epoch of the key that is promoted: tells one rotation from the next.
    pub epoch: Epoch,
    /// The latest opened wave, from 1.
    pub wave: usize,
    /// Number of all waves.
    pub of: usize,
    /// When it was opened, by the wall clock of the coordinator that opened it.
    pub opened_at: UnixTime,
    /// Share of rejected cookies in the opened waves since the promotion.
    pub rejected: Share,
    /// The same before the promotion.
    pub baseline: Share,
    /// The gate stops the rotation above this share.
    pub limit: Share,
    /// Number of cookies in the smaller of the two windows.
    pub cookies: u64,
    /// Below so many the gate does not judge.
    pub evidence_min: u64,
}

/// See [`WaveCookies`]; none unless the pool is promoted.
#[must_use]
pub fn wave_cookies(snapshot: &Snapshot) -> Option<WaveCookies> {
    let policy = &snapshot.document.policy;
    let Stage::Promoted { next, wave, .. } = &snapshot.document.stage else { return None };
    let Rejections { rejected, baseline, cookies, .. } = rejections(snapshot, next.epoch, wave);
    let limit = baseline.ppm().saturating_add(policy.health_rise_max.ppm());
    Some(WaveCookies {
        epoch: next.epoch,
        wave: wave.opened + 1,
        of: wave.rules.len(),
        opened_at: wave.opened_at,
        rejected,
        baseline,
        limit: Share::from_ppm(limit).unwrap_or(Share::ALL),
        cookies,
        evidence_min: policy.health_min_connections,
    })
}

/// When the first of the nodes that are waited for is excluded, if it stays silent or behind; none if no node will be.
///
/// By this coordinator's wall clock, and at the earliest: only time in which it serves counts, and a deaf one excludes no
/// node.  A node that is behind and
/// reports in time is never excluded, except by the short barrier of a revoke.
#[must_use]
pub fn next_exclusion(snapshot: &Snapshot, now: Now<'_>) -> Option<UnixTime> {
    let document = &snapshot.document;
    let all = Barrier::of_all(snapshot);
    if all.spare() == 0 || now.presence.deaf_secs.is_some() {
        return None;
    }
    let absent_in = (document.policy.absent_policy == AbsentPolicy::Exclude)
        .then(|| {
            let mut waited_for = now.presence.unseen_required(snapshot);
            waited_for.extend(all.waiting_for);
            waited_for.iter().filter_map(|node| now.presence.absent_in(node)).min()
        })
        .flatten();
    let left_behind_in = (document.revoke.is_some() && document.paused.is_none())
        .then(|| {
            let waited = now.presence.phase_secs.min(now.presence.wave_secs);
            let opened = Barrier::of_opened(snapshot).waiting_for;
            let limit = |node: &NodeId| {
                let report = snapshot.nodes.get(node)?.report.as_ref();
                let period = report.map_or(0, |report| report.period_secs(&document.policy));
                Some(document.policy.revoke_barrier_max_secs.max(period))
            };
            opened.iter().filter_map(limit).min().map(|limit| limit.saturating_sub(waited))
        })
        .flatten();
    absent_in.into_iter().chain(left_behind_in).min().map(|left| now.wall.plus(left))
}
