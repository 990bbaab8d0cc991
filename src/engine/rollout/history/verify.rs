//! Reading the log of a pool from its oldest entry on, and naming the first one that is wrong.

use super::step::judge;
use super::{Hash, Link, Made, Written, start};
use crate::chained_log::{self, Broken, Chain, Fault, Row, Verified};
use tfo_model::count::{Generation, Revision};
use tfo_model::digest::Sha256;
use tfo_model::ids::PoolId;

/// What a store has besides the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Revision of the document.
    pub revision: Revision,
    /// Digest of the document.
    pub document: Sha256,
    /// Digest of the last entry.
    pub chain: Sha256,
    /// How many entries it keeps.
    pub kept: u64,
}

/// The entry before.
#[derive(Debug)]
struct Before {
    revision: Revision,
    generation: Generation,
    made: Made,
    /// The oldest entry that was kept with it.
    first: Revision,
    document: Sha256,
}

/// Reads a log, the oldest entry first.
#[derive(Debug)]
pub struct Verifier {
    hash: Hash,
    pool: PoolId,
    chain: Chain,
    before: Option<Before>,
}

impl Verifier {
    /// Of the log of this pool.
    #[must_use]
    pub fn new(hash: Hash, pool: PoolId) -> Self {
        Self { hash, pool, chain: Chain::default(), before: None }
    }

    /// Of a log in which an earlier reader has seen that the entry of this revision has this digest.
    #[must_use]
    pub fn expect(self, revision: u64, digest: Sha256) -> Self {
        Self { chain: self.chain.expect(revision, digest), ..self }
    }

    /// Reads the next entry.
    ///
    /// # Errors
    /// Fails with the first entry that is wrong.
    pub fn take(&mut self, row: Row<'_>) -> Result<(), Broken> {
        let Ok(written) = Written::parse(row.text.to_owned()) else {
            return Fault::Altered("it cannot be read").of(row.number);
        };
        let link = written.link();
        let revision = link.entry.revision;
        if revision.get() != row.number {
            return Fault::Moved(revision.get()).of(row.number);
        }
        self.chain.follows(&row, link.before)?;
        if self.chain.is_empty() && row.number == 1 && link.before != start(self.hash, &self.pool) {
            return Fault::Altered("it is not the first one of this pool").of(1);
        }
        self.judge(link)?;
        self.chain.add(row.number, written.digest(self.hash))?;
        self.before = Some(Before {
            revision,
            generation: link.entry.generation,
            made: link.made.clone(),
            first: link.first,
            document: link.document,
        });
        Ok(())
    }

    fn judge(&self, link: &Link) -> Result<(), Broken> {
        let start = Made::start();
        let (generation, made) = match &self.before {
            Some(before) => (before.generation, &before.made),
            None if link.entry.revision.get() == 1 => (Generation::ZERO, &start),
            // What came before the oldest entry is not there to be compared with.
            None => return Ok(()),
        };
        judge((generation, made), (&link.entry, &link.made))
            .or_else(|illegal| Fault::Illegal(illegal.why()).of(link.entry.revision.get()))
    }

    /// After the last entry.
    ///
    /// # Errors
    /// Fails if entries are missing at one of the ends, or if the last one did not make what is stored.
    pub fn finish(self, end: &LogEnd) -> Result<Verified, Broken> {
        let LogEnd { revision, document, chain, kept } = *end;
        let log_end = chained_log::LogEnd { number: revision.get(), chain, kept };
        let first = self.before.as_ref().map_or(0, |last| last.first.get());
        let verified = self.chain.finish(start(self.hash, &self.pool), &log_end, first)?;
        match self.before {
            Some(last) if last.document != document => Fault::Document.of(last.revision.get()),
            Some(_) | None => Ok(verified),
        }
    }
}
