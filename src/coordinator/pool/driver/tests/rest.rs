//! A pool at rest: what ends the rest, and that nothing else does.

use super::*;
use tfo_model::fleet::VerdictKind;

type Event = fn(&mut World);

#[test]
fn a_rest_ends_with_news_and_with_nothing_else() {
    let file: Event = |world| {
        assert!(world.driver.serve(vec![Message::Policy(Box::new(policy()))]).is_continue());
    };
    let beat: Event = |world| {
        world.pass(world.driver.replica.document().policy.beat());
        assert!(world.driver.next_beat() <= clock::monotonic() && world.driver.flush());
    };
    let ahead: Event = |world| {
        let ahead = Generation::new(world.generation().get() + 1);
        drop(world.ask("a", ahead, Until::Recorded));
    };
    for (what, event, is_news) in [
        ("time passes", (|world| world.pass(STEP)) as Event, false),
        ("a node has nothing new to say", |world| drop(world.sync("a")), false),
        ("a beat is written", beat, false),
        ("a node joins", |world| drop(world.sync("d")), true),
        ("an operator gives an order", |world| drop(world.order(Command::Pause).unwrap()), true),
        ("the file is read again", file, true),
        ("a report contradicts the document", ahead, true),
    ] {
        let mut world = World::new();
        world.driver.tick();
        let rests = |world: &World| world.driver.rest.holds(clock::now());
        assert!(rests(&world), "{what}");
        event(&mut world);
        assert_eq!(rests(&world), !is_news, "{what}");
        world.driver.tick();
        assert!(rests(&world), "{what}, and then a tick");
    }
}

/// A node is heard for as long as its request is held, also beyond the time in which it has to sync: it is absent at once when its
/// connection ends, and no later look finds that by itself.
#[test]
fn a_hold_after_which_its_node_is_absent_ends_a_rest() {
    let mut world = World::new();
    let held = world.sync("a");
    world.pass_long(&["b", "c"]);
    let is_absent = |world: &World| world.driver.seen.presence().absent.contains(&"a".parse::<NodeId>().unwrap());
    assert!(world.driver.rest.holds(clock::now()) && !is_absent(&world));
    let message = Message::Left { node: "a".parse().unwrap(), request: held.mark() };
    assert!(world.driver.serve(vec![message]).is_continue());
    world.driver.note_turns();
    assert!(!world.driver.rest.holds(clock::now()) && is_absent(&world));
}

#[test]
fn who_falls_silent_while_the_pool_rests_is_seen() {
    let mut world = World::new();
    let verdict = |world: &mut World| {
        if !world.driver.rest.is_judged() {
            // The last one is a moment old, and the next tick would find it recent.
            world.driver.told = None;
            world.driver.tick();
        }
        world.driver.told.as_ref().map(|told| told.kind())
    };
    assert_eq!(verdict(&mut world), Some(VerdictKind::Agree));
    world.pass_long(&["a", "c"]);
    assert_eq!(verdict(&mut world), Some(VerdictKind::Absent));
    world.hear(&["b"]);
    assert_eq!(verdict(&mut world), Some(VerdictKind::Agree));
}
