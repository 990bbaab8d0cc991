//! Model check over the engine's own code (PROTOCOL.md sections 1 and 4): with every rule on, no reachable world breaks
//! the invariant or the promise to clients, and every sampled one converges once faults stop; with any one rule off,
//! something breaks, and the trace is printed.
//!
//! `TFO_FULL=1 cargo test --test model_check -- --nocapture` searches much further.

#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code outside #[test]; a search is timed")]
mod model;

use std::rc::Rc;

use model::search::{Found, search};
use model::settle::settles;
use model::world::{Budget, Off, Op, SlotCount, World};
use tfo_fleet::engine::rollout::document::{Hold, Stage};

/// One in so many worlds is driven on without faults until it converges.
const SETTLE_EVERY: usize = 200;

/// States that a search may see by default; `TFO_FULL` raises it.
const STATES: usize = 250_000;

fn is_full() -> bool {
    std::env::var_os("TFO_FULL").is_some()
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
}

impl Reached {
    /// What this world can come to.
    fn expected_of(world: &World) -> Self {
        let aborts = world.orders.iter().any(|op| matches!(op, Op::Abort | Op::ForceAbort));
        Self {
            promoted: true,
            aborted: aborts && world.budget.orders > 0,
            recovered: world.budget.restores + world.budget.live_restores > 0,
        }
    }

    fn see(&mut self, world: &World) {
        let document = &world.store.document;
        self.promoted |= matches!(document.stage, Stage::Promoted { .. });
        self.aborted |= world.is_aborted;
        self.recovered |= document.hold == Some(Hold::Recovered);
    }
}

