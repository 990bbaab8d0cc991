//! Rows of the matrix once more, each with the rule that protects in it switched off: what it costs then is seen, so that the row
//! itself is known to show something.
//!
//! The coordinators of these beds are stand-ins: the shipped library, with something between its drivers and etcd (`store`) that
//! keeps from them what the rule goes by, as the simulation does.

mod forged;
mod store;
mod whole;

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use tfo_testbed::cluster::stand_in::StandIn;
use tfo_testbed::cluster::wires::node_address;
use tfo_testbed::cluster::{ABSENCE_LIMIT, COORDINATORS, Layout};
use tfo_testbed::levers::beside;
use tfo_testbed::{PATIENCE, now, poll_until, skip_unless};

pub(crate) use self::store::{Rule, StoreWithout};
use super::bed::{self, Bed, HELD, NODES, Row, Runs, entries};
use super::{cut_off, stand_in};

const BARRIERS: &[Row] =
    &[Row { number: 10, name: "a node that stands still, without barriers", runs: Runs::Full, act: passed_over }];
const BLINDNESS: &[Row] = &[Row {
    number: 11,
    name: "a coordinator cut off from etcd that is never blind",
    runs: Runs::Full,
    act: held_by_the_blind,
}];
const DETACHED_FIRST: &[Row] = &[Row {
    number: 13,
    name: "an island that is excluded before it is detached",
    runs: Runs::Full,
    act: excluded_too_early,
}];
const DEAFNESS: &[Row] = &[Row {
    number: 14,
    name: "a deaf coordinator that does not know it",
    runs: Runs::Full,
    act: excluded_by_the_deaf,
}];
/// The coordinator of the island, which is as shipped: what it tells its nodes is true.
const ON_THE_ISLAND: usize = COORDINATORS - 1;

#[test]
fn barriers() {
    if stand_in::serves() {
        return;
    }
    skip_unless!(bed::can_run());
    beside(|| bed::run_unjudged(BARRIERS, layout("without::barriers", Rule::Barriers)));
}

#[test]
fn blindness() {
    if stand_in::serves() {
        return;
    }
    skip_unless!(bed::can_run());
    beside(|| bed::run_unjudged(BLINDNESS, layout("without::blindness", Rule::Blindness)));
}

#[test]
fn deafness() {
    if stand_in::serves() {
        return;
    }
    skip_unless!(bed::can_run());
    beside(|| bed::run_unjudged(DEAFNESS, layout("without::deafness", Rule::Deafness)));
}

#[test]
fn detached_first() {
    if stand_in::serves() {
        return;
    }
    skip_unless!(bed::can_run());
    beside(|| bed::run_unjudged(DETACHED_FIRST, layout("without::detached_first", Rule::DetachedFirst)));
}

#[test]
fn the_whole_store() {
    if stand_in::serves() {
        return;
    }
    skip_unless!(bed::can_run());
    beside(|| bed::run_unjudged(whole::ROWS, layout("without::the_whole_store", Rule::FileProposes)));
}

fn layout(test: &'static str, rule: Rule) -> Layout {
    // The health gate would stop a rotation that harms clients, which hides what a rule is good for.
    let mut policy = "health_min_connections = 1000000\n".to_owned();
    let mut stand_ins = StandIn { test, role: rule.name() }.for_all();
    if rule == Rule::DetachedFirst {
        policy += forged::TOLD;
        stand_ins.remove(&ON_THE_ISLAND);
    }
    Layout { policy, stand_ins, ..Layout::default() }
}

/// Agents without kernels beside the eight of the bed, and for how long one of them is gone: longer than a rotation takes.
const SIMULATED: usize = 4;
const GONE: Duration = Duration::from_secs(45);

/// The node that stands still is not waited for, and refuses the cookies of all others.  Nor is the simulated agent that is gone
/// meanwhile, which notices it.
fn passed_over(bed: &mut Bed) {
    bed.center.simulate(SIMULATED);
    bed.until("all are converged", |pool| {
        pool["required"] == NODES + SIMULATED && pool["converged"] == pool["required"]
    });
    let cost = bed.cost_of("without barriers", |bed| {
        bed.freeze_agent(HELD);
        bed.center.vanish(0, GONE);
        bed.begin_rotation();
        bed.until("the rotation is over", |pool| pool["phase"] == "steady");
    });
    assert!(cost.rejected > 0 && cost.passive_fail > 0, "it costs nothing: {cost:?}");
    let (faults, _) = bed.center.history().judge();
    let found = |what: &str| faults.iter().filter(|fault| fault.contains(what)).count();
    println!(
        "  {} closed barriers were passed, {} pairs of kernels",
        found("with a closed barrier"),
        found("while node")
    );
    assert!(found("with a closed barrier") > 0 && found("while node") > 0, "{faults:#?}");
    let noticed = || bed.center.violations().iter().any(|violation| violation.contains("missed a generation"));
    assert!(poll_until(GONE + PATIENCE, noticed), "a simulated agent has missed a generation, and does not say so");
    bed.thaw_agent(HELD);
}

