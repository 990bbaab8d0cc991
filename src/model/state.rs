//! What a node is to hold, and how it is shown: [`DesiredState`], [`Phase`], [`SlotPrint`].

use serde::{Deserialize, Serialize};

use super::count::{Epoch, Generation};
use super::ids::PoolId;
use super::key::{KeyFingerprint, KeyPair, PairPrint};
use super::time::UnixTime;

crate::named_enum! {
    /// Where a rotation stands (docs/protocol.md#rule-3; for derived keys section 3).
    ///
    /// Wire v1 and Persisted: the names; a new phase needs a new version.
    pub enum Phase {
        /// No key yet.
        Empty = "empty",
        /// The primary is the key of now; the backup, if any, is the one before it.
        Steady = "steady",
        /// The backup is the key that comes next.
        Staged = "staged",
        /// The primary is new, but some nodes may still make cookies with the old one.
        Promoted = "promoted",
    }
}

crate::named_enum! {
    /// How far an agent has confined itself (Landlock).  Wire v1: the names.
    pub enum Confinement {
        /// As far as it asks for.
        Full = "full",
        /// As far as an older kernel can.
        Partial = "partial",
        /// This kernel has no Landlock, or may not be asked.
        None = "none",
        /// Not wanted: by the configuration, or because of `on_detached`.
        Off = "off",
    }
}

/// Whether a kernel has a backup slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupSlot {
    /// Linux 5.3 and later (commit 9092a76d3cf8).
    Present,
    /// Earlier, or a kernel that was seen to keep only the primary.
    Absent,
}

/// One slot as it may be shown: never the key.  `K` in docs/reference/json.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotPrint {
    /// Ordinal of the key; none for keys from a file, which have no history.
    pub epoch: Option<Epoch>,
    /// Public name of the key.
    pub fingerprint: KeyFingerprint,
}

/// Both slots as they may be shown.  Persisted (in node records).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotPrints {
    /// The slot that makes cookies.
    pub primary: SlotPrint,
    /// The slot that only validates.
    pub backup: Option<SlotPrint>,
}

impl SlotPrints {
    /// The fingerprints alone, which is what a kernel can be compared with.
    #[must_use]
    pub fn pair(&self) -> PairPrint {
        PairPrint { primary: self.primary.fingerprint, backup: self.backup.map(|slot| slot.fingerprint) }
    }
}

/// What a source wants this node to hold now.
#[derive(Debug)]
pub struct DesiredState {
    /// The keys.
    pub keys: KeyPair,
    /// Their epochs and fingerprints, in the order of `keys`.
    pub prints: SlotPrints,
    /// Where the rotation stands.
    pub phase: Phase,
    /// The pool of the instruction; none without a coordinator.
    pub pool_id: Option<PoolId>,
    /// The instruction's ordinal; none without a coordinator.
    pub generation: Option<Generation>,
    /// When the slots change next, if the source knows.
    pub next_change_at: Option<UnixTime>,
}
