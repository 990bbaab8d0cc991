//! `pools`, `nodes`, `audit`, `watch`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::fake::{Operator, Reply, ago, audit, key, node, page, pool, refusal, three, verdict, with_pool};
use tfo_testbed::signal::send;
use tfo_testbed::{SOON, need_tool, poll_until, skip_unless};

#[test]
fn pools_are_shown_as_text_and_as_json() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let held = pool(json!({
        "pool": "bulk", "phase": "promoted", "waves": {"opened": 1, "of": 3}, "converged": 1, "paused": {"by": "operator", "since": "2026-11-24T00:00:00Z", "operator": "alice", "reason": "", "rejected_ppm": null, "baseline_ppm": null, "worst": []},
        "verdict": verdict("warning", "paused", "paused by alice, without a reason; no rotation starts", json!("tfoctl resume --pool bulk")),
        "blocked_by": "paused", "next_at": null, "waiting_for": ["cp2.test", "cp3.test"], "policy_waits": true,
        "policy_differs": ["interval", "absent_after"]
    }));
    let empty = pool(json!({
        "pool": "new", "phase": "empty", "primary": null, "backup": null, "generation": 0, "required": 0,
        "converged": 0, "reporting": 2, "blocked_by": "no_key", "next_at": null,
        "verdict": verdict("warning", "no_key", "the pool has no key yet", json!("tfoctl rotate --first --pool new"))
    }));
    let all = json!({"pools": [held, empty, pool(json!({}))]});
    coordinator.ok("GET /v1/pools", all.clone());
    insta::assert_snapshot!("pools", operator.ok(&["pools"]));
    assert_eq!(operator.json(&["pools"], 0), all, "as the API has it");
    // With --pool only that one; the configuration's own pool does not hide the others.
    let one = operator.json(&["pools", "--pool", "edge"], 0);
    assert_eq!(one, json!({"pools": [pool(json!({}))]}));
    coordinator.ok("GET /v1/pools", json!({"pools": []}));
    assert!(operator.ok(&["pools"]).contains("no pools"));
}

#[test]
fn exit_codes_say_how_the_pools_are() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    for (severity, code) in [("ok", 0), ("notice", 0), ("warning", 1), ("critical", 2)] {
        let status = pool(json!({"verdict": verdict(severity, "absent", "it waits", json!("tfoctl advance"))}));
        with_pool(&coordinator, &status, &three());
        let (stdout, stderr) = operator.ends(&["check"], code);
        assert_eq!((stdout, stderr), (format!("edge: {severity}: it waits; next: tfoctl advance\n"), String::new()));
        let checked = operator.json(&["check", "--pool", "edge"], code);
        let expected = json!({"ok": code == 0, "pools": [{"pool": "edge", "verdict": status["verdict"]}]});
        assert_eq!(checked, expected);
        for command in ["pools", "nodes"] {
            operator.ends(&[command, "--detailed-exit-codes"], code);
            operator.ends(&[command], 0);
        }
    }
    // Several pools: the worst decides.
    let of = |name: &str, severity: &str| {
        pool(json!({"pool": name, "verdict": verdict(severity, "absent", "x", Value::Null)}))
    };
    coordinator.ok("GET /v1/pools", json!({"pools": [of("a", "critical"), of("b", "warning")]}));
    assert_eq!(operator.ends(&["check"], 2).0, "a: critical: x\nb: warning: x\n");
    // What cannot be known is neither good nor bad: a refusal, a store that is away, no configuration.
    coordinator.on("GET /v1/pools", [Reply::Json(403, refusal("not_allowed", "no"))]);
    for command in [&["check"][..], &["pools", "--detailed-exit-codes"]] {
        assert!(operator.ends(command, 3).1.contains("remedy"), "{command:?}");
    }
    drop(coordinator);
    for command in [&["check"][..], &["pools", "--detailed-exit-codes"], &["nodes", "--detailed-exit-codes"]] {
        operator.ends(command, 3);
    }
    operator.ends(&["pools"], 1);
    assert_eq!(operator.bare().arg("check").output().unwrap().status.code(), Some(3));
}

