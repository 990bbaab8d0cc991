//! From one schema of the etcd store to the next, one coordinator after another: until the last is replaced each of them may go
//! back, and afterwards the release before writes nothing.

use tfo_engine::rollout::parts::{About, Beat, Stamp, Writer, Writes};
use tfo_store::{CommitError, ETCD_SCHEMA, EtcdReader, EtcdSettings, EtcdStore, ReadStore, Store, StoreError};
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::{scratch, skip_unless};

use super::etcd::{NOW, PREFIX, SEED, beats, commit, next, pool, revision, settings};
use super::kek;
use super::walk::{coordinator, make};

/// The release before, this one, and the time after which a coordinator that is gone holds nothing up.
const BEFORE: i64 = ETCD_SCHEMA;
const AFTER: i64 = ETCD_SCHEMA + 1;
const AN_HOUR: u64 = 3_600;

struct Site {
    etcd: Etcd,
    dir: tempfile::TempDir,
}

impl Site {
    fn settings(&self, newest_schema: i64) -> EtcdSettings {
        EtcdSettings { newest_schema, ..settings(&self.etcd, &self.etcd.urls(), PREFIX) }
    }

    /// A process of a release that writes schemas up to this one.
    fn start(&self, number: u64, newest: i64, secs_later: u64) -> Result<(EtcdStore, Writer), StoreError> {
        let store = EtcdStore::open(self.settings(newest), kek(1))?;
        let lock = self.dir.path().join(number.to_string());
        store.take_name(&coordinator(number), &lock, NOW.plus(secs_later))?;
        let last = store.load(&pool())?.and_then(|state| state.content.parts().stamp(&coordinator(number)));
        Ok((store, Writer { name: coordinator(number), last }))
    }

    fn schema(&self) -> i64 {
        let meta = self.etcd.ctl(&["get", "--print-value-only", &format!("{PREFIX}meta")]);
        let (_, json) = meta.split_once(' ').unwrap();
        let meta: serde_json::Value = serde_json::from_str(json).unwrap();
        meta["schema"].as_i64().unwrap()
    }
}

/// A beat and a commit, as a driver makes them: again after a conflict, which a raised schema is, too.
#[track_caller]
fn drives((store, by): &mut (EtcdStore, Writer)) {
    let again = |done: &mut dyn FnMut() -> Result<(), CommitError>| {
        let first = done();
        if matches!(first, Err(CommitError::Conflict { .. })) { done() } else { first }
    };
    let before = revision(store);
    let mut beaten = None;
    again(&mut || beats(store, by).map(|writer| beaten = Some(writer))).unwrap();
    *by = beaten.unwrap();
    again(&mut || commit(store, by, &next(store))).unwrap();
    assert_eq!(revision(store), before + 1);
}

