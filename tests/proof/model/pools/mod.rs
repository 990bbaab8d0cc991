//! A node that an operator moves from one pool to another and back (docs/protocol.md#rule-6, rule 9): two pools of one
//! coordinator, a node that stays in each, and one that is moved.
//!
//! A world of its own, because all others have one pool.  What a joiner, a late answer and a restart can do inside a pool is
//! searched there; here an answer is late in one way: much happens before it is taken.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};
use tfo_engine::fence::{AnswerAccepted, Ask, Link, MoveOrder, PoolAnswer};
use tfo_engine::rollout::barrier::Barrier;
use tfo_engine::rollout::document::{Document, Proposal, Stage};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Command, Expectation, Input, Now, OperatorRequest, Step, Target};
use tfo_engine::rollout::parts::{Ack, Entry, Parts, PoolContent, Writes};
use tfo_engine::rollout::presence::Presence;
use tfo_engine::rollout::record::{Installed, NodeRecord, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, Instruction, Slots};
use tfo_engine::rollout::sync::{Answer, PoolView, Recording, Sync, SyncRefused, order_for, record};
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::{NodeId, PoolId};
use tfo_model::node::{KeySource, Session};

mod check;

use super::step::AFTER;
use super::stored::{Counts, Stored, plain};
use super::world::{coordinator_name, fingerprint, link, policy, pool_key};

/// The pools, by their index.
const POOLS: [usize; 2] = [0, 1];
/// The node that is moved; node 0 stays in pool 0, and node 1 in pool 1.
const MOVER: usize = 2;
/// Exchanges after which a fleet without faults must have come to rest.
const ROUNDS: usize = 40;

/// What is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Off {
    /// A coordinator takes the fence of any pool for that of a node that was moved.
    OrderIsNeeded,
    /// A node is told of a move before that is committed.
    OrderIsDurable,
    /// The order ends with the arrival of the node: what it asks in the old pool afterwards is as from any node.
    OrderIsKept,
    /// An order leaves the node in the old pool until its first sync in the new one.
    MovedIsOut,
    /// The old order of a node that is moved back stays.
    BackEndsTheOrder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    /// A node asks the pool that it is led to, and the answer is on its way.
    Sync(usize),
    /// It takes the answer: file, kernel, read back.
    Take(usize),
    Tick(usize),
    /// An operator moves the mover out of this pool.
    Move(usize),
    /// The second half of it: the order of the pool that it goes back to ends.
    Clear(usize),
    /// The mover's agent starts again, with the name of this pool in its configuration.
    Restart(usize),
}

#[derive(Debug, Clone)]
enum Reply {
    Tell(PoolId, Instruction),
    Nothing,
    SessionClosed(u64),
    Moved(MoveOrder),
    OtherPool,
}

#[derive(Debug, Clone)]
struct Node {
    link: Rc<Link>,
    kernel: Slots,
    /// The pool that it asks.
    asks: usize,
    answer: Option<(Ask, Reply)>,
    /// Ghost: bit per pool whose invariant covers it.
    covered: [bool; 2],
}

#[derive(Debug, Clone)]
struct World {
    off: Option<Off>,
    pools: [Rc<Stored>; 2],
    nodes: Vec<Node>,
    /// The order that a move back has yet to end.
    to_clear: Option<usize>,
    moves: u8,
    /// The mover was told of a move that is not committed: only a switch does it.
    told_early: bool,
    restarts: u8,
    stages: [u8; 2],
    made: u64,
    /// Ghost: the moves that were committed.
    ordered: BTreeSet<(usize, usize)>,
    /// Ghost: the mover took keys of a pool without an order.
    went_by_itself: bool,
}

fn pool_id(pool: usize) -> PoolId {
    ["a", "d"][pool].repeat(32).parse().unwrap()
}

fn index_of(id: PoolId) -> usize {
    usize::from(id == pool_id(1))
}

