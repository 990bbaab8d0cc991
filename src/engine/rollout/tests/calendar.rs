//! The calendar delays the schedule and an operator's `rotate`, and nothing else.

use super::super::ahead::{calendar, next_rotation_at};
use super::super::calendar::{Freeze, When};
use super::super::input::RevokeKeys;
use super::super::verdict::{Beside, verdict};
use super::*;
use tfo_model::fleet::BlockedBy;

const ROTATE: Command = Command::Rotate { force: false };

/// A pool whose key is due at `NOW`, or as many seconds later, with a span of so many seconds around the instant at which it
/// is due.
fn frozen(due_in: u64, from: u64, until: u64) -> Snapshot {
    let mut snapshot = of(steady());
    let policy = &mut snapshot.document.policy;
    let span = |secs| UnixTime::from_secs(secs);
    policy.freeze =
        vec![Freeze { when: When::Once { from: span(from), until: span(until) }, reason: "sale".to_owned() }];
    snapshot.document.rotated_at = NOW.minus(policy.interval_secs).plus(due_in);
    snapshot
}

#[test]
fn a_rotation_that_is_due_in_a_span_starts_after_it() {
    let now = NOW.secs();
    // (due in, span from, until) -> (gate, when it opens); none if it starts now.
    for (due_in, from, until, expected) in [
        (0, now, now + 60, Some((BlockedBy::Calendar, now + 60))),
        (0, now - 60, now + 1, Some((BlockedBy::Calendar, now + 1))),
        (0, now - 60, now, None),
        (0, now + 1, now + 60, None),
        // Not due yet: the end of the span that it falls into.
        (10, now + 5, now + 60, Some((BlockedBy::Schedule, now + 60))),
        (10, now - 5, now + 60, Some((BlockedBy::Schedule, now + 60))),
        (10, now - 5, now + 10, Some((BlockedBy::Schedule, now + 10))),
        (10, now + 11, now + 60, Some((BlockedBy::Schedule, now + 10))),
    ] {
        let snapshot = frozen(due_in, from, until);
        let step = tick(&snapshot);
        let presence = presence();
        let ahead = next_rotation_at(&snapshot, Now { wall: NOW, presence: &presence });
        match expected {
            None => assert_eq!(committed(step).audit.action, Action::Rotate, "{due_in} {from} {until}"),
            Some((gate, at)) => {
                let wait = waits(step);
                let at = UnixTime::from_secs(at);
                assert_eq!((wait.blocked_by, wait.next_at), (gate, Some(at)), "{due_in} {from} {until}");
                assert_eq!(ahead, Some(at), "{due_in} {from} {until}");
            }
        }
    }
}

#[test]
fn what_runs_or_is_forced_does_not_wait_for_the_calendar() {
    let now = NOW.secs();
    let snapshot = frozen(0, now - 60, now + 60);
    let refused = order(&snapshot, ROTATE).unwrap_err();
    let until = UnixTime::from_secs(now + 60);
    let says = format!("the pool's calendar lets no rotation start before {until} (sale) (phase steady)");
    assert_eq!((refused.to_string(), refused.until()), (says, Some(until)));
    assert!(refused.remedy().contains("--force"), "{}", refused.remedy());
    let forced = order(&snapshot, Command::Rotate { force: true }).unwrap();
    assert_eq!(committed(forced).audit.action, Action::Rotate);
    let revoke = Command::Revoke { keys: RevokeKeys::AllInstructed, deny: BTreeSet::new() };
    assert_eq!(committed(order(&snapshot, revoke).unwrap()).audit.action, Action::Revoke);
    // Every phase of a rotation that runs.
    for (stage, action) in [(staged(), Action::Promote), (promoted(0, &[]), Action::Settle)] {
        let mut running = of(stage);
        running.document.policy.freeze = snapshot.document.policy.freeze.clone();
        assert_eq!(committed(tick(&running)).audit.action, action);
    }
}

#[test]
fn the_verdict_and_what_is_ahead_name_the_span() {
    let now = NOW.secs();
    let presence = presence();
    let at = Now { wall: NOW, presence: &presence };
    for (due_in, from, until, opens) in [(0, now - 60, now + 60, now + 60), (10, now + 5, now + 60, now + 60)] {
        let snapshot = frozen(due_in, from, until);
        let opens = UnixTime::from_secs(opens);
        let found = verdict(&snapshot, at, Beside::default());
        let says = format!("the next rotation is due at {opens}: the calendar lets none start before (sale)");
        assert!(found.sentence.ends_with(&says), "{}", found.sentence);
        assert_eq!(
            calendar(&snapshot, at).map(|(freeze, span)| (freeze.reason.as_str(), span.until)),
            Some(("sale", opens))
        );
    }
    // A span that delays nothing is not named.
    let later = frozen(10, now + 60, now + 90);
    assert!(!verdict(&later, at, Beside::default()).sentence.contains("calendar"));
    assert_eq!(calendar(&later, at), None);
}
