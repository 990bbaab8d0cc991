//! When a driver ticks next: soon after news, slowly without, and never so often that nodes wait for it.

use std::time::{Duration, Instant};

use tfo_host::runtime::clock;

/// How long requests of nodes gather before the driver looks at them: one wake-up and one look at the store for all.
const GATHER: Duration = Duration::from_millis(10);
/// The same for the last part of those that the rollout waits for, one in [`LAST_PARTS`].
const GATHER_LAST: Duration = Duration::from_millis(3);
const LAST_PARTS: usize = 16;
/// Longest time between two ticks: schedule and absence are measured in seconds.
const TICK_MAX: Duration = Duration::from_secs(1);
/// Longest time between two ticks of a large pool: half of what may count as served (`SERVED_GAP_MAX`).
const TICK_MAX_LARGE: Duration = Duration::from_secs(5);
/// An idle driver spends at most one part in this many on ticks: with ten thousand nodes it ticks every few seconds.
const TICK_PARTS: u32 = 400;
/// Shortest time between two ticks: each looks at every node.
pub(super) const TICK_MIN: Duration = Duration::from_millis(25);
/// Between two ticks the driver serves nodes for at least this many times as long as the first one took.
const TICK_REST: u32 = 3;
/// Longest time from news to a tick while other nodes are still missing.
pub(super) const TICK_NEWS_MAX: Duration = Duration::from_millis(250);
/// How often the driver looks for entries of nodes that were forgotten long ago.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
/// How often the driver looks for erased keys that are still on the medium.
const ERASE_EVERY: Duration = Duration::from_secs(10);

/// The times of the last tick and of the next.
#[derive(Debug)]
pub(super) struct Pace {
    /// Acks since the last tick in which a barrier could see a difference.
    pub(super) news: usize,
    pub(super) last_tick: Option<Instant>,
    /// Duration of the last tick: see [`TICK_REST`].
    pub(super) tick_took: Duration,
    pub(super) next_tick: Instant,
    next_erase: Instant,
    next_sweep: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        let now = clock::monotonic();
        Self { news: 0, last_tick: None, tick_took: Duration::ZERO, next_tick: now, next_erase: now, next_sweep: now }
    }

    /// The next tick comes as soon as it may.
    pub(super) fn tick_soon(&mut self) {
        let earliest =
            self.last_tick.map_or_else(clock::monotonic, |last| last + TICK_MIN.max(self.tick_took * TICK_REST));
        self.next_tick = self.next_tick.min(earliest);
    }

    /// Whether all nodes have acked that the rollout waited for at the last tick, if it waited for any.
    pub(super) fn has_all(&self, waited_for: usize) -> bool {
        waited_for > 0 && self.news >= waited_for
    }

    /// How long requests gather before they are served: the last ones of a phase are what all others wait for.
    pub(super) fn gather(&self, waited_for: usize) -> Duration {
        let missing = waited_for.saturating_sub(self.news);
        if missing * LAST_PARTS < waited_for { GATHER_LAST } else { GATHER }
    }

    /// Acks were written, and the rollout waits for `waited_for` nodes: few barriers open before all of them have acked.
    pub(super) fn tick_for_news(&mut self, waited_for: usize) {
        if self.news >= waited_for.max(1) {
            self.tick_soon();
        } else if self.news > 0 {
            self.next_tick = self.next_tick.min(clock::monotonic() + TICK_NEWS_MAX);
        }
    }

    /// A tick that began at `start` is over.
    pub(super) fn ticked(&mut self, start: Instant) {
        let now = clock::monotonic();
        self.tick_took = now.duration_since(start);
        self.last_tick = Some(now);
        self.next_tick = now + (self.tick_took * TICK_PARTS).clamp(TICK_MAX, TICK_MAX_LARGE);
    }

    /// Whether to look now for entries to remove; if so, the next look comes after [`SWEEP_EVERY`].
    pub(super) fn takes_sweep(&mut self) -> bool {
        let now = clock::monotonic();
        let is_due = now >= self.next_sweep;
        if is_due {
            self.next_sweep = now + SWEEP_EVERY;
        }
        is_due
    }

    /// The next tick comes within this time, if it is given.
    pub(super) fn tick_within(&mut self, left: Option<Duration>) {
        if let Some(left) = left {
            self.next_tick = self.next_tick.min(clock::monotonic() + left);
        }
    }

    /// Keys were left on the medium: the next tick tries again to erase them.
    pub(super) fn erase_soon(&mut self) {
        self.next_erase = clock::monotonic();
    }

    /// Whether to try now to erase keys that were left on the medium; if so, the next try comes after [`ERASE_EVERY`].
    pub(super) fn takes_erasure(&mut self) -> bool {
        let now = clock::monotonic();
        let is_due = now >= self.next_erase;
        if is_due {
            self.next_erase = now + ERASE_EVERY;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_phase_are_served_at_once() {
        let mut pace = Pace::new();
        // (waited for, acks, all are here, how long the next requests gather)
        for (waited_for, news, all, gather) in [
            (0, 0, false, GATHER),
            (0, 5, false, GATHER),
            (1_000, 0, false, GATHER),
            (1_000, 937, false, GATHER),
            (1_000, 938, false, GATHER_LAST),
            (1_000, 1_000, true, GATHER_LAST),
            (1_000, 1_001, true, GATHER_LAST),
            (3, 2, false, GATHER),
            (3, 3, true, GATHER_LAST),
        ] {
            pace.news = news;
            assert_eq!((pace.has_all(waited_for), pace.gather(waited_for)), (all, gather), "{waited_for} {news}");
        }
    }
}
