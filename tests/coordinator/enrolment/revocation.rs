//! Revocations stay: over a restart, an older store, a crash in the middle of an order, and a restore.

use rusqlite::Connection;

use super::*;

/// Whether the node's certificate is accepted, whatever the pool says.
fn is_let_in(client: &Client) -> bool {
    client.get("/v1/pools/edge/self").0 != 0
}

#[test]
fn a_restart_takes_no_revocation_back_even_with_an_older_store() {
    let mut on = Enrolling::start();
    let token = on.token(&json!({}));
    assert!(on.world.stop().success());
    let store = fs::read(on.world.path("state.db")).unwrap();
    on.world.start();
    let node = on.enrolled(&token, A);
    let (status, body) =
        on.world.operator().post("/v1/pools/edge/nodes", &json!({"action": {"forget": {}}, "nodes": [A]}));
    // The pool never saw it.
    assert_eq!(status, 404, "{body}");
    let replacing = on.token(&json!({"replace": true}));
    let second = on.enrolled(&replacing, A);
    assert!(!serves(&node) && serves(&second));
    assert!(on.world.stop().success());
    for name in ["state.db-wal", "state.db-shm"] {
        fs::remove_file(on.world.path(name)).ok();
    }
    on.world.put("state.db", &store, 0o600);
    on.world.start();
    // The token that is valid again makes the coordinator write its list again.
    let third = on.enrolled(&on.token(&json!({"replace": true})), "c.cache.example.org");
    assert!(serves(&third) && !serves(&node));
}

#[test]
fn an_order_and_its_revocations_are_one_act_wherever_the_coordinator_ends() {
    let mut on = Enrolling::start();
    let token = on.token(&json!({"uses": 9}));
    let names = [A, "b.cache.example.org", "c.cache.example.org", "d.cache.example.org"];
    let nodes: Vec<Client> = names.iter().map(|name| on.enrolled(&token, name)).collect();
    for (name, client) in names.iter().zip(&nodes) {
        let mut node = on.world.node(name);
        node.client = client.clone();
        assert_eq!(node.sync(0).0, 204);
    }
    // The disk fails at a step: a trigger on the table that the step writes.
    let at = on.world.path("state.db");
    let sql = |text: &str| Connection::open(&at).unwrap().execute_batch(text).unwrap();
    let fail =
        |step: &str| sql(&format!("CREATE TRIGGER broken BEFORE {step} BEGIN SELECT RAISE(ABORT, 'broken'); END"));
    let plans = || -> i64 {
        Connection::open(&at).unwrap().query_row("SELECT count(*) FROM cut_off", [], |row| row.get(0)).unwrap()
    };
    let forget = json!({"forget": {}});
    // Without a plan the order is not given.
    fail("INSERT ON cut_off");
    let (status, body) = on.order(&forget, names[0]);
    assert_eq!((status, &body["kind"]), (503, &json!("store_unavailable")), "{body}");
    assert!(serves(&nodes[0]) && on.world.operator().get("/v1/pools/edge/nodes").1.to_string().contains(names[0]));
    sql("DROP TRIGGER broken");
    // The order is done, and the coordinator ends before the certificates are revoked: the next one revokes them.
    for (order, node) in [(&forget, 0), (&json!("deny"), 1)] {
        fail("DELETE ON cut_off");
        let (status, body) = on.order(order, names[node]);
        assert_eq!((status, is_let_in(&nodes[node]), plans()), (503, true, 1), "{body}");
        // Meanwhile it gets no other certificate.
        let renewal = nodes[node].post("/v1/pools/edge/certificate", &json!({"csr": csr(names[node])})).1;
        assert!(["unavailable", "name_not_allowed"].contains(&renewal["kind"].as_str().unwrap()), "{renewal}");
        on.world.kill();
        sql("DROP TRIGGER broken");
        on.world.start();
        assert!(poll_until(SOON, || !is_let_in(&nodes[node])), "{}", on.world.log());
        assert_eq!(plans(), 0);
        let cut = on.logged("certificates_revoked").pop().unwrap();
        assert_eq!((&cut["nodes"], &cut["operator"]), (&json!([names[node]]), &json!(OPERATOR)), "{cut}");
    }
    // It ends before the order is done: nothing of it is.
    fail("INSERT ON audit");
    sql("CREATE TRIGGER stuck BEFORE DELETE ON cut_off BEGIN SELECT RAISE(ABORT, 'stuck'); END");
    let (status, body) = on.order(&forget, names[2]);
    assert!(status >= 400, "{body}");
    on.world.kill();
    sql("DROP TRIGGER broken; DROP TRIGGER stuck");
    assert_eq!(plans(), 1);
    on.world.start();
    assert!(poll_until(SOON, || plans() == 0), "{}", on.world.log());
    assert!(is_let_in(&nodes[2]) && on.logged("certificates_revoked").len() == 2);
    assert_eq!(nodes[2].post("/v1/pools/edge/certificate", &json!({"csr": csr(names[2])})).0, 200);
    // Revoked in the store, and not on the list yet.
    assert!(on.world.stop().success());
    let list = fs::read(on.world.path("crl.pem")).unwrap();
    on.world.start();
    assert_eq!(on.order(&forget, names[3]).0, 200);
    assert!(!is_let_in(&nodes[3]));
    on.world.kill();
    on.world.put("crl.pem", &list, 0o644);
    on.world.start();
    assert!(poll_until(SOON, || !is_let_in(&nodes[3])), "{}", on.world.log());
    // A refused order leaves nothing behind.
    assert_eq!((on.order(&forget, "x.cache.example.org").0, plans()), (404, 0));
}

