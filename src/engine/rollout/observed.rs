//! Whose counters the health gate has to hear before it may open (docs/protocol.md#rule-12).
//!
//! Counters come with syncs, and a node whose request is held does not sync for minutes.  So a coordinator asks its own nodes
//! of an opened wave now and then, the last time when the observation is over; those of another one are heard once its tally
//! says so.  A node that does not come back within its period is not waited for: barriers and absence are about those.
//! Must not know: clocks.

use std::collections::BTreeSet;

use super::document::{Snapshot, Stage};
use super::presence::Presence;
use super::record::NodeRecord;
use super::tally::promoted;
use super::wave::is_opened;
use tfo_model::ids::{CoordinatorName, NodeId};

/// The opened nodes that this coordinator has to ask for their counters now, because it holds their requests or has held
/// them a moment ago.
#[must_use]
pub fn to_ask(snapshot: &Snapshot, presence: &Presence) -> Vec<NodeId> {
    let unobserved = presence.unobserved.iter().filter_map(|node| snapshot.nodes.get_key_value(node));
    unobserved
        .filter(|(node, record)| is_waited_for(snapshot, presence, node, record))
        .map(|(node, _)| node.clone())
        .collect()
}

/// The index of the last opened wave, if its observation is over here and this coordinator has heard all of its own nodes
/// since.
#[must_use]
pub fn has_observed(snapshot: &Snapshot, presence: &Presence) -> Option<usize> {
    let Stage::Promoted { wave, .. } = &snapshot.document.stage else { return None };
    let is_over = presence.wave_secs >= snapshot.document.policy.health_window_secs;
    (is_over && to_ask(snapshot, presence).is_empty()).then_some(wave.opened)
}

/// The opened nodes whose counters are too old, once the observation is over here: this coordinator's own, and those of others
/// that do not say yet that they have heard them.
pub(super) fn unheard(snapshot: &Snapshot, presence: &Presence) -> Vec<NodeId> {
    let Stage::Promoted { next, wave, .. } = &snapshot.document.stage else { return Vec::new() };
    let mut unheard: BTreeSet<NodeId> = to_ask(snapshot, presence).into_iter().collect();
    let observing: BTreeSet<&CoordinatorName> =
        promoted(snapshot, next.epoch).filter(|(_, told)| !told.has_observed(wave)).map(|(by, _)| by).collect();
    if !observing.is_empty() {
        let theirs = snapshot.nodes.iter().filter(|(node, record)| {
            record.coordinator.as_ref().is_some_and(|by| observing.contains(by))
                && is_waited_for(snapshot, presence, node, record)
        });
        unheard.extend(theirs.map(|(node, _)| node.clone()));
    }
    unheard.into_iter().collect()
}

fn is_waited_for(snapshot: &Snapshot, presence: &Presence, node: &NodeId, record: &NodeRecord) -> bool {
    let Stage::Promoted { next, wave, .. } = &snapshot.document.stage else { return false };
    let is_late = presence.absent.contains(node) || presence.overdue.contains_key(node);
    record.is_required() && !is_late && is_opened(&snapshot.document, next.epoch, wave, node)
}
