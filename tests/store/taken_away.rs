//! Files that are taken away from a running store, or get a second name.

use std::path::Path;

use tfo_store::{CommitError, ReadStore, SqliteStore, StoreError};

use super::walk::{pool_name, see, step};
use super::{kek, open};

const SEED: u64 = 23;

fn write(store: &SqliteStore, index: u64) -> Result<(), CommitError> {
    // A step of the walk may be one that writes nothing.
    (index..index + 8).try_for_each(|index| step(store, &pool_name("edge"), SEED, index))
}

fn is_gone(error: &StoreError, name: &str) -> bool {
    let problem = error.problem();
    matches!(error, StoreError::Gone { place } if place.ends_with(name)) && problem.remedy.contains("import")
}

#[test]
fn what_was_taken_away_is_neither_read_nor_written() {
    for name in ["state.db", "state.db-wal", "state.db.lock"] {
        let dir = tfo_testbed::scratch();
        let store = open(dir.path());
        write(&store, 0).unwrap();
        let before = see(&store, &pool_name("edge"));
        let away = dir.path().join("away");
        for replaced in [false, true] {
            std::fs::rename(dir.path().join(name), &away).unwrap();
            if replaced {
                std::fs::copy(&away, dir.path().join(name)).unwrap();
            }
            let error = store.head(&pool_name("edge")).expect_err(name);
            assert!(is_gone(&error, name), "{error}");
            let error = write(&store, 10).expect_err(name);
            assert!(matches!(&error, CommitError::Store(error) if is_gone(error, name)), "{error}");
            // The same file again.
            std::fs::rename(&away, dir.path().join(name)).unwrap();
            store.head(&pool_name("edge")).unwrap();
            assert_eq!(see(&store, &pool_name("edge")), before, "nothing was written");
        }
        write(&store, 20).unwrap();
    }
}

#[test]
fn no_second_coordinator_gets_the_file_by_another_name_or_without_the_lock_file() {
    let dir = tfo_testbed::scratch();
    let store = open(dir.path());
    write(&store, 0).unwrap();
    let path = |name: &str| dir.path().join(name);
    let refused = |path: &Path| SqliteStore::open(path, kek(1)).expect_err("the file is in use");
    // Another name has another lock file.
    std::fs::hard_link(path("state.db"), path("other.db")).unwrap();
    for name in ["other.db", "state.db"] {
        let error = refused(&path(name));
        let linked = matches!(error, StoreError::Linked { links: 2, .. } | StoreError::InUse { .. });
        assert!(linked && !error.remedy().is_empty(), "{error}");
    }
    std::fs::remove_file(path("other.db")).unwrap();
    // A symbolic link is the same name.
    std::os::unix::fs::symlink(path("state.db"), path("link.db")).unwrap();
    assert!(matches!(refused(&path("link.db")), StoreError::InUse { .. }));
    std::fs::remove_file(path("state.db.lock")).unwrap();
    let error = refused(&path("state.db"));
    assert!(matches!(&error, StoreError::InUse { holder, .. } if holder.contains("lock file")), "{error}");
    assert!(is_gone(&store.head(&pool_name("edge")).unwrap_err(), "state.db.lock"), "and the first one knows");
    drop(store);
    write(&open(dir.path()), 10).unwrap();
    // At rest too: a program that opens the second name later would have a log of its own.
    std::fs::hard_link(path("state.db"), path("other.db")).unwrap();
    assert!(matches!(refused(&path("state.db")), StoreError::Linked { links: 2, .. }));
}
