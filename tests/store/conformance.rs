//! What every kind of store does: each function is a test of the suite.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tfo_engine::rollout::document::{KeyRing, Snapshot, Stage};
use tfo_engine::rollout::parts::{Parts, PoolContent, Stamp, Writer, Writes};
use tfo_engine::rollout::record::{Exclusion, Membership};
use tfo_engine::rollout::slots::PoolKey;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::Action;
use tfo_model::key::KeyFingerprint;
use tfo_store::{
    AUDIT_READ_MAX, CommitError, MemoryStore, News, PARTS_MAX, PoolImage, PoolState, ReadStore, Refusal, Store,
};

use tfo_testbed::by_size;

use super::walk::{
    self, beat, coordinator, exclude, hand, make, node, pool_name, proposal, ring, rotate, see, step, touch,
};

const SEED: u64 = 7;
fn pool() -> tfo_model::ids::PoolName {
    pool_name("edge")
}

fn epoch(ordinal: u64) -> Epoch {
    Epoch::new(ordinal).unwrap()
}

fn snapshot(store: &dyn Store) -> Snapshot {
    store.load(&pool()).unwrap().unwrap().content.snapshot().clone()
}

/// One move of the rotation.
fn advance(store: &dyn Store) {
    let document = snapshot(store).document;
    let next = proposal(&document, |document| rotate(SEED, document));
    let _erasure =
        store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &next, &ring(SEED, document.next_epoch)).unwrap();
}

pub(crate) fn a_pool_is_made_once(store: &dyn Store) {
    assert_eq!(store.pools().unwrap(), []);
    assert!(store.load(&pool()).unwrap().is_none() && store.head(&pool()).unwrap().is_none());
    assert!(store.document(&pool()).unwrap().is_none());
    assert_eq!(store.audit(&pool(), Revision::ZERO).unwrap(), []);
    make(store, &pool(), SEED).unwrap();
    advance(store);
    let before = see(store, &pool());
    assert!(matches!(make(store, &pool(), SEED + 1), Err(CommitError::PoolExists { .. })));
    assert_eq!(see(store, &pool()), before);
    assert_eq!(store.pools().unwrap(), [pool()]);
}

pub(crate) fn a_pool_is_made_from_a_backup(store: &dyn Store) {
    let source = MemoryStore::new();
    make(&source, &pool(), SEED).unwrap();
    for index in 0..60 {
        step(&source, &pool(), SEED, index).unwrap();
    }
    let (state, mut saved) = (source.load(&pool()).unwrap().unwrap(), see(&source, &pool()).unwrap());
    let image = |keys, audit| store.create(&pool(), &PoolImage { content: &state.content, keys, audit });
    let (nothing, log) = (KeyRing::default(), walk::links(&source, &pool()));
    assert!(matches!(image(&nothing, &log), Err(CommitError::Refused(Refusal::KeyMissing { .. }))));
    let twice = [log[0].clone(), log[0].clone()];
    assert!(matches!(image(&state.keys, &twice), Err(CommitError::Refused(Refusal::Audit))));
    assert!(store.load(&pool()).unwrap().is_none());
    image(&state.keys, &log).unwrap();
    saved.head.part_writes = 0;
    assert_eq!(see(store, &pool()), Some(saved));
    // Word for word, because later releases may print the same differently.
    assert_eq!(walk::links(store, &pool()), log);
    let ends =
        [&source as &dyn ReadStore, store].map(|store| store.chain(&pool(), Revision::ZERO).unwrap().unwrap().end);
    assert_eq!(
        (ends[0].revision, ends[0].document, ends[0].chain),
        (ends[1].revision, ends[1].document, ends[1].chain)
    );
}

pub(crate) fn pools_do_not_mix(store: &dyn Store) {
    let names: Vec<_> = ["upload", "edge", "a.b-c_d"].map(pool_name).into();
    for index in 0..40 {
        for (name, seed) in names.iter().zip(1..) {
            step(store, name, seed, index).unwrap();
        }
    }
    assert_eq!(store.pools().unwrap(), ["a.b-c_d", "edge", "upload"].map(pool_name));
    for (name, seed) in names.iter().zip(1..) {
        let alone = MemoryStore::new();
        for index in 0..40 {
            step(&alone, name, seed, index).unwrap();
        }
        assert_eq!(see(store, name), see(&alone, name));
    }
}

