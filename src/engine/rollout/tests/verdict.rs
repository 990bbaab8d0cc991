//! Every kind of verdict with what it must carry, and which of two comes first.

use super::super::document::Hold;
use super::super::policy::AbsentPolicy;
use super::super::record::Exclusion;
use super::super::verdict::{Beside, Verdict, page, verdict};
use super::*;
use tfo_model::fleet::{Severity, VerdictKind};

pub(super) fn judged(snapshot: &Snapshot, presence: &Presence) -> Verdict {
    verdict(snapshot, Now { wall: NOW, presence }, Beside::default())
}

/// A pool whose last rotation was an hour ago.
pub(super) fn rested(here: &[&str], behind: &[&str]) -> Snapshot {
    let mut document = document(steady());
    document.rotated_at = UnixTime::from_secs(200_000 - 3_600);
    pool(document, here, behind)
}

/// The report of this node, to change it.
pub(super) fn report_of<'a>(snapshot: &'a mut Snapshot, name: &str) -> &'a mut Report {
    snapshot.nodes.get_mut(&node(name)).unwrap().report.as_mut().unwrap()
}

/// Makes a node one that has received every instruction, and still holds its old keys.
pub(super) fn stick(snapshot: &mut Snapshot, name: &str) {
    report_of(snapshot, name).seen = Generation::new(5);
}

fn exclude(snapshot: &mut Snapshot, name: &str, exclusion: Exclusion) {
    take_out(snapshot, name, exclusion);
}

/// A promotion that the health gate stopped: 41 of 1000 rejected then, 10% now, and 1 of 1000 before.
fn stopped() -> Snapshot {
    let mut snapshot = of(promoted(0, &["a"]));
    let counted = |failed| Counters { passive: 1_000 - failed, passive_alt_key: 0, passive_fail: failed };
    let window = |phase, failed| Window {
        phase,
        epoch: Epoch::new(3).unwrap(),
        first: Counters::default(),
        last: counted(failed),
    };
    let record = snapshot.nodes.get_mut(&node("a")).unwrap();
    record.baseline = Some(window(Phase::Staged, 1));
    record.window = Some(window(Phase::Promoted, 41));
    let proposal = committed(tick(&snapshot));
    assert_eq!(proposal.audit.action, Action::Unhealthy);
    assert_eq!(proposal.audit.nodes, nodes(&["a"]));
    assert_eq!(proposal.audit.reason, "4.1% of the cookies are rejected, 0.1% before the promotion");
    snapshot.nodes.get_mut(&node("a")).unwrap().window = Some(window(Phase::Promoted, 100));
    Snapshot { document: proposal.document, ..snapshot }
}

pub(super) fn with(mut snapshot: Snapshot, change: impl FnOnce(&mut Snapshot)) -> Snapshot {
    change(&mut snapshot);
    snapshot
}

/// A node that a restored store never instructed so.
fn ahead(mut snapshot: Snapshot) -> Snapshot {
    report_of(&mut snapshot, "b").seen = Generation::new(7);
    snapshot
}

/// `b` has received its instruction and holds `[1,-]`, while the others hold `[2,1]`.
pub(super) fn split() -> Snapshot {
    with(rested(&["a", "c", "d"], &["b"]), |snapshot| stick(snapshot, "b"))
}

fn held(hold: Hold) -> Snapshot {
    with(rested(&["a", "b"], &[]), |snapshot| snapshot.document.hold = Some(hold))
}

pub(super) fn absent(names: &[&str]) -> Presence {
    Presence { absent: nodes(names), ..presence() }
}

/// `expected`: severity, kind, nodes, next command.
#[track_caller]
pub(super) fn is(snapshot: &Snapshot, presence: &Presence, expected: &str, sentence: &str) {
    let found = judged(snapshot, presence);
    let names: Vec<&str> = found.nodes.iter().map(NodeId::as_str).collect();
    let next = found.next.as_deref().unwrap_or("-");
    assert_eq!(format!("{} {} [{}] {next}", found.severity, found.kind, names.join(", ")), expected);
    assert_eq!(found.sentence, sentence);
    assert_eq!(found.docs, page(found.kind));
}

