//! What each command asks for, what it says beforehand, and what it refuses by itself.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::fake::{FakeCoordinator, Operator, Reply, done, key, node, pool, print, refusal, text, three, verdict};
use tfo_testbed::{need_tool, skip_unless};

/// Kernel text of two keys, and their fingerprints by Python's hashlib: sha256(b"tfo-fleet/v1/fingerprint" + raw)[:8].
const KEYS: &str = "7a0c91e3-55d1f0b8-19c64e2f-8d3ba670,e1f25d06-3b98c7a4-60d2194e-f58b037c";
const PRINTS: (&str, &str) = ("6c3f8e4b21cc43a0", "8733a57999198333");

/// A promoted pool that waits for two nodes.
fn promoted() -> Value {
    pool(json!({
        "phase": "promoted", "generation": 13, "converged": 1, "waiting_for": ["cp2.test", "cp3.test"],
        "blocked_by": "barrier", "waves": {"opened": 1, "of": 2}
    }))
}

/// A pool without keys.
fn empty() -> Value {
    pool(json!({"phase": "empty", "primary": null, "backup": null, "generation": 0, "required": 0, "converged": 0,
        "blocked_by": "held"}))
}

/// A pool whose rotation the health gate has stopped.
fn stopped() -> Value {
    pool(json!({
        "phase": "promoted", "generation": 13, "blocked_by": "paused", "waves": {"opened": 1, "of": 3},
        "paused": {"by": "health", "since": "2026-11-22T22:00:00Z", "operator": null, "reason": "",
            "rejected_ppm": 110_000, "baseline_ppm": 1_000, "worst": ["cp1.test"]},
        "waiver": {"wave": 1, "of": 3, "rejected_ppm": 123_456, "baseline_ppm": 1_000, "nodes": 3,
            "next": ["cp2.test", "cp3.test"]}
    }))
}

/// A pool that holds after its first key.
fn held() -> Value {
    pool(json!({"hold": "first_key", "blocked_by": "held", "expect": {"number": 4}}))
}

/// A pool whose store is behind its fleet.
fn frozen() -> Value {
    let slots =
        json!({"primary": {"epoch": 9, "fingerprint": PRINTS.0}, "backup": {"epoch": 8, "fingerprint": PRINTS.1}});
    let mut verdict = verdict("critical", "frozen", "frozen: cp3.test reports generation 20", json!("tfoctl recover"));
    verdict["nodes"] = json!(["cp3.test"]);
    pool(json!({"blocked_by": "frozen", "recoverable": [slots], "verdict": verdict}))
}

/// One command: the pool it needs, its arguments, what the API calls it, and whether it is asked about.
struct Case {
    pool: Value,
    arguments: &'static [&'static str],
    order: &'static str,
    body: Value,
    heavy: bool,
}

