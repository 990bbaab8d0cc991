//! The sealed keys of one pool as one value of constant length.  Persisted.
//!
//! Each slot is an epoch (8 bytes, big endian, 0 = empty) and a sealed key; an empty one is all zeros.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::check::SLOTS;
use tfo_crypto::fingerprint::fingerprint;
use tfo_crypto::seal::{KeyEncryptionKeys, SealedKey};
use tfo_engine::rollout::document::{Document, KeyRing};
use tfo_model::count::Epoch;
use tfo_model::ids::PoolName;

const SLOT_BYTES: usize = 8 + SealedKey::BYTES;

/// The slots of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slots([u8; SLOTS * SLOT_BYTES]);

impl Default for Slots {
    fn default() -> Self {
        Self([0; SLOTS * SLOT_BYTES])
    }
}

impl Slots {
    /// Reads stored bytes; none if they are not valid slots.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let slots = Self(bytes.try_into().ok()?);
        let clean =
            slots.0.chunks(SLOT_BYTES).all(|slot| epoch_of(slot).is_some() || slot.iter().all(|byte| *byte == 0));
        let held: Vec<Epoch> = slots.keys().map(|(epoch, _)| epoch).collect();
        let distinct = held.iter().collect::<BTreeSet<_>>().len() == held.len();
        (clean && distinct).then_some(slots)
    }

    /// The bytes to store.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, for a store of texts: base64.
    pub(crate) fn to_text(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads [`Self::to_text`].
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::parse(&STANDARD.decode(text).ok()?)
    }

    /// The filled slots.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (Epoch, SealedKey)> + '_ {
        self.0.chunks(SLOT_BYTES).filter_map(|slot| {
            let sealed = slot[8..].try_into().expect("the rest of a slot is a sealed key");
            Some((epoch_of(slot)?, SealedKey::from_bytes(sealed)))
        })
    }

    /// The keys that the document of `pool` holds, which are all that may be here.
    ///
    /// # Errors
    /// What is damaged: a key that does not open, that is not the one of its name, or that only one of the two has.
    pub(crate) fn open(
        &self,
        keks: &KeyEncryptionKeys,
        pool: &PoolName,
        document: &Document,
    ) -> Result<KeyRing, String> {
        let held = document.keys_held();
        let mut keys = KeyRing::default();
        for (epoch, sealed) in self.keys() {
            let damaged = |what: &str| format!("the key of epoch {epoch} of pool {pool} {what}");
            let name = held.iter().find(|key| key.epoch == epoch).ok_or_else(|| damaged("is in no slot"))?;
            let key = keks.open(&document.pool_id, epoch, &sealed).map_err(|_| damaged("does not open"))?;
            if fingerprint(&key) != name.fingerprint {
                return Err(damaged("has another fingerprint"));
            }
            keys.insert(epoch, key);
        }
        if keys.epochs().count() == held.len() { Ok(keys) } else { Err(format!("a key of pool {pool} is missing")) }
    }

    /// Puts what `seal` makes of each key in its place; how many it has changed.
    ///
    /// # Errors
    /// Fails as `seal`, which gives none for a key that stays as it is.
    pub(crate) fn seal_again<E>(
        &mut self,
        mut seal: impl FnMut(Epoch, &SealedKey) -> Result<Option<SealedKey>, E>,
    ) -> Result<usize, E> {
        let mut changed = 0;
        for slot in self.0.chunks_mut(SLOT_BYTES) {
            let Some(epoch) = epoch_of(slot) else { continue };
            let sealed = SealedKey::from_bytes(slot[8..].try_into().expect("the rest of a slot is a sealed key"));
            if let Some(again) = seal(epoch, &sealed)? {
                slot[8..].copy_from_slice(again.as_bytes());
                changed += 1;
            }
        }
        Ok(changed)
    }

    /// Overwrites all slots but those of these epochs.
    pub(crate) fn keep_only(&mut self, keep: &BTreeSet<Epoch>) {
        for slot in self.0.chunks_mut(SLOT_BYTES) {
            if epoch_of(slot).is_none_or(|epoch| !keep.contains(&epoch)) {
                slot.fill(0);
            }
        }
    }

    /// Fills an empty slot.
    pub(crate) fn add(&mut self, epoch: Epoch, sealed: &SealedKey) {
        let mut empty = self.0.chunks_mut(SLOT_BYTES).filter(|slot| epoch_of(slot).is_none());
        let slot = empty.next().expect("the plan of a commit holds at most as many keys as there are slots");
        slot[..8].copy_from_slice(&epoch.get().to_be_bytes());
        slot[8..].copy_from_slice(sealed.as_bytes());
    }
}

fn epoch_of(slot: &[u8]) -> Option<Epoch> {
    Epoch::new(u64::from_be_bytes(slot[..8].try_into().expect("a slot begins with 8 bytes of epoch")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(byte: u8) -> SealedKey {
        SealedKey::from_bytes([byte; SealedKey::BYTES])
    }

    fn epoch(ordinal: u64) -> Epoch {
        Epoch::new(ordinal).unwrap()
    }

    #[test]
    fn a_slot_is_overwritten_and_used_again() {
        let mut slots = Slots::default();
        for n in 1..=4 {
            slots.add(epoch(n), &sealed(n.try_into().unwrap()));
        }
        slots.keep_only(&[epoch(1), epoch(3), epoch(4)].into());
        assert!(!slots.as_bytes().windows(4).any(|bytes| bytes == [2; 4]));
        slots.add(epoch(5), &sealed(5));
        let read = Slots::parse(slots.as_bytes()).unwrap();
        let keys: Vec<_> = read.keys().map(|(epoch, sealed)| (epoch.get(), sealed.as_bytes()[0])).collect();
        assert_eq!(keys, [(1, 1), (5, 5), (3, 3), (4, 4)]);
        assert_eq!(Slots::from_text(&slots.to_text()), Some(slots));
    }

    #[test]
    fn bytes_that_are_not_slots_are_not_read() {
        let mut slots = Slots::default();
        slots.add(epoch(1), &sealed(1));
        slots.add(epoch(1), &sealed(2));
        assert_eq!(Slots::parse(slots.as_bytes()), None, "one epoch twice");
        let mut bytes = Slots::default().as_bytes().to_vec();
        bytes[60] = 1;
        assert_eq!(Slots::parse(&bytes), None, "an empty slot that is not empty");
        assert_eq!(Slots::parse(&bytes[1..]), None);
    }
}
