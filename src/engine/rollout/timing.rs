//! The times by which nodes and coordinators rely on each other (docs/protocol.md#rule-11; rules 7, 9).
//!
//! All of them follow from the pool's policy, so that every coordinator of a pool has the same.  A node detaches itself
//! `absent_after` after the receipt of its last answer.  A coordinator counts from the record of the sync before, which
//! may be one hold older; that another coordinator has heard the node may be two beats old.  So the order of these
//! times is the promise that a node is detached before it is excluded:
//!
//! `blind_max` ≤ two beats < `absent_after` < `absent_after` + the longest hold + two beats ≤ the limit of absence
//!
//! Must not know: clocks, nodes.

use std::time::Duration;

use super::policy::Policy;
use crate::backoff::part;

/// Periods that a node may miss before it is absent (rule 11; rule 17: a timer node never before three).
const MISSED_PERIODS_MAX: u64 = 3;
/// Longest time that a request is held, whatever the policy says.
pub const HOLD_MAX: Duration = Duration::from_secs(300);
/// A request is held for at most one part in this many of `absent_after`: a coordinator may be away for the rest of that before
/// its nodes detach themselves.
const HOLD_PARTS: u32 = 3;
/// A request is held for up to one part in this many less, at random: otherwise all nodes of a fleet would come back in the same
/// moment, as long as no news separates them.
const HOLD_JITTER_PARTS: u32 = 8;
/// Longest time after which one coordinator knows what another one has heard.
const BEAT_MAX: Duration = Duration::from_secs(10);
/// Beats in an `absent_after`.
const BEAT_PARTS: u32 = 12;
/// Longest time for which a coordinator answers nodes without its store, and not longer than two beats.
const BLIND_ANSWERS_MAX: Duration = Duration::from_secs(10);
/// A coordinator that has heard no node at all for less than this is not deaf.
const DEAF_MIN: Duration = Duration::from_secs(60);

impl Policy {
    /// Longest time for which a request is held while there is nothing new.
    #[must_use]
    pub fn hold_max(&self) -> Duration {
        hold_max(Duration::from_secs(self.absent_after_secs))
    }

    /// How old the knowledge of one coordinator about what another one has heard may be.
    #[must_use]
    pub fn beat(&self) -> Duration {
        beat(self.absent_after_secs)
    }

    /// How long a coordinator whose store does not confirm its copy still holds requests.  After that it answers 503 to
    /// every node (rule 7): another coordinator may be about to exclude it.
    #[must_use]
    pub fn blind_max(&self) -> Duration {
        BLIND_ANSWERS_MAX.min(self.beat() * 2)
    }

    /// A node with this period is absent after a longer silence.
    ///
    /// `told_secs` is the `absent_after` that the node was told with its last answers, if that was longer: it detaches
    /// itself by what it was told.
    #[must_use]
    pub fn absence_limit(&self, period_secs: u64, told_secs: u64) -> Duration {
        absence_limit(self.absent_after_secs, period_secs, told_secs)
    }
}

/// [`Policy::absence_limit`] of a policy with this `absent_after`.
#[must_use]
pub(super) fn absence_limit(absent_after_secs: u64, period_secs: u64, told_secs: u64) -> Duration {
    let absent_after = absent_after_secs.max(told_secs);
    let silence = Duration::from_secs(absent_after.max(period_secs.saturating_mul(MISSED_PERIODS_MAX)));
    silence.saturating_add(hold_max(Duration::from_secs(absent_after)) + beat(absent_after) * 2)
}

/// How long a coordinator may hear no node at all before its time stops to count: its own network may be what is silent.
///
/// One and a half of the shortest period, and at least a minute; but at most half of the shortest limit of absence, so
/// that no node becomes absent by a silence that they all share.
#[must_use]
pub fn deaf_after(shortest_period_secs: u64, shortest_limit: Duration) -> Duration {
    let period = Duration::from_secs(shortest_period_secs);
    DEAF_MIN.max(period.saturating_add(period / 2)).min(shortest_limit / 2)
}

/// How long a coordinator holds the request of a node that bears `wait`, in a pool whose longest hold is `longest`; `random` is
/// uniform over all of `u32`.
#[must_use]
pub fn hold(wait: Duration, longest: Duration, random: u32) -> Duration {
    let most = wait.min(longest);
    most - part(most / HOLD_JITTER_PARTS, random)
}

