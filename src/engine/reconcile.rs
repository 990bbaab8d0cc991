//! What one host does next: from the source's offer and the observation, what to hold and what to write
//! (docs/protocol.md#rule-9; docs/protocol.md#derive-mode).
//!
//! | the source offers | memory | hold |
//! |---|---|---|
//! | slots | nothing | the offer |
//! | slots | installed later than now + tolerance | what is installed: the clock is behind, unless it is synchronised |
//! | slots | installed more than an interval before an unsynchronised now | what is installed, for a while: the clock may be ahead |
//! | slots | another secret for the same entry | what is installed: the secret was replaced in place |
//! | nothing (it failed) | keys | what is installed |
//! | nothing (it failed) | nothing | nothing, and not ready |
//!
//! A miss costs a client one round trip (RFC 7413), so in doubt the installed keys stay, the agent reports it and
//! waits.

use std::collections::BTreeMap;
use std::time::Duration;

use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::state::BackupSlot;
use tfo_model::time::UnixTime;

/// The least jump forward that is doubted, in seconds: clocks at boot are wrong by hours (a local time zone) or by years (a
/// battery), and with an interval of seconds a node that was off for a minute must not wait.
const JUMP_SECS_MIN: u64 = 3_600;
/// How long a node waits for an unsynchronised clock to be synchronised before it follows it all the same: where no time
/// server answers, it must serve in the end.
const SYNC_PATIENCE: Duration = Duration::from_secs(600);

/// This host's clock in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSeen {
    /// What it shows.
    pub now: UnixTime,
    /// Whether the kernel says that it is synchronised; none if the kernel may not be asked.
    pub synchronised: Option<bool>,
    /// How long this node has waited for that, by the monotonic clock.
    pub waited: Duration,
}

/// What the file remembers of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastInstall {
    /// When the installed keys were installed.
    pub at: UnixTime,
    /// The end of the interval after that one ([`Schedule::next_interval_end`]); none if the keys are not of the schedule.
    ///
    /// [`Schedule::next_interval_end`]: crate::schedule::Schedule::next_interval_end
    pub next_interval_end: Option<UnixTime>,
}

/// Whether keys depend on this host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockUse {
    /// They do not.
    None,
    /// They do; an error of at most so many seconds is harmless.
    Within(u64),
}

/// Why the installed keys stay although the source offers others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepReason {
    /// The clock is further behind the last install than the schedule tolerates (docs/protocol.md#derive-mode).
    ClockBehind {
        /// When the keys were installed.
        installed_at: UnixTime,
    },
    /// The clock is not synchronised, and further ahead of the last install than one interval: it may be wrong.
    ClockAhead {
        /// When the keys were installed.
        installed_at: UnixTime,
        /// For how long they stay if the clock is not synchronised.
        left: Duration,
    },
    /// A generator has another secret than this process saw before: the secret was replaced in place.
    OtherSecret {
        /// Name of the generator.
        generator: String,
    },
}

/// Which keys to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChoice {
    /// Those that the source offers.
    Follow,
    /// Those that are installed.
    Keep(KeepReason),
}

/// Chooses between the offer and what is installed.
///
/// `last` comes from the file: without the file nothing is known of an earlier clock.  `offered` and `known`
/// map the name of each generator (a schedule entry with its secret's path) to a public fingerprint of its secret:
/// those of the offer, and those that this process has followed.  A restart is how an operator confirms a replaced
/// secret.
#[must_use]
pub fn choose_keys(
    seen: &ClockSeen,
    clock: ClockUse,
    last: Option<LastInstall>,
    offered: &BTreeMap<String, KeyFingerprint>,
    known: &BTreeMap<String, KeyFingerprint>,
) -> KeyChoice {
    if let (ClockUse::Within(tolerance_secs), Some(last)) = (clock, last)
        && let Some(reason) = doubt(seen, tolerance_secs, last)
    {
        return KeyChoice::Keep(reason);
    }
    let replaced = |(name, secret): &(&String, &KeyFingerprint)| known.get(*name).is_some_and(|known| known != *secret);
    match offered.iter().find(replaced) {
        Some((generator, _)) => KeyChoice::Keep(KeepReason::OtherSecret { generator: generator.clone() }),
        None => KeyChoice::Follow,
    }
}

