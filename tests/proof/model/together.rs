//! Copies that lag and coordinators that beat, in one world (docs/protocol.md#rule-5; rules 7, 10, 18): a coordinator hears of
//! the others' nodes late, decides by members that are behind, loses its name or its store meanwhile, and beats all the
//! same.
//!
//! What a coordinator knows of nodes that it did not hear itself is of its copy, as their beats are; its own roster it knows as
//! it is stored.

use super::event::Event;
use super::holds::{Pinned, STATES, holds, show, told_apart};
use super::rules::Off;
use super::search::{Order, search};
use super::world::{Budget, Op, World};
use super::worlds::ordering;

/// Two coordinators that beat, with a node at each, one of whose copies falls behind at any moment, and catches up in steps.
fn both(members: usize, joiners: usize, budget: Budget) -> World {
    let mut world = World::steady(members, joiners, &[]);
    world.budget = Budget { stages: budget.stages.max(1), lags: 1, ..budget };
    world.nodes[1].coordinator = 1;
    world.lagging().beating()
}

/// The same in the middle of a rotation that one node has acknowledged: what follows is near.
fn staged(budget: Budget) -> World {
    let sync = Event::Sync { node: 0, exclusion_ended: false };
    let begin = [Event::TakeBackup, Event::Beat(0), Event::Beat(1), Event::Tick(0), sync, Event::Take(0), sync];
    let begin = begin.into_iter().filter(|event| *event != Event::TakeBackup || budget.survivals > 0);
    begun(both(2, 0, budget), begin)
}

/// The same world after these events.
fn begun(world: World, events: impl IntoIterator<Item = Event>) -> World {
    events.into_iter().fold(world, |world, event| world.after(event).expect("all of it happens"))
}

/// A rotation that both nodes have acknowledged, one of them after a backup was made: what breaks without the comparison
/// of lives is near.
fn acknowledged_after_a_backup(world: World) -> World {
    let sync = |node| Event::Sync { node, exclusion_ended: false };
    let (take, tick) = (Event::Take(0), Event::Tick(0));
    let staged = [sync(1), take, Event::TakeBackup, tick, sync(0), sync(1), take, sync(0), take, sync(1), tick];
    begun(world, staged.into_iter().chain([Event::Beat(0), Event::RestoreUnder(0)]))
}

/// A store that went back behind what a node has taken.
fn restored(world: World) -> World {
    let sync = Event::Sync { node: 0, exclusion_ended: false };
    begun(world, [Event::TakeBackup, Event::Tick(0), sync, Event::Take(0), Event::Restore])
}

/// Each takes seconds: of these worlds tests/run has one alone (.config/nextest.toml).
fn bounded() -> Pinned {
    Pinned::Bounded(tfo_testbed::by_size(5_000, 20_000, STATES))
}

#[test]
fn copies_lag_behind_beats() {
    let world = both(2, 0, Budget { stages: 2, ..Budget::default() });
    holds("lag and beats", world, &told_apart(2), Pinned::Complete(60_000));
}

#[test]
fn joiners_meet_copies_behind_beats() {
    // Complete with 69 152.
    let pinned = Pinned::Bounded(tfo_testbed::by_size(5_000, 20_000, 69_000));
    holds("lag and beats, joiner", both(1, 1, Budget::default()), &told_apart(2), pinned);
}

#[test]
fn nodes_move_and_coordinators_restart_behind_beats() {
    let budget = Budget { moves: 1, coordinator_restarts: 1, ..Budget::default() };
    holds("lag and beats, restarts, moves", staged(budget), &told_apart(2), bounded());
}

#[test]
fn names_are_taken_over_behind_beats() {
    let budget = Budget { take_overs: 1, slow_commits: 1, ..Budget::default() };
    holds("lag and beats, names taken over", staged(budget), &told_apart(2), bounded());
}

#[test]
fn operators_meet_copies_behind_beats() {
    let world = staged(Budget { orders: 1, ..Budget::default() });
    let world = ordering(world, &[Op::Pause, Op::Abort, Op::RevokeAll, Op::Deny(0), Op::Forget(1)]);
    // Complete with 143 551.
    let pinned = Pinned::Bounded(tfo_testbed::by_size(5_000, 20_000, 143_000));
    holds("lag and beats, orders", world, &told_apart(2), pinned);
}

#[test]
fn the_store_goes_back_under_a_survivor_that_lags() {
    let budget = Budget { survivals: 1, ..Budget::default() };
    holds("lag and beats, restored under a survivor", staged(budget), &told_apart(2), bounded());
}

/// The rules of lag, and those of beats, are needed here as they are in worlds of their own.
#[test]
fn rules_are_needed_behind_beats() {
    let mut kept = Vec::new();
    // One alone: TFO_RULE=BeatComparesLife.
    let wanted = std::env::var("TFO_RULE").ok();
    let two_rotations = Budget { stages: 2, ..Budget::default() };
    let orders = Budget { orders: 1, ..Budget::default() };
    for (off, world) in [
        (Off::CommitComparesDocument, ordering(both(2, 0, orders), &[Op::Pause])),
        (Off::AdmissionSeesExclusion, ordering(both(2, 0, Budget { restarts: 1, ..orders }), &[Op::Deny(0)])),
        (Off::AnswerNotBeforeAdmission, both(1, 1, two_rotations)),
        (Off::OwnWritesComeBackByWatch, both(1, 1, two_rotations)),
        (Off::BeatComparesLife, acknowledged_after_a_backup(both(2, 0, Budget { survivals: 1, ..two_rotations }))),
        (Off::PresenceCarriesReport, {
            let mut world = both(2, 0, Budget { restores: 1, orders: 1, ..two_rotations });
            // Both at one coordinator, so that the other one knows of them what that says.
            world.nodes[1].coordinator = 0;
            restored(ordering(world, &[Op::Abort, Op::Rotate]))
        }),
    ] {
        let is_quick =
            matches!(off, Off::CommitComparesDocument | Off::AdmissionSeesExclusion | Off::PresenceCarriesReport);
        let is_wanted = match &wanted {
            Some(wanted) => format!("{off:?}") == *wanted,
            None => is_quick || tfo_testbed::full(),
        };
        if !is_wanted {
            continue;
        }
        let world = World { off: Some(off), ..world };
        let found = search(world, &told_apart(2), 10 * STATES, Order::Breadth, |_| None);
        show(&format!("lag and beats, without {off:?}"), &found);
        if found.broken.is_none() {
            kept.push(off);
        }
    }
    assert!(kept.is_empty(), "nothing breaks without {kept:?}");
}
