//! The world of the model check: one store, two coordinators, a few nodes with file and kernel memory as what they
//! are, and the messages between them.  Time is left out: whatever depends on it may happen at any moment.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use tfo_engine::fence::{Ask, Link};
use tfo_engine::rollout::document::{Document, Proposal, Snapshot, Stage};
use tfo_engine::rollout::parts::{Ack, Entry, Later, Parts, PoolContent, Stamp, Writes};
use tfo_engine::rollout::policy::{NamePattern, Policy, Share, WaveRule};
use tfo_engine::rollout::presence::Life;
pub(crate) use tfo_engine::rollout::record::SlotCount;
use tfo_engine::rollout::record::{Installed, Report};
use tfo_engine::rollout::slots::{Fence, Instruction, PoolKey, Slots};
use tfo_engine::rollout::sync::Sync;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::ids::{CoordinatorName, NodeId, PoolId};
use tfo_model::key::KeyFingerprint;
use tfo_model::node::{Expected, KeySource, Session};
use tfo_model::time::UnixTime;

use super::rules::Off;
use super::stored::{Counts, Stored, plain};

#[derive(Debug, Clone, Default)]
pub(crate) struct Coordinator {
    /// Bit per node that was seen in this life, if the store goes back only under coordinators that are stopped.
    pub heard: u8,
    /// The engine's own memory, where the store goes back under running coordinators, ...
    pub life: Life,
    /// ... and the snapshot that it looked at last: all that it remembers is of this one.
    pub looked: Option<Rc<Stored>>,
    /// Computed from a snapshot, not yet committed.
    pub pending: Option<Rc<Proposal>>,
    /// Its next decision is not committed at once.
    pub hesitates: bool,
    /// Its copy of the store, if that lags behind, ...
    pub copy: Option<Rc<Stored>>,
    /// ... and the one that it sees next, if it does not catch up with everything at once.
    pub next: Option<Rc<Stored>>,
    /// A commit whose outcome is open: it may still take effect.
    pub open: Option<Rc<Proposal>>,
    /// Its operator was told that the open commit was not done: only with the rule off.
    pub was_told_undone: bool,
    /// Where coordinators beat: the stamp of its last beat, ...
    pub last: Option<Stamp>,
    /// ... and whether it has its name by that.
    pub holds_name: bool,
    /// Syncs that it has heard, and writes later than its next beat: only with the rule off.
    pub unwritten: Vec<(usize, Later)>,
    /// Where waves are watched: bit per node whose request it holds, ...
    pub holding: u8,
    /// ... and ghost: bit per node that has not synced since it has watched the present wave to the end.
    pub uncounted: u8,
    /// What it read once: only switches look at it.
    pub cache: Option<Rc<Stored>>,
}

/// Every node declares it: by a shorter one it would count as silent as soon as any time passes.
pub(super) const PERIOD_SECS: u64 = 3_600;

/// READY without keys of the pool: the node mints under a key that the kernel made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Serving {
    /// Not given, or the kernel had keys of the pool.
    No,
    /// Given while the pool had a key: the node counts as soon as it is required.
    Keyless,
    /// Given by a run that was admitted before the pool had a key, when there was no cookie to lose.  Rule 14: such a node
    /// is uncovered until its first install, and the pool waits for that.
    SinceEmpty,
    /// The same, and it was taken out since: covered from its next install (rule 6).
    TakenOut,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub slot_count: SlotCount,
    /// The sysctl.d file with its header: survives everything but a new image.
    pub file: Option<Rc<Fence>>,
    /// The kernel's slots: lost on reboot, and read from the file then.
    pub kernel: Option<Slots>,
    /// The agent: lost when it stops.
    pub link: Rc<Link>,
    /// Counts new images: the nonce of the sessions.
    pub image: u64,
    pub coordinator: usize,
    /// Whether, and when, READY was given before the kernel had keys of the pool.
    pub serving: Serving,
    /// Ghost: this run of the agent was admitted while no node had a key of the pool.
    pub(crate) joined_empty: bool,
    /// An earlier run was told that the pool has no key: only a switch looks at it.
    pub(crate) was_told_empty: bool,
    /// Ghost: an import took it for granted, and it has not registered yet (rule 14).
    pub(crate) is_expected: bool,
    /// Ghost: covered by the invariant.
    pub is_covered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub node: usize,
    pub to: usize,
    /// Late or repeated ones may be outstanding no more.
    pub ask: Ask,
    pub sync: Rc<Sync>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Tell(Instruction),
    /// 204 to a node without keys.
    Nothing,
    SessionClosed(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    pub node: usize,
    pub ask: Ask,
    /// It was given before the store went back.
    pub is_of_lost_store: bool,
    pub reply: Reply,
}