fn cases() -> Vec<Case> {
    let steady = || pool(json!({}));
    let case = |pool, arguments, order, body, heavy| Case { pool, arguments, order, body, heavy };
    let rotation = |with: Value| {
        let mut body = json!({
            "reason": "", "mode": "normal", "deny": [], "epochs": [], "expect": null, "force": false, "if_revision": 40
        });
        body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        body
    };
    vec![
        case(
            steady(),
            &["pause", "--reason", "night"],
            "POST /v1/pools/edge/pause",
            json!({"reason": "night", "force": false}),
            false,
        ),
        case(
            steady(),
            &["resume"],
            "POST /v1/pools/edge/resume",
            json!({"reason": "", "force": false, "if_revision": 40}),
            false,
        ),
        case(
            steady(),
            &["rotate", "--reason", "weekly"],
            "POST /v1/pools/edge/rotations",
            rotation(json!({"reason": "weekly"})),
            false,
        ),
        case(steady(), &["rotate", "--force"], "POST /v1/pools/edge/rotations", rotation(json!({"force": true})), true),
        case(
            steady(),
            &["rotate", "--mode", "revoke", "--deny", "cp3.test", "--deny", "cp2.test", "--epoch", "7"],
            "POST /v1/pools/edge/rotations",
            rotation(json!({"mode": "revoke", "deny": ["cp2.test", "cp3.test"], "epochs": [7]})),
            true,
        ),
        case(
            empty(),
            &["rotate", "--first", "--expect", "100"],
            "POST /v1/pools/edge/rotations",
            rotation(json!({"mode": "first", "expect": {"number": 100}})),
            true,
        ),
        case(
            empty(),
            &["rotate", "--first", "--expect", "cp1.test,cp2.test"],
            "POST /v1/pools/edge/rotations",
            rotation(json!({"mode": "first", "expect": {"names": ["cp1.test", "cp2.test"]}})),
            true,
        ),
        case(
            promoted(),
            &["abort", "--reason", "bad wave"],
            "POST /v1/pools/edge/abort",
            json!({"reason": "bad wave", "force": false, "if_revision": 40}),
            true,
        ),
        case(
            promoted(),
            &["abort", "--force"],
            "POST /v1/pools/edge/abort",
            json!({"reason": "", "force": true, "if_revision": 40}),
            true,
        ),
        case(
            promoted(),
            &["advance"],
            "POST /v1/pools/edge/advance",
            json!({"reason": "", "generation": 13, "leave": ["cp2.test", "cp3.test"]}),
            true,
        ),
        case(
            empty(),
            &["import", "--key-file", "@keys", "--expect", "3"],
            "POST /v1/pools/edge/import",
            json!({"reason": "", "keys": KEYS, "expect": {"number": 3}}),
            true,
        ),
        case(
            frozen(),
            &["recover"],
            "POST /v1/pools/edge/recover",
            json!({"reason": "", "slots": frozen()["recoverable"][0]}),
            true,
        ),
        case(
            frozen(),
            &["recover", "--key-file", "@keys", "--primary", PRINTS.0],
            "POST /v1/pools/edge/recover",
            json!({"reason": "", "slots": frozen()["recoverable"][0], "keys": KEYS}),
            true,
        ),
        case(
            stopped(),
            &["resume"],
            "POST /v1/pools/edge/resume",
            json!({"reason": "", "force": false, "if_revision": 40}),
            true,
        ),
        case(
            held(),
            &["resume", "--force"],
            "POST /v1/pools/edge/resume",
            json!({"reason": "", "force": true, "if_revision": 40}),
            true,
        ),
        case(
            steady(),
            &["expect", "5", "--reason", "grows"],
            "POST /v1/pools/edge/expect",
            json!({"number": 5, "reason": "grows", "if_revision": 40}),
            false,
        ),
        case(
            steady(),
            &["expect", "2"],
            "POST /v1/pools/edge/expect",
            json!({"number": 2, "reason": "", "if_revision": 40}),
            true,
        ),
    ]
}

/// An operator, the coordinator, and the arguments with `@keys` as the key file's path.
fn prepare(case: &Case) -> (Operator, FakeCoordinator, Vec<String>) {
    let (operator, coordinator) = Operator::with(&case.pool, &three());
    let keys = operator.write("keys", &format!("{KEYS}\n"), 0o400);
    let keys = keys.to_str().unwrap();
    let arguments = case.arguments.iter().map(|argument| argument.replace("@keys", keys)).collect();
    coordinator.ok(
        case.order.split('?').next().unwrap(),
        done("what_was_done", json!({"nodes": ["cp2.test"], "more": 29_999})),
    );
    (operator, coordinator, arguments)
}

#[test]
fn each_command_asks_for_what_it_says_and_shows_what_was_done() {
    for case in cases() {
        let (operator, coordinator, arguments) = prepare(&case);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if case.heavy {
            arguments.push("--yes");
        }
        let (stdout, stderr) = operator.ends(&arguments, 0);
        let orders = coordinator.orders();
        assert_eq!(orders.len(), 1, "{arguments:?}");
        assert_eq!((orders[0].what.as_str(), &orders[0].body), (case.order, &case.body), "{arguments:?}");
        assert_eq!(
            stdout,
            "what_was_done: done in pool edge; generation 13, staged, revision 41; cp2.test and 29999 more\n"
        );
        assert_eq!(!stderr.is_empty(), case.heavy, "what can harm says so: {arguments:?}: {stderr}");
        assert_eq!(operator.json(&arguments, 0), done("what_was_done", json!({"nodes": ["cp2.test"], "more": 29_999})));
    }
}

