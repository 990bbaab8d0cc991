//! Acks that wait to be written together: one fsync for many nodes (docs/protocol.md#rule-7: only later acks are batched).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::limits::RECORDS_MAX;
use tfo_engine::rollout::record::RecordChange;
use tfo_model::ids::NodeId;

/// Records that are not stored yet, at most one for each node.
///
/// A queued record counts for no barrier, and no node gets an answer for it, before it is written: the owner flushes the
/// queue when it is full or some ten milliseconds old, and before every snapshot that is to include it.
#[derive(Debug, Default)]
pub struct RecordQueue {
    changes: BTreeMap<NodeId, RecordChange>,
}

/// The queue is full, or the change does not follow on the queued one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotQueued {
    /// [`RECORDS_MAX`] nodes are waiting: write them first.
    #[error("the queue of records is full")]
    Full,
    /// It does not expect the version that is queued for this node: read again, or write the queue first.
    #[error("another change of this record is queued")]
    Conflict,
}

impl RecordQueue {
    /// Queues a change; one that follows on a queued change of the same node takes its place.
    ///
    /// # Errors
    /// Fails if the queue is full, or if the change does not follow on the one that is queued for its node.
    pub fn push(&mut self, change: RecordChange) -> Result<(), NotQueued> {
        let full = self.changes.len() >= RECORDS_MAX;
        match self.changes.entry(change.node.clone()) {
            Entry::Occupied(mut queued) => {
                let queued = queued.get_mut();
                if change.expected != queued.next.as_ref().map(|next| next.version) {
                    return Err(NotQueued::Conflict);
                }
                queued.next = change.next;
            }
            Entry::Vacant(_) if full => return Err(NotQueued::Full),
            Entry::Vacant(place) => drop(place.insert(change)),
        }
        Ok(())
    }

    /// The queued change of a node.
    #[must_use]
    pub fn queued(&self, node: &NodeId) -> Option<&RecordChange> {
        self.changes.get(node)
    }

    /// Number of waiting nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Empties the queue.
    #[must_use]
    pub fn take(&mut self) -> Vec<RecordChange> {
        std::mem::take(&mut self.changes).into_values().collect()
    }
}
