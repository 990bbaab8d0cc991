//! Another key-encryption key in the place of the present one, under coordinators that run: each of them must have both.
//!
//! First `kek` names the next key, which every transaction that seals compares: from then on nothing is sealed with the one
//! before.  Then the keys of each pool are sealed again.  Cut off at any moment, it is finished by the next run.

use super::client::EtcdSettings;
use super::name::Holder;
use super::reader::EtcdReader;
use super::wire::{Compare, Operation, Range, Transaction};
use super::{EtcdStore, keys, value};
use crate::contract::{Erasure, ReadStore, Rekeyed};
use crate::error::{Cause, StoreError};
use tfo_crypto::seal::{KeyEncryptionKey, KeyEncryptionKeys};
use tfo_engine::rollout::document::Document;
use tfo_engine::rollout::parts::Beat;
use tfo_model::ids::PoolName;
use tfo_model::time::UnixTime;

/// A coordinator that has not beaten for so long, and did not give its name back, is dead: it is not waited for.
const DEAD_SECS: u64 = 3_600;
/// How often a pool is tried again because it was committed meanwhile.
const TRIES: usize = 20;

impl EtcdStore {
    /// Seals all keys with the next of these keys, which is that of the store from then on.  Done before, it does nothing.
    /// `now` tells which coordinators are dead.
    ///
    /// # Errors
    /// Fails, without a change, as [`Self::open`]; with [`StoreError::NotPrepared`] if a coordinator that runs does not have the
    /// next key; and if the store cannot be written, with a part done: then it is run again.
    pub fn rekey(settings: EtcdSettings, keks: KeyEncryptionKeys, now: UnixTime) -> Result<Rekeyed, StoreError> {
        let mut reader = EtcdReader::connect(settings, keks)?;
        if !reader.take_meta()? {
            let what = "there is nothing yet".to_owned();
            return Err(StoreError::Foreign { place: reader.place, what });
        }
        let keks = reader.sealing().keks;
        let Some(next) = keks.next() else { return Err(StoreError::WrongKey { place: reader.place }) };
        reader.are_prepared(&reader.pools()?, next, now)?;
        reader.switch(next)?;
        // Afterwards, so that none is missed that was made meanwhile.
        let (pools, mut changed) = (reader.pools()?, 0);
        for pool in &pools {
            changed += reader.seal_again(pool, &keks, next)?;
        }
        Ok(Rekeyed { pools: pools.len(), keys: changed, erasure: Erasure::History })
    }
}

impl EtcdReader {
    /// Fails if a coordinator that may be alive does not have the key.
    fn are_prepared(&self, pools: &[PoolName], next: &KeyEncryptionKey, now: UnixTime) -> Result<(), StoreError> {
        let names = self.keys.names();
        let (holders, _) = self.client.read_all(&names, 0).map_err(self.unread())?;
        let mut lacking: Vec<String> = Vec::new();
        for pair in &holders {
            let holder: Holder = self.parse(pair)?;
            if holder.lacks(next.id()) {
                lacking.extend(keys::rest(pair.name(), &names).map(str::to_owned));
            }
        }
        let mut alive = Vec::new();
        for pool in pools {
            let prefix = self.keys.pool(pool).beats();
            let (beats, _) = self.client.read_all(&prefix, 0).map_err(self.unread())?;
            for pair in &beats {
                let beat: Beat = self.parse(pair)?;
                if !beat.about.is_forgotten && now.secs_since(beat.at) < DEAD_SECS {
                    alive.extend(keys::rest(pair.name(), &prefix).map(str::to_owned));
                }
            }
        }
        lacking.retain(|name| alive.contains(name));
        if lacking.is_empty() {
            return Ok(());
        }
        Err(StoreError::NotPrepared { place: self.place.clone(), who: lacking.join(", ") })
    }

    /// Makes the next key the one that seals.
    fn switch(&self, next: &KeyEncryptionKey) -> Result<(), StoreError> {
        let sealing = self.sealing();
        if self.take_kek(sealing.keks.clone())? == *next.id() {
            return Ok(());
        }
        let (meta, kek) = (self.keys.meta(), self.keys.kek());
        let put = Transaction {
            compare: vec![Compare::is(&meta, &self.meta()), Compare::is(&kek, &self.sealing().value)],
            success: vec![Operation::put(&kek, self.kek_value(next, &self.store_id)?)],
            failure: Vec::new(),
        };
        self.client.write(&put).map_err(self.failed("write"))?;
        // Another run may have been faster, to the same end or to another one.
        if self.take_kek(sealing.keks)? == *next.id() {
            return Ok(());
        }
        let source = Cause::from("another rekey runs");
        Err(StoreError::Failed { step: "rekey", place: self.place.clone(), source })
    }

    /// Seals the keys of a pool again; how many that were.
    fn seal_again(
        &self,
        pool: &PoolName,
        keks: &KeyEncryptionKeys,
        next: &KeyEncryptionKey,
    ) -> Result<usize, StoreError> {
        let at = self.keys.pool(pool);
        for _ in 0..TRIES {
            let ranges = [Range::one(&at.document()), Range::one(&at.keys())];
            let mut read = self.client.read(ranges).map_err(self.unread())?;
            let mut ranges = read.take_ranges();
            let document: Option<Document> = self.parse_one(ranges.next())?;
            let (Some(document), Some(range)) = (document, ranges.next()) else { return Ok(0) };
            let written_at = range.kvs.first().map_or(0, |pair| pair.mod_revision);
            let mut slots = self.parse_slots(Some(range))?;
            let changed = slots.seal_again(|epoch, sealed| {
                if next.open(&document.pool_id, epoch, sealed).is_ok() {
                    return Ok(None);
                }
                let damaged = || self.damaged(format!("the key of epoch {epoch} of pool {pool} does not open"));
                let key = keks.open(&document.pool_id, epoch, sealed).map_err(|_| damaged())?;
                next.seal(&document.pool_id, epoch, &key).map(Some).map_err(|error| StoreError::Failed {
                    step: "seal a key for",
                    place: self.place.clone(),
                    source: error.into(),
                })
            })?;
            if changed == 0 {
                return Ok(0);
            }
            let put = Transaction {
                compare: vec![Compare::is(&self.keys.meta(), &self.meta()), Compare::is_of(&at.keys(), written_at)],
                success: vec![Operation::put(&at.keys(), value::print(&at.keys(), &slots.to_text()))],
                failure: Vec::new(),
            };
            if self.client.write(&put).map_err(self.failed("write"))?.succeeded {
                return Ok(changed);
            }
        }
        let source = Cause::from("its pools are committed all the time");
        Err(StoreError::Failed { step: "rekey", place: self.place.clone(), source })
    }
}
