//! Reading pools from etcd: all of one at one revision, or what was written since a copy was read.
//!
//! Why not from a stream of changes: a stream says nothing when it is stuck, and after a restore it says too little without
//! a word.  A question to a majority of the members has neither, and costs a millisecond; the stream (`watch`) only says
//! when to ask.  Invariants: what is read together is of one revision; a copy is brought up to date only if the state that
//! it shows is one of this store's own past, which a random number in `p/POOL/at` tells (docs/protocol.md#rule-10).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::chunk::{OutChunk, RosterChunk, misleads};
use super::client::{Client, EtcdSettings};
use super::commit::AUDIT_KEPT;
use super::failure::Failure;
use super::keys::{Keys, PoolKeys, number, rest};
use super::value;
use super::wire::{Pair, Range, Ranged, Transacted};
use crate::chain::{self, ChainHead, ChainPart, ChainRow};
use crate::contract::{Head, News, PoolState, ReadStore, Trail};
use crate::error::{StoreError, gone};
use crate::limits::AUDIT_READ_MAX;
use crate::slots::Slots;
use tfo_crypto::seal::{KekId, KeyEncryptionKeys};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing};
use tfo_engine::rollout::history::LogEnd;
use tfo_engine::rollout::parts::{Beat, Parts, PoolContent, Writes};
use tfo_model::count::Revision;
use tfo_model::digest::Sha256;
use tfo_model::ids::{CoordinatorName, PoolName};

/// How often a read of everything begins again because etcd has compacted its revision meanwhile.
pub(super) const COLD_TRIES: usize = 4;

/// A transaction of etcd has at most 128 operations; with more rosters all is read again.
const ROSTERS_MAX: usize = 100;

/// `d/POOL`.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PoolHead {
    pub(super) revision: Revision,
    /// Digest of the last audit entry.
    pub(super) chain: Sha256,
    /// Revision of the oldest audit entry.
    pub(super) first: Revision,
}

impl PoolHead {
    pub(super) fn chain(&self) -> ChainHead {
        ChainHead { digest: self.chain, first: self.first }
    }
}

/// `p/POOL/at`.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    /// Random.
    pub(super) mark: u64,
}

/// `p/POOL/w/NAME`.  Persisted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastChunk {
    pub(super) number: u64,
    pub(super) chunks: u64,
}

/// Pools of a cluster, to be read.
#[derive(Debug)]
pub struct EtcdReader {
    pub(super) client: Arc<Client>,
    pub(super) keys: Keys,
    /// For messages.
    pub(super) place: String,
    pub(super) sealing: RwLock<Sealing>,
    pub(super) store_id: [u8; 16],
    /// The latest schema that this program writes.
    pub(super) newest: i64,
    /// Value of `meta`.
    pub(super) held_meta: Mutex<Vec<u8>>,
}

/// What seals.
#[derive(Debug, Clone)]
pub(super) struct Sealing {
    /// What this process has.
    pub(super) keks: KeyEncryptionKeys,
    /// Value of `kek`, which says which of them seals.
    pub(super) value: Vec<u8>,
}

impl EtcdReader {
    /// Connects to a cluster.  None if there is no store under the prefix.
    ///
    /// # Errors
    /// Fails if no member answers, if a release of etcd is known to lose data, if what is under the prefix is not ours or of
    /// a newer release, or if none of `keks` is its key-encryption key.
    pub fn open(settings: EtcdSettings, keks: impl Into<KeyEncryptionKeys>) -> Result<Option<Self>, StoreError> {
        let mut reader = Self::connect(settings, keks.into())?;
        Ok(reader.take_meta()?.then_some(reader))
    }

