//! The walk: what a tick drives by itself (docs/protocol.md#rules, rules 3, 11, 12, 13), one commit at a time.

use std::collections::BTreeSet;

use super::command::missing;
use super::document::{AUDIT_MEMBERS_MAX, Action, Actor, Hold, Pause, PoolKey, Snapshot, Stage, Wave};
use super::gates::{Health, drained, due, health};
use super::input::{BlockedBy, Now, Reason, Step, Wait, fresh_key};
use super::policy::{AbsentPolicy, Share, WaveRule};
use super::record::{Exclusion, NodeRecord, Standing};
use super::wave::{is_opened, take_in};
use super::{Draft, not_frozen, passed};
use crate::convergence::Barrier;
use tfo_model::count::Epoch;
use tfo_model::ids::NodeId;
use tfo_model::key::KeyFingerprint;

pub(super) fn tick(snapshot: &Snapshot, now: Now<'_>, fresh: Option<KeyFingerprint>) -> Result<Step, Reason> {
    let document = &snapshot.document;
    if not_frozen(snapshot).is_err() {
        return Ok(Step::Wait(Wait::on(BlockedBy::Frozen)));
    }
    if let Some(step) = exclude_absent(snapshot, now)? {
        return Ok(step);
    }
    let unheard = now.presence.unheard_required(snapshot);
    if !unheard.is_empty() {
        return Ok(Step::Wait(wait_for(snapshot, now, unheard)));
    }
    if document.paused.is_some() {
        return Ok(Step::Wait(Wait::on(BlockedBy::Paused)));
    }
    if let Some(step) = leave_behind(snapshot, now)? {
        return Ok(step);
    }
    match &document.stage {
        Stage::Empty => Ok(Step::Wait(Wait::on(BlockedBy::Held))),
        Stage::Steady { current, backup } => tick_steady(snapshot, now, fresh, (*current, *backup)),
        Stage::Staged { .. } => at_barrier(snapshot, now, || promote(snapshot, now)),
        Stage::Promoted { next, wave, .. } if !wave.is_last() => tick_wave(snapshot, now, *next, wave),
        Stage::Promoted { .. } => at_barrier(snapshot, now, || settle(snapshot, now)),
    }
}

fn tick_steady(
    snapshot: &Snapshot,
    now: Now<'_>,
    fresh: Option<KeyFingerprint>,
    (current, backup): (PoolKey, Option<PoolKey>),
) -> Result<Step, Reason> {
    let document = &snapshot.document;
    let revoked = |key: PoolKey| document.revoke.as_ref().is_some_and(|revoke| revoke.keys.contains(&key));
    if revoked(current) {
        if let Some(wait) = wait_for_expected(snapshot, now) {
            return Ok(Step::Wait(wait));
        }
        return at_barrier(snapshot, now, || stage(snapshot, now, fresh, (Actor::Engine, "")));
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
    if barrier.required < document.policy.expected_nodes {
        return Ok(Step::Wait(Wait::on(BlockedBy::ExpectedNodes)));
    }
    if let Err(wait) = drained(snapshot, now) {
        return Ok(Step::Wait(wait));
    }
    at_barrier(snapshot, now, || stage(snapshot, now, fresh, (Actor::Engine, "")))
}

/// A revoke of a first key waits for the expected nodes too, but (beyond rule 14) no longer than for any node: one that
/// registers after it had no key of this pool to lose.
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
    if let (Health::Bad { rejected, baseline }, false) = (health(snapshot, now, next.epoch, wave), in_revoke) {
        let mut draft = Draft::of(snapshot, now);
        draft.document.paused = Some(Pause::Health { rejected, baseline });
        return draft.commit(Actor::Engine, Action::Unhealthy, "");
    }
    let barrier = Barrier::of_opened(snapshot);
    if !barrier.is_passed() {
        return Ok(Step::Wait(wait_for(snapshot, now, barrier.waiting_for)));
    }
    match health(snapshot, now, next.epoch, wave) {
        Health::Looking { left_secs } if !in_revoke => {
            Ok(Step::Wait(Wait::until(BlockedBy::Health, now.wall.plus(left_secs))))
        }
        Health::Looking { .. } | Health::Good | Health::Bad { .. } => open_wave(snapshot, now),
    }
}

/// Commits the move if every required node has acknowledged, else says whom it waits for.
fn at_barrier(snapshot: &Snapshot, now: Now<'_>, step: impl FnOnce() -> Result<Step, Reason>) -> Result<Step, Reason> {
    let barrier = Barrier::of_all(snapshot);
    if barrier.is_passed() { step() } else { Ok(Step::Wait(wait_for(snapshot, now, barrier.waiting_for))) }
}

fn wait_for(snapshot: &Snapshot, now: Now<'_>, nodes: Vec<NodeId>) -> Wait {
    let too_few = {
        let barrier = Barrier::of_all(snapshot);
        barrier.required < barrier.needed
    };
    let any_absent = nodes.iter().any(|node| now.presence.absent.contains(node));
    let blocked_by = if too_few || any_absent { BlockedBy::Absent } else { BlockedBy::Barrier };
    Wait::for_nodes(blocked_by, nodes)
}

