//! A store that fails, and a coordinator that is blind or deaf.

use super::*;

#[test]
fn time_in_which_no_record_can_be_written_makes_no_node_absent() {
    let mut world = World::new();
    world.store.fail(false, true);
    world.pass_long(&["a", "c"]);
    world.pass_long(&["a", "c"]);
    assert!(world.driver.seen.presence().absent.is_empty(), "{:?}", world.driver.seen.presence());
    assert!(world.good_ms_ago() >= ABSENT_AFTER_SECS * 1_000, "written last before it was full");
    // From the first beat on that is written again it is as before.
    world.store.fail(false, false);
    world.pass(Duration::from_secs(1));
    world.hear(&["a", "c"]);
    assert!(world.good_ms_ago() < 5_000, "{}", world.good_ms_ago());
    assert!(world.driver.seen.presence().absent.is_empty());
    world.pass_long(&["a", "c"]);
    assert_eq!(world.driver.seen.presence().absent, BTreeSet::from(["b".parse().unwrap()]));
}

#[test]
fn time_in_which_the_store_cannot_be_read_makes_no_node_absent() {
    let mut world = World::new();
    world.store.fail(true, true);
    world.pass_long(&["a", "c"]);
    world.store.fail(false, false);
    world.hear(&["a", "c"]);
    assert!(world.driver.seen.presence().absent.is_empty(), "{:?}", world.driver.seen.presence());
    world.pass_long(&["a", "c"]);
    assert_eq!(world.driver.seen.presence().absent, BTreeSet::from(["b".parse().unwrap()]));
}

#[test]
fn without_its_store_it_answers_nothing_and_does_nothing() {
    let mut world = World::new();
    for (reads, writes) in [(true, true), (false, true)] {
        world.store.fail(reads, writes);
        let before = world.store.inner.load().head(&pool_name()).unwrap();
        // A session that is open is held, a new one is not.
        let mut open = world.sync("a");
        assert!(open.is_held() && open.answer().now_or_never().is_none(), "{reads}");
        let mut new = world.sync("new");
        assert_eq!(new.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))), "{reads}");
        assert!(!new.is_held(), "{reads}");
        assert!(matches!(world.rotate(), Err(CommandError::StoreDown)), "{reads}");
        world.driver.tick();
        assert_eq!(world.store.inner.load().head(&pool_name()).unwrap(), before);
        assert_eq!(world.driver.replica.document().stage.phase(), tfo_model::state::Phase::Steady);
    }
    world.store.fail(false, false);
    world.hear(&["a", "b", "c"]);
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
    assert_eq!(world.driver.replica.keys().epochs().count(), 3, "the keys of the store, and the one that was staged");
}

#[test]
fn a_commit_that_is_not_answered_is_settled_before_the_operator_is_told() {
    for is_done in [true, false] {
        let mut world = World::new();
        *world.store.lost.lock().unwrap() = Some(is_done);
        assert!(matches!(world.rotate(), Ok(Action::Rotate)), "{is_done}");
        let rotated = |(action, _): &(Action, BTreeSet<NodeId>)| *action == Action::Rotate;
        assert_eq!(world.actions().iter().filter(|entry| rotated(entry)).count(), 1, "{is_done}");
        assert_eq!(world.driver.replica.keys().epochs().count(), 3, "{is_done}");
    }
}

