//! An operator moves nodes from one pool to another: their agents follow, and no file is deleted for it.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::install::{Site, pair};
use tfo_testbed::config::fast;
use tfo_testbed::daemon::key_text;
use tfo_testbed::fake_coordinator::{Reply, told};
use tfo_testbed::fleet::{Fleet, node};
use tfo_testbed::{PATIENCE, SOON, need_netns, poll_until, skip_unless};

/// Two pools, each with a key; both nodes are in pool `edge`.
fn fleet() -> Fleet {
    let upload = format!("[pools.upload]\nnodes = [\"cp*.example.org\"]\n{}", fast(1));
    let fleet = Fleet::running(2, &format!("{}{upload}", fast(2)));
    fleet.first_key();
    fleet.ends(&["--pool", "upload", "rotate", "--first", "--yes"], 0);
    fleet
}

/// The configuration names this pool.
fn configure(fleet: &Fleet, number: usize, pool: &str) {
    let path = fleet.hosts[number].path("etc/agent.toml");
    let text = fs::read_to_string(&path).unwrap().replace("pool = \"edge\"", &format!("pool = {pool:?}"));
    fleet.hosts[number].put("etc/agent.toml", text.as_bytes(), 0o644);
}

#[track_caller]
fn moved(fleet: &Fleet, from: &str, number: usize, to: &str) {
    fleet.ends(&["--pool", from, "move", &node(number), "--to", to, "--reason", "test", "--yes"], 0);
}

/// Waits until so many nodes of this pool hold its keys.
#[track_caller]
fn converged(fleet: &Fleet, pool: &str, count: usize) -> Value {
    let mut last = Value::Null;
    let is_so = poll_until(PATIENCE, || {
        last = fleet.json(&["--pool", pool, "pools"])["pools"][0].take();
        last["required"] == count && last["converged"] == count
    });
    assert!(is_so, "{last:#}\n{}", fleet.log());
    last
}

#[test]
fn agents_follow_from_pool_to_pool_and_no_file_is_deleted() {
    skip_unless!(need_netns());
    let mut fleet = fleet();
    let edge = fleet.agreed();

    // The agent runs: it follows by itself, and says what is left to do.
    moved(&fleet, "edge", 1, "upload");
    converged(&fleet, "upload", 1);
    converged(&fleet, "edge", 1);
    let host = &fleet.hosts[1];
    let upload = host.kernel();
    assert_ne!(upload, edge);
    assert_eq!(host.persisted_keys(), Some(upload.clone()));
    let is_shown = || {
        let status = host.status();
        let message = status["error"]["message"].as_str().unwrap_or_default();
        status["pool"] == "upload" && status["state"] == "ok" && message.contains("from pool edge to pool upload")
    };
    assert!(poll_until(SOON, is_shown), "{:#}", host.status());
    fleet.ends(&["rotate", "--force", "--yes", "--wait", "--timeout", "60s"], 0);
    assert_eq!(host.kernel(), upload, "the old pool rotates without it");

    // It starts again with the old name: ready with the keys that it has.
    fleet.stop_agent(1);
    fleet.start_agent(1);
    fleet.daemons[1].as_ref().unwrap().ready();
    converged(&fleet, "upload", 1);
    assert_eq!(fleet.hosts[1].kernel(), upload);
    // The name is corrected, and read again.
    configure(&fleet, 1, "upload");
    fleet.daemons[1].as_ref().unwrap().signal(Signal::HUP);
    let is_well = || {
        let status = fleet.hosts[1].status();
        status["error"].is_null() && status["state"] == "ok" && status["contact"] == "connected"
    };
    assert!(poll_until(SOON, is_well), "{:#}", fleet.hosts[1].status());

    // The other agent does not run, and its configuration names the new pool before it has heard of the order.
    fleet.stop_agent(0);
    moved(&fleet, "edge", 0, "upload");
    configure(&fleet, 0, "upload");
    fleet.start_agent(0);
    fleet.daemons[0].as_ref().unwrap().ready();
    converged(&fleet, "upload", 2);
    assert_eq!(fleet.agreed(), upload);

    // And back, by a timer: one run leads it over.
    fleet.stop_agent(0);
    let old = fleet.json(&["nodes"])["nodes"][0].take();
    assert_eq!((&old["state"], &old["moved_to"]), (&json!("moved"), &json!("upload")));
    moved(&fleet, "upload", 0, "edge");
    let output = fleet.hosts[0].once(&["--detailed-exit-codes"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    converged(&fleet, "edge", 1);
    converged(&fleet, "upload", 1);
    assert_ne!(fleet.hosts[0].kernel(), upload);
    assert_eq!(fleet.hosts[1].kernel(), upload);
}

#[test]
fn pools_that_send_a_node_to_each_other_are_not_followed_for_ever() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let id = |digit: &str| digit.repeat(32);
    let order = |from: String, pool: &str| {
        let moved = json!({"from": from, "pool": pool, "pool_id": id("d")});
        Reply::Json(409, json!({"kind": "node_moved", "message": "m", "request_id": "r", "moved": moved}))
    };
    let seen = site.coordinator.asked().len();
    site.coordinator.always(Some(order(id("e"), "edge")));
    // Ends the long poll.
    site.host.set_kernel(&key_text(9));
    site.status("moved_in_circles", |status| status["error"]["kind"] == "moved_in_circles");
    assert!(site.coordinator.asked().len() - seen < 15, "{}", site.coordinator.asked().len());
    assert_eq!(site.host.persisted_keys(), Some(pair(1, 2)));
    site.coordinator.always(None);
    site.status("well again", |status| status["state"] == "ok" && status["contact"] == "connected");

    // Led away by its own pool, and the other one has another identity than the order says: it takes nothing, and is back
    // where its configuration says.
    let seen = site.coordinator.asked().len();
    let mut stranger = told(9, "steady", 3, None);
    stranger["pool"] = "upload".into();
    stranger["pool_id"] = id("f").into();
    let own = told(5, "steady", 1, Some(2))["pool_id"].as_str().unwrap().to_owned();
    site.coordinator.reply([order(own, "upload"), Reply::Json(200, stranger)]);
    site.host.set_kernel(&key_text(9));
    let asked = site.coordinator.expect(seen + 1, |body| body["installed"]["pool_id"].is_null());
    assert!(asked.what.ends_with("/v1/pools/upload/sync"), "{}", asked.what);
    assert_eq!(asked.body["installed"]["generation"], Value::Null, "a joiner there: {}", asked.body);
    let back = site.coordinator.expect(seen + 2, |body| body["installed"]["generation"] == 5);
    assert!(back.what.ends_with("/v1/pools/edge/sync") && back.body["error"] == "answer_other_pool", "{}", back.body);
    site.status("at home", |status| status["state"] == "ok" && status["contact"] == "connected");
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    daemon.stop();
}
