//! Rules that are switched off without harm: what they do to a write into a roster.

use tfo_engine::rollout::parts::{Entry, PoolContent, Writes};
use tfo_engine::rollout::record::Exclusion;
use tfo_model::ids::CoordinatorName;

use super::rules::Off;
use super::stored::plain;
use super::world::World;

impl World {
    /// Without one of them a write also takes the place of what it should not touch.
    pub(crate) fn bend(&mut self, by: &CoordinatorName, writes: &mut Writes) {
        if !self.off.is_some_and(|off| Off::HARMLESS.contains(&off)) {
            return;
        }
        if self.is_off(Off::AckOfOpenSession) {
            // An ack counts for the session that is open, whatever session it was made in.
            for (node, later) in std::mem::take(&mut writes.acks) {
                let record = self.store.nodes.get(&node);
                match record.and_then(|record| record.session).filter(|open| *open != later.session) {
                    Some(session) => {
                        let answers = record.and_then(|record| record.exclusion);
                        writes.entries.insert(node, Entry { session, answers, first: later.ack.clone() }.into());
                    }
                    None => {
                        writes.acks.insert(node, later);
                    }
                }
            }
            return;
        }
        let mut parts = self.store.content.parts().clone();
        for node in writes.entries.keys() {
            if self.is_off(Off::LaterSessionWins) {
                // The session that was opened last takes the place of all others.
                let others = parts.rosters.iter_mut().filter(|(name, _)| *name != by);
                for (_, roster) in others {
                    roster.entries.remove(node);
                }
            }
            let ends = |cause| matches!(cause, Exclusion::Absent | Exclusion::LeftBehind);
            if self.is_off(Off::AdmissionSeesAbsence) && parts.exclusions.get(node).is_some_and(|e| ends(e.cause)) {
                parts.exclusions.remove(node);
            }
        }
        self.store = plain(PoolContent::new(self.store.document.clone(), parts), self.counts());
    }
}
