//! The walk: what a tick drives by itself, one commit at a time (docs/protocol.md#rule-3; rules 11, 12, 13).
//!
//! A tick takes the first line of this table that applies.
//!
//! | state | step |
//! |---|---|
//! | frozen | wait |
//! | absent nodes in the way, and this coordinator is not deaf | exclude them |
//! | a revoke runs, not paused, this coordinator is not deaf, and stragglers are past its short barrier | leave them behind |
//! | required nodes not seen in this life, or paused | wait |
//! | Steady, current revoked | `stage` at the barrier |
//! | Steady, backup revoked | `drop_backup` at the barrier |
//! | Steady, not held, due, enough nodes, drained | `stage` at the barrier |
//! | Staged | `promote` at the barrier |
//! | Promoted, wave k | pause if unhealthy; otherwise `open_wave` at the barrier of the opened nodes and the health gate |
//! | Promoted, all waves | `settle` at the barrier |

use std::collections::BTreeSet;

use super::barrier::{Barrier, not_frozen};
use super::document::{CHANGED_MAX, Hold, NAMED_MAX, Pause, PauseCause, Snapshot, Stage, Wave};
use super::draft::{Draft, Origin};
use super::gates::{Health, drained, due, health, missing};
use super::input::{Now, Reason, Step, Wait};
use super::policy::{AbsentPolicy, Share, WaveRule};
use super::record::{Exclusion, NodeRecord};
use super::slots::PoolKey;
use super::wave::{is_opened, take_in};
use tfo_model::count::Epoch;
use tfo_model::fleet::{Action, BlockedBy};
use tfo_model::ids::NodeId;
use tfo_model::key::KeyFingerprint;

pub(super) fn tick(snapshot: &Snapshot, now: Now<'_>, fresh: Option<KeyFingerprint>) -> Result<Step, Reason> {
    let document = &snapshot.document;
    if not_frozen(snapshot, now.presence).is_err() {
        return Ok(Step::Wait(Wait::on(BlockedBy::Frozen)));
    }
    // A coordinator that hears no node at all judges none.
    if now.presence.deaf_secs.is_none() {
        if let Some(step) = exclude_absent(snapshot, now)? {
            return Ok(step);
        }
        if let Some(step) = leave_behind(snapshot, now)? {
            return Ok(step);
        }
    }
    let unseen = now.presence.unseen_required(snapshot);
    if !unseen.is_empty() {
        return Ok(Step::Wait(wait_for(snapshot, now, unseen)));
    }
    if document.paused.is_some() {
        return Ok(Step::Wait(Wait::on(BlockedBy::Paused)));
    }
    match &document.stage {
        Stage::Empty => Ok(Step::Wait(Wait::on(BlockedBy::NoKey))),
        Stage::Steady { current, backup } => tick_steady(snapshot, now, fresh, *current, *backup),
        Stage::Staged { .. } => at_barrier(snapshot, now, || promote(snapshot, now)),
        Stage::Promoted { next, wave, .. } if !wave.is_last() => tick_wave(snapshot, now, *next, wave),
        Stage::Promoted { .. } => at_barrier(snapshot, now, || settle(snapshot, now)),
    }
}

fn tick_steady(
    snapshot: &Snapshot,
    now: Now<'_>,
    fresh: Option<KeyFingerprint>,
    current: PoolKey,
    backup: Option<PoolKey>,
) -> Result<Step, Reason> {
    let document = &snapshot.document;
    let stage = || stage(Draft::of(snapshot, now, Origin::engine("")), fresh);
    let revoked = |key: PoolKey| document.revoke.as_ref().is_some_and(|revoke| revoke.keys.contains(&key));
    if revoked(current) {
        if let Some(wait) = wait_for_expected(snapshot, now) {
            return Ok(Step::Wait(wait));
        }
        return at_barrier(snapshot, now, stage);
    }
    if backup.is_some_and(revoked) {
        return at_barrier(snapshot, now, || drop_backup(snapshot, now));
    }
    if document.hold.is_some() {
        return Ok(Step::Wait(Wait::on(BlockedBy::Held)));
    }
    if let Err(wait) = due(document, now) {
        return Ok(Step::Wait(wait));
    }
    let barrier = Barrier::of_all(snapshot);
    if barrier.required < document.expected_nodes() {
        return Ok(Step::Wait(Wait::on(BlockedBy::ExpectedNodes)));
    }
    if let Err(wait) = drained(snapshot, now) {
        return Ok(Step::Wait(wait));
    }
    at_barrier(snapshot, now, stage)
}

