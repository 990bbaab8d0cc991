//! What no reachable world may break: the invariant, the promise to clients, and what was confirmed to operators.

use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::record::NodeRecord;
use tfo_model::ids::NodeId;

use super::world::{Serving, World, number};

impl World {
    /// The properties; what is wrong, in words.
    pub(crate) fn broken(&self) -> Option<String> {
        self.broken_invariant().or_else(|| self.broken_promise()).or_else(|| {
            if self.is_paused && self.store.document.paused.is_none() {
                return Some("a confirmed pause was lost".to_owned());
            }
            let is_lost = |(index, id): (usize, &NodeId)| {
                self.denied & (1 << index) != 0 && !self.store.nodes.get(id).is_some_and(NodeRecord::is_denied)
            };
            if self.ids.iter().enumerate().any(is_lost) {
                return Some("a confirmed deny was lost".to_owned());
            }
            if self.is_opened_unheard {
                return Some("a wave was opened on counters from before the end of what was watched".to_owned());
            }
            if self.is_undone_done {
                return Some("an order took effect whose operator was told that it had not".to_owned());
            }
            if let Some(witness) = self.broken_order() {
                return Some(format!("an order was confirmed on a store that {witness} then showed to be behind"));
            }
            let promoted = matches!(self.store.document.stage, Stage::Promoted { .. });
            let driven = self.store.document.revoke.is_some();
            (self.is_aborted && promoted && !driven).then(|| "an aborted rotation promoted itself again".to_owned())
        })
    }

    /// What the node mints and accepts, if the invariant covers it: from its first install, or from the moment at which
    /// it serves as a required node without one.
    pub(super) fn covered_slots(&self, index: usize) -> Option<(u64, Option<u64>)> {
        let node = &self.nodes[index];
        let is_required = || self.store.nodes.get(&self.ids[index]).is_some_and(NodeRecord::is_required);
        let counts = match node.serving {
            Serving::No | Serving::TakenOut => false,
            Serving::Keyless => true,
            // With the first key it is on its way to its first install; the pool makes no move before that.
            Serving::SinceEmpty => {
                !matches!(self.store.document.stage, Stage::Empty | Stage::Steady { backup: None, .. })
            }
        };
        if node.kernel.is_none() && counts && is_required() {
            return Some((u64::MAX - index as u64, None));
        }
        let slots = node.kernel.filter(|_| node.is_covered)?;
        Some((number(slots.primary.fingerprint), slots.backup.map(|key| number(key.fingerprint))))
    }

    /// Before an order is confirmed every required node must have shown what it has (rule 10).
    pub(super) fn broken_order(&self) -> Option<NodeId> {
        let witness = if self.ordered_on == 0 { None } else { conflict(&self.store) }?.node;
        let index = self.ids.iter().position(|id| *id == witness)?;
        (self.ordered_on & (1 << index) != 0).then_some(witness)
    }

    pub(super) fn broken_invariant(&self) -> Option<String> {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let (Some((minted, _)), Some((primary, backup))) = (self.covered_slots(a), self.covered_slots(b))
                else {
                    continue;
                };
                if minted != primary && Some(minted) != backup {
                    return Some(format!(
                        "{} mints {minted}, {} holds [{primary},{}]",
                        self.ids[a],
                        self.ids[b],
                        backup.map_or("-".to_owned(), |backup| backup.to_string())
                    ));
                }
            }
        }
        None
    }

    pub(super) fn broken_promise(&self) -> Option<String> {
        for index in 0..self.nodes.len() {
            let Some((primary, backup)) = self.covered_slots(index) else { continue };
            if let Some(key) = self.promised.iter().find(|key| **key != primary && Some(**key) != backup) {
                return Some(format!("promised cookies of {key} are rejected by {}", self.ids[index]));
            }
        }
        None
    }
}
