//! A world whose store has a large pool, made without its nodes: what a coordinator shows of it is tested and measured.

use std::collections::BTreeMap;

use tfo_crypto::fingerprint::fingerprint;
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_engine::rollout::document::{Document, KeyRing, Stage};
use tfo_engine::rollout::parts::{Ack, Entry, Parts, PoolContent, Roster};
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::record::{Installed, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, PoolKey, Slots};
use tfo_host::runtime::clock;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::ids::NodeId;
use tfo_model::key::TfoKey;
use tfo_model::node::{Counters, KeySource, Session};
use tfo_store::{PoolImage, SqliteStore, Store};

use crate::config::{FAST, kek};
use crate::coordinator::World;

/// Every so-manieth node's kernel holds other keys than it was given, from the second one on.
pub const DRIFTED_EVERY: usize = 83;

fn key(epoch: u64) -> (PoolKey, TfoKey) {
    let mut bytes = [u8::try_from(epoch).unwrap(); TfoKey::BYTES];
    let key = TfoKey::take(&mut bytes);
    (PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint: fingerprint(&key) }, key)
}

/// A node's name, as long as one may be: 253 bytes.
pub fn name(index: usize) -> NodeId {
    let long = ["n".repeat(63), "m".repeat(63), "k".repeat(63)].join(".");
    let name = format!("cp{index:05}.{long}.cache.example.org");
    format!("{}{name}", "a".repeat(253 - name.len())).parse().unwrap()
}

/// A steady pool of so many nodes with the longest names, which have reported once; nothing runs.
pub fn large_world(nodes: usize) -> World {
    let world = World::new(FAST);
    let store = SqliteStore::open(&world.path("state.db"), KeyEncryptionKey::from_bytes(&kek()).unwrap()).unwrap();
    let policy = Policy::with_defaults(vec!["*.cache.example.org".parse().unwrap()]);
    let mut document = Document::new(format!("{:032x}", 7).parse().unwrap(), policy, clock::now());
    let ((old, old_bytes), (new, new_bytes)) = (key(1), key(2));
    let slots = Slots { primary: new, backup: Some(old) };
    document.stage = Stage::Steady { current: new, backup: Some(old) };
    document.next_epoch = Epoch::new(3).unwrap();
    (document.generation, document.revision) = (Generation::new(4), Revision::new(9));
    let mut keys = KeyRing::default();
    keys.insert(old.epoch, old_bytes);
    keys.insert(new.epoch, new_bytes);
    let report = |index: usize| Report {
        fence: Some(Fence { pool_id: document.pool_id, generation: document.generation, slots }),
        installed: if index % DRIFTED_EVERY == 1 { Installed::Drifted } else { Installed::ReadBack },
        foreign: None,
        slot_count: SlotCount::Two,
        next_sync_secs: 60,
        counters: Some(Counters { passive: 10, passive_alt_key: 2, passive_fail: 1 }),
        seen: document.generation,
        source: KeySource::Coordinator,
        holds: None,
    };
    let entry = |index: usize| {
        let ack = Ack { report: report(index).into(), syncs: 1, window: None, baseline: None, at: clock::now() };
        Entry { session: Session { ordinal: 1, nonce: 1 }, answers: None, first: ack }.into()
    };
    let entries: BTreeMap<_, _> = (0..nodes).map(|index| (name(index), entry(index))).collect();
    let roster = Roster { entries, ..Roster::default() };
    let rosters = [("coordinator".parse().unwrap(), roster)].into();
    let content = PoolContent::new(document, Parts { rosters, ..Parts::default() });
    store.create(&"edge".parse().unwrap(), &PoolImage { content: &content, keys: &keys, audit: &[] }).unwrap();
    world
}
