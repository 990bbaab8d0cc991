//! The store as the simulation uses it: every write goes through the real one, and so does every read of keys.  What is
//! stored is followed write by write, and compared with the stored head at each read, and with all that is stored now and
//! then: real reads alone would be most of the time of a run.  The latest writes are kept with their times, for copies
//! that lag behind ([`super::copies`]).

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::LazyLock;

use tfo_crypto::checksum::sha256;
use tfo_crypto::fingerprint::fingerprint;
use tfo_engine::chained_log::Row;
use tfo_engine::rollout::document::{Document, KeyRing, Proposal, Snapshot};
use tfo_engine::rollout::history::{Verifier, Written as WrittenEntry};
use tfo_engine::rollout::parts::{Parts, PoolContent, Stamp, Writer, Writes};
use tfo_model::count::Revision;
use tfo_model::ids::{CoordinatorName, PoolName};
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_store::{ChainPart, ChainRow, CommitError, Head, MemoryStore, PoolImage, ReadStore, Store};

use super::copies::LAG_SECS_MAX;
use super::fake::{FakeTrouble, Trouble};

/// Writes that are younger than this are kept, for the copy that lags most.
const LOG_SECS: u64 = LAG_SECS_MAX + 5;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    Conflict,
    /// The writer's last beat is another one than it takes it for.
    Fenced(Option<Stamp>),
    /// The store was down: nothing was done.
    No,
    /// The caller cannot know; the simulation does.
    Open {
        done: bool,
    },
}

/// What a coordinator writes next.
#[derive(Default)]
pub(crate) struct PutOff {
    pub(crate) queue: Writes,
}

/// A transaction that took effect.
enum Change {
    Written(CoordinatorName, Box<Writes>),
    Committed(Box<Proposal>),
}

impl Change {
    fn apply(&self, content: &mut PoolContent) {
        match self {
            Self::Written(by, writes) => content.write(by, writes),
            Self::Committed(proposal) => content.commit(proposal),
        }
    }
}

/// How far a copy has followed what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// How often the store was put back to an older copy.
    pub(crate) history: u64,
    /// Transactions since.
    writes: usize,
}

impl Position {
    /// Whether a copy at this position has everything that one at `other` has.
    pub(crate) fn has(self, other: Self) -> bool {
        self.history == other.history && self.writes >= other.writes
    }
}

/// An older copy of everything.
pub(crate) struct Copy {
    content: PoolContent,
    keys: KeyRing,
    audit: Vec<WrittenEntry>,
}

