//! The etcd store against real members: what fails, what is open, and what comes back.

mod stream;

use std::time::Duration;

use rustix::process::Signal;
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_engine::rollout::document::Proposal;
use tfo_engine::rollout::parts::{Writer, Writes};
use tfo_model::count::{Epoch, Revision};
use tfo_model::time::UnixTime;
use tfo_store::{
    CommitError, ETCD_SCHEMA, EtcdReader, EtcdSettings, EtcdStore, EtcdUser, News, Patience, ReadStore, Store,
    StoreError,
};
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::proxy::{Mode, Proxy};
use tfo_testbed::{SOON, now, poll_some, poll_until, scratch, skip_unless};

use crate::kek;
use crate::walk::{beat, coordinator, make, node, pool_name, proposal, ring, rotate, see, step, touch};

pub(crate) const SEED: u64 = 7;
pub(crate) const PREFIX: &str = "/tfo-fleet/";
/// After all beats of these tests.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_700_000_100);

pub(crate) fn settings(etcd: &Etcd, urls: &[String], prefix: &str) -> EtcdSettings {
    let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    EtcdSettings {
        urls,
        prefix: prefix.to_owned(),
        tls: etcd.tls(),
        user: None,
        newest_schema: ETCD_SCHEMA,
        patience: Patience::Serving,
    }
}

pub(crate) fn open(etcd: &Etcd) -> EtcdStore {
    EtcdStore::open(settings(etcd, &etcd.urls(), PREFIX), kek(1)).unwrap()
}

/// A client that reaches the first member through a proxy alone.
pub(crate) fn open_through(etcd: &Etcd, proxy: &Proxy) -> EtcdStore {
    EtcdStore::open(settings(etcd, &[proxy.url()], PREFIX), kek(1)).unwrap()
}

/// These tests of the suite, each in a store of its own on one cluster.
pub(crate) fn conforms(members: usize, tests: &[fn(&dyn Store)]) {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(members));
    for (number, test) in tests.iter().enumerate() {
        test(&open_at(&etcd, &format!("/test{number}/")));
    }
}

/// A store under another prefix, which waits for its only member as a command does: a suite is about what is answered, and a
/// coordinator's patience ends on a machine that forty programs keep busy.
pub(crate) fn open_at(etcd: &Etcd, prefix: &str) -> EtcdStore {
    let settings = EtcdSettings { patience: Patience::Command, ..settings(etcd, &etcd.urls(), prefix) };
    EtcdStore::open(settings, kek(1)).unwrap()
}

pub(crate) fn pool() -> tfo_model::ids::PoolName {
    pool_name("edge")
}

pub(crate) fn next(store: &dyn ReadStore) -> Proposal {
    let (document, _) = store.document(&pool()).unwrap().unwrap();
    proposal(&document, |document| rotate(SEED, document))
}

pub(crate) fn commit(store: &dyn Store, by: &Writer, proposal: &Proposal) -> Result<(), CommitError> {
    store.commit(&pool(), by, proposal, &ring(SEED, Epoch::new(99).unwrap())).map(drop)
}

pub(crate) fn revision(store: &dyn ReadStore) -> u64 {
    store.head(&pool()).unwrap().unwrap().revision.get()
}

/// Beats, and gives the writer after it.
pub(crate) fn beats(store: &dyn Store, by: &Writer) -> Result<Writer, CommitError> {
    let next = beat(by.last);
    let writer = Writer { last: Some(next.stamp), ..by.clone() };
    store.write(&pool(), by, &Writes { beat: Some(next), ..Writes::default() }).map(|()| writer)
}

/// A store with a pool, and a writer that has beaten.
fn begun(etcd: &Etcd) -> (EtcdStore, Writer) {
    let store = open(etcd);
    make(&store, &pool(), SEED).unwrap();
    let writer = beats(&store, &Writer::new(coordinator(1))).unwrap();
    (store, writer)
}

fn is_open(result: &Result<(), CommitError>) -> bool {
    matches!(result, Err(CommitError::Store(error)) if error.outcome_is_open())
}