    pub(super) fn sealing(&self) -> Sealing {
        self.sealing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_sealing(&self, sealing: Sealing) {
        *self.sealing.write().unwrap_or_else(PoisonError::into_inner) = sealing;
    }

    pub(super) fn failed(&self, step: &'static str) -> impl Fn(Failure) -> StoreError + use<'_> {
        move |failure| failure.at(step, &self.place)
    }

    /// A read has failed.
    pub(super) fn unread(&self) -> impl Fn(Failure) -> StoreError + use<'_> {
        move |failure| failure.of_reading(&self.place)
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { place: self.place.clone(), what: what.into() }
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self, pair: &Pair) -> Result<T, StoreError> {
        value::parse(pair, &self.place)
    }

    /// The value of a range of one key.
    pub(super) fn parse_one<T: serde::de::DeserializeOwned>(
        &self,
        range: Option<Ranged>,
    ) -> Result<Option<T>, StoreError> {
        range.and_then(|mut range| range.kvs.pop()).map(|pair| self.parse(&pair)).transpose()
    }

    /// The position of a pool from its head, `at` and `parts`, and the revision of etcd that wrote its head; none if it does
    /// not exist.
    fn head_of(&self, mut ranges: impl Iterator<Item = Ranged>) -> Result<Option<(Head, i64)>, StoreError> {
        let [head, at, parts] = [ranges.next(), ranges.next(), ranges.next()];
        let written_at = head.as_ref().and_then(|head| Some(head.kvs.first()?.mod_revision)).unwrap_or_default();
        let Some(PoolHead { revision, .. }) = self.parse_one(head)? else { return Ok(None) };
        let at: Option<At> = self.parse_one(at)?;
        let written = parts.and_then(|mut parts| parts.kvs.pop()).map(|pair| pair.version.cast_unsigned());
        let (Some(At { mark }), Some(written)) = (at, written) else {
            return Err(self.damaged("a pool has a name and no state"));
        };
        Ok(Some((Head { revision, part_writes: written.saturating_sub(1), mark }, written_at)))
    }

    fn head_ranges(keys: &PoolKeys) -> [Range; 3] {
        [Range::one(&keys.head), Range::one(&keys.at()), Range::one(&keys.parts())]
    }

    /// The bytes of the keys that the document holds.
    pub(super) fn open_keys(&self, pool: &PoolName, document: &Document, slots: &Slots) -> Result<KeyRing, StoreError> {
        let opened = slots.open(&self.sealing().keks, pool, document);
        opened.map_err(|what| self.damaged(what))
    }

    pub(super) fn parse_slots(&self, range: Option<Ranged>) -> Result<Slots, StoreError> {
        let bytes: Option<String> = self.parse_one(range)?;
        bytes.as_deref().and_then(Slots::from_text).ok_or_else(|| self.damaged("the sealed keys of a pool are missing"))
    }

    /// Everything of a pool, at one revision.
    fn load_at_once(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        for _ in 0..COLD_TRIES {
            match self.read_pool(pool) {
                Ok(Some((head, pairs, revision))) => return self.collect(pool, (head, revision), pairs).map(Some),
                Ok(None) => return Ok(None),
                // etcd forgets old revisions faster than they are read.
                Err(Failure::Compacted { .. }) => {}
                Err(failure) => return Err(failure.of_reading(&self.place)),
            }
        }
        Err(Failure::Compacted { url: self.client.members() }.of_reading(&self.place))
    }

    fn read_pool(&self, pool: &PoolName) -> Result<Option<(Pair, Vec<Pair>, i64)>, Failure> {
        let keys = self.keys.pool(pool);
        let (pairs, head, revision) = self.client.read_all_beside(&keys.all, Some(&keys.head), 0)?;
        Ok(head.map(|head| (head, pairs, revision)))
    }

    fn collect(&self, pool: &PoolName, (head, at): (Pair, i64), pairs: Vec<Pair>) -> Result<PoolState, StoreError> {
        let keys = self.keys.pool(pool);
        let PoolHead { revision, .. } = self.parse(&head)?;
        let (mut parts, mut trail) =
            (Parts::default(), Trail { revision: at, document: head.mod_revision, ..Trail::default() });
        let (mut document, mut slots, mut mark, mut part_writes) = (None, None, None, None);
        let mut found: BTreeMap<CoordinatorName, (u64, u64)> = BTreeMap::new();
        let mut last: BTreeMap<CoordinatorName, LastChunk> = BTreeMap::new();
        for pair in pairs {
            let key = pair.name();
            if key == keys.at() {
                mark = Some(self.parse::<At>(&pair)?.mark);
            } else if key == keys.parts() {
                part_writes = Some(pair.version.cast_unsigned().saturating_sub(1));
            } else if key == keys.document() {
                document = Some(self.parse::<Document>(&pair)?);
            } else if key == keys.keys() {
                slots = Slots::from_text(&self.parse::<String>(&pair)?);
            } else if let Some(number) = number(key, &keys.outs()) {
                let (exclusions, dropped) = self.parse::<OutChunk>(&pair)?.into_parts();
                parts.exclusions.extend(exclusions);
                for node in &dropped {
                    parts.exclusions.remove(node);
                }
                trail.out = number;
            } else if let Some(by) = rest(key, &keys.beats()) {
                let beat: Beat = self.parse(&pair)?;
                parts.rosters.entry(self.name(by)?).or_default().beat = Some(beat);
            } else if let Some(by) = rest(key, &keys.writers()) {
                last.insert(self.name(by)?, self.parse(&pair)?);
            } else if let Some((by, number)) = rest(key, &keys.all).and_then(chunk_of) {
                // In the order of their numbers.
                let by = self.name(by)?;
                parts.write(&by, &self.parse::<RosterChunk>(&pair)?.into_writes());
                let counted = found.entry(by).or_default();
                *counted = (number, counted.1 + 1);
            }
        }
        for (by, LastChunk { number, chunks }) in last {
            let counted = found.remove(&by).unwrap_or_default();
            if counted.1 != chunks || (chunks > 0 && counted.0 != number) {
                return Err(
                    self.damaged(format!("parts of the node records that {by} wrote in pool {pool} are missing"))
                );
            }
            trail.rosters.insert(by, number);
        }
        let missing = || self.damaged(format!("the document of pool {pool} is missing"));
        let document = document.filter(|document| document.revision == revision).ok_or_else(missing)?;
        let (Some(slots), Some(mark), Some(part_writes)) = (slots, mark, part_writes) else {
            return Err(self.damaged(format!("the state of pool {pool} is missing")));
        };
        let opened = self.open_keys(pool, &document, &slots)?;
        let head = Head { revision, part_writes, mark };
        Ok(PoolState { head, content: PoolContent::new(document, parts), keys: opened, trail })
    }

    fn name(&self, text: &str) -> Result<CoordinatorName, StoreError> {
        text.parse().map_err(|_| self.damaged("a coordinator has an invalid name"))
    }

    /// See [`crate::Store::follow`].
    pub(super) fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        let keys = self.keys.pool(pool);
        let asked = Self::head_ranges(&keys).into_iter().chain([Range::one(&self.keys.meta())]);
        let mut looked = self.client.read(asked).map_err(self.unread())?;
        let mut ranges = looked.take_ranges();
        let head = self.head_of(ranges.by_ref());
        // A program that finds a later schema must not show, either, what it may misread.
        let meta = ranges.next().and_then(|mut meta| meta.kvs.pop());
        self.take_over_meta(meta.as_ref().map(|meta| &meta.value.0[..]))?;
        let (head, _) = head?.ok_or_else(|| gone(pool))?;
        if copy.head == head {
            return Ok(News::Same);
        }
        match self.read_since(&keys, copy) {
            Ok(Some(read)) => {
                if let Some(news) = self.take_over(pool, copy, read)? {
                    return Ok(news);
                }
            }
            // Compacted or restored: what the copy shows is not there to be compared with.
            Ok(None) | Err(Failure::Compacted { .. } | Failure::Future { .. }) => {}
            Err(failure) => return Err(failure.of_reading(&self.place)),
        }
        let PoolState { head, content, keys, trail } = self.load_at_once(pool)?.ok_or_else(|| gone(pool))?;
        copy.content.read_again(content);
        (copy.head, copy.keys, copy.trail) = (head, keys, trail);
        Ok(News::ReadAgain)
    }

