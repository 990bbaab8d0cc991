//! Serves requests: syncs in the order of `engine::rollout::sync`, commands, questions.
//!
//! The order is the safety: all syncs of a batch are recorded; if one of them opens a session, everything that is queued
//! is written durably; then the store confirms the copy; only then do nodes get answers.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tracing::warn;

use super::Driver;
use super::writes::Ack;
use crate::pool::message::{Asked, CommandError, Message, StoreDown, Wanted};
use crate::pool::replica::GivenKeys;
use crate::pool::waiting::{Hold, Pending, SyncError, Until};
use tfo_engine::rollout::barrier::recoverable;
use tfo_engine::rollout::document::AuditEntry;
use tfo_engine::rollout::input::{Command, Input, OperatorRequest, Refused, Step};
use tfo_engine::rollout::slots::{PoolKey, Slots};
use tfo_engine::rollout::sync::{Answer, Recording, order_for, record};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::NodeId;
use tfo_model::key::PairPrint;
use tfo_model::node::Expected;
use tfo_model::state::SlotPrint;
use tfo_store::{CommitError, PARTS_MAX};
use tfo_wire::v1::fleet::{Done, SlotPairShown};

/// How often a command is decided because another writer committed in between.
const TRIES: usize = 4;

/// The parts of a command that were committed before.
#[derive(Default)]
struct Before {
    /// What the last one made: the operator's own revision moves with it.
    revision: Option<Revision>,
    /// Nodes that they are about.
    nodes: usize,
}

impl Before {
    /// The command is refused, if not all of it.
    fn stopped_by(&self, refused: Refused) -> CommandError {
        match self.nodes {
            0 => CommandError::Refused(refused),
            _ => CommandError::NotPossible(self.told(&refused.to_string())),
        }
    }

    fn told(&self, why: &str) -> String {
        format!("{} nodes were taken out, and then it stopped: {why}; look at the pool, and ask again", self.nodes)
    }

    /// The command has ended, because the store cannot be reached any more.
    fn without_store(&self) -> CommandError {
        if self.revision.is_some() { CommandError::OutcomeOpen } else { CommandError::StoreDown }
    }
}

/// A recorded sync that waits for its answer.
struct Recorded {
    sync: Pending,
    /// It opens a session, or is answered at once: its record must be durable before the answer.
    opens: bool,
}

