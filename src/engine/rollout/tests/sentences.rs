//! What verdicts say at their edges: equal counts, ties, and what is not said.

use super::super::document::Revoke;
use super::super::policy::AbsentPolicy;
use super::super::record::Exclusion;
use super::verdict::{absent, is, judged, report_of, rested, stick, with};
use super::*;
use tfo_model::fleet::VerdictKind;

fn fence(generation: u64, primary: u64, backup: Option<u64>) -> Option<Fence> {
    let slots = Slots { primary: key(primary), backup: backup.map(key) };
    Some(Fence { pool_id: pool_id(), generation: Generation::new(generation), slots })
}

fn sentence(snapshot: &Snapshot, presence: &Presence) -> String {
    judged(snapshot, presence).sentence
}

#[test]
fn other_keys_under_the_same_generation_freeze_and_are_called_so() {
    let other = with(rested(&["a", "b"], &[]), |snapshot| report_of(snapshot, "b").fence = fence(5, 9, None));
    let says = sentence(&other, &presence());
    assert!(says.starts_with("frozen: b reports other keys under generation 5 than this store gave out: "), "{says}");
}

#[test]
fn a_pool_only_reports_if_no_node_takes_its_keys() {
    let reporting = |mut snapshot: Snapshot, name: &str| {
        report_of(&mut snapshot, name).source = KeySource::Derive;
        snapshot
    };
    let mut alone = reporting(of(Stage::Empty), "a");
    take_out(&mut alone, "b", Exclusion::Denied);
    is(&alone, &presence(), "ok only_reports [] -", "1 node only reports: their keys come from another source");
    let beside = reporting(rested(&["a", "b"], &[]), "a");
    assert_eq!(judged(&beside, &presence()).kind, VerdictKind::Agree);
}

#[test]
fn a_wave_says_how_many_of_its_nodes_have_the_key() {
    let snapshot = pool(document(promoted(1, &["a", "b", "d"])), &["a", "c", "d"], &["b"]);
    let says = sentence(&snapshot, &presence());
    assert!(says.starts_with("a rotation runs: wave 2 of 4, 1 of 2 nodes make cookies with the new key; "), "{says}");
}

/// docs/protocol.md#rule-5: exactly `min_present` is enough.
#[test]
fn too_few_are_fewer_than_min_present() {
    let mut exact = with_behind(staged());
    exact.document.policy.min_present = Share::ALL;
    let begun = "a rotation runs: 1 of 2 nodes have the next key as their backup";
    assert_eq!(sentence(&exact, &presence()), format!("{begun}; it waits for b"));
    let mut few = pool(document(staged()), &["a", "b", "c"], &[]);
    ["b", "c"].into_iter().for_each(|name| take_out(&mut few, name, Exclusion::Absent));
    let begun = "a rotation runs: 1 of 1 nodes have the next key as their backup";
    assert_eq!(sentence(&few, &presence()), format!("{begun}; 1 node is left, and min_present asks for 2"));
}

#[test]
fn neither_the_last_wave_nor_a_revoke_is_watched() {
    let early = Presence { wave_secs: 10, ..presence() };
    let revoking = |stage| {
        let mut snapshot = of(stage);
        snapshot.document.revoke = Some(Revoke::of([key(2)].into(), NOW));
        snapshot
    };
    let first = "wave 1 of 2, 1 of 1 nodes make cookies with the new key";
    for (snapshot, says) in [
        (of(promoted(0, &["a"])), format!("a rotation runs: {first}; it is watched until 1970-01-03T07:34:10Z")),
        (of(promoted(0, &[])), "a rotation runs: 2 of 2 nodes make cookies with the new key".to_owned()),
        (revoking(promoted(0, &["a"])), format!("a revoke runs: {first}")),
    ] {
        assert_eq!(sentence(&snapshot, &early), says);
    }
}

