//! Drain, health, and clocks that step.

use super::super::document::Pause;
use super::super::record::Exclusion;
use super::*;
use tfo_model::fleet::BlockedBy;

fn counters(passive: u64, passive_alt_key: u64, passive_fail: u64) -> Counters {
    Counters { passive, passive_alt_key, passive_fail }
}

fn window(phase: Phase, epoch: u64, last: Counters) -> Window {
    Window { phase, epoch: Epoch::new(epoch).unwrap(), first: Counters::default(), last }
}

#[test]
fn drained_is_few_enough_old_cookies_among_enough_of_all() {
    // (accepted, by the backup key, is drained)
    for (passive, alt_key, is_drained) in
        [(0, 0, false), (99, 0, false), (100, 0, true), (1_000, 9, true), (1_000, 10, false), (1_000, 900, false)]
    {
        let mut snapshot = of(steady());
        snapshot.document.since = UnixTime::from_secs(199_999);
        let record = snapshot.nodes.get_mut(&node("a")).unwrap();
        record.window = Some(window(Phase::Steady, 2, counters(passive, alt_key, 0)));
        match tick(&snapshot) {
            Step::Commit(proposal) => assert_eq!((proposal.audit.action, is_drained), (Action::Rotate, true)),
            step => {
                let wait = waits(step);
                assert_eq!((wait.blocked_by, is_drained), (BlockedBy::Drain, false));
                assert_eq!(wait.next_at, Some(UnixTime::from_secs(199_999 + 6 * 3_600)));
            }
        }
    }
}

#[test]
fn counters_of_another_rotation_do_not_drain_this_one() {
    let mut snapshot = of(steady());
    snapshot.document.since = NOW;
    snapshot.nodes.get_mut(&node("a")).unwrap().window = Some(window(Phase::Steady, 1, counters(10_000, 0, 0)));
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Drain);
}

/// (rejected while staged, rejected since the promotion; of 1000) -> whether the pool pauses.
#[test]
fn health_is_a_rise_above_the_waves_own_baseline() {
    for (before, since, is_bad) in [(0, 0, false), (0, 20, false), (0, 21, true), (500, 519, false), (500, 560, true)] {
        let mut snapshot = of(promoted(0, &["a"]));
        let record = snapshot.nodes.get_mut(&node("a")).unwrap();
        record.baseline = Some(window(Phase::Staged, 3, counters(1_000 - before, 0, before)));
        record.window = Some(window(Phase::Promoted, 3, counters(1_000 - since, 0, since)));
        // What happens outside the wave does not count for it.
        let other = snapshot.nodes.get_mut(&node("b")).unwrap();
        other.window = Some(window(Phase::Promoted, 3, counters(0, 0, 1_000)));
        let proposal = committed(tick(&snapshot));
        let expected = if is_bad { Action::Unhealthy } else { Action::OpenWave };
        assert_eq!(proposal.audit.action, expected, "{before} {since}");
        assert_eq!(proposal.document.paused.as_ref().is_some_and(Pause::is_health), is_bad);
        if is_bad {
            // After a resume the same wave is not paused a second time.
            let snapshot = Snapshot { document: proposal.document, ..snapshot };
            assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Paused);
            let resumed = committed(order(&snapshot, Command::Resume { force: false }).unwrap()).document;
            let step = tick(&Snapshot { document: resumed, ..snapshot });
            assert_eq!(committed(step).audit.action, Action::OpenWave);
        }
    }
}

/// docs/protocol.md#rule-12: who is named is in the wave, counts for the pool, and has rejected some.
#[test]
fn a_stop_names_the_nodes_that_rejected_most_the_worst_first() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut snapshot = pool(document(promoted(0, &["a", "b", "c", "d", "e", "f", "g"])), &names, &[]);
    let Stage::Promoted { wave, .. } = &mut snapshot.document.stage else { panic!("not promoted") };
    wave.opened = 6;
    // h is not in the wave yet, and g is in no barrier.
    let failed = [("a", 0), ("b", 7), ("c", 40), ("d", 2), ("e", 90), ("f", 1), ("g", 800), ("h", 900)];
    let counted = |phase, failed| Some(window(phase, 3, counters(100, 0, failed)));
    for (name, failed) in failed {
        let record = snapshot.nodes.get_mut(&node(name)).unwrap();
        (record.baseline, record.window) = (counted(Phase::Staged, 0), counted(Phase::Promoted, failed));
    }
    take_out(&mut snapshot, "g", Exclusion::Absent);
    let worst = |snapshot: &Snapshot| {
        let proposal = committed(tick(snapshot));
        let Some(PauseCause::Health { worst, .. }) = proposal.document.paused.map(|pause| pause.cause) else {
            panic!("not stopped: {:?}", proposal.audit)
        };
        worst.iter().map(|node| node.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(worst(&snapshot), ["e", "c", "b", "d", "f"]);
    for name in ["b", "d"] {
        snapshot.nodes.get_mut(&node(name)).unwrap().window = counted(Phase::Promoted, 0);
    }
    assert_eq!(worst(&snapshot), ["e", "c", "f"]);
}

/// docs/protocol.md#rule-14: an expected node is one that barriers wait for, and it has what it was told.
#[test]
fn a_node_that_no_barrier_waits_for_is_not_one_of_those_that_are_expected() {
    use super::super::gates::missing;
    let mut snapshot = pool(document(steady()), &["a", "b"], &["c"]);
    snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap().slot_count = SlotCount::One;
    let alone = Slots { primary: key(2), backup: None };
    let fence = Fence { pool_id: pool_id(), generation: Generation::new(5), slots: alone };
    snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap().fence = Some(fence);
    assert_eq!(missing(&snapshot, &Expected::Names(nodes(&["a", "b", "c", "d"]))), ["c", "b", "d"]);
    assert_eq!(missing(&snapshot, &expect_number(3)), ["c", "2 of 3 nodes"]);
    assert_eq!(missing(&snapshot, &expect_number(1)), ["c"]);
}

#[test]
fn a_wave_is_looked_at_for_its_window_and_passes_without_traffic() {
    let snapshot = of(promoted(0, &["a"]));
    let early = Presence { wave_secs: 59, ..presence() };
    let wait = waits(tick_with(&snapshot, &early));
    assert_eq!((wait.blocked_by, wait.next_at), (BlockedBy::Health, Some(UnixTime::from_secs(200_001))));
    let later = Presence { wave_secs: 60, ..presence() };
    assert_eq!(committed(tick_with(&snapshot, &later)).audit.action, Action::OpenWave);
}

#[test]
fn a_clock_that_stepped_back_is_replaced_by_served_time() {
    let mut snapshot = of(steady());
    snapshot.document.rotated_at = UnixTime::from_secs(900_000);
    snapshot.document.since = UnixTime::from_secs(900_000);
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Schedule);
    let served = Presence { phase_secs: 86_400, ..presence() };
    assert_eq!(committed(tick_with(&snapshot, &served)).audit.action, Action::Rotate);
}

