//! What the document says of itself, and what lies beside it (docs/protocol.md#rule-1; rules 2, 13).

use super::super::document::{DOCUMENT_BYTES_MAX, KeyRing, Revoke};
use super::super::input::RevokeKeys;
use super::super::record::Exclusion;
use super::*;
use tfo_model::fleet::ExclusionReason;
use tfo_model::key::TfoKey;

#[test]
fn a_key_is_revoked_by_its_epoch_and_by_its_bytes() {
    let mut document = document(steady());
    document.revoked = vec![key(7), key(8)];
    let other = PoolKey { epoch: key(9).epoch, fingerprint: key(8).fingerprint };
    for (key, is_revoked) in [
        (key(7), true),
        (key(8), true),
        (key(9), false),
        (other, true),
        (PoolKey { epoch: key(7).epoch, fingerprint: key(9).fingerprint }, true),
    ] {
        assert_eq!(document.is_revoked(key), is_revoked, "{key:?}");
    }
}

/// Every move that starts another phase or instruction says when, and no other commit does.
#[test]
fn a_document_knows_since_when_it_is_in_its_phase() {
    let revoking = |stage, epoch| {
        let mut document = document(stage);
        document.revoked = vec![key(epoch)];
        document.revoke = Some(Revoke::of([key(epoch)].into(), UnixTime::from_secs(0)));
        pool(document, &["a", "b"], &[])
    };
    let revoke_next = Command::Revoke { keys: RevokeKeys::Epochs([key(3).epoch].into()), deny: BTreeSet::new() };
    let first = Command::FirstKey { expect: expect_number(2), force: false };
    let abort = || Command::Abort { force: false };
    for (step, action, is_new) in [
        (tick(&of(steady())), Action::Rotate, true),
        (tick(&of(staged())), Action::Promote, true),
        (tick(&of(promoted(0, &["a"]))), Action::OpenWave, false),
        (tick(&of(promoted(0, &[]))), Action::Settle, true),
        (tick(&revoking(promoted(0, &[]), 2)), Action::DropRevoked, true),
        (tick(&revoking(steady(), 1)), Action::DropRevoked, true),
        (order(&of(Stage::Empty), first).unwrap(), Action::FirstKey, true),
        (order(&of(staged()), abort()).unwrap(), Action::Abort, true),
        (order(&of(promoted(0, &[])), abort()).unwrap(), Action::Abort, true),
        (order(&of(staged()), revoke_next).unwrap(), Action::Revoke, true),
        (order(&of(staged()), Command::Pause).unwrap(), Action::Pause, false),
        (order(&of(staged()), deny(&["b"])).unwrap(), Action::Deny, false),
    ] {
        let proposal = committed(step);
        let since = if is_new { NOW } else { UnixTime::from_secs(0) };
        assert_eq!((proposal.audit.action, proposal.document.since), (action, since));
    }
}

#[test]
fn a_document_may_have_exactly_its_greatest_length() {
    let mut snapshot = of(steady());
    let paused = |snapshot: &Snapshot, reason_bytes: usize| {
        let reason = "x".repeat(reason_bytes);
        let request = OperatorRequest { operator: node("ops"), reason, if_revision: None, command: Command::Pause };
        handle(snapshot, Now { wall: NOW, presence: &presence() }, &Input::Request(request), None)
    };
    // Some of it in names, so that the text of the pause is short.
    let named = (0..500).map(|number| format!("{number:03}{}", "x".repeat(250)).parse().unwrap());
    snapshot.document.policy.nodes = named.collect();
    let bytes = serde_json::to_vec(&committed(paused(&snapshot, 1).unwrap()).document).unwrap().len();
    let most = 1 + DOCUMENT_BYTES_MAX - bytes;
    assert!(paused(&snapshot, most).is_ok());
    let too_long = Reason::DocumentTooLarge { bytes: DOCUMENT_BYTES_MAX + 1, bytes_max: DOCUMENT_BYTES_MAX };
    assert_eq!(refused(paused(&snapshot, most + 1)), too_long);
}

#[test]
fn a_proposal_says_whether_it_changes_records() {
    let excludes = committed(order(&of(steady()), deny(&["b"])).unwrap());
    let pauses = committed(order(&of(steady()), Command::Pause).unwrap());
    let drops = Proposal { dropped: nodes(&["b"]), ..pauses.clone() };
    assert_eq!([&excludes, &drops, &pauses].map(Proposal::changes_parts), [true, true, false]);
}

#[test]
fn a_ring_keeps_the_bytes_of_the_keys_that_the_document_holds() {
    let bytes = |ring: &KeyRing, epoch: u64| ring.key(key(epoch).epoch).map(|key| *key.expose());
    let mut ring = KeyRing::default();
    for (epoch, byte) in [(1, 9), (1, 1), (2, 2), (3, 3)] {
        ring.insert(key(epoch).epoch, TfoKey::take(&mut [byte; 16]));
    }
    assert_eq!((bytes(&ring, 1), bytes(&ring, 4)), (Some([1; 16]), None), "the later one counts");
    ring.retain_held_by(&document(steady()));
    assert_eq!(ring.epochs().collect::<Vec<_>>(), [key(1).epoch, key(2).epoch]);
    assert_eq!((bytes(&ring, 2), bytes(&ring, 3)), (Some([2; 16]), None));
}

#[test]
fn an_exclusion_has_a_name_unless_it_is_a_state_of_its_own() {
    for (exclusion, reason) in [
        (Exclusion::Absent, Some(ExclusionReason::Absent)),
        (Exclusion::LeftBehind, Some(ExclusionReason::LeftBehind)),
        (Exclusion::Operator { until: NOW }, Some(ExclusionReason::Operator)),
        (Exclusion::Forgotten, None),
        (Exclusion::Moved { to: pool_id() }, None),
        (Exclusion::Denied, None),
    ] {
        assert_eq!(exclusion.reason(), reason);
    }
}
