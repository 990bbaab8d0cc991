//! Which coordinator is asked next, and when: each has its own pause after a failure.
//!
//! Must not know: sockets, clocks and random sources (monotonic time and random numbers are passed in).  Invariants: one
//! that has failed is not asked before its pause is over; without failures it is always the same one.

use std::time::Duration;

use tfo_engine::backoff::{Pauses, Trouble, part};

/// Longest pause before another coordinator is asked: the nodes of one that died spread over the others.
const HOP_MAX: Duration = Duration::from_secs(1);

/// The coordinators of a pool, by their index.
#[derive(Debug, Clone)]
pub(super) struct Route {
    legs: Vec<Leg>,
    current: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Leg {
    pauses: Pauses,
    resume_at: Duration,
}

/// When the next request is due, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) at: Duration,
    /// Another coordinator than the one that has failed.
    pub(super) other: bool,
}

impl Route {
    /// For `count` coordinators, at least one.
    pub(super) fn new(count: usize) -> Self {
        assert!(count > 0, "a configuration names at least one coordinator");
        Self { legs: vec![Leg::default(); count], current: 0 }
    }

    /// The coordinator to ask.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// The current one answered.
    pub(super) fn succeeded(&mut self) {
        self.legs[self.current] = Leg::default();
    }

    /// Whether there is no other coordinator to ask.
    pub(super) fn has_one(&self) -> bool {
        self.legs.len() == 1
    }

    /// The current one failed at `now`, and may have asked for a pause: turns to the one that may be asked first.
    pub(super) fn failed(&mut self, now: Duration, trouble: Trouble, asked: Option<Duration>, random: u32) -> Next {
        let leg = &mut self.legs[self.current];
        leg.resume_at = now + leg.pauses.after(trouble, asked, random);
        let count = self.legs.len();
        let hop = now + part(HOP_MAX, random);
        // The next in turn among those that may be asked soonest.
        let at = |step: usize| {
            let resume_at = self.legs[(self.current + step) % count].resume_at;
            if step == count { resume_at } else { resume_at.max(hop) }
        };
        let step = (1..=count).min_by_key(|step| at(*step)).expect("there is at least one");
        let next = Next { at: at(step), other: step != count };
        self.current = (self.current + step) % count;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_engine::backoff::Trouble::{Away, Strained};

    const NOW: Duration = Duration::from_secs(100);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn one_coordinator_is_asked_again_after_ever_longer_pauses() {
        let mut route = Route::new(1);
        let mut pause = |trouble, random| route.failed(NOW, trouble, None, random).at - NOW;
        assert_eq!([pause(Strained, u32::MAX), pause(Strained, u32::MAX), pause(Strained, 0)], [2, 4, 4].map(secs));
        assert!(pause(Away, u32::MAX) < secs(2), "it starts again, or will soon");
        route.succeeded();
        assert_eq!(route.failed(NOW, Strained, None, u32::MAX), Next { at: NOW + secs(2), other: false });
        assert_eq!(route.failed(NOW, Strained, Some(secs(30)), 0).at, NOW + secs(30), "it asked for that");
    }

    #[test]
    fn the_others_are_asked_at_once_and_those_that_failed_after_their_pause() {
        let mut route = Route::new(3);
        assert_eq!(route.failed(NOW, Strained, Some(secs(40)), 0), Next { at: NOW, other: true });
        assert_eq!(route.current(), 1);
        assert_eq!(route.failed(NOW, Strained, None, u32::MAX), Next { at: NOW + secs(1), other: true });
        assert_eq!(route.current(), 2);
        // All have failed: the one that may be asked first.
        assert_eq!(route.failed(NOW, Strained, None, 0), Next { at: NOW + secs(1), other: false });
        assert_eq!(route.current(), 2);
        assert_eq!(route.failed(NOW + secs(1), Strained, None, 0), Next { at: NOW + secs(2), other: true });
        assert_eq!(route.current(), 1);
        route.succeeded();
        assert_eq!(route.current(), 1, "it does not change back without need");
    }
}
