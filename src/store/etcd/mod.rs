//! The store in an etcd cluster, for several coordinators: any of them, and any minority of the members, may die, hang or come
//! back at any moment.
//!
//! Invariants: every read and every decision is that of a majority of the members; a commit is one transaction that compares
//! the document and its writer's last beat; each coordinator writes under its own name, and nothing else but commits; a
//! transaction whose outcome is open has taken effect when a later beat of its writer is written, or never will.  Keys lie
//! sealed, and the key-encryption key is never sent.
//!
//! What erasing means here: a key that left its slots is gone from the present revision.  Sealed copies stay in etcd's own
//! history, log and snapshots until it compacts and defragments, and in backups of etcd for as long as those are kept.  They
//! open with the key-encryption key alone, and make cookies that every node rejects.
//!
//! Must not know: the engine's decisions, HTTP of coordinators, its callers.

mod auth;
mod chunk;
mod client;
mod commit;
mod create;
mod enrolment;
mod examine;
mod failure;
mod keys;
mod name;
mod open;
mod reader;
mod rekey;
mod roster;
mod schema;
mod value;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub use self::auth::EtcdUser;
pub use self::client::{EtcdSettings, Patience};
use self::name::HeldName;
pub use self::reader::EtcdReader;
use self::roster::Own;
pub use self::schema::ETCD_SCHEMA;
use self::watch::Watch;
pub use self::watch::WatchCounts;
use crate::chain::ChainPart;
use crate::contract::{Erasure, Head, News, PoolImage, PoolState, ReadStore, Store};
use crate::error::{CommitError, StoreError};
use tfo_crypto::seal::{KekId, KeyEncryptionKeys};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal};
use tfo_engine::rollout::parts::{Stamp, Writer, Writes};
use tfo_model::count::Revision;
use tfo_model::ids::{CoordinatorName, PoolName};
use tfo_model::time::UnixTime;

/// Pools of a cluster.
#[derive(Debug)]
pub struct EtcdStore {
    // Before the reader, which has the runtime that it runs on.
    watch: Watch,
    /// Where the rosters that this process writes end.
    own: Mutex<BTreeMap<(PoolName, CoordinatorName), Own>>,
    /// The name of this process; none for a command.
    name: Mutex<Option<HeldName>>,
    reader: EtcdReader,
}

impl EtcdStore {
    /// Connects to a cluster; makes the store if there is nothing under the prefix.
    ///
    /// # Errors
    /// As [`EtcdReader::open`], and if the store cannot be made.
    pub fn open(settings: EtcdSettings, keks: impl Into<KeyEncryptionKeys>) -> Result<Self, StoreError> {
        let mut reader = EtcdReader::connect(settings, keks.into())?;
        if !reader.take_meta()? {
            reader.make_meta()?;
            if !reader.take_meta()? {
                return Err(StoreError::Gone { place: reader.place });
            }
        }
        let watch = Watch::default();
        Ok(Self { watch, own: Mutex::default(), name: Mutex::default(), reader })
    }

    /// Takes a coordinator's name for this process, until it ends.  `lock` is a file on this host: a process that has it
    /// knows that an earlier one of this host is dead.
    ///
    /// If the last process of this name may still be alive elsewhere, this waits for some beats.  The schema of the store is
    /// raised if this process is the last one that it has waited for.
    ///
    /// # Errors
    /// Fails with [`StoreError::InUse`] if it is, and if the store or the file cannot be used.
    pub fn take_name(&self, name: &CoordinatorName, lock: &Path, now: UnixTime) -> Result<(), StoreError> {
        *locked(&self.name) = Some(HeldName::take(&self.reader, name, lock)?);
        self.reader.raise_schema(now)
    }

    /// What has happened to the stream of changes.
    #[must_use]
    pub fn watched(&self) -> WatchCounts {
        self.watch.counts()
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        if let Some(name) = locked(&self.name).take() {
            name.release(&self.reader);
        }
    }
}

impl ReadStore for EtcdStore {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.reader.pools()
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.reader.head(pool)
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.reader.load(pool)
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.reader.document(pool)
    }

    fn sealed_by(&self) -> Result<Option<KekId>, StoreError> {
        self.reader.sealed_by()
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.reader.audit(pool, after)
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        self.reader.chain(pool, after)
    }
}

impl Store for EtcdStore {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        self.create_pool(pool, image)
    }

    fn commit(
        &self,
        pool: &PoolName,
        by: &Writer,
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        self.commit_proposal((pool, by), proposal, keys)
    }

    fn write(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError> {
        self.write_roster(pool, by, writes)
    }

    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        let news = self.reader.follow(pool, copy)?;
        self.watch.expect(copy.trail.document);
        Ok(news)
    }

    fn tell(&self, pool: &PoolName, told: Box<dyn Fn() + Send + Sync>) {
        self.watch.tell(&self.reader, pool, told);
    }

    fn set_keys(&self, keys: KeyEncryptionKeys) -> Result<(), StoreError> {
        self.reader.take_kek(keys)?;
        if let Some(name) = locked(&self.name).as_mut() {
            name.tell_keys(&self.reader)?;
        }
        Ok(())
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        Ok(Erasure::History)
    }
}

/// What a transaction compares of its writer.
fn fence(keys: &keys::PoolKeys, by: &CoordinatorName, last: Option<Stamp>) -> wire::Compare {
    let key = keys.stamp(by);
    last.map_or_else(|| wire::Compare::is_absent(&key), |last| wire::Compare::is(&key, &value::print(&key, &last)))
}

/// A random number, for `p/POOL/at`.
fn mark() -> Result<u64, StoreError> {
    tfo_crypto::random::fresh_u64().map_err(|error| StoreError::Failed {
        step: "draw a number for",
        place: "etcd".to_owned(),
        source: error.into(),
    })
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change is made in one step, so a panic leaves no half of one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
