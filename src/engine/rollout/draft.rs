//! A change of the document in the making: [`Draft`] collects it, [`Draft::commit`] makes the proposal.
//!
//! Invariants (docs/protocol.md#rule-2): a commit raises the revision by one, and the generation by at most one.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Actor, AuditEntry, Document, Proposal, Snapshot};
use super::input::{Now, Reason, Step};
use super::parts::Excluded;
use super::record::Exclusion;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;

/// The origin of a change, for the audit log.
pub(super) struct Origin {
    pub(super) actor: Actor,
    pub(super) reason: String,
}

impl Origin {
    /// The engine itself; the reason may be empty.
    pub(super) fn engine(reason: impl Into<String>) -> Self {
        Self { actor: Actor::Engine, reason: reason.into() }
    }
}

pub(super) struct Draft<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Now<'a>,
    pub(super) origin: Origin,
    pub(super) document: Document,
    /// Nodes that the audit entry names besides those that are excluded.
    pub(super) taken_in: BTreeSet<NodeId>,
    exclusions: BTreeMap<NodeId, Exclusion>,
    /// Nodes whose exclusion is not remembered any more.
    pub(super) dropped: BTreeSet<NodeId>,
}

impl<'a> Draft<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, now: Now<'a>, origin: Origin) -> Self {
        let document = snapshot.document.clone();
        let (taken_in, dropped) = (BTreeSet::new(), BTreeSet::new());
        Self { snapshot, now, origin, document, taken_in, exclusions: BTreeMap::new(), dropped }
    }

    /// From this commit on, some node is instructed to hold other slots.
    pub(super) fn instruct(&mut self) -> Result<(), Reason> {
        self.document.generation = self.snapshot.document.generation.next().ok_or(Reason::Exhausted)?;
        Ok(())
    }

    /// Another phase begins, or another instruction within it.
    pub(super) fn begin_phase(&mut self) {
        self.document.since = self.now.wall;
    }

    /// Takes nodes out, also those that never came.  Of several exclusions of a node the last one counts.
    pub(super) fn exclude<'n>(&mut self, nodes: impl IntoIterator<Item = &'n NodeId>, cause: Exclusion) {
        self.exclusions.extend(nodes.into_iter().map(|node| (node.clone(), cause)));
    }

    pub(super) fn commit(mut self, action: Action) -> Result<Step, Reason> {
        let expected = self.snapshot.document.revision;
        self.document.revision = expected.next().ok_or(Reason::Exhausted)?;
        self.forget_finished_revoke();
        let (revision, at) = (self.document.revision, self.now.wall);
        let exclusions: BTreeMap<NodeId, Excluded> = self.exclusions.into_iter().map(|(node, cause)| {
            let closes = self.snapshot.nodes.get(&node).and_then(|record| record.session);
            (node, Excluded { cause, closes, revision, at })
        }).collect();
        let named = exclusions.keys().cloned();
        let audit = AuditEntry {
            at: self.now.wall,
            revision: self.document.revision,
            generation: self.document.generation,
            phase: self.document.stage.phase(),
            actor: self.origin.actor,
            action,
            nodes: named.chain(self.taken_in).collect(),
            reason: self.origin.reason,
        };
        let (document, dropped) = (self.document, self.dropped);
        Ok(Step::Commit(Box::new(Proposal { expected, document, exclusions, dropped, audit })))
    }

    /// A revoke ends when none of its keys is in a slot any more.
    fn forget_finished_revoke(&mut self) {
        let held = self.document.keys_held();
        if let Some(revoke) = &mut self.document.revoke {
            revoke.keys.retain(|key| held.contains(key));
            if revoke.keys.is_empty() {
                self.document.revoke = None;
            }
        }
    }
}
