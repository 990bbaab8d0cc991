//! The walk that ticks drive, and whom it waits for.

use super::super::document::{Hold, Revoke};
use super::super::policy::AbsentPolicy;
use super::super::record::Exclusion;
use super::*;
use tfo_model::fleet::BlockedBy;

/// (from, to, action, rise of the generation): all that ticks do, with every node acked and every gate open.
#[test]
fn every_transition_that_a_tick_makes() {
    let steady_x = Stage::Steady { current: key(3), backup: Some(key(2)) };
    let staged_4 = Stage::Staged { current: key(2), next: key(4), prior_backup: Some(key(1)) };
    for (from, to, action, by) in
        [(steady(), staged_4, Action::Rotate, 1), (promoted(0, &[]), steady_x, Action::Settle, 0)]
    {
        let snapshot = of(from.clone());
        let proposal = committed(tick(&snapshot));
        assert_eq!(proposal.document.stage, to, "from {from:?}");
        assert_eq!(proposal.audit.action, action);
        assert_eq!(rise(&snapshot, &proposal), by, "from {from:?}");
        assert_eq!(proposal.expected, snapshot.document.revision);
    }
}

#[test]
fn a_stage_burns_its_epoch_and_asks_for_the_key_first() {
    let snapshot = of(steady());
    let presence = presence();
    let step = handle(&snapshot, Now { wall: NOW, presence: &presence }, &Input::Tick, None).unwrap();
    assert_eq!(step, Step::MakeKey { epoch: Epoch::new(4).unwrap() });
    let proposal = committed(tick(&snapshot));
    assert_eq!(proposal.document.next_epoch, Epoch::new(5).unwrap());
    assert_eq!(proposal.document.keys_held().len(), 3, "the dropped backup is kept for an abort");
}

#[test]
fn a_promote_tells_the_first_wave_only() {
    let mut document = document(staged());
    document.policy.promote_waves = vec![WaveRule::Names("a*".parse().unwrap()), WaveRule::Share(Share::ALL)];
    let snapshot = pool(document, &["a", "b"], &[]);
    let proposal = committed(tick(&snapshot));
    let next = &proposal.document;
    let of = |name| instruction_for(next, &node(name), SlotCount::Two).unwrap();
    assert_eq!((of("a").generation.get(), of("a").slots.primary), (6, key(3)));
    assert_eq!((of("b").generation.get(), of("b").slots.primary), (5, key(2)));
    assert_eq!(rise(&snapshot, &proposal), 1);
    assert!(!next.keys_held().contains(&key(1)), "the prior backup's bytes are erased");
}

#[test]
fn the_next_wave_opens_without_a_new_generation() {
    let snapshot = of(promoted(0, &["a"]));
    let proposal = committed(tick(&snapshot));
    assert_eq!((proposal.audit.action, rise(&snapshot, &proposal)), (Action::OpenWave, 0));
    let instruction = instruction_for(&proposal.document, &node("b"), SlotCount::Two).unwrap();
    assert_eq!((instruction.generation.get(), instruction.slots.primary), (5, key(3)));
}

#[test]
fn no_transition_without_its_barrier() {
    for stage in [steady(), staged(), promoted(0, &[])] {
        let wait = waits(tick(&with_behind(stage.clone())));
        assert_eq!((wait.blocked_by, wait.waiting_for), (BlockedBy::Barrier, vec![node("b")]), "{stage:?}");
    }
    // A wave waits for its own nodes only.
    let behind_in_wave = waits(tick(&pool(document(promoted(0, &["b"])), &["a"], &["b"])));
    assert_eq!(behind_in_wave.waiting_for, vec![node("b")]);
    let behind_outside = tick(&pool(document(promoted(0, &["a"])), &["a"], &["b"]));
    assert_eq!(committed(behind_outside).audit.action, Action::OpenWave);
}

