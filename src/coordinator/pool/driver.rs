//! The driver of one pool: looks at what the store has, asks the engine, commits, and only then adopts and publishes.
//!
//! The loop takes what has come in ([`super::work`]), writes acks that are due, and ticks: after news ([`TICK_MIN`],
//! [`TICK_REST`], [`TICK_NEWS_MAX`]), and without any every [`TICK_MAX`] to [`TICK_MAX_LARGE`].  Invariants: nothing that is only queued counts for a
//! decision; every decision and every answer is made from a copy that the store has just confirmed.
//!
//! A policy in the configuration file that differs from the document's is committed as soon as the engine allows it,
//! under the name of [`CONFIG_OPERATOR`].  Until then no rotation starts; one that runs is finished by the policy that it
//! began with, which is the document's, because the engine takes no other in its midst.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::book::{Book, GivenKeys, Verified};
use super::waiting::WaitingNodes;
use super::{Described, Message, Shared};
use crate::metrics::Metrics;
use tfo_config::coordinator::CONFIG_OPERATOR;
use tfo_crypto::random::{self, NoRandomness};
use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::document::{Actor, Proposal, Stage};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Reason, Refused, Step, Wait};
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::sync::PoolView;
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;
use tfo_store::{CommitError, Erasure, Head, RECORDS_MAX, RecordQueue};

/// Longest time between two ticks: schedule and absence are measured in seconds.
const TICK_MAX: Duration = Duration::from_secs(1);
/// Part of its time for which an idle driver ticks at most: with ten thousand nodes every few seconds.
const TICK_PARTS: u32 = 400;
/// And the longest time between two ticks then: half of what may count as served (`SERVED_GAP_MAX`).
const TICK_MAX_LARGE: Duration = Duration::from_secs(5);
/// Shortest time between two ticks: each looks at every node.
const TICK_MIN: Duration = Duration::from_millis(25);
/// And how many times as long as a tick took the nodes are served before the next one.
const TICK_REST: u32 = 3;
/// Longest time from news to a tick, where not all have come that are waited for.
const TICK_NEWS_MAX: Duration = Duration::from_millis(250);
/// How long requests of nodes gather before the driver looks at them: one waking and one look at the store for all.
const GATHER: Duration = Duration::from_millis(10);
/// How long an ack that says something new waits for others at least, and at most; in between, as long as the last write
/// took.
const ACK_PATIENCE: Duration = Duration::from_millis(5);
const ACK_PATIENCE_MAX: Duration = Duration::from_millis(100);
/// How long one waits that says nothing new, but that its node is there.
const QUIET_PATIENCE: Duration = Duration::from_secs(1);
/// How often erased keys that are still on the medium are looked for.
const ERASE_EVERY: Duration = Duration::from_secs(10);
/// Most commits of one tick: the walk has fewer steps in a row.
const COMMITS_MAX: usize = 8;
/// Most requests that are taken together.
const BATCH_MAX: usize = 1_024;

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Serve,
    End,
}

/// What a queued record says to those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// Something that a barrier could see.
    News,
    /// That its node is there.
    Quiet,
}

/// What a step of the walk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Yes,
    No,
}

pub(super) struct Driver {
    pub(super) book: Book,
    pub(super) queue: RecordQueue,
    pub(super) presence: Presence,
    pub(super) view: PoolView,
    pub(super) waiting: WaitingNodes,
    pub(super) described: BTreeMap<NodeId, Described>,
    /// Since when nodes are behind what they are told.
    pub(super) behind: BTreeMap<NodeId, UnixTime>,
    /// What the last tick waits for.
    pub(super) wait: Option<Wait>,
    pub(super) file_policy: Policy,
    pub(super) metrics: Arc<Metrics>,
    pub(super) life: Life,
    pub(super) shared: Arc<Shared>,
    /// What `presence` and `view` were made of.
    looked_at: Option<Head>,
    /// The revision that waiting nodes were answered from.
    published: Option<Revision>,
    flush_at: Option<Instant>,
    /// How long the last write of records took.
    write_took: Duration,
    /// Acks since the last tick in which a barrier could see a difference.
    news: usize,
    last_tick: Option<Instant>,
    /// How long the last tick took: see [`TICK_REST`].
    tick_took: Duration,
    next_tick: Instant,
    next_erase: Instant,
    /// The last write failed: nobody can be recorded, so this is no time in which a node could be silent (rule 11).
    pub(super) writes_fail: bool,
    /// Logged once each: the store cannot be reached, the pool is frozen, the file's policy waits.
    pub(super) logged: Logged,
}

