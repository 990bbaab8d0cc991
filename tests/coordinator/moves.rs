//! Nodes that are moved to another pool: what the old pool, the new one, the nodes and the audit log say.

use serde_json::{Value, json};

use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, World};
use tfo_testbed::{SOON, poll_until};

const A: &str = "a.cache.example.org";
const B: &str = "b.cache.example.org";
const C: &str = "c.cache.example.org";
/// The node that is in pool `dns` from the start.
const D: &str = "d.cache.example.org";

/// Pool `edge` with a first key on a, b and c; pool `dns` takes a, b and d, and has no key.
fn two_pools() -> (World, Vec<Node>) {
    let dns = format!("nodes = [{A:?}, {B:?}, {D:?}]\n{}", FAST.replace("expected_nodes = 3", "expected_nodes = 1"));
    super::with_first_key(&format!("{FAST}[pools.dns]\n{dns}"))
}

/// One sync of a node with another pool than `edge`.
fn sync_dns(node: &mut Node) -> (u16, Value) {
    let (status, body) = node.client.post("/v1/pools/dns/sync", &node.request(0));
    if status == 200 {
        node.seen = body["generation"].as_u64().unwrap();
        node.told = body.clone();
        node.install();
    }
    (status, body)
}

/// Syncs until there is nothing new.
#[track_caller]
fn converge_dns(node: &mut Node) {
    let mut last = (0, Value::Null);
    let is_done = || {
        last = sync_dns(node);
        last.0 == 204
    };
    assert!(poll_until(SOON, is_done), "{last:?}");
}

/// Gives pool `dns` its key, which d holds.
fn dns_has_a_key(world: &World) {
    let mut d = world.node(D);
    assert_eq!(sync_dns(&mut d).0, 204, "no key yet");
    let operator = world.operator();
    assert_eq!(operator.post("/v1/pools/dns/rotations", &json!({"mode": "first"})).0, 200);
    assert_eq!((sync_dns(&mut d).0, sync_dns(&mut d).0), (200, 204));
    assert_eq!(operator.post("/v1/pools/dns/resume", &json!({})).0, 200);
}

fn move_nodes(world: &World, from: &str, to: &str, names: &[&str]) -> (u16, Value) {
    let body = json!({"action": {"move": {"to": to}}, "nodes": names, "reason": "because"});
    world.operator().post(&format!("/v1/pools/{from}/nodes"), &body)
}

fn required(world: &World, pool: &str) -> Value {
    world.operator().get(&format!("/v1/pools/{pool}")).1["required"].take()
}

/// The last entries of a pool's audit log, the latest first.
fn audit(world: &World, pool: &str, count: usize) -> Vec<(Value, Value, Value)> {
    let (_, mut log) = world.operator().get(&format!("/v1/pools/{pool}/audit"));
    let mut entries = log["entries"].take();
    let lines = entries.as_array_mut().unwrap().iter_mut().rev().take(count);
    lines.map(|line| (line["action"].take(), line["nodes"].take(), line["reason"].take())).collect()
}