#[test]
fn an_ack_counts_only_with_the_told_fingerprints_durable_and_read_back() {
    let document = document(staged());
    let good = acked(&document, "b");
    let broken = |change: &dyn Fn(&mut Report)| {
        let mut record = good.clone();
        change(record.report.as_mut().unwrap());
        let mut snapshot = pool(document.clone(), &["a"], &[]);
        snapshot.nodes.insert(node("b"), record);
        snapshot
    };
    assert_eq!(committed(tick(&broken(&|_| ()))).audit.action, Action::Promote);
    let cases: [&dyn Fn(&mut Report); 4] = [
        &|report| report.installed = Installed::Drifted,
        &|report| report.installed = Installed::Failed,
        &|report| report.fence = None,
        &|report| report.fence.as_mut().unwrap().generation = Generation::new(4),
    ];
    for change in cases {
        assert_eq!(waits(tick(&broken(change))).waiting_for, vec![node("b")]);
    }
}

#[test]
fn gates_of_a_stage() {
    type Change = fn(&mut Document);
    let cases: [(BlockedBy, Change); 5] = [
        (BlockedBy::Paused, |document| document.paused = Some(pause())),
        (BlockedBy::Held, |document| document.hold = Some(Hold::Aborted)),
        (BlockedBy::Schedule, |document| document.rotated_at = UnixTime::from_secs(199_999)),
        (BlockedBy::ExpectedNodes, |document| document.policy.expected_nodes = Some(3)),
        (BlockedBy::Drain, |document| document.since = UnixTime::from_secs(199_999)),
    ];
    for (blocked_by, change) in cases {
        let mut document = document(steady());
        change(&mut document);
        let wait = waits(tick(&pool(document, &["a", "b"], &[])));
        assert_eq!(wait.blocked_by, blocked_by);
    }
    let mut document = document(staged());
    document.paused = Some(pause());
    assert_eq!(waits(tick(&pool(document, &["a", "b"], &[]))).blocked_by, BlockedBy::Paused);
}

#[test]
fn nothing_is_committed_before_all_nodes_were_seen_in_this_life() {
    for stage in [steady(), staged(), promoted(0, &[])] {
        let unseen = blind_to(&["b"]);
        let wait = waits(tick_with(&of(stage), &unseen));
        assert_eq!((wait.blocked_by, wait.waiting_for), (BlockedBy::Barrier, vec![node("b")]));
    }
}

#[test]
fn absent_nodes_in_the_way_are_excluded_down_to_min_present() {
    let absent = Presence { absent: nodes(&["b", "c"]), ..presence() };
    let snapshot = pool(document(staged()), &["a", "d"], &["b", "c"]);
    let proposal = committed(tick_with(&snapshot, &absent));
    assert_eq!((proposal.audit.action, rise(&snapshot, &proposal)), (Action::Exclude, 0));
    assert_eq!(proposal.audit.nodes, nodes(&["b", "c"]));
    let closed = Some(Session { ordinal: 1, nonce: 1 });
    assert!(proposal.exclusions.values().all(|excluded| excluded.closes == closed));

    // One of three may go, for half of three is two.
    let snapshot = pool(document(staged()), &["a"], &["b", "c"]);
    assert_eq!(committed(tick_with(&snapshot, &absent)).audit.nodes, nodes(&["b"]));
    // None of two that are needed.
    let mut snapshot = pool(document(staged()), &["a"], &["b"]);
    snapshot.document.policy.min_present = Share::ALL;
    let wait = waits(tick_with(&snapshot, &absent));
    assert_eq!((wait.blocked_by, wait.waiting_for), (BlockedBy::Absent, vec![node("b")]));
    // As many as are needed, and none is absent: the barrier is what waits.
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Barrier);
    // And none at all if the policy is to wait.
    let mut snapshot = pool(document(staged()), &["a", "d"], &["b", "c"]);
    snapshot.document.policy.absent_policy = AbsentPolicy::Wait;
    assert_eq!(waits(tick_with(&snapshot, &absent)).blocked_by, BlockedBy::Absent);
    // A silent node that has acknowledged is not in the way.
    let silent = Presence { absent: nodes(&["b"]), ..presence() };
    assert_eq!(committed(tick_with(&of(staged()), &silent)).audit.action, Action::Promote);
}

