//! Records of nodes on their way to the store: queued, written together, and taken into the copy.
//!
//! A beat goes with them when it is due (`beats`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tracing::debug;

use super::Driver;
use tfo_engine::rollout::parts::Writes as Queue;
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_store::PARTS_MAX;

/// Shortest and longest time that an ack with news waits for others to be written with; in between, as long as the last
/// write took.
const ACK_PATIENCE: Duration = Duration::from_millis(5);
pub(super) const ACK_PATIENCE_MAX: Duration = Duration::from_millis(100);
/// How long a write waits of which no barrier sees anything.
pub(super) const QUIET_PATIENCE: Duration = Duration::from_secs(1);

/// What a queued record tells those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// Something that a barrier could see.
    News,
    /// Nothing of the kind.
    Quiet,
}

/// The queue of records, and how writing goes.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) queue: Queue,
    pub(super) flush_at: Option<Instant>,
    /// Nodes of the present batch of requests whose records could not be written.
    pub(super) lost: BTreeSet<NodeId>,
    /// Duration of the last write of records.
    took: Duration,
    /// The last write failed: no node can be recorded, so in this time no node counts as silent (rule 11).
    pub(super) fail: bool,
}

impl Driver {
    /// Schedules a write of the queue: soon, or later if nothing in it is news.
    pub(super) fn flush_after(&mut self, ack: Ack) {
        self.pace.news += usize::from(ack == Ack::News);
        let patience = match ack {
            // The last of those that the rollout waits for has no other to wait for.
            Ack::News if self.pace.has_all(self.awaited()) => Duration::ZERO,
            Ack::News => self.writes.took.clamp(ACK_PATIENCE, ACK_PATIENCE_MAX),
            Ack::Quiet => QUIET_PATIENCE,
        };
        let at = clock::monotonic() + patience;
        self.writes.flush_at = Some(self.writes.flush_at.map_or(at, |before| before.min(at)));
    }

    /// Queues the removal of this coordinator's entries of nodes that were forgotten long ago (rule 6).
    pub(super) fn sweep(&mut self) {
        if !self.pace.takes_sweep() {
            return;
        }
        let room = PARTS_MAX.saturating_sub(self.writes.queue.len());
        let over = self.replica.content().parts().long_forgotten(self.replica.by(), clock::now());
        let queue = &mut self.writes.queue;
        // A node that comes again just now has opened a session; its entry takes the place of the old one.
        let over: Vec<NodeId> = over.into_iter().filter(|node| !queue.names(node)).take(room).collect();
        if !over.is_empty() {
            queue.removed.extend(over);
            self.flush_after(Ack::Quiet);
        }
    }

    /// Writes the queue in one transaction.  False: nothing of it may be taken for written.
    pub(super) fn flush(&mut self) -> bool {
        self.writes.flush_at = None;
        self.add_beat();
        if self.writes.queue.is_empty() {
            return true;
        }
        let queue = std::mem::take(&mut self.writes.queue);
        assert!(queue.len() <= PARTS_MAX, "the queue is bounded");
        let start = clock::monotonic();
        let nodes: Vec<NodeId> = queue.nodes().cloned().collect();
        let result = self.replica.write(&queue);
        self.metrics.records_written(self.replica.pool(), nodes.len(), start);
        match result {
            Ok(()) => {
                self.writes.took = clock::monotonic().duration_since(start);
                if let Some(beat) = &queue.beat {
                    self.beats.written(self.monotonic(), self.replica.document().policy.beat(), beat.vouches);
                }
                debug!(pool = %self.replica.pool(), records = nodes.len(), "records written");
                if self.writes.fail {
                    self.store_is_good();
                }
                self.look();
                true
            }
            Err(error) => {
                self.waiting.not_stored(&nodes);
                self.writes.lost.extend(nodes);
                self.commit_failed(&error);
                false
            }
        }
    }

    /// Writes what was heard and not written, before the driver ends: the next one shows when a node was heard last.
    pub(super) fn write_heard(&mut self) {
        // What is queued is newer than what was heard before it.
        if !self.flush() {
            return;
        }
        let heard: Vec<_> =
            self.replica.content().heard().iter().map(|(node, later)| (node.clone(), later.clone())).collect();
        for some in heard.chunks(PARTS_MAX) {
            self.writes.queue.acks.extend(some.iter().cloned());
            if !self.flush() {
                return;
            }
        }
    }
}
