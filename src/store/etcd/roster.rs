//! The roster that one coordinator writes: a chunk for each write, and now and then fewer chunks that come to the same.
//!
//! Why chunks: a key for each node would be a thousand operations of a transaction that takes 128, and every copy would be
//! told of each.  Invariants: a chunk is written once, under the number after the last; what puts chunks together changes no
//! record.

use std::collections::BTreeMap;

use super::chunk::RosterChunk;
use super::commit::{CHUNK_BYTES_MAX, LATEST_KEPT};
use super::keys::PoolKeys;
use super::reader::{At, LastChunk};
use super::wire::{Compare, Operation, Pair, Range, Transaction};
use super::{EtcdStore, fence, locked, mark, value};
use crate::check;
use crate::error::{CommitError, Refusal, StoreError};
use crate::limits::PARTS_MAX;
use tfo_engine::rollout::parts::{Stamp, Writer, Writes};
use tfo_model::ids::{CoordinatorName, NodeId, PoolName};

/// Chunks of one roster that are put together; more if they are large.
const CHUNKS_MAX: u64 = 32;
/// How often a write is tried again because an earlier one of this process, whose outcome was open, has taken effect.
const TRIES: usize = 8;

/// Where a roster ends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Own {
    last: LastChunk,
    /// The revision of etcd that wrote it; 0: it is not there.
    written_at: i64,
    /// Chunks that were left when they were last put together.
    left: u64,
}

impl EtcdStore {
    /// See [`crate::Store::write`].
    pub(super) fn write_roster(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError> {
        if writes.len() > PARTS_MAX {
            return Err(Refusal::TooManyParts.into());
        }
        let at = self.reader.keys.pool(pool);
        if writes.is_empty() {
            return self.may_write(pool, &at, by);
        }
        let name = (pool.clone(), by.name.clone());
        let known = locked(&self.own).get(&name).copied();
        let mut own = known.map_or_else(|| self.read_own(&at, &by.name), Ok)?;
        for _ in 0..TRIES {
            let (transaction, last) = self.written(&at, by, writes, own)?;
            let mut done = self.reader.client.write(&transaction).map_err(self.reader.failed("write"))?;
            if done.succeeded {
                own = Own { last, written_at: done.header.revision, ..own };
                if own.last.chunks > CHUNKS_MAX.max(2 * own.left) {
                    // The write counts, whatever becomes of this.
                    match self.put_together(&at, by, own) {
                        Ok(shorter) => own = shorter,
                        Err(error) => {
                            tracing::debug!(%pool, %error, "chunks were not put together");
                            locked(&self.own).remove(&name);
                            return Ok(());
                        }
                    }
                }
                locked(&self.own).insert(name, own);
                return Ok(());
            }
            self.judge(pool, by, done.take_ranges())?;
            own = self.read_own(&at, &by.name)?;
        }
        let source = "its roster changes all the time".into();
        Err(StoreError::Failed { step: "write", place: self.reader.place.clone(), source }.into())
    }

    /// Whether this writer would write.
    fn may_write(&self, pool: &PoolName, at: &PoolKeys, by: &Writer) -> Result<(), CommitError> {
        let ranges = [Range::one(&at.head).keys_only(), Range::one(&at.stamp(&by.name))];
        let mut read = self.reader.client.read(ranges).map_err(self.reader.unread())?;
        let mut ranges = read.take_ranges();
        if ranges.next().is_none_or(|head| head.kvs.is_empty()) {
            return Err(CommitError::NoPool { pool: pool.clone() });
        }
        let stamp: Option<Stamp> = self.reader.parse_one(ranges.next())?;
        check::fence(by, stamp)
    }

    fn read_own(&self, at: &PoolKeys, by: &CoordinatorName) -> Result<Own, StoreError> {
        let mut read = self.reader.client.read([Range::one(&at.writer(by))]).map_err(self.reader.unread())?;
        let Some(pair) = read.take_ranges().next().and_then(|mut range| range.kvs.pop()) else {
            return Ok(Own::default());
        };
        Ok(Own { last: self.reader.parse(&pair)?, written_at: pair.mod_revision, left: 0 })
    }

    /// What every transaction of this roster compares.
    fn compares(&self, at: &PoolKeys, by: &Writer, own: Own) -> Vec<Compare> {
        vec![
            Compare::is(&self.reader.keys.meta(), &self.reader.meta()),
            Compare::is_there(&at.head),
            fence(at, &by.name, by.last),
            Compare::is_of(&at.writer(&by.name), own.written_at),
        ]
    }

    /// The transaction of a write, and where the roster ends then.
    fn written(
        &self,
        at: &PoolKeys,
        by: &Writer,
        writes: &Writes,
        own: Own,
    ) -> Result<(Transaction, LastChunk), StoreError> {
        let (mut last, mark) = (own.last, At { mark: mark()? });
        let mut success =
            vec![Operation::put(&at.at(), value::print(&at.at(), &mark)), Operation::put(&at.parts(), Vec::new())];
        if writes.nodes().next().is_some() {
            last = LastChunk { number: last.number + 1, chunks: last.chunks + 1 };
            let key = at.chunk(&by.name, last.number);
            success.push(Operation::put(&key, value::print(&key, &RosterChunk::of(writes))));
        }
        let key = at.writer(&by.name);
        success.push(Operation::put(&key, value::print(&key, &last)));
        if let Some(beat) = &writes.beat {
            let (stamp, key) = (at.stamp(&by.name), at.beat(&by.name));
            success.push(Operation::put(&stamp, value::print(&stamp, &beat.stamp)));
            success.push(Operation::put(&key, value::print(&key, beat)));
        }
        Ok((Transaction { compare: self.compares(at, by, own), success, failure: self.looks(at, by) }, last))
    }

    /// Puts chunks together, the oldest first; what later ones say again goes.  Gives where the roster ends then.
    fn put_together(&self, at: &PoolKeys, by: &Writer, mut own: Own) -> Result<Own, StoreError> {
        let prefix = at.chunks(&by.name);
        let (pairs, _) = self.reader.client.read_all(&prefix, 0).map_err(self.reader.unread())?;
        let chunks: Vec<RosterChunk> = pairs.iter().map(|pair| self.reader.parse(pair)).collect::<Result<_, _>>()?;
        let said = Said::by(&chunks);
        let (mut start, end) = (0, chunks.len().saturating_sub(LATEST_KEPT));
        while start < end {
            let (count, value) = group(&pairs, &chunks, &said, (start, end));
            let some = &pairs[start..start + count];
            start += count;
            if let [first, .., last] = some {
                let taken = u64::try_from(count - 1).unwrap_or_default();
                let now = LastChunk { chunks: own.last.chunks.saturating_sub(taken), ..own.last };
                let writer = at.writer(&by.name);
                let transaction = Transaction {
                    compare: self.compares(at, by, own),
                    success: vec![
                        Operation::put(last.name(), value),
                        Operation::delete_between(first.name(), last.name()),
                        Operation::put(&writer, value::print(&writer, &now)),
                    ],
                    failure: Vec::new(),
                };
                let done = self.reader.client.write(&transaction).map_err(self.reader.failed("write"))?;
                if !done.succeeded {
                    // Another process writes under this name; the next write says so.
                    return Ok(own);
                }
                own = Own { last: now, written_at: done.header.revision, left: own.left };
            }
        }
        Ok(Own { left: own.last.chunks, ..own })
    }
}

/// The last chunk of all that says something of a node, by its place.
#[derive(Debug, Default)]
struct Said<'a> {
    entries: BTreeMap<&'a NodeId, usize>,
    acks: BTreeMap<&'a NodeId, usize>,
    removed: BTreeMap<&'a NodeId, usize>,
}

