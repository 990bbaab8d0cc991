//! Turning back: abort and revoke (docs/protocol.md#rule-13; rule 3).
//!
//! Both make the move of the same kind as the one in flight, so neither needs a barrier to start.
//!
//! | from | abort | revoke of `next` | revoke of another key |
//! |---|---|---|---|
//! | Steady | refused | | marked; the walk drives it out |
//! | Staged(c→x) | Steady(c, prior backup) + hold | the same | marked; the prior backup is cleared |
//! | Promoted(c→x) | Steady(c, x) + hold | the same, then `[c,-]` at a barrier | marked; the walk drives it out |

use std::collections::BTreeSet;

use super::barrier::{Barrier, Conflict, conflict};
use super::document::{CHANGED_MAX, Document, Hold, REVOKED_MAX, Revoke, Snapshot, Stage};
use super::draft::Draft;
use super::input::{Now, Reason, RevokeKeys, Step};
use super::record::Exclusion;
use super::slots::PoolKey;
use super::walk::short_barrier_is_over_for;
use super::wave::instructions;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;

/// Staged -> Steady(c, prior backup), Promoted -> Steady(c, backup x); both hold.
///
/// A forced abort of a revoke withdraws it: those of its keys that are still in a slot are no longer revoked, because
/// the pool goes back to them.
pub(super) fn abort(mut draft: Draft<'_>, force: bool) -> Result<Step, Reason> {
    if !matches!(draft.document.stage, Stage::Staged { .. } | Stage::Promoted { .. }) {
        return Err(Reason::WrongPhase("there is no rotation to abort"));
    }
    if let Some(revoke) = draft.document.revoke.take() {
        if !force {
            return Err(Reason::RevokeRuns);
        }
        draft.document.revoked.retain(|key| !revoke.keys.contains(key));
    }
    turn_back(&mut draft)?;
    hold_aborted(&mut draft.document);
    draft.commit(Action::Abort)
}

/// Holds.  The hold of a first key waits for more than an operator, and stays (rule 14).
fn hold_aborted(document: &mut Document) {
    if !matches!(document.hold, Some(Hold::FirstKey { .. })) {
        document.hold = Some(Hold::Aborted);
    }
}

/// The move back, if a rotation is in flight.  After a promotion the pool rests at `[c,x]`: no second step follows.
fn turn_back(draft: &mut Draft<'_>) -> Result<(), Reason> {
    let document = &draft.document;
    let steady = match &document.stage {
        Stage::Empty | Stage::Steady { .. } => return Ok(()),
        Stage::Staged { current, prior_backup, .. } => {
            let backup = prior_backup.filter(|key| !document.is_revoked(*key));
            Stage::Steady { current: *current, backup }
        }
        Stage::Promoted { current, next, .. } => Stage::Steady { current: *current, backup: Some(*next) },
    };
    draft.document.stage = steady;
    draft.instruct()?;
    draft.begin_phase();
    Ok(())
}

/// Marks keys as revoked and, if the next key is among them, turns back at once; the walk does the rest.
///
/// * backup: the walk drops it at the next barrier (in Staged it is in no slot already);
/// * next in Staged: turned back without it; next in Promoted: turned back to `[c,x]`, then dropped at a barrier;
/// * current: the walk continues without gates, and drops it after the promotion's barrier;
/// * current and next: turned back to `[c,.]`, barrier, a fresh key is staged, flip, drop.
///
/// Turning back for the next key alone holds the pool; with the current key among them the walk continues.
///
/// A pause by the health gate is lifted, because a revoke runs without gates.  An operator's pause is not overruled:
/// the revoke is refused until `resume`, so it cannot stand still behind a pause unnoticed (rule 13).
///
/// The nodes that it denies block nothing, whatever they report or promised.  Required nodes that were not seen in this
/// life are waited for until the short barrier is over for them; then they are left behind in the same commit, or in parts
/// before it if they are many (the audit log has those, not the revoke's list).
pub(super) fn revoke(mut draft: Draft<'_>, keys: &RevokeKeys, deny: &BTreeSet<NodeId>) -> Result<Step, Reason> {
    if deny.len() > CHANGED_MAX {
        return Err(Reason::TooManyNodes(deny.len()));
    }
    let unseen = unseen_without(draft.snapshot, draft.now, deny)?;
    if draft.document.paused.as_ref().is_some_and(|pause| !pause.is_health()) {
        return Err(Reason::Paused);
    }
    let held = draft.document.keys_held();
    let keys: BTreeSet<PoolKey> = match keys {
        RevokeKeys::AllInstructed => {
            instructions(&draft.document).iter().flat_map(|instruction| instruction.slots.keys()).collect()
        }
        RevokeKeys::Epochs(epochs) => held.iter().filter(|key| epochs.contains(&key.epoch)).copied().collect(),
    };
    if keys.is_empty() {
        return Err(Reason::NoSuchKey);
    }
    if unseen.len() + deny.len() > CHANGED_MAX {
        let first = &unseen[..unseen.len().min(CHANGED_MAX)];
        draft.exclude(first, Exclusion::LeftBehind);
        return draft.commit_part();
    }
    draft.document.paused = None;
    mark(&mut draft, &keys);
    if let Stage::Staged { prior_backup, .. } = &mut draft.document.stage
        && prior_backup.is_some_and(|key| keys.contains(&key))
    {
        *prior_backup = None;
    }
    if let Stage::Staged { current, next, .. } | Stage::Promoted { current, next, .. } = draft.document.stage
        && keys.contains(&next)
    {
        turn_back(&mut draft)?;
        if !keys.contains(&current) && !draft.document.is_revoked(current) {
            hold_aborted(&mut draft.document);
        }
    }
    draft.exclude(deny, Exclusion::Denied);
    draft.leave_behind(unseen);
    draft.commit(Action::Revoke)
}

/// The required nodes that a revoke leaves behind at once, if its denied nodes count for nothing: not seen in this life,
/// and past the short barrier.
fn unseen_without(snapshot: &Snapshot, now: Now<'_>, deny: &BTreeSet<NodeId>) -> Result<Vec<NodeId>, Reason> {
    let mut others = snapshot.clone();
    others.nodes.retain(|node, _| !deny.contains(node));
    let thawing = || now.presence.thawing.clone().filter(|conflict| !deny.contains(&conflict.node));
    if let Some(Conflict { node, generation, .. }) = conflict(&others).or_else(thawing) {
        return Err(Reason::Frozen { node, generation });
    }
    let (late, waiting): (Vec<NodeId>, Vec<NodeId>) = now
        .presence
        .unseen_required(&others)
        .into_iter()
        .partition(|node| short_barrier_is_over_for(snapshot, now, node));
    if !waiting.is_empty() {
        return Err(Reason::NotHeard(waiting));
    }
    let barrier = Barrier::of_all(&others);
    if late.len() > barrier.spare() {
        return Err(Reason::TooFew { left: barrier.required - late.len(), needed: barrier.needed });
    }
    Ok(late)
}

fn mark(draft: &mut Draft<'_>, keys: &BTreeSet<PoolKey>) {
    let document = &mut draft.document;
    for key in keys {
        if !document.revoked.contains(key) {
            document.revoked.push(*key);
        }
    }
    let surplus = document.revoked.len().saturating_sub(REVOKED_MAX);
    document.revoked.drain(..surplus);
    let since = draft.now.wall;
    let revoke = document.revoke.get_or_insert_with(|| Revoke::of(BTreeSet::new(), since));
    revoke.keys.extend(keys.iter().copied());
}
