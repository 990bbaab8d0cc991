//! Schedules in literal times.

use proptest::prelude::*;

use super::*;

fn periodic(interval: u64, lead: u64, from: Option<u64>) -> Entry {
    let interval = RotationInterval::from_secs(interval).unwrap();
    let lead = StageLead::within(lead, interval).unwrap();
    Entry { rule: Rule::Periodic { interval, lead }, not_before: from.map(UnixTime::from_secs) }
}

fn fixed(lead: u64, from: Option<u64>) -> Entry {
    Entry { rule: Rule::Fixed { lead: StageLead::alone(lead).unwrap() }, not_before: from.map(UnixTime::from_secs) }
}

fn at(schedule: &Schedule, t: u64) -> SlotRefs {
    schedule.slots_at(UnixTime::from_secs(t))
}

fn accepts(slots: &SlotRefs, key: KeyRef) -> bool {
    slots.primary == key || slots.backup == Some(key)
}

fn compatible(schedule: &Schedule, t1: u64, t2: u64) -> bool {
    let (a, b) = (at(schedule, t1), at(schedule, t2));
    accepts(&b, a.primary) && accepts(&a, b.primary)
}

/// (primary counter, backup counter, phase, next change) of a one-entry schedule.
fn row(schedule: &Schedule, t: u64) -> (u64, u64, Phase, u64) {
    let slots = at(schedule, t);
    let counter = |key: KeyRef| key.counter.unwrap();
    (counter(slots.primary), counter(slots.backup.unwrap()), slots.phase, slots.next_change_at.unwrap().secs())
}

#[test]
fn one_entry_walks_steady_staged_steady() {
    let day = Schedule::new(vec![periodic(86_400, 3_600, None)]).unwrap();
    assert_eq!(row(&day, 1_036_800 - 3_601), (11, 10, Phase::Steady, 1_033_200));
    assert_eq!(row(&day, 1_036_800 - 3_600), (11, 12, Phase::Staged, 1_036_800));
    assert_eq!(row(&day, 1_036_800 - 1), (11, 12, Phase::Staged, 1_036_800));
    assert_eq!(row(&day, 1_036_800), (12, 11, Phase::Steady, 1_119_600));
    assert_eq!(at(&day, 1_036_800).primary.epoch, Epoch::new(1_036_800));
}

#[test]
fn the_very_first_key_has_no_backup() {
    let day = Schedule::new(vec![periodic(86_400, 3_600, None)]).unwrap();
    assert_eq!(at(&day, 0).backup, None);
    assert_eq!(at(&day, 0).primary.epoch, None);
}

#[test]
fn the_shortest_of_all_entries_counts() {
    // (entries; tolerance, retention)
    for (entries, tolerance, retention) in [
        (vec![periodic(86_400, 3_600, None)], Some(3_600), Some(82_800)),
        (vec![periodic(86_400, 80_000, None)], Some(6_400), Some(6_400)),
        (vec![periodic(86_400, 3_600, None), periodic(43_200, 1_800, Some(1_036_800))], Some(1_800), Some(41_400)),
        (vec![periodic(86_400, 3_600, None), fixed(60, Some(1_036_800))], Some(3_600), Some(82_800)),
        (vec![fixed(60, None), periodic(86_400, 3_600, Some(1_036_800))], Some(60), Some(82_800)),
        // A fixed key in the middle, for 100 s: its lead, and what is left after it.
        (vec![periodic(10, 5, None), fixed(2, Some(1_000)), periodic(10, 5, Some(1_100))], Some(2), Some(5)),
        (vec![periodic(200, 100, None), fixed(60, Some(1_000)), periodic(200, 100, Some(1_100))], Some(40), Some(100)),
    ] {
        let schedule = Schedule::new(entries).unwrap();
        assert_eq!((schedule.skew_tolerance_secs(), schedule.retention_secs()), (tolerance, retention), "{schedule:?}");
    }
}

#[test]
fn the_keys_on_both_sides_of_each_joint_are_known() {
    let joined = Schedule::new(vec![
        periodic(86_400, 3_600, None),
        periodic(43_200, 3_600, Some(1_036_800)),
        fixed(60, Some(2_073_600)),
    ])
    .unwrap();
    let joints: Vec<_> = joined.joints().collect();
    let counters: Vec<_> = joints.iter().map(|(before, after)| (before.counter, after.counter)).collect();
    assert_eq!(counters, [(Some(11), Some(24)), (Some(47), None)]);
    assert_eq!(joints[0].1, at(&joined, 1_036_800).primary);
    assert_eq!(joints[1].0, at(&joined, 2_073_599).primary);
}