/// What it is told would be younger than what is known of it.
#[test]
fn a_request_that_is_held_without_its_record_asks_again_once_the_store_is_back() {
    let mut world = World::new();
    world.store.fail(true, true);
    let mut held = world.sync("a");
    assert!(held.is_held() && held.answer().now_or_never().is_none());
    world.store.fail(false, false);
    world.driver.tick();
    assert_eq!(held.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    let mut again = world.sync("a");
    world.driver.tick();
    assert!(again.is_held() && again.answer().now_or_never().is_none());
}

#[test]
fn a_coordinator_that_is_blind_holds_no_node() {
    let mut world = World::new();
    let mut held = world.sync("a");
    world.driver.flush();
    world.store.fail(true, true);
    world.driver.tick();
    assert!(held.is_held() && held.answer().now_or_never().is_none(), "not blind yet");
    assert_eq!(world.driver.shared.store_down().blind_since, None);
    let left = world.driver.pace.next_tick.saturating_duration_since(clock::monotonic());
    assert!(left <= policy().blind_max(), "it looks when it becomes blind: {left:?}");
    // The clock of what is shared has whole milliseconds, and begins with 1.
    world.pass(policy().blind_max() + Duration::from_millis(1));
    assert!(world.driver.shared.is_blind(), "a handler knows it without the driver");
    world.driver.tick();
    assert_eq!(held.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    let mut open = world.sync("b");
    assert_eq!(open.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    assert!(!open.is_held());
    assert!(world.driver.shared.store_down().blind_since.is_some());
    assert!(matches!(world.rotate(), Err(CommandError::StoreDown)));
    // The store is back, and it holds again.
    world.store.fail(false, false);
    let mut open = world.sync("b");
    assert!(open.is_held() && open.answer().now_or_never().is_none());
    assert_eq!(world.driver.shared.store_down().blind_since, None);
}

/// Its driver may wait for long until a store says that it does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_as_soon_as_it_is_blind_although_its_driver_waits_for_the_store() {
    let store = Arc::new(FakeStore::default());
    let pool_id = "0123456789abcdef0123456789abcdef".parse().unwrap();
    // It is blind after a sixth of a second.
    let policy = Policy { absent_after_secs: 1, ..policy() };
    let content = PoolContent::new(Document::new(pool_id, policy.clone(), clock::now()), Parts::default());
    store.create(&pool_name(), &PoolImage { content: &content, keys: &KeyRing::default(), audit: &[] }).unwrap();
    let watched = Watched { metrics: Arc::new(Metrics::new()), connections: Arc::default() };
    let (shared, name) = (Arc::<FakeStore>::clone(&store), "coordinator".parse().unwrap());
    let pool = crate::pool::Pool::start((shared, name), pool_name(), policy, watched).unwrap();
    let is_shown = async || {
        while pool.status().await.unwrap().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    is_shown().await;
    // One that comes before its driver knows.
    store.silent.store(true, Ordering::Relaxed);
    let told = pool.status().await.unwrap().map(|status| status.revision);
    assert!(told.is_err_and(|down| down.blind_since.is_some()));
    store.silent.store(false, Ordering::Relaxed);
    is_shown().await;
    // Those that come after: at once, and an order, too.
    store.fail(true, true);
    while !pool.is_unread() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.silent.store(true, Ordering::Relaxed);
    assert!(pool.status().await.unwrap().is_err());
    let order = Asked { operator: "ops1.example.org".parse().unwrap(), reason: String::new(), if_revision: None };
    let done = pool.command(Wanted::FirstKey(order, None, false), GivenKeys::default()).await.unwrap();
    assert!(matches!(done, Err(CommandError::StoreDown)));
    store.fail(false, false);
    store.silent.store(false, Ordering::Relaxed);
    is_shown().await;
}

/// An operator may look at a pool that nothing can be written into.
#[test]
fn a_coordinator_that_cannot_write_shows_its_pool() {
    let mut world = World::new();
    world.store.fail(false, true);
    world.pass(policy().blind_max() + Duration::from_millis(1));
    world.driver.tick();
    assert!(world.driver.shared.is_blind() && !world.driver.shared.is_unread());
    world.store.fail(true, true);
    world.pass(policy().blind_max() + Duration::from_millis(1));
    world.driver.tick();
    assert!(world.driver.shared.is_unread());
}

#[test]
fn a_coordinator_that_no_node_reaches_takes_none_for_absent() {
    let mut world = World::new();
    world.pass_long(&[]);
    world.pass_long(&[]);
    let since = world.driver.deaf_since;
    assert!(world.driver.seen.presence().absent.is_empty(), "{:?}", world.driver.seen.presence());
    assert_eq!(world.driver.status().deaf_since, since);
    assert!(since.is_some_and(|since| clock::now() >= since));
    world.hear(&["a", "c"]);
    assert_eq!((world.driver.deaf_since, world.actions()), (None, vec![]));
    world.pass_long(&["a", "c"]);
    assert_eq!(world.driver.seen.presence().absent, BTreeSet::from(["b".parse().unwrap()]));
}

#[test]
fn a_silent_store_does_not_answer_a_waiting_node() {
    let mut world = World::new();
    // a and c have not been heard in this life: b's answer would be "not heard", which must not become "nothing new".
    world.start_again(policy());
    let older = Generation::new(4);
    let mut kept = world.ask("b", older, Until::News(LONG));
    assert!(kept.awaits_others() && !kept.is_held() && kept.answer().now_or_never().is_none());
    world.store.fail(true, true);
    let mut unheard = world.ask("b", older, Until::News(LONG));
    assert_eq!(unheard.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    assert!(!unheard.is_held());
    world.store.fail(false, false);
    world.hear(&["a", "b", "c"]);
    world.store.fail(true, true);
    let mut at_once = world.ask("b", world.generation(), Until::Recorded);
    assert_eq!(at_once.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))), "not recorded");
}

#[test]
fn a_node_whose_record_cannot_be_stored_syncs_again() {
    let mut world = World::new();
    world.rotate().unwrap();
    let mut held = world.acknowledge("a");
    assert!(held.is_held() && held.answer().now_or_never().is_none());
    world.store.fail(false, true);
    world.driver.tick();
    assert_eq!(held.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    world.store.fail(false, false);
    let mut done = world.ask("a", world.generation(), Until::Recorded);
    assert_eq!(done.answer().now_or_never(), Some(Some(Ok(None))));
}

/// A sync that says nothing new is written nowhere; beats and marks tell of it (docs/protocol.md#rule-10).
#[test]
fn quiet_syncs_are_not_written_and_another_coordinator_hears_of_them() {
    let mut world = World::new();
    let mut other = driver(&world.store, "other", policy());
    other.tick();
    let stored = |world: &World, node: &str| {
        world.store.inner.load().load(&pool_name()).unwrap().unwrap().content.snapshot().nodes[&node.parse().unwrap()]
            .clone()
    };
    let before = ["a", "b", "c"].map(|node| stored(&world, node));
    let head = world.store.inner.load().head(&pool_name()).unwrap();
    world.hear(&["a", "b", "c"]);
    assert_eq!(world.store.inner.load().head(&pool_name()).unwrap(), head, "nothing is written before a beat is due");
    // b falls silent: its coordinator marks it, and vouches for the others.
    for _ in 0..4 {
        world.pass(STEP);
        world.hear(&["a", "c"]);
        other.tick();
    }
    assert!(!["a", "c"].iter().any(|node| stored(&world, node).silent) && stored(&world, "b").silent);
    assert_eq!([stored(&world, "a"), stored(&world, "c")], [before[0].clone(), before[2].clone()]);
    let unseen = other.seen.presence().unseen_required(other.replica.snapshot());
    assert_eq!(unseen, ["b".parse().unwrap()], "it has heard of the others by beats alone");
    // Its next sync is written, and then it is vouched for again.
    drop(world.ask("b", world.generation(), Until::Recorded));
    assert!(!stored(&world, "b").silent);
    other.tick();
    assert!(other.seen.presence().unseen_required(other.replica.snapshot()).is_empty());
}

#[test]
fn a_coordinator_whose_beats_cannot_be_written_answers_no_node() {
    let mut world = World::new();
    world.store.fail(false, true);
    world.pass(policy().beat() * 2 + Duration::from_millis(1));
    let mut at_once = world.ask("a", world.generation(), Until::Recorded);
    assert_eq!(at_once.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    world.pass(policy().blind_max());
    assert!(world.driver.shared.is_blind(), "its copy is confirmed, and it is not heard by the others");
    world.store.fail(false, false);
    let mut at_once = world.ask("a", world.generation(), Until::Recorded);
    assert_eq!(at_once.answer().now_or_never(), Some(Some(Ok(None))));
}

#[test]
fn a_process_that_has_lost_its_name_changes_nothing_and_ends() {
    let mut world = World::new();
    let mut zombie = driver(&world.store, "coordinator", policy());
    std::mem::swap(&mut zombie, &mut world.driver);
    world.driver.tick();
    // The first one wakes up with an acknowledgement, and with an order.
    std::mem::swap(&mut zombie, &mut world.driver);
    let head = world.store.inner.load().head(&pool_name()).unwrap();
    assert!(matches!(world.rotate(), Err(CommandError::StoreDown)));
    let mut at_once = world.ask("new", Generation::new(1), Until::Recorded);
    assert!(matches!(at_once.answer().now_or_never(), Some(Some(Err(_)))));
    assert_eq!(world.store.inner.load().head(&pool_name()).unwrap(), head);
    assert!(world.driver.has_lost_name && !zombie.has_lost_name);
}

#[test]
fn a_store_that_lost_a_beat_begins_a_new_life() {
    let mut world = World::new();
    let older = world.store.inner.load().load(&pool_name()).unwrap().unwrap();
    world.pass(STEP);
    world.hear(&["a", "b", "c"]);
    world.store.set_back(&older);
    assert!(world.rotate().is_err(), "its beat is lost");
    assert!(!world.driver.has_lost_name);
    world.driver.tick();
    let unseen = world.driver.seen.presence().unseen_required(world.driver.replica.snapshot());
    assert_eq!(unseen.len(), 3, "every node has to be heard again");
    world.hear(&["a", "b", "c"]);
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
}

#[test]
fn a_driver_that_stood_still_vouches_for_no_node() {
    let mut world = World::new();
    for _ in 0..3 {
        world.pass(STEP);
        world.hear(&["a", "b", "c"]);
    }
    let vouches = |world: &World| {
        let stored = world.store.inner.load().load(&pool_name()).unwrap().unwrap();
        stored.content.snapshot().beats[world.driver.replica.by()].vouches
    };
    assert!(vouches(&world));
    // Its beat is the first thing that it does.
    world.pass(Duration::from_secs(61));
    world.driver.flush();
    assert!(!vouches(&world), "it has heard no node in its new life");
}

#[test]
fn a_word_of_another_coordinators_commit_brings_the_next_tick_forward() {
    let mut world = World::new();
    world.driver.tick();
    let due = world.driver.pace.next_tick;
    world.driver.shared.told.store(true, Ordering::Release);
    assert!(world.driver.serve(vec![Message::Changed]).is_continue());
    assert!(world.driver.pace.next_tick < due);
    assert!(!world.driver.shared.told.load(Ordering::Acquire), "the next word is heard, too");
}