#[test]
fn it_opens_with_its_own_key_and_what_is_foreign_or_newer_is_refused() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan { client_certs: true, ..Plan::of(1) });
    let open = |key: KeyEncryptionKey| EtcdStore::open(settings(&etcd, &etcd.urls(), PREFIX), key);
    let nothing = EtcdReader::open(settings(&etcd, &etcd.urls(), PREFIX), kek(1)).unwrap();
    assert!(nothing.is_none(), "a reader makes nothing");
    make(&open(kek(1)).unwrap(), &pool(), SEED).unwrap();
    assert_eq!(open(kek(1)).unwrap().pools().unwrap(), [pool()]);
    assert!(matches!(open(kek(2)), Err(StoreError::WrongKey { .. })));
    // Another store beside it has a key of its own.
    EtcdStore::open(settings(&etcd, &etcd.urls(), "/other/"), kek(2)).unwrap();
    let running = open(kek(1)).unwrap();
    let by = Writer::new(coordinator(1));
    for (value, kind) in [("nonsense", "store_foreign"), ("", "store_foreign")] {
        etcd.ctl(&["put", "/tfo-fleet/meta", value]);
        assert_eq!(open(kek(1)).unwrap_err().kind(), kind);
    }
    // What another program has made of it is not written into.
    for refused in [
        beats(&running, &by).map(drop),
        commit(&running, &by, &next(&running)),
        make(&running, &pool_name("upload"), SEED),
    ] {
        let Err(CommitError::Store(StoreError::Gone { .. })) = refused else { panic!("{refused:?}") };
    }
    assert_eq!(revision(&running), 0);
}

#[test]
fn no_key_is_in_the_files_of_a_member() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let store = open(&etcd);
    for index in 0..20 {
        step(&store, &pool(), SEED, index).unwrap();
    }
    let (document, _) = store.document(&pool()).unwrap().unwrap();
    let last = document.next_epoch.get();
    assert!(last > 2, "{last}");
    let mut files = vec![etcd.path("data0")];
    let mut bytes = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let mut content = std::fs::read(&path).unwrap();
        // Files are made longer than what is in them.
        content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        bytes += content.len();
        for epoch in (1..last).map(|epoch| Epoch::new(epoch).unwrap()) {
            let key = super::walk::key(SEED, epoch);
            for form in super::erase::forms(key.expose()) {
                let is_there = content.windows(form.len()).any(|window| window == form);
                assert!(!is_there, "epoch {epoch} in {}", path.display());
            }
        }
    }
    assert!(bytes > 100_000, "{bytes}");
}

#[test]
fn a_token_that_ended_or_was_lost_is_made_again() {
    skip_unless!(need_etcd());
    let mut etcd = Etcd::new(&Plan { more: &["--auth-token-ttl", "1"], ..Plan::of(1) });
    etcd.enable_users("tfo", "secret", PREFIX);
    let as_user = |password: &str| {
        let user = EtcdUser { name: "tfo".to_owned(), password: password.to_owned().into() };
        EtcdStore::open(EtcdSettings { user: Some(user), ..settings(&etcd, &etcd.urls(), PREFIX) }, kek(1))
    };
    for refused in [as_user("wrong"), EtcdStore::open(settings(&etcd, &etcd.urls(), PREFIX), kek(1))] {
        assert_eq!(refused.unwrap_err().kind(), "store_rejects");
    }
    let store = as_user("secret").unwrap();
    make(&store, &pool(), SEED).unwrap();
    let mut by = beats(&store, &Writer::new(coordinator(1))).unwrap();
    let root = ["--user", "root:root"];
    let rights = |arguments: &[&str]| drop(etcd.ctl(&[&root[..], arguments].concat()));
    // Every change of users makes tokens of before stale.
    rights(&["user", "add", "other:x"]);
    by = beats(&store, &by).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    by = beats(&store, &by).unwrap();
    commit(&store, &by, &next(&store)).unwrap();
    // Outside of its role.
    let user = EtcdUser { name: "tfo".to_owned(), password: "secret".to_owned().into() };
    let outside = EtcdSettings { user: Some(user), ..settings(&etcd, &etcd.urls(), "/elsewhere/") };
    assert_eq!(EtcdStore::open(outside, kek(1)).unwrap_err().kind(), "store_rejects");
    rights(&["role", "revoke-permission", "--prefix", "fleet", PREFIX]);
    let refused = beats(&store, &by).unwrap_err();
    assert!(matches!(&refused, CommitError::Store(error) if error.kind() == "store_rejects"), "{refused:?}");
    rights(&["role", "grant-permission", "--prefix", "fleet", "readwrite", PREFIX]);
    by = beats(&store, &by).unwrap();
    // A member forgets its tokens when it restarts.
    etcd.kill(0);
    assert_eq!(store.head(&pool()).unwrap_err().kind(), "store_unreachable");
    etcd.start(0);
    beats(&store, &by).unwrap();
}

