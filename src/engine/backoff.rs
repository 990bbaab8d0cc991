//! The delay before another try: exponential, capped, and never the same for two hosts.
//!
//! Must not know: clocks and random sources (a random number is passed in).  Invariants: a delay lies between half its
//! ceiling and its ceiling; ceilings double up to the cap; a delay is never below what the other side asked for.

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
