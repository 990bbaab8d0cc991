//! The driver with a store that fails, and with a node that never returns; the tests control the time.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::pace::{TICK_MIN, TICK_NEWS_MAX};
use super::*;
use crate::pool::message::{CommandError, Wanted};
use crate::pool::replica::GivenKeys;
use crate::pool::waiting::{Held, Reply, SyncError, Until};
use tfo_crypto::random;
use tfo_engine::rollout::document::{Actor, AuditEntry, CHANGED_MAX, Document, KeyRing, Proposal, Stage};
use tfo_engine::rollout::input::{Command, OperatorRequest};
use tfo_engine::rollout::parts::{Ack, Entry, Parts, PoolContent, Writes as Queue};
use tfo_engine::rollout::policy::Share;
use tfo_engine::rollout::record::{Exclusion, Installed, Membership, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, PoolKey, Slots};
use tfo_engine::rollout::sync::{Sync, SyncRefused};
use tfo_model::count::{Epoch, Generation};
use tfo_model::fleet::Action;
use tfo_model::ids::{CoordinatorName, PoolName};
use tfo_model::node::{KeySource, Session};
use tfo_store::{CommitError, Erasure, Head, MemoryStore, News, PoolImage, PoolState, ReadStore, Store, StoreError};
use tfo_wire::v1::fleet::Done;

const ABSENT_AFTER_SECS: u64 = 30;
/// Longer than any node may be silent here: with the longest poll and two beats.
const LIMIT_SECS: u64 = 45;
/// Between two looks: less than counts as served at once.
const STEP: Duration = Duration::from_secs(5);

/// A store in memory whose reads or writes fail on demand.
#[derive(Default)]
struct FakeStore {
    inner: MemoryStore,
    no_reads: AtomicBool,
    no_writes: AtomicBool,
    /// The next commit is not answered; whether it is done all the same.
    lost: Mutex<Option<bool>>,
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

impl ReadStore for FakeStore {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.read().and_then(|()| self.inner.pools())
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.read().and_then(|()| self.inner.head(pool))
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.read().and_then(|()| self.inner.load(pool))
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.read().and_then(|()| self.inner.document(pool))
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.read().and_then(|()| self.inner.audit(pool, after))
    }
}

impl Store for FakeStore {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        self.may_write()?;
        self.inner.create(pool, image)
    }

    fn commit(&self, pool: &PoolName, proposal: &Proposal, keys: &KeyRing) -> Result<Erasure, CommitError> {
        self.may_write()?;
        let failed =
            || StoreError::Failed { step: "commit to", place: "the fake store".to_owned(), source: "lost".into() };
        match self.lost.lock().unwrap().take() {
            None => self.inner.commit(pool, proposal, keys),
            Some(false) => Err(failed().into()),
            Some(true) => self.inner.commit(pool, proposal, keys).and_then(|_erasure| Err(failed().into())),
        }
    }

    fn write(&self, pool: &PoolName, by: &CoordinatorName, writes: &Queue) -> Result<(), CommitError> {
        self.may_write()?;
        self.inner.write(pool, by, writes)
    }

    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        self.read().and_then(|()| self.inner.follow(pool, copy))
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.may_write()
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        self.may_write().and_then(|()| self.inner.erase_leftovers())
    }
}

/// A coordinator's driver, its store, and nodes that have installed the pool's keys.
struct World {
    store: Arc<FakeStore>,
    driver: Driver,
    slots: Slots,
}

fn pool_name() -> PoolName {
    "edge".parse().unwrap()
}

fn policy() -> Policy {
    let mut policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    policy.absent_after_secs = ABSENT_AFTER_SECS;
    policy
}

fn driver(store: &Arc<FakeStore>, file_policy: Policy) -> Driver {
    let replica = Replica::open(Arc::<FakeStore>::clone(store), pool_name(), "coordinator".parse().unwrap()).unwrap();
    let shared = Shared {
        started: clock::monotonic(),
        good_at_ms: AtomicU64::new(0),
        confirmed_at_ms: AtomicU64::new(1),
        revision: AtomicU64::new(0),
        policy: arc_swap::ArcSwap::from_pointee(replica.document().policy.clone()),
    };
    let watched = Watched { metrics: Arc::new(Metrics::new()), connections: Arc::default() };
    Driver::new(replica, file_policy, watched, Arc::new(shared))
}

