//! The judge of histories, judged: a good history of the engine's own making passes, and each thing that is done to it is found.

use std::collections::BTreeMap;

use tfo_crypto::fingerprint::fingerprint;
use tfo_engine::rollout::document::{Document, Proposal};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::history::{Link, Made};
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Step};
use tfo_engine::rollout::parts::{Ack, Entry, Later, Parts, PoolContent, Writes};
use tfo_engine::rollout::policy::{Policy, Share, WaveRule};
use tfo_engine::rollout::presence::Presence;
use tfo_engine::rollout::record::{Installed, Report, SlotCount};
use tfo_engine::rollout::slots::Fence;
use tfo_engine::rollout::wave::instruction_for;
use tfo_model::count::{Epoch, Generation};
use tfo_model::digest::Sha256;
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::key::{KeyFingerprint, PairPrint, TfoKey};
use tfo_model::node::{Expected, KeySource, Session};
use tfo_model::time::UnixTime;
use tfo_testbed::cluster::{POOL, PREFIX};
use tfo_testbed::history::{Event, History, Segment, Shown, Span, Told};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// Each step of the world takes so long, which is more than the second that times are rounded to.
const STEP_SECS: u64 = 10;
const START: u64 = 1_700_000_000;

/// A pool with one coordinator, three nodes that do as they are told, and a store that keeps everything.
struct World {
    content: PoolContent,
    history: History,
    etcd: i64,
    steps: u64,
    chunks: u64,
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn by() -> CoordinatorName {
    "tfo1".parse().unwrap()
}

fn key_of(epoch: Epoch) -> KeyFingerprint {
    fingerprint(&TfoKey::take(&mut [u8::try_from(epoch.get()).unwrap(); 16]))
}

impl World {
    fn new() -> Self {
        let policy = Policy {
            promote_waves: vec![WaveRule::Names("node1".parse().unwrap()), WaveRule::Share(Share::ALL)],
            drain_max_secs: 0,
            health_window_secs: 0,
            ..Policy::with_defaults(vec!["*".parse().unwrap()])
        };
        let document = Document::new(format!("{:032x}", 7).parse().unwrap(), policy, UnixTime::from_secs(START));
        let mut world = Self {
            content: PoolContent::new(document.clone(), Parts::default()),
            history: History::default(),
            etcd: 1,
            steps: 0,
            chunks: 0,
        };
        world.history.segments = vec![Segment { from_ms: START * 1_000, events: Vec::new() }];
        world.store(vec![(key("p", "doc"), json(&document), false)]);
        world
    }

    fn now_secs(&self) -> u64 {
        START + self.steps * STEP_SECS
    }

    fn store(&mut self, pairs: Vec<(String, String, bool)>) {
        self.etcd += 1;
        let revision = self.etcd;
        let events = pairs.into_iter().map(|(key, json, is_new)| Event {
            revision,
            key,
            value: Some(format!("checksum {json}").into_bytes()),
            is_new,
        });
        self.history.segments[0].events.extend(events);
    }

    /// Every node installs what it is told, and acknowledges it; the first time with a session of its own.
    fn all_install(&mut self) {
        for name in NODES {
            self.installs(name);
        }
    }

    fn installs(&mut self, name: &str) {
        self.steps += 1;
        let (node, at_ms) = (node(name), self.now_secs() * 1_000);
        let snapshot = self.content.snapshot();
        let instruction = instruction_for(&snapshot.document, &node, SlotCount::Two);
        let fence = instruction.map(|instruction| Fence::of(snapshot.document.pool_id, &instruction));
        let pair = instruction.map(|instruction| instruction.slots.pair());
        let report = Report {
            seen: instruction.map_or(Generation::ZERO, |instruction| instruction.generation),
            fence,
            installed: Installed::ReadBack,
            foreign: None,
            slot_count: SlotCount::Two,
            next_sync_secs: 30,
            counters: None,
            source: KeySource::Coordinator,
            holds: None,
        };
        let session = Session { ordinal: 1, nonce: 1 };
        let known = snapshot.nodes.get(&node).map_or(0, |record| record.syncs);
        let ack = Ack {
            report: report.into(),
            syncs: known + 1,
            window: None,
            baseline: None,
            at: UnixTime::from_secs(self.now_secs()),
        };
        let mut writes = Writes::default();
        let chunk = if known == 0 {
            let entry = Entry { session, answers: None, first: ack };
            writes.entries.insert(node.clone(), entry.clone().into());
            format!("{{\"entries\":{}}}", json(&BTreeMap::from([(node.clone(), entry)])))
        } else {
            let later = Later { session, ack, silent: false };
            writes.acks.insert(node.clone(), later.clone().into());
            format!("{{\"acks\":{}}}", json(&BTreeMap::from([(node.clone(), later)])))
        };
        self.content.write(&by(), &writes);
        self.chunks += 1;
        self.store(vec![(key("p", &format!("n/tfo1/{:020}", self.chunks)), chunk, true)]);
        let spans = self.history.kernels.entry(node).or_default();
        if let Some(last) = spans.last_mut() {
            last.until_ms = at_ms - 1;
        }
        spans.push(Span { from_ms: at_ms, until_ms: at_ms, pair });
    }

