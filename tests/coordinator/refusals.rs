//! What is refused, each with its error, and with nothing changed.

use super::with_first_key;
use reqwest::Method;
use serde_json::{Value, json};

use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{OPERATOR, VIEWER, World};

const SYNC: &str = "/v1/pools/edge/sync";

/// Everything that a refused request must leave as it was.
fn state(world: &World) -> (Value, usize) {
    let (_, audit) = world.operator().get("/v1/pools/edge/audit");
    let pool = world.pool();
    let kept = ["revision", "generation", "phase", "paused", "hold", "required", "primary", "backup"];
    (kept.map(|key| pool[key].clone()).to_vec().into(), audit["entries"].as_array().unwrap().len())
}

#[test]
fn nobody_takes_the_place_of_another() {
    let (world, nodes) = with_first_key(FAST);
    let before = state(&world);
    let request = nodes[0].request(0);
    let refused = |names: &[&str], status: u16, kind: &str| {
        let (found, body) = world.client(names).post(SYNC, &request);
        assert_eq!((found, body["kind"].as_str()), (status, Some(kind)), "{names:?}: {body}");
        assert!(body["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
    };
    // Right authority, not in the pool; an operator is not a node; two names count as none.
    refused(&["db1.example.org"], 403, "not_in_pool");
    refused(&[OPERATOR], 403, "not_a_node");
    // Nor with a node's name beside it; nor is the coordinator, whose certificate is a client's too.
    for other in [OPERATOR, VIEWER, "localhost"] {
        refused(&["a.cache.example.org", other], 403, "not_a_node");
    }
    refused(&["x.cache.example.org", "y.cache.example.org"], 403, "not_in_pool");
    // The body does not say who it is.
    let mut body = request.clone();
    body["node"] = json!("b.cache.example.org");
    let (status, answer) = nodes[0].client.post(SYNC, &body);
    assert_eq!((status, &answer["kind"]), (400, &json!("bad_request")));
    // Nodes and viewers command nothing, nodes do not even look.
    let viewer = world.client(&[VIEWER]);
    let node = &nodes[0].client;
    for path in ["/v1/pools", "/v1/pools/edge", "/v1/pools/edge/nodes", "/v1/pools/edge/audit"] {
        assert_eq!(viewer.get(path).0, 200, "{path}");
        assert_eq!((node.get(path).0, &node.get(path).1["kind"]), (403, &json!("not_allowed")), "{path}");
    }
    for command in ["rotations", "pause", "resume", "abort", "advance", "import", "recover", "nodes", "expect"] {
        for client in [&viewer, node] {
            let (status, body) = client.post(&format!("/v1/pools/edge/{command}"), &json!({}));
            assert_eq!((status, &body["kind"]), (403, &json!("not_allowed")), "{command}");
        }
    }
    assert_eq!(state(&world), before);
    assert!(world.log().contains("your certificate does not name an operator"), "refusals are logged");
}

#[test]
fn strangers_get_no_answer_at_all() {
    let world = World::started(FAST);
    let other = tfo_testbed::pki::Ca::new("other");
    let stranger = world.client_of(&other.both(&["a.cache.example.org"]));
    assert_eq!(stranger.post(SYNC, &world.node("a.cache.example.org").request(0)).0, 0);
    assert_eq!(stranger.get("/v1/pools").0, 0);
}

#[test]
fn what_is_no_request_is_refused_and_changes_nothing() {
    let (world, mut nodes) = with_first_key(FAST);
    let before = state(&world);
    let good = nodes[0].request(0);
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body.to_string().into_bytes()
    };
    let long = "x".repeat(129);
    let bodies: Vec<(Vec<u8>, u16, &str)> = vec![
        (b"{".to_vec(), 400, "bad_request"),
        (b"".to_vec(), 400, "bad_request"),
        (b"[]".to_vec(), 400, "bad_request"),
        (b"\xff\xfe".to_vec(), 400, "bad_request"),
        (with("extra", json!(1)), 400, "bad_request"),
        (with("seen", json!(-1)), 400, "bad_request"),
        (with("seen", json!(1.5)), 400, "bad_request"),
        (with("session", json!("1")), 400, "bad_request"),
        (with("kernel", json!(long)), 400, "bad_request"),
        (with("kernel", json!("a\nlevel=error forged")), 400, "bad_request"),
        (with("next_contact_secs", json!(10_000_000)), 400, "bad_request"),
        (with("kernel", json!("x".repeat(5_000))), 413, "too_large"),
        (format!("{}{}", "[".repeat(2_000), "]".repeat(2_000)).into_bytes(), 400, "bad_request"),
        (format!("{{\"seen\":{}}}", "9".repeat(400)).into_bytes(), 400, "bad_request"),
        // Absurd numbers that fit are refused before they are stored.
        (with("seen", json!(u64::MAX)), 409, "too_far_ahead"),
        (with("installed", installed(&good, &json!({"generation": u64::MAX}))), 409, "too_far_ahead"),
        (with("installed", installed(&good, &json!({"pool_id": "f".repeat(32)}))), 409, "other_pool"),
    ];
    for (body, status, kind) in bodies {
        let shown = String::from_utf8_lossy(&body).chars().take(100).collect::<String>();
        let (found, answer) = nodes[0].client.ask(Method::POST, SYNC, Some(body));
        assert_eq!((found, answer["kind"].as_str()), (status, Some(kind)), "{shown}: {answer}");
    }
    let operator = world.operator();
    for (method, path, status, kind) in [
        (Method::GET, "/v1/pools/other", 404, "unknown_pool"),
        (Method::GET, "/v1/pools/..%2fetc", 404, "unknown_pool"),
        (Method::GET, "/v2/pools", 404, "unknown_path"),
        (Method::POST, "/v1/pools", 405, "unknown_method"),
        (Method::GET, "/v1/pools/edge/audit?after=x", 400, "bad_request"),
        (Method::GET, "/v1/pools/edge/audit?before=1", 400, "bad_request"),
        (Method::DELETE, "/v1/pools/edge/nodes", 405, "unknown_method"),
        (Method::PUT, "/v1/pools/edge/nodes/a.cache.example.org", 404, "unknown_path"),
    ] {
        let (found, answer) = operator.ask(method, path, None);
        assert_eq!((found, answer["kind"].as_str()), (status, Some(kind)), "{path}: {answer}");
    }
    let names = |count: usize| -> Vec<String> { (0..count).map(|n| format!("n{n}.cache.example.org")).collect() };
    for (body, status, kind) in [
        (json!({"action": "deny", "nodes": []}), 400, "bad_request"),
        (json!({"action": "deny", "nodes": names(10_001)}), 400, "bad_request"),
        (json!({"action": "deny", "nodes": ["No Name"]}), 400, "bad_request"),
        (json!({"action": "deny"}), 400, "bad_request"),
        (json!({"action": "drain", "nodes": ["a.cache.example.org"]}), 400, "bad_request"),
        (json!({"action": "include", "nodes": ["a.cache.example.org"]}), 409, "refused"),
        (json!({"action": "allow", "nodes": ["a.cache.example.org"]}), 409, "refused"),
        (
            json!({"action": {"forget": {}}, "nodes": ["a.cache.example.org", "y.example.org", "x.example.org"]}),
            404,
            "unknown_node",
        ),
    ] {
        let (found, answer) = operator.post("/v1/pools/edge/nodes", &body);
        assert_eq!((found, answer["kind"].as_str()), (status, Some(kind)), "{answer}");
        let unknown = answer["message"].as_str().unwrap().contains("x.example.org, y.example.org");
        assert_eq!(unknown, kind == "unknown_node", "all of them: {answer}");
    }
    let large = json!({"reason": "x".repeat(4 << 20)});
    // The server stops reading: a client that keeps writing may see the connection end before the answer.
    let (status, _) = operator.post("/v1/pools/edge/pause", &large);
    assert!([413, 0].contains(&status), "{status}");
    assert!(world.log().contains("body_too_large"));
    let (status, answer) = operator.post("/v1/pools/edge/pause", &json!({"reason": "two\nlines"}));
    assert_eq!((status, &answer["kind"]), (400, &json!("bad_request")));
    assert_eq!(state(&world), before);
    assert_eq!(nodes[0].sync(0).0, 204, "and the node is served as before");
}

fn installed(request: &Value, change: &Value) -> Value {
    let mut installed = request["installed"].clone();
    for (key, value) in change.as_object().unwrap() {
        installed[key] = value.clone();
    }
    installed
}

/// What `tfo-agent check` asks: answered from what is known, recorded nowhere, and no refusal in log and counters.
#[test]
fn a_node_may_ask_what_the_pool_knows_of_it_and_leaves_no_trace() {
    let (ask, empty) = ("/v1/pools/edge/self", World::started(FAST));
    let (status, answer) = empty.node("a.cache.example.org").client.get(ask);
    let expected = json!({"pool": "edge", "pool_id": answer["pool_id"], "node": "a.cache.example.org", "phase": "empty",
        "frozen": false, "denied": false, "moved_to": null});
    assert_eq!((status, &answer), (200, &expected));
    let (_, nodes) = empty.operator().get("/v1/pools/edge/nodes");
    assert_eq!(nodes["nodes"], json!([]), "it joins nothing");

    let (world, nodes) = with_first_key(FAST);
    let before = state(&world);
    let (status, answer) = nodes[2].client.get(ask);
    assert_eq!((status, &answer["phase"], &answer["denied"]), (200, &json!("steady"), &json!(false)));
    assert_eq!(state(&world), before);
    let deny = json!({"action": "deny", "nodes": ["c.cache.example.org"], "reason": "stolen"});
    assert_eq!(world.operator().post("/v1/pools/edge/nodes", &deny).0, 200);
    assert_eq!(nodes[2].client.get(ask).1["denied"], true);
    assert!(!world.log().contains("refused") && !empty.log().contains("refused"), "{}", world.log());
    let (_, metrics) = world.observed("/metrics").unwrap();
    let refused = metrics.lines().filter(|line| line.contains("refused_total{")).all(|line| line.ends_with(" 0"));
    assert!(metrics.contains("refused_total{") && refused, "{metrics}");
    // Those who are not nodes of the pool learn nothing.
    let (status, answer) = world.client(&["stranger.example.com"]).get(ask);
    assert_eq!((status, &answer["kind"]), (403, &json!("not_in_pool")));
}

#[test]
fn a_denied_node_and_an_old_session_get_no_keys() {
    let (world, mut nodes) = with_first_key(FAST);
    let operator = world.operator();
    // A replay of the closed session: the ack in it does not count.
    let old = nodes[0].request(0);
    nodes[0].new_session();
    assert_eq!(nodes[0].sync(0).0, 204);
    let (status, answer) = nodes[0].client.post(SYNC, &old);
    assert_eq!((status, &answer["kind"]), (409, &json!("session_closed")));
    assert!(answer["ordinal"].as_u64().is_some());

    let order = |action: Value, names: &[&str]| {
        operator.post("/v1/pools/edge/nodes", &json!({"action": action, "nodes": names, "reason": "stolen"}))
    };
    let (status, done) = order(json!("deny"), &["c.cache.example.org"]);
    assert_eq!((status, &done["action"]), (200, &json!("deny")), "{done}");
    nodes[2].new_session();
    assert_eq!((nodes[2].sync(0).0, nodes[2].sync(0).1["kind"].as_str()), (403, Some("denied")));
    let (_, shown) = operator.get("/v1/pools/edge/nodes");
    assert_eq!(shown["nodes"][2]["state"], "denied");
    assert_eq!(world.pool()["required"], 2);
    // Allowed, it comes again as a new node: by its next sync, and not by the command.
    let (status, done) = order(json!("allow"), &["c.cache.example.org"]);
    assert_eq!((status, &done["action"]), (200, &json!("allow")), "{done}");
    assert_eq!(world.pool()["required"], 2);
    nodes[2].converge();
    assert_eq!(world.pool()["required"], 3);
    // Many at once are one entry in the audit log; one wrong name, and none is touched.
    let both = ["b.cache.example.org", "c.cache.example.org"];
    assert_eq!(order(json!("deny"), &both).0, 200);
    let (status, answer) = order(json!("allow"), &["a.cache.example.org", both[0], both[1]]);
    assert_eq!((status, &answer["kind"]), (409, &json!("refused")), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("not denied: a.cache.example.org"), "{answer}");
    assert!(answer["remedy"].is_string(), "{answer}");
    assert_eq!(order(json!({"forget": {}}), &both).0, 200);
    let (_, log) = operator.get("/v1/pools/edge/audit");
    let last: Vec<(&Value, &Value)> =
        log["entries"].as_array().unwrap().iter().rev().take(3).map(|line| (&line["action"], &line["nodes"])).collect();
    let (one, two) = (json!(["c.cache.example.org"]), json!(both));
    let (forget, deny, allow) = (json!("forget"), json!("deny"), json!("allow"));
    assert_eq!(last, [(&forget, &two), (&deny, &two), (&allow, &one)]);
}

#[test]
fn commands_that_do_not_fit_are_refused_with_phase_and_reason() {
    let world = World::started(FAST);
    let mut nodes = world.nodes();
    let operator = world.operator();
    let refused = |path: &str, body: Value, kind: &str, part: &str| {
        let before = state(&world);
        let (status, answer) = operator.post(&format!("/v1/pools/edge/{path}"), &body);
        assert_eq!((status, answer["kind"].as_str()), (409, Some(kind)), "{path} {body}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(part), "{path} {body}: {message}");
        assert_eq!(state(&world), before);
    };
    refused("rotations", json!({}), "refused", "(phase empty)");
    refused("pause", json!({"if_revision": 7}), "moved", "revision 0 now");
    world.first_key(&mut nodes);
    refused("rotations", json!({"mode": "first"}), "refused", "has a key already");
    let keys = "00000001-00000002-00000003-00000004";
    refused("import", json!({"keys": keys}), "refused", "empty pool");
    refused("recover", json!({}), "refused", "not frozen");
    refused("resume", json!({}), "refused", "neither paused nor held");
    refused("abort", json!({}), "refused", "(phase steady)");
    refused("advance", json!({"generation": 0, "leave": []}), "moved", "generation 1 now");
    refused("advance", json!({"generation": 1, "leave": []}), "refused", "no node is behind");
    refused("rotations", json!({"mode": "revoke", "epochs": [77]}), "refused", "no such key");
    assert_eq!(operator.post("/v1/pools/edge/rotations", &json!({"reason": "one"})).0, 200);
    refused("rotations", json!({"reason": "two"}), "refused", "(phase staged)");
    refused("advance", json!({"generation": 2, "leave": ["a.cache.example.org"]}), "moved", "also behind");
    assert!(world.log().contains("command refused"), "refusals are logged");
    assert!(world.log().contains("actor=ops1.example.org"));
}

#[test]
fn too_few_nodes_start_no_rotation_unless_forced() {
    let world = World::started(&FAST.replace("expected_nodes = 3", "expected_nodes = 4"));
    let mut nodes = world.nodes();
    let operator = world.operator();
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    let first = json!({"mode": "first", "expect": {"number": 3}});
    assert_eq!(operator.post("/v1/pools/edge/rotations", &first).0, 200);
    nodes.iter_mut().for_each(tfo_testbed::coordinator::Node::converge);
    world.until("all have it", |pool| pool["converged"] == 3);
    assert_eq!(operator.post("/v1/pools/edge/resume", &json!({})).0, 200);
    let (status, answer) = operator.post("/v1/pools/edge/rotations", &json!({}));
    assert_eq!((status, &answer["kind"]), (409, &json!("refused")));
    assert!(answer["message"].as_str().unwrap().contains("3 nodes are required, and expected_nodes is 4"), "{answer}");
    // The file decides; operators are told where.
    let (status, answer) = operator.post("/v1/pools/edge/expect", &json!({"number": 3}));
    assert_eq!((status, &answer["kind"]), (409, &json!("refused")), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("expected_nodes = 4"), "{answer}");
    let pool = world.pool();
    assert_eq!((&pool["expected_nodes"], &pool["expected_in_file"]), (&json!(4), &json!(true)));
    assert!(pool["rotate_refused"]["message"].as_str().unwrap().contains("expected_nodes is 4"), "{pool}");
    assert_eq!(operator.post("/v1/pools/edge/rotations", &json!({"force": true})).0, 200);
}

#[test]
fn operators_expect_a_number_where_the_file_has_none() {
    let world =
        World::started(&FAST.replace("expected_nodes = 3\n", "").replace("drain_max = \"0s\"", "drain_max = \"6h\""));
    let mut nodes = world.nodes();
    let operator = world.operator();
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    let first = json!({"mode": "first", "expect": {"number": 3}});
    assert_eq!(operator.post("/v1/pools/edge/rotations", &first).0, 200);
    nodes.iter_mut().for_each(tfo_testbed::coordinator::Node::converge);
    world.until("all have it", |pool| pool["converged"] == 3);
    assert_eq!(operator.post("/v1/pools/edge/resume", &json!({})).0, 200);
    // The first key's number stays until it is changed: by name, or with the nodes that go.
    assert_eq!(world.pool()["expected_nodes"], 3);
    let expect = |number: usize| operator.post("/v1/pools/edge/expect", &json!({"number": number, "reason": "grows"}));
    assert_eq!(expect(0).0, 409);
    let (status, done) = expect(5);
    assert_eq!((status, &done["action"]), (200, &json!("expect")), "{done}");
    let (_, answer) = operator.post("/v1/pools/edge/rotations", &json!({}));
    assert!(
        answer["message"].as_str().unwrap().starts_with("3 nodes are required, and expected_nodes is 5"),
        "{answer}"
    );
    assert!(answer["remedy"].as_str().unwrap().contains("tfoctl expect"), "{answer}");
    let forget = json!({"action": {"forget": {"lower_expected": true}}, "nodes": ["c.cache.example.org"]});
    assert_eq!(operator.post("/v1/pools/edge/nodes", &forget).0, 200);
    assert_eq!(world.pool()["expected_nodes"], 2);
    let (_, log) = operator.get("/v1/pools/edge/audit");
    let reasons: Vec<&str> =
        log["entries"].as_array().unwrap().iter().rev().take(2).map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["expects 2", "grows; expects 5"]);
    // It starts now, and says why it would not be good for clients: no node of these counts cookies.
    assert_eq!(operator.post("/v1/pools/edge/rotations", &json!({})).0, 200);
    nodes[..2].iter_mut().for_each(tfo_testbed::coordinator::Node::converge);
    world.until("promoted", |pool| pool["phase"] == "promoted");
    nodes[..2].iter_mut().for_each(tfo_testbed::coordinator::Node::converge);
    world.until("settled", |pool| pool["phase"] == "steady" && pool["converged"] == 2);
    let (status, answer) = operator.post("/v1/pools/edge/rotations", &json!({}));
    let message = answer["message"].as_str().unwrap();
    assert!(status == 409 && message.starts_with("no node has counted a cookie since the last rotation"), "{answer}");
    let until = answer["until"].as_str().unwrap();
    assert!(message.contains(until), "the time is in both: {answer}");
    let shown = world.pool();
    assert_eq!(shown["rotate_refused"]["until"], until, "and before it is tried: {shown}");
}
