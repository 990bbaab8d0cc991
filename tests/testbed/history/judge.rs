//! Judges a history.  Every fault is one line: what contradicts what.
//!
//! What counts as a contradiction is what cannot happen however the parts of the evidence are late: a kernel that is looked at
//! after a barrier was passed, and still holds what was instructed before it; an acknowledgement that is taken back; a
//! coordinator that showed what was never stored.

use std::collections::{BTreeMap, BTreeSet};

use tfo_engine::rollout::barrier::Barrier;
use tfo_engine::rollout::document::{AuditEntry, Document, Snapshot};
use tfo_engine::rollout::record::SlotCount;
use tfo_engine::rollout::wave::instruction_for;
use tfo_model::count::Generation;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;
use tfo_model::key::PairPrint;
use tfo_model::node::Session;

use super::book::{Book, Moment};
use super::steps::illegal;
use super::{History, Judged, Segment, Shown, Span, Told};

/// Audit entries and acknowledgements have whole seconds.
const SECOND_MS: u64 = 1_000;

pub(super) fn judge(history: &History) -> (Vec<String>, Judged) {
    let (mut faults, mut judged) = (Vec::new(), Judged::default());
    for (number, segment) in history.segments.iter().enumerate() {
        let until_ms = history.segments.get(number + 1).map_or(u64::MAX, |next| next.from_ms);
        let mut bench = Bench::new(history, segment, until_ms);
        bench.judge();
        let prefix = if history.segments.len() > 1 { format!("store {}: ", number + 1) } else { String::new() };
        faults.extend(bench.faults.into_iter().map(|fault| format!("{prefix}{fault}")));
        judged.commits += bench.judged.commits;
        judged.barriers += bench.judged.barriers;
        judged.acks += bench.judged.acks;
        judged.shown += bench.judged.shown;
        judged.told += bench.judged.told;
        judged.looks += bench.judged.looks;
    }
    faults.extend(split_kernels(history));
    (faults, judged)
}

/// What is judged together: one store, and what was seen while it was the store.
struct Bench<'a> {
    from_ms: u64,
    until_ms: u64,
    book: Book,
    shown: Vec<&'a Shown>,
    told: Vec<&'a Told>,
    kernels: &'a BTreeMap<NodeId, Vec<Span>>,
    /// Documents in their order, with the place of the moment that made each.
    documents: Vec<(usize, Document)>,
    faults: Vec<String>,
    judged: Judged,
}

impl<'a> Bench<'a> {
    fn new(history: &'a History, segment: &Segment, until_ms: u64) -> Self {
        let from_ms = segment.from_ms;
        let is_of_it = |at_ms: u64| (from_ms..until_ms).contains(&at_ms);
        let mut book = Book::of(&segment.events);
        let documents = book.moments.iter().enumerate().filter(|(_, moment)| moment.commit.is_some());
        let documents = documents.map(|(place, moment)| (place, moment.after.document.clone())).collect();
        Self {
            from_ms,
            until_ms,
            faults: std::mem::take(&mut book.faults),
            book,
            shown: history.shown.iter().filter(|shown| is_of_it(shown.at_ms)).collect(),
            told: history.told.iter().filter(|told| is_of_it(told.at_ms)).collect(),
            kernels: &history.kernels,
            documents,
            judged: Judged::default(),
        }
    }

    fn judge(&mut self) {
        for index in 1..self.documents.len() {
            self.judge_commit(index);
        }
        self.judge_acks();
        self.judge_words();
    }

    fn moment(&self, index: usize) -> &Moment {
        &self.book.moments[self.documents[index].0]
    }