impl Driver {
    /// Serves a batch; breaks if the driver is to stop.
    pub(super) fn serve(&mut self, batch: Vec<Message>) -> ControlFlow<()> {
        let good = self.look() && self.keeps_beating();
        self.writes.lost.clear();
        let mut recorded: Vec<Recorded> = Vec::new();
        let (mut left, mut others, mut next) = (Vec::new(), Vec::new(), ControlFlow::Continue(()));
        for message in batch {
            match message {
                Message::Sync { node, sync, described, reply } => {
                    self.fresh.came(&node);
                    if self.described.put(&node, *described) {
                        // It is in the verdict.
                        self.rest.end();
                    }
                    if good {
                        recorded.extend(self.record(Pending { node, sync: *sync, reply, hold: Hold::default() }));
                    } else {
                        self.without_store(Pending { node, sync: *sync, reply, hold: Hold::default() });
                    }
                }
                Message::Left { node, request } => left.push((node, request)),
                other => others.push(other),
            }
        }
        if recorded.iter().any(|recorded| recorded.opens) {
            if !self.flush() {
                // Nothing of this batch is stored: every node repeats its sync.
                recorded.drain(..).for_each(|recorded| recorded.sync.reply.give(Err(SyncError::StoreDown)));
            }
            self.pace.tick_soon();
        }
        self.answer(recorded, good);
        // After the syncs of this batch, one of which may be what was left.
        left.iter().for_each(|(node, request)| self.waiting.left(node, request));
        for message in others {
            match message {
                Message::Sync { .. } | Message::Left { .. } => unreachable!("sorted out above"),
                // Its client has given up; a command that is done now would surprise it.
                Message::Wanted { reply, .. } if reply.is_closed() => {}
                Message::Wanted { wanted, given, reply } => {
                    let done = self.command(&wanted, given);
                    self.show_revision();
                    drop(reply.send(done));
                    self.publish();
                    self.pace.tick_soon();
                }
                Message::Status(reply) => self.show(reply, Self::status),
                Message::Nodes { names, reply } => self.show(reply, |driver| driver.nodes(&names)),
                Message::FreshNodes { names, reply } => self.read_fresh(names, reply),
                Message::OrderFor { node, reply } => {
                    self.show_node(reply, |driver| order_for(driver.replica.snapshot(), &node));
                }
                Message::Welcome { nodes, reply } => self.show_node(reply, |driver| driver.welcome(&nodes)),
                Message::Itself { node, names, reply } => self.show_node(reply, |driver| driver.itself(node, &names)),
                Message::Summary(reply) => self.show(reply, Self::summary),
                Message::Overview { names, reply } => self.show(reply, |driver| driver.overview(&names)),
                Message::Cookies(reply) => self.show_node(reply, Self::cookies),
                Message::Coordinators(reply) => self.show_node(reply, Self::coordinators_shown),
                Message::ForgetCoordinator { name, reply } => drop(reply.send(self.forget_coordinator(&name))),
                Message::Policy(policy) => {
                    self.file.reload(*policy);
                    // Once more for an operator who has asked for it.
                    self.logged.differs = Default::default();
                    self.logged.refused = None;
                    self.rest.end();
                    self.pace.tick_soon();
                }
                Message::Changed => {
                    self.shared.told.store(false, Ordering::Release);
                    self.pace.tick_soon();
                }
                Message::Stop => next = ControlFlow::Break(()),
            }
        }
        next
    }

    /// Step 1: queues the record.  None: the sync is answered already.
    fn record(&mut self, pending: Pending) -> Option<Recorded> {
        let Pending { node, sync, reply, hold } = pending;
        let queued = self.writes.queue.names(&node).then(|| self.replica.record_after(&node, &self.writes.queue));
        let before = match &queued {
            Some(queued) => queued.as_ref(),
            None => self.replica.snapshot().nodes.get(&node),
        };
        let by = self.replica.by();
        let recording = match record(self.replica.document(), before, &node, &sync, (by, clock::now())) {
            Ok(recording) => recording,
            Err(refused) => {
                reply.give(Err(SyncError::Refused(refused)));
                return None;
            }
        };
        let is_known = self.seen.knows(&self.replica, &node);
        // While its beats vouch for no node, no other coordinator hears of an answer that is given at once.
        let is_unheard = !self.beats.vouched && reply.until() == Until::Recorded;
        let is_news = match &recording {
            Recording::Later(later) => !is_known || is_unheard || before.is_none_or(|before| later.is_news(before)),
            Recording::First(_) | Recording::Stale => true,
        };
        let recording = match recording {
            // Unless an earlier one is about to be written, and this one takes its place.
            Recording::Later(later) if !is_news && queued.is_none() => {
                if self.seen.life.hear(self.monotonic(), &node) {
                    self.rest.end();
                }
                self.replica.hear(&node, later.into());
                return Some(Recorded { sync: Pending { node, sync, reply, hold }, opens: false });
            }
            recording => recording,
        };
        // An answer that outlives its record would be a contact of which another coordinator never hears (rule 11).
        let opens = match &recording {
            Recording::First(_) => true,
            Recording::Later(_) => is_news && reply.until() == Until::Recorded,
            Recording::Stale => false,
        };
        let may_wait = match &recording {
            Recording::Later(later) => is_known && before.is_some_and(|before| later.may_wait(before)),
            Recording::First(_) | Recording::Stale => false,
        };
        let ack = if is_news && !may_wait { Ack::News } else { Ack::Quiet };
        if recording != Recording::Stale {
            if !self.enqueue(&node, recording) {
                reply.give(Err(SyncError::StoreDown));
                return None;
            }
            self.flush_after(ack);
        }
        Some(Recorded { sync: Pending { node, sync, reply, hold }, opens })
    }

