//! Waves that are watched (docs/protocol.md#rule-12): the health gate does not pass on counters from before the end of what it
//! watched, of the nodes that its coordinator holds.
//!
//! Here the time of one observation passes, at any moment, on a coordinator's own clock; cookies are not counted.

use std::time::Duration;

use tfo_engine::rollout::document::{Actor, Proposal, Snapshot, Stage};
use tfo_engine::rollout::parts::PoolContent;
use tfo_engine::rollout::record::NodeRecord;
use tfo_engine::rollout::wave::is_opened;
use tfo_model::fleet::Action;

use super::event::Event;
use super::holds::{Pinned, holds, told_apart};
use super::stored::{Counts, plain};
use super::world::{Budget, World};

/// How long a wave is watched: as much as counts between two looks.
const WATCH: Duration = Duration::from_secs(10);

/// Two coordinators with a node at each, of which a leads in every promotion.
pub(super) fn watched(budget: Budget) -> World {
    let mut world = World::steady(2, 0, &["a"]);
    let mut document = world.store.document.clone();
    document.policy.health_window_secs = WATCH.as_secs();
    world.store = plain(PoolContent::new(document, world.store.content.parts().clone()), Counts::default());
    world.budget = Budget { stages: 1, ..budget };
    world.nodes[1].coordinator = 1;
    world.is_watched = true;
    world.counted()
}

fn is_watchable(snapshot: &Snapshot) -> bool {
    matches!(&snapshot.document.stage, Stage::Promoted { wave, .. } if !wave.is_last())
}

impl World {
    /// Whether the coordinator still watches the present wave.
    pub(super) fn watches(&self, c: usize) -> bool {
        self.is_watched && is_watchable(&self.store) && !self.has_watched(c)
    }

    /// Whether it has watched the wave that it knows to the end.
    pub(super) fn has_watched(&self, c: usize) -> bool {
        self.coordinators[c].life.presence().wave_secs >= WATCH.as_secs()
    }

    /// The observation of the present wave comes to its end.
    pub(super) fn watch(&mut self, c: usize) -> bool {
        self.look(c);
        if !self.watches(c) {
            return false;
        }
        let store = self.owned(c);
        let coordinator = &mut self.coordinators[c];
        coordinator.life.observe(WATCH, &store);
        coordinator.uncounted = coordinator.holding;
        true
    }

    /// The coordinator holds the node's request.
    pub(super) fn holds_request(&mut self, c: usize, n: usize) {
        let coordinator = &mut self.coordinators[c];
        coordinator.life.hold(&self.ids[n]);
        coordinator.holding |= 1 << n;
    }

    /// A sync of the node is recorded; with the first one of a session, another hold than before begins.
    pub(super) fn note_counted(&mut self, n: usize, is_first: bool) {
        for coordinator in &mut self.coordinators {
            coordinator.uncounted &= !(1 << n);
            if is_first {
                coordinator.holding &= !(1 << n);
            }
        }
    }

    /// A coordinator's commit: whether it opens a wave without the latest counters of its nodes.
    pub(super) fn note_opened(&mut self, c: usize, before: &Snapshot, proposal: &Proposal) {
        let is_by_itself = proposal.audit.actor == Actor::Engine && proposal.audit.action == Action::OpenWave;
        if let (true, Stage::Promoted { next, wave, .. }) = (is_by_itself, &before.document.stage) {
            let is_missed = |n: &usize| {
                let id = &self.ids[*n];
                self.coordinators[c].uncounted & (1 << *n) != 0
                    && before.nodes.get(id).is_some_and(NodeRecord::is_required)
                    && is_opened(&before.document, next.epoch, wave, id)
            };
            self.is_opened_unheard |= (0..self.ids.len()).any(|n| is_missed(&n));
        }
        if before.document.stage != proposal.document.stage {
            self.coordinators.iter_mut().for_each(|coordinator| coordinator.uncounted = 0);
        }
    }
}

/// The same, promoted by the first coordinator: what follows is near.
fn promoted(budget: Budget) -> World {
    let sync = |node| Event::Sync { node, exclusion_ended: false };
    // Node b was at the first coordinator before: the other one closes that session.
    let ack = |node| [sync(node), Event::Take(0), sync(node)];
    let acks = ack(0).into_iter().chain([sync(1), Event::Take(0)]).chain(ack(1));
    let begin = [Event::Tick(0)].into_iter().chain(acks).chain([Event::Tick(0)]);
    begin
        .fold(watched(budget), |world, event| world.after(event).unwrap_or_else(|| panic!("{event:?} does not happen")))
}

#[test]
fn a_gate_hears_the_nodes_of_its_wave() {
    let budget = Budget { moves: 1, coordinator_restarts: 1, slow_commits: 1, ..Budget::default() };
    let pinned = Pinned::Bounded(tfo_testbed::by_size(5_000, 20_000, 100_000));
    holds("watched waves", promoted(budget), &told_apart(2), pinned);
}
