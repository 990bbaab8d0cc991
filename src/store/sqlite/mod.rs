//! The embedded store: one SQLite file in WAL mode for one coordinator process.
//!
//! Invariants: locks keep a second coordinator away for the life of this value, under any name of the file; files that
//! were removed or replaced are neither read nor written; one connection writes, and syncs each commit before it returns;
//! another reads from snapshots, so that reads do not wait for a sync.  Keys lie sealed in rows of constant length
//! (`schema.rs`); a commit that drops one overwrites it, and then empties the WAL, which holds older pages.
//!
//! The mark in the lock file reveals a WAL that was removed or cut, and an older copy of the file; both are opened with a
//! warning ([`SqliteStore::set_back`]): the fleet is safe by rule 10, but the operators' later commands are lost.
//!
//! Known limits: that stays unnoticed if the lock file went too, or after a power cut; blocks that the file system has
//! freed are out of reach; flock(2) and SQLite's WAL need a local file system.

mod enrolment;
mod file;
mod lock;
mod open;
mod reader;
mod rekey;
mod rows;
mod schema;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use self::file::DatabaseFile;
use self::lock::{FileLock, Mark};
pub use self::reader::SqliteReader;
use self::reader::locked;
use self::rows::{Part, PoolRow, Rows};
use crate::chain::{ChainHead, ChainPart};
use crate::check::{self, KeyPlan};
use crate::contract::{Erasure, Head, News, PoolImage, PoolState, ReadStore, Store};
use crate::error::{CommitError, Refusal, StoreError, gone};
use crate::journal::{Change, Journal};
use crate::limits::{AUDIT_KEPT, PARTS_MAX};
use tfo_crypto::seal::{KekId, KeyEncryptionKeys};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal};
use tfo_engine::rollout::parts::{Writer, Writes};
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;

/// How long emptying the WAL waits for a reader: enough for our own, which take milliseconds, but not for a backup.
const ERASE_BUSY: Duration = Duration::from_millis(500);

/// An open database.
#[derive(Debug)]
pub struct SqliteStore {
    // Dropped before the writer: the last connection to close empties the WAL, and a reader cannot.
    reader: SqliteReader,
    writer: Mutex<Connection>,
    /// What was written lately, for each pool; changed under the writer's lock.
    journals: Mutex<BTreeMap<PoolName, Journal>>,
    /// Whether erased keys may still lie in the WAL.
    leftovers: AtomicBool,
    set_back: Option<Problem>,
    // Last, so that it is dropped after the connections.
    lock: FileLock,
}

impl SqliteStore {
    /// Opens the database, or creates it (mode 0600) if the file does not exist; its directory must.
    ///
    /// # Errors
    /// Fails, without a change to the content, if another process serves it, if it is not ours or of a newer release, if
    /// none of `keys` is the key-encryption key that seals in it, if it cannot be written, or if anything in it is
    /// damaged: all of it is read and checked here.
    pub fn open(path: &Path, keys: impl Into<KeyEncryptionKeys>) -> Result<Self, StoreError> {
        let (place, keys) = (open::resolve(path)?, keys.into());
        let mut lock = FileLock::take(&place)?;
        if !open::is_there(&place)? {
            open::make(&place, &keys)?;
        }
        lock.hold(&place)?;
        let writer = open::writer(&place, &keys)?;
        let reader = SqliteReader::of(open::reader(&place)?, place, keys)?;
        let mark = reader.reading(|rows| rows.mark())?;
        lock.watch(reader.place.beside("-wal"));
        let set_back = lock.found.and_then(|found| set_back(&reader.place, found, mark));
        lock.note(mark);
        lock.note_keys(&reader.keys());
        let (writer, journals) = (Mutex::new(writer), Mutex::default());
        let store = Self { reader, writer, journals, leftovers: AtomicBool::new(true), set_back, lock };
        // An earlier run may have been killed between a commit and its erasure.
        if store.erase_leftovers()? == Erasure::Waiting {
            let path = store.reader.place.text();
            tracing::warn!(path, "erased keys are still in the WAL file: another reader has it open");
        }
        Ok(store)
    }

    /// A warning if this database lacks commits of an earlier run; only the first run that finds it so has it.
    #[must_use]
    pub fn set_back(&self) -> Option<&Problem> {
        self.set_back.as_ref()
    }

    fn journals(&self) -> MutexGuard<'_, BTreeMap<PoolName, Journal>> {
        // A change is added in one step, so a panic leaves no half of one.
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a transaction that took effect; the caller still has the writer's lock.
    fn note(&self, pool: &PoolName, before: Head, change: Change, after: Head) {
        self.journals().entry(pool.clone()).or_default().push(before, change, after);
    }

