//! The coordinators: they record and answer syncs, look at the store, decide and commit, each by the engine's own code.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use tfo_engine::fence::RequestId;
use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::document::{Actor, Proposal, Snapshot, Stage};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Step};
use tfo_engine::rollout::observed::to_ask;
use tfo_engine::rollout::parts::Stamp;
use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::record::Membership;
use tfo_engine::rollout::sync::{Answer, PoolView, Recording, Sync, SyncRefused, record};
use tfo_model::count::{Generation, Revision};
use tfo_model::fleet::{Action, BlockedBy};
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::key::PairPrint;
use tfo_model::node::Expected;
use tfo_model::time::UnixTime;
use tfo_store::ReadStore;

use super::copies::Copied;
use super::fleet::{COORDINATORS, EPOCH, Event, FIRST_KEY, Fleet};
use super::looks::{Compared, Rest};
use super::rules::{RuleOff, all_acked};
use super::shelf::{Position, PutOff, Written, pool};
use super::trouble::Troubles;

const TICK_SECS: u64 = 7;
/// One look in so many reads all that is stored.
const WHOLE_READS_EVERY: u64 = 100;

pub(super) struct Coordinator {
    pub(super) life: Life,
    pub(super) lives: u64,
    /// By which requests nodes are heard while they are held.
    pub(super) holding: BTreeMap<usize, RequestId>,
    pub(super) presence: Presence,
    /// What follows from the copy at this position, and the presence.
    pub(super) view: Option<(Position, PoolView)>,
    pub(super) troubles: Troubles,
    pub(super) copied: Copied,
    /// The highest revision that this life has seen.
    pub(super) seen: Revision,
    pub(super) put_off: PutOff,
    /// The highest stamp that this process has written, ...
    pub(super) last: Option<Stamp>,
    /// ... whether it has its name by that, ...
    pub(super) holds_name: bool,
    /// Its last beat vouched for the nodes that it has heard.
    pub(super) vouched: bool,
    /// ... when that was, and when the next beat is due.
    pub(super) beat_at: Option<u64>,
    pub(super) beat_due: u64,
    pub(super) writes_fail: bool,
    /// What the last tick waited for.
    pub(super) waited: Option<BlockedBy>,
    /// While the pool rests, each tick comes to this.
    pub(super) rest: Option<Rest>,
    pub(super) compared: Compared,
    /// When it takes a step from this revision.
    pub(super) turn: Option<(Revision, u64)>,
    pub(super) is_up: bool,
    pub(super) wall_error: i64,
}