#[test]
fn a_member_that_is_killed_or_stands_still_is_passed_over() {
    skip_unless!(need_etcd());
    let mut etcd = Etcd::new(&Plan::of(3));
    // One that is not there is passed over within each request, be it the first.
    let dead = format!("https://{}", tfo_testbed::free_port());
    let urls: Vec<String> = std::iter::once(dead).chain(etcd.urls()).collect();
    assert_eq!(EtcdStore::open(settings(&etcd, &urls, PREFIX), kek(1)).unwrap().pools().unwrap(), []);
    let (store, mut by) = begun(&etcd);
    let mut copy = store.load(&pool()).unwrap().unwrap();
    for (index, harm) in ["kill", "stop"].into_iter().enumerate() {
        let (leader, wanted, before) = (etcd.leader(), next(&store), now());
        match harm {
            "kill" => etcd.kill(leader),
            _ => etcd.signal(leader, Signal::STOP),
        }
        // A commit whose outcome is open is settled by a beat, and then it is known.
        let done = poll_some(SOON, || {
            let result = commit(&store, &by, &wanted);
            if is_open(&result) || matches!(result, Err(CommitError::Fenced { .. })) {
                by = poll_some(SOON, || {
                    let stored = hand_of(&store, &by)?;
                    beats(&store, &stored).ok()
                })?;
                let head = store.head(&pool()).ok()??;
                return (head.revision == wanted.document.revision).then_some(());
            }
            result.ok()
        });
        assert!(done.is_some(), "{harm}: no commit");
        eprintln!("{harm} of the leader: next commit after {:?}", before.elapsed());
        poll_some(SOON, || store.follow(&pool(), &mut copy).ok()).unwrap();
        assert_eq!(copy.content.snapshot().document, wanted.document, "{harm} {index}");
        let audit = poll_some(SOON, || store.audit(&pool(), Revision::ZERO).ok()).unwrap();
        assert_eq!(audit.len(), index + 1, "each commit counts once");
        match harm {
            "kill" => etcd.start(leader),
            _ => etcd.signal(leader, Signal::CONT),
        }
    }
    assert_eq!(poll_some(SOON, || store.load(&pool()).ok()).unwrap().unwrap().content, copy.content);
}

/// A coordinator gives a read up while it can still say in time that it is blind; a command waits for the same member.
#[test]
fn a_command_waits_longer_for_a_lone_member_than_a_coordinator() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let (serving, _) = begun(&etcd);
    let command = open_at(&etcd, PREFIX);
    etcd.signal(0, Signal::STOP);
    let waiting = std::thread::spawn(move || command.pools());
    // Twice, or one that is as impatient would meet the member that continues.
    let given_up = [serving.pools(), serving.pools()];
    etcd.signal(0, Signal::CONT);
    let is_unreachable = |result: &Result<_, StoreError>| matches!(result, Err(StoreError::Unreachable { .. }));
    assert!(given_up.iter().all(is_unreachable), "{given_up:?}");
    assert_eq!(waiting.join().unwrap().unwrap(), [pool()]);
}

/// The writer as it is stored, if the store can be read.
fn hand_of(store: &dyn ReadStore, by: &Writer) -> Option<Writer> {
    let stored = store.load(&pool()).ok()??;
    Some(Writer { last: stored.content.parts().stamp(&by.name), ..by.clone() })
}

