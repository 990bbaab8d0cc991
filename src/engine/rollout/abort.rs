//! Turning back: abort and revoke (docs/protocol.md#rules, rules 3 and 13).
//!
//! Both make the move of the same kind as the one in flight, so neither needs a barrier to start.

use std::collections::BTreeSet;

use super::Draft;
use super::document::{Action, Actor, Document, Hold, Pause, PoolKey, REVOKED_MAX, Revoke, Stage};
use super::input::{Force, Reason, RevokeKeys, Step};
use super::record::{Exclusion, NodeRecord, Standing};
use super::wave::instructions;
use tfo_model::ids::NodeId;

/// Staged -> Steady(c, prior backup), Promoted -> Steady(c, backup x); both hold.
///
/// A forced abort of a revoke withdraws it: those of its keys that are still in a slot are no longer revoked, for the
/// pool goes back to them.
pub(super) fn abort(mut draft: Draft<'_>, force: Force, actor: Actor, reason: &str) -> Result<Step, Reason> {
    if !matches!(draft.document.stage, Stage::Staged { .. } | Stage::Promoted { .. }) {
        return Err(Reason::WrongPhase("there is no rotation to abort"));
    }
    if let Some(revoke) = draft.document.revoke.take() {
        if force == Force::No {
            return Err(Reason::RevokeRuns);
        }
        draft.document.revoked.retain(|key| !revoke.keys.contains(key));
    }
    turn_back(&mut draft)?;
    hold_aborted(&mut draft.document);
    draft.commit(actor, Action::Abort, reason)
}

/// Holds; but the hold of a first key waits for more than an operator, and stays (rule 14).
fn hold_aborted(document: &mut Document) {
    if !matches!(document.hold, Some(Hold::FirstKey { .. })) {
        document.hold = Some(Hold::Aborted);
    }
}

/// The move back, if a rotation is in flight.  Pool and cookies rest at `[c,x]` after a promotion: no second step.
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
    draft.tell()?;
    draft.begin_phase();
    Ok(())
}

/// Marks keys as revoked and, where the key that comes is among them, turns back at once; the walk does the rest.
///
/// * backup: the walk drops it at the next barrier (in Staged it is in no slot already);
/// * next in Staged: turned back without it; next in Promoted: turned back to `[c,x]`, then dropped at a barrier;
/// * current: the walk goes on without gates, and drops it after the promotion's barrier;
/// * current and next: turned back to `[c,.]`, barrier, a fresh key is staged, flip, drop.
///
/// Turning back for the key that comes alone holds the pool; with the current key among them the walk goes on.
///
/// Beyond rule 13: a stop by the health gate is lifted, for a revoke walks without gates; an operator's pause is not
/// overruled, nor does a revoke stand still behind it unnoticed: it is refused until `resume`.
pub(super) fn revoke(
    mut draft: Draft<'_>,
    keys: &RevokeKeys,
    deny: &BTreeSet<NodeId>,
    actor: Actor,
    reason: &str,
) -> Result<Step, Reason> {
    match draft.document.paused {
        Some(Pause::Operator) => return Err(Reason::Paused),
        Some(Pause::Health { .. }) | None => draft.document.paused = None,
    }
    let held = draft.document.keys_held();
    let keys: BTreeSet<PoolKey> = match keys {
        RevokeKeys::AllTold => told_to_some(&draft.document),
        RevokeKeys::Epochs(epochs) => held.iter().filter(|key| epochs.contains(&key.epoch)).copied().collect(),
    };
    if keys.is_empty() {
        return Err(Reason::NoSuchKey);
    }
    mark(&mut draft, &keys);
    if let Stage::Staged { prior_backup, .. } = &mut draft.document.stage
        && prior_backup.is_some_and(|key| keys.contains(&key))
    {
        *prior_backup = None;
    }
    if let Stage::Staged { current, next, .. } | Stage::Promoted { current, next, .. } = draft.document.stage.clone()
        && keys.contains(&next)
    {
        turn_back(&mut draft)?;
        if !keys.contains(&current) && !draft.document.is_revoked(current) {
            hold_aborted(&mut draft.document);
        }
    }
    for node in deny {
        draft.deny(node);
    }
    draft.commit(actor, Action::Revoke, reason)
}

fn told_to_some(document: &Document) -> BTreeSet<PoolKey> {
    let slots = instructions(document).into_iter().map(|instruction| instruction.slots);
    slots.flat_map(|slots| [Some(slots.primary), slots.backup]).flatten().collect()
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
    let revoke =
        document.revoke.get_or_insert_with(|| Revoke { keys: BTreeSet::new(), left_behind: BTreeSet::new(), since });
    revoke.keys.extend(keys.iter().copied());
}

impl Draft<'_> {
    /// Takes a node out for good, also one that never came.
    pub(super) fn deny(&mut self, node: &NodeId) {
        let standing = Standing::Excluded(Exclusion::Denied);
        let record = match self.snapshot.nodes.get(node) {
            Some(record) => NodeRecord { standing, ..record.clone() },
            None => NodeRecord {
                version: 0,
                syncs: 0,
                standing,
                session: None,
                report: None,
                window: None,
                baseline: None,
                last_report_at: None,
            },
        };
        self.record(node, Some(record));
    }
}
