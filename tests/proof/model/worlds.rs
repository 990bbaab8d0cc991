//! The worlds that are searched.

use std::rc::Rc;

use super::holds::is_full;
use super::world::{Budget, Op, SlotCount, World};

pub(super) const ALL_OPS: [Op; 12] = [
    Op::Pause,
    Op::Resume,
    Op::Abort,
    Op::ForceAbort,
    Op::RevokeAll,
    Op::RevokeHeld(0),
    Op::RevokeHeld(1),
    Op::RevokeHeld(2),
    Op::Exclude(0),
    Op::Forget(0),
    Op::Advance,
    Op::Exclude(1),
];

/// What `TFO_SIZE=full` orders wherever the short run leaves something out.
pub(super) const EVERY_OP: [Op; 23] = [
    Op::Pause,
    Op::Resume,
    Op::Abort,
    Op::ForceAbort,
    Op::RevokeAll,
    Op::RevokeHeld(0),
    Op::RevokeHeld(1),
    Op::RevokeHeld(2),
    Op::Exclude(0),
    Op::Exclude(1),
    Op::Forget(0),
    Op::Forget(1),
    Op::Deny(0),
    Op::Deny(1),
    Op::RevokeAndDeny(0),
    Op::RevokeAndDeny(1),
    Op::Include(0),
    Op::Include(1),
    Op::Allow(0),
    Op::Allow(1),
    Op::Advance,
    Op::Rotate,
    Op::SetPolicy,
];

/// The first four are ordered in the short run.  Not exclude, advance and forget before the backup: nodes that it does not
/// require are not waited for, the second known limit of engine/rollout/mod.rs.
pub(super) const RESTORED_OPS: [Op; 13] = [
    Op::Abort,
    Op::RevokeAll,
    Op::ForgetWhileFrozen(0),
    Op::ForgetWhileFrozen(1),
    Op::Deny(0),
    Op::Deny(1),
    Op::RevokeAndDeny(0),
    Op::RevokeAndDeny(1),
    Op::Rotate,
    Op::SetPolicy,
    Op::Pause,
    Op::Resume,
    Op::RevokeHeld(0),
];

pub(super) fn or_every(orders: &[Op]) -> &[Op] {
    if is_full() { &EVERY_OP } else { orders }
}

pub(super) fn small(budget: Budget) -> World {
    let mut world = World::steady(2, 0, &[]);
    world.budget = Budget { stages: 2, ..budget };
    world
}

pub(super) fn one_coordinator(mut world: World) -> World {
    world.coordinators.truncate(1);
    world
}

pub(super) fn ordering(mut world: World, orders: &[Op]) -> World {
    world.orders = Rc::new(orders.to_vec());
    world
}

pub(super) fn members(budget: Budget) -> World {
    let mut world = World::steady(1, 1, &[]);
    world.budget = Budget { stages: 2, ..budget };
    one_coordinator(world)
}

pub(super) fn waves(budget: Budget) -> World {
    let mut world = World::steady(3, 0, &["a"]);
    world.budget = budget;
    one_coordinator(ordering(world, &ALL_OPS))
}

pub(super) fn import() -> World {
    let mut world = World::foreign(2);
    world.budget = Budget { stages: 1, orders: 3, restarts: 1, late: 1, ..Budget::default() };
    one_coordinator(world)
}

pub(super) fn one_slot() -> World {
    let mut world = World::steady(2, 1, &[]);
    world.nodes[2].slot_count = SlotCount::One;
    world.budget = Budget { stages: 2, restarts: 1, ..Budget::default() };
    one_coordinator(world)
}

/// A store that goes back under so many running coordinators; a joiner is there to receive lost history.
pub(super) fn goes_back_live(coordinators: usize) -> World {
    let mut world = World::steady(1, 1, &[]);
    world.budget = Budget { stages: 2, live_restores: 1, ..Budget::default() };
    world.coordinators.truncate(coordinators);
    world.counted()
}

pub(super) fn empty(budget: Budget) -> World {
    let mut world = World::empty(2);
    world.budget = Budget { stages: 2, orders: 2, ..budget };
    one_coordinator(ordering(world, &[Op::FirstKey, Op::Resume]))
}

pub(super) fn taken_out_and_restored(orders: &[Op]) -> World {
    let late = u8::from(is_full());
    one_coordinator(ordering(small(Budget { restores: 1, orders: 1, late, ..Budget::default() }), orders))
}

/// Two honest nodes and a stolen one.
pub(super) fn stolen(budget: Budget, orders: &[Op]) -> World {
    let mut world = ordering(World::steady(3, 0, &[]), orders);
    world.budget = budget;
    world.liar = Some(2);
    world.nodes[2].is_covered = false;
    one_coordinator(world)
}

/// Two coordinators whose copies of the store fall behind at any moment, and catch up in steps.
pub(super) fn behind(members: usize, joiners: usize, budget: Budget) -> World {
    let mut world = World::steady(members, joiners, &[]);
    world.budget = Budget { stages: 2, lags: 1, ..budget };
    // One node at each coordinator.
    world.nodes[1].coordinator = 1;
    world.lagging()
}

/// Two coordinators that beat, with a node at each.
pub(super) fn beating(budget: Budget) -> World {
    let mut world = World::steady(2, 0, &[]);
    world.budget = Budget { stages: budget.stages.max(1), ..budget };
    world.nodes[1].coordinator = 1;
    world.beating()
}