/// How often each kind of trouble may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget {
    pub restarts: u8,
    pub reboots: u8,
    pub images: u8,
    pub moves: u8,
    pub coordinator_restarts: u8,
    pub absences: u8,
    pub orders: u8,
    pub restores: u8,
    /// The store goes back under running coordinators.
    pub live_restores: u8,
    /// Files that cannot be written for a while.
    pub failures: u8,
    /// Requests that come late, never, or twice.
    pub late: u8,
    /// Decisions that are committed later than they are made.
    pub slow_commits: u8,
    /// Rotations that may still start.
    pub stages: u8,
    /// Reports of the stolen node.
    pub lies: u8,
    /// Copies that fall behind.
    pub lags: u8,
    /// Commits that the store does not answer.
    pub open_outcomes: u8,
    /// The store goes back under one running coordinator, and the others are started again.
    pub survivals: u8,
    /// Names that a second process takes over.
    pub take_overs: u8,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub off: Option<Off>,
    pub store: Rc<Stored>,
    pub backup: Option<Rc<Stored>>,
    pub coordinators: Vec<Coordinator>,
    pub nodes: Vec<Node>,
    pub requests: Vec<Request>,
    pub answers: Vec<Answer>,
    /// Admissions that are answered but not yet stored: only a switch makes them.
    pub late_writes: Vec<(usize, Rc<Sync>)>,
    /// Within one step: what a node is installing, and whether the instruction came from a store that is lost.
    pub installing: Option<(usize, Instruction, bool)>,
    pub budget: Budget,
    pub minted: u64,
    /// Ghost: keys whose cookies must be accepted by every covered node (rule 4).
    pub promised: BTreeSet<u64>,
    /// Ghost: an operator's pause was confirmed, and no resume since.
    pub is_paused: bool,
    /// Ghost: an abort was confirmed, and no resume since.
    pub is_aborted: bool,
    /// The store went back once.
    pub(crate) is_restored: bool,
    /// Ghost: bit per node that was required when an operator's order was confirmed after the store went back.
    pub(crate) ordered_on: u8,
    /// Revision and counts of syncs are kept, for a store that goes back under running coordinators.
    pub(crate) is_counted: bool,
    /// Coordinators beat, and hear each other's nodes by that alone.
    pub(crate) has_beats: bool,
    /// Copies of coordinators lag: revisions, and all rosters, are kept.
    pub(crate) is_lagging: bool,
    /// The health gate takes its time.
    pub(crate) is_watched: bool,
    /// Ghost: a wave was opened on counters that were older than what was watched.
    pub(crate) is_opened_unheard: bool,
    /// Ghost: bit per node whose deny was confirmed, and no allow or forget since.
    pub(crate) denied: u8,
    /// Ghost: an order that its operator was told was not done was done.
    pub(crate) is_undone_done: bool,
    /// What a restore brings back counts as an admission, also of a node that was forgotten since: the known limit.
    pub(crate) restore_admits: bool,
    /// The backup that the last promotion dropped: a switch puts it back.
    pub dropped_backup: Option<PoolKey>,
    pub orders: Rc<Vec<Op>>,
    /// The stolen node: no property covers it.
    pub(crate) liar: Option<usize>,
    /// Names of the nodes, in their order.
    pub ids: Rc<Vec<NodeId>>,
}