#[test]
fn a_frozen_pool_says_what_can_be_recovered() {
    let frozen = pool(json!({
        "blocked_by": "frozen", "revoking": [key(5, 'c')],
        "verdict": verdict("critical", "frozen", "frozen: cp3.test reports generation 20", json!("tfoctl recover --pool edge")),
        "recoverable": [{"primary": key(9, 'd'), "backup": key(8, 'e')}]
    }));
    let (operator, _coordinator) = Operator::with(&frozen, &three());
    insta::assert_snapshot!("frozen", operator.ok(&["pools"]));
}

#[test]
fn nodes_tell_at_a_glance_who_holds_what_and_who_is_behind() {
    let nodes = json!([
        node("cp1.test", json!({})),
        node("cp2.test", json!({})),
        node(
            "cp3.test",
            json!({
                "state": "straggler", "generation": 11, "primary": key(6, 'b'), "backup": key(5, 'c'),
                "behind_since": ago(2 * 3_600 + 60), "error": "boot_order"
            })
        ),
        node(
            "cp4.test",
            json!({"state": "excluded", "excluded": "operator", "primary": null, "backup": null,
            "generation": null, "last_report_at": null})
        ),
        node(
            "cp5.test",
            json!({"state": "reporting", "source": "derive", "generation": null,
            "primary": {"epoch": null, "fingerprint": "9".repeat(16)}, "backup": null})
        ),
    ]);
    let split = verdict("critical", "split", "split: 2 nodes refuse cookies", json!("tfoctl exclude cp3.test"));
    let status = pool(json!({"required": 3, "converged": 2, "reporting": 1, "verdict": split}));
    let (operator, coordinator) = Operator::with(&status, &nodes);
    let shown = operator.ok(&["nodes"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "pool edge: steady, generation 12, 2 of 3 required nodes converged");
    assert_eq!(lines[1], "critical: split: 2 nodes refuse cookies; next: tfoctl exclude cp3.test");
    assert_eq!(lines[2], "NODES  PRIMARY           BACKUP");
    assert_eq!(lines[3], "2      aaaaaaaaaaaaaaaa  bbbbbbbbbbbbbbbb");
    assert_eq!(lines[6], "states: 2 converged, 1 excluded, 1 reporting, 1 straggler");
    assert_eq!(lines[7], "1 node only reporting: keys come from another source, not from this pool");
    assert!(lines[9].starts_with("cp3.test  straggler  11          bbbbbbbbbbbbbbbb (6)"), "{shown}");
    assert!(lines[9].contains("  2h  ") && lines[9].ends_with("boot_order"), "{shown}");
    assert!(lines[10].starts_with("cp4.test  excluded   -") && lines[10].ends_with("excluded: operator"), "{shown}");
    assert_eq!(lines.len(), 11, "{shown}");
    // All of them.
    assert_eq!(operator.ok(&["nodes", "--all"]).lines().count(), 14);
    assert!(!operator.ok(&["nodes"]).contains('\u{1b}'), "no colours off a terminal");
    assert_eq!(operator.json(&["nodes"], 0)["nodes"], nodes);
    let asked = || coordinator.asked().into_iter().filter(|asked| asked.what.contains("/nodes?fresh=true")).count();
    assert_eq!(asked(), 0);
    assert_eq!((operator.json(&["nodes", "--fresh"], 0)["nodes"].clone(), asked()), (nodes, 1));
}

#[test]
fn a_fleet_in_order_says_so_in_few_lines() {
    let (operator, _coordinator) = Operator::with(&pool(json!({})), &three());
    insta::assert_snapshot!("nodes_in_order", operator.ok(&["nodes"]));
}

#[test]
fn a_long_list_of_stragglers_is_cut_and_counted() {
    let late =
        |n: u32| node(&format!("cp{n:02}.test"), json!({"state": "silent", "behind_since": "2026-11-22T21:00:00Z"}));
    let nodes: Value = (0..25).map(late).collect();
    let waiting: Vec<String> = (0..25).map(|n| format!("cp{n:02}.test")).collect();
    let status = pool(json!({"required": 25, "converged": 0, "waiting_for": waiting, "blocked_by": "barrier"}));
    let (operator, _coordinator) = Operator::with(&status, &nodes);
    let shown = operator.ok(&["nodes"]);
    assert!(
        shown.ends_with("20 of 25 nodes; --all lists every node, --limit N more, --state and --match fewer\n"),
        "{shown}"
    );
    assert_eq!(operator.ok(&["nodes", "--all"]).matches("silent").count(), 26);
    assert!(operator.ok(&["pools"]).contains("cp09.test and 15 more"));
}

#[test]
fn what_others_wrote_cannot_move_the_cursor() {
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}\nfake line";
    let nodes = json!([node("cp1.test", json!({"state": "failed", "error": evil}))]);
    let (operator, coordinator) =
        Operator::with(&pool(json!({"verdict": verdict(evil, evil, evil, json!(evil))})), &nodes);
    coordinator.on("GET /v1/pools/edge/audit", [page(&[audit(1, evil, Some("ops1.test"), evil)])]);
    for (arguments, code) in [(&["pools"][..], 0), (&["nodes"], 0), (&["audit"], 0), (&["check"], 3)] {
        let shown = operator.ends(arguments, code).0;
        assert!(shown.contains("owned"), "{arguments:?}: {shown}");
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{arguments:?}: {shown:?}");
        assert!(!shown.contains("\nfake line"), "{arguments:?}: {shown:?}");
    }
    // In JSON it is escaped, and nothing is lost.
    assert_eq!(operator.json(&["nodes"], 0)["nodes"][0]["error"], evil);
}