impl<'a> Said<'a> {
    fn by(chunks: &'a [RosterChunk]) -> Self {
        let mut said = Self::default();
        for (place, chunk) in chunks.iter().enumerate() {
            said.entries.extend(chunk.entries.keys().map(|node| (node, place)));
            said.acks.extend(chunk.acks.keys().map(|node| (node, place)));
            said.removed.extend(chunk.removed.iter().map(|node| (node, place)));
        }
        said
    }

    /// Whether nothing from this place on says again, or removes, what is said of the node before.
    fn stays(&self, said: &BTreeMap<&NodeId, usize>, node: &NodeId, end: usize) -> bool {
        let is_before = |places: &BTreeMap<&NodeId, usize>| places.get(node).is_none_or(|place| *place < end);
        is_before(said) && is_before(&self.removed)
    }
}

/// How many chunks from `start` on, and before `end`, are put together, and the value of the one that takes their place.
fn group(pairs: &[Pair], chunks: &[RosterChunk], said: &Said<'_>, (start, end): (usize, usize)) -> (usize, Vec<u8>) {
    let (mut taken, mut all) = ((1, Vec::new()), RosterChunk::default());
    for place in start..end {
        all.add(&chunks[place]);
        let value = value::print(pairs[place].name(), &without_superseded(&all, said, start, place + 1));
        if place > start && value.len() > CHUNK_BYTES_MAX {
            break;
        }
        taken = (place + 1 - start, value);
    }
    taken
}

