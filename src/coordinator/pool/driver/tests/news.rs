//! Which news moves the rollout, and which nodes a commit wakes.

use super::super::writes::{ACK_PATIENCE_MAX, QUIET_PATIENCE};
use super::*;

#[test]
fn the_last_ack_moves_the_rollout_at_once() {
    let mut world = World::new();
    let (began, before) = (clock::monotonic(), world.actions().len());
    world.rotate().unwrap();
    world.driver.tick();
    for (node, is_last) in [("a", false), ("b", false), ("c", true)] {
        (world.driver.pace.last_tick, world.driver.pace.tick_took) = (Some(began), Duration::ZERO);
        world.driver.pace.next_tick = began + Duration::from_secs(3_600);
        drop(world.acknowledge(node));
        let due = world.driver.writes.flush_at.unwrap() <= clock::monotonic();
        assert_eq!(due, is_last, "{node}: the others of the last one are here");
        world.driver.flush();
        let asked = clock::monotonic();
        world.driver.tick_for_news();
        let next = world.driver.pace.next_tick;
        assert!(if is_last { next <= began + TICK_MIN } else { next >= asked + TICK_NEWS_MAX }, "{node}");
    }
    world.driver.tick();
    assert!(world.actions().len() > before + 1, "{:?}", world.actions());
}

#[test]
fn who_asks_before_all_are_heard_is_answered_with_the_last_of_them() {
    let mut world = World::new();
    let before = world.generation();
    world.rotate().unwrap();
    world.start_again(policy());
    let mut kept = world.ask("a", before, Until::News(LONG));
    assert!(kept.awaits_others() && !kept.is_held(), "its handler must not say that there is nothing new");
    let mut at_once = world.ask("c", before, Until::Recorded);
    assert_eq!(at_once.answer().now_or_never(), Some(Some(Err(SyncError::Refused(SyncRefused::NotHeard)))));
    world.driver.tick();
    assert!(kept.awaits_others() && kept.answer().now_or_never().is_none(), "b is missing");
    // Who has what it is instructed to hold may hear that there is nothing new.
    let held = world.acknowledge("b");
    assert!(held.is_held());
    world.driver.tick();
    assert!(matches!(kept.answer().now_or_never(), Some(Some(Ok(Some(_))))), "it is told its instruction");
    assert!(held.is_held());
}

#[test]
fn the_first_sync_of_a_node_in_a_life_is_news_and_later_ones_are_not() {
    let mut world = World::new();
    world.start_again(policy());
    let began = clock::monotonic();
    for (node, is_last) in [("a", false), ("b", false), ("c", true)] {
        (world.driver.pace.last_tick, world.driver.pace.tick_took) = (Some(began), Duration::ZERO);
        world.driver.pace.next_tick = began + Duration::from_secs(3_600);
        // It repeats what is stored.
        drop(world.sync(node));
        let soon = world.driver.writes.flush_at.unwrap().duration_since(clock::monotonic());
        assert!(soon <= Duration::from_millis(100), "{node}: {soon:?}");
        world.driver.flush();
        world.driver.tick_for_news();
        assert_eq!(world.driver.pace.next_tick <= began + TICK_MIN, is_last, "{node}");
    }
    world.driver.tick();
    assert!(world.driver.seen.presence().unseen_required(world.driver.replica.snapshot()).is_empty());
    drop(world.sync("a"));
    assert_eq!(world.driver.pace.news, 0);
}

#[test]
fn a_window_that_begins_in_a_steady_pool_is_written_with_others() {
    let mut world = World::new();
    let count = |passive| Some(Counters { passive, passive_alt_key: 0, passive_fail: 0 });
    let patience =
        |world: &World| world.driver.writes.flush_at.map(|at| at.saturating_duration_since(clock::monotonic()));
    let written = |world: &World| world.driver.replica.snapshot().nodes[&"a".parse().unwrap()].window;
    world.counters = count(100);
    drop(world.sync("a"));
    assert!(patience(&world).unwrap() > QUIET_PATIENCE / 2 && world.driver.pace.news == 0);
    world.driver.flush();
    assert_eq!(written(&world).map(|window| window.first), count(100), "for whom comes after a restart");
    world.counters = count(150);
    drop(world.sync("a"));
    assert_eq!(patience(&world), None, "it is heard");
    // Its window of a rotation is what a gate may look at.
    world.rotate().unwrap();
    drop(world.acknowledge("a"));
    assert!(patience(&world).unwrap() <= ACK_PATIENCE_MAX && world.driver.pace.news == 1);
}

#[test]
fn a_commit_wakes_those_for_whom_it_can_be_news() {
    let mut world = World::new();
    let mut held: Vec<Held> = ["a", "b", "c"].map(|node| world.sync(node)).into();
    world.driver.tick();
    let c = BTreeSet::from(["c".parse().unwrap()]);
    let (nodes, until) = (c.clone(), UnixTime::from_secs(clock::now().secs() + 3_600));
    let mut wider = policy();
    wider.absent_after_secs += 1;
    let commands = [
        (Command::Pause, 0),
        (Command::Resume { force: false }, 0),
        (Command::SetPolicy { policy: Box::new(wider) }, 0),
        (Command::Exclude { nodes: nodes.clone(), until }, 1),
        (Command::Include { nodes }, 1),
        (Command::Deny { nodes: c }, 1),
    ];
    for (command, woken) in commands {
        let (before, revision) = (world.driver.waiting.looks, world.driver.replica.document().revision);
        let name = format!("{command:?}");
        world.order(command).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        world.driver.tick();
        assert_eq!(world.driver.waiting.looks - before, woken, "{name}");
        assert!(world.driver.replica.document().revision > revision, "{name}");
    }
    assert_eq!(held.pop().unwrap().answer().now_or_never(), Some(Some(Err(SyncError::Refused(SyncRefused::Denied)))));
    assert!(held.iter_mut().all(|held| held.is_held() && held.answer().now_or_never().is_none()));
    let before = world.driver.waiting.looks;
    world.rotate().unwrap();
    assert_eq!(world.driver.waiting.looks - before, 2, "all that are held");
    for held in &mut held {
        assert!(matches!(held.answer().now_or_never(), Some(Some(Ok(Some(_))))));
    }
}

#[test]
fn a_commit_of_another_writer_and_a_frozen_pool_wake_all() {
    let mut world = World::new();
    // Another coordinator hears the nodes through this one's beats.
    let mut other = driver(&world.store, "other", policy());
    other.tick();
    for _ in 0..3 {
        world.pass(STEP);
        world.hear(&["a", "b", "c"]);
    }
    let mut held: Vec<Held> = ["a", "b", "c"].map(|node| world.sync(node)).into();
    world.driver.tick();
    std::mem::swap(&mut other, &mut world.driver);
    world.driver.tick();
    world.order(Command::Pause).unwrap();
    std::mem::swap(&mut other, &mut world.driver);
    world.driver.tick();
    assert_eq!(world.driver.waiting.looks, 3, "it does not say whom it concerns");
    assert!(held.iter_mut().all(|held| held.is_held() && held.answer().now_or_never().is_none()));
    let ahead = Generation::new(world.generation().get() + 1);
    drop(world.ask("a", ahead, Until::Recorded));
    world.driver.tick();
    assert_eq!(
        held.iter_mut().filter_map(|held| held.answer().now_or_never()).collect::<Vec<_>>(),
        [(); 3].map(|()| Some(Err(SyncError::Refused(SyncRefused::Frozen))))
    );
}
