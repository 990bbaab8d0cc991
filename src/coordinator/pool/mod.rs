//! One pool at work: a thread of its own that drives the walk and answers the nodes (`driver`), and the handle through
//! which everybody else talks to it.
//!
//! Why a thread: a store call blocks, and one thread that does all of them for a pool needs no lock, sees its own writes
//! in order, and writes what came in meanwhile in one transaction.  Must not know: HTTP, certificates.

mod book;
mod driver;
mod show;
mod trouble;
mod waiting;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

pub use self::book::GivenKeys;
#[cfg(test)]
pub(crate) use self::waiting::Reply;
pub use self::waiting::{Held, NotTold, Told, Until};
use super::metrics::Metrics;
use tfo_engine::rollout::document::Expect;
use tfo_engine::rollout::input::{Force, Order, Refused};
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::sync::Sync;
use tfo_host::runtime::clock;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::key::KeyFingerprint;
use tfo_store::{Store, StoreError};
use tfo_wire::v1::fleet::{Done, FingerprintCount, Nodes, PoolStatus, SlotPairShown};

/// Requests that may wait for the driver: one for each connection, and more.
const QUEUE_MAX: usize = 32_768;

/// What a node says of itself besides what is recorded; kept in memory only, for `nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `uname -r`.
    pub kernel: String,
    /// Version of the agent.
    pub agent: String,
    /// `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<i32>,
    /// What it says is wrong.
    pub error: Option<String>,
}

/// What an operator wants, where the engine needs the pool's state or key bytes to be asked.
pub enum Wanted {
    /// As the engine takes it.
    Order(Order),
    /// The first key; the expected nodes are those of the policy where none are given.
    FirstKey(Asked, Option<Expect>, Force),
    /// Keys that the nodes hold already: primary and backup.
    Import(Asked, Option<Expect>, KeyFingerprint, Option<KeyFingerprint>),
    /// One of the slots that may be recovered; the only one where none are given.
    Recover(Asked, Option<SlotPairShown>),
}

/// Who asks, and why.
#[derive(Debug, Clone)]
pub struct Asked {
    /// By the certificate.
    pub operator: NodeId,
    /// For the audit log.
    pub reason: String,
    /// Refused if the document has moved on from what the operator saw.
    pub if_revision: Option<tfo_model::count::Revision>,
}

/// Why a command was not done.
#[derive(Debug)]
pub enum NotDone {
    /// By the rules.
    Refused(Refused),
    /// For a reason that only this coordinator knows; for people.
    NotPossible(String),
    /// The store cannot be reached; nothing was changed.
    StoreDown,
    /// The store failed on the way: only the next look at the pool tells whether it was done.
    OutcomeOpen,
    /// Others committed first, each time; nothing was changed.
    Overtaken,
    /// Our bug, logged.
    Internal,
}

/// No answer: the driver has ended, or has too much to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

enum Message {
    Sync { node: NodeId, sync: Box<Sync>, described: Box<Described>, reply: waiting::Reply },
    Wanted { wanted: Box<Wanted>, given: GivenKeys, reply: oneshot::Sender<Result<Done, NotDone>> },
    Status(oneshot::Sender<Result<PoolStatus, StoreDown>>),
    Nodes(oneshot::Sender<Result<Nodes, StoreDown>>),
    Summary(oneshot::Sender<Result<Summary, StoreDown>>),
    Policy(Box<Policy>),
    Stop,
}

/// A pool at a glance: for metrics and the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What operators see.
    pub status: PoolStatus,
    /// How many nodes are in which state; every state is there.
    pub states: BTreeMap<tfo_model::fleet::NodeState, usize>,
    /// Requests that are held until there is something new.
    pub held: usize,
    /// How many nodes hold which keys, most first.
    pub fingerprints: Vec<FingerprintCount>,
}

/// The store cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreDown;

/// What the handle and the driver share without asking.
struct Shared {
    started: Instant,
    /// Milliseconds after `started` at which the store was last seen to be good; 0 = never.
    good_at_ms: AtomicU64,
    /// The document's policy: who may join, and how long a request is held.
    policy: ArcSwap<Policy>,
}

