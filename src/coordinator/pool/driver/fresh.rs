//! Readers who want to know what the nodes say now, and not minutes ago: the driver asks those whose requests it holds, and
//! shows all of them once they have come back, or when that takes too long.
//!
//! Invariant: however many readers there are, and however often they read, a node is asked at most once in [`AGAIN`].
//! Must not know: what a node says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Driver;
use crate::pool::message::{PoolNames, StoreDown};
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_wire::v1::fleet::{FRESH_SECS_MAX, Nodes};

/// Longest wait for the nodes that were asked.
const PATIENCE: Duration = Duration::from_secs(FRESH_SECS_MAX);
/// Shortest time between two times at which nodes are asked: what they said meanwhile is fresh.
const AGAIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(super) struct Fresh {
    pub(super) asked_at: Option<Instant>,
    /// Those that were asked and have not come back.
    awaited: BTreeSet<NodeId>,
    readers: Vec<Reader>,
}

struct Reader {
    names: PoolNames,
    reply: oneshot::Sender<Result<Nodes, StoreDown>>,
}

impl Fresh {
    /// A node has synced.
    pub(super) fn came(&mut self, node: &NodeId) {
        self.awaited.remove(node);
    }

    /// When readers are answered although nodes have not come back; none without readers.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.asked_at.filter(|_| !self.readers.is_empty()).map(|at| at + PATIENCE)
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.readers.is_empty() && self.asked_at.is_none_or(|at| now.duration_since(at) >= AGAIN)
    }
}

impl Driver {
    /// Takes a reader in, and asks the nodes for it.
    pub(super) fn read_fresh(&mut self, names: PoolNames, reply: oneshot::Sender<Result<Nodes, StoreDown>>) {
        let now = clock::monotonic();
        // Without its store a coordinator gives no node an answer, not even that there is nothing new.
        if self.fresh.may_ask(now) && self.look() && self.keeps_beating() {
            let held = self.waiting.held();
            self.waiting.ask(&held);
            self.fresh.awaited = held.into_iter().collect();
            self.fresh.asked_at = Some(now);
        }
        self.fresh.readers.push(Reader { names, reply });
    }

    /// Answers the readers if no node is awaited any more.
    pub(super) fn end_fresh(&mut self) {
        let is_late = self.fresh.ends_at().is_some_and(|at| at <= clock::monotonic());
        if is_late {
            self.fresh.awaited.clear();
        }
        if self.fresh.awaited.is_empty() {
            for Reader { names, reply } in std::mem::take(&mut self.fresh.readers) {
                self.show(reply, |driver| driver.nodes(&names));
            }
        }
    }
}
