//! Whether a step is one of the transitions of docs/protocol.md#rule-3, from what two entries of the log say.
//!
//! It asks for what every step has to keep, whatever led to it: keys, epochs, generation, pause, hold and the barrier's count.
//! What only the snapshot of that moment could tell (a schedule, a gate, which node had acknowledged what) is not in the log.

use std::collections::BTreeSet;

use super::{Held, Made};
use crate::rollout::document::{Actor, AuditEntry, BarrierCount};
use crate::rollout::operator::RECOVER_JUMP;
use crate::rollout::slots::PoolKey;
use tfo_model::count::Generation;
use tfo_model::fleet::{Action, HoldReason};
use tfo_model::state::Phase;

/// Why a step is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Illegal(&'static str);

impl Illegal {
    /// The reason.
    #[must_use]
    pub fn why(self) -> &'static str {
        self.0
    }
}

/// What a step does to the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rise {
    /// No node is instructed to hold other slots.
    None,
    /// Some node is.
    One,
    /// A restored store is ahead of the fleet again.
    Jump,
}

/// Judges the step that an entry tells of, from generation and keys before it.
///
/// # Errors
/// Fails if no rule allows it.
pub fn judge((generation, before): (Generation, &Made), (entry, after): (&AuditEntry, &Made)) -> Result<(), Illegal> {
    holds(entry.phase == after.stage.phase(), "its phase is not that of its document")?;
    holds(after.next_epoch >= before.next_epoch, "an epoch would be used twice")?;
    holds(after.stage.keys().all(|key| key.epoch < after.next_epoch), "the epoch of a key in use would be used again")?;
    holds(after.revoking.is_subset(&after.stage.keys().collect()), "it drives out a key that is in no slot")?;
    may(entry.action, &entry.actor)?;
    passed(entry.action, entry.barrier)?;
    let rise = step(entry.action, (generation, before), after)?;
    let risen = entry.generation.get().checked_sub(generation.get());
    let is_right = match rise {
        Rise::None => risen == Some(0),
        Rise::One => risen == Some(1),
        Rise::Jump => risen.is_some_and(|risen| risen >= RECOVER_JUMP),
    };
    holds(is_right, "the generation does not rise as it must")
}

fn holds(is: bool, why: &'static str) -> Result<(), Illegal> {
    if is { Ok(()) } else { Err(Illegal(why)) }
}

/// Whether this author may do it.
fn may(action: Action, actor: &Actor) -> Result<(), Illegal> {
    let by_operator = matches!(actor, Actor::Operator(_));
    match action {
        Action::Promote
        | Action::OpenWave
        | Action::TakeIn
        | Action::Settle
        | Action::DropRevoked
        | Action::Unhealthy => holds(!by_operator, "no operator orders this step"),
        Action::FirstKey
        | Action::Import
        | Action::Abort
        | Action::Revoke
        | Action::Pause
        | Action::Resume
        | Action::Recover
        | Action::Advance
        | Action::Include
        | Action::Deny
        | Action::Allow
        | Action::Forget
        | Action::Move
        | Action::Expect => holds(by_operator, "only an operator orders this step"),
        Action::Rotate | Action::Exclude | Action::SetPolicy => Ok(()),
    }
}

/// Whether its barrier was passed, if it needs one (rule 5).
fn passed(action: Action, barrier: BarrierCount) -> Result<(), Illegal> {
    match action {
        Action::Rotate | Action::Promote | Action::OpenWave | Action::Settle | Action::DropRevoked => {
            let BarrierCount { required, needed, behind } = barrier;
            holds(behind == 0, "nodes had not acknowledged")?;
            holds(required >= needed && needed > 0, "too few nodes were required")
        }
        _ => Ok(()),
    }
}

/// Judges keys, pause and hold; gives what becomes of the generation.
fn step(action: Action, (generation, before): (Generation, &Made), after: &Made) -> Result<Rise, Illegal> {
    let rest = |stage: Held| Made { stage, ..before.clone() };
    let (expected, rise) = match action {
        Action::FirstKey | Action::Import => (first_keys(before, after, action)?, Rise::One),
        Action::Rotate => (staged(before, after)?, Rise::One),
        Action::Promote => (rest(promoted((generation, before), after)?), Rise::One),
        Action::OpenWave => (rest(opened(before)?), Rise::None),
        Action::Settle => (rest(settled(before)?), Rise::None),
        Action::DropRevoked => (rest(dropped(before)?), Rise::One),
        Action::Abort => (aborted(before, after)?, Rise::One),
        Action::Revoke => return revoked(before, after),
        Action::Recover => return recovered(after),
        Action::Pause => {
            holds(!before.paused, "it was paused already")?;
            (Made { paused: true, ..before.clone() }, Rise::None)
        }
        Action::Unhealthy => {
            holds(!before.paused, "it was paused already")?;
            holds(matches!(before.stage, Held::Promoted { .. }), "only a promotion is stopped by its health")?;
            (Made { paused: true, ..before.clone() }, Rise::None)
        }
        Action::Resume => (resumed(before, after)?, Rise::None),
        Action::TakeIn => {
            holds(matches!(before.stage, Held::Promoted { .. }) && !before.paused, "no wave was open")?;
            (before.clone(), Rise::None)
        }
        Action::SetPolicy => {
            let is_between = matches!(before.stage, Held::Empty | Held::Steady { .. });
            holds(is_between, "the policy changes only between rotations")?;
            (before.clone(), Rise::None)
        }
        Action::Advance
        | Action::Exclude
        | Action::Include
        | Action::Deny
        | Action::Allow
        | Action::Forget
        | Action::Move
        | Action::Expect => (before.clone(), Rise::None),
    };
    // A revoke ends for keys that are in no slot any more.
    let left: BTreeSet<PoolKey> = after.stage.keys().collect();
    let revoking = expected.revoking.intersection(&left).copied().collect();
    holds(*after == Made { revoking, ..expected }, "it leads to another state of the keys")?;
    Ok(rise)
}

