//! Model check over the engine's own code (docs/protocol.md#what-goes-wrong-without-a-rule): with every rule on, no reachable world breaks
//! the invariant or the promise to clients, and every sampled one converges once faults stop; with any one rule off,
//! something breaks, and the trace is printed.
//!
//! `TFO_SIZE=full cargo test -p tfo-proof model::check -- --nocapture` searches much further, and as far as it is told with
//! `TFO_STATES=20000000`.

use std::rc::Rc;

use super::liar::driven_out;
use super::search::{Found, Order, search};
use super::settle::settles;
use super::step::{AFTER, Event};
use super::world::{Budget, Off, Op, SlotCount, World};
use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::document::{Hold, Stage};
use tfo_engine::rollout::record::{Exclusion, Membership, NodeRecord};
use tfo_model::count::Epoch;

/// One in so many worlds is driven on without faults until it converges.
const SETTLE_EVERY: usize = 200;

/// States that a search may see in CI; `TFO_SIZE=full` raises it.
const STATES: usize = 250_000;

/// The same for worlds that are slow to search, or of which most is searched in another one.
const SHORT: usize = 100_000;

/// What a search must see, so that events that have stopped working are noticed.
#[derive(Debug, Clone, Copy)]
enum Pinned {
    /// Everything that can be reached, and at least so many states: a little below what it saw when it was written.
    Complete(usize),
    /// So many states; with `TFO_SIZE=full` as many as that allows, or everything.
    Bounded(usize),
}

fn is_full() -> bool {
    tfo_testbed::full()
}

/// Permutations of nodes that the waves treat alike.
fn alike(nodes: usize) -> Vec<Vec<usize>> {
    match nodes {
        2 => vec![vec![0, 1], vec![1, 0]],
        3 => vec![vec![0, 1, 2], vec![0, 2, 1], vec![1, 0, 2], vec![1, 2, 0], vec![2, 0, 1], vec![2, 1, 0]],
        _ => vec![(0..nodes).collect()],
    }
}

fn told_apart(nodes: usize) -> Vec<Vec<usize>> {
    vec![(0..nodes).collect()]
}

fn show(name: &str, found: &Found) {
    println!(
        "{name}: {} states, depth {}, {:.1} s, {}",
        found.states,
        found.depth,
        found.took.as_secs_f64(),
        match (&found.broken, found.is_complete) {
            (Some((_, trace)), _) => format!("trace of {}", trace.len()),
            (None, true) => "complete".to_owned(),
            (None, false) => "bounded".to_owned(),
        }
    );
    if let Some((what, trace)) = &found.broken {
        println!("  {what}");
        for event in trace {
            println!("    {event:?}");
        }
    }
}

/// What must have been seen: a search whose events have stopped working finds nothing broken either.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reached {
    promoted: bool,
    aborted: bool,
    recovered: bool,
    denied: bool,
    other_policy: bool,
    first_key: bool,
    pending: bool,
    included: bool,
    unknown_again: bool,
}

impl Reached {
    /// What this world can come to.
    fn expected_of(world: &World) -> Self {
        let orders = |wanted: fn(&Op) -> bool| world.budget.orders > 0 && world.orders.iter().any(wanted);
        Self {
            promoted: true,
            aborted: orders(|op| matches!(op, Op::Abort | Op::ForceAbort)),
            recovered: world.budget.restores + world.budget.live_restores + world.budget.survivals > 0,
            denied: orders(|op| matches!(op, Op::Deny(_) | Op::RevokeAndDeny(_))),
            other_policy: orders(|op| *op == Op::SetPolicy),
            first_key: world.store.document.stage == Stage::Empty,
            pending: world.budget.failures > 0,
            // Of a node that another order took out.
            included: world.budget.orders > 1 && orders(|op| matches!(op, Op::Include(_))),
            unknown_again: orders(|op| matches!(op, Op::Allow(_) | Op::Forget(_) | Op::ForgetWhileFrozen(_))),
        }
    }