/// Why the clock is not believed.  Where the kernel says that it is synchronised, the time of the last install was wrong.
fn doubt(seen: &ClockSeen, tolerance_secs: u64, last: LastInstall) -> Option<KeepReason> {
    let ClockSeen { now, synchronised, waited } = *seen;
    let LastInstall { at: installed_at, next_interval_end } = last;
    if now < installed_at.minus(tolerance_secs) && synchronised != Some(true) {
        return Some(KeepReason::ClockBehind { installed_at });
    }
    let followed_until = next_interval_end?.max(installed_at.plus(JUMP_SECS_MIN));
    let left = SYNC_PATIENCE.saturating_sub(waited);
    let is_ahead = synchronised == Some(false) && now >= followed_until;
    (is_ahead && !left.is_zero()).then_some(KeepReason::ClockAhead { installed_at, left })
}

/// What one namespace's kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedKernel {
    /// Fingerprints that it shows; none if no key is set.
    pub shown: Option<PairPrint>,
    /// Whether it has a backup slot.
    pub backup_slot: BackupSlot,
}

impl ObservedKernel {
    /// What this kernel should show when it holds `desired`.
    #[must_use]
    pub fn target(&self, desired: PairPrint) -> PairPrint {
        match self.backup_slot {
            BackupSlot::Present => desired,
            BackupSlot::Absent => desired.primary_alone(),
        }
    }

    /// Whether it holds `desired`, as far as it can.
    #[must_use]
    pub fn holds(&self, desired: PairPrint) -> bool {
        self.shown == Some(self.target(desired))
    }
}

/// What the sysctl.d file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedFile {
    /// Missing, foreign, or with other keys or another record than desired.
    Other,
    /// The desired keys and record.
    Current,
}

/// What to write, file first (docs/protocol.md#rule-9), then each kernel by its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whether to replace the sysctl.d file.
    pub write_file: bool,
    /// Indices of the kernels to write.
    pub write_kernels: Vec<usize>,
}

