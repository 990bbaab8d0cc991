//! Nodes, coordinators and the messages between them, in virtual seconds.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::{Link, RequestId};
use tfo_engine::rollout::barrier::{Barrier, conflict};
use tfo_engine::rollout::document::{Document, Proposal};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Input, Now};
use tfo_engine::rollout::policy::{Policy, Share, WaveRule};
use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::record::SlotCount;
use tfo_engine::rollout::slots::{PoolKey, Slots};
use tfo_engine::rollout::sync::{Answer, Sync, SyncRefused};
use tfo_model::count::{Epoch, Revision};
use tfo_model::ids::{NodeId, PoolId};
use tfo_model::node::{Counters, Session};
use tfo_model::time::UnixTime;

use tfo_testbed::random::Dice;

use super::clients::{Clients, Promises};
use super::coordinators::Coordinator;
use super::copies::Copied;
use super::fake::dice;
use super::files::Files;
use super::ghosts::WaveMark;
use super::held::Held;
use super::looks::Compared;
use super::nodes::Node;
use super::rules::RuleOff;
use super::shelf::{Copy, PutOff, Shelf};
use super::summary::Summary;
use super::trouble::Troubles;

/// Faults end here; from then on the fleet converges, and rotates on.
pub(super) const FAULTS_UNTIL: u64 = 1_200;
/// By then the fleet has converged, ...
const CONVERGED_BY: u64 = FAULTS_UNTIL + 700;
/// ... and by then it has made another rotation.
const END: u64 = 2_700;
pub(super) const COORDINATORS: usize = 5;
pub(super) const EPOCH: u64 = 1_700_000_000;
/// Number of the key that all nodes share at the beginning.
pub(super) const FIRST_KEY: u64 = 1;

pub(super) enum Event {
    Tick(usize),
    /// It may be a coordinator's turn to take the step that it has left to others.
    Turn(usize),
    /// A coordinator, its life, the history of the copy that it decided from, and the commit that it began then.
    Commit(usize, u64, u64, Rc<Proposal>),
    /// Acks that were put off are written.
    Flush(usize),
    /// A sync is due by the node's own clock.
    Wake(usize, u64),
    Request {
        node: usize,
        to: usize,
        life: u64,
        request: RequestId,
        sync: Rc<Sync>,
    },
    Answer {
        node: usize,
        request: RequestId,
        answer: Result<Answer, SyncRefused>,
    },
    /// A held request is looked at.
    Release {
        to: usize,
        node: usize,
        request: RequestId,
    },
    /// A coordinator learns that the connection of a held request has ended.
    Ended {
        node: usize,
        held: Box<Held>,
    },
    Fault,
    /// Somebody writes, reloads or restarts with a coordinator's file.
    File,
    /// What a switch needs to be noticed, or a time in which no coordinator hears a node.
    Plan,
}

/// An event, ordered by its second; those of one second happen as they were scheduled.
pub(super) struct Scheduled {
    at: u64,
    sequence: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

pub(crate) struct Fleet {
    pub(crate) random: Dice,
    pub(crate) shelf: Shelf,
    pub(super) clients: Clients,
    pub(super) promises: Promises,
    pub(super) nodes: Vec<Node>,
    pub(super) index: BTreeMap<NodeId, usize>,
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) files: Files,
    pub(super) queue: BinaryHeap<Reverse<Scheduled>>,
    pub(super) sequence: u64,
    pub(crate) now: u64,
    pub(super) minted: u64,
    pub(super) backup: Option<Copy>,
    pub(super) backed_up_at: u64,
    /// Until then, a node with a new key rejects cookies that it should accept.
    pub(super) broken_until: u64,
    /// When a sync was recorded last.
    pub(super) heard_at: u64,
    pub(super) rule_off: Option<RuleOff>,
    /// Ghost: the present wave, and when it was opened.
    pub(super) watched: Option<(WaveMark, u64)>,
    /// Rotations until the fleet had converged.
    pub(super) rotations_at_peace: u64,
    pub(super) is_told: bool,
    pub(crate) summary: Summary,
}

