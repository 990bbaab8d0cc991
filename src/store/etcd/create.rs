//! Making a pool.  Its parts and its audit log may be more than one transaction takes: they are written first, where no reader
//! looks before the pool has its head, and the head comes last.  A process that begins to make the same pool throws away what
//! another one has left, or is still writing; that one notices, and begins again.

use std::time::Duration;

use super::chunk::{OutChunk, RosterChunk};
use super::commit::{CHUNK_BYTES_MAX, OPERATIONS_MAX};
use super::keys::PoolKeys;
use super::reader::{At, LastChunk};
use super::wire::{Compare, Operation, Transaction};
use super::{EtcdStore, mark, value};
use crate::chain::ChainHead;
use crate::check;
use crate::contract::PoolImage;
use crate::error::{CommitError, StoreError};
use crate::slots::Slots;
use tfo_model::ids::PoolName;

/// How often it begins again because another process makes the same pool.
const TRIES: u32 = 10;
/// A pause before that, so that one of them comes to an end.
const PAUSE: Duration = Duration::from_millis(40);
/// Nodes of one chunk: about half a megabyte.
const NODES: usize = 400;
/// Exclusions of one chunk: as many as a commit may have.
const OUT_NODES: usize = tfo_engine::rollout::document::CHANGED_MAX;

impl EtcdStore {
    /// See [`crate::Store::create`].
    pub(super) fn create_pool(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        let at = self.reader.keys.pool(pool);
        let document = &image.content.snapshot().document;
        let plan = check::plan_first(document, image.keys, image.audit)?;
        for _ in 0..TRIES {
            // A rekey may have come in between.
            self.reader.take_kek(self.reader.sealing().keks)?;
            let maker = At { mark: mark()? };
            if !self.begin(&at, maker)? {
                return Err(CommitError::PoolExists { pool: pool.clone() });
            }
            let mut last = self.document(&at, document, ChainHead::after(&document.pool_id, image.audit))?;
            last.push(self.sealed(&at, &Slots::default(), document, &plan)?);
            last.push(Operation::put(&at.parts(), Vec::new()));
            last.push(Operation::delete(&at.maker()));
            let batches = batches(rest(&at, image));
            let is_made = batches
                .into_iter()
                .try_fold(true, |good, batch| Ok::<_, StoreError>(good && self.put_if_maker(&at, maker, batch)?))?;
            if is_made && self.put_if_maker(&at, maker, last)? {
                return Ok(());
            }
            // Another process is at it; a random time, so that they do not meet again.
            std::thread::sleep(PAUSE * (1 + u32::try_from(maker.mark % 8).unwrap_or_default()));
        }
        let source = "other processes make the same pool all the time".into();
        Err(StoreError::Failed { step: "make a pool in", place: self.reader.place.clone(), source }.into())
    }

    /// Throws away what an unfinished process has left.  False: there is such a pool.
    fn begin(&self, at: &PoolKeys, maker: At) -> Result<bool, StoreError> {
        let clear = Transaction {
            compare: self.compares_absent(at),
            success: vec![Operation::delete_under(&at.all), Operation::delete_under(&at.log)],
            failure: Vec::new(),
        };
        if !self.put(&clear)? {
            return Ok(false);
        }
        // Not in the transaction before: what it removes it cannot write.
        let key = at.maker();
        let success = vec![Operation::put(&key, value::print(&key, &maker))];
        self.put(&Transaction { compare: self.compares_absent(at), success, failure: Vec::new() })
    }

    fn compares_absent(&self, at: &PoolKeys) -> Vec<Compare> {
        let meta = Compare::is(&self.reader.keys.meta(), &self.reader.meta());
        let kek = Compare::is(&self.reader.keys.kek(), &self.reader.sealing().value);
        vec![meta, kek, Compare::is_absent(&at.head)]
    }

    fn put_if_maker(&self, at: &PoolKeys, maker: At, success: Vec<Operation>) -> Result<bool, StoreError> {
        let key = at.maker();
        let mut compare = self.compares_absent(at);
        compare.push(Compare::is(&key, &value::print(&key, &maker)));
        self.put(&Transaction { compare, success, failure: Vec::new() })
    }

    /// False: what it compares is not so.
    fn put(&self, transaction: &Transaction) -> Result<bool, StoreError> {
        let done = self.reader.client.write(transaction).map_err(self.reader.failed("write"))?;
        if !done.succeeded {
            let meta = self.reader.client.read([super::wire::Range::one(&self.reader.keys.meta())]);
            let meta = meta.map_err(self.reader.unread())?.take_ranges().next().and_then(|mut meta| meta.kvs.pop());
            self.reader.take_over_meta(meta.as_ref().map(|meta| &meta.value.0[..]))?;
        }
        Ok(done.succeeded)
    }
}

/// Everything but what makes it a pool.
fn rest(at: &PoolKeys, image: &PoolImage<'_>) -> Vec<Operation> {
    let parts = image.content.parts();
    let mut puts = Vec::new();
    let mut put = |key: String, value: Vec<u8>| puts.push(Operation::put(&key, value));
    for (by, roster) in &parts.rosters {
        let mut last = LastChunk::default();
        for chunk in RosterChunk::of_roster(roster, NODES) {
            last = LastChunk { number: last.number + 1, chunks: last.chunks + 1 };
            let key = at.chunk(by, last.number);
            let value = value::print(&key, &chunk);
            put(key, value);
        }
        let key = at.writer(by);
        let value = value::print(&key, &last);
        put(key, value);
        if let Some(beat) = &roster.beat {
            let (stamp, key) = (at.stamp(by), at.beat(by));
            let (first, second) = (value::print(&stamp, &beat.stamp), value::print(&key, beat));
            put(stamp, first);
            put(key, second);
        }
    }
    // Under the last revisions: the next commit has the one after them.  Each of them was one commit with as many at most.
    let outs = OutChunk::of_parts(parts, OUT_NODES);
    let revision = image.content.snapshot().document.revision.get();
    let first = (revision + 1).saturating_sub(outs.len() as u64);
    for (number, chunk) in (first..).zip(outs) {
        let key = at.out(number);
        let value = value::print(&key, &chunk);
        put(key, value);
    }
    let kept = image.audit.len().saturating_sub(usize::try_from(super::commit::AUDIT_KEPT).unwrap_or(usize::MAX));
    for written in &image.audit[kept..] {
        let key = at.entry(written.link().entry.revision);
        let value = value::print_text(&key, written.text());
        put(key, value);
    }
    puts
}

/// In transactions that etcd takes.
fn batches(puts: Vec<Operation>) -> Vec<Vec<Operation>> {
    let mut batches: Vec<Vec<Operation>> = Vec::new();
    let mut bytes = 0;
    for put in puts {
        bytes += put.bytes();
        match batches.last_mut() {
            Some(batch) if batch.len() < OPERATIONS_MAX && bytes <= CHUNK_BYTES_MAX => batch.push(put),
            Some(_) | None => {
                bytes = put.bytes();
                batches.push(vec![put]);
            }
        }
    }
    batches
}