    /// Reads what was written since the copy was read; none if the copy knows no revision.
    fn read_since(&self, keys: &PoolKeys, copy: &PoolState) -> Result<Option<Transacted>, Failure> {
        let Trail { revision, out, rosters, document: _ } = &copy.trail;
        if *revision == 0 || rosters.len() > ROSTERS_MAX {
            return Ok(None);
        }
        let ranges = [Range::one(&keys.at()).at(*revision)]
            .into_iter()
            .chain(Self::head_ranges(keys))
            .chain([
                Range::one(&keys.document()),
                Range::one(&keys.keys()),
                Range::from(&keys.out(out + 1), &keys.outs()),
                Range::under(&keys.beats()),
                Range::under(&keys.writers()),
            ])
            .chain(rosters.iter().map(|(by, number)| Range::from(&keys.chunk(by, number + 1), &keys.chunks(by))));
        self.client.read_much(ranges).map(Some)
    }

    /// Takes it into the copy; none, and no change, if that does not lead to what is stored.
    fn take_over(
        &self,
        pool: &PoolName,
        copy: &mut PoolState,
        mut read: Transacted,
    ) -> Result<Option<News>, StoreError> {
        let (keys, at) = (self.keys.pool(pool), read.header.revision);
        let mut ranges = read.take_ranges();
        let before: Option<At> = self.parse_one(ranges.next())?;
        if before.is_none_or(|before| before.mark != copy.head.mark) {
            return Ok(None);
        }
        let (head, written_at) = self.head_of(ranges.by_ref())?.ok_or_else(|| gone(pool))?;
        let document: Option<Document> = self.parse_one(ranges.next())?;
        let document = document.ok_or_else(|| self.damaged(format!("the document of pool {pool} is missing")))?;
        let slots = self.parse_slots(ranges.next())?;
        let mut next = |prefix: &str| -> Vec<(u64, Pair)> {
            let kvs = ranges.next().unwrap_or_default().kvs.into_iter();
            kvs.map(|pair| (number(pair.name(), prefix).unwrap_or_default(), pair)).collect()
        };
        let mut trail = Trail { revision: at, document: written_at, ..copy.trail.clone() };
        let mut outs = Vec::new();
        for (number, pair) in next(&keys.outs()) {
            let chunk: OutChunk = self.parse(&pair)?;
            if misleads(chunk.lacks, copy.trail.out) {
                return Ok(None);
            }
            outs.push(chunk.into_parts());
            trail.out = number;
        }
        let mut written: Vec<(CoordinatorName, Writes)> = Vec::new();
        let beats = next(&keys.beats());
        let writers = next(&keys.writers());
        for (by, known) in &copy.trail.rosters {
            for (number, pair) in next(&keys.chunks(by)) {
                let chunk: RosterChunk = self.parse(&pair)?;
                if misleads(chunk.lacks, *known) {
                    return Ok(None);
                }
                written.push((by.clone(), chunk.into_writes()));
                trail.rosters.insert(by.clone(), number);
            }
        }
        for (_, pair) in writers {
            let by = self.name(rest(pair.name(), &keys.writers()).unwrap_or_default())?;
            let LastChunk { number, .. } = self.parse(&pair)?;
            if !trail.rosters.contains_key(&by) {
                // One that has written for the first time.
                let chunks = self.chunks_of(&keys, &by, at)?;
                trail.rosters.insert(by.clone(), number);
                written.extend(chunks.into_iter().map(|chunk| (by.clone(), chunk.into_writes())));
            }
        }
        for (_, pair) in beats {
            let by = self.name(rest(pair.name(), &keys.beats()).unwrap_or_default())?;
            let beat: Beat = self.parse(&pair)?;
            if copy.content.parts().stamp(&by) != Some(beat.stamp) {
                written.push((by, Writes { beat: Some(beat), ..Writes::default() }));
            }
        }
        // Nothing fails from here on.
        let opened = self.open_keys(pool, &document, &slots)?;
        for (exclusions, dropped) in &outs {
            copy.content.take_over(&document, exclusions, dropped);
        }
        copy.content.take_over(&document, &BTreeMap::new(), &BTreeSet::new());
        written.iter().for_each(|(by, writes)| copy.content.write(by, writes));
        (copy.head, copy.keys, copy.trail) = (head, opened, trail);
        Ok(Some(News::Followed))
    }

