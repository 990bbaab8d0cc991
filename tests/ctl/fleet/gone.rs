//! Commands that follow something end as soon as stdout has no reader any more, also while nothing changes.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::fake::{FakeCoordinator, Operator, Reply, audit, done, key, page, pool, three};
use tfo_testbed::terminal::terminal;
use tfo_testbed::{SOON, poll_until};

/// Starts it on a terminal and waits for `text` there.
fn start(mut command: Command, text: &str) -> (Child, File) {
    let (mut ours, theirs) = terminal();
    let stderr = theirs.try_clone().unwrap();
    let child = command.stdin(Stdio::null()).stdout(theirs).stderr(stderr).env("TERM", "xterm").spawn().unwrap();
    // Its ends of the terminal are with the child alone.
    drop(command);
    let (mut shown, mut bytes) = (String::new(), [0; 4096]);
    while !shown.contains(text) {
        let count = ours.read(&mut bytes).unwrap();
        shown += &String::from_utf8_lossy(&bytes[..count]);
    }
    (child, ours)
}

#[track_caller]
fn ends(mut child: Child, what: &[&str]) {
    let ended = poll_until(SOON, || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    assert_eq!((ended, child.wait().unwrap().code()), (true, Some(1)), "{what:?}");
}

/// A pool in which nothing changes, in the midst of a rotation.
fn quiet() -> (Operator, FakeCoordinator) {
    let (operator, coordinator) = Operator::with(&pool(json!({})), &three());
    coordinator.on("GET /v1/pools/edge/audit?after=0", [page(&[audit(1, "rotate", None, "")])]);
    coordinator.on("GET /v1/pools/edge/audit?after=1", [page(&[])]);
    coordinator.ok("POST /v1/pools/edge/rotations", done("rotate", json!({})));
    let staged = pool(json!({"revision": 41, "phase": "staged", "backup": key(8, 'c')}));
    coordinator.on("GET /v1/pools/edge", [Reply::Json(200, pool(json!({}))), Reply::Json(200, staged)]);
    (operator, coordinator)
}

/// Arguments, and what is shown when it has begun.
const FOLLOWING: [(&[&str], &str); 4] = [
    (&["watch", "--interval", "1h"], "pool edge"),
    (&["watch", "--interval", "1h", "--format", "json"], "\"pool\":\"edge\""),
    (&["audit", "--follow"], "rotate"),
    (&["rotate", "--wait"], "staged  generation"),
];

#[test]
fn a_terminal_that_is_hung_up_ends_them() {
    for (arguments, text) in FOLLOWING {
        let (operator, _coordinator) = quiet();
        let (child, terminal) = start(operator.command(arguments), text);
        drop(terminal);
        ends(child, arguments);
    }
    let stats = &["stats", "--watch", "1h"];
    let mut command = Operator::new().bare();
    command.args(stats);
    let (child, terminal) = start(command, "TCPFastOpen");
    drop(terminal);
    ends(child, stats);
}

#[test]
fn a_reader_that_goes_ends_them() {
    for (arguments, _) in FOLLOWING {
        let (operator, _coordinator) = quiet();
        let mut child = operator.spawn(arguments);
        drop(child.stdout.take());
        ends(child, arguments);
    }
}
