//! One stolen node against the pool: whatever it reports, promises, or keeps to itself, an operator drives its key out
//! (docs/protocol.md#rule-10; rules 11, 13).

use std::time::Duration;

use super::super::barrier::Conflict;
use super::super::input::RevokeKeys;
use super::super::presence::{Life, THAW};
use super::super::sync::{Recording, record};
use super::presence::shown;
use super::*;
use tfo_model::fleet::BlockedBy;

const REVOKE_ALL: RevokeKeys = RevokeKeys::AllInstructed;

fn revoke(deny: &[&str]) -> Command {
    Command::Revoke { keys: REVOKE_ALL, deny: nodes(deny) }
}

/// Steady on a and b; the stolen node `evil` has acknowledged, and declares the longest period.
fn robbed(stage: Stage) -> Snapshot {
    let mut snapshot = pool(document(stage), &["a", "b", "evil"], &[]);
    let longest = snapshot.document.policy.period_max_secs;
    snapshot.nodes.get_mut(&node("evil")).unwrap().report.as_mut().unwrap().next_sync_secs = longest;
    snapshot
}

/// The same, and `evil` reports a generation so far ahead.
fn frozen(lead: u64) -> Snapshot {
    let mut snapshot = robbed(steady());
    let generation = Generation::new(5 + lead);
    snapshot.nodes.get_mut(&node("evil")).unwrap().report.as_mut().unwrap().seen = generation;
    snapshot
}

#[test]
fn no_word_is_needed_from_the_node_that_is_taken_out() {
    let unseen = blind_to(&["evil"]);
    let out = [deny(&["evil"]), forget(&["evil"]), exclude(&["evil"], NOW.plus(60))];
    for stage in [steady(), staged(), promoted(0, &["a"])] {
        for snapshot in [robbed(stage), frozen(7)] {
            for command in &out {
                let taken_out = committed(order_with(&snapshot, &unseen, command.clone()).unwrap());
                assert_eq!((taken_out.audit.nodes.clone(), rise(&snapshot, &taken_out)), (nodes(&["evil"]), 0));
            }
            let revoked = committed(order_with(&snapshot, &unseen, revoke(&["evil"])).unwrap());
            assert!(revoked.audit.nodes.contains(&node("evil")) && revoked.document.revoke.is_some());
        }
    }
}

#[test]
fn a_revoke_that_denies_the_liar_thaws_the_pool_and_another_liar_keeps_it_frozen() {
    let mut snapshot = frozen(7);
    assert!(matches!(refused(order(&snapshot, revoke(&[]))), Reason::Frozen { .. }));
    assert!(matches!(refused(order(&snapshot, revoke(&["a"]))), Reason::Frozen { .. }));
    snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap().seen = Generation::new(6);
    let reason = refused(order(&snapshot, revoke(&["evil"])));
    assert_eq!(reason, Reason::Frozen { node: node("b"), generation: Generation::new(6) });
    let revoked = committed(order(&snapshot, revoke(&["b", "evil"])).unwrap());
    assert_ne!(waits_or_none(&after_commit(&snapshot, &revoked)), Some(BlockedBy::Frozen));
    // A conflict that was seen less than a minute ago counts as one, but for that of a node that is denied now.
    let conflict = Conflict { node: node("evil"), generation: Generation::new(9), witnesses: 1 };
    let thawing = Presence { thawing: Some(conflict), ..presence() };
    let reason = refused(order_with(&robbed(steady()), &thawing, revoke(&["a"])));
    assert_eq!(reason, Reason::Frozen { node: node("evil"), generation: Generation::new(9) });
    assert!(order_with(&robbed(steady()), &thawing, revoke(&["evil"])).is_ok());
}

fn waits_or_none(snapshot: &Snapshot) -> Option<BlockedBy> {
    match tick(snapshot) {
        Step::Wait(wait) => Some(wait.blocked_by),
        Step::MakeKey { .. } | Step::Commit(_) | Step::Part(_) => None,
    }
}

