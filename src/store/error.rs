//! The errors of a store, with the place and a remedy for the operator.

use super::limits::PARTS_MAX;
use tfo_engine::rollout::parts::Stamp;
use tfo_model::count::{Epoch, Revision};
use tfo_model::ids::{CoordinatorName, PoolName};
use tfo_model::problem::{Problem, chain};

/// The cause below an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The store cannot be used, or not for this.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process serves this store.
    #[error("{place} is in use by another process: {holder}")]
    InUse {
        /// File or address of the store.
        place: String,
        /// The holder's note about itself.
        holder: String,
    },
    /// The file has several names, each of which would have a lock of its own.
    #[error("{place} has {links} names (hard links)")]
    Linked {
        /// File of the store.
        place: String,
        /// Number of its names.
        links: u64,
    },
    /// A file of the store was removed or replaced while it was in use.
    #[error("{place} was removed or replaced while this coordinator had it open")]
    Gone {
        /// The file.
        place: String,
    },
    /// The schema is of a later release.
    #[error("{place} was written by a newer release: it has schema {found}, and this release supports up to {known}")]
    Newer {
        /// File or address of the store.
        place: String,
        /// The stored schema.
        found: i64,
        /// The latest schema that this release supports.
        known: i64,
    },
    /// The file is of a build before the first release.
    #[error("{place} was written by a build before the first release; this one cannot read it")]
    Older {
        /// File of the store.
        place: String,
    },
    /// The keys were sealed with another key-encryption key.
    #[error("the keys in {place} are sealed with another key-encryption key")]
    WrongKey {
        /// File or address of the store.
        place: String,
    },
    /// The file is not a store of tfo-coordinator.
    #[error("{place} is not a store of tfo-coordinator: {what}")]
    Foreign {
        /// File or address of the store.
        place: String,
        /// What shows it.
        what: String,
    },
    /// The content contradicts itself.
    #[error("{place} is damaged: {what}")]
    Damaged {
        /// File or address of the store.
        place: String,
        /// What does not fit.
        what: String,
    },
    /// No room for the change.
    #[error("no space is left for {place}")]
    Full {
        /// File or address of the store.
        place: String,
        /// The error of the system or of SQLite.
        source: Cause,
    },
    /// Read-only, or no permission.
    #[error("{place} cannot be written")]
    Unwritable {
        /// File or address of the store.
        place: String,
        /// The error of the system or of SQLite.
        source: Cause,
    },
    /// Another program has held a lock for too long.
    #[error("{place} is locked by another program")]
    Busy {
        /// File or address of the store.
        place: String,
        /// The error of the system or of SQLite.
        source: Cause,
    },
    /// No member of a cluster answers; nothing was changed.
    #[error("{place} cannot be reached")]
    Unreachable {
        /// Addresses of the store.
        place: String,
        /// The last failure.
        source: Cause,
    },
    /// The engine refuses our requests; nothing was changed.
    #[error("{place} refuses this coordinator")]
    Rejected {
        /// Addresses of the store.
        place: String,
        /// What it says.
        source: Cause,
    },
    /// The database of a cluster is over its quota; nothing was changed.
    #[error("the database of {place} is full")]
    Quota {
        /// Addresses of the store.
        place: String,
        /// What it says.
        source: Cause,
    },
    /// Coordinators that write into this store do not have the next key-encryption key.
    #[error("{who} would not open {place} any more: no key-encryption key to come is known there")]
    NotPrepared {
        /// File or addresses of the store.
        place: String,
        /// The coordinators.
        who: String,
    },
    /// Any other failure.
    #[error("cannot {step} {place}")]
    Failed {
        /// What was tried.
        step: &'static str,
        /// File or address of the store.
        place: String,
        /// The error of the system or of SQLite.
        source: Cause,
    },
}

