//! `move`: the plan, what is refused before and by the coordinator, and the request.

use serde_json::{Value, json};
use tfo_testbed::fake_coordinator::Reply;

use super::fake::{FakeCoordinator, Operator, done, node, pool};

const NODES: &str = "POST /v1/pools/edge/nodes";

/// Pool `edge` with four nodes, and pools `dns` (steady) and `web` (empty) beside it.
fn three_pools(with: Value) -> (Operator, FakeCoordinator) {
    let nodes = json!([
        node("a1.test", json!({})),
        node("a2.test", json!({"state": "straggler"})),
        node("b1.test", json!({"state": "moved", "moved_to": "dns"})),
        node("b2.test", json!({"state": "moved", "moved_to": "web"})),
    ]);
    let edge = pool(with);
    let (operator, coordinator) = Operator::with(&edge, &nodes);
    let dns = pool(json!({"pool": "dns", "pool_id": "d".repeat(32), "generation": 7}));
    let web = pool(json!({"pool": "web", "pool_id": "e".repeat(32), "generation": 0, "phase": "empty"}));
    coordinator.ok("GET /v1/pools", json!({"pools": [dns, edge, web]}));
    coordinator.ok(NODES, done("move", json!({"nodes": ["a1.test"]})));
    (operator, coordinator)
}

#[test]
fn nodes_are_moved_by_one_order() {
    let cases: [(&[&str], &[&str], bool); 3] = [
        (&["a1.test"], &["a1.test"], false),
        // A node that was moved there already is part of the pattern, one that was moved elsewhere is not.
        (&["--match", "*"], &["a1.test", "a2.test", "b1.test"], false),
        (&["a1.test", "a2.test", "--lower-expected"], &["a1.test", "a2.test"], true),
    ];
    for (arguments, nodes, lower) in cases {
        let (operator, coordinator) = three_pools(json!({}));
        operator.ends(&[&["move"], arguments, &["--to", "dns", "--reason", "because", "--yes"]].concat(), 0);
        let orders = coordinator.orders();
        assert_eq!((orders.len(), orders[0].what.as_str()), (1, NODES));
        let action = json!({"move": {"to": "dns", "lower_expected": lower}});
        assert_eq!(orders[0].body, json!({"action": action, "nodes": nodes, "reason": "because"}));
    }
    let (operator, _coordinator) = three_pools(json!({}));
    let done = operator.json(&["move", "a1.test", "--to", "dns", "--yes"], 0);
    assert_eq!((&done["action"], &done["nodes"]), (&json!("move"), &json!(["a1.test"])));
}

#[test]
fn the_plan_says_what_becomes_of_the_clients() {
    let (operator, coordinator) = three_pools(json!({"expected_nodes": 3}));
    let plans: String = [&["a1.test"][..], &["a1.test", "a2.test", "--lower-expected"]]
        .map(|arguments| operator.ok(&[&["move"], arguments, &["--to", "dns", "--dry-run"]].concat()))
        .concat();
    insta::assert_snapshot!("move_plans", plans);
    // It can do harm, and is not sent without a yes.
    let (_, stderr) = operator.ends(&["move", "a1.test", "--to", "dns"], 2);
    assert!(stderr.contains("--yes"), "{stderr}");
    assert!(coordinator.orders().is_empty());
}

#[test]
fn what_cannot_be_moved_is_refused_and_nothing_is_sent() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["a1.test", "--to", "ntp"], 3, "no pool ntp"),
        (&["a1.test", "--to", "edge"], 3, "in pool edge already"),
        (&["a1.test", "--to", "web"], 3, "pool web has no key yet"),
        (&["b2.test", "--to", "dns"], 3, "b2.test was moved to another pool already"),
        (&["x.test", "--to", "dns"], 1, "no node x.test"),
        (&["a1.test"], 2, "--to"),
    ];
    let (operator, coordinator) = three_pools(json!({}));
    for (arguments, code, says) in cases {
        let (stdout, stderr) = operator.ends(&[&["move"], arguments, &["--yes"]].concat(), code);
        assert!(stdout.is_empty() && stderr.contains(says), "{arguments:?}: {stderr}");
    }
    assert!(coordinator.orders().is_empty());
    // The coordinator's own refusal: its reason, and its remedy.
    let body = json!({
        "kind": "refused", "message": "the `nodes` patterns of pool dns match no such name: a1.test", "request_id": "r",
        "remedy": "add them there, and reload"
    });
    coordinator.on(NODES, [Reply::Json(409, body)]);
    let (_, stderr) = operator.ends(&["move", "a1.test", "--to", "dns", "--yes"], 3);
    assert!(stderr.contains("match no such name: a1.test") && stderr.contains("add them there"), "{stderr}");
}

#[test]
fn the_list_says_where_a_node_went() {
    let (operator, _coordinator) = three_pools(json!({}));
    let shown = operator.ok(&["nodes", "--all"]);
    let row = shown.lines().find(|line| line.starts_with("b1.test")).unwrap();
    assert!(row.contains("moved") && row.ends_with("moved to dns"), "{shown}");
    let page = operator.ok(&["nodes", "b1.test"]);
    assert!(page.contains("to pool dns: set `pool = \"dns\"` in its agent.toml"), "{page}");
}
