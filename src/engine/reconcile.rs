//! What one host does next: what its source offers and what was observed in, what to hold and what to write out.
//!
//! ```text
//!   the source offers            and memory says                        hold
//!   slots                        nothing                                them
//!   slots                        installed later than now + tolerance   what is installed: the clock is behind
//!   slots                        another secret for the same entry      what is installed: it was replaced in place
//!   nothing (it failed)          keys                                   what is installed
//!   nothing (it failed)          nothing                                nothing, and not ready
//! ```
//!
//! A miss costs a client one round trip (RFC 7413), so on doubt the installed keys stay, it is reported, and we wait.

use std::collections::BTreeMap;

use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::state::BackupSlot;
use tfo_model::time::UnixTime;

/// What keys are made from: the name of each maker (a schedule entry with its secret's path), and a public fingerprint of
/// the secret behind it.
pub type Makers = BTreeMap<String, KeyFingerprint>;

/// Whether keys depend on this host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockUse {
    /// They do not.
    None,
    /// They do, and so many seconds of error are harmless.
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
    /// A maker has another secret behind it than this process saw before: it was replaced in place.
    OtherSecret {
        /// The maker.
        maker: String,
    },
}

/// Which keys to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Those that the source offers.
    Follow,
    /// Those that are installed.
    Keep(KeepReason),
}

/// Decides between the offer and what is installed.
///
/// `installed_at` is what the file remembers: without the file nothing is known of an earlier clock.  `known` are the makers
/// that this process has followed; a restart is the operator's way to say that a replaced secret is meant.
#[must_use]
pub fn judge(
    now: UnixTime,
    clock: ClockUse,
    installed_at: Option<UnixTime>,
    offered: &Makers,
    known: &Makers,
) -> Verdict {
    if let (ClockUse::Within(tolerance_secs), Some(installed_at)) = (clock, installed_at)
        && now < installed_at.minus(tolerance_secs)
    {
        return Verdict::Keep(KeepReason::ClockBehind { installed_at });
    }
    let replaced =
        |(maker, secret): &(&String, &KeyFingerprint)| known.get(*maker).is_some_and(|known| known != *secret);
    match offered.iter().find(replaced) {
        Some((maker, _)) => Verdict::Keep(KeepReason::OtherSecret { maker: maker.clone() }),
        None => Verdict::Follow,
    }
}

/// What one namespace's kernel was seen to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedKernel {
    /// Its fingerprints; none if no key is set.
    pub shown: Option<PairPrint>,
    /// Its slots.
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

/// What the sysctl.d file was seen to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedFile {
    /// Not ours, not there, or with other keys or another record than desired.
    Other,
    /// It says what is desired.
    Current,
}

/// What to write, file first (docs/protocol.md#rule-9), then each kernel by its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Replace the sysctl.d file.
    pub write_file: bool,
    /// Namespaces whose kernel is written.
    pub write_kernels: Vec<usize>,
}

impl Plan {
    /// Compares what is desired with what was observed; a kernel that could not be read is none.
    #[must_use]
    pub fn of(desired: PairPrint, file: ObservedFile, kernels: &[Option<ObservedKernel>]) -> Self {
        let behind = |kernel: &Option<ObservedKernel>| kernel.is_some_and(|kernel| !kernel.holds(desired));
        let write_kernels = kernels.iter().enumerate().filter(|(_, kernel)| behind(kernel)).map(|(index, _)| index);
        Self { write_file: file == ObservedFile::Other, write_kernels: write_kernels.collect() }
    }

    /// Whether nothing is to do.
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

    fn makers(of: &[(&str, u8)]) -> Makers {
        of.iter().map(|(name, byte)| ((*name).to_owned(), print(*byte))).collect()
    }

    const T: UnixTime = UnixTime::from_secs(1_000);

    #[test]
    fn without_memory_the_offer_is_followed() {
        assert_eq!(judge(T, ClockUse::Within(0), None, &makers(&[("a", 1)]), &Makers::new()), Verdict::Follow);
    }

    #[test]
    fn a_clock_behind_the_last_install_keeps_what_is_installed() {
        let behind = |secs| Verdict::Keep(KeepReason::ClockBehind { installed_at: UnixTime::from_secs(secs) });
        let judge = |clock, secs| judge(T, clock, Some(UnixTime::from_secs(secs)), &Makers::new(), &Makers::new());
        assert_eq!(judge(ClockUse::Within(30), 1_030), Verdict::Follow);
        assert_eq!(judge(ClockUse::Within(30), 1_031), behind(1_031));
        assert_eq!(judge(ClockUse::None, 9_999), Verdict::Follow);
    }

    #[test]
    fn a_secret_replaced_in_place_keeps_what_is_installed_for_as_long_as_it_is_there() {
        let known = makers(&[("a", 1), ("b", 2)]);
        let keep = |maker: &str| Verdict::Keep(KeepReason::OtherSecret { maker: maker.to_owned() });
        let judge = |offered: &[(&str, u8)]| judge(T, ClockUse::Within(5), None, &makers(offered), &known);
        assert_eq!(judge(&[("a", 9)]), keep("a"));
        assert_eq!(judge(&[("a", 1), ("b", 9)]), keep("b"));
        assert_eq!(judge(&[("a", 1), ("b", 2)]), Verdict::Follow);
        assert_eq!(judge(&[("b", 2), ("c", 3)]), Verdict::Follow, "a new entry is an ordinary change");
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