#[test]
fn a_revoke_waits_for_nodes_that_were_not_seen_until_the_short_barrier_and_leaves_them_behind() {
    let snapshot = robbed(steady());
    let after = |secs| Presence { phase_secs: secs, wave_secs: secs, ..blind_to(&["b"]) };
    assert_eq!(refused(order_with(&snapshot, &after(299), revoke(&["evil"]))), Reason::NotHeard(vec![node("b")]));
    let revoked = committed(order_with(&snapshot, &after(300), revoke(&["evil"])).unwrap());
    assert_eq!(revoked.audit.nodes, nodes(&["b", "evil"]));
    assert_eq!(revoked.document.revoke.unwrap().left_behind, nodes(&["b"]));
    // The one that is not denied promised to be back in two hours, and is believed that long.
    let evil = |secs| Presence { phase_secs: secs, wave_secs: secs, ..blind_to(&["evil"]) };
    assert_eq!(refused(order_with(&snapshot, &evil(7_199), revoke(&[]))), Reason::NotHeard(vec![node("evil")]));
    assert!(order_with(&snapshot, &evil(7_200), revoke(&[])).is_ok());
    // Not below `min_present`.
    let alone = Presence { phase_secs: 300, wave_secs: 300, ..blind_to(&["a", "b"]) };
    let reason = refused(order_with(&snapshot, &alone, revoke(&["evil"])));
    assert_eq!(reason, Reason::TooFew { left: 0, needed: 1 });
}

#[test]
fn a_running_revoke_leaves_nodes_behind_that_a_new_life_has_not_seen() {
    let mut snapshot = robbed(steady());
    let revoked = committed(order(&snapshot, revoke(&["evil"])).unwrap());
    snapshot.document = revoked.document;
    let after = |secs| Presence { phase_secs: secs, wave_secs: secs, ..blind_to(&["b"]) };
    assert_eq!(waits(tick_with(&snapshot, &after(299))).waiting_for, vec![node("b")]);
    let left = committed(tick_with(&snapshot, &after(300)));
    assert_eq!((left.audit.nodes, left.document.revoke.unwrap().left_behind), (nodes(&["b"]), nodes(&["b"])));
}

#[test]
fn a_period_is_refused_above_the_policys_and_believed_up_to_it() {
    let document = document(steady());
    let declares = |next_sync_secs| {
        let report = Report { next_sync_secs, ..report(None) };
        record(&document, None, &node("new"), &sync(1, report), (&by(), NOW))
    };
    assert!(matches!(declares(7_200), Ok(Recording::First(_))));
    let refused = SyncRefused::PeriodTooLong { declared_secs: 7_201, max_secs: 7_200 };
    assert_eq!(declares(7_201), Err(refused));
    // One that an earlier policy allowed counts up to the present one.
    let mut snapshot = robbed(steady());
    snapshot.nodes.get_mut(&node("evil")).unwrap().report.as_mut().unwrap().next_sync_secs = 604_800;
    let mut life = Life::default();
    let policy = &snapshot.document.policy;
    let limit = policy.absence_limit(policy.period_max_secs, 0).as_secs();
    let mut is_absent = |at| {
        // Another node is heard all the time.
        snapshot.nodes.get_mut(&node("a")).unwrap().syncs += 1;
        life.observe(Duration::from_secs(at), &snapshot);
        shown(&life, &snapshot).absent.contains(&node("evil"))
    };
    assert!((0..=limit).step_by(10).all(|at| !is_absent(at)));
    assert!(is_absent(limit + 10));
}

#[test]
fn one_distant_witness_stops_commits_and_no_node_that_has_what_it_was_told() {
    let ask = |snapshot: &Snapshot, name: &str| {
        let record = &snapshot.nodes[&node(name)];
        let sync =
            Sync { session: record.session.unwrap(), seen: Generation::ZERO, report: record.report.clone().unwrap() };
        answer(snapshot, &presence(), &node(name), &sync)
    };
    for (lead, is_silent) in [(7, true), (1_000, true), (1_001, false), (900_000_000, false)] {
        let mut snapshot = frozen(lead);
        assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Frozen, "{lead}");
        let expected = if is_silent { Err(SyncRefused::Frozen) } else { Ok(Answer::Nothing) };
        assert_eq!(ask(&snapshot, "a"), expected, "{lead}");
        // A node that would be told something new is refused, whether the witness lies or not.
        let behind = pool(snapshot.document.clone(), &[], &["late"]);
        snapshot.nodes.extend(behind.nodes);
        assert_eq!(ask(&snapshot, "late"), Err(SyncRefused::Frozen), "{lead}");
        // A second witness, and nothing is confirmed any more.
        snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap().seen = Generation::new(5 + lead);
        assert_eq!(ask(&snapshot, "a"), Err(SyncRefused::Frozen), "{lead}");
    }
}

