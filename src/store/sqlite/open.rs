//! Opening a database: nothing is written before it is clear that the file is ours, that no other coordinator has it,
//! that this release supports its schema, and that the key-encryption key is the right one.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::file::{DatabaseFile, file_error};
use super::rows::Rows;
use super::schema;
use crate::error::StoreError;
use tfo_crypto::random;
use tfo_crypto::seal::KeyEncryptionKeys;

/// How long a statement waits for a lock of another program.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// First bytes of every SQLite 3 database (sqlite.org/fileformat2.html section 1.3), whose header has 100.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_BYTES: u64 = 100;

/// The path with links resolved, so that one file has one lock.
pub(super) fn resolve(path: &Path) -> Result<DatabaseFile, StoreError> {
    match std::fs::canonicalize(path) {
        Ok(path) => Ok(DatabaseFile(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let parent: PathBuf = std::fs::canonicalize(parent).map_err(file_error("find", parent))?;
            let name = path.file_name().ok_or_else(|| StoreError::Foreign {
                place: path.display().to_string(),
                what: "it has no file name".to_owned(),
            })?;
            Ok(DatabaseFile(parent.join(name)))
        }
        Err(error) => Err(file_error("find", path)(error)),
    }
}

/// Whether there is a database, which is then sound enough to be given to SQLite.
///
/// A file of 0 bytes is never ours, because [`make`] gives a database its name only when it is complete; SQLite would
/// take it for a new one, and discard its WAL with everything that was acknowledged.
pub(super) fn is_there(place: &DatabaseFile) -> Result<bool, StoreError> {
    let bytes = |path: &Path| std::fs::metadata(path).map(|found| found.len());
    let has_wal = bytes(&place.beside("-wal")).is_ok_and(|length| length > 0);
    let failed = file_error("open", &place.0);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Closed again before SQLite opens it: a later close would drop SQLite's own locks (POSIX locks, fcntl(2)).
    let file = match rustix::fs::open(&place.0, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::NOENT) if has_wal => return Err(place.damaged("it is missing, but its -wal file has content")),
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(failed(error.into())),
    };
    if file.metadata().map_err(&failed)?.len() == 0 {
        let beside = if has_wal { "its -wal file has content" } else { "a new store starts without a file" };
        return Err(place.damaged(format!("it has 0 bytes, and {beside}")));
    }
    let mut head = Vec::new();
    file.take(HEADER_BYTES).read_to_end(&mut head).map_err(&failed)?;
    if !head.starts_with(MAGIC) {
        let what = "it does not start like an SQLite database".to_owned();
        return Err(StoreError::Foreign { place: place.text(), what });
    }
    Ok(true)
}

/// Creates a database under another name, and gives it its own when it is complete and on the disk.
pub(super) fn make(place: &DatabaseFile, keys: &KeyEncryptionKeys) -> Result<(), StoreError> {
    let new = DatabaseFile(place.beside(".new"));
    for path in [new.0.clone(), new.beside("-wal"), new.beside("-shm")] {
        // Left by a run that was killed in here.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(file_error("replace", &path)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let failed = file_error("make", &new.0);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(rustix::fs::open(&new.0, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?);
    let connection = writer(&new, keys)?;
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    let busy: i64 = connection.query_row(sql, [], |row| row.get(0)).map_err(new.sql("make"))?;
    if busy != 0 {
        let source = "another program has it open".into();
        return Err(StoreError::Busy { place: new.text(), source });
    }
    connection.close().map_err(|(_, error)| new.sql("make")(error))?;
    let directory = place.0.parent().unwrap_or(Path::new("/"));
    File::open(&new.0)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&new.0, &place.0))
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(failed)
}

