//! Reading a database through one connection that can only read: the store's own beside its writer, and that of a
//! command (`check`, `export`) beside a coordinator or without one.
//!
//! Takes no lock and delays no commit: each read is one snapshot of the last commit (sqlite.org/wal.html), and only
//! the erasure of a dropped key is put off until the read is over.  Opening needs the rights of the coordinator's user,
//! because SQLite rebuilds the index of a WAL that a killed coordinator left behind.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::Connection;

use super::file::DatabaseFile;
use super::open;
use super::rows::{PoolRow, Rows};
use crate::chain::ChainPart;
use crate::contract::{Head, PoolState, ReadStore, Trail};
use crate::error::StoreError;
use tfo_crypto::seal::{KekId, KeyEncryptionKeys};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing};
use tfo_engine::rollout::parts::PoolContent;
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;

/// A database that is open for reading, and what opens its keys.  It has no way to write.
#[derive(Debug)]
pub struct SqliteReader {
    pub(super) place: DatabaseFile,
    keys: RwLock<KeyEncryptionKeys>,
    connection: Mutex<Connection>,
}

impl SqliteReader {
    /// Opens an existing database, and reads and checks all of it.
    ///
    /// # Errors
    /// Fails if there is none, if it is not ours or of another release's schema, if none of `keys` is its key-encryption
    /// key, or if anything in it is damaged.
    pub fn open(path: &Path, keys: impl Into<KeyEncryptionKeys>) -> Result<Self, StoreError> {
        let keys = keys.into();
        let (place, connection) = open::beside(path, &keys)?;
        Self::of(connection, place, keys)
    }

    /// Reads and checks all of an open database.
    pub(super) fn of(connection: Connection, place: DatabaseFile, keys: KeyEncryptionKeys) -> Result<Self, StoreError> {
        let reader = Self { place, keys: RwLock::new(keys), connection: Mutex::new(connection) };
        reader.check_all()?;
        Ok(reader)
    }

    pub(super) fn keys(&self) -> KeyEncryptionKeys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes other keys, if one of them is that of the database.
    pub(super) fn set_keys(&self, keys: KeyEncryptionKeys) -> Result<(), StoreError> {
        self.reading(|rows| rows.sealer(&keys).map(drop))?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Reads everything, to find all damage now.
    fn check_all(&self) -> Result<(), StoreError> {
        for pool in self.pools()? {
            self.load(&pool)?.ok_or_else(|| self.place.damaged(format!("pool {pool} has a name but no row")))?;
            self.check_audit(&pool)?;
        }
        self.reading(|rows| rows.check_enrolments())
    }

    fn check_audit(&self, pool: &PoolName) -> Result<(), StoreError> {
        let mut after = Revision::ZERO;
        while let Some(last) = self.audit(pool, after)?.last() {
            after = last.revision;
        }
        Ok(())
    }

    /// Runs `read` in one read transaction.
    pub(super) fn reading<T>(&self, read: impl FnOnce(Rows<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let connection = locked(&self.connection);
        let transaction = connection.unchecked_transaction().map_err(self.place.sql("read"))?;
        read(Rows { connection: &transaction, place: &self.place })
        // The transaction ends here; there is nothing to roll back.
    }

    /// The bytes of the keys that the document holds.
    fn open_keys(&self, rows: Rows<'_>, pool: &PoolRow<'_>, document: &Document) -> Result<KeyRing, StoreError> {
        let opened = rows.slots(pool)?.open(&self.keys(), pool.name, document);
        opened.map_err(|what| self.place.damaged(what))
    }
}

impl ReadStore for SqliteReader {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.reading(|rows| rows.pools())
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.reading(|rows| Ok(rows.pool(pool)?.map(|row| row.head)))
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.reading(|rows| {
            let Some(row) = rows.pool(pool)? else { return Ok(None) };
            let document = rows.document(&row)?;
            let keys = self.open_keys(rows, &row, &document)?;
            let content = PoolContent::new(document, rows.parts(&row)?);
            Ok(Some(PoolState { head: row.head, content, keys, trail: Trail::default() }))
        })
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.reading(|rows| {
            let Some(row) = rows.pool(pool)? else { return Ok(None) };
            let document = rows.document(&row)?;
            let keys = self.open_keys(rows, &row, &document)?;
            Ok(Some((document, keys)))
        })
    }

    fn sealed_by(&self) -> Result<Option<KekId>, StoreError> {
        let keys = self.keys();
        self.reading(|rows| Ok(Some(rows.sealer(&keys)?.id().clone())))
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.reading(|rows| rows.pool(pool)?.map_or(Ok(Vec::new()), |row| rows.audit(&row, after)))
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        self.reading(|rows| {
            let Some(row) = rows.pool(pool)? else { return Ok(None) };
            let pool_id = rows.document(&row)?.pool_id;
            Ok(Some(ChainPart { pool_id, end: rows.log_end(&row)?, rows: rows.chain(&row, after)? }))
        })
    }
}

/// A panic inside a transaction rolled it back, so a poisoned connection is as good as any.
pub(super) fn locked(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
