//! A static key of all nodes, by Wikitech's recipe, becomes keys that are derived from a secret.

use std::time::Duration;

use tfo_host::runtime::clock;
use tfo_model::time::UnixTime;

use super::node::{agent_log, blocks, kernels, try_to_type, typed, with};
use super::{CHANGE, FOREIGN, MANY, NODES, serving};
use tfo_testbed::levers::{Fleet, beside};
use tfo_testbed::{full, now, poll_until};

const KEY: &str = "5e1f09ab-cc30d4e7-0a92b6f1-77d8e35c";
/// The lead of the static key, and how long the first derived key is alone with it, in seconds.
const LEAD_SECS: u64 = 2;
const ALONE_SECS: u64 = 3;

fn recipe() -> String {
    let file = "/etc/sysctl.d/50-tcp_fastopen_key.conf";
    format!(
        "echo net.ipv4.tcp_fastopen_key={KEY} > {file}; chmod 600 {file}; sysctl -qp {file}
         (umask 077; echo dW5ndWVzc2FibGUsIHRoZXkgc2F5OiA3OTEzNzE5Mzc= > /etc/tfo-fleet/fleet.secret)"
    )
}

#[test]
fn a_static_key_becomes_derived_keys() {
    beside(|| {
        let mut fleet = serving(&recipe());
        let steps = blocks("from-static-key.md").remove(0);
        let mut one_node = Duration::ZERO;
        fleet.costs("derived keys at once, on one node", MANY..=u64::MAX, |fleet| {
            let started = now();
            typed(fleet, 1, &without_the_static_key(&steps));
            one_node = started.elapsed();
        });
        typed(&mut fleet, 1, "systemctl disable --now tfo-agent; rm /etc/tfo-fleet/agent.toml");
        typed(&mut fleet, 1, &recipe());
        fleet.clients_come_round();
        fleet.costs_nothing("from a static key to derived ones", |fleet| migrate(fleet, &steps, one_node));
        fleet.end();
    });
}

/// As the page has it in the end: one entry, from the beginning.
fn without_the_static_key(steps: &str) -> String {
    let (above, entries) = steps.split_once("[[source.schedule]]\n").expect("there are entries");
    let derived = entries.split_once("[[source.schedule]]\n").expect("there are two").1;
    let lines = derived.lines().filter(|line| !line.starts_with("not_before = "));
    lines.fold(format!("{above}[[source.schedule]]\n"), |text, line| text + line + "\n")
}

fn migrate(fleet: &mut Fleet, steps: &str, one_node: Duration) {
    // On a boundary of its own interval nothing is dropped, so that the first derived key is no longer than the others.
    let soon = clock::now().secs() + NODES as u64 * (one_node.as_secs() + 1) + LEAD_SECS + 1;
    let ends = |interval: &u64| soon.next_multiple_of(*interval);
    let interval = (10..=14).min_by_key(ends).expect("there are some");
    let joint = soon.next_multiple_of(interval);
    let steps = steps.replacen("\"1h\"", &format!("\"{LEAD_SECS}s\""), 1).replacen(
        "\"1h\"",
        &format!("\"{}s\"", interval - ALONE_SECS),
        1,
    );
    let steps = with(&steps, "24h", &format!("{interval}s"));
    let steps = with(&steps, "2026-12-01T00:00:00Z", &UnixTime::from_secs(joint).to_string());
    for node in 1..=NODES {
        let said = typed(fleet, node, &steps);
        let deadline = UnixTime::from_secs(joint - LEAD_SECS);
        assert!(said.contains(&format!("deploy to every node before {deadline}")), "{said}");
        assert!(said.contains(FOREIGN) && said.contains("0 errors"), "{said}");
    }
    assert!(clock::now().secs() < joint - LEAD_SECS, "this machine is too slow");
    assert_eq!(kernels(fleet, NODES), vec![KEY; NODES], "nothing changes before the instant");
    let (_, said) = try_to_type(fleet, 1, "tfo-agent check");
    assert!(!said.contains(FOREIGN), "it is ours now: {said}");
    // Staged, promoted, and gone: the next derived key takes its slot.
    let staged = |keys: &String| keys.starts_with(&format!("{KEY},"));
    assert!(poll_until(CHANGE, || kernels(fleet, NODES).iter().all(staged)), "{:?}", kernels(fleet, NODES));
    let promoted = |keys: &String| keys.ends_with(&format!(",{KEY}"));
    assert!(poll_until(CHANGE, || kernels(fleet, NODES).iter().all(promoted)), "{:?}", kernels(fleet, NODES));
    let gone = |keys: &[String]| keys.iter().all(|text| *text == keys[0] && !text.contains(KEY));
    assert!(poll_until(CHANGE, || gone(&kernels(fleet, NODES))), "{:?}", kernels(fleet, NODES));
    if full() {
        clean_up(fleet, &steps, joint + interval + LEAD_SECS);
    }
}

/// When the first entry may go it goes, and nothing changes.
fn clean_up(fleet: &mut Fleet, steps: &str, removable_at: u64) {
    assert!(poll_until(CHANGE, || clock::now().secs() > removable_at));
    let (_, said) = try_to_type(fleet, 1, "tfo-agent check");
    assert!(
        said.contains(&format!("the entries above it may be removed after {}", UnixTime::from_secs(removable_at))),
        "{said}"
    );
    let config = without_the_static_key(steps);
    let config = config.split_once("tfo-agent check\n").expect("it follows the configuration").0;
    for node in 1..=NODES {
        typed(fleet, node, &format!("{config}rm /etc/tfo-fleet/static.key\nsystemctl reload tfo-agent"));
        // Its state was "ok" before, too, and `systemctl` does not wait for the daemon.
        let taken = |fleet: &mut Fleet| agent_log(fleet, node).contains(" reloaded ");
        assert!(poll_until(CHANGE, || taken(fleet)), "{}", agent_log(fleet, node));
        let status = fleet.look()["nodes"][format!("node{node}")]["status"].take();
        assert_eq!(status["state"], "ok", "{status:#}");
    }
    fleet.clients_come_round();
    assert!(poll_until(CHANGE, || kernels(fleet, NODES).windows(2).all(|two| two[0] == two[1])));
}