/// What operators may order in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Pause,
    Resume,
    Abort,
    ForceAbort,
    RevokeAll,
    /// The same after the short barrier: nodes that were not seen are left behind in the same commit.
    RevokeLate,
    RevokeHeld(u8),
    Exclude(u8),
    Forget(u8),
    /// Only while the pool is frozen: the way out of a bogus report.
    ForgetWhileFrozen(u8),
    Deny(u8),
    /// The end of an operator's exclusion, before its time.
    Include(u8),
    /// The end of a deny.
    Allow(u8),
    /// What a stolen node calls for: revoke every instructed key, and deny the node.
    RevokeAndDeny(u8),
    Advance,
    Recover,
    Import,
    FirstKey,
    Rotate,
    /// To waves of a promotion that begin with node a, or back to none.
    SetPolicy,
}

impl World {
    /// Steady [2,1]g1 on `members` nodes; `joiners` more have nothing yet.
    pub(crate) fn steady(members: usize, joiners: usize, waves: &[&str]) -> Self {
        let mut document = Document::new(pool_id(), policy(waves), UnixTime::from_secs(0));
        let slots = Slots { primary: pool_key(2), backup: Some(pool_key(1)) };
        document.stage = Stage::Steady { current: slots.primary, backup: slots.backup };
        document.generation = Generation::new(1);
        document.next_epoch = Epoch::new(3).unwrap();
        let mut world = Self::with(document, members + joiners);
        let fence = Fence { pool_id: pool_id(), generation: Generation::new(1), slots };
        let mut writes = Writes::default();
        let ids = world.ids.clone();
        for (id, node) in ids.iter().zip(&mut world.nodes).take(members) {
            node.file = Some(Rc::new(fence.clone()));
            node.link = link(Some(fence.clone()), 1, 0);
            node.kernel = Some(slots);
            node.is_covered = true;
            writes.entries.insert(id.clone(), entered(node).into());
        }
        world.promised = [2].into();
        let mut content = world.store.content.clone();
        content.write(&coordinator_name(0), &writes);
        world.store = plain(content, Counts::default());
        for coordinator in &mut world.coordinators {
            coordinator.heard = 0xff;
        }
        world
    }

    /// The same world with copies that may lag.
    pub(crate) fn lagging(mut self) -> Self {
        self.is_lagging = true;
        self
    }

    /// What of the store's numbers counts.
    pub(crate) fn counts(&self) -> Counts {
        Counts { revisions: self.is_counted || self.is_lagging, syncs: self.is_counted, rosters: self.is_lagging }
    }

    /// What a coordinator has of the store.
    pub(crate) fn seen_by(&self, c: usize) -> &Rc<Stored> {
        self.coordinators[c].copy.as_ref().unwrap_or(&self.store)
    }

    /// The same world with a store that counts, and coordinators that have seen all nodes.
    pub(crate) fn counted(mut self) -> Self {
        self.is_counted = true;
        let heard = self.store.clone();
        let before: &Snapshot = &heard;
        let (mut document, mut parts) = (before.document.clone(), heard.content.parts().clone());
        document.revision = Revision::new(1);
        for entry in parts.rosters.values_mut().flat_map(|roster| roster.entries.values_mut()) {
            entry.first.syncs = 1;
        }
        let after = Rc::new(Stored { content: PoolContent::new(document, parts) });
        for coordinator in &mut self.coordinators {
            coordinator.life.observe(Duration::ZERO, before);
            coordinator.life.observe(Duration::ZERO, &after);
            coordinator.looked = Some(after.clone());
        }
        self.store = after;
        self
    }

    /// An empty pool; every node holds the foreign key 1 alone.
    pub(crate) fn foreign(nodes: usize) -> Self {
        let mut world = Self::with(Document::new(pool_id(), policy(&[]), UnixTime::from_secs(0)), nodes);
        for node in &mut world.nodes {
            node.kernel = Some(Slots { primary: pool_key(1), backup: None });
        }
        world.orders = Rc::new(vec![Op::Import, Op::Resume]);
        world
    }

    /// An empty pool; no kernel has a key.
    pub(crate) fn empty(nodes: usize) -> Self {
        Self::with(Document::new(pool_id(), policy(&[]), UnixTime::from_secs(0)), nodes)
    }

