//! One stolen node: what it reports, promises and keeps to itself does not keep its key in use.

use super::with_first_key;
use serde_json::{Value, json};

use tfo_testbed::config::FAST;
use tfo_testbed::{SOON, poll_until};

const STOLEN: &str = "c.cache.example.org";

/// The worst: it reports a generation that no node was given, promises to come back in two hours, falls silent, and the
/// coordinator starts again.
#[test]
fn its_key_is_driven_out_whatever_it_said_last() {
    let (mut world, mut nodes) = with_first_key(FAST);
    let mut stolen = nodes.pop().unwrap();
    stolen.different = json!({"next_contact_secs": 604_800});
    let (status, answer) = stolen.sync(0);
    assert_eq!((status, &answer["kind"]), (409, &json!("period_too_long")), "{answer}");
    stolen.different = json!({"next_contact_secs": 7_200, "seen": stolen.seen + 7});
    drop(stolen.sync(0));
    world.until("frozen", |pool| pool["blocked_by"] == "frozen");
    world.kill();
    world.start();
    // The others are heard; the pool is frozen, and its verdict names the node.
    nodes.iter_mut().for_each(|node| assert_eq!(node.sync(0).0, 409));
    let pool = world.until("frozen", |pool| pool["blocked_by"] == "frozen");
    assert_eq!((&pool["verdict"]["kind"], &pool["verdict"]["nodes"]), (&json!("frozen"), &json!([STOLEN])));

    let order = |path: &str, body: Value| world.operator().post(&format!("/v1/pools/edge/{path}"), &body);
    let (status, answer) = order("rotations", json!({"mode": "revoke", "reason": "stolen"}));
    assert_eq!((status, &answer["kind"]), (409, &json!("pool_frozen")), "without its deny: {answer}");
    let (status, answer) = order("rotations", json!({"mode": "revoke", "deny": [STOLEN], "reason": "stolen"}));
    assert_eq!(status, 200, "{answer}");
    let driven_out = poll_until(SOON, || {
        nodes.iter_mut().for_each(|node| {
            if node.sync(0).0 == 200 {
                node.install();
            }
        });
        // The key that the stolen node has is that of epoch 1.
        world.pool()["revoking"] == json!([]) && !nodes.iter().any(|node| node.epochs().contains(&1))
    });
    assert!(driven_out, "{}", world.pool());
    assert_eq!(stolen.sync(0).0, 403);
}

/// Each way to take it out needs no word from it, in a life in which it was never heard.
#[test]
fn it_is_taken_out_unheard() {
    for action in [json!("deny"), json!({"forget": {}}), json!({"exclude": {"until": "2100-01-01T00:00:00Z"}})] {
        let (mut world, mut nodes) = with_first_key(FAST);
        drop(nodes.pop());
        world.kill();
        world.start();
        let body = json!({"action": action, "nodes": [STOLEN], "reason": "stolen"});
        let (status, answer) = world.operator().post("/v1/pools/edge/nodes", &body);
        assert_eq!(status, 200, "{action}: {answer}");
        nodes.iter_mut().for_each(|node| assert_eq!(node.sync(0).0, 204));
        let (status, answer) = world.operator().post("/v1/pools/edge/rotations", &json!({"force": true}));
        assert_eq!(status, 200, "{action}: {answer}");
    }
}
