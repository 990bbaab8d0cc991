//! An operator moved this node to another pool: it asks that one, and says so until the configuration does.
//!
//! The order is in the coordinators' store, and the fence in the sysctl.d file is the only memory of it here.  After a start
//! the configured pool is asked first, and gives the order again.

use std::time::Duration;

use tracing::info;

use super::{Contact, News, nonce};
use tfo_engine::fence::{MoveOrder, RequestId};
use tfo_host::runtime::clock;
use tfo_model::ids::PoolName;
use tfo_model::node::Session;
use tfo_model::problem::Problem;
use tfo_wire::error::MovedTo;

/// Kind of the problem that the configuration names the pool that this node has left.
pub const MOVED: &str = "node_moved";

/// Pools that are asked one after the other without a pause: that of the configuration, and those that the node was led
/// through while it was away.
const LED_MAX: u32 = 4;

impl Contact {
    /// Follows the order to ask another pool.  None if it is not the answer to the outstanding request, or if this is too
    /// long a way: then it is a failure as any other, with a pause.
    pub(super) fn lead(&mut self, request: RequestId, moved: &MovedTo, now: Duration) -> Option<News> {
        let order = MoveOrder { from: moved.from, to: moved.pool_id };
        let session = Session { ordinal: clock::now_ms(), nonce: nonce() };
        self.link.moved(request, &order, session, now).ok()?;
        self.instructed = None;
        if self.pool != moved.pool {
            info!(from = %self.pool, to = %moved.pool, "an operator moved this node to another pool");
            self.pool = moved.pool.clone();
        }
        self.led += 1;
        if self.led > LED_MAX {
            return None;
        }
        self.next_at = now;
        Some(News::Pass)
    }

    /// The pool that this node was led to does not take it: the configured one is asked next, and may lead it again.
    pub(super) fn turn_back(&mut self) {
        self.pool = self.purpose.settings.pool.clone();
        self.link.stay();
    }

    /// The configuration names a pool that this node has left.
    pub(super) fn moved(&self) -> Option<Problem> {
        let configured = &self.purpose.settings.pool;
        (self.pool != *configured).then(|| left(configured, &self.pool, &self.purpose.config.display().to_string()))
    }
}

/// This node belongs to another pool than `config` says.
pub(super) fn left(configured: &PoolName, pool: &PoolName, config: &str) -> Problem {
    let message = format!("an operator moved this node from pool {configured} to pool {pool}");
    Problem::warning(MOVED, message, format!("set `pool = \"{pool}\"` in {config}, and reload the agent"))
}
