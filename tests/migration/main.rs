//! From what a fleet has to tfo-fleet, while clients connect to all nodes: what is typed is what
//! the pages of docs/how-to say.
//!
//! Each test first takes a step that the page warns of, and sees it cost cookies; a migration that then costs nothing does so because
//! of its steps.  All run beside each other: they mostly wait for the clock, because the shortest interval is 10 s.

#[path = "../fleet/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod harness;
mod node;
mod script;
mod static_key;
#[path = "../support/mod.rs"]
mod support;
mod tofurkey;

use std::time::Duration;

use harness::{Fleet, can_run};
use serde_json::json;

/// Nodes of each fleet.
const NODES: usize = 4;
/// More rejections than clients, so not only one unlucky cookie each (tests/fleet/broken.rs).
const MANY: u64 = 20;
/// What `check` says of a file that somebody else has written.
const FOREIGN: &str = "50-tcp_fastopen_key.conf: this file was not written by tfo-agent";
/// Longest wait for a change of keys: two intervals, on a slow machine.
const CHANGE: Duration = Duration::from_secs(60);

#[test]
fn every_migration_that_the_pages_describe_costs_nothing() {
    if !can_run() {
        return;
    }
    let migrations: [(&str, fn()); 3] = [
        ("static key", static_key::a_static_key_becomes_derived_keys),
        ("tofurkey", tofurkey::a_fleet_of_tofurkeys_becomes_ours_while_its_keys_change),
        ("script", script::a_timer_script_gives_way_to_a_coordinator),
    ];
    // More of them than libtest has threads on a small machine.
    std::thread::scope(|scope| {
        for (name, migration) in migrations {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn_scoped(scope, migration).expect("a thread starts");
        }
    });
}

/// A fleet whose nodes all have the same keys by these commands, with servers and clients.
fn serving(keys_by: &str) -> Fleet {
    let mut fleet = Fleet::beside(NODES);
    node::prepare(&mut fleet, NODES);
    for number in 1..=NODES {
        node::typed(&mut fleet, number, keys_by);
    }
    (1..=NODES).for_each(|number| fleet.on("serve", number));
    fleet.order(&json!({"do": "start_clients"}));
    fleet.clients_come_round();
    fleet
}