    fn see(&mut self, world: &World, waves: usize) {
        let document = &world.store.document;
        self.promoted |= matches!(document.stage, Stage::Promoted { .. });
        self.aborted |= world.is_aborted;
        self.recovered |= document.hold == Some(Hold::Recovered);
        self.denied |= world.store.nodes.values().any(NodeRecord::is_denied);
        // A promotion by other waves than the world began with.
        let is_other = document.policy.promote_waves.len() != waves;
        self.other_policy |= is_other && matches!(document.stage, Stage::Promoted { .. });
        self.first_key |= matches!(&document.stage, Stage::Steady { current, .. } if current.epoch == Epoch::FIRST)
            && document.hold.is_none();
        self.pending |= world.nodes.iter().any(|node| node.link.pending().is_some());
        let included = Membership::Excluded(Exclusion::Operator { until: AFTER });
        self.included |= world.store.nodes.values().any(|record| record.membership == included);
        self.unknown_again |= world.store.nodes.values().any(|record| !record.is_known());
    }
}

/// Searches a world with every rule on.
fn holds(name: &str, world: World, orders: &[Vec<usize>], pinned: Pinned) {
    let mut count = 0_usize;
    let asked = std::env::var("TFO_STATES").ok().and_then(|states| states.parse().ok());
    let states_max = match pinned {
        _ if is_full() => asked.unwrap_or(STATES * 12),
        Pinned::Complete(_) => STATES,
        Pinned::Bounded(states) => states,
    };
    let expected = Reached::expected_of(&world);
    let waves = world.store.document.policy.promote_waves.len();
    let mut reached = Reached::default();
    let order = if asked.is_some() { Order::Depth } else { Order::Breadth };
    let found = search(world, orders, states_max, order, |world| {
        count += 1;
        reached.see(world, waves);
        if count.is_multiple_of(SETTLE_EVERY) { settles(world).err() } else { None }
    });
    show(name, &found);
    assert!(found.broken.is_none(), "{name} breaks");
    assert_eq!(reached, expected, "{name} does not come to what it is there for");
    let (Pinned::Complete(states_min) | Pinned::Bounded(states_min)) = pinned;
    assert!(found.states >= states_min, "{name}: {} states, and {states_min} are pinned", found.states);
    assert!(found.is_complete || is_full() || matches!(pinned, Pinned::Bounded(_)), "{name} is complete no more");
}

