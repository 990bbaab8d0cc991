//! The store as the simulation uses it: every write goes through the real one, and so does every read of keys.  A read of
//! everything is a copy that is followed write by write and is compared with the stored head each
//! time, and with all that is stored now and then: real reads alone would be most of the time of a run.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

use tfo_crypto::fingerprint::fingerprint;
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal, Snapshot};
use tfo_engine::rollout::record::RecordChange;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_store::{CommitError, Head, MemoryStore, PoolImage, ReadStore, RecordOutcome, RecordQueue, Store};

use super::fake::{FakeTrouble, Trouble};

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    Conflict,
    /// The store was down: nothing was done.
    No,
    /// The caller cannot know; the simulation does.
    Open {
        done: bool,
    },
}

/// Acks that a coordinator has put off, and whose.
#[derive(Default)]
pub(crate) struct PutOff {
    pub(crate) queue: RecordQueue,
    nodes: Vec<NodeId>,
}

/// An older copy of everything.
pub(crate) struct Copy {
    snapshot: Snapshot,
    keys: KeyRing,
    audit: Vec<AuditEntry>,
}

pub(crate) struct Shelf {
    pub(crate) store: FakeTrouble,
    /// What is stored.
    pub(crate) now: Rc<Snapshot>,
    head: Head,
    /// Every key that was ever made, by its number.
    made: BTreeMap<KeyFingerprint, u64>,
}

pub(crate) fn pool() -> PoolName {
    // Asked for at every look at the store.
    static POOL: LazyLock<PoolName> = LazyLock::new(|| "edge".parse().unwrap());
    POOL.clone()
}

fn key(number: u64) -> TfoKey {
    let mut bytes = (u128::from(number) << 64 | 0x5eed).to_be_bytes();
    TfoKey::take(&mut bytes)
}

/// Copies keys out of a ring.
fn duplicate(keys: &KeyRing) -> KeyRing {
    let mut copy = KeyRing::default();
    for epoch in keys.epochs() {
        copy.insert(epoch, keys.key(epoch).unwrap().duplicate());
    }
    copy
}

impl Shelf {
    pub(crate) fn new(document: Document) -> Self {
        let snapshot = Snapshot { document, nodes: BTreeMap::new() };
        let inner = MemoryStore::new();
        inner.create(&pool(), &PoolImage { snapshot: &snapshot, keys: &KeyRing::default(), audit: &[] }).unwrap();
        let head = inner.head(&pool()).unwrap().unwrap();
        Self { store: FakeTrouble::around(inner), now: Rc::new(snapshot), head, made: BTreeMap::new() }
    }

    /// Makes key number `number`.
    pub(crate) fn make_key(&mut self, number: u64) -> KeyFingerprint {
        let print = fingerprint(&key(number));
        self.made.insert(print, number);
        print
    }

    fn ring(&self, document: &Document) -> KeyRing {
        let mut ring = KeyRing::default();
        for held in document.keys_held() {
            ring.insert(held.epoch, key(self.made[&held.fingerprint]));
        }
        ring
    }

    /// What a coordinator reads; none while the store is down.
    pub(crate) fn read(&self) -> Option<Rc<Snapshot>> {
        let head = self.store.head(&pool()).ok()??;
        assert_eq!(head, self.head, "the copy is what is stored");
        Some(self.now.clone())
    }

    /// The same by a whole read, with the keys.
    pub(crate) fn load(&self) -> Option<Rc<Snapshot>> {
        let state = self.store.load(&pool()).ok()??;
        assert_eq!((state.head, &state.snapshot), (self.head, &*self.now), "the copy is what is stored");
        let held = state.snapshot.document.keys_held();
        assert!(state.keys.epochs().eq(held.iter().map(|key| key.epoch)), "the keys of the slots and no others");
        Some(self.now.clone())
    }

    /// Document, record and audit entry in one transaction.
    pub(crate) fn commit(&mut self, proposal: &Proposal) -> Written {
        let keys = self.ring(&proposal.document);
        let result = self.store.commit(&pool(), proposal, &keys).map(|_erasure| ());
        let done = self.reload();
        match result {
            Ok(()) => Written::Yes,
            Err(CommitError::Conflict { .. } | CommitError::RecordConflict { .. }) => Written::Conflict,
            Err(CommitError::Store(error)) if error.outcome_is_open() => Written::Open { done },
            Err(CommitError::Store(_)) => Written::No,
            Err(other) => panic!("the store refuses what the engine decides: {other:?}"),
        }
    }