#[test]
fn what_is_critical_says_who_and_how_much() {
    is(
        &ahead(rested(&["a", "b"], &[])),
        &presence(),
        "critical frozen [b] tfoctl recover",
        "frozen: b reports generation 7, and this store has given out only 5: the store was restored (then `recover`), \
         or b lies (then `deny` it); no node gets keys until then",
    );
    let far = with(ahead(rested(&["a", "b"], &[])), |snapshot| report_of(snapshot, "b").seen = Generation::new(9_999));
    is(
        &far,
        &presence(),
        "critical frozen [b] tfoctl deny b",
        "frozen by one report that is probably false: b reports generation 9999, and this store has given out only 5; \
         `deny` the node, or `recover` if it is true",
    );
    // All that report so, the one that is furthest ahead first.
    let three = with(ahead(rested(&["a", "b", "c"], &[])), |snapshot| {
        report_of(snapshot, "a").seen = Generation::new(6);
        report_of(snapshot, "c").seen = Generation::new(9);
    });
    let witnesses = judged(&three, &presence()).nodes;
    assert_eq!(witnesses.iter().map(NodeId::as_str).collect::<Vec<_>>(), ["c", "b", "a"]);
    is(
        &split(),
        &presence(),
        "critical split [b] tfoctl exclude b",
        "split: 1 node refuses the cookies of 3 others (key 0000000000000002): b; take them out of service and repair \
         them, or exclude them",
    );
    is(
        &stopped(),
        &presence(),
        "critical stopped_by_health [a] tfoctl abort",
        "the health gate stopped the rotation in wave 1 of 2: 10% of the cookies are rejected now (4.1% when it \
         stopped, 0.1% before the promotion); worst: a",
    );
    let numbers = judged(&stopped(), &presence()).numbers;
    assert_eq!(numbers["rejected_ppm"], 100_000);
    assert_eq!(numbers["rejected_at_stop_ppm"], 41_000);
    assert_eq!((numbers["baseline_ppm"], numbers["wave"], numbers["waves"]), (1_000, 1, 2));
    assert_eq!(judged(&stopped(), &presence()).since, Some(NOW));
}

#[test]
fn a_split_is_what_present_nodes_report_and_its_command_ends_it() {
    // A node whose instruction is on its way, an absent one, a denied one and an excluded one do not count.
    let mut in_flight = rested(&["a", "c", "d"], &["b"]);
    assert_eq!(judged(&in_flight, &presence()).kind, VerdictKind::Agree);
    // As a node that joins: it has a key of its own, and says that it has none of the pool.
    let report = report_of(&mut in_flight, "b");
    (report.fence, report.installed) = (None, Installed::Failed);
    report.holds = Some(Slots { primary: key(9), backup: None }.prints().into());
    assert_eq!(judged(&in_flight, &presence()).kind, VerdictKind::Agree);
    assert_eq!(judged(&split(), &absent(&["b"])).kind, VerdictKind::Absent);
    for exclusion in [Exclusion::Denied, Exclusion::Operator { until: UnixTime::from_secs(900_000) }] {
        let out = with(split(), |snapshot| exclude(snapshot, "b", exclusion));
        assert_eq!(judged(&out, &presence()).kind, VerdictKind::Agree, "{exclusion:?}");
    }
    // While the first key is spread there is nothing in common that could be lost.
    let first = with(split(), |snapshot| snapshot.document.hold = Some(Hold::FirstKey { expect: expect_number(4) }));
    assert_eq!(judged(&first, &presence()).kind, VerdictKind::Held);
    // `b` still holds the keys from before the stage: [2,1] beside [3,2] of the wave.
    let mut late = of(promoted(0, &["a"]));
    let report = report_of(&mut late, "b");
    let old = Fence {
        pool_id: pool_id(),
        generation: Generation::new(3),
        slots: Slots { primary: key(2), backup: Some(key(1)) },
    };
    (report.fence, report.seen) = (Some(old), Generation::new(4));
    is(
        &late,
        &presence(),
        "critical split [b] tfoctl abort",
        "split: 1 node refuses the cookies of 1 other (key 0000000000000003): b; `abort` ends it",
    );
    // Four nodes are too many for one line.
    let many = with(rested(&["a"], &["b", "c", "d", "e"]), |snapshot| {
        ["b", "c", "d", "e"].iter().for_each(|name| stick(snapshot, name));
    });
    is(
        &many,
        &presence(),
        "critical split [b, c, d, e] tfoctl nodes",
        "split: 4 nodes refuse the cookies of 1 other (key 0000000000000002): b, c, d and 1 more; take them out of \
         service and repair them, or exclude them",
    );
    assert_eq!(judged(&many, &presence()).numbers["out_of_step"], 4);
    // Nodes that only report split, too: two with one key, one with another.
    let mut reporting = rested(&["a", "b", "c"], &[]);
    for (name, epoch) in [("a", 7), ("b", 7), ("c", 8)] {
        let report = report_of(&mut reporting, name);
        report.source = KeySource::Derive;
        report.fence = None;
        report.holds = Some(Slots { primary: key(epoch), backup: None }.prints().into());
    }
    is(
        &reporting,
        &presence(),
        "critical split [c] tfoctl exclude c",
        "split: 1 node refuses the cookies of 2 others (key 0000000000000007), and the other way round: c; take them out \
         of service and repair them, or exclude them",
    );
}

