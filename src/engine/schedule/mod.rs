//! Derived keys: a list of schedule entries and `now` in; which keys are in the slots, and when that changes, out.
//!
//! Follows docs/protocol.md#derive-mode exactly.  Must not know: secrets and keys; it has only their ordinals
//! ([`KeyRef`]).
//!
//! ```text
//!   segment j            start(j) ............ end(j) - lead ........ end(j) = start(j+1)
//!   slots                [j, j-1]              [j, j+1]               [j+1, j]
//!   phase                steady                staged                 steady
//! ```
//!
//! Intervals are half-open.  `lead` is that of the entry of segment j, also if j+1 belongs to the next entry (a joint).
//! The boundaries of an entry are the multiples of its interval inside its validity, except those that are nearer than
//! its interval to either end of the validity; so each of its segments lasts at least one interval.

use tfo_model::count::Epoch;
use tfo_model::state::Phase;
use tfo_model::time::{RotationInterval, StageLead, UnixTime, duration_text};

/// When the keys of an entry change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A key for each interval: its counter is unix time / interval.
    Periodic {
        /// Time for which a key is primary.
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
    /// When its keys change.
    pub rule: Rule,
    /// Start of its validity: none on the first entry, required on the others.
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

/// Why a list of entries is not a schedule.  `entry` counts from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The list is empty.
    #[error("there is no schedule entry")]
    Empty,
    /// The first entry has a start.
    #[error("the first entry is valid from the beginning and takes no not_before")]
    FirstHasStart,
    /// A later entry has no start.
    #[error("every entry after the first needs a not_before")]
    NoStart {
        /// Index of the entry.
        entry: usize,
    },
    /// An entry does not start later than the one above it.
    #[error("its not_before is not later than that of the entry above it")]
    NotRising {
        /// Index of the entry.
        entry: usize,
    },
    /// An entry ends before one of its keys could be primary for a full interval.
    #[error("it is valid for {} only, which is shorter than {}", duration_text(*.valid_secs), duration_text(*.needed_secs))]
    TooShort {
        /// Index of the entry.
        entry: usize,
        /// Length of its validity in seconds.
        valid_secs: u64,
        /// Its interval (periodic), or its lead and a second (fixed), in seconds.
        needed_secs: u64,
    },
}

impl ScheduleError {
    /// Index of the wrong entry, from 0.
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

/// A stretch of time with one primary key.  None: it has no start, or no end.
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

    /// The end of the interval after the one that `at` is in; none if one of the two has no end.
    ///
    /// A node that installed at `at` and runs has installed again long before: every change is nearer.
    #[must_use]
    pub fn next_interval_end(&self, at: UnixTime) -> Option<UnixTime> {
        let next = self.segment_at(self.segment_at(at.secs()).end?);
        next.end.map(UnixTime::from_secs)
    }

    /// How far the clocks of two hosts may differ before one of them refuses the other's cookies, in seconds, inclusive
    /// and tight; none if any two clocks are compatible.
    ///
    /// The least over all entries of min(lead, interval - lead).  One host's clock may be wrong by half of it.
    #[must_use]
    pub fn skew_tolerance_secs(&self) -> Option<u64> {
        (0..self.entries.len()).filter_map(|entry| self.entry_tolerance_secs(entry)).min()
    }

    /// Shortest life of a cookie after its key's last instant as primary, in seconds, with true clocks: the least of
    /// interval - lead.  None if there is no periodic entry.
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

    /// For how long a cookie that is made at `now` or soon after is accepted at most, in seconds: from the first instant of the present key
    /// as primary to the last one as backup.  None if one of the two has no end.
    ///
    /// Two intervals less the lead; around a joint a segment is up to an interval longer.
    #[must_use]
    pub fn cookie_lifetime_secs(&self, now: UnixTime) -> Option<u64> {
        let present = self.segment_at(now.secs());
        let next = self.segment_at(present.end?);
        let lead = self.entries[next.entry].rule.lead_secs();
        Some(next.end?.saturating_sub(lead) - present.start?)
    }

    /// The first instant at which a node without `entry` and the later ones holds other slots than a node that has it:
    /// by then every node must have it.  None for the first entry, and for an index that does not exist.
    ///
    /// Never before not_before - interval - lead of the entry above, the safe bound of docs/protocol.md#derive-mode.
    #[must_use]
    pub fn deploy_before(&self, entry: usize) -> Option<UnixTime> {
        let joint = self.entries.get(entry)?.not_before?;
        let without = Self { entries: self.entries[..entry].to_vec() };
        let with = Self { entries: self.entries[..=entry].to_vec() };
        let old = self.entries[entry - 1].rule;
        // The last key before the joint has been primary for less than two intervals there, so nothing differs before this.
        let mut t = joint.minus(old.validity_min_secs() + old.lead_secs());
        loop {
            let (a, b) = (without.slots_at(t), with.slots_at(t));
            if (a.primary, a.backup) != (b.primary, b.backup) {
                return Some(t);
            }
            t = [a.next_change_at, b.next_change_at].into_iter().flatten().min()?;
        }
    }

    /// The first instant at which no node within the tolerance needs the entries above `entry`; none for the first
    /// entry, and if no boundary follows.
    #[must_use]
    pub fn entries_above_removable_at(&self, entry: usize) -> Option<UnixTime> {
        let joint = self.entries.get(entry)?.not_before?;
        let end = self.segment_at(joint.secs()).end?;
        Some(UnixTime::from_secs(end + self.skew_tolerance_secs().unwrap_or(0)))
    }

    /// The keys on both sides of each joint.  They must differ, and tofurkey's derivation does not bind the interval.
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
            Rule::Periodic { interval, .. } => periodic_segment(t, entry, interval.secs(), from, until),
        }
    }
}

/// The segment of a periodic entry, valid in `[from, until)`, around `t`.
fn periodic_segment(t: u64, entry: usize, interval: u64, from: Option<u64>, until: Option<u64>) -> Segment {
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
mod tests;
