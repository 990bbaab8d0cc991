//! Rows about the store as a whole without their rules, on one bed: what a coordinator makes of a restart, of a lost answer, of a
//! compaction, and of a restored store.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tfo_testbed::cluster::stand_in::StandIn;
use tfo_testbed::cluster::wires::own_address;
use tfo_testbed::cluster::{BEAT, COORDINATORS, order};
use tfo_testbed::proxy::{Mode, Proxy};
use tfo_testbed::{PATIENCE, poll_until};

use super::Rule;
use crate::bed::{self, Bed, HELD, Row, Runs, actions};
use crate::members;
use crate::stores::{self, Coordinators};

/// Longest wait for a node that the row before has left between two histories: it pauses after each instruction that it refuses.
const HEARD_MAX: Duration = Duration::from_secs(180);

pub(super) const ROWS: &[Row] = &[
    Row { number: 16, name: "files that differ, and no document remembers one", runs: Runs::Full, act: taken_back },
    Row { number: 18, name: "a commit without an answer counts as not done", runs: Runs::Full, act: told_wrongly },
    Row { number: 8, name: "etcd restored, and nothing is frozen", runs: Runs::Full, act: two_histories },
    // Last: a history that was compacted does not come back by a restore.
    Row { number: 6, name: "compaction, and nothing is read again", runs: Runs::Full, act: never_read_again },
];

/// Restarts all coordinators without this rule, if they have it.
fn without(bed: &mut Bed, rule: Rule) {
    let stand_in = StandIn { test: "without::the_whole_store", role: rule.name() };
    for number in 0..COORDINATORS {
        if bed.center.stand_ins.get(&number) != Some(&stand_in) {
            bed.center.replace(number, Some(stand_in));
        }
    }
}

/// A restart with the old file takes back what a reload has made the pool's policy, and the next restart with the new one makes
/// it that again.
fn taken_back(bed: &mut Bed) {
    const RELOADED: usize = 0;
    let urls = bed.center.etcd.urls();
    let count = |bed: &Bed| actions(bed).iter().filter(|action| *action == "set_policy").count();
    without(bed, Rule::FileProposes);
    let before = count(bed);
    let becomes = |bed: &mut Bed, more: usize, what: &str| {
        let is = poll_until(PATIENCE, || count(bed) == before + more);
        assert!(is, "{what}: {:?}", actions(bed));
    };
    bed.center.configure(RELOADED, &urls, "drain_min_samples = 123\n");
    bed.center.signal(RELOADED, Signal::HUP);
    becomes(bed, 1, "a reload");
    for (more, restarted) in [(2, 1), (3, RELOADED)] {
        bed.center.stop(restarted);
        bed.center.spawn(restarted);
        bed.center.serves(restarted);
        becomes(bed, more, "a restart took nothing back");
    }
    println!("  1 reload and 2 restarts set the policy 3 times");
    bed.center.configure(RELOADED, &urls, "");
}

/// The operator is told that nothing was changed, and it was, or is a moment later.
fn told_wrongly(bed: &mut Bed) {
    let proxy = Proxy::on(own_address().into(), bed.center.etcd.address(0));
    let urls = bed.center.etcd.urls();
    bed.center.configure(0, &[proxy.url()], "");
    without(bed, Rule::Settled);
    bed.center.ask = vec![1, 2];
    let paused = |bed: &Bed| actions(bed).iter().filter(|action| *action == "pause").count();
    let lied = [Mode::SwallowLarge, Mode::HoldLarge, Mode::SwallowLarge].into_iter().any(|mode| {
        let before = paused(bed);
        proxy.set(mode);
        let (status, answer) = bed.center.order_at(0, "/pause");
        proxy.set(Mode::Pass);
        bed.center.serves(0);
        bed::pass(BEAT);
        let is_done = paused(bed) > before;
        println!("  told {status} {}, and it was {}done", answer["message"], if is_done { "" } else { "not " });
        if is_done {
            bed.command("/resume", &order());
        }
        let says_not = answer["message"].as_str().is_some_and(|message| message.contains("nothing was changed"));
        is_done && says_not
    });
    assert!(lied, "every answer was right");
    bed.center.configure(0, &urls, "");
    bed.center.ask = (0..COORDINATORS).collect();
}

/// etcd is well, and all coordinators stay blind: what they would go on from is compacted.
fn never_read_again(bed: &mut Bed) {
    without(bed, Rule::ReadAgain);
    bed.until_within(HEARD_MAX, "all are heard", |pool| pool["waiting_for"] == json!([]));
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    bed.waits_for("staged", HELD);
    let mut compactions = 0;
    let all_blind = poll_until(PATIENCE, || {
        members::compact(bed);
        compactions += 1;
        (0..COORDINATORS).all(|number| bed.center.is_blind(number))
    });
    assert!(all_blind, "a coordinator is not blind after {compactions} compactions");
    bed.thaw_agent(HELD);
    // For as long as a whole rotation takes, and more.
    bed::pass(BEAT * 8);
    assert!((0..COORDINATORS).all(|number| bed.center.is_blind(number)), "one has come back by itself");
    assert!(bed.center.etcd.etcdctl(&["endpoint", "health"]).status.success(), "etcd is not well");
    println!("  all coordinators are blind for good after {compactions} compactions, and etcd is well");
    (0..COORDINATORS).for_each(|number| bed.center.replace(number, None));
    bed.settled();
}

/// The store is of before a rotation, and nothing is frozen: two rotations later nodes hold keys of two histories.
fn two_histories(bed: &mut Bed) {
    without(bed, Rule::Frozen);
    let cost = bed.cost_of("without frozen", |bed| {
        stores::go_back(bed, Coordinators::Stopped, "etcd-cluster");
        // Under generations that the nodes have passed: they refuse it, and it is over at once.
        bed.begin_rotation();
        bed.until("the first rotation is over", |pool| pool["phase"] == "steady" && pool["required"] != 0);
        bed.freeze_agent(HELD);
        bed.begin_rotation();
        bed.waits_for("staged", HELD);
    });
    assert!(cost.rejected > 0 && cost.passive_fail > 0, "it costs nothing: {cost:?}");
    let (faults, _) = bed.center.history().judge();
    let split = faults.iter().filter(|fault| fault.contains("while node")).count();
    println!("  {split} pairs of kernels");
    assert!(split > 0, "{faults:#?}");
    bed.thaw_agent(HELD);
    bed.settled();
}