/// A revoke of a first key waits for the expected nodes, too, but not longer than the short barrier: a node that
/// registers later had no key of this pool to lose (rule 13).
fn wait_for_expected(snapshot: &Snapshot, now: Now<'_>) -> Option<Wait> {
    let Some(Hold::FirstKey { expect }) = &snapshot.document.hold else { return None };
    let missing = missing(snapshot, expect);
    if short_barrier_is_over(snapshot, now, 0) || missing.is_empty() {
        return None;
    }
    // Those that have names; a mere number of nodes has none.
    let nodes = missing.iter().filter_map(|name| name.parse().ok()).collect();
    Some(Wait::for_nodes(BlockedBy::ExpectedNodes, nodes))
}

fn tick_wave(snapshot: &Snapshot, now: Now<'_>, next: PoolKey, wave: &Wave) -> Result<Step, Reason> {
    let document = &snapshot.document;
    let opened =
        |(node, record): (&NodeId, &NodeRecord)| record.is_required() && is_opened(document, next.epoch, wave, node);
    if !snapshot.nodes.iter().any(opened) {
        return refill(snapshot, now, next, wave);
    }
    let in_revoke = document.revoke.is_some();
    let health = health(snapshot, now, next.epoch, wave);
    if let (Health::Bad { rejected, baseline, worst }, false) = (&health, in_revoke) {
        let (now_rejected, before) = (rejected, baseline);
        let reason = format!("{now_rejected} of the cookies are rejected, {before} before the promotion");
        let mut draft = Draft::of(snapshot, now, Origin::engine(reason));
        draft.taken_in = worst.iter().cloned().collect();
        let cause = PauseCause::Health { rejected: *rejected, baseline: *baseline, worst: worst.clone() };
        draft.document.paused = Some(Pause { since: now.wall, cause });
        return draft.commit(Action::Unhealthy);
    }
    let barrier = Barrier::of_opened(snapshot);
    if !barrier.is_passed() {
        return Ok(Step::Wait(wait_for(snapshot, now, barrier.waiting_for)));
    }
    match health {
        Health::Observing { left_secs } if !in_revoke => {
            Ok(Step::Wait(Wait::until(BlockedBy::Health, now.wall.plus(left_secs))))
        }
        Health::Asking { nodes } if !in_revoke => Ok(Step::Wait(Wait::for_nodes(BlockedBy::Health, nodes))),
        Health::Observing { .. } | Health::Asking { .. } | Health::Good | Health::Bad { .. } => {
            open_wave(snapshot, now)
        }
    }
}

/// Commits the move if every required node has acknowledged; otherwise returns the nodes that it waits for.
fn at_barrier(snapshot: &Snapshot, now: Now<'_>, step: impl FnOnce() -> Result<Step, Reason>) -> Result<Step, Reason> {
    let barrier = Barrier::of_all(snapshot);
    if barrier.is_passed() { step() } else { Ok(Step::Wait(wait_for(snapshot, now, barrier.waiting_for))) }
}

fn wait_for(snapshot: &Snapshot, now: Now<'_>, nodes: Vec<NodeId>) -> Wait {
    let barrier = Barrier::of_all(snapshot);
    let too_few = barrier.required < barrier.needed;
    let any_absent = nodes.iter().any(|node| now.presence.absent.contains(node));
    let blocked_by = if too_few || any_absent { BlockedBy::Absent } else { BlockedBy::Barrier };
    Wait::for_nodes(blocked_by, nodes)
}

/// Steady(c,b) -> Staged(c→x).  This uses the epoch up, whatever becomes of the rotation.
pub(super) fn stage(mut draft: Draft<'_>, fresh: Option<KeyFingerprint>) -> Result<Step, Reason> {
    let document = &draft.snapshot.document;
    let Stage::Steady { current, backup } = &document.stage else {
        return Err(Reason::WrongPhase("a rotation starts only in phase steady"));
    };
    Barrier::of_all(draft.snapshot).require()?;
    let epoch = document.next_epoch;
    let Some(fingerprint) = fresh else { return Ok(Step::MakeKey { epoch }) };
    let next = PoolKey { epoch, fingerprint };
    let in_use = document.keys_held().iter().any(|held| held.fingerprint == fingerprint);
    if in_use || document.is_revoked(next) {
        return Err(Reason::KeyReused(fingerprint));
    }
    draft.document.next_epoch = epoch.next().ok_or(Reason::Exhausted)?;
    let prior_backup = backup.filter(|key| !document.is_revoked(*key));
    draft.document.stage = Stage::Staged { current: *current, next, prior_backup };
    draft.instruct()?;
    draft.begin_phase();
    draft.commit(Action::Rotate)
}