#[test]
fn a_move_is_refused_with_its_reason_and_nothing_is_done() {
    let (world, _nodes) = two_pools();
    let refused = |to: &str, names: &[&str], says: &str| {
        let before = (world.pool()["revision"].take(), required(&world, "edge"));
        let (status, answer) = move_nodes(&world, "edge", to, names);
        assert_eq!((status, &answer["kind"]), (409, &json!("refused")), "{to}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(says), "{to}: {answer}");
        assert!(answer["remedy"].is_string(), "{answer}");
        assert_eq!((world.pool()["revision"].take(), required(&world, "edge")), before);
    };
    refused("web", &[B], "no pool web");
    refused("dns", &[A, B, C], "the `nodes` patterns of pool dns match no such name: c.cache.example.org");
    refused("dns", &[A, B], "pool dns has no key yet");
    refused("edge", &[A], "in this pool already");
    dns_has_a_key(&world);
    let deny = json!({"action": "deny", "nodes": [A]});
    assert_eq!(world.operator().post("/v1/pools/dns/nodes", &deny).0, 200);
    refused("dns", &[A, B], "denied in pool dns: a.cache.example.org");
    // A name that the old pool does not have.
    let (status, answer) = move_nodes(&world, "edge", "dns", &[B, D]);
    assert_eq!((status, &answer["kind"]), (404, &json!("unknown_node")), "{answer}");
    assert_eq!(required(&world, "edge"), 3);
}

#[test]
fn a_moved_node_leaves_one_pool_at_once_and_joins_the_other() {
    let (mut world, mut nodes) = two_pools();
    dns_has_a_key(&world);
    let pool_id = |name: &str| world.operator().get(&format!("/v1/pools/{name}")).1["pool_id"].take();
    let (edge, dns) = (pool_id("edge"), pool_id("dns"));
    let order = json!({"from": edge, "pool": "dns", "pool_id": dns});
    let is_told = |(status, body): (u16, Value), order: &Value| {
        assert_eq!((status, &body["kind"], &body["moved"]), (409, &json!("node_moved"), order), "{body}");
    };
    // Before the order the name of another pool opens nothing.
    let (status, answer) = sync_dns(&mut nodes[1]);
    assert_eq!((status, &answer["kind"]), (409, &json!("other_pool")), "{answer}");

    // Its request is held when the order comes.
    let (client, request) = (nodes[1].client.clone(), nodes[1].request(20));
    let held = std::thread::spawn(move || client.post("/v1/pools/edge/sync", &request));
    let is_held = || {
        world.observed("/metrics").is_some_and(|(_, text)| text.contains("tfo_coordinator_pool_held{pool=\"edge\"} 1"))
    };
    assert!(poll_until(SOON, is_held), "{:?}", world.observed("/metrics"));
    let (status, done) = move_nodes(&world, "edge", "dns", &[B]);
    assert_eq!((status, &done["action"], &done["nodes"]), (200, &json!("move"), &json!([B])), "{done}");
    is_told(held.join().unwrap(), &order);
    assert_eq!(audit(&world, "edge", 1), [(json!("move"), json!([B]), json!("because; to dns"))]);
    let (_, shown) = world.operator().get("/v1/pools/edge/nodes");
    let row = &shown["nodes"][1];
    assert_eq!((&row["state"], &row["moved_to"]), (&json!("moved"), &json!("dns")), "{row}");
    assert_eq!((required(&world, "edge"), required(&world, "dns")), (json!(2), json!(1)), "it joins by its own sync");

    // The old pool rotates without it.
    assert_eq!(world.operator().post("/v1/pools/edge/rotations", &json!({"force": true})).0, 200);
    for phase in ["promoted", "steady"] {
        nodes[0].converge();
        nodes[2].converge();
        world.until(phase, |pool| pool["phase"] == phase);
    }

    // The order outlives the coordinator, which has heard no node yet; in either pool, whatever the node reports.
    world.kill();
    world.start();
    is_told(nodes[1].sync(0), &order);
    is_told(sync_dns(&mut nodes[1]), &order);
    // Only of this node: another one that reports this pool's keys is refused as ever.
    nodes[0].new_session();
    assert_eq!(sync_dns(&mut nodes[0]).1["kind"], "other_pool");

    // There it is a new node.
    let before = nodes[1].installed.take();
    nodes[1].new_session();
    // This coordinator has not seen d, and gives no node of the pool anything new before.
    assert_eq!(sync_dns(&mut nodes[1]).1["kind"], "not_heard");
    converge_dns(&mut world.node(D));
    converge_dns(&mut nodes[1]);
    assert_eq!(nodes[1].told["pool_id"], dns);
    assert_eq!(required(&world, "dns"), 2);
    assert_ne!(nodes[1].installed["primary"], before["primary"]);
    is_told(nodes[1].sync(0), &order);
    let (_, itself) = nodes[1].client.get("/v1/pools/edge/self");
    assert_eq!(itself["moved_to"], "dns", "{itself}");

    // And back: the order of the pool that it returns to ends, so that they do not send it to each other.
    let (status, done) = move_nodes(&world, "dns", "edge", &[B]);
    assert_eq!((status, &done["pool"]), (200, &json!("dns")), "{done}");
    assert_eq!(audit(&world, "edge", 1), [(json!("forget"), json!([B]), json!("moved back from dns"))]);
    is_told(sync_dns(&mut nodes[1]), &json!({"from": dns, "pool": "edge", "pool_id": edge}));
    nodes[1].installed = Value::Null;
    nodes[1].new_session();
    // All nodes must be heard by this coordinator before one gets something new.
    nodes[0].converge();
    nodes[2].converge();
    nodes[1].converge();
    assert_eq!((required(&world, "edge"), required(&world, "dns")), (json!(3), json!(1)));
    // Once more the same order, because its answer was lost: nothing changes.
    assert_eq!(move_nodes(&world, "dns", "edge", &[B]).0, 200);
    nodes[1].converge();
    assert_eq!(required(&world, "edge"), 3);
}