fn id(node: usize) -> NodeId {
    ["a", "b", "m"][node].parse().unwrap()
}

impl World {
    /// Steady [2,1]g1 in pool 0, with the mover, and [12,11]g1 in pool 1.
    fn new(off: Option<Off>, moves: u8, restarts: u8, stages: [u8; 2]) -> Self {
        let slots = |pool: usize| {
            let epoch = 10 * pool as u64;
            Slots { primary: pool_key(epoch + 2), backup: Some(pool_key(epoch + 1)) }
        };
        let mut nodes = Vec::new();
        let mut entered = [Writes::default(), Writes::default()];
        for (node, pool) in [(0, 0), (1, 1), (MOVER, 0)] {
            let fence = Fence { pool_id: pool_id(pool), generation: Generation::new(1), slots: slots(pool) };
            let link = link(Some(fence), 1, 0);
            entered[pool].entries.insert(id(node), entry(&link).into());
            let covered = [pool == 0, pool == 1];
            nodes.push(Node { link, kernel: slots(pool), asks: pool, answer: None, covered });
        }
        let pools = POOLS.map(|pool| {
            let Slots { primary, backup } = slots(pool);
            let mut document = Document::new(pool_id(pool), policy(&[]), AFTER);
            document.stage = Stage::Steady { current: primary, backup };
            document.generation = Generation::new(1);
            document.next_epoch = Epoch::new(primary.epoch.get() + 1).unwrap();
            let mut content = PoolContent::new(document, Parts::default());
            content.write(&coordinator_name(0), &entered[pool]);
            plain(content, Counts::default())
        });
        let (ordered, to_clear) = (BTreeSet::new(), None);
        Self {
            off,
            pools,
            nodes,
            to_clear,
            moves,
            told_early: false,
            restarts,
            stages,
            made: 100,
            ordered,
            went_by_itself: false,
        }
    }

    fn is_off(&self, off: Off) -> bool {
        self.off == Some(off)
    }

    fn events(&self) -> Vec<Event> {
        let nodes = 0..self.nodes.len();
        let mut events: Vec<Event> = nodes.clone().map(Event::Sync).collect();
        events.extend(nodes.filter(|node| self.nodes[*node].answer.is_some()).map(Event::Take));
        events.extend(POOLS.map(Event::Tick));
        if self.moves > 0 {
            events.extend(POOLS.map(Event::Move));
        }
        if self.restarts > 0 {
            events.extend(POOLS.map(Event::Restart));
        }
        events.extend(self.to_clear.map(Event::Clear));
        events
    }

    /// None if nothing happens.
    fn after(&self, event: Event) -> Option<Self> {
        let mut next = self.clone();
        let is_done = match event {
            Event::Sync(node) => next.sync(node),
            Event::Take(node) => next.take(node),
            Event::Tick(pool) => next.decide(pool, &Input::Tick),
            Event::Move(from) => next.move_from(from),
            Event::Clear(pool) => next.clear(pool),
            Event::Restart(pool) => next.restart(pool),
        };
        is_done.then_some(next)
    }

    fn presence() -> Presence {
        Presence { seen: [0, 1, MOVER].map(id).into(), wave_secs: 1_000_000, ..Presence::default() }
    }

    fn decide(&mut self, pool: usize, input: &Input) -> bool {
        let presence = Self::presence();
        let now = Now { wall: AFTER, presence: &presence };
        let mut step = handle(&self.pools[pool], now, input, None);
        if let Ok(Step::MakeKey { .. }) = step {
            if self.stages[pool] == 0 {
                return false;
            }
            self.stages[pool] -= 1;
            self.made += 1;
            step = handle(&self.pools[pool], now, input, Some(fingerprint(self.made)));
        }
        let Ok(Step::Commit(proposal)) = step else { return false };
        self.commit(pool, *proposal);
        true
    }

