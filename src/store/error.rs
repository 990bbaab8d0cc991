//! What can go wrong in a store, with the place and a remedy for the operator.

use super::limits::RECORDS_MAX;
use tfo_model::count::{Epoch, Revision};
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::problem::Problem;

/// The cause below an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The store cannot be used, or not for this.  `place` is its file or address.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process serves this store.
    #[error("{place} is in use by another process: {holder}")]
    InUse {
        /// Where.
        place: String,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// The schema is of a later release.
    #[error("{place} was written by a newer release: it has schema {found}, and this release knows {known}")]
    Newer {
        /// Where.
        place: String,
        /// The stored schema.
        found: i64,
        /// The latest that we know.
        known: i64,
    },
    /// The keys were sealed with another key-encryption key.
    #[error("the keys in {place} are sealed with another key-encryption key")]
    WrongKey {
        /// Where.
        place: String,
    },
    /// Not a store of ours.
    #[error("{place} is not a store of tfo-coordinator: {what}")]
    Foreign {
        /// Where.
        place: String,
        /// How it can be told.
        what: String,
    },
    /// What is stored contradicts itself.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// Where.
        place: String,
        /// What does not fit.
        what: String,
    },
    /// No room for the change.
    #[error("no space is left for {place}")]
    Full {
        /// Where.
        place: String,
        /// Why.
        source: Cause,
    },
    /// Read-only, or no permission.
    #[error("{place} cannot be written")]
    Unwritable {
        /// Where.
        place: String,
        /// Why.
        source: Cause,
    },
    /// Another program holds a lock for too long.
    #[error("{place} is locked by another program")]
    Busy {
        /// Where.
        place: String,
        /// Why.
        source: Cause,
    },
    /// Anything else.
    #[error("cannot {step} {place}")]
    Failed {
        /// What we tried.
        step: &'static str,
        /// Where.
        place: String,
        /// Why.
        source: Cause,
    },
}

impl StoreError {
    /// Whether only the next read tells if the change was made: an I/O error may hit after the last write.
    ///
    /// For all other errors nothing was changed.
    #[must_use]
    pub fn outcome_is_open(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Stable name in snake case.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "store_in_use",
            Self::Newer { .. } => "store_newer",
            Self::WrongKey { .. } => "store_wrong_key",
            Self::Foreign { .. } => "store_foreign",
            Self::Damaged { .. } => "store_damaged",
            Self::Full { .. } => "store_full",
            Self::Unwritable { .. } => "store_unwritable",
            Self::Busy { .. } => "store_busy",
            Self::Failed { .. } => "store_failed",
        }
    }

    /// What the operator can do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "stop the other process; for several coordinators use the etcd store",
            Self::Newer { .. } => "install the newer release again, or restore a backup that this release made",
            Self::WrongKey { .. } => {
                "set store.key_encryption_key to the key that this store was made with; nothing was changed"
            }
            Self::Foreign { .. } => {
                "set store.path to the coordinator's own file, or to one that does not exist yet; if it was the right \
                 file, move it away and `tfo-coordinator import` the latest backup"
            }
            Self::Damaged { .. } => {
                "keep the file and those beside it, move them away, `tfo-coordinator import` the latest backup, then \
                 `tfoctl recover`; without a backup make the pool anew and import the nodes' present keys"
            }
            Self::Full { .. } => "free space on its file system; nothing was changed, and it goes on by itself",
            Self::Unwritable { .. } => {
                "let the coordinator's user write the file and its directory, on a file system that is mounted \
                 read-write"
            }
            Self::Busy { .. } => "end the other program that has the file open, such as a sqlite3 shell",
            Self::Failed { .. } => "look at the cause and at the kernel's log; the disk may fail",
        }
    }

    /// The error with its causes and remedy, as every output shows it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Problem::error(self.kind(), message, self.remedy()).at_key("store")
    }
}

/// A proposal or an image that no store takes: our bug, or a damaged backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not exactly one revision on.
    #[error("the document does not have the revision after the expected one")]
    Revision,
    /// The audit entry tells of another revision.
    #[error("the audit entry is not about this revision")]
    Audit,
    /// The identity of a pool never changes.
    #[error("the document has another pool_id")]
    PoolId,
    /// Nodes fence on the generation.
    #[error("the generation falls")]
    Generation,
    /// An epoch is used once.
    #[error("next_epoch falls, or is not above every epoch that is held")]
    NextEpoch,
    /// More keys than slots, or one epoch twice.
    #[error("the document holds more keys than there are slots, or one epoch twice")]
    Slots,
    /// Neither stored nor given.
    #[error("the bytes of the key of epoch {epoch} are missing")]
    KeyMissing {
        /// Whose.
        epoch: Epoch,
    },
    /// The given bytes have another fingerprint than the document says.
    #[error("the bytes of the key of epoch {epoch} have another fingerprint")]
    KeyDiffers {
        /// Whose.
        epoch: Epoch,
    },
    /// The version of a record must rise.
    #[error("the version of the record of {node} does not rise")]
    RecordVersion {
        /// Whose.
        node: NodeId,
    },
    /// A commit changes a record once.
    #[error("the record of {node} is changed twice in one commit")]
    RecordTwice {
        /// Whose.
        node: NodeId,
    },
    /// See [`RECORDS_MAX`](crate::RECORDS_MAX).
    #[error("more than {} records in one call", RECORDS_MAX)]
    TooManyRecords,
    /// Larger than a store can count.
    #[error("a number is above 2^63 - 1")]
    TooLarge,
}

/// Nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else committed first.
    #[error("the pool is at revision {stored}, and revision {expected} was expected")]
    Conflict {
        /// What the proposal was made for.
        expected: Revision,
        /// What is stored.
        stored: Revision,
    },
    /// Somebody else wrote this record first.
    #[error("the record of {node} was changed by somebody else")]
    RecordConflict {
        /// Whose.
        node: NodeId,
    },
    /// No such pool.
    #[error("there is no pool {pool}")]
    NoPool {
        /// The name.
        pool: PoolName,
    },
    /// The pool is there already.
    #[error("there is a pool {pool} already")]
    PoolExists {
        /// The name.
        pool: PoolName,
    },
    /// See [`Refusal`].
    #[error("the store refuses the change")]
    Refused(#[from] Refusal),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}
