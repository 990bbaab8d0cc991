//! `rotate --wait`: a line per phase, a bar on a terminal, whom it waits for, and every way in which it ends.

use std::io::{BufRead, BufReader};

use rustix::process::Signal;
use serde_json::{Value, json};
use tfo_testbed::signal::send;
use tfo_testbed::{need_tool, skip_unless};

use super::commands::on_a_terminal;
use super::fake::{FakeCoordinator, Operator, Reply, audit, done, key, node, page, pool, refusal, text, three};

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
    coordinator.ok(ROTATIONS, done("rotate", json!({})));
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
        format!("staged  generation 13  {a},{c}  1/3 converged  waits for 2: cp2.test, cp3.test"),
        format!("promoted wave 1/2  generation 14  {c},{a}  3/3 converged"),
        format!("steady  generation 14  {c},{a}  3/3 converged"),
    ];
    assert_eq!(lines, expected);
    assert!(!stderr.contains(&b));
    assert!(stdout.starts_with("rotate in pool edge: done after "), "{stdout}");
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
    assert!(stdout.starts_with("rotate in pool edge: still running after 2s"), "{stdout}");
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
    assert!(stdout.starts_with("rotate in pool edge: aborted by ops2.test (\"bad timing\")"), "{stdout}");
    // A revoke that turned it back.
    let (operator, coordinator) = rotating([at(42, json!({"hold": "aborted", "blocked_by": "held"}))]);
    coordinator.on("GET /v1/pools/edge/audit?after=41", [page(&[audit(42, "revoke", Some("ops2.test"), "")])]);
    let ended = operator.json(&["rotate", "--wait"], 3);
    assert_eq!(ended["result"], "stopped");
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
    assert!(stderr.contains("the pool stands still without its coordinator"), "{stderr}");
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

/// A rotation that stopped in its first wave, paused like this.
fn stopped(paused: Value, verdict: Value) -> Reply {
    at(
        43,
        json!({"phase": "promoted", "generation": 14, "primary": key(8, 'c'), "backup": key(7, 'a'),
        "waves": {"opened": 1, "of": 2}, "blocked_by": "paused", "paused": paused, "verdict": verdict}),
    )
}

#[test]
fn a_rotation_that_stops_ends_it_at_once_with_the_cause() {
    let paused = |by: &str, operator: Value, reason: &str| {
        json!({"by": by, "since": "2026-11-22T22:00:00Z", "operator": operator, "reason": reason, "rejected_ppm": null,
            "baseline_ppm": null, "worst": []})
    };
    let verdict = |kind: &str, sentence: &str, next: Value| {
        json!({"severity": "critical", "kind": kind, "since": null, "sentence": sentence, "nodes": [], "more": 0,
            "numbers": {}, "next": next, "docs": null})
    };
    let cases = [
        (
            paused("health", Value::Null, ""),
            verdict("stopped_by_health", "12% of the cookies are rejected", json!("tfoctl abort")),
            "rotate in pool edge: stopped: 12% of the cookies are rejected; promoted, generation 14\n",
            "next: tfoctl abort\n",
        ),
        (
            paused("operator", json!("ops2.test"), "lunch"),
            verdict("rotating", "a rotation runs", Value::Null),
            "rotate in pool edge: stopped: paused by ops2.test (\"lunch\"); promoted, generation 14\n",
            &format!("primary {} (8), backup {} (7)\n", "c".repeat(16), "a".repeat(16)),
        ),
    ];
    for (paused, verdict, begins, ends) in cases {
        let (operator, _coordinator) = rotating([staged(&["cp2.test"]), stopped(paused.clone(), verdict.clone())]);
        let (stdout, _) = operator.ends(&["rotate", "--wait"], 3);
        assert!(stdout.starts_with(begins) && stdout.ends_with(ends), "{stdout}");
        let (operator, _coordinator) = rotating([stopped(paused, verdict)]);
        assert_eq!(operator.json(&["rotate", "--wait"], 3)["result"], "stopped");
    }
}

#[test]
fn ctrl_c_ends_the_following_and_says_that_the_rotation_continues() {
    let (operator, coordinator) = rotating([staged(&["cp2.test"])]);
    let mut child = operator.spawn(&["rotate", "--wait"]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("staged"));
    send(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{stdout}");
    assert!(stdout.starts_with("rotate in pool edge: followed no longer; the rotation continues; staged"), "{stdout}");
    assert!(stdout.contains("waits for 1: cp2.test\n`tfoctl watch` shows it"), "{stdout}");
    assert_eq!(coordinator.orders().len(), 1, "and nothing was undone");
}

#[test]
fn on_a_terminal_there_is_a_bar_with_nodes_wave_and_the_next_exclusion() {
    skip_unless!(need_tool("script"));
    let waiting = at(
        42,
        json!({"phase": "promoted", "generation": 14, "primary": key(8, 'c'), "backup": key(7, 'a'), "converged": 2,
        "waves": {"opened": 1, "of": 2}, "blocked_by": "barrier", "waiting_for": ["cp2.test"],
        "next_exclusion_at": "2100-01-01T00:00:00Z"}),
    );
    let (operator, coordinator) = rotating([staged(&["cp2.test"]), waiting, settled()]);
    coordinator.on("GET /v1/pools/edge/audit?after=41", [page(&[audit(42, "promote", None, "")])]);
    coordinator.on("GET /v1/pools/edge/audit?after=42", [page(&[audit(44, "settle", None, "")])]);
    let (code, shown) = on_a_terminal(&operator, "rotate --wait", "");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("2/3 nodes  promoted, wave 1/2, next exclusion in "), "{shown:?}");
    assert!(shown.contains("the first is excluded at 2100-01-01T00:00:00Z"), "a line, too: {shown:?}");
    assert!(shown.contains("rotate in pool edge: done after "), "{shown:?}");
}
