//! Node commands, and the nodes' side: admission, sessions, answers.

use super::super::record::Exclusion;
use super::super::sync::{Answer, Recording, SyncRefused, record};
use super::*;

fn recorded(snapshot: &Snapshot, name: &str, sync: &Sync) -> Result<Recording, SyncRefused> {
    record(&snapshot.document, snapshot.nodes.get(&node(name)), &node(name), sync, (&by(), NOW))
}

#[test]
fn an_unknown_node_is_admitted_durably_before_it_is_answered() {
    let mut snapshot = of(staged());
    let sync = sync(5, report(None));
    assert_eq!(answer(&snapshot, &presence(), &node("new"), &sync), Err(SyncRefused::NotAdmitted));
    let recording = recorded(&snapshot, "new", &sync);
    assert!(matches!(recording, Ok(Recording::First(_))));
    snapshot = after_sync(&snapshot, "new", recording.unwrap());
    assert_eq!(snapshot.nodes[&node("new")].membership, Membership::Admitted);
    let instruction = instruction_for(&snapshot.document, &node("new"), SlotCount::Two).unwrap();
    assert_eq!(answer(&snapshot, &presence(), &node("new"), &sync), Ok(Answer::Instruct(instruction)));
    // It is waited for from now on.
    assert_eq!(waits(tick(&snapshot)).waiting_for, vec![node("new")]);
}

#[test]
fn sessions_rise_and_acks_rise_within_one() {
    let snapshot = of(staged());
    let fence = snapshot.nodes[&node("a")].report.as_ref().unwrap().fence.clone();
    assert!(matches!(recorded(&snapshot, "a", &sync(1, report(fence.clone()))), Ok(Recording::Later(_))));
    assert!(matches!(recorded(&snapshot, "a", &sync(2, report(None))), Ok(Recording::First(_))));
    assert_eq!(recorded(&snapshot, "a", &sync(1, report(None))), Ok(Recording::Stale));
    for closed in [Session { ordinal: 0, nonce: 1 }, Session { ordinal: 1, nonce: 9 }] {
        let sync = Sync { session: closed, ..sync(0, report(fence.clone())) };
        assert_eq!(recorded(&snapshot, "a", &sync), Err(SyncRefused::SessionClosed { ordinal: 1 }));
        let answer = answer(&snapshot, &presence(), &node("a"), &sync);
        assert_eq!(answer, Err(SyncRefused::SessionClosed { ordinal: 1 }));
    }
}

#[test]
fn the_end_of_an_exclusion_is_a_new_session_not_a_date() {
    let until_later = Exclusion::Operator { until: NOW.plus(1) };
    let over = Exclusion::Operator { until: NOW };
    for (exclusion, admits) in [
        (Exclusion::Absent, true),
        (Exclusion::LeftBehind, true),
        (Exclusion::Forgotten, true),
        (over, true),
        (until_later, false),
    ] {
        let mut snapshot = of(staged());
        take_out(&mut snapshot, "a", exclusion);
        assert_eq!(
            committed(tick(&{
                let mut other = snapshot.clone();
                other.nodes.insert(node("c"), acked(&other.document, "c"));
                other
            }))
            .audit
            .action,
            Action::Promote,
            "an excluded node is not waited for, whatever the date"
        );
        // In the old session it is refused, so that an old answer cannot be taken for a new one.
        let old = recorded(&snapshot, "a", &sync(1, report(None)));
        if admits {
            assert_eq!(old, Err(SyncRefused::SessionClosed { ordinal: 1 }), "{exclusion:?}");
        }
        let recording = recorded(&snapshot, "a", &sync(2, report(None))).unwrap();
        let record = after_sync(&snapshot, "a", recording).nodes.remove(&node("a")).unwrap();
        assert_eq!(record.membership == Membership::Admitted, admits, "{exclusion:?}");
    }
}

