//! Another key-encryption key in the place of the present one, under a store that is open: in a file and in a cluster.

use tfo_crypto::seal::KeyEncryptionKeys;
use tfo_engine::rollout::parts::Writes;
use tfo_model::time::UnixTime;
use tfo_store::{
    CommitError, Erasure, EtcdReader, EtcdSettings, EtcdStore, Rekeyed, SqliteReader, SqliteStore, Store, StoreError,
};
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::skip_unless;

use super::walk::{beat, coordinator, hand, make, pool_name, see, step};
use super::{erase, etcd, kek};

const SEED: u64 = 11;
const STEPS: u64 = 12;

/// The present key, and the one that takes its place.
fn both() -> KeyEncryptionKeys {
    KeyEncryptionKeys::new(kek(1), Some(kek(2)))
}

fn pool() -> tfo_model::ids::PoolName {
    pool_name("edge")
}

/// Some commits, which make and drop keys.
fn walk(store: &dyn Store, steps: std::ops::Range<u64>) {
    for index in steps {
        step(store, &pool(), SEED, index).unwrap();
    }
}

/// A store goes on under a rekey, and only a process that has the next key.
fn goes_on(store: &dyn Store, rekey: impl Fn() -> Result<Rekeyed, StoreError>, erasure: Erasure) {
    let refused = rekey().unwrap_err();
    assert_eq!(refused.kind(), "store_not_prepared", "{refused}");
    store.set_keys(both()).unwrap();
    assert_eq!(store.sealed_by().unwrap().as_ref(), Some(kek(1).id()), "until it is told");
    let before = see(store, &pool());
    let done = rekey().unwrap();
    assert!(done.pools == 2 && done.keys >= 1 && done.erasure == erasure, "{done:?}");
    assert_eq!(see(store, &pool()), before);
    assert_eq!(store.sealed_by().unwrap().as_ref(), Some(kek(2).id()));
    assert_eq!(rekey().unwrap().keys, 0, "a second run finds nothing to do");
    // New keys are sealed with the next one.
    walk(store, STEPS..2 * STEPS);
    assert_eq!(rekey().unwrap().keys, 0);
    let wrong = store.set_keys(kek(1).into()).unwrap_err();
    assert!(matches!(wrong, StoreError::WrongKey { .. }), "{wrong}");
    store.set_keys(kek(2).into()).unwrap();
    walk(store, 2 * STEPS..3 * STEPS);
}

#[test]
fn a_database_gets_another_key_while_it_is_served() {
    let dir = tfo_testbed::scratch();
    let path = dir.path().join("state.db");
    let store = SqliteStore::open(&path, kek(1)).unwrap();
    make(&store, &pool_name("upload"), SEED).unwrap();
    walk(&store, 0..STEPS);
    let old = erase::sealed(dir.path());
    assert!(!old.is_empty());
    goes_on(&store, || SqliteStore::rekey(&path, &both()), Erasure::Done);
    // Nothing of what the key before opens is left, in the WAL neither.
    let files = erase::Files::read(dir.path());
    for (epoch, sealed) in &old {
        assert_eq!(files.place_of(sealed), None, "the key of epoch {epoch}");
    }
    let seen = see(&store, &pool());
    drop(store);
    assert!(matches!(SqliteReader::open(&path, kek(1)), Err(StoreError::WrongKey { .. })));
    assert_eq!(see(&SqliteStore::open(&path, kek(2)).unwrap(), &pool()), seen);
    // A file that no process serves needs no preparation; where there is no store, none is made.
    let next = KeyEncryptionKeys::new(kek(2), Some(kek(3)));
    SqliteStore::rekey(&path, &next).unwrap();
    assert_eq!(see(&SqliteStore::open(&path, kek(3)).unwrap(), &pool()), seen);
    let nothing = SqliteStore::rekey(&dir.path().join("other.db"), &next).unwrap_err();
    assert_eq!(nothing.kind(), "store_foreign", "{nothing}");
    let other = SqliteStore::rekey(&path, &KeyEncryptionKeys::new(kek(7), Some(kek(8)))).unwrap_err();
    assert!(matches!(other, StoreError::WrongKey { .. }), "{other}");
}

fn settings(etcd: &Etcd) -> EtcdSettings {
    etcd::settings(etcd, &etcd.urls(), etcd::PREFIX)
}

#[test]
fn a_cluster_gets_another_key_under_coordinators_that_run() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let dir = tfo_testbed::scratch();
    let store = EtcdStore::open(settings(&etcd), kek(1)).unwrap();
    let now = etcd::NOW;
    store.take_name(&coordinator(1), &dir.path().join("lock"), now).unwrap();
    make(&store, &pool_name("upload"), SEED).unwrap();
    walk(&store, 0..STEPS);
    let by = hand(&store, &pool(), &coordinator(1));
    let sign = Writes { beat: Some(beat(by.last)), ..Writes::default() };
    store.write(&pool(), &by, &sign).unwrap();
    let rekey = || EtcdStore::rekey(settings(&etcd), both(), now);
    goes_on(&store, rekey, Erasure::History);
    let seen = see(&store, &pool());
    assert!(matches!(EtcdReader::open(settings(&etcd), kek(1)), Err(StoreError::WrongKey { .. })));
    // One that has not beaten for an hour is dead, and not waited for.
    let next = || KeyEncryptionKeys::new(kek(2), Some(kek(3)));
    let refused = EtcdStore::rekey(settings(&etcd), next(), now).unwrap_err();
    assert!(refused.to_string().contains(coordinator(1).as_str()), "{refused}");
    let later = UnixTime::from_secs(now.secs() + 3_700);
    EtcdStore::rekey(settings(&etcd), next(), later).unwrap();
    assert_eq!(see(&EtcdStore::open(settings(&etcd), kek(3)).unwrap(), &pool()), Some(seen.unwrap()));
    // The old process writes no key any more: the others could not open it.
    let commits = (0..30).map(|index| step(&store, &pool(), SEED, index)).find(Result::is_err);
    let Some(Err(CommitError::Store(error))) = commits else { panic!("{commits:?}") };
    assert!(matches!(error, StoreError::WrongKey { .. } | StoreError::Damaged { .. }), "{error}");
    let nothing = EtcdSettings { prefix: "/nothing/".to_owned(), ..settings(&etcd) };
    assert_eq!(EtcdStore::rekey(nothing, next(), now).unwrap_err().kind(), "store_foreign");
}