#[test]
fn a_pool_thaws_a_minute_after_the_last_conflict_or_by_an_operator() {
    let (modest, lies) = (robbed(steady()), frozen(7));
    let is_frozen = |life: &Life, snapshot: &Snapshot| {
        let presence = shown(life, snapshot);
        matches!(
            handle(snapshot, Now { wall: NOW, presence: &presence }, &Input::Tick, None).unwrap(),
            Step::Wait(Wait { blocked_by: BlockedBy::Frozen, .. })
        )
    };
    // Another node is heard each time.
    let look = |life: &mut Life, at: Duration, snapshot: &Snapshot| {
        let mut heard = snapshot.clone();
        heard.nodes.get_mut(&node("a")).unwrap().syncs += at.as_secs();
        life.observe(at, &heard);
    };
    let mut life = Life::default();
    // It says this and that each second: one freeze.
    for at in 0..10 {
        let snapshot = if at % 2 == 0 { &lies } else { &modest };
        look(&mut life, Duration::from_secs(at), snapshot);
        assert!(is_frozen(&life, snapshot), "{at}");
    }
    let (mut by_itself, last) = (life.clone(), 8);
    for at in 10..last + THAW.as_secs() {
        look(&mut by_itself, Duration::from_secs(at), &modest);
        assert!(is_frozen(&by_itself, &modest), "{at}");
    }
    look(&mut by_itself, Duration::from_secs(last) + THAW, &modest);
    assert!(!is_frozen(&by_itself, &modest));
    // An operator's commit thaws it at once.
    let mut denied = modest.clone();
    denied.document.revision = denied.document.revision.next().unwrap();
    look(&mut life, Duration::from_secs(11), &denied);
    assert!(!is_frozen(&life, &denied));
}

#[test]
fn counters_that_jump_restart_their_window() {
    let document = document(steady());
    let start = Counters { passive: 1_000, passive_alt_key: 500, passive_fail: 0 };
    let counts = |counters| Report { counters: Some(counters), ..report(None) };
    let empty = Snapshot { document, nodes: BTreeMap::new(), beats: BTreeMap::new() };
    let recorded = |before: &Snapshot, counters, at| {
        let (evil, sync) = (node("evil"), sync(1, counts(counters)));
        record(&before.document, before.nodes.get(&evil), &evil, &sync, (&by(), at)).unwrap()
    };
    let before = after_sync(&empty, "evil", recorded(&empty, start, NOW));
    let plus = |passive, passive_fail| start.plus(&Counters { passive, passive_alt_key: 0, passive_fail });
    for (counters, secs, is_believed) in [
        (plus(60_000_000, 0), 60, true),
        (plus(60_000_001, 0), 60, false),
        (plus(1 << 62, 0), 60, false),
        (plus(0, 1_000_000_000_000), 3_600, false),
        (plus(1_000_000, 0), 0, true),
    ] {
        let window = ack_of(recorded(&before, counters, NOW.plus(secs))).window.unwrap();
        assert_eq!(window.last, counters);
        assert_eq!(window.first, if is_believed { start } else { counters }, "{counters:?} in {secs} s");
    }
}

#[test]
fn no_node_outweighs_all_others() {
    let counters = |passive, passive_alt_key, passive_fail| Counters { passive, passive_alt_key, passive_fail };
    let window = |phase, epoch, last| {
        Some(Window { phase, epoch: Epoch::new(epoch).unwrap(), first: Counters::default(), last })
    };
    // Half of the honest nodes' cookies are the old key's; the liar's are all new, however many.
    let mut snapshot = robbed(steady());
    snapshot.document.since = NOW;
    for name in ["a", "b"] {
        snapshot.nodes.get_mut(&node(name)).unwrap().window = window(Phase::Steady, 2, counters(5_000, 2_500, 0));
    }
    snapshot.nodes.get_mut(&node("evil")).unwrap().window = window(Phase::Steady, 2, counters(50_000_000, 0, 0));
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Drain, "a quarter of all, not a millionth");
    // One node has all clients, and the others next to none: it is judged, and by its shares.
    for name in ["a", "b"] {
        snapshot.nodes.get_mut(&node(name)).unwrap().window = window(Phase::Steady, 2, counters(1, 0, 0));
    }
    assert_eq!(committed(tick(&snapshot)).audit.action, Action::Rotate);
}