impl World {
    /// A pool at rest whose backup was drained long ago, and nodes a, b and c, which have been heard.
    fn new() -> Self {
        let mut keys = KeyRing::default();
        let [backup, current] = [1, 2].map(|epoch| {
            let (key, epoch) = (random::fresh_key().unwrap(), Epoch::new(epoch).unwrap());
            let named = PoolKey { epoch, fingerprint: tfo_crypto::fingerprint::fingerprint(&key) };
            keys.insert(epoch, key);
            named
        });
        let pool_id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let mut document = Document::new(pool_id, policy(), UnixTime::from_secs(0));
        document.rotated_at = clock::now();
        document.generation = Generation::new(5);
        document.revision = Revision::new(10);
        document.next_epoch = Epoch::new(3).unwrap();
        document.stage = Stage::Steady { current, backup: Some(backup) };
        let store = Arc::new(FakeStore::default());
        let content = PoolContent::new(document, Parts::default());
        store.create(&pool_name(), &PoolImage { content: &content, keys: &keys, audit: &[] }).unwrap();
        let driver = driver(&store, policy());
        let mut world = Self { store, driver, slots: Slots { primary: current, backup: Some(backup) } };
        world.driver.tick();
        world.hear(&["a", "b", "c"]);
        assert!(world.driver.seen.presence.unseen_required(world.driver.replica.snapshot()).is_empty());
        world
    }

    /// The coordinator starts again, with this file.
    fn start_again(&mut self, file_policy: Policy) {
        self.driver = driver(&self.store, file_policy);
        self.driver.tick();
    }

    /// One sync of an agent that has installed its instruction.
    fn sync(&mut self, node: &str) -> Held {
        self.ask(node, self.generation(), Until::News)
    }

    fn generation(&self) -> Generation {
        self.driver.replica.document().generation
    }

    /// A sync of an agent whose last instruction has `generation`.
    fn ask(&mut self, node: &str, generation: Generation, until: Until) -> Held {
        let (reply, held) = Reply::new(until);
        let fence = Fence { pool_id: self.driver.replica.document().pool_id, generation, slots: self.slots };
        let report = Report {
            fence: Some(fence),
            installed: Installed::ReadBack,
            foreign: None,
            slot_count: SlotCount::Two,
            next_sync_secs: 5,
            counters: None,
            seen: generation,
            source: KeySource::Coordinator,
            holds: None,
        };
        let sync = Sync { session: Session { ordinal: 1, nonce: 1 }, seen: generation, report };
        let described =
            Described { kernel: String::new(), agent: String::new(), tcp_fastopen: None, error: None, waits: true };
        let (node, sync, described) = (node.parse().unwrap(), Box::new(sync), Box::new(described));
        assert!(self.driver.serve(vec![Message::Sync { node, sync, described, reply }]).is_continue());
        held
    }

    /// A sync of an agent that has installed the present instruction.
    fn acknowledge(&mut self, node: &str) -> Held {
        self.slots = tfo_engine::rollout::wave::instructions(self.driver.replica.document())[0].slots;
        self.sync(node)
    }

    /// These nodes sync; the driver writes that and ticks.
    fn hear(&mut self, nodes: &[&str]) {
        for node in nodes {
            drop(self.sync(node));
        }
        self.driver.tick();
    }

    /// This much time passes.
    fn pass(&mut self, time: Duration) {
        let shared = &self.driver.shared;
        self.driver.shared = Arc::new(Shared {
            started: shared.started.checked_sub(time).expect("the machine has been up for longer"),
            good_at_ms: AtomicU64::new(shared.good_at_ms.load(Ordering::Relaxed)),
            confirmed_at_ms: AtomicU64::new(shared.confirmed_at_ms.load(Ordering::Relaxed)),
            revision: AtomicU64::new(shared.revision.load(Ordering::Relaxed)),
            policy: arc_swap::ArcSwap::new(shared.policy.load_full()),
        });
    }