#[test]
fn a_commit_that_is_late_takes_effect_before_a_beat_or_never() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let (direct, by) = begun(&etcd);
    let proxy = Proxy::before(etcd.address(0));
    let slow = open_through(&etcd, &proxy);
    // A commit reads first: its transaction is the large request.
    let ask = |mode: Mode, by: &Writer, wanted: &Proposal| {
        assert_eq!(revision(&slow) + 1, wanted.document.revision.get());
        proxy.set(mode);
        let asked = commit(&slow, by, wanted);
        assert!(is_open(&asked), "{asked:?}");
    };
    // Done, and its answer is lost: the beat does not undo it.
    ask(Mode::SwallowLarge, &by, &next(&direct));
    proxy.set(Mode::Pass);
    let by = beats(&direct, &by).unwrap();
    let settled = revision(&direct);
    assert_eq!(settled, 1);
    // Held back until after the beat: it never takes effect.
    let wanted = next(&direct);
    ask(Mode::HoldLarge, &by, &wanted);
    let by = beats(&direct, &by).unwrap();
    proxy.set(Mode::Pass);
    let landed = poll_until(Duration::from_secs(3), || revision(&direct) != settled);
    assert!(!landed, "a commit from before the beat has taken effect after it");
    // And without the beat it does, which is what the beat is for.
    ask(Mode::HoldLarge, &by, &wanted);
    assert_eq!(revision(&direct), settled, "not done, says a read that nothing has settled");
    proxy.set(Mode::Pass);
    assert!(poll_until(SOON, || revision(&direct) == settled + 1), "it was under way");
}

#[test]
fn nothing_is_lost_behind_a_proxy_that_delays_drops_and_cuts() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let (direct, mut by) = begun(&etcd);
    let proxy = Proxy::before(etcd.address(0));
    let store = open_through(&etcd, &proxy);
    let mut copy = store.load(&pool()).unwrap().unwrap();
    let modes = [Mode::Delay(Duration::from_millis(30)), Mode::Cut, Mode::SwallowAnswers, Mode::Pass];
    let (mut acknowledged, mut open) = (Vec::new(), 0);
    for round in 0..12 {
        proxy.set(modes[round % modes.len()]);
        let snapshot = direct.load(&pool()).unwrap().unwrap().content.snapshot().clone();
        let writes = touch(&snapshot, &by.name, [node(round as u64)]);
        match store.write(&pool(), &by, &writes) {
            Ok(()) => acknowledged.push(round as u64),
            Err(CommitError::Store(_)) => {
                open += 1;
                // As a driver does: the next write of all is a beat.
                proxy.set(Mode::Pass);
                by = poll_some(SOON, || beats(&store, &hand_of(&store, &by)?).ok()).unwrap();
            }
            Err(other) => panic!("{other:?}"),
        }
        if store.follow(&pool(), &mut copy).is_ok() {
            let stored = direct.load(&pool()).unwrap().unwrap();
            assert_eq!((copy.head, &copy.content), (stored.head, &stored.content), "round {round}");
        }
    }
    assert!(acknowledged.len() >= 4 && open >= 2, "{acknowledged:?}, {open} open");
    let nodes = direct.load(&pool()).unwrap().unwrap().content.snapshot().nodes.clone();
    assert!(acknowledged.iter().all(|number| nodes.contains_key(&node(*number))), "{acknowledged:?}: {nodes:?}");
}

