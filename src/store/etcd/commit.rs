//! Commits: the one place where coordinators meet.  A commit compares what it was decided from, its document and its
//! writer's last beat, and is one transaction of etcd, whatever the size of the fleet.

use super::chunk::{Exclusions, OutChunk};
use super::keys::PoolKeys;
use super::reader::{At, PoolHead};
use super::wire::{Compare, Operation, Pair, Range, Ranged, Transaction};
use super::{EtcdStore, fence, mark, value};
use crate::chain::ChainHead;
use crate::check::{self, KeyPlan};
use crate::contract::Erasure;
use crate::error::{CommitError, StoreError};
use crate::slots::Slots;
use tfo_engine::rollout::document::{Document, KeyRing, Proposal};
use tfo_engine::rollout::parts::{Stamp, Writer};
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;

/// Audit entries that are kept in etcd for each pool, about 5 MB: its database is shared, and small.
pub(super) const AUDIT_KEPT: u64 = 10_000;
/// So many chunks of exclusions are put together.
const OUTS_MAX: i64 = 64;
/// The latest chunks stay as they are: a copy that is a little behind need not read all again.
pub(super) const LATEST_KEPT: usize = 4;
/// Most bytes of a chunk that stands for several.
pub(super) const CHUNK_BYTES_MAX: usize = 512 << 10;

/// What a commit finds stored.
struct Stored {
    head: PoolHead,
    /// Revision of etcd at which the head was written.
    written_at: i64,
    document: Document,
    slots: Slots,
    /// Revision of etcd at which the sealed keys were written: a rekey may write them, too.
    sealed_at: i64,
    outs: i64,
}

impl EtcdStore {
    /// See [`crate::Store::commit`].
    pub(super) fn commit_proposal(
        &self,
        (pool, by): (&PoolName, &Writer),
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        let at = self.reader.keys.pool(pool);
        let stored = self.stored(pool, &at, by)?;
        if stored.head.revision != proposal.expected {
            return Err(CommitError::Conflict { expected: proposal.expected, stored: stored.head.revision });
        }
        let plan = check::plan(&stored.document, proposal, keys)?;
        let (erases, sealing) = (plan.erases, self.reader.sealing());
        let transaction = Transaction {
            compare: vec![
                Compare::is(&self.reader.keys.meta(), &self.reader.meta()),
                Compare::is(&self.reader.keys.kek(), &sealing.value),
                Compare::is_of(&at.keys(), stored.sealed_at),
                Compare::is_of(&at.head, stored.written_at),
                fence(&at, &by.name, by.last),
            ],
            success: self.committed(&at, &stored, proposal, &plan)?,
            failure: self.looks(&at, by),
        };
        let mut done = self.reader.client.write(&transaction).map_err(self.reader.failed("commit to"))?;
        if !done.succeeded {
            let revision = self.judge(pool, by, done.take_ranges())?;
            // It may have been a rekey: then this is tried again, and seals with the next key.
            self.reader.take_kek(sealing.keks)?;
            return Err(CommitError::Conflict { expected: proposal.expected, stored: revision });
        }
        if proposal.changes_parts() && stored.outs > 0 && stored.outs % OUTS_MAX == 0 {
            // The commit counts, whatever becomes of this.
            if let Err(error) = self.put_outs_together(&at) {
                tracing::debug!(%pool, %error, "exclusions were not put together");
            }
        }
        Ok(if erases { Erasure::History } else { Erasure::Done })
    }

    /// What is stored, if this writer may commit.
    fn stored(&self, pool: &PoolName, at: &PoolKeys, by: &Writer) -> Result<Stored, CommitError> {
        let ranges = [
            Range::one(&at.head),
            Range::one(&at.stamp(&by.name)),
            Range::one(&at.document()),
            Range::one(&at.keys()),
            Range::under(&at.outs()).count_only(),
        ];
        let mut read = self.reader.client.read(ranges).map_err(self.reader.unread())?;
        let mut ranges = read.take_ranges();
        let head: Pair = ranges
            .next()
            .and_then(|mut head| head.kvs.pop())
            .ok_or_else(|| CommitError::NoPool { pool: pool.clone() })?;
        let stamp: Option<Stamp> = self.reader.parse_one(ranges.next())?;
        check::fence(by, stamp)?;
        let document: Option<Document> = self.reader.parse_one(ranges.next())?;
        let sealed = ranges.next();
        let sealed_at = sealed.as_ref().and_then(|range| range.kvs.first()).map_or(0, |pair| pair.mod_revision);
        let slots = self.reader.parse_slots(sealed)?;
        let missing = || self.reader.damaged(format!("the document of pool {pool} is missing"));
        Ok(Stored {
            written_at: head.mod_revision,
            head: self.reader.parse(&head)?,
            document: document.ok_or_else(missing)?,
            slots,
            sealed_at,
            outs: ranges.next().unwrap_or_default().count,
        })
    }

