//! Nodes, coordinators and the messages between them, in virtual seconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::{AnswerAccepted, AnswerRefused, Link, PoolAnswer, RequestId};
use tfo_engine::rollout::barrier::{Barrier, conflict};
use tfo_engine::rollout::document::{Actor, Document, Proposal, Snapshot, Stage};
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Step};
use tfo_engine::rollout::parts::Writes;
use tfo_engine::rollout::policy::{Policy, Share, WaveRule};
use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::record::{Installed, Membership, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, Instruction, PoolKey, Slots};
use tfo_engine::rollout::sync::{Answer, PoolView, Recording, Sync, SyncRefused, record};
use tfo_engine::rollout::{handle, wave};
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::{Action, BlockedBy};
use tfo_model::ids::{CoordinatorName, NodeId, PoolId};
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::node::{Counters, Expected, KeySource, Session};
use tfo_model::time::UnixTime;
use tfo_store::ReadStore;

use tfo_testbed::random::Dice;

use super::clients::{Clients, Promises};
use super::ears::{Copied, Held, PATIENCE_SECS, Troubles};
use super::fake::{Trouble, dice};
use super::files::Files;
use super::shelf::{Copy, PutOff, Shelf, Written, pool};
use super::summary::Summary;

/// Faults end here; from then on the fleet converges, and rotates on.
pub(super) const FAULTS_UNTIL: u64 = 1_200;
const END: u64 = 2_700;
const TICK_SECS: u64 = 7;
pub(super) const COORDINATORS: usize = 5;
const EPOCH: u64 = 1_700_000_000;
/// A daemon declares this period; like all times here it is shorter than in a fleet.
const DAEMON_SECS: u64 = 30;
/// Number of the key that all nodes share at the beginning.
const FIRST_KEY: u64 = 1;

#[derive(Clone)]
pub(super) enum Event {
    Tick(usize),
    /// A coordinator, its life, how often the store was put back before, and the commit that it began then.
    Commit(usize, u64, u64, Rc<Proposal>),
    /// Acks that were put off are written.
    Flush(usize),
    /// A sync is due by the node's own clock.
    Wake(usize, u64),
    Request {
        node: usize,
        to: usize,
        life: u64,
        request: RequestId,
        sync: Rc<Sync>,
    },
    Answer {
        node: usize,
        request: RequestId,
        answer: Result<Answer, SyncRefused>,
    },
    /// A held request is looked at.
    Release {
        to: usize,
        node: usize,
        request: RequestId,
    },
    Fault,
    /// Somebody writes, reloads or restarts with a coordinator's file.
    File,
    /// What a switch needs to be noticed, or a time in which no coordinator hears a node.
    Plan,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    slot_count: SlotCount,
    pub(super) link: Link,
    file: Option<Fence>,
    kernel: Option<Slots>,
    /// A `once` agent comes back after so long; a daemon has its long poll.
    pub(super) timer_secs: Option<u64>,
    pub(super) coordinator: usize,
    /// Its request that a coordinator holds.
    pub(super) held: Option<Held>,
    /// Requests that failed, one after the other.
    pub(super) failures: usize,
    /// When it last took an answer, in whatever run of its agent.
    pub(super) answered_at: Option<u64>,
    /// Stopped or cut off until then.
    away_until: u64,
    /// Until then its requests are lost, and answers arrive.
    pub(super) mute_until: u64,
    /// Wakes of an earlier schedule are void.
    wake: u64,
    counters: Counters,
    is_covered: bool,
}

pub(super) struct Coordinator {
    life: Life,
    pub(super) lives: u64,
    pub(super) presence: Presence,
    pub(super) troubles: Troubles,
    pub(super) copied: Copied,
    /// The highest revision that this life has seen.
    seen: Revision,
    put_off: PutOff,
    /// What the last tick waited for.
    waited: Option<BlockedBy>,
    pub(super) is_up: bool,
    wall_error: i64,
}

/// The name under which a coordinator writes, in all its lives.
pub(crate) fn coordinator(c: usize) -> CoordinatorName {
    format!("coordinator{c}").parse().unwrap()
}

/// A rule that is switched off, to see that its check notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleOff {
    /// Every node counts as having acknowledged.
    Barriers,
    /// The key that was replaced is dropped at once: no pair of nodes is ever incompatible, but clients are.
    Promise,
    /// A coordinator sets the policy of its file whenever the pool has another one.
    FileProposes,
    /// A coordinator holds requests without its store for as long as it likes.
    Blindness,
    /// Nodes are excluded when `absent_after` is over since the record of their last sync.
    DetachedFirst,
    /// Time in which no node is heard makes nodes absent.
    Deafness,
}

