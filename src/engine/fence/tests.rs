//! Answers that a node takes, refuses, or has taken already.

use super::*;
use crate::rollout::slots::{PoolKey, Slots};
use crate::rollout::sync::REPORT_LEAD_MAX;
use tfo_model::count::Epoch;
use tfo_model::key::KeyFingerprint;

const NOW: Duration = Duration::from_secs(100);
const ABSENT_AFTER: Duration = Duration::from_secs(60);

fn pool_id() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn key(epoch: u64) -> PoolKey {
    let fingerprint = KeyFingerprint::from_bytes(epoch.to_be_bytes());
    PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint }
}

fn instruction(generation: u64, primary: u64, backup: Option<u64>) -> Instruction {
    let slots = Slots { primary: key(primary), backup: backup.map(key) };
    Instruction { generation: Generation::new(generation), slots }
}

fn fence(instruction: Instruction) -> Fence {
    Fence::of(pool_id(), &instruction)
}

fn link(held: Option<Instruction>) -> Link {
    Link::start(held.map(fence), Session { ordinal: 5, nonce: 1 }, NOW)
}

fn of(pool_id: PoolId, instruction: &Instruction) -> PoolAnswer {
    PoolAnswer { pool_id, instruction: *instruction, absent_after: ABSENT_AFTER }
}

fn answer(link: &mut Link, request: RequestId, instruction: &Instruction) -> Result<AnswerAccepted, AnswerRefused> {
    link.answered(request, &of(pool_id(), instruction), NOW)
}

#[test]
fn the_fence_judges_pool_generation_and_keys() {
    let held = fence(instruction(5, 2, Some(3)));
    let judged = |instruction: &Instruction| check_answer(Some(&held), &pool_id(), instruction);
    assert_eq!(judged(&instruction(6, 3, Some(2))), Ok(AnswerAccepted::Install));
    assert_eq!(
        judged(&instruction(900, 9, None)),
        Ok(AnswerAccepted::Install),
        "any number of generations may be missed"
    );
    assert_eq!(judged(&instruction(5, 2, Some(3))), Ok(AnswerAccepted::Same));
    let (low, high) = (Generation::new(4), Generation::new(5));
    assert_eq!(judged(&instruction(4, 2, Some(1))), Err(AnswerRefused::LowerGeneration { held: high, answered: low }));
    for other in [instruction(5, 2, Some(4)), instruction(5, 3, Some(2)), instruction(5, 2, None)] {
        assert_eq!(judged(&other), Err(AnswerRefused::OtherKeys { generation: high }));
    }
    let other: PoolId = "ffffffffffffffffffffffffffffffff".parse().unwrap();
    let refused = check_answer(Some(&held), &other, &instruction(6, 3, Some(2)));
    assert_eq!(refused, Err(AnswerRefused::OtherPool { held: pool_id(), answered: other }));
    assert_eq!(check_answer(None, &other, &instruction(1, 1, None)), Ok(AnswerAccepted::Install));
    // As far ahead as coordinators believe a node, and no further: 2^64-1 would refuse every answer after it.
    let last = 5 + REPORT_LEAD_MAX;
    assert_eq!(judged(&instruction(last, 3, Some(2))), Ok(AnswerAccepted::Install));
    for far in [last + 1, u64::MAX] {
        let answered = Generation::new(far);
        let refused = Err(AnswerRefused::TooFarAhead { held: high, answered });
        assert_eq!(judged(&instruction(far, 3, Some(2))), refused);
    }
    let mut told = link(Some(instruction(5, 2, Some(3))));
    let ask = told.ask();
    assert!(answer(&mut told, ask.request, &instruction(u64::MAX, 3, Some(2))).is_err());
    assert_eq!(told.seen(), Generation::ZERO, "and is not reported to an honest coordinator");
    // A kernel that had one slot when the file was written.
    assert_eq!(
        check_answer(Some(&fence(instruction(5, 2, None))), &pool_id(), &instruction(5, 2, Some(3))),
        Ok(AnswerAccepted::Install)
    );
}