    /// A commit: it follows the one before, is legal, is in the audit log, and passed no barrier that was closed.
    fn judge_commit(&mut self, index: usize) {
        self.judged.commits += 1;
        let (before, after) = (self.documents[index - 1].1.clone(), self.documents[index].1.clone());
        let revision = after.revision;
        let Some(Some(entry)) = self.moment(index).commit.clone() else {
            self.faults.push(format!("revision {revision}: it has no entry in the audit log"));
            return;
        };
        let says = (entry.revision, entry.generation, entry.phase);
        if says != (revision, after.generation, after.stage.phase()) {
            self.faults.push(format!("revision {revision}: the audit log says {says:?}"));
        }
        if let Some(why) = illegal(&before, &after, entry.action) {
            self.faults.push(format!("revision {revision}: illegal step: {why}"));
        }
        let barrier: fn(&Snapshot) -> Barrier = match entry.action {
            Action::Rotate | Action::Promote | Action::Settle | Action::DropRevoked => Barrier::of_all,
            Action::OpenWave => Barrier::of_opened,
            _ => return,
        };
        self.judge_barrier(index, &entry, barrier);
    }

    /// Some content since the commit before passes the barrier, and no kernel contradicts it afterwards.
    fn judge_barrier(&mut self, index: usize, entry: &AuditEntry, barrier: fn(&Snapshot) -> Barrier) {
        self.judged.barriers += 1;
        let (first, last) = (self.documents[index - 1].0, self.documents[index].0);
        let passed = self.book.moments[first..last].iter().find(|moment| barrier(&moment.after).is_passed());
        let revision = entry.revision;
        let Some(passed) = passed else {
            let found = barrier(&self.book.moments[last - 1].after);
            self.faults.push(format!("revision {revision}: {:?} with a closed barrier: {found:?}", entry.action));
            return;
        };
        let required = passed.after.nodes.iter().filter(|(_, record)| record.is_required());
        let is_all = entry.action != Action::OpenWave;
        let required: Vec<NodeId> = required
            .filter(|(node, _)| is_all || instructed_like(&passed.after, node))
            .map(|(node, _)| node.clone())
            .collect();
        let at_ms = self.known_at(entry);
        for node in required {
            self.judge_kernel(
                &node,
                (index - 1, Generation::ZERO),
                at_ms,
                &format!("revision {revision} ({:?})", entry.action),
            );
        }
    }

    /// When this commit had been decided for sure: it was shown, or its second was over.
    fn known_at(&self, entry: &AuditEntry) -> u64 {
        let shown =
            self.shown.iter().filter(|shown| shown.revision >= entry.revision.get()).map(|shown| shown.at_ms).min();
        let said = entry.at.secs() * SECOND_MS + SECOND_MS;
        shown.map_or(said, |shown| shown.min(said))
    }

    /// From this time on the kernel holds what this document, or a later one, instructs the node to hold, under this generation or
    /// a later one.
    fn judge_kernel(&mut self, node: &NodeId, (index, least): (usize, Generation), at_ms: u64, what: &str) {
        if at_ms < self.from_ms {
            return;
        }
        let later = self.documents[index..].iter();
        let instructed = later.filter_map(|(_, document)| instruction_for(document, node, SlotCount::Two));
        let instructed = instructed.filter(|instruction| instruction.generation >= least);
        let allowed: BTreeSet<PairPrint> = instructed.map(|instruction| instruction.slots.pair()).collect();
        let spans = self.kernels.get(node).into_iter().flatten();
        for span in spans.filter(|span| span.until_ms >= at_ms && span.from_ms < self.until_ms) {
            self.judged.looks += 1;
            if !span.pair.is_some_and(|pair| allowed.contains(&pair)) {
                let late = span.until_ms - at_ms;
                self.faults.push(format!("{what}: {node} still held {:?} {late} ms after it", span.pair));
                return;
            }
        }
    }

    /// An acknowledgement is never taken back, and the kernel agrees with it.
    fn judge_acks(&mut self) {
        let mut highest: BTreeMap<(NodeId, Session), Generation> = BTreeMap::new();
        let acked: Vec<_> = self.book.moments.iter().flat_map(|moment| moment.acked.clone()).collect();
        for ack in acked {
            self.judged.acks += 1;
            let known = highest.entry((ack.node.clone(), ack.session)).or_insert(ack.generation);
            if *known > ack.generation {
                let (node, lost) = (&ack.node, *known);
                self.faults
                    .push(format!("{node} had acknowledged {lost}, and {} after it: it is lost", ack.generation));
            }
            *known = ack.generation.max(*known);
            let made = self.documents.iter().position(|(_, document)| document.generation >= ack.generation);
            // Under a store that went back a node may be ahead of it.
            let Some(index) = made else { continue };
            let at_ms = ack.at.secs() * SECOND_MS + SECOND_MS;
            let what = format!("acknowledgement of generation {}", ack.generation);
            self.judge_kernel(&ack.node, (index, ack.generation), at_ms, &what);
        }
    }