/// The longest hold of a pool that waits for its nodes for so long.
#[must_use]
pub fn hold_max(absent_after: Duration) -> Duration {
    HOLD_MAX.min((absent_after / HOLD_PARTS).max(Duration::from_secs(1)))
}

fn beat(absent_after_secs: u64) -> Duration {
    BEAT_MAX.min(Duration::from_secs(absent_after_secs) / BEAT_PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(absent_after_secs: u64) -> Policy {
        Policy { absent_after_secs, ..Policy::with_defaults(Vec::new()) }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_node_detaches_before_it_is_absent() {
        // absent_after, period; hold, beat, blind_max, limit of absence.
        for (absent_after, period, hold, beat, blind, limit) in [
            (30, 5, 10_000, 2_500, 5_000, 45_000),
            (30, 60, 10_000, 2_500, 5_000, 195_000),
            (120, 60, 40_000, 10_000, 10_000, 240_000),
            (600, 60, 200_000, 10_000, 10_000, 820_000),
            (900, 60, 300_000, 10_000, 10_000, 1_220_000),
            (600, 3_600, 200_000, 10_000, 10_000, 11_020_000),
        ] {
            let policy = policy(absent_after);
            assert_eq!((policy.hold_max(), policy.beat(), policy.blind_max()), (ms(hold), ms(beat), ms(blind)));
            assert_eq!(policy.absence_limit(period, 0), ms(limit), "{absent_after} {period}");
        }
        for absent_after in 30..10_000 {
            let policy = policy(absent_after);
            let detached = policy.hold_max() + Duration::from_secs(absent_after);
            assert!(policy.blind_max() <= policy.beat() * 2, "{absent_after}");
            assert!(detached + policy.beat() * 2 <= policy.absence_limit(0, 0), "{absent_after}");
        }
    }

    #[test]
    fn a_request_is_held_for_what_its_node_bears_and_the_pool_allows_less_an_eighth() {
        // What the node bears, the pool's longest hold; the longest and the shortest hold.
        for (wait, longest, most, least) in
            [(300, 200, 200_000, 175_000), (25, 200, 25_000, 21_875), (1, 200, 1_000, 875), (0, 200, 0, 0)]
        {
            let of = |random| hold(Duration::from_secs(wait), Duration::from_secs(longest), random);
            assert_eq!((of(0), of(u32::MAX)), (ms(most), ms(least)), "{wait} {longest}");
        }
    }

    #[test]
    fn a_node_that_was_told_a_longer_time_has_it() {
        let (before, now) = (policy(600), policy(60));
        assert_eq!(now.absence_limit(5, 600), before.absence_limit(5, 0));
        assert_eq!(before.absence_limit(5, 60), before.absence_limit(5, 0));
    }

    #[test]
    fn a_deaf_coordinator_makes_no_node_absent() {
        // absent_after, shortest period; deaf after.
        for (absent_after, period, after) in
            [(600, 60, 90_000), (600, 30, 60_000), (600, 3_600, 5_400_000), (30, 5, 22_500), (30, 60, 90_000)]
        {
            let limit = policy(absent_after).absence_limit(period, 0);
            assert_eq!(deaf_after(period, limit), ms(after), "{absent_after} {period}");
            // A node synced at most one hold, or one period, before the coordinator's network went silent, which holds requests
            // until they are over: for one hold at most.
            let hold = policy(absent_after).hold_max();
            let before = hold.max(Duration::from_secs(period));
            assert!(before + hold + ms(after) < limit, "{absent_after} {period}");
        }
        for (absent_after, period) in
            [(30, 60), (60, 60), (120, 60), (300, 60), (900, 60), (86_400, 60), (30, 10), (60, 30)]
        {
            let (policy, limit) = (policy(absent_after), policy(absent_after).absence_limit(period, 0));
            let silent = policy.hold_max() * 2 + deaf_after(period, limit);
            assert!(silent < limit, "{absent_after} {period}");
        }
        assert_eq!(deaf_after(0, Duration::MAX), DEAF_MIN);
    }
}