/// Empty -> Steady(c, b?).
fn first_keys(before: &Made, after: &Made, action: Action) -> Result<Made, Illegal> {
    holds(before.stage == Held::Empty, "only an empty pool gets its first key")?;
    let Held::Steady { current, backup } = &after.stage else { return Err(Illegal("a first key fills the slots")) };
    let next = |key: &PoolKey| key.epoch.next();
    let is_right = match backup {
        None => current.epoch == before.next_epoch,
        Some(backup) => {
            action == Action::Import && backup.epoch == before.next_epoch && next(backup) == Some(current.epoch)
        }
    };
    holds(is_right, "its keys have other epochs than the next ones")?;
    let next_epoch = next(current).ok_or(Illegal("there is no next epoch"))?;
    Ok(Made { stage: after.stage.clone(), next_epoch, hold: Some(HoldReason::FirstKey), ..before.clone() })
}

/// Steady(c,b) -> Staged(c→x).
fn staged(before: &Made, after: &Made) -> Result<Made, Illegal> {
    let Held::Steady { current, backup } = &before.stage else {
        return Err(Illegal("a rotation starts only in phase steady"));
    };
    holds(!before.paused, "it was paused")?;
    holds(before.hold.is_none() || before.revoking.contains(current), "it was held")?;
    let Held::Staged { next, prior_backup, .. } = &after.stage else { return Err(Illegal("it stages no key")) };
    holds(next.epoch == before.next_epoch, "its key has another epoch than the next one")?;
    let is_new = [Some(current), backup.as_ref()].into_iter().flatten().all(|key| key.fingerprint != next.fingerprint);
    holds(is_new, "its key is in use")?;
    kept_unless_revoked(before, *backup, *prior_backup)?;
    let next_epoch = next.epoch.next().ok_or(Illegal("there is no next epoch"))?;
    let stage = Held::Staged { current: *current, next: *next, prior_backup: *prior_backup };
    Ok(Made { stage, next_epoch, ..before.clone() })
}

/// Staged(c→x) -> Promoted(c→x), first wave.
fn promoted((generation, before): (Generation, &Made), after: &Made) -> Result<Held, Illegal> {
    let Held::Staged { current, next, .. } = &before.stage else {
        return Err(Illegal("only a staged key is promoted"));
    };
    holds(!before.paused, "it was paused")?;
    let Held::Promoted { waves, .. } = after.stage else { return Err(Illegal("it promotes no key")) };
    holds(waves > 0 && (before.revoking.is_empty() || waves == 1), "its waves are not those of the rotation")?;
    Ok(Held::Promoted { current: *current, next: *next, staged_generation: generation, opened: 0, waves })
}

/// Promoted, wave k -> wave k+1.
fn opened(before: &Made) -> Result<Held, Illegal> {
    holds(!before.paused, "it was paused")?;
    match before.stage {
        Held::Promoted { current, next, staged_generation, opened, waves } if opened + 1 < waves => {
            Ok(Held::Promoted { current, next, staged_generation, opened: opened + 1, waves })
        }
        _ => Err(Illegal("there is no wave to open")),
    }
}

/// Promoted, all waves -> Steady(x, c).
fn settled(before: &Made) -> Result<Held, Illegal> {
    let (current, next) = last_wave(before)?;
    holds(!before.revoking.contains(&current), "a revoked key would stay in a slot")?;
    Ok(Held::Steady { current: next, backup: Some(current) })
}

/// Promoted, all waves, c revoked -> Steady(x); Steady(c,b), b revoked -> Steady(c).
fn dropped(before: &Made) -> Result<Held, Illegal> {
    holds(!before.paused, "it was paused")?;
    match before.stage {
        Held::Steady { current, backup: Some(backup) } if before.revoking.contains(&backup) => {
            Ok(Held::Steady { current, backup: None })
        }
        Held::Promoted { .. } => {
            let (current, next) = last_wave(before)?;
            holds(before.revoking.contains(&current), "the key that it drops was not revoked")?;
            Ok(Held::Steady { current: next, backup: None })
        }
        _ => Err(Illegal("there is no revoked key to drop")),
    }
}

