//! Whether a tick has anything to decide.
//!
//! A rollout that waits comes to the same until something changes, or until a time.  While it rests, a tick looks at no node:
//! it costs the same in a pool of a hundred nodes and of a hundred thousand.
//! Invariant: the rest ends with every change that a look finds ([`Driver::observe`](super::Driver::observe)), and with another
//! file of the coordinator's own.

use tfo_model::time::UnixTime;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// By the wall clock: from when, and until when.
    times: Option<(UnixTime, UnixTime)>,
    /// Whether the nodes that are behind are noted.
    is_noted: bool,
    /// Whether the verdict is found.
    is_judged: bool,
}

impl Rest {
    /// Begins, if there is a time until which it lasts.
    pub(super) fn begin(&mut self, from: UnixTime, until: Option<UnixTime>) {
        *self = Self { times: until.map(|until| (from, until)), ..Self::default() };
    }

    /// Something has changed.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Whether the next step comes to what the last one came to.  A wall clock that was set back ends it.
    pub(super) fn holds(&self, wall: UnixTime) -> bool {
        self.times.is_some_and(|(from, until)| (from..until).contains(&wall))
    }

    /// Whether the nodes that are behind are to be noted now: once in a rest, and at every tick without one.
    pub(super) fn takes_note(&mut self) -> bool {
        self.times.is_none() || !std::mem::replace(&mut self.is_noted, true)
    }

    /// The verdict was found.
    pub(super) fn judged(&mut self) {
        self.is_judged = self.times.is_some();
    }

    /// Whether the verdict that was found last still is the pool's.
    pub(super) fn is_judged(&self) -> bool {
        self.is_judged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_lasts_until_its_time_or_a_change() {
        let at = UnixTime::from_secs;
        let mut rest = Rest::default();
        assert!(!rest.holds(at(5)) && rest.takes_note() && rest.takes_note(), "without a rest everything is looked at");
        rest.begin(at(10), Some(at(20)));
        rest.judged();
        let held = [9, 10, 19, 20].map(|secs| rest.holds(at(secs)));
        assert_eq!(held, [false, true, true, false], "nor by a clock that was set back");
        assert_eq!((rest.takes_note(), rest.takes_note(), rest.is_judged()), (true, false, true));
        rest.begin(at(20), Some(at(30)));
        assert!(rest.takes_note() && !rest.is_judged(), "another one");
        rest.judged();
        rest.end();
        assert!(!rest.holds(at(25)) && rest.takes_note() && !rest.is_judged());
        rest.begin(at(25), None);
        rest.judged();
        assert!(!rest.holds(at(25)) && !rest.is_judged(), "it does not rest");
    }
}
