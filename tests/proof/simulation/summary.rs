//! What the fleets of all seeds went through.

use std::collections::BTreeMap;

/// Whatever must have happened over a thousand seeds; each of these is counted somewhere.
pub(crate) const EVERYTHING: [&str; 55] = [
    "rotations",
    "waves",
    "aborts",
    "revokes",
    "revoked keys dropped",
    "recoveries",
    "exclusions",
    "denied nodes",
    "forgotten nodes",
    "conflicts",
    "open outcomes, done",
    "open outcomes, not done",
    "calls to a store that is down",
    "restores with a restart",
    "restores under running coordinators",
    "a store that went back was noticed in an answer",
    "frozen answers",
    "coordinator stops",
    "policies taken at a start",
    "policies taken at a reload",
    "starts with an old file",
    "agent restarts",
    "reboots: counters start again",
    "new images",
    "connections accepted",
    "connections accepted by the backup",
    "connections rejected",
    "waits for the drain",
    "stages after a drain",
    "stages by drain_max",
    "waves that the health gate has stopped",
    "promises that a stage has ended",
    "promises that a revoke has ended",
    "coordinators cut off from the store",
    "coordinators that no node reaches",
    "coordinators that stand still",
    "times in which no coordinator heard a node",
    "nodes that receive and cannot send",
    "held requests that a blind coordinator let go",
    "requests held without a record that were let go",
    "answers that came when the node was detached",
    "exclusions for absence",
    "looks at a copy that lags",
    "answers that wait for the copy",
    "answers that the copy was too late for",
    "syncs that are heard and not written",
    "ticks that need not be taken",
    "nodes marked as silent",
    "beats with an open outcome that took effect",
    "lives that a fence has ended",
    "connections that stay half open",
    "nodes that are asked for their counters",
    "fresh counters behind an opened wave",
    "steps that are left to others first",
    "steps in the turn of one that does not come first",
];

/// Counts by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary(pub(crate) BTreeMap<&'static str, u64>);

impl Summary {
    pub(crate) fn count(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub(crate) fn get(&self, what: &'static str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.count(what, *times));
    }

    /// What of [`EVERYTHING`] never happened.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        EVERYTHING.into_iter().filter(|what| self.get(what) == 0).collect()
    }
}
