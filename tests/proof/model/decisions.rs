//! Coordinators' decisions, by the engine's own code: what they have seen, and what a rule that is off makes of it.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::document::{Hold, Proposal, Snapshot, Stage};
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Step};
use tfo_engine::rollout::presence::Presence;
use tfo_engine::rollout::record::{Installed, SlotCount};
use tfo_engine::rollout::slots::Fence;
use tfo_engine::rollout::{handle, wave};
use tfo_model::count::{Generation, Revision};
use tfo_model::fleet::Action as Audit;

use super::rules::Off;
use super::step::AFTER;
use super::stored::Stored;
use super::world::{World, fingerprint, pool_id};

impl World {
    pub(crate) fn presence(&self, c: usize, absent: Option<usize>, served_secs: u64) -> Presence {
        let absent = absent.into_iter().map(|index| self.ids[index].clone()).collect();
        let heard = self.coordinators[c].heard;
        let is_heard = |index: &usize| heard & (1 << index) != 0;
        let mut presence = match &self.coordinators[c].looked {
            _ if self.is_off(Off::StoredAcksDoNotCount) || self.is_off(Off::LifeEndsWithItsStore) => self.everybody(),
            Some(_) if self.is_counted => self.coordinators[c].life.presence().clone(),
            Some(_) | None => {
                let heard = (0..self.nodes.len()).filter(is_heard).map(|index| self.ids[index].clone());
                Presence { seen: heard.collect(), ..Presence::default() }
            }
        };
        if self.is_off(Off::PresenceKnowsItsRevision) {
            presence.revision = Revision::ZERO;
        }
        if self.is_off(Off::GateHearsCounters) {
            presence.unobserved.clear();
        }
        let wave_secs = if self.is_watched { presence.wave_secs } else { 1_000_000 };
        Presence { absent, phase_secs: served_secs, wave_secs, ..presence }
    }

    /// A presence that has seen all nodes, whatever happened.
    pub(super) fn everybody(&self) -> Presence {
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
            (coordinator.copy, coordinator.next) = (None, None);
        }
        is_news
    }

    /// Where coordinators beat, one whose copy has followed looks at that; the others see at once what is stored.
    pub(super) fn look_at_copy(&mut self, c: usize) {
        let coordinator = &mut self.coordinators[c];
        if let (Some(copy), true) = (&coordinator.copy, self.has_beats) {
            coordinator.life.observe(Duration::ZERO, copy);
            coordinator.looked = Some(copy.clone());
        }
    }

    /// The snapshot as a coordinator sees it: as it is, unless a rule is off.
    pub(super) fn view(&self, stored: &Stored, c: Option<usize>, is_import: bool) -> Snapshot {
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

    pub(super) fn decide(&mut self, c: usize, input: &Input, absent: Option<usize>, served_secs: u64) -> bool {
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
    pub(super) fn waits_for_a_word(&self, input: &Input, presence: &Presence) -> bool {
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
    pub(super) fn undo_view(&self, proposal: &mut Proposal) {
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
}

/// Whether the pool waits for an operator after its first key.
pub(crate) fn is_held_for_nodes(snapshot: &Snapshot) -> bool {
    matches!(snapshot.document.hold, Some(Hold::FirstKey { .. }))
}
