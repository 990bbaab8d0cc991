//! How a pool gets its first keys: made here, or those that the nodes have; and with some agents missing.

use serde_json::json;

use super::watch::Watch;
use tfo_testbed::config::fast;
use tfo_testbed::fleet::{Fleet, node};
use tfo_testbed::{need_netns, skip_unless};

/// Kernel text of a key, and its fingerprint by Python's hashlib: sha256(b"tfo-fleet/v1/fingerprint" + raw)[:8].
const KEY: &str = "7a0c91e3-55d1f0b8-19c64e2f-8d3ba670";
const PRINT: &str = "6c3f8e4b21cc43a0";

/// A fleet whose nodes have shared one key until now, by a file that something else has put there.
fn shared(count: usize) -> Fleet {
    let fleet = Fleet::new(count, &fast(count));
    for host in &fleet.hosts {
        host.put("sysctl.d/50-tcp_fastopen_key.conf", format!("net.ipv4.tcp_fastopen_key = {KEY}\n").as_bytes(), 0o600);
        host.set_kernel(KEY);
    }
    fleet
}

#[test]
fn a_static_key_is_migrated() {
    skip_unless!(need_netns());
    let mut fleet = shared(3);
    let watch = Watch::over(&fleet.hosts);
    fleet.serve();
    fleet.start_agents();
    fleet.until_known(3);
    // A new first key would cost every client its cookie.
    let (_, refused) = fleet.ends(&["rotate", "--first", "--yes"], 3);
    assert!(refused.contains(PRINT) && refused.contains("import"), "{refused}");
    fleet.center.put("static.key", format!("{KEY}\n").as_bytes(), 0o400);
    let (_, plan) = fleet.ends(&["import", "--key-file", "static.key", "--expect", "3", "--yes"], 0);
    assert!(plan.contains("3 of 3 nodes that reported already hold the primary"), "{plan}");
    fleet.until("all have it", |pool| pool["converged"] == 3 && pool["blocked_by"] == "held");
    assert_eq!(fleet.agreed(), KEY);
    fleet.ends(&["rotate"], 3);
    fleet.ends(&["resume"], 0);
    assert!(fleet.rotate().ends_with(&format!(",{KEY}")));
    watch.end();
    fleet.rotate();
    assert!(!fleet.agreed().contains(KEY));
}

#[test]
fn an_empty_pool_gets_its_first_key() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::new(3, &fast(3));
    fleet.serve();
    (0..2).for_each(|number| fleet.start_agent(number));
    fleet.until_known(2);
    assert_eq!(fleet.pool()["phase"], "empty");
    assert!(fleet.ends(&["rotate"], 3).1.contains("--first"), "the way is named");
    fleet.ends(&["rotate", "--first", "--expect", "3", "--reason", "begin", "--yes"], 0);
    fleet.until("two have it", |pool| pool["converged"] == 2);
    let (_, refused) = fleet.ends(&["resume"], 3);
    assert!(refused.contains("1 of 3 nodes"), "{refused}");
    fleet.start_agent(2);
    fleet.converged(3);
    fleet.agreed();
    fleet.ends(&["resume"], 0);
    fleet.rotate();
    assert!(fleet.ends(&["rotate", "--first", "--yes"], 3).1.contains("already"));
    // Where the foreign key that all share is to be given up, that is said.
    let mut fleet = shared(2);
    fleet.serve();
    fleet.start_agents();
    fleet.until_known(2);
    fleet.ends(&["rotate", "--first", "--expect", "2", "--yes"], 3);
    fleet.ends(&["rotate", "--first", "--expect", "2", "--force", "--yes", "--wait", "--timeout", "60s"], 0);
    assert!(!fleet.agreed().contains(KEY));
}

#[test]
fn nine_of_ten_agents_are_deployed() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::new(10, &fast(10).replace("\"1d\"", "\"10s\""));
    fleet.serve();
    (0..9).for_each(|number| fleet.start_agent(number));
    fleet.until_known(9);
    fleet.ends(&["rotate", "--first", "--expect", "9", "--wait", "--yes", "--timeout", "60s"], 0);
    fleet.ends(&["resume"], 0);
    // The schedule does not start one, and the operator neither.
    let held = fleet.until("gated", |pool| pool["blocked_by"] == "expected_nodes");
    assert_eq!((&held["required"], &held["phase"]), (&json!(9), &json!("steady")));
    let (shown, _) = fleet.ends(&["pools"], 0);
    assert!(shown.contains("expected_nodes") || shown.contains("9 of 10"), "{shown}");
    let (_, refused) = fleet.ends(&["rotate"], 3);
    assert!(refused.contains("9") && refused.contains("10") && refused.contains("--force"), "{refused}");
    let ended = fleet.json(&["rotate", "--force", "--yes", "--wait", "--timeout", "60s"]);
    assert_eq!(ended["result"], "done", "{ended}");
    let watch = Watch::over(&fleet.hosts[..9]);
    let after = fleet.until("gated again", |pool| pool["blocked_by"] == "expected_nodes");
    assert_eq!(after["primary"]["epoch"].as_u64(), held["primary"]["epoch"].as_u64().map(|epoch| epoch + 1));
    // The tenth node comes: it gets the present keys in one step, and the schedule continues by itself.
    fleet.start_agent(9);
    fleet.until("rotated by the schedule", |pool| {
        pool["required"] == 10 && pool["primary"]["epoch"].as_u64() > after["primary"]["epoch"].as_u64()
    });
    let nodes = fleet.json(&["nodes"]);
    assert!(nodes["nodes"].as_array().unwrap().iter().any(|shown| shown["node"] == node(9)), "{nodes}");
    // It came with a key of its own to nodes that share one, which is no split: it was told at once.
    assert!(!fleet.log().contains("severity=critical"), "{}", fleet.log());
    watch.end();
}
