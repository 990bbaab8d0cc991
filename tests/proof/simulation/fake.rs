//! Fakes: dice from a seed, and the troubles of a store around a real one.

use std::sync::atomic::{AtomicU8, Ordering};

use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal};
use tfo_engine::rollout::parts::{Writer, Writes};
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;
use tfo_store::{
    ChainPart, CommitError, Erasure, Head, MemoryStore, News, PoolImage, PoolState, ReadStore, Store, StoreError,
};
use tfo_testbed::random::Dice;

/// Dice of one seed: neighbouring seeds have nothing in common.
pub(crate) fn dice(seed: u64) -> Dice {
    Dice::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
}

/// What the next calls of a [`FakeTrouble`] come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Trouble {
    None,
    /// Every call fails, and nothing is done.
    Down,
    /// The next write fails, and is done: an I/O error after the last byte.
    LostAnswer,
    /// The next write fails and is not done, and the caller cannot know that.
    LostCall,
}

/// A real store with troubles.
pub(crate) struct FakeTrouble {
    pub(crate) inner: MemoryStore,
    trouble: AtomicU8,
}

impl FakeTrouble {
    pub(crate) fn around(inner: MemoryStore) -> Self {
        Self { inner, trouble: AtomicU8::new(0) }
    }

    pub(crate) fn set(&self, trouble: Trouble) {
        self.trouble.store(trouble as u8, Ordering::Relaxed);
    }

    pub(crate) fn is_down(&self) -> bool {
        self.trouble.load(Ordering::Relaxed) == Trouble::Down as u8
    }

    fn read(&self) -> Result<&MemoryStore, StoreError> {
        let busy = || StoreError::Busy { place: "the fake".to_owned(), source: "it is down".into() };
        if self.is_down() { Err(busy()) } else { Ok(&self.inner) }
    }

    fn try_write<T>(&self, write: impl FnOnce(&MemoryStore) -> Result<T, CommitError>) -> Result<T, CommitError> {
        let inner = self.read()?;
        let open = || StoreError::Failed { step: "write", place: "the fake".to_owned(), source: "I/O error".into() };
        let trouble = self.trouble.swap(Trouble::None as u8, Ordering::Relaxed);
        if trouble == Trouble::LostCall as u8 {
            return Err(open().into());
        }
        let written = write(inner);
        if trouble == Trouble::LostAnswer as u8 { written.and_then(|_| Err(open().into())) } else { written }
    }
}

impl ReadStore for FakeTrouble {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.read()?.pools()
    }

    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.read()?.head(pool)
    }

    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.read()?.load(pool)
    }

    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.read()?.document(pool)
    }

    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.read()?.audit(pool, after)
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        self.read()?.chain(pool, after)
    }
}

impl Store for FakeTrouble {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        self.try_write(|inner| inner.create(pool, image))
    }

    fn commit(
        &self,
        pool: &PoolName,
        by: &Writer,
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        self.try_write(|inner| inner.commit(pool, by, proposal, keys))
    }

    fn write(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError> {
        self.try_write(|inner| inner.write(pool, by, writes))
    }

    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        self.read()?.follow(pool, copy)
    }

    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        self.read()?.erase_leftovers()
    }
}
