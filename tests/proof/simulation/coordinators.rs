//! The coordinators: they record and answer syncs, look at the store, decide and commit, each by the engine's own code.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::RequestId;
use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::document::{Actor, Proposal, Snapshot, Stage};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Step};
use tfo_engine::rollout::parts::Writes;
use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::record::Membership;
use tfo_engine::rollout::sync::{Answer, PoolView, Recording, Sync, SyncRefused, record};
use tfo_model::count::Revision;
use tfo_model::fleet::{Action, BlockedBy};
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::key::PairPrint;
use tfo_model::node::Expected;
use tfo_model::time::UnixTime;
use tfo_store::ReadStore;

use super::copies::Copied;
use super::fleet::{EPOCH, Event, FIRST_KEY, Fleet};
use super::rules::RuleOff;
use super::shelf::{PutOff, Written, pool};
use super::trouble::Troubles;

const TICK_SECS: u64 = 7;

pub(super) struct Coordinator {
    pub(super) life: Life,
    pub(super) lives: u64,
    pub(super) presence: Presence,
    pub(super) troubles: Troubles,
    pub(super) copied: Copied,
    /// The highest revision that this life has seen.
    pub(super) seen: Revision,
    pub(super) put_off: PutOff,
    /// What the last tick waited for.
    pub(super) waited: Option<BlockedBy>,
    pub(super) is_up: bool,
    pub(super) wall_error: i64,
}

/// The name under which a coordinator writes, in all its lives.
pub(super) fn coordinator(c: usize) -> CoordinatorName {
    format!("coordinator{c}").parse().unwrap()
}

impl Fleet {
    pub(super) fn wall(&self, c: usize) -> UnixTime {
        UnixTime::from_secs((EPOCH + self.now).saturating_add_signed(self.coordinators[c].wall_error))
    }

    pub(super) fn serve(&mut self, (n, request): (usize, RequestId), (c, life): (usize, u64), sync: &Rc<Sync>) {
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
    pub(super) fn record(
        &mut self,
        c: usize,
        off: &mut PutOff,
        (id, sync): (&NodeId, &Sync),
    ) -> Result<(), SyncRefused> {
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

    pub(super) fn flush(&mut self, c: usize) {
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

    pub(super) fn count_write(&mut self, written: Written) {
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

    pub(super) fn observe(&mut self, c: usize, snapshot: &Snapshot) {
        let (monotonic, instead) = (Duration::from_secs(self.now), self.looked_at(snapshot));
        let coordinator = &mut self.coordinators[c];
        coordinator.life.observe(monotonic, instead.as_ref().unwrap_or(snapshot));
        let presence = self.judged(snapshot, self.coordinators[c].life.presence(snapshot));
        let coordinator = &mut self.coordinators[c];
        coordinator.presence = presence;
        coordinator.seen = snapshot.document.revision;
    }

    pub(super) fn tick(&mut self, c: usize) {
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
    pub(super) fn proposed(&mut self, c: usize, snapshot: &Snapshot) -> Option<Input> {
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
    pub(super) fn wanted(&mut self, snapshot: &Snapshot) -> Option<Command> {
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

    pub(super) fn decide(&mut self, c: usize, input: &Input) {
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
    pub(super) fn count_drain(&mut self, before: &Snapshot, wall: UnixTime, waited: Option<BlockedBy>) {
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

    pub(super) fn commit(&mut self, c: usize, proposal: &Proposal) {
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
}
