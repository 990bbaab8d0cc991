//! Tables of (state, input) -> (state, effects).  Every transition of docs/protocol.md#rule-3 has a refused twin.

mod abort;
mod barrier;
mod beside;
mod bounds;
mod calendar;
mod commands;
mod document;
mod ears;
mod gates;
mod holds;
mod looks;
mod members;
mod moves;
mod nodes;
mod parts;
mod presence;
mod privacy;
mod proposed;
mod refusals;
mod reporting;
mod sentences;
mod siege;
mod verdict;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, Pause, PauseCause, Proposal, Snapshot, Stage, Wave};
use super::handle;
use super::input::{Command, Expectation, Input, Now, OperatorRequest, Reason, Refused, Step, Wait};
use super::parts::{Ack, Entry, Excluded, Parts, PoolContent, Shared, Writes};
use super::policy::{NamePattern, Policy, Share, WaveRule};
use super::presence::Presence;
use super::record::{Exclusion, Installed, Membership, NodeRecord, Report, SlotCount, Window};
use super::slots::{Fence, PoolKey, Slots};
use super::sync::{Answer, PoolView, Recording, Sync, SyncRefused};
use super::wave::instruction_for;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::Action;
use tfo_model::ids::{CoordinatorName, NodeId, PoolId};
use tfo_model::key::KeyFingerprint;
use tfo_model::node::{Counters, Expected, KeySource, Session};
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// A day after the document's last change: a rotation is due, and the backup is drained by time.
const NOW: UnixTime = UnixTime::from_secs(200_000);

fn pool_id() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn fingerprint(number: u64) -> KeyFingerprint {
    KeyFingerprint::from_bytes(number.to_be_bytes())
}

fn key(epoch: u64) -> PoolKey {
    PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint: fingerprint(epoch) }
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn nodes(names: &[&str]) -> BTreeSet<NodeId> {
    names.iter().map(|name| node(name)).collect()
}

fn policy() -> Policy {
    let mut policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    policy.promote_waves = vec![WaveRule::Share(Share::ALL)];
    policy
}

fn document(stage: Stage) -> Document {
    let mut document = Document::new(pool_id(), policy(), UnixTime::from_secs(0));
    document.revision = Revision::new(10);
    document.generation = if stage == Stage::Empty { Generation::ZERO } else { Generation::new(5) };
    document.next_epoch = if stage == Stage::Empty { Epoch::FIRST } else { Epoch::new(4).unwrap() };
    document.stage = stage;
    document
}

fn steady() -> Stage {
    Stage::Steady { current: key(2), backup: Some(key(1)) }
}

fn staged() -> Stage {
    Stage::Staged { current: key(2), next: key(3), prior_backup: Some(key(1)) }
}

fn promoted(opened: usize, rules: &[&str]) -> Stage {
    let named = rules.iter().map(|rule| WaveRule::Names(rule.parse::<NamePattern>().unwrap()));
    let rules = named.chain([WaveRule::Share(Share::ALL)]).collect();
    let opened_at = UnixTime::from_secs(0);
    let wave = Wave { rules, opened, taken_in: BTreeSet::new(), opened_at, health_waived: false };
    Stage::Promoted { current: key(2), next: key(3), staged_generation: Generation::new(4), wave }
}

fn report(fence: Option<Fence>) -> Report {
    Report {
        fence,
        installed: Installed::ReadBack,
        foreign: None,
        slot_count: SlotCount::Two,
        next_sync_secs: 30,
        counters: None,
        seen: Generation::ZERO,
        source: KeySource::Coordinator,
        holds: None,
    }
}

fn sync(ordinal: u64, report: impl Into<Shared<Report>>) -> Sync {
    Sync { session: Session { ordinal, nonce: 1 }, seen: Generation::ZERO, report: report.into() }
}

fn answer(snapshot: &Snapshot, presence: &Presence, node: &NodeId, sync: &Sync) -> Result<Answer, SyncRefused> {
    PoolView::of(snapshot, presence).answer(snapshot, node, sync)
}

fn admitted(fence: Option<Fence>) -> NodeRecord {
    NodeRecord {
        silent: false,
        syncs: 3,
        membership: Membership::Admitted,
        exclusion: None,
        coordinator: Some(by()),
        session: Some(Session { ordinal: 1, nonce: 1 }),
        report: Some(report(fence).into()),
        window: None,
        baseline: None,
        last_report_at: Some(UnixTime::from_secs(0)),
    }
}

/// The coordinator of all nodes.
fn by() -> CoordinatorName {
    "coordinator.example.org".parse().unwrap()
}

/// The parts of which these records are made.
fn content(snapshot: &Snapshot) -> PoolContent {
    let mut parts = Parts::default();
    let mut writes = Writes::default();
    for (node, record) in &snapshot.nodes {
        let excluded = |cause| Excluded {
            cause,
            closes: record.session,
            revision: record.exclusion.expect("a commit excluded it"),
            at: record.last_report_at.unwrap_or(UnixTime::from_secs(0)),
        };
        if let Membership::Excluded(cause) = record.membership {
            parts.exclusions.insert(node.clone(), excluded(cause));
        }
        if let (Some(session), Some(report), Some(at)) = (record.session, record.report.clone(), record.last_report_at)
        {
            let NodeRecord { syncs, window, baseline, exclusion, .. } = *record;
            let answers = exclusion.filter(|_| record.membership == Membership::Admitted);
            let first = Ack { report, syncs, window, baseline, at };
            writes.entries.insert(node.clone(), Entry { session, answers, first }.into());
        }
    }
    parts.write(&by(), &writes);
    PoolContent::new(snapshot.document.clone(), parts)
}