#[test]
fn what_waits_for_an_operator_says_for_what() {
    let paused = |stage, reason: &str| {
        let cause = PauseCause::Operator { operator: node("ops.example.org"), reason: reason.to_owned() };
        with(of(stage), |snapshot| snapshot.document.paused = Some(Pause { since: UnixTime::from_secs(9), cause }))
    };
    is(
        &paused(staged(), "lunch"),
        &presence(),
        "warning paused [] tfoctl resume",
        "paused by ops.example.org (\"lunch\"); the rotation stands still with the next key staged",
    );
    is(
        &paused(promoted(0, &["a"]), ""),
        &presence(),
        "warning paused [] tfoctl resume",
        "paused by ops.example.org, without a reason; the rotation stands still in wave 1 of 2",
    );
    assert_eq!(judged(&paused(steady(), ""), &presence()).since, Some(UnixTime::from_secs(9)));
    // Aborted after a stop by the health gate: there is nothing more to abort.
    let aborted = committed(order(&stopped(), Command::Abort { force: false }).unwrap()).document;
    is(
        &pool(aborted, &["a", "b"], &[]),
        &presence(),
        "warning held [] tfoctl resume",
        "no rotation starts: the health gate stopped the last one, which was aborted (4.1% of the cookies were \
         rejected, 0.1% before; worst: a)",
    );
    is(
        &held(Hold::Aborted),
        &presence(),
        "warning held [] tfoctl resume",
        "no rotation starts until `resume`: the last one was aborted",
    );
    is(
        &held(Hold::Recovered),
        &presence(),
        "warning held [] tfoctl resume",
        "no rotation starts until `resume`: the keys of the fleet were taken over by `recover`",
    );
    is(
        &held(Hold::FirstKey { expect: expect_number(2) }),
        &presence(),
        "warning held [] tfoctl resume",
        "2 nodes have the pool's first key, as expected: `resume` lets rotations begin",
    );
    is(
        &held(Hold::FirstKey { expect: expect_number(3) }),
        &presence(),
        "warning held [] tfoctl nodes",
        "no rotation starts before the expected nodes have the pool's first key: 2 of 3 have it",
    );
    is(
        &held(Hold::FirstKey { expect: tfo_model::node::Expected::Names(nodes(&["a", "c"])) }),
        &presence(),
        "warning held [c] tfoctl nodes",
        "no rotation starts before the expected nodes have the pool's first key: 1 of 2 have it; missing: c",
    );
    is(
        &of(Stage::Empty),
        &presence(),
        "warning no_key [] tfoctl rotate --first",
        "the pool has no key yet, and 2 nodes wait for it: `tfoctl rotate --first` makes one, `tfoctl import` takes over \
         one that the nodes share",
    );
    let shared = with(of(Stage::Empty), |snapshot| {
        ["a", "b"].iter().for_each(|name| report_of(snapshot, name).foreign = Some(fingerprint(9)));
    });
    is(
        &shared,
        &presence(),
        "warning no_key [] tfoctl import --key-file FILE",
        "the pool has no key yet, and 2 nodes wait for it: 2 nodes share key 0000000000000009, which `tfoctl import` \
         takes over",
    );
    let reporting = with(of(Stage::Empty), |snapshot| {
        ["a", "b"].iter().for_each(|name| report_of(snapshot, name).source = KeySource::Derive);
    });
    is(&reporting, &presence(), "ok only_reports [] -", "2 nodes only report: their keys come from another source");
}

