//! Model check over the engine's own code (docs/protocol.md#what-goes-wrong-without-a-rule): with every rule on, no reachable world breaks
//! the invariant or the promise to clients, and every sampled one converges once faults stop; with any one rule off,
//! something breaks, and the trace is printed.
//!
//! `TFO_SIZE=full cargo test -p tfo-proof model::check -- --nocapture` searches much further, and as far as it is told with
//! `TFO_STATES=20000000`.

use tfo_engine::rollout::barrier::conflict;

use super::event::Event;
use super::holds::{Pinned, SHORT, STATES, alike, holds, is_full, show, told_apart};
use super::liar::driven_out;
use super::search::{Order, search};
use super::world::{Budget, Op, World};
use super::worlds::{
    ALL_OPS, RESTORED_OPS, beating, behind, empty, goes_back_live, import, members, one_coordinator, one_slot,
    or_every, ordering, small, stolen, taken_out_and_restored, waves,
};

#[test]
fn agents_crash_and_requests_are_late() {
    let world = small(Budget { restarts: 1, late: 1, reboots: 1, ..Budget::default() });
    holds("agents", one_coordinator(world), &alike(2), Pinned::Complete(10_000));
}

#[test]
fn coordinators_crash_and_commit_late() {
    holds(
        "coordinators",
        small(Budget { coordinator_restarts: 1, moves: 1, slow_commits: 2, ..Budget::default() }),
        &alike(2),
        Pinned::Complete(12_000),
    );
}

#[test]
fn operators_at_any_moment() {
    let world = small(Budget { orders: 2, ..Budget::default() });
    holds("operators", one_coordinator(ordering(world, or_every(&ALL_OPS))), &told_apart(2), Pinned::Complete(90_000));
}

/// Commands that take nodes out for good, or drive keys out because of one.
#[test]
fn nodes_are_denied() {
    let orders =
        [Op::Deny(0), Op::Deny(1), Op::RevokeAndDeny(0), Op::RevokeAndDeny(1), Op::Forget(0), Op::Resume, Op::Abort];
    let world = small(Budget { stages: 2, orders: 3, ..Budget::default() });
    holds("denials", one_coordinator(ordering(world, &orders)), &told_apart(2), Pinned::Complete(59_000));
}

/// Commands that end what an exclusion and a deny began: the next sync of the node admits it, not the command.
#[test]
fn nodes_are_included_and_allowed_again() {
    let orders = [Op::Exclude(0), Op::Include(0), Op::Deny(0), Op::Allow(0)];
    let world = small(Budget { stages: 2, orders: 2, late: 1, ..Budget::default() });
    holds("included, allowed", one_coordinator(ordering(world, &orders)), &told_apart(2), Pinned::Complete(57_000));
}

#[test]
fn policy_changes_and_rotations_on_demand() {
    let orders = [Op::SetPolicy, Op::Rotate, Op::Pause, Op::Resume, Op::Abort];
    let world = small(Budget { orders: 3, ..Budget::default() });
    holds("policy", one_coordinator(ordering(world, &orders)), &told_apart(2), Pinned::Complete(5_000));
}

#[test]
fn policy_changes_race_with_coordinators() {
    let world = small(Budget { orders: 2, slow_commits: 1, ..Budget::default() });
    holds(
        "policy, races",
        ordering(world, &[Op::SetPolicy, Op::Rotate, Op::Deny(0)]),
        &told_apart(2),
        Pinned::Complete(5_000),
    );
}

#[test]
fn first_key_of_a_fleet() {
    let mut world = World::foreign(2);
    world.budget = Budget { stages: 2, orders: 3, restarts: 1, late: 1, ..Budget::default() };
    let orders = [Op::FirstKey, Op::Import, Op::Resume, Op::RevokeHeld(0), Op::Deny(0)];
    holds("first key", one_coordinator(ordering(world, &orders)), &told_apart(2), Pinned::Complete(88_000));
}

/// Agents first, key later: a node is ready on an empty pool, because there is no cookie to lose, and the pool makes no move
/// before it has the first key (rule 9).
#[test]
fn agents_come_before_the_first_key() {
    let world = empty(Budget { reboots: 1, absences: 1, ..Budget::default() });
    holds("agents first", world, &told_apart(2), Pinned::Complete(32_000));
    let world = empty(Budget { late: 1, ..Budget::default() });
    holds("agents first, late", world, &told_apart(2), Pinned::Complete(6_600));
    // The file cannot be written for a while: what was received is no empty pool.
    let world = empty(Budget { failures: 1, restarts: 1, ..Budget::default() });
    holds("agents first, failures", world, &told_apart(2), Pinned::Complete(18_000));
}

