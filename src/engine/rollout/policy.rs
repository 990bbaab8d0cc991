//! Schedule, waves and gates of a pool, as its document holds them (docs/protocol.md#rule-11; rules 5, 12, 13).
//!
//! Must not know: where a policy was read.  Invariant: a policy that passed [`Policy::check`] can always reach the
//! end of a rotation, because its last wave is all nodes and `drain_max` is finite.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::calendar::{BadCalendar, Freeze};
pub use tfo_model::pattern::{BadPattern, NamePattern};
use tfo_model::time::RotationInterval;

/// A share in millionths, 0 to 1 000 000.  Persisted.
///
/// Not a float: it is compared and hashed, and one coordinator must decide as another does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(u32);

impl Share {
    /// Everything.
    pub const ALL: Self = Self(1_000_000);
    /// Half.
    pub const HALF: Self = Self(500_000);

    /// A share of so many millionths; none above 1 000 000.
    #[must_use]
    pub const fn from_ppm(ppm: u32) -> Option<Self> {
        if ppm <= Self::ALL.0 { Some(Self(ppm)) } else { None }
    }

    /// The share in millionths.
    #[must_use]
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// `part / whole`, rounded down; 0 of 0 is 0.
    #[must_use]
    pub fn of(part: u64, whole: u64) -> Self {
        if whole == 0 {
            return Self(0);
        }
        let ppm = u128::from(part.min(whole)) * u128::from(Self::ALL.0) / u128::from(whole);
        Self(u32::try_from(ppm).unwrap_or(Self::ALL.0))
    }

    /// This share of `count`, rounded up: a rule of "at least half" must not be met by less.
    #[must_use]
    pub fn of_count(self, count: usize) -> usize {
        let part = (count as u128 * u128::from(self.0)).div_ceil(u128::from(Self::ALL.0));
        usize::try_from(part).unwrap_or(count)
    }
}

impl fmt::Display for Share {
    /// In percent, with as many decimals as tell it from nothing: `12.3%`, `0.004%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ppm) = *self;
        let (whole, decimals) = (ppm / 10_000, ppm % 10_000);
        let decimals = if ppm >= 1_000 { decimals / 1_000 * 1_000 } else { decimals };
        let decimals = format!("{decimals:04}");
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            decimals => write!(f, "{whole}.{decimals}%"),
        }
    }
}

/// The nodes of a wave.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaveRule {
    /// Nodes of these names.
    Names(NamePattern),
    /// Nodes whose hash of (`pool_id`, epoch, node) lies below this share.
    Share(Share),
}

/// What happens to an absent node.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbsentPolicy {
    /// It is excluded, unless fewer than `min_present` would be left.
    Exclude,
    /// The pool waits for it.
    Wait,
}

/// Schedule, waves and gates.  Persisted.  Durations in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// Names of the nodes that may join.
    pub nodes: Vec<NamePattern>,
    /// No rotation starts with fewer required nodes, unless forced; none: operators say how many
    /// ([`super::document::Document::expected`]).
    #[serde(default)]
    pub expected_nodes: Option<usize>,
    /// Time for which a key is primary; 10 s to 7 d.
    pub interval_secs: u64,
    /// A node is absent after this, or after three of its own periods.
    pub absent_after_secs: u64,
    /// What happens to an absent node.
    pub absent_policy: AbsentPolicy,
    /// A barrier needs this share of the pool's nodes, at least one (rule 5).
    pub min_present: Share,
    /// The waves of a promotion; the last one is [`Share::ALL`].
    pub promote_waves: Vec<WaveRule>,
    /// Drained when less than this share of accepted cookies came from the backup key.
    pub drain_below: Share,
    /// Drained after this in any case.
    pub drain_max_secs: u64,
    /// Fewer accepted cookies are not evidence.
    pub drain_min_samples: u64,
    /// Time for which a wave is observed.
    pub health_window_secs: u64,
    /// Largest rise of the share of rejected cookies above the wave's own baseline.
    pub health_rise_max: Share,
    /// Fewer cookies in the window are not evidence, and the wave passes after the window.
    pub health_min_connections: u64,
    /// Time for which a revoke waits at a barrier before it leaves stragglers behind.
    pub revoke_barrier_max_secs: u64,
    /// Longest period that a node may declare: the pool waits three of them for a node that does not come back.
    pub period_max_secs: u64,
    /// Spans in which no rotation starts by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Freeze>,
}

/// Shortest `period_max` in seconds: a daemon declares this period.
pub const PERIOD_MAX_SECS_MIN: u64 = 60;

/// Most bytes of the names and patterns of a policy: half of the document that holds it.
pub const POLICY_NAMES_BYTES_MAX: usize = 128 << 10;