#[test]
fn a_copy_survives_compaction_and_notices_a_restore() {
    skip_unless!(need_etcd());
    let mut etcd = Etcd::new(&Plan::of(1));
    let (store, by) = begun(&etcd);
    let mut copy = store.load(&pool()).unwrap().unwrap();
    let compared = |copy: &tfo_store::PoolState| {
        let stored = store.load(&pool()).unwrap().unwrap();
        assert_eq!((copy.head, &copy.content), (stored.head, &stored.content));
    };
    commit(&store, &by, &next(&store)).unwrap();
    assert_eq!(store.follow(&pool(), &mut copy).unwrap(), News::Followed);
    etcd.save("saved");
    for _ in 0..2 {
        commit(&store, &by, &next(&store)).unwrap();
    }
    etcd.ctl(&["compact", &etcd.revision().to_string()]);
    // What the copy shows is forgotten: all is read again.
    assert_eq!(store.follow(&pool(), &mut copy).unwrap(), News::ReadAgain);
    compared(&copy);
    // A restored store is older than the copy.
    let newest = copy.head;
    etcd.restore("saved");
    assert_eq!(poll_some(SOON, || store.follow(&pool(), &mut copy).ok()), Some(News::ReadAgain));
    assert!(copy.head.revision < newest.revision);
    compared(&copy);
    // Driven on by others to where the copy was, with another history.
    let mut ahead = store.load(&pool()).unwrap().unwrap();
    for _ in 0..2 {
        commit(&store, &by, &next(&store)).unwrap();
        store.follow(&pool(), &mut ahead).unwrap();
    }
    etcd.restore("saved");
    while revision(&store) < ahead.head.revision.get() || etcd.revision() < 40 {
        let (document, _) = store.document(&pool()).unwrap().unwrap();
        let mut other = proposal(&document, |document| rotate(SEED, document));
        other.audit.reason = "another history".to_owned();
        if document.revision.get() < ahead.head.revision.get() {
            commit(&store, &by, &other).unwrap();
        } else {
            etcd.ctl(&["put", "unrelated", "x"]);
        }
    }
    assert_eq!(ahead.head.revision.get(), revision(&store));
    assert_eq!(store.follow(&pool(), &mut ahead).unwrap(), News::ReadAgain, "as far, and not the same");
    compared(&ahead);
}

#[test]
fn a_roster_of_many_chunks_is_put_together_and_every_copy_follows() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let (store, by) = begun(&etcd);
    let chunks = || {
        let prefix = format!("{PREFIX}p/edge/n/");
        let found = etcd.ctl(&["get", "--prefix", &prefix, "--keys-only"]);
        found.lines().filter(|line| line.starts_with(&prefix)).count()
    };
    let mut copies: Vec<_> = (0..5).map(|_| store.load(&pool()).unwrap().unwrap()).collect();
    let mut most = 0;
    for index in 0..160_u64 {
        let snapshot = store.load(&pool()).unwrap().unwrap().content.snapshot().clone();
        let mut writes = touch(&snapshot, &by.name, [node(index % 23), node(index * 7 % 23)]);
        if index % 11 == 5 {
            writes = Writes { removed: [node(index % 23)].into(), ..Writes::default() };
        }
        store.write(&pool(), &by, &writes).unwrap();
        for (number, copy) in copies.iter_mut().enumerate() {
            if index % [1, 7, 40, 90, 159][number] == 0 {
                store.follow(&pool(), copy).unwrap();
                let stored = store.load(&pool()).unwrap().unwrap();
                assert_eq!((copy.head, &copy.content), (stored.head, &stored.content), "write {index}, copy {number}");
            }
        }
        if index % 20 == 0 {
            most = most.max(chunks());
        }
    }
    assert!((15..=40).contains(&most) && chunks() <= 40, "{most} {}", chunks());
    // Another process reads them, and continues.
    let other = open(&etcd);
    other
        .write(
            &pool(),
            &by,
            &touch(&store.load(&pool()).unwrap().unwrap().content.snapshot().clone(), &by.name, [node(1)]),
        )
        .unwrap();
    store
        .write(
            &pool(),
            &by,
            &touch(&store.load(&pool()).unwrap().unwrap().content.snapshot().clone(), &by.name, [node(2)]),
        )
        .unwrap();
    assert_eq!(see(&store, &pool()), see(&other, &pool()));
}

