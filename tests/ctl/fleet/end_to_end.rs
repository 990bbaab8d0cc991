//! The whole way: certificates, a real coordinator on SQLite, three nodes, and the operator's commands.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use super::fake::text;
use super::real::Fleet;
use tfo_testbed::{SOON, poll_until};

/// Kernel text of two keys, and their fingerprints by Python's hashlib: sha256(b"tfo-fleet/v1/fingerprint" + raw)[:8].
const KEYS: &str = "7a0c91e3-55d1f0b8-19c64e2f-8d3ba670,e1f25d06-3b98c7a4-60d2194e-f58b037c";
const PRINTS: (&str, &str) = ("6c3f8e4b21cc43a0", "8733a57999198333");

/// Actions of the audit log.
fn actions(fleet: &Fleet) -> Vec<String> {
    let audit = fleet.operator.json(&["audit"], 0);
    audit["entries"].as_array().unwrap().iter().map(|line| line["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_first_key_a_rotation_and_what_is_seen_of_them() {
    let fleet = Fleet::start();
    let operator = &fleet.operator;
    let (_, stderr) = operator.ends(&["rotate"], 3);
    assert!(stderr.contains("phase"), "{stderr}");
    fleet.first_key();
    let (stdout, stderr) = operator.ends(&["rotate", "--wait", "--timeout", "20s", "--reason", "weekly"], 0);
    assert!(stdout.starts_with("rotate in pool edge: done after"), "{stdout}");
    assert!(stderr.lines().any(|line| line.contains("  steady  generation 3  ")), "{stderr}");
    let shown = operator.ok(&["nodes"]);
    assert!(shown.contains("3 of 3 required nodes converged") && shown.contains("no node is behind"), "{shown}");
    assert!(shown.contains("ok: 3 nodes accept each other's cookies; the next rotation is due at "), "{shown}");
    let nodes = operator.json(&["nodes"], 0);
    assert_eq!(nodes["fingerprints"][0]["nodes"], 3);
    assert_eq!(actions(&fleet), ["first_key", "resume", "rotate", "promote", "settle"]);
    let whole = operator.json(&["audit", "--verify"], 0);
    assert_eq!(
        (&whole["whole"], &whole["entries"], &whole["first"], &whole["broken"]),
        (&json!(true), &json!(5), &json!(1), &json!(null))
    );
    let log = operator.ok(&["audit", "--after", "2"]);
    assert!(log.contains("  staged  ops1.test  rotate  \"weekly\""), "{log}");
    // What was shown and logged has no byte of a key.
    let said = format!("{stdout}{stderr}{shown}{nodes}{log}{}", fleet.log());
    for part in fleet.nodes[0].keys().split([',', '-']) {
        assert!(part.len() == 8 && !said.contains(part), "a part of a key was shown");
    }
}

#[test]
fn a_node_that_is_stuck_is_waited_for_named_and_left_behind() {
    let fleet = Fleet::start();
    let operator = &fleet.operator;
    fleet.first_key();
    fleet.stick(2, true);
    let (stdout, stderr) = operator.ends(&["rotate", "--wait", "--timeout", "3s"], 4);
    assert!(stdout.contains("still running after") && stdout.ends_with("waits for 1: c.test\n"), "{stdout}");
    // The first look names each node without an answer so far; the last word, above, names exactly those left.
    let staged = stderr.lines().find(|line| line.contains("  staged  generation 2  "));
    assert!(staged.is_some_and(|line| line.contains("waits for") && line.contains("c.test")), "{stderr}");
    assert!(operator.ends(&["rotate"], 3).1.contains("remedy"), "a second one while one runs");
    let shown = operator.ok(&["nodes"]);
    assert!(shown.lines().any(|line| line.starts_with("c.test")), "{shown}");
    // Stopped, and on again.
    operator.ok(&["pause", "--reason", "lunch"]);
    assert_eq!(fleet.pool()["blocked_by"], "paused");
    operator.ok(&["resume"]);
    // Without consent nothing is left behind; with it, exactly that one.
    operator.ends(&["advance"], 2);
    let (_, stderr) = operator.ends(&["advance", "--yes"], 0);
    assert!(stderr.contains("leaves 1 node of 3 required behind: c.test"), "{stderr}");
    // It asks again, is admitted again, and is as stuck as before: then it is left behind once more.
    let is_steady = || {
        let is_steady = fleet.pool()["phase"] == "steady";
        if !is_steady {
            operator.run(&["advance", "--yes"]);
        }
        is_steady
    };
    assert!(poll_until(SOON, is_steady), "never steady without it: {}\n{}", fleet.pool(), fleet.log());
    fleet.stick(2, false);
    fleet.until("all three again", |pool| pool["required"] == 3 && pool["converged"] == 3);
    assert!(actions(&fleet).contains(&"advance".to_owned()));
}

#[test]
fn an_abort_turns_back_and_ends_the_waiting() {
    let fleet = Fleet::start();
    let operator = &fleet.operator;
    fleet.first_key();
    let before = fleet.pool();
    fleet.stick(2, true);
    let mut waiting = operator.spawn(&["rotate", "--wait"]);
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("staged"));
    let (_, stderr) = operator.ends(&["abort", "--yes", "--reason", "changed my mind"], 0);
    assert!(stderr.contains("affects 3 nodes"), "{stderr}");
    let output = waiting.wait_with_output().unwrap();
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{stdout}");
    assert!(stdout.starts_with("rotate in pool edge: aborted by ops1.test (\"changed my mind\")"), "{stdout}");
    fleet.stick(2, false);
    let after = fleet.until("held", |pool| pool["hold"] == "aborted" && pool["converged"] == 3);
    assert_eq!(after["primary"], before["primary"]);
    operator.ends(&["rotate"], 3);
    operator.ok(&["resume"]);
    operator.ends(&["abort", "--yes"], 3);
}

#[test]
fn a_leaked_key_is_driven_out_and_its_node_denied() {
    let fleet = Fleet::start();
    let operator = &fleet.operator;
    fleet.first_key();
    let leaked = fleet.pool()["primary"].clone();
    let revoke =
        ["rotate", "--mode", "revoke", "--deny", "c.test", "--reason", "leak", "--yes", "--wait", "--timeout", "20s"];
    let ended = operator.json(&revoke, 0);
    assert_eq!(
        (&ended["action"], &ended["result"], &ended["nodes"]),
        (&json!("revoke"), &json!("done"), &json!(["c.test"]))
    );
    let pool = fleet.pool();
    assert_ne!(pool["primary"], leaked);
    assert_eq!((&pool["backup"], &pool["revoking"]), (&Value::Null, &json!([])));
    let denied = operator.json(&["nodes"], 0)["nodes"][2].clone();
    assert_eq!((&denied["node"], &denied["state"]), (&json!("c.test"), &json!("denied")));
    // Allowed, it comes again as a new one.
    operator.ends(&["exclude", "c.test", "--yes"], 3);
    operator.ends(&["allow", "c.test", "--yes", "--reason", "re-imaged"], 0);
    fleet.until("three again", |pool| pool["required"] == 3 && pool["converged"] == 3);
    // Two of three are taken out at once, and one command brings back those that an operator excluded.
    operator.ends(&["exclude", "--match", "[bc]*", "--yes"], 2);
    operator.ends(&["exclude", "b.test", "c.test", "--for", "1h", "--yes"], 0);
    assert_eq!(operator.json(&["nodes"], 0)["nodes"][1]["excluded"], "operator");
    assert_eq!(fleet.pool()["required"], 1);
    operator.ok(&["include", "--match", "*"]);
    fleet.until("three once more", |pool| pool["required"] == 3 && pool["converged"] == 3);
    operator.ends(&["deny", "a.test", "z.test", "y.test", "--yes"], 1);
    assert_eq!(actions(&fleet).iter().filter(|action| *action == "exclude").count(), 1);
    // The file of this fleet has the number of expected nodes.
    let (_, stderr) = operator.ends(&["forget", "a.test", "--lower-expected", "--yes"], 3);
    assert!(stderr.contains("set `expected_nodes = 2` in [pools.edge]"), "{stderr}");
    let (_, stderr) = operator.ends(&["rotate", "--mode", "revoke", "--epoch", "99", "--yes"], 3);
    assert!(
        stderr.starts_with("rotate --mode revoke in pool edge") && stderr.contains("error: no such key"),
        "{stderr}"
    );
}

#[test]
fn keys_are_imported_into_an_empty_pool_only() {
    let fleet = Fleet::start();
    let operator = &fleet.operator;
    let keys = operator.write("keys", KEYS, 0o400);
    let import = ["import", "--pool", "bulk", "--key-file", keys.to_str().unwrap(), "--expect", "3", "--yes"];
    let (stdout, stderr) = operator.ends(&import, 0);
    assert!(stdout.starts_with("import: done in pool bulk; generation 1, steady"), "{stdout}");
    let pools = operator.json(&["pools", "--pool", "bulk"], 0);
    let print = |slot: &str| pools["pools"][0][slot]["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!((print("primary").as_str(), print("backup").as_str()), PRINTS);
    assert!(operator.ends(&import, 3).1.contains("already has keys"));
    // The pool has no nodes to take the keys.
    operator.ends(&["resume", "--pool", "bulk"], 3);
    let said = format!("{stdout}{stderr}{pools}{}", fleet.log());
    assert!(KEYS.split([',', '-']).all(|part| !said.contains(part)), "a part of a key was shown");
}

#[test]
fn a_restored_store_is_recovered_from_its_fleet() {
    let mut fleet = Fleet::start();
    fleet.first_key();
    fleet.stop_coordinator();
    let (database, copy) = (fleet.operator.path("state.db"), fleet.operator.path("yesterday.db"));
    std::fs::copy(&database, &copy).unwrap();
    fleet.start_coordinator();
    fleet.until("heard", |pool| pool["converged"] == 3 && pool["blocked_by"] == "schedule");
    fleet.operator.ends(&["rotate", "--wait", "--timeout", "20s"], 0);
    let lost = fleet.pool();
    fleet.stop_coordinator();
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(fleet.operator.path(&format!("state.db{suffix}"))).ok();
    }
    std::fs::copy(&copy, &database).unwrap();
    fleet.start_coordinator();
    let frozen = fleet.until("frozen", |pool| pool["blocked_by"] == "frozen" && pool["recoverable"] != json!([]));
    assert_eq!(frozen["recoverable"], json!([{"primary": lost["primary"], "backup": lost["backup"]}]));
    let operator = &fleet.operator;
    assert!(operator.ok(&["pools"]).contains("edge: critical: frozen: "));
    operator.ends(&["rotate"], 3);
    // The store does not have the newer key; a node has.
    let (_, stderr) = operator.ends(&["recover", "--yes"], 3);
    assert!(stderr.contains("key"), "{stderr}");
    let other = operator.write("other", KEYS, 0o400);
    operator.ends(&["recover", "--yes", "--key-file", other.to_str().unwrap()], 3);
    let keys = operator.write("held", &fleet.nodes[0].keys(), 0o400);
    let (stdout, _) = operator.ends(&["recover", "--yes", "--key-file", keys.to_str().unwrap()], 0);
    assert!(stdout.starts_with("recover: done in pool edge; generation 1000003, steady"), "{stdout}");
    fleet.until("everybody follows", |pool| pool["converged"] == 3 && pool["hold"] == "recovered");
    operator.ok(&["resume"]);
    operator.ends(&["rotate", "--wait", "--timeout", "20s"], 0);
}

#[test]
fn viewers_look_and_others_do_not_even_that() {
    let fleet = Fleet::start();
    let operator = &fleet.operator;
    let own = std::fs::read_to_string(operator.path("ctl.toml")).unwrap();
    let as_who = |name: &str| operator.write("ctl.toml", &own.replace("ops1.test/operator", name), 0o644);
    as_who("view1.test/viewer");
    operator.ok(&["pools"]);
    operator.ok(&["nodes"]);
    operator.ok(&["audit"]);
    let (_, stderr) = operator.ends(&["pause"], 3);
    assert!(stderr.contains("operators"), "{stderr}");
    as_who("a.test/node");
    operator.ends(&["pools"], 3);
    // A revoked operator is out as soon as the coordinator has the list.
    as_who("ops1.test/operator");
    operator.ok(&["pools"]);
    operator.ends(&["pools", "--pool", "none"], 2);
    let pki = operator.path("pki");
    operator.plain(&["pki", "revoke", "--dir", pki.to_str().unwrap(), "ops1.test"]);
    let out = || {
        let output = operator.run(&["pools"]);
        output.status.code() == Some(3) && text(&output.stderr).contains("certificate")
    };
    assert!(poll_until(SOON, out), "{}", fleet.log());
    as_who("view1.test/viewer");
    operator.ok(&["pools"]);
}
