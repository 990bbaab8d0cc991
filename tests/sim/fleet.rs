//! Nodes, coordinators and the messages between them, in virtual seconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use tfo_fleet::engine::convergence::{Barrier, Life, Presence, Serving, conflict};
use tfo_fleet::engine::fence::{Link, RequestId, Verdict};
use tfo_fleet::engine::rollout::document::{Action, Document, Expect, Instruction, Proposal, Slots, Snapshot, Stage};
use tfo_fleet::engine::rollout::handle;
use tfo_fleet::engine::rollout::input::{Command, Force, Input, Now, Order, Step};
use tfo_fleet::engine::rollout::policy::{Policy, Share, WaveRule};
use tfo_fleet::engine::rollout::record::{Counters, Fence, Installed, KeySource, Report, Session, SlotCount, Standing};
use tfo_fleet::engine::rollout::sync::{Answer, Recording, Sync, SyncRefused, answer, record};
use tfo_fleet::engine::rollout::wave;
use tfo_fleet::model::count::Generation;
use tfo_fleet::model::ids::{NodeId, PoolId};
use tfo_fleet::model::key::{KeyFingerprint, PairPrint};
use tfo_fleet::model::time::UnixTime;

use super::fake::{FakeRandom, FakeStore};

/// Faults end here; from then on the fleet converges, and rotates on.
const FAULTS_UNTIL: u64 = 1_200;
const END: u64 = 2_700;
const TICK_SECS: u64 = 5;
const COORDINATORS: usize = 3;
const EPOCH: u64 = 1_700_000_000;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    pub(crate) steps: u64,
    pub(crate) rotations: u64,
    pub(crate) exclusions: u64,
    pub(crate) aborts: u64,
    pub(crate) revokes: u64,
    pub(crate) conflicts: u64,
    pub(crate) recoveries: u64,
    pub(crate) nodes: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.rotations += other.rotations;
        self.exclusions += other.exclusions;
        self.aborts += other.aborts;
        self.revokes += other.revokes;
        self.conflicts += other.conflicts;
        self.recoveries += other.recoveries;
        self.nodes += other.nodes;
    }
}

#[derive(Clone)]
enum Event {
    Tick(usize),
    Commit(usize, u64, Rc<Proposal>),
    /// A node's own clock says: sync.
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
    Fault,
}

struct Node {
    id: NodeId,
    slot_count: SlotCount,
    link: Link,
    file: Option<Fence>,
    kernel: Option<Slots>,
    /// A `once` agent comes back after so long; a daemon has its long poll.
    timer_secs: Option<u64>,
    coordinator: usize,
    /// Stopped or cut off until then.
    away_until: u64,
    /// Wakes of an earlier schedule are void.
    wake: u64,
    counters: Counters,
    is_covered: bool,
}

struct Coordinator {
    life: Life,
    lives: u64,
    presence: Presence,
    is_up: bool,
    wall_error: i64,
}

pub(crate) struct Fleet {
    pub(crate) random: FakeRandom,
    pub(crate) store: FakeStore,
    nodes: Vec<Node>,
    index: BTreeMap<NodeId, usize>,
    coordinators: Vec<Coordinator>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    pub(crate) now: u64,
    minted: u64,
    backup: Option<Rc<Snapshot>>,
    has_barriers: bool,
    is_told: bool,
    pub(crate) summary: Summary,
}

fn pool_id() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn print(number: u64) -> KeyFingerprint {
    KeyFingerprint::from_bytes(number.to_be_bytes())
}

