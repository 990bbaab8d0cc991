//! A store between a coordinator's drivers and etcd that keeps from them what one rule goes by.  Everything else passes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tfo_crypto::seal::{KekId, KeyEncryptionKeys};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal};
use tfo_engine::rollout::parts::{Writer, Writes};
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;
use tfo_store::{ChainPart, CommitError, Erasure, Head, News, PoolImage, PoolState, ReadStore, Store, StoreError};
use tfo_testbed::now;

use super::forged::{self, PolicyParts};

/// How long a store that does not answer is left alone, so that the driver has time for its nodes.
const AWAY: Duration = Duration::from_secs(5);

/// A rule that is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Every node counts as having acknowledged (docs/protocol.md#rule-5).
    Barriers,
    /// A store that does not answer has nothing new (docs/protocol.md#rule-7).
    Blindness,
    /// Some node is heard all the time (docs/protocol.md#rule-11).
    Deafness,
    /// Who has a later generation has acknowledged all before it (docs/protocol.md#rule-10).
    Frozen,
    /// Drivers wait for a node for less than it was told (docs/protocol.md#rule-11).
    DetachedFirst,
    /// A document remembers no policy that was replaced (docs/protocol.md#rule-11).
    FileProposes,
    /// A commit without an answer was not done (docs/protocol.md#rule-2).
    Settled,
    /// What was compacted away is not read again.
    ReadAgain,
}

impl Rule {
    const ALL: [Self; 8] = [
        Self::Barriers,
        Self::Blindness,
        Self::Deafness,
        Self::Frozen,
        Self::DetachedFirst,
        Self::FileProposes,
        Self::Settled,
        Self::ReadAgain,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Barriers => "barriers",
            Self::Blindness => "blindness",
            Self::Deafness => "deafness",
            Self::Frozen => "frozen",
            Self::DetachedFirst => "detached_first",
            Self::FileProposes => "file_proposes",
            Self::Settled => "settled",
            Self::ReadAgain => "read_again",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|rule| rule.name() == name).expect("the bed names one")
    }
}

/// See the module.
pub(crate) struct StoreWithout {
    store: Arc<dyn Store>,
    rule: Rule,
    /// When etcd last failed to answer.
    failed_at: Mutex<Option<Instant>>,
    /// How often the ghost was heard.
    heard: AtomicU64,
    /// What the document says of its policy, if drivers are shown another one.
    policy: Mutex<Option<PolicyParts>>,
    /// A copy would have to be read again.
    is_lost: AtomicBool,
}

impl StoreWithout {
    pub(crate) fn around(store: Arc<dyn Store>, rule: Rule) -> Arc<dyn Store> {
        let (failed_at, policy) = (Mutex::new(None), Mutex::new(None));
        Arc::new(Self { store, rule, failed_at, heard: AtomicU64::new(0), policy, is_lost: AtomicBool::new(false) })
    }

    fn is_away(&self) -> bool {
        self.failed_at.lock().unwrap().is_some_and(|at| at.elapsed() < AWAY)
    }

    fn fails(&self) {
        *self.failed_at.lock().unwrap() = Some(now());
    }

    /// Shows a copy as it is without the rule; false: it is as it is stored.
    fn show(&self, copy: &mut PoolState) -> bool {
        let content = &mut copy.content;
        match self.rule {
            Rule::Blindness | Rule::Settled | Rule::ReadAgain => false,
            Rule::Barriers => forged::write(&forged::all_acked(content.snapshot()), content),
            Rule::Frozen => forged::write(&forged::later_acks_earlier(content.snapshot()), content),
            Rule::Deafness => {
                forged::haunt(content, 1 + self.heard.fetch_add(1, Ordering::Relaxed));
                true
            }
            Rule::FileProposes => forged::forgetful(content),
            Rule::DetachedFirst => {
                let stored = forged::hasty_policy(content);
                let is_changed = stored.is_some();
                if is_changed {
                    *self.policy.lock().unwrap() = stored;
                }
                is_changed | forged::write(&forged::short_periods(content.snapshot()), content)
            }
        }
    }

    /// As the client of a store that cannot go on with its copy.
    fn lost() -> StoreError {
        let (place, source) = ("etcd".to_owned(), "the revision is compacted".into());
        StoreError::Unreachable { place, source }
    }
}

impl ReadStore for StoreWithout {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.store.pools()
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.store.head(pool)
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        let loaded = self.store.load(pool)?;
        Ok(loaded.map(|mut copy| {
            self.show(&mut copy);
            copy
        }))
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.store.document(pool)
    }

    fn sealed_by(&self) -> Result<Option<KekId>, StoreError> {
        self.store.sealed_by()
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.store.audit(pool, after)
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        self.store.chain(pool, after)
    }
}

impl Store for StoreWithout {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        self.store.create(pool, image)
    }

    fn commit(
        &self,
        pool: &PoolName,
        by: &Writer,
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        let mut proposal = proposal.clone();
        if let Some(stored) = self.policy.lock().unwrap().clone() {
            proposal.document = stored.put_into(proposal.document);
        }
        match self.store.commit(pool, by, &proposal, keys) {
            Err(CommitError::Store(StoreError::Failed { place, source, .. })) if self.rule == Rule::Settled => {
                Err(CommitError::Store(StoreError::Unreachable { place, source }))
            }
            done => done,
        }
    }

    fn write(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError> {
        if self.rule != Rule::Blindness {
            return self.store.write(pool, by, writes);
        }
        if self.is_away() {
            return Ok(());
        }
        match self.store.write(pool, by, writes) {
            Err(CommitError::Store(_)) => {
                self.fails();
                Ok(())
            }
            done => done,
        }
    }

    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        if self.rule == Rule::Blindness && self.is_away() {
            return Ok(News::Same);
        }
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(Self::lost());
        }
        match (self.rule, self.store.follow(pool, copy)) {
            (Rule::Blindness, Err(_)) => {
                self.fails();
                Ok(News::Same)
            }
            (Rule::ReadAgain, Ok(News::ReadAgain)) => {
                self.is_lost.store(true, Ordering::Relaxed);
                Err(Self::lost())
            }
            (_, Ok(news)) => Ok(if self.show(copy) { News::Followed } else { news }),
            (_, Err(error)) => Err(error),
        }
    }

    fn tell(&self, pool: &PoolName, told: Box<dyn Fn() + Send + Sync>) {
        self.store.tell(pool, told);
    }

    fn set_keys(&self, keys: KeyEncryptionKeys) -> Result<(), StoreError> {
        self.store.set_keys(keys)
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        self.store.erase_leftovers()
    }
}
