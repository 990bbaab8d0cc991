//! The driver with a store that fails, and with a node that never returns; the tests control the time.

mod files;
mod fresh;
mod holds;
mod news;
mod rest;
mod store;
mod turns;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::pace::{TICK_MIN, TICK_NEWS_MAX};
use super::*;
use crate::pool::message::{Asked, CommandError, Described, Wanted};
use crate::pool::replica::GivenKeys;
use crate::pool::waiting::{Held, Reply, SyncError, Until};
use tfo_crypto::random;
use tfo_engine::rollout::document::{Actor, AuditEntry, CHANGED_MAX, Document, KeyRing, Proposal, Stage};
use tfo_engine::rollout::input::{Command, OperatorRequest};
use tfo_engine::rollout::parts::{Ack, Entry, Parts, PoolContent, Writer, Writes as Queue};
use tfo_engine::rollout::policy::Share;
use tfo_engine::rollout::record::{Exclusion, Installed, Membership, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, PoolKey, Slots};
use tfo_engine::rollout::sync::{Sync, SyncRefused};
use tfo_model::count::{Epoch, Generation};
use tfo_model::fleet::Action;
use tfo_model::ids::PoolName;
use tfo_model::node::{Counters, KeySource, Session};
use tfo_store::{
    ChainPart, CommitError, Erasure, Head, MemoryStore, News, PoolImage, PoolState, ReadStore, Store, StoreError,
};
use tfo_wire::v1::fleet::Done;

const ABSENT_AFTER_SECS: u64 = 30;
/// Longer than any node may be silent here: with the longest poll and two beats.
const LIMIT_SECS: u64 = 45;
/// Longer than any test.
const LONG: Duration = Duration::from_secs(300);
/// Between two looks: less than counts as served at once.
const STEP: Duration = Duration::from_secs(5);

/// A store in memory whose reads or writes fail on demand.
#[derive(Default)]
struct FakeStore {
    inner: ArcSwap<MemoryStore>,
    no_reads: AtomicBool,
    no_writes: AtomicBool,
    /// The next commit is not answered; whether it is done all the same.
    lost: Mutex<Option<bool>>,
    /// Reads of what is new are not answered as long as this is set.
    silent: AtomicBool,
}

impl FakeStore {
    fn fail(&self, reads: bool, writes: bool) {
        self.no_reads.store(reads, Ordering::Relaxed);
        self.no_writes.store(writes, Ordering::Relaxed);
    }

    fn read(&self) -> Result<(), StoreError> {
        let place = "the fake store".to_owned();
        let failed = || StoreError::Failed { step: "read", place, source: "on demand".into() };
        if self.no_reads.load(Ordering::Relaxed) { Err(failed()) } else { Ok(()) }
    }

    fn may_write(&self) -> Result<(), StoreError> {
        let place = "the fake store".to_owned();
        let failed = || StoreError::Full { place, source: "on demand".into() };
        if self.no_writes.load(Ordering::Relaxed) { Err(failed()) } else { Ok(()) }
    }
}

impl FakeStore {
    /// Puts an older copy in its place.
    fn set_back(&self, older: &PoolState) {
        let image = PoolImage { content: &older.content, keys: &older.keys, audit: &[] };
        let inner = MemoryStore::new();
        inner.create(&pool_name(), &image).unwrap();
        self.inner.store(Arc::new(inner));
    }
}

impl ReadStore for FakeStore {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.read().and_then(|()| self.inner.load().pools())
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.read().and_then(|()| self.inner.load().head(pool))
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.read().and_then(|()| self.inner.load().load(pool))
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.read().and_then(|()| self.inner.load().document(pool))
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.read().and_then(|()| self.inner.load().audit(pool, after))
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        self.read().and_then(|()| self.inner.load().chain(pool, after))
    }
}

impl Store for FakeStore {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        self.may_write()?;
        self.inner.load().create(pool, image)
    }

    fn commit(
        &self,
        pool: &PoolName,
        by: &Writer,
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        self.may_write()?;
        let failed =
            || StoreError::Failed { step: "commit to", place: "the fake store".to_owned(), source: "lost".into() };
        match self.lost.lock().unwrap().take() {
            None => self.inner.load().commit(pool, by, proposal, keys),
            Some(false) => Err(failed().into()),
            Some(true) => self.inner.load().commit(pool, by, proposal, keys).and_then(|_erasure| Err(failed().into())),
        }
    }

    fn write(&self, pool: &PoolName, by: &Writer, writes: &Queue) -> Result<(), CommitError> {
        self.may_write()?;
        self.inner.load().write(pool, by, writes)
    }

    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        while self.silent.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.read().and_then(|()| self.inner.load().follow(pool, copy))
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        self.may_write().and_then(|()| self.inner.load().erase_leftovers())
    }
}

