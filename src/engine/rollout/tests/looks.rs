//! What a look at the store takes in, and what a record does that was just written, without a look (rules 10, 11).

use super::super::presence::Life;
use super::super::record::Exclusion;
use super::presence::{listen, pool, secs, serve};
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

#[test]
fn a_record_that_was_just_written_counts_as_a_look_would_count_it() {
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
            let mut presence = Presence { deaf_secs: Some(9), ..before.clone() };
            presence.overdue.insert(node(name), 3);
            told.see(secs(195), (&node(name), &snapshot.nodes[&node(name)]), &mut presence);
            looked.observe(secs(195), &talking(&snapshot, 190));
            let now = looked.presence(&snapshot);
            let is_seen = is_seen || name == "new";
            assert_eq!((&presence.seen, &presence.absent), (&now.seen, &now.absent), "{name}: {what}");
            assert_eq!(presence.seen.contains(&node(name)), is_seen, "{name}: {what}");
            assert_eq!(
                (presence.deaf_secs.is_none(), presence.overdue.is_empty()),
                (is_seen, is_seen),
                "{name}: {what}"
            );
            // So does all that comes after, also when the policy has other times, or when the store has lost it.
            let mut lost = (told.clone(), looked.clone());
            snapshot.document.policy.absent_after_secs = 60;
            for at in (200..600).step_by(10) {
                told.observe(secs(at), &talking(&snapshot, at));
                looked.observe(secs(at), &talking(&snapshot, at));
                assert_eq!(told.presence(&snapshot), looked.presence(&snapshot), "{name} at {at}: {what}");
            }
            lost.0.observe(secs(200), &talking(&old, 200));
            lost.1.observe(secs(200), &talking(&old, 200));
            assert_eq!(lost.0.presence(&old), lost.1.presence(&old), "{name}: {what}");
        }
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
fn before_the_first_look_no_record_shows_that_a_node_was_seen() {
    let snapshot = pool(5, &[("a", 7, 30)]);
    let (mut life, mut presence) = (Life::default(), Presence::default());
    life.see(secs(3), (&node("a"), &snapshot.nodes[&node("a")]), &mut presence);
    assert_eq!(presence, Presence::default());
    life.observe(secs(5), &snapshot);
    assert_eq!(life.presence(&snapshot).seen, [].into());
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
    assert_eq!(life.presence(&snapshot(31)).absent, nodes(&["dead"]));
    assert_eq!(listen(&mut life, 310, 1_190, &snapshot(31)).deaf_secs, None);
    assert_eq!(listen(&mut life, 1_200, 1_200, &snapshot(31)).deaf_secs, Some(900));
}

#[test]
fn a_node_is_overdue_after_its_period_and_not_with_it() {
    let mut life = Life::default();
    serve(&mut life, 0, 0, &pool(5, &[("a", 7, 30)]));
    let heard = pool(5, &[("a", 8, 30)]);
    assert_eq!(serve(&mut life, 10, 40, &heard).overdue, [].into());
    // absent_after 120 s, a poll of 40 s, two beats of 10 s.
    assert_eq!(serve(&mut life, 41, 41, &heard).overdue, [(node("a"), 180 - 31 + 1)].into());
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
