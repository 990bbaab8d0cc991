//! Operators at work: import, revoke, advance, exclude, nodes that only report, a changed configuration, a restored store.

use super::with_first_key;
use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, OPERATOR, VIEWER, World};
use tfo_testbed::{SOON, poll_until};

fn states(world: &World) -> Vec<(String, String)> {
    let (_, nodes) = world.operator().get("/v1/pools/edge/nodes");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    nodes["nodes"].as_array().unwrap().iter().map(|node| (text(&node["node"]), text(&node["state"]))).collect()
}

fn first(client: &tfo_testbed::coordinator::Client, path: &str, body: &Value) -> Value {
    let (status, answer) = client.post(&format!("/v1/pools/edge/{path}"), body);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

#[test]
fn nodes_that_only_report_are_shown_and_drive_nothing() {
    let world = World::started(FAST);
    let mut nodes = world.nodes();
    for node in &mut nodes {
        node.different = json!({"source": "derive", "seen": 5, "installed": {
            "pool_id": null, "generation": null,
            "primary": {"epoch": 1_790_000_000, "fingerprint": "00000000000000aa"},
            "backup": {"epoch": 1_790_086_400, "fingerprint": "00000000000000bb"},
        }});
        assert_eq!(node.sync(0).0, 204, "told nothing");
    }
    let pool = world.pool();
    assert_eq!((&pool["reporting"], &pool["required"], &pool["phase"]), (&json!(3), &json!(0), &json!("empty")));
    assert!(states(&world).iter().all(|(_, state)| state == "reporting"));
    let (_, shown) = world.operator().get("/v1/pools/edge/nodes");
    assert_eq!(shown["nodes"][0]["source"], "derive");
    assert_eq!(shown["nodes"][0]["primary"]["fingerprint"], "00000000000000aa");
    let pair = json!({"primary": "00000000000000aa", "backup": "00000000000000bb", "nodes": 3});
    assert_eq!(shown["fingerprints"], json!([pair]));
    // They share a key that is not the pool's; that is nothing to import, and three others rotate beside them.
    let mut others: Vec<Node> = ["x", "y", "z"].map(|name| world.node(&format!("{name}.cache.example.org"))).into();
    world.first_key(&mut others);
    first(&world.operator(), "rotations", &json!({}));
    for phase in ["staged", "promoted"] {
        world.until(phase, |pool| pool["phase"] == phase);
        others.iter_mut().for_each(Node::converge);
    }
    let pool = world.until("steady", |pool| pool["phase"] == "steady");
    assert_eq!((&pool["required"], &pool["reporting"]), (&json!(3), &json!(3)));
    // A node of the pool cannot slip out of its barriers in the midst of a session.
    others[0].different = json!({"source": "derive"});
    assert_eq!(others[0].sync(0).1["kind"], "session_closed");
}

#[test]
fn a_node_whose_connection_has_gone_is_shown_as_disconnected_at_once() {
    let (world, mut nodes) = with_first_key(FAST);
    let shown = |name: &str| {
        let (_, shown) = world.operator().get("/v1/pools/edge/nodes");
        let nodes = shown["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["node"] == name).unwrap().clone()
    };
    let (a, b) = ("a.cache.example.org", "b.cache.example.org");
    // `a` waits for news, as a daemon does; `b` only asks, as a timer does.
    assert_eq!(nodes[0].sync(1).0, 204);
    nodes[1].sync(0);
    let before = shown(a);
    assert_eq!((&before["state"], &before["connected"]), (&json!("converged"), &json!(true)), "{before}");
    let until = before["certificate_until"].as_str().unwrap();
    assert!(until.ends_with('Z') && before["connected_since"].is_string(), "{before}");
    nodes.drain(..2);
    assert!(poll_until(SOON, || shown(a)["state"] == "disconnected"), "{}", shown(a));
    let (after, timer) = (shown(a), shown(b));
    assert_eq!((&after["connected"], after["certificate_until"].as_str()), (&json!(false), Some(until)));
    assert_eq!(
        (&timer["state"], &timer["connected"]),
        (&json!("converged"), &Value::Null),
        "a timer has none by design"
    );
    // Barriers do not know of it.
    assert_eq!(world.pool()["converged"], 3);
    let (_, metrics) = world.observed("/metrics").unwrap();
    assert!(metrics.contains("state=\"disconnected\"} 1"), "{metrics}");
}

#[test]
fn the_audit_log_is_filtered_by_the_coordinator() {
    let (world, _nodes) = with_first_key(FAST);
    let exclude = |node: &str| {
        let action = json!({"exclude": {"until": "2100-01-01T00:00:00Z"}});
        let body = json!({"action": action, "nodes": [node], "reason": node});
        let (status, answer) = world.operator().post("/v1/pools/edge/nodes", &body);
        assert_eq!(status, 200, "{answer}");
        answer["revision"].as_u64().unwrap()
    };
    let last = ["a.cache.example.org", "b.cache.example.org"].map(exclude)[1];
    let asked = |query: &str| world.operator().get(&format!("/v1/pools/edge/audit?{query}"));
    let reasons = |query: &str| -> Vec<String> {
        let (status, answer) = asked(query);
        assert_eq!(
            (status, &answer["more"], &answer["read_to"]),
            (200, &json!(false), &json!(last)),
            "{query}: {answer}"
        );
        let entries = answer["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["reason"].as_str().unwrap().to_owned()).collect()
    };
    let (a, b) = ("a.cache.example.org", "b.cache.example.org");
    assert_eq!(reasons("node=b.cache.example.org&after=1").last().unwrap(), b);
    assert!(!reasons("node=b.cache.example.org&after=1").contains(&a.to_owned()));
    assert_eq!(reasons("limit=2"), [a, b], "the latest, oldest first");
    assert_eq!(reasons(&format!("limit=1&operator={OPERATOR}")), [b]);
    assert_eq!(reasons("operator=nobody.example.org"), [""; 0]);
    assert_eq!(reasons("since=2100-01-01T00:00:00Z"), [""; 0]);
    assert!(reasons("since=2020-01-01T00:00:00Z").len() >= 3);
    assert_eq!(reasons(&format!("after={last}")), [""; 0]);
    for bad in ["limit=0", "limit=1001", "since=yesterday", "node=a/b", "colour=red"] {
        assert_eq!(asked(bad).0, 400, "{bad}");
    }
}

#[test]
fn a_running_fleet_is_imported_without_a_new_key() {
    let world = World::started(FAST);
    let mut nodes = world.nodes();
    let operator = world.operator();
    let text = "00000001-00000002-00000003-00000004,00000005-00000006-00000007-00000008";
    // What the nodes hold: fingerprints as `import` will compute them.
    let done = first(&operator, "import", &json!({"keys": text, "reason": "from ansible", "expect": {"number": 3}}));
    assert_eq!(done["action"], "import");
    let pool = world.pool();
    assert_eq!((&pool["phase"], &pool["hold"]), (&json!("steady"), &json!("first_key")));
    assert_eq!((pool["backup"]["epoch"].as_u64(), pool["primary"]["epoch"].as_u64()), (Some(1), Some(2)));
    let (status, answer) = operator.post("/v1/pools/edge/resume", &json!({}));
    assert_eq!((status, &answer["kind"]), (409, &json!("refused")), "nobody is here yet: {answer}");
    nodes.iter_mut().for_each(Node::converge);
    assert_eq!(nodes[0].told["primary"]["key"], "00000001-00000002-00000003-00000004");
    assert_eq!(nodes[0].told["backup"]["key"], "00000005-00000006-00000007-00000008");
    first(&operator, "resume", &json!({}));
    for bad in ["", "0-0-0-0", "00000001-00000002-00000003-0000000g", "not a key"] {
        let (status, answer) = operator.post("/v1/pools/edge/import", &json!({"keys": bad}));
        assert_eq!((status, &answer["kind"]), (400, &json!("bad_request")), "{bad:?}: {answer}");
        assert!(bad.is_empty() || !answer.to_string().contains(bad), "{answer}");
    }
}

#[test]
fn a_first_key_is_refused_while_nodes_share_another() {
    let world = World::started(FAST);
    let mut nodes = world.nodes();
    for node in &mut nodes {
        node.installed = json!({"pool_id": null, "generation": null, "backup": null,
            "primary": {"epoch": null, "fingerprint": "00000000000000aa"}});
        assert_eq!(node.sync(0).0, 204);
    }
    let (status, answer) = world.operator().post("/v1/pools/edge/rotations", &json!({"mode": "first"}));
    assert_eq!(status, 409);
    assert!(answer["message"].as_str().unwrap().contains("share key 00000000000000aa already"), "{answer}");
}

#[test]
fn a_stolen_key_is_driven_out_without_the_stolen_node() {
    let (world, mut nodes) = with_first_key(FAST);
    let revoke = json!({"mode": "revoke", "deny": ["c.cache.example.org"], "reason": "c was stolen"});
    let done = first(&world.operator(), "rotations", &revoke);
    assert_eq!(done["nodes"], json!(["c.cache.example.org"]));
    assert_eq!(nodes[2].sync(0).1["kind"], "denied");
    let gone = nodes[0].told["primary"]["fingerprint"].clone();
    let pool = tfo_testbed::poll_some(tfo_testbed::SOON, || {
        for node in &mut nodes[..2] {
            if node.sync(0).0 == 200 {
                node.install();
            }
        }
        let pool = world.pool();
        let is_over = pool["phase"] == "steady" && pool["revoking"] == json!([]) && pool["backup"].is_null();
        (is_over && pool["primary"]["fingerprint"] != gone).then_some(pool)
    });
    let pool = pool.expect("the key is driven out");
    assert_eq!((&pool["backup"], pool["primary"]["epoch"].as_u64()), (&Value::Null, Some(2)), "{pool}");
}

#[test]
fn a_silent_node_is_left_behind_by_advance_and_comes_back() {
    let (world, mut nodes) = with_first_key(FAST);
    let operator = world.operator();
    first(&operator, "rotations", &json!({}));
    nodes[..2].iter_mut().for_each(Node::converge);
    let pool = world.until("c is behind", |pool| pool["converged"] == 2);
    let (_, shown) = operator.get("/v1/pools/edge/nodes");
    assert_eq!(shown["nodes"][2]["state"], "straggler");
    assert!(shown["nodes"][2]["behind_since"].is_string() && shown["nodes"][0]["behind_since"].is_null(), "{shown}");
    let advance = json!({"generation": pool["generation"], "leave": pool["waiting_for"], "reason": "c is dead"});
    first(&operator, "advance", &advance);
    world.until("promoted without c", |pool| pool["phase"] == "promoted");
    nodes[..2].iter_mut().for_each(Node::converge);
    world.until("steady without c", |pool| pool["phase"] == "steady" && pool["required"] == 2);
    assert_eq!(states(&world)[2].1, "excluded");
    // Its old session is closed; the next one admits it and takes it straight to the present.
    assert_eq!(nodes[2].sync(0).1["kind"], "session_closed");
    nodes[2].converge();
    assert_eq!(nodes[2].epochs(), [2, 1]);
    assert_eq!(world.pool()["required"], 3);
    // Excluded by name it is not waited for, until an operator says so.
    let nodes_are =
        |action: serde_json::Value| json!({"action": action, "nodes": ["c.cache.example.org"], "reason": "repair"});
    let exclude = nodes_are(json!({"exclude": {"until": "2100-01-01T00:00:00Z"}}));
    let (status, done) = operator.post("/v1/pools/edge/nodes", &exclude);
    assert_eq!((status, &done["action"]), (200, &json!("exclude")), "{done}");
    assert_eq!(world.pool()["required"], 2);
    // Such an exclusion outlives the node's syncs, until it is ended; then the next one admits it.
    nodes[2].new_session();
    assert_eq!((nodes[2].sync(0).0, &world.pool()["required"]), (204, &json!(2)));
    assert_eq!(operator.post("/v1/pools/edge/nodes", &nodes_are(json!("include"))).0, 200);
    assert_eq!(world.pool()["required"], 2, "not by the command");
    nodes[2].new_session();
    nodes[2].sync(0);
    assert_eq!(world.pool()["required"], 3);
    let (status, answer) = operator.post("/v1/pools/edge/nodes", &nodes_are(json!("include")));
    assert_eq!((status, &answer["kind"]), (409, &json!("refused")), "{answer}");
}

#[test]
fn pause_and_abort_hold_the_pool() {
    let (world, mut nodes) = with_first_key(FAST);
    let operator = world.operator();
    first(&operator, "rotations", &json!({}));
    first(&operator, "pause", &json!({"reason": "lunch"}));
    nodes.iter_mut().for_each(Node::converge);
    let pool = world.until("all have it", |pool| pool["converged"] == 3);
    assert_eq!((&pool["phase"], &pool["blocked_by"]), (&json!("staged"), &json!("paused")));
    first(&operator, "resume", &json!({}));
    world.until("promoted", |pool| pool["phase"] == "promoted");
    first(&operator, "abort", &json!({"reason": "no"}));
    let pool = world.pool();
    assert_eq!((&pool["phase"], &pool["hold"]), (&json!("steady"), &json!("aborted")));
    assert_eq!((pool["primary"]["epoch"].as_u64(), pool["backup"]["epoch"].as_u64()), (Some(1), Some(2)));
    nodes.iter_mut().for_each(Node::converge);
    assert_eq!(nodes[0].epochs(), [1, 2]);
}

#[test]
fn a_changed_policy_is_taken_over_before_the_next_rotation_and_audited() {
    let (mut world, mut nodes) = with_first_key(FAST);
    // In the midst of a rotation: it is finished as it began.
    first(&world.operator(), "rotations", &json!({}));
    world.configure(&FAST.replace("interval = \"1d\"", "interval = \"2d\""));
    world.signal(Signal::HUP);
    let pool = world.until("seen", |pool| pool["policy_waits"] == true);
    assert_eq!((&pool["policy_differs"], &pool["phase"]), (&json!(["interval"]), &json!("staged")));
    nodes.iter_mut().for_each(Node::converge);
    world.until("promoted", |pool| pool["phase"] == "promoted");
    nodes.iter_mut().for_each(Node::converge);
    world.until("taken over", |pool| pool["phase"] == "steady" && pool["policy_differs"] == json!([]));
    let (_, audit) = world.operator().get("/v1/pools/edge/audit");
    let last = audit["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["action"], &last["operator"]), (&json!("set_policy"), &json!("coordinator-config")));
    assert_eq!(last["reason"], "changed in the configuration file: interval");
    // A broken file leaves everything as it is; a start with another one takes it over too, when all are heard.
    world.configure("interval = 1\n");
    world.signal(Signal::HUP);
    let told = tfo_testbed::poll_until(tfo_testbed::SOON, || world.log().contains("keeping the old one"));
    assert!(told, "{}", world.log());
    assert_eq!(world.pool()["policy_differs"], json!([]));
    assert!(world.stop().success());
    world.configure(&FAST.replace("interval = \"1d\"", "interval = \"3d\""));
    world.start();
    let pool = world.until("waits for the nodes", |pool| pool["blocked_by"] == "barrier");
    assert_eq!((&pool["policy_waits"], pool["waiting_for"].as_array().map(Vec::len)), (&json!(true), Some(3)));
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    world.until("taken over", |pool| pool["policy_differs"] == json!([]));
    // A start with an old file takes nothing back, and says so; the pool is driven by its own policy.
    assert!(world.stop().success());
    world.configure(&FAST.replace("interval = \"1d\"", "interval = \"2d\""));
    world.start();
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    let check = String::from_utf8(world.run("check", &[]).stderr).unwrap();
    assert!(check.contains("differs from the pool's policy in interval: it was the pool's before"), "{check}");
    world.until("heard", |pool| pool["blocked_by"] == "schedule");
    let pool = world.pool();
    assert_eq!((&pool["policy_differs"], &pool["policy_waits"]), (&json!(["interval"]), &json!(false)));
    let log = world.log();
    assert_eq!(log.matches("differs from the pool's, which counts").count(), 1, "{log}");
    first(&world.operator(), "rotations", &json!({}));
    first(&world.operator(), "abort", &json!({}));
    // A reload takes it.
    world.signal(Signal::HUP);
    world.until("taken by a reload", |pool| pool["policy_differs"] == json!([]));
}

#[test]
fn a_reload_that_fails_at_a_pool_leaves_access_and_policies_as_they_are() {
    let dns = format!("{FAST}[pools.dns]\nnodes = [\"*.dns.example.org\"]\n");
    let mut world = World::started(&dns);
    assert!(world.stop().success());
    world.configure(FAST);
    world.start();
    // What a disk may do to a pool that is not read now.
    let store = rusqlite::Connection::open(world.path("state.db")).unwrap();
    let flags = rusqlite::functions::FunctionFlags::SQLITE_UTF8;
    store.create_scalar_function("only_tfo_coordinator_writes_here", 0, flags, |_| Ok(true)).unwrap();
    let broken = "UPDATE document SET sum = x'00' WHERE pool = (SELECT number FROM pool WHERE name = 'dns')";
    assert_eq!(store.execute(broken, ()).unwrap(), 1);

    // Everything in it is new: the pool that cannot be read, the policy of the other, and who may do what.
    world.configure(&dns.replace("interval = \"1d\"", "interval = \"2d\""));
    let config = fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let others = config.replace(OPERATOR, "ops2.example.org").replace(VIEWER, "view2.example.org");
    world.put("coordinator.toml", others.as_bytes(), 0o644);
    world.signal(Signal::HUP);
    let refused = tfo_testbed::poll_until(tfo_testbed::SOON, || world.log().contains("keeping the old one"));
    assert!(refused, "{}", world.log());
    let pool = world.pool();
    assert_eq!((&pool["policy_waits"], &pool["policy_differs"]), (&json!(false), &json!([])), "{pool:#}");
    let new_operator = world.client(&["ops2.example.org"]);
    assert_eq!(new_operator.get("/v1/pools/edge").0, 403);

    // What is taken later is taken whole.
    world.put("coordinator.toml", others.replace("[pools.dns]", "[pools.new]").as_bytes(), 0o644);
    world.signal(Signal::HUP);
    let taken = tfo_testbed::poll_until(tfo_testbed::SOON, || new_operator.get("/v1/pools/new").0 == 200);
    assert!(taken, "{}", world.log());
    assert_eq!(world.operator().get("/v1/pools/edge").0, 403);
    assert!(world.stop().success());
}

#[test]
fn yesterdays_database_freezes_the_pool_until_it_is_recovered() {
    let (mut world, mut nodes) = with_first_key(FAST);
    assert!(world.stop().success());
    fs::copy(world.path("state.db"), world.path("yesterday.db")).unwrap();
    world.start();
    nodes.iter_mut().for_each(|node| drop(node.sync(0)));
    first(&world.operator(), "rotations", &json!({}));
    for phase in ["staged", "promoted"] {
        world.until(phase, |pool| pool["phase"] == phase);
        nodes.iter_mut().for_each(Node::converge);
    }
    world.until("steady", |pool| pool["phase"] == "steady");
    let told = nodes[0].told.clone();
    assert!(world.stop().success());
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(world.path(&format!("state.db{suffix}"))).ok();
    }
    fs::rename(world.path("yesterday.db"), world.path("state.db")).unwrap();
    world.start();
    // In the session of before its report is batched; the request that brings it is held, and told soon after.
    let (status, answer) = nodes[0].sync(30);
    assert_eq!((status, &answer["kind"]), (409, &json!("pool_frozen")), "{answer}");
    nodes[1..].iter_mut().for_each(|node| assert_eq!(node.sync(0).1["kind"], "pool_frozen"));
    let pool = world.until("frozen", |pool| pool["blocked_by"] == "frozen");
    assert_eq!(pool["recoverable"].as_array().unwrap().len(), 1, "{pool}");
    let operator = world.operator();
    let (status, answer) = operator.post("/v1/pools/edge/rotations", &json!({}));
    assert_eq!((status, &answer["kind"]), (409, &json!("pool_frozen")));
    // The store has the first key, and lacks the second: without its bytes nothing is done.
    let (status, answer) = operator.post("/v1/pools/edge/recover", &json!({}));
    assert_eq!(status, 409);
    let lacking = told["primary"]["fingerprint"].as_str().unwrap();
    assert!(answer["message"].as_str().unwrap().contains(lacking), "{answer}");
    let other = json!({"keys": "00000001-00000002-00000003-00000004"});
    assert_eq!(operator.post("/v1/pools/edge/recover", &other).0, 409, "other bytes than the fingerprints'");
    let keys = format!("{},{}", told["primary"]["key"].as_str().unwrap(), told["backup"]["key"].as_str().unwrap());
    first(&operator, "recover", &json!({"keys": keys, "reason": "disk replaced"}));
    let pool = world.pool();
    assert_eq!((pool["generation"].as_u64(), &pool["hold"]), (Some(1_000_003), &json!("recovered")));
    nodes.iter_mut().for_each(Node::converge);
    assert_eq!(nodes[0].told["primary"]["key"], told["primary"]["key"]);
    first(&operator, "resume", &json!({}));
}

#[test]
fn a_resume_of_a_health_stop_gives_the_key_to_exactly_the_nodes_that_the_pool_names() {
    let waves = "promote_waves = [\"a.*\", \"b.*\", \"100%\"]";
    let (world, mut nodes) = with_first_key(&FAST.replace("promote_waves = [\"100%\"]", waves));
    let operator = world.operator();
    let count = |node: &mut Node, passive: u64, passive_fail: u64| {
        node.different = json!({"counters": {"passive": passive, "passive_alt_key": 0, "passive_fail": passive_fail}});
        node.sync(0);
    };
    first(&operator, "rotations", &json!({"force": true}));
    for node in &mut nodes {
        count(node, 0, 0);
        node.install();
        count(node, 999, 1);
    }
    assert_eq!(world.pool()["waiver"], json!(null));
    world.until("promoted", |pool| pool["phase"] == "promoted");
    // It counts from the moment of its promotion, and has not acknowledged: its wave stays open alone.
    count(&mut nodes[0], 999, 1);
    count(&mut nodes[0], 999 + 880, 1 + 120);
    let stopped = world.until("stopped", |pool| pool["paused"]["by"] == "health");
    let waiver = &stopped["waiver"];
    assert_eq!((&waiver["wave"], &waiver["of"]), (&json!(1), &json!(3)), "{waiver}");
    assert_eq!((&waiver["rejected_ppm"], &waiver["baseline_ppm"]), (&json!(120_000), &json!(1_000)), "{waiver}");
    assert_eq!((&waiver["nodes"], &waiver["next"]), (&json!(1), &json!(["b.cache.example.org"])), "{waiver}");
    assert!(stopped["rotate_refused"]["message"].is_string(), "{stopped}");
    first(&operator, "resume", &json!({"if_revision": stopped["revision"]}));
    nodes[0].install();
    nodes[0].sync(0);
    // The waiver was for that wave alone: the next one is stopped by the same cookies.
    let again = world.until("stopped again", |pool| pool["waves"]["opened"] == 2 && !pool["waiver"].is_null());
    assert_eq!((&again["waiver"]["wave"], &again["waiver"]["next"]), (&json!(2), &json!(["c.cache.example.org"])));
    let (_, log) = operator.get("/v1/pools/edge/audit");
    let opened = log["entries"].as_array().unwrap().iter().rev().find(|line| line["action"] == "open_wave").unwrap();
    assert_eq!(opened["nodes"], waiver["next"], "as it was said");
}

#[test]
fn who_wants_to_know_how_nodes_are_now_has_them_asked() {
    let (world, mut nodes) = with_first_key(FAST);
    let mut node = nodes.remove(0);
    let name = node.name.clone();
    let note = |path: &str| {
        let (status, shown) = world.operator().get(path);
        assert_eq!(status, 200, "{shown}");
        shown["nodes"].as_array().unwrap().iter().find(|one| one["node"] == name).unwrap()["note"].clone()
    };
    // What it has to say it says with its next sync, and that is minutes away.
    let says = std::thread::spawn(move || {
        let (let_go, _) = node.sync(300);
        node.different = json!({"note": "certificate_ends"});
        (let_go, node.sync(0).0)
    });
    let is_held = || {
        world.observed("/metrics").is_some_and(|(_, text)| text.contains("tfo_coordinator_pool_held{pool=\"edge\"} 1"))
    };
    assert!(poll_until(SOON, is_held), "{:?}", world.observed("/metrics"));
    assert_eq!(note("/v1/pools/edge/nodes"), Value::Null);
    assert_eq!(note("/v1/pools/edge/nodes?fresh=true"), "certificate_ends");
    assert_eq!(says.join().unwrap(), (204, 204));
    // Without a node to wait for it is answered at once.
    assert_eq!(note("/v1/pools/edge/nodes?fresh=true"), "certificate_ends");
    for query in ["fresh=now", "stale=true"] {
        assert_eq!(world.operator().get(&format!("/v1/pools/edge/nodes?{query}")).1["kind"], "bad_request", "{query}");
    }
}
