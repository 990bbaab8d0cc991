//! What a refusal says, and what a `resume` would waive.

use super::super::ahead::{Waiver, next_exclusion, waiver};
use super::*;

/// A pool that is steady since a second ago, whose node a has counted these cookies.
fn draining(accepted: u64, by_backup: u64) -> Snapshot {
    let mut snapshot = of(steady());
    snapshot.document.since = UnixTime::from_secs(199_999);
    let last = Counters { passive: accepted, passive_alt_key: by_backup, passive_fail: 0 };
    let window = Window { phase: Phase::Steady, epoch: Epoch::new(2).unwrap(), first: Counters::default(), last };
    snapshot.nodes.get_mut(&node("a")).unwrap().window = Some(window);
    snapshot
}

#[test]
fn a_refusal_has_the_reason_first_then_the_phase_and_the_time_until_which_it_holds() {
    let refusal = |snapshot: &Snapshot, command| {
        let refused = order(snapshot, command).unwrap_err();
        (refused.to_string(), refused.until())
    };
    let rotate = || Command::Rotate { force: false };
    let until = UnixTime::from_secs(199_999 + 6 * 3_600);
    let opens = format!("; the gate opens at {until} at the latest (phase steady)");
    for (accepted, by_backup, says) in [
        (
            0,
            0,
            "no node has counted a cookie since the last rotation, so clients may still use cookies of the backup key",
        ),
        (
            5,
            0,
            "only 5 cookies were counted since the last rotation, so clients may still use cookies of the backup key",
        ),
        (
            99,
            99,
            "only 99 cookies were counted since the last rotation, so clients may still use cookies of the backup key",
        ),
        (100, 50, "clients still use cookies of the backup key (50% of 100 accepted)"),
        (1_000, 123, "clients still use cookies of the backup key (12.3% of 1000 accepted)"),
    ] {
        assert_eq!(refusal(&draining(accepted, by_backup), rotate()), (format!("{says}{opens}"), Some(until)));
    }
    let cases = [
        (with_behind(steady()), Command::Rotate { force: true }, "not acknowledged by: b (phase steady)"),
        (of(steady()), Command::Abort { force: false }, "there is no rotation to abort (phase steady)"),
        (of(steady()), forget(&["x", "y"]), "the pool has no node x, y (phase steady)"),
        (of(Stage::Empty), Command::Resume { force: false }, "neither paused nor held (phase empty)"),
    ];
    for (snapshot, command, says) in cases {
        assert_eq!(refusal(&snapshot, command), (says.to_owned(), None));
    }
}

#[test]
fn every_refusal_has_a_remedy_that_helps_in_its_phase() {
    let remedy = |snapshot: &Snapshot, command| order(snapshot, command).unwrap_err().remedy();
    let resume = || Command::Resume { force: false };
    // No circle: an empty pool needs a key, whatever `tfoctl pools` says about it.
    assert!(remedy(&of(Stage::Empty), resume()).contains("tfoctl rotate --first"));
    assert!(remedy(&of(steady()), Command::Abort { force: false }).contains("tfoctl rotate"));
    assert!(remedy(&of(staged()), Command::Rotate { force: true }).contains("tfoctl abort"));
    assert!(remedy(&draining(0, 0), Command::Rotate { force: false }).contains("--force"));
    let mut few = of(steady());
    few.document.expected = 3;
    assert!(remedy(&few, Command::Rotate { force: false }).contains("tfoctl expect"));
}

/// A pool whose health gate has stopped the first of two named waves: a of a, b, c, d.
fn stopped() -> Snapshot {
    let mut snapshot = pool(document(promoted(0, &["a", "c"])), &["a", "b", "c", "d"], &[]);
    let counted = |phase, rejected| {
        let last = Counters { passive: 1_000 - rejected, passive_alt_key: 0, passive_fail: rejected };
        Some(Window { phase, epoch: Epoch::new(3).unwrap(), first: Counters::default(), last })
    };
    let record = snapshot.nodes.get_mut(&node("a")).unwrap();
    (record.baseline, record.window) = (counted(Phase::Staged, 1), counted(Phase::Promoted, 120));
    let proposal = committed(tick(&snapshot));
    assert_eq!(proposal.audit.action, Action::Unhealthy);
    Snapshot { document: proposal.document, ..snapshot }
}

