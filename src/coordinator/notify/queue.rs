//! What one target is still to be told: a bounded queue that delivers in order and tries again.
//!
//! Must not know: clocks, how an event is delivered.  Persisted as a part of [`super::state`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use tfo_model::time::UnixTime;
use tfo_wire::v1::notify::Event;

/// Most events that wait for a target.  Beyond it the oldest give way: what is so now matters more.
pub(super) const WAITING_MAX: usize = 64;
/// The first wait after a failure, in seconds; each further one is twice as long.
const RETRY_SECS: u64 = 2;
/// The longest wait, in seconds.
const RETRY_SECS_MAX: u64 = 300;
/// How long an event is tried, in seconds: a receiver that was away over a night still learns of it.
const KEPT_SECS: u64 = 86_400;

/// The events that wait, the oldest first.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Queue {
    waiting: VecDeque<Event>,
    /// Failures of the first one, and when it is tried again.  After a restart: at once.
    #[serde(skip)]
    failures: u32,
    #[serde(skip)]
    not_before: Option<UnixTime>,
    #[serde(skip)]
    in_flight: bool,
}

/// What became of the first event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It is tried again.
    Again,
    /// It was tried for long enough.
    GivenUp(Box<Event>),
}

impl Queue {
    /// Number of events.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds an event; gives the one that had to give way.
    pub(super) fn push(&mut self, event: Event) -> Option<Event> {
        self.waiting.push_back(event);
        if self.waiting.len() <= WAITING_MAX {
            return None;
        }
        // The one in flight may be delivered any moment.
        self.waiting.remove(usize::from(self.in_flight))
    }

    /// The event to deliver now; none if one is in flight, or must wait.
    pub(super) fn begin(&mut self, now: UnixTime) -> Option<Event> {
        // A clock that was put back by more than the longest wait makes no event wait for it.
        let waits = self.not_before.is_some_and(|at| now < at && at.secs_since(now) <= RETRY_SECS_MAX);
        if self.in_flight || waits {
            return None;
        }
        let first = self.waiting.front()?.clone();
        self.in_flight = true;
        Some(first)
    }

    /// The event in flight was delivered; gives it.
    pub(super) fn delivered(&mut self) -> Option<Event> {
        (self.in_flight, self.failures, self.not_before) = (false, 0, None);
        self.waiting.pop_front()
    }

    /// Failures of the first event in a row.
    #[must_use]
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The event in flight was not delivered.
    pub(super) fn failed(&mut self, now: UnixTime) -> Failed {
        self.in_flight = false;
        self.failures = self.failures.saturating_add(1);
        let wait = RETRY_SECS.saturating_mul(1_u64.checked_shl(self.failures - 1).unwrap_or(u64::MAX));
        self.not_before = Some(now.plus(wait.min(RETRY_SECS_MAX)));
        match self.waiting.front() {
            Some(first) if now.secs_since(first.at) >= KEPT_SECS => {
                self.failures = 0;
                self.waiting.pop_front().map_or(Failed::Again, |event| Failed::GivenUp(Box::new(event)))
            }
            Some(_) | None => Failed::Again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conditions::{Teller, test};
    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn event(number: u64) -> Event {
        test(Teller { coordinator: None, now: at(number) }, u128::from(number))
    }

    #[test]
    fn events_are_delivered_in_order_and_one_at_a_time() {
        let mut queue = Queue::default();
        assert_eq!(queue.begin(at(0)), None);
        assert_eq!((queue.push(event(1)), queue.push(event(2))), (None, None));
        assert_eq!(queue.begin(at(5)), Some(event(1)));
        assert_eq!(queue.begin(at(5)), None, "one at a time");
        queue.delivered();
        assert_eq!(queue.begin(at(5)), Some(event(2)));
        queue.delivered();
        assert_eq!((queue.begin(at(5)), queue.len()), (None, 0));
    }

    #[test]
    fn a_failure_is_tried_again_ever_more_seldom_for_a_day() {
        let mut queue = Queue::default();
        queue.push(event(100));
        let mut now = 100;
        for wait in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert_eq!(queue.begin(at(now)), Some(event(100)));
            assert_eq!(queue.failed(at(now)), Failed::Again);
            assert_eq!(queue.begin(at(now + wait - 1)), None, "after {wait}");
            now += wait;
        }
        queue.push(event(50_000));
        assert_eq!(queue.begin(at(86_500)), Some(event(100)));
        assert_eq!(queue.failed(at(86_500)), Failed::GivenUp(Box::new(event(100))));
        assert_eq!(queue.begin(at(86_500)), None, "the next one is not hurried");
        assert_eq!(queue.begin(at(86_800)), Some(event(50_000)));
        // The clock was put back: nothing waits for it.
        assert_eq!(queue.failed(at(86_900)), Failed::Again);
        assert_eq!(queue.begin(at(1_000)), Some(event(50_000)));
    }

    #[test]
    fn a_full_queue_lets_the_oldest_go_that_is_not_in_flight() {
        let mut queue = Queue::default();
        let most = WAITING_MAX as u64;
        assert!((0..most).all(|number| queue.push(event(number)).is_none()));
        assert_eq!(queue.push(event(most)), Some(event(0)));
        assert_eq!(queue.begin(at(0)), Some(event(1)));
        assert_eq!(queue.push(event(most + 1)), Some(event(2)));
        queue.delivered();
        assert_eq!(queue.len(), WAITING_MAX - 1);
        assert_eq!(queue.begin(at(0)), Some(event(3)));
    }

    #[test]
    fn a_restart_delivers_again_what_was_in_flight() {
        let mut queue = Queue::default();
        queue.push(event(1));
        queue.begin(at(0));
        let mut again: Queue = serde_json::from_slice(&serde_json::to_vec(&queue).unwrap()).unwrap();
        assert_eq!(again.begin(at(0)), Some(event(1)));
    }
}
