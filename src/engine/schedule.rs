//! Derived keys: a list of schedule entries and `now` in; which keys are in the slots, and when that changes, out.
//!
//! PROTOCOL.md section 3, exactly.  Knows no secret and no key, only their ordinals ([`KeyRef`]).
//!
//! ```text
//!   segment j            start(j) ............ end(j) - lead ........ end(j) = start(j+1)
//!   slots                [j, j-1]              [j, j+1]               [j+1, j]
//!   phase                steady                staged                 steady
//! ```
//!
//! Intervals are half-open.  `lead` is that of the entry that segment j belongs to, also when j+1 belongs to the next
//! entry (a joint).  Boundaries of an entry are the multiples of its interval inside its validity, less those that
//! are nearer than its interval to either end of the validity; so every segment of it lasts at least one interval.

use crate::model::count::Epoch;
use crate::model::state::Phase;
use crate::model::time::{RotationInterval, StageLead, UnixTime, span_text};

/// Where an entry's keys come from in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A key for each interval: its counter is unix time / interval.
    Periodic {
        /// How long a key is primary.
        interval: RotationInterval,
        /// How long before it is primary the next key is backup.
        lead: StageLead,
    },
    /// One key for the whole validity of the entry: the static key that a fleet migrates from.
    Fixed {
        /// How long before the entry ends the next key is backup.
        lead: StageLead,
    },
}

impl Rule {
    fn lead_secs(self) -> u64 {
        match self {
            Self::Periodic { lead, .. } | Self::Fixed { lead } => lead.secs(),
        }
    }

    /// The shortest validity that leaves room for the entry's own key and the lead, in seconds.
    fn validity_min_secs(self) -> u64 {
        match self {
            Self::Periodic { interval, .. } => interval.secs(),
            Self::Fixed { lead } => lead.secs() + 1,
        }
    }
}

/// One entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its keys.
    pub rule: Rule,
    /// From when on it holds: none on the first entry, required on the others.
    pub not_before: Option<UnixTime>,
}

/// Names one key of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// Index of the entry in the list.
    pub entry: usize,
    /// Counter of the key; none for a fixed key.
    pub counter: Option<u64>,
    /// The second at which it becomes primary; none if it always was.
    pub epoch: Option<Epoch>,
}

/// What the slots hold at one instant, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRefs {
    /// The key that makes cookies.
    pub primary: KeyRef,
    /// The key that only validates; none while there is neither a previous nor a staged one.
    pub backup: Option<KeyRef>,
    /// [`Phase::Staged`] if the backup is the next key, else [`Phase::Steady`].
    pub phase: Phase,
    /// When this changes next; none if never.
    pub next_change_at: Option<UnixTime>,
}

/// Why a list of entries is no schedule.  `entry` counts from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Nothing to take keys from.
    #[error("there is no schedule entry")]
    Empty,
    /// The first entry says when it starts.
    #[error("the first entry holds from the beginning: it takes no not_before")]
    FirstHasStart,
    /// A later entry does not say when it starts.
    #[error("every entry after the first needs a not_before")]
    NoStart {
        /// The entry.
        entry: usize,
    },
    /// An entry starts before, or with, the one above it.
    #[error("its not_before is not later than that of the entry above it")]
    NotRising {
        /// The entry.
        entry: usize,
    },
    /// An entry ends before one of its keys could live a full interval.
    #[error("it is valid for {} only, which is shorter than {}", span_text(*.valid_secs), span_text(*.needed_secs))]
    TooShort {
        /// The entry.
        entry: usize,
        /// How long it is valid, in seconds.
        valid_secs: u64,
        /// Its interval (periodic), or its lead and a second (fixed), in seconds.
        needed_secs: u64,
    },
}

impl ScheduleError {
    /// The entry that is wrong, from 0.
    #[must_use]
    pub fn entry(&self) -> usize {
        match self {
            Self::Empty | Self::FirstHasStart => 0,
            Self::NoStart { entry } | Self::NotRising { entry } | Self::TooShort { entry, .. } => *entry,
        }
    }
}

/// A checked list of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    entries: Vec<Entry>,
}

/// A stretch of time with one primary key.  None: without begin, or without end.
#[derive(Debug, Clone, Copy)]
struct Segment {
    entry: usize,
    counter: Option<u64>,
    start: Option<u64>,
    end: Option<u64>,
}

