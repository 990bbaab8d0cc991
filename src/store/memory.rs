//! The store without a medium: for simulations and tests, and the simplest statement of what a store does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chain::{self, ChainHead, ChainPart, ChainRow};
use super::check::{self, KeyPlan};
use super::contract::{Erasure, Head, News, PoolImage, PoolState, ReadStore, Store, Trail};
use super::enrolment::Book;
use super::error::{CommitError, Refusal, StoreError, gone};
use super::journal::{Change, Journal};
use super::limits::{AUDIT_KEPT, AUDIT_READ_MAX, PARTS_MAX};
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal};
use tfo_engine::rollout::history::{LogEnd, Written};
use tfo_engine::rollout::parts::{PoolContent, Writer, Writes};
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;

/// Pools in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    pools: Mutex<BTreeMap<PoolName, Pool>>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Pool {
    part_writes: u64,
    content: PoolContent,
    keys: KeyRing,
    audit: BTreeMap<Revision, Written>,
    chain: ChainHead,
    journal: Journal,
}

impl MemoryStore {
    /// Without pools.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PoolName, Pool>> {
        // Every change is made in one step after the last check, so a panic leaves no half of one.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn head(&self) -> Head {
        Head { revision: self.document().revision, part_writes: self.part_writes, mark: 0 }
    }

    fn document(&self) -> &Document {
        &self.content.snapshot().document
    }

    fn duplicate_keys(&self) -> KeyRing {
        let mut copy = KeyRing::default();
        for epoch in self.keys.epochs() {
            if let Some(key) = self.keys.key(epoch) {
                copy.insert(epoch, key.duplicate());
            }
        }
        copy
    }

    fn apply_keys(&mut self, plan: &KeyPlan<'_>) {
        for (epoch, key) in &plan.add {
            self.keys.insert(*epoch, key.duplicate());
        }
        self.keys.retain_held_by(&self.content.snapshot().document);
    }

    fn log(&mut self, written: Written) {
        self.audit.insert(written.link().entry.revision, written);
        while self.audit.len() as u64 > AUDIT_KEPT {
            self.audit.pop_first();
        }
    }
}

impl ReadStore for MemoryStore {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        Ok(self.lock().keys().cloned().collect())
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        Ok(self.lock().get(pool).map(Pool::head))
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        let pools = self.lock();
        Ok(pools.get(pool).map(|stored| PoolState {
            head: stored.head(),
            content: stored.content.clone(),
            keys: stored.duplicate_keys(),
            trail: Trail::default(),
        }))
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        let pools = self.lock();
        Ok(pools.get(pool).map(|stored| (stored.document().clone(), stored.duplicate_keys())))
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        let pools = self.lock();
        let Some((stored, first)) = pools.get(pool).zip(after.next()) else { return Ok(Vec::new()) };
        let entries = stored.audit.range(first..).take(AUDIT_READ_MAX);
        Ok(entries.map(|(_, written)| written.clone().into_entry()).collect())
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        let pools = self.lock();
        let Some(stored) = pools.get(pool) else { return Ok(None) };
        let document = stored.document();
        let end = LogEnd {
            revision: document.revision,
            document: chain::digest_of(document),
            chain: stored.chain.digest,
            kept: AUDIT_KEPT,
        };
        let row = |(revision, written): (&Revision, &Written)| ChainRow {
            revision: *revision,
            text: written.text().to_owned(),
            is_intact: true,
        };
        let later = after.next().map(|first| stored.audit.range(first..));
        let rows = later.into_iter().flatten().take(AUDIT_READ_MAX).map(row).collect();
        Ok(Some(ChainPart { pool_id: document.pool_id, end, rows }))
    }
}

impl Store for MemoryStore {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        let mut pools = self.lock();
        if pools.contains_key(pool) {
            return Err(CommitError::PoolExists { pool: pool.clone() });
        }
        let plan = check::plan_first(&image.content.snapshot().document, image.keys, image.audit)?;
        let mut made = Pool {
            part_writes: 0,
            content: image.content.clone(),
            keys: KeyRing::default(),
            audit: BTreeMap::new(),
            chain: ChainHead::after(&image.content.snapshot().document.pool_id, image.audit),
            journal: Journal::default(),
        };
        made.apply_keys(&plan);
        image.audit.iter().for_each(|written| made.log(written.clone()));
        pools.insert(pool.clone(), made);
        Ok(())
    }

    fn commit(
        &self,
        pool: &PoolName,
        by: &Writer,
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        let mut pools = self.lock();
        let stored = pools.get_mut(pool).ok_or_else(|| CommitError::NoPool { pool: pool.clone() })?;
        check::fence(by, stored.content.parts().stamp(&by.name))?;
        let document = stored.document();
        if document.revision != proposal.expected {
            return Err(CommitError::Conflict { expected: proposal.expected, stored: document.revision });
        }
        let plan = check::plan(document, proposal, keys)?;
        let before = stored.head();
        stored.content.commit(proposal);
        stored.apply_keys(&plan);
        stored.part_writes += u64::from(proposal.changes_parts());
        let written = stored.chain.add(&proposal.document, proposal.audit.clone(), AUDIT_KEPT);
        stored.log(written);
        let after = stored.head();
        stored.journal.push(before, Change::Committed(Arc::new(proposal.clone())), after);
        Ok(Erasure::Done)
    }

    fn write(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError> {
        if writes.len() > PARTS_MAX {
            return Err(Refusal::TooManyParts.into());
        }
        let mut pools = self.lock();
        let stored = pools.get_mut(pool).ok_or_else(|| CommitError::NoPool { pool: pool.clone() })?;
        check::fence(by, stored.content.parts().stamp(&by.name))?;
        if !writes.is_empty() {
            let before = stored.head();
            stored.content.write(&by.name, writes);
            stored.part_writes += 1;
            let (change, after) = (Change::Written(Arc::new((by.name.clone(), writes.clone()))), stored.head());
            stored.journal.push(before, change, after);
        }
        Ok(())
    }

    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        let pools = self.lock();
        let stored = pools.get(pool).ok_or_else(|| gone(pool))?;
        let head = stored.head();
        if copy.head == head {
            return Ok(News::Same);
        }
        let changes = stored.journal.between(copy.head, head);
        match &changes {
            Some(changes) => changes.iter().for_each(|change| change.apply(&mut copy.content)),
            None => copy.content.read_again(stored.content.clone()),
        }
        (copy.head, copy.keys) = (head, stored.duplicate_keys());
        Ok(if changes.is_some() { News::Followed } else { News::ReadAgain })
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        Ok(Erasure::Done)
    }
}