/// What the chunks from `start` to before `end` come to, without what later ones say again.
fn without_superseded(all: &RosterChunk, said: &Said<'_>, start: usize, end: usize) -> RosterChunk {
    let mut merged = all.clone();
    merged.entries.retain(|node, _| said.stays(&said.entries, node, end));
    merged.acks.retain(|node, _| said.stays(&said.acks, node, end));
    // Before the oldest there is nothing to be removed, but in copies.
    if start == 0 {
        merged.lacks |= !merged.removed.is_empty();
        merged.removed.clear();
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::chunk::misleads;
    use crate::etcd::wire::Bytes;
    use tfo_engine::rollout::parts::{Ack, Entry, Later, Parts};
    use tfo_engine::rollout::record::{Installed, Report, SlotCount};
    use tfo_model::count::Generation;
    use tfo_model::node::{KeySource, Session};
    use tfo_model::time::UnixTime;

    fn ack(syncs: u64) -> Ack {
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
        Ack { report: report.into(), syncs, window: None, baseline: None, at: UnixTime::from_secs(syncs) }
    }

    /// A chunk of a walk: entries, acks or removals of a few of ten nodes.
    fn chunk(dice: &mut u64) -> RosterChunk {
        let mut roll = |below: u64| {
            *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*dice >> 33) % below
        };
        let mut made = RosterChunk::default();
        for _ in 0..=roll(3) {
            let node: NodeId = format!("cp{}.example.org", roll(10)).parse().unwrap();
            let session = Session { ordinal: roll(5), nonce: 1 };
            match roll(3) {
                0 => drop(made.removed.insert(node)),
                1 => drop(made.entries.insert(node, Entry { session, answers: None, first: ack(roll(99)) }.into())),
                _ => drop(made.acks.insert(node, Later { session, ack: ack(roll(99)), silent: false }.into())),
            }
        }
        made
    }

    fn by() -> CoordinatorName {
        "c1.example.org".parse().unwrap()
    }

    /// What a copy comes to that had the first `known` chunks and takes the others of `stored`; none if it reads again.
    fn followed(all: &[RosterChunk], known: u64, stored: &BTreeMap<u64, RosterChunk>) -> Option<Parts> {
        let mut parts = Parts::default();
        for chunk in &all[..usize::try_from(known).unwrap()] {
            parts.write(&by(), &chunk.clone().into_writes());
        }
        for chunk in stored.range(known + 1..).map(|(_, chunk)| chunk) {
            if misleads(chunk.lacks, known) {
                return None;
            }
            parts.write(&by(), &chunk.clone().into_writes());
        }
        Some(parts)
    }

    #[test]
    fn chunks_that_were_put_together_lead_every_copy_to_the_same() {
        let (mut dice, mut read_again) = (7, 0);
        for _ in 0..300 {
            let mut all: Vec<RosterChunk> = Vec::new();
            let mut stored: BTreeMap<u64, RosterChunk> = BTreeMap::new();
            for number in 1..=12 {
                all.push(chunk(&mut dice));
                stored.insert(number, all.last().unwrap().clone());
                let (numbers, chunks): (Vec<u64>, Vec<RosterChunk>) = stored.clone().into_iter().unzip();
                // Any run of them, as `put_together` makes them one after another.
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let start = usize::try_from(dice >> 40).unwrap() % chunks.len();
                let end = (start + 1 + usize::try_from(dice >> 50).unwrap() % 4).min(chunks.len());
                let mut run = RosterChunk::default();
                chunks[start..end].iter().for_each(|chunk| run.add(chunk));
                let merged = without_superseded(&run, &Said::by(&chunks), start, end);
                numbers[start..end - 1].iter().for_each(|number| drop(stored.remove(number)));
                stored.insert(numbers[end - 1], merged);
                let known = number;
                let whole = followed(&all, known, &stored).unwrap();
                for known in 0..number {
                    match followed(&all, known, &stored) {
                        Some(parts) => assert_eq!(parts, whole, "{known} of {number}: {stored:#?}"),
                        None => {
                            assert_ne!(known, 0, "a copy that begins has nothing that could mislead it");
                            read_again += 1;
                        }
                    }
                }
            }
        }
        assert!(read_again > 100, "{read_again}");
    }

    #[test]
    fn a_group_ends_before_it_is_too_long() {
        let name = |n: u64| Pair { key: Bytes(format!("n/{n:020}").into_bytes()), ..Pair::default() };
        let of = |n: u64| {
            let entry = |i: u64| Entry { session: Session { ordinal: i, nonce: n }, answers: None, first: ack(i) };
            let entries =
                (0..500).map(|i| (format!("cp{n}-{i}.example.org").parse().unwrap(), entry(i).into())).collect();
            RosterChunk { entries, ..RosterChunk::default() }
        };
        let (pairs, chunks): (Vec<Pair>, Vec<RosterChunk>) = (1..=8).map(|n| (name(n), of(n))).unzip();
        let said = Said::by(&chunks);
        let (count, value) = group(&pairs, &chunks, &said, (0, 8));
        assert!(count > 1 && count < 8 && value.len() <= CHUNK_BYTES_MAX, "{count} {}", value.len());
        // One that is too long by itself stays.
        assert_eq!(group(&pairs, &chunks, &said, (3, 4)).0, 1);
    }
}
