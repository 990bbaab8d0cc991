//! Who is told what: instructions, and the waves of a promotion (docs/protocol.md#rules, rules 3, 12 and 16).
//!
//! A node's place in the order of a rotation is a hash of (`pool_id`, epoch, node): fixed for the rotation, another
//! one in the next, so it is not always the same nodes that go first.  Must not know: who is present (that is passed
//! in).

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::document::{Document, Instruction, PoolKey, Slots, Snapshot, Stage, Wave};
use super::policy::{Share, WaveRule};
use super::record::{NodeRecord, SlotCount};
use crate::convergence::Presence;
use tfo_model::count::Epoch;
use tfo_model::ids::{NodeId, PoolId};

/// The key of the order's hash: it orders nodes, it hides nothing.
const ORDER_KEY: [u8; 16] = *b"tfo-fleet/v1/wav";

/// A node's place in the order of one rotation, 0 to 2^64-1.
///
/// Persisted by use: coordinators of two versions must agree on it in the middle of a rotation.
#[must_use]
pub fn order(pool_id: &PoolId, epoch: Epoch, node: &NodeId) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&ORDER_KEY);
    hasher.write(&pool_id.to_bytes());
    hasher.write(&epoch.get().to_be_bytes());
    hasher.write(node.as_str().as_bytes());
    hasher.finish()
}

fn fits(rule: &WaveRule, pool_id: &PoolId, epoch: Epoch, node: &NodeId) -> bool {
    match rule {
        WaveRule::Names(pattern) => pattern.matches(node),
        WaveRule::Share(share) if *share == Share::ALL => true,
        WaveRule::Share(share) => {
            let place = (u128::from(order(pool_id, epoch, node)) * u128::from(Share::ALL.ppm())) >> 64;
            place < u128::from(share.ppm())
        }
    }
}

/// Whether the waves that are open include this node.  The last wave includes everybody.
#[must_use]
pub fn is_opened(document: &Document, epoch: Epoch, wave: &Wave, node: &NodeId) -> bool {
    wave.is_last()
        || wave.taken_in.contains(node)
        || wave.rules.iter().take(wave.opened + 1).any(|rule| fits(rule, &document.pool_id, epoch, node))
}

/// What this node is told now; none while the pool has no key.
///
/// A one-slot node is told its primary alone, and the new one only in the last wave (rule 16).
#[must_use]
pub fn told(document: &Document, node: &NodeId, slot_count: SlotCount) -> Option<Instruction> {
    let instruction = |generation, primary: PoolKey, backup: Option<PoolKey>| {
        let backup = if slot_count == SlotCount::One { None } else { backup };
        Some(Instruction { generation, slots: Slots { primary, backup } })
    };
    match &document.stage {
        Stage::Empty => None,
        Stage::Steady { current, backup } => instruction(document.generation, *current, *backup),
        Stage::Staged { current, next, .. } => instruction(document.generation, *current, Some(*next)),
        Stage::Promoted { current, next, staged_generation, wave } => {
            let opened = match slot_count {
                SlotCount::One => wave.is_last(),
                SlotCount::Two => is_opened(document, next.epoch, wave, node),
            };
            if opened {
                instruction(document.generation, *next, Some(*current))
            } else {
                instruction(*staged_generation, *current, Some(*next))
            }
        }
    }
}

/// The instructions that are out now, newest first, as two-slot nodes get them: what a report is judged by.
#[must_use]
pub fn instructions(document: &Document) -> Vec<Instruction> {
    let slots = |primary: PoolKey, backup| Slots { primary, backup };
    match &document.stage {
        Stage::Empty => Vec::new(),
        Stage::Steady { current, backup } => {
            vec![Instruction { generation: document.generation, slots: slots(*current, *backup) }]
        }
        Stage::Staged { current, next, .. } => {
            vec![Instruction { generation: document.generation, slots: slots(*current, Some(*next)) }]
        }
        Stage::Promoted { current, next, staged_generation, .. } => vec![
            Instruction { generation: document.generation, slots: slots(*next, Some(*current)) },
            Instruction { generation: *staged_generation, slots: slots(*current, Some(*next)) },
        ],
    }
}

/// Whether the node has acknowledged what it is told now (rule 8).
#[must_use]
pub fn has_acked(document: &Document, node: &NodeId, record: &NodeRecord) -> bool {
    let Some(report) = &record.report else { return false };
    let Some(told) = told(document, node, report.slot_count) else { return false };
    report.acknowledges(&document.pool_id, &told)
}

/// Takes the next node in the order into the wave if no present, acked, required node is newly in it (rule 12).
///
/// `before` says who was in the waves that were already open.  Without any present node the wave stays as it is: the
/// barrier waits anyway.
pub fn take_in(snapshot: &Snapshot, epoch: Epoch, wave: &mut Wave, before: Option<&Wave>, presence: &Presence) {
    let document = &snapshot.document;
    let ready = |node: &NodeId, record: &NodeRecord| {
        record.is_required() && !presence.absent.contains(node) && has_acked(document, node, record)
    };
    let was_opened = |node: &NodeId| before.is_some_and(|wave| is_opened(document, epoch, wave, node));
    let mut candidates: Vec<&NodeId> = snapshot
        .nodes
        .iter()
        .filter(|(node, record)| ready(node, record) && !was_opened(node))
        .map(|(node, _)| node)
        .collect();
    if candidates.iter().any(|node| is_opened(document, epoch, wave, node)) {
        return;
    }
    candidates.sort_by_key(|node| order(&document.pool_id, epoch, node));
    if let Some(first) = candidates.first() {
        wave.taken_in.insert((*first).clone());
    }
}