#[test]
fn one_broken_node_of_many_is_waited_for_and_not_left_behind() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let broken = |count: usize| {
        with(rested(&names, &[]), |snapshot| {
            names[..count].iter().for_each(|name| report_of(snapshot, name).installed = Installed::Drifted);
        })
    };
    is(
        &broken(1),
        &presence(),
        "warning absent [a] tfoctl exclude a",
        "the next rotation, at 1970-01-04T06:33:20Z, will wait for a (drifted)",
    );
    // As many as a command names, and one more.
    let next = |count| judged(&broken(count), &presence()).next.unwrap();
    assert_eq!((next(3).as_str(), next(4).as_str()), ("tfoctl exclude a b c", "tfoctl nodes"));
}

#[test]
fn no_time_is_said_by_which_a_node_is_excluded_if_none_is() {
    let late = Presence { overdue: [(node("b"), std::time::Duration::from_secs(69))].into(), ..presence() };
    let five = || pool(document(staged()), &["a", "c", "d"], &["b", "e"]);
    let mut patient = five();
    patient.document.policy.absent_policy = AbsentPolicy::Wait;
    let mut needed = five();
    needed.document.policy.min_present = Share::ALL;
    let waits = "a rotation runs: 3 of 5 nodes have the next key as their backup; it waits for b, e";
    assert_eq!(sentence(&five(), &late), format!("{waits}; nodes that stay away are excluded by 1970-01-03T07:34:30Z"));
    assert_eq!((sentence(&patient, &late), sentence(&needed, &late)), (waits.to_owned(), waits.to_owned()));
}

/// Nodes that derive their keys, and hold these.
fn deriving(pairs: &[(&str, u64, Option<u64>)]) -> Snapshot {
    let names: Vec<&str> = pairs.iter().map(|(name, ..)| *name).collect();
    with(rested(&names, &[]), |snapshot| {
        for (name, primary, backup) in pairs {
            let report = report_of(snapshot, name);
            report.holds = fence(1, *primary, *backup).map(|fence| fence.slots.prints().into());
            (report.source, report.fence) = (KeySource::Derive, None);
        }
    })
}

#[test]
fn a_split_counts_both_ways_and_of_two_alike_the_later_key_is_out() {
    for (nodes, says) in [
        // x refuses all others, and c accepts it.
        (
            &[("a", 2, Some(1)), ("b", 2, Some(1)), ("c", 2, Some(9)), ("x", 9, None)][..],
            "split: 1 node refuses the cookies of 3 others (key 0000000000000002), and 2 refuse theirs: x; ",
        ),
        (
            &[("a", 8, None), ("b", 7, None)],
            "split: 1 node refuses the cookies of 1 other (key 0000000000000007), and the other way round: a; ",
        ),
        (
            &[("a", 2, Some(9)), ("b", 9, Some(8))],
            "split: 1 node refuses the cookies of 1 other (key 0000000000000002): b; ",
        ),
    ] {
        let found = sentence(&deriving(nodes), &presence());
        assert!(found.starts_with(says), "{found}");
    }
    assert_eq!(judged(&deriving(&[("a", 2, Some(9)), ("b", 9, Some(2))]), &presence()).kind, VerdictKind::OnlyReports);
}

/// docs/protocol.md#rule-13: an abort turns back to keys that a revoke drives out.
#[test]
fn an_abort_is_advised_only_where_it_ends_the_split() {
    let apart = |primary, backup| {
        let mut snapshot = pool(document(promoted(0, &["a"])), &["a", "b", "c"], &["d"]);
        stick(&mut snapshot, "d");
        report_of(&mut snapshot, "d").fence = fence(3, primary, backup);
        snapshot
    };
    let mut revoking = apart(2, Some(1));
    revoking.document.revoke = Some(Revoke::of([key(2)].into(), NOW));
    for (what, snapshot, aborts) in [
        ("the keys before", apart(2, Some(1)), true),
        ("and a revoke", revoking, false),
        ("accepted by those that turn back, and refusing their cookies", apart(3, Some(9)), false),
        ("refused by them, and accepting their cookies", apart(9, Some(2)), false),
    ] {
        let verdict = judged(&snapshot, &absent(&[]));
        assert_eq!((verdict.kind, verdict.nodes.as_slice()), (VerdictKind::Split, &[node("d")][..]), "{what}");
        assert_eq!(verdict.sentence.ends_with("`abort` ends it"), aborts, "{what}: {}", verdict.sentence);
    }
}
