//! Derived keys, no coordinator: a new secret and a new interval while the fleet serves.

use serde_json::Value;
use tfo_host::runtime::clock;
use tfo_model::time::UnixTime;

use tfo_testbed::levers::{CLIENTS, Entry, Fleet, inside};
use tfo_testbed::{PATIENCE, poll_until};

const NODES: usize = 4;
/// Today's entry: the shortest interval, and the lead that tolerates the most.
const INTERVAL_SECS: u64 = 10;
const LEAD_SECS: u64 = INTERVAL_SECS / 2;
/// How long the new entry may take to come to every node, and to be taken by its agent; a machine that does much else is slow.
const SPREAD_SECS: u64 = 12;
/// Where the new interval is looked for; the last of them is still half a minute.
const NEW_INTERVALS_SECS: std::ops::RangeInclusive<u64> = 11..=15;

fn entry(secret: usize, interval_secs: u64) -> Entry {
    Entry { secret, interval_secs, lead_secs: interval_secs / 2, not_before: None }
}

#[test]
fn a_new_secret_and_interval_cost_nothing_at_a_joint_and_much_without_one() {
    inside(|| {
        let mut fleet = Fleet::start(NODES);
        for node in 1..=NODES {
            fleet.derive(node, &[entry(0, INTERVAL_SECS)]);
            fleet.start_agent(node);
        }
        fleet.until_all(NODES, "ready", |status| status["state"] == "ok" && !status["backup"].is_null());
        fleet.serve_all(NODES);
        fleet.costs_nothing("a new secret and interval at a joint", through_the_joint);
        // Every client has a cookie under a key that no node holds any more.
        fleet.costs("a new secret without a joint", CLIENTS / 2..=u64::MAX, |fleet| {
            let before = fleet.look()["nodes"]["node1"]["status"]["primary"]["fingerprint"].clone();
            take_over(fleet, &[entry(0, INTERVAL_SECS)]);
            fleet.until_all(NODES, "changed", |status| status["primary"]["fingerprint"] != before);
        });
        fleet.end();
    });
}

/// Gives all agents a schedule, one after the other, and waits until each says that it has taken it.
fn take_over(fleet: &mut Fleet, schedule: &[Entry]) {
    let before = reloads(fleet);
    for node in 1..=NODES {
        fleet.derive(node, schedule);
        fleet.reload_agent(node);
    }
    let more = |now: &[usize]| now.iter().zip(&before).all(|(now, before)| now > before);
    assert!(poll_until(PATIENCE, || more(&reloads(fleet))), "a reload is missing: {:#}", fleet.look());
}

/// How often each agent has told its log that it took a new configuration.
fn reloads(fleet: &mut Fleet) -> Vec<usize> {
    let of = |node: usize| {
        let log = fleet.shell(node, "cat agent.log").said;
        log.lines().filter(|line| line.contains("reloaded") && line.contains("agent.toml")).count()
    };
    (1..=NODES).map(of).collect()
}

fn through_the_joint(fleet: &mut Fleet) {
    // It has to be everywhere an interval and a lead before it holds (docs/protocol.md#derive-mode).
    let last_moment = clock::now().secs() + SPREAD_SECS;
    let safe = last_moment + INTERVAL_SECS + LEAD_SECS;
    // On a boundary of its own no key of it is longer than the others; the old entry's last one may be.
    let ends = |interval: &u64| safe.next_multiple_of(*interval) + interval;
    let interval = NEW_INTERVALS_SECS.min_by_key(ends).expect("there are some");
    let joint = safe.next_multiple_of(interval);
    let new = Entry { not_before: Some(UnixTime::from_secs(joint)), ..entry(1, interval) };
    take_over(fleet, &[entry(0, INTERVAL_SECS), new]);
    let taken = clock::now().secs();
    assert!(taken <= last_moment, "this machine is too slow: {} s too late", taken - last_moment);
    fleet.clients_come_round();
    let holds = |slot: &Value, since: u64| slot["epoch"] == since;
    fleet.until_all(NODES, "staged", |status| status["phase"] == "staged" && holds(&status["backup"], joint));
    let agreed = fleet.look()["nodes"]["node1"]["status"]["backup"]["fingerprint"].clone();
    fleet.until_all(NODES, "at the joint", |status| {
        holds(&status["primary"], joint) && status["primary"]["fingerprint"] == agreed && status["state"] == "ok"
    });
    // One more key of the new entry: it is the new interval's.
    let next = joint + interval;
    fleet.until_all(NODES, "past the joint", |status| {
        holds(&status["primary"], next) && holds(&status["backup"], joint) && status["state"] == "ok"
    });
}
