//! Nodes that lose their certificates with an operator's order in their pool, even if the coordinator ends in between.
//!
//! The order is a commit of the pool's document, and certificates are not in it.  So the plan is written first, then the order
//! is committed, and then the plan is carried out.  After a crash the pool tells whether the order took effect: a plan whose
//! nodes are denied or unknown is carried out, another one is dropped.  As long as there is a plan, its nodes get no
//! certificate, so none slips through between.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use tfo_model::ids::{CoordinatorName, NodeId, PoolName};
use tfo_model::time::UnixTime;

/// A plan.  Persisted; a new field needs a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutOff {
    /// Random.
    pub id: u64,
    /// The coordinator that has it in hand, or had.
    pub by: CoordinatorName,
    /// Its life in that pool; none if it had not beaten there yet.
    #[serde(default)]
    pub life: Option<u64>,
    /// The pool of the order.
    pub pool: PoolName,
    /// The nodes of the order.
    pub nodes: BTreeSet<NodeId>,
    /// The operator.
    pub operator: NodeId,
    /// What was ordered, for the log.
    pub order: String,
    /// When.
    pub at: UnixTime,
}
