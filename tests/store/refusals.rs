//! What an SQLite store refuses to open or to be written by, and that it leaves everything as it was.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tfo_store::{ReadStore, SqliteStore, StoreError};

use super::walk::{Seen, pool_name, see, step};
use super::{kek, open};

const SEED: u64 = 11;

/// A database with a pool in it, closed; and what is in it.
fn filled(dir: &Path) -> Seen {
    let store = open(dir);
    for index in 0..40 {
        step(&store, &pool_name("edge"), SEED, index).unwrap();
    }
    see(&store, &pool_name("edge")).unwrap()
}

fn database(dir: &Path) -> PathBuf {
    dir.join("state.db")
}

/// A connection as any other program has it.
fn foreign(dir: &Path) -> Connection {
    Connection::open_with_flags(database(dir), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
}

/// Opens with this key-encryption key, expects to be refused, and that no byte of the file has changed.
fn refused(dir: &Path, key: u8) -> StoreError {
    let content = || ["state.db", "state.db-wal"].map(|name| std::fs::read(dir.join(name)).unwrap_or_default());
    let before = content();
    let error = SqliteStore::open(&database(dir), kek(key)).expect_err("it is refused");
    assert!(content() == before, "nothing was overwritten");
    let problem = error.problem();
    assert!(problem.message.contains(&*database(dir).to_string_lossy()), "{problem}");
    assert!(!problem.remedy.is_empty());
    error
}

#[test]
fn everything_is_there_after_a_restart() {
    let dir = tfo_testbed::scratch();
    let before = filled(dir.path());
    assert_eq!(see(&open(dir.path()), &pool_name("edge")), Some(before));
}

#[test]
fn another_key_encryption_key_is_refused() {
    let dir = tfo_testbed::scratch();
    let before = filled(dir.path());
    let error = refused(dir.path(), 2);
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    // Also for a database without any key yet: nothing may be sealed with a second one.
    let empty = tfo_testbed::scratch();
    drop(open(empty.path()));
    assert!(matches!(refused(empty.path(), 2), StoreError::WrongKey { .. }));
    assert_eq!(see(&open(dir.path()), &pool_name("edge")), Some(before));
}

#[test]
fn another_key_encryption_key_leaves_the_wal_of_a_killed_run_alone() {
    let (dir, copy) = (tfo_testbed::scratch(), tfo_testbed::scratch());
    let store = open(dir.path());
    for index in 0..40 {
        step(&store, &pool_name("edge"), SEED, index).unwrap();
    }
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    assert!(std::fs::metadata(copy.path().join("state.db-wal")).unwrap().len() > 0);
    assert!(matches!(refused(copy.path(), 2), StoreError::WrongKey { .. }));
    assert_eq!(see(&open(copy.path()), &pool_name("edge")), see(&store, &pool_name("edge")));
}

#[test]
fn a_database_that_lost_its_key_check_is_refused() {
    let dir = tfo_testbed::scratch();
    filled(dir.path());
    foreign(dir.path()).execute_batch("DROP TRIGGER guard_meta_DELETE; DELETE FROM meta;").unwrap();
    assert!(matches!(refused(dir.path(), 1), StoreError::Damaged { .. }));
}

#[test]
fn a_database_that_was_edited_by_hand_is_refused() {
    let edits = [
        "DROP TRIGGER guard_ack_DELETE",
        "CREATE INDEX mine ON entry (node)",
        // With the guard put back as it was: a record is missing, a pool is behind its document, a key is gone.
        "DELETE FROM entry WHERE node = (SELECT min(node) FROM entry)",
        "UPDATE pool SET revision = revision - 1",
        "UPDATE sealed SET slots = zeroblob(208)",
    ];
    for edit in edits {
        let dir = tfo_testbed::scratch();
        filled(dir.path());
        let other = foreign(dir.path());
        let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'";
        let triggers: Vec<(String, String)> = {
            let mut statement = other.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        if !edit.starts_with("DROP") {
            triggers.iter().for_each(|(name, _)| other.execute_batch(&format!("DROP TRIGGER {name}")).unwrap());
        }
        other.execute_batch(edit).unwrap();
        if !edit.starts_with("DROP") {
            triggers.iter().for_each(|(_, sql)| other.execute_batch(sql).unwrap());
        }
        drop(other);
        let error = refused(dir.path(), 1);
        assert!(matches!(error, StoreError::Damaged { .. }), "{edit}: {error:?}");
    }
}

#[test]
fn a_newer_schema_and_one_before_the_first_release_are_refused() {
    let dir = tfo_testbed::scratch();
    let before = filled(dir.path());
    let set = |version: i64| foreign(dir.path()).pragma_update(None, "user_version", version).unwrap();
    set(7);
    let error = refused(dir.path(), 1);
    assert!(matches!(error, StoreError::Newer { found: 7, known: 6, .. }), "{error}");
    for older in [1, 4] {
        set(older);
        assert!(matches!(refused(dir.path(), 1), StoreError::Older { .. }));
    }
    set(6);
    assert_eq!(see(&open(dir.path()), &pool_name("edge")), Some(before));
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let dir = tfo_testbed::scratch();
    std::fs::write(database(dir.path()), "root:x:0:0:root:/root:/bin/bash\n".repeat(10)).unwrap();
    assert!(matches!(refused(dir.path(), 1), StoreError::Foreign { .. }));
    std::fs::remove_file(database(dir.path())).unwrap();
    let other = Connection::open(database(dir.path())).unwrap();
    other.execute_batch("CREATE TABLE pool (name TEXT); INSERT INTO pool VALUES ('text');").unwrap();
    drop(other);
    assert!(matches!(refused(dir.path(), 1), StoreError::Foreign { .. }));
    // A directory: its lock is beside it.
    let directory = dir.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    let error = SqliteStore::open(&directory, kek(1)).err().unwrap();
    assert!(error.to_string().contains(&*directory.to_string_lossy()), "{error}");
    let error = SqliteStore::open(&dir.path().join("missing/state.db"), kek(1)).err().unwrap();
    assert!(matches!(error, StoreError::Unwritable { .. }), "{error}");
}

#[test]
fn a_second_coordinator_is_refused_as_long_as_the_first_lives() {
    let dir = tfo_testbed::scratch();
    let first = open(dir.path());
    step(&first, &pool_name("edge"), SEED, 0).unwrap();
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(database(dir.path()), &link).unwrap();
    for path in [database(dir.path()), link] {
        match SqliteStore::open(&path, kek(1)).err() {
            Some(StoreError::InUse { place, holder }) => {
                assert!(place.ends_with("state.db"), "{place}");
                assert_eq!(holder, format!("pid {}", std::process::id()));
            }
            other => panic!("{other:?}"),
        }
    }
    step(&first, &pool_name("edge"), SEED, 1).unwrap();
    drop(first);
    drop(open(dir.path()));
}

#[test]
fn another_program_reads_and_cannot_write() {
    let dir = tfo_testbed::scratch();
    let store = open(dir.path());
    for index in 0..20 {
        step(&store, &pool_name("edge"), SEED, index).unwrap();
    }
    let before = see(&store, &pool_name("edge"));
    let other = foreign(dir.path());
    assert_eq!(other.query_row("SELECT count(*) FROM pool", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    for sql in [
        "UPDATE pool SET revision = revision + 1",
        "UPDATE document SET text = '{}'",
        "DELETE FROM entry",
        "DELETE FROM audit WHERE revision = 1",
        "INSERT INTO sealed (pool, slots) VALUES (9, zeroblob(208))",
        "UPDATE meta SET key_check = zeroblob(44)",
    ] {
        let error = other.execute(sql, []).err().unwrap().to_string();
        assert!(error.contains("only_tfo_coordinator_writes_here"), "{sql}: {error}");
    }
    assert_eq!(see(&store, &pool_name("edge")), before);
}

#[test]
fn a_lock_of_another_program_is_an_error_and_no_loss() {
    let dir = tfo_testbed::scratch();
    let store = open(dir.path());
    step(&store, &pool_name("edge"), SEED, 0).unwrap();
    let before = see(&store, &pool_name("edge"));
    let other = foreign(dir.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = step(&store, &pool_name("edge"), SEED, 1).err().unwrap();
    match error {
        tfo_store::CommitError::Store(error @ StoreError::Busy { .. }) => {
            assert!(error.to_string().contains("state.db") && !error.outcome_is_open());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(see(&store, &pool_name("edge")), before);
    other.execute_batch("ROLLBACK").unwrap();
    step(&store, &pool_name("edge"), SEED, 1).unwrap();
}

#[test]
fn files_are_the_owners_alone() {
    let dir = tfo_testbed::scratch();
    let store = open(dir.path());
    step(&store, &pool_name("edge"), SEED, 0).unwrap();
    let modes = || {
        let mut modes: Vec<(String, u32)> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
                (entry.file_name().into_string().unwrap(), mode)
            })
            .collect();
        modes.sort();
        modes
    };
    let names = ["state.db", "state.db-shm", "state.db-wal", "state.db.lock"];
    assert_eq!(modes(), names.map(|name| (name.to_owned(), 0o600)));
    drop(store);
    // A database that was copied back with wide modes.
    std::fs::set_permissions(database(dir.path()), PermissionsExt::from_mode(0o664)).unwrap();
    let _store = open(dir.path());
    assert_eq!(modes(), names.map(|name| (name.to_owned(), 0o600)));
}

#[test]
fn a_file_without_a_byte_is_no_new_store() {
    let dir = tfo_testbed::scratch();
    for wal in [None, Some("what a run had committed")] {
        std::fs::write(database(dir.path()), "").unwrap();
        wal.iter().for_each(|text| std::fs::write(dir.path().join("state.db-wal"), text).unwrap());
        let error = refused(dir.path(), 1);
        assert!(matches!(error, StoreError::Damaged { .. }) && error.to_string().contains("0 bytes"), "{error}");
    }
    // Once it is out of the way, a new store begins; the run that made the old one is remembered, if there was one.
    std::fs::remove_file(database(dir.path())).unwrap();
    assert!(matches!(refused(dir.path(), 1), StoreError::Damaged { .. }), "its WAL is still there");
    std::fs::remove_file(dir.path().join("state.db-wal")).unwrap();
    let store = open(dir.path());
    assert!(store.pools().unwrap().is_empty() && store.set_back().is_none());
}

/// A run that was killed while it made the database does not block the next one.
#[test]
fn a_half_made_database_is_made_again() {
    let dir = tfo_testbed::scratch();
    for suffix in [".new", ".new-wal", ".new-shm"] {
        std::fs::write(dir.path().join(format!("state.db{suffix}")), "half").unwrap();
    }
    step(&open(dir.path()), &pool_name("edge"), SEED, 0).unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains(".new")));
}

/// A run that was killed in the middle of its life; a test may change its files afterwards.
fn killed(dir: &Path) -> Seen {
    let (store, running) = (open(dir), tfo_testbed::scratch());
    for index in 0..40 {
        step(&store, &pool_name("edge"), SEED, index).unwrap();
    }
    let names = ["state.db", "state.db-wal", "state.db.lock"];
    for name in names {
        std::fs::copy(dir.join(name), running.path().join(name)).unwrap();
    }
    let seen = see(&store, &pool_name("edge")).unwrap();
    drop(store);
    for name in names {
        std::fs::copy(running.path().join(name), dir.join(name)).unwrap();
    }
    seen
}

/// Opens the store, and says whether it reported that it went back; a second open does not report it again.
fn told_of_set_back(dir: &Path) -> Option<String> {
    let store = open(dir);
    let told = store.set_back().map(|problem| {
        assert!(problem.remedy.contains("tfoctl recover"), "{problem}");
        problem.message.clone()
    });
    step(&store, &pool_name("edge"), SEED, 1_000).unwrap();
    drop(store);
    assert!(open(dir).set_back().is_none());
    told
}

#[test]
fn a_wal_that_was_removed_or_cut_is_told_from_a_crash() {
    let wal = |dir: &Path| dir.join("state.db-wal");
    let crashed = tfo_testbed::scratch();
    let before = killed(crashed.path());
    assert_eq!(see(&open(crashed.path()), &pool_name("edge")), Some(before), "a crash alone costs nothing");
    assert_eq!(told_of_set_back(crashed.path()), None);

    let removed = tfo_testbed::scratch();
    killed(removed.path());
    let length = std::fs::metadata(wal(removed.path())).unwrap().len();
    std::fs::remove_file(wal(removed.path())).unwrap();
    let told = told_of_set_back(removed.path()).unwrap();
    assert!(told.contains("lacks the latest") && told.contains("state.db"), "{told}");

    let mut cuts = 0;
    for eighth in 1..8 {
        let cut = tfo_testbed::scratch();
        let before = killed(cut.path());
        let file = std::fs::OpenOptions::new().write(true).open(wal(cut.path())).unwrap();
        file.set_len(length * eighth / 8).unwrap();
        let store = open(cut.path());
        let whole = see(&store, &pool_name("edge")).as_ref() == Some(&before);
        // The log is emptied now and then and keeps its length, so that a cut may cost nothing.
        assert_eq!(store.set_back().is_none(), whole, "cut to {eighth}/8");
        cuts += u32::from(!whole);
    }
    assert!(cuts > 0, "no cut cost a commit");
}

#[test]
fn an_older_copy_and_another_database_are_told() {
    let (dir, other) = (tfo_testbed::scratch(), tfo_testbed::scratch());
    filled(dir.path());
    let backup = std::fs::read(database(dir.path())).unwrap();
    assert_eq!(told_of_set_back(dir.path()), None, "an ordinary restart");
    std::fs::write(database(dir.path()), backup).unwrap();
    assert!(told_of_set_back(dir.path()).unwrap().contains("lacks the latest"));
    filled(other.path());
    std::fs::copy(database(other.path()), database(dir.path())).unwrap();
    assert!(told_of_set_back(dir.path()).unwrap().contains("is not the database"));
    std::fs::remove_file(database(dir.path())).unwrap();
    let store = open(dir.path());
    assert!(store.set_back().unwrap().message.contains("is not the database"), "one that vanished is reported");
}