/// Staged(c→x) -> Promoted(c→x), first wave.  A revoke opens all waves at once.
fn promote(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let document = &snapshot.document;
    let Stage::Staged { current, next, .. } = &document.stage else {
        return Err(Reason::WrongPhase("only a staged key is promoted"));
    };
    Barrier::of_all(snapshot).require()?;
    let rules = if document.revoke.is_some() {
        vec![WaveRule::Share(Share::ALL)]
    } else {
        document.policy.promote_waves.clone()
    };
    let mut wave = Wave { rules, opened: 0, taken_in: BTreeSet::new(), opened_at: now.wall, health_waived: false };
    take_in(snapshot, next.epoch, &mut wave, None, now.presence);
    let mut draft = Draft::of(snapshot, now, Origin::engine(""));
    draft.name_members(next.epoch, &wave, None);
    draft.document.stage =
        Stage::Promoted { current: *current, next: *next, staged_generation: document.generation, wave };
    draft.document.rotated_at = now.wall;
    draft.instruct()?;
    draft.begin_phase();
    draft.commit(Action::Promote)
}

/// Promoted, wave k -> wave k+1.
fn open_wave(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let mut draft = Draft::of(snapshot, now, Origin::engine(""));
    let Stage::Promoted { next, wave, .. } = &mut draft.document.stage else {
        return Err(Reason::WrongPhase("waves are opened only in phase promoted"));
    };
    let before = wave.clone();
    *wave = following(snapshot, now, next.epoch, &before);
    let (epoch, wave) = (next.epoch, wave.clone());
    draft.name_members(epoch, &wave, Some(&before));
    draft.commit(Action::OpenWave)
}

/// The waves with one more open.
pub(super) fn following(snapshot: &Snapshot, now: Now<'_>, epoch: Epoch, wave: &Wave) -> Wave {
    let mut following = Wave { opened: wave.opened + 1, opened_at: now.wall, health_waived: false, ..wave.clone() };
    take_in(snapshot, epoch, &mut following, Some(wave), now.presence);
    following
}

/// The required nodes that are in the wave and were not in the one before, in name order.
pub(super) fn new_members<'a>(
    snapshot: &'a Snapshot,
    epoch: Epoch,
    wave: &'a Wave,
    before: Option<&'a Wave>,
) -> impl Iterator<Item = &'a NodeId> {
    let document = &snapshot.document;
    let is_new = move |(node, record): &(&NodeId, &NodeRecord)| {
        record.is_required()
            && is_opened(document, epoch, wave, node)
            && !before.is_some_and(|before| is_opened(document, epoch, before, node))
    };
    snapshot.nodes.iter().filter(is_new).map(|(node, _)| node)
}

/// The open waves have lost all their nodes: takes the next one in, so that there is evidence.
fn refill(snapshot: &Snapshot, now: Now<'_>, next: PoolKey, wave: &Wave) -> Result<Step, Reason> {
    let mut refilled = wave.clone();
    take_in(snapshot, next.epoch, &mut refilled, Some(wave), now.presence);
    if refilled == *wave {
        return Ok(Step::Wait(wait_for(snapshot, now, Barrier::of_all(snapshot).waiting_for)));
    }
    let mut draft = Draft::of(snapshot, now, Origin::engine(""));
    draft.name_members(next.epoch, &refilled, Some(wave));
    if let Stage::Promoted { wave, .. } = &mut draft.document.stage {
        *wave = refilled;
    }
    draft.commit(Action::TakeIn)
}

/// Promoted, all -> Steady(x, c), or Steady(x) if c is revoked.
fn settle(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let Stage::Promoted { current, next, wave, .. } = &snapshot.document.stage else {
        return Err(Reason::WrongPhase("only a promotion settles"));
    };
    if !wave.is_last() {
        return Err(Reason::WrongPhase("a promotion settles after its last wave"));
    }
    Barrier::of_all(snapshot).require()?;
    let mut draft = Draft::of(snapshot, now, Origin::engine(""));
    let revoked = snapshot.document.is_revoked(*current);
    draft.document.stage = Stage::Steady { current: *next, backup: if revoked { None } else { Some(*current) } };
    draft.begin_phase();
    if revoked {
        draft.instruct()?;
    }
    draft.commit(if revoked { Action::DropRevoked } else { Action::Settle })
}

/// Steady(c,b), revoke b -> Steady(c).
fn drop_backup(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let Stage::Steady { current, .. } = &snapshot.document.stage else {
        return Err(Reason::WrongPhase("a backup is dropped only in phase steady"));
    };
    Barrier::of_all(snapshot).require()?;
    let mut draft = Draft::of(snapshot, now, Origin::engine(""));
    draft.document.stage = Stage::Steady { current: *current, backup: None };
    draft.instruct()?;
    draft.begin_phase();
    draft.commit(Action::DropRevoked)
}

