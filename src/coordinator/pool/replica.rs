//! One pool as the store has it: a copy in memory that follows what is written, by whatever coordinator, and is used only
//! after the store has confirmed that it lacks nothing.
//!
//! Why a copy: reading ten thousand records for every answer would take all of a coordinator's time.  Why our own writes
//! come back through the store: put into the copy by hand, they would stand in it without those that others wrote before
//! them (docs/protocol.md#rule-7).  Decisions made from it are still committed by compare-and-swap.
//!
//! Must not know: nodes' requests, decisions.

use std::collections::BTreeSet;
use std::sync::Arc;

use tfo_crypto::fingerprint::fingerprint;
use tfo_engine::rollout::changes::Changes;
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal, Snapshot};
use tfo_engine::rollout::parts::{About, Beat, Later, PoolContent, Shared, Stamp, Writer, Writes};
use tfo_engine::rollout::record::NodeRecord;
use tfo_engine::rollout::slots::PoolKey;
use tfo_model::count::{Epoch, Revision};
use tfo_model::ids::{CoordinatorName, NodeId, PoolName};
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_model::time::UnixTime;
use tfo_store::error::Cause;
use tfo_store::{CommitError, Erasure, Head, News, PARTS_MAX, PoolState, Store, StoreError};

/// Keys that a command brought, or that were made for it, by fingerprint.
#[derive(Default)]
pub struct GivenKeys(Vec<(KeyFingerprint, TfoKey)>);

impl GivenKeys {
    /// Adds a key, and gives its public name.
    pub fn add(&mut self, key: TfoKey) -> KeyFingerprint {
        let print = fingerprint(&key);
        self.0.push((print, key));
        print
    }

    fn find(&self, print: KeyFingerprint) -> Option<&TfoKey> {
        self.0.iter().find(|(own, _)| *own == print).map(|(_, key)| key)
    }
}

/// The copy of one pool.
pub(super) struct Replica {
    store: Arc<dyn Store>,
    pool: PoolName,
    /// The name under which this coordinator writes.
    by: CoordinatorName,
    /// The highest stamp that this process has written.
    last: Option<Stamp>,
    /// Whether this process has the name: it has written a beat, and no write has shown since that the beat is lost.
    holds_name: bool,
    state: PoolState,
}

/// Why a write was fenced off (docs/protocol.md#rule-18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fenced {
    /// This process does not have the name: its next beat takes it, unless another process has taken it from this one.
    WithoutName,
    /// A beat of this process has taken effect whose outcome was open: the write may be tried again.
    OwnBeat,
    /// Another process has taken the name over.
    ByAnother,
    /// The store has gone back behind this process's last beat.
    ByTheStore,
}

impl Replica {
    /// Reads the pool.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or has no such pool.
    pub(super) fn open(store: Arc<dyn Store>, pool: PoolName, by: CoordinatorName) -> Result<Self, StoreError> {
        let PoolState { head, content, keys, trail } = load(&*store, &pool)?;
        let state = PoolState { head, content: content.owned_by(by.clone()), keys, trail };
        Ok(Self { store, pool, by, last: None, holds_name: false, state })
    }

    pub(super) fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// The name under which this coordinator writes.
    pub(super) fn by(&self) -> &CoordinatorName {
        &self.by
    }

    pub(super) fn head(&self) -> Head {
        self.state.head
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        self.state.content.snapshot()
    }

    pub(super) fn content(&self) -> &PoolContent {
        &self.state.content
    }

    /// The record of a node as it will be once `writes` are written.
    pub(super) fn record_after(&self, node: &NodeId, writes: &Writes) -> Option<NodeRecord> {
        self.state.content.parts().record_after(node, Some((&self.by, writes)))
    }

    pub(super) fn document(&self) -> &Document {
        &self.snapshot().document
    }

    pub(super) fn keys(&self) -> &KeyRing {
        &self.state.keys
    }

    /// Brings the copy up to what is stored.
    ///
    /// # Errors
    /// Fails if the store cannot be read; no answer and no decision may be made from the copy then.
    pub(super) fn follow(&mut self) -> Result<News, StoreError> {
        self.store.follow(&self.pool, &mut self.state)
    }