    /// All chunks of one writer, at this revision.
    fn chunks_of(&self, keys: &PoolKeys, by: &CoordinatorName, at: i64) -> Result<Vec<RosterChunk>, StoreError> {
        let (pairs, _) = self.client.read_all(&keys.chunks(by), at).map_err(self.unread())?;
        pairs.iter().map(|pair| self.parse(pair)).collect()
    }
}

/// Coordinator and number in the rest of a chunk's key.
fn chunk_of(rest: &str) -> Option<(&str, u64)> {
    let (by, number) = rest.strip_prefix("n/")?.split_once('/')?;
    Some((by, number.parse().ok()?))
}

impl ReadStore for EtcdReader {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        let heads = self.keys.heads();
        let mut read = self.client.read([Range::under(&heads).keys_only()]).map_err(self.unread())?;
        let found = read.take_ranges().next().unwrap_or_default().kvs;
        let invalid = || self.damaged("a pool has an invalid name");
        let name = |pair: &Pair| rest(pair.name(), &heads).and_then(|name| name.parse().ok()).ok_or_else(invalid);
        found.iter().map(name).collect()
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        let mut read = self.client.read(Self::head_ranges(&self.keys.pool(pool))).map_err(self.unread())?;
        Ok(self.head_of(read.take_ranges())?.map(|(head, _)| head))
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.load_at_once(pool)
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        let keys = self.keys.pool(pool);
        let ranges = [Range::one(&keys.head), Range::one(&keys.document()), Range::one(&keys.keys())];
        let mut read = self.client.read(ranges).map_err(self.unread())?;
        let mut ranges = read.take_ranges();
        if ranges.next().is_none_or(|head| head.kvs.is_empty()) {
            return Ok(None);
        }
        let document: Option<Document> = self.parse_one(ranges.next())?;
        let document = document.ok_or_else(|| self.damaged(format!("the document of pool {pool} is missing")))?;
        let slots = self.parse_slots(ranges.next())?;
        let opened = self.open_keys(pool, &document, &slots)?;
        Ok(Some((document, opened)))
    }

    fn sealed_by(&self) -> Result<Option<KekId>, StoreError> {
        self.take_kek(self.sealing().keks).map(Some)
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        let Some(range) = self.log_range(pool, after) else { return Ok(Vec::new()) };
        let mut read = self.client.read_much([range]).map_err(self.unread())?;
        let damaged = |what| self.damaged(format!("pool {pool}: {what}"));
        chain::entries(self.chain_rows(pool, read.take_ranges().next()), damaged)
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        let keys = self.keys.pool(pool);
        let ranges = [Range::one(&keys.head), Range::one(&keys.document())];
        let mut read =
            self.client.read_much(ranges.into_iter().chain(self.log_range(pool, after))).map_err(self.unread())?;
        let mut ranges = read.take_ranges();
        let Some(head) = self.parse_one::<PoolHead>(ranges.next())? else { return Ok(None) };
        let document = ranges.next().and_then(|mut range| range.kvs.pop());
        let document = document.ok_or_else(|| self.damaged(format!("the document of pool {pool} is missing")))?;
        let Document { pool_id, .. } = self.parse(&document)?;
        let (text, _) = value::text(&document);
        let end = LogEnd {
            revision: head.revision,
            document: chain::digest_of_text(&text),
            chain: head.chain,
            kept: AUDIT_KEPT,
        };
        Ok(Some(ChainPart { pool_id, end, rows: self.chain_rows(pool, ranges.next()) }))
    }
}

impl EtcdReader {
    /// Entries of later revisions.
    fn log_range(&self, pool: &PoolName, after: Revision) -> Option<Range> {
        let keys = self.keys.pool(pool);
        let limit = i64::try_from(AUDIT_READ_MAX).unwrap_or(i64::MAX);
        Some(Range::from(&keys.entry(after.next()?), &keys.log).limit(limit))
    }

    fn chain_rows(&self, pool: &PoolName, range: Option<Ranged>) -> Vec<ChainRow> {
        let prefix = self.keys.pool(pool).log;
        let row = |pair: &Pair| {
            let (text, is_intact) = value::text(pair);
            let revision = Revision::new(number(pair.name(), &prefix).unwrap_or_default());
            ChainRow { revision, text, is_intact }
        };
        range.unwrap_or_default().kvs.iter().map(row).collect()
    }
}