    /// More time than a node may be silent passes; these nodes keep syncing.
    fn pass_long(&mut self, heard: &[&str]) {
        for _ in 0..=LIMIT_SECS / STEP.as_secs() {
            self.pass(STEP);
            self.hear(heard);
        }
    }

    fn actions(&self) -> Vec<(Action, BTreeSet<NodeId>)> {
        let entries = self.store.inner.audit(&pool_name(), Revision::new(10)).unwrap();
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

#[test]
fn a_changed_file_is_applied_beside_a_node_that_never_returns() {
    let mut world = World::new();
    let mut changed = policy();
    changed.interval_secs += 60;
    world.start_again(changed.clone());
    world.hear(&["a", "c"]);
    let waits = world.driver.wait.clone().unwrap();
    assert_eq!((waits.waiting_for, world.actions()), (vec!["b".parse().unwrap()], vec![]));
    world.pass_long(&["a", "c"]);
    let nodes = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    assert_eq!(world.actions(), [(Action::Exclude, nodes(&["b"])), (Action::SetPolicy, nodes(&[]))]);
    assert_eq!(world.standing("b"), Membership::Excluded(Exclusion::Absent));
    assert_eq!(world.driver.replica.document().policy, changed);
}

/// A second coordinator over the same store, whose file has this interval.
fn second(world: &World, interval_secs: u64) -> Driver {
    driver(&world.store, Policy { interval_secs, ..policy() })
}

/// These nodes sync with this coordinator.
fn heard_by(world: &mut World, other: &mut Driver, nodes: &[&str]) {
    std::mem::swap(&mut world.driver, other);
    world.hear(nodes);
    std::mem::swap(&mut world.driver, other);
}

fn reload(driver: &mut Driver, interval_secs: u64) {
    let policy = Policy { interval_secs, ..policy() };
    assert!(driver.serve(vec![Message::Policy(Box::new(policy))]).is_continue());
}

#[test]
fn two_coordinators_with_different_files_commit_once_for_each_reload() {
    const NODES: [&str; 3] = ["a", "b", "c"];
    let mut world = World::new();
    let sets = |world: &World| world.actions().iter().filter(|(action, _)| *action == Action::SetPolicy).count();
    let interval = |world: &World| world.store.inner.document(&pool_name()).unwrap().unwrap().0.policy.interval_secs;
    let own = policy().interval_secs;
    // The file of the second one is new: its start proposes it, once.
    let mut other = second(&world, 7_200);
    heard_by(&mut world, &mut other, &NODES);
    for _ in 0..5 {
        world.driver.tick();
        other.tick();
    }
    assert_eq!((sets(&world), interval(&world)), (1, 7_200));
    assert_eq!((world.driver.differs(), other.differs()), (vec!["interval"], vec![]));
    let status = world.driver.status();
    assert_eq!((status.policy_differs, status.policy_waits), (vec!["interval".to_owned()], false));
    // The first one starts again with its old file, which takes nothing back, and drives by the pool's policy.
    world.start_again(policy());
    world.hear(&NODES);
    world.driver.tick();
    assert_eq!((sets(&world), interval(&world)), (1, 7_200));
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
    // In the middle of a rotation a reload waits for its end, whichever that is.
    reload(&mut world.driver, own);
    world.driver.tick();
    let status = world.driver.status();
    assert_eq!((status.policy_differs, status.policy_waits), (vec!["interval".to_owned()], true));
    assert_eq!((sets(&world), interval(&world)), (1, 7_200));
    assert!(world.order(Command::Abort { force: false }).is_ok());
    world.driver.tick();
    assert_eq!((sets(&world), interval(&world)), (2, own));
    // Each reload once, from either side, also with files that were there before.
    heard_by(&mut world, &mut other, &[]);
    for (expected, (of_other, interval_secs)) in (3..).zip([(true, 7_200), (false, own), (true, 9_000)]) {
        reload(if of_other { &mut other } else { &mut world.driver }, interval_secs);
        for _ in 0..5 {
            world.driver.tick();
            other.tick();
        }
        assert_eq!((sets(&world), interval(&world)), (expected, interval_secs));
    }
    let entries = world.store.inner.audit(&pool_name(), Revision::new(10)).unwrap();
    let set = entries.iter().rfind(|entry| entry.action == Action::SetPolicy).unwrap();
    assert_eq!(set.actor, Actor::Operator("coordinator-config".parse().unwrap()));
    assert_eq!(set.reason, "changed in the configuration file: interval");
}

/// A site of more nodes than one commit takes out is left behind by one command.
#[test]
fn an_advance_without_a_lost_site_is_one_command_in_several_commits() {
    let mut world = World::new();
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
    let lost: BTreeSet<NodeId> = (0..CHANGED_MAX + 5).map(|n| format!("lost{n:05}").parse().unwrap()).collect();
    let record = world.driver.replica.snapshot().nodes[&"a".parse::<NodeId>().unwrap()].clone();
    let first = Ack { report: record.report.unwrap(), syncs: 1, window: None, baseline: None, at: clock::now() };
    let entry = Entry { session: record.session.unwrap(), answers: None, first };
    let nodes: Vec<&NodeId> = lost.iter().collect();
    for nodes in nodes.chunks(1_000) {
        let entries = nodes.iter().map(|node| ((*node).clone(), entry.clone())).collect();
        let by = world.driver.replica.by().clone();
        world.store.inner.write(&pool_name(), &by, &Queue { entries, ..Queue::default() }).unwrap();
    }
    let mut document = world.driver.replica.document().clone();
    document.policy.min_present = Share::from_ppm(1).unwrap();
    document.revision = document.revision.next().unwrap();
    let audit = AuditEntry {
        revision: document.revision,
        ..world.store.inner.audit(&pool_name(), Revision::new(10)).unwrap().pop().unwrap()
    };
    let proposal = Proposal {
        expected: world.driver.replica.document().revision,
        document,
        exclusions: BTreeMap::new(),
        dropped: BTreeSet::new(),
        audit,
    };
    assert_eq!(world.store.inner.commit(&pool_name(), &proposal, &KeyRing::default()).unwrap(), Erasure::Done);
    world.driver.tick();
    let generation = world.generation();
    let leave = lost.iter().cloned().chain(["a", "b", "c"].map(|node| node.parse().unwrap())).collect();
    let before = world.actions().len();
    ["a", "b", "c"].iter().for_each(|node| drop(world.acknowledge(node)));
    let done = world.order(Command::Advance { generation, leave }).unwrap();
    assert_eq!((done.nodes.len(), done.nodes.len() + done.more), (5, CHANGED_MAX + 5));
    let actions: Vec<Action> = world.actions()[before..].iter().map(|(action, _)| *action).collect();
    assert_eq!(actions[..2], [Action::Exclude, Action::Advance]);
}

#[test]
fn time_in_which_no_record_can_be_written_makes_no_node_absent() {
    let mut world = World::new();
    world.store.fail(false, true);
    world.pass_long(&["a", "c"]);
    world.pass_long(&["a", "c"]);
    assert!(world.driver.seen.presence.absent.is_empty(), "{:?}", world.driver.seen.presence);
    assert!(world.good_ms_ago() >= ABSENT_AFTER_SECS * 1_000, "written last before it was full");
    // From the first record on that is written again it is as before.
    world.store.fail(false, false);
    world.hear(&["a", "c"]);
    assert!(world.good_ms_ago() < 5_000, "{}", world.good_ms_ago());
    assert!(world.driver.seen.presence.absent.is_empty());
    world.pass_long(&["a", "c"]);
    assert_eq!(world.driver.seen.presence.absent, BTreeSet::from(["b".parse().unwrap()]));
}

#[test]
fn time_in_which_the_store_cannot_be_read_makes_no_node_absent() {
    let mut world = World::new();
    world.store.fail(true, true);
    world.pass_long(&["a", "c"]);
    world.store.fail(false, false);
    world.hear(&["a", "c"]);
    assert!(world.driver.seen.presence.absent.is_empty(), "{:?}", world.driver.seen.presence);
    world.pass_long(&["a", "c"]);
    assert_eq!(world.driver.seen.presence.absent, BTreeSet::from(["b".parse().unwrap()]));
}

#[test]
fn without_its_store_it_answers_nothing_and_does_nothing() {
    let mut world = World::new();
    for (reads, writes) in [(true, true), (false, true)] {
        world.store.fail(reads, writes);
        let before = world.store.inner.head(&pool_name()).unwrap();
        // A session that is open is held, a new one is not.
        let mut open = world.sync("a");
        assert!(open.is_held() && open.answer().now_or_never().is_none(), "{reads}");
        let mut new = world.sync("new");
        assert_eq!(new.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))), "{reads}");
        assert!(!new.is_held(), "{reads}");
        assert!(matches!(world.rotate(), Err(CommandError::StoreDown)), "{reads}");
        world.driver.tick();
        assert_eq!(world.store.inner.head(&pool_name()).unwrap(), before);
        assert_eq!(world.driver.replica.document().stage.phase(), tfo_model::state::Phase::Steady);
    }
    world.store.fail(false, false);
    world.hear(&["a", "b", "c"]);
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
    assert_eq!(world.driver.replica.keys().epochs().count(), 3, "the keys of the store, and the one that was staged");
}

