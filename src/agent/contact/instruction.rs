//! Keys that a pool's coordinator told: an answer becomes something to install, or is refused as a whole.
//!
//! What is installed already comes from the file; this is only about what is new.

use super::Offer;
use tfo_crypto::fingerprint::pair_print;
use tfo_engine::reconcile::{ClockUse, Makers};
use tfo_engine::rollout::document::{Instruction, PoolKey, Slots};
use tfo_model::ids::{PoolId, PoolName};
use tfo_model::key::{KeyPair, TfoKey};
use tfo_model::state::{DesiredState, Phase, SlotPrints};
use tfo_wire::v1::sync::{SyncAnswer, TaughtKey};

/// An instruction with its keys.
#[derive(Debug)]
pub struct Told {
    /// The pool.
    pub pool_id: PoolId,
    /// Generation and slots.
    pub instruction: Instruction,
    /// Where the rotation stands.
    pub phase: Phase,
    keys: KeyPair,
}

/// Why an answer cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTold {
    /// The text is no single key.
    #[error("a key in it is not kernel text of one key")]
    Text,
    /// Another key than the name says.
    #[error("a fingerprint in it does not fit the key beside it")]
    Fingerprint,
    /// Zero, or twice the same.
    #[error("its keys are no pair: all zeros, or twice the same")]
    Pair,
    /// Keys without a rotation they could belong to.
    #[error("it tells keys of an empty pool")]
    Empty,
    /// Another pool than the one that was asked about.
    #[error("it is about another pool")]
    Pool,
    /// Keys for a node that only reports.
    #[error("it tells keys, and this node only reports")]
    Unwanted,
}

impl Told {
    /// Checks an answer about `pool` against itself.
    ///
    /// # Errors
    /// Fails if the keys are no keys, not those that are named, no pair, or another pool's.
    pub fn of(answer: &SyncAnswer, pool: &PoolName) -> Result<Self, BadTold> {
        if answer.pool != *pool {
            return Err(BadTold::Pool);
        }
        if answer.phase == Phase::Empty {
            return Err(BadTold::Empty);
        }
        let primary = key(&answer.primary)?;
        let backup = answer.backup.as_ref().map(key).transpose()?;
        let keys = KeyPair::new(primary, backup).map_err(|_| BadTold::Pair)?;
        let named = |key: &TaughtKey| PoolKey { epoch: key.epoch, fingerprint: key.fingerprint };
        let slots = Slots { primary: named(&answer.primary), backup: answer.backup.as_ref().map(named) };
        if pair_print(&keys) != slots.pair() {
            return Err(BadTold::Fingerprint);
        }
        let instruction = Instruction { generation: answer.generation, slots };
        Ok(Self { pool_id: answer.pool_id, instruction, phase: answer.phase, keys })
    }

    /// What to hold.
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
        Offer { desired, clock: ClockUse::None, makers: Makers::new(), joints: Vec::new() }
    }
}

fn key(told: &TaughtKey) -> Result<TfoKey, BadTold> {
    let keys = told.key.parse().map_err(|_| BadTold::Text)?;
    if keys.backup().is_some() { Err(BadTold::Text) } else { Ok(keys.primary().duplicate()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(primary: &str, fingerprint: &str, backup: &str) -> Result<Told, BadTold> {
        let text = format!(
            "{{\"pool\":\"text\",\"pool_id\":\"0123456789abcdef0123456789abcdef\",\"generation\":3,\"phase\":\"steady\",\
             \"primary\":{{\"epoch\":2,\"fingerprint\":\"{fingerprint}\",\"key\":\"{primary}\"}},\"backup\":{backup},\
             \"absent_after_secs\":600}}"
        );
        Told::of(&serde_json::from_str(&text).unwrap(), &"text".parse().unwrap())
    }

    fn print(text: &str) -> String {
        pair_print(&tfo_model::key_text::parse(text.as_bytes()).unwrap()).primary.to_string()
    }

    const ONE: &str = "00000001-00000001-00000001-00000001";
    const TWO: &str = "00000002-00000002-00000002-00000002";

    #[test]
    fn only_an_answer_that_fits_itself_is_told() {
        let backup =
            |key: &str, named: &str| format!("{{\"epoch\":1,\"fingerprint\":\"{}\",\"key\":\"{key}\"}}", print(named));
        let told = answer(ONE, &print(ONE), &backup(TWO, TWO)).unwrap();
        let desired = told.offer().desired;
        assert_eq!(pair_print(&desired.keys), told.instruction.slots.pair());
        assert_eq!(desired.generation, Some(told.instruction.generation));
        let refused = |primary: &str, named: &str, backup: &str| answer(primary, &print(named), backup).err();
        assert_eq!(refused(ONE, TWO, "null"), Some(BadTold::Fingerprint));
        assert_eq!(refused(ONE, ONE, &backup(TWO, ONE)), Some(BadTold::Fingerprint));
        assert_eq!(refused(ONE, ONE, &backup(ONE, ONE)), Some(BadTold::Pair));
        assert_eq!(refused(&format!("{ONE},{TWO}"), ONE, "null"), Some(BadTold::Text));
        assert_eq!(refused("1-1-1", ONE, "null"), Some(BadTold::Text));
        let zero = "00000000-00000000-00000000-00000000";
        assert!(refused(zero, ONE, "null").is_some());
    }
}
