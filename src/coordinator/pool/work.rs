//! What the driver does with what comes in: syncs in the order of `engine::rollout::sync`, commands, questions.
//!
//! The order is the safety: all syncs of a batch are recorded; if one of them opens a session, everything that is queued
//! is written durably; then the store confirms the copy; only then is anybody answered.

use tokio::sync::oneshot;
use tracing::warn;

use super::driver::{Ack, Driver, Next};
use super::waiting::{NotTold, Reply, Until};
use super::{Asked, GivenKeys, Message, NotDone, StoreDown, Wanted};
use tfo_engine::convergence::recoverable;
use tfo_engine::rollout::document::{AuditEntry, Expect, PoolKey, Slots};
use tfo_engine::rollout::input::{BlockedBy, Command, Input, Order, Reason, Refused, Step, Wait};
use tfo_engine::rollout::record::{NodeRecord, RecordChange, Report};
use tfo_engine::rollout::sync::{Answer, Recording, Sync, record};
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_model::key::PairPrint;
use tfo_model::state::SlotPrint;
use tfo_store::CommitError;
use tfo_wire::v1::fleet::{Done, SlotPairShown};

/// How often a command is decided anew because somebody else committed in between.
const TRIES: usize = 4;

/// A sync that waits for its answer, and whether it must be durable first.
struct Pending {
    node: NodeId,
    sync: Sync,
    reply: Reply,
    opens: bool,
}

impl Driver {
    /// Does all of a batch.
    pub(super) fn serve(&mut self, batch: Vec<Message>) -> Next {
        let good = self.look();
        let (mut pending, mut others, mut next) = (Vec::new(), Vec::new(), Next::Serve);
        for message in batch {
            match message {
                Message::Sync { node, sync, described, reply } => {
                    self.described.insert(node.clone(), *described);
                    if good {
                        pending.extend(self.record(node, *sync, reply));
                    } else {
                        self.without_store(node, *sync, reply);
                    }
                }
                other => others.push(other),
            }
        }
        if pending.iter().any(|sync| sync.opens) {
            if !self.flush() {
                // Nothing of this batch is stored, whatever the sync: all of them are said again.
                pending.drain(..).for_each(|sync| sync.reply.give(Err(NotTold::StoreDown)));
            }
            self.tick_soon();
        }
        self.answer(pending, good);
        for message in others {
            match message {
                Message::Sync { .. } => unreachable!("sorted out above"),
                // Its client was told that there is no answer; what is done now would surprise it.
                Message::Wanted { reply, .. } if reply.is_closed() => {}
                Message::Wanted { wanted, given, reply } => {
                    let done = self.command(&wanted, given);
                    drop(reply.send(done));
                    self.publish();
                    self.tick_soon();
                }
                Message::Status(reply) => self.show(reply, Self::status),
                Message::Nodes(reply) => self.show(reply, Self::nodes),
                Message::Summary(reply) => self.show(reply, Self::summary),
                Message::Policy(policy) => {
                    self.file_policy = *policy;
                    self.tick_soon();
                }
                Message::Stop => next = Next::End,
            }
        }
        next
    }

    /// Step 1: puts what is to be stored into the queue.  None: answered already.
    fn record(&mut self, node: NodeId, sync: Sync, reply: Reply) -> Option<Pending> {
        let queued = self.queue.queued(&node).map(|change| change.next.as_ref());
        let before = queued.unwrap_or_else(|| self.book.snapshot().nodes.get(&node));
        let recording = match record(self.book.document(), before, &node, &sync, clock::now()) {
            Ok(recording) => recording,
            Err(refused) => {
                reply.give(Err(NotTold::Refused(refused)));
                return None;
            }
        };
        let ack = match &recording {
            Recording::Later(change) if !says_something_new(before, change.next.as_ref()) => Ack::Quiet,
            Recording::First(_) | Recording::Later(_) | Recording::Stale => Ack::News,
        };
        let opens = matches!(recording, Recording::First(_));
        match recording {
            Recording::First(change) | Recording::Later(change) => {
                if !self.enqueue(change) {
                    reply.give(Err(NotTold::StoreDown));
                    return None;
                }
                self.flush_after(ack);
            }
            Recording::Stale => {}
        }
        Some(Pending { node, sync, reply, opens })
    }

    /// False: the queue is full and cannot be written.
    fn enqueue(&mut self, change: RecordChange) -> bool {
        self.queue.push(change.clone()).is_ok() || (self.flush() && self.queue.push(change).is_ok())
    }

    /// Steps 2 and 3: the store confirms what is answered from.
    fn answer(&mut self, pending: Vec<Pending>, good: bool) {
        if pending.is_empty() {
            return;
        }
        let good = good && self.look();
        for Pending { node, sync, reply, opens } in pending {
            if good {
                self.waiting.answer(&self.book, self.view, (node, sync), reply);
            } else if opens {
                reply.give(Err(NotTold::StoreDown));
            } else {
                self.without_store(node, sync, reply);
            }
        }
        // A copy that was read anew may have news for those who waited before.
        if good {
            self.publish();
        }
    }

