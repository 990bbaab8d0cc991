//! From where a world's numbers are counted, and everything that is in sight in it.

use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::slots::{PoolKey, Slots};
use tfo_model::count::Generation;

use super::stored::Stored;
use super::world::{Coordinator, Reply, World};

/// What is stored, and what coordinators have of it.
pub(super) fn copies(world: &World) -> impl Iterator<Item = &Stored> {
    let held = world.coordinators.iter().flat_map(|coordinator| [&coordinator.copy, &coordinator.next]);
    [&world.store].into_iter().chain(held.flatten()).map(|stored| &**stored)
}

/// Lowest generation and epoch anywhere in the world.
pub(super) fn bases(world: &World) -> (u64, u64) {
    let (mut generation, mut epoch) = (u64::MAX, u64::MAX);
    let mut key = |key: PoolKey| epoch = epoch.min(key.epoch.get());
    let mut see = |told: Generation, slots: Option<&Slots>| {
        if told != Generation::ZERO {
            generation = generation.min(told.get());
        }
        if let Some(slots) = slots {
            key(slots.primary);
            slots.backup.map(&mut key);
        }
    };
    let mut snapshots = vec![world.store.clone()];
    snapshots.extend(world.backup.clone());
    for coordinator in &world.coordinators {
        snapshots.extend([&coordinator.cache, &coordinator.copy, &coordinator.next].into_iter().flatten().cloned());
    }
    for snapshot in &snapshots {
        see(snapshot.document.generation, None);
        if let Stage::Promoted { staged_generation, .. } = &snapshot.document.stage {
            see(*staged_generation, None);
        }
        for held in snapshot.document.keys_held() {
            see(Generation::ZERO, Some(&Slots { primary: held, backup: None }));
        }
        let fences = snapshot.nodes.values().filter_map(|record| record.report.as_ref()?.fence.as_ref());
        fences.for_each(|fence| see(fence.generation, Some(&fence.slots)));
        let reports = snapshot.nodes.values().filter_map(|record| record.report.as_ref());
        reports.for_each(|report| see(report.seen, None));
        // Where copies lag, older entries of other rosters are in sight, too.
        let entries = snapshot.content.parts().rosters.values().flat_map(|roster| roster.entries.values());
        for report in entries.map(|entry| &entry.first.report) {
            see(report.seen, None);
            if let Some(fence) = &report.fence {
                see(fence.generation, Some(&fence.slots));
            }
        }
    }
    let undecided = |coordinator: &Coordinator| [coordinator.pending.clone(), coordinator.open.clone()];
    for proposal in world.coordinators.iter().flat_map(undecided).flatten() {
        see(proposal.document.generation, None);
        // It may be one that was made from a copy which is long behind.
        if let Stage::Promoted { staged_generation, .. } = &proposal.document.stage {
            see(*staged_generation, None);
        }
        for held in proposal.document.keys_held() {
            see(Generation::ZERO, Some(&Slots { primary: held, backup: None }));
        }
    }
    for node in &world.nodes {
        see(node.link.seen(), node.kernel.as_ref());
        for fence in [node.file.as_deref(), node.link.fence()].into_iter().flatten() {
            see(fence.generation, Some(&fence.slots));
        }
        if let Some(told) = node.link.pending() {
            see(told.generation, Some(&told.slots));
        }
    }
    let late = world.late_writes.iter().map(|write| &write.1);
    for sync in world.requests.iter().map(|request| &request.sync).chain(late) {
        see(sync.seen, None);
        if let Some(fence) = &sync.report.fence {
            see(fence.generation, Some(&fence.slots));
        }
    }
    for answer in &world.answers {
        if let Reply::Tell(told) = &answer.reply {
            see(told.generation, Some(&told.slots));
        }
    }
    if let Some(dropped) = world.dropped_backup {
        see(Generation::ZERO, Some(&Slots { primary: dropped, backup: None }));
    }
    (generation, epoch.min(world.store.document.next_epoch.get()))
}
