//! The parts that a node's record is made of, and how they merge (docs/protocol.md#rule-6; rules 7, 8).
//!
//! | part | written by | bound to |
//! |---|---|---|
//! | [`Entry`] | the coordinator that the node's session was opened at, before its answer | one session |
//! | [`Later`] | the same coordinator, batched | the session of the entry |
//! | [`Excluded`] | a commit, with its document | the latest one counts |
//! | [`Beat`] | a coordinator, every few seconds | all nodes of its roster |
//!
//! Each part has one writer, so no write can conflict with another one; only documents are compared and swapped.  A
//! [`NodeRecord`] is a function of the parts.  Invariants: the entry with the highest session counts; what a node reported
//! in another session counts for nothing; an exclusion that any sync ends holds for the session that it closes and those
//! before it, so that one that was decided without knowledge of a newer session does not hit that; one that lasts until a
//! time, or for good, holds for every session that does not name it, so that an admission without knowledge of it does not
//! undo it.
//!
//! A sync that says nothing new is not written: its coordinator keeps it in memory ([`PoolContent::hear`]), and its beats
//! vouch for the node (rule 10).
//!
//! Must not know: stores, clocks, decisions.  Persisted: every type here; no secrets.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use super::beat::{About, Beat, Stamp, Writer};
use super::changes::Changes;
use super::document::{Document, Proposal, Snapshot};
use super::record::{Exclusion, Membership, NodeRecord, Report, Window};
pub use super::shared::Shared;
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::node::Session;
use tfo_model::time::UnixTime;

/// What is stored of a sync.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ack {
    /// The node's report.
    pub report: Shared<Report>,
    /// Rises with every stored sync of the node: by this other coordinators see that it is alive.
    pub syncs: u64,
    /// Counters over the present phase; none if not known.
    pub window: Option<Window>,
    /// Counters over the phase before.
    pub baseline: Option<Window>,
    /// Wall clock of the coordinator; shown, never measured with (rule 11).
    pub at: UnixTime,
}

/// The first sync of a session: durable before its answer (rule 7).  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The session that it opens.
    pub session: Session,
    /// The document revision that made the exclusion which this session ends (an operator's, whose time is over); none if
    /// there was no exclusion to end, or if the node stays excluded.
    pub answers: Option<Revision>,
    /// What the node reported with it.
    pub first: Ack,
}

/// The latest sync of a session after its first.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Later {
    /// The session; that of another one counts for nothing (rule 8).
    pub session: Session,
    /// What the node reported.
    pub ack: Ack,
    /// Its coordinator has not heard it for too long: its beats do not vouch for it.  Ends with the next sync.
    #[serde(default)]
    pub silent: bool,
}

/// An exclusion, written by a commit.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Excluded {
    /// Why.
    pub cause: Exclusion,
    /// The session that it closes; none if the node never had one.
    pub closes: Option<Session>,
    /// The document revision that made it.
    pub revision: Revision,
    /// Wall clock of the coordinator that committed it.
    pub at: UnixTime,
}

impl Excluded {
    /// Whether this session is not excluded by it.
    fn ends_with(&self, entry: &Entry) -> bool {
        match self.cause {
            Exclusion::Absent | Exclusion::LeftBehind | Exclusion::Forgotten => Some(entry.session) > self.closes,
            Exclusion::Operator { .. } => entry.answers == Some(self.revision),
            Exclusion::Moved { .. } | Exclusion::Denied => false,
        }
    }
}

/// The parts that one coordinator has written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Roster {
    /// The nodes whose sessions were opened at it.
    pub entries: BTreeMap<NodeId, Shared<Entry>>,
    /// Their later syncs.
    pub acks: BTreeMap<NodeId, Shared<Later>>,
    /// Its last sign of life.
    #[serde(default)]
    pub beat: Option<Beat>,
}

/// Changes of one coordinator's own roster, to be written in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Writes {
    /// Sessions that were opened.
    pub entries: BTreeMap<NodeId, Shared<Entry>>,
    /// Later syncs.
    pub acks: BTreeMap<NodeId, Shared<Later>>,
    /// Nodes whose entry and later sync are removed: see [`Parts::long_forgotten`].
    pub removed: BTreeSet<NodeId>,
    /// Its next sign of life: after the parts, which are durable no later.
    pub beat: Option<Beat>,
}