    /// What has changed in the copy since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        self.state.content.take_changes()
    }

    /// Takes a sync in that is not written.
    pub(super) fn hear(&mut self, node: &NodeId, later: Shared<Later>) {
        self.state.content.hear(node, later);
    }

    /// Stamp of the next beat: the first one of this process takes the name over.
    pub(super) fn next_stamp(&self) -> Stamp {
        match self.last {
            Some(last) if self.holds_name => last.next(),
            last => Stamp::taken_over(last.max(self.stored_stamp())),
        }
    }

    /// Writes into this coordinator's roster, durable when it returns; the copy follows later.
    ///
    /// # Errors
    /// Fails if the store cannot be written, or refuses this writer: see [`Self::fenced`].
    pub(super) fn write(&mut self, writes: &Writes) -> Result<(), CommitError> {
        // The first beat takes the name over from what the copy has seen of it; without the name nothing else is written.
        let by = match writes.beat {
            Some(_) if !self.holds_name => Writer { name: self.by.clone(), last: self.stored_stamp() },
            Some(_) | None => self.writer()?,
        };
        self.store.write(&self.pool, &by, writes)?;
        if let Some(beat) = &writes.beat {
            (self.last, self.holds_name) = (Some(beat.stamp), true);
        }
        Ok(())
    }

    /// The store has refused this writer, because its last beat is `stored`.
    pub(super) fn fenced(&mut self, stored: Option<Stamp>) -> Fenced {
        if !self.holds_name {
            return Fenced::WithoutName;
        }
        let life = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.life);
        if stored > self.last && life(stored) == life(self.last) {
            self.last = stored;
            return Fenced::OwnBeat;
        }
        self.holds_name = false;
        if stored > self.last { Fenced::ByAnother } else { Fenced::ByTheStore }
    }

    /// This process as a writer, if it has the name.
    fn writer(&self) -> Result<Writer, CommitError> {
        let (name, stored) = (self.by.clone(), self.stored_stamp());
        if self.holds_name { Ok(Writer { name, last: self.last }) } else { Err(CommitError::Fenced { name, stored }) }
    }

    /// Stamp of the last beat under this name, in the copy.
    fn stored_stamp(&self) -> Option<Stamp> {
        self.content().parts().stamp(&self.by)
    }

    /// Commits a proposal that was made from the copy, which follows later.
    ///
    /// # Errors
    /// Fails as [`Store::commit`].
    pub(super) fn commit(&self, proposal: &Proposal, given: &GivenKeys) -> Result<Erasure, CommitError> {
        // Not in the copy's ring: a key of another history may have the epoch of one that is there.
        let mut fresh = KeyRing::default();
        for missing in self.missing(&proposal.document) {
            if let Some(key) = self.find(missing, given) {
                fresh.insert(missing.epoch, key);
            }
        }
        self.store.commit(&self.pool, &self.writer()?, proposal, &fresh)
    }

    /// Makes sure that a commit whose outcome is open has taken effect or never will: by a beat, which fences it.
    ///
    /// # Errors
    /// Fails if the store cannot be written; the outcome is still open.
    pub(super) fn settle(&mut self, at: UnixTime) -> Result<(), CommitError> {
        let beat = Beat { stamp: self.next_stamp(), vouches: false, at, tally: None, about: About::default() };
        self.write(&Writes { beat: Some(beat), ..Writes::default() })
    }

    /// Takes the name of another coordinator, which is dead, and leaves it without these entries and with a beat that hides it.
    /// If its process is alive after all, it finds that it has lost its name, and ends (docs/protocol.md#rule-18).
    ///
    /// # Errors
    /// Fails with [`CommitError::Fenced`] if it beats, or if the store cannot be written.
    pub(super) fn forget(
        &self,
        name: &CoordinatorName,
        removed: &BTreeSet<NodeId>,
        at: UnixTime,
    ) -> Result<(), CommitError> {
        let mut writer = Writer { name: name.clone(), last: self.content().parts().stamp(name) };
        let (mut stamp, mut left) = (Stamp::taken_over(writer.last), removed.iter());
        loop {
            let removed: BTreeSet<NodeId> = left.by_ref().take(PARTS_MAX).cloned().collect();
            let about = About { is_forgotten: true, ..About::default() };
            let beat = Beat { stamp, vouches: false, at, tally: None, about };
            self.store.write(&self.pool, &writer, &Writes { removed, beat: Some(beat), ..Writes::default() })?;
            if left.len() == 0 {
                return Ok(());
            }
            (writer.last, stamp) = (Some(stamp), stamp.next());
        }
    }

    /// Whether this entry is in the audit log, so that its commit has taken effect.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub(super) fn has(&self, entry: &AuditEntry, before: Revision) -> Result<bool, StoreError> {
        Ok(self.store.audit(&self.pool, before)?.first() == Some(entry))
    }

    /// A key of the document whose bytes are missing, if there is one.
    pub(super) fn lacking(&self, next: &Document, given: &GivenKeys) -> Option<PoolKey> {
        self.missing(next).into_iter().find(|key| self.find(*key, given).is_none())
    }

    pub(super) fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        self.store.erase_leftovers()
    }

    /// The new keys of a document.
    fn missing(&self, next: &Document) -> Vec<PoolKey> {
        next.keys_held().difference(&self.document().keys_held()).copied().collect()
    }

    /// Bytes with this fingerprint: given, or of any epoch that is stored.
    fn find(&self, wanted: PoolKey, given: &GivenKeys) -> Option<TfoKey> {
        let stored = |epoch: Epoch| self.state.keys.key(epoch).filter(|key| fingerprint(key) == wanted.fingerprint);
        let found = given.find(wanted.fingerprint).or_else(|| self.state.keys.epochs().find_map(stored));
        found.map(TfoKey::duplicate)
    }
}

fn load(store: &dyn Store, pool: &PoolName) -> Result<PoolState, StoreError> {
    store.load(pool)?.ok_or_else(|| StoreError::Failed {
        step: "find",
        place: format!("pool {pool}"),
        source: Cause::from("it was removed while the coordinator ran"),
    })
}