#[derive(Default)]
pub(super) struct Logged {
    pub(super) store_down: bool,
    frozen: bool,
    differs: Vec<&'static str>,
}

impl Driver {
    pub(super) fn new(book: Book, file_policy: Policy, metrics: Arc<Metrics>, shared: Arc<Shared>) -> Self {
        let presence = Presence::default();
        let view = PoolView::of(book.snapshot(), &presence);
        let now = clock::monotonic();
        Self {
            book,
            queue: RecordQueue::default(),
            presence,
            view,
            waiting: WaitingNodes::default(),
            described: BTreeMap::new(),
            behind: BTreeMap::new(),
            wait: None,
            file_policy,
            metrics,
            life: Life::default(),
            shared,
            looked_at: None,
            published: None,
            flush_at: None,
            write_took: Duration::ZERO,
            news: 0,
            last_tick: None,
            tick_took: Duration::ZERO,
            next_tick: now,
            next_erase: now,
            writes_fail: false,
            logged: Logged::default(),
        }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self, receiver: &Receiver<Message>) {
        self.tick();
        // More was waiting than was taken.
        let mut backlog = false;
        loop {
            let next = self.flush_at.map_or(self.next_tick, |at| at.min(self.next_tick));
            match receiver.recv_timeout(next.saturating_duration_since(clock::monotonic())) {
                Ok(first) => {
                    if !backlog && matches!(first, Message::Sync { .. }) {
                        std::thread::sleep(next.saturating_duration_since(clock::monotonic()).min(GATHER));
                    }
                    let batch: Vec<_> = std::iter::once(first).chain(receiver.try_iter().take(BATCH_MAX - 1)).collect();
                    backlog = batch.len() == BATCH_MAX;
                    if self.serve(batch) == Next::End {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.flush_at.is_some_and(|at| at <= clock::monotonic()) {
                self.flush();
                self.tick_for_news();
            }
            if self.next_tick <= clock::monotonic() {
                self.tick();
            }
        }
        self.flush();
        self.waiting.let_go();
        info!(pool = %self.book.pool(), "the driver has ended");
    }

    /// The queue is written soon, or later if nothing in it is news.
    pub(super) fn flush_after(&mut self, ack: Ack) {
        let patience = match ack {
            Ack::News => self.write_took.clamp(ACK_PATIENCE, ACK_PATIENCE_MAX),
            Ack::Quiet => QUIET_PATIENCE,
        };
        self.news += usize::from(ack == Ack::News);
        let at = clock::monotonic() + patience;
        self.flush_at = Some(self.flush_at.map_or(at, |before| before.min(at)));
    }

    /// What says nothing new moves nothing, and few barriers pass before each node that they wait for has acked.
    fn tick_for_news(&mut self) {
        let waited_for = self.wait.as_ref().map_or(0, |wait| wait.waiting_for.len());
        if self.news >= waited_for.max(1) {
            self.tick_soon();
        } else if self.news > 0 {
            self.next_tick = self.next_tick.min(clock::monotonic() + TICK_NEWS_MAX);
        }
    }

    /// The walk is driven as soon as it may.
    pub(super) fn tick_soon(&mut self) {
        let earliest =
            self.last_tick.map_or_else(clock::monotonic, |last| last + TICK_MIN.max(self.tick_took * TICK_REST));
        self.next_tick = self.next_tick.min(earliest);
    }

    /// Writes what is queued, in one transaction.  False: nothing of it may be taken for written.
    pub(super) fn flush(&mut self) -> bool {
        self.flush_at = None;
        if self.queue.is_empty() {
            return true;
        }
        let changes = self.queue.take();
        assert!(changes.len() <= RECORDS_MAX, "the queue is bounded");
        let (count, start) = (changes.len(), clock::monotonic());
        let is_seen = self.looked_at == Some(self.book.head());
        let nodes: Vec<NodeId> = changes.iter().map(|change| change.node.clone()).collect();
        let result = self.book.write(changes);
        self.metrics.records_written(self.book.pool(), count, start);
        match result {
            Ok(conflicts) => {
                self.write_took = clock::monotonic().duration_since(start);
                debug!(pool = %self.book.pool(), records = count, "records written");
                if self.writes_fail {
                    self.store_is_good();
                }
                if !conflicts.is_empty() {
                    self.waiting.not_stored(&conflicts);
                    debug!(pool = %self.book.pool(), nodes = conflicts.len(), "records were changed by somebody else");
                } else if is_seen {
                    self.take_in(&nodes);
                }
                true
            }
            Err(error) => {
                self.waiting.not_stored(&nodes);
                self.commit_failed(&error);
                false
            }
        }
    }

    /// Makes sure of the copy, and of what is seen in it.  False: the store cannot be reached.
    pub(super) fn look(&mut self) -> bool {
        let Some(verified) = self.verify() else { return false };
        if verified == Verified::ReadAnew || self.looked_at != Some(self.book.head()) {
            self.observe();
        }
        true
    }

    /// Makes sure of the copy.  None: the store cannot be reached.
    fn verify(&mut self) -> Option<Verified> {
        match self.book.verify() {
            Ok(verified) => {
                if !self.writes_fail {
                    self.store_is_good();
                }
                Some(verified)
            }
            Err(error) => {
                self.store_failed(&error);
                None
            }
        }
    }

    /// Takes in what was just written for these nodes, without a look at all the others: what was seen before was the
    /// store's state, and nobody else has written since.  The next tick looks at all.
    fn take_in(&mut self, nodes: &[NodeId]) {
        let mut view = self.view;
        for node in nodes {
            let snapshot = self.book.snapshot();
            if let Some(record) = snapshot.nodes.get(node) {
                self.life.see(node, record, &mut self.presence);
                view = view.after(snapshot, &self.presence, node, record);
            }
        }
        if view == self.view {
            self.looked_at = Some(self.book.head());
        }
    }

    /// Takes in who is here.
    fn observe(&mut self) {
        let monotonic = self.monotonic();
        if self.writes_fail {
            self.life.skip_to(monotonic);
        }
        let snapshot = self.book.snapshot();
        self.life.observe(monotonic, snapshot);
        self.presence = self.life.presence(snapshot);
        self.view = PoolView::of(snapshot, &self.presence);
        self.looked_at = Some(self.book.head());
        if **self.shared.policy.load() != snapshot.document.policy {
            self.shared.policy.store(Arc::new(snapshot.document.policy.clone()));
        }
        if self.view.is_frozen() != self.logged.frozen {
            self.logged.frozen = self.view.is_frozen();
            // Whoever waits is told.
            self.published = None;
            let pool = self.book.pool();
            match conflict(snapshot) {
                Some(found) => error!(
                    %pool,
                    node = %found.node,
                    generation = %found.generation,
                    revision = %snapshot.document.revision,
                    "the pool is frozen: a node was told what this store never told; recover"
                ),
                None => info!(%pool, "the pool is not frozen any more"),
            }
        }
    }

    pub(super) fn monotonic(&self) -> Duration {
        clock::monotonic().duration_since(self.shared.started)
    }

    /// Drives the walk as far as it goes now, and tells whoever waits for it.
    fn tick(&mut self) {
        let start = clock::monotonic();
        self.news = 0;
        self.flush();
        for _ in 0..COMMITS_MAX {
            match self.verify() {
                Some(_) => self.observe(),
                None => break,
            }
            if self.step() == Moved::No {
                break;
            }
            // Before the next look at all nodes: they have waited for it.
            self.publish();
        }
        self.publish();
        self.note_behind();
        self.erase();
        let now = clock::monotonic();
        self.tick_took = now.duration_since(start);
        self.last_tick = Some(now);
        self.next_tick = now + (self.tick_took * TICK_PARTS).clamp(TICK_MAX, TICK_MAX_LARGE);
    }

    /// Answers the waiting nodes if the document has changed.
    pub(super) fn publish(&mut self) {
        if self.published != Some(self.book.document().revision) && self.look() {
            self.waiting.publish(&self.book, self.view);
            self.published = Some(self.book.document().revision);
        }
    }

    fn step(&mut self) -> Moved {
        let mut input = self.next_input();
        let mut given = GivenKeys::default();
        let mut decided = self.decide(&input, &mut given);
        // The file's policy has to wait for nodes that were not heard.  A tick may exclude them; else they would be waited
        // for without end.
        if let Ok(Err(Refused { reason: Reason::NotHeard(_), .. })) = decided
            && input != Input::Tick
        {
            input = Input::Tick;
            decided = self.decide(&input, &mut given);
        }
        match decided {
            Ok(Ok(Step::Commit(proposal))) => match self.commit(*proposal, &given) {
                // Somebody was faster: decide anew from what is stored now.
                Ok(()) | Err(CommitError::Conflict { .. } | CommitError::RecordConflict { .. }) => Moved::Yes,
                Err(_) => Moved::No,
            },
            Ok(Ok(Step::Wait(wait))) => {
                self.wait = Some(wait);
                Moved::No
            }
            Ok(Ok(Step::MakeKey { .. })) => unreachable!("the engine was given a key"),
            Ok(Err(refused)) => {
                self.wait = Some(Wait::from(&refused));
                Moved::No
            }
            Err(error) => {
                error!(pool = %self.book.pool(), %error, "no key can be made; the pool stays as it is");
                Moved::No
            }
        }
    }

    /// A tick, or the policy of the file, if it may be taken now.
    fn next_input(&mut self) -> Input {
        let differs = self.differs();
        let is_between = matches!(self.book.document().stage, Stage::Empty | Stage::Steady { .. });
        if differs != self.logged.differs {
            if !differs.is_empty() {
                let fields = differs.join(", ");
                warn!(pool = %self.book.pool(), fields, "the file's policy differs from the pool's; it is taken over before the next rotation");
            }
            self.logged.differs.clone_from(&differs);
        }
        if differs.is_empty() || !is_between {
            return Input::Tick;
        }
        Input::Request(OperatorRequest {
            operator: CONFIG_OPERATOR.parse().expect("it is a name"),
            reason: format!("changed in the configuration file: {}", differs.join(", ")),
            if_revision: None,
            command: Command::SetPolicy { policy: Box::new(self.file_policy.clone()) },
        })
    }

    /// The settings in which the file differs from the document.
    pub(super) fn differs(&self) -> Vec<&'static str> {
        self.file_policy.differs_from(&self.book.document().policy)
    }

    /// Asks the engine, with a fresh key where it wants one.
    pub(super) fn decide(&self, input: &Input, given: &mut GivenKeys) -> Result<Result<Step, Refused>, NoRandomness> {
        let snapshot = self.book.snapshot();
        let now = Now { wall: clock::now(), presence: &self.presence };
        match handle(snapshot, now, input, None) {
            Ok(Step::MakeKey { .. }) => {
                let fresh = given.add(random::fresh_key()?);
                Ok(handle(snapshot, now, input, Some(fresh)))
            }
            decided => Ok(decided),
        }
    }

    /// Commits, follows and logs.
    pub(super) fn commit(&mut self, proposal: Proposal, given: &GivenKeys) -> Result<(), CommitError> {
        let (audit, start) = (proposal.audit.clone(), clock::monotonic());
        let result = self.book.commit(proposal, given);
        self.metrics.commit_took(self.book.pool(), start);
        match result {
            Ok(erasure) => {
                self.store_is_good();
                self.metrics.committed(self.book.pool(), audit.action);
                if erasure == Erasure::Waiting {
                    self.next_erase = clock::monotonic();
                }
                let told = tfo_engine::rollout::wave::instructions(self.book.document());
                let slots = told.first().map(|told| told.slots);
                info!(
                    pool = %self.book.pool(),
                    revision = %audit.revision,
                    generation = %audit.generation,
                    phase = audit.phase.as_str(),
                    action = ?audit.action,
                    actor = actor_name(&audit.actor),
                    nodes = audit.nodes.len(),
                    primary_fp = slots.map(|slots| tracing::field::display(slots.primary.fingerprint)),
                    backup_fp = slots.and_then(|slots| slots.backup).map(|key| tracing::field::display(key.fingerprint)),
                    "committed"
                );
                Ok(())
            }
            Err(error) => {
                self.commit_failed(&error);
                Err(error)
            }
        }
    }

    /// Keys that are gone from the document must be gone from the medium, whenever a reader lets it.
    fn erase(&mut self) {
        let now = clock::monotonic();
        if now < self.next_erase {
            return;
        }
        self.next_erase = now + ERASE_EVERY;
        match self.book.erase_leftovers() {
            Ok(Erasure::Done) => {}
            Ok(Erasure::Waiting) => warn!(pool = %self.book.pool(), "erased keys are still on the medium"),
            Err(error) => self.store_failed(&error),
        }
    }
}

fn actor_name(actor: &Actor) -> &str {
    match actor {
        Actor::Engine => "engine",
        Actor::Operator(name) => name.as_str(),
    }
}

#[cfg(test)]
mod tests;
