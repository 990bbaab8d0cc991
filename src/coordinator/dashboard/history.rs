//! What the nodes of a pool have counted over the last day, and in the waves of the latest rotation: in memory, bounded, and
//! only to be shown.  It begins with the coordinator.
//!
//! Must not know: clocks, the pool's driver, HTML.

use std::collections::VecDeque;

use crate::pool::Cookies;
use tfo_engine::rollout::ahead::WaveCookies;
use tfo_model::ids::{NodeId, merge_join};
use tfo_model::node::Counters;
use tfo_model::time::UnixTime;

/// Length of one slot.
pub(super) const SLOT_SECS: u64 = 600;
/// Most slots: a day.
pub(super) const SLOTS_MAX: usize = 144;

/// What was counted in ten minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// The number of the slot since 1970.
    pub(super) number: u64,
    /// By all nodes together.
    pub(super) counted: Counters,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct History {
    /// When it began.
    since: Option<UnixTime>,
    /// What each node had counted at the last look, in the order of the nodes.
    before: Vec<(NodeId, Counters)>,
    slots: VecDeque<Slot>,
    /// What was counted since it began.
    ever: Counters,
    waves: Vec<WaveCookies>,
}

impl History {
    /// Takes in what the nodes have counted by now.
    pub(super) fn note(&mut self, now: UnixTime, cookies: Cookies) {
        self.since.get_or_insert(now);
        let mut counted = Counters::default();
        for (_, counters, before) in merge_join(by_node(&cookies.counters), by_node(&self.before)) {
            // A node that is new here, or that was started again, says nothing of the time since the last look.
            if let Some(more) = before.and_then(|before| counters.since(before)) {
                counted = counted.plus(&more);
            }
        }
        self.ever = self.ever.plus(&counted);
        self.before = cookies.counters;
        let number = now.secs() / SLOT_SECS;
        match self.slots.back_mut() {
            // Also while the clock is set back: no slot is older than the one before it.
            Some(last) if number <= last.number => last.counted = last.counted.plus(&counted),
            _ => self.slots.push_back(Slot { number, counted }),
        }
        let oldest = self.slots.back().map_or(0, |last| (last.number + 1).saturating_sub(SLOTS_MAX as u64));
        self.slots.retain(|slot| slot.number >= oldest);
        if let Some(wave) = cookies.wave {
            self.waves.retain(|known| known.epoch == wave.epoch && known.wave < wave.wave);
            self.waves.push(wave);
        }
    }

    /// When it began; none before the first look.
    pub(super) fn since(&self) -> Option<UnixTime> {
        self.since
    }

    /// The slots in which something was looked at, oldest first.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The waves of the latest rotation that was seen, as each was when the next one opened.
    pub(super) fn waves(&self) -> &[WaveCookies] {
        &self.waves
    }

    /// What was counted since it began.
    pub(super) fn ever(&self) -> Counters {
        self.ever
    }

    /// What was counted in all slots together.
    pub(super) fn total(&self) -> Counters {
        self.slots.iter().fold(Counters::default(), |sum, slot| sum.plus(&slot.counted))
    }
}

fn by_node(counters: &[(NodeId, Counters)]) -> impl Iterator<Item = (&NodeId, &Counters)> {
    counters.iter().map(|(node, counters)| (node, counters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_engine::rollout::policy::Share;
    use tfo_model::count::Epoch;

    fn counters(passive: u64, passive_alt_key: u64, passive_fail: u64) -> Counters {
        Counters { passive, passive_alt_key, passive_fail }
    }

    fn sample(of: &[(&str, Counters)], wave: Option<WaveCookies>) -> Cookies {
        let counters = of.iter().map(|(node, counters)| (node.parse().unwrap(), *counters)).collect();
        Cookies { counters, wave }
    }

    fn wave(epoch: u64, wave: usize, rejected: u32) -> WaveCookies {
        let share = |ppm| Share::from_ppm(ppm).unwrap();
        WaveCookies {
            epoch: Epoch::new(epoch).unwrap(),
            wave,
            of: 3,
            opened_at: UnixTime::from_secs(0),
            rejected: share(rejected),
            baseline: share(0),
            limit: share(20_000),
            cookies: 100,
            evidence_min: 100,
        }
    }

    #[test]
    fn only_what_a_node_counted_since_the_last_look_counts() {
        let mut history = History::default();
        let at = |secs: u64| UnixTime::from_secs(1_200_000 + secs);
        let looks = [
            (0, vec![("a", counters(1_000, 100, 10))], counters(0, 0, 0), "the first look says when it began"),
            (10, vec![("a", counters(1_010, 102, 11))], counters(10, 2, 1), "the difference"),
            (20, vec![("a", counters(1_010, 102, 11)), ("b", counters(500, 0, 0))], counters(10, 2, 1), "b is new"),
            (30, vec![("a", counters(5, 0, 0)), ("b", counters(501, 0, 0))], counters(11, 2, 1), "a was started again"),
            (40, vec![("b", counters(502, 0, 0))], counters(12, 2, 1), "a has left"),
            (50, vec![("a", counters(9, 0, 0)), ("b", counters(502, 0, 0))], counters(12, 2, 1), "a is new again"),
        ];
        for (secs, of, total, why) in looks {
            history.note(at(secs), sample(&of, None));
            assert_eq!((history.total(), history.ever()), (total, total), "{why}");
        }
        assert_eq!((history.since(), history.slots().count()), (Some(at(0)), 1));
    }

    #[test]
    fn a_day_is_kept_and_a_clock_that_steps_back_makes_no_slot() {
        let mut history = History::default();
        for step in 0..1_000 {
            history.note(UnixTime::from_secs(step * SLOT_SECS), sample(&[("a", counters(step, 0, 0))], None));
        }
        assert_eq!((history.slots().count(), history.total().passive), (SLOTS_MAX, SLOTS_MAX as u64));
        history.note(UnixTime::from_secs(0), sample(&[("a", counters(1_099, 0, 0))], None));
        assert_eq!((history.slots().count(), history.slots().last().unwrap().counted.passive), (SLOTS_MAX, 101));
        // A day of silence, then one slot.
        history.note(UnixTime::from_secs(2_000 * SLOT_SECS), sample(&[("a", counters(1_100, 0, 0))], None));
        assert_eq!(history.slots().map(|slot| slot.number).collect::<Vec<_>>(), [2_000]);
        assert_eq!(
            (history.total().passive, history.ever().passive),
            (1, 1_100),
            "what it counts for ever never falls"
        );
    }

    #[test]
    fn each_wave_stays_as_it_was_last_and_a_new_rotation_begins_again() {
        let mut history = History::default();
        let mut note = |of: Option<WaveCookies>| {
            history.note(UnixTime::from_secs(0), sample(&[], of));
            history.waves().iter().map(|wave| (wave.wave, wave.rejected.ppm())).collect::<Vec<_>>()
        };
        assert_eq!(note(Some(wave(4, 1, 5))), [(1, 5)]);
        assert_eq!(note(Some(wave(4, 1, 9))), [(1, 9)]);
        assert_eq!(note(Some(wave(4, 2, 7))), [(1, 9), (2, 7)]);
        assert_eq!(note(None), [(1, 9), (2, 7)], "it has ended");
        assert_eq!(note(Some(wave(5, 1, 3))), [(1, 3)]);
    }
}
