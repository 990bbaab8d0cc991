//! Orders about named nodes, and what an order would do: parts of API v1 that `fleet` refers to (docs/reference/api.md).
//!
//! Null means unknown.  One request names any number of nodes: all of it is done, or nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::UnixTime;

/// Most nodes that one request names.
pub const NODES_MAX: usize = 10_000;

/// `POST …/nodes`: one commit, and one entry in the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodesRequest {
    /// What to do with the nodes.
    pub action: NodeAction,
    /// Their names, 1 to [`NODES_MAX`].
    pub nodes: BTreeSet<NodeId>,
    /// The operator's reason, for the audit log.
    #[serde(default)]
    pub reason: String,
}

/// What an operator does with nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAction {
    /// Takes them out of all barriers for a time.
    Exclude {
        /// The end of the exclusion.
        until: UnixTime,
    },
    /// Ends an operator's exclusion now: their next sync admits them.
    Include,
    /// Gives them no keys until they are allowed or forgotten.
    Deny,
    /// Ends a deny: their next sync admits them as new nodes.
    Allow,
    /// Makes them unknown.
    Forget {
        /// Lowers the number of expected nodes to that of the required nodes that are left, if it is higher.
        #[serde(default)]
        lower_expected: bool,
    },
    /// Leads them over to another pool of the same coordinators: they leave this one at once.
    Move {
        /// The other pool.
        to: PoolName,
        /// As with `forget`.
        #[serde(default)]
        lower_expected: bool,
    },
}

/// `POST …/expect`: how many nodes a rotation needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectRequest {
    /// Fewest required nodes with which a rotation starts.
    pub number: usize,
    /// The operator's reason, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// The coordinator refuses the command if the document is at another revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<Revision>,
}

/// What `resume` waives after the health gate has stopped a wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiver {
    /// The wave that then passes in spite of its rejected cookies, from 1.
    pub wave: usize,
    /// Number of all waves.
    pub of: usize,
    /// Share of rejected cookies in the opened waves since the promotion, in millionths, as it is now.
    pub rejected_ppm: u32,
    /// The same before the promotion.
    pub baseline_ppm: u32,
    /// How many nodes get the new primary next.
    pub nodes: usize,
    /// Their names, in name order, at most [`WAIVER_NODES_MAX`].
    pub next: Vec<NodeId>,
}

/// Most nodes that a waiver names.
pub const WAIVER_NODES_MAX: usize = 100;

/// Why an order would be refused now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// For people.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// When the reason ends by time alone; null if it does not.
    pub until: Option<UnixTime>,
}
