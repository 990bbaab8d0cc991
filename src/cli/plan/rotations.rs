//! `rotate`, `rotate --mode revoke`: commands that begin a rotation.

use std::collections::BTreeSet;

use super::{Plan, slot};
use crate::plain::{count_of_nodes, names};
use tfo_model::count::Epoch;
use tfo_model::ids::NodeId;
use tfo_wire::v1::fleet::PoolStatus;
use tfo_wire::v1::orders::Closed;

/// A new key, as the schedule would make it; `force`: past the gates that only protect comfort.
#[must_use]
pub fn rotate(status: &PoolStatus, force: bool) -> Plan {
    let required = count_of_nodes(status.required);
    let plan = Plan::new("rotate", status, status.required)
        .line(format!("a new key is staged beside {}, then made primary wave by wave", slot(status.primary)))
        .line(format!("each step waits for {required} to acknowledge it"));
    match &status.rotate_refused {
        // With --force it may not be: some reasons are gates that it skips.
        Some(Closed { message, .. }) if force => plan.line(format!("without --force it would be refused: {message}")),
        Some(Closed { message, remedy, .. }) => {
            plan.line(format!("now it would be refused: {message}")).line(format!("remedy: {remedy}"))
        }
        None => plan,
    }
}

/// A revoke of the keys of these epochs, or of all present ones; the nodes in `deny` get no more keys.
#[must_use]
pub fn revoke(status: &PoolStatus, epochs: &BTreeSet<Epoch>, deny: &BTreeSet<NodeId>) -> Plan {
    let current = [status.primary, status.backup].into_iter().flatten();
    let keys: Vec<String> = if epochs.is_empty() {
        current.map(|key| slot(Some(key))).collect()
    } else {
        epochs.iter().map(|epoch| format!("epoch {epoch}")).collect()
    };
    let plan = Plan::new("rotate --mode revoke", status, status.required)
        .line(format!("drives {} out of {}", keys.join(" and "), count_of_nodes(status.required)))
        .line("clients with cookies of these keys lose TFO once; the gates drain and health are skipped")
        .line("nodes that are still behind after revoke_barrier_max are excluded");
    if deny.is_empty() {
        return plan.line("no node is denied: one that leaked the key gets the new one too (--deny NODE)");
    }
    let denied = count_of_nodes(deny.len());
    plan.line(format!("denies {denied} the new key: {}; revoke the certificates as well", names(deny)))
}
