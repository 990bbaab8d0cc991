//! When a certificate is renewed, and when an operator hears that it was not.
//!
//! Must not know: clocks, who asks, how.  Invariant: a renewal is tried before [`Life::overdue_from`], and from then on it is told.

use std::time::Duration;

use super::authority::BACKDATE_SECS;
use tfo_model::time::UnixTime;

/// The parts of a life, in hundredths, within which certificates are renewed.  At the latest just before two thirds: a
/// renewal that works is done when [`Life::overdue_from`] comes.  Spread, because a fleet that joins in one hour must not
/// come back in one hour.
const RENEW_PERCENT: (u64, u64) = (57, 65);
/// Wait after a renewal that failed: this part of what is left, so that a short life has its attempts, too.
const RETRY_FRACTION: u64 = 24;
/// Shortest and longest of these waits.
const RETRY_SECS: (u64, u64) = (1, 3_600);

/// Longest time before its end for which the end of a certificate that something else renews is told.
const ENDS_SECS_MAX: u64 = 7 * 86_400;

/// From when until when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    from: UnixTime,
    until: UnixTime,
}

impl Life {
    /// Of a certificate with this validity.  Our authority dates it back for clocks that are behind; its life begins later.
    #[must_use]
    pub fn of(not_before: UnixTime, not_after: UnixTime) -> Self {
        Self { from: not_before.plus(BACKDATE_SECS).min(not_after), until: not_after }
    }

    /// When it ends.
    #[must_use]
    pub fn until(self) -> UnixTime {
        self.until
    }

    /// When it is to be renewed.  `share` spreads a fleet over the time: the same number for every look at one certificate,
    /// another for each.
    #[must_use]
    pub fn renew_at(self, share: u32) -> UnixTime {
        let life = u128::from(self.until.secs_since(self.from));
        let (earliest, latest) = (u128::from(RENEW_PERCENT.0), u128::from(RENEW_PERCENT.1));
        // Hundredths with the precision of the share; the product stays far below 128 bits.
        let after = life * ((earliest << 32) + (latest - earliest) * u128::from(share)) / (100 << 32);
        self.from.plus(u64::try_from(after).expect("a part of a life is shorter than the life"))
    }

    /// From when on it is told that it was not renewed: two thirds of the life.
    #[must_use]
    pub fn overdue_from(self) -> UnixTime {
        self.from.plus(self.until.secs_since(self.from) / 3 * 2)
    }

    /// From when on the end of a certificate that something else renews is told: its last quarter, at most a week.
    #[must_use]
    pub fn ends_from(self) -> UnixTime {
        self.until.minus((self.until.secs_since(self.from) / 4).min(ENDS_SECS_MAX))
    }

