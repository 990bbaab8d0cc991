//! Rows about the members of etcd: any minority of them may die, hang, be cut off, or lag.

use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;
use tfo_host::runtime::clock;
use tfo_testbed::cluster::{ABSENT_AFTER, BEAT, Cluster, Layout, MEMBERS, order};
use tfo_testbed::levers::beside;
use tfo_testbed::{PATIENCE, by_size, now, poll_until, skip_unless};

use super::bed::{self, Bed, HELD, NODES, Row, Runs, Stand, none_excluded, rotation, states};

/// A member is away.
pub(crate) const AWAY: &[Row] = &[
    Row { number: 1, name: "a member killed, stopped or cut off", runs: Runs::Short, act: one_member },
    Row { number: 2, name: "the leader moved twenty times", runs: Runs::Short, act: moved_leader },
    Row { number: 3, name: "the majority lost", runs: Runs::Long, act: majority_lost },
    Row { number: 7, name: "a member cut off from its peers", runs: Runs::Long, act: stuck_watch },
];
/// All are there, with trouble of their own.
pub(crate) const TROUBLED: &[Row] = &[
    Row { number: 4, name: "slow disks", runs: Runs::Long, act: slow_disks },
    Row { number: 5, name: "a database over its quota", runs: Runs::Long, act: over_quota },
    Row { number: 6, name: "compaction all the time", runs: Runs::Long, act: compaction },
];

#[test]
fn members() {
    skip_unless!(bed::can_run());
    beside(|| bed::run(AWAY, Layout::default()));
}

#[test]
fn troubled_members() {
    skip_unless!(bed::can_run());
    beside(|| bed::run(TROUBLED, Layout::default()));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Kill,
    Stop,
    Cut,
}

fn harm(bed: &mut Bed, member: usize, harm: Harm) {
    let center = &mut bed.center;
    match harm {
        Harm::Kill => center.etcd.kill(member),
        Harm::Stop => center.etcd.signal(member, Signal::STOP),
        Harm::Cut => {
            let others = (1..=254).map(|host| std::net::Ipv4Addr::new(10, 99, 0, host));
            let place = &center.member_places[member];
            place.cut_from(others.filter(|other| *other != place.address));
        }
    }
}

fn undo(bed: &mut Bed, member: usize, harm: Harm) {
    let center = &mut bed.center;
    match harm {
        Harm::Kill => center.etcd.start(member),
        Harm::Stop => center.etcd.signal(member, Signal::CONT),
        Harm::Cut => center.member_places[member].heal(),
    }
}

/// The leader and a follower, each killed, stopped and cut off, while the next key is staged and while it is promoted.
fn one_member(bed: &mut Bed) {
    let all = [
        (Harm::Kill, true),
        (Harm::Stop, true),
        (Harm::Cut, true),
        (Harm::Kill, false),
        (Harm::Stop, false),
        (Harm::Cut, false),
    ];
    let mut harms = all.into_iter().take(by_size(2, all.len(), all.len()));
    let current = std::cell::Cell::new(None);
    while harms.len() > 0 {
        let mut fault = |bed: &mut Bed, _: Stand| {
            let Some((what, is_leader)) = harms.next() else { return "nothing".to_owned() };
            let leader = bed.center.etcd.leader();
            let member = if is_leader { leader } else { (leader + 1) % MEMBERS };
            current.set(Some((member, what)));
            harm(bed, member, what);
            format!("{what:?} of {}", if is_leader { "the leader" } else { "a follower" })
        };
        rotation(bed, &mut fault, &mut |bed, _| {
            if let Some((member, what)) = current.take() {
                undo(bed, member, what);
            }
        });
    }
    none_excluded(bed);
}

fn moved_leader(bed: &mut Bed) {
    let mut move_it = |bed: &mut Bed, _: Stand| {
        for _ in 0..10 {
            bed.center.etcd.move_leader();
        }
        "the leader moved ten times".to_owned()
    };
    rotation(bed, &mut move_it, &mut |_, _| {});
    none_excluded(bed);
}

/// Two of three members: nothing is committed, coordinators are blind, agents keep their keys and say that they are detached; and
/// no node is excluded for that time.
fn majority_lost(bed: &mut Bed) {
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    bed.waits_for("staged", HELD);
    let before = bed.center.revision().expect("a coordinator answers");
    bed.center.etcd.kill(0);
    bed.center.etcd.kill(1);
    let start = now();
    bed.thaw_agent(HELD);
    let blind = poll_until(PATIENCE, || (0..3).all(|number| bed.center.is_blind(number)));
    assert!(blind, "a coordinator still answers");
    println!("  all coordinators are blind after {}", bed::secs(start));
    bed.until_all(NODES, "detached", |status| status["contact"] == "detached");
    println!("  all agents are detached after {}", bed::secs(start));
    // Longer than a coordinator's life lasts without its store.
    bed::pass((ABSENT_AFTER * 2 + ABSENT_AFTER / 6).saturating_sub(start.elapsed()));
    let look = bed.look();
    println!("  {}", states(&look));
    bed.center.etcd.start(0);
    bed.center.etcd.start(1);
    let back = now();
    let after = bed.center.next_commit(before, back);
    println!("  the majority is back: next commit after {:.2} s", after.as_secs_f64());
    bed.settled();
    none_excluded(bed);
}

