//! `rotate --wait`: a line per phase, whom it waits for, and every way in which it ends.

use serde_json::{Value, json};

use super::fake::{FakeCoordinator, Operator, Reply, audit, done, key, node, page, pool, refusal, three};

const ROTATIONS: &str = "POST /v1/pools/edge/rotations";
const STATUS: &str = "GET /v1/pools/edge";

/// The pool at one moment after the start.
fn at(revision: u64, with: Value) -> Reply {
    let mut status = pool(json!({"revision": revision, "generation": 13, "blocked_by": null}));
    status.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    Reply::Json(200, status)
}

/// An operator and a coordinator that takes a rotation and then looks like this, one look after the other.
fn rotating(moments: impl IntoIterator<Item = Reply>) -> (Operator, FakeCoordinator) {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    coordinator.ok(ROTATIONS, done("stage", json!({})));
    coordinator.on(STATUS, [Reply::Json(200, pool(json!({})))].into_iter().chain(moments));
    (operator, coordinator)
}

fn staged(waiting: &[&str]) -> Reply {
    let converged = 3 - waiting.len();
    let blocked = if waiting.is_empty() { Value::Null } else { json!("barrier") };
    at(
        41,
        json!({"phase": "staged", "backup": key(8, 'c'), "converged": converged, "waiting_for": waiting,
        "blocked_by": blocked}),
    )
}

fn promoted() -> Reply {
    at(
        42,
        json!({"phase": "promoted", "generation": 14, "primary": key(8, 'c'), "backup": key(7, 'a'),
        "waves": {"opened": 1, "of": 2}}),
    )
}

fn settled() -> Reply {
    at(44, json!({"phase": "steady", "generation": 14, "primary": key(8, 'c'), "backup": key(7, 'a')}))
}

#[test]
fn a_rotation_is_followed_from_phase_to_phase() {
    let (operator, coordinator) = rotating([staged(&["cp2.test", "cp3.test"]), promoted(), settled()]);
    coordinator.on("GET /v1/pools/edge/audit?after=41", [page(&[audit(42, "promote", None, "")])]);
    coordinator.on(
        "GET /v1/pools/edge/audit?after=42",
        [page(&[audit(43, "open_wave", None, ""), audit(44, "settle", None, "")])],
    );
    let (stdout, stderr) = operator.ends(&["rotate", "--wait"], 0);
    let lines: Vec<&str> = stderr.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
    let (a, b, c) = ("a".repeat(16), "b".repeat(16), "c".repeat(16));
    let expected = [
        format!(
            "staged  generation 13  {a},{c}  1/3 converged  nodes have not acknowledged  waits for 2: cp2.test, cp3.test"
        ),
        format!("promoted wave 1/2  generation 14  {c},{a}  3/3 converged"),
        format!("steady  generation 14  {c},{a}  3/3 converged"),
    ];
    assert_eq!(lines, expected);
    assert!(!stderr.contains(&b));
    assert!(stdout.starts_with("stage in pool edge: done after "), "{stdout}");
    assert!(stdout.contains(&format!("steady, generation 14\nprimary {c} (8), backup {a} (7)\n")), "{stdout}");
}

#[test]
fn its_json_says_how_it_ended_and_where_the_pool_stands() {
    let (operator, coordinator) = rotating([settled()]);
    coordinator.on("GET /v1/pools/edge/audit?after=41", [page(&[audit(44, "settle", None, "")])]);
    let mut ended = operator.json(&["rotate", "--wait"], 0);
    assert!(ended["elapsed_secs"].take().is_u64());
    insta::assert_json_snapshot!("rotate_wait", ended);
}

#[test]
fn when_time_is_over_the_nodes_are_named() {
    let (operator, _coordinator) = rotating([staged(&["cp2.test"])]);
    let (stdout, stderr) = operator.ends(&["rotate", "--wait", "--timeout", "2s"], 4);
    assert!(stdout.starts_with("stage in pool edge: not converged after 2s"), "{stdout}");
    assert!(stdout.ends_with("waits for 1: cp2.test\n"), "{stdout}");
    assert_eq!(stderr.lines().count(), 1, "nothing changed: {stderr}");
    let (operator, _coordinator) = rotating([staged(&["cp2.test"])]);
    let ended = operator.json(&["rotate", "--wait", "--timeout", "0s"], 4);
    assert_eq!((&ended["result"], &ended["status"]["waiting_for"]), (&json!("not_converged"), &json!(["cp2.test"])));
}

