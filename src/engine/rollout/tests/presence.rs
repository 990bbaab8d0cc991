//! Lives of a coordinator in literal seconds.

use std::time::Duration;

use super::super::document::Revoke;
use super::super::presence::Life;
use super::super::verdict::{Beside, verdict};
use super::*;

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Steady at generation 1; each node has acknowledged, and syncs every `period` seconds.
pub(super) fn pool(revision: u64, nodes: &[(&str, u64, u64)]) -> Snapshot {
    let mut policy = Policy::with_defaults(Vec::new());
    policy.absent_after_secs = 120;
    let mut document = Document::new(pool_id(), policy, UnixTime::from_secs(0));
    document.revision = Revision::new(revision);
    document.generation = Generation::new(1);
    let current = PoolKey { epoch: Epoch::FIRST, fingerprint: KeyFingerprint::from_bytes([1; 8]) };
    document.stage = Stage::Steady { current, backup: None };
    let slots = Slots { primary: current, backup: None };
    let fence = Fence { pool_id: pool_id(), generation: Generation::new(1), slots };
    let record = |syncs, next_sync_secs| NodeRecord {
        syncs,
        report: Some(Report { next_sync_secs, ..report(Some(fence.clone())) }.into()),
        ..admitted(None)
    };
    let nodes = nodes.iter().map(|(name, syncs, period)| (node(name), record(*syncs, *period))).collect();
    Snapshot { document, nodes, beats: BTreeMap::new() }
}

/// The presence of the nodes of this snapshot.
pub(super) fn shown(life: &Life, snapshot: &Snapshot) -> Presence {
    let mut presence = life.presence().clone();
    let is_known = |node: &NodeId| snapshot.nodes.contains_key(node);
    presence.seen.retain(is_known);
    presence.absent.retain(is_known);
    presence.overdue.retain(|node, _| is_known(node));
    presence
}

/// Looks every ten seconds until `until`, and hears a further node each time.
pub(super) fn serve(life: &mut Life, from: u64, until: u64, snapshot: &Snapshot) -> Presence {
    for at in (from..=until).step_by(10) {
        let mut heard = snapshot.clone();
        heard.nodes.extend(pool(0, &[("talks", 1 + at, 30)]).nodes);
        life.observe(secs(at), &heard);
    }
    shown(life, snapshot)
}

/// The same without a node that is heard.
pub(super) fn listen(life: &mut Life, from: u64, until: u64, snapshot: &Snapshot) -> Presence {
    (from..=until).step_by(10).for_each(|at| life.observe(secs(at), snapshot));
    shown(life, snapshot)
}

#[test]
fn a_coordinator_that_starts_has_seen_no_node_and_none_is_absent() {
    let mut life = Life::default();
    let snapshot = pool(5, &[("a", 7, 30), ("b", 9, 30)]);
    let presence = serve(&mut life, 1_000, 1_000, &snapshot);
    assert_eq!(presence.seen, [].into());
    assert!(presence.absent.is_empty());
    // a is seen, by any coordinator; b is not, and is absent in the end.
    let seen = pool(5, &[("a", 8, 30), ("b", 9, 30)]);
    assert_eq!(serve(&mut life, 1_010, 1_010, &seen).seen, [node("a")].into());
    let presence = serve(&mut life, 1_020, 1_180, &seen);
    assert!(presence.absent.is_empty(), "absent_after 120 s, a hold of 40 s, two beats of 10 s");
    assert_eq!(serve(&mut life, 1_190, 1_190, &seen).absent, [node("b")].into());
    // A node that registers in this life was seen in it.
    let joined = pool(5, &[("a", 8, 30), ("b", 9, 30), ("c", 1, 30)]);
    assert!(serve(&mut life, 1_200, 1_200, &joined).seen.contains(&node("c")));
}

#[test]
fn time_in_which_it_did_not_serve_makes_no_node_absent() {
    let snapshot = pool(5, &[("a", 7, 30)]);
    // Stopped for an hour: docs/protocol.md#what-goes-wrong-without-a-rule, "coordinator down an hour".
    let mut life = Life::default();
    serve(&mut life, 0, 0, &snapshot);
    assert!(serve(&mut life, 3_600, 3_600, &snapshot).absent.is_empty());
    // Every other look at its store fails, for an hour: no time lies between two that were confirmed.
    let mut life = Life::default();
    for at in (0..3_600).step_by(5) {
        serve(&mut life, at, at, &snapshot);
        life.interrupt();
    }
    assert!(shown(&life, &snapshot).absent.is_empty());
    assert_eq!(serve(&mut life, 3_600, 3_610, &snapshot).phase_secs, 10);
}