#[test]
fn denied_and_foreign_nodes_get_nothing() {
    let mut snapshot = of(staged());
    snapshot.nodes.get_mut(&node("a")).unwrap().membership = Membership::Excluded(Exclusion::Denied);
    let mine = sync(9, report(None));
    assert_eq!(recorded(&snapshot, "a", &mine), Err(SyncRefused::Denied));
    assert_eq!(answer(&snapshot, &presence(), &node("a"), &mine), Err(SyncRefused::Denied));
    let pool_id = "ffffffffffffffffffffffffffffffff".parse().unwrap();
    let slots = Slots { primary: key(2), backup: None };
    let theirs = sync(9, report(Some(Fence { pool_id, generation: Generation::new(1), slots })));
    assert_eq!(recorded(&snapshot, "b", &theirs), Err(SyncRefused::OtherPool));
}

#[test]
fn an_answer_is_what_is_above_seen_and_not_there_yet() {
    let snapshot = of(staged());
    let fence = snapshot.nodes[&node("a")].report.as_ref().unwrap().fence.clone();
    let has_it = sync(1, report(fence));
    assert_eq!(answer(&snapshot, &presence(), &node("a"), &has_it), Ok(Answer::Nothing));
    let cannot_install = Sync { seen: Generation::new(5), ..sync(1, report(None)) };
    assert_eq!(answer(&snapshot, &presence(), &node("a"), &cannot_install), Ok(Answer::Nothing));
    let ahead = Sync { seen: Generation::new(6), ..sync(1, report(None)) };
    assert_eq!(answer(&snapshot, &presence(), &node("a"), &ahead), Ok(Answer::Nothing), "seen, not \"differs\"");
    let behind = Sync { seen: Generation::new(4), ..sync(1, report(None)) };
    assert!(matches!(answer(&snapshot, &presence(), &node("a"), &behind), Ok(Answer::Instruct(_))));
    let unseen = blind_to(&["b"]);
    assert_eq!(answer(&snapshot, &unseen, &node("a"), &behind), Err(SyncRefused::NotHeard));
    let empty = of(Stage::Empty);
    assert_eq!(answer(&empty, &presence(), &node("a"), &behind), Ok(Answer::Nothing));
    assert_eq!(
        answer(&empty, &unseen, &node("a"), &behind),
        Err(SyncRefused::NotHeard),
        "a restored store may be behind"
    );
}

#[test]
fn counters_are_kept_by_phase_and_a_reset_starts_the_window_again() {
    let mut snapshot = of(staged());
    let fence = snapshot.nodes[&node("a")].report.as_ref().unwrap().fence.clone();
    let counted = |passive| {
        let counters = Some(Counters { passive, passive_alt_key: 0, passive_fail: 0 });
        sync(1, Report { counters, ..report(fence.clone()) })
    };
    for (passive, first) in [(100, 100), (150, 100), (20, 20), (30, 20)] {
        snapshot = after_sync(&snapshot, "a", recorded(&snapshot, "a", &counted(passive)).unwrap());
        let window = snapshot.nodes[&node("a")].window.unwrap();
        assert_eq!((window.phase, window.first.passive, window.last.passive), (Phase::Staged, first, passive));
    }
    snapshot.document.stage = promoted(0, &["a"]);
    let next = ack_of(recorded(&snapshot, "a", &counted(40)).unwrap());
    assert_eq!(next.window.unwrap().phase, Phase::Promoted);
    assert_eq!(next.baseline.unwrap().last.passive, 30);
}