#[test]
fn a_fixed_key_alone_never_changes() {
    let only = Schedule::new(vec![fixed(60, None)]).unwrap();
    let slots = at(&only, 1_000_000);
    assert_eq!((slots.primary.counter, slots.backup, slots.next_change_at), (None, None, None));
    assert_eq!((only.skew_tolerance_secs(), only.retention_secs()), (None, None));
    assert_eq!(only.cookie_lifetime_secs(UnixTime::from_secs(1_000_000)), None, "as long as it is used");
}

#[test]
fn a_static_key_hands_over_to_derived_ones() {
    let list = Schedule::new(vec![fixed(60, None), periodic(100, 30, Some(1_050))]).unwrap();
    assert_eq!(at(&list, 989).backup, None);
    let staged = at(&list, 990);
    assert_eq!((staged.primary.entry, staged.backup.unwrap().entry, staged.phase), (0, 1, Phase::Staged));
    let joint = at(&list, 1_050);
    // 1 100 is nearer than the interval to the joint: dropped.  The first retained boundary is 1 200.
    assert_eq!((joint.primary.counter, joint.backup.unwrap().entry), (Some(11), 0));
    assert_eq!(at(&list, 1_199).primary, joint.primary);
    assert_eq!(at(&list, 1_200).primary.counter, Some(12));
    assert_eq!(list.deploy_before(1), Some(UnixTime::from_secs(990)));
    assert_eq!(list.skew_tolerance_secs(), Some(30));
}

#[test]
fn a_joint_on_a_boundary_of_both_drops_nothing() {
    let list = Schedule::new(vec![periodic(100, 30, None), periodic(50, 20, Some(1_000))]).unwrap();
    assert_eq!(at(&list, 999).primary.counter, Some(9));
    assert_eq!(at(&list, 970).backup.unwrap(), at(&list, 1_000).primary);
    assert_eq!(at(&list, 1_000).primary.counter, Some(20));
    assert_eq!(at(&list, 1_050).primary.counter, Some(21));
}

#[test]
fn a_joint_off_the_boundaries_stretches_the_segments_beside_it() {
    let list = Schedule::new(vec![periodic(100, 30, None), periodic(70, 20, Some(1_050))]).unwrap();
    // old: 1 000 is 50 from the joint: dropped; the key of 900 lives until 1 050.
    assert_eq!(at(&list, 1_019).primary.counter, Some(9));
    assert_eq!(at(&list, 1_019).phase, Phase::Steady);
    assert_eq!(at(&list, 1_020).backup.unwrap().entry, 1);
    // new: 1 120 is the first boundary at least 70 after the joint.
    assert_eq!(at(&list, 1_050).primary.counter, Some(15));
    assert_eq!(at(&list, 1_120).primary.counter, Some(16));
    // without the entry, 1 000 would have been staged at 970.
    assert_eq!(list.deploy_before(1), Some(UnixTime::from_secs(970)));
    assert_eq!(list.entries_above_removable_at(1), Some(UnixTime::from_secs(1_120 + 20)));
}

/// By brute force over all small intervals, leads and phases: a clock that runs is never held, and what is followed without
/// more questions is at most one key further.
#[test]
fn the_end_of_the_next_interval_is_past_every_change_and_one_key_away() {
    for interval in 10..22_u64 {
        for lead in 1..interval {
            let schedule = Schedule::new(vec![periodic(interval, lead, None)]).unwrap();
            for installed in 1_000..1_000 + interval {
                let end = schedule.next_interval_end(UnixTime::from_secs(installed)).unwrap().secs();
                assert!(end - installed > interval && end - installed <= 2 * interval);
                let slots = at(&schedule, installed);
                assert!(slots.next_change_at.unwrap().secs() < end, "{interval} {lead} {installed}");
                let counter = |t| at(&schedule, t).primary.counter.unwrap();
                assert!((installed..end).all(|t| counter(t) <= counter(installed) + 1));
                assert_eq!(counter(end), counter(installed) + 2, "the first that is not followed");
            }
        }
    }
    let alone = Schedule::new(vec![fixed(60, None)]).unwrap();
    assert_eq!(alone.next_interval_end(UnixTime::from_secs(5)), None, "a key for ever");
}

