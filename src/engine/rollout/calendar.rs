//! The calendar of a pool: spans in which no rotation starts by itself (docs/protocol.md#rule-3).
//!
//! It only delays the schedule.  A rotation that runs continues to its end, a revoke starts at once, and so does an operator's
//! `rotate --force`: keys that should not be used any more must not wait for a holiday to end.  Must not know: clocks, files.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy::Policy;
use tfo_model::time::UnixTime;
use tfo_model::week::{WEEK_SECS, WeekTime};

/// Most spans of a pool: they are in its document.
pub const FREEZES_MAX: usize = 32;
/// Longest reason in bytes.
pub const REASON_BYTES_MAX: usize = 200;
/// Longest span with a beginning and an end, in seconds: a quarter of a year.
pub const ONCE_SECS_MAX: u64 = 92 * 86_400;
/// Most spans that follow each other without a gap: every weekly one between any two others.
const JOINED_MAX: usize = (FREEZES_MAX + 1) * (FREEZES_MAX + 1);

/// A span in which no rotation starts by itself.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Freeze {
    /// When.
    pub when: When,
    /// For people; may be empty.
    pub reason: String,
}

/// When no rotation starts.  `until` does not belong to it.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Once.
    Once {
        /// The first second.
        from: UnixTime,
        /// The second after the last one.
        until: UnixTime,
    },
    /// Every week, in UTC.
    Weekly {
        /// The first minute.
        from: WeekTime,
        /// The minute after the last one.
        until: WeekTime,
    },
}

/// One stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first second.
    pub from: UnixTime,
    /// The second after its last one.
    pub until: UnixTime,
}

/// What is wrong with a calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCalendar {
    /// It would take the document's room.
    #[error("a pool has at most {FREEZES_MAX} spans of `freeze`")]
    TooMany,
    /// It has no length.
    #[error("until must be later than from")]
    Empty,
    /// A key that is never replaced is worth nothing.
    #[error("a span of `freeze` lasts at most 92 days")]
    TooLong,
    /// It would not fit on a line.
    #[error("the reason is one line of at most {REASON_BYTES_MAX} bytes")]
    Reason,
    /// No rotation would ever start.
    #[error("the weekly spans of `freeze` leave no time in which a rotation may start")]
    NoTimeLeft,
}

impl Freeze {
    /// Refuses what has no length, or never ends.
    ///
    /// # Errors
    /// Fails with what is wrong with it.
    pub fn check(&self) -> Result<(), BadCalendar> {
        if self.reason.len() > REASON_BYTES_MAX || self.reason.chars().any(char::is_control) {
            return Err(BadCalendar::Reason);
        }
        match self.when {
            When::Once { from, until } if until <= from => Err(BadCalendar::Empty),
            When::Once { from, until } if until.secs_since(from) > ONCE_SECS_MAX => Err(BadCalendar::TooLong),
            When::Weekly { from, until } if from == until => Err(BadCalendar::Empty),
            When::Once { .. } | When::Weekly { .. } => Ok(()),
        }
    }

    /// The stretch of it that `at` lies in.
    #[must_use]
    pub fn around(&self, at: UnixTime) -> Option<Span> {
        let span = match self.when {
            When::Once { from, until } => Span { from, until },
            When::Weekly { from, until } => {
                let begun = at.minus(from.secs_before(at));
                Span { from: begun, until: begun.plus(from.secs_to(until)) }
            }
        };
        (span.from <= at && at < span.until).then_some(span)
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.when {
            When::Once { from, until } => write!(f, "{from} to {until} {}", self.reason),
            When::Weekly { from, until } => write!(f, "{from} to {until} {}", self.reason),
        }
    }
}

impl Policy {
    /// The span in which no rotation starts at `at`; of several the one that ends last.
    #[must_use]
    pub fn freeze_at(&self, at: UnixTime) -> Option<(&Freeze, Span)> {
        let around = self.freeze.iter().filter_map(|freeze| Some((freeze, freeze.around(at)?)));
        around.max_by_key(|(_, span)| span.until)
    }

    /// The first instant from `at` on in which the calendar lets a rotation start.
    #[must_use]
    pub fn free_from(&self, at: UnixTime) -> UnixTime {
        let mut free = at;
        for _ in 0..JOINED_MAX {
            match self.freeze_at(free) {
                Some((_, span)) => free = span.until,
                None => break,
            }
        }
        free
    }