/// Steady(c,b) -> Staged(c→x).  The epoch is burnt here, whatever becomes of the rotation.
pub(super) fn stage(
    snapshot: &Snapshot,
    now: Now<'_>,
    fresh: Option<KeyFingerprint>,
    (actor, reason): (Actor, &str),
) -> Result<Step, Reason> {
    let Stage::Steady { current, backup } = &snapshot.document.stage else {
        return Err(Reason::WrongPhase("a rotation starts only in phase steady"));
    };
    passed(Barrier::of_all(snapshot))?;
    let epoch = snapshot.document.next_epoch;
    let Some(fresh) = fresh else { return Ok(Step::MakeKey { epoch }) };
    let next = fresh_key(epoch, fresh);
    let in_use = snapshot.document.keys_held().iter().any(|held| held.fingerprint == fresh);
    if in_use || snapshot.document.is_revoked(next) {
        return Err(Reason::KeyReused(fresh));
    }
    let mut draft = Draft::of(snapshot, now);
    draft.document.next_epoch = epoch.next().ok_or(Reason::Exhausted)?;
    let prior_backup = backup.filter(|key| !snapshot.document.is_revoked(*key));
    draft.document.stage = Stage::Staged { current: *current, next, prior_backup };
    draft.tell()?;
    draft.begin_phase();
    draft.commit(actor, Action::Stage, reason)
}

/// Staged(c→x) -> Promoted(c→x), first wave.  A revoke opens all waves at once.
pub(super) fn promote(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let document = &snapshot.document;
    let Stage::Staged { current, next, .. } = &document.stage else {
        return Err(Reason::WrongPhase("only a staged key is promoted"));
    };
    passed(Barrier::of_all(snapshot))?;
    let rules = if document.revoke.is_some() {
        vec![WaveRule::Share(Share::ALL)]
    } else {
        document.policy.promote_waves.clone()
    };
    let mut wave = Wave { rules, opened: 0, taken_in: BTreeSet::new(), opened_at: now.wall, health_waived: false };
    take_in(snapshot, next.epoch, &mut wave, None, now.presence);
    let mut draft = Draft::of(snapshot, now);
    let named = draft.name_members(next.epoch, &wave, None);
    draft.document.stage =
        Stage::Promoted { current: *current, next: *next, staged_generation: document.generation, wave };
    draft.document.rotated_at = now.wall;
    draft.tell()?;
    draft.begin_phase();
    draft.commit(Actor::Engine, Action::Promote, &named)
}

/// Promoted, wave k -> wave k+1.
fn open_wave(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let mut draft = Draft::of(snapshot, now);
    let Stage::Promoted { next, wave, .. } = &mut draft.document.stage else {
        return Err(Reason::WrongPhase("waves are opened only in phase promoted"));
    };
    let before = wave.clone();
    wave.opened += 1;
    wave.opened_at = now.wall;
    wave.health_waived = false;
    take_in(snapshot, next.epoch, wave, Some(&before), now.presence);
    let (epoch, wave) = (next.epoch, wave.clone());
    let named = draft.name_members(epoch, &wave, Some(&before));
    draft.commit(Actor::Engine, Action::OpenWave, &named)
}

/// The open waves have lost all their nodes: takes the next one in, so that there is evidence.
fn refill(snapshot: &Snapshot, now: Now<'_>, next: PoolKey, wave: &Wave) -> Result<Step, Reason> {
    let mut refilled = wave.clone();
    take_in(snapshot, next.epoch, &mut refilled, Some(wave), now.presence);
    if refilled == *wave {
        return Ok(Step::Wait(wait_for(snapshot, now, Barrier::of_all(snapshot).waiting_for)));
    }
    let mut draft = Draft::of(snapshot, now);
    let named = draft.name_members(next.epoch, &refilled, Some(wave));
    if let Stage::Promoted { wave, .. } = &mut draft.document.stage {
        *wave = refilled;
    }
    draft.commit(Actor::Engine, Action::TakeIn, &named)
}

/// Promoted, all -> Steady(x, c), or Steady(x) if c is revoked.
fn settle(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let Stage::Promoted { current, next, wave, .. } = &snapshot.document.stage else {
        return Err(Reason::WrongPhase("only a promotion settles"));
    };
    if !wave.is_last() {
        return Err(Reason::WrongPhase("a promotion settles after its last wave"));
    }
    passed(Barrier::of_all(snapshot))?;
    let mut draft = Draft::of(snapshot, now);
    let revoked = snapshot.document.is_revoked(*current);
    draft.document.stage = Stage::Steady { current: *next, backup: if revoked { None } else { Some(*current) } };
    draft.begin_phase();
    if revoked {
        draft.tell()?;
    }
    draft.commit(Actor::Engine, if revoked { Action::DropRevoked } else { Action::Settle }, "")
}