/// A store that was restored to a time before the first key says nothing to a joiner until all its nodes were seen.
#[test]
fn a_restored_store_does_not_pass_for_an_empty_pool() {
    // The backup knows both nodes: those that it does not know are not waited for, the second known limit.
    let world = empty(Budget { restores: 1, images: 1, ..Budget::default() });
    let world = (0..2).fold(world, |world, node| {
        world.after(Event::Sync { node, exclusion_ended: false }).expect("an unknown node is admitted")
    });
    holds("agents first, restored", world, &told_apart(2), Pinned::Complete(73_000));
}

/// An instruction that could not be installed at once is installed later.
#[test]
fn files_cannot_be_written_for_a_while() {
    let world = small(Budget { failures: 2, restarts: 1, late: 1, ..Budget::default() });
    holds("failures", one_coordinator(world), &alike(2), Pinned::Complete(16_000));
}

/// A restore brings back the records of nodes that an operator had taken out.  That does not admit them: a node that was not
/// covered is covered again from the first install of an instruction that it gets after the restore.
#[test]
fn database_restored_under_nodes_that_were_taken_out() {
    let world = taken_out_and_restored(&[Op::Forget(1), Op::Exclude(1), Op::Deny(1)]);
    holds("restored, taken out", world, &told_apart(2), Pinned::Complete(94_000));
}

/// A revoke does not wait for nodes that were not seen longer than its short barrier, also after a restore.
#[test]
fn database_restored_and_keys_driven_out_without_a_node() {
    let budget = Budget { restores: 1, orders: 1, absences: 1, ..Budget::default() };
    let world = one_coordinator(ordering(small(budget), &[Op::RevokeAll, Op::RevokeLate]));
    holds("restored, left behind", world, &told_apart(2), Pinned::Bounded(SHORT));
}

/// The known limit (engine/rollout/mod.rs; docs/how-to/pool_frozen.md: after a restore repeat forget, deny, exclude).
/// If the restored record counted as an admission, the node's old answer, still in flight when the store went back, would
/// count as its first install, and that breaks the invariant: the pool had moved two phases without it.
#[test]
fn known_limit_a_restore_undoes_a_forget() {
    let world = World { restore_admits: true, ..taken_out_and_restored(&[Op::Forget(1)]) };
    let found = search(world, &told_apart(2), 10 * STATES, Order::Breadth, |_| None);
    show("known limit: a restore undoes a forget", &found);
    let trace = found.broken.map(|(_, trace)| trace);
    assert_eq!(trace.map(|trace| trace.len()), Some(17));
}

#[test]
fn operators_race_with_coordinators() {
    // The largest of all searches, for `TFO_STATES=20000000`.
    let more = u8::from(is_full());
    let world = small(Budget { orders: 1 + more, restarts: more, slow_commits: 2, late: 1, ..Budget::default() });
    holds(
        "races",
        ordering(world, or_every(&ALL_OPS)),
        &told_apart(2),
        Pinned::Bounded(tfo_testbed::by_size(SHORT, STATES, STATES)),
    );
}

#[test]
fn absent_nodes_return() {
    let world = small(Budget { absences: 2, late: 1, restarts: 1, orders: 1, ..Budget::default() });
    let orders = [Op::Exclude(0), Op::Forget(0), Op::Advance, Op::RevokeAll];
    holds(
        "absence",
        one_coordinator(ordering(world, &orders)),
        &told_apart(2),
        Pinned::Bounded(tfo_testbed::by_size(SHORT, STATES, STATES)),
    );
}

#[test]
fn joiners_and_new_images() {
    holds(
        "members",
        members(Budget { images: 1, late: 1, absences: 1, slow_commits: 1, ..Budget::default() }),
        &alike(2),
        Pinned::Bounded(tfo_testbed::by_size(SHORT, STATES, STATES)),
    );
}

#[test]
fn database_restored() {
    let world = small(Budget { restores: 1, images: 1, orders: 1, ..Budget::default() });
    holds(
        "restored",
        one_coordinator(ordering(world, if is_full() { &RESTORED_OPS[..] } else { &RESTORED_OPS[..4] })),
        &alike(2),
        Pinned::Complete(120_000),
    );
}

#[test]
fn database_restored_beside_a_one_slot_node() {
    let mut world = one_slot();
    world.budget = Budget { stages: 2, restores: 1, ..Budget::default() };
    holds("restored, one slot", world, &[vec![0, 1, 2], vec![1, 0, 2]], Pinned::Complete(50_000));
}

#[test]
fn store_goes_back_live() {
    holds("store goes back live", goes_back_live(1), &alike(2), Pinned::Complete(23_000));
    holds("store goes back live under two", goes_back_live(2), &alike(2), Pinned::Bounded(SHORT));
}

#[test]
fn three_nodes() {
    let mut world = World::steady(2, 1, &[]);
    world.budget = Budget { stages: 2, images: 1, absences: 1, late: 1, ..Budget::default() };
    holds("three nodes", one_coordinator(world), &alike(3), Pinned::Bounded(SHORT));
}

