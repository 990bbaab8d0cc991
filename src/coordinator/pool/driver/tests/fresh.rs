//! Readers who want to know what the nodes say now.

use super::*;
use crate::pool::message::StoreDown;
use tfo_wire::v1::fleet::{FRESH_SECS_MAX, Nodes};

type Shown = oneshot::Receiver<Result<Nodes, StoreDown>>;

fn read(world: &mut World) -> Shown {
    let (reply, shown) = oneshot::channel();
    let message = Message::FreshNodes { names: BTreeMap::new(), reply };
    assert!(world.driver.serve(vec![message]).is_continue());
    world.driver.end_fresh();
    shown
}

fn was_let_go(held: &mut Held) -> bool {
    held.answer().now_or_never() == Some(Some(Ok(None)))
}

/// How many nodes a reader was shown; none if it still waits.
fn shown(reader: &mut Shown) -> Option<Result<usize, StoreDown>> {
    reader.try_recv().ok().map(|shown| shown.map(|nodes| nodes.nodes.len()))
}

#[test]
fn a_reader_waits_for_those_who_are_asked_and_for_no_other() {
    let mut world = World::new();
    let (mut a, mut b) = (world.sync("a"), world.sync("b"));
    // c has asked, and does not wait for news.
    let mut reader = read(&mut world);
    assert!(was_let_go(&mut a) && was_let_go(&mut b));
    let mut a = world.sync("a");
    world.driver.end_fresh();
    assert_eq!(shown(&mut reader), None, "b has not come back");
    // Another reader joins the first, and no node is asked for it.
    let mut second = read(&mut world);
    assert_eq!((shown(&mut second), was_let_go(&mut a)), (None, false));
    let mut b = world.sync("b");
    world.driver.end_fresh();
    assert_eq!((shown(&mut reader), shown(&mut second)), (Some(Ok(3)), Some(Ok(3))));
    // What they said just now is fresh.
    assert_eq!(shown(&mut read(&mut world)), Some(Ok(3)));
    assert!(!was_let_go(&mut a) && !was_let_go(&mut b));
    let asked_at = &mut world.driver.fresh.asked_at;
    *asked_at = asked_at.and_then(|at| at.checked_sub(Duration::from_secs(FRESH_SECS_MAX)));
    let mut later = read(&mut world);
    assert!(was_let_go(&mut a) && was_let_go(&mut b) && shown(&mut later).is_none());
}

#[test]
fn a_reader_does_not_wait_for_long() {
    let mut world = World::new();
    let mut held = world.sync("a");
    let mut reader = read(&mut world);
    assert!(was_let_go(&mut held) && shown(&mut reader).is_none());
    assert!(world.driver.fresh.ends_at().is_some_and(|at| at > clock::monotonic()));
    let asked_at = &mut world.driver.fresh.asked_at;
    *asked_at = asked_at.and_then(|at| at.checked_sub(Duration::from_secs(FRESH_SECS_MAX)));
    world.driver.end_fresh();
    assert_eq!((shown(&mut reader), world.driver.fresh.ends_at()), (Some(Ok(3)), None));
}

#[test]
fn without_its_store_a_coordinator_asks_no_node() {
    let mut world = World::new();
    let mut held = world.sync("a");
    world.store.fail(true, true);
    let mut reader = read(&mut world);
    assert!(shown(&mut reader).is_some_and(|shown| shown.is_err()));
    assert!(!was_let_go(&mut held) && held.is_held());
}