    /// How long to wait after a failure at `now`.
    #[must_use]
    pub fn retry_after(self, now: UnixTime, share: u32) -> Duration {
        let left = self.until.secs_since(now);
        let wait = Duration::from_secs((left / RETRY_FRACTION).clamp(RETRY_SECS.0, RETRY_SECS.1));
        // Half of it to all of it.
        wait / 2 + wait.mul_f64(f64::from(share) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const START: UnixTime = UnixTime::from_secs(1_800_000_000);

    /// A certificate of our authority, issued now.
    fn issued(now: UnixTime, days: u64) -> Life {
        Life::of(now.minus(BACKDATE_SECS), now.plus(days * DAY))
    }

    #[test]
    fn a_fleet_that_joins_at_once_is_renewed_over_days_and_before_two_thirds() {
        let life = issued(START, 30);
        let day = |share| life.renew_at(share).secs_since(START) * 10 / DAY;
        assert_eq!([day(0), day(u32::MAX / 2), day(u32::MAX)], [171, 182, 194], "tenths of days");
        assert_eq!(life.overdue_from(), START.plus(20 * DAY));
        // A life of seconds, and one that has none.
        let short = Life::of(START.minus(BACKDATE_SECS), START.plus(20));
        assert_eq!([0, u32::MAX].map(|share| short.renew_at(share).secs_since(START)), [11, 12]);
        assert_eq!(Life::of(START, START).renew_at(u32::MAX), START);
        let long = Life::of(UnixTime::from_secs(0), UnixTime::MAX);
        assert!(long.renew_at(u32::MAX) < long.overdue_from());
    }

    #[test]
    fn an_end_that_others_prevent_is_told_a_week_before_or_a_quarter() {
        let left = |days| issued(START, days).ends_from();
        assert_eq!(left(90), START.plus(83 * DAY));
        assert_eq!(left(4), START.plus(3 * DAY));
        assert_eq!(Life::of(START, START).ends_from(), START);
    }

    #[test]
    fn a_failed_renewal_is_tried_again_often_enough_for_its_life() {
        let life = issued(START, 30);
        let wait = |now: UnixTime, share| life.retry_after(now, share).as_secs();
        assert_eq!(wait(START.plus(20 * DAY), u32::MAX), 3_600);
        assert_eq!(wait(START.plus(20 * DAY), 0), 1_800);
        assert_eq!(wait(START.plus(30 * DAY - 240), u32::MAX), 10);
        assert_eq!(life.retry_after(START.plus(31 * DAY), 0), Duration::from_millis(500));
    }

    /// Days from the start within which something is away.
    type Away = (u64, u64);

    /// What became of a node in a year.
    #[derive(Debug, PartialEq, Eq)]
    struct Year {
        renewals: u32,
        /// Days on which its certificate was over and an operator had to come with a token; its keys were installed all the
        /// same.
        hands: Vec<u64>,
        /// Days on which it began to tell that its certificate ends.
        told: Vec<u64>,
    }

    /// A node with certificates of 30 days that looks every hour, in a year of virtual time.  An operator comes with a token
    /// on the day after its certificate is over, if the node runs and the coordinators do.
    fn year(share: u32, coordinators: &[Away], node: &[Away]) -> Year {
        let is_away = |away: &[Away], hour: u64| away.iter().any(|(from, to)| (from * 24..to * 24).contains(&hour));
        let mut year = Year { renewals: 0, hands: Vec::new(), told: Vec::new() };
        let mut life = issued(START, 30);
        let (mut next, mut is_told) = (life.renew_at(share), false);
        for hour in 0..365 * 24 {
            let now = START.plus(hour * 3_600);
            if is_away(node, hour) {
                continue;
            }
            if now >= life.until().plus(DAY) && !is_away(coordinators, hour) {
                year.hands.push(hour / 24);
                (life, is_told) = (issued(now, 30), false);
                next = life.renew_at(share);
            }
            if now >= next && now <= life.until() {
                if is_away(coordinators, hour) {
                    next = now.plus(life.retry_after(now, share).as_secs());
                } else {
                    year.renewals += 1;
                    (life, is_told) = (issued(now, 30), false);
                    next = life.renew_at(share);
                }
            }
            if now >= life.overdue_from() && !std::mem::replace(&mut is_told, true) {
                year.told.push(hour / 24);
            }
        }
        year
    }

    #[test]
    fn a_year_of_a_fleet_says_who_needs_a_hand_and_says_it_before() {
        for share in [0, u32::MAX / 3, u32::MAX / 2, u32::MAX] {
            let quiet = year(share, &[], &[]);
            assert!((18..=21).contains(&quiet.renewals), "{quiet:?}");
            assert_eq!((&quiet.hands, &quiet.told), (&vec![], &vec![]), "nothing to tell, and no hand needed: {share}");
            for from in 100..130 {
                // All coordinators are away for nine days, whenever that falls: no node needs a hand, and those that the
                // outage hits in their last third say so.
                let outage = year(share, &[(from, from + 9)], &[]);
                assert_eq!(outage.hands, [0; 0], "{share} {from}");
                assert!(outage.told.iter().all(|day| (from..=from + 9).contains(day)), "{share} {from}: {outage:?}");
                // Fourteen days: who needs a hand was told days before its certificate was over.
                let long = year(share, &[(from, from + 14)], &[]);
                for hand in &long.hands {
                    assert!(long.told.iter().any(|told| told + 10 <= *hand), "{share} {from}: {long:?}");
                }
                // A node that is off for nine days comes back by itself; one that is off for forty always needs a token, and
                // its first words after the start are that.
                assert_eq!(year(share, &[], &[(from, from + 9)]).hands, [0; 0], "{share} {from}");
                let off = year(share, &[], &[(from, from + 40)]);
                assert_eq!(off.hands, [from + 40], "{share} {from}");
                assert!(off.renewals >= 14, "and renews again after that: {off:?}");
            }
        }
        let worst = (100..130).map(|from| year(0, &[(from, from + 14)], &[]).hands.len()).max();
        assert_eq!(worst, Some(1), "an outage of fourteen days does need hands, or this test shows nothing");
    }
}