impl Writes {
    /// Number of nodes that it names, each part counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() + self.acks.len() + self.removed.len()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.beat.is_none()
    }

    /// Whether it says something of this node.
    #[must_use]
    pub fn names(&self, node: &NodeId) -> bool {
        self.entries.contains_key(node) || self.acks.contains_key(node) || self.removed.contains(node)
    }

    /// The nodes that it names, each once.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        let acks = self.acks.keys().filter(|node| !self.entries.contains_key(*node));
        let is_other = |node: &&NodeId| !self.entries.contains_key(*node) && !self.acks.contains_key(*node);
        self.entries.keys().chain(acks).chain(self.removed.iter().filter(is_other))
    }
}

/// Everything that a store keeps of a pool's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Parts {
    /// What each coordinator has written.
    pub rosters: BTreeMap<CoordinatorName, Roster>,
    /// The latest exclusion of each node that ever had one.
    pub exclusions: BTreeMap<NodeId, Excluded>,
}

impl Parts {
    /// The records of all nodes.
    #[must_use]
    pub fn merge(&self) -> BTreeMap<NodeId, NodeRecord> {
        let entered = self.rosters.values().flat_map(|roster| roster.entries.keys());
        let nodes: BTreeSet<&NodeId> = entered.chain(self.exclusions.keys()).collect();
        nodes.into_iter().filter_map(|node| Some((node.clone(), self.record(node)?))).collect()
    }

    /// The record of one node.
    #[must_use]
    pub fn record(&self, node: &NodeId) -> Option<NodeRecord> {
        self.record_after(node, None)
    }

    /// The record of one node as it will be once `writes` of this coordinator are written.
    #[must_use]
    pub fn record_after(&self, node: &NodeId, writes: Option<(&CoordinatorName, &Writes)>) -> Option<NodeRecord> {
        let none = Roster::default();
        let new = writes.filter(|(by, _)| !self.rosters.contains_key(*by)).map(|(by, _)| (by, &none));
        let words = self.rosters.iter().chain(new).filter_map(|(by, roster)| {
            let queued = writes.filter(|(writer, _)| *writer == by).map(|(_, writes)| writes);
            let entry = queued.and_then(|queued| queued.entries.get(node)).or_else(|| roster.entries.get(node))?;
            let later = queued.and_then(|queued| queued.acks.get(node)).or_else(|| roster.acks.get(node));
            let later = later.filter(|later| later.session == entry.session);
            let silent = later.is_some_and(|later| later.silent);
            Some(Word { by, entry, latest: later.map_or(&entry.first, |later| &later.ack), silent })
        });
        merge_node(words, self.exclusions.get(node))
    }

    /// Writes into one coordinator's roster.
    pub fn write(&mut self, by: &CoordinatorName, writes: &Writes) {
        let roster = self.rosters.entry(by.clone()).or_default();
        for node in &writes.removed {
            roster.entries.remove(node);
            roster.acks.remove(node);
        }
        roster.entries.extend(writes.entries.iter().map(|(node, entry)| (node.clone(), entry.clone())));
        roster.acks.extend(writes.acks.iter().map(|(node, later)| (node.clone(), later.clone())));
        if writes.beat.is_some() {
            roster.beat.clone_from(&writes.beat);
        }
        if *roster == Roster::default() {
            self.rosters.remove(by);
        }
    }

    /// Stamp of a coordinator's last beat.
    #[must_use]
    pub fn stamp(&self, by: &CoordinatorName) -> Option<Stamp> {
        Some(self.rosters.get(by)?.beat.as_ref()?.stamp)
    }

    fn beats(&self) -> BTreeMap<CoordinatorName, Beat> {
        self.rosters.iter().filter_map(|(by, roster)| Some((by.clone(), roster.beat.clone()?))).collect()
    }