/// What is wrong with a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    /// See [`RotationInterval`].
    #[error("interval must be 10 seconds to 7 days")]
    Interval,
    /// Some nodes would never be promoted.
    #[error("the last of promote_waves must be \"100%\"")]
    LastWave,
    /// Every node would be absent at once.
    #[error("absent_after must be at least 1 second")]
    AbsentAfter,
    /// Daemons would be refused.
    #[error("period_max must be at least {PERIOD_MAX_SECS_MIN} seconds")]
    PeriodMax,
    /// The document would have no room for them.
    #[error(
        "nodes and promote_waves together may have {POLICY_NAMES_BYTES_MAX} bytes; write patterns in place of names"
    )]
    TooLong,
    /// See [`BadCalendar`].
    #[error(transparent)]
    Calendar(#[from] BadCalendar),
}

impl Policy {
    /// The defaults of docs/reference/configuration.md.
    #[must_use]
    pub fn with_defaults(nodes: Vec<NamePattern>) -> Self {
        Self {
            nodes,
            expected_nodes: None,
            interval_secs: RotationInterval::DEFAULT.secs(),
            absent_after_secs: 600,
            absent_policy: AbsentPolicy::Exclude,
            min_present: Share::HALF,
            promote_waves: vec![WaveRule::Share(Share(50_000)), WaveRule::Share(Share::ALL)],
            drain_below: Share(10_000),
            drain_max_secs: 6 * 3_600,
            drain_min_samples: 100,
            health_window_secs: 60,
            health_rise_max: Share(20_000),
            health_min_connections: 100,
            revoke_barrier_max_secs: 300,
            period_max_secs: 2 * 3_600,
            freeze: Vec::new(),
        }
    }

    /// Longest time for which a cookie is accepted, in seconds, while rotations run as planned: its key makes cookies for an
    /// interval, and takes them for another.  An observer can follow a client by one cookie for as long.
    ///
    /// A backup stays until its clients have left it, so a long `drain_max` counts in place of the interval.
    #[must_use]
    pub fn cookie_lifetime_secs(&self) -> u64 {
        2 * self.interval_secs.max(self.drain_max_secs)
    }

    /// Refuses what could not be driven to the end of a rotation.
    ///
    /// # Errors
    /// Fails if the interval is out of range, the last wave is not all nodes, `absent_after` is zero, `period_max` is
    /// shorter than a daemon's period, the names are too long for a document, or the calendar never ends.
    pub fn check(&self) -> Result<(), BadPolicy> {
        if RotationInterval::from_secs(self.interval_secs).is_err() {
            return Err(BadPolicy::Interval);
        }
        if self.promote_waves.last() != Some(&WaveRule::Share(Share::ALL)) {
            return Err(BadPolicy::LastWave);
        }
        if self.absent_after_secs == 0 {
            return Err(BadPolicy::AbsentAfter);
        }
        if self.period_max_secs < PERIOD_MAX_SECS_MIN {
            return Err(BadPolicy::PeriodMax);
        }
        let waves = self.promote_waves.iter().filter_map(|rule| match rule {
            WaveRule::Names(pattern) => Some(pattern),
            WaveRule::Share(_) => None,
        });
        // With the quotes and the comma.
        let bytes: usize = self.nodes.iter().chain(waves).map(|pattern| pattern.to_string().len() + 3).sum();
        if bytes > POLICY_NAMES_BYTES_MAX {
            return Err(BadPolicy::TooLong);
        }
        Ok(self.check_calendar()?)
    }

    /// The settings in which the two differ, in the order of the fields; empty if they are the same.  Names as in the
    /// coordinator's file (docs/reference/configuration.md).
    #[must_use]
    pub fn differs_from(&self, other: &Self) -> Vec<&'static str> {
        // Without `..`: a field that is added here does not compile until it is compared.
        let Self {
            nodes,
            expected_nodes,
            interval_secs,
            absent_after_secs,
            absent_policy,
            min_present,
            promote_waves,
            drain_below,
            drain_max_secs,
            drain_min_samples,
            health_window_secs,
            health_rise_max,
            health_min_connections,
            revoke_barrier_max_secs,
            period_max_secs,
            freeze,
        } = self;
        let compared = [
            ("nodes", *nodes != other.nodes),
            ("expected_nodes", *expected_nodes != other.expected_nodes),
            ("interval", *interval_secs != other.interval_secs),
            ("absent_after", *absent_after_secs != other.absent_after_secs),
            ("absent_policy", *absent_policy != other.absent_policy),
            ("min_present", *min_present != other.min_present),
            ("promote_waves", *promote_waves != other.promote_waves),
            ("drain_below", *drain_below != other.drain_below),
            ("drain_max", *drain_max_secs != other.drain_max_secs),
            ("drain_min_samples", *drain_min_samples != other.drain_min_samples),
            ("health_window", *health_window_secs != other.health_window_secs),
            ("health_rise_max", *health_rise_max != other.health_rise_max),
            ("health_min_connections", *health_min_connections != other.health_min_connections),
            ("revoke_barrier_max", *revoke_barrier_max_secs != other.revoke_barrier_max_secs),
            ("period_max", *period_max_secs != other.period_max_secs),
            ("freeze", *freeze != other.freeze),
        ];
        compared.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;
    use crate::rollout::calendar::When;

