//! A walk through a pool's life that is a pure function of a seed: two stores that take the same steps are equal, and a
//! process that was killed can be compared with one that was not.

use std::collections::{BTreeMap, BTreeSet};

use tfo_crypto::fingerprint::fingerprint;
use tfo_engine::rollout::document::{
    Actor, AuditEntry, BarrierCount, Document, KeyRing, Pause, PauseCause, Proposal, Snapshot, Stage, Wave,
};
use tfo_engine::rollout::history::Written;
use tfo_engine::rollout::parts::{About, Ack, Beat, Entry, Excluded, Later, Parts, PoolContent, Stamp, Writer, Writes};
use tfo_engine::rollout::policy::{Policy, Share, WaveRule};
use tfo_engine::rollout::record::{Exclusion, Installed, Report, SlotCount};
use tfo_engine::rollout::slots::PoolKey;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::Action;
use tfo_model::ids::{CoordinatorName, NodeId, PoolId, PoolName};
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_model::node::{KeySource, Session};
use tfo_model::time::UnixTime;
use tfo_store::{ChainHead, CommitError, Head, PoolImage, PoolState, ReadStore, Store};
use tfo_testbed::random::Dice;

/// Dice for one test, or one part of it.
pub(crate) fn dice(seed: u64, index: u64) -> Dice {
    let mut dice = Dice::new(seed ^ index.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    dice.roll();
    dice
}

pub(crate) fn pool_name(name: &str) -> PoolName {
    name.parse().unwrap()
}

pub(crate) fn node(number: u64) -> NodeId {
    format!("cp{number}.example.org").parse().unwrap()
}

fn pool_id(seed: u64) -> PoolId {
    format!("{seed:032x}").parse().unwrap()
}

/// The key of an epoch, of the seed.
pub(crate) fn key(seed: u64, epoch: Epoch) -> TfoKey {
    let mut rng = dice(!seed, epoch.get());
    let mut bytes = (u128::from(rng.roll()) << 64 | u128::from(rng.roll())).to_be_bytes();
    TfoKey::take(&mut bytes)
}

pub(crate) fn named(seed: u64, epoch: Epoch) -> PoolKey {
    PoolKey { epoch, fingerprint: fingerprint(&key(seed, epoch)) }
}

/// All keys up to this epoch.
pub(crate) fn ring(seed: u64, last: Epoch) -> KeyRing {
    let mut ring = KeyRing::default();
    for ordinal in 1..=last.get() {
        let epoch = Epoch::new(ordinal).unwrap();
        ring.insert(epoch, key(seed, epoch));
    }
    ring
}

pub(crate) fn new_document(seed: u64) -> Document {
    let policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    Document::new(pool_id(seed), policy, UnixTime::from_secs(1_700_000_000))
}

/// Makes an empty pool.
pub(crate) fn make(store: &dyn Store, pool: &PoolName, seed: u64) -> Result<(), CommitError> {
    let content = PoolContent::new(new_document(seed), Parts::default());
    store.create(pool, &PoolImage { content: &content, keys: &KeyRing::default(), audit: &[] })
}

pub(crate) fn coordinator(number: u64) -> CoordinatorName {
    format!("coordinator{number}.example.org").parse().unwrap()
}

/// The hand of a coordinator, as it would be after its last beat.
pub(crate) fn hand(store: &dyn ReadStore, pool: &PoolName, by: &CoordinatorName) -> Writer {
    let stored = store.load(pool).unwrap();
    stored.map_or_else(|| Writer::new(by.clone()), |stored| hand_in(&stored, by))
}

/// The same, as this state has it.
fn hand_in(stored: &PoolState, by: &CoordinatorName) -> Writer {
    Writer { name: by.clone(), last: stored.content.parts().stamp(by) }
}

/// The next beat of a coordinator.
pub(crate) fn beat(before: Option<Stamp>) -> Beat {
    let stamp = before.map_or_else(|| Stamp::taken_over(None), Stamp::next);
    Beat {
        stamp,
        vouches: stamp.number > 1,
        at: UnixTime::from_secs(1_700_000_000 + stamp.number),
        tally: None,
        about: About::default(),
    }
}

/// What is stored of a node's sync: it only reports, so no barrier waits for it.
pub(crate) fn ack(syncs: u64) -> Ack {
    let report = Report {
        fence: None,
        installed: Installed::ReadBack,
        foreign: None,
        slot_count: SlotCount::Two,
        next_sync_secs: 30,
        counters: None,
        seen: Generation::ZERO,
        source: KeySource::Derive,
        holds: None,
    };
    Ack { report: report.into(), syncs, window: None, baseline: None, at: UnixTime::from_secs(1_700_000_000 + syncs) }
}

/// The next sync of each node at this coordinator: the first of a session, or a later one in its own.
pub(crate) fn touch(snapshot: &Snapshot, by: &CoordinatorName, nodes: impl IntoIterator<Item = NodeId>) -> Writes {
    let mut writes = Writes::default();
    for node in nodes {
        let record = snapshot.nodes.get(&node);
        let (syncs, session) = record.map_or((0, None), |record| (record.syncs, record.session));
        let ack = ack(syncs + 1);
        match (record, session) {
            (Some(record), Some(session)) if record.coordinator.as_ref() == Some(by) && syncs % 3 != 0 => {
                writes.acks.insert(node, Later { session, ack, silent: false }.into());
            }
            _ => {
                let session = Session { ordinal: session.map_or(1, |before| before.ordinal + 1), nonce: syncs };
                let answers = record.and_then(|record| record.exclusion);
                writes.entries.insert(node, Entry { session, answers, first: ack }.into());
            }
        }
    }
    writes
}

/// Adds an exclusion to a proposal.
pub(crate) fn exclude(proposal: &mut Proposal, snapshot: &Snapshot, node: &NodeId) {
    let closes = snapshot.nodes.get(node).and_then(|record| record.session);
    let (revision, at) = (proposal.document.revision, proposal.audit.at);
    proposal.exclusions.insert(node.clone(), Excluded { cause: Exclusion::Absent, closes, revision, at });
}

/// The document with the next revision, and an audit entry about it.
pub(crate) fn proposal(stored: &Document, change: impl FnOnce(&mut Document) -> Action) -> Proposal {
    let mut document = stored.clone();
    document.revision = stored.revision.next().unwrap();
    let action = change(&mut document);
    let audit = AuditEntry {
        at: document.since,
        revision: document.revision,
        generation: document.generation,
        phase: document.stage.phase(),
        actor: Actor::Engine,
        action,
        nodes: BTreeSet::new(),
        more: 0,
        reason: String::new(),
        barrier: BarrierCount { required: 1, needed: 1, behind: 0 },
    };
    Proposal { expected: stored.revision, document, exclusions: BTreeMap::new(), dropped: BTreeSet::new(), audit }
}

/// The next move of a rotation: Empty, Steady, Staged, Promoted, Steady; each full round erases a key.
pub(crate) fn rotate(seed: u64, document: &mut Document) -> Action {
    let fresh = |document: &mut Document| {
        let epoch = document.next_epoch;
        document.next_epoch = epoch.next().unwrap();
        named(seed, epoch)
    };
    document.generation = document.generation.next().unwrap();
    let (stage, action) = match document.stage.clone() {
        Stage::Empty => (Stage::Steady { current: fresh(document), backup: None }, Action::FirstKey),
        Stage::Steady { current, backup } => {
            (Stage::Staged { current, next: fresh(document), prior_backup: backup }, Action::Rotate)
        }
        Stage::Staged { current, next, .. } => {
            let wave = Wave {
                rules: vec![WaveRule::Share(Share::ALL)],
                opened: 0,
                taken_in: BTreeSet::new(),
                opened_at: document.since,
                health_waived: false,
            };
            (Stage::Promoted { current, next, staged_generation: document.generation, wave }, Action::Promote)
        }
        Stage::Promoted { current, next, .. } => {
            (Stage::Steady { current: next, backup: Some(current) }, Action::Settle)
        }
    };
    document.stage = stage;
    action
}

/// Step `index` of the walk, on whatever the store holds.  Commits, admissions and batches of acks; never a conflict.
pub(crate) fn step(store: &dyn Store, pool: &PoolName, seed: u64, index: u64) -> Result<(), CommitError> {
    let Some(state) = store.load(pool)? else { return make(store, pool, seed) };
    let (mut rng, snapshot) = (dice(seed, index), state.content.snapshot());
    let keys = ring(seed, snapshot.document.next_epoch);
    let by = coordinator(rng.below(2));
    let mut writes = match rng.below(10) {
        0..5 => {
            let mut proposal = proposal(&snapshot.document, |document| rotate(seed, document));
            for _ in 0..rng.below(3) {
                exclude(&mut proposal, snapshot, &node(rng.below(20)));
            }
            let _erasure = store.commit(pool, &hand_in(&state, &coordinator(1)), &proposal, &keys)?;
            return Ok(());
        }
        5 => {
            let proposal = proposal(&snapshot.document, |document| {
                document.paused = if document.paused.is_none() { Some(pause()) } else { None };
                if document.paused.is_some() { Action::Pause } else { Action::Resume }
            });
            let _erasure = store.commit(pool, &hand_in(&state, &coordinator(1)), &proposal, &keys)?;
            return Ok(());
        }
        6 => Writes { removed: [node(rng.below(20))].into(), ..Writes::default() },
        7 => touch(snapshot, &by, [node(rng.below(20))]),
        _ => {
            let first = rng.below(10);
            touch(snapshot, &by, (first..first + 10).map(node))
        }
    };
    writes.beat = index.is_multiple_of(3).then(|| beat(state.content.parts().stamp(&by)));
    store.write(pool, &hand_in(&state, &by), &writes)
}

/// Everything that a store says about a pool, to be compared.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) head: Head,
    pub(crate) content: PoolContent,
    pub(crate) keys: BTreeMap<Epoch, KeyFingerprint>,
    pub(crate) audit: Vec<AuditEntry>,
}

