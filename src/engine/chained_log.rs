//! Reading a log that is a chain, its oldest entry first, and naming the first one that is wrong: what the logs of pools
//! (`rollout::history`) and that of enrolment (`enrolment_log`) have in common.
//!
//! An entry has a number, one above that of the entry before, and names that one's digest.  What a chain cannot show: that all of
//! it was written again from some entry on; for that an operator keeps a digest elsewhere (`Chain::expect`).
//!
//! Must not know: what an entry says, how a digest is made.

use tfo_model::digest::Sha256;

/// An entry as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The number under which it is stored; of the log of a pool: the revision.
    pub number: u64,
    /// Its text.
    pub text: &'a str,
    /// Whether the store's own checksum of it is right.
    pub is_intact: bool,
}

/// What a store has besides the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Number of the last entry.
    pub number: u64,
    /// Its digest.
    pub chain: Sha256,
    /// How many entries it keeps.
    pub kept: u64,
}

/// A log in which nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Number of entries.
    pub entries: u64,
    /// Number of the oldest one; 0 if there is none.
    pub first: u64,
    /// Number of the latest one.
    pub last: u64,
    /// Digest of the latest one, which stands for all.
    pub chain: Sha256,
}

/// The first entry that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {number} {fault}")]
pub struct Broken {
    /// Its number.
    pub number: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// Another entry is in its place.
    #[error("is in another place: it says that it is that of revision {0}")]
    Moved(u64),
    /// Its text is not what was written.
    #[error("was altered: {0}")]
    Altered(&'static str),
    /// The document that is stored is not the one that it made.
    #[error("made another document than the one that is stored")]
    Document,
    /// The log does not keep it any more, so it cannot be compared with what is expected.
    #[error("is older than what the log keeps, and cannot be compared")]
    Pruned,
    /// It cannot have happened after what the log tells before it.
    #[error("is a step that no rule allows: {0}")]
    Illegal(&'static str),
    /// An earlier reader has seen another entry.
    #[error("has digest {0} now, and not the one that is expected: this log was written again")]
    Rewritten(Sha256),
}

impl Fault {
    /// Stable name in snake case.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "audit_missing",
            Self::Moved(_) => "audit_moved",
            Self::Altered(_) => "audit_altered",
            Self::Document => "audit_document",
            Self::Pruned => "audit_pruned",
            Self::Illegal(_) => "audit_illegal",
            Self::Rewritten(_) => "audit_rewritten",
        }
    }

    /// As the fault of this entry.
    pub(crate) fn of<T>(self, number: u64) -> Result<T, Broken> {
        Err(Broken { number, fault: self })
    }
}

/// What was read of a chain.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Number and digest of the last entry.
    last: Option<(u64, Sha256)>,
    first: u64,
    entries: u64,
    expected: Option<(u64, Sha256)>,
}

impl Chain {
    /// An earlier reader has seen that the entry of this number has this digest.
    pub(crate) fn expect(self, number: u64, digest: Sha256) -> Self {
        Self { expected: Some((number, digest)), ..self }
    }

    /// Whether nothing was read yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Fails if this entry, which says that `before` is the digest of the one before it, does not follow what was read.
    pub(crate) fn follows(&self, row: &Row<'_>, before: Sha256) -> Result<(), Broken> {
        if !row.is_intact {
            return Fault::Altered("the store's checksum of it is wrong").of(row.number);
        }
        match self.last {
            Some((last, _)) if row.number != last.saturating_add(1) => Fault::Missing.of(last.saturating_add(1)),
            Some((last, digest)) if digest != before => {
                Fault::Altered("the next entry names another digest of it").of(last)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes an entry in, which follows and is legal.
    ///
    /// Fails if an earlier reader has seen another one.
    pub(crate) fn add(&mut self, number: u64, digest: Sha256) -> Result<(), Broken> {
        if self.expected.is_some_and(|(at, expected)| at == number && expected != digest) {
            return Fault::Rewritten(digest).of(number);
        }
        if self.entries == 0 {
            self.first = number;
        }
        self.entries += 1;
        self.last = Some((number, digest));
        Ok(())
    }

    /// After the last entry, of a chain that began with `start`, and of which no entry before `first` need be there.
    ///
    /// Fails if entries are missing at one of the ends, or if the last one is not the one that the store names.
    pub(crate) fn finish(self, start: Sha256, end: &LogEnd, first: u64) -> Result<Verified, Broken> {
        // A store keeps so many; a log that came from a store that keeps fewer begins later.
        let oldest = end.number.saturating_add(1).saturating_sub(end.kept).max(1).max(first);
        let Some((last, chain)) = self.last else {
            if end.chain != start {
                return Fault::Missing.of(oldest);
            }
            let nothing = Verified { entries: 0, first: 0, last: 0, chain: start };
            return self.expected.map_or(Ok(nothing), |(number, _)| Fault::Missing.of(number));
        };
        if last != end.number {
            return Fault::Missing.of(last.min(end.number).saturating_add(1));
        }
        if chain != end.chain {
            return Fault::Altered("the store names another digest of it").of(last);
        }
        if self.first > oldest {
            return Fault::Missing.of(oldest);
        }
        match self.expected {
            Some((number, _)) if number > last => Fault::Missing.of(number),
            Some((number, _)) if number < self.first => Fault::Pruned.of(number),
            Some(_) | None => Ok(Verified { entries: self.entries, first: self.first, last, chain }),
        }
    }
}
