//! How the parts of a node's record merge, and what a queue of writes is about (docs/protocol.md#rule-6; rules 7, 8).

use super::super::parts::{Beat, Later, Stamp};
use super::super::record::Exclusion;
use super::*;

fn ack(syncs: u64) -> Ack {
    Ack { report: report(None), syncs, window: None, baseline: None, at: NOW }
}

fn entry(ordinal: u64) -> Entry {
    Entry { session: Session { ordinal, nonce: 1 }, answers: None, first: ack(1) }
}

fn later(ordinal: u64, syncs: u64) -> Later {
    Later { session: Session { ordinal, nonce: 1 }, ack: ack(syncs), silent: false }
}

fn writes(entries: &[&str], acks: &[&str], removed: &[&str]) -> Writes {
    Writes {
        entries: entries.iter().map(|name| (node(name), entry(2))).collect(),
        acks: acks.iter().map(|name| (node(name), later(2, 7))).collect(),
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
    let beat = Beat { stamp: Stamp::taken_over(None), vouches: true, at: NOW, tally: None };
    let sign = Writes { beat: Some(beat), ..Writes::default() };
    assert_eq!((sign.len(), sign.is_empty()), (0, false));
    for queue in [writes(&["a"], &[], &[]), writes(&[], &["a"], &[]), writes(&[], &[], &["a"])] {
        assert_eq!((queue.len(), queue.is_empty()), (1, false));
        assert_eq!((queue.names(&node("a")), queue.names(&node("b"))), (true, false));
    }
}

/// A coordinator decides by its own queue as if it was stored (rule 7), also about a node that another one knows.
#[test]
fn what_a_queue_makes_of_a_node_is_what_the_store_will_have() {
    let (one, other): (CoordinatorName, CoordinatorName) = ("one".parse().unwrap(), "other".parse().unwrap());
    let mut parts = Parts::default();
    parts.write(&one, &Writes { entries: [(node("a"), entry(1))].into(), ..Writes::default() });
    parts.write(&one, &Writes { acks: [(node("a"), later(1, 5))].into(), ..Writes::default() });
    let session = |entry: Entry| Writes { entries: [(node("a"), entry)].into(), ..Writes::default() };
    let cases = [
        (session(entry(1)), 5),
        (session(entry(2)), 1),
        (Writes { acks: [(node("a"), later(1, 6))].into(), ..Writes::default() }, 6),
        // Of another session: it counts for nothing (rule 8).
        (Writes { acks: [(node("a"), later(3, 9))].into(), ..Writes::default() }, 1),
        (Writes { acks: [(node("a"), later(2, 9))].into(), ..session(entry(2)) }, 9),
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
