//! Fakes: randomness from a seed, and a store with compare-and-swap that is slow and fails.

use std::rc::Rc;

use tfo_fleet::engine::rollout::document::{Proposal, Snapshot};
use tfo_fleet::engine::rollout::record::RecordChange;

/// splitmix64 (Steele, Lea, Flood 2014): every seed is a good one.
pub(crate) struct FakeRandom(u64);

impl FakeRandom {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `below` - 1.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// One document and its records.  Every write is a compare-and-swap; while it fails, nothing can be read or written.
pub(crate) struct FakeStore {
    pub(crate) now: Rc<Snapshot>,
    pub(crate) fails: bool,
}

impl FakeStore {
    pub(crate) fn read(&self) -> Option<Rc<Snapshot>> {
        (!self.fails).then(|| self.now.clone())
    }

    /// Document and records in one transaction; false on a conflict or a failure.
    pub(crate) fn commit(&mut self, proposal: &Proposal) -> bool {
        let is_current = self.now.document.revision == proposal.expected;
        let versions_match = proposal.records.iter().all(|change| self.matches(change));
        if self.fails || !is_current || !versions_match {
            return false;
        }
        let now = Rc::make_mut(&mut self.now);
        now.document = proposal.document.clone();
        for change in &proposal.records {
            put(now, change);
        }
        true
    }

    pub(crate) fn write(&mut self, change: &RecordChange) -> bool {
        if self.fails || !self.matches(change) {
            return false;
        }
        put(Rc::make_mut(&mut self.now), change);
        true
    }

    fn matches(&self, change: &RecordChange) -> bool {
        self.now.nodes.get(&change.node).map(|record| record.version) == change.expected
    }
}

fn put(snapshot: &mut Snapshot, change: &RecordChange) {
    match &change.next {
        Some(next) => drop(snapshot.nodes.insert(change.node.clone(), next.clone())),
        None => drop(snapshot.nodes.remove(&change.node)),
    }
}