    fn weekend() -> Freeze {
        let when = When::Weekly { from: "fri 16:00".parse().unwrap(), until: "mon 07:00".parse().unwrap() };
        Freeze { when, reason: String::new() }
    }

    #[test]
    fn a_share_is_written_in_percent() {
        for (ppm, text) in [
            (0, "0%"),
            (1, "0.0001%"),
            (40, "0.004%"),
            (999, "0.0999%"),
            (1_000, "0.1%"),
            (1_999, "0.1%"),
            (10_000, "1%"),
            (123_456, "12.3%"),
            (999_999, "99.9%"),
            (1_000_000, "100%"),
        ] {
            assert_eq!(Share::from_ppm(ppm).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_policy_that_cannot_be_driven_is_refused() {
        type Change = fn(&mut Policy);
        // With its quotes and its comma a name has 256 bytes.
        let names = |count: usize| vec![NamePattern::from_str(&"a".repeat(253)).unwrap(); count];
        let mut most = Policy::with_defaults(names(POLICY_NAMES_BYTES_MAX / 256));
        assert_eq!(most.check(), Ok(()));
        most.promote_waves.insert(0, WaveRule::Names("a".parse().unwrap()));
        assert_eq!(most.check(), Err(BadPolicy::TooLong));
        let changes: [(Result<(), BadPolicy>, Change); 10] = [
            (Ok(()), |policy| policy.interval_secs = 10),
            (Err(BadPolicy::Interval), |policy| policy.interval_secs = 9),
            (Err(BadPolicy::LastWave), |policy| drop(policy.promote_waves.pop())),
            (Err(BadPolicy::LastWave), |policy| policy.promote_waves.clear()),
            (Ok(()), |policy| policy.absent_after_secs = 1),
            (Err(BadPolicy::AbsentAfter), |policy| policy.absent_after_secs = 0),
            (Ok(()), |policy| policy.period_max_secs = 60),
            (Err(BadPolicy::PeriodMax), |policy| policy.period_max_secs = 59),
            (Ok(()), |policy| policy.freeze = vec![weekend()]),
            (Err(BadPolicy::Calendar(BadCalendar::TooMany)), |policy| policy.freeze = vec![weekend(); 33]),
        ];
        for (checked, change) in changes {
            let mut policy = Policy::with_defaults(names(1));
            change(&mut policy);
            assert_eq!(policy.check(), checked, "{policy:?}");
        }
    }

    #[test]
    fn policies_differ_by_the_names_of_the_file() {
        let own = Policy::with_defaults(vec!["*.example.org".parse().unwrap()]);
        assert_eq!(own.differs_from(&own.clone()), [""; 0]);
        type Change = fn(&mut Policy);
        let changes: [(&str, Change); 16] = [
            ("nodes", |policy| policy.nodes.clear()),
            ("expected_nodes", |policy| policy.expected_nodes = Some(7)),
            ("interval", |policy| policy.interval_secs += 1),
            ("absent_after", |policy| policy.absent_after_secs += 1),
            ("absent_policy", |policy| policy.absent_policy = AbsentPolicy::Wait),
            ("min_present", |policy| policy.min_present = Share::ALL),
            ("promote_waves", |policy| drop(policy.promote_waves.remove(0))),
            ("drain_below", |policy| policy.drain_below = Share::ALL),
            ("drain_max", |policy| policy.drain_max_secs += 1),
            ("drain_min_samples", |policy| policy.drain_min_samples += 1),
            ("health_window", |policy| policy.health_window_secs += 1),
            ("health_rise_max", |policy| policy.health_rise_max = Share::ALL),
            ("health_min_connections", |policy| policy.health_min_connections += 1),
            ("revoke_barrier_max", |policy| policy.revoke_barrier_max_secs += 1),
            ("period_max", |policy| policy.period_max_secs += 1),
            ("freeze", |policy| policy.freeze.push(weekend())),
        ];
        let mut all = own.clone();
        for (name, change) in changes {
            let mut other = own.clone();
            change(&mut other);
            assert_eq!((own.differs_from(&other), other.differs_from(&own)), (vec![name], vec![name]));
            change(&mut all);
        }
        assert_eq!(own.differs_from(&all), changes.map(|(name, _)| name), "all at once, in order");
    }
}
