//! What can happen next, and what it does: every coordinator's decision is the engine's own.

use std::collections::BTreeSet;
use std::rc::Rc;

use tfo_fleet::engine::convergence::{Barrier, Presence, conflict, recoverable};
use tfo_fleet::engine::fence::{Verdict, judge};
use tfo_fleet::engine::rollout::document::{Action as Audit, Instruction, PoolKey, Proposal, Slots, Snapshot, Stage};
use tfo_fleet::engine::rollout::input::{Command, Force, Input, Now, Order, RevokeKeys, Step};
use tfo_fleet::engine::rollout::record::{Exclusion, Fence, Installed, NodeRecord, SlotCount, Standing};
use tfo_fleet::engine::rollout::sync::{Answer as Reply_, Recording, SyncRefused, answer, record};
use tfo_fleet::engine::rollout::{handle, wave};
use tfo_fleet::model::count::Generation;
use tfo_fleet::model::key::PairPrint;
use tfo_fleet::model::time::UnixTime;

use super::world::{
    Answer, Off, Op, Reply, Request, World, fingerprint, is_held_for_nodes, number, plain, pool_id, pool_key,
};

/// End of every operator's exclusion, and a clock on either side of it.
const EXCLUSION_ENDS: UnixTime = UnixTime::from_secs(1);
const BEFORE: UnixTime = UnixTime::from_secs(0);
const AFTER: UnixTime = UnixTime::from_secs(1_000_000_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A node sends a sync, and a coordinator gets it.  What the node sent before is given up, unless it said the same.
    ///
    /// A request that is delivered later says what a later one would say, as long as it is outstanding.
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
    /// The file cannot be written, and the agent goes on: only with the rule off.
    FileFails(u8),
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
    /// A late admission is stored: only with the rule off.
    WriteLate(u8),
    /// A coordinator remembers the store: only with a rule off.
    Remember(u8),
    /// An exclusion ends without a sync: only with the rule off.
    EndExclusion(u8),
}

