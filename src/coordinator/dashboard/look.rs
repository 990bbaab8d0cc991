//! One look at a pool with all its nodes, which all pages share for a moment.
//!
//! A look takes the driver of a large pool milliseconds, which its nodes wait for.  So a pool with more nodes than a page
//! shows is looked at once a second at most, and sooner only after a commit.  Must not know: HTML.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::PATIENCE;
use crate::pool::{Overview, Pool, PoolNames, StoreDown, Summary};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::fleet::NodeState;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::named::Named;
use tfo_wire::v1::fleet::NodeStatus;

/// Nodes on one page of the list.
pub(super) const ROWS_MAX: usize = 50;

/// How long a look at more than [`ROWS_MAX`] nodes is shared while the pool's document stays the same.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// The same after a commit: a rotation makes several in a second.
const SHARED_PAST_COMMIT_FOR: Duration = Duration::from_millis(250);
/// The same for a small pool, which costs next to nothing.
const SMALL_SHARED_FOR: Duration = Duration::from_millis(100);

/// A pool at one moment.
pub(super) struct Look {
    /// The pool at a glance.
    pub(super) summary: Summary,
    /// Its nodes, the worst first.
    pub(super) nodes: Vec<NodeStatus>,
    /// Differs if what an operator would look for has changed: not with every report of a node.
    pub(super) stamp: u64,
}

impl Look {
    pub(super) fn of(overview: Overview) -> Self {
        let Overview { summary, mut nodes } = overview;
        let stamp = stamp(&summary, &nodes);
        let named = &summary.status.verdict.nodes;
        let places: BTreeMap<&NodeId, usize> = named.iter().zip(0..).collect();
        // Stable: among equals the order of the names stays.
        nodes.sort_by_cached_key(|node| {
            let place = places.get(&node.node).copied().unwrap_or(named.len());
            (place, rank(&node.state), node.error.is_none(), node.behind_since)
        });
        Self { summary, nodes, stamp }
    }
}

/// The worse a state, the lower.
fn rank(state: &Named<NodeState>) -> u8 {
    let Named::Known(state) = state else { return 5 };
    match state {
        NodeState::Failed => 0,
        NodeState::Drifted => 1,
        NodeState::Straggler => 2,
        NodeState::Silent => 3,
        NodeState::Disconnected => 4,
        NodeState::OneSlot => 5,
        NodeState::Excluded => 6,
        NodeState::Denied => 7,
        NodeState::Moved => 8,
        NodeState::Reporting => 9,
        NodeState::Converged => 10,
    }
}

/// Whether a node of this state asks for an operator's eye.
pub(super) fn is_trouble(node: &NodeStatus) -> bool {
    rank(&node.state) < rank(&NodeState::Excluded.into()) || node.error.is_some()
}

fn stamp(summary: &Summary, nodes: &[NodeStatus]) -> u64 {
    // Two megabytes of names at every look: SipHash would be a tenth of it, and only names of the fleet's authority are here.
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    let status = &summary.status;
    (status.revision, status.verdict.severity.as_str(), &status.verdict.sentence).hash(&mut hasher);
    (status.converged, status.required, status.unseen, &status.waiting_for).hash(&mut hasher);
    (status.blocked_by.as_ref().map(Named::as_str), status.next_at, &status.policy_differs).hash(&mut hasher);
    for node in nodes {
        let slots = (node.primary.map(|slot| slot.fingerprint), node.backup.map(|slot| slot.fingerprint));
        (&node.node, node.state.as_str(), &node.error, node.generation, node.connected, slots).hash(&mut hasher);
    }
    hasher.finish()
}

struct Kept {
    look: Result<Arc<Look>, StoreDown>,
    revision: Revision,
    made_at: Instant,
}

impl Kept {
    fn is_good(&self, revision: Revision) -> bool {
        let is_small = self.look.as_ref().is_ok_and(|look| look.nodes.len() <= ROWS_MAX);
        let age_max = match (is_small, self.revision == revision) {
            (true, _) => SMALL_SHARED_FOR,
            (false, true) => SHARED_FOR,
            (false, false) => SHARED_PAST_COMMIT_FOR,
        };
        clock::monotonic().duration_since(self.made_at) < age_max
    }
}

/// The latest look at each pool.
#[derive(Default)]
pub(super) struct Looks {
    by_pool: Mutex<BTreeMap<PoolName, Arc<tokio::sync::Mutex<Option<Kept>>>>>,
}

impl Looks {
    /// The pool as it was a moment ago.  One request looks, others wait for it.
    pub(super) async fn at(&self, pool: &Pool, names: PoolNames) -> Result<Arc<Look>, StoreDown> {
        let place = {
            let mut by_pool = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(by_pool.entry(pool.name().clone()).or_default())
        };
        let mut kept = place.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_good(pool.revision())) {
            return kept.look.clone();
        }
        let overview = tokio::time::timeout(PATIENCE, pool.overview(names)).await;
        let overview = overview.ok().and_then(Result::ok).and_then(Result::ok);
        let look = match overview {
            // Sorting ten thousand nodes is not for the event loop.
            Some(overview) => tokio::task::spawn_blocking(|| Arc::new(Look::of(overview))).await.ok(),
            None => None,
        };
        let look = look.ok_or_else(|| pool.store_down());
        let revision = look.as_ref().map_or_else(|_| pool.revision(), |look| look.summary.status.revision);
        *kept = Some(Kept { look: look.clone(), revision, made_at: clock::monotonic() });
        look
    }

    /// Forgets the pools that are gone.
    pub(super) fn keep(&self, is_there: impl Fn(&PoolName) -> bool) {
        self.by_pool.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| is_there(name));
    }
}