#[test]
fn an_empty_pool_of_required_nodes_passes_no_barrier() {
    for stage in [steady(), staged(), promoted(0, &[])] {
        let mut snapshot = pool(document(stage), &[], &[]);
        snapshot.document.policy.expected_nodes = Some(0);
        assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Absent);
    }
    // Given up nodes count for min_present: one that is left of four is too few.
    let mut snapshot = pool(document(staged()), &["a", "b", "c", "d"], &[]);
    for name in ["b", "c", "d"] {
        take_out(&mut snapshot, name, Exclusion::Absent);
    }
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Absent);
}

#[test]
fn a_wave_without_a_present_acked_member_takes_in_the_next_by_hash() {
    let mut document = document(staged());
    document.policy.promote_waves = vec![WaveRule::Names("none".parse().unwrap()), WaveRule::Share(Share::ALL)];
    let snapshot = pool(document, &["a", "b", "c"], &[]);
    let Stage::Promoted { wave, .. } = committed(tick(&snapshot)).document.stage else { panic!("not promoted") };
    let first = wave.taken_in.first().cloned().unwrap();
    assert_eq!(wave.taken_in.len(), 1);
    // Not the one that is absent: the next.
    let absent = Presence { absent: [first.clone()].into(), ..presence() };
    let Stage::Promoted { wave, .. } = committed(tick_with(&snapshot, &absent)).document.stage else {
        panic!("not promoted")
    };
    assert!(!wave.taken_in.contains(&first) && wave.taken_in.len() == 1);
}

#[test]
fn five_per_cent_of_eight_nodes_is_a_canary_and_stays_in_its_wave() {
    let mut document = document(staged());
    document.policy.promote_waves =
        vec![WaveRule::Share(Share::from_ppm(50_000).unwrap()), WaveRule::Share(Share::ALL)];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let snapshot = pool(document, &names, &[]);
    let promoted = committed(tick(&snapshot)).document;
    let opened = |document: &Document| -> Vec<NodeId> {
        let is_new =
            |name: &&&str| instruction_for(document, &node(name), SlotCount::Two).unwrap().slots.primary == key(3);
        names.iter().filter(is_new).map(|name| node(name)).collect()
    };
    let canaries = opened(&promoted);
    assert!(!canaries.is_empty() && canaries.len() < names.len(), "{canaries:?}");
    // Membership is a function of document and node: more nodes do not push anybody out.
    assert_eq!(opened(&promoted), canaries);
}

#[test]
fn a_promotion_that_lost_its_canary_takes_in_another() {
    let mut snapshot = pool(document(promoted(0, &["a"])), &["a", "b", "c"], &[]);
    take_out(&mut snapshot, "a", Exclusion::Absent);
    let proposal = committed(tick(&snapshot));
    assert_eq!((proposal.audit.action, rise(&snapshot, &proposal)), (Action::TakeIn, 0));
}