pub(crate) struct Fleet {
    pub(crate) random: Dice,
    pub(crate) shelf: Shelf,
    clients: Clients,
    promises: Promises,
    pub(super) nodes: Vec<Node>,
    pub(super) index: BTreeMap<NodeId, usize>,
    pub(super) coordinators: Vec<Coordinator>,
    files: Files,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    pub(crate) now: u64,
    minted: u64,
    backup: Option<Copy>,
    put_backs: u64,
    /// Until then, a node with a new key rejects cookies that it should accept.
    broken_until: u64,
    /// When a sync was recorded last.
    pub(super) heard_at: u64,
    pub(super) rule_off: Option<RuleOff>,
    is_told: bool,
    pub(crate) summary: Summary,
}

fn pool_id() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn policy(random: &mut Dice) -> Policy {
    let mut policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    policy.interval_secs = 60 + random.below(120);
    policy.absent_after_secs = 90 + random.below(60);
    policy.drain_max_secs = if random.once_in(3) { 60 } else { 300 };
    policy.drain_min_samples = 100;
    policy.health_window_secs = 10 + 30 * random.below(3);
    policy.health_min_connections = 50;
    policy.revoke_barrier_max_secs = 120;
    policy.expected_nodes = Some(50);
    let canary = Share::from_ppm(u32::try_from(10_000 + random.below(200_000)).unwrap()).unwrap();
    policy.promote_waves = match random.below(3) {
        0 => vec![WaveRule::Share(Share::ALL)],
        1 => vec![WaveRule::Share(canary), WaveRule::Share(Share::ALL)],
        _ => vec![WaveRule::Names("n1*".parse().unwrap()), WaveRule::Share(canary), WaveRule::Share(Share::ALL)],
    };
    policy
}