/// An earlier commit excluded the node.
fn take_out(snapshot: &mut Snapshot, name: &str, cause: Exclusion) {
    let record = snapshot.nodes.get_mut(&node(name)).unwrap();
    record.membership = Membership::Excluded(cause);
    record.exclusion = Some(Revision::new(9));
}

/// The pool once this is committed.
fn after_commit(snapshot: &Snapshot, proposal: &Proposal) -> Snapshot {
    let mut content = content(snapshot);
    content.commit(proposal);
    content.snapshot().clone()
}

/// The pool once this is stored.
fn after_sync(snapshot: &Snapshot, name: &str, recording: Recording) -> Snapshot {
    let (mut content, mut writes) = (content(snapshot), Writes::default());
    match recording {
        Recording::First(entry) => drop(writes.entries.insert(node(name), entry.into())),
        Recording::Later(later) => drop(writes.acks.insert(node(name), later.into())),
        Recording::Stale => panic!("stale"),
    }
    content.write(&by(), &writes);
    content.snapshot().clone()
}

/// What is stored of a sync.
fn ack_of(recording: Recording) -> Ack {
    match recording {
        Recording::First(entry) => entry.first,
        Recording::Later(later) => later.ack,
        Recording::Stale => panic!("stale"),
    }
}

fn acked(document: &Document, name: &str) -> NodeRecord {
    let instruction = instruction_for(document, &node(name), SlotCount::Two);
    admitted(instruction.map(|instruction| Fence::of(pool_id(), &instruction)))
}

/// A pool whose nodes `here` have acknowledged, and whose nodes `behind` have not.
fn pool(document: Document, here: &[&str], behind: &[&str]) -> Snapshot {
    let mut nodes = BTreeMap::new();
    for name in here {
        nodes.insert(node(name), acked(&document, name));
    }
    let old = Slots { primary: key(1), backup: None };
    for name in behind {
        let fence = Fence { pool_id: pool_id(), generation: Generation::new(1), slots: old };
        nodes.insert(node(name), admitted(Some(fence)));
    }
    Snapshot { document, nodes, beats: BTreeMap::new() }
}

fn of(stage: Stage) -> Snapshot {
    pool(document(stage), &["a", "b"], &[])
}

fn with_behind(stage: Stage) -> Snapshot {
    pool(document(stage), &["a"], &["b"])
}

/// Every node that a test here names.
const ALL_NODES: [&str; 13] = ["a", "b", "c", "d", "e", "evil", "f", "g", "h", "late", "new", "never-seen", "one"];

/// A coordinator that has seen all nodes, long after everything.
fn presence() -> Presence {
    Presence { seen: nodes(&ALL_NODES), phase_secs: 100, wave_secs: 100, ..Presence::default() }
}

/// The same, except for these.
fn blind_to(names: &[&str]) -> Presence {
    let mut presence = presence();
    presence.seen.retain(|node| !names.contains(&node.as_str()));
    presence
}

fn tick(snapshot: &Snapshot) -> Step {
    tick_with(snapshot, &presence())
}

fn tick_with(snapshot: &Snapshot, presence: &Presence) -> Step {
    handle(snapshot, Now { wall: NOW, presence }, &Input::Tick, Some(fingerprint(4))).unwrap()
}

fn order_with(snapshot: &Snapshot, presence: &Presence, command: Command) -> Result<Step, Refused> {
    let order =
        OperatorRequest { operator: node("ops.example.org"), reason: "because".to_owned(), if_revision: None, command };
    handle(snapshot, Now { wall: NOW, presence }, &Input::Request(order), Some(fingerprint(4)))
}

/// The pause that [`order`] makes.
fn pause() -> Pause {
    let cause = PauseCause::Operator { operator: node("ops.example.org"), reason: "because".to_owned() };
    Pause { since: NOW, cause }
}

fn order(snapshot: &Snapshot, command: Command) -> Result<Step, Refused> {
    order_with(snapshot, &presence(), command)
}

fn committed(step: Step) -> Proposal {
    let Step::Commit(proposal) = step else { panic!("no commit: {step:?}") };
    assert_eq!(proposal.document.revision.get(), proposal.expected.get() + 1, "every commit raises the revision once");
    *proposal
}

fn waits(step: Step) -> Wait {
    let Step::Wait(wait) = step else { panic!("no wait: {step:?}") };
    wait
}

fn refused(result: Result<Step, Refused>) -> Reason {
    result.unwrap_err().reason
}

/// How much the generation rose.
fn rise(snapshot: &Snapshot, proposal: &Proposal) -> u64 {
    proposal.document.generation.get() - snapshot.document.generation.get()
}

fn exclude(names: &[&str], until: UnixTime) -> Command {
    Command::Exclude { nodes: nodes(names), until }
}

fn deny(names: &[&str]) -> Command {
    Command::Deny { nodes: nodes(names) }
}

fn forget(names: &[&str]) -> Command {
    Command::Forget { nodes: nodes(names), expected: Expectation::Keep }
}

fn expect_number(number: usize) -> Expected {
    Expected::Number(number)
}