    /// Refuses a calendar that keeps a key for ever.
    pub(super) fn check_calendar(&self) -> Result<(), BadCalendar> {
        if self.freeze.len() > FREEZES_MAX {
            return Err(BadCalendar::TooMany);
        }
        self.freeze.iter().try_for_each(Freeze::check)?;
        let weekly: Vec<&Freeze> =
            self.freeze.iter().filter(|freeze| matches!(freeze.when, When::Weekly { .. })).collect();
        // A week has a minute that is free, or has none in any week; spans begin and end at whole minutes.
        let is_free = |minute: &u64| {
            let at = UnixTime::from_secs(minute * 60);
            !weekly.iter().any(|freeze| freeze.around(at).is_some())
        };
        // Later than the first week of all, in which a span would begin before the epoch.
        let minutes = WEEK_SECS / 60;
        if weekly.is_empty() || (minutes..2 * minutes).any(|minute| is_free(&minute)) {
            return Ok(());
        }
        Err(BadCalendar::NoTimeLeft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixTime {
        text.parse().unwrap()
    }

    fn once(from: &str, until: &str) -> Freeze {
        Freeze { when: When::Once { from: at(from), until: at(until) }, reason: "year end".to_owned() }
    }

    fn weekly(from: &str, until: &str) -> Freeze {
        let when = When::Weekly { from: from.parse().unwrap(), until: until.parse().unwrap() };
        Freeze { when, reason: String::new() }
    }

    fn with(freeze: Vec<Freeze>) -> Policy {
        Policy { freeze, ..Policy::with_defaults(vec!["*".parse().unwrap()]) }
    }

    #[test]
    fn a_rotation_may_start_outside_of_the_spans() {
        // 2026-12-04 is a Friday.
        let policy = with(vec![
            once("2026-12-07T07:00:00Z", "2026-12-08T12:00:00Z"),
            weekly("fri 16:00", "mon 07:00"),
            weekly("tue 11:00", "tue 13:00"),
        ]);
        for (asked, free) in [
            ("2026-12-04T15:59:59Z", "2026-12-04T15:59:59Z"),
            // The weekend, the day after it, and the hours that follow that.
            ("2026-12-04T16:00:00Z", "2026-12-08T13:00:00Z"),
            ("2026-12-06T23:00:00Z", "2026-12-08T13:00:00Z"),
            ("2026-12-08T12:59:59Z", "2026-12-08T13:00:00Z"),
            ("2026-12-08T13:00:00Z", "2026-12-08T13:00:00Z"),
            ("2026-12-12T00:00:00Z", "2026-12-14T07:00:00Z"),
        ] {
            assert_eq!(policy.free_from(at(asked)), at(free), "{asked}");
        }
        let (freeze, span) = policy.freeze_at(at("2026-12-08T11:30:00Z")).unwrap();
        assert_eq!((freeze, span.until), (&policy.freeze[2], at("2026-12-08T13:00:00Z")), "the one that ends last");
        assert_eq!(policy.freeze_at(at("2026-12-08T13:00:00Z")), None);
        assert_eq!(with(Vec::new()).free_from(at("2026-12-08T13:00:00Z")), at("2026-12-08T13:00:00Z"));
    }

    #[test]
    fn a_calendar_that_never_ends_is_refused() {
        let long = Freeze { reason: "x".repeat(REASON_BYTES_MAX + 1), ..weekly("fri 16:00", "mon 07:00") };
        let lines = Freeze { reason: "a\nb".to_owned(), ..long.clone() };
        let day = once("2026-12-07T00:00:00Z", "2026-12-08T00:00:00Z");
        for (freeze, expected) in [
            (vec![day.clone(), weekly("fri 16:00", "fri 15:59")], Ok(())),
            (vec![day.clone(); FREEZES_MAX], Ok(())),
            (vec![once("2026-12-01T00:00:00Z", "2027-03-03T00:00:00Z")], Ok(())),
            (vec![day.clone(); FREEZES_MAX + 1], Err(BadCalendar::TooMany)),
            (vec![once("2026-12-07T00:00:00Z", "2026-12-07T00:00:00Z")], Err(BadCalendar::Empty)),
            (vec![once("2026-12-01T00:00:00Z", "2027-03-03T00:00:01Z")], Err(BadCalendar::TooLong)),
            (vec![weekly("fri 16:00", "fri 16:00")], Err(BadCalendar::Empty)),
            (vec![long], Err(BadCalendar::Reason)),
            (vec![lines], Err(BadCalendar::Reason)),
            (vec![weekly("mon 00:00", "thu 12:00"), weekly("thu 12:00", "mon 00:00")], Err(BadCalendar::NoTimeLeft)),
            (vec![weekly("mon 00:00", "thu 12:00"), weekly("thu 12:01", "mon 00:00")], Ok(())),
        ] {
            assert_eq!(with(freeze.clone()).check_calendar(), expected, "{freeze:?}");
        }
        // What was never checked ends, too.
        let never = with(vec![weekly("mon 00:00", "thu 12:00"), weekly("thu 12:00", "mon 00:00")]);
        assert!(never.free_from(at("2026-12-07T00:00:00Z")) > at("2026-12-07T00:00:00Z"));
    }
}