/// The connection that writes, on a database with the latest schema and one of these key-encryption keys.
pub(super) fn writer(place: &DatabaseFile, keys: &KeyEncryptionKeys) -> Result<Connection, StoreError> {
    let failed = place.sql("open");
    let mut connection = connect(place, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // A database that is refused below stays as it is, with its WAL: no checkpoint when the connection is closed.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(&failed)?;
    let schema = check_schema(place, &connection)?;
    if schema > 0 {
        check_key(place, &connection, keys)?;
    }
    if connection.is_readonly("main").map_err(&failed)? {
        let source = "the file or its file system is read-only".into();
        return Err(StoreError::Unwritable { place: place.text(), source });
    }
    restrict_modes(place)?;
    settle(place, &connection)?;
    if schema < schema::latest() {
        upgrade(place, &mut connection, schema, keys)?;
    }
    check_tables(place, &connection)?;
    let answer: String =
        connection.pragma_query_value(None, "integrity_check", |row| row.get(0)).map_err(place.sql("check"))?;
    if answer != "ok" {
        return Err(place.damaged(answer.replace('\n', "; ")));
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed)?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn reader(place: &DatabaseFile) -> Result<Connection, StoreError> {
    connect(place, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// A connection to a database that a coordinator may serve, with this release's schema and one of these key-encryption keys.
///
/// Touches the file through SQLite alone: closing any other descriptor of it would drop the locks of a store that this
/// process has open (POSIX locks, fcntl(2)).
pub(super) fn beside(path: &Path, keys: &KeyEncryptionKeys) -> Result<(DatabaseFile, Connection), StoreError> {
    let place = resolve(path)?;
    let foreign = |what: &str| StoreError::Foreign { place: place.text(), what: what.to_owned() };
    match std::fs::metadata(&place.0) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(foreign("it does not exist")),
        Err(error) => return Err(file_error("open", &place.0)(error)),
        Ok(found) if !found.is_file() => return Err(foreign("it is not a regular file")),
        Ok(_) => {}
    }
    let connection = reader(&place)?;
    let schema = check_schema(&place, &connection)?;
    if schema == 0 {
        return Err(foreign("it is an empty database"));
    }
    if schema < schema::latest() {
        return Err(foreign(&format!("it has schema {schema}, which the coordinator upgrades when it next starts")));
    }
    check_key(&place, &connection, keys)?;
    check_tables(&place, &connection)?;
    Ok((place, connection))
}

/// Pages that a connection keeps, in KiB: what is read comes from a copy in memory, and what is written is written once.
const CACHE_KIB: i32 = 1_024;

fn connect(place: &DatabaseFile, access: OpenFlags) -> Result<Connection, StoreError> {
    let failed = place.sql("open");
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(&place.0, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY).map_err(&failed)?;
    // Temporary files would be copies of pages outside of our directory.
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON;").map_err(&failed)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(&failed)?;
    Ok(connection)
}

/// The stored schema; fails if it is not ours.
fn check_schema(place: &DatabaseFile, connection: &Connection) -> Result<i64, StoreError> {
    let failed = place.sql("open");
    let (found, known) = (schema::found(connection).map_err(&failed)?, schema::latest());
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(&failed)?;
    let sql = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection.query_row(sql, [], |row| row.get(0)).map_err(&failed)?;
    if (id, found, tables) == (0, 0, 0) {
        return Ok(0);
    }
    if id != schema::APPLICATION_ID || found < 1 {
        let what = format!("it is an SQLite database with application_id {id} and user_version {found}");
        return Err(StoreError::Foreign { place: place.text(), what });
    }
    if found < schema::FIRST {
        return Err(StoreError::Older { place: place.text() });
    }
    if found > known { Err(StoreError::Newer { place: place.text(), found, known }) } else { Ok(found) }
}

fn check_tables(place: &DatabaseFile, connection: &Connection) -> Result<(), StoreError> {
    if schema::is_intact(connection).map_err(place.sql("check"))? {
        Ok(())
    } else {
        Err(place.damaged("its tables or triggers are not those of its schema"))
    }
}

fn check_key(place: &DatabaseFile, connection: &Connection, keys: &KeyEncryptionKeys) -> Result<(), StoreError> {
    Rows { connection, place }.sealer(keys).map(drop)
}

/// Pages of the WAL from which on a commit copies it into the database: 16 MiB, not SQLite's 4.  Acknowledgements of ten
/// thousand nodes change every page several times within a second; an emptied WAL (`empty_wal`) is cut to nothing.
const CHECKPOINT_PAGES: u32 = 4_096;

/// Settings for the life of the connection, except WAL, which the file remembers.
fn settle(place: &DatabaseFile, connection: &Connection) -> Result<(), StoreError> {
    let failed = place.sql("open");
    schema::unlock_writes(connection).map_err(&failed)?;
    let set_wal = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
    let mode: String = set_wal.map_err(&failed)?;
    // FULL: an fsync of the WAL before each commit returns.  secure_delete: freed bytes are overwritten.
    let sql = "PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON;";
    connection.execute_batch(sql).map_err(&failed)?;
    let set_pages = connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()));
    set_pages.map_err(&failed)?;
    if mode == "wal" {
        return Ok(());
    }
    // SQLite keeps the old mode, without a further message, where it cannot have shared memory.
    let source = format!("its file system does not support a write-ahead log, only journal mode {mode}").into();
    Err(StoreError::Unwritable { place: place.text(), source })
}

/// One transaction: the file has no schema, or all of it with its key check.
fn upgrade(
    place: &DatabaseFile,
    connection: &mut Connection,
    from: i64,
    keys: &KeyEncryptionKeys,
) -> Result<(), StoreError> {
    let failed = place.sql("upgrade");
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    schema::upgrade(&transaction, from).map_err(&failed)?;
    if from == 0 {
        let no_randomness = |error: random::NoRandomness| StoreError::Failed {
            step: "make",
            place: place.text(),
            source: error.into(),
        };
        let mut store_id = [0; 16];
        random::fill(&mut store_id).map_err(no_randomness)?;
        let check = keys.present().seal_check(&store_id).map_err(no_randomness)?;
        let sql = "INSERT INTO meta (id, store_id, key_check) VALUES (1, ?1, ?2)";
        transaction.execute(sql, params![store_id, check.as_bytes()]).map_err(&failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Removes all rights of group and others from the database and the files beside it.
fn restrict_modes(place: &DatabaseFile) -> Result<(), StoreError> {
    for path in [place.0.clone(), place.beside("-wal"), place.beside("-shm")] {
        let failed = file_error("restrict", &path);
        match std::fs::metadata(&path) {
            Ok(found) if found.mode() & 0o077 != 0 => {
                std::fs::set_permissions(&path, Permissions::from_mode(found.mode() & 0o700)).map_err(failed)?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