pub(crate) fn a_commit_counts_once(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    let next = proposal(&snapshot(store).document, |document| rotate(SEED, document));
    let keys = ring(SEED, Epoch::FIRST);
    let _erasure = store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &next, &keys).unwrap();
    assert_eq!(snapshot(store).document, next.document);
    // An answer that was lost: the same proposal again is a conflict, not a second commit.
    match store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &next, &keys) {
        Err(CommitError::Conflict { expected, stored }) => assert_eq!((expected.get(), stored.get()), (0, 1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.audit(&pool(), Revision::ZERO).unwrap(), std::slice::from_ref(&next.audit));
    let nowhere =
        store.commit(&pool_name("nowhere"), &hand(store, &pool_name("nowhere"), &coordinator(1)), &next, &keys);
    assert!(matches!(nowhere, Err(CommitError::NoPool { .. })));
}

pub(crate) fn a_commit_is_all_or_nothing(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    advance(store);
    let by = coordinator(1);
    store.write(&pool(), &hand(store, &pool(), &by), &touch(&snapshot(store), &by, [node(1)])).unwrap();
    let before = see(store, &pool()).unwrap();
    let stored = before.content.snapshot().clone();
    let mut next = proposal(&stored.document, |document| rotate(SEED, document));
    exclude(&mut next, &stored, &node(1));
    exclude(&mut next, &stored, &node(2));
    next.expected = Revision::new(7);
    next.document.revision = Revision::new(8);
    match store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &next, &ring(SEED, epoch(2))) {
        Err(CommitError::Conflict { stored, .. }) => assert_eq!(stored, before.head.revision),
        other => panic!("{other:?}"),
    }
    assert_eq!(see(store, &pool()), Some(before), "neither document, exclusion, key nor audit entry");
    (next.expected, next.document.revision) = (stored.document.revision, next.audit.revision);
    let _erasure = store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &next, &ring(SEED, epoch(2))).unwrap();
    let after = see(store, &pool()).unwrap();
    let snapshot = after.content.snapshot();
    assert_eq!((&snapshot.document, after.audit.last()), (&next.document, Some(&next.audit)));
    for number in [1, 2] {
        assert_eq!(snapshot.nodes[&node(number)].membership, Membership::Excluded(Exclusion::Absent));
    }
    assert_eq!(after.keys.len(), 2);
}