/// A pool's driver, from outside.
pub struct Pool {
    name: PoolName,
    store: Arc<dyn Store>,
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// Reads the pool and starts its driver.  `policy` is what the configuration file says.
    ///
    /// # Errors
    /// Fails if the store cannot be read or has no such pool, or if no thread can be started.
    pub fn start(
        store: Arc<dyn Store>,
        name: PoolName,
        policy: Policy,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let book = book::Book::open(Arc::clone(&store), name.clone())?;
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let shared = Arc::new(Shared {
            started: clock::monotonic(),
            good_at_ms: AtomicU64::new(0),
            policy: ArcSwap::from_pointee(book.document().policy.clone()),
        });
        let driver = driver::Driver::new(book, policy, metrics, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name(format!("pool-{name}")).spawn(move || driver.run(&receiver));
        let thread = thread.map_err(|source| StoreError::Failed {
            step: "start a thread for",
            place: format!("pool {name}"),
            source: source.into(),
        })?;
        Ok(Self { name, store, sender, shared, thread: Some(thread) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PoolName {
        &self.name
    }

    /// The policy of its document, as the driver last saw it.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.policy.load_full()
    }

    /// Its store, for the audit log.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// A node's sync.
    ///
    /// # Errors
    /// Fails if the driver takes no more.
    pub fn sync(&self, node: NodeId, sync: Sync, described: Described, until: Until) -> Result<Held, Busy> {
        let (reply, held) = waiting::Reply::new(until);
        self.send(Message::Sync { node, sync: Box::new(sync), described: Box::new(described), reply })?;
        Ok(held)
    }

    /// An operator's command, with the bytes of the keys that came with it.
    ///
    /// # Errors
    /// Fails if the driver takes no more, or ends meanwhile.
    pub async fn command(&self, wanted: Wanted, given: GivenKeys) -> Result<Result<Done, NotDone>, Busy> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Wanted { wanted: Box::new(wanted), given, reply })?;
        answer.await.map_err(|_| Busy)
    }

    /// What the pool looks like.
    ///
    /// # Errors
    /// Fails if the driver takes no more, or ends meanwhile.
    pub async fn status(&self) -> Result<Result<PoolStatus, StoreDown>, Busy> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Status(reply))?;
        answer.await.map_err(|_| Busy)
    }

    /// What its nodes look like.
    ///
    /// # Errors
    /// Fails if the driver takes no more, or ends meanwhile.
    pub async fn nodes(&self) -> Result<Result<Nodes, StoreDown>, Busy> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Nodes(reply))?;
        answer.await.map_err(|_| Busy)
    }

    /// The pool at a glance.
    ///
    /// # Errors
    /// Fails if the driver takes no more, or ends meanwhile.
    pub async fn summary(&self) -> Result<Result<Summary, StoreDown>, Busy> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Summary(reply))?;
        answer.await.map_err(|_| Busy)
    }

    /// The configuration file says this now.
    pub fn take_policy(&self, policy: Policy) {
        // A driver that takes no more says so itself.
        self.send(Message::Policy(Box::new(policy))).ok();
    }

    /// How long ago the driver last saw the store to be good, in milliseconds; none = never.
    #[must_use]
    pub fn good_ms_ago(&self) -> Option<u64> {
        let at = self.shared.good_at_ms.load(Ordering::Acquire);
        (at > 0).then(|| self.shared.now_ms().saturating_sub(at))
    }

    /// Whether the driver has ended, which it only does when told to.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets all waiting nodes go, and takes no more.
    pub fn stop(&self) {
        self.send(Message::Stop).ok();
    }

    fn send(&self, message: Message) -> Result<(), Busy> {
        self.sender.try_send(message).map_err(|error| {
            if let TrySendError::Full(_) = error {
                tracing::warn!(pool = %self.name, "more requests than the driver can take");
            }
            Busy
        })
    }
}

impl Drop for Pool {
    /// Waits for the driver: it may be at a commit.
    fn drop(&mut self) {
        // Waits for a place in the queue: without the message there is no end.  An error: it has ended already.
        drop(self.sender.send(Message::Stop));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(pool = %self.name, "the driver has panicked");
        }
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        let since = clock::monotonic().duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn store_is_good(&self) {
        self.good_at_ms.store(self.now_ms(), Ordering::Release);
    }
}

/// Pools by name.
pub type Pools = BTreeMap<PoolName, Arc<Pool>>;