/// The keys of a promotion whose waves are all open.
fn last_wave(before: &Made) -> Result<(PoolKey, PoolKey), Illegal> {
    holds(!before.paused, "it was paused")?;
    match before.stage {
        Held::Promoted { current, next, opened, waves, .. } if opened + 1 >= waves => Ok((current, next)),
        _ => Err(Illegal("a promotion settles after its last wave")),
    }
}

/// The move back: Staged(c→x) -> Steady(c, prior backup), Promoted(c→x) -> Steady(c, backup x).
fn turned_back(before: &Made, after: &Made) -> Result<Held, Illegal> {
    match (&before.stage, &after.stage) {
        (Held::Staged { current, prior_backup, .. }, Held::Steady { backup, .. }) => {
            holds(backup == prior_backup || backup.is_none(), "another backup comes back than the one before")?;
            Ok(Held::Steady { current: *current, backup: *backup })
        }
        (Held::Promoted { current, next, .. }, Held::Steady { .. }) => {
            Ok(Held::Steady { current: *current, backup: Some(*next) })
        }
        _ => Err(Illegal("there is no rotation to turn back")),
    }
}

fn aborted(before: &Made, after: &Made) -> Result<Made, Illegal> {
    let stage = turned_back(before, after)?;
    Ok(Made { stage, hold: Some(held_aborted(before)), revoking: BTreeSet::new(), ..before.clone() })
}

/// The hold of an abort; that of a first key stays (rule 14).
fn held_aborted(before: &Made) -> HoldReason {
    if before.hold == Some(HoldReason::FirstKey) { HoldReason::FirstKey } else { HoldReason::Aborted }
}

/// A revoke marks keys.  With the next key among them it turns back, otherwise the slots stay.
fn revoked(before: &Made, after: &Made) -> Result<Rise, Illegal> {
    holds(!after.paused, "a revoke runs on")?;
    holds(after.next_epoch == before.next_epoch, "it uses up an epoch")?;
    let left: BTreeSet<PoolKey> = after.stage.keys().collect();
    let still = before.revoking.iter().all(|key| after.revoking.contains(key) || !left.contains(key));
    holds(still, "a key that was revoked is not any more")?;
    if is_slots_of(before, after) {
        holds(after.hold == before.hold, "it leads to another state of the keys")?;
        return Ok(Rise::None);
    }
    holds(turned_back(before, after)? == after.stage, "it leads to another state of the keys")?;
    if let Held::Promoted { next, .. } = &before.stage {
        holds(after.revoking.contains(next), "only a revoke of the next key turns back")?;
    }
    let is_right = after.hold == before.hold || after.hold == Some(held_aborted(before));
    holds(is_right, "it leads to another state of the keys")?;
    Ok(Rise::One)
}

/// Whether the slots are as before, but for a prior backup, which is in no node's slot and may be revoked.
fn is_slots_of(before: &Made, after: &Made) -> bool {
    match (&before.stage, &after.stage) {
        (
            Held::Staged { current, next, prior_backup },
            Held::Staged { current: current_after, next: next_after, prior_backup: prior_after },
        ) => (current, next) == (current_after, next_after) && (prior_after == prior_backup || prior_after.is_none()),
        (before, after) => before == after,
    }
}

fn resumed(before: &Made, after: &Made) -> Result<Made, Illegal> {
    holds(before.paused || before.hold.is_some(), "it was neither paused nor held")?;
    // The hold of a first key outlives a pause, as long as expected nodes are missing.
    let hold_stays = before.paused && before.hold == Some(HoldReason::FirstKey) && after.hold == before.hold;
    let hold = before.hold.filter(|_| hold_stays);
    Ok(Made { paused: false, hold, ..before.clone() })
}

fn recovered(after: &Made) -> Result<Rise, Illegal> {
    let is_right =
        matches!(after.stage, Held::Steady { .. }) && after.hold == Some(HoldReason::Recovered) && !after.paused;
    holds(is_right, "a pool that is recovered is steady and held")?;
    Ok(Rise::Jump)
}

/// A backup that is kept for an abort.
fn kept_unless_revoked(before: &Made, backup: Option<PoolKey>, kept: Option<PoolKey>) -> Result<(), Illegal> {
    let is_revoked = backup.is_some_and(|backup| before.revoking.contains(&backup));
    holds(kept == backup || (kept.is_none() && is_revoked), "another backup is kept than the one before")
}

impl Held {
    fn phase(&self) -> Phase {
        match self {
            Self::Empty => Phase::Empty,
            Self::Steady { .. } => Phase::Steady,
            Self::Staged { .. } => Phase::Staged,
            Self::Promoted { .. } => Phase::Promoted,
        }
    }

    /// The keys in the four slots.
    fn keys(&self) -> impl Iterator<Item = PoolKey> {
        let (first, second, third) = match self {
            Self::Empty => (None, None, None),
            Self::Steady { current, backup } => (Some(*current), *backup, None),
            Self::Staged { current, next, prior_backup } => (Some(*current), Some(*next), *prior_backup),
            Self::Promoted { current, next, .. } => (Some(*current), Some(*next), None),
        };
        [first, second, third].into_iter().flatten()
    }
}