/// The name under which a coordinator writes, in all its lives.
pub(super) fn coordinator(c: usize) -> CoordinatorName {
    // Asked for at every request.
    static NAMES: LazyLock<[CoordinatorName; COORDINATORS]> =
        LazyLock::new(|| std::array::from_fn(|c| format!("c{c}").parse().unwrap()));
    NAMES[c].clone()
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
        self.beat_if_due(c);
        let recorded = self.record(c, (&id, sync));
        let is_unrecorded = recorded == Err(SyncRefused::NotAdmitted);
        let answer = match recorded {
            Ok(entered) => match self.answer(c, (&id, sync), entered) {
                Some(answer) => answer,
                None => return self.hold_for_copy((n, request), (c, life), (sync, entered.unwrap_or_default())),
            },
            Err(SyncRefused::NotAdmitted) => self.without_store(c, n, sync),
            Err(refused) => Err(refused),
        };
        if answer == Err(SyncRefused::Frozen) {
            self.summary.count("frozen answers", 1);
        }
        self.hold_or_send((n, request), (c, life), (sync, is_unrecorded), answer);
    }

    /// The first sync of a session is durable before it is answered, and is in the copy that it is answered from; later
    /// ones are put off, and those that say nothing new are heard and not written.
    fn record(&mut self, c: usize, (id, sync): (&NodeId, &Sync)) -> Result<Option<Position>, SyncRefused> {
        let copy = self.read(c, false).ok_or(SyncRefused::NotAdmitted)?;
        if self.is_blind(c) || self.is_late(c) {
            return Err(SyncRefused::NotAdmitted);
        }
        let before = self.known(c, &copy, &self.coordinators[c].put_off, id);
        let (snapshot, by) = (copy.snapshot(), (&coordinator(c), self.wall(c)));
        let recording = record(&snapshot.document, before.as_ref(), id, sync, by)?;
        let is_known = self.coordinators[c].presence.has_seen(snapshot, id);
        drop(copy);
        let generation = sync.report.fence.as_ref().map_or(Generation::ZERO, |fence| fence.generation);
        if recording != Recording::Stale {
            self.heard_at = self.now;
            let node = &mut self.nodes[self.index[id]];
            node.accepted = Some((c, sync.session, generation));
            node.counted_at = Some(self.now).filter(|_| !matches!(recording, Recording::First(_)));
        }
        match recording {
            Recording::Stale => Ok(None),
            Recording::Later(later) => {
                // While its beats vouch for no node, no other coordinator hears of an answer that is given at once.
                let is_unheard = !self.coordinators[c].vouched && self.nodes[self.index[id]].timer_secs.is_some();
                let is_news = !is_known || is_unheard || before.is_none_or(|before| later.is_news(&before));
                if !is_news && !self.coordinators[c].put_off.queue.names(id) {
                    let monotonic = Duration::from_secs(self.now);
                    self.coordinators[c].hear(monotonic, id);
                    self.hear(c, id, later);
                    self.summary.count("syncs that are heard and not written", 1);
                    return Ok(None);
                }
                let queue = &mut self.coordinators[c].put_off.queue;
                let is_first = queue.is_empty();
                queue.acks.insert(id.clone(), later.into());
                if self.nodes[self.index[id]].timer_secs.is_some() && is_news {
                    // What is answered at once is durable before.
                    return if self.flush(c) { Ok(None) } else { Err(SyncRefused::NotAdmitted) };
                }
                if is_first {
                    let delay = self.random.below(3);
                    self.at(delay, Event::Flush(c));
                }
                Ok(None)
            }
            Recording::First(entry) => {
                self.coordinators[c].put_off.queue.entries.insert(id.clone(), entry.into());
                if self.flush(c) { Ok(Some(self.shelf.position())) } else { Err(SyncRefused::NotAdmitted) }
            }
        }
    }

    pub(super) fn count_write(&mut self, written: Written) {
        match written {
            Written::Yes => {}
            Written::Conflict => self.summary.count("conflicts", 1),
            Written::Fenced(_) => self.summary.count("writes that were fenced off", 1),
            Written::No => self.summary.count("calls to a store that is down", 1),
            Written::Open { done: true } => self.summary.count("open outcomes, done", 1),
            Written::Open { done: false } => self.summary.count("open outcomes, not done", 1),
        }
    }

    /// The answer from the coordinator's copy; none if that has not followed as far as it must.
    pub(super) fn answer(
        &mut self,
        c: usize,
        (id, sync): (&NodeId, &Sync),
        entered: Option<Position>,
    ) -> Option<Result<Answer, SyncRefused>> {
        let Some(copy) = self.read(c, false).filter(|_| !self.is_blind(c)) else {
            return Some(Err(SyncRefused::NotAdmitted));
        };
        let position = self.coordinators[c].copied.position;
        if entered.is_some_and(|entered| !position.has(entered)) {
            return None;
        }
        let snapshot = copy.snapshot();
        if snapshot.document.revision < self.coordinators[c].seen {
            // A coordinator that answers from a store that went back begins a new life first.
            self.summary.count("a store that went back was noticed in an answer", 1);
            self.observe(c, snapshot);
        }
        let answer = self.view(c, snapshot).answer(snapshot, id, sync);
        if let (Ok(Answer::Instruct(told)), true) = (&answer, position == self.shelf.position()) {
            let Ok(Some((_, keys))) = self.shelf.store.document(&pool()) else {
                return Some(Err(SyncRefused::NotAdmitted));
            };
            let slots = [Some(told.slots.primary), told.slots.backup];
            assert!(slots.iter().flatten().all(|key| keys.key(key.epoch).is_some()), "a key to tell is not there");
        }
        Some(answer)
    }

    /// What answers follow from besides a node's own record; that is looked at once for all who ask at a time.
    fn view(&mut self, c: usize, snapshot: &Snapshot) -> PoolView {
        let coordinator = &mut self.coordinators[c];
        let position = coordinator.copied.position;
        match coordinator.view {
            Some((at, view)) if at == position => view,
            Some(_) | None => {
                let view = PoolView::of(snapshot, &coordinator.presence);
                coordinator.view = Some((position, view));
                view
            }
        }
    }

    /// Looks at the copy, at the time until which it was what is stored.
    pub(super) fn observe(&mut self, c: usize, snapshot: &Snapshot) {
        let instead = self.looked_at(snapshot);
        let coordinator = &mut self.coordinators[c];
        let monotonic = Duration::from_secs(coordinator.copied.true_until);
        if coordinator.writes_fail {
            coordinator.life.interrupt();
        }
        let life = coordinator.life.ordinal();
        coordinator.look(monotonic, snapshot, instead.as_ref());
        let is_another = coordinator.life.ordinal() != life;
        if coordinator.writes_fail {
            coordinator.life.interrupt();
        }
        let presence = self.judged(snapshot, self.coordinators[c].life.presence().clone());
        let coordinator = &mut self.coordinators[c];
        (coordinator.presence, coordinator.view) = (presence, None);
        coordinator.seen = snapshot.document.revision;
        if is_another {
            self.coordinators[c].holding.clear();
            self.look_again_at_held(c);
        }
    }

    pub(super) fn tick(&mut self, c: usize) {
        let may_be_late = self.has_faults() && !self.is_about_ears();
        let delay = if may_be_late && self.random.once_in(50) { 60 } else { TICK_SECS };
        self.at(delay, Event::Tick(c));
        if !self.coordinators[c].is_up {
            return;
        }
        self.flush(c);
        let whole = self.random.once_in(WHOLE_READS_EVERY);
        let Some(copy) = self.read(c, whole) else {
            self.coordinators[c].life.interrupt();
            self.let_go_if_blind(c);
            return;
        };
        self.let_go_if_blind(c);
        if !self.coordinators[c].writes_fail {
            self.let_unrecorded_go(c);
        }
        let snapshot = copy.snapshot();
        self.observe(c, snapshot);
        let to_ask = to_ask(snapshot, &self.coordinators[c].presence);
        self.ask(c, &to_ask);
        let input = match self.wanted(snapshot) {
            Some(command) => Input::Request(OperatorRequest {
                operator: "ops".parse().unwrap(),
                reason: String::new(),
                if_revision: None,
                command,
            }),
            None => self.proposed(c, snapshot).unwrap_or(Input::Tick),
        };
        // Without its name it commits nothing.
        if self.coordinators[c].holds_name {
            self.decide(c, snapshot, &input);
        }
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

    pub(super) fn decide(&mut self, c: usize, snapshot: &Snapshot, input: &Input) {
        let barriers = self.rule_off != Some(RuleOff::Barriers);
        let all_acked = (!barriers).then(|| all_acked(snapshot));
        let view = all_acked.as_ref().unwrap_or(snapshot);
        let wall = self.wall(c);
        self.minted += 1;
        let fresh = self.shelf.make_key(self.minted);
        let now = Now { wall, presence: &self.coordinators[c].presence };
        let step = handle(view, now, input, Some(fresh));
        if *input == Input::Tick && self.rule_off.is_none() {
            self.check_rest(c, snapshot, &step);
        }
        let waits = match &step {
            Ok(Step::Wait(wait)) => Some(wait.blocked_by),
            Ok(_) | Err(_) => None,
        };
        if waits == Some(BlockedBy::Drain) {
            self.summary.count("waits for the drain", 1);
        }
        let waited = std::mem::replace(&mut self.coordinators[c].waited, waits);
        let Ok(Step::Commit(mut proposal)) = step else { return };
        if *input == Input::Tick && self.rule_off.is_none() && !self.has_its_turn(c, snapshot) {
            return;
        }
        if proposal.audit.action == Action::Rotate && proposal.audit.actor == Actor::Engine {
            self.count_drain(view, wall, waited);
        }
        if proposal.audit.action == Action::OpenWave && proposal.audit.actor == Actor::Engine {
            self.check_counters(c, snapshot);
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
        let (life, history) = (self.coordinators[c].lives, self.coordinators[c].copied.position.history);
        self.at(delay, Event::Commit(c, life, history, proposal));
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
        let told_before = self.shelf.now().document.generation;
        let written = self.shelf.commit(&self.writer(c), proposal);
        self.count_write(written);
        if let Written::Fenced(stored) = written {
            self.fenced(c, stored);
        }
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
        self.note_wave();
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
                !self.shelf.now().nodes.get(node).is_some_and(|record| record.membership == Membership::Admitted);
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
