//! Which of its coordinators an agent asks, and when: its preferred one, another one after a failure, and after some time the
//! preferred one again.
//!
//! Each node prefers another order of them, by a hash of its name and their URLs (rendezvous), so that each coordinator has
//! its share, the share of one that dies spreads over all others, and one that is added takes from each.  Must not know:
//! sockets, clocks and random sources (monotonic time and random numbers are passed in).  Invariants: one that has failed
//! is not asked before its pause is over; nothing but a failure, [`Route::returns`] and [`Route::relieved`] leads to
//! another one; a node that tried to return and failed is back where it was with the next request.

#[cfg(test)]
mod spread;

use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher24;

use crate::backoff::{Pauses, Trouble, part};

/// Longest pause before another coordinator is asked: the nodes of one that died spread over the others.
const HOP_MAX: Duration = Duration::from_secs(1);
/// How often the time until the next return doubles, while the better coordinator stays away.
const DOUBLED_MAX: u32 = 3;

/// When a node that was driven away from a better coordinator tries it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returns {
    /// After so much time at the earliest: one that dies again at once is not met twice.
    pub after: Duration,
    /// And a uniform part of this later, so that a fleet comes back slowly: each return is a session, which is written.
    pub spread: Duration,
}

impl Returns {
    /// As agents do it.
    pub const SLOWLY: Self = Self { after: Duration::from_secs(600), spread: Duration::from_secs(1_800) };

    /// The time until the next try, after so many that failed.
    fn next(self, failed: u32, random: u32) -> Duration {
        self.after * 2_u32.pow(failed.min(DOUBLED_MAX)) + part(self.spread, random)
    }
}

/// The order in which a node prefers coordinators: indices of `urls`.  The same in every process and every release.
#[must_use]
pub fn preferred(node: &str, urls: &[String]) -> Vec<usize> {
    let weight = |url: &String| {
        let mut hasher = SipHasher24::new();
        hasher.write(node.as_bytes());
        // Neither a name nor a URL has such a byte.
        hasher.write_u8(0xff);
        hasher.write(url.as_bytes());
        hasher.finish()
    };
    let mut order: Vec<usize> = (0..urls.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(weight(&urls[*index])));
    order
}

/// The coordinators of a node, the preferred one first.
#[derive(Debug, Clone)]
pub struct Route {
    legs: Vec<Leg>,
    /// Index of a leg.
    current: usize,
    /// The leg that answered, while the current one has not done so yet.
    came_from: Option<usize>,
    returns: Returns,
}

#[derive(Debug, Clone, Copy)]
struct Leg {
    /// Index of its URL in the configuration.
    url: usize,
    pauses: Pauses,
    resume_at: Duration,
    /// Earliest return from a leg that is preferred less.
    return_at: Duration,
    /// Returns that failed, one after the other.
    failed_returns: u32,
}

impl Leg {
    fn new(url: usize) -> Self {
        let (resume_at, return_at) = (Duration::ZERO, Duration::ZERO);
        Self { url, pauses: Pauses::default(), resume_at, return_at, failed_returns: 0 }
    }
}

/// When the next request is due, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Monotonic.
    pub at: Duration,
    /// Another coordinator than the one that has failed.
    pub other: bool,
}

impl Route {
    /// For coordinators in this order of preference: indices of URLs, as [`preferred`] gives them.
    ///
    /// # Panics
    /// Without any, which a configuration does not have.
    #[must_use]
    pub fn new(order: Vec<usize>, returns: Returns) -> Self {
        assert!(!order.is_empty(), "a configuration names at least one coordinator");
        Self { legs: order.into_iter().map(Leg::new).collect(), current: 0, came_from: None, returns }
    }

    /// The coordinator to ask: the index of its URL.
    #[must_use]
    pub fn current(&self) -> usize {
        self.legs[self.current].url
    }