    /// A session that is open, and has what the copy tells it, may be held; anything else needs the store (rule 7).
    fn without_store(&mut self, node: NodeId, sync: Sync, reply: Reply) {
        let snapshot = self.book.snapshot();
        let open = snapshot.nodes.get(&node).and_then(|record| record.session);
        let may_wait = reply.until() == Until::News
            && open == Some(sync.session)
            && self.view.answer(snapshot, &node, &sync) == Ok(Answer::Nothing);
        if may_wait {
            self.waiting.hold(node, sync, reply);
        } else {
            reply.give(Err(NotTold::StoreDown));
        }
    }

    fn show<T>(&mut self, reply: oneshot::Sender<Result<T, StoreDown>>, show: impl FnOnce(&Self) -> T) {
        // A hasty client must not keep the driver busy with what nobody reads.
        if reply.is_closed() {
            return;
        }
        let shown = if self.look() {
            self.look_ahead();
            Ok(show(self))
        } else {
            Err(StoreDown)
        };
        // Whoever asked may have gone away.
        drop(reply.send(shown));
    }

    /// Does a command, or says why not.  What the nodes said before it counts.
    fn command(&mut self, wanted: &Wanted, mut given: GivenKeys) -> Result<Done, NotDone> {
        for _ in 0..TRIES {
            if !self.flush() || !self.look() {
                return Err(NotDone::StoreDown);
            }
            let input = Input::Order(self.order(wanted)?);
            let proposal = match self.decide(&input, &mut given) {
                Ok(Ok(Step::Commit(proposal))) => *proposal,
                Ok(Ok(Step::Wait(_) | Step::MakeKey { .. })) => unreachable!("an order is committed or refused"),
                Ok(Err(refused)) => return Err(NotDone::Refused(refused)),
                Err(no_randomness) => return Err(NotDone::NotPossible(no_randomness.to_string())),
            };
            if let Some(key) = self.book.lacking(&proposal.document, &given) {
                return Err(NotDone::NotPossible(format!(
                    "the store does not have the bytes of key {}; give them in `keys`, from a node's sysctl.d file",
                    key.fingerprint
                )));
            }
            let audit = proposal.audit.clone();
            match self.commit(proposal, &given) {
                Ok(()) => {
                    let pool = self.book.pool().clone();
                    let AuditEntry { revision, generation, phase, action, nodes, .. } = audit;
                    return Ok(Done { pool, revision, generation, phase, action: action.into(), nodes });
                }
                Err(CommitError::Conflict { .. } | CommitError::RecordConflict { .. }) => {}
                Err(CommitError::Store(error)) if error.outcome_is_open() => return Err(NotDone::OutcomeOpen),
                Err(CommitError::Store(_)) => return Err(NotDone::StoreDown),
                Err(_) => return Err(NotDone::Internal),
            }
        }
        warn!(pool = %self.book.pool(), "a command lost against other writers each time");
        Err(NotDone::Overtaken)
    }

    fn order(&self, wanted: &Wanted) -> Result<Order, NotDone> {
        let expected = |expect: &Option<Expect>| {
            expect.clone().unwrap_or(Expect::Number(self.book.document().policy.expected_nodes))
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
        Ok(Order { operator, reason, if_revision, command })
    }

    fn slots_to_recover(&self, wanted: Option<SlotPairShown>) -> Result<Slots, NotDone> {
        if let Some(wanted) = wanted {
            let key = |print: SlotPrint| Some(PoolKey { epoch: print.epoch?, fingerprint: print.fingerprint });
            let backup = wanted.backup.map(key);
            return match (key(wanted.primary), backup) {
                (Some(primary), None) => Ok(Slots { primary, backup: None }),
                (Some(primary), Some(Some(backup))) => Ok(Slots { primary, backup: Some(backup) }),
                _ => Err(NotDone::NotPossible("slots to recover are named with their epochs".to_owned())),
            };
        }
        let found = recoverable(self.book.snapshot());
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => {
                Err(NotDone::NotPossible("no node reports keys of this pool; there is nothing to recover".to_owned()))
            }
            (Some(_), Some(_)) => {
                Err(NotDone::NotPossible("nodes report different keys; name the `slots` to recover".to_owned()))
            }
        }
    }
}

/// What a policy that may not be taken yet waits for.
pub(super) fn wait_of(refused: &Refused) -> Wait {
    let (blocked_by, waiting_for) = match &refused.reason {
        Reason::Frozen { .. } => (BlockedBy::Frozen, Vec::new()),
        Reason::NotHeard(nodes) => (BlockedBy::Barrier, nodes.clone()),
        _ => (BlockedBy::Held, Vec::new()),
    };
    Wait { blocked_by, waiting_for, next_at: None }
}

/// Whether a barrier could see a difference: an ack that only says "still here" may wait for others.
fn says_something_new(before: Option<&NodeRecord>, next: Option<&NodeRecord>) -> bool {
    fn judged(report: &Report) -> impl PartialEq + '_ {
        (&report.fence, report.installed, report.foreign, report.seen, report.holds)
    }
    let (Some(before), Some(next)) = (before, next) else { return true };
    before.standing != next.standing || before.report.as_ref().map(judged) != next.report.as_ref().map(judged)
}
