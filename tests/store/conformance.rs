//! What every kind of store does: each function is a test of the suite.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tfo_engine::rollout::document::{KeyRing, Snapshot, Stage};
use tfo_engine::rollout::record::RecordChange;
use tfo_engine::rollout::slots::PoolKey;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::Action;
use tfo_model::key::KeyFingerprint;
use tfo_store::batch::NotQueued;
use tfo_store::{
    AUDIT_READ_MAX, CommitError, MemoryStore, PoolImage, RECORDS_MAX, ReadStore, RecordOutcome, RecordQueue, Refusal,
    Store,
};

use super::walk::{self, make, node, pool_name, proposal, ring, rotate, see, step, touch};

const SEED: u64 = 7;
fn pool() -> tfo_model::ids::PoolName {
    pool_name("edge")
}

fn epoch(ordinal: u64) -> Epoch {
    Epoch::new(ordinal).unwrap()
}

fn snapshot(store: &dyn Store) -> Snapshot {
    store.load(&pool()).unwrap().unwrap().snapshot
}

/// One move of the rotation.
fn advance(store: &dyn Store) {
    let document = snapshot(store).document;
    let next = proposal(&document, |document| rotate(SEED, document));
    let _erasure = store.commit(&pool(), &next, &ring(SEED, document.next_epoch)).unwrap();
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
    let image = |keys, audit| store.create(&pool(), &PoolImage { snapshot: &state.snapshot, keys, audit });
    let nothing = KeyRing::default();
    assert!(matches!(image(&nothing, &saved.audit), Err(CommitError::Refused(Refusal::KeyMissing { .. }))));
    let twice = [saved.audit[0].clone(), saved.audit[0].clone()];
    assert!(matches!(image(&state.keys, &twice), Err(CommitError::Refused(Refusal::Audit))));
    assert!(store.load(&pool()).unwrap().is_none());
    image(&state.keys, &saved.audit).unwrap();
    saved.head.record_writes = 0;
    assert_eq!(see(store, &pool()), Some(saved));
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
    let _erasure = store.commit(&pool(), &next, &keys).unwrap();
    assert_eq!(snapshot(store).document, next.document);
    // An answer that was lost: the same proposal again is a conflict, not a second commit.
    match store.commit(&pool(), &next, &keys) {
        Err(CommitError::Conflict { expected, stored }) => assert_eq!((expected.get(), stored.get()), (0, 1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.audit(&pool(), Revision::ZERO).unwrap(), std::slice::from_ref(&next.audit));
    let nowhere = store.commit(&pool_name("nowhere"), &next, &keys);
    assert!(matches!(nowhere, Err(CommitError::NoPool { .. })));
}

pub(crate) fn a_commit_is_all_or_nothing(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    advance(store);
    store.write_records(&pool(), &[touch(&snapshot(store), &node(1))]).unwrap();
    let before = see(store, &pool()).unwrap();
    let mut next = proposal(&before.snapshot.document, |document| rotate(SEED, document));
    // The first record would be fine; another writer changed the second.
    next.records = vec![touch(&before.snapshot, &node(2)), touch(&before.snapshot, &node(1))];
    next.records[1].expected = Some(7);
    next.records[1].next = Some(walk::record(8, 8));
    match store.commit(&pool(), &next, &ring(SEED, epoch(2))) {
        Err(CommitError::RecordConflict { node: conflicting }) => assert_eq!(conflicting, node(1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(see(store, &pool()), Some(before), "neither document, record, key nor audit entry");
    next.records.pop();
    let _erasure = store.commit(&pool(), &next, &ring(SEED, epoch(2))).unwrap();
    let after = see(store, &pool()).unwrap();
    assert_eq!((after.snapshot.document, after.audit.last()), (next.document, Some(&next.audit)));
    assert!(after.snapshot.nodes.contains_key(&node(2)) && after.keys.len() == 2);
}

pub(crate) fn what_breaks_the_rules_is_refused(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    advance(store);
    advance(store);
    let before = see(store, &pool()).unwrap();
    let stored = &before.snapshot.document;
    let good = || proposal(stored, |document| rotate(SEED, document));
    let refused = |change: &dyn Fn(&mut tfo_engine::rollout::document::Proposal)| {
        let mut bad = good();
        change(&mut bad);
        match store.commit(&pool(), &bad, &ring(SEED, epoch(9))) {
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
    let change = |version| RecordChange { node: node(1), expected: None, next: Some(walk::record(version, 1)) };
    assert_eq!(refused(&|bad| bad.records = vec![change(0)]), Refusal::RecordVersion { node: node(1) });
    assert_eq!(refused(&|bad| bad.records = vec![change(1), change(1)]), Refusal::RecordTwice { node: node(1) });
    let batch = store.write_records(&pool(), &[change(1), change(0)]);
    assert!(matches!(batch, Err(CommitError::Refused(Refusal::RecordVersion { .. }))));
    assert_eq!(see(store, &pool()).as_ref(), Some(&before));
    let _erasure = store.commit(&pool(), &good(), &KeyRing::default()).unwrap();
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
    let refused = store.commit(&pool(), &back, &KeyRing::default());
    assert!(matches!(refused, Err(CommitError::Refused(Refusal::KeyMissing { epoch: gone })) if gone == epoch(1)));
    // Another key under an epoch that is held takes the place of the old bytes (a recover).
    let other = SEED + 1;
    let replaced = proposal(&document, |document| {
        document.stage = Stage::Steady { current: walk::named(other, epoch(4)), backup: None };
        Action::Recover
    });
    let _erasure = store.commit(&pool(), &replaced, &ring(other, epoch(4))).unwrap();
    let (_, keys) = store.document(&pool()).unwrap().unwrap();
    assert_eq!(keys.epochs().collect::<Vec<_>>(), [epoch(4)]);
    assert!(keys.key(epoch(4)).unwrap().same_as(&walk::key(other, epoch(4))));
}

pub(crate) fn records_are_judged_one_by_one(store: &dyn Store) {
    let change = |number, expected, next: Option<u64>| RecordChange {
        node: node(number),
        expected,
        next: next.map(|version| walk::record(version, version)),
    };
    let unknown = store.write_records(&pool(), &[change(1, None, Some(1))]);
    assert!(matches!(unknown, Err(CommitError::NoPool { .. })));
    make(store, &pool(), SEED).unwrap();
    let write = |changes: &[RecordChange]| store.write_records(&pool(), changes).unwrap();
    assert_eq!(write(&[change(1, None, Some(1)), change(2, None, Some(1))]), [RecordOutcome::Stored; 2]);
    let outcomes = write(&[
        change(1, Some(1), Some(2)),
        change(1, Some(2), Some(3)),
        change(1, Some(2), Some(3)),
        change(2, None, Some(1)),
        change(3, Some(1), Some(2)),
        change(2, Some(1), None),
        change(3, None, None),
    ]);
    let conflict = |stored| RecordOutcome::Conflict { stored };
    let stored = RecordOutcome::Stored;
    assert_eq!(outcomes, [stored, stored, conflict(Some(3)), conflict(Some(1)), conflict(None), stored, stored]);
    assert_eq!(snapshot(store).nodes, BTreeMap::from([(node(1), walk::record(3, 3))]));
    let head = store.head(&pool()).unwrap();
    assert_eq!(write(&[change(1, Some(1), Some(2))]), [conflict(Some(3))]);
    assert_eq!((write(&[]), store.head(&pool()).unwrap()), (vec![], head), "nothing written, nothing told");
    let nowhere = store.write_records(&pool_name("nowhere"), &[]);
    assert!(matches!(nowhere, Err(CommitError::NoPool { .. })));
    let many: Vec<_> = (0..=RECORDS_MAX as u64).map(|number| change(number, None, Some(1))).collect();
    let refused = store.write_records(&pool(), &many);
    assert!(matches!(refused, Err(CommitError::Refused(Refusal::TooManyRecords))));
}

pub(crate) fn acks_are_batched(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    let empty = snapshot(store);
    let admit: Vec<_> = (0..3).map(|number| touch(&empty, &node(number))).collect();
    store.write_records(&pool(), &admit).unwrap();
    let (head, stored) = (store.head(&pool()).unwrap().unwrap(), snapshot(store));
    let mut queue = RecordQueue::default();
    for number in 0..3 {
        queue.push(touch(&stored, &node(number))).unwrap();
    }
    // A second ack of a node follows on the queued one; one that was decided on the stored record does not.
    let second = RecordChange { node: node(0), expected: Some(2), next: Some(walk::record(3, 3)) };
    queue.push(second).unwrap();
    assert_eq!(queue.push(touch(&stored, &node(0))), Err(NotQueued::Conflict));
    assert_eq!((queue.len(), queue.queued(&node(0)).and_then(|queued| queued.expected)), (3, Some(1)));
    assert_eq!(snapshot(store), stored, "queued is not stored");
    // Node 2 opened a new session meanwhile: its queued ack is dropped, the others count.
    store.write_records(&pool(), &[touch(&stored, &node(2))]).unwrap();
    let outcomes = store.write_records(&pool(), &queue.take()).unwrap();
    let (stored, conflict) = (RecordOutcome::Stored, RecordOutcome::Conflict { stored: Some(2) });
    assert_eq!(outcomes, [stored, stored, conflict]);
    assert!(queue.is_empty());
    let versions: Vec<u64> = snapshot(store).nodes.values().map(|record| record.version).collect();
    assert_eq!(versions, [3, 2, 2]);
    assert_eq!(store.head(&pool()).unwrap().unwrap().record_writes, head.record_writes + 2, "one write for all");
}

/// A writer keeps the record's version equal to the document's revision; a reader must never see anything else.
pub(crate) fn a_read_is_one_snapshot(store: &dyn Store) {
    const COMMITS: u64 = 200;
    make(store, &pool(), SEED).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..COMMITS {
                let stored = snapshot(store);
                let mut next = proposal(&stored.document, |document| rotate(SEED, document));
                next.records = vec![touch(&stored, &node(1))];
                let _erasure = store.commit(&pool(), &next, &ring(SEED, stored.document.next_epoch)).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        let mut last = 0;
        while !done.load(Ordering::Acquire) {
            let state = store.load(&pool()).unwrap().unwrap();
            let (revision, nodes) = (state.snapshot.document.revision, &state.snapshot.nodes);
            assert_eq!(revision.get(), nodes.get(&node(1)).map_or(0, |record| record.version));
            assert_eq!((state.head.revision, state.head.record_writes), (revision, revision.get()));
            assert_eq!(state.keys.epochs().count(), state.snapshot.document.keys_held().len());
            assert!(last <= revision.get(), "a later read is not older");
            last = revision.get();
        }
    });
    assert_eq!(snapshot(store).document.revision.get(), COMMITS);
}

/// Each coordinator adds its own commits and records by compare-and-swap; all of both must be there, and none twice.
pub(crate) fn two_writers_lose_nothing(store: &dyn Store) {
    const EACH: u64 = 100;
    make(store, &pool(), SEED).unwrap();
    let conflicts = AtomicUsize::new(0);
    let coordinator = |me: u64| {
        let mut done = 0;
        while done < EACH {
            let stored = snapshot(store);
            let mut next = proposal(&stored.document, |document| rotate(SEED, document));
            next.audit.reason = format!("{me} {done}");
            next.records = vec![touch(&stored, &node(0))];
            match store.commit(&pool(), &next, &ring(SEED, stored.document.next_epoch)) {
                Ok(_erasure) => done += 1,
                Err(CommitError::Conflict { .. } | CommitError::RecordConflict { .. }) => {
                    conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other:?}"),
            }
            store.write_records(&pool(), &[touch(&snapshot(store), &node(0))]).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| coordinator(1));
        scope.spawn(|| coordinator(2));
    });
    let seen = see(store, &pool()).unwrap();
    assert_eq!(seen.head.revision.get(), 2 * EACH);
    let reasons: BTreeSet<&str> = seen.audit.iter().map(|entry| entry.reason.as_str()).collect();
    assert_eq!((seen.audit.len() as u64, reasons.len() as u64), (2 * EACH, 2 * EACH));
    assert!(seen.audit.iter().zip(1..).all(|(entry, revision)| entry.revision.get() == revision));
    // Every stored write of the record raised its version by one: nothing was overwritten unseen.
    assert_eq!(seen.snapshot.nodes[&node(0)].version, seen.head.record_writes);
    eprintln!("{} conflicts", conflicts.load(Ordering::Relaxed));
}

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
    let snapshot = Snapshot { document, nodes: BTreeMap::new() };
    store.create(&pool(), &PoolImage { snapshot: &snapshot, keys: &KeyRing::default(), audit: &entries }).unwrap();
    assert_eq!(store.audit(&pool(), Revision::ZERO).unwrap(), entries[..AUDIT_READ_MAX]);
    assert_eq!(store.audit(&pool(), Revision::new(AUDIT_READ_MAX as u64)).unwrap(), entries[AUDIT_READ_MAX..]);
    assert_eq!(store.audit(&pool(), Revision::new(u64::MAX)).unwrap(), []);
    assert_eq!(see(store, &pool()).unwrap().audit, entries);
}

pub(crate) fn a_random_walk_is_what_it_says(store: &dyn Store) {
    let model = MemoryStore::new();
    for index in 0..300 {
        step(store, &pool(), SEED, index).unwrap();
        step(&model, &pool(), SEED, index).unwrap();
        let (head, state) = (store.head(&pool()).unwrap(), store.load(&pool()).unwrap().unwrap());
        assert_eq!((head, &state.snapshot), (Some(state.head), &snapshot(&model)), "step {index}");
    }
    assert_eq!(see(store, &pool()), see(&model, &pool()));
}