pub(super) fn pool_id() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn policy(random: &mut Dice) -> Policy {
    let mut policy = Policy::with_defaults(vec!["*".parse().unwrap()]);
    policy.interval_secs = 60 + random.below(120);
    policy.absent_after_secs = 90 + random.below(60);
    policy.drain_max_secs = if random.once_in(3) { 60 } else { 300 };
    policy.drain_min_samples = 100;
    policy.health_window_secs = 10 + 30 * random.below(3);
    policy.health_min_connections = 50;
    policy.revoke_barrier_max_secs = 120;
    policy.expected_nodes = Some(50);
    let canary = Share::from_ppm(u32::try_from(10_000 + random.below(200_000)).unwrap()).unwrap();
    policy.promote_waves = match random.below(3) {
        0 => vec![WaveRule::Share(Share::ALL)],
        1 => vec![WaveRule::Share(canary), WaveRule::Share(Share::ALL)],
        _ => vec![WaveRule::Names("n1*".parse().unwrap()), WaveRule::Share(canary), WaveRule::Share(Share::ALL)],
    };
    policy
}

/// Every promotion has a wave that is watched for longer than a node is held; in a shorter time its nodes may come by themselves.
fn watching(random: &mut Dice) -> Policy {
    let waves = ["n1*", "n*"].map(|names| WaveRule::Names(names.parse().unwrap()));
    let promote_waves = waves.into_iter().chain([WaveRule::Share(Share::ALL)]).collect();
    Policy { promote_waves, absent_after_secs: 150, health_window_secs: 70, ..policy(random) }
}

impl Fleet {
    pub(crate) fn new(seed: u64) -> Self {
        Self::of(seed, policy)
    }

    fn of(seed: u64, policy: fn(&mut Dice) -> Policy) -> Self {
        let mut random = dice(seed);
        let files = Files::new(dice(!seed), COORDINATORS, policy);
        let document = Document::new(pool_id(), files.first().clone(), UnixTime::from_secs(EPOCH));
        let mut shelf = Shelf::new(document);
        let count = if random.once_in(8) { 200 } else { usize::try_from(100 + random.below(30)).unwrap() };
        let shared = PoolKey { epoch: Epoch::FIRST, fingerprint: shelf.make_key(FIRST_KEY) };
        let foreign = Slots { primary: shared, backup: None };
        let mut nodes = Vec::new();
        for number in 0..count {
            let session = Session { ordinal: 1_000, nonce: random.roll() };
            nodes.push(Node {
                id: format!("n{number}").parse().unwrap(),
                slot_count: if random.once_in(30) { SlotCount::One } else { SlotCount::Two },
                link: Link::start(None, session, Duration::ZERO),
                file: None,
                kernel: Some(foreign),
                timer_secs: random.once_in(5).then(|| 40 + random.below(40)),
                coordinator: usize::try_from(random.below(COORDINATORS as u64)).unwrap(),
                held: None,
                failures: 0,
                answered_at: None,
                away_until: 0,
                mute_until: 0,
                wake: 0,
                counters: Counters::default(),
                is_covered: false,
                accepted: None,
                counted_at: None,
                said: BTreeMap::new(),
            });
        }
        let index = nodes.iter().enumerate().map(|(index, node)| (node.id.clone(), index)).collect();
        let coordinators = (0..COORDINATORS)
            .map(|c| Coordinator {
                life: Life::default(),
                lives: 0,
                holding: BTreeMap::new(),
                presence: Presence::default(),
                view: None,
                troubles: Troubles::default(),
                copied: Copied::default(),
                seen: Revision::ZERO,
                put_off: PutOff::default(),
                last: None,
                holds_name: false,
                vouched: false,
                beat_at: None,
                beat_due: 0,
                writes_fail: false,
                waited: None,
                rest: None,
                compared: Compared::of_seed(seed, c),
                turn: None,
                is_up: true,
                wall_error: 0,
            })
            .collect();
        let clients = Clients::new(&mut random);
        let mut fleet = Self {
            random,
            shelf,
            clients,
            promises: Promises::default(),
            nodes,
            index,
            coordinators,
            files,
            queue: BinaryHeap::new(),
            sequence: 0,
            now: 0,
            minted: 100,
            backup: None,
            backed_up_at: 0,
            broken_until: 0,
            heard_at: 0,
            rule_off: None,
            watched: None,
            rotations_at_peace: 0,
            is_told: std::env::var_os("TFO_SEED").is_some(),
            summary: Summary::default(),
        };
        fleet.summary.count("nodes", count as u64);
        for c in 0..COORDINATORS {
            fleet.coordinators[c].copied.lag_secs = fleet.some_lag();
            fleet.at(1 + c as u64, Event::Tick(c));
        }
        for n in 0..count {
            let after = 1 + fleet.random.below(20);
            fleet.wake(n, after);
        }
        fleet.at(60, Event::Fault);
        fleet.at(30, Event::File);
        if fleet.random.once_in(3) {
            let after = 200 + fleet.random.below(400);
            fleet.at(after, Event::Plan);
        }
        fleet
    }

