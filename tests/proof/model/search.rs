//! Search over worlds: by breadth for the shortest trace, or by depth.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::encode::code;
use super::event::Event;
use super::world::World;

/// What a search found.
pub(crate) struct Found {
    pub states: usize,
    pub took: Duration,
    pub depth: usize,
    /// Whether every reachable state was seen.
    pub is_complete: bool,
    pub broken: Option<(String, Vec<Event>)>,
}

/// What is searched first.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// What is nearest: a trace is the shortest.
    Breadth,
    /// What follows from what was seen last: millions of states that wait to be looked at have no room.
    Depth,
}

/// Searches until something breaks, everything is seen, or `states_max` states are.
///
/// `orders`: the permutations of nodes under which the rules do not change.
///
pub(crate) fn search(
    start: World,
    orders: &[Vec<usize>],
    states_max: usize,
    order: Order,
    mut each: impl FnMut(&World) -> Option<String>,
) -> Found {
    let began = tfo_testbed::now();
    let mut seen: HashMap<u128, (u128, Option<Event>)> = HashMap::new();
    let root = code(&start, orders);
    seen.insert(root, (root, None));
    let mut queue = VecDeque::from([(start, root, 0_usize)]);
    let mut depth = 0;
    let next = |queue: &mut VecDeque<_>| match order {
        Order::Breadth => queue.pop_front(),
        Order::Depth => queue.pop_back(),
    };
    while let Some((world, from, at)) = next(&mut queue) {
        depth = depth.max(at);
        if let Some(what) = world.broken().or_else(|| each(&world)) {
            let trace = trace(&seen, from);
            return Found {
                states: seen.len(),
                took: began.elapsed(),
                depth,
                is_complete: false,
                broken: Some((what, trace)),
            };
        }
        if seen.len() >= states_max {
            continue;
        }
        for event in world.events() {
            let Some(next) = world.after(event) else { continue };
            let to = code(&next, orders);
            if let std::collections::hash_map::Entry::Vacant(place) = seen.entry(to) {
                place.insert((from, Some(event)));
                queue.push_back((next, to, at + 1));
            }
        }
    }
    let is_complete = seen.len() < states_max;
    Found { states: seen.len(), took: began.elapsed(), depth, is_complete, broken: None }
}

pub(super) fn trace(seen: &HashMap<u128, (u128, Option<Event>)>, mut at: u128) -> Vec<Event> {
    let mut trace = Vec::new();
    while let Some((from, Some(event))) = seen.get(&at) {
        trace.push(*event);
        at = *from;
    }
    trace.reverse();
    trace
}
