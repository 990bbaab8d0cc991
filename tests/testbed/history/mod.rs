//! The history check: everything that was stored, told and seen in a test, judged afterwards.
//!
//! | evidence | where from |
//! |---|---|
//! | every document, audit entry, acknowledgement and exclusion | the revisions that etcd keeps, read from a majority |
//! | what coordinators showed, and what they told the operator | all of them, asked all the time ([`Recorder`]) |
//! | which keys the kernels held, and when | the kernels themselves, read every few milliseconds |
//!
//! The checker (`judge`) shares with the coordinators only what a barrier waits for, and what nodes are instructed to hold; what
//! a legal step is it has of its own from docs/protocol.md#rule-3.

mod book;
mod judge;
mod recorder;
mod steps;

pub use book::Event;
pub use recorder::{ASK_EVERY, ASK_SELDOM, Recorder};

use std::collections::BTreeMap;

use serde_json::Value;
use tfo_model::ids::NodeId;
use tfo_model::key::PairPrint;

/// What a coordinator showed of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub at_ms: u64,
    pub coordinator: usize,
    pub revision: u64,
    pub generation: u64,
    pub phase: String,
}

impl Shown {
    /// From an answer about the pool, just received; none if it was cut.
    pub fn of(coordinator: usize, pool: &Value) -> Option<Self> {
        Some(Self {
            at_ms: tfo_host::runtime::clock::now_ms(),
            coordinator,
            revision: pool["revision"].as_u64()?,
            generation: pool["generation"].as_u64()?,
            phase: pool["phase"].as_str()?.to_owned(),
        })
    }
}

/// What an operator was told about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub at_ms: u64,
    pub revision: u64,
    pub action: String,
}

impl Told {
    /// From the answer, just received; none if it was cut.
    pub fn of(answer: &Value) -> Option<Self> {
        let (revision, action) = (answer["revision"].as_u64()?, answer["action"].as_str()?.to_owned());
        Some(Self { at_ms: tfo_host::runtime::clock::now_ms(), revision, action })
    }
}

/// What a kernel held from one look to another, and at each look between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from_ms: u64,
    pub until_ms: u64,
    /// None: no key, or one that the kernel made for itself alone.
    pub pair: Option<PairPrint>,
}

/// What one store has kept.  A store that was restored begins a new one.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// When it began.
    pub from_ms: u64,
    /// What was written, in the order of etcd's revisions.
    pub events: Vec<Event>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The last one is that of the present.
    pub segments: Vec<Segment>,
    pub shown: Vec<Shown>,
    pub told: Vec<Told>,
    pub kernels: BTreeMap<NodeId, Vec<Span>>,
}

/// How much was judged, so that a history without evidence is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judged {
    pub commits: usize,
    pub barriers: usize,
    pub acks: usize,
    pub shown: usize,
    pub told: usize,
    pub looks: usize,
}

impl History {
    /// The coordinator at which a node's session is, by what is stored last.
    pub fn coordinator_of(&self, node: &str) -> Option<String> {
        let segment = self.segments.last()?;
        let content = book::content_of(&segment.events)?;
        let record = content.snapshot().nodes.get(&node.parse().ok()?)?;
        record.coordinator.as_ref().map(ToString::to_string)
    }

    /// All faults, and how much was looked at.
    pub fn judge(&self) -> (Vec<String>, Judged) {
        judge::judge(self)
    }

    /// Fails with every fault that there is, and if there was nothing to judge.
    #[track_caller]
    pub fn must_be_good(&self) -> Judged {
        let (faults, judged) = self.judge();
        assert!(faults.is_empty(), "{} faults in the history:\n{}", faults.len(), faults.join("\n"));
        assert!(judged.barriers > 0 && judged.acks > 0 && judged.looks > 0 && judged.shown > 0, "{judged:?}");
        println!("history: {judged:?}");
        judged
    }
}
