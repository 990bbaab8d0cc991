//! One pool at work: a thread of its own that drives the rollout and answers the nodes (`driver`), and the handle through
//! which the rest of the program talks to it.
//!
//! Why a thread: a store call blocks, and one thread that does all of them for a pool needs no lock, sees its own writes
//! in order, and writes in one transaction what came in meanwhile.  Must not know: HTTP, certificates.

mod driver;
mod message;
mod replica;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::oneshot;

pub use self::driver::verdict::without_store;
pub use self::message::{
    Asked, Busy, CommandError, Cookies, Described, Judged, Overview, PoolNames, StoreDown, Summary, Wanted, Welcome,
};
use self::message::{Message, Shared};
pub use self::replica::GivenKeys;
use self::replica::Replica;
#[cfg(test)]
pub(crate) use self::waiting::Reply;
pub use self::waiting::{Held, Mark, SyncError, Until};
use super::connections::Connections;
use super::metrics::counters::Metrics;
use tfo_engine::fence::MoveOrder;
use tfo_engine::rollout::crowd::ELSEWHERE_PARTS;
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::sync::Sync;
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::{CoordinatorName, NodeId, PoolId, PoolName};
use tfo_store::{Store, StoreError};
use tfo_wire::v1::coordinators::Coordinators;
use tfo_wire::v1::fleet::{Done, Nodes, PoolStatus};
use tfo_wire::v1::sync::SelfAnswer;

/// Requests that may wait for the driver: one for each connection, and more.
const QUEUE_MAX: usize = 32_768;
/// Shortest time that a question waits for a driver whose copy is old: one that rests reads its store first.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// What a pool shares with the rest of the program.
pub struct Watched {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The connections of each name.
    pub connections: Arc<Connections>,
}

/// A pool's driver, from outside.
pub struct Pool {
    name: PoolName,
    pool_id: PoolId,
    store: Arc<dyn Store>,
    /// Boxed: the queue has its memory for as long as the driver lives.
    sender: SyncSender<Box<Message>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// Reads the pool and starts its driver, which writes under the name `by`.  `policy` is that of the configuration file: a
    /// proposal.
    ///
    /// # Errors
    /// Fails if the store cannot be read or has no such pool, or if no thread can be started.
    pub fn start(
        (store, by): (Arc<dyn Store>, CoordinatorName),
        name: PoolName,
        policy: Policy,
        seen: Watched,
    ) -> Result<Self, StoreError> {
        let replica = Replica::open(Arc::clone(&store), name.clone(), by)?;
        let pool_id = replica.document().pool_id;
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let shared = Arc::new(Shared {
            started: clock::monotonic(),
            good_at_ms: AtomicU64::new(0),
            confirmed_at_ms: AtomicU64::new(1),
            read_at_ms: AtomicU64::new(1),
            store_fails: AtomicBool::new(false),
            revision: AtomicU64::new(replica.document().revision.get()),
            judged: ArcSwapOption::empty(),
            policy: ArcSwap::from_pointee(replica.document().policy.clone()),
            told: AtomicBool::new(false),
            is_crowded: AtomicBool::new(false),
            answered_crowded: AtomicUsize::new(0),
        });
        let driver = driver::Driver::new(replica, policy, seen, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name(format!("pool-{name}")).spawn(move || driver.run(&receiver));
        let thread = thread.map_err(|source| StoreError::Failed {
            step: "start a thread for",
            place: format!("pool {name}"),
            source: source.into(),
        })?;
        let (tell, driver) = (Arc::clone(&shared), sender.clone());
        store.tell(&name, Box::new(move || tell_once(&tell, &driver)));
        Ok(Self { name, pool_id, store, sender, shared, thread: Some(thread) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PoolName {
        &self.name
    }

    /// Its identity, as it was at the start.
    #[must_use]
    pub fn pool_id(&self) -> PoolId {
        self.pool_id
    }

    /// The policy of its document, as the driver last saw it.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.policy.load_full()
    }

    /// The revision of its document, as the driver last saw it: before the answer to the command that made it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision::new(self.shared.revision.load(Ordering::Acquire))
    }

    /// Its store, for the audit log.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// A node's sync.
    ///
    /// # Errors
    /// Fails if the driver's queue is full.
    pub fn sync(&self, node: NodeId, sync: Sync, described: Described, until: Until) -> Result<Held, Busy> {
        let (reply, held) = waiting::Reply::new(until);
        self.send(Message::Sync { node, sync: Box::new(sync), described: Box::new(described), reply })?;
        Ok(held)
    }

    /// The request of a node does not wait any more, although the driver has not answered it: its connection has ended.
    pub fn left(&self, node: NodeId, request: Mark) {
        // With a full queue the driver learns of it when the hold is over.
        self.send(Message::Left { node, request }).ok();
    }

    /// An operator's command, with the bytes of the keys that came with it.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn command(&self, wanted: Wanted, given: GivenKeys) -> Result<Result<Done, CommandError>, Busy> {
        if self.shared.is_unread() {
            // It would wait behind looks at a store that does not answer, and end in the same way.
            return Ok(Err(CommandError::StoreDown));
        }
        self.ask(|reply| Message::Wanted { wanted: Box::new(wanted), given, reply }).await
    }

    /// The state of the pool.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn status(&self) -> Result<Result<PoolStatus, StoreDown>, Busy> {
        self.look(Message::Status).await
    }