pub(crate) fn what_breaks_the_rules_is_refused(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    advance(store);
    advance(store);
    let before = see(store, &pool()).unwrap();
    let stored = &before.content.snapshot().document;
    let good = || proposal(stored, |document| rotate(SEED, document));
    let refused = |change: &dyn Fn(&mut tfo_engine::rollout::document::Proposal)| {
        let mut bad = good();
        change(&mut bad);
        match store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &bad, &ring(SEED, epoch(9))) {
            Err(CommitError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let alien = PoolKey { epoch: epoch(3), fingerprint: KeyFingerprint::from_bytes([9; 8]) };
    let staged = |next: PoolKey| Stage::Staged { current: walk::named(SEED, epoch(1)), next, prior_backup: None };
    assert_eq!(refused(&|bad| bad.document.revision = Revision::new(9)), Refusal::Revision);
    assert_eq!(refused(&|bad| bad.audit.revision = Revision::new(9)), Refusal::Audit);
    assert_eq!(refused(&|bad| bad.document.pool_id = "f".repeat(32).parse().unwrap()), Refusal::PoolId);
    assert_eq!(refused(&|bad| bad.document.generation = Generation::ZERO), Refusal::Generation);
    assert_eq!(refused(&|bad| bad.document.next_epoch = Epoch::FIRST), Refusal::NextEpoch);
    assert_eq!(refused(&|bad| bad.document.stage = staged(walk::named(SEED, epoch(3)))), Refusal::NextEpoch);
    let twice = PoolKey { epoch: epoch(1), ..alien };
    assert_eq!(refused(&|bad| bad.document.stage = staged(twice)), Refusal::Slots);
    let differs = refused(&|bad| {
        bad.document.stage = staged(alien);
        bad.document.next_epoch = epoch(4);
    });
    assert_eq!(differs, Refusal::KeyDiffers { epoch: epoch(3) });
    let missing = refused(&|bad| {
        bad.document.stage = staged(walk::named(SEED, epoch(12)));
        bad.document.next_epoch = epoch(13);
    });
    assert_eq!(missing, Refusal::KeyMissing { epoch: epoch(12) });
    let of_another_revision = refused(&|bad| {
        exclude(bad, before.content.snapshot(), &node(1));
        bad.exclusions.values_mut().for_each(|excluded| excluded.revision = Revision::new(2));
    });
    assert_eq!(of_another_revision, Refusal::Exclusion);
    assert_eq!(see(store, &pool()).as_ref(), Some(&before));
    let _erasure = store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &good(), &KeyRing::default()).unwrap();
}

pub(crate) fn keys_come_back_and_go(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        advance(store);
        let (document, keys) = store.document(&pool()).unwrap().unwrap();
        let named: BTreeSet<Epoch> = document.keys_held().iter().map(|key| key.epoch).collect();
        assert_eq!(keys.epochs().collect::<BTreeSet<_>>(), named);
        for epoch in keys.epochs() {
            assert!(keys.key(epoch).unwrap().same_as(&walk::key(SEED, epoch)));
        }
        held.push(named.into_iter().map(Epoch::get).collect::<Vec<_>>());
    }
    let walked: Vec<&[u64]> = vec![&[1], &[1, 2], &[1, 2], &[1, 2], &[1, 2, 3], &[2, 3], &[2, 3], &[2, 3, 4]];
    assert_eq!(held, walked);
    // Known keys need no bytes; an erased key does not come back without them.
    let document = snapshot(store).document;
    let back = proposal(&document, |document| {
        document.stage = Stage::Steady { current: walk::named(SEED, epoch(1)), backup: None };
        Action::Recover
    });
    let refused = store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &back, &KeyRing::default());
    assert!(matches!(refused, Err(CommitError::Refused(Refusal::KeyMissing { epoch: gone })) if gone == epoch(1)));
    // Another key under an epoch that is held takes the place of the old bytes (a recover).
    let other = SEED + 1;
    let replaced = proposal(&document, |document| {
        document.stage = Stage::Steady { current: walk::named(other, epoch(4)), backup: None };
        Action::Recover
    });
    let _erasure =
        store.commit(&pool(), &hand(store, &pool(), &coordinator(1)), &replaced, &ring(other, epoch(4))).unwrap();
    let (_, keys) = store.document(&pool()).unwrap().unwrap();
    assert_eq!(keys.epochs().collect::<Vec<_>>(), [epoch(4)]);
    assert!(keys.key(epoch(4)).unwrap().same_as(&walk::key(other, epoch(4))));
}

pub(crate) fn each_coordinator_writes_its_own_roster(store: &dyn Store) {
    let [one, two] = [1, 2].map(coordinator);
    let nowhere = store.write(&pool(), &hand(store, &pool(), &one), &Writes::default());
    assert!(matches!(nowhere, Err(CommitError::NoPool { .. })));
    make(store, &pool(), SEED).unwrap();
    let head = store.head(&pool()).unwrap();
    store.write(&pool(), &hand(store, &pool(), &one), &Writes::default()).unwrap();
    assert_eq!(store.head(&pool()).unwrap(), head, "nothing written, nothing told");
    let write = |by, nodes: &[u64]| {
        let writes = touch(&snapshot(store), by, nodes.iter().copied().map(node));
        store.write(&pool(), &hand(store, &pool(), by), &writes).unwrap();
        writes
    };
    write(&one, &[1, 2, 3]);
    let later = write(&one, &[1, 2, 3]);
    assert_eq!((later.entries.len(), later.acks.len()), (0, 3));
    // Node 2 opens a session at the other coordinator: what the first one writes of it counts for nothing any more.
    write(&two, &[2]);
    store.write(&pool(), &hand(store, &pool(), &one), &later).unwrap();
    let merged = snapshot(store).nodes;
    let seen = |number| (merged[&node(number)].coordinator.clone(), merged[&node(number)].syncs);
    assert_eq!([1, 2, 3].map(seen), [(Some(one.clone()), 2), (Some(two.clone()), 3), (Some(one.clone()), 2)]);
    // What is removed from one roster stays in the other.
    for (by, left) in [(&one, Some(3)), (&two, None)] {
        let removed = Writes { removed: [node(2), node(77)].into(), ..Writes::default() };
        store.write(&pool(), &hand(store, &pool(), by), &removed).unwrap();
        assert_eq!(snapshot(store).nodes.get(&node(2)).map(|record| record.syncs), left);
    }
    let many = touch(&snapshot(store), &one, (0..=PARTS_MAX as u64).map(node));
    let refused = store.write(&pool(), &hand(store, &pool(), &one), &many);
    assert!(matches!(refused, Err(CommitError::Refused(Refusal::TooManyParts))));
}

