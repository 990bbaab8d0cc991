//! An instruction of a pool's coordinator: an answer becomes something to install, or is refused as a whole.
//!
//! Only about what is new: the keys that are installed are in the file.

use std::collections::BTreeMap;

use crate::source::Offer;
use tfo_crypto::fingerprint::pair_print;
use tfo_engine::reconcile::ClockUse;
use tfo_engine::rollout::slots::{Instruction, PoolKey, Slots};
use tfo_model::ids::{PoolId, PoolName};
use tfo_model::key::{KeyPair, TfoKey};
use tfo_model::state::{DesiredState, Phase, SlotPrints};
use tfo_wire::v1::sync::{KeyMaterial, SyncAnswer};

/// An instruction with its keys.
#[derive(Debug)]
pub struct Instructed {
    /// The pool.
    pub pool_id: PoolId,
    /// Generation and slots.
    pub instruction: Instruction,
    /// Phase of the pool.
    pub phase: Phase,
    keys: KeyPair,
}

/// An answer that contradicts itself or the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInstruction {
    /// The text is not a single key.
    #[error("one of its keys is not kernel text of one key")]
    Text,
    /// The key does not have its fingerprint.
    #[error("one of its fingerprints does not match the key")]
    Fingerprint,
    /// Zero, or twice the same.
    #[error("invalid key pair: zero or identical keys")]
    Pair,
    /// An empty pool has no keys.
    #[error("it has keys of an empty pool")]
    Empty,
    /// Another pool than the one that was asked about.
    #[error("it is about another pool")]
    Pool,
    /// Keys for a node that only reports.
    #[error("it has keys, but this node only reports")]
    Unwanted,
}

impl Instructed {
    /// Checks that an answer about `pool` is consistent.
    ///
    /// # Errors
    /// Fails if a key cannot be parsed or lacks its fingerprint, or if the pair is invalid or another pool's.
    pub fn of(answer: &SyncAnswer, pool: &PoolName) -> Result<Self, InvalidInstruction> {
        if answer.pool != *pool {
            return Err(InvalidInstruction::Pool);
        }
        if answer.phase == Phase::Empty {
            return Err(InvalidInstruction::Empty);
        }
        let primary = key(&answer.primary)?;
        let backup = answer.backup.as_ref().map(key).transpose()?;
        let keys = KeyPair::new(primary, backup).map_err(|_| InvalidInstruction::Pair)?;
        let named = |key: &KeyMaterial| PoolKey { epoch: key.epoch, fingerprint: key.fingerprint };
        let slots = Slots { primary: named(&answer.primary), backup: answer.backup.as_ref().map(named) };
        if pair_print(&keys) != slots.pair() {
            return Err(InvalidInstruction::Fingerprint);
        }
        let instruction = Instruction { generation: answer.generation, slots };
        Ok(Self { pool_id: answer.pool_id, instruction, phase: answer.phase, keys })
    }

    /// The keys to hold.
    pub(super) fn offer(&self) -> Offer {
        let Instruction { generation, slots } = self.instruction;
        let prints = SlotPrints { primary: slots.primary.shown(), backup: slots.backup.map(PoolKey::shown) };
        let desired = DesiredState {
            keys: self.keys.duplicate(),
            prints,
            phase: self.phase,
            pool_id: Some(self.pool_id),
            generation: Some(generation),
            next_change_at: None,
        };
        Offer { desired, clock: ClockUse::None, generators: BTreeMap::new(), joints: Vec::new() }
    }
}

fn key(sent: &KeyMaterial) -> Result<TfoKey, InvalidInstruction> {
    let keys = sent.key.parse().map_err(|_| InvalidInstruction::Text)?;
    if keys.backup().is_some() { Err(InvalidInstruction::Text) } else { Ok(keys.primary().duplicate()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(primary: &str, fingerprint: &str, backup: &str) -> Result<Instructed, InvalidInstruction> {
        let text = format!(
            "{{\"pool\":\"edge\",\"pool_id\":\"0123456789abcdef0123456789abcdef\",\"generation\":3,\"phase\":\"steady\",\
             \"primary\":{{\"epoch\":2,\"fingerprint\":\"{fingerprint}\",\"key\":\"{primary}\"}},\"backup\":{backup},\
             \"absent_after_secs\":600}}"
        );
        Instructed::of(&serde_json::from_str(&text).unwrap(), &"edge".parse().unwrap())
    }

    fn print(text: &str) -> String {
        pair_print(&tfo_model::key_text::parse(text.as_bytes()).unwrap()).primary.to_string()
    }

    const ONE: &str = "00000001-00000001-00000001-00000001";
    const TWO: &str = "00000002-00000002-00000002-00000002";

    #[test]
    fn only_a_consistent_answer_is_an_instruction() {
        let backup =
            |key: &str, named: &str| format!("{{\"epoch\":1,\"fingerprint\":\"{}\",\"key\":\"{key}\"}}", print(named));
        let instructed = answer(ONE, &print(ONE), &backup(TWO, TWO)).unwrap();
        let desired = instructed.offer().desired;
        assert_eq!(pair_print(&desired.keys), instructed.instruction.slots.pair());
        assert_eq!(desired.generation, Some(instructed.instruction.generation));
        let refused = |primary: &str, named: &str, backup: &str| answer(primary, &print(named), backup).err();
        assert_eq!(refused(ONE, TWO, "null"), Some(InvalidInstruction::Fingerprint));
        assert_eq!(refused(ONE, ONE, &backup(TWO, ONE)), Some(InvalidInstruction::Fingerprint));
        assert_eq!(refused(ONE, ONE, &backup(ONE, ONE)), Some(InvalidInstruction::Pair));
        assert_eq!(refused(&format!("{ONE},{TWO}"), ONE, "null"), Some(InvalidInstruction::Text));
        assert_eq!(refused("1-1-1", ONE, "null"), Some(InvalidInstruction::Text));
        let zero = "00000000-00000000-00000000-00000000";
        assert!(refused(zero, ONE, "null").is_some());
    }
}