/// A coordinator's driver, its store, and nodes that have installed the pool's keys.
struct World {
    store: Arc<FakeStore>,
    driver: Driver,
    slots: Slots,
    /// What its nodes have counted.
    counters: Option<Counters>,
}

fn pool_name() -> PoolName {
    "edge".parse().unwrap()
}

fn policy() -> Policy {
    let mut policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    policy.absent_after_secs = ABSENT_AFTER_SECS;
    policy
}

fn driver(store: &Arc<FakeStore>, name: &str, file_policy: Policy) -> Driver {
    let replica = Replica::open(Arc::<FakeStore>::clone(store), pool_name(), name.parse().unwrap()).unwrap();
    let shared = Shared {
        started: clock::monotonic(),
        good_at_ms: AtomicU64::new(0),
        confirmed_at_ms: AtomicU64::new(1),
        read_at_ms: AtomicU64::new(1),
        store_fails: AtomicBool::new(false),
        revision: AtomicU64::new(0),
        judged: ArcSwapOption::empty(),
        policy: ArcSwap::from_pointee(replica.document().policy.clone()),
        told: AtomicBool::new(false),
        is_crowded: AtomicBool::new(false),
        answered_crowded: AtomicUsize::new(0),
    };
    let watched = Watched { metrics: Arc::new(Metrics::new()), connections: Arc::default() };
    Driver::new(replica, file_policy, watched, Arc::new(shared))
}

/// This much time passes for a driver.
fn pass(driver: &mut Driver, time: Duration) {
    let shared = &driver.shared;
    driver.shared = Arc::new(Shared {
        started: shared.started.checked_sub(time).expect("the machine has been up for longer"),
        good_at_ms: AtomicU64::new(shared.good_at_ms.load(Ordering::Relaxed)),
        confirmed_at_ms: AtomicU64::new(shared.confirmed_at_ms.load(Ordering::Relaxed)),
        read_at_ms: AtomicU64::new(shared.read_at_ms.load(Ordering::Relaxed)),
        store_fails: AtomicBool::new(shared.store_fails.load(Ordering::Relaxed)),
        revision: AtomicU64::new(shared.revision.load(Ordering::Relaxed)),
        judged: ArcSwapOption::empty(),
        policy: ArcSwap::new(shared.policy.load_full()),
        told: AtomicBool::new(false),
        is_crowded: AtomicBool::new(false),
        answered_crowded: AtomicUsize::new(0),
    });
}

impl World {
    /// A pool at rest whose backup was drained long ago, and nodes a, b and c, which have been heard.
    fn new() -> Self {
        Self::of(policy())
    }

    /// The same with this policy.
    fn of(policy: Policy) -> Self {
        let mut keys = KeyRing::default();
        let [backup, current] = [1, 2].map(|epoch| {
            let (key, epoch) = (random::fresh_key().unwrap(), Epoch::new(epoch).unwrap());
            let named = PoolKey { epoch, fingerprint: tfo_crypto::fingerprint::fingerprint(&key) };
            keys.insert(epoch, key);
            named
        });
        let pool_id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let mut document = Document::new(pool_id, policy.clone(), UnixTime::from_secs(0));
        document.rotated_at = clock::now();
        document.generation = Generation::new(5);
        document.revision = Revision::new(10);
        document.next_epoch = Epoch::new(3).unwrap();
        document.stage = Stage::Steady { current, backup: Some(backup) };
        let store = Arc::new(FakeStore::default());
        let content = PoolContent::new(document, Parts::default());
        store.create(&pool_name(), &PoolImage { content: &content, keys: &keys, audit: &[] }).unwrap();
        let driver = driver(&store, "coordinator", policy);
        let mut world = Self { store, driver, slots: Slots { primary: current, backup: Some(backup) }, counters: None };
        world.driver.tick();
        world.hear(&["a", "b", "c"]);
        assert!(world.driver.seen.presence().unseen_required(world.driver.replica.snapshot()).is_empty());
        world
    }

