//! How one look of a coordinator judges each node: what is known of it now, and whether it was heard since the last look.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::record::NodeRecord;
use super::super::slots::Instruction;
use super::census::LastSeen;
use tfo_model::ids::CoordinatorName;

/// By what a look judges each node.
pub(super) struct Look<'a> {
    pub(super) begun: bool,
    pub(super) served: Duration,
    pub(super) now_secs: u64,
    pub(super) told_secs: u64,
    pub(super) vouching: BTreeSet<&'a CoordinatorName>,
    /// The coordinators that have written more than one beat since the last look, or another life's.
    pub(super) missed: BTreeSet<&'a CoordinatorName>,
    pub(super) instructions: Vec<Instruction>,
}

impl Look<'_> {
    /// Whether this coordinator has missed a beat of the one where the node is.
    fn misses_a_beat_of(&self, record: &NodeRecord) -> bool {
        record.coordinator.as_ref().is_some_and(|by| self.missed.contains(by))
    }

    pub(super) fn is_vouched(&self, record: &NodeRecord) -> bool {
        let by = record.coordinator.as_ref().filter(|_| !self.vouching.is_empty() && !record.silent);
        record.report.is_some() && by.is_some_and(|by| self.vouching.contains(by))
    }

    /// What is known of a node now, and whether it was heard since the last look.
    pub(super) fn seen(&self, before: Option<LastSeen>, record: &NodeRecord) -> (LastSeen, bool) {
        let seen = LastSeen { in_this_life: true, ..LastSeen::of(record).synced(self.served, self.told_secs) };
        let seen = seen.held_as(before.as_ref());
        match before {
            Some(known) if known.is_before(record) || self.is_vouched(record) => (seen, true),
            // This coordinator stood still meanwhile.  When the node was answered is not known: as late as now.
            Some(known) if known.is_before_mark(record, self.misses_a_beat_of(record)) => {
                let told_secs = self.told_secs;
                (LastSeen { synced_at: self.served, told_secs, ..known.counted_as(record) }, false)
            }
            // What is left of a forgotten node becomes less, and what marks one as silent more: neither says that it lives.
            Some(known) if !record.is_known() || record.silent => {
                (known.counted_as(record).told(self.served, self.now_secs), false)
            }
            Some(known) => (known.told(self.served, self.now_secs), false),
            // An order makes a record, too, of a node that never reported.
            None => {
                let is_heard = self.begun && record.report.is_some();
                (LastSeen { in_this_life: is_heard, ..seen }, is_heard)
            }
        }
    }
}