    /// One record, durable at once.
    pub(crate) fn write(&mut self, change: &RecordChange) -> Written {
        match self.store.write_records(&pool(), std::slice::from_ref(change)) {
            Ok(outcomes) if outcomes == [RecordOutcome::Stored] => {
                self.follow(std::slice::from_ref(change));
                Written::Yes
            }
            Ok(_) => Written::Conflict,
            Err(CommitError::Store(error)) if error.outcome_is_open() => Written::Open { done: self.reload() },
            Err(CommitError::Store(_)) => Written::No,
            Err(other) => panic!("the store refuses a record: {other:?}"),
        }
    }

    /// Puts an ack off; what is put off already is written if it is in the way.  False if it could not be put off.
    pub(crate) fn put_off(&mut self, off: &mut PutOff, change: &RecordChange) -> bool {
        if off.queue.push(change.clone()).is_err() {
            self.flush(off);
            if off.queue.push(change.clone()).is_err() {
                return false;
            }
        }
        if !off.nodes.contains(&change.node) {
            off.nodes.push(change.node.clone());
        }
        true
    }

    /// Writes what was put off; returns the nodes whose acks were dropped because another writer had written the record.
    pub(crate) fn flush(&mut self, off: &mut PutOff) -> Vec<NodeId> {
        let mut changes: Vec<RecordChange> =
            off.nodes.iter().map(|node| off.queue.queued(node).unwrap().clone()).collect();
        if changes.is_empty() {
            return Vec::new();
        }
        match self.store.write_records(&pool(), &changes) {
            Ok(outcomes) => {
                *off = PutOff::default();
                let all = changes.iter().zip(&outcomes);
                let dropped = all.filter(|(_, outcome)| **outcome != RecordOutcome::Stored);
                let dropped = dropped.map(|(change, _)| change.node.clone()).collect();
                let mut outcomes = outcomes.iter();
                changes.retain(|_| outcomes.next() == Some(&RecordOutcome::Stored));
                if !changes.is_empty() {
                    self.follow(&changes);
                }
                dropped
            }
            Err(_) => {
                // It may have been done all the same; then the next flush drops them.
                self.reload();
                Vec::new()
            }
        }
    }

    /// Follows one write of these records without any other writer.
    fn follow(&mut self, changes: &[RecordChange]) {
        let now = Rc::make_mut(&mut self.now);
        for change in changes {
            match &change.next {
                Some(next) => drop(now.nodes.insert(change.node.clone(), next.clone())),
                None => drop(now.nodes.remove(&change.node)),
            }
        }
        self.head.record_writes += 1;
    }

    /// Reads everything again; whether anything has changed.
    fn reload(&mut self) -> bool {
        let head = self.store.inner.head(&pool()).unwrap().unwrap();
        if head == self.head {
            return false;
        }
        self.head = head;
        self.now = Rc::new(self.store.inner.load(&pool()).unwrap().unwrap().snapshot);
        true
    }

    pub(crate) fn copy(&self) -> Copy {
        let state = self.store.inner.load(&pool()).unwrap().unwrap();
        let mut audit: Vec<AuditEntry> = Vec::new();
        loop {
            let after = audit.last().map_or(Revision::ZERO, |last| last.revision);
            let page = self.store.inner.audit(&pool(), after).unwrap();
            if page.is_empty() {
                return Copy { snapshot: state.snapshot, keys: duplicate(&state.keys), audit };
            }
            audit.extend(page);
        }
    }

    /// Puts an older copy in the place of the store.
    pub(crate) fn put_back(&mut self, copy: &Copy) {
        let inner = MemoryStore::new();
        let Copy { snapshot, keys, audit } = copy;
        inner.create(&pool(), &PoolImage { snapshot, keys, audit }).unwrap();
        let is_down = self.store.is_down();
        self.store = FakeTrouble::around(inner);
        self.store.set(if is_down { Trouble::Down } else { Trouble::None });
        self.reload();
    }

    /// The audit log tells every revision once, the last of them that of the document.
    pub(crate) fn check_audit(&self) {
        let audit = self.copy().audit;
        assert!(
            audit.iter().zip(1..).all(|(entry, revision)| entry.revision.get() == revision),
            "gaps in the audit log"
        );
        assert_eq!(audit.last().map(|last| last.revision), Some(self.now.document.revision));
    }
}
