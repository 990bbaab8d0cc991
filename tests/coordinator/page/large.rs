//! A pool of ten thousand nodes: what a page weighs, and how much of it is shown.

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
use tfo_testbed::config::{FAST, kek};
use tfo_testbed::coordinator::World;

use super::{found, page};

const NODES: usize = 10_000;
/// Nodes whose kernels hold other keys than they were given.
const DRIFTED: usize = 120;
/// What no page may exceed.
const PAGE_BYTES_MAX: usize = 100 << 10;
/// Nodes on one page.
const ROWS_MAX: usize = 50;

fn key(epoch: u64) -> (PoolKey, TfoKey) {
    let mut bytes = [u8::try_from(epoch).unwrap(); TfoKey::BYTES];
    let key = TfoKey::take(&mut bytes);
    (PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint: fingerprint(&key) }, key)
}

fn name(index: usize) -> NodeId {
    // As long as a name may be: 253 bytes.
    let long = ["n".repeat(63), "m".repeat(63), "k".repeat(63)].join(".");
    let name = format!("cp{index:05}.{long}.cache.example.org");
    format!("{}{name}", "a".repeat(253 - name.len())).parse().unwrap()
}

/// A steady pool whose nodes have reported once.
fn large_world() -> World {
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
        installed: if index % (NODES / DRIFTED) == 1 { Installed::Drifted } else { Installed::ReadBack },
        foreign: None,
        slot_count: SlotCount::Two,
        next_sync_secs: 60,
        counters: Some(Counters { passive: 10, passive_alt_key: 2, passive_fail: 1 }),
        seen: document.generation,
        source: KeySource::Coordinator,
        holds: Some(slots.prints()),
    };
    let entry = |index: usize| {
        let ack = Ack { report: report(index), syncs: 1, window: None, baseline: None, at: clock::now() };
        Entry { session: Session { ordinal: 1, nonce: 1 }, answers: None, first: ack }
    };
    let entries: BTreeMap<_, _> = (0..NODES).map(|index| (name(index), entry(index))).collect();
    let roster = Roster { entries, ..Roster::default() };
    let rosters = [("coordinator".parse().unwrap(), roster)].into();
    let content = PoolContent::new(document, Parts { rosters, ..Parts::default() });
    store.create(&"edge".parse().unwrap(), &PoolImage { content: &content, keys: &keys, audit: &[] }).unwrap();
    world
}

#[test]
fn ten_thousand_nodes_with_the_longest_names_fit_on_small_pages() {
    let mut world = large_world();
    world.start();
    let rows = |body: &str| found(body, "<tr id=\"node-([^\"]*)\"").into_iter().map(str::to_owned).collect::<Vec<_>>();
    let shown = |path: &str| {
        let begun = tfo_testbed::now();
        let body = page(&world, path);
        println!("{path}: {} bytes after {:?}", body.len(), begun.elapsed());
        assert!(body.len() <= PAGE_BYTES_MAX, "{path}: {} bytes", body.len());
        let rows = rows(&body);
        assert!(rows.len() <= ROWS_MAX, "{path}: {} rows", rows.len());
        (body, rows)
    };
    let (first, _) = shown("/");
    assert!(first.contains("All 10000 nodes") && first.contains("10000 nodes report their keys"), "{first}");
    assert!(first.contains("of 10000 nodes have not reported since this coordinator started"), "{first}");
    let (_, mut listed) = shown("/pools/edge/nodes?state=drifted");
    assert_eq!(listed.len(), ROWS_MAX);
    for page in 2..=3 {
        listed.extend(shown(&format!("/pools/edge/nodes?state=drifted&page={page}")).1);
    }
    listed.sort();
    listed.dedup();
    // The pages have each of them once.
    let all = (0..NODES).filter(|index| index % (NODES / DRIFTED) == 1).count();
    assert_eq!(listed.len(), all);
    let (body, rows) = shown("/pools/edge/nodes?page=200");
    assert!(rows.len() == ROWS_MAX && body.contains("Page 200 of 200"), "{body}");
    let (_, rows) = shown("/pools/edge/nodes?search=cp07123.");
    assert_eq!(rows, [name(7_123).to_string()]);
    shown(&format!("/pools/edge/nodes/{}", name(7_123)));
    shown("/pools/edge/audit");
}