fn waived(snapshot: &Snapshot) -> Option<Waiver> {
    let presence = presence();
    waiver(snapshot, Now { wall: NOW, presence: &presence })
}

#[test]
fn a_waiver_names_the_shares_and_exactly_the_nodes_that_a_resume_gives_the_key() {
    let snapshot = stopped();
    let found = waived(&snapshot).unwrap();
    assert_eq!((found.wave, found.of, &found.next), (1, 3, &vec![node("c")]));
    assert_eq!((found.rejected.to_string(), found.baseline.to_string()), ("12%".to_owned(), "0.1%".to_owned()));
    // The next wave takes in just those.
    let resumed = committed(order(&snapshot, Command::Resume { force: false }).unwrap());
    let resumed = Snapshot { document: resumed.document, ..snapshot };
    assert_eq!(waived(&resumed), None, "nothing is waived any more");
    let opened = committed(tick(&resumed));
    assert_eq!((opened.audit.action, opened.audit.nodes), (Action::OpenWave, found.next.into_iter().collect()));
}

#[test]
fn the_share_in_a_waiver_is_that_of_now() {
    let mut snapshot = stopped();
    let window = snapshot.nodes.get_mut(&node("a")).unwrap().window.as_mut().unwrap();
    window.last.passive_fail += 880;
    window.last.passive += 120;
    assert_eq!(waived(&snapshot).unwrap().rejected.to_string(), "50%");
}

#[test]
fn an_operators_pause_and_other_phases_waive_nothing() {
    let mut by_operator = stopped();
    by_operator.document.paused = Some(pause());
    for snapshot in [by_operator, of(staged()), of(steady()), of(promoted(0, &["a"]))] {
        assert_eq!(waived(&snapshot), None);
    }
}

#[test]
fn the_next_exclusion_is_that_of_the_first_silent_node_in_the_way() {
    use super::super::presence::Life;
    use super::presence::shown;
    use std::time::Duration;

    // Both nodes declare 30 s, and absent_after is 600 s, with a hold and two beats 820 s; b and c are behind, and d has acknowledged.
    let snapshot = pool(document(staged()), &["a", "d"], &["b", "c"]);
    let mut life = Life::default();
    let later = |life: &mut Life, snapshot: &Snapshot, secs: u64| life.observe(Duration::from_secs(secs), snapshot);
    let next = |life: &Life, snapshot: &Snapshot| {
        let presence = shown(life, snapshot);
        let at = next_exclusion(snapshot, Now { wall: NOW, presence: &presence });
        at.map(|at| at.secs_since(NOW))
    };
    later(&mut life, &snapshot, 0);
    assert_eq!(next(&life, &snapshot), Some(821), "no node was seen in this life");
    let mut synced = snapshot.clone();
    synced.nodes.values_mut().for_each(|record| record.syncs += 1);
    later(&mut life, &synced, 10);
    assert_eq!(next(&life, &synced), None, "all have reported, and are only behind");
    for secs in [20, 30, 40, 50] {
        later(&mut life, &synced, secs);
    }
    assert_eq!(next(&life, &synced), Some(781), "b and c have missed their period");
    synced.nodes.get_mut(&node("b")).unwrap().syncs += 1;
    synced.nodes.get_mut(&node("c")).unwrap().syncs += 1;
    later(&mut life, &synced, 60);
    assert_eq!(next(&life, &synced), None, "d is silent, and not in the way");
    // None is excluded if the policy is to wait, or if too few would be left.
    let mut waits = snapshot.clone();
    waits.document.policy.absent_policy = super::super::policy::AbsentPolicy::Wait;
    let mut needed = snapshot.clone();
    needed.document.policy.min_present = Share::ALL;
    let fresh = |snapshot: &Snapshot| {
        let mut life = Life::default();
        life.observe(Duration::ZERO, snapshot);
        next(&life, snapshot)
    };
    assert_eq!((fresh(&waits), fresh(&needed), fresh(&snapshot)), (None, None, Some(821)));
    // A revoke leaves behind every node that is behind.
    let mut revoking = synced.clone();
    revoking.document.revoked = vec![key(2)];
    let keys = [key(2)].into();
    let revoke = super::super::document::Revoke::of(keys, NOW);
    revoking.document.revoke = Some(revoke);
    later(&mut life, &revoking, 61);
    assert_eq!(next(&life, &revoking), Some(300), "revoke_barrier_max");
}
