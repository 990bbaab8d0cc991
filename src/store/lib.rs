//! Where pools are kept: the [`Store`] trait and its kinds, [`MemoryStore`], [`SqliteStore`] and [`EtcdStore`].
//!
//! Invariants that the conformance suite (`tests/store`) holds against every kind:
//! * An acknowledged change survives the process; a failed call changed nothing, or the next read shows its outcome
//!   ([`StoreError::outcome_is_open`]).
//! * A commit is one transaction: document, exclusions, audit entry, fresh keys and erased keys, or nothing of it.
//! * The audit log is a chain ([`ChainHead`]), and only its oldest entries go, when there are too many.
//! * Each coordinator writes its own roster, and nothing else of a node but exclusions.
//! * A read is one consistent snapshot, and no older than the last acknowledged write (rules 5 and 7).
//! * Keys of epochs that are in no slot are gone from the store's present state, and from its medium if it can
//!   ([`Erasure`]).
//!
//! Every call blocks (a commit for an fsync or two): call it from a blocking thread.  Must not know: the engine's
//! decisions, the network, its callers.

mod chain;
mod check;
mod contract;
pub mod enrolment;
pub mod error;
pub mod etcd;
mod journal;
mod limits;
pub mod memory;
mod slots;
pub mod sqlite;

pub use chain::{ChainHead, ChainPart, ChainRow};
pub use contract::{Erasure, Head, News, PoolImage, PoolState, ReadStore, Rekeyed, Store, Trail};
pub use enrolment::{Enrolments, ReadEnrolments, ReadWhole};
pub use error::{CommitError, Refusal, StoreError};
pub use etcd::{ETCD_SCHEMA, EtcdReader, EtcdSettings, EtcdStore, EtcdUser, Patience};
pub use limits::{AUDIT_KEPT, AUDIT_READ_MAX, PARTS_MAX};
pub use memory::MemoryStore;
pub use sqlite::{SqliteReader, SqliteStore};