    /// Runs `write` in one write transaction; nothing is left of it unless it returns `Ok`.
    fn writing<T>(
        &self,
        connection: &mut Connection,
        write: impl FnOnce(Rows<'_>) -> Result<T, CommitError>,
    ) -> Result<T, CommitError> {
        self.lock.check()?;
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction: Transaction<'_> = begun.map_err(self.reader.place.sql("write"))?;
        let written = write(Rows { connection: &transaction, place: &self.reader.place })?;
        let mark = Rows { connection: &transaction, place: &self.reader.place }.mark()?;
        transaction.commit().map_err(self.reader.place.sql("commit to"))?;
        // Still under the writer's lock, so that marks rise.
        self.lock.note(mark);
        Ok(written)
    }

    fn apply_keys(
        &self,
        rows: Rows<'_>,
        pool: &PoolRow<'_>,
        document: &Document,
        plan: &KeyPlan<'_>,
    ) -> Result<(), CommitError> {
        if plan.add.is_empty() && !plan.erases {
            return Ok(());
        }
        let keys = self.reader.keys();
        // In this transaction: one that is being replaced seals nothing any more.
        let (sealer, mut slots) = (rows.sealer(&keys)?, rows.slots(pool)?);
        slots.keep_only(&plan.keep);
        for (epoch, key) in &plan.add {
            let sealed = sealer.seal(&document.pool_id, *epoch, key).map_err(|error| StoreError::Failed {
                step: "seal a key for",
                place: self.reader.place.text(),
                source: error.into(),
            })?;
            slots.add(*epoch, &sealed);
        }
        rows.put_slots(pool, &slots)
    }

    /// Whether keys are erased, and the positions before and after.
    fn apply(
        &self,
        rows: Rows<'_>,
        (pool, by): (&PoolName, &Writer),
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<(bool, Head, Head), CommitError> {
        let mut row = rows.pool(pool)?.ok_or_else(|| CommitError::NoPool { pool: pool.clone() })?;
        check::fence(by, rows.beat(&row, &by.name)?.map(|beat| beat.stamp))?;
        if row.head.revision != proposal.expected {
            return Err(CommitError::Conflict { expected: proposal.expected, stored: row.head.revision });
        }
        let (before, stored) = (row.head, rows.document(&row)?);
        let plan = check::plan(&stored, proposal, keys)?;
        for (node, excluded) in &proposal.exclusions {
            rows.put(&mut row, Part::Exclusion, node, excluded)?;
        }
        proposal.dropped.iter().try_for_each(|node| rows.remove(&mut row, Part::Exclusion, node))?;
        row.head.revision = proposal.document.revision;
        row.head.part_writes += u64::from(proposal.changes_parts());
        let written = row.chain.add(&proposal.document, proposal.audit.clone(), AUDIT_KEPT);
        rows.put_pool(&row)?;
        rows.put_document(&row, &proposal.document)?;
        rows.put_audit(&row, &written)?;
        self.apply_keys(rows, &row, &proposal.document, &plan)?;
        Ok((plan.erases, before, row.head))
    }

    fn empty_wal(&self, connection: &Connection) -> Result<Erasure, StoreError> {
        let erasure = empty_wal(&self.reader.place, connection)?;
        self.leftovers.store(erasure == Erasure::Waiting, Ordering::Release);
        Ok(erasure)
    }
}

impl ReadStore for SqliteStore {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.reader.pools()
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        // Every decision begins with this look.
        self.lock.check()?;
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

impl Store for SqliteStore {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        let document = &image.content.snapshot().document;
        let plan = check::plan_first(document, image.keys, image.audit)?;
        self.writing(&mut locked(&self.writer), |rows| {
            if rows.pool(pool)?.is_some() {
                return Err(CommitError::PoolExists { pool: pool.clone() });
            }
            let chain = ChainHead::after(&document.pool_id, image.audit);
            let mut row = rows.add_pool(pool, document.revision, chain)?;
            let parts = image.content.parts();
            for (by, roster) in &parts.rosters {
                for (node, entry) in &roster.entries {
                    rows.put(&mut row, Part::Entry(by), node, entry)?;
                }
                for (node, later) in &roster.acks {
                    rows.put(&mut row, Part::Ack(by), node, later)?;
                }
                if let Some(beat) = &roster.beat {
                    rows.put_beat(&mut row, by, beat)?;
                }
            }
            for (node, excluded) in &parts.exclusions {
                rows.put(&mut row, Part::Exclusion, node, excluded)?;
            }
            rows.put_pool(&row)?;
            rows.put_document(&row, document)?;
            image.audit.iter().try_for_each(|written| rows.put_audit(&row, written))?;
            self.apply_keys(rows, &row, document, &plan)
        })
    }

    fn commit(
        &self,
        pool: &PoolName,
        by: &Writer,
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        let mut writer = locked(&self.writer);
        let (erases, before, after) = self.writing(&mut writer, |rows| self.apply(rows, (pool, by), proposal, keys))?;
        self.note(pool, before, Change::Committed(Arc::new(proposal.clone())), after);
        if !erases {
            return Ok(Erasure::Done);
        }
        self.leftovers.store(true, Ordering::Release);
        // The commit is durable: a WAL that cannot be emptied now is tried again, and does not fail the commit.
        Ok(self.empty_wal(&writer).unwrap_or_else(|error| {
            tracing::warn!(%pool, %error, "erased keys are still in the WAL file");
            Erasure::Waiting
        }))
    }

    fn write(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError> {
        if writes.len() > PARTS_MAX {
            return Err(Refusal::TooManyParts.into());
        }
        let mut writer = locked(&self.writer);
        let written = self.writing(&mut writer, |rows| {
            let mut row = rows.pool(pool)?.ok_or_else(|| CommitError::NoPool { pool: pool.clone() })?;
            check::fence(by, rows.beat(&row, &by.name)?.map(|beat| beat.stamp))?;
            let (before, by) = (row.head, &by.name);
            if writes.is_empty() {
                return Ok(None);
            }
            for node in &writes.removed {
                rows.remove(&mut row, Part::Entry(by), node)?;
                rows.remove(&mut row, Part::Ack(by), node)?;
            }
            for (node, entry) in &writes.entries {
                rows.put(&mut row, Part::Entry(by), node, entry)?;
            }
            for (node, later) in &writes.acks {
                rows.put(&mut row, Part::Ack(by), node, later)?;
            }
            if let Some(beat) = &writes.beat {
                rows.put_beat(&mut row, by, beat)?;
            }
            row.head.part_writes += 1;
            rows.put_pool(&row)?;
            Ok(Some((before, row.head)))
        })?;
        if let Some((before, after)) = written {
            self.note(pool, before, Change::Written(Arc::new((by.name.clone(), writes.clone()))), after);
        }
        Ok(())
    }

    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        let head = self.head(pool)?.ok_or_else(|| gone(pool))?;
        if copy.head == head {
            return Ok(News::Same);
        }
        let changes = self.journals().get(pool).and_then(|journal| journal.between(copy.head, head));
        if let Some(changes) = changes {
            // Keys change with documents only.  A commit that came meanwhile is followed next time, with its keys.
            let keys = match copy.head.revision == head.revision {
                true => None,
                false => self.document(pool)?.filter(|(document, _)| document.revision == head.revision),
            };
            if keys.is_some() || copy.head.revision == head.revision {
                changes.iter().for_each(|change| change.apply(&mut copy.content));
                copy.head = head;
                if let Some((_, keys)) = keys {
                    copy.keys = keys;
                }
                return Ok(News::Followed);
            }
        }
        let PoolState { head, content, keys, .. } = self.load(pool)?.ok_or_else(|| gone(pool))?;
        copy.content.read_again(content);
        (copy.head, copy.keys) = (head, keys);
        Ok(News::ReadAgain)
    }

    fn set_keys(&self, keys: KeyEncryptionKeys) -> Result<(), StoreError> {
        self.reader.set_keys(keys)?;
        self.lock.note_keys(&self.reader.keys());
        Ok(())
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        if self.leftovers.load(Ordering::Acquire) { self.empty_wal(&locked(&self.writer)) } else { Ok(Erasure::Done) }
    }
}

/// Copies the WAL into the database, where keys are overwritten in place, and cuts it to nothing.
fn empty_wal(place: &DatabaseFile, connection: &Connection) -> Result<Erasure, StoreError> {
    let failed = place.sql("erase keys from");
    connection.busy_timeout(ERASE_BUSY).map_err(&failed)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(open::BUSY).map_err(&failed)?;
    Ok(if busy.map_err(failed)? == 0 { Erasure::Done } else { Erasure::Waiting })
}

/// The warning for a database that is behind the mark of an earlier run.
fn set_back(place: &DatabaseFile, noted: Mark, now: Mark) -> Option<Problem> {
    let message = if noted.store_id != now.store_id {
        format!("{} is not the database that was served here before", place.text())
    } else if noted.writes > now.writes {
        let lost = noted.writes - now.writes;
        format!(
            "{} lacks the latest {lost} writes: its -wal file was removed or cut, or an older copy was restored",
            place.text()
        )
    } else {
        return None;
    };
    let remedy = "unless this is a deliberate restore, look for the missing files and check the disk; nodes that are ahead \
                  freeze their pool until `tfoctl recover`; repeat the commands that operators gave since then: deny, \
                  exclude, forget, pause, revoke";
    Some(Problem::warning("store_set_back", message, remedy).at_key("store"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_crypto::seal::KeyEncryptionKey;

    /// Killing the process cannot show this, because the kernel keeps its writes: only a power cut would.
    #[test]
    fn every_commit_is_synced_before_it_returns() {
        let dir = tempfile::tempdir().unwrap();
        let key: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let open = || {
            let kek = KeyEncryptionKey::from_bytes(&key).unwrap();
            SqliteStore::open(&dir.path().join("state.db"), kek).unwrap()
        };
        for run in ["created", "opened again"] {
            let store = open();
            let writer = locked(&store.writer);
            let number = |name: &str| writer.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
            let mode: String = writer.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
            // FULL is 2 (sqlite.org/pragma.html#pragma_synchronous); EXTRA, 3, adds nothing to a WAL.
            assert_eq!((mode.as_str(), number("synchronous")), ("wal", 2), "{run}");
            assert_eq!((number("secure_delete"), number("foreign_keys")), (1, 1), "{run}");
        }
    }
}