#[test]
fn a_rotation_says_where_it_is_and_whom_it_waits_for_until_when() {
    is(
        &of(promoted(0, &["a"])),
        &Presence { wave_secs: 10, ..presence() },
        "notice rotating [] -",
        "a rotation runs: wave 1 of 2, 1 of 1 nodes make cookies with the new key; it is watched until \
         1970-01-03T07:34:10Z",
    );
    is(
        &with_behind(staged()),
        &presence(),
        "notice rotating [b] -",
        "a rotation runs: 1 of 2 nodes have the next key as their backup; it waits for b",
    );
    let five = || pool(document(staged()), &["a", "c", "d"], &["b", "e"]);
    let late = Presence { overdue: BTreeMap::from([(node("b"), std::time::Duration::from_secs(69))]), ..presence() };
    is(
        &five(),
        &late,
        "notice rotating [b, e] -",
        "a rotation runs: 3 of 5 nodes have the next key as their backup; it waits for b, e; nodes that stay away are \
         excluded by 1970-01-03T07:34:30Z",
    );
    assert_eq!(judged(&five(), &late).numbers["until_timestamp_seconds"], 200_070);
    // What no time heals is a warning.
    let broken = with(five(), |snapshot| {
        ["b", "e"].iter().for_each(|name| stick(snapshot, name));
        report_of(snapshot, "e").installed = Installed::Failed;
        for name in ["b", "e"] {
            let (generation, slots) = (Generation::new(4), Slots { primary: key(2), backup: Some(key(1)) });
            report_of(snapshot, name).fence = Some(Fence { pool_id: pool_id(), generation, slots });
        }
    });
    is(
        &broken,
        &presence(),
        "warning rotating [e, b] tfoctl exclude e b",
        "a rotation runs: 3 of 5 nodes have the next key as their backup; it waits for e (failed), b (straggler)",
    );
    let patient = with(five(), |snapshot| snapshot.document.policy.absent_policy = AbsentPolicy::Wait);
    is(
        &patient,
        &absent(&["b", "e"]),
        "warning absent [b, e] tfoctl advance",
        "a rotation runs: 3 of 5 nodes have the next key as their backup; it waits for absent nodes: b, e; absent_policy \
         is \"wait\"",
    );
    is(
        &with_behind(staged()),
        &absent(&["b"]),
        "notice rotating [b] -",
        "a rotation runs: 1 of 2 nodes have the next key as their backup; it waits for b",
    );
    let revoke = with(with_behind(steady()), |snapshot| {
        let keys = BTreeSet::from([key(1)]);
        snapshot.document.revoke = Some(super::super::document::Revoke::of(keys, NOW));
    });
    is(
        &revoke,
        &presence(),
        "notice rotating [b] -",
        "a revoke runs: 1 key must leave the nodes, 1 of 2 have what they should; it waits for b",
    );
    // After a restart nothing moves before all were seen.
    is(
        &of(staged()),
        &blind_to(&["b"]),
        "notice blind [b] -",
        "1 of 2 nodes has not reported since this coordinator started: b; nothing moves before",
    );
    let gone = Presence { absent: nodes(&["b"]), ..blind_to(&["b"]) };
    assert_eq!(
        judged(&with(of(staged()), |s| s.document.policy.absent_policy = AbsentPolicy::Wait), &gone).severity,
        Severity::Warning
    );
}