#[test]
fn a_forgotten_node_leaves_the_ordinal_of_its_session() {
    let snapshot = of(staged());
    let proposal = committed(order(&snapshot, forget(&["b"])).unwrap());
    let after = after_commit(&snapshot, &proposal);
    let rest = &after.nodes[&node("b")];
    assert!(!rest.is_known() && rest.report.is_none() && !rest.counts_as_member());
    assert_eq!(refused(order(&after, forget(&["b"]))), Reason::UnknownNodes(vec![node("b")]));
    assert_eq!(recorded(&after, "b", &sync(1, report(None))), Err(SyncRefused::SessionClosed { ordinal: 1 }));
    // Much later it goes with the next one that is forgotten, once its coordinator has removed it from its roster.
    let mut content = content(&snapshot);
    content.commit(&proposal);
    let later = NOW.plus(86_401);
    assert!(content.parts().long_forgotten(&by(), NOW.plus(86_400)).is_empty());
    let removed = content.parts().long_forgotten(&by(), later);
    assert_eq!(removed, nodes(&["b"]));
    let dropped = |content: &PoolContent| {
        let command = forget(&["a"]);
        let request = OperatorRequest { operator: node("ops"), reason: String::new(), if_revision: None, command };
        let now = Now { wall: later, presence: &presence() };
        committed(handle(content.snapshot(), now, &Input::Request(request), None).unwrap()).dropped
    };
    assert!(dropped(&content).is_empty(), "its entry would admit it again");
    content.write(&by(), &Writes { removed, ..Writes::default() });
    let rest = &content.snapshot().nodes[&node("b")];
    assert_eq!((rest.session, &rest.coordinator), (Some(Session { ordinal: 1, nonce: 1 }), &None));
    assert_eq!(dropped(&content), nodes(&["b"]));
}

#[test]
fn exclude_and_deny_know_their_nodes() {
    let until = NOW.plus(60);
    let snapshot = of(staged());
    let proposal = committed(order(&snapshot, exclude(&["b"], until)).unwrap());
    let standing = after_commit(&snapshot, &proposal).nodes[&node("b")].membership;
    assert_eq!(standing, Membership::Excluded(Exclusion::Operator { until }));
    let unknown = exclude(&["c"], until);
    assert_eq!(refused(order(&snapshot, unknown)), Reason::UnknownNodes(vec![node("c")]));
    let denied = after_commit(&snapshot, &committed(order(&snapshot, deny(&["b"])).unwrap()));
    let command = exclude(&["b"], until);
    assert_eq!(refused(order(&denied, command)), Reason::WrongNodes { why: "denied already", nodes: vec![node("b")] });
}

#[test]
fn a_stage_too_short_to_count_keeps_the_window_before_it_as_the_baseline() {
    let mut snapshot = of(steady());
    let counted = |passive| {
        let counters = Some(Counters { passive, passive_alt_key: 0, passive_fail: 0 });
        sync(1, Report { counters, ..report(Some(fence_of(5, key(2), key(1)))) })
    };
    // (stage, counter at the first and the last sync of it, phase of the baseline after the next)
    for (in_stage, kept) in [(10, Phase::Steady), (99, Phase::Steady), (100, Phase::Staged), (500, Phase::Staged)] {
        snapshot.document.stage = steady();
        snapshot.nodes.get_mut(&node("a")).unwrap().window = None;
        for (stage, from, to) in [(steady(), 0, 1_000), (staged(), 1_000, 1_000 + in_stage)] {
            snapshot.document.stage = stage;
            for passive in [from, to] {
                snapshot = after_sync(&snapshot, "a", recorded(&snapshot, "a", &counted(passive)).unwrap());
            }
        }
        snapshot.document.stage = promoted(0, &["a"]);
        let next = ack_of(recorded(&snapshot, "a", &counted(2_000)).unwrap());
        assert_eq!(next.window.unwrap().phase, Phase::Promoted);
        assert_eq!(next.baseline.unwrap().phase, kept);
    }
}

fn fence_of(generation: u64, primary: PoolKey, backup: PoolKey) -> Fence {
    let slots = Slots { primary, backup: Some(backup) };
    Fence { pool_id: pool_id(), generation: Generation::new(generation), slots }
}

