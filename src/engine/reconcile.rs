//! What one host does next: what its source offers and what was observed in, what to hold and what to write out.
//!
//! ```text
//!   the source offers            and memory says                        hold
//!   slots                        nothing                                them
//!   slots                        installed later than now + tolerance   what is installed: the clock is behind
//!   slots, an epoch as before    another key for that epoch             what is installed: the secret was replaced
//!   nothing (it failed)          keys                                   what is installed
//!   nothing (it failed)          nothing                                nothing, and not ready
//! ```
//!
//! A miss costs a client one round trip (RFC 7413), so on doubt the installed keys stay, it is reported, and we wait.

use crate::model::count::Epoch;
use crate::model::key::PairPrint;
use crate::model::state::{BackupSlot, SlotPrint, SlotPrints};
use crate::model::time::UnixTime;

/// What was installed before, as the sysctl.d file or this process remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Epochs and fingerprints.
    pub prints: SlotPrints,
    /// When, by this host's clock.
    pub installed_at: UnixTime,
}

/// Whether keys depend on this host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockUse {
    /// They do not.
    None,
    /// They do, and so many seconds of error are harmless.
    Within(u64),
}

/// Why the installed keys stay although the source offers others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepReason {
    /// The clock is further behind the last install than the schedule tolerates (PROTOCOL.md section 3).
    ClockBehind {
        /// When the keys were installed.
        installed_at: UnixTime,
    },
    /// The same epoch has another key than this process was offered before: its secret was replaced in place.
    OtherKeySameEpoch {
        /// The epoch.
        epoch: Epoch,
    },
}

/// Which keys to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Those that the source offers.
    Follow,
    /// Those that are installed.
    Keep(KeepReason),
}

/// Decides between the offer and what is installed.
///
/// `told` is what the source offered earlier in the life of this process; a restart is the operator's way to say that
/// a replaced secret is meant.
#[must_use]
pub fn judge(
    now: UnixTime,
    clock: ClockUse,
    offer: &SlotPrints,
    memory: Option<&Memory>,
    told: Option<&SlotPrints>,
) -> Verdict {
    if let (ClockUse::Within(tolerance_secs), Some(memory)) = (clock, memory) {
        let installed_at = memory.installed_at;
        if now < installed_at.minus(tolerance_secs) {
            return Verdict::Keep(KeepReason::ClockBehind { installed_at });
        }
    }
    match told.and_then(|told| other_key_same_epoch(offer, told)) {
        Some(epoch) => Verdict::Keep(KeepReason::OtherKeySameEpoch { epoch }),
        None => Verdict::Follow,
    }
}

fn other_key_same_epoch(offer: &SlotPrints, told: &SlotPrints) -> Option<Epoch> {
    let slots = |prints: &SlotPrints| [Some(prints.primary), prints.backup].into_iter().flatten();
    let conflict = |new: &SlotPrint, old: &SlotPrint| {
        new.epoch.is_some() && new.epoch == old.epoch && new.fingerprint != old.fingerprint
    };
    slots(offer).find(|new| slots(told).any(|old| conflict(new, &old))).and_then(|slot| slot.epoch)
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

/// What to write, file first (PROTOCOL.md rule 9), then each kernel by its index.
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
    use crate::model::key::KeyFingerprint;

    fn print(byte: u8) -> KeyFingerprint {
        KeyFingerprint::from_bytes([byte; 8])
    }

    fn prints(primary: (u64, u8), backup: Option<(u64, u8)>) -> SlotPrints {
        let slot = |(epoch, byte)| SlotPrint { epoch: Epoch::new(epoch), fingerprint: print(byte) };
        SlotPrints { primary: slot(primary), backup: backup.map(slot) }
    }

    const T: UnixTime = UnixTime::from_secs(1_000);

    fn memory(installed_at: u64) -> Memory {
        Memory { prints: prints((100, 1), None), installed_at: UnixTime::from_secs(installed_at) }
    }

    #[test]
    fn without_memory_the_offer_is_followed() {
        let offer = prints((100, 1), Some((200, 2)));
        assert_eq!(judge(T, ClockUse::Within(0), &offer, None, None), Verdict::Follow);
    }

    #[test]
    fn a_clock_behind_the_last_install_keeps_what_is_installed() {
        let offer = prints((100, 1), None);
        let behind = |secs| Verdict::Keep(KeepReason::ClockBehind { installed_at: UnixTime::from_secs(secs) });
        assert_eq!(judge(T, ClockUse::Within(30), &offer, Some(&memory(1_030)), None), Verdict::Follow);
        assert_eq!(judge(T, ClockUse::Within(30), &offer, Some(&memory(1_031)), None), behind(1_031));
        assert_eq!(judge(T, ClockUse::None, &offer, Some(&memory(9_999)), None), Verdict::Follow);
    }

    #[test]
    fn a_secret_replaced_in_place_keeps_what_is_installed() {
        let told = prints((100, 1), Some((200, 2)));
        let keep = |epoch| Verdict::Keep(KeepReason::OtherKeySameEpoch { epoch: Epoch::new(epoch).unwrap() });
        let judge = |offer: SlotPrints| judge(T, ClockUse::Within(5), &offer, None, Some(&told));
        assert_eq!(judge(prints((100, 9), Some((200, 2)))), keep(100));
        assert_eq!(judge(prints((200, 9), Some((300, 3)))), keep(200), "staged before, primary now, another key");
        assert_eq!(judge(prints((200, 2), Some((100, 1)))), Verdict::Follow);
        assert_eq!(judge(prints((300, 3), Some((200, 2)))), Verdict::Follow);
    }

    #[test]
    fn keys_without_history_have_no_conflict() {
        let told = SlotPrints { primary: SlotPrint { epoch: None, fingerprint: print(1) }, backup: None };
        let offer = SlotPrints { primary: SlotPrint { epoch: None, fingerprint: print(2) }, backup: None };
        assert_eq!(judge(T, ClockUse::None, &offer, None, Some(&told)), Verdict::Follow);
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