impl Segment {
    fn key(&self) -> KeyRef {
        KeyRef { entry: self.entry, counter: self.counter, epoch: self.start.and_then(Epoch::new) }
    }
}

impl Schedule {
    /// Checks the list.
    ///
    /// # Errors
    /// Fails if it is empty, if `not_before` is missing, out of place or not rising, or if an entry is valid for less
    /// than its own interval.
    pub fn new(entries: Vec<Entry>) -> Result<Self, ScheduleError> {
        let first = entries.first().ok_or(ScheduleError::Empty)?;
        if first.not_before.is_some() {
            return Err(ScheduleError::FirstHasStart);
        }
        for (above, entry) in entries.windows(2).zip(1..) {
            let start = above[1].not_before.ok_or(ScheduleError::NoStart { entry })?;
            let Some(previous) = above[0].not_before else { continue };
            if start <= previous {
                return Err(ScheduleError::NotRising { entry });
            }
            let valid_secs = start.secs_since(previous);
            let needed_secs = above[0].rule.validity_min_secs();
            if valid_secs < needed_secs {
                return Err(ScheduleError::TooShort { entry: entry - 1, valid_secs, needed_secs });
            }
        }
        Ok(Self { entries })
    }

    /// The entries, as given.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What the slots hold at `now`.
    #[must_use]
    pub fn slots_at(&self, now: UnixTime) -> SlotRefs {
        let segment = self.segment_at(now.secs());
        let lead = self.entries[segment.entry].rule.lead_secs();
        let staged_from = segment.end.map(|end| end.saturating_sub(lead));
        match (staged_from, segment.end) {
            (Some(from), Some(end)) if now.secs() >= from => SlotRefs {
                primary: segment.key(),
                backup: Some(self.segment_at(end).key()),
                phase: Phase::Staged,
                next_change_at: Some(UnixTime::from_secs(end)),
            },
            _ => SlotRefs {
                primary: segment.key(),
                backup: segment.start.and_then(|start| start.checked_sub(1)).map(|t| self.segment_at(t).key()),
                phase: Phase::Steady,
                next_change_at: staged_from.map(UnixTime::from_secs),
            },
        }
    }

    /// How far the clocks of two hosts may be apart without one of them refusing the other's cookies, in seconds,
    /// inclusive and tight; none if any two are compatible.
    ///
    /// The least over all entries of min(lead, interval - lead).  One host's clock may be wrong by half of it.
    #[must_use]
    pub fn skew_tolerance_secs(&self) -> Option<u64> {
        (0..self.entries.len()).filter_map(|entry| self.entry_tolerance_secs(entry)).min()
    }

    /// How long a cookie lives at least after its key's last instant as primary, in seconds, with true clocks: the
    /// least of interval - lead.  None if there is no periodic entry.
    #[must_use]
    pub fn retention_secs(&self) -> Option<u64> {
        self.entries
            .iter()
            .filter_map(|entry| match entry.rule {
                Rule::Periodic { interval, lead } => Some(interval.secs() - lead.secs()),
                Rule::Fixed { .. } => None,
            })
            .min()
    }

    /// The first instant at which a node that lacks `entry` and the later ones holds other slots than a node that has it: by then it must
    /// be on every node.  None for the first entry, and for an index that does not exist.
    ///
    /// Never before not_before - interval - lead of the entry above, the safe bound of PROTOCOL.md section 3.
    #[must_use]
    pub fn deploy_before(&self, entry: usize) -> Option<UnixTime> {
        let joint = self.entries.get(entry)?.not_before?;
        let without = Self { entries: self.entries[..entry].to_vec() };
        let with = Self { entries: self.entries[..=entry].to_vec() };
        let old = self.entries[entry - 1].rule;
        let mut t = joint.minus(old.validity_min_secs() + old.lead_secs() + 1);
        loop {
            let (a, b) = (without.slots_at(t), with.slots_at(t));
            if (a.primary, a.backup) != (b.primary, b.backup) {
                return Some(t);
            }
            t = [a.next_change_at, b.next_change_at].into_iter().flatten().min()?;
        }
    }

    /// From when on the entries above `entry` are no longer needed by any node within the tolerance; none for the
    /// first entry and where no boundary follows.
    #[must_use]
    pub fn entries_above_removable_at(&self, entry: usize) -> Option<UnixTime> {
        let joint = self.entries.get(entry)?.not_before?;
        let end = self.segment_at(joint.secs()).end?;
        Some(UnixTime::from_secs(end + self.skew_tolerance_secs().unwrap_or(0)))
    }

