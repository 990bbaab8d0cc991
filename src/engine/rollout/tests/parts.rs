//! How the parts of a node's record merge, and what a queue of writes is about (docs/protocol.md#rule-6; rules 7, 8).

use super::super::parts::{About, Beat, Later, Stamp};
use super::super::record::Exclusion;
use super::*;

fn ack(syncs: u64) -> Ack {
    Ack { report: report(None).into(), syncs, window: None, baseline: None, at: NOW }
}

fn entry(ordinal: u64) -> Entry {
    Entry { session: Session { ordinal, nonce: 1 }, answers: None, first: ack(1) }
}

fn later(ordinal: u64, syncs: u64) -> Later {
    Later { session: Session { ordinal, nonce: 1 }, ack: ack(syncs), silent: false }
}

fn writes(entries: &[&str], acks: &[&str], removed: &[&str]) -> Writes {
    Writes {
        entries: entries.iter().map(|name| (node(name), entry(2).into())).collect(),
        acks: acks.iter().map(|name| (node(name), later(2, 7).into())).collect(),
        removed: nodes(removed),
        beat: None,
    }
}

#[test]
fn a_queue_counts_each_part_and_names_each_node_once() {
    let queue = writes(&["a", "b"], &["b", "c", "d"], &["a", "c", "e", "f"]);
    assert_eq!(queue.len(), 9);
    let named: Vec<&str> = queue.nodes().map(NodeId::as_str).collect();
    assert_eq!(named, ["a", "b", "c", "d", "e", "f"]);
    let none = Writes::default();
    assert_eq!((none.len(), none.is_empty(), none.nodes().count()), (0, true, 0));
    let beat = Beat { stamp: Stamp::taken_over(None), vouches: true, at: NOW, tally: None, about: About::default() };
    let sign = Writes { beat: Some(beat), ..Writes::default() };
    assert_eq!((sign.len(), sign.is_empty()), (0, false));
    for queue in [writes(&["a"], &[], &[]), writes(&[], &["a"], &[]), writes(&[], &[], &["a"])] {
        assert_eq!((queue.len(), queue.is_empty()), (1, false));
        assert_eq!((queue.names(&node("a")), queue.names(&node("b"))), (true, false));
    }
}

/// docs/protocol.md#rule-18: a process that takes a name over writes after every one that had it before.
#[test]
fn every_stamp_is_above_those_before_it() {
    let first = Stamp::taken_over(None);
    assert_eq!(first, Stamp { life: 1, number: 0 });
    let last = first.next().next().next();
    assert_eq!(last, Stamp { life: 1, number: 3 });
    let taken_over = Stamp::taken_over(Some(last));
    assert_eq!(taken_over, Stamp { life: 2, number: 0 });
    assert!(first < last && last < taken_over && taken_over < Stamp::taken_over(Some(taken_over)));
}

/// A coordinator decides by its own queue as if it was stored (rule 7), also about a node that another one knows.
#[test]
fn what_a_queue_makes_of_a_node_is_what_the_store_will_have() {
    let (one, other): (CoordinatorName, CoordinatorName) = ("one".parse().unwrap(), "other".parse().unwrap());
    let mut parts = Parts::default();
    parts.write(&one, &Writes { entries: [(node("a"), entry(1).into())].into(), ..Writes::default() });
    parts.write(&one, &Writes { acks: [(node("a"), later(1, 5).into())].into(), ..Writes::default() });
    let session = |entry: Entry| Writes { entries: [(node("a"), entry.into())].into(), ..Writes::default() };
    let cases = [
        (session(entry(1)), 5),
        (session(entry(2)), 1),
        (Writes { acks: [(node("a"), later(1, 6).into())].into(), ..Writes::default() }, 6),
        // Of another session: it counts for nothing (rule 8).
        (Writes { acks: [(node("a"), later(3, 9).into())].into(), ..Writes::default() }, 1),
        (Writes { acks: [(node("a"), later(2, 9).into())].into(), ..session(entry(2)) }, 9),
    ];
    for (queue, syncs) in cases {
        for by in [&one, &other] {
            let mut stored = parts.clone();
            stored.write(by, &queue);
            let found = parts.record_after(&node("a"), Some((by, &queue)));
            assert_eq!(found, stored.record(&node("a")), "{queue:?} of {by}");
            if *by == one {
                assert_eq!(found.unwrap().syncs, syncs, "{queue:?}");
            }
        }
    }
    assert_eq!(parts.record(&node("a")).unwrap().syncs, 5);
}

/// A coordinator that is forgotten takes nothing along that counts.
#[test]
fn what_another_session_took_the_place_of_or_what_is_long_gone_is_superseded() {
    let (one, other): (CoordinatorName, CoordinatorName) = ("one".parse().unwrap(), "other".parse().unwrap());
    let mut parts = Parts::default();
    let opened = |names: &[&str], ordinal| Writes {
        entries: names.iter().map(|name| (node(name), entry(ordinal).into())).collect(),
        ..Writes::default()
    };
    parts.write(&one, &opened(&["stays", "went", "forgotten", "gone"], 1));
    parts.write(&other, &opened(&["went"], 2));
    let forgotten = |at| Excluded {
        cause: Exclusion::Forgotten,
        closes: Some(Session { ordinal: 1, nonce: 1 }),
        revision: Revision::new(3),
        at,
    };
    let wall = NOW.plus(30 * 86_400);
    parts.exclusions.insert(node("gone"), forgotten(NOW));
    parts.exclusions.insert(node("forgotten"), forgotten(wall));
    assert_eq!(parts.superseded(&one, wall), nodes(&["gone", "went"]));
    assert_eq!(parts.superseded(&other, wall), nodes(&[]));
    assert_eq!(parts.superseded(&by(), wall), nodes(&[]), "one that has written nothing");
    // Without them every record is as before.
    let (before, removed) = (parts.merge(), parts.superseded(&one, NOW));
    assert_eq!(removed, nodes(&["went"]));
    parts.write(&one, &Writes { removed, ..Writes::default() });
    assert_eq!(parts.merge(), before);
}

#[test]
fn an_exclusion_of_a_node_that_never_came_is_a_record_and_only_one_of_a_forgotten_node_ages() {
    for (cause, last_report_at) in [
        (Exclusion::Denied, None),
        (Exclusion::Absent, None),
        (Exclusion::Operator { until: NOW }, None),
        (Exclusion::Forgotten, Some(NOW)),
    ] {
        let excluded = Excluded { cause, closes: None, revision: Revision::new(3), at: NOW };
        let parts = Parts { exclusions: [(node("a"), excluded)].into(), ..Parts::default() };
        let record = parts.record(&node("a")).unwrap();
        assert_eq!((record.membership, record.exclusion), (Membership::Excluded(cause), Some(Revision::new(3))));
        assert_eq!((record.last_report_at, record.report, record.session), (last_report_at, None, None), "{cause:?}");
        assert_eq!(parts.merge().len(), 1);
    }
}