    /// Queues what is to be stored of a sync.  False: the queue is full and cannot be written.
    fn enqueue(&mut self, node: &NodeId, recording: Recording) -> bool {
        if self.writes.queue.len() >= PARTS_MAX && !self.flush() {
            return false;
        }
        let queue = &mut self.writes.queue;
        match recording {
            Recording::First(entry) => drop(queue.entries.insert(node.clone(), entry.into())),
            Recording::Later(later) => drop(queue.acks.insert(node.clone(), later.into())),
            Recording::Stale => {}
        }
        true
    }

    /// Steps 2 and 3: the store confirms what is answered from.
    fn answer(&mut self, recorded: Vec<Recorded>, good: bool) {
        if recorded.is_empty() {
            return;
        }
        let good = good && self.look();
        for Recorded { sync, opens } in recorded {
            if self.writes.lost.contains(&sync.node) {
                // A write in the middle of the batch failed.
                sync.reply.give(Err(SyncError::StoreDown));
            } else if good {
                self.waiting.answer(&self.replica, self.seen.view, sync);
            } else if opens {
                sync.reply.give(Err(SyncError::StoreDown));
            } else {
                self.without_store(sync);
            }
        }
        // A copy that was read again may have news for nodes that waited before.
        if good {
            self.publish();
        }
    }

    /// Holds a sync without the store, for as long as [`Policy::blind_max`](tfo_engine::rollout::policy::Policy::blind_max), if
    /// its session is open and has the copy's instruction; anything else needs the store (rule 7).
    fn without_store(&mut self, pending: Pending) {
        let Pending { node, sync, reply, .. } = &pending;
        let snapshot = self.replica.snapshot();
        let open = snapshot.nodes.get(node).and_then(|record| record.session);
        let may_wait = reply.hold_for().is_some()
            && !self.shared.is_blind()
            && open == Some(sync.session)
            && self.seen.view.answer(snapshot, node, sync) == Ok(Answer::Nothing);
        if may_wait {
            // Its record is not stored: once the store is back it asks again, so that what it is told is never younger
            // than what is known of it (rule 11).
            self.unrecorded.insert(node.clone());
            self.waiting.hold_unrecorded(pending);
        } else {
            pending.reply.give(Err(SyncError::StoreDown));
        }
    }

    /// Looks at what is asked about alone: any node may ask for itself, as often as it likes.
    fn show_node<T>(&mut self, reply: oneshot::Sender<Result<T, StoreDown>>, show: impl FnOnce(&Self) -> T) {
        let shown = if self.look() { Ok(show(self)) } else { Err(self.shared.store_down()) };
        drop(reply.send(shown));
    }

    /// Shows the handle at which revision the document is.
    pub(super) fn show_revision(&self) {
        let revision = self.replica.document().revision.get();
        self.shared.revision.store(revision, std::sync::atomic::Ordering::Release);
    }

    pub(super) fn show<T>(&mut self, reply: oneshot::Sender<Result<T, StoreDown>>, show: impl FnOnce(&Self) -> T) {
        // A client that has left must not keep the driver busy.
        if reply.is_closed() {
            return;
        }
        let shown = if self.look() {
            self.look_ahead();
            Ok(show(self))
        } else {
            Err(self.shared.store_down())
        };
        // The client may have left meanwhile.
        drop(reply.send(shown));
    }