impl StoreError {
    /// Whether only the next read shows if the change took effect: an I/O error may come after the last write.
    ///
    /// All other errors leave the store unchanged.
    #[must_use]
    pub fn outcome_is_open(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Stable name in snake case.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "store_in_use",
            Self::Linked { .. } => "store_linked",
            Self::Gone { .. } => "store_gone",
            Self::Newer { .. } => "store_newer",
            Self::Older { .. } => "store_older",
            Self::WrongKey { .. } => "store_wrong_key",
            Self::Foreign { .. } => "store_foreign",
            Self::Damaged { .. } => "store_damaged",
            Self::Full { .. } => "store_full",
            Self::Unwritable { .. } => "store_unwritable",
            Self::Busy { .. } => "store_busy",
            Self::Unreachable { .. } => "store_unreachable",
            Self::Rejected { .. } => "store_rejects",
            Self::Quota { .. } => "store_quota",
            Self::NotPrepared { .. } => "store_not_prepared",
            Self::Failed { .. } => "store_failed",
        }
    }

    /// What the operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::InUse { .. } => {
                "stop the other process: only one coordinator may serve a file, or write under one name; give each a store.name of \
                 its own"
            }
            Self::Linked { .. } => {
                "remove its other names: `find / -xdev -samefile FILE` lists them; make backups with `tfo-coordinator export`"
            }
            Self::Gone { .. } => {
                "nodes keep their keys, and nothing is written; move the same file back, or copy what the process still has \
                 open (/proc/PID/fd) and restart the coordinator; without it `tfo-coordinator import` the latest backup"
            }
            Self::Newer { .. } => "install the newer release again, or restore a backup that this release made",
            Self::Older { .. } => {
                "move the file and those beside it away, start with a new one, and `tfoctl import-keys` what the nodes hold: no \
                 client notices"
            }
            Self::WrongKey { .. } => {
                "set store.key_encryption_key to the key that this store was made with; nothing was changed"
            }
            Self::Foreign { .. } => {
                "set store.path (store.prefix) to the coordinator's own, or to one that does not exist yet; if it is right, move \
                 it away and `tfo-coordinator import` the latest backup"
            }
            Self::Damaged { .. } => {
                "move the file and those beside it away and keep them, `tfo-coordinator import` the latest backup, then \
                 `tfoctl recover`; without a backup create the pool again and import the nodes' present keys"
            }
            Self::Full { .. } => {
                "free space on its file system; nothing was changed, and the coordinator continues by itself"
            }
            Self::Unwritable { .. } => {
                "give the coordinator's user write access to the file and its directory, on a file system that is \
                 mounted read-write"
            }
            Self::Busy { .. } => "stop the other program that has the file open, such as a sqlite3 shell",
            Self::Unreachable { .. } => {
                "nodes keep their keys; check store.urls, store.ca and the network: most members of the cluster must answer"
            }
            Self::Rejected { .. } => {
                "check store.user, store.password and the role of that user (readwrite on store.prefix), that the certificate of store.cert has no common name if etcd has users, and the release of etcd"
            }
            Self::Quota { .. } => {
                "nodes keep their keys; free space (`etcdctl compact`, `etcdctl defrag`, then `etcdctl alarm disarm`) or raise \
                 --quota-backend-bytes; the coordinator continues by itself"
            }
            Self::NotPrepared { .. } => {
                "set store.key_encryption_key_next there to the same key, and reload it (a credential needs a restart), then ask again; \
                 nothing was changed"
            }
            Self::Failed { .. } => "check the cause and the log of the kernel or of etcd; a disk may be failing",
        }
    }

    /// The error with its causes and remedy, as every output shows it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::error(self.kind(), chain(self), self.remedy()).at_key("store")
    }
}

/// The pool vanished from the store while a coordinator served it.
pub(crate) fn gone(pool: &PoolName) -> StoreError {
    let source = Cause::from("it was removed while the coordinator ran");
    StoreError::Failed { step: "find", place: format!("pool {pool}"), source }
}

/// A proposal or an image breaks a rule of every store: a bug, or a damaged backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The revision is not the next one.
    #[error("the document does not have the revision after the expected one")]
    Revision,
    /// The audit entry names another revision.
    #[error("the audit entry is not about this revision")]
    Audit,
    /// The identity of a pool never changes.
    #[error("the document has another pool_id")]
    PoolId,
    /// Nodes fence on the generation.
    #[error("the generation is lower than the stored one")]
    Generation,
    /// An epoch is used once.
    #[error("next_epoch is lower than the stored one, or not above every epoch in use")]
    NextEpoch,
    /// More keys than slots, or one epoch twice.
    #[error("the document holds more keys than there are slots, or one epoch twice")]
    Slots,
    /// The bytes of a key are neither stored nor given.
    #[error("the bytes of the key of epoch {epoch} are missing")]
    KeyMissing {
        /// Epoch of the key.
        epoch: Epoch,
    },
    /// The given bytes do not have the fingerprint in the document.
    #[error("the bytes of the key of epoch {epoch} have another fingerprint")]
    KeyDiffers {
        /// Epoch of the key.
        epoch: Epoch,
    },
    /// An exclusion is made by the revision that it is committed with.
    #[error("an exclusion names another revision")]
    Exclusion,
    /// See [`PARTS_MAX`].
    #[error("more than {} parts in one call", PARTS_MAX)]
    TooManyParts,
    /// A number is too large to be stored.
    #[error("a number is above 2^63 - 1")]
    TooLarge,
}

/// Nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another writer committed first.
    #[error("the pool is at revision {stored}, and revision {expected} was expected")]
    Conflict {
        /// The revision that the proposal was made from.
        expected: Revision,
        /// The stored revision.
        stored: Revision,
    },
    /// The writer's last beat is not the one that it names (docs/protocol.md#rule-18).
    #[error("the last beat of coordinator {name} is another one than this process wrote")]
    Fenced {
        /// Name of the writer.
        name: CoordinatorName,
        /// Its last beat that is stored.
        stored: Option<Stamp>,
    },
    /// The pool does not exist.
    #[error("pool {pool} does not exist")]
    NoPool {
        /// Name of the pool.
        pool: PoolName,
    },
    /// The pool already exists.
    #[error("pool {pool} already exists")]
    PoolExists {
        /// Name of the pool.
        pool: PoolName,
    },
    /// See [`Refusal`].
    #[error("the store refuses the change")]
    Refused(#[from] Refusal),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}
