//! Coordinators and requests of nodes: recorded, stored, and answered, each by the engine's own code.

use tfo_engine::rollout::parts::{Ack, Entry, Parts, PoolContent, Writes};
use tfo_engine::rollout::record::{Membership, NodeRecord, SlotCount};
use tfo_engine::rollout::sync::{Answer as Reply_, PoolView, Recording, SyncRefused, record};
use tfo_engine::rollout::wave;
use tfo_model::time::UnixTime;

use super::beats::Recorded;
use super::rules::Off;
use super::step::AFTER;
use super::stored::plain;
use super::world::{Answer, Reply, Request, World, coordinator_name};

impl World {
    pub(super) fn deliver(&mut self, request: &Request, wall: UnixTime) -> bool {
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

    pub(crate) fn answer(&mut self, request: &Request) {
        let c = request.to;
        if self.is_watched {
            // What it holds is of a session that it knows.
            self.look(c);
        }
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
        let answer = PoolView::of(&view, &presence).answer(&view, &id, &request.sync);
        if self.has_beats && answer == Ok(Reply_::Nothing) {
            // Its request is held: that it is heard by that must not make a node seen that was not heard in this life.
            self.coordinators[c].life.hold(&id);
        }
        if self.is_watched && answer == Ok(Reply_::Nothing) {
            self.holds_request(c, request.node);
        }
        match answer {
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

    pub(super) fn reply(&mut self, request: &Request, reply: Reply) {
        let answer = Answer { node: request.node, ask: request.ask, is_of_lost_store: false, reply };
        let is_wanted = self.is_outstanding(answer.node, &answer.ask) || self.is_off(Off::OwnAnswerOnly);
        if is_wanted && !self.answers.contains(&answer) {
            self.answers.push(answer);
        }
    }

    /// A coordinator writes into its roster.
    pub(crate) fn store_sync(&mut self, c: usize, n: usize, recording: Recording) {
        if recording != Recording::Stale {
            self.note_counted(n, matches!(recording, Recording::First(_)));
        }
        let (id, mut writes) = (self.ids[n].clone(), Writes::default());
        match recording {
            Recording::First(entry) => drop(writes.entries.insert(id, entry.into())),
            Recording::Later(later) => drop(writes.acks.insert(id, later.into())),
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
            self.look_at_copy(c);
        }
    }

    /// A node's record as a coordinator knows it: from its copy, and from its own roster, which it has always before it.
    pub(super) fn known_to(&self, c: usize, n: usize) -> Option<NodeRecord> {
        self.parts_known_to(c).record(&self.ids[n])
    }

    pub(crate) fn parts_known_to(&self, c: usize) -> Parts {
        let by = self.name(c);
        let mut parts = self.seen_by(c).content.parts().clone();
        if let Some(own) = self.store.content.parts().rosters.get(&by) {
            parts.rosters.insert(by, own.clone());
        }
        parts
    }

    pub(super) fn write_late(&mut self, index: usize) -> bool {
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
}
