//! What can happen next, and what it does: every coordinator's decision is the engine's own.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::{AnswerRefused, Ask, PoolAnswer, Readiness};
use tfo_engine::rollout::barrier::{Barrier, conflict, recoverable};
use tfo_engine::rollout::document::{Actor, Proposal, Snapshot, Stage};
use tfo_engine::rollout::input::{Command, Expectation, Input, Now, OperatorRequest, RevokeKeys, Step};
use tfo_engine::rollout::parts::{Ack, Entry, PoolContent, Writes};
use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::record::{Exclusion, Installed, Membership, NodeRecord, SlotCount};
use tfo_engine::rollout::slots::{Fence, Instruction, PoolKey, Slots};
use tfo_engine::rollout::sync::{Answer as Reply_, PoolView, Recording, SyncRefused, record};
use tfo_engine::rollout::{handle, wave};
use tfo_model::count::{Generation, Revision};
use tfo_model::fleet::Action as Audit;
use tfo_model::key::PairPrint;
use tfo_model::time::UnixTime;

use super::beats::Recorded;
use super::liar::Lie;
use super::world::{
    Answer, Off, Op, Reply, Request, Serving, Stored, World, coordinator_name, fingerprint, is_held_for_nodes, link,
    number, plain, policy, pool_id,
};

/// `absent_after` of every answer, and how long agents ask before they serve by their file.  Time stands still
/// in the model, and both are over: the worst that can be.
const ABSENT_AFTER: Duration = Duration::from_secs(60);
const START_TIMEOUT: Duration = Duration::ZERO;

/// End of every operator's exclusion, and a clock on either side of it.
const EXCLUSION_ENDS: UnixTime = UnixTime::from_secs(1);
const BEFORE: UnixTime = UnixTime::from_secs(0);
pub(crate) const AFTER: UnixTime = UnixTime::from_secs(1_000_000_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A node sends a sync, and a coordinator gets it.  What the node sent before is given up, unless it said the same.
    ///
    /// A request that is delivered later is equal to a later one, as long as it is outstanding.
    Sync {
        node: u8,
        exclusion_ended: bool,
    },
    /// A node sends a sync that is late, lost, or (if it sends the same once more) repeated.
    Send(u8),
    /// A coordinator gets it at last.
    Deliver {
        request: u8,
        exclusion_ended: bool,
    },
    /// A node gets an answer and installs it: file, kernel, read back.
    ///
    /// An install that takes long is an answer that comes late.
    Take(u8),
    /// The same, and the agent crashes between file and kernel.
    TakeAndCrash(u8),
    /// The file cannot be written, and the agent continues: only with the rule off.
    FileFails(u8),
    /// The file cannot be written: the instruction stays pending ...
    TakeInVain(u8),
    /// ... and is tried again before a next request.
    TryAgain(u8),
    /// READY is given before the kernel has keys of the pool: on an empty pool, or with a rule off.
    Ready(u8),
    /// The stolen node reports something, in a session of its own.
    Lie(Lie),
    RestartAgent(u8),
    Reboot(u8),
    Reimage(u8),
    MoveToOther(u8),
    Tick(u8),
    /// A tick that finds a node absent.
    Absent {
        coordinator: u8,
        node: u8,
    },
    /// A tick after the short barrier of a revoke.
    Slow(u8),
    Order(u8, Op),
    /// Decisions are committed at once, unless a coordinator is slow ...
    Hesitate(u8),
    /// ... and commits later.
    Commit(u8),
    RestartCoordinator(u8),
    TakeBackup,
    Restore,
    /// The same under running coordinators, each of which has seen something of what is lost.
    RestoreLive,
    /// A coordinator reads its store, and decides nothing.
    Look(u8),
    /// A coordinator's copy falls behind ...
    Stall(u8),
    /// ... will next be what is stored now ...
    Mark(u8),
    /// ... and is that, or all that is stored.
    CatchUp(u8),
    /// The store does not answer a commit ...
    LoseAnswer(u8),
    /// ... which takes effect all the same ...
    Land(u8),
    /// ... or the coordinator makes sure that it has not, and says so.
    Settle(u8),
    /// A late admission is stored: only with the rule off.
    WriteLate(u8),
    /// A coordinator says which nodes it hears.
    Beat(u8),
    /// What a coordinator has heard is written: only with the rule off, otherwise it is when it is heard.
    Flush(u8),
    /// The store goes back; this coordinator runs on, and does not know it, while the others are started again.
    RestoreUnder(u8),
    /// Another process starts under the first coordinator's name, which believes to have it still.
    TakeOver,
    /// A coordinator remembers the store: only with a rule off.
    Remember(u8),
    /// An exclusion ends without a sync: only with the rule off.
    EndExclusion(u8),
}

pub(crate) fn small(index: usize) -> u8 {
    u8::try_from(index).unwrap()
}

fn clock(exclusion_ended: bool) -> UnixTime {
    if exclusion_ended { AFTER } else { BEFORE }
}

