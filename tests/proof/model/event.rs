//! What can happen next in a world.

use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::document::Snapshot;
use tfo_engine::rollout::record::{Exclusion, Membership};

use super::liar::Lie;
use super::rules::Off;
use super::world::{Op, World};

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
    /// A coordinator has watched the present wave to the end.
    Watch(u8),
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

impl World {
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        self.node_events(&mut events);
        for (index, request) in self.requests.iter().enumerate() {
            let request_index = narrow(index);
            events.push(Event::Deliver { request: request_index, exclusion_ended: false });
            if self.is_excluded_for_a_time(request.node) {
                events.push(Event::Deliver { request: request_index, exclusion_ended: true });
            }
        }
        for index in 0..self.answers.len() {
            let index = narrow(index);
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
        events.extend((0..self.late_writes.len()).map(|index| Event::WriteLate(narrow(index))));
        for (index, coordinator) in self.coordinators.iter().enumerate() {
            self.coordinator_events(narrow(index), coordinator.pending.is_some(), &mut events);
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
    pub(super) fn saw_more(&self, c: usize, backup: &Snapshot) -> bool {
        let Some(looked) = &self.coordinators[c].looked else { return false };
        let syncs = |snapshot: &Snapshot, id| snapshot.nodes.get(id).map_or(0, |record| record.syncs);
        looked.document.revision > backup.document.revision
            || self.ids.iter().any(|id| syncs(looked, id) > syncs(backup, id))
    }

    pub(super) fn is_excluded_for_a_time(&self, n: usize) -> bool {
        let standing = self.store.nodes.get(&self.ids[n]).map(|record| record.membership);
        matches!(standing, Some(Membership::Excluded(Exclusion::Operator { .. })))
    }

    pub(super) fn node_events(&self, events: &mut Vec<Event>) {
        for index in 0..self.nodes.len() {
            let n = narrow(index);
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

    pub(super) fn coordinator_events(&self, c: u8, has_pending: bool, events: &mut Vec<Event>) {
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
                events.extend((0..self.nodes.len()).map(|n| Event::Absent { coordinator: c, node: narrow(n) }));
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
        let catches_up = self.has_beats && self.is_lagging;
        if self.is_counted && !catches_up && (!self.has_beats || self.coordinators[usize::from(c)].copy.is_some()) {
            events.push(Event::Look(c));
        }
        if self.watches(usize::from(c)) {
            events.push(Event::Watch(c));
        }
        let coordinator = &self.coordinators[usize::from(c)];
        match (&coordinator.copy, &coordinator.next) {
            (None, _) if self.budget.lags > 0 => events.push(Event::Stall(c)),
            (None, _) => {}
            (Some(copy), None) if self.is_lagging && self.is_behind(copy) => {
                events.extend([Event::Mark(c), Event::CatchUp(c)]);
            }
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
}

pub(crate) fn narrow(index: usize) -> u8 {
    u8::try_from(index).unwrap()
}
