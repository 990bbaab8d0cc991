//! Requests that are held: what ends a hold, who is heard by one, and whose counters a gate asks for.

use super::*;
use tfo_engine::rollout::policy::WaveRule;
use tfo_model::fleet::BlockedBy;
use tfo_model::state::Phase;
use tfo_store::PARTS_MAX;

/// Whether a request waits, and what it was answered.
fn answered(held: &mut Held) -> Option<Result<Option<bytes::Bytes>, SyncError>> {
    held.answer().now_or_never().map(|answer| answer.expect("the driver has not dropped it"))
}

fn is_overdue(world: &World, node: &str) -> bool {
    world.driver.seen.presence().overdue.contains_key(&node.parse::<NodeId>().unwrap())
}

/// Time passes, in which no node syncs.
fn pass(world: &mut World, steps: u32) {
    for _ in 0..steps {
        world.pass(STEP);
        world.driver.tick();
    }
}

#[test]
fn a_hold_ends_at_its_own_time_and_its_node_is_heard_until_then() {
    let mut world = World::new();
    let mut held = world.sync("a");
    let mut short = world.ask("b", world.generation(), Until::News(Duration::ZERO));
    world.driver.end_holds();
    assert_eq!((answered(&mut held), answered(&mut short)), (None, Some(Ok(None))));
    assert_eq!(world.driver.waiting.next_end().map(|at| at > clock::monotonic()), Some(true));
    // b declares 5 s, and a is heard while it is held.
    pass(&mut world, 2);
    assert!(!is_overdue(&world, "a") && is_overdue(&world, "b"));
    world.driver.waiting.end_due(clock::monotonic() + LONG, false);
    assert_eq!((answered(&mut held), world.driver.waiting.next_end()), (Some(Ok(None)), None));
    pass(&mut world, 3);
    assert!(is_overdue(&world, "a"));
}

#[test]
fn a_hold_that_is_over_while_no_node_may_be_answered_is_refused() {
    let mut world = World::new();
    let mut held = world.sync("a");
    world.driver.waiting.end_due(clock::monotonic() + LONG, true);
    assert_eq!(answered(&mut held), Some(Err(SyncError::StoreDown)));
}

#[test]
fn a_node_whose_connection_has_ended_is_not_heard_any_more() {
    let mut world = World::new();
    let before = world.sync("a");
    let former = before.mark();
    let held = world.sync("a");
    let left = |world: &mut World, request| {
        let message = Message::Left { node: "a".parse().unwrap(), request };
        assert!(world.driver.serve(vec![message]).is_continue());
    };
    // The end of a connection that the node has left for another one says nothing.
    left(&mut world, former);
    pass(&mut world, 2);
    assert!(!is_overdue(&world, "a") && held.is_held());
    left(&mut world, held.mark());
    assert_eq!((world.driver.waiting.len(), world.driver.waiting.next_end()), (0, None));
    pass(&mut world, 3);
    assert!(is_overdue(&world, "a"));
}

#[test]
fn a_connection_that_ends_before_its_sync_is_taken_in_holds_nothing() {
    let mut world = World::new();
    let (sync, held) = world.message("a", world.generation(), Until::News(LONG));
    let left = Message::Left { node: "a".parse().unwrap(), request: held.mark() };
    assert!(world.driver.serve(vec![sync, left]).is_continue());
    assert_eq!((world.driver.waiting.len(), world.driver.waiting.next_end()), (0, None));
    pass(&mut world, 3);
    assert!(is_overdue(&world, "a"));
}

/// docs/protocol.md#rule-10: no beat tells the others of a node that was heard.
#[test]
fn what_is_answered_at_once_is_written_while_no_beat_vouches() {
    let mut world = World::new();
    for _ in 0..3 {
        drop(world.sync("a"));
        pass(&mut world, 1);
    }
    for vouched in [true, false] {
        world.driver.write_heard();
        world.driver.beats.vouched = vouched;
        drop(world.ask("a", world.generation(), Until::Recorded));
        assert_eq!(world.driver.replica.content().heard().len(), usize::from(vouched), "{vouched}");
    }
}

