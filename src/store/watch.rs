//! Follows one pool: [`Watch`] gives every revision once and in order.

use std::time::Duration;

use super::contract::{Head, Store};
use super::error::StoreError;
use super::limits::AUDIT_READ_MAX;
use tfo_engine::rollout::document::AuditEntry;
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;

/// What a [`Watch`] has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// No change within the patience.
    Quiet,
    /// Node records were written, or the pool was created; the document is the same.
    Records,
    /// The document changed: the audit entries of the revisions since then, each once and in order.
    Revisions(Vec<AuditEntry>),
    /// The stored revision is lower than one that was seen: a restored database (rule 10).
    WentBack {
        /// The highest revision seen before.
        seen: Revision,
    },
    /// The pool does not exist, or no longer exists.
    NoPool,
}

/// Follows one pool and reports every revision exactly once, from whichever writer it comes.
///
/// Only a watch that falls more than [`AUDIT_KEPT`](crate::AUDIT_KEPT) revisions behind finds the oldest gone from the audit log.
#[derive(Debug)]
pub struct Watch {
    pool: PoolName,
    seen: Option<Head>,
}

impl Watch {
    /// Follows `pool` from `seen` on; `None` = from its beginning.
    #[must_use]
    pub fn new(pool: PoolName, seen: Option<Head>) -> Self {
        Self { pool, seen }
    }

    /// Waits for the next change, at most `patience`.
    ///
    /// # Errors
    /// Fails if the store cannot be read; the next call continues from the same place.
    pub fn next(&mut self, store: &dyn Store, patience: Duration) -> Result<Change, StoreError> {
        let Some(head) = store.wait(&self.pool, self.seen, patience)? else {
            self.seen = None;
            return Ok(Change::NoPool);
        };
        let seen = self.seen.unwrap_or_default();
        if self.seen == Some(head) {
            return Ok(Change::Quiet);
        }
        if head.revision < seen.revision {
            self.seen = Some(head);
            return Ok(Change::WentBack { seen: seen.revision });
        }
        if head.revision == seen.revision {
            self.seen = Some(head);
            return Ok(Change::Records);
        }
        let entries = store.audit(&self.pool, seen.revision)?;
        // The log is read after the head, and may be ahead of it or cut: continue after the last entry that was read.
        let revision = match entries.last() {
            Some(last) if entries.len() == AUDIT_READ_MAX || last.revision > head.revision => last.revision,
            _ => head.revision,
        };
        self.seen = Some(Head { revision, record_writes: head.record_writes });
        Ok(Change::Revisions(entries))
    }
}