    /// The keys on both sides of each joint, which must differ (tofurkey's derivation does not bind the interval).
    pub fn joints(&self) -> impl Iterator<Item = (KeyRef, KeyRef)> {
        self.entries.iter().filter_map(|entry| {
            let joint = entry.not_before?.secs();
            let before = joint.checked_sub(1)?;
            Some((self.segment_at(before).key(), self.segment_at(joint).key()))
        })
    }

    fn entry_tolerance_secs(&self, entry: usize) -> Option<u64> {
        match self.entries[entry].rule {
            Rule::Periodic { interval, lead } => Some(lead.secs().min(interval.secs() - lead.secs())),
            Rule::Fixed { lead } => {
                let end = self.end_of(entry)?;
                let after = self.start_of(entry).map_or(u64::MAX, |start| end - start - lead.secs());
                Some(lead.secs().min(after))
            }
        }
    }

    fn start_of(&self, entry: usize) -> Option<u64> {
        self.entries[entry].not_before.map(UnixTime::secs)
    }

    fn end_of(&self, entry: usize) -> Option<u64> {
        self.entries.get(entry + 1).and_then(|next| next.not_before).map(UnixTime::secs)
    }

    fn segment_at(&self, t: u64) -> Segment {
        let entry = self.entries.iter().rposition(|entry| entry.not_before.is_none_or(|from| from.secs() <= t));
        let entry = entry.expect("the first entry has no start, so it holds at every instant");
        let (from, until) = (self.start_of(entry), self.end_of(entry));
        match self.entries[entry].rule {
            Rule::Fixed { .. } => Segment { entry, counter: None, start: from, end: until },
            Rule::Periodic { interval, .. } => periodic_segment(t, entry, interval.secs(), (from, until)),
        }
    }
}

/// The segment of a periodic entry, valid in `[from, until)`, around `t`.
fn periodic_segment(t: u64, entry: usize, interval: u64, (from, until): (Option<u64>, Option<u64>)) -> Segment {
    // The first and the last retained boundary.  The key before the first has its counter less one, also when
    // `until` leaves no boundary at all: what a key is must not depend on an entry that is added later.
    let first = from.map_or(0, |from| (from + interval).div_ceil(interval) * interval);
    let last = until.map_or(u64::MAX, |until| until.saturating_sub(interval) / interval * interval);
    let start = t - t % interval;
    let segment = |counter, start, end| Segment { entry, counter: Some(counter), start, end };
    match until {
        _ if t < first && first <= last => segment(first / interval - 1, from, Some(first)),
        _ if t < first || first > last => segment((first / interval).saturating_sub(1), from, until),
        Some(until) if start >= last => segment(last / interval, Some(last), Some(until)),
        _ => segment(start / interval, Some(start), Some(start + interval)),
    }
}

#[cfg(test)]
mod tests {
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
    fn a_fixed_key_alone_never_changes() {
        let only = Schedule::new(vec![fixed(60, None)]).unwrap();
        let slots = at(&only, 1_000_000);
        assert_eq!((slots.primary.counter, slots.backup, slots.next_change_at), (None, None, None));
        assert_eq!((only.skew_tolerance_secs(), only.retention_secs()), (None, None));
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

    #[test]
    fn what_is_no_schedule_is_refused() {
        assert_eq!(Schedule::new(vec![]), Err(ScheduleError::Empty));
        assert_eq!(Schedule::new(vec![periodic(10, 5, Some(1))]), Err(ScheduleError::FirstHasStart));
        let first = periodic(10, 5, None);
        assert_eq!(Schedule::new(vec![first, first]), Err(ScheduleError::NoStart { entry: 1 }));
        let (at_50, at_59) = (periodic(10, 5, Some(50)), periodic(10, 5, Some(59)));
        assert_eq!(Schedule::new(vec![first, at_50, at_50]), Err(ScheduleError::NotRising { entry: 2 }));
        let short = ScheduleError::TooShort { entry: 1, valid_secs: 9, needed_secs: 10 };
        assert_eq!(Schedule::new(vec![first, at_50, at_59]), Err(short));
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

        /// A key that was primary at t is accepted for `retention` after its last instant, and with one periodic entry not longer.
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
}
