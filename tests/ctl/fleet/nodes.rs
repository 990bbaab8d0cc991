//! Commands about named nodes: one plan, one request and one entry for any number of them, or nothing.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::fake::{FakeCoordinator, Operator, done, node, pool, text};

const NODES: &str = "POST /v1/pools/edge/nodes";

/// Two nodes that have converged, one that failed, one that is denied, and one that is excluded.
fn five() -> Value {
    json!([
        node("a1.test", json!({})),
        node("a2.test", json!({})),
        node("b1.test", json!({"state": "failed"})),
        node("b2.test", json!({"state": "denied"})),
        node("b3.test", json!({"state": "excluded", "excluded": "operator"})),
    ])
}

fn with_five() -> (Operator, FakeCoordinator) {
    with_pool(json!({}))
}

fn with_pool(with: Value) -> (Operator, FakeCoordinator) {
    let (operator, coordinator) = Operator::with(&pool(with), &five());
    coordinator.ok(NODES, done("what_was_done", json!({})));
    (operator, coordinator)
}

#[test]
fn names_patterns_and_files_are_one_request() {
    let list = "# retired\na2.test\n\nb1.test\n";
    let cases: [(&[&str], Value, &[&str]); 8] = [
        (&["deny", "a1.test", "--yes"], json!("deny"), &["a1.test"]),
        (&["deny", "a1.test", "a2.test", "a1.test", "--yes"], json!("deny"), &["a1.test", "a2.test"]),
        (
            &["deny", "--match", "a*", "--match", "b*", "--yes"],
            json!("deny"),
            &["a1.test", "a2.test", "b1.test", "b3.test"],
        ),
        (&["include", "--match", "*"], json!("include"), &["b3.test"]),
        (&["allow", "--match", "*.test", "--yes"], json!("allow"), &["b2.test"]),
        (
            &["forget", "--file", "@list", "--yes"],
            json!({"forget": {"lower_expected": false}}),
            &["a2.test", "b1.test"],
        ),
        (
            &["forget", "b3.test", "--file", "@list", "--match", "b2*", "--lower-expected", "--yes"],
            json!({"forget": {"lower_expected": true}}),
            &["a2.test", "b1.test", "b2.test", "b3.test"],
        ),
        (&["include", "b3.test"], json!("include"), &["b3.test"]),
    ];
    for (arguments, action, nodes) in cases {
        let (operator, coordinator) = with_five();
        let list = operator.write("list", list, 0o644);
        let arguments: Vec<&str> =
            arguments.iter().map(|a| if *a == "@list" { list.to_str().unwrap() } else { a }).collect();
        operator.ends(&[&arguments[..], &["--reason", "because"]].concat(), 0);
        let orders = coordinator.orders();
        assert_eq!((orders.len(), orders[0].what.as_str()), (1, NODES), "{arguments:?}");
        assert_eq!(orders[0].body, json!({"action": action, "nodes": nodes, "reason": "because"}), "{arguments:?}");
    }
}

