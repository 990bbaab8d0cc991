//! kill -9 in every phase: the rotation ends as if nothing had happened, and acks of an earlier life do not count.

use super::with_first_key;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::Node;
use tfo_testbed::{SOON, by_size, poll_until};

#[test]
fn stored_acks_do_not_count_after_a_start() {
    let (mut world, mut nodes) = with_first_key(FAST);
    assert_eq!(world.operator().post("/v1/pools/edge/rotations", &json!({})).0, 200);
    // All have the staged key, two have said so: killed just before the barrier.
    nodes.iter_mut().for_each(|node| assert_eq!(node.step(), 2));
    nodes[..2].iter_mut().for_each(|node| assert_eq!(node.sync(0).0, 204));
    world.until("two acks", |pool| pool["converged"] == 2);
    world.kill();
    world.start();
    // The third acknowledges now; the other two have, in the last life only: nothing moves, and nothing is told.
    assert_eq!(nodes[2].sync(0).0, 204);
    let pool = world.until("the others are waited for", |pool| pool["converged"] == 1);
    assert_eq!((&pool["phase"], &pool["blocked_by"]), (&json!("staged"), &json!("barrier")));
    assert_eq!(pool["waiting_for"], json!(["a.cache.example.org", "b.cache.example.org"]));
    let (status, answer) = world.operator().post("/v1/pools/edge/abort", &json!({}));
    assert_eq!((status, &answer["kind"]), (503, &json!("not_heard")), "{answer}");
    let mut joiner = world.node("d.cache.example.org");
    let (status, answer) = joiner.sync(0);
    assert_eq!((status, &answer["kind"]), (503, &json!("not_heard")), "a restored store would tell lost history");
    // The pool requires the joiner now; once the coordinator has heard all nodes, the rotation continues.
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    joiner.converge();
    world.until("promoted", |pool| pool["phase"] == "promoted");
    for node in nodes.iter_mut().chain([&mut joiner]) {
        node.converge();
    }
    world.until("steady", |pool| pool["phase"] == "steady");
}

#[test]
fn nodes_that_come_back_early_wait_for_the_last_and_ask_once() {
    let (mut world, mut nodes) = with_first_key(FAST);
    assert_eq!(world.operator().post("/v1/pools/edge/rotations", &json!({})).0, 200);
    world.until("staged", |pool| pool["phase"] == "staged");
    world.kill();
    world.start();
    // None has heard of the rotation, so each has something to hear, and none may hear it before the last is back.
    let last = nodes.pop().unwrap();
    std::thread::scope(|scope| {
        let early = nodes.iter_mut().map(|node| scope.spawn(|| (node.sync(30), node.seen)));
        let early: Vec<_> = early.collect();
        world.until("two are back", |pool| pool["waiting_for"] == json!([last.name]));
        assert!(early.iter().all(|node| !node.is_finished()), "neither refused nor told");
        let mut last = last;
        // It asks for an answer at once: the others count only from now on, or already.
        let at_once = last.sync(0).0;
        assert!(matches!(at_once, 200 | 503), "{at_once}");
        for node in early {
            let ((status, _), seen) = node.join().unwrap();
            assert_eq!((status, seen), (200, 2));
        }
        let seen = if at_once == 200 { last.seen } else { last.step() };
        assert_eq!(seen, 2);
    });
}

/// Slots of every node, checked at each install.
#[derive(Default)]
struct Fleet {
    slots: Mutex<BTreeMap<String, (String, Option<String>)>>,
    stop: AtomicBool,
}

fn print(slot: &Value) -> Option<String> {
    slot["fingerprint"].as_str().map(str::to_owned)
}

impl Fleet {
    /// Syncs and installs until it is told to stop; a coordinator that is away is asked again.
    fn live(&self, mut node: Node) {
        while !self.stop.load(Ordering::Relaxed) {
            let (status, _) = node.sync(2);
            match status {
                200 => {
                    node.install();
                    let primary = print(&node.installed["primary"]).unwrap();
                    let mut slots = self.slots.lock().unwrap();
                    slots.insert(node.name.clone(), (primary, print(&node.installed["backup"])));
                    for (name, (primary, _)) in slots.iter() {
                        for (other, (its_primary, its_backup)) in slots.iter() {
                            let accepts = primary == its_primary || Some(primary) == its_backup.as_ref();
                            assert!(accepts, "{other} rejects what {name} mints: {slots:?}");
                        }
                    }
                }
                204 => {}
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

#[test]
fn a_rotation_ends_as_if_nothing_had_happened_wherever_it_is_killed() {
    let (mut world, nodes) = with_first_key(FAST);
    let fleet = Arc::new(Fleet::default());
    let rotations = by_size(1, 2, 13);
    // Killed at the commit of a phase, and some milliseconds into it; each epoch is used once all the same.
    let phases = ["staged", "promoted", "steady", "staged"];
    std::thread::scope(|scope| {
        for node in nodes {
            let fleet = Arc::clone(&fleet);
            scope.spawn(move || fleet.live(node));
        }
        let finish = Finish(&fleet);
        for round in 0..rotations {
            for (at, phase) in phases.iter().enumerate() {
                let before = world.until("steady", |pool| pool["phase"] == "steady" && pool["converged"] == 3);
                let operator = world.operator();
                let started = poll_until(SOON, || operator.post("/v1/pools/edge/rotations", &json!({})).0 == 200);
                assert!(started, "no rotation");
                let epoch = before["primary"]["epoch"].as_u64().unwrap();
                world.until(phase, |pool| pool["phase"] == *phase || pool["primary"]["epoch"].as_u64() > Some(epoch));
                std::thread::sleep(Duration::from_millis((round * 4 + at as u64) * 3 % 40));
                world.kill();
                world.start();
                let after = world.until("steady with the next key", |pool| {
                    pool["phase"] == "steady" && pool["primary"]["epoch"].as_u64() == Some(epoch + 1)
                });
                assert_eq!(after["backup"]["epoch"].as_u64(), Some(epoch), "{after}");
            }
        }
        drop(finish);
    });
    let (_, audit) = world.operator().get("/v1/pools/edge/audit");
    let revisions: Vec<u64> =
        audit["entries"].as_array().unwrap().iter().map(|entry| entry["revision"].as_u64().unwrap()).collect();
    assert!(revisions.iter().zip(1..).all(|(revision, expected)| *revision == expected), "{revisions:?}");
    // Three commits for each rotation, and the two of the first key: nothing twice, nothing lost.
    assert_eq!(revisions.len() as u64, 2 + 3 * 4 * rotations);
}

/// Ends the nodes, also when the test fails.
struct Finish<'a>(&'a Fleet);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
