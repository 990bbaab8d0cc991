//! Reading a database through one connection that can only read: the store's own beside its writer, and that of a
//! command (`check`, `export`) beside a coordinator or without one.
//!
//! Takes no lock and delays no commit: each read is one snapshot of the last commit (sqlite.org/wal.html), and only
//! the erasure of a dropped key is put off until the read is over.  Opening needs the rights of the coordinator's user,
//! because SQLite rebuilds the index of a WAL that a killed coordinator left behind.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::file::DatabaseFile;
use super::open;
use super::rows::{PoolRow, Rows};
use crate::contract::{Head, PoolState, ReadStore, Trail};
use crate::error::StoreError;
use tfo_crypto::fingerprint::fingerprint;
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing};
use tfo_engine::rollout::parts::PoolContent;
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;

/// A database that is open for reading, and the key that opens its keys.  It has no way to write.
#[derive(Debug)]
pub struct SqliteReader {
    pub(super) place: DatabaseFile,
    pub(super) key: KeyEncryptionKey,
    connection: Mutex<Connection>,
}

impl SqliteReader {
    /// Opens an existing database, and reads and checks all of it.
    ///
    /// # Errors
    /// Fails if there is none, if it is not ours or of another release's schema, if `key` is not its key-encryption
    /// key, or if anything in it is damaged.
    pub fn open(path: &Path, key: KeyEncryptionKey) -> Result<Self, StoreError> {
        let (place, connection) = open::beside(path, &key)?;
        Self::of(connection, place, key)
    }

    /// Reads and checks all of an open database.
    pub(super) fn of(connection: Connection, place: DatabaseFile, key: KeyEncryptionKey) -> Result<Self, StoreError> {
        let reader = Self { place, key, connection: Mutex::new(connection) };
        reader.check_all()?;
        Ok(reader)
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
        let slots = rows.slots(pool)?;
        let held = document.keys_held();
        let mut keys = KeyRing::default();
        for (epoch, sealed) in slots.keys() {
            let damaged =
                |what: &str| self.place.damaged(format!("the key of epoch {epoch} of pool {} {what}", pool.name));
            let name = held.iter().find(|key| key.epoch == epoch).ok_or_else(|| damaged("is in no slot"))?;
            let key = self.key.open(&document.pool_id, epoch, &sealed).map_err(|_| damaged("does not open"))?;
            if fingerprint(&key) != name.fingerprint {
                return Err(damaged("has another fingerprint"));
            }
            keys.insert(epoch, key);
        }
        if keys.epochs().count() == held.len() {
            Ok(keys)
        } else {
            Err(self.place.damaged(format!("a key of pool {} is missing", pool.name)))
        }
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

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.reading(|rows| rows.pool(pool)?.map_or(Ok(Vec::new()), |row| rows.audit(&row, after)))
    }
}

/// A panic inside a transaction rolled it back, so a poisoned connection is as good as any.
pub(super) fn locked(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
