//! What a look at the store takes in: at all nodes, or at those that have changed (rules 10, 11).

use super::super::changes::Changes;
use super::super::parts::{About, Beat, Stamp};
use super::super::presence::Life;
use super::super::record::Exclusion;
use super::presence::{listen, pool, secs, serve, shown};
use super::*;

/// A snapshot in which another node was heard at this second.
fn talking(snapshot: &Snapshot, at: u64) -> Snapshot {
    let mut heard = snapshot.clone();
    heard.nodes.extend(pool(0, &[("talks", 1 + at, 30)]).nodes);
    heard
}

type Change = fn(&mut NodeRecord);

/// What may become of a record between two looks; whether that shows that the node lives.
const CHANGES: [(&str, Change, bool); 6] = [
    ("the next sync", |record| record.syncs += 1, true),
    ("another session", |record| (record.session, record.syncs) = (Some(Session { ordinal: 2, nonce: 1 }), 1), true),
    ("nothing new", |_| (), false),
    ("a mark of silence", |record| (record.syncs, record.silent) = (record.syncs + 1, true), false),
    (
        "a mark of silence in another session",
        |record| {
            record.silent = true;
            (record.session, record.syncs) = (Some(Session { ordinal: 2, nonce: 1 }), 1);
        },
        false,
    ),
    (
        "forgotten, and removed from its roster",
        |record| (record.membership, record.syncs) = (Membership::Excluded(Exclusion::Forgotten), 0),
        false,
    ),
];

/// These nodes have changed, and nothing else.
fn changes(names: &[&str]) -> Changes {
    let mut changes = Changes::default();
    names.iter().for_each(|name| changes.note(&node(name)));
    changes
}

#[test]
fn a_look_at_what_has_changed_comes_to_what_a_look_at_all_comes_to() {
    let old = pool(5, &[("a", 7, 30), ("b", 9, 30)]);
    let mut life = Life::default();
    let before = serve(&mut life, 0, 190, &old);
    assert_eq!((&before.absent, &before.seen), (&nodes(&["a", "b"]), &[].into()));
    for (what, change, is_seen) in CHANGES {
        for name in ["a", "new"] {
            let mut snapshot = old.clone();
            let mut record = old.nodes[&node("a")].clone();
            change(&mut record);
            snapshot.nodes.insert(node(name), record);
            let (mut told, mut looked) = (life.clone(), life.clone());
            told.follow(secs(195), &talking(&snapshot, 190), &changes(&[name]));
            looked.observe(secs(195), &talking(&snapshot, 190));
            assert_eq!(told, looked, "{name}: {what}");
            let is_seen = is_seen || name == "new";
            assert_eq!(told.presence().seen.contains(&node(name)), is_seen, "{name}: {what}");
            // So does all that comes after, also when the policy has other times, or when the store has lost it.
            let mut lost = (told.clone(), looked.clone());
            for absent_after_secs in [60, 6_000] {
                let (mut told, mut looked) = (told.clone(), looked.clone());
                snapshot.document.policy.absent_after_secs = absent_after_secs;
                for at in (200..600).step_by(10) {
                    told.follow(secs(at), &talking(&snapshot, at), &changes(&["talks"]));
                    looked.observe(secs(at), &talking(&snapshot, at));
                    assert_eq!(told, looked, "{name} at {at} with {absent_after_secs}: {what}");
                }
            }
            lost.0.follow(secs(200), &talking(&old, 200), &changes(&[name, "talks"]));
            lost.1.observe(secs(200), &talking(&old, 200));
            assert_eq!(lost.0, lost.1, "{name}: {what}");
        }
    }
}

#[test]
fn a_look_without_news_looks_at_no_node() {
    let snapshot = pool(5, &[("a", 7, 30), ("b", 9, 30)]);
    let mut life = Life::default();
    life.observe(secs(0), &snapshot);
    assert!(life.follow(secs(10), &pool(5, &[("a", 8, 30), ("b", 9, 30)]), &changes(&["a"])), "a was seen");
    // Of these two records it takes none in, because no change of them is told.
    let unnoted = pool(5, &[("a", 9, 30), ("b", 10, 30)]);
    assert!(!life.follow(secs(15), &unnoted, &Changes::default()));
    assert_eq!(life.presence().seen, nodes(&["a"]));
    // Time that passes is news when it makes a node overdue, and absent; in between it is none.
    let is_news = |life: &mut Life, at: u64| {
        let talks = talking(&snapshot, at);
        life.follow(secs(at), &talks, &changes(&["talks"]))
    };
    assert!(is_news(&mut life, 20), "another node came");
    let news: Vec<u64> = (21..400).filter(|at| is_news(&mut life, *at)).collect();
    // Period 30 s and limit 180 s, since 10 s for a and since 0 s for b, which was not seen in this life.
    assert_eq!(news, [41, 181, 191]);
}

