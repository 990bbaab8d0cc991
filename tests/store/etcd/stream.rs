//! The stream by which a member tells of commits: it wakes drivers, and comes back.

use super::*;

#[test]
fn drivers_are_told_of_commits_and_the_stream_comes_back() {
    skip_unless!(need_etcd());
    let mut etcd = Etcd::new(&Plan::of(1));
    let (store, by) = begun(&etcd);
    let proxy = Proxy::before(etcd.address(0));
    let watcher = open_through(&etcd, &proxy);
    let told = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&told);
    let tell = move || {
        count.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    };
    watcher.tell(&pool(), Box::new(tell));
    let count = || told.load(std::sync::atomic::Ordering::Acquire);
    let is_open = |times: u64| poll_until(SOON, || watcher.watched().opened >= times);
    assert!(is_open(1));
    let before = count();
    commit(&store, &by, &next(&store)).unwrap();
    assert!(poll_until(SOON, || count() > before), "told of a commit");
    // Cut, and resumed where it was.
    let cut = || {
        // Connections are cut at their next byte; then all are told.
        let before = count();
        proxy.set(Mode::Cut);
        commit(&store, &by, &next(&store)).unwrap();
        assert!(poll_until(SOON, || count() > before), "cut");
    };
    cut();
    proxy.set(Mode::Pass);
    assert!(poll_until(SOON, || watcher.watched().resumed >= 1), "{:?}", watcher.watched());
    // Compacted while it was away.
    cut();
    for _ in 0..3 {
        commit(&store, &by, &next(&store)).unwrap();
    }
    etcd.ctl(&["compact", &etcd.revision().to_string()]);
    proxy.set(Mode::Pass);
    assert!(poll_until(SOON, || watcher.watched().compacted >= 1), "{:?}", watcher.watched());
    // Restored: what it would continue from does not exist yet.
    let tells = || {
        let before = count();
        commit(&store, &by, &next(&store)).unwrap();
        assert!(poll_until(SOON, || count() > before), "told of a commit");
    };
    tells();
    etcd.save("saved");
    tells();
    tells();
    etcd.restore("saved");
    assert!(poll_until(SOON, || watcher.watched().went_back >= 1), "{:?}", watcher.watched());
    let before = count();
    commit(&store, &by, &next(&store)).unwrap();
    assert!(poll_until(SOON, || count() > before), "told again");
}

#[test]
fn a_stream_that_is_silent_is_opened_at_another_member() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let (store, by) = begun(&etcd);
    let proxy = Proxy::before(etcd.address(0));
    let urls = [proxy.url(), etcd.urls().remove(0)];
    let watcher = EtcdStore::open(settings(&etcd, &urls, PREFIX), kek(1)).unwrap();
    watcher.tell(&pool(), Box::new(|| ()));
    assert!(poll_until(SOON, || watcher.watched().opened == 1));
    let mut copy = watcher.load(&pool()).unwrap().unwrap();
    proxy.set(Mode::SwallowAnswers);
    commit(&store, &by, &next(&store)).unwrap();
    // Its reads find the other way, and show what the stream does not.
    assert_eq!(watcher.follow(&pool(), &mut copy).unwrap(), News::Followed);
    assert!(
        poll_until(SOON, || watcher.watched().stuck == 1 && watcher.watched().resumed == 1),
        "{:?}",
        watcher.watched()
    );
}