pub(crate) struct Shelf {
    pub(crate) store: FakeTrouble,
    /// The second at which its next call happens.
    pub(crate) at: u64,
    content: Rc<PoolContent>,
    head: Head,
    position: Position,
    /// The latest transactions, each with its second.
    log: VecDeque<(u64, Change)>,
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
        Self {
            head: inner.head(&pool()).unwrap().unwrap(),
            store: FakeTrouble::around(inner),
            at: 0,
            content: Rc::new(content),
            position: Position::default(),
            log: VecDeque::new(),
            made: BTreeMap::new(),
        }
    }

    /// What is stored.
    pub(crate) fn now(&self) -> &Snapshot {
        self.content.snapshot()
    }

    pub(crate) fn content(&self) -> &Rc<PoolContent> {
        &self.content
    }

    /// How far one has followed who has followed everything.
    pub(crate) fn position(&self) -> Position {
        self.position
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

    /// Reads what is stored, all of it or the head alone; none while the store is down.
    pub(crate) fn read(&self, whole: bool) -> Option<&Rc<PoolContent>> {
        let head = self.store.head(&pool()).ok()??;
        assert_eq!(head, self.head, "the copy is what is stored");
        if whole {
            let state = self.store.load(&pool()).ok()??;
            assert_eq!((state.head, &state.content), (self.head, &*self.content), "the copy is what is stored");
            let held = self.now().document.keys_held();
            assert!(state.keys.epochs().eq(held.iter().map(|key| key.epoch)), "the keys of the slots and no others");
        }
        Some(&self.content)
    }

    /// Brings a copy up to what was stored at the second `until`, and tells until when it was what is stored.  A copy that
    /// is too old, or of a lost history, is read again.
    pub(crate) fn follow(&self, content: &mut Rc<PoolContent>, position: &mut Position, until: u64) -> u64 {
        let first = self.position.writes - self.log.len();
        if position.history != self.position.history || position.writes < first {
            Rc::make_mut(content).read_again(PoolContent::clone(&self.content));
            *position = self.position;
            return self.at;
        }
        for (at, change) in self.log.iter().skip(position.writes - first) {
            if *at > until {
                return *at;
            }
            change.apply(Rc::make_mut(content));
            position.writes += 1;
        }
        self.at
    }

    /// Document, exclusions and audit entry in one transaction.
    pub(crate) fn commit(&mut self, by: &Writer, proposal: &Proposal) -> Written {
        let keys = self.ring(&proposal.document);
        let result = self.store.commit(&pool(), by, proposal, &keys).map(|_erasure| ());
        self.written(result, || Change::Committed(Box::new(proposal.clone())))
    }

    /// Writes into a coordinator's roster, durable at once.
    pub(crate) fn write(&mut self, by: &Writer, writes: &Writes) -> Written {
        let result = self.store.write(&pool(), by, writes);
        self.written(result, || Change::Written(by.name.clone(), Box::new(writes.clone())))
    }

    /// What became of a call, which is followed if it took effect.
    fn written(&mut self, result: Result<(), CommitError>, change: impl FnOnce() -> Change) -> Written {
        let head = self.store.inner.head(&pool()).unwrap().unwrap();
        let done = head != self.head;
        if done {
            let change = change();
            change.apply(Rc::make_mut(&mut self.content));
            self.head = head;
            self.position.writes += 1;
            self.log.push_back((self.at, change));
            while self.log.front().is_some_and(|(at, _)| at + LOG_SECS < self.at) {
                self.log.pop_front();
            }
        }
        match result {
            Ok(()) => Written::Yes,
            Err(CommitError::Conflict { .. }) => Written::Conflict,
            Err(CommitError::Fenced { stored, .. }) => Written::Fenced(stored),
            Err(CommitError::Store(error)) if error.outcome_is_open() => Written::Open { done },
            Err(CommitError::Store(_)) => Written::No,
            Err(other) => panic!("the store refuses what the engine decides: {other:?}"),
        }
    }

    pub(crate) fn copy(&self) -> Copy {
        let state = self.store.inner.load(&pool()).unwrap().unwrap();
        let audit = self.log().0.iter().map(|row| row.written().unwrap()).collect();
        Copy { content: state.content, keys: duplicate(&state.keys), audit }
    }

    /// The whole audit log as it is stored, and what it must lead to.
    fn log(&self) -> (Vec<ChainRow>, ChainPart) {
        let mut rows: Vec<ChainRow> = Vec::new();
        loop {
            let after = rows.last().map_or(Revision::ZERO, |last| last.revision);
            let part = self.store.inner.chain(&pool(), after).unwrap().unwrap();
            if part.rows.is_empty() {
                return (rows, part);
            }
            rows.extend(part.rows);
        }
    }

    /// Puts an older copy in the place of the store.
    pub(crate) fn put_back(&mut self, copy: &Copy) {
        let inner = MemoryStore::new();
        let Copy { content, keys, audit } = copy;
        inner.create(&pool(), &PoolImage { content, keys, audit }).unwrap();
        let is_down = self.store.is_down();
        self.head = inner.head(&pool()).unwrap().unwrap();
        self.content = Rc::new(content.clone());
        self.store = FakeTrouble::around(inner);
        self.store.set(if is_down { Trouble::Down } else { Trouble::None });
        self.position = Position { history: self.position.history + 1, writes: 0 };
        self.log.clear();
    }

    /// The audit log tells every revision once, the last of them that of the document, and each is a step that the rules allow.
    pub(crate) fn check_audit(&self) {
        let (rows, ChainPart { pool_id, end, .. }) = self.log();
        let mut verifier = Verifier::new(sha256, pool_id);
        let read = rows.iter().try_for_each(|ChainRow { revision, text, is_intact }| {
            verifier.take(Row { number: revision.get(), text, is_intact: *is_intact })
        });
        let verified = read.and_then(|()| verifier.finish(&end)).unwrap_or_else(|broken| panic!("{broken}: {rows:#?}"));
        assert_eq!((verified.entries, verified.last), (rows.len() as u64, self.now().document.revision.get()));
    }
}