impl Fleet {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = dice(seed);
        let files = Files::new(dice(!seed), COORDINATORS, policy);
        let document = Document::new(pool_id(), files.first().clone(), UnixTime::from_secs(EPOCH));
        let mut shelf = Shelf::new(document);
        let count = usize::try_from(100 + random.below(30)).unwrap();
        let shared = PoolKey { epoch: Epoch::FIRST, fingerprint: shelf.make_key(FIRST_KEY) };
        let foreign = Slots { primary: shared, backup: None };
        let mut nodes = Vec::new();
        for number in 0..count {
            let session = Session { ordinal: 1_000, nonce: random.roll() };
            nodes.push(Node {
                id: format!("n{number}").parse().unwrap(),
                slot_count: if random.once_in(30) { SlotCount::One } else { SlotCount::Two },
                link: Link::start(None, session, Duration::ZERO),
                file: None,
                kernel: Some(foreign),
                timer_secs: random.once_in(5).then(|| 40 + random.below(40)),
                coordinator: usize::try_from(random.below(COORDINATORS as u64)).unwrap(),
                held: None,
                failures: 0,
                answered_at: None,
                away_until: 0,
                mute_until: 0,
                wake: 0,
                counters: Counters::default(),
                is_covered: false,
            });
        }
        let index = nodes.iter().enumerate().map(|(index, node)| (node.id.clone(), index)).collect();
        let coordinators = (0..COORDINATORS)
            .map(|_| Coordinator {
                life: Life::default(),
                lives: 0,
                presence: Presence::default(),
                troubles: Troubles::default(),
                copied: Copied::default(),
                seen: Revision::ZERO,
                put_off: PutOff::default(),
                waited: None,
                is_up: true,
                wall_error: 0,
            })
            .collect();
        let clients = Clients::new(&mut random);
        let mut fleet = Self {
            random,
            shelf,
            clients,
            promises: Promises::default(),
            nodes,
            index,
            coordinators,
            files,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            now: 0,
            minted: 100,
            backup: None,
            put_backs: 0,
            broken_until: 0,
            heard_at: 0,
            rule_off: None,
            is_told: std::env::var_os("TFO_SEED").is_some(),
            summary: Summary::default(),
        };
        fleet.summary.count("nodes", count as u64);
        for c in 0..COORDINATORS {
            fleet.at(1 + c as u64, Event::Tick(c));
        }
        for n in 0..count {
            let after = 1 + fleet.random.below(20);
            fleet.wake(n, after);
        }
        fleet.at(60, Event::Fault);
        fleet.at(30, Event::File);
        if fleet.random.once_in(3) {
            let after = 200 + fleet.random.below(400);
            fleet.at(after, Event::Plan);
        }
        fleet
    }

    pub(crate) fn without(mut self, rule: RuleOff) -> Self {
        self.rule_off = Some(rule);
        self.at(100, Event::Plan);
        self
    }

    pub(crate) fn run(mut self) -> Summary {
        let (mut rotations_at_peace, mut steps) = (None, 0);
        while let Some(Reverse((at, sequence))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.now = at;
            steps += 1;
            let Some(event) = self.events.remove(&sequence) else { continue };
            // These two change neither a kernel nor the covered nodes.
            let is_about_records = matches!(event, Event::Request { .. } | Event::Release { .. } | Event::Flush(_));
            self.happen(event);
            if !is_about_records {
                self.check();
            }
            if at >= FAULTS_UNTIL + 700 && rotations_at_peace.is_none() {
                rotations_at_peace = Some(self.summary.get("rotations"));
            }
        }
        let document = &self.shelf.now.document;
        if self.is_told {
            println!("{:?} {:?}", Barrier::of_all(&self.shelf.now), conflict(&self.shelf.now));
            for c in 0..COORDINATORS {
                let now = Now { wall: self.wall(c), presence: &self.coordinators[c].presence };
                println!("{:?} {:?}", now.presence, handle(&self.shelf.now, now, &Input::Tick, None));
            }
        }
        assert!(
            rotations_at_peace.is_some_and(|before| self.summary.get("rotations") > before),
            "it stopped: {document:?}"
        );
        let required = Barrier::of_all(&self.shelf.now).required;
        let two_slot = self.nodes.iter().filter(|node| node.slot_count == SlotCount::Two).count();
        assert_eq!(required, two_slot, "not all nodes are back");
        self.shelf.check_audit();
        assert_eq!(self.files.pending(), 0, "a file is still proposed");
        self.summary.count("files that differ at the end", self.files.differing(&self.shelf.now.document) as u64);
        self.summary.count("steps", steps);
        self.summary.count("promises that a stage has ended", self.promises.ended);
        self.summary.count("promises that a revoke has ended", self.promises.ended_by_revoke);
        self.summary
    }

    pub(super) fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    pub(super) fn wake(&mut self, n: usize, delay: u64) {
        self.nodes[n].wake += 1;
        let wake = self.nodes[n].wake;
        self.at(delay, Event::Wake(n, wake));
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.now < FAULTS_UNTIL
    }

    fn happen(&mut self, event: Event) {
        if let Some(until) = self.put_off_until(&event) {
            self.at(until - self.now, event);
            return;
        }
        match event {
            Event::Tick(c) => self.tick(c),
            Event::Commit(c, life, put_backs, proposal) => {
                // A call that was under way when the files were swapped has reached the old ones.
                let is_there = self.coordinators[c].lives == life && self.coordinators[c].is_up && !self.is_cut(c);
                if is_there && self.put_backs == put_backs {
                    self.commit(c, &proposal);
                }
            }
            Event::Flush(c) => self.flush(c),
            Event::Wake(n, wake) => {
                if self.nodes[n].wake == wake {
                    self.sync(n);
                }
            }
            Event::Request { node, to, life, request, sync } => self.serve((node, request), (to, life), &sync),
            Event::Answer { node, request, answer } => self.answered(node, request, answer),
            Event::Release { node, request, .. } => self.release(node, request),
            Event::Fault => self.fault(),
            Event::File => self.file(),
            Event::Plan => self.plan(),
        }
    }

    // ---- nodes ----

    fn sync(&mut self, n: usize) {
        let hold_secs = self.shelf.now.document.policy.hold_max().as_secs();
        let jitter = self.random.below(15);
        let again = self.nodes[n].timer_secs.map_or(hold_secs + PATIENCE_SECS, |secs| secs + jitter);
        self.wake(n, again);
        if self.nodes[n].away_until > self.now {
            return;
        }
        if self.nodes[n].link.outstanding().is_some() {
            self.hop(n);
            return;
        }
        let (nonce, monotonic) = (self.random.roll(), Duration::from_secs(self.now));
        if self.nodes[n].link.returns(1_000 + self.now, nonce, monotonic) {
            self.summary.count("nodes that ask while they are detached", 1);
        }
        if let Some(told) = self.nodes[n].link.pending().copied() {
            self.install(n, told);
        }
        self.traffic(n);
        let node = &mut self.nodes[n];
        let ask = node.link.ask();
        let fence = node.file.clone();
        let expected = fence.as_ref().map(|fence| match node.slot_count {
            SlotCount::Two => fence.slots,
            SlotCount::One => Slots { backup: None, ..fence.slots },
        });
        let installed =
            if expected.is_some() && expected == node.kernel { Installed::ReadBack } else { Installed::Failed };
        let foreign = node.kernel.filter(|_| fence.is_none()).map(|slots| slots.primary.fingerprint);
        let sync = Rc::new(Sync {
            session: ask.session,
            seen: ask.seen,
            report: Report {
                fence,
                installed,
                foreign,
                slot_count: node.slot_count,
                next_sync_secs: node.timer_secs.unwrap_or(DAEMON_SECS),
                counters: Some(node.counters),
                seen: Generation::ZERO,
                source: KeySource::Coordinator,
                holds: None,
            },
        });
        let (to, is_mute) = (node.coordinator, node.mute_until > self.now);
        let life = self.coordinators[to].lives;
        let copies = if is_mute {
            0
        } else if !self.has_faults() {
            1
        } else if self.random.once_in(20) {
            self.random.below(3)
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self.delay();
            let sync = sync.clone();
            self.at(delay, Event::Request { node: n, to, life, request: ask.request, sync });
        }
    }

    /// Clients have come to this node since its last sync.
    fn traffic(&mut self, n: usize) {
        let next = match &self.shelf.now.document.stage {
            Stage::Promoted { next, .. } => Some(*next),
            Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => None,
        };
        let node = &mut self.nodes[n];
        let Some(slots) = node.kernel else { return };
        let is_broken = self.now < self.broken_until && Some(slots.primary) == next;
        let before = node.counters;
        self.clients.connect(&mut self.random, &slots, &mut node.counters, is_broken);
        let counted = node.counters.since(&before).unwrap();
        self.summary.count("connections accepted", counted.passive);
        self.summary.count("connections accepted by the backup", counted.passive_alt_key);
        self.summary.count("connections rejected", counted.passive_fail);
    }

    pub(super) fn delay(&mut self) -> u64 {
        if self.has_faults() && self.random.once_in(30) { self.random.below(60) } else { self.random.below(3) }
    }

    fn answered(&mut self, n: usize, request: RequestId, answer: Result<Answer, SyncRefused>) {
        let monotonic = Duration::from_secs(self.now);
        let nonce = self.random.roll();
        let node = &mut self.nodes[n];
        if node.away_until > self.now {
            return;
        }
        let absent_after = Duration::from_secs(self.shelf.now.document.policy.absent_after_secs);
        let is_outstanding = node.link.outstanding() == Some(request);
        if is_outstanding && answer.is_ok() && node.link.has_lapsed(monotonic) {
            // It asks again in a new session.
            self.summary.count("answers that came when the node was detached", 1);
            node.link.give_up();
            return self.wake(n, 0);
        }
        match answer {
            Ok(Answer::Instruct(told)) => {
                let answer = PoolAnswer { pool_id: pool_id(), instruction: told, absent_after };
                match node.link.answered(request, &answer, monotonic) {
                    Ok(AnswerAccepted::Install | AnswerAccepted::Same) => {
                        self.contacted(n);
                        self.install(n, told);
                    }
                    Err(AnswerRefused::NotOutstanding) => {}
                    // What it holds is another history's: it backs off.
                    Err(_) => {
                        self.contacted(n);
                        self.hop(n);
                    }
                }
            }
            Ok(Answer::Nothing) => {
                if node.link.nothing_new(request, monotonic).is_ok() {
                    node.link.pool_waits(absent_after);
                    let is_daemon = node.timer_secs.is_none();
                    self.contacted(n);
                    if is_daemon {
                        self.wake(n, 1);
                    }
                    self.repair(n);
                }
            }
            Err(SyncRefused::SessionClosed { ordinal }) => {
                if node.link.session_closed(request, ordinal, nonce, monotonic).is_ok() {
                    self.contacted(n);
                    self.wake(n, 1);
                }
            }
            Err(_) if is_outstanding => self.hop(n),
            Err(_) => {}
        }
    }

    fn contacted(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        (node.answered_at, node.failures) = (Some(self.now), 0);
    }

    /// File, then kernel; a fault may come in between.
    fn install(&mut self, n: usize, told: Instruction) {
        self.note(|| format!("{} told {:?}", self.nodes[n].id, told.generation));
        if self.has_faults() && self.random.once_in(200) {
            self.wake(n, 5);
            return;
        }
        let node = &mut self.nodes[n];
        node.file = Some(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots });
        node.link.persisted(&pool_id(), &told);
        if self.has_faults() && self.random.once_in(200) {
            self.restart(n);
            return;
        }
        let node = &mut self.nodes[n];
        let backup = if node.slot_count == SlotCount::One { None } else { told.slots.backup };
        node.kernel = Some(Slots { primary: told.slots.primary, backup });
        let is_admitted =
            self.shelf.now.nodes.get(&node.id).is_some_and(|record| record.membership == Membership::Admitted);
        node.is_covered |= is_admitted && node.slot_count == SlotCount::Two;
        self.wake(n, 1);
    }

    /// What was confirmed is in the file, and a fault kept it from the kernel: drift, which an agent repairs by itself.
    fn repair(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(fence) = node.file.as_ref().filter(|_| node.link.pending().is_none()) else { return };
        let backup = if node.slot_count == SlotCount::One { None } else { fence.slots.backup };
        if node.kernel != Some(Slots { backup, ..fence.slots }) {
            let confirmed = Instruction { generation: fence.generation, slots: fence.slots };
            self.summary.count("drift repaired", 1);
            self.install(n, confirmed);
        }
    }

    /// The agent starts again with what its file holds; the kernel's keys stay.
    pub(crate) fn restart(&mut self, n: usize) {
        self.summary.count("agent restarts", 1);
        let nonce = self.random.roll();
        let node = &mut self.nodes[n];
        // Its connection ends with it.
        node.held = None;
        // A clock that stepped: the ordinal may be below that of the session before.
        let ordinal = 1_000 + if nonce.is_multiple_of(5) { 0 } else { self.now };
        node.link = Link::start(node.file.clone(), Session { ordinal, nonce }, Duration::from_secs(self.now));
        self.wake(n, 2);
    }

    fn reboot(&mut self, n: usize) {
        self.summary.count("reboots: counters start again", 1);
        let node = &mut self.nodes[n];
        node.counters = Counters::default();
        if let Some(fence) = &node.file {
            let backup = if node.slot_count == SlotCount::One { None } else { fence.slots.backup };
            node.kernel = Some(Slots { primary: fence.slots.primary, backup });
        }
        self.restart(n);
    }

    fn reimage(&mut self, n: usize) {
        self.note(|| format!("{} has a new image", self.nodes[n].id));
        self.summary.count("new images", 1);
        let node = &mut self.nodes[n];
        node.counters = Counters::default();
        node.file = None;
        node.kernel = None;
        node.is_covered = false;
        self.restart(n);
    }

    // ---- coordinators ----

    fn wall(&self, c: usize) -> UnixTime {
        UnixTime::from_secs((EPOCH + self.now).saturating_add_signed(self.coordinators[c].wall_error))
    }

    fn serve(&mut self, (n, request): (usize, RequestId), (c, life): (usize, u64), sync: &Rc<Sync>) {
        let coordinator = &self.coordinators[c];
        if !coordinator.is_up || coordinator.lives != life || coordinator.troubles.deaf_until > self.now {
            return;
        }
        let id = self.nodes[n].id.clone();
        let mut off = std::mem::take(&mut self.coordinators[c].put_off);
        let result = self.record(c, &mut off, (&id, sync));
        self.coordinators[c].put_off = off;
        let answer = match result {
            Ok(()) => {
                self.heard_at = self.now;
                self.answer(c, (&id, sync))
            }
            Err(SyncRefused::NotAdmitted) => {
                // The write may have been done.
                if !self.is_cut(c) && !self.shelf.store.is_down() {
                    self.heard_at = self.now;
                }
                self.without_store(c, n, sync)
            }
            refused => refused.map(|()| Answer::Nothing),
        };
        if answer == Err(SyncRefused::Frozen) {
            self.summary.count("frozen answers", 1);
        }
        self.hold_or_send((n, request), (c, life), sync, answer);
    }

    /// The first sync of a session is durable before it is answered; later ones are put off.
    fn record(&mut self, c: usize, off: &mut PutOff, (id, sync): (&NodeId, &Sync)) -> Result<(), SyncRefused> {
        let unreachable = SyncRefused::NotAdmitted;
        for _ in 0..3 {
            let stored = self.read(c, false).ok_or(SyncRefused::NotAdmitted)?;
            let before = self.shelf.record_after(&coordinator(c), off, id);
            let recording = record(&stored.document, before.as_ref(), id, sync, (&coordinator(c), self.wall(c)))?;
            match recording {
                Recording::Stale => return Ok(()),
                Recording::Later(_) => {
                    let is_first = off.queue.is_empty();
                    if self.shelf.put_off(&coordinator(c), off, id, recording) {
                        // What is answered at once is durable before.
                        if self.nodes[self.index[id]].timer_secs.is_some() {
                            self.shelf.flush(&coordinator(c), off);
                            return if off.queue.is_empty() { Ok(()) } else { Err(unreachable) };
                        }
                        if is_first {
                            let delay = self.random.below(3);
                            self.at(delay, Event::Flush(c));
                        }
                        return Ok(());
                    }
                }
                Recording::First(entry) => {
                    let writes = Writes { entries: [(id.clone(), entry)].into(), ..Writes::default() };
                    let written = self.shelf.write(&coordinator(c), &writes);
                    self.count_write(written);
                    return if written == Written::Yes { Ok(()) } else { Err(unreachable) };
                }
            }
        }
        Err(unreachable)
    }

    fn flush(&mut self, c: usize) {
        let mut off = std::mem::take(&mut self.coordinators[c].put_off);
        if self.coordinators[c].is_up && !self.is_cut(c) {
            if !off.queue.is_empty() {
                // Also what one that stood still heard long ago: the others see it now.
                self.heard_at = self.now;
            }
            self.shelf.flush(&coordinator(c), &mut off);
        }
        self.coordinators[c].put_off = off;
    }

    fn count_write(&mut self, written: Written) {
        match written {
            Written::Yes => {}
            Written::Conflict => self.summary.count("conflicts", 1),
            Written::No => self.summary.count("calls to a store that is down", 1),
            Written::Open { done: true } => self.summary.count("open outcomes, done", 1),
            Written::Open { done: false } => self.summary.count("open outcomes, not done", 1),
        }
    }

    pub(super) fn answer(&mut self, c: usize, (id, sync): (&NodeId, &Sync)) -> Result<Answer, SyncRefused> {
        let snapshot = self.read(c, false).ok_or(SyncRefused::NotAdmitted)?;
        if snapshot.document.revision < self.coordinators[c].seen {
            // A coordinator that answers from a store that went back begins a new life first.
            self.summary.count("a store that went back was noticed in an answer", 1);
            self.observe(c, &snapshot);
        }
        let answer = PoolView::of(&snapshot, &self.coordinators[c].presence).answer(&snapshot, id, sync)?;
        if let Answer::Instruct(told) = &answer {
            let (_, keys) = self.shelf.store.document(&pool()).ok().flatten().ok_or(SyncRefused::NotAdmitted)?;
            let slots = [Some(told.slots.primary), told.slots.backup];
            assert!(slots.iter().flatten().all(|key| keys.key(key.epoch).is_some()), "a key to tell is not there");
        }
        Ok(answer)
    }

    fn observe(&mut self, c: usize, snapshot: &Snapshot) {
        let (monotonic, instead) = (Duration::from_secs(self.now), self.looked_at(snapshot));
        let coordinator = &mut self.coordinators[c];
        coordinator.life.observe(monotonic, instead.as_ref().unwrap_or(snapshot));
        let presence = self.judged(snapshot, self.coordinators[c].life.presence(snapshot));
        let coordinator = &mut self.coordinators[c];
        coordinator.presence = presence;
        coordinator.seen = snapshot.document.revision;
    }

    fn tick(&mut self, c: usize) {
        let may_be_late = self.has_faults() && !self.is_about_ears();
        let delay = if may_be_late && self.random.once_in(50) { 60 } else { TICK_SECS };
        self.at(delay, Event::Tick(c));
        if !self.coordinators[c].is_up {
            return;
        }
        self.flush(c);
        let whole = self.random.once_in(4);
        let Some(snapshot) = self.read(c, whole) else {
            self.coordinators[c].life.interrupt();
            self.let_go_if_blind(c);
            return;
        };
        self.observe(c, &snapshot);
        let input = match self.wanted(&snapshot) {
            Some(command) => Input::Request(OperatorRequest {
                operator: "ops".parse().unwrap(),
                reason: String::new(),
                if_revision: None,
                command,
            }),
            None => self.proposed(c, &snapshot).unwrap_or(Input::Tick),
        };
        drop(snapshot);
        self.decide(c, &input);
    }

    /// The commit of the coordinator's file, if it is accepted now.
    fn proposed(&mut self, c: usize, snapshot: &Snapshot) -> Option<Input> {
        let policy = match self.rule_off {
            Some(RuleOff::FileProposes) => self.files.own(c, &snapshot.document),
            _ => self.files.proposal(c, &snapshot.document),
        };
        let input = Input::Request(OperatorRequest {
            operator: "coordinator-config".parse().unwrap(),
            reason: String::new(),
            if_revision: None,
            command: Command::SetPolicy { policy: Box::new(policy?) },
        });
        let now = Now { wall: self.wall(c), presence: &self.coordinators[c].presence };
        handle(snapshot, now, &input, None).is_ok().then_some(input)
    }

    /// What the operator wants: the first key, then now and then anything; after the faults, resume.
    fn wanted(&mut self, snapshot: &Snapshot) -> Option<Command> {
        let document = &snapshot.document;
        if conflict(snapshot).is_some() {
            return self.recovery(snapshot);
        }
        if document.stage == Stage::Empty {
            let keys = PairPrint { primary: self.shelf.make_key(FIRST_KEY), backup: None };
            let is_time = self.now > 40;
            let expect = Expected::Number(self.nodes.len() / 2);
            return if is_time { Some(Command::Import { keys, expect }) } else { None };
        }
        let stopped = document.paused.is_some() || document.hold.is_some();
        if stopped && (!self.has_faults() || self.random.once_in(4)) {
            return Some(Command::Resume { force: false });
        }
        if let (Some(command), false) = (Self::amnesty(snapshot), self.has_faults()) {
            return Some(command);
        }
        let has_whims = self.has_faults() && !self.is_about_ears();
        if has_whims && self.random.once_in(40) { Some(self.whim(snapshot)) } else { None }
    }

    fn decide(&mut self, c: usize, input: &Input) {
        let barriers = self.rule_off != Some(RuleOff::Barriers);
        let view = if barriers { self.shelf.now.clone() } else { Rc::new(self.all_acked()) };
        let wall = self.wall(c);
        self.minted += 1;
        let fresh = self.shelf.make_key(self.minted);
        let now = Now { wall, presence: &self.coordinators[c].presence };
        let step = handle(&view, now, input, Some(fresh));
        let waits = match &step {
            Ok(Step::Wait(wait)) => Some(wait.blocked_by),
            Ok(_) | Err(_) => None,
        };
        if waits == Some(BlockedBy::Drain) {
            self.summary.count("waits for the drain", 1);
        }
        let waited = std::mem::replace(&mut self.coordinators[c].waited, waits);
        let Ok(Step::Commit(mut proposal)) = step else { return };
        if proposal.audit.action == Action::Rotate && proposal.audit.actor == Actor::Engine {
            self.count_drain(&view, wall, waited);
        }
        if !barriers {
            proposal.exclusions.clear();
        }
        if self.rule_off == Some(RuleOff::Promise) && proposal.audit.action == Action::Settle {
            let document = &mut proposal.document;
            if let Stage::Steady { backup, .. } = &mut document.stage {
                *backup = None;
            }
            document.generation = document.generation.next().unwrap();
        }
        let proposal = Rc::from(proposal);
        let is_slow = self.has_faults() && self.random.once_in(5);
        let delay = if is_slow { 1 + self.random.below(20) } else { 0 };
        let life = self.coordinators[c].lives;
        self.at(delay, Event::Commit(c, life, self.put_backs, proposal));
    }

    /// What let a stage pass: the clients have left, or they had long enough.
    fn count_drain(&mut self, before: &Snapshot, wall: UnixTime, waited: Option<BlockedBy>) {
        let document = &before.document;
        let Stage::Steady { backup: Some(_), .. } = &document.stage else { return };
        if document.revoke.is_some() || wall < document.since {
            return;
        }
        let is_over = wall.secs_since(document.since) >= document.policy.drain_max_secs;
        if !is_over {
            self.summary.count("stages after a drain", 1);
        } else if waited == Some(BlockedBy::Drain) {
            self.summary.count("stages by drain_max", 1);
        }
    }

    fn all_acked(&self) -> Snapshot {
        let mut snapshot = (*self.shelf.now).clone();
        for (id, record) in &mut snapshot.nodes {
            let told = wave::instruction_for(&snapshot.document, id, SlotCount::Two);
            if let (Some(told), Some(report)) = (told, &mut record.report) {
                report.installed = Installed::ReadBack;
                report.fence = Some(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots });
            }
        }
        snapshot
    }

    fn commit(&mut self, c: usize, proposal: &Proposal) {
        let told_before = self.shelf.now.document.generation;
        let written = self.shelf.commit(proposal);
        self.count_write(written);
        if !matches!(written, Written::Yes | Written::Open { done: true }) {
            return;
        }
        self.note(|| {
            format!(
                "{:?} {:?} {:?} {:?}",
                proposal.audit.action, proposal.document.generation, proposal.document.stage, proposal.audit.nodes
            )
        });
        if proposal.audit.action == Action::SetPolicy {
            let what = self.files.set(c, &proposal.document.policy);
            self.summary.count(what, 1);
        }
        self.check_absences(proposal);
        self.promises.committed(proposal.audit.action, &proposal.document);
        let what = match proposal.audit.action {
            Action::Settle => "rotations",
            Action::DropRevoked => "revoked keys dropped",
            Action::OpenWave => "waves",
            Action::Abort => "aborts",
            Action::Revoke => "revokes",
            Action::Recover => "recoveries",
            Action::Deny => "denied nodes",
            Action::Forget => "forgotten nodes",
            Action::Unhealthy => "waves that the health gate has stopped",
            _ => "other commits",
        };
        self.summary.count(what, 1);
        if proposal.audit.action == Action::DropRevoked {
            self.summary.count("rotations", 1);
        }
        for node in proposal.exclusions.keys() {
            // A session that was opened since it was decided is not hit.
            let is_hit =
                !self.shelf.now.nodes.get(node).is_some_and(|record| record.membership == Membership::Admitted);
            if let (Some(n), true) = (self.index.get(node), is_hit) {
                self.nodes[*n].is_covered = false;
                self.summary.count("exclusions", 1);
            }
        }
        let is_news = proposal.document.generation != told_before || proposal.audit.action == Action::OpenWave;
        if is_news {
            self.publish();
        }
    }

    /// Tells what happens when one seed is replayed.
    fn note(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:5} {}", self.now, what());
        }
    }

    // ---- trouble ----

    fn fault(&mut self) {
        if !self.has_faults() {
            self.mend();
            return;
        }
        let delay = 5 + self.random.below(20);
        self.at(delay, Event::Fault);
        let n = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap();
        let c = usize::try_from(self.random.below(COORDINATORS as u64)).unwrap();
        // Of nodes alone, or also of stores and coordinators.
        let kinds = if self.is_about_ears() { 6 } else { 20 };
        match self.random.below(kinds) {
            0 => self.restart(n),
            1 => self.reboot(n),
            2 => self.reimage(n),
            3 => self.nodes[n].away_until = self.now + self.random.below(600),
            4 | 15 => self.mute(n),
            5 => {
                let other = (self.nodes[n].coordinator + 1) % COORDINATORS;
                self.nodes[n].coordinator = other;
                let nonce = self.random.roll();
                self.nodes[n].link.open_session(1_000 + self.now, nonce);
            }
            6 => self.stop_coordinator(c),
            7 => self.start_coordinator(c),
            16 => self.cut_off(c),
            17 => self.deafen(c),
            18 => self.pause(c),
            8 => self.shelf.store.set(if self.shelf.store.is_down() { Trouble::None } else { Trouble::Down }),
            9 => self.coordinators[c].wall_error = i64::try_from(self.random.below(4_000)).unwrap() - 2_000,
            10 => self.shelf.store.set(Trouble::None),
            11 => self.shelf.store.set(Trouble::LostAnswer),
            12 => self.shelf.store.set(Trouble::LostCall),
            13 => self.broken_until = self.now + self.random.below(300),
            _ => self.backup_or_restore(),
        }
    }

    fn stop_coordinator(&mut self, c: usize) {
        self.summary.count("coordinator stops", 1);
        // Their connections break.
        for n in 0..self.nodes.len() {
            if let Some(Held { to, request, .. }) = self.nodes[n].held.clone().filter(|held| held.to == c) {
                self.at(1, Event::Release { to, node: n, request });
            }
        }
        let coordinator = &mut self.coordinators[c];
        coordinator.copied = Copied::default();
        coordinator.life = Life::default();
        coordinator.seen = Revision::ZERO;
        coordinator.put_off = PutOff::default();
        coordinator.presence = Presence::default();
        coordinator.lives += 1;
        coordinator.is_up = false;
        if self.random.once_in(2) {
            self.start_coordinator(c);
        }
    }

    fn start_coordinator(&mut self, c: usize) {
        if std::mem::replace(&mut self.coordinators[c].is_up, true) {
            return;
        }
        if self.files.start(c) {
            self.summary.count("starts with an old file", 1);
        }
    }

    /// Files differ, and change, to the end of the faults; then each is read once more, and they still differ.
    fn file(&mut self) {
        if !self.has_faults() {
            for c in 0..COORDINATORS {
                self.files.reload(c);
            }
            return;
        }
        let delay = 10 + self.files.dice().below(60);
        self.at(delay, Event::File);
        let c = self.files.dice().index(COORDINATORS);
        match self.files.dice().below(8) {
            0..4 => self.files.write(c),
            4 => self.stop_coordinator(c),
            _ if self.coordinators[c].is_up => self.files.reload(c),
            _ => {}
        }
    }

    /// Coordinators are stopped for a restore, as the manual asks; or they are not.
    fn backup_or_restore(&mut self) {
        match self.backup.take() {
            None => {
                self.files.back_up();
                self.backup = Some(self.shelf.copy());
            }
            Some(backup) if self.random.once_in(3) => self.restore(&backup),
            Some(backup) => self.backup = Some(backup),
        }
    }

    fn restore(&mut self, backup: &Copy) {
        self.shelf.put_back(backup);
        self.files.put_back();
        self.put_backs += 1;
        let with_restart = self.random.once_in(2);
        self.note(|| format!("restored, with a restart: {with_restart}"));
        if with_restart {
            self.summary.count("restores with a restart", 1);
            (0..COORDINATORS).for_each(|c| self.stop_coordinator(c));
        } else {
            self.summary.count("restores under running coordinators", 1);
        }
        for node in &mut self.nodes {
            let record = self.shelf.now.nodes.get(&node.id);
            node.is_covered &= record.is_some_and(|record| record.membership == Membership::Admitted);
        }
        let covered = self.nodes.iter().filter(|node| node.is_covered);
        let minted: BTreeSet<_> = covered.filter_map(|node| Some(node.kernel?.primary.fingerprint)).collect();
        self.promises.put_back(&minted);
    }

    fn mend(&mut self) {
        self.shelf.store.set(Trouble::None);
        self.broken_until = 0;
        for c in 0..COORDINATORS {
            self.start_coordinator(c);
            self.coordinators[c].wall_error = 0;
            self.coordinators[c].troubles = Troubles::default();
        }
        for node in &mut self.nodes {
            (node.away_until, node.mute_until) = (0, 0);
        }
    }

    /// The invariant, over the distinct pairs of covered nodes, and the promise to clients.
    fn check(&mut self) {
        let mut distinct: Vec<(KeyFingerprint, Option<KeyFingerprint>, &NodeId)> = Vec::with_capacity(4);
        for node in self.nodes.iter().filter(|node| node.is_covered) {
            let Some(slots) = node.kernel else { continue };
            let pair = (slots.primary.fingerprint, slots.backup.map(|key| key.fingerprint));
            if !distinct.iter().any(|known| (known.0, known.1) == pair) {
                distinct.push((pair.0, pair.1, &node.id));
            }
        }
        for a in &distinct {
            for b in &distinct {
                assert!(a.0 == b.0 || Some(a.0) == b.1, "at {} s: {a:?} is not accepted by {b:?}", self.now);
            }
            self.promises.minted(a.0);
        }
        for key in self.promises.kept() {
            for node in &distinct {
                let is_accepted = node.0 == key || node.1 == Some(key);
                assert!(is_accepted, "at {} s: a cookie of {key} is not accepted by {node:?}", self.now);
            }
        }
    }

    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id.clone()).collect()
    }
}
