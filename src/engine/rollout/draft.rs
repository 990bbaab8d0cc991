//! A change of the document in the making: [`Draft`] collects it, [`Draft::commit`] makes the proposal.
//!
//! Invariants (docs/protocol.md#rule-2): a commit raises the revision by one, and the generation by at most one; the
//! document and the names in its audit entry are bounded, however many nodes it is about.

use std::collections::BTreeSet;

use super::document::{
    Actor, AuditEntry, DOCUMENT_BYTES_KEPT, DOCUMENT_BYTES_MAX, Document, NAMED_MAX, Proposal, Snapshot,
};
use super::input::{Now, Reason, Step};
use super::record::{Exclusion, Membership, NodeRecord, RecordChange};
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
    /// Nodes that the audit entry names besides those whose records change.
    pub(super) taken_in: BTreeSet<NodeId>,
    /// How many more nodes the audit entry is about.
    pub(super) more: usize,
    records: Vec<RecordChange>,
}

impl<'a> Draft<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, now: Now<'a>, origin: Origin) -> Self {
        let document = snapshot.document.clone();
        Self { snapshot, now, origin, document, taken_in: BTreeSet::new(), more: 0, records: Vec::new() }
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

    /// Changes one record against the version in the snapshot; none forgets the node.
    pub(super) fn record(&mut self, node: &NodeId, next: Option<NodeRecord>) {
        let expected = self.snapshot.nodes.get(node).map(|record| record.version);
        let next = next.map(|record| NodeRecord { version: expected.unwrap_or(0) + 1, ..record });
        self.records.push(RecordChange { node: node.clone(), expected, next });
    }

    /// Takes nodes out of the required set; passes over those without a record.
    pub(super) fn exclude(&mut self, nodes: &[NodeId], exclusion: Exclusion) {
        for node in nodes {
            if let Some(record) = self.snapshot.nodes.get(node) {
                let membership = Membership::Excluded(exclusion);
                self.record(node, Some(NodeRecord { membership, ..record.clone() }));
            }
        }
    }

    /// Takes a node out for good, also one that never came.
    pub(super) fn deny(&mut self, node: &NodeId) {
        let membership = Membership::Excluded(Exclusion::Denied);
        let record = match self.snapshot.nodes.get(node) {
            Some(record) => NodeRecord { membership, ..record.clone() },
            None => NodeRecord {
                version: 0,
                syncs: 0,
                membership,
                session: None,
                report: None,
                window: None,
                baseline: None,
                last_report_at: None,
            },
        };
        self.record(node, Some(record));
    }

    pub(super) fn commit(mut self, action: Action) -> Result<Step, Reason> {
        let expected = self.snapshot.document.revision;
        self.document.revision = expected.next().ok_or(Reason::Exhausted)?;
        self.forget_finished_revoke();
        self.fits(DOCUMENT_BYTES_MAX)?;
        let about: BTreeSet<&NodeId> = self.records.iter().map(|change| &change.node).chain(&self.taken_in).collect();
        let more = self.more + about.len().saturating_sub(NAMED_MAX);
        let nodes = about.into_iter().take(NAMED_MAX).cloned().collect();
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
        };
        Ok(Step::Commit(Box::new(Proposal { expected, document: self.document, records: self.records, audit })))
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
