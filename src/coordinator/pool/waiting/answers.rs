//! The answers with keys: serialised once for all nodes with the same instruction, and wiped after the last of them.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::SyncError;
use crate::pool::replica::Replica;
use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::slots::{Instruction, PoolKey};
use tfo_model::count::Revision;
use tfo_model::state::Phase;
use tfo_wire::v1::secret::SecretText;
use tfo_wire::v1::sync::{ANSWER_BYTES_MAX, KeyMaterial, SyncAnswer};

/// Bodies of the present revision.
#[derive(Default)]
pub(super) struct Answers {
    revision: Option<Revision>,
    bodies: Vec<(Instruction, Bytes)>,
}

impl Answers {
    /// Wipes the bodies of another revision: a dropped key must not stay until a node asks for the next.
    pub(super) fn forget_older(&mut self, replica: &Replica) {
        let revision = Some(replica.document().revision);
        if self.revision != revision {
            self.revision = revision;
            self.bodies.clear();
        }
    }

    pub(super) fn body(&mut self, replica: &Replica, instruction: &Instruction) -> Result<Option<Bytes>, SyncError> {
        self.forget_older(replica);
        if let Some((_, body)) = self.bodies.iter().find(|(own, _)| own == instruction) {
            return Ok(Some(body.clone()));
        }
        let Some(body) = serialise(replica, instruction) else {
            tracing::error!(pool = %replica.pool(), generation = %instruction.generation, "the bytes of a key of the document are missing; this is a bug, please report it");
            return Err(SyncError::Internal);
        };
        self.bodies.push((*instruction, body.clone()));
        Ok(Some(body))
    }
}

fn serialise(replica: &Replica, instruction: &Instruction) -> Option<Bytes> {
    let document = replica.document();
    let material = |key: PoolKey| {
        let bytes = replica.keys().key(key.epoch)?;
        Some(KeyMaterial { epoch: key.epoch, fingerprint: key.fingerprint, key: SecretText::of_key(bytes) })
    };
    let backup = match instruction.slots.backup {
        Some(key) => Some(material(key)?),
        None => None,
    };
    let answer = SyncAnswer {
        pool: replica.pool().clone(),
        pool_id: document.pool_id,
        generation: instruction.generation,
        phase: phase_of(&document.stage, instruction),
        primary: material(instruction.slots.primary)?,
        backup,
        absent_after_secs: document.policy.absent_after_secs,
    };
    // Room from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    serde_json::to_writer(&mut *bytes, &answer).ok()?;
    assert!(bytes.capacity() == ANSWER_BYTES_MAX, "an answer is shorter than its limit");
    Some(Bytes::from_owner(Wiped(bytes)))
}

/// The phase by the node's own slots: staged while its backup is the next primary, otherwise steady.
///
/// Not "promoted": the end of a promotion changes no slots (docs/protocol.md#rule-2), so nothing would tell the node of
/// it, and it would say "promoted" until the next rotation.
fn phase_of(stage: &Stage, instruction: &Instruction) -> Phase {
    match stage {
        Stage::Promoted { next, .. } if instruction.slots.primary == *next => Phase::Steady,
        Stage::Promoted { .. } => Phase::Staged,
        Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => stage.phase(),
    }
}

/// Shared bytes that are wiped with the last owner.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