#[test]
fn a_coordinator_that_hears_no_node_takes_none_for_absent() {
    let snapshot = |syncs| pool(5, &[("a", syncs, 30), ("b", 9, 30), ("timer", 4, 600)]);
    let mut life = Life::default();
    listen(&mut life, 0, 0, &snapshot(7));
    assert_eq!(listen(&mut life, 10, 60, &snapshot(8)).deaf_secs, None);
    // An hour in which all are silent counts for one minute.
    let deaf = listen(&mut life, 70, 3_600, &snapshot(8));
    assert_eq!((deaf.deaf_secs, deaf.phase_secs), (Some(3_590), 70));
    assert!(deaf.absent.is_empty(), "{deaf:?}");
    // The first that is heard, and time counts again; b is absent in the end.
    let heard = listen(&mut life, 3_610, 3_610, &snapshot(9));
    assert_eq!((heard.deaf_secs, heard.phase_secs, heard.absent), (None, 80, [].into()));
    let mut later = Presence::default();
    for (at, syncs) in (3_620..=3_720).step_by(10).zip(10..) {
        later = listen(&mut life, at, at, &snapshot(syncs));
    }
    assert_eq!(later.absent, [node("b")].into(), "190 s that count");
    // b does not decide any more how often a node has to be heard, and without it there is a minute, too.
    assert_eq!(listen(&mut life, 3_730, 3_770, &snapshot(20)).deaf_secs, None);
}

#[test]
fn a_deaf_coordinator_excludes_none_and_says_no_time() {
    use super::super::ahead::next_exclusion;
    // b is behind, and was silent for too long before no other was heard either.
    let snapshot = super::pool(document(staged()), &["a", "c", "d"], &["b"]);
    let absent = Presence { absent: nodes(&["b"]), overdue: [(node("b"), secs(4))].into(), ..presence() };
    let deaf = Presence { deaf_secs: Some(90), ..absent.clone() };
    assert_eq!(committed(tick_with(&snapshot, &absent)).audit.nodes, nodes(&["b"]));
    assert_eq!(waits(tick_with(&snapshot, &deaf)).waiting_for, [node("b")]);
    let next = |presence| next_exclusion(&snapshot, Now { wall: NOW, presence });
    assert_eq!((next(&absent), next(&deaf)), (Some(NOW.plus(5)), None));
    let found = verdict(&snapshot, Now { wall: NOW, presence: &deaf }, Beside::default());
    assert_eq!(found.kind, tfo_model::fleet::VerdictKind::Deaf);
    assert!(found.sentence.starts_with("this coordinator hears no node of 4: "), "{}", found.sentence);
    let empty = super::pool(document(staged()), &[], &[]);
    let found = verdict(&empty, Now { wall: NOW, presence: &deaf }, Beside::default());
    assert_ne!(found.kind, tfo_model::fleet::VerdictKind::Deaf, "there is no node to hear");
}

#[test]
fn a_node_that_was_told_a_longer_absent_after_has_it() {
    let told = |syncs, absent_after_secs| {
        let mut snapshot = pool(5, &[("a", syncs, 30)]);
        snapshot.document.policy.absent_after_secs = absent_after_secs;
        snapshot
    };
    let mut life = Life::default();
    serve(&mut life, 0, 0, &told(7, 600));
    serve(&mut life, 10, 10, &told(8, 600));
    // The policy is changed, and the node is not heard any more: it detaches itself 600 s after its last answer.
    assert_eq!(serve(&mut life, 20, 830, &told(8, 120)).absent, [].into());
    assert_eq!(serve(&mut life, 840, 840, &told(8, 120)).absent, [node("a")].into());
    // One that was heard since then has had the new one.
    serve(&mut life, 850, 850, &told(9, 120));
    assert_eq!(serve(&mut life, 860, 1_030, &told(9, 120)).absent, [].into());
    assert_eq!(serve(&mut life, 1_040, 1_040, &told(9, 120)).absent, [node("a")].into());
}

#[test]
fn a_timer_node_is_not_absent_before_three_of_its_periods() {
    let mut life = Life::default();
    let snapshot = pool(5, &[("daemon", 1, 30), ("timer", 1, 600)]);
    assert_eq!(serve(&mut life, 0, 1_800, &snapshot).absent, [node("daemon")].into());
    assert_eq!(serve(&mut life, 1_810, 1_860, &snapshot).absent.len(), 1);
    assert_eq!(serve(&mut life, 1_870, 1_870, &snapshot).absent.len(), 2);
}