    /// The operations of a commit.
    fn committed(
        &self,
        at: &PoolKeys,
        stored: &Stored,
        proposal: &Proposal,
        plan: &KeyPlan<'_>,
    ) -> Result<Vec<Operation>, CommitError> {
        let revision = proposal.document.revision;
        let entry = at.entry(revision);
        let mut chain = stored.head.chain();
        let written = chain.add(&proposal.document, proposal.audit.clone(), AUDIT_KEPT);
        let mut done = self.document(at, &proposal.document, chain)?;
        done.push(Operation::put(&entry, value::print_text(&entry, written.text())));
        if !plan.add.is_empty() || plan.erases {
            done.push(self.sealed(at, &stored.slots, &proposal.document, plan)?);
        }
        if proposal.changes_parts() {
            let key = at.out(revision.get());
            let chunk = OutChunk::new(&proposal.exclusions, &proposal.dropped);
            done.push(Operation::put(&key, value::print(&key, &chunk)));
            done.push(Operation::put(&at.parts(), Vec::new()));
        }
        if let Some(last_gone) = revision.get().checked_sub(AUDIT_KEPT) {
            let end = at.entry(Revision::new(last_gone + 1));
            done.push(Operation::delete_between(&at.entry(Revision::ZERO), &end));
        }
        Ok(done)
    }

    /// Head, document and position.
    pub(super) fn document(
        &self,
        at: &PoolKeys,
        document: &Document,
        chain: ChainHead,
    ) -> Result<Vec<Operation>, StoreError> {
        let put = |key: &str, value: Vec<u8>| Operation::put(key, value);
        let head = PoolHead { revision: document.revision, chain: chain.digest, first: chain.first };
        let (text, mark) = (at.document(), At { mark: mark()? });
        Ok(vec![
            put(&at.head, value::print(&at.head, &head)),
            put(&text, value::print(&text, document)),
            put(&at.at(), value::print(&at.at(), &mark)),
        ])
    }

    /// The sealed keys as the plan wants them.
    pub(super) fn sealed(
        &self,
        at: &PoolKeys,
        slots: &Slots,
        document: &Document,
        plan: &KeyPlan<'_>,
    ) -> Result<Operation, StoreError> {
        let (mut slots, sealing) = (slots.clone(), self.reader.sealing());
        slots.keep_only(&plan.keep);
        let sealer = self.reader.sealer(&sealing)?;
        for (epoch, key) in &plan.add {
            let sealed = sealer.seal(&document.pool_id, *epoch, key).map_err(|error| StoreError::Failed {
                step: "seal a key for",
                place: self.reader.place.clone(),
                source: error.into(),
            })?;
            slots.add(*epoch, &sealed);
        }
        Ok(Operation::put(&at.keys(), value::print(&at.keys(), &slots.to_text())))
    }

    /// What is read if a transaction is not done: to tell why.
    pub(super) fn looks(&self, at: &PoolKeys, by: &Writer) -> Vec<Operation> {
        let ranges = [Range::one(&self.reader.keys.meta()), Range::one(&at.head), Range::one(&at.stamp(&by.name))];
        ranges.into_iter().map(Operation::Range).collect()
    }

    /// Why a transaction of this writer was not done, from [`Self::looks`]; the revision of the document, if the writer is
    /// not to blame.
    pub(super) fn judge(
        &self,
        pool: &PoolName,
        by: &Writer,
        mut looked: impl Iterator<Item = Ranged>,
    ) -> Result<Revision, CommitError> {
        let [meta, head, stamp] = [looked.next(), looked.next(), looked.next()];
        let meta = meta.and_then(|mut meta| meta.kvs.pop());
        self.reader.take_over_meta(meta.as_ref().map(|meta| &meta.value.0[..]))?;
        let head: Option<PoolHead> = self.reader.parse_one(head)?;
        let PoolHead { revision, .. } = head.ok_or_else(|| CommitError::NoPool { pool: pool.clone() })?;
        check::fence(by, self.reader.parse_one(stamp)?)?;
        Ok(revision)
    }

    /// Puts the chunks of exclusions together, apart from the latest, if that is not too long.  Says nothing new, so no
    /// position changes.
    fn put_outs_together(&self, at: &PoolKeys) -> Result<(), StoreError> {
        let (mut pairs, _) = self.reader.client.read_all(&at.outs(), 0).map_err(self.reader.unread())?;
        pairs.truncate(pairs.len().saturating_sub(LATEST_KEPT));
        let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else { return Ok(()) };
        let mut all = Exclusions::new();
        for pair in &pairs {
            let (exclusions, dropped) = self.reader.parse::<OutChunk>(pair)?.into_parts();
            all.extend(exclusions);
            all.retain(|node, _| !dropped.contains(node));
        }
        let chunk = OutChunk::of_all(&all);
        let put = Operation::put(last.name(), value::print(last.name(), &chunk));
        if put.bytes() > CHUNK_BYTES_MAX || first.name() == last.name() {
            return Ok(());
        }
        let mut compare = vec![Compare::is(&self.reader.keys.meta(), &self.reader.meta())];
        compare.extend(pairs.iter().map(|pair| Compare::is_of(pair.name(), pair.mod_revision)).take(OPERATIONS_MAX));
        if pairs.len() > OPERATIONS_MAX {
            return Ok(());
        }
        let success = vec![put, Operation::delete_between(first.name(), last.name())];
        let transaction = Transaction { compare, success, failure: Vec::new() };
        self.reader.client.write(&transaction).map(drop).map_err(self.reader.failed("write"))
    }
}

/// etcd takes 128 conditions and 128 operations.
pub(super) const OPERATIONS_MAX: usize = 120;
