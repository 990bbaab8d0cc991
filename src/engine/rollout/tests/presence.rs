//! Lives of a coordinator in literal seconds.

use std::time::Duration;

use super::super::document::Revoke;
use super::super::presence::Life;
use super::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Steady at generation 1; each node has acknowledged, and syncs every `period` seconds.
fn pool(revision: u64, nodes: &[(&str, u64, u64)]) -> Snapshot {
    let mut policy = Policy::with_defaults(Vec::new());
    policy.absent_after_secs = 100;
    let mut document = Document::new(pool_id(), policy, UnixTime::from_secs(0));
    document.revision = Revision::new(revision);
    document.generation = Generation::new(1);
    let current = PoolKey { epoch: Epoch::FIRST, fingerprint: KeyFingerprint::from_bytes([1; 8]) };
    document.stage = Stage::Steady { current, backup: None };
    let slots = Slots { primary: current, backup: None };
    let fence = Fence { pool_id: pool_id(), generation: Generation::new(1), slots };
    let record = |syncs, next_sync_secs| NodeRecord {
        syncs,
        report: Some(Report { next_sync_secs, ..report(Some(fence.clone())) }),
        ..admitted(None)
    };
    let nodes = nodes.iter().map(|(name, syncs, period)| (node(name), record(*syncs, *period))).collect();
    Snapshot { document, nodes }
}

/// Looks every ten seconds until `until`.
fn serve(life: &mut Life, from: u64, until: u64, snapshot: &Snapshot) -> Presence {
    for at in (from..=until).step_by(10) {
        life.observe(secs(at), snapshot);
    }
    life.presence(snapshot)
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
    let presence = serve(&mut life, 1_020, 1_100, &seen);
    assert!(presence.absent.is_empty());
    assert_eq!(serve(&mut life, 1_110, 1_110, &seen).absent, [node("b")].into());
    // A node that registers in this life was seen in it.
    let joined = pool(5, &[("a", 8, 30), ("b", 9, 30), ("c", 1, 30)]);
    assert!(serve(&mut life, 1_120, 1_120, &joined).seen.contains(&node("c")));
}

#[test]
fn time_in_which_it_did_not_serve_makes_no_node_absent() {
    let snapshot = pool(5, &[("a", 7, 30)]);
    // Stopped for an hour: docs/protocol.md#what-goes-wrong-without-a-rule, "coordinator down an hour".
    let mut life = Life::default();
    serve(&mut life, 0, 0, &snapshot);
    life.observe(secs(3_600), &snapshot);
    assert!(life.presence(&snapshot).absent.is_empty());
    // Without its store for an hour.
    let mut life = Life::default();
    serve(&mut life, 0, 0, &snapshot);
    for at in (0..3_600).step_by(5) {
        life.skip_to(secs(at));
    }
    life.observe(secs(3_600), &snapshot);
    assert!(life.presence(&snapshot).absent.is_empty());
}

#[test]
fn a_timer_node_is_not_absent_before_three_of_its_periods() {
    let mut life = Life::default();
    let snapshot = pool(5, &[("daemon", 1, 30), ("timer", 1, 600)]);
    assert_eq!(serve(&mut life, 0, 1_800, &snapshot).absent, [node("daemon")].into());
    assert_eq!(serve(&mut life, 1_810, 1_810, &snapshot).absent.len(), 2);
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
        (10..10 + blind_secs).for_each(|at| life.skip_to(secs(at)));
        life.observe(secs(10 + blind_secs), &snapshots[1]);
        assert_eq!(life.presence(&snapshots[1]).seen.contains(&node("a")), is_seen, "{blind_secs} s");
        life.observe(secs(20 + blind_secs), &snapshots[2]);
        assert!(life.presence(&snapshots[2]).seen.contains(&node("a")), "{blind_secs} s");
    }
}

#[test]
fn presence_fails_closed() {
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