/// Searches a world with every rule on; it must see at least `states_min`, which is pinned a little below what it saw
/// when it was written.
fn holds(name: &str, world: World, orders: &[Vec<usize>], states_min: usize) {
    let mut count = 0_usize;
    let states_max = if is_full() { STATES * 12 } else { STATES };
    let expected = Reached::expected_of(&world);
    let mut reached = Reached::default();
    let found = search(world, orders, states_max, |world| {
        count += 1;
        reached.see(world);
        if count.is_multiple_of(SETTLE_EVERY) { settles(world).err() } else { None }
    });
    show(name, &found);
    assert!(found.broken.is_none(), "{name} breaks");
    assert_eq!(reached, expected, "{name} does not come to what it is there for");
    assert!(found.states >= states_min, "{name}: {} states, and {states_min} are pinned", found.states);
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

/// A store that goes back under so many running coordinators; a joiner is there to be told lost history.
fn goes_back_live(coordinators: usize) -> World {
    let mut world = World::steady(1, 1, &[]);
    world.budget = Budget { stages: 2, live_restores: 1, ..NONE };
    world.coordinators.truncate(coordinators);
    world.counted()
}

const NONE: Budget = Budget {
    restarts: 0,
    reboots: 0,
    images: 0,
    moves: 0,
    coordinator_restarts: 0,
    absences: 0,
    orders: 0,
    restores: 0,
    live_restores: 0,
    failures: 0,
    late: 0,
    slow_commits: 0,
    stages: 0,
};

#[test]
fn agents_crash_and_requests_are_late() {
    let world = small(Budget { restarts: 1, late: 1, reboots: 1, ..NONE });
    holds("agents", one_coordinator(world), &alike(2), 10_000);
}

#[test]
fn coordinators_crash_and_commit_late() {
    holds(
        "coordinators",
        small(Budget { coordinator_restarts: 1, moves: 1, slow_commits: 2, ..NONE }),
        &alike(2),
        12_000,
    );
}

#[test]
fn operators_at_any_moment() {
    let world = small(Budget { orders: 2, ..NONE });
    holds("operators", one_coordinator(ordering(world, &ALL_OPS)), &told_apart(2), 90_000);
}

#[test]
fn operators_race_with_coordinators() {
    let world = small(Budget { orders: 1, slow_commits: 2, late: 1, ..NONE });
    holds("races", ordering(world, &ALL_OPS), &told_apart(2), STATES);
}

#[test]
fn absent_nodes_return() {
    let world = small(Budget { absences: 2, late: 1, restarts: 1, orders: 1, ..NONE });
    let orders = [Op::Exclude(0), Op::Forget(0), Op::Advance, Op::RevokeAll];
    holds("absence", one_coordinator(ordering(world, &orders)), &told_apart(2), STATES);
}

#[test]
fn joiners_and_new_images() {
    holds("members", members(Budget { images: 1, late: 1, absences: 1, slow_commits: 1, ..NONE }), &alike(2), STATES);
}

#[test]
fn database_restored() {
    let world = small(Budget { restores: 1, images: 1, orders: 1, ..NONE });
    holds(
        "restored",
        one_coordinator(ordering(
            world,
            &[Op::Abort, Op::RevokeAll, Op::ForgetWhileFrozen(0), Op::ForgetWhileFrozen(1)],
        )),
        &alike(2),
        100_000,
    );
}

#[test]
fn database_restored_beside_a_one_slot_node() {
    let mut world = one_slot();
    world.budget = Budget { stages: 2, restores: 1, ..NONE };
    holds("restored, one slot", world, &[vec![0, 1, 2], vec![1, 0, 2]], 50_000);
}

#[test]
fn store_goes_back_live() {
    holds("store goes back live", goes_back_live(1), &alike(2), 1_000);
    holds("store goes back live under two", goes_back_live(2), &alike(2), 1_000);
}

#[test]
fn three_nodes() {
    let mut world = World::steady(2, 1, &[]);
    world.budget = Budget { stages: 2, images: 1, absences: 1, late: 1, ..NONE };
    holds("three nodes", one_coordinator(world), &alike(3), STATES);
}

#[test]
fn waves_of_a_promotion() {
    let world = waves(Budget { stages: 1, orders: 1, absences: 1, ..NONE });
    holds("waves", world, &[vec![0, 1, 2], vec![0, 2, 1]], 90_000);
}

#[test]
fn import_into_an_empty_pool() {
    holds("import", import(), &alike(2), 1_500);
}

#[test]
fn a_one_slot_node_beside_others() {
    holds("one slot", one_slot(), &[vec![0, 1, 2], vec![1, 0, 2]], 7_000);
}

/// Each rule of PROTOCOL.md section 4 that a model without time can lack, and the world in which it is missed.
fn without(off: Off) -> World {
    let one = match off {
        Off::BarrierBeforePromote | Off::BarrierBeforeStage => small(NONE),
        Off::AbortRests | Off::AbortHasNoStagedWayBack => ordering(small(Budget { orders: 1, ..NONE }), &[Op::Abort]),
        Off::AdmissionBeforeAnswer | Off::JoinerWaitsForKeys | Off::MembersFromOneSnapshot => members(NONE),
        Off::OwnAnswerOnly => members(Budget { absences: 1, ..NONE }),
        Off::AckNeedsDurableFile => small(Budget { reboots: 1, ..NONE }),
        Off::ReturnByAdmission | Off::ReturnerAdmittedFirst => small(Budget { absences: 1, ..NONE }),
        Off::FrozenAfterRestore | Off::StoredAcksDoNotCount | Off::NobodyIsToldBeforeAllAreHeard => {
            small(Budget { restores: 1, images: 1, ..NONE })
        }
        Off::CommandsWaitForNodes => {
            ordering(small(Budget { restores: 1, orders: 1, ..NONE }), &[Op::Abort, Op::Rotate])
        }
        Off::BarrierBeforeDrop => {
            ordering(small(Budget { orders: 1, ..NONE }), &[Op::RevokeHeld(0), Op::RevokeHeld(1)])
        }
        Off::ImportOnlyIntoEmpty => ordering(small(Budget { orders: 1, ..NONE }), &[Op::Import]),
        Off::LifeEndsWithItsStore | Off::PresenceKnowsItsRevision => goes_back_live(1),
        Off::ExpectedNodesFirst => import(),
        Off::OneSlotIsNeverRequired => one_slot(),
        Off::FenceInFile => return World { off: Some(off), ..small(Budget { moves: 1, ..NONE }) },
        Off::AnswerFromStore => {
            let mut world = World::steady(1, 1, &[]);
            world.budget = Budget { stages: 2, ..NONE };
            world.nodes[1].coordinator = 1;
            return World { off: Some(off), ..world };
        }
        Off::SwapOnRevision => {
            let world = ordering(small(Budget { orders: 1, slow_commits: 1, ..NONE }), &[Op::Pause]);
            return World { off: Some(off), ..world };
        }
    };
    World { off: Some(off), ..one_coordinator(one) }
}

#[test]
fn every_rule_is_needed() {
    let mut kept = Vec::new();
    for off in Off::ALL {
        let found = search(without(off), &told_apart(without(off).nodes.len()), 10 * STATES, |_| None);
        show(&format!("without {off:?}"), &found);
        if found.broken.is_none() {
            kept.push(off);
        }
    }
    assert!(kept.is_empty(), "nothing breaks without {kept:?}");
}
