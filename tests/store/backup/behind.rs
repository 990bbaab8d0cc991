//! A pool from a backup and its nodes, which may be ahead of it.

use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Input, Now, Step};
use tfo_engine::rollout::presence::Life;
use tfo_engine::rollout::record::{Installed, NodeRecord, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, Slots};
use tfo_engine::rollout::sync::{PoolView, Recording, Sync, SyncRefused};
use tfo_model::count::{Epoch, Generation};
use tfo_model::fleet::BlockedBy;
use tfo_model::node::{KeySource, Session};
use tfo_model::time::UnixTime;

use super::*;

/// A sync of a node that holds these slots under this generation.
fn sync_of(document: &Document, generation: Generation, slots: Slots) -> Sync {
    let fence = Fence { pool_id: document.pool_id, generation, slots };
    Sync {
        session: Session { ordinal: 1_000_000_000, nonce: 1 },
        seen: Generation::ZERO,
        report: Report {
            fence: Some(fence),
            installed: Installed::ReadBack,
            foreign: None,
            slot_count: SlotCount::Two,
            next_sync_secs: 60,
            counters: None,
            seen: Generation::ZERO,
            source: KeySource::Coordinator,
            holds: None,
        }
        .into(),
    }
}

#[test]
fn an_imported_pool_waits_for_its_nodes_and_freezes_if_they_are_ahead() {
    let (dir, source, pool) = (tfo_testbed::scratch(), filled(), pool_name("edge"));
    let file = dir.path().join("backup");
    let store = MemoryStore::new();
    // The walk's nodes only report, so none is required: give the pool one that takes keys.
    let told = |store: &MemoryStore| {
        let document = store.document(&pool).unwrap().unwrap().0;
        let Stage::Steady { current, backup } = document.stage else { panic!("it is steady") };
        (document.clone(), Slots { primary: current, backup })
    };
    let wall = UnixTime::from_secs(1_700_000_000);
    let report = |store: &MemoryStore, sync: &Sync| {
        let snapshot = store.load(&pool).unwrap().unwrap().content.snapshot().clone();
        let before: Option<&NodeRecord> = snapshot.nodes.get(&node(77));
        let (by, mut writes) = (coordinator(1), Writes::default());
        match record(&snapshot.document, before, &node(77), sync, (&by, wall)).unwrap() {
            Recording::First(entry) => drop(writes.entries.insert(node(77), entry.into())),
            Recording::Later(later) => drop(writes.acks.insert(node(77), later.into())),
            Recording::Stale => panic!("it says more"),
        }
        store.write(&pool, &hand(store, &pool, &by), &writes).unwrap();
    };
    let (document, slots) = told(&source);
    report(&source, &sync_of(&document, document.generation, slots));
    export(&source, &kek(1), &file, Existing::Keep).unwrap();
    for _ in 0..3 {
        turn(&source, &pool);
    }
    let (ahead, newer) = told(&source);
    assert!(ahead.generation > document.generation);
    import(&store, &kek(1), &file).unwrap();

    let mut life = Life::default();
    let mut look = |store: &MemoryStore, at: u64| {
        let snapshot = store.load(&pool).unwrap().unwrap().content.snapshot().clone();
        life.observe(Duration::from_secs(at), &snapshot);
        let presence = life.presence().clone();
        let fresh = Some(walk::named(SEED, Epoch::new(99).unwrap()).fingerprint);
        let now = Now { wall: UnixTime::from_secs(1_900_000_000), presence: &presence };
        let Ok(Step::Wait(wait)) = handle(&snapshot, now, &Input::Tick, fresh) else { panic!("it moves") };
        (wait, presence, snapshot)
    };
    let (wait, ..) = look(&store, 0);
    assert_eq!(
        (wait.blocked_by, wait.waiting_for),
        (BlockedBy::Barrier, vec![node(77)]),
        "the stored ack counts for nothing"
    );
    let sync = sync_of(&document, ahead.generation, newer);
    report(&store, &sync);
    let (wait, presence, snapshot) = look(&store, 5);
    assert_eq!(wait.blocked_by, BlockedBy::Frozen);
    assert_eq!(PoolView::of(&snapshot, &presence).answer(&snapshot, &node(77), &sync), Err(SyncRefused::Frozen));
}
