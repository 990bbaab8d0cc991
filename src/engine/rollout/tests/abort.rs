//! Abort and revoke: moves of the same kind, without a barrier.

use super::super::document::{Hold, Revoke};
use super::super::input::RevokeKeys;
use super::super::record::Exclusion;
use super::*;

const ABORT: Command = Command::Abort { force: false };

fn revoke(epochs: &[u64]) -> Command {
    let epochs = epochs.iter().map(|epoch| Epoch::new(*epoch).unwrap()).collect();
    Command::Revoke { keys: RevokeKeys::Epochs(epochs), deny: BTreeSet::new() }
}

#[test]
fn an_abort_turns_back_without_a_barrier_and_holds() {
    let rests = Stage::Steady { current: key(2), backup: Some(key(3)) };
    for (from, to) in [(staged(), steady()), (promoted(0, &["a"]), rests.clone()), (promoted(0, &[]), rests)] {
        let snapshot = with_behind(from);
        let proposal = committed(order(&snapshot, ABORT).unwrap());
        assert_eq!(proposal.document.stage, to);
        assert_eq!(proposal.document.hold, Some(Hold::Aborted));
        assert_eq!(proposal.document.next_epoch, snapshot.document.next_epoch, "the epoch stays burnt");
        assert_eq!((proposal.audit.action, rise(&snapshot, &proposal)), (Action::Abort, 1));
        assert_eq!(proposal.audit.reason, "because");
    }
}

#[test]
fn there_is_nothing_to_abort_between_rotations() {
    for stage in [Stage::Empty, steady()] {
        assert!(matches!(refused(order(&of(stage), ABORT)), Reason::WrongPhase(_)));
    }
}

#[test]
fn an_abort_does_not_bring_a_revoked_backup_back() {
    let mut snapshot = of(staged());
    snapshot.document.revoked = vec![key(1)];
    let proposal = committed(order(&snapshot, ABORT).unwrap());
    assert_eq!(proposal.document.stage, Stage::Steady { current: key(2), backup: None });
}

#[test]
fn an_abort_of_a_revoke_needs_force_and_withdraws_it() {
    let mut snapshot = of(promoted(0, &[]));
    snapshot.document.revoked = vec![key(9), key(2)];
    snapshot.document.revoke = Some(Revoke::of([key(2)].into(), UnixTime::from_secs(0)));
    assert_eq!(refused(order(&snapshot, ABORT)), Reason::RevokeRuns);
    let proposal = committed(order(&snapshot, Command::Abort { force: true }).unwrap());
    assert_eq!(proposal.document.stage, Stage::Steady { current: key(2), backup: Some(key(3)) });
    assert_eq!((proposal.document.revoked, proposal.document.revoke), (vec![key(9)], None));
}

/// Turned back to a key that an earlier revoke drives out, the pool does not rest: the walk continues (rule 13).
#[test]
fn a_revoke_of_the_next_key_does_not_hold_a_pool_that_is_leaving_the_current_one() {
    for (revoked, is_held) in [(None, true), (Some(key(2)), false)] {
        let mut snapshot = with_behind(staged());
        snapshot.document.revoked = Vec::from_iter(revoked);
        snapshot.document.revoke = revoked.map(|key| Revoke::of([key].into(), UnixTime::from_secs(0)));
        let proposal = committed(order(&snapshot, revoke(&[3])).unwrap());
        assert_eq!((proposal.document.stage, proposal.document.hold.is_some()), (steady(), is_held), "{revoked:?}");
    }
}

