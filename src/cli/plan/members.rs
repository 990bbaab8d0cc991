//! `exclude`, `include`, `forget` and others: commands about named nodes, as they are now.

use std::collections::BTreeMap;

use super::Plan;
use crate::plain::{count_of_nodes, names};
use tfo_model::fleet::{Action, ExclusionReason, NodeState};
use tfo_model::ids::NodeId;
use tfo_model::named::Named;
use tfo_model::node::KeySource;
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::{NodeStatus, PoolStatus};

/// The nodes that a command is about, in the pool as it is.
#[derive(Debug, Clone)]
pub struct Meant<'a> {
    status: &'a PoolStatus,
    nodes: Vec<NodeStatus>,
}

/// The number of expected nodes is in a file, so no command lowers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFile {
    /// For people.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl<'a> Meant<'a> {
    /// These nodes of this pool.
    #[must_use]
    pub fn new(status: &'a PoolStatus, nodes: Vec<NodeStatus>) -> Self {
        Self { status, nodes }
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeStatus] {
        &self.nodes
    }

    /// Their names.
    #[must_use]
    pub fn into_names<C: FromIterator<NodeId>>(self) -> C {
        self.nodes.into_iter().map(|node| node.node).collect()
    }

    /// `one` if it is a single node.
    #[must_use]
    pub fn word(&self, one: &'static str, many: &'static str) -> &'static str {
        if self.nodes.len() == 1 { one } else { many }
    }

    /// A plan that begins with which nodes they are, how they are now, and what is not known of them.
    #[must_use]
    pub fn plan(&self, action: Action) -> Plan {
        let plan = self.named_in_plan(action);
        // The coordinator knows a node's kernel from its first report since it started.
        let unheard: Vec<&NodeId> =
            self.nodes.iter().filter(|node| node.kernel.is_none()).map(|node| &node.node).collect();
        if unheard.is_empty() {
            return plan;
        }
        let unheard = names(unheard);
        plan.line(format!("not heard since this coordinator started, so what it holds now is not known: {unheard}"))
    }

    fn named_in_plan(&self, action: Action) -> Plan {
        let of = format!("{} of {} required", count_of_nodes(self.nodes.len()), self.status.required);
        let plan = Plan::new(action.as_str(), self.status, self.nodes.len());
        if let [NodeStatus { node, state, generation, .. }] = &self.nodes[..] {
            let generation = generation.map_or_else(|| "no generation".to_owned(), |g| format!("generation {g}"));
            return plan.line(format!("{of}: {node}, now {state} at {generation}"));
        }
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &self.nodes {
            *states.entry(node.state.as_str()).or_default() += 1;
        }
        let states: Vec<String> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
        plan.line(format!("{of}: {}", names(self.nodes.iter().map(|node| &node.node))))
            .line(format!("now {}", states.join(", ")))
    }

    /// How many required nodes are left without them.
    fn left(&self) -> usize {
        self.status.required.saturating_sub(self.nodes.iter().filter(|node| is_required(node)).count())
    }

    /// What is left without them, and that no rotation starts with so few.
    #[must_use]
    pub fn too_few(&self) -> Option<String> {
        let (expected, left) = (self.status.expected_nodes, self.left());
        let is = if expected == 1 { "node is" } else { "nodes are" };
        (left < expected)
            .then(|| format!("{expected} {is} expected and {left} will be left: no rotation starts by itself"))
    }

    /// Whether an order can lower the number of expected nodes to what is left.
    #[must_use]
    pub fn may_lower_expected(&self) -> bool {
        self.too_few().is_some() && !self.status.expected_in_file
    }

    /// Adds what becomes of the expected number, if too few nodes are left.
    ///
    /// # Errors
    /// Fails if it is to be lowered, and is in a file.
    pub fn what_is_left(&self, plan: Plan, lower_expected: bool) -> Result<Plan, InFile> {
        let Some(too_few) = self.too_few() else { return Ok(plan) };
        // At least one node is expected, always.
        let left = self.left().max(1);
        let in_file = in_file(self.status, left);
        Ok(match (self.status.expected_in_file, lower_expected) {
            (true, true) => {
                let message = format!("{too_few}, and the number is in a file");
                return Err(InFile { message, remedy: in_file });
            }
            (true, false) => plan.line(format!("{too_few} until you {in_file}")),
            (false, true) => {
                plan.line(format!("{left} of {} nodes are expected from now on", self.status.expected_nodes))
            }
            (false, false) => plan.line(format!(
                "{too_few}; --lower-expected expects {left} in the same step, `tfoctl expect {left}` later"
            )),
        })
    }

    /// An exclusion from barriers until a time.
    #[must_use]
    pub fn exclude(&self, until: UnixTime) -> Plan {
        let (it, its) = (self.word("it", "them"), self.word("its", "their"));
        let serves = self.word("it still serves", "they still serve");
        let plan = self
            .plan(Action::Exclude)
            .line(format!("no barrier waits for {it} until {until}; `tfoctl include` ends that"))
            .line(format!("while {serves}, {its} clients may lose TFO when the others rotate"))
            .line(format!("{its} first contact after that admits {it} again"));
        match self.too_few() {
            Some(too_few) => plan.line(format!("{too_few} until then")),
            None => plan,
        }
    }

    /// The end of an exclusion.
    #[must_use]
    pub fn include(&self) -> Plan {
        let (its, it) = (self.word("its", "their"), self.word("it", "them"));
        let then = format!("{its} next contact admits {it} again, and barriers wait for {it} from then on");
        self.plan(Action::Include).harmless().line(then)
    }

    /// That no record of them is kept.
    ///
    /// # Errors
    /// Fails as [`Meant::what_is_left`].
    pub fn forget(&self, lower_expected: bool) -> Result<Plan, InFile> {
        let (it, its) = (self.word("it", "them"), self.word("its", "their"));
        let (runs, new) = (self.word("it still runs", "they still run"), self.word("a new node", "new nodes"));
        let plan = self
            .plan(Action::Forget)
            .line(format!("no barrier waits for {it}, and the pool keeps no record of {it}"))
            .line(format!("if {runs}, {its} next contact admits {it} as {new}"));
        self.what_is_left(plan, lower_expected)
    }
}

/// Whether barriers wait for it, as far as its state tells.
fn is_required(node: &NodeStatus) -> bool {
    use NodeState::{Converged, Drifted, Failed, Silent, Straggler};
    node.source == KeySource::Coordinator
        && matches!(node.state, Named::Known(Converged | Drifted | Failed | Silent | Straggler))
}

/// Whether it is in the pool: neither denied nor moved away.
#[must_use]
pub fn is_here(node: &NodeStatus) -> bool {
    node.state != NodeState::Denied && node.state != NodeState::Moved
}

/// Whether an operator has excluded it, so that an `include` has a meaning.
#[must_use]
pub fn is_excluded(node: &NodeStatus) -> bool {
    node.excluded == Some(ExclusionReason::Operator.into())
}

/// Where the number of expected nodes is, if it is in the coordinator's file.
#[must_use]
pub fn in_file(status: &PoolStatus, number: usize) -> String {
    format!(
        "set `expected_nodes = {number}` in [pools.{}] of coordinator.toml, and `systemctl reload tfo-coordinator`",
        status.pool
    )
}
