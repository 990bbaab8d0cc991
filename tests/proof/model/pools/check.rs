//! The search over the world of two pools, what it must come to, and what breaks when a part of a move is missing.

use std::collections::{HashSet, VecDeque};

use super::{Event, MOVER, Off, World, index_of};
use tfo_engine::rollout::document::Stage;
use tfo_model::count::Generation;

/// What a search must come to, so that one whose events have stopped working is noticed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reached {
    /// The mover holds keys of the other pool.
    arrived: bool,
    /// It has been there, and holds keys of its first pool again.
    returned: bool,
    /// It was moved, and its old pool promoted a key while it still held the old ones.
    left_behind: bool,
    /// Its configuration named the new pool before it had heard of the order.
    configured_first: bool,
}

impl Reached {
    fn see(&mut self, world: &World, event: Event) {
        let mover = &world.nodes[MOVER];
        let held = mover.link.fence().map(|fence| index_of(fence.pool_id));
        self.arrived |= held == Some(1);
        self.returned |= held == Some(0) && world.ordered.len() == 2 && mover.covered[0];
        let promoted = matches!(world.pools[0].document.stage, Stage::Promoted { .. });
        self.left_behind |= promoted && held == Some(0) && mover.link.fence().unwrap().generation == Generation::new(1);
        self.configured_first |= event == Event::Restart(1) && held == Some(0) && world.ordered.len() == 1;
    }
}

struct Found {
    states: usize,
    broken: Option<(String, Vec<Event>)>,
    reached: Reached,
}

/// Breadth first, to the end; one world in so many is driven on without faults and must come to rest.
fn search(first: World, settle_every: Option<usize>) -> Found {
    let mut known = HashSet::from([first.key()]);
    // Each world with how it was reached: the index of the one before, and the event.
    let mut trail: Vec<Option<(usize, Event)>> = vec![None];
    let mut queue = VecDeque::from([(0, first)]);
    let mut reached = Reached::default();
    while let Some((at, world)) = queue.pop_front() {
        for event in world.events() {
            let Some(next) = world.after(event) else { continue };
            reached.see(&next, event);
            let broken = next.broken();
            if broken.is_none() && !known.insert(next.key()) {
                continue;
            }
            trail.push(Some((at, event)));
            let index = trail.len() - 1;
            let is_sampled = settle_every.is_some_and(|every| index.is_multiple_of(every));
            let settled = || [true, false].iter().find_map(|speaks| next.settles(*speaks).err());
            if let Some(what) = broken.or_else(|| if is_sampled { settled() } else { None }) {
                let steps = std::iter::successors(trail[index], |(before, _)| trail[*before]);
                let mut trace: Vec<Event> = steps.map(|(_, event)| event).collect();
                trace.reverse();
                return Found { states: known.len(), broken: Some((what, trace)), reached };
            }
            queue.push_back((index, next));
        }
    }
    Found { states: known.len(), broken: None, reached }
}

/// States that two of the searches have at least: a little below what they had when they were written.
const PINNED_MOVED: usize = 20_000;
const PINNED_ALONE: usize = 2_000;

fn show(name: &str, found: &Found) {
    println!("{name}: {} states", found.states);
    if let Some((what, trace)) = &found.broken {
        println!("  {what}, {} steps: {trace:?}", trace.len());
    }
}

/// Searches a world with everything on, which has at least so many states, and says what it came to.
fn holds(name: &str, world: World, states_min: usize) -> Reached {
    let found = search(world, Some(tfo_testbed::by_size(50, 20, 5)));
    show(name, &found);
    assert!(found.broken.is_none(), "{name} breaks");
    assert!(found.states >= states_min, "{name}: {} states, and {states_min} are pinned", found.states);
    found.reached
}

#[test]
fn a_node_is_moved_to_another_pool_and_back() {
    let there = holds("moved", World::new(None, 1, 0, [1, 1]), PINNED_MOVED);
    let back = holds("moved back", World::new(None, 2, 1, [0, 0]), 1_200);
    assert!(there.arrived && there.left_behind, "{there:?}");
    assert!(back.arrived && back.returned && back.configured_first, "{back:?}");
    if tfo_testbed::by_size(false, true, true) {
        holds("moved, with a restart", World::new(None, 1, 1, [1, 1]), 100_000);
    }
    if tfo_testbed::full() {
        holds("moved back, while both pools rotate", World::new(None, 2, 1, [1, 1]), 300_000);
    }
    // Without an order there is nothing but the name in the configuration, and that is refused.
    let alone = holds("not moved", World::new(None, 0, 2, [1, 0]), PINNED_ALONE);
    assert!(!alone.arrived, "a node moves by itself");
}

#[test]
fn every_part_of_a_move_is_needed() {
    let offs = [
        (Off::OrderIsNeeded, None),
        (Off::OrderIsDurable, None),
        (Off::MovedIsOut, None),
        // The keys are safe, but the node belongs nowhere.
        (Off::OrderIsKept, Some(1)),
        (Off::BackEndsTheOrder, Some(1)),
    ];
    let mut kept = Vec::new();
    for (off, settle_every) in offs {
        let found = search(World::new(Some(off), 2, 1, [1, 1]), settle_every);
        show(&format!("without {off:?}"), &found);
        if found.broken.is_none() {
            kept.push(off);
        }
    }
    assert!(kept.is_empty(), "nothing breaks without {kept:?}");
}
