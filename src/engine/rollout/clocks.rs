//! Whether this coordinator's wall clock may open a gate (docs/protocol.md#rule-11): beats carry their writers' clocks, and
//! with several coordinators the fastest one would decide when a rotation is due.
//!
//! Must not know: nodes, decisions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parts::{Beat, Stamp};
use tfo_model::ids::CoordinatorName;
use tfo_model::time::UnixTime;

/// How far a clock may be off the median of all: more than a beat takes to be seen by another coordinator.
pub const CLOCK_OFF_MAX_SECS: i64 = 60;
/// A coordinator whose last beat is older has no vote.
pub const BEATS_TO_LIVE: u32 = 3;

/// The clocks of the other coordinators, as their beats were seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clocks {
    others: BTreeMap<CoordinatorName, Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    /// On the monotonic clock.
    at: Duration,
    /// Seconds that the other clock was ahead of this one; the time that the beat took to arrive makes it less.
    ahead_secs: i64,
}

impl Clocks {
    /// Takes in the last beats of the others.  A beat that was there at the first look may be of any age, and tells nothing.
    pub fn observe(&mut self, monotonic: Duration, wall: UnixTime, beats: &BTreeMap<CoordinatorName, Beat>) {
        let beats = || beats.iter().filter(|(_, beat)| !beat.about.is_forgotten);
        self.others.retain(|by, _| beats().any(|(other, _)| other == by));
        let secs = |time: UnixTime| i64::try_from(time.secs()).unwrap_or(i64::MAX);
        for (by, beat) in beats() {
            let ahead_secs = secs(beat.at).saturating_sub(secs(wall));
            let now = Seen { stamp: beat.stamp, at: monotonic, ahead_secs };
            match self.others.get_mut(by) {
                Some(before) if before.stamp == beat.stamp => {}
                Some(before) => *before = now,
                None => drop(self.others.insert(by.clone(), Seen { at: Duration::ZERO, ..now })),
            }
        }
    }

    /// The other coordinators that beat, and the seconds by which their clocks are ahead of this one.
    pub fn live(&self, monotonic: Duration, beat: Duration) -> impl Iterator<Item = (&CoordinatorName, i64)> {
        let is_live =
            move |seen: &Seen| seen.at > Duration::ZERO && monotonic.saturating_sub(seen.at) <= beat * BEATS_TO_LIVE;
        self.others.iter().filter(move |(_, seen)| is_live(seen)).map(|(by, seen)| (by, seen.ahead_secs))
    }

    /// Seconds by which this clock is ahead of the median of all live ones, or behind it, if that is more than
    /// [`CLOCK_OFF_MAX_SECS`].  Of two clocks that differ none can tell which is wrong: then both are off.
    #[must_use]
    pub fn off_secs(&self, monotonic: Duration, beat: Duration) -> Option<i64> {
        let mut all: Vec<i64> = self.live(monotonic, beat).map(|(_, ahead_secs)| ahead_secs).chain([0]).collect();
        all.sort_unstable();
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        let off = -(low.midpoint(high));
        (off.abs() > CLOCK_OFF_MAX_SECS).then_some(off)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parts::About;
    use super::*;

    const BEAT: Duration = Duration::from_secs(10);

    /// What the first coordinator finds whose clock shows 1000000 s while those of others are ahead by so much.
    fn off(others: &[i64]) -> Option<i64> {
        let mut clocks = Clocks::default();
        let wall = UnixTime::from_secs(1_000_000);
        for (number, now) in [(1, Duration::from_secs(5)), (2, Duration::from_secs(15))] {
            let beats = others.iter().enumerate().map(|(c, ahead)| {
                let at = UnixTime::from_secs((1_000_000 + ahead).cast_unsigned());
                let beat =
                    Beat { stamp: Stamp { life: 1, number }, vouches: true, at, tally: None, about: About::default() };
                (format!("coordinator{c}").parse().unwrap(), beat)
            });
            let beats = beats.collect();
            clocks.observe(now, wall, &beats);
            // Another look at the same beats makes them no younger.
            clocks.observe(now + BEAT, wall, &beats);
            let found = clocks.off_secs(now, BEAT);
            assert!(number == 2 || found.is_none(), "a beat of unknown age");
        }
        assert_eq!(clocks.off_secs(Duration::from_secs(46), BEAT), None, "the others are dead, or cut off");
        clocks.off_secs(Duration::from_secs(45), BEAT)
    }

    #[test]
    fn the_median_of_the_live_clocks_decides() {
        for (others, expected) in [
            (&[][..], None),
            // Beats arrive late.
            (&[-15, -12], None),
            (&[-60, 60], None),
            (&[3_600, 3_600], Some(-3_600)),
            (&[-3_600, -3_601], Some(3_600)),
            // One of three is off: the two others go on.
            (&[0, 3_600], None),
            (&[0, -3_600], None),
            (&[61, 61], Some(-61)),
            // Two differ, and neither knows which is wrong.
            (&[121], None),
            (&[122], Some(-61)),
            (&[-3_600], Some(1_800)),
            (&[0, 0, 3_600, 3_600], None),
        ] {
            assert_eq!(off(others), expected, "{others:?}");
        }
    }
}