/// Excludes absent nodes that are in the way, if the policy allows it and enough are left (rule 11); a lost site in more
/// than one commit.
///
/// In the way: nodes that have not acknowledged, or were not seen in this life.  A silent node that has acknowledged
/// holds the right keys, so nothing waits for it.
fn exclude_absent(snapshot: &Snapshot, now: Now<'_>) -> Result<Option<Step>, Reason> {
    let document = &snapshot.document;
    if document.policy.absent_policy == AbsentPolicy::Wait {
        return Ok(None);
    }
    let barrier = Barrier::of_all(snapshot);
    let in_the_way =
        |node: &&NodeId| barrier.waiting_for.binary_search(node).is_ok() || !now.presence.has_seen(snapshot, node);
    let absent = now.presence.absent.iter().filter(in_the_way);
    let required = absent.filter(|node| snapshot.nodes.get(*node).is_some_and(NodeRecord::is_required));
    let nodes: Vec<NodeId> = required.take(barrier.spare().min(CHANGED_MAX)).cloned().collect();
    if nodes.is_empty() {
        return Ok(None);
    }
    let mut draft = Draft::of(snapshot, now, Origin::engine("absent"));
    draft.exclude(&nodes, Exclusion::Absent);
    draft.commit(Action::Exclude).map(Some)
}

/// The short barrier of a revoke: stragglers, and nodes that were not seen in this life, are left behind and listed (rule
/// 13).
fn leave_behind(snapshot: &Snapshot, now: Now<'_>) -> Result<Option<Step>, Reason> {
    let document = &snapshot.document;
    if document.revoke.is_none() || document.paused.is_some() || !short_barrier_is_over(snapshot, now, 0) {
        return Ok(None);
    }
    let barrier = Barrier::of_opened(snapshot);
    let mut behind: BTreeSet<NodeId> = now.presence.unseen_required(snapshot).into_iter().collect();
    behind.extend(barrier.waiting_for.iter().cloned());
    let late = behind.into_iter().filter(|node| short_barrier_is_over_for(snapshot, now, node));
    let nodes: Vec<NodeId> = late.take(barrier.spare().min(CHANGED_MAX)).collect();
    if nodes.is_empty() {
        return Ok(None);
    }
    let mut draft = Draft::of(snapshot, now, Origin::engine("left behind by a revoke"));
    draft.leave_behind(nodes);
    draft.commit(Action::Exclude).map(Some)
}

/// Whether the short barrier of a revoke is over for this node.
///
/// It is measured from the revoke, or from the present instruction or wave if that began later; before a revoke, from
/// the start of this life if that was later.  It is never shorter than the period that a node declares: a timer node had
/// no chance to receive the instruction before.
pub(super) fn short_barrier_is_over_for(snapshot: &Snapshot, now: Now<'_>, node: &NodeId) -> bool {
    let report = snapshot.nodes.get(node).and_then(|record| record.report.as_ref());
    let period = report.map_or(0, |report| report.period_secs(&snapshot.document.policy));
    short_barrier_is_over(snapshot, now, period)
}

fn short_barrier_is_over(snapshot: &Snapshot, now: Now<'_>, period_secs: u64) -> bool {
    let waited = now.presence.phase_secs.min(now.presence.wave_secs);
    waited >= snapshot.document.policy.revoke_barrier_max_secs.max(period_secs)
}

impl Draft<'_> {
    /// Excludes nodes that a revoke does not wait for, and lists them.
    pub(super) fn leave_behind(&mut self, nodes: Vec<NodeId>) {
        self.exclude(&nodes, Exclusion::LeftBehind);
        if let Some(revoke) = &mut self.document.revoke {
            for node in nodes {
                if revoke.left_behind.len() < NAMED_MAX {
                    revoke.left_behind.insert(node);
                } else {
                    revoke.left_behind_more += usize::from(!revoke.left_behind.contains(&node));
                }
            }
        }
    }

    /// Names the required nodes that are newly in the wave, for the audit log.
    fn name_members(&mut self, epoch: Epoch, wave: &Wave, before: Option<&Wave>) {
        if wave.is_last() {
            self.origin.reason = "all nodes".to_owned();
            return;
        }
        let members: Vec<&NodeId> = new_members(self.snapshot, epoch, wave, before).collect();
        self.taken_in = members.iter().take(NAMED_MAX).map(|node| (*node).clone()).collect();
        self.more = members.len() - self.taken_in.len();
    }
}