#[test]
fn only_the_outstanding_request_is_answered_and_only_once() {
    let mut link = link(None);
    let (first, second) = (link.ask(), link.ask());
    let new = instruction(1, 1, None);
    assert_eq!(answer(&mut link, first.request, &new), Err(AnswerRefused::NotOutstanding));
    assert_eq!(link.nothing_new(first.request, NOW), Err(AnswerRefused::NotOutstanding));
    assert_eq!(link.session_closed(first.request, 9, 2, NOW), Err(AnswerRefused::NotOutstanding));
    assert_eq!(answer(&mut link, second.request, &new), Ok(AnswerAccepted::Install));
    assert_eq!(answer(&mut link, second.request, &new), Err(AnswerRefused::NotOutstanding));
    let third = link.ask();
    assert_eq!(third.seen, Generation::new(1), "received, installed or not");
    assert_eq!((link.seen(), link.outstanding()), (Generation::new(1), Some(third.request)));
    link.give_up();
    assert_eq!((link.seen(), link.outstanding()), (Generation::new(1), None));
    assert_eq!(answer(&mut link, third.request, &new), Err(AnswerRefused::NotOutstanding));
}

#[test]
fn what_is_not_durable_is_tried_again_within_its_session_only() {
    let mut link = link(None);
    let ask = link.ask();
    let new = instruction(1, 1, None);
    assert_eq!(answer(&mut link, ask.request, &new), Ok(AnswerAccepted::Install));
    assert_eq!(link.pending(), Some(&new));
    let mut installed = link.clone();
    installed.persisted(&pool_id(), &new);
    assert_eq!((installed.pending(), installed.fence()), (None, Some(&fence(new))));
    let ask = link.ask();
    assert_eq!(link.session_closed(ask.request, 7, 2, NOW), Ok(()));
    assert_eq!(link.pending(), None);
    assert_eq!(link.ask().seen, Generation::ZERO);
}

#[test]
fn what_is_refused_was_seen_and_is_no_evidence_beyond_the_fence() {
    let held = instruction(5, 2, Some(3));
    for (other, seen) in [(instruction(3, 2, Some(1)), 3), (instruction(5, 2, Some(4)), 5)] {
        let mut link = link(Some(held));
        let ask = link.ask();
        assert!(answer(&mut link, ask.request, &other).is_err());
        let ask = link.ask();
        assert_eq!(ask.seen, Generation::new(seen), "the long poll waits for what is above it");
        assert!(ask.seen <= held.generation, "a report holds nothing that its fence does not hold");
        assert_eq!((link.pending(), link.fence()), (None, Some(&fence(held))));
        // Nothing above what was refused: that confirms nothing.
        assert_eq!(link.nothing_new(ask.request, NOW), Ok(()));
        let timeout = Duration::from_secs(10);
        assert_eq!(link.readiness(NOW, timeout), Readiness::Asking);
        assert_eq!(link.readiness(NOW + timeout, timeout), Readiness::Unconfirmed);
        // It is not for ever: the next instruction is taken, and a new session begins from nothing.
        let mut moved = link.clone();
        moved.open_session(1_000, 9);
        let ask = moved.ask();
        assert_eq!(ask.seen, Generation::ZERO);
        assert_eq!(moved.nothing_new(ask.request, NOW), Ok(()));
        assert_eq!(moved.readiness(NOW, timeout), Readiness::Confirmed);
        let ask = link.ask();
        assert_eq!(answer(&mut link, ask.request, &instruction(6, 3, Some(2))), Ok(AnswerAccepted::Install));
        assert_eq!(link.readiness(NOW, timeout), Readiness::Confirmed);
    }
}

#[test]
fn another_pools_generation_is_not_seen() {
    let mut link = link(Some(instruction(5, 2, Some(3))));
    let other: PoolId = "ffffffffffffffffffffffffffffffff".parse().unwrap();
    let ask = link.ask();
    let refused = link.answered(ask.request, &of(other, &instruction(900, 9, None)), NOW);
    assert!(matches!(refused, Err(AnswerRefused::OtherPool { .. })));
    assert_eq!(link.ask().seen, Generation::ZERO, "it would freeze this pool, and hide its next instruction");
}

#[test]
fn keys_of_another_pool_are_no_keys() {
    let timeout = Duration::from_secs(10);
    let held = instruction(5, 2, Some(3));
    let other: PoolId = "ffffffffffffffffffffffffffffffff".parse().unwrap();
    // Told other keys, or refused for those that it reports.
    let mut moved = link(Some(held));
    let ask = moved.ask();
    assert!(moved.answered(ask.request, &of(other, &instruction(900, 9, None)), NOW).is_err());
    let mut refused = link(Some(held));
    let ask = refused.ask();
    assert_eq!(refused.other_pool(ask.request, NOW), Ok(()));
    assert_eq!(refused.other_pool(ask.request, NOW), Err(AnswerRefused::NotOutstanding));
    for mut link in [moved, refused] {
        assert!(!link.has_keys());
        link.open_session(1_000, 9);
        for at in [NOW, NOW + timeout * 10] {
            assert_eq!(link.readiness(at, timeout), Readiness::NoKeys, "also after another coordinator is silent");
        }
        // Another coordinator knows the pool of these keys.
        let ask = link.ask();
        assert_eq!(answer(&mut link, ask.request, &held), Ok(AnswerAccepted::Same));
        assert_eq!((link.has_keys(), link.readiness(NOW, timeout)), (true, Readiness::Confirmed));
        let ask = link.ask();
        assert_eq!(link.other_pool(ask.request, NOW), Ok(()));
        assert!(link.has_keys(), "confirmed in this run");
    }
}

