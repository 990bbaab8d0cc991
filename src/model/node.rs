//! What both the engine and the wire need of a node: its session, counters and source of keys, and which nodes a pool
//! expects.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::NodeId;

/// One run of an agent at one coordinator.  Persisted.  Wire v1: `session` = `ordinal-nonce`, decimal and hex.
///
/// The ordinal starts at the agent's clock (milliseconds) and is raised above any that a coordinator names in its
/// refusal, so the latest session of a node has the highest ordinal without trusting a clock; the nonce (random) tells
/// two sessions apart that took one ordinal by accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Session {
    /// Later sessions of a node have higher ones.
    pub ordinal: u64,
    /// Random.
    pub nonce: u64,
}

/// The text is not a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session is ORDINAL-NONCE, decimal and 16 hex digits")]
pub struct BadSession;

impl std::fmt::Display for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:016x}", self.ordinal, self.nonce)
    }
}

impl std::str::FromStr for Session {
    type Err = BadSession;

    fn from_str(text: &str) -> Result<Self, BadSession> {
        let parsed = || {
            let (ordinal, nonce) = text.split_once('-')?;
            Some(Self { ordinal: ordinal.parse().ok()?, nonce: u64::from_str_radix(nonce, 16).ok()? })
        };
        // Only the one spelling: no signs, no missing or leading zeros.
        parsed().filter(|session| session.to_string() == text).ok_or(BadSession)
    }
}

/// TFO counters of a node since its boot (docs/kernel.md#counters).  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Counters {
    /// `TCPFastOpenPassive`: cookies accepted.
    pub passive: u64,
    /// `TCPFastOpenPassiveAltKey`: of these, by the backup key.
    pub passive_alt_key: u64,
    /// `TCPFastOpenPassiveFail`: cookies rejected.
    pub passive_fail: u64,
}

impl Counters {
    /// What was counted since `earlier`; none if the counters were reset in between.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            passive: self.passive.checked_sub(earlier.passive)?,
            passive_alt_key: self.passive_alt_key.checked_sub(earlier.passive_alt_key)?,
            passive_fail: self.passive_fail.checked_sub(earlier.passive_fail)?,
        })
    }

    /// Cookies that clients sent, accepted or rejected.
    #[must_use]
    pub fn cookies(&self) -> u64 {
        self.passive.saturating_add(self.passive_fail)
    }

    /// The same shares of at most so many cookies.
    #[must_use]
    pub fn scaled_to(&self, cookies_max: u64) -> Self {
        let cookies = self.cookies();
        if cookies <= cookies_max {
            return *self;
        }
        let part = |count: u64| {
            let part = u128::from(count) * u128::from(cookies_max) / u128::from(cookies);
            u64::try_from(part).unwrap_or(cookies_max)
        };
        Self {
            passive: part(self.passive),
            passive_alt_key: part(self.passive_alt_key),
            passive_fail: part(self.passive_fail),
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            passive: self.passive.saturating_add(other.passive),
            passive_alt_key: self.passive_alt_key.saturating_add(other.passive_alt_key),
            passive_fail: self.passive_fail.saturating_add(other.passive_fail),
        }
    }
}

crate::named_enum! {
    /// Where a node has its keys from.  Persisted; wire v1: the names.
    #[derive(Default)]
    pub enum KeySource {
        /// From its pool: barriers wait for it.
        #[default]
        Coordinator = "coordinator",
        /// It derives them: it only reports, is given no keys, and barriers do not wait for it (`[report]`).
        Derive = "derive",
        /// From a file: as above.
        File = "file",
        /// It makes them itself: as above.
        Random = "random",
    }
}

impl KeySource {
    /// Whether the node's own clock decides when its keys change: their epochs are dates.
    #[must_use]
    pub const fn uses_clock(self) -> bool {
        match self {
            Self::Derive | Self::Random => true,
            Self::Coordinator | Self::File => false,
        }
    }
}

/// The nodes that must be here after a first key or an import (docs/protocol.md#rule-14).  Persisted; wire v1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// So many nodes.
    Number(usize),
    /// These nodes.
    Names(BTreeSet<NodeId>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_one_spelling() {
        let session = Session { ordinal: 1_790_000_000_000, nonce: 0xab };
        assert_eq!(session.to_string(), "1790000000000-00000000000000ab");
        assert_eq!(session.to_string().parse(), Ok(session));
        let one_more = format!("{}0-0000000000000001", u64::MAX);
        for bad in
            ["", "-", "1", "1-", "1-ab", "+1-0000000000000001", "01-0000000000000001", "1-000000000000000A", &one_more]
        {
            assert_eq!(bad.parse::<Session>(), Err(BadSession), "{bad}");
        }
    }

    #[test]
    fn the_epochs_of_derived_and_random_keys_are_dates() {
        let by_clock: Vec<KeySource> = KeySource::ALL.into_iter().filter(|source| source.uses_clock()).collect();
        assert_eq!(by_clock, [KeySource::Derive, KeySource::Random]);
    }

    fn counters(passive: u64, passive_alt_key: u64, passive_fail: u64) -> Counters {
        Counters { passive, passive_alt_key, passive_fail }
    }

    #[test]
    fn counters_are_compared_unless_one_of_them_fell() {
        let (earlier, later) = (counters(10, 5, 2), counters(110, 25, 9));
        assert_eq!((later.cookies(), later.since(&earlier)), (119, Some(counters(100, 20, 7))));
        assert_eq!(earlier.plus(&counters(100, 20, 7)), later);
        for reset in [counters(9, 25, 9), counters(110, 4, 9), counters(110, 25, 1)] {
            assert_eq!(reset.since(&earlier), None, "{reset:?}");
        }
        let most = counters(u64::MAX, u64::MAX, u64::MAX);
        assert_eq!((most.cookies(), most.plus(&later)), (u64::MAX, most));
    }

    /// docs/protocol.md#rule-12: a node that has counted too much keeps its shares.
    #[test]
    fn counters_are_scaled_down_and_never_up() {
        let counted = counters(600, 300, 400);
        for (cookies_max, scaled) in [
            (2_000, counted),
            (1_000, counted),
            (999, counters(599, 299, 399)),
            (500, counters(300, 150, 200)),
            (0, counters(0, 0, 0)),
        ] {
            assert_eq!(counted.scaled_to(cookies_max), scaled, "{cookies_max}");
        }
        assert_eq!(counters(u64::MAX, 0, 0).scaled_to(u64::MAX - 1), counters(u64::MAX - 1, 0, 0));
    }
}