#[test]
fn a_report_further_ahead_than_any_restore_is_refused() {
    use super::super::sync::REPORT_LEAD_MAX;
    assert_eq!(REPORT_LEAD_MAX, 1_000_000_000, "room for a thousand recoveries");
    let snapshot = of(staged());
    let far = fence_of(5 + REPORT_LEAD_MAX, key(4 + REPORT_LEAD_MAX), key(2));
    let beyond = [
        fence_of(6 + REPORT_LEAD_MAX, key(3), key(2)),
        fence_of(5, key(5 + REPORT_LEAD_MAX), key(2)),
        fence_of(5, key(3), key(u64::MAX)),
        fence_of(u64::MAX, key(3), key(2)),
    ];
    assert!(recorded(&snapshot, "a", &sync(9, report(Some(far)))).is_ok());
    for fence in beyond {
        assert_eq!(recorded(&snapshot, "a", &sync(9, report(Some(fence)))), Err(SyncRefused::TooFarAhead));
    }
    for (seen, is_refused) in [(5 + REPORT_LEAD_MAX, false), (6 + REPORT_LEAD_MAX, true), (u64::MAX, true)] {
        let sync = Sync { seen: Generation::new(seen), ..sync(9, report(None)) };
        assert_eq!(recorded(&snapshot, "a", &sync) == Err(SyncRefused::TooFarAhead), is_refused, "{seen}");
    }
}

/// docs/protocol.md#rule-7: a session far above the node's clock would be its last one, for none could exceed it.
#[test]
fn a_session_is_at_most_ten_years_ahead_of_the_clock_or_one_above_the_open_one() {
    let by_clock = (NOW.secs() + 10 * 366 * 86_400) * 1_000;
    for (open, ordinal, is_refused) in [
        (None, by_clock, false),
        (None, by_clock + 1, true),
        (None, u64::MAX, true),
        (Some(1), by_clock + 1, true),
        (Some(by_clock), by_clock + 1, false),
        (Some(by_clock), by_clock + 2, true),
        (Some(by_clock + 7), by_clock + 8, false),
    ] {
        let mut snapshot = of(staged());
        match open {
            Some(ordinal) => {
                snapshot.nodes.get_mut(&node("a")).unwrap().session = Some(Session { ordinal, nonce: 1 });
            }
            None => drop(snapshot.nodes.remove(&node("a"))),
        }
        let recording = recorded(&snapshot, "a", &sync(ordinal, report(None)));
        assert_eq!(recording == Err(SyncRefused::TooFarAhead), is_refused, "{open:?} {ordinal}");
    }
}

/// docs/protocol.md#rule-8: its acks would be in a roster that is not its own.
#[test]
fn a_session_lives_at_the_coordinator_that_opened_it() {
    let snapshot = of(staged());
    let other = "other.example.org".parse().unwrap();
    let record_at = |by: &CoordinatorName, ordinal| {
        let before = snapshot.nodes.get(&node("a"));
        record(&snapshot.document, before, &node("a"), &sync(ordinal, report(None)), (by, NOW))
    };
    assert_eq!(record_at(&other, 1), Err(SyncRefused::SessionClosed { ordinal: 1 }));
    assert_ne!(record_at(&by(), 1), Err(SyncRefused::SessionClosed { ordinal: 1 }));
    assert!(matches!(record_at(&other, 2), Ok(Recording::First(_))));
}

#[test]
fn every_sync_that_is_stored_is_one_more() {
    let mut snapshot = of(staged());
    for (name, ordinal, syncs) in [("new", 1, 1), ("new", 1, 2), ("new", 2, 3), ("new", 2, 4)] {
        snapshot = after_sync(&snapshot, name, recorded(&snapshot, name, &sync(ordinal, report(None))).unwrap());
        assert_eq!(snapshot.nodes[&node(name)].syncs, syncs);
    }
}

#[test]
fn what_was_told_in_a_session_is_stored_and_falls_only_with_a_new_one() {
    let mut snapshot = of(staged());
    let fence = snapshot.nodes[&node("a")].report.as_ref().unwrap().fence.clone();
    for (ordinal, seen, stored) in [(2, 4, 4), (2, 5, 5), (2, 3, 5), (3, 0, 0)] {
        let sync = Sync { seen: Generation::new(seen), ..sync(ordinal, report(fence.clone())) };
        snapshot = after_sync(&snapshot, "a", recorded(&snapshot, "a", &sync).unwrap());
        assert_eq!(snapshot.nodes[&node("a")].report.as_ref().unwrap().seen.get(), stored);
    }
}
