//! Failures of the store: counted, and logged once; their time does not count as served.

use tracing::{debug, error, info};

use super::Driver;
use crate::pool::replica::Fenced;
use tfo_engine::rollout::parts::Stamp;
use tfo_store::{CommitError, StoreError};

impl Driver {
    /// Notes why nothing was committed or written.
    pub(super) fn commit_failed(&mut self, error: &CommitError) {
        match error {
            CommitError::Store(error) => {
                self.writes.fail = true;
                self.store_failed(error);
            }
            CommitError::Conflict { .. } => {
                debug!(pool = %self.replica.pool(), %error, "another writer was faster");
            }
            CommitError::Fenced { stored, .. } => {
                self.writes.fail = true;
                self.fenced(*stored);
            }
            CommitError::Refused(refusal) => {
                error!(pool = %self.replica.pool(), error = %refusal, "the store refuses what the engine proposes; this is a bug, please report it");
            }
            CommitError::NoPool { .. } | CommitError::PoolExists { .. } => {
                error!(pool = %self.replica.pool(), %error, "the pool is gone from the store");
            }
        }
    }

    /// The store has refused this writer: another process has its name, or the store has gone back.
    fn fenced(&mut self, stored: Option<Stamp>) {
        let (fenced, by) = (self.replica.fenced(stored), self.replica.by().clone());
        let pool = self.replica.pool();
        self.beats.soon();
        match fenced {
            Fenced::WithoutName => debug!(%pool, "nothing is written before a beat"),
            Fenced::OwnBeat => debug!(%pool, "a beat whose outcome was open has taken effect"),
            Fenced::ByAnother => {
                error!(%pool, name = %by, "another process drives this pool under this coordinator's name; this one ends: give each coordinator a name and a store of its own");
                self.has_lost_name = true;
            }
            Fenced::ByTheStore => {
                error!(%pool, "the store has lost what this coordinator wrote: it was restored; every node has to be heard again before anything is committed");
                self.seen.life.end();
                self.seen.looked_at = None;
            }
        }
    }

    /// Notes that the store was read, and that the last write succeeded.
    pub(super) fn store_is_good(&mut self) {
        self.writes.fail = false;
        self.shared.store_is_good();
        if std::mem::take(&mut self.logged.store_down) {
            info!(pool = %self.replica.pool(), "the store is back");
        }
    }

    /// Notes that the store could not be read or written: in this time no node counts as silent (rule 11).
    pub(super) fn store_failed(&mut self, failed: &StoreError) {
        self.seen.life.interrupt();
        self.shared.store_fails.store(true, std::sync::atomic::Ordering::Release);
        self.metrics.store_failed(self.replica.pool(), failed.kind());
        if !std::mem::replace(&mut self.logged.store_down, true) {
            let problem = failed.problem();
            let (pool, kind, remedy) = (self.replica.pool(), problem.kind, &problem.remedy);
            error!(%pool, kind, error = problem.message, remedy, "cannot use the store; nodes keep their installed keys and get no instructions until it is back");
        }
        if self.shared.is_blind() {
            // Another coordinator may be about to exclude them: they must not take this one's silence for "nothing new".
            self.waiting.without_store();
        }
    }
}