#[test]
fn a_rest_at_a_barrier_that_served_time_has_opened_ends_when_the_clock_comes_to_where_it_was() {
    let served = Presence { phase_secs: 86_400, ..presence() };
    let wait_at = |snapshot: &Snapshot, wall: UnixTime| {
        waits(handle(snapshot, Now { wall, presence: &served }, &Input::Tick, Some(fingerprint(4))).unwrap())
    };
    for (rotated_in, since_in, rests_secs) in [(0, 0, 60), (30, 0, 30), (30, 20, 20), (90, 90, 60)] {
        let mut snapshot = with_behind(steady());
        let document = &mut snapshot.document;
        document.policy.drain_max_secs = 0;
        (document.rotated_at, document.since) = (NOW.plus(rotated_in), NOW.plus(since_in));
        if rotated_in == 0 {
            document.policy.interval_secs = 0;
        }
        let wait = wait_at(&snapshot, NOW);
        assert_eq!(wait.blocked_by, BlockedBy::Barrier);
        let until = wait.rests_until(&snapshot.document, NOW);
        assert_eq!(until, Some(NOW.plus(rests_secs)), "{rotated_in} {since_in}");
        assert_eq!(wait_at(&snapshot, NOW.plus(rests_secs - 1)), wait);
    }
    let mut snapshot = with_behind(steady());
    (snapshot.document.rotated_at, snapshot.document.since) = (NOW.plus(30), NOW);
    assert_eq!(wait_at(&snapshot, NOW.plus(30)).blocked_by, BlockedBy::Schedule);
}

#[test]
fn a_barrier_in_a_wave_that_counters_may_stop_is_no_rest() {
    for (opened, rests) in [(0, false), (1, true)] {
        let snapshot = with_behind(promoted(opened, &["b"]));
        let wait = waits(tick(&snapshot));
        assert_eq!(wait.blocked_by, BlockedBy::Barrier);
        assert_eq!(wait.rests_until(&snapshot.document, NOW).is_some(), rests, "wave {opened}");
    }
}

#[test]
fn a_wave_is_never_stopped_without_a_baseline() {
    let bad = window(Phase::Promoted, 3, counters(500, 0, 500));
    // (baseline, whether the pool pauses): nothing, too little, enough before the stage, enough while staged.
    for (baseline, is_bad) in [
        (None, false),
        (Some(window(Phase::Staged, 3, counters(0, 0, 0))), false),
        (Some(window(Phase::Staged, 3, counters(99, 0, 0))), false),
        (Some(window(Phase::Steady, 2, counters(99, 0, 0))), false),
        (Some(window(Phase::Steady, 2, counters(100, 0, 0))), true),
        (Some(window(Phase::Staged, 3, counters(100, 0, 0))), true),
        (Some(window(Phase::Promoted, 2, counters(100, 0, 0))), false),
    ] {
        let mut snapshot = of(promoted(0, &["a"]));
        let record = snapshot.nodes.get_mut(&node("a")).unwrap();
        record.window = Some(bad);
        record.baseline = baseline;
        let early = Presence { wave_secs: 59, ..presence() };
        if is_bad {
            assert_eq!(committed(tick_with(&snapshot, &early)).audit.action, Action::Unhealthy, "{baseline:?}");
        } else {
            assert_eq!(waits(tick_with(&snapshot, &early)).blocked_by, BlockedBy::Health, "{baseline:?}");
            assert_eq!(committed(tick(&snapshot)).audit.action, Action::OpenWave, "{baseline:?}");
        }
    }
}