/// A writer that does not know its own last beat is another process, or one whose store went back (rule 18).
pub(crate) fn a_beat_fences_what_its_writer_sent_before(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    let [one, two] = [1, 2].map(coordinator);
    let beats = |by: &Writer| {
        let next = beat(by.last);
        let writes = Writes { beat: Some(next.clone()), ..Writes::default() };
        store.write(&pool(), by, &writes).map(|()| Writer { last: Some(next.stamp), ..by.clone() })
    };
    let new = Writer::new(one.clone());
    let first = beats(&new).unwrap();
    let second = beats(&first).unwrap();
    let stored = second.last;
    let nodes = |by: &Writer| touch(&snapshot(store), &by.name, [node(1)]);
    let commit = |by: &Writer| {
        let document = snapshot(store).document;
        let next = proposal(&document, |document| rotate(SEED, document));
        store.commit(&pool(), by, &next, &ring(SEED, document.next_epoch))
    };
    let ahead = Writer { last: Some(stored.unwrap().next()), ..second.clone() };
    let another = Writer { last: Some(Stamp::taken_over(stored)), ..second.clone() };
    let head = store.head(&pool()).unwrap();
    for fenced in [&new, &first, &ahead, &another] {
        for refused in [store.write(&pool(), fenced, &nodes(fenced)), beats(fenced).map(drop), commit(fenced).map(drop)]
        {
            let Err(CommitError::Fenced { name, stored: found }) = refused else { panic!("{fenced:?}: {refused:?}") };
            assert_eq!((name, found), (one.clone(), stored));
        }
        assert_eq!(store.head(&pool()).unwrap(), head, "{fenced:?}: nothing is changed");
    }
    // Another name has beats of its own, and the right hand writes.
    store.write(&pool(), &Writer::new(two.clone()), &nodes(&Writer::new(two))).unwrap();
    store.write(&pool(), &second, &nodes(&second)).unwrap();
    let _erasure = commit(&second).unwrap();
    let beats = store.load(&pool()).unwrap().unwrap().content.snapshot().beats.clone();
    assert_eq!(beats.into_iter().map(|(by, beat)| (by, Some(beat.stamp))).collect::<Vec<_>>(), [(one, stored)]);
}