/// Steady(c,b), revoke b -> Steady(c).
fn drop_backup(snapshot: &Snapshot, now: Now<'_>) -> Result<Step, Reason> {
    let Stage::Steady { current, .. } = &snapshot.document.stage else {
        return Err(Reason::WrongPhase("a backup is dropped only in phase steady"));
    };
    passed(Barrier::of_all(snapshot))?;
    let mut draft = Draft::of(snapshot, now);
    draft.document.stage = Stage::Steady { current: *current, backup: None };
    draft.tell()?;
    draft.begin_phase();
    draft.commit(Actor::Engine, Action::DropRevoked, "")
}

/// Excludes absent nodes that stand in the way, if the policy says so and enough are left (rule 11).
///
/// In the way is who has not acknowledged, and who was not heard in this life.  A silent node that has acknowledged
/// holds the right keys: nothing waits for it.
fn exclude_absent(snapshot: &Snapshot, now: Now<'_>) -> Result<Option<Step>, Reason> {
    let document = &snapshot.document;
    if document.policy.absent_policy == AbsentPolicy::Wait {
        return Ok(None);
    }
    let barrier = Barrier::of_all(snapshot);
    let in_the_way =
        |node: &&NodeId| barrier.waiting_for.binary_search(node).is_ok() || !now.presence.has_heard(snapshot, node);
    let absent = now.presence.absent.iter().filter(in_the_way);
    let required = absent.filter(|node| snapshot.nodes.get(*node).is_some_and(NodeRecord::is_required));
    let nodes: Vec<NodeId> = required.take(barrier.spare()).cloned().collect();
    if nodes.is_empty() {
        return Ok(None);
    }
    let mut draft = Draft::of(snapshot, now);
    draft.exclude(&nodes, Exclusion::Absent);
    draft.commit(Actor::Engine, Action::Exclude, "absent").map(Some)
}

/// The short barrier of a revoke: stragglers are left behind, and listed (rule 13).
///
/// It is measured from the revoke, or from the instruction or the wave if that came later, and (beyond rule 13) is
/// never shorter than the period that a node declares: a timer node had no chance to hear of it before.
fn leave_behind(snapshot: &Snapshot, now: Now<'_>) -> Result<Option<Step>, Reason> {
    let document = &snapshot.document;
    if document.revoke.is_none() || !short_barrier_is_over(snapshot, now, 0) {
        return Ok(None);
    }
    let barrier = Barrier::of_opened(snapshot);
    let period = |node: &NodeId| snapshot.nodes.get(node)?.report.as_ref().map(|report| report.next_sync_secs);
    let late = barrier.waiting_for.iter().filter(|node| {
        let period = period(node).unwrap_or(0);
        short_barrier_is_over(snapshot, now, period)
    });
    let nodes: Vec<NodeId> = late.take(barrier.spare()).cloned().collect();
    if nodes.is_empty() {
        return Ok(None);
    }
    let mut draft = Draft::of(snapshot, now);
    draft.exclude(&nodes, Exclusion::LeftBehind);
    if let Some(revoke) = &mut draft.document.revoke {
        revoke.left_behind.extend(nodes);
    }
    draft.commit(Actor::Engine, Action::Exclude, "left behind by a revoke").map(Some)
}

fn short_barrier_is_over(snapshot: &Snapshot, now: Now<'_>, period_secs: u64) -> bool {
    let waited = now.presence.phase_secs.min(now.presence.wave_secs);
    waited >= snapshot.document.policy.revoke_barrier_max_secs.max(period_secs)
}

impl Draft<'_> {
    /// Names the required nodes that are in the wave and were not in the one before, for the audit log; the text says
    /// whom the names leave out.
    fn name_members(&mut self, epoch: Epoch, wave: &Wave, before: Option<&Wave>) -> String {
        if wave.is_last() {
            return "everybody".to_owned();
        }
        let document = &self.snapshot.document;
        let is_new = |(node, record): &(&NodeId, &NodeRecord)| {
            record.is_required()
                && is_opened(document, epoch, wave, node)
                && !before.is_some_and(|before| is_opened(document, epoch, before, node))
        };
        let members: Vec<&NodeId> = self.snapshot.nodes.iter().filter(is_new).map(|(node, _)| node).collect();
        self.taken_in = members.iter().take(AUDIT_MEMBERS_MAX).map(|node| (*node).clone()).collect();
        if members.len() > AUDIT_MEMBERS_MAX {
            format!("{AUDIT_MEMBERS_MAX} of {} nodes are named", members.len())
        } else {
            String::new()
        }
    }

    /// Takes nodes out of the required set; those without a record are passed over.
    pub(super) fn exclude(&mut self, nodes: &[NodeId], exclusion: Exclusion) {
        for node in nodes {
            if let Some(record) = self.snapshot.nodes.get(node) {
                let standing = Standing::Excluded(exclusion);
                self.record(node, Some(NodeRecord { standing, ..record.clone() }));
            }
        }
    }
}