#[test]
fn what_will_stop_the_next_rotation_is_said_before_it_is_due() {
    let expecting = |number, rotated_at| {
        with(rested(&["a", "b"], &[]), |snapshot| {
            snapshot.document.policy.expected_nodes = Some(number);
            snapshot.document.rotated_at = UnixTime::from_secs(rotated_at);
        })
    };
    is(
        &expecting(3, 196_400),
        &presence(),
        "warning expected_nodes [] -",
        "the next rotation, at 1970-01-04T06:33:20Z, will not start: 2 of 3 expected nodes are here; deploy the others, \
         or expect fewer",
    );
    is(
        &expecting(3, 0),
        &presence(),
        "warning expected_nodes [] -",
        "the rotation that was due at 1970-01-02T00:00:00Z does not start: 2 of 3 expected nodes are here; deploy the \
         others, or expect fewer",
    );
    let gone = with(expecting(2, 196_400), |snapshot| exclude(snapshot, "b", Exclusion::Absent));
    is(
        &gone,
        &presence(),
        "warning expected_nodes [b] tfoctl forget b",
        "the next rotation, at 1970-01-04T06:33:20Z, will not start: 1 of 2 expected nodes are here; absent or left \
         behind: b",
    );
    let drifted = with(rested(&["a", "b", "c"], &[]), |snapshot| {
        report_of(snapshot, "c").installed = Installed::Drifted;
        report_of(snapshot, "b").installed = Installed::Failed;
    });
    is(
        &drifted,
        &presence(),
        "warning absent [b, c] tfoctl exclude b c",
        "the next rotation, at 1970-01-04T06:33:20Z, will wait for b (failed), c (drifted)",
    );
    is(
        &rested(&["a", "b", "c"], &[]),
        &absent(&["c"]),
        "warning absent [c] tfoctl forget c",
        "1 node is silent: c; the next rotation, at 1970-01-04T06:33:20Z, leaves it behind, and those that serve then \
         refuse cookies",
    );
    let out = with(rested(&["a", "b", "c"], &[]), |snapshot| exclude(snapshot, "c", Exclusion::LeftBehind));
    is(
        &out,
        &presence(),
        "warning absent [c] tfoctl forget c",
        "1 node is left out as absent or left behind: c; those that serve refuse cookies after the next rotation",
    );
    let few = with(rested(&["a", "b", "c"], &[]), |snapshot| {
        exclude(snapshot, "b", Exclusion::LeftBehind);
        exclude(snapshot, "c", Exclusion::LeftBehind);
    });
    is(
        &few,
        &presence(),
        "warning absent [b, c] tfoctl forget b c",
        "the next rotation, at 1970-01-04T06:33:20Z, will not start; 1 node is left, and min_present asks for 2",
    );
    is(
        &rested(&["a", "b"], &[]),
        &presence(),
        "ok agree [] -",
        "2 nodes accept each other's cookies; the next rotation is due at 1970-01-04T06:33:20Z",
    );
    let draining = with(of(steady()), |snapshot| snapshot.document.since = NOW);
    is(
        &draining,
        &presence(),
        "ok agree [] -",
        "2 nodes accept each other's cookies; the next rotation starts when the clients have left the backup key, at the \
         latest at 1970-01-03T13:33:20Z",
    );
}

/// Each line has everything that the lines after it have, and more.
#[test]
fn the_worst_comes_first() {
    let pause = || Pause { since: NOW, cause: PauseCause::Operator { operator: node("o"), reason: String::new() } };
    let blind = Presence { seen: nodes(&["a", "b", "c"]), ..presence() };
    let all_seen = presence();
    let mut snapshot = with(split(), |snapshot| {
        snapshot.document.policy.expected_nodes = Some(9);
        snapshot.document.hold = Some(Hold::Aborted);
        snapshot.document.paused = Some(pause());
        report_of(snapshot, "a").seen = Generation::new(9);
        report_of(snapshot, "c").installed = Installed::Drifted;
    });
    assert_eq!(judged(&snapshot, &blind).kind, VerdictKind::Frozen);
    report_of(&mut snapshot, "a").seen = Generation::ZERO;
    assert_eq!(judged(&snapshot, &blind).kind, VerdictKind::Split);
    *report_of(&mut snapshot, "b") = report_of(&mut snapshot, "a").clone();
    assert_eq!(judged(&snapshot, &blind).kind, VerdictKind::Paused);
    snapshot.document.paused = None;
    assert_eq!(judged(&snapshot, &blind).kind, VerdictKind::Blind);
    assert_eq!(judged(&snapshot, &all_seen).kind, VerdictKind::Held);
    snapshot.document.hold = None;
    assert_eq!(judged(&snapshot, &all_seen).kind, VerdictKind::ExpectedNodes);
    snapshot.document.policy.expected_nodes = Some(1);
    assert_eq!(judged(&snapshot, &all_seen).kind, VerdictKind::Absent);
    report_of(&mut snapshot, "c").installed = Installed::ReadBack;
    assert_eq!(judged(&snapshot, &all_seen).kind, VerdictKind::Agree);
}