impl Plan {
    /// Compares the desired with the observed; a kernel that could not be read is none.
    #[must_use]
    pub fn of(desired: PairPrint, file: ObservedFile, kernels: &[Option<ObservedKernel>]) -> Self {
        let behind = |kernel: &Option<ObservedKernel>| kernel.is_some_and(|kernel| !kernel.holds(desired));
        let write_kernels = kernels.iter().enumerate().filter(|(_, kernel)| behind(kernel)).map(|(index, _)| index);
        Self { write_file: file == ObservedFile::Other, write_kernels: write_kernels.collect() }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.write_file && self.write_kernels.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(byte: u8) -> KeyFingerprint {
        KeyFingerprint::from_bytes([byte; 8])
    }

    fn generators(of: &[(&str, u8)]) -> BTreeMap<String, KeyFingerprint> {
        of.iter().map(|(name, byte)| ((*name).to_owned(), print(*byte))).collect()
    }

    const T: UnixTime = UnixTime::from_secs(1_000_000);

    fn clock(synchronised: Option<bool>, waited_secs: u64) -> ClockSeen {
        ClockSeen { now: T, synchronised, waited: Duration::from_secs(waited_secs) }
    }

    const UNASKED: ClockSeen = ClockSeen { now: T, synchronised: None, waited: Duration::ZERO };

    #[test]
    fn without_memory_the_offer_is_followed() {
        let offered = generators(&[("a", 1)]);
        for seen in [UNASKED, clock(Some(false), 0)] {
            assert_eq!(choose_keys(&seen, ClockUse::Within(0), None, &offered, &generators(&[])), KeyChoice::Follow);
        }
    }

    #[test]
    fn a_clock_behind_the_last_install_keeps_what_is_installed_until_it_is_synchronised() {
        let behind = |at| KeyChoice::Keep(KeepReason::ClockBehind { installed_at: at });
        let none = generators(&[]);
        let choose = |seen: ClockSeen, clock, later: u64| {
            let last = LastInstall { at: T.plus(later), next_interval_end: Some(T.plus(later + 100)) };
            choose_keys(&seen, clock, Some(last), &none, &none)
        };
        for doubtful in [UNASKED, clock(Some(false), 0), clock(Some(false), 1_000_000)] {
            assert_eq!(choose(doubtful, ClockUse::Within(30), 30), KeyChoice::Follow);
            assert_eq!(choose(doubtful, ClockUse::Within(30), 31), behind(T.plus(31)));
            assert_eq!(choose(doubtful, ClockUse::None, 9_999), KeyChoice::Follow);
        }
        assert_eq!(choose(clock(Some(true), 0), ClockUse::Within(30), 10 * 366 * 86_400), KeyChoice::Follow);
    }

    #[test]
    fn a_clock_that_jumped_ahead_unsynchronised_keeps_what_is_installed_for_a_while() {
        let none = generators(&[]);
        let (at, interval) = (T.minus(100_000), 40_000);
        let choose = |seen: ClockSeen, end: Option<u64>| {
            let last = LastInstall { at, next_interval_end: end.map(|secs| at.plus(secs)) };
            choose_keys(&seen, ClockUse::Within(30), Some(last), &none, &none)
        };
        let keep = |secs| KeyChoice::Keep(KeepReason::ClockAhead { installed_at: at, left: Duration::from_secs(secs) });
        let unsynchronised = |waited| clock(Some(false), waited);
        assert_eq!(choose(unsynchronised(0), Some(2 * interval)), keep(600));
        assert_eq!(choose(unsynchronised(599), Some(2 * interval)), keep(1));
        assert_eq!(choose(unsynchronised(600), Some(2 * interval)), KeyChoice::Follow, "no time server answers");
        assert_eq!(choose(unsynchronised(0), Some(100_000)), keep(600), "the interval after the next begins");
        assert_eq!(choose(unsynchronised(0), Some(100_001)), KeyChoice::Follow, "its next interval");
        for believed in [clock(Some(true), 0), UNASKED] {
            assert_eq!(choose(believed, Some(2 * interval)), KeyChoice::Follow);
        }
        assert_eq!(choose(unsynchronised(0), None), KeyChoice::Follow, "keys of another source, or without an end");
        let short = LastInstall { at: T.minus(3_599), next_interval_end: Some(T.minus(3_500)) };
        let follows = |last| choose_keys(&unsynchronised(0), ClockUse::Within(5), Some(last), &none, &none);
        assert_eq!(follows(short), KeyChoice::Follow, "less than an hour is not a jump");
        assert_ne!(follows(LastInstall { at: T.minus(3_600), ..short }), KeyChoice::Follow);
    }

    #[test]
    fn a_secret_replaced_in_place_keeps_what_is_installed_for_as_long_as_it_is_there() {
        let known = generators(&[("a", 1), ("b", 2)]);
        let keep = |name: &str| KeyChoice::Keep(KeepReason::OtherSecret { generator: name.to_owned() });
        let choose =
            |offered: &[(&str, u8)]| choose_keys(&UNASKED, ClockUse::Within(5), None, &generators(offered), &known);
        assert_eq!(choose(&[("a", 9)]), keep("a"));
        assert_eq!(choose(&[("a", 1), ("b", 9)]), keep("b"));
        assert_eq!(choose(&[("a", 1), ("b", 2)]), KeyChoice::Follow);
        assert_eq!(choose(&[("b", 2), ("c", 3)]), KeyChoice::Follow, "a new entry is an ordinary change");
    }

    #[test]
    fn only_what_differs_is_written() {
        let desired = PairPrint { primary: print(1), backup: Some(print(2)) };
        let kernel = |shown, backup_slot| Some(ObservedKernel { shown, backup_slot });
        let kernels = [
            kernel(Some(desired), BackupSlot::Present),
            kernel(None, BackupSlot::Present),
            kernel(Some(desired.primary_alone()), BackupSlot::Absent),
            kernel(Some(desired.primary_alone()), BackupSlot::Present),
            None,
            kernel(Some(PairPrint { primary: print(2), backup: Some(print(1)) }), BackupSlot::Present),
        ];
        let plan = Plan::of(desired, ObservedFile::Current, &kernels);
        assert_eq!(plan, Plan { write_file: false, write_kernels: vec![1, 3, 5] });
        assert!(Plan::of(desired, ObservedFile::Current, &kernels[..1]).is_empty());
        assert!(!Plan::of(desired, ObservedFile::Other, &kernels[..1]).is_empty());
    }
}
