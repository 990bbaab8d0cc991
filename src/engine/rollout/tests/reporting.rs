//! Nodes whose keys come from elsewhere, sessions of one kind, and the one view that answers all.

use std::time::Duration;

use super::super::barrier::{Barrier, conflict, no_common_foreign_key, node_state, recoverable};
use super::super::changes::Changes;
use super::super::presence::Life;
use super::super::record::Exclusion;
use super::super::sync::{Answer, PoolView, Recording, SyncRefused, record};
use super::*;
use tfo_model::fleet::NodeState;
use tfo_model::node::KeySource;

fn derives(report: Report) -> Report {
    Report { source: KeySource::Derive, ..report }
}

fn of_fence(generation: u64, primary: u64) -> Report {
    let slots = Slots { primary: key(primary), backup: None };
    report(Some(Fence { pool_id: pool_id(), generation: Generation::new(generation), slots }))
}

fn stored(snapshot: &mut Snapshot, name: &str, sync: &Sync) {
    let before = snapshot.nodes.get(&node(name));
    let recording = record(&snapshot.document, before, &node(name), sync, (&by(), NOW)).unwrap();
    *snapshot = after_sync(snapshot, name, recording);
}

#[test]
fn a_node_that_only_reports_is_seen_and_binds_nothing() {
    let mut snapshot = of(staged());
    let before = (Barrier::of_all(&snapshot), recoverable(&snapshot));
    // Whatever it reports: another pool's keys, a generation from the future, a foreign key that others have too.
    let foreign = Some(fingerprint(9));
    for (name, report) in [
        ("r1", of_fence(99, 9)),
        ("r2", Report { foreign, ..report(None) }),
        ("r3", Report { foreign, ..report(None) }),
    ] {
        let sync = Sync { seen: Generation::new(1_000), ..sync(1, derives(report)) };
        stored(&mut snapshot, name, &sync);
        assert_eq!(answer(&snapshot, &presence(), &node(name), &sync), Ok(Answer::Nothing));
        let record = &snapshot.nodes[&node(name)];
        assert!(record.only_reports() && !record.is_required() && !record.counts_as_member());
        assert_eq!(node_state(&snapshot.document, &node(name), record, &presence()), NodeState::Reporting);
    }
    assert_eq!((Barrier::of_all(&snapshot), recoverable(&snapshot)), before);
    assert_eq!((conflict(&snapshot), no_common_foreign_key(&snapshot)), (None, Ok(())));
    // Not even ones that were not seen.
    let unseen = blind_to(&["r1", "r2", "r3"]);
    assert_eq!(committed(tick_with(&snapshot, &unseen)).audit.action, Action::Promote);
}

#[test]
fn a_pool_with_only_such_nodes_drives_nothing() {
    let mut snapshot = pool(document(Stage::Empty), &[], &[]);
    stored(&mut snapshot, "r1", &sync(1, derives(report(None))));
    assert_eq!(Barrier::of_all(&snapshot).required, 0);
    assert!(matches!(tick(&snapshot), Step::Wait(_)));
}

#[test]
fn a_frozen_pool_still_hears_reports() {
    let mut snapshot = of(staged());
    let ahead = sync(5, of_fence(50, 7));
    stored(&mut snapshot, "a", &ahead);
    assert_eq!(answer(&snapshot, &presence(), &node("a"), &ahead), Err(SyncRefused::Frozen));
    let reports = sync(1, derives(report(None)));
    stored(&mut snapshot, "r1", &reports);
    assert_eq!(answer(&snapshot, &presence(), &node("r1"), &reports), Ok(Answer::Nothing));
}

#[test]
fn a_node_becomes_required_only_by_a_session_of_its_own() {
    let mut snapshot = of(staged());
    stored(&mut snapshot, "r1", &sync(1, derives(report(None))));
    let one_slot = Report { slot_count: SlotCount::One, ..report(None) };
    stored(&mut snapshot, "o1", &sync(1, one_slot));
    for name in ["r1", "o1"] {
        let take = |ordinal| {
            let sync = sync(ordinal, report(None));
            record(&snapshot.document, snapshot.nodes.get(&node(name)), &node(name), &sync, (&by(), NOW))
        };
        assert_eq!(take(1), Err(SyncRefused::SessionClosed { ordinal: 1 }), "{name}");
        assert!(matches!(take(2), Ok(Recording::First(_))), "{name}");
    }
    // And the other way: no node slips out of a barrier inside a session.
    let out = sync(1, derives(report(None)));
    let result = record(&snapshot.document, snapshot.nodes.get(&node("a")), &node("a"), &out, (&by(), NOW));
    assert_eq!(result, Err(SyncRefused::SessionClosed { ordinal: 1 }));
}