    /// What coordinators showed, and what the operator was told, is what was stored.
    fn judge_words(&mut self) {
        let by_revision: BTreeMap<u64, usize> =
            self.documents.iter().enumerate().map(|(index, (_, document))| (document.revision.get(), index)).collect();
        for shown in self.shown.clone() {
            self.judged.shown += 1;
            let stored = by_revision.get(&shown.revision).map(|index| &self.documents[*index].1);
            let phase = |document: &Document| serde_json::to_value(document.stage.phase()).expect("a name");
            let is_so = stored.is_some_and(|document| {
                document.generation.get() == shown.generation && phase(document) == shown.phase.as_str()
            });
            if !is_so {
                self.faults
                    .push(format!("coordinator {} showed what was never stored: {shown:?}", shown.coordinator + 1));
            }
        }
        for told in self.told.clone() {
            self.judged.told += 1;
            let entry = by_revision.get(&told.revision).and_then(|index| self.moment(*index).commit.clone()).flatten();
            let action = entry.map(|entry| serde_json::to_value(entry.action).expect("a name"));
            if action.as_ref().and_then(|action| action.as_str()) != Some(told.action.as_str()) {
                self.faults.push(format!("an operator was told {told:?}, and stored is {action:?}"));
            }
        }
    }
}

/// Whether this node is one that the opened waves lead.
fn instructed_like(snapshot: &Snapshot, node: &NodeId) -> bool {
    let instruction = instruction_for(&snapshot.document, node, SlotCount::Two);
    instruction.is_some_and(|instruction| instruction.generation == snapshot.document.generation)
}

fn pair_of(document: &Document, node: &NodeId) -> Option<PairPrint> {
    instruction_for(document, node, SlotCount::Two).map(|instruction| instruction.slots.pair())
}

/// The theorem itself, by the kernels alone: two nodes that were never excluded held keys at one time with which one refuses
/// the other's cookies.
fn split_kernels(history: &History) -> Vec<String> {
    let books: Vec<Book> = history.segments.iter().map(|segment| Book::of(&segment.events)).collect();
    let moments = || books.iter().flat_map(|book| &book.moments);
    let documents: Vec<&Document> =
        moments().filter(|moment| moment.commit.is_some()).map(|moment| &moment.after.document).collect();
    let ever_out: BTreeSet<&NodeId> = moments()
        .flat_map(|moment| moment.after.nodes.iter())
        .filter(|(_, record)| !record.is_required())
        .map(|(node, _)| node)
        .collect();
    let covered: Vec<(&NodeId, Vec<&Span>)> = history
        .kernels
        .iter()
        .filter(|(node, _)| !ever_out.contains(node))
        .map(|(node, spans)| {
            let of_pool = |span: &&Span| {
                span.pair.is_some() && documents.iter().any(|document| pair_of(document, node) == span.pair)
            };
            (node, spans.iter().skip_while(|span| !of_pool(span)).collect())
        })
        .collect();
    let mut faults = Vec::new();
    for (place, (one, spans)) in covered.iter().enumerate() {
        for (other, others) in &covered[place + 1..] {
            let split = spans
                .iter()
                .find_map(|span| others.iter().find(|beside| refuses(span, beside)).map(|beside| (span, beside)));
            if let Some((span, beside)) = split {
                faults.push(format!("{one} held {:?} while {other} held {:?}", span.pair, beside.pair));
            }
        }
    }
    faults
}

/// Whether the two were held at one time, and do not go together.
fn refuses(one: &Span, other: &Span) -> bool {
    let is_together = one.from_ms < other.until_ms && other.from_ms < one.until_ms;
    let goes =
        |one: PairPrint, other: PairPrint| one.minted_is_accepted_by(&other) && other.minted_is_accepted_by(&one);
    is_together && !one.pair.zip(other.pair).is_some_and(|(one, other)| goes(one, other))
}