#[test]
fn the_last_coordinator_that_is_replaced_raises_the_schema_and_none_has_to_stop() {
    skip_unless!(need_etcd());
    let site = Site { etcd: Etcd::new(&Plan::of(1)), dir: scratch() };
    make(&EtcdStore::open(site.settings(BEFORE), kek(1)).unwrap(), &pool(), SEED).unwrap();
    let start = |number, newest| site.start(number, newest, 0).unwrap();
    let (mut a, mut b, mut c) = (start(1, BEFORE), start(2, BEFORE), start(3, BEFORE));
    [&mut a, &mut b, &mut c].into_iter().for_each(drives);
    // One is replaced, and goes back again; the others drive beside it all the time.
    drop(c);
    let mut c = start(3, AFTER);
    [&mut a, &mut b, &mut c].into_iter().for_each(drives);
    drop(c);
    let mut c = start(3, BEFORE);
    [&mut a, &mut b, &mut c].into_iter().for_each(drives);
    assert_eq!(site.schema(), BEFORE);
    // All but one.
    drop((b, c));
    let (mut b, mut c) = (start(2, AFTER), start(3, AFTER));
    [&mut a, &mut b, &mut c].into_iter().for_each(drives);
    assert_eq!(site.schema(), BEFORE);
    // It is stopped, but may come back as it was: others that start do not pass it over.
    drop((a, b));
    let mut b = start(2, AFTER);
    assert_eq!(site.schema(), BEFORE);
    // A process that stood still all the time.
    let asleep = EtcdStore::open(site.settings(BEFORE), kek(1)).unwrap();
    let mut asleep = (asleep, Writer::new(coordinator(9)));
    drives(&mut asleep);
    let mut copy = asleep.0.load(&pool()).unwrap().unwrap();
    assert!(asleep.0.follow(&pool(), &mut copy).is_ok());
    let mut a = start(1, AFTER);
    assert_eq!(site.schema(), AFTER);
    // Those that run take it over with their next transaction.
    [&mut a, &mut b, &mut c].into_iter().for_each(drives);

    let before = a.0.load(&pool()).unwrap().unwrap().content;
    let newer = |error: &StoreError| matches!(error, StoreError::Newer { found: AFTER, known: BEFORE, .. });
    for refused in [
        beats(&asleep.0, &asleep.1).map(drop),
        commit(&asleep.0, &asleep.1, &next(&asleep.0)),
        make(&asleep.0, &"other".parse().unwrap(), SEED),
    ] {
        assert!(matches!(&refused, Err(CommitError::Store(error)) if newer(error)), "{refused:?}");
    }
    let started = site.start(1, BEFORE, 0).unwrap_err();
    let looked = EtcdReader::open(site.settings(BEFORE), kek(1)).unwrap_err();
    // Nor does it show what it could misread.
    let followed = asleep.0.follow(&pool(), &mut copy).unwrap_err();
    assert!(newer(&started) && newer(&looked) && newer(&followed), "{started} {looked} {followed}");
    assert_eq!(a.0.load(&pool()).unwrap().unwrap().content, before, "the release before has changed nothing");
    assert_eq!(a.0.pools().unwrap(), [pool()]);
}

#[test]
fn a_coordinator_that_is_gone_for_good_holds_the_schema_back_for_an_hour() {
    skip_unless!(need_etcd());
    let site = Site { etcd: Etcd::new(&Plan::of(1)), dir: scratch() };
    make(&EtcdStore::open(site.settings(BEFORE), kek(1)).unwrap(), &pool(), SEED).unwrap();
    let mut gone = site.start(1, BEFORE, 0).unwrap();
    drives(&mut gone);
    drop(gone);
    for (secs_later, schema) in [(0, BEFORE), (AN_HOUR - 200, BEFORE), (AN_HOUR + 200, AFTER)] {
        drop(site.start(2, AFTER, secs_later).unwrap());
        assert_eq!(site.schema(), schema, "{secs_later} s later");
    }
    assert!(matches!(site.start(1, BEFORE, 0), Err(StoreError::Newer { .. })));
}

#[test]
fn a_coordinator_that_an_operator_has_forgotten_holds_the_schema_back_no_longer() {
    skip_unless!(need_etcd());
    let site = Site { etcd: Etcd::new(&Plan::of(1)), dir: scratch() };
    make(&EtcdStore::open(site.settings(BEFORE), kek(1)).unwrap(), &pool(), SEED).unwrap();
    let mut gone = site.start(1, BEFORE, 0).unwrap();
    drives(&mut gone);
    // It is killed: it gives nothing back.
    std::mem::forget(gone.0);
    let newer = site.start(2, AFTER, 0).unwrap();
    assert_eq!(site.schema(), BEFORE);
    let stamp = Stamp::taken_over(gone.1.last);
    let about = About { is_forgotten: true, ..About::default() };
    let beat = Beat { stamp, vouches: false, at: NOW, tally: None, about };
    newer.0.write(&pool(), &gone.1, &Writes { beat: Some(beat), ..Writes::default() }).unwrap();
    drop(newer);
    drop(site.start(2, AFTER, 0).unwrap());
    assert_eq!(site.schema(), AFTER);
}