#[test]
fn names_of_a_later_release_are_shown_as_they_are() {
    let later = json!({"state": "resting", "source": "vault", "excluded": "by_rule"});
    let nodes = json!([node("cp1.test", later)]);
    let grave = verdict("grave", "full_moon", "the moon is full", Value::Null);
    let status = pool(json!({"hold": "audited", "blocked_by": "full_moon", "verdict": grave}));
    let (operator, coordinator) = Operator::with(&status, &nodes);
    coordinator.on("GET /v1/pools/edge/audit", [page(&[audit(1, "re_key", None, "")])]);
    let shown = |arguments: &[&str], parts: &[&str]| {
        let shown = operator.ok(arguments);
        assert!(parts.iter().all(|part| shown.contains(part)), "{arguments:?}: {shown}");
    };
    shown(&["pools"], &["edge: grave: the moon is full"]);
    assert!(operator.ends(&["check"], 3).0.starts_with("edge: grave: the moon is full"));
    shown(&["nodes"], &["states: 1 resting", "excluded: by_rule"]);
    shown(&["audit"], &["  re_key"]);
    let json = operator.json(&["nodes"], 0);
    let of_node = &json["nodes"][0];
    assert_eq!(
        (&of_node["state"], &of_node["source"], &of_node["excluded"]),
        (&json!("resting"), &json!("vault"), &json!("by_rule"))
    );
    let json = operator.json(&["pools"], 0);
    assert_eq!((&json["pools"][0]["blocked_by"], &json["pools"][0]["hold"]), (&json!("full_moon"), &json!("audited")));
}

#[test]
fn the_audit_log_is_read_to_its_end() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let first = json!({"pool": "edge", "entries": [audit(3, "pause", Some("ops1.test"), "maintenance")], "more": true});
    coordinator.ok("GET /v1/pools/edge/audit?after=2", first);
    coordinator.on("GET /v1/pools/edge/audit?after=3", [page(&[audit(4, "rotate", None, "")])]);
    let shown = operator.ok(&["audit", "--after", "2"]);
    assert_eq!(
        shown,
        "2026-11-22T22:00:00Z  r3 g13  staged  ops1.test  pause  \"maintenance\"\n\
         2026-11-22T22:00:00Z  r4 g13  staged  coordinator  rotate\n"
    );
    // The coordinator filters; the operator says what for.
    let query = "GET /v1/pools/edge/audit?after=2&node=cp1.test&operator=ops1.test&since=2026-11-22T21:00:00Z&limit=7";
    coordinator.on(query, [page(&[audit(9, "exclude", Some("ops1.test"), "rack 3")])]);
    let since = ["--since", "2026-11-22T21:00:00Z"];
    let filtered =
        [&["audit", "--after", "2", "--node", "cp1.test", "--operator", "ops1.test", "--limit", "7"][..], &since]
            .concat();
    assert!(operator.ok(&filtered).ends_with("exclude  \"rack 3\"\n"));
    for bad in [["--since", "yesterday"], ["--limit", "0"], ["--node", "a/b"]] {
        operator.ends(&[&["audit"][..], &bad].concat(), 2);
    }
    let json = operator.json(&["audit", "--after", "2"], 0);
    assert_eq!((json["entries"].as_array().unwrap().len(), &json["more"]), (2, &Value::from(false)));
    operator.ends(&["audit", "--after", "-1"], 2);
}