/// Its nodes are answered as if nothing were new; the others exclude them and finish without them.
fn held_by_the_blind(bed: &mut Bed) {
    let at = |bed: &Bed, place: usize| -> Vec<usize> {
        (1..=NODES).filter(|node| bed.center.of_node(*node) == place).collect()
    };
    // The one with the fewest nodes, but some: more than half of the pool is never excluded.
    let held = (0..COORDINATORS).map(|place| (place, at(bed, place))).filter(|(_, nodes)| !nodes.is_empty());
    let (blind, held) = held.min_by_key(|(_, nodes)| nodes.len()).expect("nodes are somewhere");
    let members: Vec<_> = bed.center.member_places.iter().map(|place| place.address).collect();
    let cost = bed.cost_of("without blindness", |bed| {
        bed.center.ask_last(blind);
        bed.center.places[blind].cut_from(members);
        bed.begin_rotation();
        let start = now();
        bed.until_within(ABSENCE_LIMIT * 2, "the rotation is over", |pool| pool["phase"] == "steady");
        println!("  the rotation went to its end after {}", bed::secs(start));
        let look = bed.look();
        for node in &held {
            let contact = &look["nodes"][format!("node{node}")]["status"]["contact"];
            assert_eq!(*contact, "connected", "node{node} knows that it is cut off");
        }
    });
    let out = excluded(bed);
    assert_eq!(out, held.iter().map(|node| format!("node{node}")).collect(), "those that were answered all the time");
    assert!(cost.rejected > 0 && cost.passive_fail > 0, "it costs nothing: {cost:?}");
    println!("  {} nodes were excluded that were answered all the time", out.len());
    bed.center.heal();
}

/// Two sites are cut off from each other, as in row 13.  The one with most nodes excludes the other's before they can know it; they
/// withdraw themselves as soon as they do, and until then they refuse the cookies that the others make.
fn excluded_too_early(bed: &mut Bed) {
    let island: Vec<usize> = (1..=NODES).filter(|node| bed.center.of_node(*node) == ON_THE_ISLAND).collect();
    println!("  the island has nodes {island:?}");
    assert!((1..=NODES / 2).contains(&island.len()), "more than half of the pool is never excluded");
    let members: Vec<_> = bed.center.member_places.iter().map(|place| place.address).collect();
    let cost = bed.cost_of("without detached before excluded", |bed| {
        bed.center.ask_last(ON_THE_ISLAND);
        let others = (1..=NODES).filter(|node| !island.contains(node)).map(node_address);
        bed.center.places[ON_THE_ISLAND].cut_from(others.chain(members));
        for mainland in 0..ON_THE_ISLAND {
            bed.center.places[mainland].cut_from(island.iter().copied().map(node_address));
        }
        bed.begin_rotation();
        let start = now();
        let gone = poll_until(ABSENCE_LIMIT, || excluded(bed).len() == island.len());
        assert!(gone, "they are not excluded: {:#?}", bed.pool());
        println!("  {} nodes were excluded after {}", island.len(), bed::secs(start));
        let look = bed.look();
        for node in &island {
            let contact = &look["nodes"][format!("node{node}")]["status"]["contact"];
            assert_ne!(*contact, "detached", "node{node} knows that it may be excluded");
        }
        cut_off::detached_and_withdrawn(bed, &island);
        bed.until("the rotation is over", |pool| pool["phase"] == "steady");
    });
    assert!(cost.rejected > 0 && cost.passive_fail > 0, "it costs nothing: {cost:?}");
    bed.center.heal();
    cut_off::back(bed, &island);
}

/// It takes all nodes for absent, which are well, and which it cannot hear.
fn excluded_by_the_deaf(bed: &mut Bed) {
    const ALONE: usize = COORDINATORS - 1;
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    bed.waits_for("staged", HELD);
    (0..ALONE).for_each(|number| bed.center.signal(number, Signal::STOP));
    bed.center.places[ALONE].cut_from((1..=NODES).map(node_address));
    bed.center.ask = vec![ALONE];
    bed.thaw_agent(HELD);
    // As many as min_present allows; the first one was in the way, the others are in the way of the promotion.
    let start = now();
    let gone = poll_until(ABSENCE_LIMIT * 2, || excluded(bed).len() > 1);
    assert!(gone, "it excludes none: {:#?}", bed.pool());
    println!("  {} of {NODES} nodes were excluded after {}", excluded(bed).len(), bed::secs(start));
    (0..ALONE).for_each(|number| bed.center.signal(number, Signal::CONT));
    bed.center.heal();
    bed.center.ask = (0..COORDINATORS).collect();
    bed.until_within(PATIENCE * 2, "all are back", |pool| pool["required"] == NODES);
}

/// Nodes that were ever excluded.
fn excluded(bed: &Bed) -> BTreeSet<String> {
    let of = |entry: &serde_json::Value| entry["nodes"].as_array().cloned().unwrap_or_default();
    let out = entries(bed).into_iter().filter(|entry| entry["action"] == "exclude");
    out.flat_map(|entry| of(&entry)).filter_map(|node| node.as_str().map(str::to_owned)).collect()
}
