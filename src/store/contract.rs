//! What every store does: the traits, and the values that go in and out of them.

use std::collections::BTreeMap;

use super::chain::ChainPart;
use super::error::{CommitError, StoreError};
use tfo_crypto::seal::{KekId, KeyEncryptionKeys};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal};
use tfo_engine::rollout::history::Written;
use tfo_engine::rollout::parts::{PoolContent, Writer, Writes};
use tfo_model::count::Revision;
use tfo_model::ids::{CoordinatorName, PoolName};

/// Position of a pool's stored state: differs from an earlier one if and only if something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Head {
    /// Revision of the document.
    pub revision: Revision,
    /// Rises with every transaction that wrote or removed a part of a node's record.
    pub part_writes: u64,
    /// Tells one history from another that has come as far; 0 in a store that cannot go back under a running process.
    pub mark: u64,
}

/// How far a copy has read, in a store that finds what was written since by that.  Opaque.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    /// Revision of the engine; 0: not known.
    pub(crate) revision: i64,
    /// Revision of the engine that wrote the document.
    pub(crate) document: i64,
    /// The last chunk of exclusions.
    pub(crate) out: u64,
    /// The last chunk of each roster.
    pub(crate) rosters: BTreeMap<CoordinatorName, u64>,
}

/// Everything of a pool but its audit log, from **one** consistent read.
#[derive(Debug)]
pub struct PoolState {
    /// Its position.
    pub head: Head,
    /// Document and nodes.
    pub content: PoolContent,
    /// The bytes of exactly the keys that the document holds.
    pub keys: KeyRing,
    /// How far it was read.
    pub trail: Trail,
}

/// The first content of a pool: a new document alone, or all of an exported pool.
#[derive(Debug)]
pub struct PoolImage<'a> {
    /// Document and nodes.
    pub content: &'a PoolContent,
    /// The bytes of the keys that the document holds; others are not stored.
    pub keys: &'a KeyRing,
    /// The audit log as it was written, oldest first; at most the latest [`AUDIT_KEPT`](crate::AUDIT_KEPT) are stored.
    pub audit: &'a [Written],
}

/// What [`Store::follow`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The copy is what is stored.
    Same,
    /// The copy was behind, and has followed what was written since.
    Followed,
    /// The copy was behind, and was read again.
    ReadAgain,
}

/// What a rekey has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rekeyed {
    /// Pools whose keys are sealed with the next key-encryption key now.
    pub pools: usize,
    /// How many keys that were, this time.
    pub keys: usize,
    /// Whether copies that the key before opens are gone from the medium.
    pub erasure: Erasure,
}

/// Whether the bytes of erased keys are gone from the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "keys that are still on the medium are to be erased by a later call of `erase_leftovers`"]
pub enum Erasure {
    /// Nothing is left.
    Done,
    /// Sealed copies are left behind in a file, because a reader or a full disk is in the way.
    Waiting,
    /// Nothing is left in the present state; sealed copies stay in the history that the engine keeps for some time, and no
    /// later call changes that.
    History,
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

    /// Document, nodes and keys of one consistent read: what a barrier is judged by (rule 5).
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if its content is damaged.
    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError>;

    /// Document and keys of one consistent read, without the nodes.
    ///
    /// # Errors
    /// As [`Self::load`].
    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError>;

    /// The public name of the key-encryption key that seals in it; none if keys are not sealed.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or has another key than those that were given.
    fn sealed_by(&self) -> Result<Option<KekId>, StoreError> {
        Ok(None)
    }

    /// Audit entries of revisions after `after`, oldest first, at most [`AUDIT_READ_MAX`](crate::AUDIT_READ_MAX).
    ///
    /// # Errors
    /// As [`Self::load`].
    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError>;

    /// The same as it is stored, be it right or not, and what it must lead to; none if there is no such pool.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if the rest of the pool is damaged.
    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError>;
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
    /// expected one and `by` has written its last beat as it says, the exclusions, the audit entry, the new keys of the document (taken from `keys`), and the erasure of the keys that it no longer holds.
    ///
    /// # Errors
    /// [`CommitError::Conflict`]: another writer was faster; load and decide again.
    /// [`CommitError::Fenced`]: another process has taken the name of `by` over, or the store has gone back.
    /// [`CommitError::Refused`]: the proposal breaks a rule of the store, which is a bug.  Each of them changes nothing.
    fn commit(&self, pool: &PoolName, by: &Writer, proposal: &Proposal, keys: &KeyRing)
    -> Result<Erasure, CommitError>;

    /// Writes into the roster of the coordinator `by` in one transaction, durable when it returns.  No other writer may
    /// write there, so there is nothing to compare but the writer's last beat: a process that lost its name, or that the
    /// store has forgotten, writes nothing.
    ///
    /// A beat fences the writer's earlier calls: one whose outcome is open ([`StoreError::outcome_is_open`]) has taken effect
    /// when a later beat is written, or never will, and the next [`Self::follow`] tells which.
    ///
    /// An admission is a call of its own, or shares one with others that wait for it (rule 7); later syncs are collected.
    ///
    /// # Errors
    /// Fails if the pool is unknown, there are more than [`PARTS_MAX`](crate::PARTS_MAX) parts, the store cannot be
    /// written, or with [`CommitError::Fenced`] as [`Self::commit`].
    fn write(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError>;

    /// Brings a copy of a pool up to what is stored now: by what was written since, if that is known, otherwise by reading
    /// all of it.  A coordinator's own writes come into its copy in this way and in no other.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or has no such pool; the copy is as it was.
    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError>;

    /// Calls `told` whenever another coordinator has changed the pool's document, or may have; at most one for each pool.  In a
    /// store of one process nothing changes without the caller, and nothing is called.
    fn tell(&self, _pool: &PoolName, _told: Box<dyn Fn() + Send + Sync>) {}

    /// Takes other key-encryption keys from now on: while one takes the other's place there are two.
    ///
    /// # Errors
    /// Fails, without a change, if none of them is that of the store, or if the store cannot be read.  A store that seals nothing
    /// takes any.
    fn set_keys(&self, _keys: KeyEncryptionKeys) -> Result<(), StoreError> {
        Ok(())
    }

    /// Tries again to erase what an earlier commit could not.  Cheap if nothing is left.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn erase_leftovers(&self) -> Result<Erasure, StoreError>;
}