#[test]
fn a_reload_forgets_neither_the_fence_nor_the_silence() {
    let held = instruction(5, 2, Some(3));
    let mut before = link(Some(held));
    let ask = before.ask();
    assert_eq!(answer(&mut before, ask.request, &held), Ok(AnswerAccepted::Same));
    let session = Session { ordinal: 3, nonce: 9 };
    let fresh = || Link::start(None, session, NOW * 2).succeeding(&before);
    let after = fresh().in_contact_since(&before);
    assert_eq!(after.session(), Session { ordinal: 6, nonce: 9 }, "a clock that stepped back");
    assert_eq!((after.seen(), after.outstanding()), (Generation::ZERO, None));
    let late = NOW + ABSENT_AFTER + Duration::from_secs(1);
    assert!(after.is_detached(late) && !after.is_detached(NOW));
    assert_eq!(after.readiness(late, Duration::ZERO), Readiness::Confirmed);
    // Of another pool: the fence alone.
    assert!(!fresh().is_detached(NOW * 9));
    assert_eq!(fresh().readiness(NOW * 9, Duration::ZERO), Readiness::Unconfirmed);
    for mut link in [after, fresh()] {
        let ask = link.ask();
        let refused = answer(&mut link, ask.request, &instruction(4, 1, Some(2)));
        assert!(matches!(refused, Err(AnswerRefused::LowerGeneration { .. })), "{refused:?}");
    }
    // The file counts if nothing was held.
    let joiner = link(None);
    let found = Link::start(Some(fence(held)), session, NOW).succeeding(&joiner);
    assert_eq!(found.fence(), Some(&fence(held)));
}

#[test]
fn every_session_is_above_the_one_before() {
    let mut link = link(None);
    let ask = link.ask();
    assert_eq!(link.session_closed(ask.request, 7, 2, NOW), Ok(()));
    assert_eq!(link.session(), Session { ordinal: 8, nonce: 2 });
    link.open_session(3, 9);
    assert_eq!(link.session(), Session { ordinal: 9, nonce: 9 }, "a clock that stepped back");
    link.open_session(1_000, 9);
    assert_eq!(link.session().ordinal, 1_000);
}

#[test]
fn readiness_needs_keys_of_the_pool() {
    let timeout = Duration::from_secs(10);
    let late = NOW + timeout;
    let mut joiner = link(None);
    assert_eq!(joiner.readiness(NOW, timeout), Readiness::Asking);
    assert_eq!(joiner.readiness(late, timeout), Readiness::NoKeys);
    let ask = joiner.ask();
    let new = instruction(1, 1, None);
    assert_eq!(answer(&mut joiner, ask.request, &new), Ok(AnswerAccepted::Install));
    assert_eq!(joiner.readiness(NOW, timeout), Readiness::Asking, "received is not installed");
    joiner.persisted(&pool_id(), &new);
    assert_eq!(joiner.readiness(NOW, timeout), Readiness::Confirmed);

    let mut restarted = link(Some(new));
    assert_eq!(restarted.readiness(NOW, timeout), Readiness::Asking);
    assert_eq!(restarted.readiness(late, timeout), Readiness::Unconfirmed);
    let ask = restarted.ask();
    assert_eq!(restarted.nothing_new(ask.request, NOW), Ok(()));
    assert_eq!(restarted.readiness(NOW, timeout), Readiness::Confirmed);
}

