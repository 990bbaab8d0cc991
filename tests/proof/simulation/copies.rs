//! What a coordinator has of its store: a copy that follows late, by its own lag, as rule 5 allows (docs/protocol.md#rule-5;
//! rule 7): an answer to a node's first sync waits until the copy has its entry, and a copy that lags by more than
//! `blind_max` gives no answer at all.
//!
//! A copy is its coordinator's own, because it also has what that has heard and not written.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::rollout::changes::Changes;
use tfo_engine::rollout::parts::{Later, Parts, PoolContent, Roster};
use tfo_engine::rollout::record::NodeRecord;
use tfo_model::ids::NodeId;

use super::coordinators::coordinator;
use super::fleet::Fleet;
use super::rules::RuleOff;
use super::shelf::{Position, PutOff};

/// Longest time by which a copy is behind.
pub(super) const LAG_SECS_MAX: u64 = 30;

/// What a coordinator has of its store.
#[derive(Default)]
pub(super) struct Copied {
    /// None before it has read anything in this run.
    content: Option<Rc<PoolContent>>,
    pub(super) position: Position,
    /// What has changed in it since its coordinator's last look.
    pub(super) changes: Changes,
    /// Until then the copy was what is stored.
    pub(super) true_until: u64,
    /// The same, while it also beats: nodes are answered no longer than `blind_max` after that.
    pub(super) confirmed_at: u64,
    /// By how much it is behind.
    pub(super) lag_secs: u64,
}

impl Copied {
    /// A process that starts, and has read nothing yet.
    pub(super) fn restart(&mut self) {
        *self = Self { lag_secs: self.lag_secs, ..Self::default() };
    }
}

impl Fleet {
    /// From now on the coordinator's copy follows by so much later.
    pub(super) fn lag(&mut self, c: usize, lag_secs: u64) {
        self.coordinators[c].copied.lag_secs = lag_secs;
    }

    /// What a coordinator reads of its store, if it reaches it; all of it, or what it lacks.
    pub(super) fn read(&mut self, c: usize, whole: bool) -> Option<Rc<PoolContent>> {
        let (is_cut, is_late) = (self.is_cut(c), self.is_late(c));
        let Some(stored) = self.shelf.read(whole).filter(|_| !is_cut) else {
            self.summary.count("calls to a store that is down", 1);
            return None;
        };
        let copied = &mut self.coordinators[c].copied;
        let content = copied.content.get_or_insert_with(|| {
            copied.position = self.shelf.position();
            Rc::new(PoolContent::clone(stored).owned_by(coordinator(c)))
        });
        let until = self.now.saturating_sub(copied.lag_secs);
        copied.true_until = self.shelf.follow(content, &mut copied.position, until);
        copied.changes.add(Rc::make_mut(content).take_changes());
        if !is_late {
            copied.confirmed_at = copied.true_until;
        }
        if copied.position != self.shelf.position() {
            self.summary.count("looks at a copy that lags", 1);
        }
        Some(content.clone())
    }

    /// What a coordinator has read last; none if it has read nothing in this run.
    pub(super) fn copy(&self, c: usize) -> Option<&Rc<PoolContent>> {
        self.coordinators[c].copied.content.as_ref()
    }

    /// Takes a sync in that is not written.
    pub(super) fn hear(&mut self, c: usize, node: &NodeId, later: Later) {
        if let Some(content) = &mut self.coordinators[c].copied.content {
            Rc::make_mut(content).hear(node, later.into());
        }
    }

    /// The record of a node as a coordinator knows it once these acks are written: from its copy, and from its own roster,
    /// which it always knows.
    pub(super) fn known(&self, c: usize, copy: &PoolContent, off: &PutOff, node: &NodeId) -> Option<NodeRecord> {
        let (by, stored) = (coordinator(c), self.shelf.content().parts());
        let is_behind = self.coordinators[c].copied.position != self.shelf.position();
        if !is_behind {
            return match off.queue.names(node) {
                true => copy.parts().record_after(node, Some((&by, &off.queue))),
                false => copy.snapshot().nodes.get(node).cloned(),
            };
        }
        let mut parts = Parts::default();
        for (writer, roster) in copy.parts().rosters.iter().filter(|(writer, _)| **writer != by) {
            parts.rosters.extend(of_node(roster, node).map(|roster| (writer.clone(), roster)));
        }
        if let Some(own) = stored.rosters.get(&by).and_then(|roster| of_node(roster, node)) {
            parts.rosters.insert(by.clone(), own);
        }
        let exclusion = copy.parts().exclusions.get(node);
        parts.exclusions.extend(exclusion.map(|excluded| (node.clone(), excluded.clone())));
        parts.record_after(node, Some((&by, &off.queue)))
    }

    pub(super) fn is_cut(&self, c: usize) -> bool {
        self.coordinators[c].troubles.cut_until > self.now
    }

    pub(super) fn is_blind(&self, c: usize) -> bool {
        let blind_max = self.shelf.now().document.policy.blind_max();
        let unconfirmed = Duration::from_secs(self.now - self.coordinators[c].copied.confirmed_at);
        self.rule_off != Some(RuleOff::Blindness) && unconfirmed >= blind_max
    }
}

/// What a roster says of one node.
fn of_node(roster: &Roster, node: &NodeId) -> Option<Roster> {
    let entries = [(node.clone(), roster.entries.get(node)?.clone())].into();
    let acks = roster.acks.get(node).map(|later| (node.clone(), later.clone()));
    Some(Roster { entries, acks: acks.into_iter().collect(), beat: None })
}
