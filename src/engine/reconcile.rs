//! What one host does next: from the source's offer and the observation, what to hold and what to write
//! (docs/protocol.md#rule-9; docs/protocol.md#derive-mode).
//!
//! | the source offers | memory | hold |
//! |---|---|---|
//! | slots | nothing | the offer |
//! | slots | installed later than now + tolerance | what is installed: the clock is behind |
//! | slots | another secret for the same entry | what is installed: the secret was replaced in place |
//! | nothing (it failed) | keys | what is installed |
//! | nothing (it failed) | nothing | nothing, and not ready |
//!
//! A miss costs a client one round trip (RFC 7413), so in doubt the installed keys stay, the agent reports it and
//! waits.

use std::collections::BTreeMap;

use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::state::BackupSlot;
use tfo_model::time::UnixTime;

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
/// `installed_at` comes from the file: without the file nothing is known of an earlier clock.  `offered` and `known`
/// map the name of each generator (a schedule entry with its secret's path) to a public fingerprint of its secret:
/// those of the offer, and those that this process has followed.  A restart is how an operator confirms a replaced
/// secret.
#[must_use]
pub fn choose_keys(
    now: UnixTime,
    clock: ClockUse,
    installed_at: Option<UnixTime>,
    offered: &BTreeMap<String, KeyFingerprint>,
    known: &BTreeMap<String, KeyFingerprint>,
) -> KeyChoice {
    if let (ClockUse::Within(tolerance_secs), Some(installed_at)) = (clock, installed_at)
        && now < installed_at.minus(tolerance_secs)
    {
        return KeyChoice::Keep(KeepReason::ClockBehind { installed_at });
    }
    let replaced = |(name, secret): &(&String, &KeyFingerprint)| known.get(*name).is_some_and(|known| known != *secret);
    match offered.iter().find(replaced) {
        Some((generator, _)) => KeyChoice::Keep(KeepReason::OtherSecret { generator: generator.clone() }),
        None => KeyChoice::Follow,
    }
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

    const T: UnixTime = UnixTime::from_secs(1_000);

    #[test]
    fn without_memory_the_offer_is_followed() {
        let offered = generators(&[("a", 1)]);
        assert_eq!(choose_keys(T, ClockUse::Within(0), None, &offered, &generators(&[])), KeyChoice::Follow);
    }

    #[test]
    fn a_clock_behind_the_last_install_keeps_what_is_installed() {
        let behind = |secs| KeyChoice::Keep(KeepReason::ClockBehind { installed_at: UnixTime::from_secs(secs) });
        let none = generators(&[]);
        let choose = |clock, secs| choose_keys(T, clock, Some(UnixTime::from_secs(secs)), &none, &none);
        assert_eq!(choose(ClockUse::Within(30), 1_030), KeyChoice::Follow);
        assert_eq!(choose(ClockUse::Within(30), 1_031), behind(1_031));
        assert_eq!(choose(ClockUse::None, 9_999), KeyChoice::Follow);
    }

    #[test]
    fn a_secret_replaced_in_place_keeps_what_is_installed_for_as_long_as_it_is_there() {
        let known = generators(&[("a", 1), ("b", 2)]);
        let keep = |name: &str| KeyChoice::Keep(KeepReason::OtherSecret { generator: name.to_owned() });
        let choose = |offered: &[(&str, u8)]| choose_keys(T, ClockUse::Within(5), None, &generators(offered), &known);
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
