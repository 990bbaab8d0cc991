//! The store as the simulation uses it: every write goes through the real one, and so does every read of keys.  A read of
//! everything is a copy that is followed write by write and is compared with the stored head each
//! time, and with all that is stored now and then: real reads alone would be most of the time of a run.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

use tfo_crypto::fingerprint::fingerprint;
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal, Snapshot};
use tfo_engine::rollout::parts::{Parts, PoolContent, Writer, Writes};
use tfo_engine::rollout::record::NodeRecord;
use tfo_engine::rollout::sync::Recording;
use tfo_model::count::Revision;
use tfo_model::ids::{CoordinatorName, NodeId, PoolName};
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_store::{CommitError, Head, MemoryStore, PARTS_MAX, PoolImage, ReadStore, Store};

use super::fake::{FakeTrouble, Trouble};
use super::fleet::coordinator;

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

/// Acks that a coordinator has put off.
#[derive(Default)]
pub(crate) struct PutOff {
    pub(crate) queue: Writes,
}

/// An older copy of everything.
pub(crate) struct Copy {
    content: PoolContent,
    keys: KeyRing,
    audit: Vec<AuditEntry>,
}

pub(crate) struct Shelf {
    pub(crate) store: FakeTrouble,
    /// What is stored.
    pub(crate) now: Rc<Snapshot>,
    content: PoolContent,
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
        let content = PoolContent::new(document, Parts::default());
        let inner = MemoryStore::new();
        inner.create(&pool(), &PoolImage { content: &content, keys: &KeyRing::default(), audit: &[] }).unwrap();
        let head = inner.head(&pool()).unwrap().unwrap();
        let now = Rc::new(content.snapshot().clone());
        Self { store: FakeTrouble::around(inner), now, content, head, made: BTreeMap::new() }
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
        assert_eq!((state.head, &state.content), (self.head, &self.content), "the copy is what is stored");
        let held = self.now.document.keys_held();
        assert!(state.keys.epochs().eq(held.iter().map(|key| key.epoch)), "the keys of the slots and no others");
        Some(self.now.clone())
    }

    /// Document, record and audit entry in one transaction.
    pub(crate) fn commit(&mut self, proposal: &Proposal) -> Written {
        let keys = self.ring(&proposal.document);
        let result = self.store.commit(&pool(), &Writer::new(coordinator(0)), proposal, &keys).map(|_erasure| ());
        let done = self.reload();
        match result {
            Ok(()) => Written::Yes,
            Err(CommitError::Conflict { .. }) => Written::Conflict,
            Err(CommitError::Store(error)) if error.outcome_is_open() => Written::Open { done },
            Err(CommitError::Store(_)) => Written::No,
            Err(other) => panic!("the store refuses what the engine decides: {other:?}"),
        }
    }

    /// The record of a node as it will be once these acks are written.
    pub(crate) fn record_after(&self, by: &CoordinatorName, off: &PutOff, node: &NodeId) -> Option<NodeRecord> {
        if !off.queue.names(node) {
            return self.now.nodes.get(node).cloned();
        }
        self.content.parts().record_after(node, Some((by, &off.queue)))
    }

    /// Writes into a coordinator's roster, durable at once.
    pub(crate) fn write(&mut self, by: &CoordinatorName, writes: &Writes) -> Written {
        match self.store.write(&pool(), &Writer::new(by.clone()), writes) {
            Ok(()) => {
                self.follow(by, writes);
                Written::Yes
            }
            Err(CommitError::Store(error)) if error.outcome_is_open() => Written::Open { done: self.reload() },
            Err(CommitError::Store(_)) => Written::No,
            Err(other) => panic!("the store refuses a write: {other:?}"),
        }
    }

    /// Puts a sync off; what is put off already is written first if there is too much.  False if it could not be put off.
    pub(crate) fn put_off(&mut self, by: &CoordinatorName, off: &mut PutOff, node: &NodeId, sync: Recording) -> bool {
        if off.queue.len() >= PARTS_MAX {
            self.flush(by, off);
            if off.queue.len() >= PARTS_MAX {
                return false;
            }
        }
        match sync {
            Recording::First(entry) => drop(off.queue.entries.insert(node.clone(), entry)),
            Recording::Later(later) => drop(off.queue.acks.insert(node.clone(), later)),
            Recording::Stale => {}
        }
        true
    }

    /// Writes what was put off.
    pub(crate) fn flush(&mut self, by: &CoordinatorName, off: &mut PutOff) {
        if off.queue.is_empty() {
            return;
        }
        match self.store.write(&pool(), &Writer::new(by.clone()), &off.queue) {
            Ok(()) => self.follow(by, &std::mem::take(&mut off.queue)),
            // It may have been done all the same; the next flush does it again.
            Err(_) => drop(self.reload()),
        }
    }

    /// Follows one write without any other writer.
    fn follow(&mut self, by: &CoordinatorName, writes: &Writes) {
        if writes.is_empty() {
            return;
        }
        self.content.write(by, writes);
        let now = Rc::make_mut(&mut self.now);
        for node in writes.nodes() {
            match self.content.snapshot().nodes.get(node) {
                Some(record) => drop(now.nodes.insert(node.clone(), record.clone())),
                None => drop(now.nodes.remove(node)),
            }
        }
        self.head.part_writes += 1;
    }

    /// Reads everything again; whether anything has changed.
    fn reload(&mut self) -> bool {
        let head = self.store.inner.head(&pool()).unwrap().unwrap();
        if head == self.head {
            return false;
        }
        self.head = head;
        self.content = self.store.inner.load(&pool()).unwrap().unwrap().content;
        self.now = Rc::new(self.content.snapshot().clone());
        true
    }

    pub(crate) fn copy(&self) -> Copy {
        let state = self.store.inner.load(&pool()).unwrap().unwrap();
        let mut audit: Vec<AuditEntry> = Vec::new();
        loop {
            let after = audit.last().map_or(Revision::ZERO, |last| last.revision);
            let page = self.store.inner.audit(&pool(), after).unwrap();
            if page.is_empty() {
                return Copy { content: state.content, keys: duplicate(&state.keys), audit };
            }
            audit.extend(page);
        }
    }

    /// Puts an older copy in the place of the store.
    pub(crate) fn put_back(&mut self, copy: &Copy) {
        let inner = MemoryStore::new();
        let Copy { content, keys, audit } = copy;
        inner.create(&pool(), &PoolImage { content, keys, audit }).unwrap();
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
