//! Commits: at once, late, or with an open outcome.

use tfo_engine::rollout::document::{Actor, Document, Proposal};
use tfo_engine::rollout::history::{self, Made};

use super::rules::Off;
use super::stored::plain;
use super::world::{Serving, World};

impl World {
    pub(super) fn commit(&mut self, c: usize) -> bool {
        let Some(proposal) = self.coordinators[c].pending.take() else { return false };
        self.coordinators[c].hesitates = false;
        self.apply(c, &proposal)
    }

    /// An open commit takes effect after all.
    pub(super) fn land(&mut self, c: usize) -> bool {
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
    pub(super) fn settle(&mut self, c: usize) -> bool {
        let is_off = self.is_off(Off::SettleBeforeRead);
        let coordinator = &mut self.coordinators[c];
        if is_off {
            coordinator.was_told_undone = true;
        } else {
            coordinator.open = None;
        }
        true
    }

    pub(super) fn apply(&mut self, c: usize, proposal: &Proposal) -> bool {
        let compares = (self.is_lagging || self.has_beats) && !self.is_off(Off::CommitComparesDocument);
        if self.has_beats && self.is_fenced(c) {
            return self.fence(c);
        }
        if compares && proposal.expected != self.store.document.revision {
            return false;
        }
        let tells = proposal.document.generation != self.store.document.generation;
        let before = self.store.clone();
        self.judge(&before.document, proposal);
        let mut content = self.store.content.clone();
        content.commit(proposal);
        self.store = plain(content, self.counts());
        if let (true, Some(copy)) = (self.is_off(Off::OwnWritesComeBackByWatch), &self.coordinators[c].copy) {
            let mut content = copy.content.clone();
            content.commit(proposal);
            self.coordinators[c].copy = Some(plain(content, self.counts()));
            self.look_at_copy(c);
        }
        self.note_order(&before, proposal);
        self.note_opened(c, &before, proposal);
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
        if !(self.is_lagging && self.coordinators[c].copy.is_some()) {
            self.look(c);
        }
        true
    }

    /// What the replay of an audit log would say of this step: nothing, as long as every rule is kept.
    pub(super) fn judge(&self, before: &Document, proposal: &Proposal) {
        if self.off.is_none() && proposal.expected == before.revision {
            let made = (Made::of(before), Made::of(&proposal.document));
            let judged = history::judge((before.generation, &made.0), (&proposal.audit, &made.1));
            assert!(judged.is_ok(), "{judged:?}: {:?} makes {:?} of {:?}", proposal.audit, made.1, made.0);
        }
    }
}