#[test]
fn what_can_harm_is_not_done_where_nobody_can_be_asked() {
    for case in cases().into_iter().filter(|case| case.heavy) {
        let (operator, coordinator, arguments) = prepare(&case);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (stdout, stderr) = operator.ends(&arguments, 2);
        assert!(stdout.is_empty() && stderr.contains("--yes") && stderr.contains("nothing was done"), "{stderr}");
        assert!(coordinator.orders().is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_dry_run_explains_and_does_nothing() {
    let mut shown = String::new();
    for case in cases() {
        let (operator, coordinator, arguments) = prepare(&case);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.push("--dry-run");
        shown += &operator.ok(&arguments);
        let plan = operator.json(&arguments, 0);
        assert_eq!((&plan["dry_run"], &plan["pool"], &plan["revision"]), (&json!(true), &json!("edge"), &json!(40)));
        assert!(plan["nodes"].is_u64() && !plan["plan"].as_array().unwrap().is_empty(), "{plan}");
        assert!(coordinator.orders().is_empty(), "{arguments:?}");
    }
    insta::assert_snapshot!("plans", shown);
}

#[test]
fn what_the_pool_cannot_do_now_is_refused_without_asking_for_it() {
    let steady = || pool(json!({}));
    let in_file = || pool(json!({"expected_nodes": 3, "expected_in_file": true}));
    let other = "--primary=0000000000000000";
    let cases: [(Value, &[&str], i32, &str); 7] = [
        (steady(), &["abort", "--yes"], 3, "no rotation to abort"),
        (steady(), &["advance", "--yes"], 3, "waits for no node"),
        (steady(), &["import", "--key-file", "@keys", "--yes"], 3, "already has keys"),
        (steady(), &["recover", "--yes"], 3, "not frozen"),
        (pool(json!({"blocked_by": "frozen"})), &["recover", "--yes"], 3, "no node has reported keys"),
        (frozen(), &["recover", "--yes", other], 3, "--primary"),
        (in_file(), &["expect", "2", "--yes"], 3, "set `expected_nodes = 2` in [pools.edge]"),
    ];
    for (status, arguments, code, says) in cases {
        let (operator, coordinator) = Operator::with(&status, &three());
        let keys = operator.write("keys", KEYS, 0o400);
        let arguments: Vec<&str> =
            arguments.iter().map(|a| if *a == "@keys" { keys.to_str().unwrap() } else { a }).collect();
        let (_, stderr) = operator.ends(&arguments, code);
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(coordinator.orders().is_empty(), "{arguments:?}");
    }
}

#[test]
fn options_of_another_mode_are_refused_at_once() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let (_, stderr) = operator.ends(&["rotate", "--deny", "cp1.test", "--epoch", "3", "--expect", "3"], 2);
    for option in ["--deny", "--epoch", "--expect"] {
        assert!(stderr.contains(&format!("{option} works only with")), "{stderr}");
    }
    for bad in [
        &["rotate", "--first", "--mode", "revoke"][..],
        &["rotate", "--epoch", "0"],
        &["rotate", "--first", "--expect", "1,2"],
        &["rotate", "--timeout", "5"],
        &["rotate", "--yes", "--dry-run"],
        &["rotate", "--mode", "sideways"],
        &["deny"],
        &["exclude", "CP1"],
        &["expect", "many"],
        &["nonsense"],
    ] {
        operator.ends(bad, 2);
    }
    assert!(coordinator.asked().is_empty());
}

#[test]
fn one_of_several_pairs_to_recover_must_be_named() {
    let pairs = json!([{"primary": key(9, 'd'), "backup": null}, {"primary": key(9, 'e'), "backup": key(8, 'd')}]);
    let (operator, coordinator) =
        Operator::with(&pool(json!({"blocked_by": "frozen", "recoverable": pairs})), &three());
    coordinator.ok("POST /v1/pools/edge/recover", done("recover", json!({})));
    let (_, stderr) = operator.ends(&["recover", "--yes"], 3);
    assert!(stderr.contains(&print('d')) && stderr.contains(&print('e')), "{stderr}");
    operator.ends(&["recover", "--yes", "--primary", &print('e')], 0);
    assert_eq!(coordinator.orders()[0].body["slots"], pairs[1]);
    // Keys of another pair than the fleet holds.
    let keys = operator.write("keys", KEYS, 0o400);
    let (_, stderr) =
        operator.ends(&["recover", "--yes", "--primary", &print('e'), "--key-file", keys.to_str().unwrap()], 3);
    assert!(stderr.contains(PRINTS.0) && stderr.contains(&print('e')), "{stderr}");
    assert_eq!(coordinator.orders().len(), 1);
}

#[test]
fn an_import_says_who_holds_the_key_already() {
    let held = |name: &str, primary: &str| {
        node(name, json!({"primary": {"epoch": null, "fingerprint": primary}, "backup": null, "generation": null}))
    };
    let nodes = json!([held("cp1.test", PRINTS.0), held("cp2.test", PRINTS.0), held("cp3.test", &print('f'))]);
    let (operator, coordinator) = Operator::with(&empty(), &nodes);
    let keys = operator.write("keys", KEYS, 0o400);
    let plan = operator.ok(&["import", "--key-file", keys.to_str().unwrap(), "--dry-run"]);
    assert!(plan.contains("2 of 3 nodes that reported already hold the primary"), "{plan}");
    assert!(plan.contains(PRINTS.0) && plan.contains(PRINTS.1), "{plan}");
    assert!(coordinator.orders().is_empty());
}

#[test]
fn keys_are_read_like_secrets_and_shown_to_nobody() {
    let (operator, coordinator) = Operator::with(&empty(), &three());
    coordinator.ok("POST /v1/pools/edge/import", done("import", json!({})));
    let file = operator.path("keys");
    let file = file.to_str().unwrap();
    let import = ["import", "--key-file", file, "--yes"];
    for mode in [0o440, 0o644, 0o606] {
        operator.write("keys", KEYS, mode);
        assert!(operator.ends(&import, 2).1.contains("users other than its owner"), "{mode:o}");
    }
    let zero = "00000000-00000000-00000000-00000000";
    let first = KEYS.split(',').next().unwrap();
    let twice = format!("{first},{first}");
    let upper = first.to_uppercase();
    let long = format!("{KEYS},{first}");
    for bad in ["", zero, &twice, &upper, &long, "7a0c91e3", &format!("{first}\n\n")] {
        operator.write("keys", bad, 0o400);
        let (stdout, stderr) = operator.ends(&import, 2);
        assert!(stdout.is_empty() && !stderr.contains("7a0c91e3"), "{bad}: {stderr}");
    }
    operator.ends(&["import", "--key-file", "/nowhere", "--yes"], 2);
    operator.ends(&["import", "--key-file", "/dev/zero", "--yes"], 2);
    assert!(coordinator.orders().is_empty());
    // From standard input.
    let mut said = String::new();
    for (input, code) in [(KEYS, 0), ("nonsense", 2), ("", 2), (&*long, 2)] {
        let mut command = operator.command(&["import", "--key-file", "-", "--yes"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{input}: {}", text(&output.stderr));
        said += &text(&output.stdout);
        said += &text(&output.stderr);
    }
    assert_eq!(coordinator.orders().len(), 1);
    assert_eq!(coordinator.orders()[0].body["keys"], KEYS);
    for part in KEYS.split([',', '-']) {
        assert!(!said.contains(part), "a part of a key was shown");
    }
}

/// Runs a command on a terminal of its own and types an answer.
pub(crate) fn on_a_terminal(operator: &Operator, arguments: &str, answer: &str) -> (Option<i32>, String) {
    let config = operator.path("ctl.toml");
    let command = format!("{} {arguments} --config {}", tfo_testbed::program("tfoctl"), config.display());
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stdout))
}

#[test]
fn on_a_terminal_it_is_asked_and_no_is_the_default() {
    skip_unless!(need_tool("script"));
    let (operator, coordinator) = Operator::with(&promoted(), &three());
    coordinator.ok("POST /v1/pools/edge/abort", done("abort", json!({})));
    for no in ["n\n", "\n", "yes please\n", "\u{4}"] {
        let (code, shown) = on_a_terminal(&operator, "abort", no);
        assert_eq!(code, Some(3), "{no:?}: {shown}");
        assert!(shown.contains("Do it? [y/N]") && shown.contains("nothing was done"), "{shown}");
    }
    assert!(coordinator.orders().is_empty());
    let (code, shown) = on_a_terminal(&operator, "abort", "y\n");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("affects 3 nodes"), "{shown}");
    assert_eq!(coordinator.orders().len(), 1);
}

#[test]
fn a_resume_of_a_health_stop_names_the_waiver_and_the_nodes_and_asks() {
    skip_unless!(need_tool("script"));
    let (operator, coordinator) = Operator::with(&stopped(), &three());
    coordinator.ok("POST /v1/pools/edge/resume", done("resume", json!({})));
    let (code, shown) = on_a_terminal(&operator, "resume", "\n");
    assert_eq!(code, Some(3), "{shown}");
    for says in [
        "the health gate is waived for wave 1 of 3: rejected 12.3% of its cookies now, 0.1% before",
        "3 nodes get the key next: cp2.test, cp3.test and 1 more",
        "most cookies were rejected by cp1.test",
        "the other way is `tfoctl abort`",
        "Do it? [y/N]",
    ] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    assert!(coordinator.orders().is_empty());
    // A dry run shows the same, and a pause by an operator is ended without a question.
    assert!(operator.ok(&["resume", "--dry-run"]).contains("the health gate is waived for wave 1 of 3"));
    assert_eq!(operator.json(&["resume", "--dry-run"], 0)["nodes"], 3);
    let by_operator = json!({"by": "operator", "since": "2026-11-22T22:00:00Z", "operator": "ops2.test",
        "reason": "lunch", "rejected_ppm": null, "baseline_ppm": null, "worst": []});
    let (operator, coordinator) = Operator::with(&pool(json!({"phase": "staged", "paused": by_operator})), &three());
    coordinator.ok("POST /v1/pools/edge/resume", done("resume", json!({})));
    operator.ok(&["resume"]);
}

#[test]
fn a_rotation_that_would_be_refused_says_why_and_until_when_beforehand() {
    let closed = json!({"message": "clients still use cookies of the backup key; the gate opens at \
        2100-01-01T00:00:00Z at the latest (phase steady)", "remedy": "wait until then; --force skips this gate",
        "until": "2100-01-01T00:00:00Z"});
    let (operator, coordinator) = Operator::with(&pool(json!({"rotate_refused": closed})), &three());
    let plan = operator.ok(&["rotate", "--dry-run"]);
    let message = closed["message"].as_str().unwrap();
    assert!(plan.contains(&format!("now it would be refused: {message}\n  remedy: wait until then")), "{plan}");
    let plan = operator.ok(&["rotate", "--force", "--dry-run"]);
    assert!(plan.contains(&format!("without --force it would be refused: {message}")), "{plan}");
    // And when it is tried: the reason first, the transport last, then what to do and how long that is.
    let mut body = refusal("refused", message);
    (body["remedy"], body["until"]) = (closed["remedy"].clone(), closed["until"].clone());
    coordinator.on("POST /v1/pools/edge/rotations", [Reply::Json(409, body)]);
    let (_, stderr) = operator.ends(&["rotate"], 3);
    let url = coordinator.url();
    assert!(stderr.starts_with(&format!("error: {message}; {url} answered 409 (request r-1)\n")), "{stderr}");
    assert!(stderr.contains("remedy: wait until then; --force skips this gate (in "), "{stderr}");
}

#[test]
fn advance_says_which_nodes_are_back_at_once_and_how_to_leave_them_out() {
    let nodes = |second: &str, third: &str| {
        json!([
            node("cp1.test", json!({})),
            node("cp2.test", json!({"state": second, "error": "write_failed"})),
            node("cp3.test", json!({"state": third}))
        ])
    };
    let (operator, _coordinator) = Operator::with(&promoted(), &nodes("failed", "straggler"));
    let plan = operator.ok(&["advance", "--dry-run"]);
    assert!(
        plan.contains("2 nodes are still connected: cp2.test (failed, write_failed), cp3.test (straggler)"),
        "{plan}"
    );
    assert!(plan.contains("`tfoctl exclude cp2.test cp3.test --for 1h`"), "{plan}");
    let (operator, _coordinator) = Operator::with(&promoted(), &nodes("silent", "straggler"));
    assert!(operator.ok(&["advance", "--dry-run"]).contains("`tfoctl exclude cp3.test --for 1h`"));
    let (operator, _coordinator) = Operator::with(&promoted(), &nodes("silent", "silent"));
    assert!(!operator.ok(&["advance", "--dry-run"]).contains("tfoctl exclude"), "they are gone, and stay away");
    // After a restart of the coordinator it would be refused, and says until when.
    let mut unseen = promoted();
    (unseen["unseen"], unseen["next_exclusion_at"]) = (json!(1), json!("2100-01-01T00:00:00Z"));
    let (operator, _coordinator) = Operator::with(&unseen, &nodes("straggler", "straggler"));
    let plan = operator.ok(&["advance", "--dry-run"]);
    assert!(plan.contains("1 node is not seen since this coordinator started: refused until"), "{plan}");
    assert!(plan.contains("count as absent (in ") && !plan.contains("tfoctl exclude"), "{plan}");
}