#[test]
fn a_followed_audit_log_goes_on_until_it_is_told_to_stop() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    coordinator.on("GET /v1/pools/edge/audit?after=0", [page(&[audit(1, "first_key", Some("ops1.test"), "")])]);
    coordinator.on("GET /v1/pools/edge/audit?after=1", [page(&[]), page(&[audit(2, "rotate", None, "")])]);
    coordinator.on("GET /v1/pools/edge/audit?after=2", [page(&[])]);
    let mut child = operator.spawn(&["audit", "--follow", "--format", "json"]);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let revisions: Vec<u64> = lines
        .take(2)
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["revision"].as_u64().unwrap())
        .collect();
    assert_eq!(revisions, [1, 2]);
    send(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_closed_pipe_is_no_panic_and_no_success() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    coordinator.on("GET /v1/pools/edge/audit?after=0", [page(&[audit(1, "rotate", None, "")])]);
    coordinator.on("GET /v1/pools/edge/audit?after=1", [page(&[audit(1, "rotate", None, "")])]);
    for arguments in [&["pools"][..], &["nodes", "--format", "json"], &["audit"], &["audit", "--follow"], &["watch"]] {
        // The reading end is closed before the program starts: it cannot be quicker.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = operator.command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(1), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_told() {
    let (operator, _coordinator) = Operator::with(&pool(json!({})), &three());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = operator.command(&["pools"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(super::fake::text(&output.stderr).contains("cannot write the result"));
}

#[test]
fn watch_writes_a_line_for_each_change_and_survives_an_outage() {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let at = |phase: &str, converged: u64| json!({"pools": [pool(json!({"phase": phase, "converged": converged}))]});
    coordinator.on(
        "GET /v1/pools",
        [
            Reply::Json(200, at("steady", 3)),
            Reply::Json(200, at("steady", 3)),
            Reply::Json(500, super::fake::refusal("internal", "it broke")),
            Reply::Json(200, at("staged", 1)),
        ],
    );
    let mut child = operator.spawn(&["watch", "--interval", "1s"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let second = lines.next().unwrap().unwrap();
    assert!(first.contains("  edge  steady  generation 12") && first.contains("3/3 converged"), "{first}");
    assert!(second.contains("  edge  staged  generation 12") && second.contains("1/3 converged"), "{second}");
    send(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("it broke"), "{stderr}");
    operator.ends(&["watch", "--interval", "0s"], 2);
}

#[test]
fn watch_on_a_terminal_is_one_screen() {
    skip_unless!(need_tool("script"));
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    let log = operator.path("typescript");
    let command = format!("{} watch --config {}", tfo_testbed::program("tfoctl"), operator.path("ctl.toml").display());
    let mut child = Command::new("script")
        .args(["-qfec", &command])
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env("TERM", "xterm")
        .spawn()
        .unwrap();
    let shows = |text: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(text);
    assert!(poll_until(SOON, || shows("no node is behind") && shows("pool edge: steady, generation 12")));
    with_pool(&coordinator, &pool(json!({"phase": "staged", "generation": 13, "converged": 1})), &three());
    assert!(poll_until(SOON, || shows("pool edge: staged, generation 13, 1 of 3")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_only_pool_needs_no_name_and_one_of_two_does() {
    let operator = Operator::new();
    let coordinator = operator.coordinator();
    with_pool(&coordinator, &pool(json!({})), &three());
    operator.configure(&[&coordinator.url()], "");
    assert!(operator.ok(&["nodes"]).starts_with("pool edge:"));
    coordinator.ok("GET /v1/pools", json!({"pools": [pool(json!({"pool": "a"})), pool(json!({"pool": "edge"}))]}));
    let (_, stderr) = operator.ends(&["nodes"], 2);
    assert!(stderr.contains("there are 2 pools: a, edge") && stderr.contains("--pool"), "{stderr}");
    assert!(operator.ok(&["nodes", "--pool", "edge"]).starts_with("pool edge:"));
    operator.ends(&["nodes", "--pool", "A/B"], 2);
}
