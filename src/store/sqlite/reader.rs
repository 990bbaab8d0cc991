//! A database that is only read: beside the coordinator that serves it, or without one (`check`, `export`).
//!
//! Takes no lock and is in nobody's way: each read is one snapshot of the last commit (sqlite.org/wal.html), a commit
//! does not wait for it, and only the erasure of a dropped key is put off until the read is over.  Whoever opens it
//! needs the rights of the coordinator's user, because a WAL that a killed coordinator left behind is indexed anew.

use std::path::Path;

use super::open;
use super::reading::Reading;
use crate::{CommitError, Erasure, Head, Hub, PoolImage, PoolState, RecordOutcome, Store, StoreError};
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal};
use tfo_engine::rollout::record::{NodeRecord, RecordChange};
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};

/// A database that is open for reading.  As a [`Store`] it refuses every write, and its hub tells nothing: a watch
/// looks by itself.
#[derive(Debug)]
pub struct SqliteReader {
    reading: Reading,
    hub: Hub,
}

impl SqliteReader {
    /// Opens a database that is there, and reads and checks all of it.
    ///
    /// # Errors
    /// Fails if there is none, if it is not ours or of another release's schema, if `key` is not its key-encryption
    /// key, or if anything in it is damaged.
    pub fn open(path: &Path, key: KeyEncryptionKey) -> Result<Self, StoreError> {
        let (place, connection) = open::beside(path, &key)?;
        let reader = Self { reading: Reading::new(connection, place, key), hub: Hub::default() };
        reader.reading.check_all()?;
        Ok(reader)
    }

    fn refused(&self) -> StoreError {
        let source = "it is open for reading only".into();
        StoreError::Unwritable { place: self.reading.place.text(), source }
    }
}

impl Store for SqliteReader {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.reading.pools()
    }

    fn create(&self, _pool: &PoolName, _image: &PoolImage<'_>) -> Result<(), CommitError> {
        Err(self.refused().into())
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.reading.head(pool)
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.reading.load(pool)
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.reading.document(pool)
    }

    fn record(&self, pool: &PoolName, node: &NodeId) -> Result<Option<NodeRecord>, StoreError> {
        self.reading.record(pool, node)
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.reading.audit(pool, after)
    }

    fn commit(&self, _pool: &PoolName, _proposal: &Proposal, _keys: &KeyRing) -> Result<Erasure, CommitError> {
        Err(self.refused().into())
    }

    fn write_records(&self, _pool: &PoolName, _changes: &[RecordChange]) -> Result<Vec<RecordOutcome>, CommitError> {
        Err(self.refused().into())
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        Ok(Erasure::Done)
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }
}
