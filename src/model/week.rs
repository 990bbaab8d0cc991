//! A time of the week, in UTC: `fri 16:00`.  Nothing here reads a clock.

use std::fmt;
use std::str::FromStr;

use crate::serde_as_text;
use crate::time::UnixTime;

/// Days as they are written, from Monday on.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// 1970-01-01 was a Thursday: so many days after a Monday.
const EPOCH_DAY: u64 = 3;
const DAY_SECS: u64 = 86_400;

/// Length of a week in seconds.
pub const WEEK_SECS: u64 = 7 * DAY_SECS;

/// A minute of the week, counted from Monday 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeekTime(u16);

impl WeekTime {
    /// Seconds from Monday 00:00.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 as u64 * 60
    }

    /// Seconds from here to `until`, which comes within a week; 0 if it is the same time.
    #[must_use]
    pub const fn secs_to(self, until: Self) -> u64 {
        (until.secs() + WEEK_SECS - self.secs()) % WEEK_SECS
    }

    /// Seconds from the last time that it was this time of the week until `at`, less than a week.
    #[must_use]
    pub const fn secs_before(self, at: UnixTime) -> u64 {
        let of_week = (at.secs() + EPOCH_DAY * DAY_SECS) % WEEK_SECS;
        (of_week + WEEK_SECS - self.secs()) % WEEK_SECS
    }
}

impl fmt::Display for WeekTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, minute) = (usize::from(self.0 / 1_440), self.0 % 1_440);
        write!(f, "{} {:02}:{:02}", DAYS.get(day).copied().unwrap_or_default(), minute / 60, minute % 60)
    }
}

/// The text is not a time of the week.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time of the week is a day and a time in UTC, for example \"fri 16:00\"")]
pub struct BadWeekTime;

impl FromStr for WeekTime {
    type Err = BadWeekTime;

    fn from_str(text: &str) -> Result<Self, BadWeekTime> {
        let (day, time) = text.split_once(' ').ok_or(BadWeekTime)?;
        let day = DAYS.into_iter().zip(0_u16..).find(|(name, _)| *name == day).ok_or(BadWeekTime)?.1;
        let (hour, minute) = time.split_once(':').ok_or(BadWeekTime)?;
        let two = |text: &str, max: u16| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|number| digits && *number <= max).ok_or(BadWeekTime)
        };
        Ok(Self((day * 24 + two(hour, 23)?) * 60 + two(minute, 59)?))
    }
}

serde_as_text!(WeekTime);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_week_is_a_day_and_a_time() {
        for text in ["mon 00:00", "fri 16:05", "sun 23:59"] {
            assert_eq!(text.parse::<WeekTime>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "fri",
            "fri 16",
            "fri 24:00",
            "fri 16:60",
            "fri  16:00",
            "Fri 16:00",
            "fri 6:00",
            "fri +6:00",
            "day 16:00",
        ] {
            assert_eq!(bad.parse::<WeekTime>(), Err(BadWeekTime), "{bad}");
        }
    }

    #[test]
    fn a_week_has_no_end() {
        let of = |text: &str| text.parse::<WeekTime>().unwrap();
        for (from, until, secs) in [
            ("mon 00:00", "mon 00:01", 60),
            ("mon 00:01", "mon 00:00", WEEK_SECS - 60),
            ("fri 16:00", "mon 07:00", 2 * DAY_SECS + 15 * 3_600),
            ("tue 10:00", "tue 10:00", 0),
        ] {
            assert_eq!(of(from).secs_to(of(until)), secs, "{from} {until}");
        }
        // 2026-12-01 is a Tuesday.
        let at: UnixTime = "2026-12-01T00:00:30Z".parse().unwrap();
        for (from, secs) in
            [("tue 00:00", 30), ("mon 23:59", 90), ("tue 00:01", WEEK_SECS - 30), ("mon 00:00", DAY_SECS + 30)]
        {
            assert_eq!(of(from).secs_before(at), secs, "{from}");
        }
        assert_eq!(of("thu 00:00").secs_before(UnixTime::from_secs(0)), 0, "the epoch");
    }
}
