//! Acks that wait to be written together: one fsync for many nodes (docs/protocol.md#rule-7: batching is for later acks only).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::contract::{RecordOutcome, Store};
use super::error::CommitError;
use super::limits::RECORDS_MAX;
use tfo_engine::rollout::record::RecordChange;
use tfo_model::ids::{NodeId, PoolName};

/// Records that are not stored yet, at most one for each node.
///
/// Nothing in here counts for a barrier or is acknowledged to a node before it was written: whoever fills the queue
/// flushes it with [`push_all`] when it is full or a few ten milliseconds old, before every snapshot that is to see it.
#[derive(Debug, Default)]
pub struct RecordQueue {
    changes: BTreeMap<NodeId, RecordChange>,
}

/// The queue takes no more, or the change does not follow on the queued one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotQueued {
    /// [`RECORDS_MAX`] nodes are waiting: write them first.
    #[error("the queue of records is full")]
    Full,
    /// It expects another version than the one that is queued for this node: read anew, or write the queue first.
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

    /// What is queued for a node.
    #[must_use]
    pub fn queued(&self, node: &NodeId) -> Option<&RecordChange> {
        self.changes.get(node)
    }

    /// How many nodes are waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing is waiting.
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

/// Writes the whole queue and empties it; returns the nodes whose record somebody else had changed: they are dropped.
///
/// # Errors
/// Fails as [`Store::write_records`]; the queue is as it was then.
pub fn push_all(store: &dyn Store, pool: &PoolName, queue: &mut RecordQueue) -> Result<Vec<NodeId>, CommitError> {
    if queue.is_empty() {
        return Ok(Vec::new());
    }
    let changes: Vec<RecordChange> = queue.changes.values().cloned().collect();
    let outcomes = store.write_records(pool, &changes)?;
    queue.changes.clear();
    let judged = changes.into_iter().zip(outcomes);
    Ok(judged.filter(|(_, outcome)| *outcome != RecordOutcome::Stored).map(|(change, _)| change.node).collect())
}