    /// The fleet of a seed with a rule that is off.
    pub(crate) fn without(seed: u64, rule: RuleOff) -> Self {
        let mut fleet = Self::of(seed, if rule == RuleOff::FreshCounters { watching } else { policy });
        fleet.rule_off = Some(rule);
        if fleet.is_about_ears() {
            fleet.coordinators.iter_mut().for_each(|coordinator| coordinator.copied.lag_secs = 0);
        }
        fleet.at(100, Event::Plan);
        fleet
    }

    pub(crate) fn run(mut self) -> Summary {
        let mut steps = 0;
        while let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() {
            if at > END {
                break;
            }
            if at >= CONVERGED_BY && at != self.now && self.has_rotated_on() {
                break;
            }
            (self.now, self.shelf.at) = (at, at);
            steps += 1;
            // These two change neither a kernel nor the covered nodes.
            let is_about_records = matches!(event, Event::Request { .. } | Event::Release { .. } | Event::Flush(_));
            self.happen(event);
            if !is_about_records {
                self.check();
            }
            if at < CONVERGED_BY {
                self.rotations_at_peace = self.summary.get("rotations");
            }
        }
        if self.is_told {
            println!("{:?} {:?}", Barrier::of_all(self.shelf.now()), conflict(self.shelf.now()));
            for c in 0..COORDINATORS {
                let now = Now { wall: self.wall(c), presence: &self.coordinators[c].presence };
                println!("{:?} {:?}", now.presence, handle(self.shelf.now(), now, &Input::Tick, None));
            }
        }
        self.look_at_last();
        let document = &self.shelf.now().document;
        assert!(self.summary.get("rotations") > self.rotations_at_peace, "it stopped: {document:?}");
        assert_eq!(Barrier::of_all(self.shelf.now()).required, self.two_slot_nodes(), "not all nodes are back");
        self.shelf.check_audit();
        assert_eq!(self.files.pending(), 0, "a file is still proposed");
        self.summary.count("files that differ at the end", self.files.differing(document) as u64);
        self.summary.count("steps", steps);
        self.summary.count("seconds", self.now);
        self.summary.count("promises that a stage has ended", self.promises.ended);
        self.summary.count("promises that a revoke has ended", self.promises.ended_by_revoke);
        self.summary
    }

    fn two_slot_nodes(&self) -> usize {
        self.nodes.iter().filter(|node| node.slot_count == SlotCount::Two).count()
    }

    /// Whether what the fleet has to show at the end is there already: it is complete, and has made a rotation.
    fn has_rotated_on(&self) -> bool {
        let barrier = Barrier::of_all(self.shelf.now());
        self.summary.get("rotations") > self.rotations_at_peace
            && self.files.pending() == 0
            && barrier.required == self.two_slot_nodes()
            && barrier.is_passed()
    }

    pub(super) fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + delay, sequence: self.sequence, event }));
    }

    pub(super) fn wake(&mut self, n: usize, delay: u64) {
        self.nodes[n].wake += 1;
        let wake = self.nodes[n].wake;
        self.at(delay, Event::Wake(n, wake));
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.now < FAULTS_UNTIL
    }

    pub(super) fn happen(&mut self, event: Event) {
        if let Some(until) = self.put_off_until(&event) {
            self.at(until - self.now, event);
            return;
        }
        match event {
            Event::Tick(c) => self.tick(c),
            Event::Turn(c) => self.take_turn(c),
            Event::Commit(c, life, history, proposal) => {
                // A call that was under way when the files were swapped has reached the old ones.
                let is_there = self.coordinators[c].lives == life && self.coordinators[c].is_up && !self.is_cut(c);
                if is_there && self.shelf.position().history == history {
                    self.commit(c, &proposal);
                }
            }
            Event::Flush(c) => {
                self.flush(c);
            }
            Event::Wake(n, wake) => {
                if self.nodes[n].wake == wake {
                    self.sync(n);
                }
            }
            Event::Request { node, to, life, request, sync } => self.serve((node, request), (to, life), &sync),
            Event::Answer { node, request, answer } => self.answered(node, request, answer),
            Event::Release { node, request, .. } => self.release(node, request),
            Event::Ended { node, held } => self.ended(node, &held),
            Event::Fault => self.fault(),
            Event::File => self.file(),
            Event::Plan => self.plan(),
        }
    }

    /// Tells what happens when one seed is replayed.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:5} {}", self.now, what());
        }
    }

    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id.clone()).collect()
    }
}