pub(crate) fn see(store: &dyn ReadStore, pool: &PoolName) -> Option<Seen> {
    let PoolState { head, content, keys, .. } = store.load(pool).unwrap()?;
    // The mark is another one in each store.
    let head = Head { mark: 0, ..head };
    let keys = keys.epochs().map(|epoch| (epoch, fingerprint(keys.key(epoch).unwrap()))).collect();
    let mut audit: Vec<AuditEntry> = Vec::new();
    loop {
        let after = audit.last().map_or(Revision::ZERO, |last| last.revision);
        let page = store.audit(pool, after).unwrap();
        if page.is_empty() {
            return Some(Seen { head, content, keys, audit });
        }
        audit.extend(page);
    }
}

/// The audit log as it is stored.
pub(crate) fn links(store: &dyn ReadStore, pool: &PoolName) -> Vec<Written> {
    let mut links: Vec<Written> = Vec::new();
    loop {
        let after = links.last().map_or(Revision::ZERO, |last| last.link().entry.revision);
        let page = store.chain(pool, after).unwrap().unwrap().rows;
        if page.is_empty() {
            return links;
        }
        links.extend(page.iter().map(|row| row.written().unwrap()));
    }
}

/// These entries as a log about one document.
pub(crate) fn linked(document: &Document, entries: &[AuditEntry]) -> Vec<Written> {
    let mut chain = ChainHead::start(&document.pool_id);
    entries.iter().map(|entry| chain.add(document, entry.clone(), u64::MAX)).collect()
}

/// A pause by an operator.
pub(crate) fn pause() -> Pause {
    let cause = PauseCause::Operator { operator: "alice".parse().unwrap(), reason: "a test".to_owned() };
    Pause { since: UnixTime::from_secs(0), cause }
}
