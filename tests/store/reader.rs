//! A database that is only read: beside the coordinator that serves it, after one that was killed, or without any.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use tfo_store::{SqliteReader, SqliteStore, Store, StoreError};

use super::walk::{pool_name, see, step};
use super::{kek, open};

const SEED: u64 = 19;

fn database(dir: &Path) -> PathBuf {
    dir.join("state.db")
}

fn reader(dir: &Path) -> SqliteReader {
    SqliteReader::open(&database(dir), kek(1)).unwrap()
}

#[test]
fn a_reader_sees_every_commit_of_a_serving_coordinator() {
    let (dir, pool) = (tfo_testbed::scratch(), pool_name("edge"));
    let store = open(dir.path());
    step(&store, &pool, SEED, 0).unwrap();
    let reader = reader(dir.path());
    for index in 1..60 {
        step(&store, &pool, SEED, index).unwrap();
        assert_eq!(see(&reader, &pool), see(&store, &pool), "step {index}");
    }
    // The store still holds its locks: a second open is refused.
    assert!(matches!(SqliteStore::open(&database(dir.path()), kek(1)), Err(StoreError::InUse { .. })));
    drop(reader);
    assert!(matches!(SqliteStore::open(&database(dir.path()), kek(1)), Err(StoreError::InUse { .. })));
    step(&store, &pool, SEED, 60).unwrap();
}

/// By its type: an inherent constant comes before that of a trait.
#[test]
fn a_reader_refuses_to_write() {
    struct Probe<T>(PhantomData<T>);
    trait Other {
        const IS_STORE: bool = false;
    }
    impl<T> Other for Probe<T> {}
    impl<T: Store> Probe<T> {
        const IS_STORE: bool = true;
    }
    const { assert!(Probe::<SqliteStore>::IS_STORE && !Probe::<SqliteReader>::IS_STORE) };
}

/// With and without a coordinator, and beside the WAL of one that was killed.
#[test]
fn a_reader_needs_no_coordinator() {
    let (dir, killed, pool) = (tfo_testbed::scratch(), tfo_testbed::scratch(), pool_name("edge"));
    let store = open(dir.path());
    for index in 0..40 {
        step(&store, &pool, SEED, index).unwrap();
    }
    let before = see(&store, &pool);
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(dir.path().join(name), killed.path().join(name)).unwrap();
    }
    assert!(std::fs::metadata(killed.path().join("state.db-wal")).unwrap().len() > 0);
    drop(store);
    let bytes = std::fs::read(database(dir.path())).unwrap();
    for path in [dir.path(), killed.path()] {
        assert_eq!(see(&reader(path), &pool), before);
    }
    assert!(std::fs::read(database(dir.path())).unwrap() == bytes, "it wrote nothing");
    // What the reader left beside the file does not block the next coordinator.
    for path in [dir.path(), killed.path()] {
        assert_eq!(see(&open(path), &pool), before);
    }
}

#[test]
fn what_is_no_database_of_ours_is_not_read() {
    let dir = tfo_testbed::scratch();
    let refused = |key: u8| SqliteReader::open(&database(dir.path()), kek(key)).err().unwrap();
    assert!(matches!(refused(1), StoreError::Foreign { .. }), "missing");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "and it was not made");
    std::fs::write(database(dir.path()), "").unwrap();
    assert!(matches!(refused(1), StoreError::Foreign { .. }), "empty");
    assert_eq!(std::fs::metadata(database(dir.path())).unwrap().len(), 0);
    std::fs::write(database(dir.path()), "root:x:0:0:root:/root:/bin/bash\n".repeat(10)).unwrap();
    assert!(matches!(refused(1), StoreError::Damaged { .. }), "something else");
    std::fs::remove_file(database(dir.path())).unwrap();
    step(&open(dir.path()), &pool_name("edge"), SEED, 0).unwrap();
    assert!(matches!(refused(2), StoreError::WrongKey { .. }));
    let mut bytes = std::fs::read(database(dir.path())).unwrap();
    let at = bytes.windows(8).position(|part| part == b"pool_id\"").unwrap();
    bytes[at + 12] ^= 1;
    std::fs::write(database(dir.path()), &bytes).unwrap();
    assert!(matches!(refused(1), StoreError::Damaged { .. }), "a flipped bit");
}
