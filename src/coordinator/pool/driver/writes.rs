//! Records of nodes on their way to the store: queued, written together, and taken into the copy.

use std::time::{Duration, Instant};

use tracing::debug;

use super::Driver;
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_store::{RECORDS_MAX, RecordQueue};

/// Shortest and longest time that an ack with news waits for others to be written with; in between, as long as the last
/// write took.
const ACK_PATIENCE: Duration = Duration::from_millis(5);
const ACK_PATIENCE_MAX: Duration = Duration::from_millis(100);
/// How long an ack without news waits, which says only that its node is alive.
const QUIET_PATIENCE: Duration = Duration::from_secs(1);

/// What a queued record tells those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// Something that a barrier could see.
    News,
    /// Only that its node is alive.
    Quiet,
}

/// The queue of records, and how writing goes.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) queue: RecordQueue,
    pub(super) flush_at: Option<Instant>,
    /// Duration of the last write of records.
    took: Duration,
    /// The last write failed: no node can be recorded, so in this time no node counts as silent (rule 11).
    pub(super) fail: bool,
}

impl Driver {
    /// Schedules a write of the queue: soon, or later if nothing in it is news.
    pub(super) fn flush_after(&mut self, ack: Ack) {
        let patience = match ack {
            Ack::News => self.writes.took.clamp(ACK_PATIENCE, ACK_PATIENCE_MAX),
            Ack::Quiet => QUIET_PATIENCE,
        };
        self.pace.news += usize::from(ack == Ack::News);
        let at = clock::monotonic() + patience;
        self.writes.flush_at = Some(self.writes.flush_at.map_or(at, |before| before.min(at)));
    }

    /// Writes the queue in one transaction.  False: nothing of it may be taken for written.
    pub(super) fn flush(&mut self) -> bool {
        self.writes.flush_at = None;
        if self.writes.queue.is_empty() {
            return true;
        }
        let changes = self.writes.queue.take();
        assert!(changes.len() <= RECORDS_MAX, "the queue is bounded");
        let (count, start) = (changes.len(), clock::monotonic());
        let is_seen = self.seen.looked_at == Some(self.replica.head());
        let nodes: Vec<NodeId> = changes.iter().map(|change| change.node.clone()).collect();
        let result = self.replica.write(changes);
        self.metrics.records_written(self.replica.pool(), count, start);
        match result {
            Ok(conflicts) => {
                self.writes.took = clock::monotonic().duration_since(start);
                debug!(pool = %self.replica.pool(), records = count, "records written");
                if self.writes.fail {
                    self.store_is_good();
                }
                if !conflicts.is_empty() {
                    self.waiting.not_stored(&conflicts);
                    debug!(pool = %self.replica.pool(), nodes = conflicts.len(), "another writer changed records");
                } else if is_seen {
                    self.take_in(&nodes);
                }
                true
            }
            Err(error) => {
                self.waiting.not_stored(&nodes);
                self.commit_failed(&error);
                false
            }
        }
    }

    /// Takes the records in that were just written for these nodes, without a look at all the others: the copy was the
    /// store's state, and no other writer has changed it since.  The next tick looks at all.
    fn take_in(&mut self, nodes: &[NodeId]) {
        let monotonic = self.monotonic();
        let seen = &mut self.seen;
        let mut view = seen.view;
        for node in nodes {
            let snapshot = self.replica.snapshot();
            if let Some(record) = snapshot.nodes.get(node) {
                seen.life.see(monotonic, (node, record), &mut seen.presence);
                view = view.after(snapshot, &seen.presence, node, record);
            }
        }
        if view == seen.view {
            seen.looked_at = Some(self.replica.head());
        }
    }
}
