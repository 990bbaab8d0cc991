//! One fleet of 8 nodes, one scenario after the other, and not one connection rejected.

use std::time::Duration;

use serde_json::{Value, json};

use tfo_testbed::levers::{CLIENTS, Fleet, inside};
use tfo_testbed::{by_size, full};

/// Longest wait until a node is absent: three minutes and a quarter for a daemon, and a rotation.
const ABSENT_MAX: Duration = Duration::from_secs(240);

/// Longest wait until a day of rotations is over.
const DAY_MAX: Duration = Duration::from_secs(600);

#[test]
fn not_one_connection_loses_its_cookie() {
    inside(|| {
        let mut fleet = Fleet::up(8);
        under_fire(&mut fleet);
        if full() {
            // Half a minute and three of waiting.
            fleet.costs_nothing("a node silent until it counts as absent, withdrawn", absent);
            fleet.costs_nothing("a daemon silent until it counts as absent, withdrawn", daemon_absent);
            under_fire(&mut fleet);
            fleet.costs_nothing("a day of hourly rotations by the schedule, ten seconds an hour", day);
            fleet.costs_nothing("fifty rotations", |fleet| (0..50).for_each(|_| fleet.rotation()));
            under_fire(&mut fleet);
        }
        fleet.end();
    });
}

fn under_fire(fleet: &mut Fleet) {
    fleet.costs_nothing("some rotations", |fleet| (0..by_size(2, 5, 5)).for_each(|_| fleet.rotation()));
    fleet.costs_nothing("agents killed in the middle of a stage", agents_killed_in_a_stage);
    fleet.costs_nothing("an agent frozen and let go", frozen);
    fleet.costs_nothing("the coordinator killed in the middle of a promotion", coordinator_killed);
    fleet.costs_nothing("a node cut off for two rotations, withdrawn", cut_off_and_withdrawn);
    fleet.costs_nothing("a node rebooted with an older file", rebooted);
    fleet.costs_nothing("a node installed anew", installed_anew);
    fleet.costs_nothing("a new node in the middle of a promotion", joined);
    fleet.costs_nothing("abort while staged", aborted_while_staged);
    fleet.costs_nothing("abort while promoted", aborted_while_promoted);
    fleet.costs_nothing("timers beside daemons", timers);
    // A revoke ends the promise to clients (docs/protocol.md#rule-4): a client that did not return between the
    // last flip and the drop loses its cookie, once.
    fleet.costs("revoke in the middle of a promotion", 0..=CLIENTS, revoked);
    fleet.costs_nothing("a rotation after all that", Fleet::rotation);
}

/// A day's rotations in four minutes: ten seconds is the shortest interval that there is.
fn day(fleet: &mut Fleet) {
    const ROTATIONS: u64 = 24;
    let epoch = |pool: &Value| pool["primary"]["epoch"].as_u64().unwrap_or(0);
    let begun = epoch(&fleet.pool());
    let before = fleet.change_coordinator(|text| {
        text.replace("interval = \"1d\"", "interval = \"10s\"\ncookie_lifetime_max = \"20s\"")
    });
    fleet.until_within(DAY_MAX, "a day's rotations", |pool| epoch(pool) >= begun + ROTATIONS);
    fleet.change_coordinator(|_| before.clone());
    fleet.settled();
}

fn agents_killed_in_a_stage(fleet: &mut Fleet) {
    fleet.freeze_agent(2);
    fleet.begin_rotation();
    fleet.waits_for("staged", 2);
    // One that has acknowledged, and the one that has not.
    for node in [5, 2] {
        fleet.kill_agent(node);
    }
    fleet.clients_come_round();
    for node in [5, 2] {
        fleet.start_agent(node);
    }
    fleet.settled();
}

fn frozen(fleet: &mut Fleet) {
    fleet.freeze_agent(3);
    fleet.begin_rotation();
    fleet.waits_for("staged", 3);
    fleet.clients_come_round();
    fleet.waits_for("staged", 3);
    fleet.thaw_agent(3);
    fleet.settled();
}

fn coordinator_killed(fleet: &mut Fleet) {
    fleet.begin_rotation();
    fleet.half_promoted();
    fleet.kill_coordinator();
    fleet.clients_come_round();
    fleet.start_coordinator();
    fleet.settled();
}

fn cut_off_and_withdrawn(fleet: &mut Fleet) {
    let required = fleet.pool()["required"].clone();
    fleet.withdraw(4);
    fleet.cut(4);
    fleet.begin_rotation();
    fleet.leave_behind(4);
    fleet.settled();
    fleet.force_rotation();
    fleet.settled();
    fleet.reconnect(4);
    fleet.has_keys(4);
    fleet.until("everybody is required again", |pool| pool["required"] == required);
    fleet.announce(4);
}