fn policy(random: &mut FakeRandom) -> Policy {
    let mut policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    policy.interval_secs = 60 + random.below(120);
    policy.absent_after_secs = 60 + random.below(120);
    policy.drain_max_secs = 60;
    policy.drain_min_samples = 100;
    policy.health_window_secs = 10;
    policy.revoke_barrier_max_secs = 120;
    policy.expected_nodes = 50;
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
        let mut random = FakeRandom::new(seed);
        let document = Document::new(pool_id(), policy(&mut random), UnixTime::from_secs(EPOCH));
        let store = FakeStore { now: Rc::new(Snapshot { document, nodes: BTreeMap::new() }), fails: false };
        let count = usize::try_from(100 + random.below(30)).unwrap();
        let foreign = Slots {
            primary: tfo_fleet::engine::rollout::document::PoolKey {
                epoch: tfo_fleet::model::count::Epoch::FIRST,
                fingerprint: print(1),
            },
            backup: None,
        };
        let mut nodes = Vec::new();
        for number in 0..count {
            let session = Session { ordinal: 1_000, nonce: random.next() };
            nodes.push(Node {
                id: format!("n{number}").parse().unwrap(),
                slot_count: if random.once_in(30) { SlotCount::One } else { SlotCount::Two },
                link: Link::start(None, session, Duration::ZERO),
                file: None,
                kernel: Some(foreign),
                timer_secs: random.once_in(5).then(|| 40 + random.below(40)),
                coordinator: usize::try_from(random.below(COORDINATORS as u64)).unwrap(),
                away_until: 0,
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
                is_up: true,
                wall_error: 0,
            })
            .collect();
        let mut fleet = Self {
            random,
            store,
            nodes,
            index,
            coordinators,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            now: 0,
            minted: 100,
            backup: None,
            has_barriers: true,
            is_told: std::env::var_os("TFO_SEED").is_some(),
            summary: Summary { nodes: count as u64, ..Summary::default() },
        };
        for c in 0..COORDINATORS {
            fleet.at(1 + c as u64, Event::Tick(c));
        }
        for n in 0..count {
            let after = 1 + fleet.random.below(20);
            fleet.wake(n, after);
        }
        fleet.at(60, Event::Fault);
        fleet
    }

    /// Every node counts as having acknowledged: the check must notice.
    pub(crate) fn without_barriers(mut self) -> Self {
        self.has_barriers = false;
        self
    }

    pub(crate) fn run(mut self) -> Summary {
        let mut rotations_at_peace = None;
        while let Some(Reverse((at, sequence))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.now = at;
            self.summary.steps += 1;
            let Some(event) = self.events.remove(&sequence) else { continue };
            self.happen(event);
            self.check();
            if at >= FAULTS_UNTIL + 700 && rotations_at_peace.is_none() {
                rotations_at_peace = Some(self.summary.rotations);
            }
        }
        let document = &self.store.now.document;
        if self.is_told {
            println!("{:?} {:?}", Barrier::of_all(&self.store.now), conflict(&self.store.now));
            for c in 0..COORDINATORS {
                let now = Now { wall: self.wall(c), presence: &self.coordinators[c].presence };
                println!("{:?} {:?}", now.presence, handle(&self.store.now, now, &Input::Tick, None));
            }
        }
        assert!(rotations_at_peace.is_some_and(|before| self.summary.rotations > before), "it stopped: {document:?}");
        let required = Barrier::of_all(&self.store.now).required;
        let two_slot = self.nodes.iter().filter(|node| node.slot_count == SlotCount::Two).count();
        assert_eq!(required, two_slot, "not everybody is back");
        self.summary
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn wake(&mut self, n: usize, delay: u64) {
        self.nodes[n].wake += 1;
        let wake = self.nodes[n].wake;
        self.at(delay, Event::Wake(n, wake));
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.now < FAULTS_UNTIL
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(c) => self.tick(c),
            Event::Commit(c, life, proposal) => {
                if self.coordinators[c].lives == life && self.coordinators[c].is_up {
                    self.commit(&proposal);
                }
            }
            Event::Wake(n, wake) => {
                if self.nodes[n].wake == wake {
                    self.sync(n);
                }
            }
            Event::Request { node, to, life, request, sync } => self.serve((node, request), (to, life), &sync),
            Event::Answer { node, request, answer } => self.answered(node, request, answer),
            Event::Fault => self.fault(),
        }
    }

    // ---- nodes ----

    fn sync(&mut self, n: usize) {
        let again = self.nodes[n].timer_secs.unwrap_or(45) + self.random.below(15);
        self.wake(n, again);
        if self.nodes[n].away_until > self.now {
            return;
        }
        if let Some(told) = self.nodes[n].link.pending().copied() {
            self.install(n, told);
        }
        let traffic = self.random.below(50);
        let node = &mut self.nodes[n];
        node.counters.passive += traffic;
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
                next_sync_secs: node.timer_secs.unwrap_or(60),
                counters: Some(node.counters),
                seen: Generation::ZERO,
                source: KeySource::Coordinator,
                holds: None,
            },
        });
        let to = node.coordinator;
        let life = self.coordinators[to].lives;
        let copies = if !self.has_faults() {
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

    fn delay(&mut self) -> u64 {
        if self.has_faults() && self.random.once_in(30) { self.random.below(60) } else { self.random.below(3) }
    }

    fn answered(&mut self, n: usize, request: RequestId, answer: Result<Answer, SyncRefused>) {
        let monotonic = Duration::from_secs(self.now);
        let nonce = self.random.next();
        let node = &mut self.nodes[n];
        if node.away_until > self.now {
            return;
        }
        match answer {
            Ok(Answer::Tell(told)) => {
                let taken = node.link.answered(request, &pool_id(), &told, (monotonic, Duration::from_secs(60)));
                if matches!(taken, Ok(Verdict::Install | Verdict::Same)) {
                    self.install(n, told);
                }
            }
            Ok(Answer::Nothing) => drop(node.link.nothing_new(request, monotonic)),
            Err(SyncRefused::SessionClosed { ordinal }) => {
                if node.link.session_closed(request, ordinal, nonce, monotonic).is_ok() {
                    self.wake(n, 1);
                }
            }
            Err(_) => node.link.give_up(),
        }
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
            self.store.now.nodes.get(&node.id).is_some_and(|record| record.standing == Standing::Admitted);
        node.is_covered |= is_admitted && node.slot_count == SlotCount::Two;
        self.wake(n, 1);
    }

    /// The agent starts anew with what its file says; the kernel's keys stay.
    pub(crate) fn restart(&mut self, n: usize) {
        let nonce = self.random.next();
        let node = &mut self.nodes[n];
        // A clock that stepped: the ordinal may be below that of the session before.
        let ordinal = 1_000 + if nonce.is_multiple_of(5) { 0 } else { self.now };
        node.link = Link::start(node.file.clone(), Session { ordinal, nonce }, Duration::from_secs(self.now));
        self.wake(n, 2);
    }

    fn reboot(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if let Some(fence) = &node.file {
            let backup = if node.slot_count == SlotCount::One { None } else { fence.slots.backup };
            node.kernel = Some(Slots { primary: fence.slots.primary, backup });
        }
        self.restart(n);
    }

    fn reimage(&mut self, n: usize) {
        self.note(|| format!("{} has a new image", self.nodes[n].id));
        let node = &mut self.nodes[n];
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
        if !coordinator.is_up || coordinator.lives != life {
            return;
        }
        let Some(snapshot) = self.store.read() else { return };
        let id = self.nodes[n].id.clone();
        let recorded = record(&snapshot.document, snapshot.nodes.get(&id), &id, sync, self.wall(c));
        drop(snapshot);
        let result = match recorded {
            Ok(Recording::First(change) | Recording::Later(change)) => {
                if self.store.write(&change) {
                    Ok(())
                } else {
                    Err(SyncRefused::NotAdmitted)
                }
            }
            Ok(Recording::Stale) => Ok(()),
            Err(refused) => Err(refused),
        };
        let answer = result.and_then(|()| {
            let snapshot = self.store.read().ok_or(SyncRefused::NotAdmitted)?;
            answer(&snapshot, &self.coordinators[c].presence, &id, sync)
        });
        if !(self.has_faults() && self.random.once_in(40)) {
            let delay = self.delay();
            self.at(delay, Event::Answer { node: n, request, answer });
        }
    }

    fn tick(&mut self, c: usize) {
        let delay = if self.has_faults() && self.random.once_in(50) { 60 } else { TICK_SECS };
        self.at(delay, Event::Tick(c));
        if !self.coordinators[c].is_up {
            return;
        }
        let monotonic = Duration::from_secs(self.now);
        let Some(snapshot) = self.store.read() else {
            self.coordinators[c].life.pass(monotonic, Serving::No);
            return;
        };
        self.coordinators[c].life.observe(monotonic, Serving::Yes, &snapshot);
        self.coordinators[c].presence = self.coordinators[c].life.presence(&snapshot);
        drop(snapshot);
        let input = match self.wanted() {
            Some(command) => Input::Order(Order {
                operator: "ops".parse().unwrap(),
                reason: String::new(),
                if_revision: None,
                command,
            }),
            None => Input::Tick,
        };
        self.decide(c, &input);
    }

    /// What the operator wants: the first key, then now and then anything; after the faults, that it goes on.
    fn wanted(&mut self) -> Option<Command> {
        let snapshot = self.store.now.clone();
        let document = &snapshot.document;
        if conflict(&snapshot).is_some() {
            return self.recovery(&snapshot);
        }
        if document.stage == Stage::Empty {
            let keys = PairPrint { primary: print(1), backup: None };
            let is_time = self.now > 40;
            let expect = Expect::Number(self.nodes.len() / 2);
            return if is_time { Some(Command::Import { keys, expect }) } else { None };
        }
        let stopped = document.paused.is_some() || document.hold.is_some();
        if stopped && (!self.has_faults() || self.random.once_in(4)) {
            return Some(Command::Resume);
        }
        if self.has_faults() && self.random.once_in(40) { Some(self.whim(&snapshot)) } else { None }
    }

    fn decide(&mut self, c: usize, input: &Input) {
        let view = if self.has_barriers { self.store.now.clone() } else { Rc::new(self.all_acked()) };
        let wall = self.wall(c);
        let now = Now { wall, presence: &self.coordinators[c].presence };
        self.minted += 1;
        let fresh = print(self.minted);
        let Ok(Step::Commit(mut proposal)) = handle(&view, now, input, Some(fresh)) else { return };
        if !self.has_barriers {
            proposal.records.clear();
        }
        let proposal = Rc::from(proposal);
        let is_slow = self.has_faults() && self.random.once_in(5);
        let delay = if is_slow { 1 + self.random.below(20) } else { 0 };
        let life = self.coordinators[c].lives;
        self.at(delay, Event::Commit(c, life, proposal));
    }

    fn all_acked(&self) -> Snapshot {
        let mut snapshot = (*self.store.now).clone();
        for (id, record) in &mut snapshot.nodes {
            let told = wave::told(&snapshot.document, id, SlotCount::Two);
            if let (Some(told), Some(report)) = (told, &mut record.report) {
                report.installed = Installed::ReadBack;
                report.fence = Some(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots });
            }
        }
        snapshot
    }

    fn commit(&mut self, proposal: &Proposal) {
        let told_before = self.store.now.document.generation;
        if !self.store.commit(proposal) {
            self.summary.conflicts += 1;
            return;
        }
        self.note(|| {
            format!(
                "{:?} {:?} {:?} {:?}",
                proposal.audit.action, proposal.document.generation, proposal.document.stage, proposal.audit.nodes
            )
        });
        match proposal.audit.action {
            Action::Settle | Action::DropRevoked => self.summary.rotations += 1,
            Action::Abort => self.summary.aborts += 1,
            Action::Revoke => self.summary.revokes += 1,
            Action::Recover => self.summary.recoveries += 1,
            _ => {}
        }
        for change in &proposal.records {
            let is_admitted = change.next.as_ref().is_some_and(|record| record.standing == Standing::Admitted);
            if let (Some(n), false) = (self.index.get(&change.node), is_admitted) {
                self.nodes[*n].is_covered = false;
                self.summary.exclusions += 1;
            }
        }
        let is_news = proposal.document.generation != told_before || proposal.audit.action == Action::OpenWave;
        if is_news {
            // The long polls end.
            for n in 0..self.nodes.len() {
                if self.nodes[n].timer_secs.is_none() {
                    let delay = 1 + self.random.below(3);
                    self.wake(n, delay);
                }
            }
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
        match self.random.below(12) {
            0 => self.restart(n),
            1 => self.reboot(n),
            2 => self.reimage(n),
            3 | 4 => self.nodes[n].away_until = self.now + self.random.below(600),
            5 => {
                let other = (self.nodes[n].coordinator + 1) % COORDINATORS;
                self.nodes[n].coordinator = other;
                let nonce = self.random.next();
                self.nodes[n].link.open_session(1_000 + self.now, nonce);
            }
            6 => self.stop_coordinator(c),
            7 => self.coordinators[c].is_up = true,
            8 => self.store.fails = !self.store.fails,
            9 => self.coordinators[c].wall_error = i64::try_from(self.random.below(4_000)).unwrap() - 2_000,
            10 => self.store.fails = false,
            _ => self.backup_or_restore(),
        }
    }

    fn stop_coordinator(&mut self, c: usize) {
        let coordinator = &mut self.coordinators[c];
        coordinator.life = Life::default();
        coordinator.presence = Presence::default();
        coordinator.lives += 1;
        coordinator.is_up = self.random.once_in(2);
    }

    /// Coordinators are stopped for a restore, as the manual says.
    fn backup_or_restore(&mut self) {
        match self.backup.take() {
            None => self.backup = Some(self.store.now.clone()),
            Some(backup) if self.random.once_in(4) => {
                self.store.now = backup;
                self.note(|| "restored".to_owned());
                for c in 0..COORDINATORS {
                    self.stop_coordinator(c);
                }
                for n in 0..self.nodes.len() {
                    let record = self.store.now.nodes.get(&self.nodes[n].id);
                    self.nodes[n].is_covered &= record.is_some_and(|record| record.standing == Standing::Admitted);
                }
            }
            Some(backup) => self.backup = Some(backup),
        }
    }

    fn mend(&mut self) {
        self.store.fails = false;
        for coordinator in &mut self.coordinators {
            coordinator.is_up = true;
            coordinator.wall_error = 0;
        }
        for node in &mut self.nodes {
            node.away_until = 0;
        }
    }

    /// The invariant, over the distinct pairs of covered nodes.
    fn check(&self) {
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
        }
    }

    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id.clone()).collect()
    }

    pub(crate) const FORCE: Force = Force::Yes;
}