#[test]
fn a_store_that_went_back_is_a_new_life() {
    let before = [("a", 7, 30), ("b", 9, 30)];
    let seen = pool(6, &[("a", 8, 30), ("b", 10, 30)]);
    for (what, restored) in [
        ("a lower revision", pool(5, &before)),
        ("older records", pool(6, &before)),
        ("a vanished record", pool(6, &[("a", 8, 30)])),
        ("older records, and driven on since", pool(9, &before)),
        ("one older record, and driven on since", pool(9, &[("a", 7, 30), ("b", 11, 30)])),
    ] {
        let mut life = Life::default();
        serve(&mut life, 0, 0, &pool(6, &before));
        assert_eq!(serve(&mut life, 10, 10, &seen).seen.len(), 2, "{what}");
        let presence = serve(&mut life, 20, 20, &restored);
        assert_eq!(presence.seen, [].into(), "{what}");
    }
    // A node that is forgotten by a commit is none of these.
    let mut life = Life::default();
    serve(&mut life, 0, 0, &pool(6, &before));
    serve(&mut life, 10, 10, &seen);
    assert_eq!(serve(&mut life, 20, 20, &pool(7, &[("a", 8, 30)])).seen, [node("a")].into());
}

#[test]
fn a_coordinator_that_was_cut_off_from_its_store_begins_a_new_life() {
    let snapshots = [pool(6, &[("a", 7, 30)]), pool(6, &[("a", 8, 30)]), pool(6, &[("a", 9, 30)])];
    for (blind_secs, is_seen) in [(60, true), (61, false)] {
        let mut life = Life::default();
        serve(&mut life, 0, 0, &snapshots[0]);
        assert_eq!(serve(&mut life, 10, 10, &snapshots[1]).seen.len(), 1);
        // It looks at its clock, not at the store.
        life.interrupt();
        let (back, later) = (10 + blind_secs, 20 + blind_secs);
        let presence = serve(&mut life, back, back, &snapshots[1]);
        assert_eq!(presence.seen.contains(&node("a")), is_seen, "{blind_secs} s");
        let presence = serve(&mut life, later, later, &snapshots[2]);
        assert!(presence.seen.contains(&node("a")), "{blind_secs} s");
    }
}

#[test]
fn presence_fails_closed() {
    let known = Presence { revision: Revision::new(6), seen: super::nodes(&["a"]), ..Presence::default() };
    for (revision, name, has_seen) in
        [(6, "a", true), (7, "a", true), (5, "a", false), (6, "b", false), (5, "b", false)]
    {
        assert_eq!(known.has_seen(&pool(revision, &[]), &node(name)), has_seen, "{revision} {name}");
    }
    let nodes = [("a", 8, 30), ("b", 10, 30)];
    let unseen = |presence: &Presence, snapshot: &Snapshot| presence.unseen_required(snapshot).len();
    let mut life = Life::default();
    serve(&mut life, 0, 0, &pool(6, &[("a", 7, 30), ("b", 9, 30)]));
    let presence = serve(&mut life, 10, 10, &pool(6, &nodes));
    assert_eq!(unseen(&presence, &pool(6, &nodes)), 0);
    assert_eq!(unseen(&presence, &pool(7, &nodes)), 0, "the store moved on");
    assert_eq!(unseen(&presence, &pool(5, &nodes)), 2, "the store went back after the last look");
    let joined = [nodes[0], nodes[1], ("c", 1, 30)];
    assert_eq!(unseen(&presence, &pool(6, &joined)), 1, "no look since it came");
    assert_eq!(unseen(&Presence::default(), &pool(6, &nodes)), 2, "the default has seen no node");
}

#[test]
fn phase_and_wave_are_timed_from_their_first_sight() {
    let mut life = Life::default();
    let snapshot = pool(5, &[("a", 7, 30)]);
    assert_eq!(serve(&mut life, 0, 60, &snapshot).phase_secs, 60);
    let mut next = pool(6, &[("a", 7, 30)]);
    next.document.generation = Generation::new(2);
    assert_eq!(serve(&mut life, 70, 70, &next).phase_secs, 0);
    assert_eq!(serve(&mut life, 80, 90, &next).phase_secs, 20);
}

#[test]
fn a_revoke_in_an_old_phase_begins_its_own_time() {
    let mut life = Life::default();
    let mut snapshot = pool(5, &[("a", 7, 30)]);
    assert_eq!(serve(&mut life, 0, 1_000, &snapshot).phase_secs, 1_000);
    let key = |epoch| PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint: KeyFingerprint::from_bytes([1; 8]) };
    let since = UnixTime::from_secs(1);
    let mut revoke = Revoke::of([key(1)].into(), since);
    snapshot.document.revoke = Some(revoke.clone());
    assert_eq!(serve(&mut life, 1_010, 1_010, &snapshot).phase_secs, 0);
    assert_eq!(serve(&mut life, 1_020, 1_100, &snapshot).phase_secs, 90);
    revoke.left_behind.insert(node("b"));
    snapshot.document.revoke = Some(revoke.clone());
    assert_eq!(
        serve(&mut life, 1_110, 1_110, &snapshot).phase_secs,
        100,
        "the nodes that it left behind do not make it a new revoke"
    );
    revoke.keys.insert(key(2));
    snapshot.document.revoke = Some(revoke);
    assert_eq!(serve(&mut life, 1_120, 1_120, &snapshot).phase_secs, 0, "a second one");
}

