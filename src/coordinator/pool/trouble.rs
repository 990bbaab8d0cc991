//! A driver and a store that does not do what it is asked: counted, logged once, and no time that counts as served.

use tracing::{debug, error, info};

use super::driver::Driver;
use tfo_store::{CommitError, StoreError};

impl Driver {
    /// Nothing was committed, or written: by whose fault, and for how long.
    pub(super) fn commit_failed(&mut self, error: &CommitError) {
        match error {
            CommitError::Store(error) => {
                self.writes_fail = true;
                self.store_failed(error);
            }
            CommitError::Conflict { .. } | CommitError::RecordConflict { .. } => {
                debug!(pool = %self.book.pool(), %error, "somebody was faster");
            }
            CommitError::Refused(refusal) => {
                error!(pool = %self.book.pool(), error = %refusal, "the store refuses what the engine wants: a bug");
            }
            CommitError::NoPool { .. } | CommitError::PoolExists { .. } => {
                error!(pool = %self.book.pool(), %error, "the pool is gone from the store");
            }
        }
    }

    /// It was read, and the last write was made.
    pub(super) fn store_is_good(&mut self) {
        self.writes_fail = false;
        self.shared.store_is_good();
        if std::mem::take(&mut self.logged.store_down) {
            info!(pool = %self.book.pool(), "the store is back");
        }
    }

    /// It could not be read or written: this is no time in which a node could be silent (rule 11).
    pub(super) fn store_failed(&mut self, failed: &StoreError) {
        self.life.skip_to(self.monotonic());
        self.metrics.store_failed(self.book.pool(), failed.kind());
        if !std::mem::replace(&mut self.logged.store_down, true) {
            let problem = failed.problem();
            let (pool, kind, remedy) = (self.book.pool(), problem.kind, &problem.remedy);
            error!(%pool, kind, error = problem.message, remedy, "the store cannot be used; installed keys stay, nothing is told");
        }
    }
}
