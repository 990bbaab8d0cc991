//! The keys of a pool by their public names, and what a node is instructed to hold (docs/protocol.md#rule-1; rule 9).
//!
//! Must not know: documents, records, key bytes.

use serde::{Deserialize, Serialize};

use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::PoolId;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::state::{SlotPrint, SlotPrints};

/// One key of a pool by its public names.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolKey {
    /// Ordinal of the key, used once (rule 1).
    pub epoch: Epoch,
    /// Public name of its bytes.
    pub fingerprint: KeyFingerprint,
}

impl PoolKey {
    /// The key as every output shows it.
    #[must_use]
    pub fn shown(self) -> SlotPrint {
        SlotPrint { epoch: Some(self.epoch), fingerprint: self.fingerprint }
    }
}

/// The two slots of an instruction.  Persisted (in node records).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slots {
    /// Makes and validates cookies.
    pub primary: PoolKey,
    /// Only validates.
    pub backup: Option<PoolKey>,
}

impl Slots {
    /// The keys in the slots, primary first.
    pub fn keys(&self) -> impl Iterator<Item = PoolKey> {
        [Some(self.primary), self.backup].into_iter().flatten()
    }

    /// The epoch of the newer key.
    #[must_use]
    pub fn highest_epoch(&self) -> Epoch {
        self.backup.map_or(self.primary.epoch, |backup| backup.epoch.max(self.primary.epoch))
    }

    /// The fingerprints, which are what a kernel is compared with.
    #[must_use]
    pub fn pair(&self) -> PairPrint {
        PairPrint { primary: self.primary.fingerprint, backup: self.backup.map(|key| key.fingerprint) }
    }

    /// Both slots as every output shows them.
    #[must_use]
    pub fn prints(&self) -> SlotPrints {
        SlotPrints { primary: self.primary.shown(), backup: self.backup.map(PoolKey::shown) }
    }
}

/// What one node is instructed to hold: slots under a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Ordinal of the instruction; nodes fence on it.
    pub generation: Generation,
    /// The slots to hold.
    pub slots: Slots,
}

/// The last instruction that a node's sysctl.d file records (rule 9).  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The pool that instructed the node.
    pub pool_id: PoolId,
    /// Generation of the instruction.
    pub generation: Generation,
    /// Slots of the instruction.
    pub slots: Slots,
}

impl Fence {
    /// The fence of a node that has this instruction of this pool in its file.
    #[must_use]
    pub fn of(pool_id: PoolId, instruction: &Instruction) -> Self {
        Self { pool_id, generation: instruction.generation, slots: instruction.slots }
    }
}
