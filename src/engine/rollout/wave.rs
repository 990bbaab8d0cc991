//! Instructions, and the waves of a promotion (docs/protocol.md#rule-12; rules 3, 8, 16).
//!
//! A node's place in the order of a rotation is a hash of (`pool_id`, epoch, node): fixed for the rotation and
//! different in the next, so the same nodes do not always lead.  Must not know: which nodes are present (that is passed
//! in).
//!
//! | stage | a two-slot node holds | a one-slot node holds |
//! |---|---|---|
//! | Empty | nothing | nothing |
//! | Steady(c, b) | `[c,b]` | `[c,-]` |
//! | Staged(c→x) | `[c,x]` | `[c,-]` |
//! | Promoted(c→x) | in the opened waves `[x,c]`, otherwise `[c,x]` | `[c,-]`, after the last wave opened `[x,-]` |

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::document::{Document, Snapshot, Stage, Wave};
use super::policy::{Share, WaveRule};
use super::presence::Presence;
use super::record::{NodeRecord, SlotCount};
use super::slots::{Instruction, PoolKey, Slots};
use tfo_model::count::Epoch;
use tfo_model::ids::{NodeId, PoolId};

/// Key of the hash that orders nodes; not a secret.
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
        WaveRule::Share(share) => {
            let place = (u128::from(order(pool_id, epoch, node)) * u128::from(Share::ALL.ppm())) >> 64;
            place < u128::from(share.ppm())
        }
    }
}

/// Whether the waves that are open include this node.  The last wave includes all nodes.
#[must_use]
pub fn is_opened(document: &Document, epoch: Epoch, wave: &Wave, node: &NodeId) -> bool {
    wave.is_last()
        || wave.taken_in.contains(node)
        || wave.rules.iter().take(wave.opened + 1).any(|rule| fits(rule, &document.pool_id, epoch, node))
}

/// The instruction of this node; none while the pool has no key.
///
/// A one-slot node gets its primary alone, and the new one only in the last wave (rule 16).
#[must_use]
pub fn instruction_for(document: &Document, node: &NodeId, slot_count: SlotCount) -> Option<Instruction> {
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

/// The instructions of all two-slot nodes, newest first: what a report is compared with.
#[must_use]
pub fn instructions(document: &Document) -> Vec<Instruction> {
    let generation = document.generation;
    let instruction = |generation, primary, backup| Instruction { generation, slots: Slots { primary, backup } };
    match &document.stage {
        Stage::Empty => Vec::new(),
        Stage::Steady { current, backup } => vec![instruction(generation, *current, *backup)],
        Stage::Staged { current, next, .. } => vec![instruction(generation, *current, Some(*next))],
        Stage::Promoted { current, next, staged_generation, .. } => {
            vec![instruction(generation, *next, Some(*current)), instruction(*staged_generation, *current, Some(*next))]
        }
    }
}

/// Whether the node has acknowledged its present instruction (rule 8).
#[must_use]
pub fn has_acked(document: &Document, node: &NodeId, record: &NodeRecord) -> bool {
    let Some(report) = &record.report else { return false };
    let instruction = instruction_for(document, node, report.slot_count);
    instruction.is_some_and(|instruction| report.acknowledges(&document.pool_id, &instruction))
}

/// Takes the next node in the order into the wave unless a present, required node that has acknowledged is newly in it
/// (rule 12).
///
/// `before` is the wave that was already open.  Without any present node the wave stays as it is: the barrier waits
/// anyway.
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
