//! Instants and durations with their ranges.  Nothing here reads a clock: `now` is always an argument.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use crate::serde_as_text;

/// A wall-clock instant in whole seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// Written as RFC 3339 in Z everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// 9999-01-01T00:00:00Z: RFC 3339 writes four digits of year, and jiff ends with that year.
    pub const MAX: Self = Self(253_370_764_800);

    /// The instant so many seconds after the epoch, at most [`UnixTime::MAX`].
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        if secs < Self::MAX.0 { Self(secs) } else { Self::MAX }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0
    }

    /// This instant plus `secs` seconds.
    #[must_use]
    pub const fn plus(self, secs: u64) -> Self {
        Self::from_secs(self.0.saturating_add(secs))
    }

    /// This instant minus `secs` seconds, not before the epoch.
    #[must_use]
    pub const fn minus(self, secs: u64) -> Self {
        Self(self.0.saturating_sub(secs))
    }

    /// Seconds from `earlier` to here; 0 if that is later.
    #[must_use]
    pub const fn secs_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = i64::try_from(self.0).map_err(|_| fmt::Error)?;
        Timestamp::from_second(secs).map_err(|_| fmt::Error)?.fmt(f)
    }
}

/// The text is not an RFC 3339 instant, or lies before 1970.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as RFC 3339 with an offset, for example 2026-12-01T00:00:00Z, not before 1970")]
pub struct BadTime;

impl FromStr for UnixTime {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        let at: Timestamp = text.parse().map_err(|_| BadTime)?;
        if at.subsec_nanosecond() != 0 {
            return Err(BadTime);
        }
        u64::try_from(at.as_second()).map(Self::from_secs).map_err(|_| BadTime)
    }
}

serde_as_text!(UnixTime);

/// The text is not a duration of whole seconds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a number with a unit, for example \"24h\", \"90s\", \"1h30m\" or \"7d\", in whole seconds")]
pub struct BadDuration;

/// Reads a duration such as `24h`, `1h30m`, `90s` or `7d`; a day is 24 hours.
///
/// # Errors
/// Fails for any other text, for a negative duration, and for parts of a second.
pub fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    let span: jiff::Span = text.parse().map_err(|_| BadDuration)?;
    let span = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| BadDuration)?;
    let span = Duration::try_from(span).map_err(|_| BadDuration)?;
    if span.subsec_nanos() == 0 { Ok(span) } else { Err(BadDuration) }
}

/// Writes a number of seconds as [`parse_duration`] reads it: `1d`, `1h 30m`, `45s`.
#[must_use]
pub fn duration_text(secs: u64) -> String {
    let parts = [(secs / 86_400, "d"), (secs / 3_600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let words: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if words.is_empty() { "0s".to_owned() } else { words.join(" ") }
}

/// Time for which one key is primary: 10 s to 7 d (docs/reference/json.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RotationInterval(u64);

/// An interval or a lead outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadInterval {
    /// Too short to keep a fleet together, or longer than a harvested cookie should live.
    #[error("an interval must be 10 seconds to 7 days")]
    Interval,
    /// The lead leaves no time in which the previous or the next key is in the backup slot.
    #[error("a stage_lead must be longer than 0 and shorter than the interval")]
    Lead,
}

impl RotationInterval {
    /// Shortest interval in seconds: below it a poll, a write and the clocks' error no longer fit into a lead.
    pub const MIN_SECS: u64 = 10;
    /// Longest interval in seconds: tofurkey's own limit; a harvested cookie should not live longer than a week.
    pub const MAX_SECS: u64 = 604_800;
    /// One day: the default.
    pub const DEFAULT: Self = Self(86_400);

    /// An interval of so many seconds.
    ///
    /// # Errors
    /// Fails outside 10 s to 7 d.
    pub const fn from_secs(secs: u64) -> Result<Self, BadInterval> {
        if secs >= Self::MIN_SECS && secs <= Self::MAX_SECS { Ok(Self(secs)) } else { Err(BadInterval::Interval) }
    }

    /// Seconds.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0
    }
}

/// Time for which a key is in the backup slot before it is primary: longer than 0, shorter than the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageLead(u64);

impl StageLead {
    /// Default for derived keys: one hour, or half the interval where that is less.
    const DEFAULT_SECS: u64 = 3_600;