#[test]
fn a_commit_that_is_not_answered_is_settled_before_the_operator_is_told() {
    for is_done in [true, false] {
        let mut world = World::new();
        *world.store.lost.lock().unwrap() = Some(is_done);
        assert!(matches!(world.rotate(), Ok(Action::Rotate)), "{is_done}");
        let rotated = |(action, _): &(Action, BTreeSet<NodeId>)| *action == Action::Rotate;
        assert_eq!(world.actions().iter().filter(|entry| rotated(entry)).count(), 1, "{is_done}");
        assert_eq!(world.driver.replica.keys().epochs().count(), 3, "{is_done}");
    }
}

/// What it is told would be younger than what is known of it.
#[test]
fn a_request_that_is_held_without_its_record_asks_again_once_the_store_is_back() {
    let mut world = World::new();
    world.store.fail(true, true);
    let mut held = world.sync("a");
    assert!(held.is_held() && held.answer().now_or_never().is_none());
    world.store.fail(false, false);
    world.driver.tick();
    assert_eq!(held.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    let mut again = world.sync("a");
    world.driver.tick();
    assert!(again.is_held() && again.answer().now_or_never().is_none());
}

#[test]
fn a_coordinator_that_is_blind_holds_no_node() {
    let mut world = World::new();
    let mut held = world.sync("a");
    world.driver.flush();
    world.store.fail(true, true);
    world.driver.tick();
    assert!(held.is_held() && held.answer().now_or_never().is_none(), "not blind yet");
    assert_eq!(world.driver.shared.store_down().blind_since, None);
    let left = world.driver.pace.next_tick.saturating_duration_since(clock::monotonic());
    assert!(left <= policy().blind_max(), "it looks when it becomes blind: {left:?}");
    // The clock of what is shared has whole milliseconds, and begins with 1.
    world.pass(policy().blind_max() + Duration::from_millis(1));
    assert!(world.driver.shared.is_blind(), "a handler knows it without the driver");
    world.driver.tick();
    assert_eq!(held.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    let mut open = world.sync("b");
    assert_eq!(open.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    assert!(!open.is_held());
    assert!(world.driver.shared.store_down().blind_since.is_some());
    assert!(matches!(world.rotate(), Err(CommandError::StoreDown)));
    // The store is back, and it holds again.
    world.store.fail(false, false);
    let mut open = world.sync("b");
    assert!(open.is_held() && open.answer().now_or_never().is_none());
    assert_eq!(world.driver.shared.store_down().blind_since, None);
}

#[test]
fn a_coordinator_that_no_node_reaches_takes_none_for_absent() {
    let mut world = World::new();
    world.pass_long(&[]);
    world.pass_long(&[]);
    let since = world.driver.deaf_since;
    assert!(world.driver.seen.presence.absent.is_empty(), "{:?}", world.driver.seen.presence);
    assert_eq!(world.driver.status().deaf_since, since);
    assert!(since.is_some_and(|since| clock::now() >= since));
    world.hear(&["a", "c"]);
    assert_eq!((world.driver.deaf_since, world.actions()), (None, vec![]));
    world.pass_long(&["a", "c"]);
    assert_eq!(world.driver.seen.presence.absent, BTreeSet::from(["b".parse().unwrap()]));
}

#[test]
fn a_silent_store_does_not_answer_a_waiting_node() {
    let mut world = World::new();
    // a and c have not been heard in this life: b's answer would be "not heard", which must not become "nothing new".
    world.start_again(policy());
    let older = Generation::new(4);
    let mut kept = world.ask("b", older, Until::News);
    assert!(kept.awaits_others() && !kept.is_held() && kept.answer().now_or_never().is_none());
    world.store.fail(true, true);
    let mut unheard = world.ask("b", older, Until::News);
    assert_eq!(unheard.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    assert!(!unheard.is_held());
    world.store.fail(false, false);
    world.hear(&["a", "b", "c"]);
    world.store.fail(true, true);
    let mut at_once = world.ask("b", world.generation(), Until::Recorded);
    assert_eq!(at_once.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))), "not recorded");
}

#[test]
fn a_node_whose_record_cannot_be_stored_syncs_again() {
    let mut world = World::new();
    let mut held = world.sync("a");
    assert!(held.is_held() && held.answer().now_or_never().is_none());
    world.store.fail(false, true);
    world.driver.tick();
    assert_eq!(held.answer().now_or_never(), Some(Some(Err(SyncError::StoreDown))));
    world.store.fail(false, false);
    let mut done = world.ask("a", world.generation(), Until::Recorded);
    assert_eq!(done.answer().now_or_never(), Some(Some(Ok(None))));
}

#[test]
fn the_last_ack_moves_the_rollout_at_once() {
    let mut world = World::new();
    let (began, before) = (clock::monotonic(), world.actions().len());
    world.rotate().unwrap();
    world.driver.tick();
    for (node, is_last) in [("a", false), ("b", false), ("c", true)] {
        (world.driver.pace.last_tick, world.driver.pace.tick_took) = (Some(began), Duration::ZERO);
        world.driver.pace.next_tick = began + Duration::from_secs(3_600);
        drop(world.acknowledge(node));
        world.driver.flush();
        let asked = clock::monotonic();
        world.driver.tick_for_news();
        let next = world.driver.pace.next_tick;
        assert!(if is_last { next <= began + TICK_MIN } else { next >= asked + TICK_NEWS_MAX }, "{node}");
    }
    world.driver.tick();
    assert!(world.actions().len() > before + 1, "{:?}", world.actions());
}

#[test]
fn who_asks_before_all_are_heard_is_answered_with_the_last_of_them() {
    let mut world = World::new();
    let before = world.generation();
    world.rotate().unwrap();
    world.start_again(policy());
    let mut kept = world.ask("a", before, Until::News);
    assert!(kept.awaits_others() && !kept.is_held(), "its handler must not say that there is nothing new");
    let mut at_once = world.ask("c", before, Until::Recorded);
    assert_eq!(at_once.answer().now_or_never(), Some(Some(Err(SyncError::Refused(SyncRefused::NotHeard)))));
    world.driver.tick();
    assert!(kept.awaits_others() && kept.answer().now_or_never().is_none(), "b is missing");
    // Who has what it is instructed to hold may hear that there is nothing new.
    let held = world.acknowledge("b");
    assert!(held.is_held());
    world.driver.tick();
    assert!(matches!(kept.answer().now_or_never(), Some(Some(Ok(Some(_))))), "it is told its instruction");
    assert!(held.is_held());
}

#[test]
fn the_first_sync_of_a_node_in_a_life_is_news_and_later_ones_are_not() {
    let mut world = World::new();
    world.start_again(policy());
    let began = clock::monotonic();
    for (node, is_last) in [("a", false), ("b", false), ("c", true)] {
        (world.driver.pace.last_tick, world.driver.pace.tick_took) = (Some(began), Duration::ZERO);
        world.driver.pace.next_tick = began + Duration::from_secs(3_600);
        // It repeats what is stored.
        drop(world.sync(node));
        let soon = world.driver.writes.flush_at.unwrap().duration_since(clock::monotonic());
        assert!(soon <= Duration::from_millis(100), "{node}: {soon:?}");
        world.driver.flush();
        world.driver.tick_for_news();
        assert_eq!(world.driver.pace.next_tick <= began + TICK_MIN, is_last, "{node}");
    }
    world.driver.tick();
    assert!(world.driver.seen.presence.unseen_required(world.driver.replica.snapshot()).is_empty());
    drop(world.sync("a"));
    assert_eq!(world.driver.pace.news, 0);
}

#[test]
fn a_commit_wakes_those_for_whom_it_can_be_news() {
    let mut world = World::new();
    let mut held: Vec<Held> = ["a", "b", "c"].map(|node| world.sync(node)).into();
    world.driver.tick();
    let c = BTreeSet::from(["c".parse().unwrap()]);
    let (nodes, until) = (c.clone(), UnixTime::from_secs(clock::now().secs() + 3_600));
    let mut wider = policy();
    wider.absent_after_secs += 1;
    let commands = [
        (Command::Pause, 0),
        (Command::Resume { force: false }, 0),
        (Command::SetPolicy { policy: Box::new(wider) }, 0),
        (Command::Exclude { nodes: nodes.clone(), until }, 1),
        (Command::Include { nodes }, 1),
        (Command::Deny { nodes: c }, 1),
    ];
    for (command, woken) in commands {
        let (before, revision) = (world.driver.waiting.looks, world.driver.replica.document().revision);
        let name = format!("{command:?}");
        world.order(command).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        world.driver.tick();
        assert_eq!(world.driver.waiting.looks - before, woken, "{name}");
        assert!(world.driver.replica.document().revision > revision, "{name}");
    }
    assert_eq!(held.pop().unwrap().answer().now_or_never(), Some(Some(Err(SyncError::Refused(SyncRefused::Denied)))));
    assert!(held.iter_mut().all(|held| held.is_held() && held.answer().now_or_never().is_none()));
    let before = world.driver.waiting.looks;
    world.rotate().unwrap();
    assert_eq!(world.driver.waiting.looks - before, 2, "all that are held");
    for held in &mut held {
        assert!(matches!(held.answer().now_or_never(), Some(Some(Ok(Some(_))))));
    }
}

#[test]
fn a_commit_of_another_writer_and_a_frozen_pool_wake_all() {
    let mut world = World::new();
    let mut held: Vec<Held> = ["a", "b", "c"].map(|node| world.sync(node)).into();
    world.driver.tick();
    let mut other = driver(&world.store, policy());
    std::mem::swap(&mut other, &mut world.driver);
    world.driver.tick();
    world.hear(&["a", "b", "c"]);
    world.order(Command::Pause).unwrap();
    std::mem::swap(&mut other, &mut world.driver);
    world.driver.tick();
    assert_eq!(world.driver.waiting.looks, 3, "it does not say whom it concerns");
    assert!(held.iter_mut().all(|held| held.is_held() && held.answer().now_or_never().is_none()));
    let ahead = Generation::new(world.generation().get() + 1);
    drop(world.ask("a", ahead, Until::Recorded));
    world.driver.tick();
    assert_eq!(
        held.iter_mut().filter_map(|held| held.answer().now_or_never()).collect::<Vec<_>>(),
        [(); 3].map(|()| Some(Err(SyncError::Refused(SyncRefused::Frozen))))
    );
}