    /// The state of its nodes; `names` are those of all pools, for nodes that were moved to one.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn nodes(&self, names: PoolNames) -> Result<Result<Nodes, StoreDown>, Busy> {
        self.look(|reply| Message::Nodes { names, reply }).await
    }

    /// The same, once those whose requests wait here have said how they are now.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn fresh_nodes(&self, names: PoolNames) -> Result<Result<Nodes, StoreDown>, Busy> {
        self.look(|reply| Message::FreshNodes { names, reply }).await
    }

    /// Where an operator moved the node to, if one did.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn order_for(&self, node: NodeId) -> Result<Result<Option<MoveOrder>, StoreDown>, Busy> {
        self.look(|reply| Message::OrderFor { node, reply }).await
    }

    /// What the pool is to nodes that are to be moved to it.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn welcome(&self, nodes: BTreeSet<NodeId>) -> Result<Result<Welcome, StoreDown>, Busy> {
        self.look(|reply| Message::Welcome { nodes, reply }).await
    }

    /// What the pool knows of one node; records nothing.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn itself(&self, node: NodeId, names: PoolNames) -> Result<Result<SelfAnswer, StoreDown>, Busy> {
        self.look(|reply| Message::Itself { node, names, reply }).await
    }

    /// The pool at a glance.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn summary(&self) -> Result<Result<Summary, StoreDown>, Busy> {
        self.look(Message::Summary).await
    }

    /// The pool and all its nodes, for the page; `names` as for [`Self::nodes`].
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn overview(&self, names: PoolNames) -> Result<Result<Overview, StoreDown>, Busy> {
        self.look(|reply| Message::Overview { names, reply }).await
    }

    /// What its nodes have counted.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn cookies(&self) -> Result<Result<Cookies, StoreDown>, Busy> {
        self.look(Message::Cookies).await
    }

    /// The coordinators that its store knows.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn coordinators(&self) -> Result<Result<Coordinators, StoreDown>, Busy> {
        self.look(Message::Coordinators).await
    }

    /// Forgets one of them, and gives the others.
    ///
    /// # Errors
    /// Fails if the driver's queue is full, or if the driver ends meanwhile.
    pub async fn forget_coordinator(&self, name: CoordinatorName) -> Result<Result<Coordinators, CommandError>, Busy> {
        self.ask(|reply| Message::ForgetCoordinator { name, reply }).await
    }

    /// What the driver made of it when it last looked; none before its first look.  Asks no driver.
    #[must_use]
    pub fn judged(&self) -> Option<Arc<Judged>> {
        self.shared.judged.load_full()
    }

    /// Proposes the policy of a reloaded configuration file.
    pub fn propose_policy(&self, policy: Policy) {
        // `send` logs a full queue.
        self.send(Message::Policy(Box::new(policy))).ok();
    }

    /// Time since the driver last saw the store work, in milliseconds; none = never.
    #[must_use]
    pub fn good_ms_ago(&self) -> Option<u64> {
        let at = self.shared.good_at_ms.load(Ordering::Acquire);
        (at > 0).then(|| self.shared.now_ms().saturating_sub(at))
    }

    /// Whether the store has not confirmed the driver's copy for so long that no node may get an answer from it
    /// (docs/protocol.md#rule-7).  Asks no driver, which may be stuck in a call to its store.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.shared.is_blind()
    }

    /// Whether this answer without news sends its node to another coordinator, because this one has many more nodes.
    #[must_use]
    pub fn sends_elsewhere(&self) -> bool {
        let is_crowded = self.shared.is_crowded.load(Ordering::Relaxed);
        is_crowded && self.shared.answered_crowded.fetch_add(1, Ordering::Relaxed).is_multiple_of(ELSEWHERE_PARTS)
    }

    /// Whether the store has not been read for so long that not even an operator is shown anything.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.shared.is_unread()
    }

    /// That the store, or the driver, does not answer.
    #[must_use]
    pub fn store_down(&self) -> StoreDown {
        self.shared.store_down()
    }

    /// Whether the driver has ended, which it does only when stopped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks for what only a confirmed copy tells.  A coordinator that has not read its store for so long that it is blind, or that
    /// becomes it meanwhile, says so at once: its driver may be busy for long with a store that does not answer, and another
    /// coordinator can tell.
    async fn look<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, StoreDown>>) -> Message,
    ) -> Result<Result<T, StoreDown>, Busy> {
        if self.shared.is_unread() {
            return Ok(Err(self.store_down()));
        }
        let (reply, mut answer) = oneshot::channel();
        self.send(message(reply))?;
        loop {
            let left = self.shared.left_of_sight().max(PATIENCE_MIN);
            match tokio::time::timeout(left, &mut answer).await {
                Ok(answered) => return answered.map_err(|_| Busy),
                Err(_) if self.shared.left_of_sight().is_zero() => return Ok(Err(self.store_down())),
                // The store has confirmed the copy meanwhile.
                Err(_) => {}
            }
        }
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Busy> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply))?;
        answer.await.map_err(|_| Busy)
    }

    fn send(&self, message: Message) -> Result<(), Busy> {
        self.sender.try_send(Box::new(message)).map_err(|error| {
            if let TrySendError::Full(_) = error {
                tracing::warn!(pool = %self.name, "the driver's queue is full; a request was refused");
            }
            Busy
        })
    }
}

/// Tells the driver that the store has news, unless it was told and has not looked yet.
fn tell_once(shared: &Shared, driver: &SyncSender<Box<Message>>) {
    // A driver whose queue is full looks soon anyway.
    if !shared.told.swap(true, Ordering::AcqRel) && driver.try_send(Box::new(Message::Changed)).is_err() {
        shared.told.store(false, Ordering::Release);
    }
}

impl Drop for Pool {
    /// Waits for the driver, which may be in the middle of a commit.
    fn drop(&mut self) {
        // Waits for a place in the queue: without the message the driver would not end.  An error: it has ended already.
        drop(self.sender.send(Box::new(Message::Stop)));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(pool = %self.name, "the driver has panicked");
        }
    }
}

/// Pools by name.
pub type Pools = BTreeMap<PoolName, Arc<Pool>>;
