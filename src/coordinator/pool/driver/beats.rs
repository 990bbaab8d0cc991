//! This coordinator's signs of life (docs/protocol.md#rule-10; rules 7, 18): every few seconds it writes that it has heard its
//! nodes, but for those that it marks as silent.
//!
//! Invariants: a node gets no answer while the last beat is too old, because no other coordinator would hear of the contact;
//! a beat is written with, or after, everything that its writer has recorded.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Driver;
use tfo_engine::rollout::crowd::is_crowded;
use tfo_engine::rollout::parts::{About, Beat};
use tfo_engine::rollout::tally::Tally;
use tfo_host::runtime::clock;
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_store::PARTS_MAX;

/// A beat that could not be written is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// The times of the last beat and of the next, on the driver's clock.
#[derive(Debug, Default)]
pub(super) struct Beats {
    written_at: Option<Duration>,
    /// The last one vouched for the nodes that were heard.
    pub(super) vouched: bool,
    due_at: Duration,
}

impl Beats {
    /// A beat was written; the next one is due after this period.
    pub(super) fn written(&mut self, now: Duration, period: Duration, vouched: bool) {
        (self.written_at, self.due_at, self.vouched) = (Some(now), now + period, vouched);
    }

    /// The next write brings a beat.
    pub(super) fn soon(&mut self) {
        self.due_at = Duration::ZERO;
    }
}

impl Driver {
    /// When the next beat is due.
    pub(super) fn next_beat(&self) -> Instant {
        self.shared.started + self.beats.due_at
    }

    /// Whether the last beat is so old that other coordinators may count its nodes as silent before they hear of them.
    pub(super) fn is_late(&self) -> bool {
        let two_beats = self.replica.document().policy.beat() * 2;
        self.beats.written_at.is_none_or(|at| self.monotonic().saturating_sub(at) > two_beats)
    }

    /// Beats if that is due.  False: no node may be answered, see [`Self::is_late`].
    pub(super) fn keeps_beating(&mut self) -> bool {
        if self.next_beat() <= clock::monotonic() {
            self.flush();
        }
        !self.is_late()
    }

    /// Adds a beat to what is written next, if one is due.
    pub(super) fn add_beat(&mut self) {
        let now = self.monotonic();
        if now < self.beats.due_at || self.has_lost_name {
            return;
        }
        self.beats.due_at = now + AGAIN.min(self.replica.document().policy.beat());
        // A driver that stood still, or was cut off, may be in another life than it knows of: that one vouches for no node.
        if self.follow().is_none() {
            return;
        }
        self.observe();
        self.note_turns();
        let (own, snapshot) = (self.replica.by(), self.replica.snapshot());
        let room = PARTS_MAX.saturating_sub(self.writes.queue.len());
        let silent: Option<Vec<NodeId>> = self.seen.life.silent(snapshot, own);
        let silent = silent.map(|silent| {
            // Those in the queue have just been heard.
            silent.into_iter().filter(|node| !self.writes.queue.names(node)).collect::<Vec<_>>()
        });
        self.shared.is_crowded.store(self.is_crowded(), Ordering::Relaxed);
        let vouches = silent.as_ref().is_some_and(|silent| silent.len() <= room);
        let marks = self.replica.content().marked_silent(silent.iter().flatten().take(room));
        // Other coordinators read it, once they have beaten; it looks at all nodes.
        let tally = if snapshot.beats.is_empty() { None } else { Tally::of(snapshot, own, self.seen.presence()) };
        self.writes.queue.acks.extend(marks);
        let (stamp, about) = (self.replica.next_stamp(), self.about());
        self.writes.queue.beat = Some(Beat { stamp, vouches, at: clock::now(), tally, about });
    }

    /// What operators are shown of this coordinator.
    pub(super) fn about(&self) -> About {
        let policy_differs = self.differs().into_iter().map(str::to_owned).collect();
        About { release: env!("CARGO_PKG_VERSION").to_owned(), policy_differs, is_forgotten: false }
    }

    /// Whether this coordinator has many more nodes than the others that beat.
    fn is_crowded(&self) -> bool {
        let beat = self.replica.document().policy.beat();
        let live: Vec<&CoordinatorName> = self.seen.clocks.live(self.monotonic(), beat).map(|(name, _)| name).collect();
        // One that is alone looks at no node.
        if live.is_empty() {
            return false;
        }
        let nodes = self.nodes_of_each();
        let of = |name: &CoordinatorName| nodes.get(name).copied().unwrap_or_default();
        let others: Vec<usize> = live.into_iter().map(of).collect();
        is_crowded(of(self.replica.by()), &others)
    }

    /// How many known nodes have their session at which coordinator.
    pub(super) fn nodes_of_each(&self) -> BTreeMap<&CoordinatorName, usize> {
        let mut nodes = BTreeMap::new();
        for by in self.known().filter_map(|(_, record)| record.coordinator.as_ref()) {
            *nodes.entry(by).or_default() += 1;
        }
        nodes
    }
}