#[test]
fn what_is_left_of_a_forgotten_node_ends_no_life() {
    let (a, b) = (node("a"), node("b"));
    let mut snapshot = pool(5, &[("a", 4, 30), ("b", 7, 30)]);
    let mut life = Life::default();
    life.observe(secs(0), &snapshot);
    for (name, syncs) in [(&a, 5), (&b, 8)] {
        snapshot.nodes.get_mut(name).unwrap().syncs = syncs;
    }
    life.observe(secs(1), &snapshot);
    assert_eq!(shown(&life, &snapshot).seen, [a.clone(), b.clone()].into());
    // Forgotten, then taken out of the roster a day later, then back with a session of its own.
    let record = snapshot.nodes.get_mut(&b).unwrap();
    (record.membership, record.report) = (Membership::Excluded(Exclusion::Forgotten), None);
    snapshot.document.revision = Revision::new(6);
    life.observe(secs(2), &snapshot);
    let record = snapshot.nodes.get_mut(&b).unwrap();
    (record.syncs, record.coordinator) = (0, None);
    life.observe(secs(3), &snapshot);
    assert!(shown(&life, &snapshot).seen.contains(&a), "nothing went back");
    let back = NodeRecord { syncs: 1, session: Some(Session { ordinal: 2, nonce: 1 }), ..admitted(None) };
    snapshot.nodes.insert(b.clone(), back);
    life.observe(secs(4), &snapshot);
    assert_eq!(shown(&life, &snapshot).seen, [a, b].into());
}

/// Another coordinator counts on from what it knew when the node came to it.
#[test]
fn syncs_are_counted_within_a_session() {
    let a = node("a");
    let mut snapshot = pool(5, &[("a", 90, 30), ("b", 1, 30)]);
    let mut life = Life::default();
    life.observe(secs(0), &snapshot);
    snapshot.nodes.get_mut(&a).unwrap().syncs = 100;
    life.observe(secs(1), &snapshot);
    let moved = snapshot.nodes.get_mut(&a).unwrap();
    (moved.session, moved.syncs) = (Some(Session { ordinal: 2, nonce: 1 }), 91);
    life.observe(secs(2), &snapshot);
    assert!(shown(&life, &snapshot).seen.contains(&a));
    // The same session with fewer syncs, or an older session, is an older store.
    for (ordinal, syncs) in [(2, 90), (1, 100)] {
        let (mut life, mut older) = (life.clone(), snapshot.clone());
        let record = older.nodes.get_mut(&a).unwrap();
        (record.session, record.syncs) = (Some(Session { ordinal, nonce: 1 }), syncs);
        life.observe(secs(3), &older);
        assert!(shown(&life, &older).seen.is_empty(), "{ordinal} {syncs}");
    }
}

/// The answer comes up to a hold after the record of its request, and tells what holds then.
#[test]
fn absent_after_that_rises_while_a_request_is_held_is_what_its_node_was_told() {
    let absent_at = |raised_at: u64| {
        let mut snapshot = pool(5, &[("a", 1, 30), ("b", 1, 30)]);
        let mut life = Life::default();
        for at in (0..1_000).step_by(5) {
            // b is heard at every look, and a for the last time at 10 s.
            snapshot.nodes.get_mut(&node("b")).unwrap().syncs += 1;
            if at == 10 {
                snapshot.nodes.get_mut(&node("a")).unwrap().syncs += 1;
            }
            let is_raised = (raised_at..raised_at + 10).contains(&at);
            snapshot.document.policy.absent_after_secs = if is_raised { 400 } else { 100 };
            life.observe(secs(at), &snapshot);
            if shown(&life, &snapshot).absent.contains(&node("a")) {
                return at;
            }
        }
        panic!("it never is")
    };
    let (late, early) = (absent_at(20), absent_at(200));
    assert!(early < 200 && late > 410, "{early} {late}");
    // The hold of the longer time, and the longest gap between two looks: 143 s after 10 s.
    let (late, early) = (absent_at(150), absent_at(155));
    assert!(early < 200 && late > 410, "{early} {late}");
}
