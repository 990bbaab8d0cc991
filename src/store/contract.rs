//! What every store does: the traits, and the values that go in and out of them.

use super::error::{CommitError, StoreError};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal, Snapshot};
use tfo_engine::rollout::record::RecordChange;
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;

/// Position of a pool's stored state: differs from an earlier one if and only if something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Head {
    /// Revision of the document.
    pub revision: Revision,
    /// Rises with every transaction that wrote or removed a node record.
    pub record_writes: u64,
}

/// Everything of a pool but its audit log, from **one** consistent read.
#[derive(Debug)]
pub struct PoolState {
    /// Its position.
    pub head: Head,
    /// Document and node records.
    pub snapshot: Snapshot,
    /// The bytes of exactly the keys that the document holds.
    pub keys: KeyRing,
}

/// The first content of a pool: a new document alone, or all of an exported pool.
#[derive(Debug)]
pub struct PoolImage<'a> {
    /// Document and node records.
    pub snapshot: &'a Snapshot,
    /// The bytes of the keys that the document holds; others are not stored.
    pub keys: &'a KeyRing,
    /// The audit log, oldest first; at most the latest [`AUDIT_KEPT`](crate::AUDIT_KEPT) are stored.
    pub audit: &'a [AuditEntry],
}

/// Outcome of one record of [`Store::write_records`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It is durable.
    Stored,
    /// Another version is stored; nothing was written for this node.
    Conflict {
        /// The stored version; none if the node has no record.
        stored: Option<u64>,
    },
}

/// Whether the bytes of erased keys are gone from the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "keys that are still on the medium are to be erased by a later call of `erase_leftovers`"]
pub enum Erasure {
    /// Nothing is left.
    Done,
    /// Sealed copies are left behind in a file, because a reader or a full disk is in the way.
    Waiting,
}

/// The reading side of a store.
///
/// Shared by all threads of a coordinator.  An error leaves the store usable: every call may be tried again.
pub trait ReadStore: Send + Sync {
    /// The pools, sorted by name.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn pools(&self) -> Result<Vec<PoolName>, StoreError>;

    /// Position of the pool; none if it does not exist.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError>;

    /// Document, records and keys of one consistent read: what a barrier is judged by (rule 5).
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if its content is damaged.
    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError>;

    /// Document and keys of one consistent read, without the records: what a node is answered from (rule 7).
    ///
    /// # Errors
    /// As [`Self::load`].
    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError>;

    /// Audit entries of revisions after `after`, oldest first, at most [`AUDIT_READ_MAX`](crate::AUDIT_READ_MAX).
    ///
    /// # Errors
    /// As [`Self::load`].
    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError>;
}

/// A store of pools.
pub trait Store: ReadStore {
    /// Creates a pool.  Durable when it returns.
    ///
    /// # Errors
    /// Fails with [`CommitError::PoolExists`] without a change if the pool exists, is refused if the image lacks a key
    /// that its document holds, and fails if the store cannot be written.
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError>;

    /// Commits a proposal in one transaction, durable when it returns: the document if the stored revision is the
    /// expected one, each record if its version is, the audit entry, the new keys of the document (taken from `keys`),
    /// and the erasure of the keys that it no longer holds.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] and [`CommitError::RecordConflict`]: another writer was faster; load and decide again.
    /// [`CommitError::Refused`]: the proposal breaks a rule of the store, which is a bug.  Each of them changes nothing.
    fn commit(&self, pool: &PoolName, proposal: &Proposal, keys: &KeyRing) -> Result<Erasure, CommitError>;

    /// Writes node records in one transaction, durable when it returns; each is judged alone, in order.
    ///
    /// An admission is a call of its own, or shares one with others that wait for it (rule 7); later acks are collected
    /// in a [`RecordQueue`](crate::RecordQueue).
    ///
    /// # Errors
    /// Fails for all of them if the pool is unknown, there are more than [`RECORDS_MAX`](crate::RECORDS_MAX), or the store cannot be
    /// written; is refused if a new version does not rise.
    fn write_records(&self, pool: &PoolName, changes: &[RecordChange]) -> Result<Vec<RecordOutcome>, CommitError>;

    /// Tries again to erase what an earlier commit could not.  Cheap if nothing is left.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn erase_leftovers(&self) -> Result<Erasure, StoreError>;
}