/// docs/protocol.md#rule-13, case by case: (from, revoked, to, rise, held).
#[test]
fn every_case_of_a_revoke() {
    let back = Stage::Steady { current: key(2), backup: Some(key(3)) };
    let without_prior = Stage::Staged { current: key(2), next: key(3), prior_backup: None };
    let cases: [(Stage, &[u64], Stage, u64, bool); 9] = [
        (steady(), &[1], steady(), 0, false),
        (steady(), &[2], steady(), 0, false),
        (steady(), &[1, 2], steady(), 0, false),
        (staged(), &[1], without_prior, 0, false),
        (staged(), &[2], staged(), 0, false),
        (staged(), &[3], steady(), 1, true),
        (staged(), &[2, 3], steady(), 1, false),
        (promoted(0, &["a"]), &[3], back.clone(), 1, true),
        (promoted(0, &[]), &[2, 3], back, 1, false),
    ];
    for (from, epochs, to, by, is_held) in cases {
        let snapshot = with_behind(from.clone());
        let proposal = committed(order(&snapshot, revoke(epochs)).unwrap());
        assert_eq!(proposal.document.stage, to, "{epochs:?} in {from:?}");
        assert_eq!(rise(&snapshot, &proposal), by, "{epochs:?} in {from:?}");
        assert_eq!(proposal.document.hold.is_some(), is_held, "{epochs:?} in {from:?}");
        let revoked: Vec<u64> = proposal.document.revoked.iter().map(|key| key.epoch.get()).collect();
        assert_eq!(revoked, epochs);
        // It is under way exactly as long as one of its keys is in a slot.
        let held = proposal.document.keys_held();
        let is_under_way = held.iter().any(|key| epochs.contains(&key.epoch.get()));
        assert_eq!(proposal.document.revoke.is_some(), is_under_way, "{epochs:?} in {from:?}");
    }
}

#[test]
fn a_revoke_of_everything_told_leaves_the_prior_backup_out() {
    let all = Command::Revoke { keys: RevokeKeys::AllInstructed, deny: nodes(&["b", "never-seen"]) };
    let proposal = committed(order(&of(staged()), all).unwrap());
    assert_eq!(proposal.document.revoked, vec![key(2), key(3)]);
    assert_eq!(proposal.audit.nodes, nodes(&["b", "never-seen"]));
    let excluded: Vec<_> = proposal.exclusions.values().map(|excluded| (excluded.cause, excluded.closes)).collect();
    assert_eq!(excluded, [(Exclusion::Denied, Some(Session { ordinal: 1, nonce: 1 })), (Exclusion::Denied, None)]);
    let after = after_commit(&of(staged()), &proposal);
    assert!(["b", "never-seen"].iter().all(|name| after.nodes[&node(name)].is_denied()));
}

#[test]
fn a_key_that_is_in_no_slot_cannot_be_revoked() {
    assert_eq!(refused(order(&of(steady()), revoke(&[3]))), Reason::NoSuchKey);
    assert_eq!(refused(order(&of(Stage::Empty), revoke(&[1]))), Reason::NoSuchKey);
}

#[test]
fn the_list_of_revoked_keys_is_bounded() {
    let mut snapshot = of(steady());
    snapshot.document.revoked = (1_000..1_000 + super::super::document::REVOKED_MAX as u64).map(key).collect();
    let proposal = committed(order(&snapshot, revoke(&[1])).unwrap());
    assert_eq!(proposal.document.revoked.len(), super::super::document::REVOKED_MAX);
    assert_eq!(proposal.document.revoked.last(), Some(&key(1)));
}

#[test]
fn a_revoke_does_not_stand_still_behind_a_pause() {
    use super::super::document::{Pause, PauseCause};
    use super::super::policy::Share;
    let mut snapshot = of(promoted(0, &["a"]));
    let (rejected, baseline) = (Share::HALF, Share::of(0, 0));
    let cause = PauseCause::Health { rejected, baseline, worst: vec![node("a")] };
    snapshot.document.paused = Some(Pause { since: NOW, cause });
    let proposal = committed(order(&snapshot, revoke(&[2])).unwrap());
    assert_eq!(proposal.document.paused, None, "a revoke walks without gates");
    snapshot.document.paused = Some(pause());
    assert_eq!(refused(order(&snapshot, revoke(&[2]))), Reason::Paused);
}

#[test]
fn neither_abort_nor_revoke_lifts_the_hold_of_a_first_key() {
    let hold = Some(Hold::FirstKey { expect: expect_number(9) });
    let mut snapshot = of(staged());
    snapshot.document.hold = hold.clone();
    let proposal = committed(order(&snapshot, Command::Abort { force: true }).unwrap());
    assert_eq!(proposal.document.hold, hold);
    let proposal = committed(order(&snapshot, revoke(&[3])).unwrap());
    assert_eq!(proposal.document.hold, hold);
}
