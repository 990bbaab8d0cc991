//! Nodes that lose their certificates with an operator's order: planned before the order, carried out after it, and finished
//! by the keeper where this process ended in between (`tfo_store::enrolment::CutOff`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::{AuthorityError, Enrolment};
use crate::store::only_name;
use tfo_crypto::random;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_store::StoreError;
use tfo_store::enrolment::CutOff;

/// From this age on a plan of another coordinator is left behind, in seconds: longer than any request of an operator lasts.
const LEFT_SECS: u64 = 300;

/// A plan that a request has in hand: as long as this value lives, the keeper leaves it alone.
#[derive(Debug)]
pub struct InHand {
    plan: CutOff,
    all: Arc<Mutex<BTreeSet<u64>>>,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.plan.id);
    }
}

impl InHand {
    /// What is planned.
    #[must_use]
    pub fn plan(&self) -> &CutOff {
        &self.plan
    }
}

impl Enrolment {
    /// Writes a plan to cut these nodes off with an order of an operator in a pool.
    ///
    /// # Errors
    /// Fails if the store cannot be written: then the order must not be given.
    pub fn plan_cut_off(
        &self,
        (pool, nodes): (PoolName, BTreeSet<NodeId>),
        (operator, order): (NodeId, &str),
        at: UnixTime,
    ) -> Result<InHand, Problem> {
        let id = random::fresh_u64().map_err(|error| {
            Problem::error("no_randomness", chain(&AuthorityError::from(error)), "try again; nothing was changed")
        })?;
        let plan = CutOff { id, by: only_name(), pool, nodes, operator, order: order.to_owned(), at };
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        let in_hand = InHand { plan, all: Arc::clone(&self.in_hand) };
        self.store.plan_cut_off(&in_hand.plan).map_err(|error| error.problem())?;
        Ok(in_hand)
    }

    /// Carries a plan out for those of its nodes for which the order took effect: their certificates are revoked in the store
    /// and on the list, which cuts their connections.
    ///
    /// # Errors
    /// Fails if the store or the list cannot be written; the keeper does the rest.
    pub fn cut_off(&self, plan: &CutOff, nodes: &BTreeSet<NodeId>, now: UnixTime) -> Result<usize, Problem> {
        let count = self.store.finish_cut_off(plan, nodes, now).map_err(|error| error.problem())?;
        if count > 0 {
            self.keep_list(now)?;
        }
        Ok(count)
    }

    /// The plans that no request has in hand any more.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn left_cut_offs(&self, now: UnixTime) -> Result<Vec<CutOff>, StoreError> {
        let mut plans = self.store.cut_offs()?;
        let in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let own = only_name();
        plans.retain(|plan| !in_hand.contains(&plan.id) && (plan.by == own || plan.at.plus(LEFT_SECS) <= now));
        Ok(plans)
    }
}
