//! What goes in and out of a pool's driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::oneshot;

use super::replica::GivenKeys;
use super::waiting::{Mark, Reply};
use tfo_engine::fence::MoveOrder;
use tfo_engine::rollout::ahead::WaveCookies;
use tfo_engine::rollout::input::{OperatorRequest, Refused};
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::sync::Sync;
use tfo_host::runtime::clock;
use tfo_model::caveat::Caveat;
use tfo_model::count::{Generation, Revision};
use tfo_model::fleet::NodeState;
use tfo_model::ids::{CoordinatorName, NodeId, PoolId, PoolName};
use tfo_model::key::KeyFingerprint;
use tfo_model::named::Named;
use tfo_model::node::{Counters, Expected};
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;
use tfo_wire::v1::coordinators::{CoordinatorStatus, Coordinators};
use tfo_wire::v1::fleet::{Done, FingerprintCount, NodeStatus, Nodes, PoolStatus, SlotPairShown, Verdict};
use tfo_wire::v1::sync::SelfAnswer;

/// What a node reports about itself and the store does not keep: for `nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Described {
    /// `uname -r`.
    pub kernel: String,
    /// Version of the agent.
    pub agent: String,
    /// `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<i32>,
    /// Kind of the problem that it reports.
    pub error: Option<String>,
    /// Kind of what its operator has to look at although it works.
    pub note: Option<String>,
    /// What limits or endangers TFO there although its keys are right.
    pub caveats: Vec<Named<Caveat>>,
    /// In how many network namespaces its keys were read back.
    pub namespaces: Option<u64>,
    /// Whether its request waits for news: an agent that runs all the time, and so has a connection.
    pub waits: bool,
}

/// What an operator wants, where the driver adds the pool's state or key bytes before it asks the engine.
pub enum Wanted {
    /// A complete order.
    Order(OperatorRequest),
    /// The first key; the expected nodes are those of the policy where none are given.
    FirstKey(Asked, Option<Expected>, bool),
    /// Keys that the nodes already hold: primary and backup.
    Import(Asked, Option<Expected>, KeyFingerprint, Option<KeyFingerprint>),
    /// One of the slots that may be recovered; the only one where none are given.
    Recover(Asked, Option<SlotPairShown>),
}

/// Origin of a command.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Name in the certificate.
    pub operator: NodeId,
    /// Operator's reason, for the audit log.
    pub reason: String,
    /// The revision that the operator saw: at any other the command is refused.
    pub if_revision: Option<Revision>,
}

/// Why a command was not executed.
#[derive(Debug)]
pub enum CommandError {
    /// The engine refuses it.
    Refused(Refused),
    /// This coordinator cannot execute it; the text is for people.
    NotPossible(String),
    /// The store cannot be reached; nothing was changed.
    StoreDown,
    /// The store failed during the commit: only the next look at the pool shows whether it took effect.
    OutcomeOpen,
    /// Other writers committed first every time; nothing was changed.
    Overtaken,
    /// A bug, logged.
    Internal,
}

/// The driver has ended, or its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

pub(super) enum Message {
    Sync {
        node: NodeId,
        sync: Box<Sync>,
        described: Box<Described>,
        reply: Reply,
    },
    /// The connection of a request that waits has ended, or its handler has stopped waiting.
    Left {
        node: NodeId,
        request: Mark,
    },
    Wanted {
        wanted: Box<Wanted>,
        given: GivenKeys,
        reply: oneshot::Sender<Result<Done, CommandError>>,
    },
    Status(oneshot::Sender<Result<PoolStatus, StoreDown>>),
    Nodes {
        names: PoolNames,
        reply: oneshot::Sender<Result<Nodes, StoreDown>>,
    },
    /// The same once the nodes whose requests are held have said how they are now.
    FreshNodes {
        names: PoolNames,
        reply: oneshot::Sender<Result<Nodes, StoreDown>>,
    },
    OrderFor {
        node: NodeId,
        reply: oneshot::Sender<Result<Option<MoveOrder>, StoreDown>>,
    },
    Welcome {
        nodes: BTreeSet<NodeId>,
        reply: oneshot::Sender<Result<Welcome, StoreDown>>,
    },
    Itself {
        node: NodeId,
        names: PoolNames,
        reply: oneshot::Sender<Result<SelfAnswer, StoreDown>>,
    },
    Summary(oneshot::Sender<Result<Summary, StoreDown>>),
    Overview {
        names: PoolNames,
        reply: oneshot::Sender<Result<Overview, StoreDown>>,
    },
    Cookies(oneshot::Sender<Result<Cookies, StoreDown>>),
    Coordinators(oneshot::Sender<Result<Coordinators, StoreDown>>),
    ForgetCoordinator {
        name: CoordinatorName,
        reply: oneshot::Sender<Result<Coordinators, CommandError>>,
    },
    Policy(Box<Policy>),
    /// Another coordinator has committed, or may have.
    Changed,
    Stop,
}

/// The names of the pools of this coordinator, by their identities.
pub type PoolNames = BTreeMap<PoolId, PoolName>;

/// What a pool is to nodes that are to be moved to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Where it stands; an empty pool has no keys for them.
    pub phase: Phase,
    /// Those of them that it knows.
    pub known: BTreeSet<NodeId>,
    /// Those of them that it denies.
    pub denied: BTreeSet<NodeId>,
    /// Those that were moved away from it before: its order to them must end.
    pub moved_away: BTreeSet<NodeId>,
}