    /// Executes a command.  Syncs that came before it count.
    fn command(&mut self, wanted: &Wanted, mut given: GivenKeys) -> Result<Done, CommandError> {
        let (mut tries, mut before) = (0, Before::default());
        while tries < TRIES {
            if !self.flush() || !self.look() {
                return Err(before.without_store());
            }
            let mut order = self.order(wanted)?;
            order.if_revision = order.if_revision.map(|seen| before.revision.unwrap_or(seen));
            let (proposal, is_part) = match self.decide(&Input::Request(order), &mut given) {
                Ok(Ok(Step::Commit(proposal))) => (*proposal, false),
                Ok(Ok(Step::Part(proposal))) => (*proposal, true),
                Ok(Ok(Step::Wait(_) | Step::MakeKey { .. })) => unreachable!("an order is committed or refused"),
                Ok(Err(refused)) => return Err(before.stopped_by(refused)),
                Err(no_randomness) => return Err(CommandError::NotPossible(no_randomness.to_string())),
            };
            if let Some(key) = self.replica.lacking(&proposal.document, &given) {
                return Err(CommandError::NotPossible(format!(
                    "the store lacks the bytes of key {}; copy them from a node's sysctl.d file and give them in `keys`",
                    key.fingerprint
                )));
            }
            match self.commit(&proposal, &given) {
                Ok(()) if is_part => {
                    before.revision = Some(proposal.audit.revision);
                    before.nodes += proposal.audit.nodes.len() + proposal.audit.more;
                }
                Ok(()) => {
                    let pool = self.replica.pool().clone();
                    let AuditEntry { revision, generation, phase, action, nodes, more, .. } = proposal.audit;
                    let more = more + before.nodes;
                    return Ok(Done { pool, revision, generation, phase, action: action.into(), nodes, more });
                }
                Err(CommitError::Conflict { .. }) => tries += 1,
                Err(CommitError::Store(error)) if error.outcome_is_open() => return Err(CommandError::OutcomeOpen),
                // Fenced: this process is over, or its store went back; either way it has changed nothing.
                Err(CommitError::Store(_) | CommitError::Fenced { .. }) => return Err(before.without_store()),
                Err(_) => return Err(CommandError::Internal),
            }
        }
        warn!(pool = %self.replica.pool(), nodes = before.nodes, "a command lost against other writers every time, after it took out these nodes");
        if before.nodes > 0 {
            Err(CommandError::NotPossible(before.told("others changed the pool at the same time")))
        } else {
            Err(CommandError::Overtaken)
        }
    }

    fn order(&self, wanted: &Wanted) -> Result<OperatorRequest, CommandError> {
        let expected = |expect: &Option<Expected>| {
            expect.clone().unwrap_or(Expected::Number(self.replica.document().expected_nodes()))
        };
        let (asked, command) = match wanted {
            Wanted::Order(order) => return Ok(order.clone()),
            Wanted::FirstKey(asked, expect, force) => {
                (asked, Command::FirstKey { expect: expected(expect), force: *force })
            }
            Wanted::Import(asked, expect, primary, backup) => {
                let keys = PairPrint { primary: *primary, backup: *backup };
                (asked, Command::Import { keys, expect: expected(expect) })
            }
            Wanted::Recover(asked, slots) => (asked, Command::Recover { slots: self.slots_to_recover(*slots)? }),
        };
        let Asked { operator, reason, if_revision } = asked.clone();
        Ok(OperatorRequest { operator, reason, if_revision, command })
    }

    fn slots_to_recover(&self, wanted: Option<SlotPairShown>) -> Result<Slots, CommandError> {
        if let Some(wanted) = wanted {
            let key = |print: SlotPrint| Some(PoolKey { epoch: print.epoch?, fingerprint: print.fingerprint });
            let backup = wanted.backup.map(key);
            return match (key(wanted.primary), backup) {
                (Some(primary), None) => Ok(Slots { primary, backup: None }),
                (Some(primary), Some(Some(backup))) => Ok(Slots { primary, backup: Some(backup) }),
                _ => Err(CommandError::NotPossible("the slots to recover need their epochs".to_owned())),
            };
        }
        let found = recoverable(self.replica.snapshot());
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(CommandError::NotPossible(
                "no node reports keys of this pool: there is nothing to recover".to_owned(),
            )),
            (Some(_), Some(_)) => {
                Err(CommandError::NotPossible("nodes report different keys: give the `slots` to recover".to_owned()))
            }
        }
    }
}