/// Whether a view is frozen, and what it answers to a node that has all it was told, and to one that would be told more.
fn answers(view: PoolView, snapshot: &Snapshot) -> (bool, Result<Answer, SyncRefused>, Result<Answer, SyncRefused>) {
    let report_of = |name: &str| snapshot.nodes[&node(name)].report.clone().unwrap();
    let ask = |name: &str| view.answer(snapshot, &node(name), &sync(1, report_of(name)));
    let more = match ask("late") {
        Ok(Answer::Instruct(instruction)) => {
            assert_eq!(instruction.generation, snapshot.document.generation);
            Ok(Answer::Nothing)
        }
        other => other,
    };
    (view.is_frozen(), ask("a"), more)
}

/// docs/protocol.md#rule-10: after each sync a view is as strict as a new look, without the look.
#[test]
fn a_view_takes_one_sync_in_without_a_look_at_all_nodes() {
    let before = pool(document(staged()), &["a", "b"], &["late"]);
    let ahead = |lead: u64| Report {
        seen: Generation::new(5 + lead),
        ..Report::clone(before.nodes[&node("b")].report.as_ref().unwrap())
    };
    let reports = Report { source: KeySource::Derive, ..ahead(7) }.bounded();
    let (told, nothing) = (Ok(Answer::Nothing), Ok(Answer::Nothing));
    let frozen = || Err(SyncRefused::Frozen);
    for (report, seen, expected) in [
        (ahead(0), true, (false, nothing.clone(), told.clone())),
        (ahead(0), false, (false, nothing.clone(), Err(SyncRefused::NotHeard))),
        (ahead(1), true, (true, frozen(), frozen())),
        (ahead(1_001), true, (true, nothing.clone(), frozen())),
        (ahead(1_001), false, (true, nothing.clone(), frozen())),
        // A node that binds nothing.
        (reports, false, (false, nothing, told)),
    ] {
        let mut life = Life::default();
        life.observe(Duration::ZERO, &before);
        let mut after = before.clone();
        for (name, record) in &mut after.nodes {
            record.syncs += u64::from(seen || *name != node("b"));
        }
        life.observe(Duration::from_secs(1), &after);
        after.nodes.get_mut(&node("b")).unwrap().report = Some(report.into());
        let mut changes = Changes::default();
        changes.note(&node("b"));
        life.follow(Duration::from_secs(2), &after, &changes);
        let view = PoolView::kept(&life, &after.document);
        assert_eq!(view, PoolView::of(&after, life.presence()), "{expected:?}");
        assert_eq!(answers(view, &after), expected);
    }
}

#[test]
fn one_view_answers_as_each_look_would() {
    let unseen = blind_to(&["b"]);
    let mut frozen = of(staged());
    stored(&mut frozen, "a", &sync(5, of_fence(50, 7)));
    let mut excluded = of(staged());
    take_out(&mut excluded, "b", Exclusion::Absent);
    let snapshots = [of(Stage::Empty), of(steady()), of(staged()), with_behind(promoted(0, &["a"])), frozen, excluded];
    let mut kinds = BTreeSet::new();
    for snapshot in &snapshots {
        for presence in [presence(), unseen.clone()] {
            let view = PoolView::of(snapshot, &presence);
            for (name, session) in [("a", 1), ("b", 1), ("b", 2), ("a", 5), ("unknown", 1)] {
                for seen in [0, 4, 5] {
                    let sync = Sync { seen: Generation::new(seen), ..sync(session, report(None)) };
                    let looked = answer(snapshot, &presence, &node(name), &sync);
                    assert_eq!(view.answer(snapshot, &node(name), &sync), looked);
                    // And as the rules define it, spelled out once more.
                    let is_frozen = conflict(snapshot).is_some();
                    assert_eq!(looked == Err(SyncRefused::Frozen), is_frozen);
                    if matches!(looked, Ok(Answer::Instruct(_))) {
                        assert!(presence.unseen_required(snapshot).is_empty());
                    }
                    kinds.insert(format!("{looked:?}").split(['(', ' ', '{']).take(2).collect::<String>());
                }
            }
        }
    }
    assert!(kinds.len() >= 6, "all kinds of answers were compared: {kinds:?}");
}
