//! Where pools are kept: the [`Store`] trait, and what every kind of store does alike.
//!
//! Invariants that the conformance suite (`tests/store`) holds against every kind:
//! * What a call acknowledged survives the process; a call that failed changed nothing, or its outcome is what the next
//!   read says ([`StoreError::outcome_is_open`]).
//! * A commit is one transaction: document, records, audit entry, fresh keys and erased keys, or nothing of it.
//! * A read is one consistent snapshot, and no older than the last acknowledged write (rules 5 and 7).
//! * Keys of epochs that are in no slot are gone from the store.
//!
//! Every call blocks (a commit for an fsync or two): call it from a blocking thread.  Must not know: the engine's
//! decisions, the network, who calls.

pub mod batch;
mod check;
pub mod error;
pub mod memory;
pub mod sqlite;
pub mod watch;

use std::time::Duration;

pub use batch::{RecordQueue, push_all};
pub use error::{CommitError, Refusal, StoreError};
pub use memory::MemoryStore;
pub use sqlite::{SqliteReader, SqliteStore};
pub use watch::{Change, Hub, Watch};

use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal, Snapshot};
use tfo_engine::rollout::record::{NodeRecord, RecordChange};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};

/// Audit entries that are kept for each pool: years of daily rotations.  The oldest go first.
pub const AUDIT_KEPT: u64 = 100_000;

/// Most records in one call of [`Store::write_records`]: bounds the transaction, about 1 MB.
pub const RECORDS_MAX: usize = 1_024;

/// Most audit entries that one read returns.
pub const AUDIT_READ_MAX: usize = 1_000;

/// How often a waiting watch looks by itself, for changes that another process made.
const POLL: Duration = Duration::from_millis(500);

/// How far a pool's stored state has come: differs from an earlier one if and only if something was written.
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
    /// How far it has come.
    pub head: Head,
    /// Document and node records.
    pub snapshot: Snapshot,
    /// The bytes of exactly the keys that the document holds.
    pub keys: KeyRing,
}

/// What a pool starts with: a new document and nothing else, or all of an exported one.
#[derive(Debug)]
pub struct PoolImage<'a> {
    /// Document and node records.
    pub snapshot: &'a Snapshot,
    /// The bytes of the keys that the document holds; others are not stored.
    pub keys: &'a KeyRing,
    /// The audit log, oldest first; at most the latest [`AUDIT_KEPT`] are stored.
    pub audit: &'a [AuditEntry],
}

/// What became of one record of [`Store::write_records`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It is durable.
    Stored,
    /// Another version is stored, none if there is no record; nothing was written for this node.
    Conflict {
        /// The stored version.
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

/// A store of pools.
///
/// Shared by all threads of a coordinator.  Errors leave the store usable: every call may be tried again.
pub trait Store: Send + Sync {
    /// The pools, sorted by name.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn pools(&self) -> Result<Vec<PoolName>, StoreError>;

    /// Makes a pool.  Durable when it returns.
    ///
    /// # Errors
    /// Fails with [`CommitError::PoolExists`] without a change if it is there already, is refused if the image lacks a
    /// key that its document holds, and fails if the store cannot be written.
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError>;

    /// How far the pool has come; none if it does not exist.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError>;

    /// Document, records and keys of one consistent read: what a barrier is judged by (rule 5).
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if what it holds is damaged.
    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError>;

    /// Document and keys of one consistent read, without the records: what a node is answered from (rule 7).
    ///
    /// # Errors
    /// As [`Self::load`].
    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError>;

    /// The record of one node; none if the node or the pool is unknown.
    ///
    /// # Errors
    /// As [`Self::load`].
    fn record(&self, pool: &PoolName, node: &NodeId) -> Result<Option<NodeRecord>, StoreError>;

    /// Audit entries of revisions after `after`, oldest first, at most [`AUDIT_READ_MAX`].
    ///
    /// # Errors
    /// As [`Self::load`].
    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError>;

    /// Commits a proposal in one transaction, durable when it returns: the document if the stored revision is the
    /// expected one, each record if its version is, the audit entry, the keys that the document holds anew (taken from
    /// `keys`), and the erasure of those that it no longer holds.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] and [`CommitError::RecordConflict`]: somebody was faster; load, decide anew.
    /// [`CommitError::Refused`]: the proposal breaks a rule of the store; our bug.  Nothing was changed in any of them.
    fn commit(&self, pool: &PoolName, proposal: &Proposal, keys: &KeyRing) -> Result<Erasure, CommitError>;

    /// Writes node records in one transaction, durable when it returns; each is judged alone, in order.
    ///
    /// An admission is a call of its own, or shares one with others that wait for it (rule 7); later acks are collected
    /// in a [`RecordQueue`].
    ///
    /// # Errors
    /// Fails for all of them if the pool is unknown, there are more than [`RECORDS_MAX`], or the store cannot be
    /// written; is refused if a new version does not rise.
    fn write_records(&self, pool: &PoolName, changes: &[RecordChange]) -> Result<Vec<RecordOutcome>, CommitError>;

    /// Tries again to erase what an earlier commit could not.  Cheap if nothing is left.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn erase_leftovers(&self) -> Result<Erasure, StoreError>;

    /// Tells everybody in this process of changes.
    fn hub(&self) -> &Hub;

    /// Waits until the pool's head differs from `seen`, at most `patience`, and returns the head of now.
    ///
    /// Never misses a change: what is compared is stored, so a change before the call returns at once.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn wait(&self, pool: &PoolName, seen: Option<Head>, patience: Duration) -> Result<Option<Head>, StoreError> {
        let start = clock::monotonic();
        loop {
            // The tick is taken before the read: a change in between ends the wait below at once.
            let tick = self.hub().tick();
            let head = self.head(pool)?;
            let left = clock::left_of(patience, start);
            if head != seen || left.is_zero() {
                return Ok(head);
            }
            self.hub().wait(tick, left.min(POLL));
        }
    }
}