#[test]
fn a_node_without_keys_is_ready_once_a_coordinator_has_answered_that_its_pool_has_none() {
    let timeout = Duration::from_secs(10);
    let late = NOW + timeout * 9;
    let mut joiner = link(None);
    let ask = joiner.ask();
    assert_eq!(joiner.readiness(late, timeout), Readiness::NoKeys, "silence does not answer");
    assert_eq!(joiner.nothing_new(ask.request, NOW), Ok(()));
    assert_eq!(joiner.readiness(NOW, timeout), Readiness::EmptyPool);
    assert!(!joiner.has_keys());
    // Of this run: a reload keeps it, a restart does not.
    let session = Session { ordinal: 9, nonce: 1 };
    let again = Link::start(None, session, NOW);
    assert_eq!(again.clone().in_contact_since(&joiner).readiness(late, timeout), Readiness::EmptyPool);
    assert_eq!(again.readiness(late, timeout), Readiness::NoKeys);
    // The first key: received is not installed.
    let new = instruction(1, 1, None);
    let ask = joiner.ask();
    assert_eq!(answer(&mut joiner, ask.request, &new), Ok(AnswerAccepted::Install));
    assert_eq!(joiner.readiness(late, timeout), Readiness::NoKeys);
    // Nothing above what could not be installed: the pool has a key all the same.
    let ask = joiner.ask();
    assert_eq!(joiner.nothing_new(ask.request, NOW), Ok(()));
    assert_eq!(joiner.readiness(late, timeout), Readiness::NoKeys);
    joiner.persisted(&pool_id(), &new);
    assert_eq!(joiner.readiness(NOW, timeout), Readiness::Confirmed);
}

#[test]
fn nothing_new_confirms_only_what_the_node_had_when_it_asked() {
    let timeout = Duration::from_secs(10);
    let mut joiner = link(None);
    let ask = joiner.ask();
    assert_eq!(joiner.nothing_new(ask.request, NOW), Ok(()));
    joiner.persisted(&pool_id(), &instruction(1, 1, None));
    assert_eq!(joiner.readiness(NOW, timeout), Readiness::Asking, "no coordinator has confirmed these keys");
    let ask = joiner.ask();
    assert_eq!(joiner.nothing_new(ask.request, NOW), Ok(()));
    assert_eq!(joiner.readiness(NOW, timeout), Readiness::Confirmed);
}

#[test]
fn detached_is_out_of_contact_for_longer_than_told() {
    let mut link = link(None);
    assert!(!link.is_detached(NOW * 1_000), "no pool waits for a node that never had an answer");
    let ask = link.ask();
    assert_eq!(answer(&mut link, ask.request, &instruction(1, 1, None)), Ok(AnswerAccepted::Install));
    assert!(!link.is_detached(NOW + ABSENT_AFTER));
    assert!(link.is_detached(NOW + ABSENT_AFTER + Duration::from_secs(1)));
    assert_eq!(link.detaches_after(NOW + ABSENT_AFTER), Some(NOW + ABSENT_AFTER));
    // An answer without an instruction counts, too, and says how long the pool waits.
    let ask = link.ask();
    assert_eq!(link.nothing_new(ask.request, NOW + ABSENT_AFTER), Ok(()));
    assert!(!link.is_detached(NOW + ABSENT_AFTER * 2));
    link.pool_waits(ABSENT_AFTER * 2);
    assert!(!link.is_detached(NOW + ABSENT_AFTER * 3));
    assert!(link.is_detached(NOW + ABSENT_AFTER * 3 + Duration::from_secs(1)));
    assert_eq!(link.detaches_after(NOW + ABSENT_AFTER * 4), None, "it is");
}

#[test]
fn a_restarted_node_that_gets_no_instruction_is_detached_all_the_same() {
    let mut link = link(Some(instruction(1, 1, None)));
    let ask = link.ask();
    assert_eq!(link.nothing_new(ask.request, NOW), Ok(()));
    link.pool_waits(ABSENT_AFTER);
    assert!(link.is_detached(NOW + ABSENT_AFTER + Duration::from_secs(1)));
}

#[test]
fn an_answer_that_was_long_under_way_is_no_younger_contact() {
    let mut link = link(None);
    let ask = link.ask();
    assert_eq!(answer(&mut link, ask.request, &instruction(1, 1, None)), Ok(AnswerAccepted::Install));
    // A request is held for a third of `absent_after`; the answer comes a sixth later.
    link.returns(7, 7, NOW);
    let ask = link.ask();
    assert_eq!(link.nothing_new(ask.request, NOW + ABSENT_AFTER / 2), Ok(()));
    assert_eq!(link.detaches_after(NOW), Some(NOW + ABSENT_AFTER / 3 + ABSENT_AFTER));
}

#[test]
fn a_detached_node_comes_back_with_a_new_session() {
    let late = NOW + ABSENT_AFTER + Duration::from_secs(1);
    let mut link = link(None);
    let ask = link.ask();
    assert_eq!(answer(&mut link, ask.request, &instruction(1, 1, None)), Ok(AnswerAccepted::Install));
    assert!(!link.returns(7, 7, NOW + ABSENT_AFTER), "it is not detached");
    // An answer to what it asked before may be of a session that the pool has closed with an exclusion.
    let before = link.ask();
    assert!(!link.has_lapsed(NOW + ABSENT_AFTER) && link.has_lapsed(late));
    assert_eq!(link.nothing_new(before.request, late), Err(AnswerRefused::NotOutstanding));
    assert!(link.is_detached(late), "that was not a contact");
    assert!(link.returns(7, 7, late));
    let ask = link.ask();
    assert!(ask.session.ordinal > before.session.ordinal && !link.has_lapsed(late));
    assert_eq!(link.nothing_new(ask.request, late), Ok(()));
    assert!(!link.is_detached(late));
}