/// The timer of a node stops.  No node is absent before it has missed three of its periods (docs/protocol.md#rule-17), and ten seconds is
/// the shortest that there is.
fn absent(fleet: &mut Fleet) {
    fleet.withdraw(6);
    fleet.end_agent(6);
    fleet.timer(6, Some(10));
    assert_eq!(fleet.once(6), Some(0));
    let required = passed_without(fleet, 6);
    fleet.timer(6, None);
    fleet.start_agent(6);
    returned(fleet, 6, required);
}

/// The same with a daemon, which declares a minute.
fn daemon_absent(fleet: &mut Fleet) {
    fleet.withdraw(3);
    fleet.freeze_agent(3);
    let required = passed_without(fleet, 3);
    fleet.thaw_agent(3);
    returned(fleet, 3, required);
}

/// A staged rotation waits for the node, and continues without an order once the node is absent.  Gives how many
/// nodes were required before.
fn passed_without(fleet: &mut Fleet, node: usize) -> u64 {
    let required = fleet.pool()["required"].as_u64().expect("a number");
    fleet.begin_rotation();
    // A slow machine may see it only when the node is absent already.
    let waiting_for = json!([format!("node{node}")]);
    let waits = |pool: &Value| pool["phase"] == "staged" && pool["waiting_for"] == waiting_for;
    fleet.until("it waits for the node, or is without it", |pool| waits(pool) || pool["required"] == required - 1);
    let steady = |pool: &Value| pool["phase"] == "steady" && pool["converged"] == pool["required"];
    let pool = fleet.until_within(ABSENT_MAX, "without the node", steady);
    assert_eq!(pool["required"], required - 1);
    required
}

/// The node has what the others have before connections come to it again.
fn returned(fleet: &mut Fleet, node: usize, required: u64) {
    fleet.has_keys(node);
    fleet.until("everybody is required again", |pool| pool["required"] == required);
    fleet.announce(node);
}

fn rebooted(fleet: &mut Fleet) {
    fleet.keep_file(6);
    fleet.rotation();
    fleet.withdraw(6);
    fleet.reboot_with_kept_file(6);
    fleet.start_agent(6);
    // Services start after the agent is READY, which is after its first verified install.
    fleet.has_keys(6);
    fleet.serve(6);
    fleet.announce(6);
}

fn installed_anew(fleet: &mut Fleet) {
    fleet.withdraw(7);
    fleet.wipe(7);
    fleet.start_agent(7);
    fleet.has_keys(7);
    fleet.serve(7);
    fleet.announce(7);
}

fn joined(fleet: &mut Fleet) {
    let required = fleet.pool()["required"].as_u64().expect("a number");
    let new = usize::try_from(required).expect("a few nodes") + 1;
    fleet.join(new);
    fleet.begin_rotation();
    fleet.half_promoted();
    fleet.start_agent(new);
    fleet.has_keys(new);
    fleet.serve(new);
    fleet.announce(new);
    fleet.settled();
    fleet.until("the new node counts", |pool| pool["required"] == new);
}

fn aborted_while_staged(fleet: &mut Fleet) {
    fleet.freeze_agent(1);
    fleet.begin_rotation();
    fleet.waits_for("staged", 1);
    fleet.command("/abort", &json!({"reason": "test"}));
    fleet.thaw_agent(1);
    fleet.settled();
    fleet.clients_come_round();
    fleet.command("/resume", &json!({}));
    fleet.rotation();
}

fn aborted_while_promoted(fleet: &mut Fleet) {
    fleet.begin_rotation();
    fleet.half_promoted();
    fleet.clients_come_round();
    fleet.command("/abort", &json!({"reason": "test"}));
    fleet.settled();
    fleet.clients_come_round();
    fleet.command("/resume", &json!({}));
    fleet.rotation();
}

fn timers(fleet: &mut Fleet) {
    let nodes = [1, 5, 8];
    nodes.iter().for_each(|node| fleet.end_agent(*node));
    fleet.begin_rotation();
    // Every tour is what a timer would start: the stage takes one, the promotion another.
    let mut tours = 0;
    while fleet.pool()["phase"] != "steady" {
        tours += 1;
        assert!(tours < 100, "{:#}", fleet.pool());
        for node in nodes {
            assert_eq!(fleet.once(node), Some(0));
        }
    }
    fleet.settled();
    nodes.iter().for_each(|node| fleet.start_agent(*node));
}

fn revoked(fleet: &mut Fleet) {
    fleet.begin_rotation();
    let pool = fleet.half_promoted();
    // What most nodes are told to make cookies with is the old key until the last wave.
    let keys = [&pool["primary"]["epoch"], &pool["backup"]["epoch"]];
    let old = keys.iter().filter_map(|epoch| epoch.as_u64()).min();
    fleet.command("/rotations", &json!({"mode": "revoke", "epochs": [old], "reason": "leaked"}));
    fleet.settled();
    let pool = fleet.until("the key is gone", |pool| pool["revoking"] == json!([]) && pool["backup"].is_null());
    assert_ne!(pool["primary"]["epoch"].as_u64(), old);
}