    fn decide(&mut self, input: &Input) -> Option<Proposal> {
        self.steps += 1;
        let snapshot = self.content.snapshot();
        let seen = snapshot.nodes.keys().cloned().collect();
        let presence = Presence { revision: snapshot.document.revision, seen, ..Presence::default() };
        let now = Now { wall: UnixTime::from_secs(self.now_secs()), presence: &presence };
        match handle(snapshot, now, input, Some(key_of(snapshot.document.next_epoch))).unwrap() {
            Step::Commit(proposal) => Some(*proposal),
            Step::Wait(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, proposal: &Proposal, is_order: bool) {
        self.content.commit(proposal);
        let (document, audit) = (&proposal.document, &proposal.audit);
        let log = format!("{:020}", audit.revision.get());
        self.store(vec![(key("p", "doc"), json(document), false), (key("l", &log), linked(proposal), true)]);
        let at_ms = self.now_secs() * 1_000 + 5;
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let phase = text(&serde_json::to_value(document.stage.phase()).unwrap());
        let (revision, generation) = (document.revision.get(), document.generation.get());
        self.history.shown.push(Shown { at_ms, coordinator: 0, revision, generation, phase });
        if is_order {
            let action = text(&serde_json::to_value(audit.action).unwrap());
            self.history.told.push(Told { at_ms, revision, action });
        }
    }

    fn order(&mut self, command: Command) {
        let request = OperatorRequest { operator: node("ops1"), reason: String::new(), if_revision: None, command };
        let proposal = self.decide(&Input::Request(request)).expect("it is allowed");
        self.commit(&proposal, true);
    }

    /// Steps of the walk until the pool waits for its nodes.
    fn tick(&mut self) -> bool {
        let proposal = self.decide(&Input::Tick);
        if let Some(proposal) = &proposal {
            self.commit(proposal, false);
        }
        proposal.is_some()
    }
}

fn key(kind: &str, rest: &str) -> String {
    format!("{PREFIX}{kind}/{POOL}/{rest}")
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// The text of an entry of the audit log, but for the chain, which is judged elsewhere; what was done comes first.
fn linked(proposal: &Proposal) -> String {
    let (none, made) = (Sha256([0; 32]), Made::of(&proposal.document));
    let first = proposal.audit.revision;
    let link = Link { before: none, first, document: none, made, entry: proposal.audit.clone() };
    serde_json::to_value(link).unwrap().to_string()
}

/// A first key and a whole rotation.
fn good() -> History {
    let mut world = World::new();
    world.all_install();
    world.order(Command::FirstKey { expect: Expected::Number(NODES.len()), force: false });
    world.all_install();
    world.order(Command::Resume { force: false });
    world.order(Command::Rotate { force: true });
    while {
        world.all_install();
        world.tick()
    } {}
    world.history
}

/// The place of the commit with this action among the events.
fn place_of(history: &History, action: &str) -> usize {
    let is_it = |event: &Event| {
        let text = String::from_utf8_lossy(event.value.as_deref().unwrap_or_default()).into_owned();
        event.key.starts_with(&key("l", "")) && text.contains(&format!("\"action\":\"{action}\""))
    };
    history.segments[0].events.iter().position(is_it).unwrap_or_else(|| panic!("there is no {action}"))
}

fn edit(event: &mut Event, from: &str, to: &str) {
    let text = String::from_utf8(event.value.take().unwrap()).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    event.value = Some(text.replacen(from, to, 1).into_bytes());
}

#[test]
fn a_history_that_the_engine_made_is_good() {
    let judged = good().must_be_good();
    assert!(judged.commits == 6 && judged.barriers >= 4 && judged.acks >= 12 && judged.told == 3, "{judged:?}");
}

#[test]
fn everything_that_is_done_to_a_good_history_is_found() {
    type Doctor = fn(&mut History);
    let cases: [(&str, Doctor); 14] = [
        ("has no entry in the audit log", |history| {
            let at = place_of(history, "promote");
            history.segments[0].events.remove(at);
        }),
        ("illegal step: revision", |history| {
            let at = place_of(history, "promote");
            history.segments[0].events.drain(at - 1..=at);
        }),
        ("was changed or removed", |history| {
            let at = place_of(history, "settle");
            let mut event = history.segments[0].events[at].clone();
            (event.revision, event.is_new) = (event.revision + 100, false);
            history.segments[0].events.push(event);
        }),
        ("was changed or removed", |history| {
            let at = place_of(history, "rotate");
            let mut event = history.segments[0].events[at].clone();
            (event.revision, event.value) = (event.revision + 100, None);
            history.segments[0].events.push(event);
        }),
        ("the audit log says", |history| {
            let at = place_of(history, "settle");
            edit(&mut history.segments[0].events[at], "\"phase\":\"steady\"", "\"phase\":\"staged\"");
        }),
        ("with a closed barrier", |history| {
            // The last acknowledgement before the promotion comes after it.
            let at = place_of(history, "promote");
            let events = &mut history.segments[0].events;
            let late = events.remove(at - 2);
            assert!(late.key.contains("/n/"), "{}", late.key);
            events.insert(at, late);
        }),
        ("still held", |history| {
            // A kernel is the last to leave what was before the promotion's barrier.
            let spans = history.kernels.get_mut(&node("node2")).unwrap();
            let at = spans.len() - 2;
            (spans[at - 1].until_ms, spans[at].from_ms) = (spans[at].until_ms, spans[at].until_ms + 1);
        }),
        ("it is lost", |history| {
            let acks: Vec<usize> = of_node(history, "node1");
            let (early, late) = (acks[1], acks[acks.len() - 1]);
            let value = history.segments[0].events[early].value.clone();
            history.segments[0].events[late].value = value;
        }),
        ("acknowledgement of generation", |history| {
            // Acknowledged, and the kernel never had it.
            let spans = history.kernels.get_mut(&node("node3")).unwrap();
            let last = *spans.last().unwrap();
            spans.retain(|span| span.pair != last.pair);
            spans.last_mut().unwrap().until_ms = last.until_ms;
        }),
        ("showed what was never stored", |history| history.shown[3].generation += 1),
        ("showed what was never stored", |history| history.shown[2].revision += 50),
        ("an operator was told", |history| history.told[1].revision += 1),
        ("an operator was told", |history| "pause".clone_into(&mut history.told[2].action)),
        ("while node", |history| {
            let spans = history.kernels.get_mut(&node("node1")).unwrap();
            let other = |pair: PairPrint| PairPrint { primary: key_of(Epoch::new(99).unwrap()), ..pair };
            let last = spans.last_mut().unwrap();
            (last.pair, last.until_ms) = (last.pair.map(other), last.until_ms + 60_000);
            let beside = history.kernels.get_mut(&node("node2")).unwrap().last_mut().unwrap();
            beside.until_ms += 60_000;
        }),
    ];
    for (expected, doctor) in cases {
        let mut history = good();
        doctor(&mut history);
        let (faults, _) = history.judge();
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected:?} is not found: {faults:#?}");
    }
}

/// Places of what a node has said.
fn of_node(history: &History, name: &str) -> Vec<usize> {
    let events = history.segments[0].events.iter().enumerate();
    let says = |event: &Event| String::from_utf8_lossy(event.value.as_deref().unwrap_or_default()).contains(name);
    events.filter(|(_, event)| event.key.contains("/n/") && says(event)).map(|(at, _)| at).collect()
}

#[test]
fn a_step_that_the_table_does_not_have_is_illegal() {
    // Documents of the good history, with another action or with keys and numbers of another step.
    let cases: [(&str, &str, &str, &str); 6] = [
        ("promote", "\"action\":\"promote\"", "\"action\":\"settle\"", "l"),
        ("settle", "\"action\":\"settle\"", "\"action\":\"drop_revoked\"", "l"),
        ("rotate", "\"action\":\"rotate\"", "\"action\":\"pause\"", "l"),
        ("promote", "\"staged_generation\":2", "\"staged_generation\":1", "p"),
        ("rotate", "\"next_epoch\":3", "\"next_epoch\":2", "p"),
        ("settle", "\"generation\":3", "\"generation\":4", "p"),
    ];
    for (action, from, to, kind) in cases {
        let mut history = good();
        let at = place_of(&history, action);
        let at = if kind == "l" { at } else { at - 1 };
        edit(&mut history.segments[0].events[at], from, to);
        let (faults, _) = history.judge();
        assert!(faults.iter().any(|fault| fault.contains("illegal step")), "{action} {to}: {faults:#?}");
    }
}
