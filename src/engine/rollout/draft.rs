//! A change of the document in the making: [`Draft`] collects it, [`Draft::commit`] makes the proposal.
//!
//! Invariants (docs/protocol.md#rule-2): a commit raises the revision by one, and the generation by at most one; the
//! document and the names in its audit entry are bounded, however many nodes it is about.

use std::collections::{BTreeMap, BTreeSet};

use super::barrier::Barrier;
use super::document::{
    Actor, AuditEntry, BarrierCount, DOCUMENT_BYTES_KEPT, DOCUMENT_BYTES_MAX, Document, NAMED_MAX, Proposal, Snapshot,
};
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
    /// How many more nodes the audit entry is about.
    pub(super) more: usize,
    exclusions: BTreeMap<NodeId, Exclusion>,
    /// Nodes whose exclusion is not remembered any more.
    pub(super) dropped: BTreeSet<NodeId>,
}

impl<'a> Draft<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, now: Now<'a>, origin: Origin) -> Self {
        let document = snapshot.document.clone();
        let (taken_in, dropped) = (BTreeSet::new(), BTreeSet::new());
        Self { snapshot, now, origin, document, taken_in, more: 0, exclusions: BTreeMap::new(), dropped }
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
        self.fits(DOCUMENT_BYTES_MAX)?;
        let about: BTreeSet<&NodeId> = self.exclusions.keys().chain(&self.taken_in).collect();
        let more = self.more + about.len().saturating_sub(NAMED_MAX);
        let nodes = about.into_iter().take(NAMED_MAX).cloned().collect();
        let (revision, at) = (self.document.revision, self.now.wall);
        let excluded = |(node, cause): (NodeId, Exclusion)| {
            let closes = self.snapshot.nodes.get(&node).and_then(|record| record.session);
            (node, Excluded { cause, closes, revision, at })
        };
        let exclusions = self.exclusions.clone().into_iter().map(excluded).collect();
        let barrier = match action {
            Action::OpenWave => Barrier::of_opened(self.snapshot),
            _ => Barrier::of_all(self.snapshot),
        };
        let barrier =
            BarrierCount { required: barrier.required, needed: barrier.needed, behind: barrier.waiting_for.len() };
        let audit = AuditEntry {
            at: self.now.wall,
            revision: self.document.revision,
            generation: self.document.generation,
            phase: self.document.stage.phase(),
            actor: self.origin.actor,
            action,
            nodes,
            more,
            reason: self.origin.reason,
            barrier,
        };
        let (document, dropped) = (self.document, self.dropped);
        Ok(Step::Commit(Box::new(Proposal { expected, document, exclusions, dropped, audit })))
    }

    /// Commits a part of a command that changes more records than one commit takes; the command is then asked again.
    pub(super) fn commit_part(self) -> Result<Step, Reason> {
        match self.commit(Action::Exclude)? {
            Step::Commit(proposal) => Ok(Step::Part(proposal)),
            other => Ok(other),
        }
    }

    /// Refuses lists of operators that leave a rotation no room in the document.
    pub(super) fn leaves_room(&self) -> Result<(), Reason> {
        self.fits(DOCUMENT_BYTES_MAX - DOCUMENT_BYTES_KEPT)
    }

    fn fits(&self, bytes_max: usize) -> Result<(), Reason> {
        let bytes = self.document.json_bytes();
        if bytes > bytes_max { Err(Reason::DocumentTooLarge { bytes, bytes_max }) } else { Ok(()) }
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