#[test]
fn what_is_no_schedule_is_refused() {
    assert_eq!(Schedule::new(vec![]), Err(ScheduleError::Empty));
    assert_eq!(Schedule::new(vec![periodic(10, 5, Some(1))]), Err(ScheduleError::FirstHasStart));
    let first = periodic(10, 5, None);
    assert_eq!(Schedule::new(vec![first, first]), Err(ScheduleError::NoStart { entry: 1 }));
    let (at_50, at_59) = (periodic(10, 5, Some(50)), periodic(10, 5, Some(59)));
    assert_eq!(Schedule::new(vec![first, at_50, at_50]), Err(ScheduleError::NotRising { entry: 2 }));
    let short = ScheduleError::TooShort { entry: 1, valid_secs: 9, needed_secs: 10 };
    assert_eq!(Schedule::new(vec![first, at_50, at_59]), Err(short.clone()));
    // What a message about it points at.
    let wrong = [ScheduleError::NoStart { entry: 3 }, ScheduleError::NotRising { entry: 2 }, short];
    assert_eq!(wrong.map(|error| error.entry()), [3, 2, 1]);
    assert_eq!([ScheduleError::Empty, ScheduleError::FirstHasStart].map(|error| error.entry()), [0, 0]);
    let late = fixed(5, Some(50));
    let short = ScheduleError::TooShort { entry: 1, valid_secs: 5, needed_secs: 6 };
    assert_eq!(Schedule::new(vec![first, late, periodic(10, 5, Some(55))]), Err(short));
    assert!(Schedule::new(vec![first, late, periodic(10, 5, Some(56))]).is_ok());
}

#[test]
fn the_tolerance_of_one_entry_is_tight() {
    for interval in 10..=40 {
        for lead in 1..interval {
            let schedule = Schedule::new(vec![periodic(interval, lead, None)]).unwrap();
            let tolerance = schedule.skew_tolerance_secs().unwrap();
            let clashes = |skew| (0..3 * interval).any(|t| !compatible(&schedule, 10_000 + t, 10_000 + t + skew));
            assert!(!(0..=tolerance).any(clashes), "interval {interval}, lead {lead}");
            assert!(clashes(tolerance + 1), "interval {interval}, lead {lead}: not tight");
        }
    }
}

prop_compose! {
    fn any_periodic()(interval in 10u64..40)(lead in 1..interval, interval in Just(interval)) -> (u64, u64) {
        (interval, lead)
    }
}