/// One that any sync ends holds for the session that it closes; an operator's for each session that does not name it.
pub(crate) fn an_exclusion_meets_the_sessions_that_it_knows(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    let (by, cp) = (coordinator(1), node(1));
    let membership = || snapshot(store).nodes[&node(1)].membership;
    let commit = |change: &dyn Fn(&mut tfo_engine::rollout::document::Proposal, &Snapshot)| {
        let stored = snapshot(store);
        let mut next = proposal(&stored.document, |document| rotate(SEED, document));
        change(&mut next, &stored);
        let _erasure = store
            .commit(&pool(), &hand(store, &pool(), &coordinator(1)), &next, &ring(SEED, stored.document.next_epoch))
            .unwrap();
    };
    let excluded = |cause| {
        move |next: &mut tfo_engine::rollout::document::Proposal, stored: &Snapshot| {
            exclude(next, stored, &node(1));
            next.exclusions.values_mut().for_each(|excluded| excluded.cause = cause);
        }
    };
    let open = |answers: fn(Option<Revision>) -> Option<Revision>| {
        let stored = snapshot(store);
        let mut entry = touch(&stored, &coordinator(2), [node(1)]).entries.remove(&node(1)).unwrap();
        entry.answers = answers(entry.answers);
        store
            .write(
                &pool(),
                &hand(store, &pool(), &by),
                &Writes { entries: [(node(1), entry)].into(), ..Writes::default() },
            )
            .unwrap();
    };
    open(|_| None);
    for cause in [Exclusion::Absent, Exclusion::LeftBehind, Exclusion::Forgotten] {
        commit(&excluded(cause));
        assert_eq!(membership(), Membership::Excluded(cause));
        open(|_| None);
        assert_eq!(membership(), Membership::Admitted, "{cause:?}");
        // Decided before that session was known: it does not hit it.
        commit(&|next, stored| {
            excluded(cause)(next, stored);
            let before =
                |closed: tfo_model::node::Session| tfo_model::node::Session { ordinal: closed.ordinal - 1, ..closed };
            next.exclusions.values_mut().for_each(|excluded| excluded.closes = excluded.closes.map(before));
        });
        assert_eq!(membership(), Membership::Admitted, "{cause:?}");
    }
    let until = Exclusion::Operator { until: tfo_model::time::UnixTime::from_secs(0) };
    commit(&excluded(until));
    open(|_| None);
    assert_eq!(membership(), Membership::Excluded(until), "a session without knowledge of it does not end it");
    open(|answers| answers);
    assert_eq!(membership(), Membership::Admitted);
    commit(&excluded(Exclusion::Denied));
    open(|answers| answers);
    assert_eq!(membership(), Membership::Excluded(Exclusion::Denied), "whatever the session");
    // The last one goes with its node.
    store
        .write(&pool(), &hand(store, &pool(), &by), &Writes { removed: [cp.clone()].into(), ..Writes::default() })
        .unwrap();
    assert!(snapshot(store).nodes[&cp].coordinator.is_none());
    commit(&|next, _| next.dropped = [node(1)].into());
    assert!(snapshot(store).nodes.is_empty());
}

/// Each commit excludes the node again; a reader must never see another exclusion than that of the document's revision.
pub(crate) fn a_read_is_one_snapshot(store: &dyn Store) {
    let commits = by_size(60, 200, 200);
    make(store, &pool(), SEED).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..commits {
                let stored = snapshot(store);
                let mut next = proposal(&stored.document, |document| rotate(SEED, document));
                exclude(&mut next, &stored, &node(1));
                let _erasure = store
                    .commit(
                        &pool(),
                        &hand(store, &pool(), &coordinator(1)),
                        &next,
                        &ring(SEED, stored.document.next_epoch),
                    )
                    .unwrap();
            }
            done.store(true, Ordering::Release);
        });
        let mut last = 0;
        while !done.load(Ordering::Acquire) {
            let state = store.load(&pool()).unwrap().unwrap();
            let Snapshot { document, nodes, .. } = state.content.snapshot();
            let revision = document.revision;
            let excluded = nodes.get(&node(1)).and_then(|record| record.exclusion);
            assert_eq!(revision, excluded.unwrap_or(Revision::ZERO));
            assert_eq!((state.head.revision, state.head.part_writes), (revision, revision.get()));
            assert_eq!(state.keys.epochs().count(), document.keys_held().len());
            assert!(last <= revision.get(), "a later read is not older");
            last = revision.get();
        }
    });
    assert_eq!(snapshot(store).document.revision.get(), commits);
}

/// Each coordinator adds its own commits by compare-and-swap, and writes its roster; all of both must be there.
pub(crate) fn two_writers_lose_nothing(store: &dyn Store) {
    let each: u64 = by_size(40, 100, 100);
    make(store, &pool(), SEED).unwrap();
    let (conflicts, written) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let coordinator = |me: u64| {
        let (by, mut done) = (coordinator(me), 0);
        while done < each {
            let stored = snapshot(store);
            let mut next = proposal(&stored.document, |document| rotate(SEED, document));
            next.audit.reason = format!("{me} {done}");
            match store.commit(
                &pool(),
                &hand(store, &pool(), &coordinator(1)),
                &next,
                &ring(SEED, stored.document.next_epoch),
            ) {
                Ok(_erasure) => done += 1,
                Err(CommitError::Conflict { .. }) => {
                    conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other:?}"),
            }
            store.write(&pool(), &hand(store, &pool(), &by), &touch(&snapshot(store), &by, [node(me)])).unwrap();
            written.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| coordinator(1));
        scope.spawn(|| coordinator(2));
    });
    let seen = see(store, &pool()).unwrap();
    assert_eq!(seen.head.revision.get(), 2 * each);
    let reasons: BTreeSet<&str> = seen.audit.iter().map(|entry| entry.reason.as_str()).collect();
    assert_eq!((seen.audit.len() as u64, reasons.len() as u64), (2 * each, 2 * each));
    assert!(seen.audit.iter().zip(1..).all(|(entry, revision)| entry.revision.get() == revision));
    // No write of a roster is lost: each is one sync more.
    let syncs: u64 = seen.content.snapshot().nodes.values().map(|record| record.syncs).sum();
    assert_eq!((syncs, syncs), (seen.head.part_writes, written.load(Ordering::Relaxed) as u64));
    eprintln!("{} conflicts", conflicts.load(Ordering::Relaxed));
}