#[test]
fn waves_of_a_promotion() {
    let world = waves(Budget { stages: 1, orders: 1, absences: 1, ..Budget::default() });
    holds("waves", world, &[vec![0, 1, 2], vec![0, 2, 1]], Pinned::Complete(90_000));
}

#[test]
fn import_into_an_empty_pool() {
    holds("import", import(), &alike(2), Pinned::Complete(2_000));
}

#[test]
fn a_one_slot_node_beside_others() {
    holds("one slot", one_slot(), &[vec![0, 1, 2], vec![1, 0, 2]], Pinned::Complete(7_000));
}

/// Whatever the stolen node says, and then falls silent, and the coordinator starts again: the honest nodes keep the
/// invariant, and an operator can always drive out what it knows.
#[test]
fn a_stolen_node_says_what_it_likes() {
    let budget = Budget { stages: 1, lies: 2, coordinator_restarts: 1, orders: 1, ..Budget::default() };
    let world = stolen(budget, &[Op::Pause, Op::Abort, Op::RevokeAll]);
    let every = tfo_testbed::by_size(10, 1, 1);
    let (mut count, mut frozen_and_unheard) = (0_usize, false);
    let found = search(world, &told_apart(3), STATES, Order::Breadth, |world| {
        count += 1;
        frozen_and_unheard |= conflict(&world.store).is_some() && world.coordinators[0].heard == 0;
        if count.is_multiple_of(every) { driven_out(world).err() } else { None }
    });
    show("stolen node", &found);
    assert!(found.broken.is_none() && found.is_complete, "a stolen node breaks");
    assert!(frozen_and_unheard && found.states > 23_000, "the worst moment is reached");
}

#[test]
fn copies_of_the_store_lag() {
    let some = tfo_testbed::by_size(20_000, SHORT, SHORT);
    let moves = Budget { moves: 1, ..Budget::default() };
    holds("lag", behind(2, 0, Budget::default()), &alike(2), Pinned::Complete(1));
    holds("lag, moves", behind(2, 0, moves), &alike(2), Pinned::Complete(1));
    let late = Budget { slow_commits: 1, late: 1, ..Budget::default() };
    holds("lag, late", behind(2, 0, late), &alike(2), Pinned::Complete(50_000));
    holds("lag, joiner, moves", behind(1, 1, moves), &alike(2), Pinned::Complete(1));
    let images = Budget { images: 1, ..moves };
    holds("lag, new image, moves", behind(2, 0, images), &alike(2), Pinned::Bounded(some));
    let absences = Budget { absences: 1, ..moves };
    holds("lag, absence, moves", behind(2, 0, absences), &alike(2), Pinned::Bounded(some));
}

#[test]
fn operators_meet_copies_that_lag() {
    let some = tfo_testbed::by_size(60_000, SHORT, SHORT);
    let orders =
        [Op::Pause, Op::Resume, Op::Abort, Op::RevokeAll, Op::RevokeHeld(0), Op::Advance, Op::Deny(0), Op::Forget(0)];
    let world = behind(2, 0, Budget { orders: 2, ..Budget::default() });
    holds("lag, orders", ordering(world, &orders), &told_apart(2), Pinned::Bounded(some));
    let world = behind(2, 0, Budget { orders: 2, slow_commits: 2, open_outcomes: 1, ..Budget::default() });
    holds(
        "open outcomes",
        ordering(world, &[Op::Pause, Op::Resume, Op::Deny(0)]),
        &told_apart(2),
        Pinned::Bounded(some),
    );
}

#[test]
fn coordinators_beat() {
    let some = tfo_testbed::by_size(30_000, SHORT, SHORT);
    let restarts = Budget { stages: 2, coordinator_restarts: 1, moves: 1, ..Budget::default() };
    holds("beats, restarts, moves", beating(restarts), &told_apart(2), Pinned::Complete(34_000));
    let survivor = Budget { stages: 2, survivals: 1, ..Budget::default() };
    holds("beats, restored under a survivor", beating(survivor), &told_apart(2), Pinned::Bounded(some));
    // What takes long, and what comes to a recovery only after many states.
    if some >= SHORT {
        let taken = Budget { stages: 1, take_overs: 1, slow_commits: 1, ..Budget::default() };
        holds("beats, names taken over", beating(taken), &told_apart(2), Pinned::Bounded(some));
        let restores = Budget { stages: 2, restores: 1, ..Budget::default() };
        holds("beats, restored", beating(restores), &told_apart(2), Pinned::Complete(40_000));
        let moves = Budget { stages: 1, survivals: 1, moves: 1, ..Budget::default() };
        holds("beats, restored under a survivor, moves", beating(moves), &told_apart(2), Pinned::Bounded(some));
    }
    if is_full() {
        let orders = Budget { stages: 1, survivals: 1, orders: 1, ..Budget::default() };
        let world = ordering(beating(orders), &[Op::Abort, Op::RevokeAll, Op::Rotate]);
        holds("beats, restored under a survivor, orders", world, &told_apart(2), Pinned::Bounded(some));
    }
}