#[test]
fn the_audit_names_whom_a_wave_takes_in() {
    let audit = |snapshot: &Snapshot| {
        let proposal = committed(tick(snapshot));
        (proposal.audit.action, proposal.audit.nodes, proposal.audit.reason)
    };
    let staged_with = |waves: &[&str]| {
        let mut document = document(staged());
        let named = waves.iter().map(|wave| WaveRule::Names(wave.parse().unwrap()));
        document.policy.promote_waves = named.chain([WaveRule::Share(Share::ALL)]).collect();
        document
    };
    // "new" is in no barrier: it is not promoted.
    let mut snapshot = pool(staged_with(&["a", "b"]), &["a", "b", "c", "new"], &[]);
    take_out(&mut snapshot, "new", Exclusion::Absent);
    assert_eq!(audit(&snapshot), (Action::Promote, nodes(&["a"]), String::new()));
    snapshot.document.policy.promote_waves[0] = WaveRule::Names("n*".parse().unwrap());
    let (_, taken_in, _) = audit(&snapshot);
    assert_eq!(taken_in.len(), 1, "a wave without members takes one in: {taken_in:?}");
    let next = pool(document(promoted(0, &["a", "b"])), &["a", "b", "c"], &[]);
    assert_eq!(audit(&next), (Action::OpenWave, nodes(&["b"]), String::new()), "those that are new in it");
    let last = pool(document(promoted(0, &["a"])), &["a", "b", "c"], &[]);
    assert_eq!(audit(&last), (Action::OpenWave, nodes(&[]), "all nodes".to_owned()));
    assert_eq!(audit(&of(staged())), (Action::Promote, nodes(&[]), "all nodes".to_owned()));
    let mut empty = pool(document(promoted(0, &["a"])), &["a", "b", "c"], &[]);
    take_out(&mut empty, "a", Exclusion::Absent);
    let (action, refilled, _) = audit(&empty);
    assert_eq!((action, refilled.len()), (Action::TakeIn, 1));
    // A wave of many.
    let names: Vec<String> = (0..150).map(|number| format!("n{number:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let snapshot = pool(staged_with(&["n*"]), &names, &[]);
    let presence = Presence { seen: nodes(&names), ..presence() };
    let audit = committed(tick_with(&snapshot, &presence)).audit;
    assert_eq!((audit.nodes, audit.more, audit.reason), (nodes(&names[..100]), 50, String::new()));
}

#[test]
fn one_slot_nodes_are_never_waited_for_and_change_last() {
    let mut snapshot = pool(document(promoted(0, &["one"])), &["a", "b"], &["one"]);
    snapshot.nodes.get_mut(&node("one")).unwrap().report.as_mut().unwrap().slot_count = SlotCount::One;
    let of = |document: &Document| instruction_for(document, &node("one"), SlotCount::One).unwrap();
    assert_eq!((of(&snapshot.document).slots.primary, of(&snapshot.document).slots.backup), (key(2), None));
    snapshot.document.stage = promoted(1, &["a"]);
    snapshot = Snapshot { nodes: snapshot.nodes, ..pool(snapshot.document, &[], &[]) };
    assert_eq!(of(&snapshot.document).slots.primary, key(3));
    for name in ["a", "b"] {
        snapshot.nodes.insert(node(name), acked(&snapshot.document, name));
    }
    assert_eq!(committed(tick(&snapshot)).audit.action, Action::Settle);
}

#[test]
fn a_revoke_walks_without_gates_and_drops_behind_a_barrier() {
    let revoking = |stage: Stage, keys: &[PoolKey]| {
        let mut document = document(stage);
        document.revoked = keys.to_vec();
        document.revoke = Some(Revoke::of(keys.iter().copied().collect(), UnixTime::from_secs(0)));
        // Neither schedule, hold, drain nor expected nodes stop it.
        document.rotated_at = NOW;
        document.since = NOW;
        document.hold = Some(Hold::Aborted);
        document.policy.expected_nodes = Some(99);
        document.policy.promote_waves = vec![WaveRule::Names("a".parse().unwrap()), WaveRule::Share(Share::ALL)];
        document
    };
    // The backup: dropped at a barrier, and only there.
    let document = revoking(steady(), &[key(1)]);
    let snapshot = pool(document.clone(), &["a", "b"], &[]);
    let proposal = committed(tick(&snapshot));
    assert_eq!(proposal.document.stage, Stage::Steady { current: key(2), backup: None });
    assert_eq!((rise(&snapshot, &proposal), proposal.document.revoke.is_none()), (1, true));
    assert_eq!(waits(tick(&pool(document, &["a"], &["b"]))).waiting_for, vec![node("b")]);
    // The current key: staged at once, ...
    let proposal = committed(tick(&pool(revoking(steady(), &[key(2)]), &["a", "b"], &[])));
    assert_eq!(proposal.audit.action, Action::Rotate);
    // ... promoted in one wave, ...
    let proposal = committed(tick(&pool(revoking(staged(), &[key(2)]), &["a", "b"], &[])));
    let Stage::Promoted { wave, .. } = &proposal.document.stage else { panic!("not promoted") };
    assert!(wave.is_last());
    // ... and dropped after the promotion's barrier.
    let document = revoking(promoted(0, &[]), &[key(2)]);
    let snapshot = pool(document.clone(), &["a", "b"], &[]);
    let proposal = committed(tick(&snapshot));
    assert_eq!(proposal.document.stage, Stage::Steady { current: key(3), backup: None });
    assert_eq!((proposal.audit.action, rise(&snapshot, &proposal)), (Action::DropRevoked, 1));
    assert_eq!(waits(tick(&pool(document, &["a"], &["b"]))).waiting_for, vec![node("b")]);
}

#[test]
fn a_revokes_short_barrier_leaves_stragglers_behind_and_lists_them() {
    let mut document = document(staged());
    document.revoked = vec![key(2)];
    document.revoke = Some(Revoke::of([key(2)].into(), UnixTime::from_secs(0)));
    let snapshot = pool(document, &["a", "b"], &["c"]);
    assert_eq!(waits(tick(&snapshot)).waiting_for, vec![node("c")]);
    let late = Presence { phase_secs: 300, wave_secs: 300, ..presence() };
    let proposal = committed(tick_with(&snapshot, &late));
    assert_eq!(proposal.audit.nodes, nodes(&["c"]));
    assert_eq!(proposal.document.revoke.unwrap().left_behind, nodes(&["c"]));
}

/// docs/protocol.md#rule-13: only a revoke that is not paused leaves nodes behind, and only after its short barrier.
#[test]
fn nodes_are_left_behind_by_a_revoke_that_runs_and_by_nothing_else() {
    let late = |secs| Presence { phase_secs: secs, wave_secs: secs, ..presence() };
    let mut paused = revoking(staged(), 2);
    paused.paused = Some(pause());
    for (document, presence, leaves) in [
        (revoking(staged(), 2), late(300), true),
        (revoking(staged(), 2), late(299), false),
        (revoking(staged(), 2), Presence { wave_secs: 299, ..late(300) }, false),
        (revoking(staged(), 2), Presence { phase_secs: 299, ..late(300) }, false),
        (document(staged()), late(300), false),
        (paused, late(300), false),
    ] {
        let step = tick_with(&pool(document, &["a", "b"], &["c"]), &presence);
        assert_eq!(matches!(step, Step::Commit(_)), leaves, "{step:?}");
    }
}

#[test]
fn a_wave_of_a_revoke_is_not_watched() {
    let early = Presence { phase_secs: 0, wave_secs: 0, ..presence() };
    let snapshot = pool(revoking(promoted(0, &["a"]), 2), &["a", "b"], &[]);
    assert_eq!(committed(tick_with(&snapshot, &early)).audit.action, Action::OpenWave);
    assert_eq!(waits(tick_with(&of(promoted(0, &["a"])), &early)).blocked_by, BlockedBy::Health);
}

#[test]
fn a_wave_begins_when_it_is_opened_and_waives_nothing() {
    let mut snapshot = of(promoted(0, &["a", "b"]));
    let Stage::Promoted { wave, .. } = &mut snapshot.document.stage else { panic!("not promoted") };
    wave.health_waived = true;
    let Stage::Promoted { wave, .. } = committed(tick(&snapshot)).document.stage else { panic!("not promoted") };
    assert_eq!((wave.opened, wave.opened_at, wave.health_waived), (1, NOW, false));
}

/// docs/protocol.md#rule-12: coordinators of two releases must agree on it in the middle of a rotation.
#[test]
fn a_share_is_that_part_of_the_order_and_no_more() {
    use super::super::wave::{is_opened, order};
    let opened = |ppm: u32, name: &str| {
        let mut document = document(promoted(0, &[]));
        let Stage::Promoted { wave, next, .. } = &mut document.stage else { panic!("not promoted") };
        wave.rules.insert(0, WaveRule::Share(Share::from_ppm(ppm).unwrap()));
        let (wave, epoch) = (wave.clone(), next.epoch);
        is_opened(&document, epoch, &wave, &node(name))
    };
    // Millionths of the order in the rotation to epoch 3.
    for (name, place) in [("a", 915_054), ("b", 114_776), ("cp3050.example.org", 779_897)] {
        let at = u128::from(order(&pool_id(), key(3).epoch, &node(name))) * 1_000_000 / (1 << 64);
        assert_eq!(at, u128::from(place), "{name}");
        assert_eq!([0, place, place + 1, 1_000_000].map(|ppm| opened(ppm, name)), [false, false, true, true], "{name}");
    }
}

#[test]
fn a_key_that_is_in_use_or_revoked_is_not_staged() {
    for (stage, revoked) in [(steady(), key(4)), (Stage::Steady { current: key(2), backup: None }, key(4))] {
        let mut snapshot = of(stage);
        snapshot.document.revoked = vec![revoked];
        let presence = presence();
        let now = Now { wall: NOW, presence: &presence };
        let result = handle(&snapshot, now, &Input::Tick, Some(fingerprint(4)));
        assert_eq!(refused(result), Reason::KeyReused(fingerprint(4)));
        let result = handle(&snapshot, now, &Input::Tick, Some(fingerprint(2)));
        assert_eq!(refused(result), Reason::KeyReused(fingerprint(2)));
    }
}

#[test]
fn the_phase_is_named_in_a_refusal() {
    let refused = order(&of(staged()), Command::Rotate { force: true }).unwrap_err();
    assert_eq!(refused.phase, Phase::Staged);
    assert_eq!(refused.to_string(), "a rotation starts only in phase steady (phase staged)");
}

fn revoking(stage: Stage, epoch: u64) -> Document {
    let mut document = document(stage);
    document.revoked = vec![key(epoch)];
    let since = UnixTime::from_secs(0);
    document.revoke = Some(Revoke::of([key(epoch)].into(), since));
    document
}

#[test]
fn a_revokes_short_barrier_waits_for_a_timer_node() {
    let mut snapshot = pool(revoking(staged(), 2), &["a", "b"], &["c"]);
    snapshot.nodes.get_mut(&node("c")).unwrap().report.as_mut().unwrap().next_sync_secs = 900;
    let late = |secs| Presence { phase_secs: secs, wave_secs: secs, ..presence() };
    assert_eq!(waits(tick_with(&snapshot, &late(899))).waiting_for, vec![node("c")]);
    assert_eq!(committed(tick_with(&snapshot, &late(900))).audit.nodes, nodes(&["c"]));
}

#[test]
fn a_revoke_under_a_first_key_waits_for_the_expected_nodes_as_long_as_for_any() {
    let mut document = revoking(steady(), 2);
    document.hold = Some(Hold::FirstKey { expect: Expected::Names(nodes(&["a", "late"])) });
    let snapshot = pool(document.clone(), &["a", "b"], &[]);
    let wait = waits(tick(&snapshot));
    assert_eq!((wait.blocked_by, wait.waiting_for), (BlockedBy::ExpectedNodes, vec![node("late")]));
    let late = Presence { phase_secs: 300, wave_secs: 300, ..presence() };
    assert_eq!(committed(tick_with(&snapshot, &late)).audit.action, Action::Rotate);
    let here = pool(document, &["a", "b", "late"], &[]);
    assert_eq!(committed(tick(&here)).audit.action, Action::Rotate);
}