#[test]
fn a_driver_that_ends_writes_what_is_queued_and_what_it_has_heard_however_much() {
    let mut world = World::new();
    let names: Vec<String> = (0..=PARTS_MAX).map(|number| format!("n{number:05}")).collect();
    for _ in 0..3 {
        names.iter().for_each(|name| drop(world.sync(name)));
        pass(&mut world, 1);
    }
    let heard = world.driver.replica.content().heard();
    assert_eq!(heard.len(), names.len(), "its latest sync says nothing new");
    let (last, later) = heard.last_key_value().map(|(node, later)| (node.clone(), later.clone())).unwrap();
    world.driver.writes.queue.acks.insert(last, later);
    world.driver.write_heard();
    assert!(world.driver.writes.queue.is_empty());
    assert_eq!(world.driver.replica.content().heard().len(), 0);
}

#[test]
fn a_coordinator_that_holds_a_request_is_not_deaf() {
    let mut world = World::new();
    let held = world.sync("a");
    pass(&mut world, 20);
    assert_eq!(world.driver.deaf_since, None);
    let message = Message::Left { node: "a".parse().unwrap(), request: held.mark() };
    assert!(world.driver.serve(vec![message]).is_continue());
    pass(&mut world, 20);
    assert!(world.driver.deaf_since.is_some());
}

#[test]
fn who_waits_when_a_life_ends_syncs_again() {
    let mut world = World::new();
    let older = world.store.inner.load().load(&pool_name()).unwrap().unwrap();
    world.pass(STEP);
    world.hear(&["a", "b", "c"]);
    let mut held = world.sync("a");
    assert!(held.is_held());
    world.store.set_back(&older);
    world.pass(policy().beat());
    world.driver.flush();
    world.driver.tick();
    assert_eq!(answered(&mut held), Some(Ok(None)), "it has what it was told, and is not heard in this life");
    assert_eq!(world.driver.seen.presence().unseen_required(world.driver.replica.snapshot()).len(), 3);
}

/// A promotion whose first wave is a, which is watched for 20 s.
fn watched() -> World {
    let mut policy = policy();
    policy.promote_waves = vec![WaveRule::Names("a".parse().unwrap()), WaveRule::Share(Share::ALL)];
    policy.health_window_secs = 20;
    let mut world = World::of(policy);
    world.rotate().unwrap();
    world.driver.tick();
    for node in ["a", "b", "c"] {
        drop(world.acknowledge(node));
    }
    world.driver.flush();
    world.driver.tick();
    assert_eq!(world.driver.replica.document().stage.phase(), Phase::Promoted, "{:?}", world.actions());
    world
}

#[test]
fn a_gate_asks_for_counters_and_does_not_open_on_old_ones() {
    let mut world = watched();
    let promoted = |world: &mut World| {
        let told = tfo_engine::rollout::wave::instruction_for(
            world.driver.replica.document(),
            &"a".parse().unwrap(),
            SlotCount::Two,
        );
        let told = told.unwrap();
        world.slots = told.slots;
        world.ask("a", told.generation, Until::News(LONG))
    };
    let mut held = promoted(&mut world);
    world.driver.flush();
    assert_eq!(answered(&mut held), None);
    for quarter in 1..=3 {
        pass(&mut world, 1);
        assert_eq!(answered(&mut held), Some(Ok(None)), "after {quarter} quarters");
        held = promoted(&mut world);
    }
    // The observation is over, and a has not answered yet.
    pass(&mut world, 1);
    assert_eq!(answered(&mut held), Some(Ok(None)));
    let wait = world.driver.wait.clone().unwrap();
    assert_eq!((wait.blocked_by, wait.waiting_for), (BlockedBy::Health, vec!["a".parse().unwrap()]));
    let waves = |world: &World| world.actions().iter().filter(|(action, _)| *action == Action::OpenWave).count();
    assert_eq!(waves(&world), 0);
    drop(promoted(&mut world));
    world.driver.tick();
    assert_eq!(waves(&world), 1, "{:?}", world.actions());
}
