//! Chunks: what one write has said of nodes.  The chunks of a writer, one after another, are its roster; those of all commits
//! are the exclusions.
//!
//! A chunk that stands for several is what they come to.  Invariant: a copy that has every chunk up to a number, and takes
//! those after it in order, comes to what a copy that takes all of them comes to; where chunks that were put together make
//! that impossible, they say so ([`misleads`]).  Persisted: every type here.  Must not know: etcd, other writers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use tfo_engine::rollout::parts::{Entry, Excluded, Later, Parts, Roster, Shared, Writes};
use tfo_engine::rollout::record::Exclusion;
use tfo_model::count::Revision;
use tfo_model::ids::NodeId;
use tfo_model::node::Session;
use tfo_model::time::UnixTime;

/// Whether a chunk with this flag leads a copy astray that has every chunk up to `number`: it is the first of all, and lacks
/// what chunks before it removed, so a copy that has some of those reads all again.
pub(super) fn misleads(lacks: bool, number: u64) -> bool {
    lacks && number > 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(is: &bool) -> bool {
    !is
}

/// Part of a roster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RosterChunk {
    /// See [`misleads`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) lacks: bool,
    /// Nodes that are removed before the rest is taken in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) removed: BTreeSet<NodeId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) entries: BTreeMap<NodeId, Shared<Entry>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) acks: BTreeMap<NodeId, Shared<Later>>,
}

impl RosterChunk {
    /// What a write says of nodes; the beat is not of it.
    pub(super) fn of(writes: &Writes) -> Self {
        let Writes { entries, acks, removed, beat: _ } = writes.clone();
        Self { lacks: false, removed, entries, acks }
    }

    /// A whole roster in chunks of so many nodes.
    pub(super) fn of_roster(roster: &Roster, nodes: usize) -> Vec<Self> {
        let (entries, acks): (Vec<_>, Vec<_>) = (roster.entries.iter().collect(), roster.acks.iter().collect());
        let of_entries = entries.chunks(nodes).map(|some| Self { entries: owned(some), ..Self::default() });
        let of_acks = acks.chunks(nodes).map(|some| Self { acks: owned(some), ..Self::default() });
        of_entries.chain(of_acks).collect()
    }

    /// As a write without a beat.
    pub(super) fn into_writes(self) -> Writes {
        let Self { lacks: _, removed, entries, acks } = self;
        Writes { entries, acks, removed, beat: None }
    }

    /// Takes a later chunk in.
    pub(super) fn add(&mut self, later: &Self) {
        self.lacks |= later.lacks;
        for node in &later.removed {
            self.entries.remove(node);
            self.acks.remove(node);
            self.removed.insert(node.clone());
        }
        self.entries.extend(later.entries.iter().map(|(node, entry)| (node.clone(), entry.clone())));
        self.acks.extend(later.acks.iter().map(|(node, ack)| (node.clone(), ack.clone())));
    }
}

fn owned<V: Clone>(some: &[(&NodeId, &V)]) -> BTreeMap<NodeId, V> {
    some.iter().map(|(node, value)| ((*node).clone(), (*value).clone())).collect()
}

/// Exclusions of a commit.  All of a commit have the same cause as a rule, so it is not said of each node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutChunk {
    /// See [`misleads`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) lacks: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    out: Vec<Group>,
    /// Nodes whose exclusion is removed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    dropped: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    cause: Exclusion,
    revision: Revision,
    at: UnixTime,
    /// With the session that is closed: ordinal and nonce.
    nodes: BTreeMap<NodeId, Option<(u64, u64)>>,
}

/// Exclusions by node.
pub(super) type Exclusions = BTreeMap<NodeId, Excluded>;

impl OutChunk {
    pub(super) fn new<'a>(
        exclusions: impl IntoIterator<Item = (&'a NodeId, &'a Excluded)>,
        dropped: &BTreeSet<NodeId>,
    ) -> Self {
        let mut out: Vec<Group> = Vec::new();
        for (node, excluded) in exclusions {
            let Excluded { cause, closes, revision, at } = excluded;
            let closes = closes.map(|session| (session.ordinal, session.nonce));
            let is_same = |group: &&mut Group| (&group.cause, &group.revision, &group.at) == (cause, revision, at);
            match out.iter_mut().find(is_same) {
                Some(group) => drop(group.nodes.insert(node.clone(), closes)),
                None => {
                    let nodes = [(node.clone(), closes)].into();
                    out.push(Group { cause: *cause, revision: *revision, at: *at, nodes });
                }
            }
        }
        Self { lacks: false, out, dropped: dropped.clone() }
    }

    /// What all chunks before it come to.
    pub(super) fn of_all(exclusions: &Exclusions) -> Self {
        Self { lacks: true, ..Self::new(exclusions, &BTreeSet::new()) }
    }

    /// All exclusions in chunks of so many nodes.
    pub(super) fn of_parts(parts: &Parts, nodes: usize) -> Vec<Self> {
        let all: Vec<_> = parts.exclusions.iter().collect();
        all.chunks(nodes).map(|some| Self::new(some.iter().copied(), &BTreeSet::new())).collect()
    }

    /// The exclusions, and the nodes that have none any more.
    pub(super) fn into_parts(self) -> (Exclusions, BTreeSet<NodeId>) {
        let excluded = self.out.into_iter().flat_map(|group| {
            let Group { cause, revision, at, nodes } = group;
            nodes.into_iter().map(move |(node, closes)| {
                let closes = closes.map(|(ordinal, nonce)| Session { ordinal, nonce });
                (node, Excluded { cause, closes, revision, at })
            })
        });
        (excluded.collect(), self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        format!("cp{number}.example.org").parse().unwrap()
    }

    fn session(ordinal: u64) -> Session {
        Session { ordinal, nonce: 7 }
    }

    fn excluded(cause: Exclusion, ordinal: Option<u64>, revision: u64) -> Excluded {
        let (revision, at) = (Revision::new(revision), UnixTime::from_secs(5));
        Excluded { cause, closes: ordinal.map(session), revision, at }
    }

    #[test]
    fn exclusions_come_back_as_they_were() {
        let exclusions: Exclusions = [
            (node(1), excluded(Exclusion::Absent, Some(1), 3)),
            (node(2), excluded(Exclusion::Denied, None, 3)),
            (node(3), excluded(Exclusion::Absent, Some(9), 3)),
            (node(4), excluded(Exclusion::Absent, Some(9), 2)),
        ]
        .into();
        let dropped = BTreeSet::from([node(5)]);
        let chunk = OutChunk::new(&exclusions, &dropped);
        assert_eq!(chunk.out.len(), 3, "one group for each cause and revision");
        let text = serde_json::to_string(&chunk).unwrap();
        let read: OutChunk = serde_json::from_str(&text).unwrap();
        assert_eq!(read.into_parts(), (exclusions, dropped));
    }

    #[test]
    fn ten_thousand_exclusions_fit_into_a_transaction() {
        let name = |n: u64| format!("cache-{n:05}.edge-{}.pop.cdn.example.org", n % 50).parse().unwrap();
        let exclusions: Exclusions =
            (0..10_000).map(|n| (name(n), excluded(Exclusion::Absent, Some(1_000_000 + n), 7))).collect();
        let exclusions: Exclusions = exclusions
            .into_iter()
            .map(|(node, one)| (node, Excluded { closes: one.closes.map(|s| Session { nonce: u64::MAX, ..s }), ..one }))
            .collect();
        let bytes = serde_json::to_vec(&OutChunk::new(&exclusions, &BTreeSet::new())).unwrap().len();
        assert!(bytes < 1_000_000, "{bytes}");
    }
}