/// A copy that follows is what a read of everything gives, however far it was behind.
pub(crate) fn a_copy_follows(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    let copy_of = |store: &dyn Store| store.load(&pool()).unwrap().unwrap();
    let (mut copy, mut lagging) = (copy_of(store), copy_of(store));
    for index in 0..by_size(160, 200, 200) {
        step(store, &pool(), SEED, index).unwrap();
        let news = store.follow(&pool(), &mut copy).unwrap();
        assert_ne!(news, News::ReadAgain, "step {index}: it was one step behind");
        assert_eq!(store.follow(&pool(), &mut copy).unwrap(), News::Same);
        let followed: &mut [&mut PoolState] =
            if index % 17 == 0 { &mut [&mut copy, &mut lagging] } else { &mut [&mut copy] };
        for copy in followed {
            store.follow(&pool(), copy).unwrap();
            let read = copy_of(store);
            assert_eq!((copy.head, &copy.content), (read.head, &read.content), "step {index}");
            let fingerprints = |state: &PoolState| {
                let key = |epoch| (epoch, tfo_crypto::fingerprint::fingerprint(state.keys.key(epoch).unwrap()));
                state.keys.epochs().map(key).collect::<Vec<_>>()
            };
            assert_eq!(fingerprints(copy), fingerprints(&read), "step {index}");
        }
    }
    // A copy of another history is read again.
    copy.head.part_writes += 1_000;
    copy.head.mark ^= 1;
    assert_eq!(store.follow(&pool(), &mut copy).unwrap(), News::ReadAgain);
    assert_eq!(copy.content, copy_of(store).content);
    assert!(store.follow(&pool_name("nowhere"), &mut copy).is_err());
}

pub(crate) use super::chain::the_audit_log_is_a_chain;

pub(crate) fn the_audit_log_is_read_in_pages(store: &dyn Store) {
    let entries: Vec<_> = (1..=AUDIT_READ_MAX as u64 + 5)
        .map(|revision| {
            let mut document = walk::new_document(SEED);
            document.revision = Revision::new(revision - 1);
            proposal(&document, |_| Action::Pause).audit
        })
        .collect();
    let mut document = walk::new_document(SEED);
    document.revision = Revision::new(AUDIT_READ_MAX as u64 + 5);
    let log = walk::linked(&document, &entries);
    let content = PoolContent::new(document, Parts::default());
    store.create(&pool(), &PoolImage { content: &content, keys: &KeyRing::default(), audit: &log }).unwrap();
    assert_eq!(store.audit(&pool(), Revision::ZERO).unwrap(), entries[..AUDIT_READ_MAX]);
    assert_eq!(store.audit(&pool(), Revision::new(AUDIT_READ_MAX as u64)).unwrap(), entries[AUDIT_READ_MAX..]);
    assert_eq!(store.audit(&pool(), Revision::new(u64::MAX)).unwrap(), []);
    assert_eq!(see(store, &pool()).unwrap().audit, entries);
}

pub(crate) fn a_random_walk_is_what_it_says(store: &dyn Store) {
    let model = MemoryStore::new();
    for index in 0..by_size(100, 300, 300) {
        step(store, &pool(), SEED, index).unwrap();
        step(&model, &pool(), SEED, index).unwrap();
        let (head, state) = (store.head(&pool()).unwrap(), store.load(&pool()).unwrap().unwrap());
        let stored = model.load(&pool()).unwrap().unwrap();
        assert_eq!((head, &state.content), (Some(state.head), &stored.content), "step {index}");
    }
    assert_eq!(see(store, &pool()), see(&model, &pool()));
}