prop_compose! {
    /// One to four entries, each valid for at least its own interval, the first possibly a fixed key.
    fn any_schedule()(
        rules in prop::collection::vec(any_periodic(), 1..=4),
        gaps in prop::collection::vec(0u64..130, 4),
        fixed_at in prop::option::of(0usize..4),
    ) -> Schedule {
        let mut from = 1_000;
        let mut entries = Vec::new();
        for (index, (&(interval, lead), gap)) in rules.iter().zip(gaps).enumerate() {
            let start = (index > 0).then_some(from);
            entries.push(if fixed_at == Some(index) { fixed(lead, start) } else { periodic(interval, lead, start) });
            if index > 0 {
                from += interval;
            }
            from += gap;
            if index == 0 {
                from += 1;
            }
        }
        Schedule::new(entries).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hosts_within_the_tolerance_never_reject_each_other(schedule in any_schedule(), base in 850u64..1_400) {
        let tolerance = schedule.skew_tolerance_secs().unwrap_or(200).min(200);
        for t in base..base + 60 {
            for skew in 0..=tolerance {
                prop_assert!(compatible(&schedule, t, t + skew), "t {t}, skew {skew}");
            }
        }
    }

    /// Four hosts, each with a clock error of at most half the tolerance: the fleet's own statement.
    #[test]
    fn four_hosts_with_half_the_tolerance_each_agree(
        schedule in any_schedule(),
        t in 850u64..1_600,
        errors in prop::array::uniform4(-1.0f64..=1.0),
    ) {
        let half = schedule.skew_tolerance_secs().unwrap_or(60).min(60) / 2;
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "small numbers")]
        let clocks = errors.map(|error| (t as f64 + error * half as f64) as u64);
        for a in clocks {
            for b in clocks {
                prop_assert!(compatible(&schedule, a, b), "clocks {a} and {b}");
            }
        }
    }

    /// From a key's first instant as primary to the last one at which it is accepted, in one piece.
    #[test]
    fn the_lifetime_of_a_cookie_is_exact(schedule in any_schedule(), t in 850u64..1_600) {
        let Some(lifetime) = schedule.cookie_lifetime_secs(UnixTime::from_secs(t)) else { return Ok(()) };
        let key = at(&schedule, t).primary;
        let first = (0..=t).rev().take_while(|t| at(&schedule, *t).primary == key).last().unwrap();
        let last = (t..).take_while(|t| accepts(&at(&schedule, *t), key)).last().unwrap();
        prop_assert_eq!(lifetime, last + 1 - first);
    }

    /// A key that was primary at t is accepted for `retention` after its last instant, and with one periodic entry not
    /// longer.
    #[test]
    fn retention_is_kept(schedule in any_schedule(), t in 850u64..1_600) {
        let Some(retention) = schedule.retention_secs() else { return Ok(()) };
        let key = at(&schedule, t).primary;
        let Some(last) = (t..t + 200).take_while(|t| at(&schedule, *t).primary == key).last() else { return Ok(()) };
        if last == t + 199 { return Ok(()) }
        // A fixed key in the middle of a list is as short as its entry: its own retention is that entry's.
        let next = at(&schedule, last + 1).primary.entry;
        if matches!(schedule.entries()[next].rule, Rule::Fixed { .. }) { return Ok(()) }
        for later in last + 1..=last + retention {
            prop_assert!(accepts(&at(&schedule, later), key), "key of {t} is gone at {later}, last primary {last}");
        }
        if schedule.entries().len() == 1 {
            prop_assert!(!accepts(&at(&schedule, last + retention + 1), key), "retention is not tight");
        }
    }

    /// Nothing changes between now and `next_change_at`, and something does there; segments last at least an interval.
    #[test]
    fn the_next_change_is_the_next_change(schedule in any_schedule(), t in 850u64..1_600) {
        let slots = at(&schedule, t);
        let until = slots.next_change_at.map_or(t + 300, UnixTime::secs);
        prop_assert!(until > t);
        for later in t..until {
            let same = at(&schedule, later);
            prop_assert_eq!((same.primary, same.backup, same.next_change_at), (slots.primary, slots.backup, slots.next_change_at));
        }
        if slots.next_change_at.is_some() {
            let after = at(&schedule, until);
            prop_assert!((after.primary, after.backup) != (slots.primary, slots.backup));
        }
        prop_assert!(slots.backup != Some(slots.primary));
    }

    /// The same over joints: a node that installs at each change has its next change before the end of the next interval.
    #[test]
    fn a_clock_that_runs_is_never_held(schedule in any_schedule(), t in 850u64..1_600) {
        let slots = at(&schedule, t);
        let end = schedule.next_interval_end(UnixTime::from_secs(t));
        if let (Some(change), Some(end)) = (slots.next_change_at, end) {
            prop_assert!(change < end, "{change} {end}");
            let mut primaries: Vec<KeyRef> = (t..end.secs()).map(|t| at(&schedule, t).primary).collect();
            primaries.dedup();
            prop_assert_eq!(primaries.len(), 2);
        }
    }

    /// Nodes without the new entry are compatible with nodes that have it until the tolerance after `deploy_before`,
    /// hold the very same slots before it, and it is never before the documented safe bound.
    #[test]
    fn an_entry_may_be_deployed_until_the_stated_instant(schedule in any_schedule()) {
        let last = schedule.entries().len() - 1;
        let Some(deadline) = schedule.deploy_before(last) else { return Ok(()) };
        let old = Schedule::new(schedule.entries()[..last].to_vec()).unwrap();
        let joint = schedule.entries()[last].not_before.unwrap();
        let rule = schedule.entries()[last - 1].rule;
        if let Rule::Periodic { interval, lead } = rule {
            prop_assert!(deadline >= joint.minus(interval.secs() + lead.secs()));
        }
        let slots = |schedule: &Schedule, t| { let s = at(schedule, t); (s.primary, s.backup) };
        for t in 900..deadline.secs() {
            prop_assert_eq!(slots(&old, t), slots(&schedule, t));
        }
        prop_assert!(slots(&old, deadline.secs()) != slots(&schedule, deadline.secs()));
        let tolerance = schedule.entry_tolerance_secs(last - 1).unwrap_or(0);
        for t in deadline.secs()..deadline.secs() + tolerance {
            let (a, b) = (at(&old, t), at(&schedule, t));
            prop_assert!(accepts(&a, b.primary) && accepts(&b, a.primary), "at {t}, deadline {deadline}");
        }
    }
}