    pub(super) fn with(document: Document, nodes: usize) -> Self {
        Self {
            off: None,
            store: Rc::new(Stored { content: PoolContent::new(document, Parts::default()) }),
            backup: None,
            coordinators: vec![Coordinator::default(); 2],
            nodes: vec![node(); nodes],
            requests: Vec::new(),
            answers: Vec::new(),
            late_writes: Vec::new(),
            installing: None,
            budget: Budget::default(),
            minted: 100,
            promised: BTreeSet::new(),
            is_paused: false,
            is_aborted: false,
            is_restored: false,
            ordered_on: 0,
            is_counted: false,
            has_beats: false,
            is_lagging: false,
            is_watched: false,
            is_opened_unheard: false,
            denied: 0,
            is_undone_done: false,
            restore_admits: false,
            dropped_backup: None,
            orders: Rc::new(Vec::new()),
            liar: None,
            ids: Rc::new(["a", "b", "c"].iter().take(nodes).map(|name| name.parse().unwrap()).collect()),
        }
    }

    pub(crate) fn expect() -> Expected {
        Expected::Names(["a", "b"].iter().map(|name| name.parse().unwrap()).collect())
    }

    pub(crate) fn is_off(&self, rule: Off) -> bool {
        self.off == Some(rule)
    }

    /// The sync that a node sends now.
    pub(crate) fn sync_of(&self, index: usize) -> Rc<Sync> {
        let node = &self.nodes[index];
        let fence = node.link.fence();
        let held = |fence: &Fence| match node.slot_count {
            SlotCount::Two => node.kernel == Some(fence.slots),
            SlotCount::One => node.kernel.map(|slots| slots.primary) == Some(fence.slots.primary),
        };
        let installed = if fence.is_some_and(held) { Installed::ReadBack } else { Installed::Failed };
        let foreign = node.kernel.filter(|_| fence.is_none()).map(|slots| slots.primary.fingerprint);
        Rc::new(Sync {
            session: node.link.session(),
            seen: node.link.seen(),
            report: Report { installed, foreign, ..reported(node, fence.cloned()) }.into(),
        })
    }
}

pub(crate) fn fingerprint(number: u64) -> KeyFingerprint {
    KeyFingerprint::from_bytes(number.to_be_bytes())
}

pub(crate) fn number(fingerprint: KeyFingerprint) -> u64 {
    u64::from_be_bytes(fingerprint.to_bytes())
}

pub(crate) fn pool_key(epoch: u64) -> PoolKey {
    PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint: fingerprint(epoch) }
}

pub(crate) fn pool_id() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

pub(crate) fn policy(waves: &[&str]) -> Policy {
    let mut policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    let named = waves.iter().map(|wave| WaveRule::Names(wave.parse::<NamePattern>().unwrap()));
    policy.promote_waves = named.chain([WaveRule::Share(Share::ALL)]).collect();
    policy.min_present = Share::from_ppm(0).unwrap();
    policy
}

/// An agent that starts.
pub(crate) fn link(fence: Option<Fence>, ordinal: u64, image: u64) -> Rc<Link> {
    Rc::new(Link::start(fence, Session { ordinal, nonce: image }, Duration::ZERO))
}

pub(crate) fn node() -> Node {
    Node {
        slot_count: SlotCount::Two,
        file: None,
        kernel: None,
        link: link(None, 1, 0),
        image: 0,
        coordinator: 0,
        serving: Serving::No,
        joined_empty: false,
        was_told_empty: false,
        is_covered: false,
        is_expected: false,
    }
}

/// The report of a node that holds what this fence says.
pub(super) fn reported(node: &Node, fence: Option<Fence>) -> Report {
    Report {
        fence,
        installed: Installed::ReadBack,
        foreign: None,
        slot_count: node.slot_count,
        next_sync_secs: PERIOD_SECS,
        counters: None,
        seen: Generation::ZERO,
        source: KeySource::Coordinator,
        holds: None,
    }
}

pub(super) fn entered(node: &Node) -> Entry {
    let report = reported(node, node.file.as_deref().cloned());
    let first = Ack { report: report.into(), syncs: 0, window: None, baseline: None, at: UnixTime::from_secs(0) };
    Entry { session: node.link.session(), answers: None, first }
}

pub(crate) fn coordinator_name(c: usize) -> CoordinatorName {
    // Asked for at every step.
    static NAMES: LazyLock<[CoordinatorName; 3]> =
        LazyLock::new(|| std::array::from_fn(|c| format!("coordinator{c}").parse().unwrap()));
    NAMES[c].clone()
}