#[test]
fn a_database_over_its_quota_is_said_and_comes_back() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan { more: &["--quota-backend-bytes", "2000000"], ..Plan::of(1) });
    let (store, mut by) = begun(&etcd);
    let filler = "x".repeat(60_000);
    let full = poll_until(SOON, || !etcd.etcdctl(&["put", "filler", &filler]).status.success());
    assert!(full);
    let refused = beats(&store, &by).unwrap_err();
    let CommitError::Store(error) = refused else { panic!("{refused:?}") };
    assert_eq!((error.kind(), error.outcome_is_open()), ("store_quota", false));
    assert_eq!(revision(&store), 0, "reading works");
    etcd.ctl(&["compact", &etcd.revision().to_string()]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    by = beats(&store, &by).unwrap();
    commit(&store, &by, &next(&store)).unwrap();
}

#[test]
fn a_name_is_not_taken_from_a_process_that_beats() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let dir = scratch();
    let name = coordinator(1);
    let first = open(&etcd);
    first.take_name(&name, &dir.path().join("a"), NOW).unwrap();
    // Of one host: the lock tells.
    let same_host = open(&etcd).take_name(&name, &dir.path().join("a"), NOW);
    assert!(matches!(same_host, Err(StoreError::InUse { .. })), "{same_host:?}");
    // Elsewhere, while it beats.
    let mut document = super::walk::new_document(SEED);
    document.policy.absent_after_secs = 6;
    let content = tfo_engine::rollout::parts::PoolContent::new(document, tfo_engine::rollout::parts::Parts::default());
    let image = tfo_store::PoolImage { content: &content, keys: &ring(SEED, Epoch::FIRST), audit: &[] };
    first.create(&pool(), &image).unwrap();
    let mut by = beats(&first, &Writer::new(name.clone())).unwrap();
    let taken = std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| open(&etcd).take_name(&name, &dir.path().join("b"), NOW));
        while !elsewhere.is_finished() {
            by = beats(&first, &by).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        elsewhere.join().unwrap()
    });
    let Err(StoreError::InUse { holder, .. }) = taken else { panic!("{taken:?}") };
    assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    // It ends in order: the next one need not wait.
    drop(first);
    let second = open(&etcd);
    second.take_name(&name, &dir.path().join("b"), NOW).unwrap();
    // Killed: the next one of the same host need not wait, and one elsewhere waits, and takes it.
    std::mem::forget(second);
    let third = open(&etcd).take_name(&name, &dir.path().join("c"), NOW);
    third.unwrap();
}

#[test]
fn a_pool_is_made_once_by_many_and_its_log_is_bounded() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let stores: Vec<EtcdStore> = (0..4).map(|_| open(&etcd)).collect();
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = stores.iter().map(|store| scope.spawn(|| make(store, &pool(), SEED))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let others = made.iter().filter(|made| matches!(made, Err(CommitError::PoolExists { .. }))).count();
    assert_eq!((made.iter().filter(|made| made.is_ok()).count(), others), (1, 3), "{made:?}");
    // The latest ten thousand entries stay.
    let entry = |revision: u64| {
        let mut document = super::walk::new_document(SEED);
        document.revision = Revision::new(revision - 1);
        proposal(&document, |_| tfo_model::fleet::Action::Pause).audit
    };
    let audit: Vec<_> = (1..=20).chain([10_009]).map(entry).collect();
    let mut document = super::walk::new_document(SEED);
    document.revision = Revision::new(10_009);
    let audit = super::walk::linked(&document, &audit);
    let content = tfo_engine::rollout::parts::PoolContent::new(document, tfo_engine::rollout::parts::Parts::default());
    let name = pool_name("old");
    let keys = tfo_engine::rollout::document::KeyRing::default();
    stores[0].create(&name, &tfo_store::PoolImage { content: &content, keys: &keys, audit: &audit }).unwrap();
    let (document, _) = stores[0].document(&name).unwrap().unwrap();
    let next = proposal(&document, |document| rotate(SEED, document));
    let ring = ring(SEED, Epoch::new(99).unwrap());
    let _erasure = stores[0].commit(&name, &Writer::new(coordinator(1)), &next, &ring).unwrap();
    let left: Vec<u64> =
        stores[0].audit(&name, Revision::ZERO).unwrap().iter().map(|entry| entry.revision.get()).collect();
    assert_eq!(left, (11..=20).chain([10_009, 10_010]).collect::<Vec<_>>());
}