    /// The coordinator starts again, with this file.
    fn start_again(&mut self, file_policy: Policy) {
        self.driver = driver(&self.store, "coordinator", file_policy);
        self.driver.tick();
    }

    /// The driver's own hand, for what the test writes in its place.
    fn writer(&self) -> Writer {
        let name = self.driver.replica.by().clone();
        let last = self.store.inner.load().load(&pool_name()).unwrap().unwrap().content.parts().stamp(&name);
        Writer { name, last }
    }

    /// One sync of an agent that has installed its instruction.
    fn sync(&mut self, node: &str) -> Held {
        self.ask(node, self.generation(), Until::News(LONG))
    }

    fn generation(&self) -> Generation {
        self.driver.replica.document().generation
    }

    /// A sync of an agent whose last instruction has `generation`.
    fn ask(&mut self, node: &str, generation: Generation, until: Until) -> Held {
        let (message, held) = self.message(node, generation, until);
        assert!(self.driver.serve(vec![message]).is_continue());
        held
    }

    /// The same on its way.
    fn message(&self, node: &str, generation: Generation, until: Until) -> (Message, Held) {
        let (reply, held) = Reply::new(until);
        let fence = Fence { pool_id: self.driver.replica.document().pool_id, generation, slots: self.slots };
        let report = Report {
            fence: Some(fence),
            installed: Installed::ReadBack,
            foreign: None,
            slot_count: SlotCount::Two,
            next_sync_secs: 5,
            counters: self.counters,
            seen: generation,
            source: KeySource::Coordinator,
            holds: None,
        };
        let sync = Sync { session: Session { ordinal: 1, nonce: 1 }, seen: generation, report: report.into() };
        let described = Described {
            kernel: String::new(),
            agent: String::new(),
            tcp_fastopen: None,
            error: None,
            note: None,
            caveats: Vec::new(),
            namespaces: None,
            waits: true,
        };
        let (node, sync, described) = (node.parse().unwrap(), Box::new(sync), Box::new(described));
        (Message::Sync { node, sync, described, reply }, held)
    }

    /// A sync of an agent that has installed the present instruction.
    fn acknowledge(&mut self, node: &str) -> Held {
        self.slots = tfo_engine::rollout::wave::instructions(self.driver.replica.document())[0].slots;
        self.sync(node)
    }

    /// These nodes sync; the driver writes that and ticks.
    fn hear(&mut self, nodes: &[&str]) {
        for node in nodes {
            let request = self.sync(node).mark();
            let message = Message::Left { node: node.parse().unwrap(), request };
            assert!(self.driver.serve(vec![message]).is_continue());
        }
        self.driver.tick();
    }

    /// This much time passes.
    fn pass(&mut self, time: Duration) {
        pass(&mut self.driver, time);
    }

    /// More time than a node may be silent passes; these nodes keep syncing.
    fn pass_long(&mut self, heard: &[&str]) {
        for _ in 0..=LIMIT_SECS / STEP.as_secs() {
            self.pass(STEP);
            self.hear(heard);
        }
    }

    fn actions(&self) -> Vec<(Action, BTreeSet<NodeId>)> {
        let entries = self.store.inner.load().audit(&pool_name(), Revision::new(10)).unwrap();
        entries.into_iter().map(|entry| (entry.action, entry.nodes)).collect()
    }

    /// An operator asks for a rotation.
    fn rotate(&mut self) -> Result<Action, CommandError> {
        self.order(Command::Rotate { force: true }).map(|_| self.actions().last().unwrap().0)
    }

    /// An operator gives an order for the revision that is there now.
    fn order(&mut self, command: Command) -> Result<Done, CommandError> {
        let (reply, mut answer) = oneshot::channel();
        let order = OperatorRequest {
            operator: "ops1".parse().unwrap(),
            reason: "test".to_owned(),
            if_revision: Some(self.driver.replica.document().revision),
            command,
        };
        let message = Message::Wanted { wanted: Box::new(Wanted::Order(order)), given: GivenKeys::default(), reply };
        assert!(self.driver.serve(vec![message]).is_continue());
        answer.try_recv().unwrap()
    }

    /// How long ago the store was seen to be good, in milliseconds.
    fn good_ms_ago(&self) -> u64 {
        self.driver.shared.now_ms() - self.driver.shared.good_at_ms.load(Ordering::Relaxed)
    }

    fn standing(&self, node: &str) -> Membership {
        self.driver.replica.snapshot().nodes[&node.parse::<NodeId>().unwrap()].membership
    }
}
