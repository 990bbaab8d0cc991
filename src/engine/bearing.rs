//! For how long an agent's path to a coordinator bears a request that waits: what it asks to be held for.
//!
//! Between the two may stand what forgets connections on which no data passes: a balancer after 50 s, a firewall after 350 s,
//! and keepalives do not count everywhere.  Nothing says so in advance.  So an agent asks for the longest hold that it
//! is allowed, and for half of it once its requests were cut twice in a row; after some time without a cut it tries longer ones
//! again.  Must not know: sockets, clocks (monotonic time is passed in), what an answer means.
//! Invariants: what it asks for lies between a part of what is allowed and that; one cut alone changes nothing, because a
//! coordinator that restarts cuts, too.

use std::time::Duration;

/// The least that is asked for is one part in this many of what is allowed: with 5 minutes 19 s, less than what any usual
/// balancer forgets.
const LEAST_PARTS: u32 = 16;
/// And never less than this.
const LEAST: Duration = Duration::from_secs(1);
/// Cuts in a row that say that the path does not bear the hold.
const CUTS: u32 = 2;
/// A request that was cut sooner than this part of what was asked for says nothing: what forgets a connection does it late.
const EARLY_PARTS: u32 = 32;
/// Time without a cut after which a longer hold is tried, and how often that doubles with each try that fails.
const PROBE_AFTER: Duration = Duration::from_secs(3_600);
const DOUBLED_MAX: u32 = 5;

/// What one path bears, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bearing {
    allowed: Duration,
    bears: Duration,
    /// Cuts since the last answer that was held back.
    cuts: u32,
    /// When the hold became what it is.
    since: Duration,
    /// Tries of a longer one that have failed, one after the other.
    failed: u32,
    /// What it was before the present try; none if it is not one.
    tried_from: Option<Duration>,
}

impl Bearing {
    /// Of a path of which nothing is known.
    #[must_use]
    pub fn new(allowed: Duration) -> Self {
        Self { allowed, bears: allowed, cuts: 0, since: Duration::ZERO, failed: 0, tried_from: None }
    }

    /// The hold to ask for at `now`.
    pub fn ask(&mut self, now: Duration) -> Duration {
        let wait = PROBE_AFTER * 2_u32.pow(self.failed.min(DOUBLED_MAX));
        if self.bears < self.allowed && self.cuts == 0 && now.saturating_sub(self.since) >= wait {
            self.tried_from = Some(self.bears);
            self.bears = (self.bears * 2).min(self.allowed);
            self.since = now;
        }
        self.bears
    }

    /// An answer came that was held back for `held`: the path bears that.
    pub fn answered(&mut self, held: Duration) {
        self.cuts = 0;
        if self.tried_from.is_some_and(|before| held > before) {
            (self.tried_from, self.failed) = (None, 0);
        }
    }

    /// The connection ended after `waited` without an answer.  True: the next hold is shorter.
    pub fn cut(&mut self, waited: Duration, now: Duration) -> bool {
        if waited < self.bears / EARLY_PARTS {
            return false;
        }
        self.cuts += 1;
        if let Some(before) = self.tried_from.take_if(|before| waited > *before) {
            // It is known what the path bears.
            (self.bears, self.cuts, self.since) = (before, 0, now);
            self.failed += 1;
            return true;
        }
        if self.cuts < CUTS {
            return false;
        }
        let least = (self.allowed / LEAST_PARTS).max(LEAST);
        let shorter = (self.bears.min(waited) / 2).max(least);
        let is_shorter = shorter < self.bears;
        (self.bears, self.cuts, self.since) = (shorter, 0, now);
        is_shorter
    }

    /// What it asks for, as of the last request.
    #[must_use]
    pub fn bears(&self) -> Duration {
        self.bears
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_secs(300);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Waits on a path that cuts after `cut_after` without data, at a coordinator that holds for at most `hold`, until the hold was
    /// the same five times: what is asked for then, and how many requests were cut.
    fn settles(cut_after: Duration, hold: Duration) -> (Duration, usize) {
        let (mut bearing, mut now, mut cuts, mut same) = (Bearing::new(ALLOWED), Duration::ZERO, 0, 0);
        while same < 5 {
            let asked = bearing.ask(now);
            let waits = asked.min(hold);
            now += waits.min(cut_after);
            if waits < cut_after {
                bearing.answered(waits);
                same += 1;
            } else {
                bearing.cut(cut_after, now);
                (cuts, same) = (cuts + 1, 0);
            }
        }
        (bearing.bears(), cuts)
    }

    #[test]
    fn it_comes_to_what_the_path_bears() {
        // The path cuts after so long, the coordinator holds for so long; what is asked for in the end, cuts until then.
        for (cut_after, hold, asked, cuts) in [
            (25, 300, 18_750, 2),
            (50, 300, 25_000, 2),
            (50, 40, 300_000, 0),
            (240, 300, 120_000, 2),
            (350, 300, 300_000, 0),
            (350, 200, 300_000, 0),
        ] {
            assert_eq!(
                settles(secs(cut_after), secs(hold)),
                (Duration::from_millis(asked), cuts),
                "{cut_after} {hold}"
            );
        }
    }

    #[test]
    fn a_path_that_bears_less_than_the_least_is_asked_for_the_least() {
        let mut bearing = Bearing::new(ALLOWED);
        for _ in 0..20 {
            bearing.cut(secs(10), Duration::ZERO);
            assert!((ALLOWED / LEAST_PARTS..=ALLOWED).contains(&bearing.bears()));
        }
        assert_eq!(bearing.bears(), ALLOWED / LEAST_PARTS);
    }

    #[test]
    fn one_cut_and_early_ones_change_nothing() {
        let mut bearing = Bearing::new(ALLOWED);
        assert!(!bearing.cut(secs(50), Duration::ZERO), "a restart");
        bearing.answered(secs(60));
        assert!(!bearing.cut(secs(50), Duration::ZERO), "not in a row");
        for _ in 0..9 {
            assert!(!bearing.cut(secs(9), Duration::ZERO), "a coordinator that crashes at each request");
        }
        assert_eq!(bearing.ask(Duration::ZERO), ALLOWED);
        assert!(bearing.cut(secs(50), Duration::ZERO));
    }

    #[test]
    fn longer_holds_are_tried_again_ever_more_seldom() {
        let mut bearing = Bearing::new(ALLOWED);
        assert!(!bearing.cut(secs(50), secs(50)) && bearing.cut(secs(50), secs(100)));
        let mut since = secs(100);
        for hours in [1, 2, 4, 8, 16, 32, 32] {
            let wait = PROBE_AFTER * hours;
            assert_eq!(bearing.ask(since + wait - secs(1)), secs(25), "{hours}");
            bearing.answered(secs(24));
            assert_eq!(bearing.ask(since + wait), secs(50), "{hours}");
            // A try that fails costs one request.
            since += wait + secs(50);
            assert!(bearing.cut(secs(50), since) && bearing.bears() == secs(25));
        }
        // The path bears more by now: half an hour of tries, one after the other.
        let mut now = since;
        for (asked, wait) in [(50, 32), (100, 1), (200, 1), (300, 1)] {
            now += PROBE_AFTER * wait;
            assert_eq!(bearing.ask(now), secs(asked));
            bearing.answered(secs(asked) - secs(1));
        }
        assert_eq!(bearing.ask(now + PROBE_AFTER * 99), ALLOWED);
    }
}
