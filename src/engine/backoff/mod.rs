//! The delay before another try: exponential, capped, and never the same for two hosts; and what of it a node of a fleet
//! waits before it asks a coordinator again.
//!
//! Must not know: clocks and random sources (a random number is passed in).  Invariants: a delay lies between half its
//! ceiling and its ceiling; ceilings double up to the cap; a delay is never below what the other side asked for; quick
//! tries are bounded, and only a coordinator that is away is tried quickly.

#[cfg(test)]
mod herd;

use std::time::Duration;

/// A policy that cannot be built wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// A policy with the ceilings `first`, twice that, and so on up to `cap`.
    ///
    /// # Panics
    /// If `first` is zero or above `cap`, which is a bug.
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        assert!(!first.is_zero() && first.as_nanos() <= cap.as_nanos(), "ceilings rise from above zero to the cap");
        Self { first, cap }
    }

    /// The delay after so many failures in a row (0 counts as 1); `random` is uniform over all of `u32`.
    ///
    /// `asked` is what the other side asked for (`Retry-After`).  The delay is at least that and at most one and a half
    /// times that, so that clients that were refused together do not come back together.
    #[must_use]
    pub fn delay(&self, failures: u32, asked: Option<Duration>, random: u32) -> Duration {
        let doubled = 2_u32.checked_pow(failures.max(1) - 1).and_then(|factor| self.first.checked_mul(factor));
        let ceiling = doubled.map_or(self.cap, |ceiling| ceiling.min(self.cap));
        let own = ceiling / 2 + part(ceiling / 2, random);
        asked.map_or(own, |asked| own.max(asked.saturating_add(part(asked / 2, random))))
    }
}

/// Shortest pause before a coordinator that is away is tried again, and what of a spread comes on top.  systemd starts ours
/// again after 2 s, and all nodes are back a moment later; but those of a large fleet do not come in the same moment.
const QUICK_MIN: Duration = Duration::from_millis(250);
const QUICK_SPREAD: Duration = Duration::from_secs(1);
/// Quick tries in a row: for 4 to 5 s on average.  Longer outages end with longer pauses.
const QUICK_MAX: u32 = 6;
/// Pauses for one that is there and does not answer, or that stays away: nodes that come back all together spread over
/// ever longer times, until each finds a place.
const SLOW: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));

/// What a failed request says about a coordinator, as far as it matters for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing listens there, or a connection that was in use has ended: what a restart looks like.  A try costs
    /// that host one packet.
    Away,
    /// Anything else.  It may be too much that it is asked for.
    Strained,
}

/// The pauses of a node between its requests to one coordinator, since the last one that was answered.
///
/// The quick tries are for a restart.  What they must not do is to wear down a coordinator to which ten thousand nodes
/// come back: so a connection that it accepts and does not serve counts as [`Trouble::Strained`] (the tests in `herd`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pauses {
    quick: u32,
    failures: u32,
}

impl Pauses {
    /// The pause after one more failure; `asked` and `random` as in [`Backoff::delay`].
    pub fn after(&mut self, trouble: Trouble, asked: Option<Duration>, random: u32) -> Duration {
        if trouble == Trouble::Away && self.quick < QUICK_MAX {
            self.quick += 1;
            return asked.unwrap_or_default().max(QUICK_MIN) + part(QUICK_SPREAD, random);
        }
        self.failures = self.failures.saturating_add(1);
        SLOW.delay(self.failures, asked, random)
    }
}

/// A uniform part of `whole`, for a uniform `random`.
#[must_use]
pub fn part(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    const POLICY: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let longest = |failures| POLICY.delay(failures, None, u32::MAX).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, u32::MAX].map(longest), [2, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(POLICY.delay(3, None, 0), Duration::from_secs(4));
    }

    #[test]
    fn what_was_asked_for_is_waited_for() {
        let asked = |secs, random| POLICY.delay(1, Some(Duration::from_secs(secs)), random).as_secs();
        assert_eq!((asked(100, 0), asked(100, u32::MAX), asked(0, 0)), (100, 150, 1));
    }

    #[test]
    fn one_that_is_away_is_tried_quickly_for_a_while_and_one_that_is_strained_never() {
        let mut pauses = Pauses::default();
        let mut longest = |trouble| pauses.after(trouble, None, u32::MAX).as_secs_f64();
        assert_eq!([(); 3].map(|()| longest(Trouble::Away)), [1.25; 3]);
        assert_eq!([(); 2].map(|()| longest(Trouble::Strained)), [2.0, 4.0]);
        // Ending and starting again all the time does not make it more quick tries.
        assert_eq!([(); 6].map(|()| longest(Trouble::Away)), [1.25, 1.25, 1.25, 8.0, 16.0, 32.0]);
        let first = |asked| Pauses::default().after(Trouble::Away, asked, 0);
        assert_eq!((first(None), first(Some(Duration::from_secs(9)))), (QUICK_MIN, Duration::from_secs(9)));
    }

    proptest! {
        #[test]
        fn a_delay_is_within_its_bounds(
            first in 1_u64..100_000, more in 0_u64..1_000_000, failures in any::<u32>(), random in any::<u32>(),
            asked in proptest::option::of(0_u64..10_000_000),
        ) {
            let (first, cap) = (Duration::from_millis(first), Duration::from_millis(first + more));
            let asked = asked.map(Duration::from_millis);
            let delay = Backoff::new(first, cap).delay(failures, asked, random);
            prop_assert!(delay >= asked.unwrap_or_default() && delay >= first / 2);
            prop_assert!(delay <= cap.max(asked.unwrap_or_default().mul_f64(1.5) + Duration::from_nanos(1)));
            // More luck never means less waiting, nor do more failures.
            prop_assert!(delay <= Backoff::new(first, cap).delay(failures, asked, random.saturating_add(1)));
            prop_assert!(delay <= Backoff::new(first, cap).delay(failures.saturating_add(1), asked, random));
        }
    }
}