impl World {
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        self.node_events(&mut events);
        for (index, request) in self.requests.iter().enumerate() {
            let request_index = small(index);
            events.push(Event::Deliver { request: request_index, exclusion_ended: false });
            if self.is_excluded_for_a_time(request.node) {
                events.push(Event::Deliver { request: request_index, exclusion_ended: true });
            }
        }
        for index in 0..self.answers.len() {
            let index = small(index);
            events.push(Event::Take(index));
            if self.budget.restarts > 0 {
                events.push(Event::TakeAndCrash(index));
            }
            if self.budget.failures > 0 {
                events.push(Event::TakeInVain(index));
            }
            if self.is_off(Off::AckNeedsDurableFile) {
                events.push(Event::FileFails(index));
            }
        }
        events.extend((0..self.late_writes.len()).map(|index| Event::WriteLate(small(index))));
        for (index, coordinator) in self.coordinators.iter().enumerate() {
            self.coordinator_events(small(index), coordinator.pending.is_some(), &mut events);
        }
        self.beat_events(&mut events);
        match &self.backup {
            None if self.budget.restores + self.budget.live_restores + self.budget.survivals > 0 => {
                events.push(Event::TakeBackup);
            }
            None => {}
            Some(backup) => {
                if self.budget.restores > 0 {
                    events.push(Event::Restore);
                }
                if self.budget.live_restores > 0 && (0..self.coordinators.len()).all(|c| self.saw_more(c, backup)) {
                    events.push(Event::RestoreLive);
                }
            }
        }
        events
    }

    /// Whether the coordinator has seen something that this backup lacks.
    ///
    /// The assumption of a store that goes back under a running coordinator: one that has not looked for so long that
    /// it saw nothing of what is lost begins a new life anyway.
    fn saw_more(&self, c: usize, backup: &Snapshot) -> bool {
        let Some(looked) = &self.coordinators[c].looked else { return false };
        let syncs = |snapshot: &Snapshot, id| snapshot.nodes.get(id).map_or(0, |record| record.syncs);
        looked.document.revision > backup.document.revision
            || self.ids.iter().any(|id| syncs(looked, id) > syncs(backup, id))
    }

    fn is_excluded_for_a_time(&self, n: usize) -> bool {
        let standing = self.store.nodes.get(&self.ids[n]).map(|record| record.membership);
        matches!(standing, Some(Membership::Excluded(Exclusion::Operator { .. })))
    }

    fn node_events(&self, events: &mut Vec<Event>) {
        for index in 0..self.nodes.len() {
            let n = small(index);
            let id = &self.ids[index];
            if self.liar == Some(index) {
                if self.budget.lies > 0 {
                    events.extend(Lie::ALL.map(Event::Lie));
                }
                continue;
            }
            events.push(Event::Sync { node: n, exclusion_ended: false });
            if self.is_excluded_for_a_time(index) {
                events.push(Event::Sync { node: n, exclusion_ended: true });
            }
            if self.budget.late > 0 {
                events.push(Event::Send(n));
            }
            if self.budget.restarts > 0 {
                events.push(Event::RestartAgent(n));
            }
            if self.nodes[index].link.pending().is_some() {
                events.push(Event::TryAgain(n));
            }
            if self.may_serve_without_keys(index) {
                events.push(Event::Ready(n));
            }
            if self.budget.reboots > 0 {
                events.push(Event::Reboot(n));
            }
            if self.budget.images > 0 {
                events.push(Event::Reimage(n));
            }
            if self.budget.moves > 0 && self.coordinators.len() > 1 {
                events.push(Event::MoveToOther(n));
            }
            let is_excluded = self.store.nodes.get(id).is_some_and(|r| r.membership != Membership::Admitted);
            if self.is_off(Off::ReturnByAdmission) && is_excluded {
                events.push(Event::EndExclusion(n));
            }
        }
    }

    fn coordinator_events(&self, c: u8, has_pending: bool, events: &mut Vec<Event>) {
        let remembers = self.is_off(Off::AnswerFromStore)
            || self.is_off(Off::FenceInFile)
            || self.is_off(Off::MembersFromOneSnapshot);
        let is_last = usize::from(c) + 1 == self.coordinators.len();
        if remembers && is_last && self.coordinators[usize::from(c)].cache.is_none() {
            events.push(Event::Remember(c));
        }
        if has_pending {
            events.push(Event::Commit(c));
        } else {
            let hesitates = self.coordinators[usize::from(c)].hesitates;
            if self.budget.slow_commits > 0 && !hesitates {
                events.push(Event::Hesitate(c));
            }
            events.push(Event::Tick(c));
            if self.budget.absences > 0 {
                events.extend((0..self.nodes.len()).map(|n| Event::Absent { coordinator: c, node: small(n) }));
                if self.store.document.revoke.is_some() {
                    events.push(Event::Slow(c));
                }
            }
            if self.budget.orders > 0 {
                events.extend(self.orders.iter().map(|op| Event::Order(c, *op)));
            }
            // An operator who believes a stolen node is not the model's.
            if conflict(&self.store).is_some() && self.liar.is_none() {
                events.push(Event::Order(c, Op::Recover));
            }
        }
        if self.budget.coordinator_restarts > 0 {
            events.push(Event::RestartCoordinator(c));
        }
        if self.is_counted && (!self.has_beats || self.coordinators[usize::from(c)].copy.is_some()) {
            events.push(Event::Look(c));
        }
        let coordinator = &self.coordinators[usize::from(c)];
        match (&coordinator.copy, &coordinator.next) {
            (None, _) if self.budget.lags > 0 => events.push(Event::Stall(c)),
            (None, _) => {}
            (Some(copy), None) if *copy != self.store => events.extend([Event::Mark(c), Event::CatchUp(c)]),
            (Some(_), _) => events.push(Event::CatchUp(c)),
        }
        if has_pending && self.budget.open_outcomes > 0 {
            events.push(Event::LoseAnswer(c));
        }
        if coordinator.open.is_some() {
            events.push(Event::Land(c));
            if !coordinator.was_told_undone {
                events.push(Event::Settle(c));
            }
        }
    }

    /// The world after an event; none if it changes nothing.
    pub(crate) fn after(&self, event: Event) -> Option<World> {
        let mut next = self.clone();
        let happened = match event {
            Event::Sync { node, exclusion_ended } => next.sync(usize::from(node), clock(exclusion_ended)),
            Event::Send(n) => {
                next.budget.late -= 1;
                next.send(usize::from(n))
            }
            Event::Deliver { request, exclusion_ended } => {
                let request = next.requests.remove(usize::from(request));
                next.deliver(&request, clock(exclusion_ended))
            }
            Event::Take(index) => next.take(usize::from(index)) && next.write_file() && next.write_kernel(),
            Event::TakeAndCrash(index) => {
                next.budget.restarts -= 1;
                next.take(usize::from(index)) && next.write_file() && next.crash_in_install()
            }
            Event::FileFails(index) => next.take(usize::from(index)) && next.file_fails(),
            Event::TakeInVain(index) => {
                next.budget.failures -= 1;
                next.take_in_vain(usize::from(index))
            }
            Event::TryAgain(n) => next.try_again(usize::from(n)),
            Event::Ready(n) => {
                let node = &mut next.nodes[usize::from(n)];
                node.serving = if node.joined_empty { Serving::SinceEmpty } else { Serving::Keyless };
                true
            }
            Event::Hesitate(c) => {
                next.budget.slow_commits -= 1;
                next.coordinators[usize::from(c)].hesitates = true;
                true
            }
            Event::Lie(lie) => next.liar.is_some_and(|n| next.lie(n, lie)),
            Event::RestartAgent(n) => {
                next.budget.restarts -= 1;
                next.restart(usize::from(n))
            }
            Event::Reboot(n) => {
                next.budget.reboots -= 1;
                next.reboot(usize::from(n))
            }
            Event::Reimage(n) => {
                next.budget.images -= 1;
                next.reimage(usize::from(n))
            }
            Event::MoveToOther(n) => {
                next.budget.moves -= 1;
                next.move_to_other(usize::from(n))
            }
            Event::Tick(c) => next.decide(usize::from(c), &Input::Tick, None, 0),
            Event::Absent { coordinator, node } => {
                next.budget.absences -= 1;
                next.decide(usize::from(coordinator), &Input::Tick, Some(usize::from(node)), 0)
            }
            Event::Slow(c) => {
                next.budget.absences -= 1;
                next.decide(usize::from(c), &Input::Tick, None, 1_000_000)
            }
            Event::Order(c, op) => {
                if op != Op::Recover {
                    next.budget.orders -= 1;
                }
                next.order(usize::from(c), op)
            }
            Event::Commit(c) => next.commit(usize::from(c)),
            Event::RestartCoordinator(c) => {
                next.budget.coordinator_restarts -= 1;
                next.restart_coordinator(usize::from(c));
                true
            }
            Event::TakeBackup => {
                next.backup = Some(next.store.clone());
                true
            }
            Event::Restore => next.restore(),
            Event::RestoreLive => next.restore_live(),
            Event::Look(c) => next.look(usize::from(c)),
            Event::Stall(c) => {
                next.budget.lags -= 1;
                next.coordinators[usize::from(c)].copy = Some(self.store.clone());
                true
            }
            Event::Mark(c) => {
                next.coordinators[usize::from(c)].next = Some(self.store.clone());
                true
            }
            Event::CatchUp(c) => {
                let coordinator = &mut next.coordinators[usize::from(c)];
                coordinator.copy = coordinator.next.take();
                true
            }
            Event::LoseAnswer(c) => {
                next.budget.open_outcomes -= 1;
                let coordinator = &mut next.coordinators[usize::from(c)];
                coordinator.open = coordinator.pending.take();
                coordinator.hesitates = false;
                true
            }
            Event::Land(c) => next.land(usize::from(c)),
            Event::Settle(c) => next.settle(usize::from(c)),
            Event::WriteLate(index) => next.write_late(usize::from(index)),
            Event::Beat(c) => next.beat(usize::from(c)),
            Event::Flush(c) => next.flush(usize::from(c)),
            Event::RestoreUnder(c) => next.restore_under(usize::from(c)),
            Event::TakeOver => next.take_over(),
            Event::Remember(c) => {
                next.coordinators[usize::from(c)].cache = Some(self.store.clone());
                true
            }
            Event::EndExclusion(n) => next.end_exclusion(usize::from(n)),
        };
        next.look_where_beating();
        happened.then_some(next)
    }

    // ---- nodes ----

    fn sync(&mut self, n: usize, wall: UnixTime) -> bool {
        let sync = self.sync_of(n);
        let is_repetition = |r: &&Request| r.node == n && self.is_outstanding(n, &r.ask) && r.sync == sync;
        let repeated = self.requests.iter().find(is_repetition).map(|request| request.ask);
        let request = match repeated {
            Some(ask) => Request { node: n, to: self.nodes[n].coordinator, ask, sync },
            None => self.ask(n),
        };
        self.deliver(&request, wall)
    }

    fn send(&mut self, n: usize) -> bool {
        let request = self.ask(n);
        self.requests.push(request);
        true
    }

    fn ask(&mut self, n: usize) -> Request {
        let sync = self.sync_of(n);
        let ask = Rc::make_mut(&mut self.nodes[n].link).ask();
        self.drop_dead_answers(n);
        Request { node: n, to: self.nodes[n].coordinator, ask, sync }
    }

    /// Whether this agent waits for the answer to it: numbers start again with every run, and no session lives in two.
    pub(crate) fn is_outstanding(&self, n: usize, ask: &Ask) -> bool {
        let link = &self.nodes[n].link;
        link.session() == ask.session && link.outstanding() == Some(ask.request)
    }

    /// The agent refuses the answer to a request that is no longer outstanding, so there is no need to keep it.
    fn drop_dead_answers(&mut self, n: usize) {
        if !self.is_off(Off::OwnAnswerOnly) {
            let answers = std::mem::take(&mut self.answers);
            let is_dead = |answer: &Answer| answer.node == n && !self.is_outstanding(n, &answer.ask);
            self.answers = answers.into_iter().filter(|answer| !is_dead(answer)).collect();
        }
        while self.is_off(Off::OwnAnswerOnly) && self.answers.iter().filter(|answer| answer.node == n).count() > 1 {
            let newest = self.answers.iter().rposition(|answer| answer.node == n).unwrap();
            self.answers.remove(newest);
        }
    }

    fn take(&mut self, index: usize) -> bool {
        let taken = self.answers.remove(index);
        let n = taken.node;
        self.installing = None;
        let image = self.nodes[n].image;
        let link = Rc::make_mut(&mut self.nodes[n].link);
        // Without the rule an agent takes whatever comes for the answer to its last request.
        let id = match link.outstanding() {
            Some(outstanding) if self.off == Some(Off::OwnAnswerOnly) => outstanding,
            None if self.off == Some(Off::OwnAnswerOnly) => link.ask().request,
            Some(_) | None => taken.ask.request,
        };
        let result = match &taken.reply {
            Reply::SessionClosed(open) => link.session_closed(id, *open, image, Duration::ZERO).map(|()| None),
            Reply::Nothing => {
                let taken = link.nothing_new(id, Duration::ZERO).map(|()| None);
                self.nodes[n].was_told_empty |= self.is_empty_to(n);
                taken
            }
            Reply::Tell(told) => {
                let pool_id = self.store.document.pool_id;
                let answer = PoolAnswer { pool_id, instruction: *told, absent_after: ABSENT_AFTER };
                let taken = link.answered(id, &answer, Duration::ZERO);
                taken.map(|_| Some(*told))
            }
        };
        self.drop_dead_answers(n);
        match result {
            Ok(told) => self.installing = told.map(|told| (n, told, taken.is_of_lost_store)),
            Err(AnswerRefused::NotOutstanding) => return false,
            Err(_) => {}
        }
        true
    }

    /// Only an install can fail like this: what the file holds already is drift, and the agent repairs that by itself.
    fn take_in_vain(&mut self, index: usize) -> bool {
        let is_taken = self.take(index);
        let told = self.installing.take();
        is_taken && told.is_some_and(|(n, ..)| self.nodes[n].link.pending().is_some())
    }

    fn try_again(&mut self, n: usize) -> bool {
        let Some(told) = self.nodes[n].link.pending().copied() else { return false };
        self.installing = Some((n, told, false));
        self.write_file() && self.write_kernel()
    }

    fn write_file(&mut self) -> bool {
        if let Some((n, told, _)) = self.installing {
            let node = &mut self.nodes[n];
            node.file = Some(Rc::new(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots }));
            Rc::make_mut(&mut node.link).persisted(&pool_id(), &told);
        }
        true
    }

    fn write_kernel(&mut self) -> bool {
        if let Some((n, told, is_of_lost_store)) = self.installing.take() {
            self.load(n, told, is_of_lost_store);
        }
        true
    }

    fn crash_in_install(&mut self) -> bool {
        match self.installing.take() {
            Some((n, ..)) => self.restart(n),
            None => false,
        }
    }

    fn file_fails(&mut self) -> bool {
        let Some((n, told, _)) = self.installing.take() else { return false };
        Rc::make_mut(&mut self.nodes[n].link).persisted(&pool_id(), &told);
        self.load(n, told, false);
        true
    }

    fn load(&mut self, n: usize, told: Instruction, is_of_lost_store: bool) {
        // A record that a restore brings back does not admit the node: the first install after it is that of an answer
        // given after it.
        let is_admitted = self.is_admitted(n) && (!is_of_lost_store || self.restore_admits);
        let one_slot_counts = self.is_off(Off::OneSlotIsNeverRequired);
        let node = &mut self.nodes[n];
        let backup = if node.slot_count == SlotCount::One { None } else { told.slots.backup };
        node.kernel = Some(Slots { primary: told.slots.primary, backup });
        node.is_covered |= is_admitted && (node.slot_count == SlotCount::Two || one_slot_counts);
        self.note_minted();
    }

    fn is_admitted(&self, n: usize) -> bool {
        self.store.nodes.get(&self.ids[n]).is_some_and(|record| record.membership == Membership::Admitted)
    }

    fn restart(&mut self, n: usize) -> bool {
        let ordinal = self.nodes[n].link.session().ordinal + 1;
        self.start_agent(n, ordinal);
        true
    }

    /// The agent starts with what its file holds; requests and answers of the one before it are dropped.
    fn start_agent(&mut self, n: usize, ordinal: u64) {
        let has_fence = !self.is_off(Off::FenceInFile);
        let node = &mut self.nodes[n];
        node.link = link(node.file.as_deref().filter(|_| has_fence).cloned(), ordinal, node.image);
        node.joined_empty = false;
        self.drop_dead_answers(n);
    }

    /// A new session at another coordinator, by the same agent.
    fn move_to_other(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        node.coordinator ^= 1;
        let image = node.image;
        Rc::make_mut(&mut node.link).open_session(0, image);
        self.drop_dead_answers(n);
        true
    }

    /// READY before the kernel has keys: what is installed, if anything, must be as instructed, and the link agrees.
    fn may_serve_without_keys(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let is_ready = match node.link.readiness(Duration::ZERO, START_TIMEOUT) {
            Readiness::Confirmed | Readiness::Unconfirmed | Readiness::EmptyPool => true,
            Readiness::NoKeys | Readiness::Asking if self.is_off(Off::EmptyIsOfThisRun) => node.was_told_empty,
            Readiness::NoKeys | Readiness::Asking => self.is_off(Off::JoinerWaitsForKeys),
        };
        node.kernel.is_none() && node.serving == Serving::No && node.link.fence().is_none() && is_ready
    }

    fn is_empty_to(&self, n: usize) -> bool {
        self.nodes[n].link.readiness(Duration::ZERO, START_TIMEOUT) == Readiness::EmptyPool
    }

    fn reboot(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        node.kernel = node.file.as_ref().map(|fence| match node.slot_count {
            SlotCount::Two => fence.slots,
            SlotCount::One => Slots { backup: None, ..fence.slots },
        });
        node.is_covered &= node.kernel.is_some();
        node.serving = Serving::No;
        self.restart(n);
        self.note_minted();
        true
    }

    /// Everything on the node is new, its clock may be behind: the session's ordinal starts again.
    fn reimage(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        node.file = None;
        node.kernel = None;
        node.image += 1;
        node.serving = Serving::No;
        node.was_told_empty = false;
        node.is_covered = false;
        node.is_expected = false;
        self.ordered_on &= !(1 << n);
        self.start_agent(n, 1);
        if self.is_restored {
            // It may have been the only witness of a promise that the store forgot.
            self.promised.clear();
            self.note_minted();
        }
        true
    }

    /// Ghost: covered nodes make cookies, and the promise covers those.
    fn note_minted(&mut self) {
        let revoked = |key: PoolKey| self.store.document.is_revoked(key);
        let covered = self.nodes.iter().filter(|node| node.is_covered);
        let minting: Vec<u64> = covered
            .filter_map(|node| node.kernel)
            .filter(|slots| !revoked(slots.primary))
            .map(|slots| number(slots.primary.fingerprint))
            .collect();
        self.promised.extend(minting);
    }

    // ---- coordinators: requests ----

    fn deliver(&mut self, request: &Request, wall: UnixTime) -> bool {
        let n = request.node;
        let id = self.ids[n].clone();
        let before = self.known_to(request.to, n);
        let was_excluded = before.as_ref().is_some_and(|record| record.membership != Membership::Admitted);
        let answered_first = self.is_off(Off::AdmissionBeforeAnswer) && before.is_none()
            || self.is_off(Off::ReturnerAdmittedFirst) && was_excluded;
        if answered_first {
            if self.late_writes.iter().any(|write| write.0 == n) {
                return false;
            }
            self.late_writes.push((n, request.sync.clone()));
            if let Some(told) = wave::instruction_for(&self.store.document, &id, self.nodes[n].slot_count) {
                self.reply(request, Reply::Tell(told));
            }
            return true;
        }
        let cache = self.coordinators[request.to].cache.clone();
        if let (Some(cache), true) = (&cache, self.is_off(Off::FenceInFile)) {
            // Cut from its store: it records nothing, and answers what it remembers.
            if let Some(told) = wave::instruction_for(&cache.document, &id, self.nodes[n].slot_count) {
                self.reply(request, Reply::Tell(told));
            }
            return true;
        }
        let by = self.name(request.to);
        let copy = self.seen_by(request.to).clone();
        match record(&copy.document, before.as_ref(), &id, &request.sync, (&by, wall)) {
            Ok(recording @ (Recording::First(_) | Recording::Later(_))) => {
                let opens = matches!(recording, Recording::First(_));
                if self.has_beats {
                    match self.record_beating(request.to, n, recording, before.as_ref()) {
                        Recorded::Written => {}
                        Recorded::Heard => {
                            self.answer(request);
                            return true;
                        }
                        Recorded::Refused => return true,
                    }
                } else {
                    self.store_sync(request.to, n, recording);
                }
                let own_writes = self.is_off(Off::OwnWritesComeBackByWatch);
                if opens && !self.is_off(Off::AnswerNotBeforeAdmission) && !own_writes {
                    // The answer is made from a copy that has the admission.
                    (self.coordinators[request.to].copy, self.coordinators[request.to].next) = (None, None);
                } else if opens && !own_writes && self.coordinators[request.to].copy.is_some() {
                    if let Some(told) = wave::instruction_for(&copy.document, &id, self.nodes[n].slot_count) {
                        self.reply(request, Reply::Tell(told));
                    }
                    self.coordinators.iter_mut().for_each(|c| c.heard |= 1 << n);
                    return true;
                }
                self.note_joined(request);
                self.coordinators.iter_mut().for_each(|c| c.heard |= 1 << n);
            }
            Ok(Recording::Stale) => {}
            Err(SyncRefused::SessionClosed { ordinal }) => {
                self.reply(request, Reply::SessionClosed(ordinal));
                return true;
            }
            Err(_) => return true,
        }
        self.answer(request);
        true
    }

    /// Ghost: whether the run that sent the request was admitted while the pool had no key, and no node held one.
    fn note_joined(&mut self, request: &Request) {
        let is_empty = self.store.document.stage == Stage::Empty && !self.nodes.iter().any(|node| node.is_covered);
        let node = &mut self.nodes[request.node];
        node.joined_empty |= is_empty && node.kernel.is_none() && node.link.session() == request.sync.session;
    }

    pub(crate) fn answer(&mut self, request: &Request) {
        let c = request.to;
        let id = self.ids[request.node].clone();
        let presence = self.presence(c, None, 0);
        // If the store counts, a coordinator answers by what it had seen when it looked last.
        let view = self.view(self.seen_by(c), None, false);
        if let (Some(cache), true) = (&self.coordinators[c].cache, self.is_off(Off::AnswerFromStore)) {
            if let Some(told) = wave::instruction_for(&cache.document, &id, SlotCount::Two) {
                self.reply(request, Reply::Tell(told));
            }
            return;
        }
        let presence = if self.is_off(Off::NobodyIsToldBeforeAllAreHeard) { self.everybody() } else { presence };
        match PoolView::of(&view, &presence).answer(&view, &id, &request.sync) {
            Ok(Reply_::Instruct(told)) => self.reply(request, Reply::Tell(told)),
            // A kernel with keys is never ready without them, and a state less to look at.
            Ok(Reply_::Nothing) if request.sync.report.fence.is_none() && self.nodes[request.node].kernel.is_none() => {
                self.reply(request, Reply::Nothing);
            }
            Ok(Reply_::Nothing) => self.confirm(request, &presence),
            Err(SyncRefused::SessionClosed { ordinal }) => self.reply(request, Reply::SessionClosed(ordinal)),
            Err(_) => {}
        }
    }

    /// Ghost: a node that holds its instruction is covered when the coordinator has confirmed it.
    fn confirm(&mut self, request: &Request, presence: &Presence) {
        let n = request.node;
        let told =
            wave::instruction_for(&self.seen_by(request.to).document, &self.ids[n], request.sync.report.slot_count);
        let Some(told) = told else { return };
        let holds = self.nodes[n].kernel == Some(told.slots) && self.nodes[n].slot_count == SlotCount::Two;
        let is_heard = presence.unseen_required(&self.store).is_empty();
        if self.is_outstanding(n, &request.ask)
            && holds
            && is_heard
            && self.is_admitted(n)
            && request.sync.report.acknowledges(&self.store.document.pool_id, &told)
        {
            self.nodes[n].is_covered = true;
            self.note_minted();
        }
    }

    fn reply(&mut self, request: &Request, reply: Reply) {
        let answer = Answer { node: request.node, ask: request.ask, is_of_lost_store: false, reply };
        let is_wanted = self.is_outstanding(answer.node, &answer.ask) || self.is_off(Off::OwnAnswerOnly);
        if is_wanted && !self.answers.contains(&answer) {
            self.answers.push(answer);
        }
    }

    /// A coordinator writes into its roster.
    pub(crate) fn store_sync(&mut self, c: usize, n: usize, recording: Recording) {
        let (id, mut writes) = (self.ids[n].clone(), Writes::default());
        match recording {
            Recording::First(entry) => drop(writes.entries.insert(id, entry)),
            Recording::Later(later) => drop(writes.acks.insert(id, later)),
            Recording::Stale => return,
        }
        let (by, counts) = (self.name(c), self.counts());
        if self.is_off(Off::AdmissionSeesExclusion) && !writes.entries.is_empty() {
            // An admission takes the place of whatever else is known of the node.
            let mut parts = self.store.content.parts().clone();
            parts.exclusions.remove(&self.ids[n]);
            let entries = writes.entries.values_mut();
            entries.for_each(|entry| entry.answers = None);
            self.store = plain(PoolContent::new(self.store.document.clone(), parts), counts);
        }
        self.bend(&by, &mut writes);
        let mut content = self.store.content.clone();
        content.write(&by, &writes);
        self.store = plain(content, counts);
        if let (true, Some(copy)) = (self.is_off(Off::OwnWritesComeBackByWatch), &self.coordinators[c].copy) {
            let mut content = copy.content.clone();
            content.write(&by, &writes);
            self.coordinators[c].copy = Some(plain(content, counts));
        }
    }

    /// A node's record as a coordinator knows it: from its copy, and from its own roster, which it has always before it.
    fn known_to(&self, c: usize, n: usize) -> Option<NodeRecord> {
        let by = self.name(c);
        let mut parts = self.seen_by(c).content.parts().clone();
        if let Some(own) = self.store.content.parts().rosters.get(&by) {
            parts.rosters.insert(by, own.clone());
        }
        parts.record(&self.ids[n])
    }

    fn write_late(&mut self, index: usize) -> bool {
        let (n, sync) = self.late_writes.remove(index);
        let id = self.ids[n].clone();
        let c = self.nodes[n].coordinator;
        let before = self.store.nodes.get(&id).cloned();
        let recorded = record(&self.store.document, before.as_ref(), &id, &sync, (&coordinator_name(c), AFTER));
        let recording = match (recorded, before) {
            (Ok(recording), _) => recording,
            (_, Some(before)) => {
                // Admitted as if by an ordinary sync, whatever was decided meanwhile.
                let mut parts = self.store.content.parts().clone();
                parts.exclusions.remove(&id);
                self.store = plain(PoolContent::new(self.store.document.clone(), parts), self.counts());
                let first = Ack {
                    report: sync.report.clone(),
                    syncs: before.syncs + 1,
                    window: None,
                    baseline: None,
                    at: AFTER,
                };
                Recording::First(Entry { session: sync.session, answers: None, first })
            }
            (_, None) => return false,
        };
        self.store_sync(c, n, recording);
        self.coordinators.iter_mut().for_each(|c| c.heard |= 1 << n);
        true
    }

    // ---- coordinators: decisions ----

    pub(crate) fn presence(&self, c: usize, absent: Option<usize>, served_secs: u64) -> Presence {
        let absent = absent.into_iter().map(|index| self.ids[index].clone()).collect();
        let (phase_secs, wave_secs) = (served_secs, 1_000_000);
        let heard = self.coordinators[c].heard;
        let is_heard = |index: &usize| heard & (1 << index) != 0;
        let mut presence = match &self.coordinators[c].looked {
            _ if self.is_off(Off::StoredAcksDoNotCount) || self.is_off(Off::LifeEndsWithItsStore) => self.everybody(),
            Some(looked) if self.is_counted => self.coordinators[c].life.presence(looked),
            Some(_) | None => {
                let heard = (0..self.nodes.len()).filter(is_heard).map(|index| self.ids[index].clone());
                Presence { seen: heard.collect(), ..Presence::default() }
            }
        };
        if self.is_off(Off::PresenceKnowsItsRevision) {
            presence.revision = Revision::ZERO;
        }
        Presence { absent, phase_secs, wave_secs, ..presence }
    }

    /// A presence that has seen all nodes, whatever happened.
    fn everybody(&self) -> Presence {
        Presence { seen: self.ids.iter().cloned().collect(), wave_secs: 1_000_000, ..Presence::default() }
    }

    /// The coordinator reads its store; whether that tells it anything.
    pub(crate) fn look(&mut self, c: usize) -> bool {
        if !self.is_counted {
            return false;
        }
        let store = self.owned(c);
        let coordinator = &mut self.coordinators[c];
        let is_news = coordinator.looked.as_ref() != Some(&store) || coordinator.copy.is_some();
        coordinator.life.observe(Duration::ZERO, &store);
        coordinator.looked = Some(store);
        if self.has_beats {
            coordinator.copy = None;
        }
        is_news
    }

    /// The snapshot as a coordinator sees it: as it is, unless a rule is off.
    fn view(&self, stored: &Stored, c: Option<usize>, is_import: bool) -> Snapshot {
        let mut view: Snapshot = (**stored).clone();
        if self.off.is_none() {
            return view;
        }
        if self.is_off(Off::MembersFromOneSnapshot)
            && let Some(cache) = c.and_then(|c| self.coordinators[c].cache.as_ref())
        {
            view.nodes.retain(|node, _| cache.nodes.contains_key(node));
        }
        let is_steady = matches!(view.document.stage, Stage::Steady { .. });
        let is_revoking = view.document.revoke.is_some();
        let no_barrier = match self.off {
            Some(Off::BarrierBeforePromote) => matches!(view.document.stage, Stage::Staged { .. }),
            Some(Off::BarrierBeforeStage) => is_steady || matches!(view.document.stage, Stage::Promoted { .. }),
            Some(Off::BarrierBeforeDrop) => {
                is_revoking && (is_steady || matches!(view.document.stage, Stage::Promoted { .. }))
            }
            _ => false,
        };
        for (id, record) in &mut view.nodes {
            let Some(report) = &mut record.report else { continue };
            if no_barrier && let Some(told) = wave::instruction_for(&view.document, id, SlotCount::Two) {
                report.installed = Installed::ReadBack;
                report.fence = Some(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots });
            }
            if self.is_off(Off::FrozenAfterRestore) {
                report.seen = Generation::ZERO;
            }
            if self.is_off(Off::FrozenAfterRestore)
                && report.fence.as_ref().is_some_and(|fence| fence.generation >= view.document.generation)
                && !wave::instruction_for(&view.document, id, SlotCount::Two)
                    .is_some_and(|told| report.acknowledges(&pool_id(), &told))
            {
                report.fence = None;
            }
            if self.is_off(Off::OneSlotIsNeverRequired) {
                report.slot_count = SlotCount::Two;
            }
        }
        if self.is_off(Off::ImportOnlyIntoEmpty) && is_import {
            view.document.stage = Stage::Empty;
        }
        if self.is_off(Off::ExpectedNodesFirst) && is_held_for_nodes(&view) {
            view.document.hold = None;
            // What the first key expects is expected of every rotation, too.
            view.document.expected = 1;
        }
        view
    }

    fn decide(&mut self, c: usize, input: &Input, absent: Option<usize>, served_secs: u64) -> bool {
        // One that does not know that its store went back decides by what it knows.
        if self.coordinators[c].copy.is_none() {
            self.look(c);
        }
        let is_import = matches!(input, Input::Request(OperatorRequest { command: Command::Import { .. }, .. }));
        let view = self.view(self.seen_by(c), Some(c), is_import);
        let mut presence = self.presence(c, absent, served_secs);
        if self.is_off(Off::CommandsWaitForNodes) && *input != Input::Tick {
            presence = self.everybody();
        }
        if self.is_off(Off::NoWordNeeded) && self.waits_for_a_word(input, &presence) {
            return false;
        }
        let now = Now { wall: AFTER, presence: &presence };
        let mut step = handle(&view, now, input, None);
        if let Ok(Step::MakeKey { .. }) = step {
            if self.budget.stages == 0 {
                return false;
            }
            self.budget.stages -= 1;
            self.minted += 1;
            step = handle(&view, now, input, Some(fingerprint(self.minted)));
        }
        let Ok(Step::Commit(mut proposal)) = step else { return false };
        self.undo_view(&mut proposal);
        self.coordinators[c].pending = Some(Rc::from(proposal));
        if self.coordinators[c].hesitates { true } else { self.commit(c) }
    }

    /// Without the rule: commands wait for each node that they take out, and a revoke for all nodes and a thaw.
    fn waits_for_a_word(&self, input: &Input, presence: &Presence) -> bool {
        let Input::Request(OperatorRequest { command, .. }) = input else { return false };
        let unseen = presence.unseen_required(&self.store);
        match command {
            Command::Deny { nodes } | Command::Forget { nodes, .. } | Command::Exclude { nodes, .. } => {
                unseen.iter().any(|node| nodes.contains(node))
            }
            Command::Revoke { .. } => conflict(&self.store).is_some() || !unseen.is_empty(),
            _ => false,
        }
    }

    /// What a rule that is off does to the proposal is done.
    fn undo_view(&self, proposal: &mut Proposal) {
        if proposal.audit.action != Audit::Abort {
            return;
        }
        if let Stage::Promoted { current, next, .. } = &self.store.document.stage {
            if self.is_off(Off::AbortRests) {
                proposal.document.stage = Stage::Steady { current: *current, backup: self.dropped_backup };
            }
            if self.is_off(Off::AbortHasNoStagedWayBack) {
                proposal.document.stage = Stage::Staged { current: *current, next: *next, prior_backup: None };
            }
        }
    }

    fn order(&mut self, c: usize, op: Op) -> bool {
        let seen = self.seen_by(c).clone();
        let held: Vec<_> = seen.document.keys_held().into_iter().collect();
        let node = |n: u8| self.ids.get(usize::from(n)).cloned();
        let forget = |node| Command::Forget { nodes: [node].into(), expected: Expectation::Keep };
        let command = match op {
            Op::Pause => Command::Pause,
            Op::Resume => Command::Resume { force: false },
            Op::Abort => Command::Abort { force: false },
            Op::ForceAbort => Command::Abort { force: true },
            Op::RevokeAll | Op::RevokeLate => {
                Command::Revoke { keys: RevokeKeys::AllInstructed, deny: BTreeSet::new() }
            }
            Op::RevokeHeld(index) => match held.get(usize::from(index)) {
                Some(key) => Command::Revoke { keys: RevokeKeys::Epochs([key.epoch].into()), deny: BTreeSet::new() },
                None => return false,
            },
            Op::Exclude(n) => match node(n) {
                Some(node) => Command::Exclude { nodes: [node].into(), until: EXCLUSION_ENDS },
                None => return false,
            },
            Op::Forget(n) => match node(n) {
                Some(node) => forget(node),
                None => return false,
            },
            Op::ForgetWhileFrozen(_) if conflict(&self.store).is_none() => return false,
            Op::ForgetWhileFrozen(n) => match node(n) {
                Some(node) => forget(node),
                None => return false,
            },
            Op::Advance => {
                let leave = Barrier::of_opened(&seen).waiting_for.into_iter().collect();
                Command::Advance { generation: seen.document.generation, leave }
            }
            Op::Recover => match self.highest_reported() {
                Some(slots) => Command::Recover { slots },
                None => return false,
            },
            Op::Import => {
                // Into a running pool: a key that no node there knows.
                let key = if self.is_off(Off::ImportOnlyIntoEmpty) { 99 } else { 1 };
                Command::Import { keys: PairPrint { primary: fingerprint(key), backup: None }, expect: Self::expect() }
            }
            Op::FirstKey => Command::FirstKey { expect: Self::expect(), force: true },
            Op::Rotate => Command::Rotate { force: true },
            Op::Deny(n) => match node(n) {
                Some(node) => Command::Deny { nodes: [node].into() },
                None => return false,
            },
            Op::Include(n) => match node(n) {
                Some(node) => Command::Include { nodes: [node].into() },
                None => return false,
            },
            Op::Allow(n) => match node(n) {
                Some(node) => Command::Allow { nodes: [node].into() },
                None => return false,
            },
            Op::RevokeAndDeny(n) => match node(n) {
                Some(node) => Command::Revoke { keys: RevokeKeys::AllInstructed, deny: [node].into() },
                None => return false,
            },
            Op::SetPolicy => {
                let has_waves = seen.document.policy.promote_waves.len() > 1;
                Command::SetPolicy { policy: Box::new(policy(if has_waves { &[] } else { &["a"] })) }
            }
        };
        let order =
            OperatorRequest { operator: "ops".parse().unwrap(), reason: String::new(), if_revision: None, command };
        let served_secs = if op == Op::RevokeLate { 1_000_000 } else { 0 };
        let is_done = self.decide(c, &Input::Request(order), None, served_secs);
        // The known limit of a forget after a restore: the node is wiped first.  If it spoke the truth and came back with
        // its file, there would be two histories.
        if let (Op::Forget(n) | Op::ForgetWhileFrozen(n) | Op::Allow(n), true) = (op, is_done && self.is_restored) {
            self.reimage(usize::from(n));
        }
        is_done
    }

    /// Of two histories the operator takes the document's own.
    fn highest_reported(&self) -> Option<Slots> {
        let offered = recoverable(&self.store);
        let told = wave::instructions(&self.store.document);
        let own = offered.iter().find(|slots| told.iter().any(|told| told.slots == **slots));
        own.or(offered.first()).copied()
    }

    fn commit(&mut self, c: usize) -> bool {
        let Some(proposal) = self.coordinators[c].pending.take() else { return false };
        self.coordinators[c].hesitates = false;
        self.apply(c, &proposal)
    }

    /// An open commit takes effect after all.
    fn land(&mut self, c: usize) -> bool {
        let was_told = std::mem::take(&mut self.coordinators[c].was_told_undone);
        let Some(proposal) = self.coordinators[c].open.take() else { return false };
        if !self.apply(c, &proposal) {
            return false;
        }
        self.is_undone_done |= was_told && matches!(proposal.audit.actor, Actor::Operator(_));
        true
    }

    /// The operator is told that an open commit was not done.  By the rule it cannot take effect any more: the
    /// coordinator's attempt was raised first, and the commit compares it.
    fn settle(&mut self, c: usize) -> bool {
        let is_off = self.is_off(Off::SettleBeforeRead);
        let coordinator = &mut self.coordinators[c];
        if is_off {
            coordinator.was_told_undone = true;
        } else {
            coordinator.open = None;
        }
        true
    }

    fn apply(&mut self, c: usize, proposal: &Proposal) -> bool {
        let compares = (self.is_lagging || self.has_beats) && !self.is_off(Off::CommitComparesDocument);
        if self.has_beats && self.is_fenced(c) {
            return self.fence(c);
        }
        if compares && proposal.expected != self.store.document.revision {
            return false;
        }
        let tells = proposal.document.generation != self.store.document.generation;
        let before = self.store.clone();
        let mut content = self.store.content.clone();
        content.commit(proposal);
        self.store = plain(content, self.counts());
        if let (true, Some(copy)) = (self.is_off(Off::OwnWritesComeBackByWatch), &self.coordinators[c].copy) {
            let mut content = copy.content.clone();
            content.commit(proposal);
            self.coordinators[c].copy = Some(plain(content, self.counts()));
        }
        self.note_order(&before, proposal);
        for coordinator in &mut self.coordinators {
            // The compare-and-swap: what was computed against the old revision cannot be committed any more.
            if tells || !self.off.is_some_and(|off| off == Off::SwapOnRevision) {
                coordinator.pending = None;
                coordinator.open = None;
                coordinator.was_told_undone = false;
            }
        }
        for index in 0..self.nodes.len() {
            let is_known = self.store.nodes.contains_key(&self.ids[index]);
            // A node that has registered, or was taken out by name, is no longer taken for granted.
            self.nodes[index].is_expected &= !is_known;
            if !self.is_admitted(index) && !self.nodes[index].is_expected {
                self.nodes[index].is_covered = false;
                if self.nodes[index].serving == Serving::SinceEmpty {
                    self.nodes[index].serving = Serving::TakenOut;
                }
                self.ordered_on &= !(1 << index);
            }
        }
        self.note_denied(proposal);
        self.note_commit(&before, proposal.audit.action);
        self.look(c);
        true
    }

    /// Ghost: a confirmed deny holds until an operator ends it.
    fn note_denied(&mut self, proposal: &Proposal) {
        for (index, id) in self.ids.iter().enumerate() {
            match proposal.exclusions.get(id).map(|excluded| excluded.cause) {
                Some(Exclusion::Denied) => self.denied |= 1 << index,
                Some(Exclusion::Forgotten) => self.denied &= !(1 << index),
                Some(
                    Exclusion::Absent | Exclusion::LeftBehind | Exclusion::Operator { .. } | Exclusion::Moved { .. },
                )
                | None => {}
            }
        }
    }

    /// Ghost: the nodes that a command on keys, confirmed after the store went back, covers.  Commands that take nodes out,
    /// and `recover`, have rules of their own.
    fn note_order(&mut self, before: &Snapshot, proposal: &Proposal) {
        let audit = &proposal.audit;
        let is_own_rule = matches!(
            audit.action,
            Audit::Pause | Audit::Recover | Audit::Advance | Audit::Exclude | Audit::Deny | Audit::Forget
        );
        if audit.action == Audit::Recover {
            self.ordered_on = 0;
        } else if self.is_restored && matches!(audit.actor, Actor::Operator(_)) && !is_own_rule {
            for (index, id) in self.ids.iter().enumerate() {
                if before.nodes.get(id).is_some_and(NodeRecord::is_required) {
                    self.ordered_on |= 1 << index;
                }
            }
        }
    }

    /// Ghosts: what a commit promises, and what it ends.
    fn note_commit(&mut self, before: &Snapshot, action: Audit) {
        let document = self.store.document.clone();
        match action {
            Audit::Rotate => {
                if let Stage::Staged { current, .. } = &document.stage {
                    let current = number(current.fingerprint);
                    self.promised.retain(|key| *key == current);
                }
            }
            Audit::Promote => {
                if let Stage::Staged { prior_backup, .. } = &before.document.stage {
                    self.dropped_backup = *prior_backup;
                }
            }
            Audit::Pause => self.is_paused = true,
            Audit::Resume => {
                self.is_paused = false;
                self.is_aborted = false;
            }
            Audit::Abort => self.is_aborted = true,
            Audit::Deny | Audit::Forget | Audit::Revoke if self.is_restored => {
                // The node that is taken out may be the only witness of a promise that the store forgot, and the operator
                // decides that its report does not count.
                self.promised.clear();
                self.note_minted();
            }
            Audit::Recover => {
                self.is_paused = false;
                self.is_aborted = false;
            }
            Audit::Import => {
                let imported = document.keys_held();
                for (id, node) in self.ids.iter().zip(&mut self.nodes) {
                    let record = self.store.nodes.get(id);
                    let holds = |slots: Slots| imported.iter().any(|k| k.fingerprint == slots.primary.fingerprint);
                    node.is_expected = record.is_none();
                    node.is_covered |= record.is_none_or(|record| record.membership == Membership::Admitted)
                        && node.kernel.is_some_and(holds);
                }
            }
            _ => {}
        }
        let revoked: BTreeSet<u64> = document.revoked.iter().map(|key| number(key.fingerprint)).collect();
        self.promised.retain(|key| !revoked.contains(key));
        self.dropped_backup = self.dropped_backup.filter(|_| matches!(document.stage, Stage::Promoted { .. }));
    }

    pub(crate) fn restart_coordinator(&mut self, c: usize) {
        self.coordinators[c].heard = 0;
        self.coordinators[c].life = Life::default();
        self.coordinators[c].looked = None;
        self.coordinators[c].pending = None;
        self.coordinators[c].copy = None;
        self.coordinators[c].holds_name = false;
        self.coordinators[c].last = None;
        self.coordinators[c].unwritten.clear();
        // Connections end with the process: what is under way to it is lost.
        self.requests.retain(|request| request.to != c);
    }

    /// The coordinators are stopped for it, as the manual asks: each begins a new life, and drops its connections.
    fn restore(&mut self) -> bool {
        self.budget.restores -= 1;
        for c in 0..self.coordinators.len() {
            self.restart_coordinator(c);
        }
        self.go_back()
    }

    /// The store shows less than the coordinators have seen, and they run on: what is under way to nodes and from them
    /// arrives, but no transaction survives the store that it was begun in.
    fn restore_live(&mut self) -> bool {
        self.budget.live_restores -= 1;
        for coordinator in &mut self.coordinators {
            coordinator.pending = None;
        }
        self.go_back()
    }

    pub(crate) fn go_back(&mut self) -> bool {
        let Some(backup) = self.backup.take() else { return false };
        self.store = backup;
        self.is_paused = self.store.document.paused.is_some();
        self.is_aborted = false;
        let is_denied = |id| self.store.nodes.get(id).is_some_and(NodeRecord::is_denied);
        self.denied = self.ids.iter().enumerate().filter(|(_, id)| is_denied(id)).map(|(index, _)| 1 << index).sum();
        self.ordered_on = 0;
        for answer in &mut self.answers {
            answer.is_of_lost_store = true;
        }
        for index in 0..self.nodes.len() {
            self.nodes[index].is_covered &= self.is_admitted(index);
        }
        // The only witness of a promise may have been lost with its disk, and the store forgot: what is left is what
        // the covered nodes mint now.
        self.is_restored = true;
        self.promised.clear();
        self.note_minted();
        true
    }

    fn end_exclusion(&mut self, n: usize) -> bool {
        let id = self.ids[n].clone();
        let mut parts = self.store.content.parts().clone();
        if parts.exclusions.remove(&id).is_none() {
            return false;
        }
        self.store = plain(PoolContent::new(self.store.document.clone(), parts), self.counts());
        self.nodes[n].is_covered = self.nodes[n].kernel.is_some();
        true
    }
}