#[test]
fn a_list_comes_from_standard_input_too() {
    let (operator, coordinator) = with_five();
    let mut command = operator.command(&["forget", "--file", "-", "--yes"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"b1.test\na1.test\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(coordinator.orders()[0].body["nodes"], json!(["a1.test", "b1.test"]));
}

#[test]
fn one_wrong_name_and_nothing_is_asked_for() {
    let (operator, coordinator) = with_five();
    let bad = operator.write("bad", "a1.test\nB1\n\nc d\n", 0o644);
    let empty = operator.write("empty", "# nothing\n", 0o644);
    let long = operator.write("long", &"a".repeat(3 << 20), 0o644);
    let [bad, empty, long] = [&bad, &empty, &long].map(|path| path.to_str().unwrap());
    let cases: [(&[&str], i32, &[&str]); 9] = [
        (&["deny", "y.test", "a1.test", "x.test"], 1, &["pool edge has no node x.test, y.test; nothing was done"]),
        (&["forget", "--match", "c*"], 1, &["no node that matches c*"]),
        (&["allow", "--match", "a*"], 1, &["no node that matches a*"]),
        (&["exclude", "--file", bad], 2, &["bad:2: ", "bad:4: "]),
        (&["exclude", "--file", empty], 2, &["names no node"]),
        (&["exclude", "--file", long], 2, &["more than"]),
        (&["exclude", "--file", "/nowhere/list"], 2, &["/nowhere/list", "cannot read"]),
        (&["exclude"], 2, &["NODE"]),
        (&["exclude", "--match", "A*"], 2, &["--match"]),
    ];
    for (arguments, code, says) in cases {
        let (stdout, stderr) = operator.ends(arguments, code);
        assert!(stdout.is_empty() && says.iter().all(|says| stderr.contains(says)), "{arguments:?}: {stderr}");
    }
    assert!(coordinator.orders().is_empty());
}

#[test]
fn an_exclusion_ends_and_says_when() {
    let (operator, coordinator) = with_five();
    let before = tfo_host::runtime::clock::now();
    operator.ends(&["exclude", "a1.test", "--for", "2h", "--reason", "disk", "--yes"], 0);
    operator.ends(&["exclude", "a1.test", "--yes"], 0);
    for (order, secs) in coordinator.orders().iter().zip([7_200, 86_400]) {
        let until = order.body["action"]["exclude"]["until"].as_str().unwrap();
        let until: tfo_model::time::UnixTime = until.parse().unwrap();
        assert!((secs..secs + 60).contains(&until.secs_since(before)), "{until}");
    }
    for bad in ["59s", "31d", "soon", "24"] {
        operator.ends(&["exclude", "a1.test", "--for", bad, "--yes"], 2);
    }
    assert_eq!(coordinator.orders().len(), 2);
}

#[test]
fn the_plan_says_what_becomes_of_the_nodes() {
    let (operator, coordinator) = with_five();
    let mut shown = String::new();
    for arguments in [
        &["exclude", "a1.test", "--for", "1h"][..],
        &["exclude", "a1.test", "b1.test"],
        &["include", "b3.test"],
        &["deny", "a1.test"],
        &["deny", "a1.test", "a2.test"],
        &["allow", "b2.test"],
        &["forget", "b3.test"],
        &["forget", "a1.test", "b1.test"],
    ] {
        let plan = operator.ok(&[arguments, &["--dry-run"]].concat());
        // The only time in a plan is that of now and then.
        let lines = plan.lines().map(|line| match (line.find("until 20"), line.find("; `tfoctl include`")) {
            (Some(from), Some(to)) => format!("{}until TIME{}\n", &line[..from], &line[to..]),
            _ => format!("{line}\n"),
        });
        shown += &lines.collect::<String>();
    }
    assert!(coordinator.orders().is_empty());
    insta::assert_snapshot!("node_plans", shown);
}

#[test]
fn forget_says_that_too_few_will_be_left_and_lowers_the_number_if_it_is_told_to() {
    let forget = ["forget", "a1.test", "b1.test", "b2.test"];
    let plan = |with: Value, more: &[&str]| {
        let (operator, _coordinator) = with_pool(with);
        operator.ok(&[&forget, more, &["--dry-run"]].concat())
    };
    let by_operators = json!({"expected_nodes": 3});
    let says = "3 nodes are expected and 1 will be left: no rotation starts by itself";
    assert!(
        plan(by_operators.clone(), &[])
            .contains(&format!("{says}; --lower-expected expects 1 in the same step, `tfoctl expect 1` later"))
    );
    assert!(plan(by_operators, &["--lower-expected"]).contains("1 of 3 nodes are expected from now on"));
    let enough = plan(json!({"expected_nodes": 1}), &["--lower-expected"]);
    assert!(!enough.contains("expected"), "{enough}");
    // In the file: the line to change, and no order that the coordinator would refuse.
    let in_file = json!({"expected_nodes": 3, "expected_in_file": true});
    let change = "set `expected_nodes = 1` in [pools.edge] of coordinator.toml, and `systemctl reload tfo-coordinator`";
    assert!(plan(in_file.clone(), &[]).contains(&format!("{says} until you {change}")));
    let (operator, coordinator) = with_pool(in_file);
    let (_, stderr) = operator.ends(&[&forget[..], &["--lower-expected", "--yes"]].concat(), 3);
    assert!(stderr.contains(says) && stderr.contains(change), "{stderr}");
    assert!(coordinator.orders().is_empty());
}
