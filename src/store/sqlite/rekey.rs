//! Another key-encryption key in the place of the present one, in one transaction, also beside a coordinator that serves
//! the database: it must have both keys.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};

use super::file::DatabaseFile;
use super::lock::FileLock;
use super::rows::Rows;
use super::{SqliteStore, empty_wal, open};
use crate::contract::{Erasure, Rekeyed};
use crate::error::{CommitError, StoreError};
use tfo_crypto::seal::{KeyEncryptionKey, KeyEncryptionKeys};

/// How often the WAL is emptied, if a reader is in the way: each try waits for half a second.
const ERASE_TRIES: usize = 10;

impl SqliteStore {
    /// Seals all keys with the next of these keys, which is that of the store from then on.  Done before, it does nothing.
    ///
    /// # Errors
    /// Fails, without a change, as [`Self::open`]; with [`StoreError::NotPrepared`] if a coordinator serves the store that does
    /// not have the next key.
    pub fn rekey(path: &Path, keys: &KeyEncryptionKeys) -> Result<Rekeyed, StoreError> {
        let Some(next) = keys.next() else { return Err(StoreError::WrongKey { place: path.display().to_string() }) };
        // Refuses what is not there, not ours, or of another schema.
        let (place, looked) = open::beside(path, keys)?;
        drop(looked);
        let _lock = match FileLock::take(&place) {
            Ok(lock) => Some(lock),
            Err(StoreError::InUse { place: file, holder }) => {
                if !FileLock::keys_of_holder(&place).iter().any(|name| name == next.id().as_str()) {
                    return Err(StoreError::NotPrepared {
                        place: file,
                        who: format!("the coordinator that serves it ({holder})"),
                    });
                }
                None
            }
            Err(error) => return Err(error),
        };
        let mut connection = open::writer(&place, keys)?;
        let (pools, changed) = seal_again(&place, &mut connection, keys, next)?;
        let mut erasure = Erasure::Waiting;
        for _ in 0..ERASE_TRIES {
            erasure = empty_wal(&place, &connection)?;
            if erasure == Erasure::Done {
                break;
            }
        }
        Ok(Rekeyed { pools, keys: changed, erasure })
    }
}

/// One transaction; gives the number of pools, and of keys that were sealed again.
fn seal_again(
    place: &DatabaseFile,
    connection: &mut Connection,
    keys: &KeyEncryptionKeys,
    next: &KeyEncryptionKey,
) -> Result<(usize, usize), StoreError> {
    let failed = place.sql("write");
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    let rows = Rows { connection: &transaction, place };
    let (pools, mut changed) = (rows.pools()?, 0);
    for name in &pools {
        let row = rows.pool(name)?.ok_or_else(|| place.damaged(format!("pool {name} has a name but no row")))?;
        let (pool_id, mut slots) = (rows.document(&row)?.pool_id, rows.slots(&row)?);
        changed += slots.seal_again(|epoch, sealed| {
            if next.open(&pool_id, epoch, sealed).is_ok() {
                return Ok(None);
            }
            let damaged = || place.damaged(format!("the key of epoch {epoch} of pool {name} does not open"));
            let key = keys.open(&pool_id, epoch, sealed).map_err(|_| damaged())?;
            next.seal(&pool_id, epoch, &key).map(Some).map_err(|error| no_randomness(place, error))
        })?;
        rows.put_slots(&row, &slots).map_err(|error| match error {
            CommitError::Store(error) => error,
            other => StoreError::Failed { step: "write", place: place.text(), source: other.into() },
        })?;
    }
    if rows.sealer(keys)?.id() != next.id() {
        let store_id = rows.mark()?.store_id;
        let check = next.seal_check(&store_id).map_err(|error| no_randomness(place, error))?;
        transaction.execute("UPDATE meta SET key_check = ?1", params![check.as_bytes()]).map_err(&failed)?;
    }
    transaction.commit().map_err(place.sql("commit to"))?;
    Ok((pools.len(), changed))
}

fn no_randomness(place: &DatabaseFile, error: tfo_crypto::random::NoRandomness) -> StoreError {
    StoreError::Failed { step: "seal a key for", place: place.text(), source: error.into() }
}
