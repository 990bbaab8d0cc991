//! Rows about sites: nodes, with or without a coordinator, that are cut off from all the rest for longer than the pool waits for
//! them; and a coordinator that no node reaches, alone.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use tfo_testbed::cluster::wires::node_address;
use tfo_testbed::cluster::{ABSENCE_LIMIT, ABSENT_AFTER, COORDINATORS, Layout};
use tfo_testbed::levers::beside;
use tfo_testbed::{PATIENCE, now, poll_until, skip_unless};

use super::bed::{self, Bed, HELD, NODES, Row, Runs, actions};

const ISLAND: &[Row] =
    &[Row { number: 13, name: "two nodes and a coordinator cut off from the rest", runs: Runs::Long, act: island }];
const DEAF: &[Row] = &[Row { number: 14, name: "a deaf coordinator alone", runs: Runs::Long, act: deaf_and_alone }];
const DARK: &[Row] = &[Row { number: 15, name: "a site of three nodes dark", runs: Runs::Long, act: dark_site }];

/// Each waits for more than three minutes, beside the others.
fn layout() -> Layout {
    Layout { waits: true, ..Layout::default() }
}

#[test]
fn an_island() {
    skip_unless!(bed::can_run());
    beside(|| bed::run(ISLAND, layout()));
}

#[test]
fn a_deaf_coordinator() {
    skip_unless!(bed::can_run());
    beside(|| bed::run(DEAF, layout()));
}

#[test]
fn dark_sites() {
    skip_unless!(bed::can_run());
    beside(|| bed::run(DARK, layout()));
}

/// Waits until the agents of these nodes say that they are detached, and withdraws each as its hook `on_detached` does.
#[track_caller]
pub(super) fn detached_and_withdrawn(bed: &mut Bed, nodes: &[usize]) {
    each_detached(bed, nodes, |_, _| {});
}

/// The same; `look_at` sees those that are not detached yet, before each look at them.
#[track_caller]
fn each_detached(bed: &mut Bed, nodes: &[usize], look_at: impl Fn(&Bed, &[usize])) {
    let start = now();
    let mut left: Vec<usize> = nodes.to_vec();
    let all = poll_until(ABSENCE_LIMIT * 2, || {
        let look = bed.look();
        look_at(bed, &left);
        left.retain(|node| {
            let is_detached = look["nodes"][format!("node{node}")]["status"]["contact"] == "detached";
            if is_detached {
                bed.withdraw(*node);
                println!("  node{node} is detached after {}", bed::secs(start));
            }
            !is_detached
        });
        left.is_empty()
    });
    assert!(all, "never detached: {left:?}");
}

/// They come back, and serve again once they have the pool's keys.
pub(super) fn back(bed: &mut Bed, nodes: &[usize]) {
    for node in nodes {
        bed.has_keys(*node);
    }
    bed.until("everything is required again", |pool| pool["required"] == NODES && pool["converged"] == NODES);
    for node in nodes {
        bed.announce(*node);
    }
}

/// The nodes are detached before they are excluded, and their coordinator is blind; the others finish the rotation.
fn island(bed: &mut Bed) {
    const NODES_OF_IT: [usize; 2] = [6, 7];
    const COORDINATOR: usize = COORDINATORS - 1;
    let members: Vec<_> = bed.center.member_places.iter().map(|place| place.address).collect();
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    bed.waits_for("staged", HELD);
    let away: Vec<_> =
        (1..=NODES).filter(|node| !NODES_OF_IT.contains(node)).map(node_address).chain(members).collect();
    bed.center.places[COORDINATOR].cut_from(away);
    for mainland in 0..COORDINATOR {
        bed.center.places[mainland].cut_from(NODES_OF_IT.map(node_address));
    }
    let (before, start) = (actions(bed).len(), now());
    bed.thaw_agent(HELD);
    each_detached(bed, &NODES_OF_IT, |bed, left| {
        let excluded = actions(bed).iter().any(|action| action == "exclude");
        assert!(left.is_empty() || !excluded, "excluded before it was detached: {left:?}");
    });
    bed.until_within(ABSENCE_LIMIT * 2, "the rotation is over", |pool| pool["phase"] == "steady");
    println!("  the rotation went to its end without them after {}", bed::secs(start));
    let excluded: Vec<String> =
        actions(bed).split_off(before).into_iter().filter(|action| action == "exclude").collect();
    assert!(!excluded.is_empty(), "they were in the way");
    bed.center.heal();
    bed.center.serves(COORDINATOR);
    back(bed, &NODES_OF_IT);
}

/// All others are stopped for longer than a node may be silent.  It reaches etcd, and no node reaches it: it excludes
/// none, and lets a rotation stand.
fn deaf_and_alone(bed: &mut Bed) {
    const ALONE: usize = COORDINATORS - 1;
    let before = actions(bed).len();
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    bed.waits_for("staged", HELD);
    (0..ALONE).for_each(|number| bed.center.signal(number, Signal::STOP));
    bed.center.places[ALONE].cut_from((1..=NODES).map(node_address));
    bed.center.ask = vec![ALONE];
    bed::pass(ABSENCE_LIMIT + ABSENT_AFTER / 2);
    let stands = |pool: &Value| pool["phase"] == "staged" && pool["required"] == NODES && !pool["deaf_since"].is_null();
    bed.until("it says that it is deaf, and waits", stands);
    (0..ALONE).for_each(|number| bed.center.signal(number, Signal::CONT));
    bed.center.heal();
    bed.thaw_agent(HELD);
    bed.center.ask = (0..COORDINATORS).collect();
    bed.settled();
    let since = actions(bed).split_off(before);
    assert!(!since.iter().any(|action| action == "exclude"), "{since:?}");
}

/// Three nodes are dark when a rotation begins, and a coordinator is cut off from etcd, whose agents still reach it: after the time
/// that the pool waits for a node the three are excluded, and none of those that only had to find another coordinator.
fn dark_site(bed: &mut Bed) {
    const SITE: [usize; 3] = [1, 2, 3];
    let before = actions(bed).len();
    let members: Vec<_> = bed.center.member_places.iter().map(|place| place.address).collect();
    let blind = bed.center.of_node(HELD);
    bed.center.ask_last(blind);
    bed.center.places[blind].cut_from(members);
    for node in SITE {
        bed.cut(node);
        // Its server is behind the same broken switch.
        bed.withdraw(node);
    }
    // They have what they were told last, so nothing is in the way of the first step.
    bed.begin_rotation();
    let start = now();
    assert!(poll_until(PATIENCE, || bed.center.is_blind(blind)), "it answers without its store");
    println!("  the coordinator without etcd is blind after {}", bed::secs(start));
    bed.until_within(ABSENCE_LIMIT * 2, "the rotation is over", |pool| pool["phase"] == "steady");
    println!("  the rotation went to its end after {}", bed::secs(start));
    let since: Vec<Value> = bed::entries(bed).split_off(before);
    let commits: Vec<&Value> = since.iter().filter(|entry| entry["action"] == "exclude").collect();
    let out: BTreeSet<&str> = commits
        .iter()
        .flat_map(|entry| entry["nodes"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(out, SITE.map(|node| format!("node{node}")).iter().map(String::as_str).collect(), "{commits:#?}");
    println!("  {} nodes were excluded in {} commits", out.len(), commits.len());
    bed.center.heal();
    bed.center.serves(blind);
    SITE.iter().for_each(|node| bed.reconnect(*node));
    back(bed, &SITE);
}