#[test]
fn somebody_elses_abort_and_a_hold_end_it_as_refused() {
    let (operator, coordinator) =
        rotating([staged(&["cp2.test"]), at(42, json!({"hold": "aborted", "blocked_by": "held"}))]);
    coordinator.on("GET /v1/pools/edge/audit?after=41", [page(&[audit(42, "abort", Some("ops2.test"), "bad timing")])]);
    let (stdout, _) = operator.ends(&["rotate", "--wait"], 3);
    assert!(stdout.starts_with("stage in pool edge: aborted by ops2.test (\"bad timing\")"), "{stdout}");
    // A revoke that turned it back.
    let (operator, coordinator) = rotating([at(42, json!({"hold": "aborted", "blocked_by": "held"}))]);
    coordinator.on("GET /v1/pools/edge/audit?after=41", [page(&[audit(42, "revoke", Some("ops2.test"), "")])]);
    let ended = operator.json(&["rotate", "--wait"], 3);
    assert_eq!(ended["result"], "held");
    // A store that was put back.
    let (operator, _coordinator) = rotating([at(41, json!({"blocked_by": "frozen"}))]);
    assert!(operator.ends(&["rotate", "--wait"], 3).0.contains("frozen"));
}

#[test]
fn a_coordinator_that_is_away_for_a_while_does_not_end_it() {
    let gone = || Reply::Json(500, refusal("internal", "restarting"));
    let (operator, coordinator) = rotating([staged(&[]), gone(), gone(), Reply::Drop, settled()]);
    coordinator.on("GET /v1/pools/edge/audit?after=41", [page(&[audit(44, "settle", None, "")])]);
    let (_, stderr) = operator.ends(&["rotate", "--wait"], 0);
    assert_eq!(stderr.matches("restarting").count(), 1, "said once: {stderr}");
    // But one that does not let us look any more does.
    let (operator, _coordinator) = rotating([staged(&[]), Reply::Json(403, refusal("not_allowed", "no operator"))]);
    operator.ends(&["rotate", "--wait"], 3);
}

#[test]
fn a_revoke_is_waited_for_until_nobody_holds_the_key() {
    let steady = |with: Value| at(44, with);
    let (operator, coordinator) = rotating([
        at(41, json!({"phase": "staged", "revoking": [key(7, 'a')]})),
        steady(json!({"revoking": [], "converged": 2, "waiting_for": ["cp1.test"]})),
        steady(json!({"revoking": []})),
    ]);
    coordinator.ok(ROTATIONS, done("revoke", json!({"nodes": ["cp3.test"]})));
    let ended = operator.json(&["rotate", "--mode", "revoke", "--deny", "cp3.test", "--yes", "--wait"], 0);
    assert_eq!(
        (&ended["action"], &ended["result"], &ended["status"]["converged"]),
        (&json!("revoke"), &json!("done"), &json!(3))
    );
}

#[test]
fn a_first_key_is_waited_for_until_the_expected_have_it() {
    let given = |required: u64| {
        at(42, json!({"required": required, "converged": required, "hold": "first_key", "blocked_by": "held"}))
    };
    let (operator, coordinator) = rotating([given(1), given(2), given(3)]);
    coordinator.ok(ROTATIONS, done("first_key", json!({"phase": "steady"})));
    let (stdout, _) = operator.ends(&["rotate", "--first", "--expect", "3", "--wait", "--yes"], 0);
    assert!(stdout.contains("tfoctl resume"), "{stdout}");
    // By name: who is not there is not there.
    let (operator, coordinator) = rotating([given(3)]);
    coordinator.ok(ROTATIONS, done("first_key", json!({"phase": "steady"})));
    let wait = ["rotate", "--first", "--expect", "cp1.test,cp9.test", "--wait", "--yes", "--timeout", "1s"];
    operator.ends(&wait, 4);
    let (operator, coordinator) = rotating([given(3)]);
    coordinator.ok(ROTATIONS, done("first_key", json!({"phase": "steady"})));
    let nodes = json!([node("cp1.test", json!({})), node("cp9.test", json!({}))]);
    coordinator.ok("GET /v1/pools/edge/nodes", json!({"pool": "edge", "nodes": nodes, "fingerprints": []}));
    operator.ends(&wait, 0);
}