const ALL_OPS: [Op; 12] = [
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
const EVERY_OP: [Op; 23] = [
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
const RESTORED_OPS: [Op; 13] = [
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

fn or_every(orders: &[Op]) -> &[Op] {
    if is_full() { &EVERY_OP } else { orders }
}

fn small(budget: Budget) -> World {
    let mut world = World::steady(2, 0, &[]);
    world.budget = Budget { stages: 2, ..budget };
    world
}

fn one_coordinator(mut world: World) -> World {
    world.coordinators.truncate(1);
    world
}

fn ordering(mut world: World, orders: &[Op]) -> World {
    world.orders = Rc::new(orders.to_vec());
    world
}

fn members(budget: Budget) -> World {
    let mut world = World::steady(1, 1, &[]);
    world.budget = Budget { stages: 2, ..budget };
    one_coordinator(world)
}

fn waves(budget: Budget) -> World {
    let mut world = World::steady(3, 0, &["a"]);
    world.budget = budget;
    one_coordinator(ordering(world, &ALL_OPS))
}

fn import() -> World {
    let mut world = World::foreign(2);
    world.budget = Budget { stages: 1, orders: 3, restarts: 1, late: 1, ..Budget::default() };
    one_coordinator(world)
}

fn one_slot() -> World {
    let mut world = World::steady(2, 1, &[]);
    world.nodes[2].slot_count = SlotCount::One;
    world.budget = Budget { stages: 2, restarts: 1, ..Budget::default() };
    one_coordinator(world)
}

/// A store that goes back under so many running coordinators; a joiner is there to receive lost history.
fn goes_back_live(coordinators: usize) -> World {
    let mut world = World::steady(1, 1, &[]);
    world.budget = Budget { stages: 2, live_restores: 1, ..Budget::default() };
    world.coordinators.truncate(coordinators);
    world.counted()
}

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

fn empty(budget: Budget) -> World {
    let mut world = World::empty(2);
    world.budget = Budget { stages: 2, orders: 2, ..budget };
    one_coordinator(ordering(world, &[Op::FirstKey, Op::Resume]))
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

fn taken_out_and_restored(orders: &[Op]) -> World {
    let late = u8::from(is_full());
    one_coordinator(ordering(small(Budget { restores: 1, orders: 1, late, ..Budget::default() }), orders))
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

/// Two honest nodes and a stolen one.
fn stolen(budget: Budget, orders: &[Op]) -> World {
    let mut world = ordering(World::steady(3, 0, &[]), orders);
    world.budget = budget;
    world.liar = Some(2);
    world.nodes[2].is_covered = false;
    one_coordinator(world)
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

/// Two coordinators whose copies of the store fall behind at any moment, and catch up in steps.
fn behind(members: usize, joiners: usize, budget: Budget) -> World {
    let mut world = World::steady(members, joiners, &[]);
    world.budget = Budget { stages: 2, lags: 1, ..budget };
    // One node at each coordinator.
    world.nodes[1].coordinator = 1;
    world.lagging()
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

/// Two coordinators that beat, with a node at each.
fn beating(budget: Budget) -> World {
    let mut world = World::steady(2, 0, &[]);
    world.budget = Budget { stages: budget.stages.max(1), ..budget };
    world.nodes[1].coordinator = 1;
    world.beating()
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

/// Each rule of docs/protocol.md#what-goes-wrong-without-a-rule that a model without time can lack, and the world in which it is missed.
fn without(off: Off) -> World {
    let one = match off {
        Off::BarrierBeforePromote | Off::BarrierBeforeStage => small(Budget::default()),
        Off::AbortRests | Off::AbortHasNoStagedWayBack => {
            ordering(small(Budget { orders: 1, ..Budget::default() }), &[Op::Abort])
        }
        Off::AdmissionBeforeAnswer | Off::JoinerWaitsForKeys | Off::MembersFromOneSnapshot => {
            members(Budget::default())
        }
        Off::OwnAnswerOnly => members(Budget { absences: 1, ..Budget::default() }),
        Off::AckNeedsDurableFile => small(Budget { reboots: 1, ..Budget::default() }),
        Off::ReturnByAdmission | Off::ReturnerAdmittedFirst => small(Budget { absences: 1, ..Budget::default() }),
        Off::FrozenAfterRestore | Off::StoredAcksDoNotCount | Off::NobodyIsToldBeforeAllAreHeard => {
            small(Budget { restores: 1, images: 1, ..Budget::default() })
        }
        Off::CommandsWaitForNodes => {
            ordering(small(Budget { restores: 1, orders: 1, ..Budget::default() }), &[Op::Abort, Op::Rotate])
        }
        Off::BarrierBeforeDrop => {
            ordering(small(Budget { orders: 1, ..Budget::default() }), &[Op::RevokeHeld(0), Op::RevokeHeld(1)])
        }
        Off::ImportOnlyIntoEmpty => ordering(small(Budget { orders: 1, ..Budget::default() }), &[Op::Import]),
        Off::LifeEndsWithItsStore | Off::PresenceKnowsItsRevision => goes_back_live(1),
        Off::NoWordNeeded => stolen(Budget { lies: 1, coordinator_restarts: 1, ..Budget::default() }, &[]),
        Off::ExpectedNodesFirst => import(),
        Off::EmptyIsOfThisRun => empty(Budget { reboots: 1, ..Budget::default() }),
        Off::OneSlotIsNeverRequired => one_slot(),
        Off::FenceInFile => {
            return World { off: Some(off), ..small(Budget { moves: 1, restarts: 1, ..Budget::default() }) };
        }
        Off::AnswerFromStore => {
            let mut world = World::steady(1, 1, &[]);
            world.budget = Budget { stages: 2, ..Budget::default() };
            world.nodes[1].coordinator = 1;
            return World { off: Some(off), ..world };
        }
        Off::AnswerNotBeforeAdmission | Off::OwnWritesComeBackByWatch => {
            return World { off: Some(off), ..behind(1, 1, Budget::default()) };
        }
        Off::AdmissionSeesExclusion => {
            let world = behind(2, 0, Budget { orders: 1, restarts: 1, ..Budget::default() });
            return World { off: Some(off), ..ordering(world, &[Op::Deny(0)]) };
        }
        Off::CommitComparesDocument => {
            let world = behind(2, 0, Budget { orders: 1, ..Budget::default() });
            return World { off: Some(off), ..ordering(world, &[Op::Pause]) };
        }
        Off::SettleBeforeRead => {
            let world = behind(2, 0, Budget { orders: 1, slow_commits: 1, open_outcomes: 1, ..Budget::default() });
            return World { off: Some(off), ..ordering(world, &[Op::Pause]) };
        }
        Off::AckOfOpenSession | Off::LaterSessionWins => {
            return World { off: Some(off), ..behind(2, 0, Budget { moves: 1, late: 1, ..Budget::default() }) };
        }
        Off::AdmissionSeesAbsence => {
            return World { off: Some(off), ..behind(2, 0, Budget { moves: 1, absences: 1, ..Budget::default() }) };
        }
        Off::BeatComparesLife => {
            return World { off: Some(off), ..beating(Budget { stages: 2, survivals: 1, ..Budget::default() }) };
        }
        Off::PresenceCarriesReport => {
            let mut world = beating(Budget { stages: 2, restores: 1, orders: 1, ..Budget::default() });
            // Both at one coordinator, so that the other one knows of them what that says.
            world.nodes[1].coordinator = 0;
            return World { off: Some(off), ..ordering(world, &[Op::Abort, Op::Rotate]) };
        }
        Off::SwapOnRevision => {
            let world = ordering(small(Budget { orders: 1, slow_commits: 1, ..Budget::default() }), &[Op::Pause]);
            return World { off: Some(off), ..world };
        }
    };
    World { off: Some(off), ..one_coordinator(one) }
}

#[test]
fn every_rule_is_needed() {
    let mut kept = Vec::new();
    // One alone: TFO_RULE=BeatComparesLife.
    let wanted = std::env::var("TFO_RULE").ok();
    let is_wanted = |off: &Off| match &wanted {
        Some(wanted) => format!("{off:?}") == *wanted,
        // Its trace takes as long as those of all others together.
        None => *off != Off::BeatComparesLife || tfo_testbed::by_size(false, true, true),
    };
    for off in Off::ALL.into_iter().filter(is_wanted) {
        let alike = told_apart(without(off).nodes.len());
        let found = search(without(off), &alike, 10 * STATES, Order::Breadth, |world| {
            world.liar.and_then(|_| driven_out(world).err())
        });
        show(&format!("without {off:?}"), &found);
        if found.broken.is_none() {
            kept.push(off);
        }
    }
    assert!(kept.is_empty(), "nothing breaks without {kept:?}");
}

/// Three rules keep the records true and the fleet alive; a fleet without them loses no cookie, as far as is searched.
#[test]
fn some_rules_are_not_about_cookies() {
    for off in Off::HARMLESS {
        let states_max = tfo_testbed::by_size(15_000, SHORT, STATES);
        let found = search(without(off), &told_apart(2), states_max, Order::Breadth, |_| None);
        show(&format!("without {off:?}"), &found);
        assert!(found.broken.is_none() && found.states >= states_max.min(15_000), "without {off:?}");
    }
}
