//! Coordinators that start again, and stores that go back.

use tfo_engine::rollout::parts::PoolContent;
use tfo_engine::rollout::presence::Life;
use tfo_engine::rollout::record::NodeRecord;

use super::stored::plain;
use super::world::World;

impl World {
    pub(crate) fn restart_coordinator(&mut self, c: usize) {
        self.coordinators[c].heard = 0;
        self.coordinators[c].life = Life::default();
        self.coordinators[c].looked = None;
        self.coordinators[c].pending = None;
        (self.coordinators[c].copy, self.coordinators[c].next) = (None, None);
        self.coordinators[c].holds_name = false;
        self.coordinators[c].last = None;
        self.coordinators[c].unwritten.clear();
        (self.coordinators[c].holding, self.coordinators[c].uncounted) = (0, 0);
        // Connections end with the process: what is under way to it is lost.
        self.requests.retain(|request| request.to != c);
    }

    /// The coordinators are stopped for it, as the manual asks: each begins a new life, and drops its connections.
    pub(super) fn restore(&mut self) -> bool {
        self.budget.restores -= 1;
        for c in 0..self.coordinators.len() {
            self.restart_coordinator(c);
        }
        self.go_back()
    }

    /// The store shows less than the coordinators have seen, and they run on: what is under way to nodes and from them
    /// arrives, but no transaction survives the store that it was begun in.
    pub(super) fn restore_live(&mut self) -> bool {
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

    pub(super) fn end_exclusion(&mut self, n: usize) -> bool {
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