    fn commit(&mut self, pool: usize, proposal: Proposal) {
        let mut content = self.pools[pool].content.clone();
        content.commit(&proposal);
        self.pools[pool] = plain(content, Counts::default());
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let record = self.pools[pool].nodes.get(&id(index));
            node.covered[pool] &= record.is_some_and(NodeRecord::is_required);
        }
    }

    fn order(command: Command) -> Input {
        let operator = "ops".parse().unwrap();
        Input::Request(OperatorRequest { operator, reason: String::new(), if_revision: None, command })
    }

    fn move_from(&mut self, from: usize) -> bool {
        let to = 1 - from;
        let target = Target { pool_id: pool_id(to), name: "other".parse().unwrap() };
        let command = Command::Move { nodes: [id(MOVER)].into(), to: target, expected: Expectation::Keep };
        let before = self.pools[from].clone();
        if !self.decide(from, &Self::order(command)) {
            return false;
        }
        if self.is_off(Off::MovedIsOut) {
            // Only the answer changes: what is stored of the node stays as it was.
            let (document, parts) = (self.pools[from].document.clone(), before.content.parts().clone());
            self.pools[from] = plain(PoolContent::new(document, parts), Counts::default());
        }
        self.moves -= 1;
        self.ordered.insert((from, to));
        self.to_clear = Some(to).filter(|_| !self.is_off(Off::BackEndsTheOrder));
        true
    }

    fn clear(&mut self, pool: usize) -> bool {
        self.to_clear = None;
        if order_for(&self.pools[pool], &id(MOVER)).is_some() {
            let command = Command::Forget { nodes: [id(MOVER)].into(), expected: Expectation::Keep };
            assert!(self.decide(pool, &Self::order(command)), "an order can always be forgotten");
        }
        true
    }

    fn restart(&mut self, pool: usize) -> bool {
        self.restarts -= 1;
        let node = &mut self.nodes[MOVER];
        node.link = link(node.link.fence().cloned(), node.link.session().ordinal + 1, 0);
        node.asks = pool;
        node.answer = None;
        true
    }

    /// What the coordinator answers: as `coordinator::routes`, from one store.
    fn sync(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        let mut link = (*node.link).clone();
        let ask = link.ask();
        node.link = Rc::new(link);
        let (pool, report) = (node.asks, report(&node.link));
        let sync = Sync { session: ask.session, seen: ask.seen, report: report.into() };
        let reply = self.reply(pool, index, &sync);
        self.nodes[index].answer = Some((ask, reply));
        true
    }

    fn reply(&mut self, pool: usize, index: usize, sync: &Sync) -> Reply {
        let node = id(index);
        if self.is_off(Off::OrderIsDurable) && index == MOVER && self.moves > 0 && !self.told_early {
            self.told_early = true;
            return Reply::Moved(MoveOrder { from: pool_id(pool), to: pool_id(1 - pool) });
        }
        if self.is_off(Off::MovedIsOut) && index == MOVER && self.ordered.contains(&(pool, 1 - pool)) {
            return Reply::Moved(MoveOrder { from: pool_id(pool), to: pool_id(1 - pool) });
        }
        let snapshot = &self.pools[pool];
        let before = snapshot.nodes.get(&node);
        let by = coordinator_name(0);
        let mut writes = Writes::default();
        match record(&snapshot.document, before, &node, sync, (&by, AFTER)) {
            Ok(Recording::First(entry)) => drop(writes.entries.insert(node.clone(), entry.into())),
            Ok(Recording::Later(later)) => drop(writes.acks.insert(node.clone(), later.into())),
            Ok(Recording::Stale) => {}
            Err(refused) => return self.refusal(pool, &node, sync, &refused),
        }
        let mut content = self.pools[pool].content.clone();
        content.write(&by, &writes);
        self.pools[pool] = plain(content, Counts::default());
        let snapshot = &self.pools[pool];
        match PoolView::of(snapshot, &Self::presence()).answer(snapshot, &node, sync) {
            Ok(Answer::Instruct(instruction)) => Reply::Tell(pool_id(pool), instruction),
            Ok(Answer::Nothing) => Reply::Nothing,
            Err(refused) => self.refusal(pool, &node, sync, &refused),
        }
    }

    fn refusal(&mut self, pool: usize, node: &NodeId, sync: &Sync, refused: &SyncRefused) -> Reply {
        match refused {
            SyncRefused::Moved { to } => {
                let has_arrived = sync.report.fence.as_ref().is_some_and(|fence| fence.pool_id == *to);
                if self.is_off(Off::OrderIsKept) && has_arrived {
                    return Reply::OtherPool;
                }
                Reply::Moved(order_for(&self.pools[pool], node).unwrap())
            }
            SyncRefused::OtherPool => {
                let held = index_of(sync.report.fence.as_ref().unwrap().pool_id);
                if self.is_off(Off::OrderIsNeeded) {
                    return Reply::Moved(MoveOrder { from: pool_id(held), to: pool_id(pool) });
                }
                order_for(&self.pools[held], node).map_or(Reply::OtherPool, Reply::Moved)
            }
            SyncRefused::SessionClosed { ordinal } => Reply::SessionClosed(*ordinal),
            other => panic!("no other refusal is possible here: {other:?}"),
        }
    }

    fn take(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        let Some((ask, reply)) = node.answer.take() else { return false };
        let mut link = (*node.link).clone();
        let next = Session { ordinal: 0, nonce: 0 };
        let before = link.fence().map(|fence| fence.pool_id);
        match reply {
            Reply::Tell(pool_id, instruction) => {
                let answer = PoolAnswer { pool_id, instruction, absent_after: Duration::ZERO };
                if link.answered(ask.request, &answer, Duration::ZERO) == Ok(AnswerAccepted::Install) {
                    link.persisted(&pool_id, &instruction);
                    node.kernel = instruction.slots;
                    let (pool, held) = (index_of(pool_id), index_of(before.unwrap()));
                    self.went_by_itself |= pool != held && !self.ordered.contains(&(held, pool));
                    node.covered[pool] = self.pools[pool].nodes.get(&id(index)).is_some_and(NodeRecord::is_required);
                }
            }
            Reply::Nothing => drop(link.nothing_new(ask.request, Duration::ZERO)),
            Reply::SessionClosed(open) => drop(link.session_closed(ask.request, open, 0, Duration::ZERO)),
            Reply::OtherPool => drop(link.other_pool(ask.request, Duration::ZERO)),
            Reply::Moved(order) => {
                if link.moved(ask.request, &order, next, Duration::ZERO).is_ok() {
                    node.asks = index_of(order.to);
                }
            }
        }
        node.link = Rc::new(link);
        true
    }

    fn broken(&self) -> Option<String> {
        for pool in POOLS {
            let covered = || self.nodes.iter().enumerate().filter(|(_, node)| node.covered[pool]);
            for (a, makes) in covered() {
                for (b, Node { kernel, .. }) in covered() {
                    let made = makes.kernel.primary.fingerprint;
                    if !kernel.keys().any(|key| key.fingerprint == made) {
                        return Some(format!("pool {pool}: {} makes cookies that {} rejects", id(a), id(b)));
                    }
                }
            }
        }
        let is_required = |pool: usize| self.pools[pool].nodes.get(&id(MOVER)).is_some_and(NodeRecord::is_required);
        if POOLS.into_iter().all(is_required) {
            return Some("the node is required in both pools".to_owned());
        }
        self.went_by_itself.then(|| "the node took keys of another pool without an order".to_owned())
    }

    /// Drives the pools without faults; the mover is silent or not.  Fails if a pool does not rotate, or if the mover does
    /// not come to hold the keys of one.
    fn settles(&self, mover_speaks: bool) -> Result<(), String> {
        let mut world = Self { stages: [1, 1], moves: 0, ..self.clone() };
        if let Some(pool) = world.to_clear {
            world.clear(pool);
        }
        if world.ordered.is_empty() {
            // Only its configuration is wrong, which its operator sees and corrects.
            world.nodes[MOVER].asks = 0;
        }
        let last = usize::from(mover_speaks) + MOVER;
        let mut rotated = [false; 2];
        for _ in 0..ROUNDS {
            for node in 0..last {
                world.sync(node);
                world.take(node);
            }
            for pool in POOLS {
                world.decide(pool, &Input::Tick);
                let is_steady = matches!(world.pools[pool].document.stage, Stage::Steady { .. });
                rotated[pool] |= is_steady && world.stages[pool] == 0;
            }
        }
        if let Some(what) = world.broken() {
            return Err(format!("while it settles: {what}"));
        }
        for pool in POOLS {
            let barrier = Barrier::of_all(&world.pools[pool]);
            let is_out = world.pools[pool].nodes.get(&id(MOVER)).is_none_or(|record| !record.is_required());
            if (mover_speaks || is_out) && !(rotated[pool] && barrier.waiting_for.is_empty()) {
                return Err(format!("pool {pool} waits for {:?}", barrier.waiting_for));
            }
        }
        let link = &world.nodes[MOVER].link;
        let home = POOLS.into_iter().find(|pool| {
            world.pools[*pool].nodes.get(&id(MOVER)).is_some_and(NodeRecord::is_required)
                && link.reported().is_some_and(|fence| fence.pool_id == pool_id(*pool))
        });
        if mover_speaks && home.is_none() { Err("the node has come to no pool".to_owned()) } else { Ok(()) }
    }

    fn key(&self) -> u128 {
        let mut hasher = SipHasher13::new();
        let mut pools = self.pools.each_ref().map(|pool| pool.content.snapshot().clone());
        let mut ranks: BTreeSet<u64> = self.nodes.iter().map(|node| node.link.session().ordinal).collect();
        let sessions = pools.iter().flat_map(|pool| pool.nodes.values());
        ranks.extend(sessions.filter_map(|record| record.session).map(|session| session.ordinal));
        let rank = |ordinal: u64| ranks.iter().position(|known| *known == ordinal).unwrap() as u64;
        for record in pools.iter_mut().flat_map(|pool| pool.nodes.values_mut()) {
            record.session = record.session.map(|session| Session { ordinal: rank(session.ordinal), ..session });
        }
        for pool in &pools {
            (&pool.document, &pool.nodes).hash(&mut hasher);
        }
        for node in &self.nodes {
            let link = &node.link;
            (link.fence(), link.reported().is_some(), link.seen(), link.has_keys()).hash(&mut hasher);
            (rank(link.session().ordinal), node.asks, node.covered, node.kernel).hash(&mut hasher);
            if let Some((ask, reply)) = &node.answer {
                (ask.session == link.session(), link.outstanding() == Some(ask.request), ask.seen).hash(&mut hasher);
                match reply {
                    Reply::SessionClosed(_) => 1.hash(&mut hasher),
                    other => format!("{other:?}").hash(&mut hasher),
                }
            }
        }
        (self.to_clear, self.moves, self.told_early, self.restarts, self.stages, self.went_by_itself).hash(&mut hasher);
        self.ordered.hash(&mut hasher);
        hasher.finish128().as_u128()
    }
}

fn report(link: &Link) -> Report {
    Report {
        fence: link.reported().cloned(),
        installed: Installed::ReadBack,
        foreign: None,
        slot_count: SlotCount::Two,
        next_sync_secs: 60,
        counters: None,
        seen: Generation::ZERO,
        source: KeySource::Coordinator,
        holds: None,
    }
}

fn entry(link: &Link) -> Entry {
    let first = Ack { report: report(link).into(), syncs: 0, window: None, baseline: None, at: AFTER };
    Entry { session: link.session(), answers: None, first }
}
