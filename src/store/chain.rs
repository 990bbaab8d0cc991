//! The audit log of a pool as a chain (`tfo_engine::rollout::history`): where it ends, its next link, and a part of it as it is
//! stored.

use super::error::StoreError;
use tfo_crypto::checksum::sha256;
use tfo_engine::rollout::document::{AuditEntry, Document};
use tfo_engine::rollout::history::{self, Link, LogEnd, Made, Written};
use tfo_model::count::Revision;
use tfo_model::digest::Sha256;
use tfo_model::ids::PoolId;

/// Where a chain ends.  Beside the document, so that the loss of its last entry is noticed, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// Digest of the last entry.
    pub digest: Sha256,
    /// Revision of the oldest entry that is kept.
    pub first: Revision,
}

/// A part of a chain as it is stored, and what it must lead to, from one read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPart {
    /// Identity of the pool.
    pub pool_id: PoolId,
    /// What it must lead to.
    pub end: LogEnd,
    /// Entries, oldest first, at most [`AUDIT_READ_MAX`](crate::AUDIT_READ_MAX).
    pub rows: Vec<ChainRow>,
}

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRow {
    /// The revision under which it is stored.
    pub revision: Revision,
    /// Its text.
    pub text: String,
    /// Whether its checksum is right.
    pub is_intact: bool,
}

impl ChainRow {
    /// What it says; none if it cannot be right.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        let written = Written::parse(self.text.clone()).ok()?;
        (self.is_intact && written.link().entry.revision == self.revision).then_some(written)
    }
}

impl ChainHead {
    /// Of a pool without entries.
    #[must_use]
    pub fn start(pool: &PoolId) -> Self {
        Self { digest: history::start(sha256, pool), first: Revision::ZERO }
    }

    /// After the last of these.
    #[must_use]
    pub fn after(pool: &PoolId, audit: &[Written]) -> Self {
        let first = audit.first().map(|first| first.link().entry.revision);
        let of = |last: &Written| Self { digest: last.digest(sha256), first: first.unwrap_or_default() };
        audit.last().map_or_else(|| Self::start(pool), of)
    }

    /// Adds an entry about a document, in a store that keeps so many.
    #[must_use]
    pub fn add(&mut self, document: &Document, entry: AuditEntry, kept: u64) -> Written {
        let revision = entry.revision;
        // A new log begins with its first entry.
        let begun = if self.first == Revision::ZERO { revision } else { self.first };
        let first = begun.max(Revision::new((revision.get() + 1).saturating_sub(kept)));
        let (document, made) = (digest_of(document), Made::of(document));
        let written = Written::new(Link { before: self.digest, first, document, made, entry });
        *self = Self { digest: written.digest(sha256), first };
        written
    }
}

/// The digest of a document, as it is stored.
pub(crate) fn digest_of(document: &Document) -> Sha256 {
    let text = serde_json::to_string(document).expect("plain data with text as keys");
    digest_of_text(&text)
}

/// The digest of the text of a document.
pub(crate) fn digest_of_text(text: &str) -> Sha256 {
    history::digest_of(sha256, text)
}

/// The entries of a part, which must all be right.
pub(crate) fn entries(
    rows: Vec<ChainRow>,
    damaged: impl Fn(String) -> StoreError,
) -> Result<Vec<AuditEntry>, StoreError> {
    let entry = |row: ChainRow| {
        let written = row
            .written()
            .ok_or_else(|| damaged(format!("the audit entry of revision {} is not right", row.revision)))?;
        Ok(written.into_entry())
    };
    rows.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_engine::chained_log::{Broken, Row, Verified};
    use tfo_engine::rollout::document::{Actor, BarrierCount};
    use tfo_engine::rollout::history::Verifier;
    use tfo_engine::rollout::policy::Policy;
    use tfo_model::fleet::Action;
    use tfo_model::time::UnixTime;

    #[test]
    fn a_chain_in_which_the_oldest_entries_go_stays_whole() {
        const KEPT: u64 = 3;
        let at = UnixTime::from_secs(1_790_000_000);
        let mut document =
            Document::new("7".repeat(32).parse().unwrap(), Policy::with_defaults(vec!["*".parse().unwrap()]), at);
        let mut chain = ChainHead::start(&document.pool_id);
        let mut log = Vec::new();
        for revision in 1..=10 {
            document.revision = Revision::new(revision);
            let entry = AuditEntry {
                at,
                revision: document.revision,
                generation: document.generation,
                phase: document.stage.phase(),
                actor: Actor::Operator("ops1.example.org".parse().unwrap()),
                action: Action::Expect,
                nodes: [].into(),
                more: 0,
                reason: String::new(),
                barrier: BarrierCount { required: 0, needed: 1, behind: 0 },
            };
            log.push(chain.add(&document, entry, KEPT));
        }
        assert_eq!((chain.first.get(), ChainHead::after(&document.pool_id, &log[7..])), (8, chain));
        let end =
            |kept| LogEnd { revision: document.revision, document: digest_of(&document), chain: chain.digest, kept };
        let read = |log: &[Written], kept| -> Result<Verified, Broken> {
            let mut verifier = Verifier::new(sha256, document.pool_id);
            for one in log {
                let number = one.link().entry.revision.get();
                verifier.take(Row { number, text: one.text(), is_intact: true })?;
            }
            verifier.finish(&end(kept))
        };
        // Also in a store that would keep more: it got no more.
        assert_eq!(read(&log[7..], KEPT).map(|verified| verified.entries), Ok(3));
        assert_eq!(read(&log[7..], 100).map(|verified| verified.entries), Ok(3));
        let named = |broken: Broken| (broken.number, broken.fault.kind());
        assert_eq!(read(&log[8..], 100).map_err(named), Err((8, "audit_missing")));
    }
}
