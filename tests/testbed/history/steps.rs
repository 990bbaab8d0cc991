//! Which document may follow which: the table of docs/protocol.md#rule-3, written down a second time.
//!
//! Must not know: nodes, barriers, times.

use tfo_engine::rollout::document::{Document, Stage};
use tfo_model::fleet::Action;

/// Why this step is illegal; none if it is legal.
pub(super) fn illegal(before: &Document, after: &Document, action: Action) -> Option<String> {
    let numbers = || (after.revision.get(), after.generation.get(), after.next_epoch.get());
    let (revision, generation, epoch) = numbers();
    if after.pool_id != before.pool_id {
        return Some("the pool has another identity".to_owned());
    }
    if revision != before.revision.get() + 1 {
        return Some(format!("revision {revision} follows {}", before.revision));
    }
    if epoch < before.next_epoch.get() {
        return Some("an epoch is used twice".to_owned());
    }
    if action == Action::Recover {
        let rises = generation > before.generation.get() && matches!(after.stage, Stage::Steady { .. });
        return (!rises).then(|| "recover ends in steady, under a higher generation".to_owned());
    }
    let Some(rise) = rise(before, after, action) else {
        let (from, to) = (before.stage.phase(), after.stage.phase());
        return Some(format!("{action:?} from {from:?} to {to:?} with these keys"));
    };
    let risen = generation.checked_sub(before.generation.get());
    (risen != Some(rise)).then(|| format!("{action:?}: generation {generation} follows {}", before.generation))
}

/// By how much the generation rises; none: there is no such step.
fn rise(before: &Document, after: &Document, action: Action) -> Option<u64> {
    use Stage::{Empty, Promoted, Staged, Steady};
    let revoked = |key| after.is_revoked(key);
    let is_same = before.stage == after.stage;
    match (&before.stage, &after.stage, action) {
        (Empty, Steady { .. }, Action::FirstKey | Action::Import) => Some(1),
        (
            Steady { current, backup },
            Staged { current: still, next, prior_backup },
            Action::Rotate | Action::Revoke,
        ) => {
            let keeps = prior_backup == backup || (prior_backup.is_none() && backup.is_none_or(revoked));
            let is_fresh = next.epoch == before.next_epoch && after.next_epoch > next.epoch;
            (still == current && keeps && is_fresh).then_some(1)
        }
        (
            Staged { current, next, .. },
            Promoted { current: still, next: to, staged_generation, wave },
            Action::Promote,
        ) => ((current, next, 0) == (still, to, wave.opened) && *staged_generation == before.generation).then_some(1),
        (
            Promoted { current, next, staged_generation, wave },
            Promoted { current: still, next: to, staged_generation: under, wave: now },
            Action::OpenWave | Action::TakeIn,
        ) => {
            let opened = if action == Action::OpenWave { wave.opened + 1 } else { wave.opened };
            let is_kept = now.rules == wave.rules && now.taken_in.is_superset(&wave.taken_in) && now.opened == opened;
            ((current, next, staged_generation) == (still, to, under) && is_kept).then_some(0)
        }
        (
            Promoted { current, next, wave, .. },
            Steady { current: now, backup },
            Action::Settle | Action::DropRevoked,
        ) => {
            let drops = backup.is_none() && revoked(*current) && action == Action::DropRevoked;
            let settles = *backup == Some(*current) && action == Action::Settle;
            (wave.is_last() && now == next && (settles || drops)).then(|| u64::from(drops))
        }
        (Steady { current, backup }, Steady { current: still, backup: None }, Action::DropRevoked) => {
            (current == still && backup.is_some_and(revoked)).then_some(1)
        }
        (Staged { current, prior_backup, .. }, Steady { current: still, backup }, Action::Abort | Action::Revoke) => {
            let is_back = backup == prior_backup || (backup.is_none() && prior_backup.is_none_or(revoked));
            (current == still && is_back && after.hold.is_some()).then_some(1)
        }
        (Promoted { current, next, .. }, Steady { current: still, backup }, Action::Abort | Action::Revoke) => {
            (current == still && *backup == Some(*next) && after.hold.is_some()).then_some(1)
        }
        // Everything else leaves the stage as it is, but for what `resume` waives of a wave.
        (
            Promoted { current, next, wave, .. },
            Promoted { current: still, next: to, wave: now, .. },
            Action::Resume,
        ) => ((current, next, wave.opened) == (still, to, now.opened)).then_some(0),
        (
            _,
            _,
            Action::Revoke
            | Action::Pause
            | Action::Resume
            | Action::Advance
            | Action::Exclude
            | Action::Include
            | Action::Deny
            | Action::Allow
            | Action::Forget
            | Action::Move
            | Action::Expect
            | Action::SetPolicy
            | Action::Unhealthy,
        ) => is_same.then_some(0),
        _ => None,
    }
}