#[test]
fn a_node_that_was_moved_takes_the_keys_of_the_other_pool_and_no_longer_those_of_its_own() {
    let pool = |digit: &str| digit.repeat(32).parse::<PoolId>().unwrap();
    let (dns, web) = (pool("d"), pool("e"));
    let order = |from, to| MoveOrder { from, to };
    let session = Session { ordinal: 2, nonce: 7 };
    let timeout = Duration::from_secs(10);
    let held = instruction(5, 2, Some(3));
    let led = |link: &mut Link, order: &MoveOrder| {
        let ask = link.ask();
        let moved = link.moved(ask.request, order, session, NOW);
        assert_eq!(moved, Ok(()));
        assert_eq!(link.moved(ask.request, order, session, NOW), Err(AnswerRefused::NotOutstanding));
    };
    // A run that was confirmed serves on; one that was not has no keys of its pool.
    let mut confirmed = link(Some(held));
    let ask = confirmed.ask();
    assert_eq!(answer(&mut confirmed, ask.request, &held), Ok(AnswerAccepted::Same));
    for (mut link, readiness) in [(confirmed, Readiness::Confirmed), (link(Some(held)), Readiness::NoKeys)] {
        led(&mut link, &order(pool_id(), dns));
        assert_eq!(link.session(), Session { ordinal: 6, nonce: 7 }, "another session, above the one before");
        assert_eq!((link.reported(), link.fence()), (None, Some(&fence(held))), "a joiner there; the file stays");
        let ask = link.ask();
        let refused = answer(&mut link, ask.request, &instruction(6, 3, Some(2)));
        assert_eq!(refused, Err(AnswerRefused::OtherPool { held: dns, answered: pool_id() }));
        let ask = link.ask();
        assert_eq!(link.nothing_new(ask.request, NOW), Ok(()));
        assert_eq!(link.readiness(NOW + timeout, timeout), readiness, "nothing new confirms nothing");
        // Lower than its own generation, and further than any pool is ahead of it: it is another pool's.  But not one after
        // which it could take no other.
        for generation in [1, u64::MAX / 2, u64::MAX] {
            let mut link = link.clone();
            let new = instruction(generation, 9, None);
            let ask = link.ask();
            if generation == u64::MAX {
                let refused = link.answered(ask.request, &of(dns, &new), NOW);
                assert!(matches!(refused, Err(AnswerRefused::TooFarAhead { .. })), "{refused:?}");
                continue;
            }
            assert_eq!(link.answered(ask.request, &of(dns, &new), NOW), Ok(AnswerAccepted::Install));
            link.persisted(&dns, &new);
            assert_eq!(link.readiness(NOW, timeout), Readiness::Confirmed);
            assert_eq!(link.reported(), Some(&Fence::of(dns, &new)), "the order is used up");
            // It starts again with the old name in its configuration: the order says where to ask, and no more.
            led(&mut link, &order(pool_id(), dns));
            assert_eq!(link.reported(), Some(&Fence::of(dns, &new)));
        }
        // Led on before it has arrived, and back again.
        led(&mut link, &order(dns, web));
        let ask = link.ask();
        let mut there = link.clone();
        let taken = there.answered(ask.request, &of(web, &instruction(1, 9, None)), NOW);
        assert_eq!(taken, Ok(AnswerAccepted::Install));
        led(&mut link, &order(web, pool_id()));
        assert_eq!(link.reported(), Some(&fence(held)));
    }
    // The order of a pool that this node is not in changes nothing, and neither does one that was given up.
    let mut stranger = link(Some(held));
    led(&mut stranger, &order(web, dns));
    let mut stayed = link(Some(held));
    led(&mut stayed, &order(pool_id(), dns));
    stayed.stay();
    for mut link in [stranger, stayed] {
        assert_eq!(link.reported(), Some(&fence(held)));
        let ask = link.ask();
        let refused = link.answered(ask.request, &of(dns, &instruction(6, 3, Some(2))), NOW);
        assert_eq!(refused, Err(AnswerRefused::OtherPool { held: pool_id(), answered: dns }));
    }
}
