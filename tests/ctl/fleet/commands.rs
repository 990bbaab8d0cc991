//! What each command asks for, what it says beforehand, and what it refuses by itself.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::fake::{FakeCoordinator, Operator, done, key, node, pool, print, text, three};
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

/// A pool whose store is behind its fleet.
fn frozen() -> Value {
    let slots =
        json!({"primary": {"epoch": 9, "fingerprint": PRINTS.0}, "backup": {"epoch": 8, "fingerprint": PRINTS.1}});
    pool(json!({"blocked_by": "frozen", "recoverable": [slots]}))
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
            steady(),
            &["deny", "cp2.test"],
            "PUT /v1/pools/edge/nodes/cp2.test",
            json!({"action": "deny", "reason": ""}),
            true,
        ),
        case(
            steady(),
            &["forget", "cp2.test", "--reason", "gone & away"],
            "DELETE /v1/pools/edge/nodes/cp2.test?reason=gone%20%26%20away",
            Value::Null,
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
    coordinator.ok(case.order.split('?').next().unwrap(), done("what_was_done", json!({"nodes": ["cp2.test"]})));
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
        assert_eq!(stdout, "what_was_done: done in pool edge; generation 13, staged, revision 41; cp2.test\n");
        assert_eq!(!stderr.is_empty(), case.heavy, "what can harm says so: {arguments:?}: {stderr}");
        assert_eq!(operator.json(&arguments, 0), done("what_was_done", json!({"nodes": ["cp2.test"]})));
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
fn an_exclusion_ends_and_says_when() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    coordinator.ok("PUT /v1/pools/edge/nodes/cp1.test", done("exclude", json!({})));
    let before = tfo_host::runtime::clock::now();
    operator.ends(&["exclude", "cp1.test", "--for", "2h", "--reason", "disk", "--yes"], 0);
    operator.ends(&["exclude", "cp1.test", "--yes"], 0);
    for (order, secs) in coordinator.orders().iter().zip([7_200, 86_400]) {
        let until = order.body["action"]["exclude"]["until"].as_str().unwrap();
        let until: tfo_model::time::UnixTime = until.parse().unwrap();
        assert!((secs..secs + 60).contains(&until.secs_since(before)), "{until}");
    }
    assert_eq!(coordinator.orders()[0].body["reason"], "disk");
    for bad in ["59s", "31d", "soon", "24"] {
        operator.ends(&["exclude", "cp1.test", "--for", bad, "--yes"], 2);
    }
    assert_eq!(coordinator.orders().len(), 2);
}

#[test]
fn what_the_pool_cannot_do_now_is_refused_without_asking_for_it() {
    let steady = || pool(json!({}));
    let other = "--primary=0000000000000000";
    let cases: [(Value, &[&str], i32, &str); 9] = [
        (steady(), &["abort", "--yes"], 3, "no rotation to abort"),
        (steady(), &["advance", "--yes"], 3, "waits for no node"),
        (steady(), &["import", "--key-file", "@keys", "--yes"], 3, "already has keys"),
        (steady(), &["recover", "--yes"], 3, "not frozen"),
        (pool(json!({"blocked_by": "frozen"})), &["recover", "--yes"], 3, "no node has reported keys"),
        (frozen(), &["recover", "--yes", other], 3, "--primary"),
        (steady(), &["deny", "cp9.test", "--yes"], 1, "has no node cp9.test"),
        (steady(), &["forget", "cp9.test", "--yes"], 1, "has no node cp9.test"),
        (steady(), &["exclude", "CP1", "--yes"], 2, "lower-case DNS name"),
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
fn on_a_terminal(operator: &Operator, arguments: &str, answer: &str) -> (Option<i32>, String) {
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
