//! The agent with the real coordinator: first key, a rotation, a coordinator that is killed, `once`, and `[report]`.

use crate::start_ready;
use serde_json::Value;
use tfo_testbed::config::{client_files, fast};
use tfo_testbed::daemon::{Daemon, DaemonHost, lasting};
use tfo_testbed::fleet::{Fleet, URL};
use tfo_testbed::output::stderr;
use tfo_testbed::{PATIENCE, SOON, need_netns, poll_until, skip_unless};

/// Agents that do not run, around a coordinator that does.
fn fleet(count: usize) -> Fleet {
    let mut fleet = Fleet::new(count, &fast(count));
    fleet.serve();
    fleet
}

/// Waits until a rotation is over that began after this generation.
#[track_caller]
fn rotated(fleet: &Fleet, before: &Value) -> Value {
    let before = before["generation"].as_u64().unwrap();
    fleet.until("rotated", |pool| pool["phase"] == "steady" && pool["generation"].as_u64() >= Some(before + 2))
}

/// Asks for a rotation: refused for as long as a coordinator that has started has not heard every node.
#[track_caller]
fn rotate(fleet: &Fleet, more: &[&str]) {
    let mut last = None;
    let done = poll_until(PATIENCE, || {
        let output = fleet.ctl(&[&["rotate", "--reason", "test"], more].concat());
        let is_done = output.status.success();
        last = Some(output);
        is_done
    });
    assert!(done, "{last:?}\n{}", fleet.log());
}

#[test]
fn three_agents_walk_through_a_rotation_and_past_a_killed_coordinator() {
    skip_unless!(need_netns());
    let mut fleet = fleet(3);
    let mut daemons: Vec<Daemon> = fleet.hosts.iter().map(DaemonHost::start).collect();
    fleet.until_known(3);
    rotate(&fleet, &["--first", "--yes"]);
    let first = fleet.converged(3);
    daemons.iter().for_each(|daemon| drop(daemon.ready()));
    fleet.ends(&["resume"], 0);
    let before = fleet.agreed();
    rotate(&fleet, &[]);
    let moved = rotated(&fleet, &first);
    assert_eq!(moved["converged"], 3, "{moved:#}");
    let (after, old) = (fleet.hosts[0].kernel(), before.split(',').next().unwrap());
    assert!(after.ends_with(&format!(",{old}")), "{before} {after}");

    // The agents outlive the coordinator, and say so; a rotation continues once the coordinator is back.
    fleet.kill();
    for host in &fleet.hosts {
        let lost = || host.status()["error"]["kind"] == "coordinator_unreachable";
        assert!(poll_until(PATIENCE, lost), "{}", host.status());
        assert_eq!(host.kernel(), after);
    }
    fleet.serve();
    let held = fleet.converged(3);
    rotate(&fleet, &[]);
    rotated(&fleet, &held);
    for (host, daemon) in fleet.hosts.iter().zip(&mut daemons) {
        let well = || host.status()["state"] == "ok" && host.status()["contact"] == "connected";
        assert!(poll_until(SOON, well), "{}", host.status());
        assert!(host.kernel().ends_with(&format!(",{}", after.split(',').next().unwrap())));
        daemon.stop();
    }
}

#[test]
fn timers_walk_through_a_rotation_too() {
    skip_unless!(need_netns());
    let fleet = fleet(2);
    let all = |expected: Option<i32>| {
        for host in &fleet.hosts {
            let output = host.once(&["--detailed-exit-codes"]);
            let good = expected.is_none_or(|code| output.status.code() == Some(code));
            assert!(good, "{}", stderr(&output));
        }
    };
    // An empty pool has no key that this host could lack: nothing has failed, and `check` says what is to do.
    all(Some(0));
    let check = fleet.hosts[0].run("check", &[]);
    let said = stderr(&check);
    assert!(said.contains("warning: pool edge has no key yet\n  remedy: `tfoctl rotate --first`"), "{said}");
    assert_eq!(check.status.code(), Some(0), "{said}");
    rotate(&fleet, &["--first", "--yes"]);
    all(Some(2));
    let first = fleet.converged(2);
    all(Some(0));
    fleet.ends(&["resume"], 0);
    rotate(&fleet, &[]);
    for phase in ["staged", "promoted"] {
        fleet.until(phase, |pool| pool["phase"] == phase);
        all(Some(2));
    }
    assert_eq!(fleet.converged(2)["generation"].as_u64(), Some(first["generation"].as_u64().unwrap() + 2));
    fleet.agreed();
    // What `check` asks joins nothing, and is answered.
    let check = fleet.hosts[0].run("check", &["--format", "json"]);
    let found: Value = serde_json::from_slice(&check.stdout).unwrap();
    let kinds = found["problems"].as_array().unwrap().iter().map(|problem| problem["kind"].as_str().unwrap());
    assert!(kinds.clone().all(|kind| !kind.starts_with("coordinator")), "{found:#}");
    // And it leaves no trace in the coordinator's log, or in its counters of what it refuses.
    assert!(!fleet.log().contains("refused"), "{}", fleet.log());
    let stranger = &fleet.hosts[1];
    fleet.pki(&["issue", "--dir", "pki", "--node", "n1.other.example.org"]);
    stranger.put("node.crt", &fleet.issued("pki/n1.other.example.org", "node.crt"), 0o644);
    stranger.put("node.key", &fleet.issued("pki/n1.other.example.org", "node.key"), 0o400);
    let check = stranger.run("check", &["--format", "json"]);
    let found: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert!(found["problems"].as_array().unwrap().iter().any(|problem| problem["kind"] == "not_in_pool"), "{found:#}");
    assert_eq!(stranger.once(&["--detailed-exit-codes"]).status.code(), Some(1));
}

#[test]
fn a_deriving_agent_is_shown_and_driven_nowhere() {
    skip_unless!(need_netns());
    let fleet = fleet(1);
    let host = &fleet.hosts[0];
    let files = client_files(&host.path("ca.crt"), &host.path("node.crt"), &host.path("node.key"));
    let report = format!("[report]\nurls = [{URL:?}]\npool = \"edge\"\n{files}");
    host.configure(&lasting(host), &format!("verify_interval = \"1s\"\n{report}"));
    let mut daemon = start_ready(host);
    let pool = fleet.until("reporting", |pool| pool["reporting"] == 1);
    let node = fleet.json(&["nodes"])["nodes"][0].take();
    assert_eq!((&node["state"], &node["source"]), (&"reporting".into(), &"derive".into()));
    assert_eq!(node["primary"], host.status()["primary"]);
    assert_eq!((&pool["required"], &pool["phase"]), (&0.into(), &"empty".into()));
    assert!(poll_until(SOON, || host.status()["contact"] == "connected"));
    daemon.stop();
}