/// docs/protocol.md#rule-10: what a beat vouches for, and what a commit makes a conflict of, is found without being told.
#[test]
fn beats_and_documents_concern_nodes_that_did_not_change() {
    let beat = |number| Beat {
        stamp: Stamp { life: 1, number },
        vouches: true,
        at: UnixTime::from_secs(number),
        tally: None,
        about: About::default(),
    };
    let mut snapshot = pool(5, &[("a", 7, 30), ("b", 9, 30)]);
    snapshot.beats.insert(by(), beat(1));
    let (mut told, mut looked) = (Life::default(), Life::default());
    told.observe(secs(0), &snapshot);
    looked.observe(secs(0), &snapshot);
    snapshot.beats.insert(by(), beat(2));
    told.follow(secs(10), &snapshot, &Changes::default());
    looked.observe(secs(10), &snapshot);
    assert_eq!(told, looked);
    assert_eq!(told.presence().seen, nodes(&["a", "b"]));
    // Another document of the same generation: all reports contradict it, and after the next one none does.
    let (before, mut document) = (snapshot.document.clone(), snapshot.document.clone());
    document.stage = steady();
    for (at, document) in [(20, document), (30, before)] {
        snapshot.document = Document { revision: Revision::new(at), ..document };
        let mut changes = Changes::default();
        changes.note_document();
        told.follow(secs(at), &snapshot, &changes);
        looked.observe(secs(at), &snapshot);
        assert_eq!(told, looked, "{at}");
        assert_eq!(told.conflict().is_some(), at == 20);
        assert_eq!(PoolView::kept(&told, &snapshot.document), PoolView::of(&snapshot, told.presence()), "{at}");
    }
}

#[test]
fn a_store_that_lost_a_mark_of_silence_went_back() {
    let old = pool(5, &[("a", 7, 30), ("b", 9, 30)]);
    for (what, change, _) in CHANGES.into_iter().filter(|(what, ..)| what.starts_with("a mark")) {
        let mut life = Life::default();
        serve(&mut life, 0, 50, &old);
        let mut marked = old.clone();
        change(marked.nodes.get_mut(&node("a")).unwrap());
        assert_eq!(serve(&mut life, 60, 60, &marked).phase_secs, 60, "{what}");
        assert_eq!(serve(&mut life, 70, 70, &marked).phase_secs, 70, "{what}");
        assert_eq!(serve(&mut life, 80, 80, &old).phase_secs, 0, "{what}: another life");
    }
}

#[test]
fn a_node_that_vanishes_says_nothing_of_the_others() {
    let mut life = Life::default();
    serve(&mut life, 0, 10, &pool(5, &[("a", 7, 30), ("b", 9, 30), ("c", 9, 30)]));
    assert_eq!(serve(&mut life, 20, 20, &pool(6, &[("b", 9, 30), ("c", 10, 30)])).seen, nodes(&["c"]));
}

#[test]
fn a_new_node_is_a_node_that_is_heard() {
    let alone = pool(5, &[("a", 7, 30)]);
    let mut life = Life::default();
    assert!(listen(&mut life, 0, 300, &alone).deaf_secs.is_some());
    let joined = pool(5, &[("a", 7, 30), ("b", 1, 30)]);
    assert_eq!(listen(&mut life, 310, 310, &joined).deaf_secs, None);
}

/// docs/protocol.md#rule-11: one and a half of the shortest period of the nodes that are not absent.
#[test]
fn a_node_that_died_does_not_decide_how_often_the_others_are_heard() {
    let snapshot = |syncs| pool(5, &[("dead", 7, 30), ("timer", syncs, 600)]);
    let mut life = Life::default();
    for (at, syncs) in (0..=300).step_by(10).zip(1..) {
        life.observe(secs(at), &snapshot(syncs));
    }
    assert_eq!(shown(&life, &snapshot(31)).absent, nodes(&["dead"]));
    assert_eq!(listen(&mut life, 310, 1_190, &snapshot(31)).deaf_secs, None);
    assert_eq!(listen(&mut life, 1_200, 1_200, &snapshot(31)).deaf_secs, Some(900));
}

#[test]
fn a_node_is_overdue_after_its_period_and_not_with_it() {
    let mut life = Life::default();
    serve(&mut life, 0, 0, &pool(5, &[("a", 7, 30)]));
    let heard = pool(5, &[("a", 8, 30)]);
    assert_eq!(serve(&mut life, 10, 40, &heard).overdue, [].into());
    // absent_after 120 s, a hold of 40 s, two beats of 10 s.
    assert_eq!(serve(&mut life, 41, 41, &heard).overdue, [(node("a"), secs(10 + 180))].into());
}

#[test]
fn a_new_life_gives_its_nodes_three_beats_to_return() {
    let snapshot = pool(5, &[("a", 7, 30), ("b", 9, 30)]);
    let mut life = Life::default();
    serve(&mut life, 0, 50, &snapshot);
    assert!(life.silent(&snapshot, &by()).is_some());
    life.end();
    for at in [60, 70, 80] {
        serve(&mut life, at, at, &snapshot);
        assert_eq!(life.silent(&snapshot, &by()), None, "{at}");
    }
    serve(&mut life, 90, 90, &snapshot);
    assert_eq!(life.silent(&talking(&snapshot, 90), &by()), Some(vec![node("a"), node("b")]));
}