/// Every `fdatasync` of every member takes 200 ms (under `--full` 50, then 500): a rotation is slower, and that is all.
fn slow_disks(bed: &mut Bed) {
    for delay in by_size(&["200000"][..], &["200000"], &["50000", "500000"]) {
        let inject = format!("inject=fdatasync,fsync:delay_enter={delay}");
        let strace = [
            "strace",
            "-D",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            &inject,
        ];
        restart_members(bed, &strace, &[]);
        let (since, start) = (clock::now_ms(), now());
        bed.rotation();
        println!("  {delay} us for each sync: a rotation in {}", bed::secs(start));
        let refused = bed.center.recorder.refused_since(since);
        assert_eq!(refused, 0, "coordinators were blind on slow disks");
    }
    restart_members(bed, &[], &[]);
    none_excluded(bed);
}

/// One after another, so that there is a majority all the time.
fn restart_members(bed: &mut Bed, wrapper: &[&str], more: &[&str]) {
    bed.center.etcd.start_as(wrapper, more);
    for member in 0..MEMBERS {
        bed.center.etcd.kill(member);
        bed.center.etcd.start(member);
    }
}

/// The database is full in the middle of a rotation: nothing is written, no node is excluded; an administrator frees space, and
/// it continues by itself.
fn over_quota(bed: &mut Bed) {
    restart_members(bed, &[], &["--quota-backend-bytes", "16777216"]);
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    bed.waits_for("staged", HELD);
    let before = bed.center.revision().expect("a coordinator answers");
    let filler = "x".repeat(100_000);
    let full = poll_until(PATIENCE, || !bed.center.etcd.etcdctl(&["put", "filler", &filler]).status.success());
    assert!(full, "etcd took all of it");
    bed.thaw_agent(HELD);
    let refused = bed.ask(&Method::POST, "/pause", Some(&order()));
    assert!(refused.is_err(), "an order was taken that cannot be stored: {refused:?}");
    bed::pass(BEAT * 3);
    assert_eq!(bed.center.revision(), Some(before));
    // What was written is in the history of etcd, which is about to be forgotten.
    bed.center.recorder.collect(&bed.center.etcd);
    let etcd = &bed.center.etcd;
    etcd.ctl(&["del", "filler"]);
    let revision = etcd.revision();
    etcd.ctl(&["compact", &revision.to_string()]);
    bed.center.recorder.compacted(revision);
    (0..MEMBERS).for_each(|member| drop(etcd.ctl_at(member, &["defrag"])));
    etcd.ctl(&["alarm", "disarm"]);
    let after = bed.center.next_commit(before, now());
    println!("  space was freed: next commit after {:.2} s", after.as_secs_f64());
    bed.settled();
    restart_members(bed, &[], &[]);
    none_excluded(bed);
}

/// etcd forgets everything but the present: a write of another program comes first, so that no copy is of the present.
pub(crate) fn compact(bed: &Bed) {
    let Cluster { etcd, recorder, .. } = &bed.center;
    let put: Value =
        serde_json::from_str(&etcd.ctl(&["put", "other", "x", "-w", "json"])).expect("etcdctl prints JSON");
    let revision = put["header"]["revision"].as_i64().expect("an answer has a revision");
    // What is forgotten has to be in the history.
    recorder.collect(etcd);
    etcd.ctl(&["compact", &revision.to_string()]);
    recorder.compacted(revision);
}

/// etcd forgets everything but the present, a few times a second: copies are read again, lives go on, and no step is missed.
fn compaction(bed: &mut Bed) {
    let lives = bed.center.lives();
    bed.begin_rotation();
    let mut compactions = 0;
    while bed.pool()["phase"] != "steady" {
        compact(bed);
        compactions += 1;
    }
    bed.settled();
    println!("  {compactions} compactions in a rotation");
    assert!(compactions > 3, "{compactions}");
    assert_eq!(bed.center.lives(), lives, "a coordinator has begun another life");
    none_excluded(bed);
}

/// Each member in turn is cut off from its peers alone: clients stay connected to it, and hear nothing.
fn stuck_watch(bed: &mut Bed) {
    let addresses: Vec<_> = bed.center.member_places.iter().map(|place| place.address).collect();
    for cut in [[0, 1], [2, 0]] {
        let mut members = cut.into_iter();
        let mut isolate = |bed: &mut Bed, _: Stand| {
            let member = members.next().expect("two places of a rotation");
            let place = &bed.center.member_places[member];
            place.cut_from(addresses.iter().copied().filter(|other| *other != place.address));
            format!("member {} cut off from its peers", member + 1)
        };
        rotation(bed, &mut isolate, &mut |bed, _| bed.center.heal());
    }
    none_excluded(bed);
}