fn small(index: usize) -> u8 {
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
            if self.is_off(Off::AckNeedsDurableFile) {
                events.push(Event::FileFails(index));
            }
        }
        events.extend((0..self.late_writes.len()).map(|index| Event::WriteLate(small(index))));
        for (index, coordinator) in self.coordinators.iter().enumerate() {
            self.coordinator_events(small(index), coordinator.pending.is_some(), &mut events);
        }
        if self.budget.restores > 0 {
            if self.backup.is_none() {
                events.push(Event::TakeBackup);
            } else {
                events.push(Event::Restore);
            }
        }
        events
    }

    fn is_excluded_for_a_time(&self, n: usize) -> bool {
        let standing = self.store.nodes.get(&self.ids[n]).map(|record| record.standing);
        matches!(standing, Some(Standing::Excluded(Exclusion::Operator { .. })))
    }

    fn node_events(&self, events: &mut Vec<Event>) {
        for index in 0..self.nodes.len() {
            let n = small(index);
            let id = &self.ids[index];
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
            if self.budget.reboots > 0 {
                events.push(Event::Reboot(n));
            }
            if self.budget.images > 0 {
                events.push(Event::Reimage(n));
            }
            if self.budget.moves > 0 && self.coordinators.len() > 1 {
                events.push(Event::MoveToOther(n));
            }
            let is_excluded = self.store.nodes.get(id).is_some_and(|r| r.standing != Standing::Admitted);
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
            if conflict(&self.store).is_some() {
                events.push(Event::Order(c, Op::Recover));
            }
        }
        if self.budget.coordinator_restarts > 0 {
            events.push(Event::RestartCoordinator(c));
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
            Event::Hesitate(c) => {
                next.budget.slow_commits -= 1;
                next.coordinators[usize::from(c)].hesitates = true;
                true
            }
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
                next.nodes[usize::from(n)].coordinator ^= 1;
                next.restart(usize::from(n))
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
            Event::WriteLate(index) => next.write_late(usize::from(index)),
            Event::Remember(c) => {
                next.coordinators[usize::from(c)].cache = Some(self.store.clone());
                true
            }
            Event::EndExclusion(n) => next.end_exclusion(usize::from(n)),
        };
        happened.then_some(next)
    }

    // ---- nodes ----

    fn sync(&mut self, n: usize, wall: UnixTime) -> bool {
        let sync = self.sync_of(n);
        let is_repetition = self.requests.iter().any(|r| r.node == n && r.is_current && r.sync == sync);
        if !is_repetition {
            self.supersede(n);
        }
        self.deliver(&Request { node: n, to: self.nodes[n].coordinator, is_current: true, sync }, wall)
    }

    fn send(&mut self, n: usize) -> bool {
        self.supersede(n);
        let sync = self.sync_of(n);
        self.requests.push(Request { node: n, to: self.nodes[n].coordinator, is_current: true, sync });
        true
    }

    /// What was outstanding is so no more: its request may still arrive, its answer is refused by the agent.
    fn supersede(&mut self, n: usize) {
        for request in self.requests.iter_mut().filter(|request| request.node == n) {
            request.is_current = false;
        }
        for answer in self.answers.iter_mut().filter(|answer| answer.node == n) {
            answer.is_current = false;
        }
        if !self.is_off(Off::OwnAnswerOnly) {
            self.answers.retain(|answer| answer.node != n);
        }
        while self.answers.iter().filter(|answer| answer.node == n).count() > 1 {
            let newest = self.answers.iter().rposition(|answer| answer.node == n).unwrap();
            self.answers.remove(newest);
        }
    }

    fn take(&mut self, index: usize) -> bool {
        let taken = self.answers.remove(index);
        let n = taken.node;
        if !(taken.is_current || self.is_off(Off::OwnAnswerOnly)) {
            return false;
        }
        self.installing = None;
        if !self.is_off(Off::OwnAnswerOnly) {
            self.answers.retain(|answer| answer.node != n);
        }
        let node = &mut self.nodes[n];
        match taken.reply {
            Reply::SessionClosed(open) => {
                node.session = open.max(node.session) + 1;
                node.seen = Generation::ZERO;
                self.supersede(n);
            }
            Reply::Tell(told) => {
                let fence = if self.off == Some(Off::FenceInFile) { None } else { node.file.as_deref() };
                match judge(fence, &self.store.document.pool_id, &told) {
                    Ok(Verdict::Install | Verdict::Same) => self.installing = Some((n, told)),
                    Err(_) => {}
                }
                node.seen = node.seen.max(told.generation);
            }
        }
        true
    }

    fn write_file(&mut self) -> bool {
        if let Some((n, told)) = self.installing {
            let node = &mut self.nodes[n];
            node.file = Some(Rc::new(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots }));
            node.claim = None;
        }
        true
    }

    fn write_kernel(&mut self) -> bool {
        if let Some((n, told)) = self.installing.take() {
            self.load(n, told);
        }
        true
    }

    fn crash_in_install(&mut self) -> bool {
        match self.installing.take() {
            Some((n, _)) => self.restart(n),
            None => false,
        }
    }

    fn file_fails(&mut self) -> bool {
        let Some((n, told)) = self.installing.take() else { return false };
        let fence = Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots };
        self.nodes[n].claim = Some(Rc::new(fence));
        self.load(n, told);
        true
    }

    fn load(&mut self, n: usize, told: Instruction) {
        let is_admitted = self.is_admitted(n);
        let one_slot_counts = self.is_off(Off::OneSlotIsNeverRequired);
        let node = &mut self.nodes[n];
        let backup = if node.slot_count == SlotCount::One { None } else { told.slots.backup };
        node.kernel = Some(Slots { primary: told.slots.primary, backup });
        node.is_covered |= is_admitted && (node.slot_count == SlotCount::Two || one_slot_counts);
        self.note_minted();
    }

    fn is_admitted(&self, n: usize) -> bool {
        self.store.nodes.get(&self.ids[n]).is_some_and(|record| record.standing == Standing::Admitted)
    }

    fn restart(&mut self, n: usize) -> bool {
        self.nodes[n].claim = None;
        self.nodes[n].session += 1;
        self.nodes[n].seen = Generation::ZERO;
        self.supersede(n);
        true
    }

    fn reboot(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        node.kernel = node.file.as_ref().map(|fence| match node.slot_count {
            SlotCount::Two => fence.slots,
            SlotCount::One => Slots { backup: None, ..fence.slots },
        });
        node.is_covered &= node.kernel.is_some();
        self.restart(n);
        self.note_minted();
        true
    }

    /// Everything on the node is new, its clock may be behind: the session's ordinal starts anew.
    fn reimage(&mut self, n: usize) -> bool {
        self.restart(n);
        let node = &mut self.nodes[n];
        node.file = None;
        node.kernel = None;
        node.session = 1;
        node.image += 1;
        node.is_covered = false;
        node.is_expected = false;
        if self.is_restored {
            // It may have been the only witness of a promise that the store forgot.
            self.promised.clear();
            self.note_minted();
        }
        true
    }

    /// Ghost: covered nodes mint; who minted is promised to be accepted.
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
        let before = self.store.nodes.get(&id).cloned();
        let was_excluded = before.as_ref().is_some_and(|record| record.standing != Standing::Admitted);
        let answered_first = self.is_off(Off::AdmissionBeforeAnswer) && before.is_none()
            || self.is_off(Off::ReturnerAdmittedFirst) && was_excluded;
        if answered_first {
            if self.late_writes.iter().any(|write| write.0 == n) {
                return false;
            }
            self.late_writes.push((n, request.sync.clone()));
            if let Some(told) = wave::told(&self.store.document, &id, self.nodes[n].slot_count) {
                self.reply(request, Reply::Tell(told));
            }
            return true;
        }
        let cache = self.coordinators[request.to].cache.clone();
        if let (Some(cache), true) = (&cache, self.is_off(Off::FenceInFile)) {
            // Cut from its store: it records nothing, and answers what it remembers.
            if let Some(told) = wave::told(&cache.document, &id, self.nodes[n].slot_count) {
                self.reply(request, Reply::Tell(told));
            }
            return true;
        }
        match record(&self.store.document, before.as_ref(), &id, &request.sync, wall) {
            Ok(Recording::First(change) | Recording::Later(change)) => {
                self.store_record(n, change.next);
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

    fn answer(&mut self, request: &Request) {
        let c = request.to;
        let id = self.ids[request.node].clone();
        let presence = self.presence(c, None, 0);
        let view = self.view(None);
        if let (Some(cache), true) = (&self.coordinators[c].cache, self.is_off(Off::AnswerFromStore)) {
            if let Some(told) = wave::told(&cache.document, &id, SlotCount::Two) {
                self.reply(request, Reply::Tell(told));
            }
            return;
        }
        let ungated = self.is_off(Off::NobodyIsToldBeforeAllAreHeard) || self.is_off(Off::CommandsWaitForNodes);
        let presence = if ungated { Presence::default() } else { presence };
        match answer(&view, &presence, &id, &request.sync) {
            Ok(Reply_::Tell(told)) => self.reply(request, Reply::Tell(told)),
            Ok(Reply_::Nothing) => self.confirm(request, &presence),
            Err(SyncRefused::SessionClosed { ordinal }) => self.reply(request, Reply::SessionClosed(ordinal)),
            Err(_) => {}
        }
    }

    /// Ghost: a node that holds what it is told is covered when the coordinator has confirmed it.
    fn confirm(&mut self, request: &Request, presence: &Presence) {
        let n = request.node;
        let told = wave::told(&self.store.document, &self.ids[n], request.sync.report.slot_count);
        let Some(told) = told else { return };
        let holds = self.nodes[n].kernel == Some(told.slots) && self.nodes[n].slot_count == SlotCount::Two;
        let is_heard = presence.unheard_required(&self.store).is_empty();
        if request.is_current
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
        let answer = Answer { node: request.node, is_current: request.is_current, reply };
        let is_wanted = answer.is_current || self.is_off(Off::OwnAnswerOnly);
        if is_wanted && !self.answers.contains(&answer) {
            self.answers.push(answer);
        }
    }

    fn store_record(&mut self, n: usize, next: Option<NodeRecord>) {
        let id = self.ids[n].clone();
        let mut store = (*self.store).clone();
        match next {
            Some(next) => store.nodes.insert(id.clone(), next),
            None => store.nodes.remove(&id),
        };
        self.store = plain(store);
        // A proposal that changes this record was computed against an older version of it.
        for coordinator in &mut self.coordinators {
            let is_against = |proposal: &Rc<Proposal>| proposal.records.iter().any(|change| change.node == id);
            if coordinator.pending.as_ref().is_some_and(is_against) {
                coordinator.pending = None;
            }
        }
    }

    fn write_late(&mut self, index: usize) -> bool {
        let (n, sync) = self.late_writes.remove(index);
        let id = self.ids[n].clone();
        let before = self.store.nodes.get(&id).cloned();
        let recorded = record(&self.store.document, before.as_ref(), &id, &sync, AFTER);
        let next = match (recorded, before) {
            (Ok(Recording::First(change) | Recording::Later(change)), _) => change.next,
            (_, Some(before)) => Some(NodeRecord {
                standing: Standing::Admitted,
                session: Some(sync.session),
                report: Some(sync.report.clone()),
                ..before
            }),
            (_, None) => None,
        };
        self.store_record(n, next);
        self.coordinators.iter_mut().for_each(|c| c.heard |= 1 << n);
        true
    }

    // ---- coordinators: decisions ----

    pub(crate) fn presence(&self, c: usize, absent: Option<usize>, served_secs: u64) -> Presence {
        let heard = self.coordinators[c].heard;
        let is_unheard = |index: &usize| heard & (1 << index) == 0 && !self.is_off(Off::StoredAcksDoNotCount);
        Presence {
            unheard: (0..self.nodes.len()).filter(is_unheard).map(|index| self.ids[index].clone()).collect(),
            absent: absent.into_iter().map(|index| self.ids[index].clone()).collect(),
            phase_secs: served_secs,
            wave_secs: 1_000_000,
        }
    }

    /// The snapshot as a coordinator sees it: as it is, unless a rule is off.
    fn view(&self, c: Option<usize>) -> Rc<Snapshot> {
        if self.off.is_none() {
            return self.store.clone();
        }
        let mut view = (*self.store).clone();
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
            if no_barrier && let Some(told) = wave::told(&view.document, id, SlotCount::Two) {
                report.installed = Installed::ReadBack;
                report.fence = Some(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots });
            }
            if self.is_off(Off::FrozenAfterRestore) {
                report.seen = Generation::ZERO;
            }
            if self.is_off(Off::FrozenAfterRestore)
                && report.fence.as_ref().is_some_and(|fence| fence.generation >= view.document.generation)
                && !wave::told(&view.document, id, SlotCount::Two)
                    .is_some_and(|told| report.acknowledges(&pool_id(), &told))
            {
                report.fence = None;
            }
            if self.is_off(Off::OneSlotIsNeverRequired) {
                report.slot_count = SlotCount::Two;
            }
        }
        if self.is_off(Off::ExpectedNodesFirst) && is_held_for_nodes(&view) {
            view.document.hold = None;
        }
        Rc::new(view)
    }

    fn decide(&mut self, c: usize, input: &Input, absent: Option<usize>, served_secs: u64) -> bool {
        let view = self.view(Some(c));
        let mut presence = self.presence(c, absent, served_secs);
        if self.is_off(Off::CommandsWaitForNodes) && *input != Input::Tick {
            presence = Presence::default();
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

    /// What the view hid is put back, and what a rule that is off does to the proposal is done.
    fn undo_view(&self, proposal: &mut Proposal) {
        for change in &mut proposal.records {
            if let (Some(next), Some(stored)) = (&mut change.next, self.store.nodes.get(&change.node)) {
                next.report = stored.report.clone();
            }
        }
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
        let held: Vec<_> = self.store.document.keys_held().into_iter().collect();
        let node = |n: u8| self.ids.get(usize::from(n)).cloned();
        let command = match op {
            Op::Pause => Command::Pause,
            Op::Resume => Command::Resume,
            Op::Abort => Command::Abort { force: Force::No },
            Op::ForceAbort => Command::Abort { force: Force::Yes },
            Op::RevokeAll => Command::Revoke { keys: RevokeKeys::AllTold, deny: BTreeSet::new() },
            Op::RevokeHeld(index) => match held.get(usize::from(index)) {
                Some(key) => Command::Revoke { keys: RevokeKeys::Epochs([key.epoch].into()), deny: BTreeSet::new() },
                None => return false,
            },
            Op::Exclude(n) => match node(n) {
                Some(node) => Command::Exclude { node, until: EXCLUSION_ENDS },
                None => return false,
            },
            Op::Forget(n) => match node(n) {
                Some(node) => Command::Forget { node },
                None => return false,
            },
            Op::ForgetWhileFrozen(_) if conflict(&self.store).is_none() => return false,
            Op::ForgetWhileFrozen(n) => match node(n) {
                Some(node) => Command::Forget { node },
                None => return false,
            },
            Op::Advance => {
                let leave = Barrier::of_opened(&self.store).waiting_for.into_iter().collect();
                Command::Advance { generation: self.store.document.generation, leave }
            }
            Op::Recover => match self.highest_reported() {
                Some(slots) => Command::Recover { slots },
                None => return false,
            },
            Op::Import => {
                Command::Import { keys: PairPrint { primary: fingerprint(1), backup: None }, expect: Self::expect() }
            }
            Op::ImportIntoRunning => return self.import_into_running(),
        };
        let order = Order { operator: "ops".parse().unwrap(), reason: String::new(), if_revision: None, command };
        self.decide(c, &Input::Order(order), None, 0)
    }

    fn highest_reported(&self) -> Option<Slots> {
        recoverable(&self.store).first().copied()
    }

    fn import_into_running(&mut self) -> bool {
        if !self.is_off(Off::ImportOnlyIntoEmpty) || !matches!(self.store.document.stage, Stage::Steady { .. }) {
            return false;
        }
        let mut store = (*self.store).clone();
        store.document.stage = Stage::Steady { current: pool_key(99), backup: None };
        store.document.generation = store.document.generation.next().unwrap();
        self.store = Rc::new(store);
        true
    }

    fn commit(&mut self, c: usize) -> bool {
        let Some(proposal) = self.coordinators[c].pending.take() else { return false };
        self.coordinators[c].hesitates = false;
        let tells = proposal.document.generation != self.store.document.generation;
        let before = self.store.clone();
        let mut store = (*self.store).clone();
        store.document = proposal.document.clone();
        for change in &proposal.records {
            match &change.next {
                Some(next) => store.nodes.insert(change.node.clone(), next.clone()),
                None => store.nodes.remove(&change.node),
            };
        }
        self.store = plain(store);
        for coordinator in &mut self.coordinators {
            // The compare-and-swap: what was computed against the old revision cannot be committed any more.
            if tells || !self.off.is_some_and(|off| off == Off::SwapOnRevision) {
                coordinator.pending = None;
            }
        }
        for index in 0..self.nodes.len() {
            if !self.is_admitted(index) && !self.nodes[index].is_expected {
                self.nodes[index].is_covered = false;
            }
        }
        self.note_commit(&before, proposal.audit.action);
        true
    }

    /// Ghosts: what a commit promises, and what it ends.
    fn note_commit(&mut self, before: &Snapshot, action: Audit) {
        let document = self.store.document.clone();
        match action {
            Audit::Stage => {
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
            Audit::Recover => {
                self.is_paused = false;
                self.is_aborted = false;
            }
            Audit::Import => {
                let imported = document.keys_held();
                for node in &mut self.nodes {
                    node.is_expected = true;
                    node.is_covered |= node
                        .kernel
                        .is_some_and(|slots| imported.iter().any(|k| k.fingerprint == slots.primary.fingerprint));
                }
            }
            _ => {}
        }
        let revoked: BTreeSet<u64> = document.revoked.iter().map(|key| number(key.fingerprint)).collect();
        self.promised.retain(|key| !revoked.contains(key));
        self.dropped_backup = self.dropped_backup.filter(|_| matches!(document.stage, Stage::Promoted { .. }));
    }

    fn restart_coordinator(&mut self, c: usize) {
        self.coordinators[c].heard = 0;
        self.coordinators[c].pending = None;
        // Connections end with the process: what is under way to it is lost.
        self.requests.retain(|request| request.to != c);
    }

    /// The store shows less than the coordinators have seen: each begins a new life, and drops its connections.
    fn restore(&mut self) -> bool {
        let Some(backup) = self.backup.take() else { return false };
        self.budget.restores -= 1;
        self.store = backup;
        self.is_paused = self.store.document.paused.is_some();
        self.is_aborted = false;
        for c in 0..self.coordinators.len() {
            self.restart_coordinator(c);
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
        let Some(before) = self.store.nodes.get(&id).cloned() else { return false };
        self.store_record(n, Some(NodeRecord { standing: Standing::Admitted, ..before }));
        self.nodes[n].is_covered = self.nodes[n].kernel.is_some();
        true
    }
}