    /// The entries of one coordinator that count for nothing any more: other sessions took their places, or the nodes were
    /// forgotten long ago.
    #[must_use]
    pub fn superseded(&self, by: &CoordinatorName, wall: UnixTime) -> BTreeSet<NodeId> {
        let Some(roster) = self.rosters.get(by) else { return BTreeSet::new() };
        let is_over = |node: &&NodeId| {
            let counts = |record: &NodeRecord| record.coordinator.as_ref() == Some(by);
            self.record(node).is_none_or(|record| !counts(&record) || record.is_long_forgotten(wall))
        };
        roster.entries.keys().filter(is_over).cloned().collect()
    }

    /// The nodes of one coordinator that were forgotten so long ago that no request of theirs is in flight.  Each
    /// coordinator removes its own entries of them; the exclusions go with a later commit.
    #[must_use]
    pub fn long_forgotten(&self, by: &CoordinatorName, wall: UnixTime) -> BTreeSet<NodeId> {
        let Some(roster) = self.rosters.get(by) else { return BTreeSet::new() };
        let is_over = |node: &&NodeId| self.record(node).is_some_and(|record| record.is_long_forgotten(wall));
        roster.entries.keys().filter(is_over).cloned().collect()
    }
}

/// A pool's document and parts of one moment, with the records that the parts merge to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolContent {
    parts: Parts,
    /// The coordinator whose copy this is; none in a store.
    own: Option<CoordinatorName>,
    /// Syncs that this coordinator has heard and not written, because they say nothing new.
    heard: BTreeMap<NodeId, Shared<Later>>,
    snapshot: Snapshot,
    /// Of a coordinator's copy: what it has not looked at yet.
    changes: Changes,
}

impl PoolContent {
    /// Merges the parts.
    #[must_use]
    pub fn new(document: Document, parts: Parts) -> Self {
        let snapshot = Snapshot { document, nodes: parts.merge(), beats: parts.beats() };
        Self { snapshot, own: None, heard: BTreeMap::new(), parts, changes: Changes::everything() }
    }

    /// Makes it the copy of this coordinator.
    #[must_use]
    pub fn owned_by(mut self, own: CoordinatorName) -> Self {
        self.snapshot.beats.remove(&own);
        self.own = Some(own);
        self
    }

    /// What is stored of the nodes.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The document, and the records that the parts merge to.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What has changed since the last call, to be looked at now.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The latest sync of a node of this coordinator: heard, or stored.
    fn latest(&self, node: &NodeId) -> Option<Later> {
        let roster = self.parts.rosters.get(self.own.as_ref()?)?;
        let entry = roster.entries.get(node)?;
        let later = self.heard.get(node).or_else(|| roster.acks.get(node));
        let later = later.filter(|later| later.session == entry.session).map(|later| Later::clone(later));
        Some(later.unwrap_or_else(|| Later { session: entry.session, ack: entry.first.clone(), silent: false }))
    }

    /// Takes a sync in that is not written ([`Later::is_news`]).  Its counters and its time count from now on, for this
    /// coordinator; `syncs` stays what is stored, because another coordinator compares it.
    pub fn hear(&mut self, node: &NodeId, later: Shared<Later>) {
        self.heard.insert(node.clone(), later);
        self.merge_again(node);
    }

    /// Writes into one coordinator's roster.
    pub fn write(&mut self, by: &CoordinatorName, writes: &Writes) {
        self.parts.write(by, writes);
        for node in writes.nodes() {
            self.changes.note(node);
            self.merge_again(node);
        }
        if let Some(beat) = writes.beat.as_ref().filter(|_| self.own.as_ref() != Some(by)) {
            self.snapshot.beats.insert(by.clone(), beat.clone());
        }
    }

    /// The syncs that were heard and not written.
    #[must_use]
    pub fn heard(&self) -> &BTreeMap<NodeId, Shared<Later>> {
        &self.heard
    }

