//! What was stored, read back as a book of moments: after each transaction of etcd the whole content of the pool.
//!
//! The layout is read here by its own description (`src/store/etcd/keys.rs`), not by the store's code: a value is a checksum
//! and JSON.  Chunks that were put together say nothing new, and are passed over: they overwrite a key.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use tfo_engine::rollout::document::{AuditEntry, Document, Snapshot};
use tfo_engine::rollout::history::Link;
use tfo_engine::rollout::parts::{Beat, Entry, Excluded, Later, Parts, PoolContent, Shared, Writes};
use tfo_engine::rollout::record::Exclusion;
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::node::Session;
use tfo_model::time::UnixTime;

use crate::cluster::{POOL, PREFIX};

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The revision of etcd: one for all changes of a transaction.
    pub revision: i64,
    pub key: String,
    /// None: it was removed.
    pub value: Option<Vec<u8>>,
    /// The key was not there before.
    pub is_new: bool,
}

impl Event {
    /// As `etcdctl watch -w json` prints it.
    pub fn of(event: &Value) -> Self {
        let kv = &event["kv"];
        let bytes = |name: &str| STANDARD.decode(kv[name].as_str().unwrap_or_default()).expect("etcdctl prints base64");
        let is_removed = event["type"].as_i64().unwrap_or_default() != 0;
        Self {
            revision: kv["mod_revision"].as_i64().expect("a change has a revision"),
            key: String::from_utf8_lossy(&bytes("key")).into_owned(),
            value: (!is_removed).then(|| bytes("value")),
            is_new: kv["create_revision"] == kv["mod_revision"],
        }
    }

    /// The value behind its checksum.
    fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        let value = self.value.as_deref().unwrap_or_default();
        let start = value.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
        serde_json::from_slice(&value[start..]).map_err(|error| format!("{}: {error}", self.key))
    }
}

/// A part of a roster.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RosterChunk {
    removed: BTreeSet<NodeId>,
    entries: BTreeMap<NodeId, Shared<Entry>>,
    acks: BTreeMap<NodeId, Shared<Later>>,
}

/// The exclusions of a commit.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutChunk {
    out: Vec<Group>,
    dropped: BTreeSet<NodeId>,
}

#[derive(Debug, Deserialize)]
struct Group {
    cause: Exclusion,
    revision: Revision,
    at: UnixTime,
    nodes: BTreeMap<NodeId, Option<(u64, u64)>>,
}

/// What a node acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Acked {
    pub(super) node: NodeId,
    pub(super) session: Session,
    pub(super) generation: Generation,
    pub(super) at: UnixTime,
}

/// A transaction that changed the pool.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// Content after it.
    pub(super) after: Snapshot,
    /// The entry of the audit log, if it changed the document.
    pub(super) commit: Option<Option<AuditEntry>>,
    pub(super) acked: Vec<Acked>,
}

/// All moments from the pool's beginning on.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) moments: Vec<Moment>,
    /// What could not be read, or was written where nothing is ever written again.
    pub(super) faults: Vec<String>,
}

/// The content of the pool after all of these.
pub(super) fn content_of(events: &[Event]) -> Option<PoolContent> {
    let (mut book, mut content) = (Book::default(), None);
    for transaction in events.chunk_by(|one, next| one.revision == next.revision) {
        // The judge tells of what cannot be read.
        book.add(transaction, &mut content).unwrap_or_default();
        book.moments.clear();
    }
    content
}

impl Book {
    pub(super) fn of(events: &[Event]) -> Self {
        let mut book = Self::default();
        let mut content: Option<PoolContent> = None;
        for transaction in events.chunk_by(|one, next| one.revision == next.revision) {
            if let Err(fault) = book.add(transaction, &mut content) {
                book.faults.push(format!("revision {} of etcd: {fault}", transaction[0].revision));
            }
        }
        book
    }

    fn add(&mut self, transaction: &[Event], content: &mut Option<PoolContent>) -> Result<(), String> {
        let (pool, log) = (format!("{PREFIX}p/{POOL}/"), format!("{PREFIX}l/{POOL}/"));
        let (mut document, mut entry, mut acked) = (None, None, Vec::new());
        let (mut excluded, mut dropped) = (BTreeMap::new(), BTreeSet::new());
        let mut written: Vec<(CoordinatorName, Writes)> = Vec::new();
        for event in transaction {
            if let Some(revision) = event.key.strip_prefix(&log) {
                if event.value.is_none() || !event.is_new {
                    return Err(format!("the audit entry of revision {revision} was changed or removed"));
                }
                entry = Some(event.parse::<Link>()?.entry);
            }
            let Some(rest) = event.key.strip_prefix(&pool).filter(|_| event.value.is_some()) else { continue };
            let parts: Vec<&str> = rest.split('/').collect();
            match parts[..] {
                ["doc"] => document = Some(event.parse::<Document>()?),
                ["out", _] if event.is_new => {
                    let chunk: OutChunk = event.parse()?;
                    dropped.extend(chunk.dropped);
                    excluded.extend(chunk.out.into_iter().flat_map(of_group));
                }
                ["b", by] => {
                    let beat = Some(event.parse::<Beat>()?);
                    written.push((name(by)?, Writes { beat, ..Writes::default() }));
                }
                ["n", by, _] if event.is_new => {
                    let RosterChunk { removed, entries, acks } = event.parse()?;
                    acked
                        .extend(entries.iter().filter_map(|(node, entry)| acked_by(node, entry.session, &entry.first)));
                    acked.extend(acks.iter().filter_map(|(node, later)| acked_by(node, later.session, &later.ack)));
                    written.push((name(by)?, Writes { entries, acks, removed, beat: None }));
                }
                _ => {}
            }
        }
        let is_commit = document.is_some();
        if content.is_none() {
            *content = document.clone().map(|document| PoolContent::new(document, Parts::default()));
        }
        let Some(content) = content else { return Ok(()) };
        if let Some(document) = &document {
            content.take_over(document, &excluded, &dropped);
        }
        for (by, writes) in &written {
            content.write(by, writes);
        }
        if is_commit || !written.is_empty() {
            self.moments.push(Moment { after: content.snapshot().clone(), commit: is_commit.then_some(entry), acked });
        }
        Ok(())
    }
}

fn name(by: &str) -> Result<CoordinatorName, String> {
    by.parse().map_err(|_| format!("{by:?} is not the name of a coordinator"))
}

fn of_group(group: Group) -> impl Iterator<Item = (NodeId, Excluded)> {
    let Group { cause, revision, at, nodes } = group;
    nodes.into_iter().map(move |(node, closes)| {
        let closes = closes.map(|(ordinal, nonce)| Session { ordinal, nonce });
        (node, Excluded { cause, closes, revision, at })
    })
}

fn acked_by(node: &NodeId, session: Session, ack: &tfo_engine::rollout::parts::Ack) -> Option<Acked> {
    let fence = ack.report.fence.as_ref()?;
    let is_installed = ack.report.installed == tfo_engine::rollout::record::Installed::ReadBack;
    is_installed.then(|| Acked { node: node.clone(), session, generation: fence.generation, at: ack.at })
}
