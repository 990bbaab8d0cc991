//! What a driver has seen of its pool: the confirmed copy, and the nodes in it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Driver;
use crate::pool::replica::Replica;
use tfo_engine::rollout::barrier::conflict;
use tfo_engine::rollout::clocks::Clocks;
use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::sync::PoolView;
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_store::{Head, News};

/// Which nodes are present, and what follows from that for answers.
pub(super) struct Seen {
    pub(super) life: Life,
    pub(super) view: PoolView,
    pub(super) clocks: Clocks,
    /// The life in which the nodes that wait were heard.
    heard_in: u64,
    /// State of the store that `view` was made from.
    pub(super) looked_at: Option<Head>,
}

impl Seen {
    pub(super) fn new(replica: &Replica) -> Self {
        let life = Life::default();
        let view = PoolView::of(replica.snapshot(), life.presence());
        Self { life, view, clocks: Clocks::default(), heard_in: 0, looked_at: None }
    }

    /// As of the last look.
    pub(super) fn presence(&self) -> &Presence {
        self.life.presence()
    }

    /// Whether a sync that repeats what is known of this node adds nothing: not while barriers wait to hear it in this life.
    pub(super) fn knows(&self, replica: &Replica, node: &NodeId) -> bool {
        self.presence().has_seen(replica.snapshot(), node)
    }
}

impl Driver {
    /// Confirms the copy, and looks at what has changed in it.  False: the store cannot be reached.
    pub(super) fn look(&mut self) -> bool {
        if self.follow().is_none() {
            return false;
        }
        if self.seen.looked_at != Some(self.replica.head()) {
            self.observe();
        }
        true
    }

    /// Brings the copy up to the store.  None: the store cannot be reached.
    pub(super) fn follow(&mut self) -> Option<News> {
        let before = self.replica.document().revision;
        match self.replica.follow() {
            Ok(news) => {
                self.shared.store_is_read();
                let revision = self.replica.document().revision;
                if revision != before && Some(revision) != self.committed {
                    // Another writer's commit: it does not say which nodes it concerns.
                    self.published = None;
                }
                if !self.is_late() {
                    self.shared.store_confirms();
                } else if self.logged.store_down {
                    self.beats.soon();
                }
                if !self.writes.fail {
                    self.waiting.not_stored(&std::mem::take(&mut self.unrecorded));
                    self.store_is_good();
                }
                Some(news)
            }
            Err(error) => {
                self.store_failed(&error);
                None
            }
        }
    }

    /// Looks at which nodes are present: at those that have changed since the last look.
    pub(super) fn observe(&mut self) {
        self.show_revision();
        let monotonic = self.monotonic();
        let changes = self.replica.take_changes();
        let (seen, snapshot) = (&mut self.seen, self.replica.snapshot());
        // Without writes no node can be recorded: neither the time before this look counts nor that after it.
        if self.writes.fail {
            seen.life.interrupt();
        }
        let mut is_news = seen.life.follow(monotonic, snapshot, &changes);
        if self.writes.fail {
            seen.life.interrupt();
        }
        seen.clocks.observe(monotonic, clock::now(), &snapshot.beats);
        let off_secs = seen.clocks.off_secs(monotonic, snapshot.document.policy.beat());
        if seen.life.set_clock_off(off_secs) {
            is_news = true;
            if let Some(off_secs) = off_secs {
                warn!(pool = %self.replica.pool(), off_secs, "this host's clock is off those of the other coordinators, so it starts no rotation that is due; set it (`chronyc tracking`)");
            }
        }
        seen.view = PoolView::kept(&seen.life, &snapshot.document);
        // Also if the life ended between two looks.
        if std::mem::replace(&mut seen.heard_in, seen.life.ordinal()) != seen.life.ordinal() {
            self.waiting.of_former_life(&self.replica, seen.view);
        }
        seen.looked_at = Some(self.replica.head());
        if is_news || !changes.is_empty() {
            self.rest.end();
        }
        self.deaf_since =
            self.seen.presence().deaf_secs.map(|secs| self.deaf_since.unwrap_or_else(|| clock::now().minus(secs)));
        let (seen, snapshot) = (&self.seen, self.replica.snapshot());
        if **self.shared.policy.load() != snapshot.document.policy {
            self.shared.policy.store(Arc::new(snapshot.document.policy.clone()));
        }
        if seen.view.is_frozen() != self.logged.frozen {
            self.logged.frozen = seen.view.is_frozen();
            let pool = self.replica.pool();
            match conflict(snapshot) {
                Some(found) => error!(
                    %pool,
                    node = %found.node,
                    generation = %found.generation,
                    revision = %snapshot.document.revision,
                    "the pool is frozen: a node reports an instruction that this store never gave: the store was restored \
                     (`tfoctl recover`), or that node lies (`tfoctl deny`)"
                ),
                None => info!(%pool, "the pool is not frozen any more"),
            }
        }
    }

    /// Time since the driver's start.
    pub(super) fn monotonic(&self) -> Duration {
        clock::monotonic().duration_since(self.shared.started)
    }
}