/// A coordinator that stood still sees a sync and the mark that came after it at once: the node was answered in between, and
/// relies on that for as long as on any answer.
#[test]
fn a_sync_and_its_mark_that_are_seen_at_once_count_from_then() {
    let session = Some(Session { ordinal: 2, nonce: 1 });
    // What, what was known of the node, its record with the mark, and whether absence counts from the look.
    type Case = (&'static str, Change, (Option<Session>, u64), bool);
    let cases: [Case; 4] = [
        ("another session", |_| (), (session, 1), true),
        ("not heard in this life", |_| (), (None, 9), true),
        ("marked before", |record| (record.syncs, record.silent) = (8, true), (None, 9), true),
        ("heard before, and vouched for until the mark", |record| record.syncs = 8, (None, 9), false),
    ];
    for (what, known, (session, syncs), counts) in cases {
        let mut snapshot = pool(5, &[("a", 7, 30)]);
        let mut life = Life::default();
        serve(&mut life, 0, 0, &snapshot);
        let record = snapshot.nodes.get_mut(&node("a")).unwrap();
        known(record);
        serve(&mut life, 10, 100, &snapshot);
        let record = snapshot.nodes.get_mut(&node("a")).unwrap();
        (record.session, record.syncs, record.silent) = (session.or(record.session), syncs, true);
        serve(&mut life, 110, 110, &snapshot);
        // absent_after 120 s, a hold of 40 s, two beats of 10 s.
        let is_absent_at = |at| serve(&mut life.clone(), 120, at, &snapshot).absent.contains(&node("a"));
        assert_eq!([is_absent_at(200), is_absent_at(290), is_absent_at(300)], [!counts, !counts, true], "{what}");
    }
}

/// A coordinator that has missed beats of another one does not know whether they vouched for its node.
#[test]
fn a_sync_and_its_mark_count_from_then_if_a_beat_was_missed() {
    let beat = |number, vouches| Beat {
        stamp: Stamp { life: 1, number },
        vouches,
        at: UnixTime::from_secs(number),
        tally: None,
        about: About::default(),
    };
    for (number, counts) in [(7, false), (8, true)] {
        let mut snapshot = pool(5, &[("a", 7, 30)]);
        snapshot.beats = [(by(), beat(5, true))].into();
        let mut life = Life::default();
        serve(&mut life, 0, 0, &snapshot);
        snapshot.beats = [(by(), beat(6, true))].into();
        serve(&mut life, 10, 100, &snapshot);
        let record = snapshot.nodes.get_mut(&node("a")).unwrap();
        (record.syncs, record.silent) = (8, true);
        snapshot.beats = [(by(), beat(number, true))].into();
        serve(&mut life, 110, 110, &snapshot);
        let is_absent_at = |at| serve(&mut life.clone(), 120, at, &snapshot).absent.contains(&node("a"));
        assert_eq!([is_absent_at(200), is_absent_at(290), is_absent_at(300)], [!counts, !counts, true], "{number}");
    }
}

#[test]
fn an_order_about_a_node_that_never_came_is_no_sign_of_life() {
    let mut snapshot = pool(5, &[("a", 7, 30)]);
    let mut life = Life::default();
    assert!(listen(&mut life, 0, 300, &snapshot).deaf_secs.is_some());
    let denied = NodeRecord {
        membership: Membership::Excluded(Exclusion::Denied),
        report: None,
        ..snapshot.nodes[&node("a")].clone()
    };
    snapshot.nodes.insert(node("stranger"), denied);
    assert!(listen(&mut life, 310, 310, &snapshot).deaf_secs.is_some());
    assert_eq!(life.presence().seen, [].into());
}

/// A release counts time that the next look may not.  What is heard after it is earlier by the clock of served time, and
/// the coordinator is deaf all the same, one minute after it has heard the last one.
#[test]
fn a_deaf_coordinator_vouches_for_none_also_if_its_clock_fell_behind_what_it_heard() {
    let heard = pool(5, &[("a", 8, 30), ("b", 8, 30)]);
    let mut life = Life::default();
    life.observe(secs(0), &pool(5, &[("a", 7, 30), ("b", 7, 30)]));
    life.observe(secs(10), &heard);
    life.hold(&node("a"));
    life.release(secs(18), &node("a"));
    life.interrupt();
    life.observe(secs(20), &heard);
    life.hear(secs(21), &node("b"));
    let vouches = |at| {
        life.observe(secs(at), &heard);
        life.silent(&heard, &by()).is_some()
    };
    let silent: Vec<bool> = (30..200).step_by(10).map(vouches).collect();
    assert_eq!(silent.iter().rposition(|vouches| *vouches), Some(5), "until 80 s: {silent:?}");
}