    /// All of them, the current one first, then by preference.
    pub fn from_current(&self) -> impl Iterator<Item = usize> + '_ {
        let others = self.legs.iter().enumerate().filter(|(index, _)| *index != self.current);
        std::iter::once(self.current()).chain(others.map(|(_, leg)| leg.url))
    }

    /// The current one answered.
    pub fn succeeded(&mut self) {
        self.legs[self.current] = Leg::new(self.current());
        self.came_from = None;
    }

    /// Whether there is no other coordinator to ask.
    #[must_use]
    pub fn has_one(&self) -> bool {
        self.legs.len() == 1
    }

    /// The current one failed at `now`, and may have asked for a pause: turns to the one that may be asked first, the
    /// preferred one of several.
    pub fn failed(&mut self, now: Duration, trouble: Trouble, asked: Option<Duration>, random: u32) -> Next {
        let (returns, came_from) = (self.returns, self.came_from.take());
        let leg = &mut self.legs[self.current];
        leg.resume_at = now + leg.pauses.after(trouble, asked, random);
        leg.return_at = now + returns.next(leg.failed_returns, random);
        leg.failed_returns += u32::from(came_from.is_some());
        let hop = now + part(HOP_MAX, random);
        let at = |index: usize| {
            let resume_at = self.legs[index].resume_at;
            if index == self.current { resume_at } else { resume_at.max(hop) }
        };
        // The one that answered a moment ago, before any that is better and may be away.
        let first = |index: &usize| (at(*index), came_from != Some(*index), *index);
        let next = (0..self.legs.len()).min_by_key(first).expect("there is at least one");
        let other = next != self.current;
        let at = at(next);
        self.current = next;
        Next { at, other }
    }

    /// The current one has nothing new: turns to a better one if it is time to try that again.  True: the next request goes
    /// there, in a session of its own.
    pub fn returns(&mut self, now: Duration) -> bool {
        let better = (0..self.current).find(|index| self.may_be_tried(*index, now));
        better.is_some_and(|index| self.turn_to(index))
    }

    /// The current one has nothing new, and more nodes than others: turns to another one, and comes back as after a failure.
    /// True: as [`Self::returns`].
    pub fn relieved(&mut self, now: Duration, random: u32) -> bool {
        let other = (0..self.legs.len()).find(|index| *index != self.current && self.may_be_tried(*index, now));
        let Some(other) = other else { return false };
        self.legs[self.current].return_at = now + self.returns.next(0, random);
        self.turn_to(other)
    }

    fn may_be_tried(&self, index: usize, now: Duration) -> bool {
        let leg = &self.legs[index];
        leg.return_at <= now && leg.resume_at <= now
    }

    fn turn_to(&mut self, index: usize) -> bool {
        self.came_from = Some(std::mem::replace(&mut self.current, index));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Trouble::{Away, Strained};

    const NOW: Duration = Duration::from_secs(100);
    const RETURNS: Returns = Returns { after: Duration::from_secs(600), spread: Duration::from_secs(1_800) };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// URLs 2, 0, 1 in this order.
    fn three() -> Route {
        Route::new(vec![2, 0, 1], RETURNS)
    }

    #[test]
    fn one_coordinator_is_asked_again_after_ever_longer_pauses() {
        let mut route = Route::new(vec![0], RETURNS);
        let mut pause = |trouble, random| route.failed(NOW, trouble, None, random).at - NOW;
        assert_eq!([pause(Strained, u32::MAX), pause(Strained, u32::MAX), pause(Strained, 0)], [2, 4, 4].map(secs));
        assert!(pause(Away, u32::MAX) < secs(2), "it starts again, or will soon");
        route.succeeded();
        assert_eq!(route.failed(NOW, Strained, None, u32::MAX), Next { at: NOW + secs(2), other: false });
        assert_eq!(route.failed(NOW, Strained, Some(secs(30)), 0).at, NOW + secs(30), "it asked for that");
        assert!(!route.returns(NOW + secs(9_999)) && !route.relieved(NOW + secs(9_999), 0), "there is no other");
    }

    #[test]
    fn the_others_are_asked_at_once_and_those_that_failed_after_their_pause() {
        let mut route = three();
        assert_eq!((route.current(), route.from_current().collect::<Vec<_>>()), (2, vec![2, 0, 1]));
        assert_eq!(route.failed(NOW, Strained, Some(secs(40)), 0), Next { at: NOW, other: true });
        assert_eq!(route.current(), 0);
        assert_eq!(route.failed(NOW, Strained, None, u32::MAX), Next { at: NOW + secs(1), other: true });
        assert_eq!((route.current(), route.from_current().collect::<Vec<_>>()), (1, vec![1, 2, 0]));
        // All have failed: the one that may be asked first.
        assert_eq!(route.failed(NOW, Strained, None, 0), Next { at: NOW + secs(1), other: false });
        assert_eq!(route.current(), 1);
        assert_eq!(route.failed(NOW + secs(1), Strained, None, 0), Next { at: NOW + secs(2), other: true });
        assert_eq!(route.current(), 0);
        route.succeeded();
        // The better one of two that may be asked.
        assert_eq!(route.failed(NOW + secs(60), Away, None, 0), Next { at: NOW + secs(60), other: true });
        assert_eq!(route.current(), 2);
    }

    #[test]
    fn it_comes_back_to_a_better_one_after_some_time_and_leaves_again_at_once() {
        let mut route = three();
        route.failed(NOW, Away, None, 0);
        route.succeeded();
        assert!(!route.returns(NOW + secs(599)) && route.current() == 0);
        // Still away: back where it was, and the next try takes twice as long, up to a bound.
        let mut at = NOW + secs(600);
        for wait in [600, 1_200, 2_400, 4_800, 4_800] {
            assert!(route.returns(at) && route.current() == 2, "{wait}");
            assert!(route.failed(at, Away, None, 0).other && route.current() == 0);
            route.succeeded();
            assert!(!route.returns(at + secs(wait - 1)), "{wait}");
            at += secs(wait);
        }
        assert!(route.returns(at));
        route.succeeded();
        assert!(!route.returns(at + secs(99_999)) && route.current() == 2, "there is nothing better");
        // Each node at another time.
        route.failed(at, Away, None, u32::MAX);
        assert!(!route.returns(at + secs(2_399)) && route.returns(at + secs(2_400)));
    }

    #[test]
    fn a_return_that_fails_ends_where_it_began_and_not_at_another_that_is_better_and_away() {
        let mut route = three();
        route.failed(NOW, Away, None, 0);
        route.failed(NOW, Away, None, 0);
        route.succeeded();
        let later = NOW + secs(600);
        assert!(route.returns(later) && route.current() == 2);
        assert!(route.failed(later, Away, None, 0).other && route.current() == 1);
        route.succeeded();
        // The second best is tried as well.
        assert!(route.returns(later) && route.current() == 0);
        route.succeeded();
        assert!(!route.returns(later) && route.current() == 0);
    }

    #[test]
    fn relieved_it_goes_to_another_that_has_not_failed_lately_and_comes_back_later() {
        let mut route = three();
        assert!(route.relieved(NOW, 0) && route.current() == 0);
        route.succeeded();
        assert!(!route.returns(NOW + secs(599)) && route.returns(NOW + secs(600)));
        route.succeeded();
        // Where it cannot be served it does not stay, and is not sent again soon.
        let later = NOW + secs(700);
        assert!(route.relieved(later, 0) && route.current() == 0);
        assert!(route.failed(later, Strained, None, 0).other && route.current() == 2);
        route.succeeded();
        assert!(route.relieved(later, 0) && route.current() == 1, "the third has not failed");
        route.failed(later, Strained, None, 0);
        route.succeeded();
        assert!(!route.relieved(later + secs(599), 0) && route.current() == 2);
    }

    #[test]
    fn the_order_is_that_of_this_node_and_of_no_list() {
        let url = |number: usize| format!("https://tfo{number}.example.org:9443");
        let urls: Vec<String> = (1..=4).map(url).collect();
        let of = |node: &str, urls: &[String]| -> Vec<String> {
            preferred(node, urls).into_iter().map(|index| urls[index].clone()).collect()
        };
        let turned: Vec<String> = urls.iter().rev().cloned().collect();
        let mut firsts = [0; 4];
        for number in 0..1_000 {
            let node = format!("cp{number}.example.org");
            let order = of(&node, &urls);
            assert_eq!(order, of(&node, &turned));
            // Without one, the others keep their order.
            let without: Vec<String> = order.iter().filter(|url| **url != urls[0]).cloned().collect();
            assert_eq!(of(&node, &urls[1..]), without);
            firsts[preferred(&node, &urls)[0]] += 1;
        }
        assert!(firsts.iter().all(|count| (210..290).contains(count)), "{firsts:?}");
        // Persisted in a sense: an order that changed with a release would move the whole fleet.
        assert_eq!(preferred("cp1.example.org", &urls), [3, 1, 2, 0]);
    }
}