/// A pool at a glance: for metrics and the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The pool as operators see it.
    pub status: PoolStatus,
    /// Number of nodes in each state, also where it is 0.
    pub states: BTreeMap<NodeState, usize>,
    /// Number of nodes with each caveat, also where it is 0; of those that this coordinator has heard since its start.
    pub caveats: BTreeMap<Caveat, usize>,
    /// Number of requests that are held until there is something new.
    pub held: usize,
    /// Number of nodes for each pair of keys, most first.
    pub fingerprints: Vec<FingerprintCount>,
    /// Fewest nodes with which a rotation starts by itself.
    pub expected_nodes: usize,
    /// When the next rotation is due; none while none starts by itself, or one runs.
    pub next_rotation_at: Option<UnixTime>,
    /// When the primary changed last; in an empty pool when it was made.
    pub rotated_at: UnixTime,
    /// Time from one rotation to the next, by its policy.
    pub interval_secs: u64,
    /// The first end of a certificate of its nodes, as far as they have connected since the start.
    pub certificate_until: Option<UnixTime>,
    /// The coordinators that have written into the pool's store, in name order.
    pub coordinators: Vec<CoordinatorStatus>,
}

/// What the driver made of its pool when it last looked: for readers that must not ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// The phase.
    pub phase: Phase,
    /// The generation.
    pub generation: Generation,
    /// The desired primary of most nodes.
    pub primary: Option<SlotPrint>,
    /// Their desired backup.
    pub backup: Option<SlotPrint>,
    /// Whether the pool holds.
    pub holds: bool,
}

/// The pool and all its nodes, from one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The pool at a glance.
    pub summary: Summary,
    /// Its nodes, in name order.
    pub nodes: Vec<NodeStatus>,
}

/// What the nodes have counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookies {
    /// The counters that each node of this coordinator reported last, since its boot; in the order of the nodes.
    pub counters: Vec<(NodeId, Counters)>,
    /// The opened waves beside the health gate's limit; none unless the pool is promoted.
    pub wave: Option<WaveCookies>,
}

/// The store cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreDown {
    /// Since when no node gets an answer for that (docs/protocol.md#rule-7); none if nodes are still held.
    pub blind_since: Option<UnixTime>,
}

/// State that the handle and the driver share.
pub(super) struct Shared {
    pub(super) started: Instant,
    /// When the store last worked, in milliseconds after `started`; 0 = never.
    pub(super) good_at_ms: AtomicU64,
    /// When the store last confirmed the driver's copy, in the same way.
    pub(super) confirmed_at_ms: AtomicU64,
    /// When the copy was last brought up to the store, in the same way: also while nothing can be written there.
    pub(super) read_at_ms: AtomicU64,
    /// A call to the store has failed since then.
    pub(super) store_fails: AtomicBool,
    /// The document's revision.
    pub(super) revision: AtomicU64,
    /// What the driver made of the pool when it last looked.
    pub(super) judged: ArcSwapOption<Judged>,
    /// The document's policy: which nodes may join, and how long a request is held.
    pub(super) policy: ArcSwap<Policy>,
    /// Whether a [`Message::Changed`] is on its way.
    pub(super) told: AtomicBool,
    /// Whether this coordinator has many more nodes than the others.
    pub(super) is_crowded: AtomicBool,
    /// Answers without news since then.
    pub(super) answered_crowded: AtomicUsize,
}

impl Shared {
    pub(super) fn now_ms(&self) -> u64 {
        let since = clock::monotonic().duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn store_confirms(&self) {
        self.confirmed_at_ms.store(self.now_ms(), Ordering::Release);
    }

    /// Time since the store last confirmed the driver's copy; since the start if it never did.
    pub(super) fn unconfirmed_for(&self) -> Duration {
        let at = self.confirmed_at_ms.load(Ordering::Acquire);
        Duration::from_millis(self.now_ms().saturating_sub(at))
    }

    /// Whether the copy is too old for answers: see [`Policy::blind_max`].
    pub(super) fn is_blind(&self) -> bool {
        self.unconfirmed_for() >= self.policy.load().blind_max()
    }

    pub(super) fn store_is_read(&self) {
        self.read_at_ms.store(self.now_ms(), Ordering::Release);
        self.store_fails.store(false, Ordering::Release);
    }

    /// Time for which the copy may still be shown, if the store stays silent.
    pub(super) fn left_of_sight(&self) -> Duration {
        let read_for = Duration::from_millis(self.now_ms().saturating_sub(self.read_at_ms.load(Ordering::Acquire)));
        self.policy.load().blind_max().saturating_sub(read_for)
    }

    /// Whether the copy is too old to be shown, and the store is known to fail: a driver that rests reads seldom.  A coordinator
    /// that reads its store, and cannot beat, is blind and shows it.
    pub(super) fn is_unread(&self) -> bool {
        self.store_fails.load(Ordering::Acquire) && self.left_of_sight().is_zero()
    }

    pub(super) fn store_down(&self) -> StoreDown {
        let blind_for = self.unconfirmed_for();
        StoreDown { blind_since: self.is_blind().then(|| clock::now().minus(blind_for.as_secs())) }
    }

    pub(super) fn store_is_good(&self) {
        self.good_at_ms.store(self.now_ms(), Ordering::Release);
    }
}