    /// What tells other coordinators that these nodes of its own are silent.
    #[must_use]
    pub fn marked_silent<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId>) -> BTreeMap<NodeId, Shared<Later>> {
        let marked = nodes
            .into_iter()
            .filter_map(|node| Some((node.clone(), Later { silent: true, ..self.latest(node)? }.into())));
        marked.collect()
    }

    /// Takes what is stored in its place, and keeps what was heard.
    pub fn read_again(&mut self, stored: Self) {
        let Self { own, heard, .. } = std::mem::replace(self, stored);
        if let Some(own) = &own {
            self.snapshot.beats.remove(own);
        }
        self.own = own;
        for (node, later) in heard {
            self.hear(&node, later);
        }
    }

    /// Takes a commit over: the document and the exclusions.
    pub fn commit(&mut self, proposal: &Proposal) {
        self.take_over(&proposal.document, &proposal.exclusions, &proposal.dropped);
    }

    /// Takes over what commits have left: the latest document, exclusions, and nodes whose exclusion was removed.
    pub fn take_over(
        &mut self,
        document: &Document,
        excluded: &BTreeMap<NodeId, Excluded>,
        dropped: &BTreeSet<NodeId>,
    ) {
        if self.snapshot.document != *document {
            self.snapshot.document = document.clone();
            self.changes.note_document();
        }
        let exclusions = &mut self.parts.exclusions;
        exclusions.extend(excluded.iter().map(|(node, excluded)| (node.clone(), excluded.clone())));
        for node in dropped {
            exclusions.remove(node);
        }
        for node in excluded.keys().chain(dropped) {
            self.changes.note(node);
            self.merge_again(node);
        }
    }

    fn merge_again(&mut self, node: &NodeId) {
        let Some(mut record) = self.parts.record(node) else {
            self.heard.remove(node);
            self.snapshot.nodes.remove(node);
            return;
        };
        if let Some(later) = self.heard.get(node) {
            let is_newer = record.session == Some(later.session) && record.syncs < later.ack.syncs;
            if !(is_newer && record.add_heard(&later.ack)) {
                self.heard.remove(node);
            }
        }
        self.snapshot.nodes.insert(node.clone(), record);
    }
}

/// What one coordinator says of a node.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    by: &'a CoordinatorName,
    entry: &'a Entry,
    latest: &'a Ack,
    silent: bool,
}

/// The record of a node: the highest session, its latest report, and whether the latest exclusion holds for that session.
///
/// Two coordinators may have one session only if one of them took the other's roster over: the higher report counts.
fn merge_node<'a>(words: impl Iterator<Item = Word<'a>>, excluded: Option<&Excluded>) -> Option<NodeRecord> {
    let generation = |ack: &Ack| ack.report.fence.as_ref().map_or(Generation::ZERO, |fence| fence.generation);
    let latest = words.max_by_key(|word| (word.entry.session, generation(word.latest), word.latest.syncs));
    let membership = match excluded {
        None => Membership::Admitted,
        Some(excluded) => match latest {
            Some(word) if excluded.ends_with(word.entry) => Membership::Admitted,
            Some(_) | None => Membership::Excluded(excluded.cause),
        },
    };
    let exclusion = excluded.map(|excluded| excluded.revision);
    let closed = excluded.and_then(|excluded| excluded.closes);
    let Some(Word { by, entry, latest, silent }) = latest else {
        let excluded = excluded?;
        return Some(NodeRecord {
            membership,
            exclusion,
            session: closed,
            coordinator: None,
            report: None,
            syncs: 0,
            silent: false,
            window: None,
            baseline: None,
            last_report_at: Some(excluded.at).filter(|_| excluded.cause == Exclusion::Forgotten),
        });
    };
    let (session, coordinator) = (Some(entry.session).max(closed), Some(by.clone()));
    let left_at = match (membership, excluded) {
        (Membership::Excluded(Exclusion::Forgotten), Some(excluded)) => Some(excluded.at),
        (Membership::Excluded(Exclusion::Moved { .. }), _) => Some(latest.at),
        _ => None,
    };
    if left_at.is_some() {
        // Nothing of a node that is gone counts but the ordinal of its session.
        return Some(NodeRecord {
            membership,
            exclusion,
            session,
            coordinator,
            report: None,
            syncs: latest.syncs,
            silent,
            window: None,
            baseline: None,
            last_report_at: left_at,
        });
    }
    Some(NodeRecord {
        membership,
        exclusion,
        session,
        coordinator,
        report: Some(latest.report.clone()),
        syncs: latest.syncs,
        silent,
        window: latest.window,
        baseline: latest.baseline,
        last_report_at: Some(latest.at),
    })
}
