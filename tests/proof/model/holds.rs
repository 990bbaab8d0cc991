//! A search with every rule on: what it must see, and must not.

use tfo_engine::rollout::document::{Hold, Stage};
use tfo_engine::rollout::record::{Exclusion, Membership, NodeRecord};
use tfo_model::count::Epoch;

use super::search::{Found, Order, search};
use super::settle::settles;
use super::step::AFTER;
use super::world::{Op, World};

/// One in so many worlds is driven on without faults until it converges.
pub(super) const SETTLE_EVERY: usize = 200;

/// States that a search may see in CI; `TFO_SIZE=full` raises it.
pub(super) const STATES: usize = 250_000;

/// The same for worlds that are slow to search, or of which most is searched in another one.
pub(super) const SHORT: usize = 100_000;

/// What a search must see, so that events that have stopped working are noticed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pinned {
    /// Everything that can be reached, and at least so many states: a little below what it saw when it was written.
    Complete(usize),
    /// So many states; with `TFO_SIZE=full` as many as that allows, or everything.
    Bounded(usize),
}

pub(super) fn is_full() -> bool {
    tfo_testbed::full()
}

/// Permutations of nodes that the waves treat alike.
pub(super) fn alike(nodes: usize) -> Vec<Vec<usize>> {
    match nodes {
        2 => vec![vec![0, 1], vec![1, 0]],
        3 => vec![vec![0, 1, 2], vec![0, 2, 1], vec![1, 0, 2], vec![1, 2, 0], vec![2, 0, 1], vec![2, 1, 0]],
        _ => vec![(0..nodes).collect()],
    }
}

pub(super) fn told_apart(nodes: usize) -> Vec<Vec<usize>> {
    vec![(0..nodes).collect()]
}

pub(super) fn show(name: &str, found: &Found) {
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
pub(super) struct Reached {
    promoted: bool,
    aborted: bool,
    recovered: bool,
    denied: bool,
    other_policy: bool,
    first_key: bool,
    pending: bool,
    included: bool,
    unknown_again: bool,
    /// A coordinator's copy lacks another one's last beat.
    misses_a_beat: bool,
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
            misses_a_beat: world.has_beats && world.budget.lags > 0,
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
        let misses = |c: usize| {
            let Some(copy) = &world.coordinators[c].copy else { return false };
            let mut others = (0..world.coordinators.len()).filter(|other| world.name(*other) != world.name(c));
            others.any(|other| world.stamp_in(copy, other) < world.stamp_in(&world.store, other))
        };
        self.misses_a_beat |= world.is_lagging && world.has_beats && (0..world.coordinators.len()).any(misses);
    }
}

/// Searches a world with every rule on.
pub(super) fn holds(name: &str, world: World, orders: &[Vec<usize>], pinned: Pinned) {
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