    /// A lead within an interval.
    ///
    /// # Errors
    /// Fails for 0, and for the interval or more.
    pub const fn within(secs: u64, interval: RotationInterval) -> Result<Self, BadInterval> {
        if secs > 0 && secs < interval.0 { Ok(Self(secs)) } else { Err(BadInterval::Lead) }
    }

    /// A lead of a key that has no interval.
    ///
    /// # Errors
    /// Fails for 0 and for more than 7 d.
    pub const fn alone(secs: u64) -> Result<Self, BadInterval> {
        if secs > 0 && secs <= RotationInterval::MAX_SECS { Ok(Self(secs)) } else { Err(BadInterval::Lead) }
    }

    /// One hour, or half the interval where that is less.
    #[must_use]
    pub const fn default_for(interval: RotationInterval) -> Self {
        let half = interval.0 / 2;
        Self(if half < Self::DEFAULT_SECS { half } else { Self::DEFAULT_SECS })
    }

    /// Half the interval: what tofurkey does, and what tolerates the most clock error.
    #[must_use]
    pub const fn half_of(interval: RotationInterval) -> Self {
        Self(interval.0 / 2)
    }

    /// Seconds.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_z() {
        let at = UnixTime::from_secs(1_796_083_200);
        assert_eq!(at.to_string(), "2026-12-01T00:00:00Z");
        assert_eq!("2026-12-01T00:00:00Z".parse(), Ok(at));
        assert_eq!("2026-12-01T01:00:00+01:00".parse(), Ok(at));
        for bad in
            ["", "2026-12-01", "2026-12-01T00:00:00", "1969-12-31T23:59:59Z", "2026-12-01T00:00:00.5Z", "tomorrow"]
        {
            assert_eq!(bad.parse::<UnixTime>(), Err(BadTime), "{bad}");
        }
        assert_eq!(UnixTime::from_secs(u64::MAX).to_string(), "9999-01-01T00:00:00Z");
    }

    #[test]
    fn times_end_where_they_can_be_written_and_differences_at_nothing() {
        let (at, later) = (UnixTime::from_secs(1_000), UnixTime::from_secs(1_060));
        assert_eq!((at.plus(60), later.minus(60), at.secs()), (later, at, 1_000));
        assert_eq!((later.secs_since(at), at.secs_since(later), at.minus(1_001).secs()), (60, 0, 0));
        let last = UnixTime::MAX.secs();
        for (secs, stays) in [(last - 1, last - 1), (last, last), (last + 1, last), (u64::MAX, last)] {
            assert_eq!(UnixTime::from_secs(secs).secs(), stays);
        }
        assert_eq!(at.plus(u64::MAX), UnixTime::MAX);
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, secs) in [
            ("24h", 86_400),
            ("90s", 90),
            ("1h30m", 5_400),
            ("1h 30m", 5_400),
            ("7d", 604_800),
            ("30 s", 30),
            ("2 days", 172_800),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        for bad in ["", "24", "24 parsecs", "-1h", "500ms", "1.5", "1mo", "h", "99999999999999999999h"] {
            assert_eq!(parse_duration(bad), Err(BadDuration), "{bad}");
        }
        for (secs, text) in [
            (0, "0s"),
            (1, "1s"),
            (59, "59s"),
            (60, "1m"),
            (3_600, "1h"),
            (5_400, "1h 30m"),
            (86_399, "23h 59m 59s"),
            (90_000, "1d 1h"),
            (604_800, "7d"),
        ] {
            assert_eq!((duration_text(secs).as_str(), parse_duration(text)), (text, Ok(Duration::from_secs(secs))));
        }
    }

    #[test]
    fn intervals_and_leads_have_ranges() {
        assert_eq!(RotationInterval::from_secs(9), Err(BadInterval::Interval));
        assert_eq!(RotationInterval::from_secs(604_801), Err(BadInterval::Interval));
        let ten = RotationInterval::from_secs(10).unwrap();
        assert_eq!(StageLead::within(0, ten), Err(BadInterval::Lead));
        assert_eq!(StageLead::within(10, ten), Err(BadInterval::Lead));
        assert_eq!(StageLead::within(9, ten).map(StageLead::secs), Ok(9));
        assert_eq!(StageLead::default_for(ten).secs(), 5);
        assert_eq!(StageLead::default_for(RotationInterval::DEFAULT).secs(), 3_600);
    }
}
