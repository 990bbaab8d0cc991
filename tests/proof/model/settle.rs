//! "After faults stop it converges": from a reached world, everything works from now on, and the operator does the
//! obvious.

use tfo_engine::rollout::barrier::{Barrier, conflict};
use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::record::NodeRecord;

use super::event::Event;
use super::world::{Op, World};

/// Rounds in which every node and coordinator does everything once; a rotation takes about ten.
const ROUNDS_MAX: usize = 60;

/// Whether the world comes to rest with every node admitted and converged, and then makes one whole rotation.
pub(crate) fn settles(reached: &World) -> Result<(), String> {
    let mut world = reached.clone();
    world.budget.stages = 200;
    world.budget.orders = 100;
    world.budget.late = 0;
    world.requests.clear();
    world.answers.clear();
    for coordinator in &mut world.coordinators {
        coordinator.pending = None;
        coordinator.hesitates = false;
        (coordinator.copy, coordinator.next, coordinator.open) = (None, None, None);
    }
    // A process that has lost its name ends when it writes.
    let coordinators = world.coordinators.len().min(2);
    let mut settled = 0;
    for _ in 0..ROUNDS_MAX {
        for n in 0..world.nodes.len() {
            round_of_node(&mut world, n);
        }
        if let Some(broken) = world.broken() {
            return Err(format!("while converging: {broken}"));
        }
        world.coordinators.truncate(coordinators);
        for _ in 0..2 {
            for c in 0..world.coordinators.len() {
                apply(&mut world, Event::Look(u8::try_from(c).unwrap()));
                apply(&mut world, Event::Watch(u8::try_from(c).unwrap()));
                if world.has_beats {
                    apply(&mut world, Event::Beat(u8::try_from(c).unwrap()));
                }
            }
        }
        settled += usize::from(drive(&mut world));
        if settled >= 2 && is_at_rest(&world) {
            return Ok(());
        }
    }
    Err(format!("does not converge: {:?}", world.store.document))
}

pub(crate) fn apply(world: &mut World, event: Event) {
    if let Some(next) = world.after(event) {
        *world = next;
    }
}

pub(crate) fn round_of_node(world: &mut World, n: usize) {
    let node = u8::try_from(n).unwrap();
    for _ in 0..3 {
        // An agent tries what it could not install before it asks again.
        apply(world, Event::TryAgain(node));
        apply(world, Event::Sync { node, exclusion_ended: true });
        if !world.answers.is_empty() {
            apply(world, Event::Take(0));
        }
    }
}

/// One step of the first coordinator; true if it ended a rotation.
fn drive(world: &mut World) -> bool {
    let document = &world.store.document;
    let is_denied = |id| world.store.nodes.get(id).is_some_and(NodeRecord::is_denied);
    let denied = world.ids.iter().position(is_denied).and_then(|index| u8::try_from(index).ok());
    let op = if let Some(node) = denied {
        // It was repaired, and is welcome again.
        Some(Op::Forget(node))
    } else if conflict(&world.store).is_some() {
        Some(Op::Recover)
    } else if document.stage == Stage::Empty {
        Some(Op::Import)
    } else if document.paused.is_some() || document.hold.is_some() {
        Some(Op::Resume)
    } else {
        None
    };
    let was_promoted = matches!(world.store.document.stage, Stage::Promoted { .. });
    match op {
        Some(op) => apply(world, Event::Order(0, op)),
        None => apply(world, Event::Tick(0)),
    }
    was_promoted && matches!(world.store.document.stage, Stage::Steady { .. })
}

fn is_at_rest(world: &World) -> bool {
    let barrier = Barrier::of_all(&world.store);
    let two_slot = world.nodes.iter().filter(|node| node.slot_count == super::world::SlotCount::Two).count();
    barrier.is_passed() && barrier.required == two_slot
}
