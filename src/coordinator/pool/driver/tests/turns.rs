//! Two coordinators that could take the same step (docs/protocol.md#rule-2).

use super::*;
use tfo_engine::rollout::turn::{TURN, wait_before};

/// Time passes for both, who hear each other's beats, and the nodes at the first one.
fn live_on(world: &mut World, other: &mut Driver, time: Duration) {
    world.pass(time);
    pass(other, time);
    world.hear(&["a", "b", "c"]);
    other.tick();
    world.driver.tick();
}

fn waits(driver: &Driver, other: &Driver) -> Duration {
    wait_before(driver.replica.document(), driver.replica.by(), [other.replica.by()])
}

/// A rotation that could be promoted now, which neither driver knows yet.
fn staged(name: &str) -> (World, Driver) {
    let mut world = World::new();
    let mut other = driver(&world.store, name, policy());
    for _ in 0..4 {
        live_on(&mut world, &mut other, STEP);
    }
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
    for node in ["a", "b", "c"] {
        drop(world.acknowledge(node));
    }
    world.driver.flush();
    (world, other)
}

fn promotions(world: &World) -> usize {
    world.actions().iter().filter(|(action, _)| *action == Action::Promote).count()
}

#[test]
fn the_first_in_order_takes_the_step_and_the_other_makes_no_key_for_it() {
    let (mut world, mut other) = staged("other");
    assert!(world.driver.follow().is_some() && other.follow().is_some());
    let is_first = waits(&world.driver, &other).is_zero();
    assert_eq!(waits(&other, &world.driver).is_zero(), !is_first, "one comes first");
    let (first, second) = if is_first { (&mut world.driver, &mut other) } else { (&mut other, &mut world.driver) };
    second.tick();
    assert!(second.until_its_turn().is_some_and(|left| left <= TURN));
    assert!(second.pace.next_tick <= clock::monotonic() + TURN, "it looks again when it is its turn");
    first.tick();
    assert!(matches!(first.replica.document().stage, Stage::Promoted { .. }), "it does not wait");
    second.tick();
    assert_eq!(second.until_its_turn(), None, "there is nothing left to do");
    assert_eq!(promotions(&world), 1);
}

#[test]
fn one_that_comes_first_and_does_nothing_is_passed_over() {
    let (mut world, mut other) = staged("other");
    assert!(world.driver.follow().is_some() && other.follow().is_some());
    let is_first = waits(&world.driver, &other).is_zero();
    for expected in [0, 1] {
        let second = if is_first { &mut other } else { &mut world.driver };
        second.tick();
        assert_eq!(promotions(&world), expected);
        if is_first { pass(&mut other, TURN) } else { world.pass(TURN) }
    }
}

#[test]
fn an_order_has_no_turn() {
    let comes_second = |(world, other): &(World, Driver)| !waits(&world.driver, other).is_zero();
    let found = ["other", "another", "third", "fourth", "fifth"].into_iter().map(staged).find(comes_second);
    let (mut world, _other) = found.expect("one of them comes first");
    world.driver.tick();
    assert_eq!(promotions(&world), 0, "it is not its turn");
    assert!(world.order(Command::Abort { force: false }).is_ok());
    assert_eq!(world.actions().last().unwrap().0, Action::Abort);
}