#[test]
fn a_restored_coordinator_knows_what_was_revoked_and_honours_no_token_of_before() {
    let mut on = Enrolling::start();
    let token = on.token(&json!({"uses": 9, "replace": true}));
    let (first, second) = (on.enrolled(&token, A), on.enrolled(&token, A));
    let backup = on.world.path("backup").display().to_string();
    let output = on.world.run("export", &["--to", &backup]);
    let exported: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        exported["enrolment"],
        json!({"tokens": 1, "certificates": 2, "revoked": 1, "log_entries": 4}),
        "{exported}"
    );
    // A use that the backup does not know.
    let third = on.enrolled(&token, "c.cache.example.org");
    assert!(on.world.stop().success());
    // The host is lost: database and revocation list with it.
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        fs::remove_file(on.world.path(name)).ok();
    }
    on.world.put("crl.pem", on.world.ca.crl(&[]).as_bytes(), 0o644);
    let output = on.world.run("import", &["--from", &backup]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    on.world.start();
    assert!(poll_until(SOON, || !is_let_in(&first)), "{}", on.world.log());
    assert!(is_let_in(&second) && is_let_in(&third), "certificates outlive the store that issued them");
    let (status, answer) = on.enrol(&token, "d.cache.example.org", &csr("d.cache.example.org"));
    assert_eq!((status, &answer["kind"]), (403, &json!("token_refused")), "{answer}");
    let (_, tokens) = on.world.operator().get("/v1/tokens");
    let restored = &tokens["tokens"][0];
    assert_eq!((&restored["state"], &restored["revoked_by"]), (&json!("revoked"), &Value::Null), "{restored}");
    assert_eq!((on.logged("enrolled").len(), on.logged("restored").len()), (2, 1));
    // The certificate of after the backup is recorded when its node asks, and then it goes with its node.
    let name = "c.cache.example.org";
    let mut node = on.world.node(name);
    node.client = third.clone();
    assert!(poll_until(SOON, || matches!(node.sync(0).0, 200 | 204)), "{}", on.world.log());
    assert!(poll_until(SOON, || on.logged("met").len() == 1), "{}", on.world.log());
    assert_eq!(on.logged("met")[0]["nodes"], json!([name]));
    node.sync(0);
    assert_eq!(on.order(&json!("deny"), name).0, 200);
    assert!(poll_until(SOON, || !is_let_in(&third)), "{}", on.world.log());
    assert_eq!(on.logged("met").len(), 1, "once, and not those that are recorded");
}
