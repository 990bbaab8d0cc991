//! `exclude`, `include`, `deny`, `allow`, `forget`: commands about named nodes; and `expect`: how many there should be.
//!
//! One command is one plan, one request, one commit and one entry in the audit log, for any number of nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::ask::{Fleet, Request};
use super::command::{CommandArgs, Prepared, refused, run};
use super::consent::Plan;
use super::targets::{TargetArgs, Targets};
use tfo_cli::plain::{count_of_nodes, names};
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::fleet::{Action, ExclusionReason, NodeState};
use tfo_model::ids::NodeId;
use tfo_model::named::Named;
use tfo_model::node::KeySource;
use tfo_model::time::parse_duration;
use tfo_wire::v1::fleet::{NodeStatus, PoolStatus};
use tfo_wire::v1::orders::{ExpectRequest, NodeAction, NodesRequest};

/// Shortest exclusion: a shorter one ends before it is of use.
const EXCLUDE_MIN: Duration = Duration::from_secs(60);
/// Longest exclusion: a node that is away for longer is forgotten, and comes back as a new one.
const EXCLUDE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Options of every command about nodes.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(super) common: CommandArgs,
    #[command(flatten)]
    pub(super) targets: TargetArgs,
}

/// The nodes that a command is about, in the pool as it is.
pub(super) struct Meant<'a> {
    status: &'a PoolStatus,
    pub(super) nodes: Vec<NodeStatus>,
}

impl<'a> Meant<'a> {
    pub(super) async fn of(
        targets: &Targets<'_>,
        (fleet, status): (&Fleet, &'a PoolStatus),
        has_meaning: impl Fn(&NodeStatus) -> bool,
    ) -> Result<Self, Failure> {
        let nodes = fleet.nodes(&status.pool).await?.nodes;
        let meant = targets.of(status, &nodes, has_meaning)?.into_iter().cloned().collect();
        Ok(Self { status, nodes: meant })
    }

    /// `one` if it is a single node.
    pub(super) fn word(&self, one: &'static str, many: &'static str) -> &'static str {
        if self.nodes.len() == 1 { one } else { many }
    }

    /// A plan that begins with which nodes they are, how they are now, and what is not known of them.
    pub(super) fn plan(&self, action: Action) -> Plan {
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
    fn too_few(&self) -> Option<String> {
        let (expected, left) = (self.status.expected_nodes, self.left());
        let is = if expected == 1 { "node is" } else { "nodes are" };
        (left < expected)
            .then(|| format!("{expected} {is} expected and {left} will be left: no rotation starts by itself"))
    }

    /// Adds what becomes of the expected number, if too few nodes are left.
    pub(super) fn what_is_left(&self, plan: Plan, lower_expected: bool) -> Result<Plan, Failure> {
        let Some(too_few) = self.too_few() else { return Ok(plan) };
        // At least one node is expected, always.
        let left = self.left().max(1);
        let in_file = in_file(self.status, left);
        Ok(match (self.status.expected_in_file, lower_expected) {
            (true, true) => return Err(refused(format!("{too_few}, and the number is in a file"), &in_file)),
            (true, false) => plan.line(format!("{too_few} until you {in_file}")),
            (false, true) => {
                plan.line(format!("{left} of {} nodes are expected from now on", self.status.expected_nodes))
            }
            (false, false) => plan.line(format!(
                "{too_few}; --lower-expected expects {left} in the same step, `tfoctl expect {left}` later"
            )),
        })
    }

    /// The command as it is sent.
    pub(super) fn ready(
        self,
        plan: Plan,
        common: &CommandArgs,
        (action, what): (Action, NodeAction),
    ) -> Prepared<NodesRequest> {
        let nodes = self.nodes.into_iter().map(|node| node.node).collect();
        let body = NodesRequest { action: what, nodes, reason: common.reason.clone() };
        Prepared::new(plan, Request { path: "/nodes".to_owned(), body, action })
    }
}

/// Whether barriers wait for it, as far as its state tells.
fn is_required(node: &NodeStatus) -> bool {
    use NodeState::{Converged, Drifted, Failed, Silent, Straggler};
    node.source == KeySource::Coordinator
        && matches!(node.state, Named::Known(Converged | Drifted | Failed | Silent | Straggler))
}

/// Whether it is in the pool: neither denied nor moved away.
pub(super) fn is_here(node: &NodeStatus) -> bool {
    node.state != NodeState::Denied && node.state != NodeState::Moved
}

/// Arguments of `exclude`.
#[derive(Debug, Args)]
pub(crate) struct ExcludeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Duration, 1m to 30d
    #[arg(long = "for", value_name = "DURATION", default_value = "24h", value_parser = exclusion)]
    span: Duration,
}

fn exclusion(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text).map_err(|error| error.to_string())?;
    if (EXCLUDE_MIN..=EXCLUDE_MAX).contains(&span) { Ok(span) } else { Err("an exclusion is 1m to 30d".to_owned()) }
}

/// Excludes nodes from barriers for a limited time.
pub(crate) fn exclude(arguments: &ExcludeArgs, format: Format) -> Result<Outcome, Failure> {
    let NodeArgs { common, targets } = &arguments.node;
    let targets = targets.read()?;
    run(common, format, async |fleet, status| {
        let until = clock::now().plus(arguments.span.as_secs());
        let meant = Meant::of(&targets, (fleet, status), is_here).await?;
        let (it, its) = (meant.word("it", "them"), meant.word("its", "their"));
        let serves = meant.word("it still serves", "they still serve");
        let mut plan = meant
            .plan(Action::Exclude)
            .line(format!("no barrier waits for {it} until {until}; `tfoctl include` ends that"))
            .line(format!("while {serves}, {its} clients may lose TFO when the others rotate"))
            .line(format!("{its} first contact after that admits {it} again"));
        if let Some(too_few) = meant.too_few() {
            plan = plan.line(format!("{too_few} until then"));
        }
        Ok(meant.ready(plan, common, (Action::Exclude, NodeAction::Exclude { until })))
    })
}

/// Ends the exclusion of nodes.
pub(crate) fn include(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let targets = arguments.targets.read()?;
    run(&arguments.common, format, async |fleet, status| {
        let is_excluded = |node: &NodeStatus| node.excluded == Some(ExclusionReason::Operator.into());
        let meant = Meant::of(&targets, (fleet, status), is_excluded).await?;
        let (its, it) = (meant.word("its", "their"), meant.word("it", "them"));
        let plan = meant
            .plan(Action::Include)
            .harmless()
            .line(format!("{its} next contact admits {it} again, and barriers wait for {it} from then on"));
        Ok(meant.ready(plan, &arguments.common, (Action::Include, NodeAction::Include)))
    })
}

/// Gives nodes no more keys.
pub(crate) fn deny(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let targets = arguments.targets.read()?;
    run(&arguments.common, format, async |fleet, status| {
        let meant = Meant::of(&targets, (fleet, status), is_here).await?;
        let gets = meant.word("it gets", "they get");
        let (it, is) = (meant.word("it", "them"), meant.word("it is", "they are"));
        let keeps = meant.word("it keeps the keys that it has", "they keep the keys that they have");
        let certificates = meant.word("its certificate stays", "their certificates stay");
        let mut plan = meant
            .plan(Action::Deny)
            .line(format!("{gets} no more keys, and no barrier waits for {it}, until {is} allowed (`tfoctl allow`)"))
            .line(format!("{keeps}: if you do not trust {it}, `tfoctl rotate --mode revoke --deny` instead"))
            .line(format!("{certificates} valid: revoke that too (`tfoctl pki revoke`)"));
        if let Some(too_few) = meant.too_few() {
            plan = plan.line(too_few);
        }
        Ok(meant.ready(plan, &arguments.common, (Action::Deny, NodeAction::Deny)))
    })
}

/// Ends the deny of nodes.
pub(crate) fn allow(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let targets = arguments.targets.read()?;
    run(&arguments.common, format, async |fleet, status| {
        let meant = Meant::of(&targets, (fleet, status), |node| node.state == NodeState::Denied).await?;
        let (its, it) = (meant.word("its", "their"), meant.word("it", "them"));
        let (new, reported) = (meant.word("a new node", "new nodes"), meant.word("it", "they"));
        let plan = meant
            .plan(Action::Allow)
            .line(format!("{its} next contact admits {it} as {new}, and {reported} may get the pool's keys again"))
            .line(format!("what {reported} reported before the deny counts for nothing; what comes next is believed"))
            .line("a revoked certificate stays revoked: issue another one (`tfoctl pki issue --node`)");
        Ok(meant.ready(plan, &arguments.common, (Action::Allow, NodeAction::Allow)))
    })
}

/// Arguments of `forget`.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Lower the number of expected nodes to the required ones that are left, in the same step
    #[arg(long)]
    lower_expected: bool,
}

/// Forgets nodes.
pub(crate) fn forget(arguments: &ForgetArgs, format: Format) -> Result<Outcome, Failure> {
    let NodeArgs { common, targets } = &arguments.node;
    let (targets, lower_expected) = (targets.read()?, arguments.lower_expected);
    run(common, format, async |fleet, status| {
        let meant = Meant::of(&targets, (fleet, status), |_| true).await?;
        let (it, its) = (meant.word("it", "them"), meant.word("its", "their"));
        let (runs, new) = (meant.word("it still runs", "they still run"), meant.word("a new node", "new nodes"));
        let mut plan = meant
            .plan(Action::Forget)
            .line(format!("no barrier waits for {it}, and the pool keeps no record of {it}"))
            .line(format!("if {runs}, {its} next contact admits {it} as {new}"));
        plan = meant.what_is_left(plan, lower_expected)?;
        Ok(meant.ready(plan, common, (Action::Forget, NodeAction::Forget { lower_expected })))
    })
}

/// Where the number of expected nodes is, if it is in the coordinator's file.
fn in_file(status: &PoolStatus, number: usize) -> String {
    format!(
        "set `expected_nodes = {number}` in [pools.{}] of coordinator.toml, and `systemctl reload tfo-coordinator`",
        status.pool
    )
}

/// Arguments of `expect`.
#[derive(Debug, Args)]
pub(crate) struct ExpectedArgs {
    #[command(flatten)]
    common: CommandArgs,
    /// Fewest required nodes with which a rotation starts
    #[arg(value_name = "N")]
    number: usize,
}

/// Sets the number of nodes that are expected.
pub(crate) fn expect(arguments: &ExpectedArgs, format: Format) -> Result<Outcome, Failure> {
    let ExpectedArgs { common, number } = arguments;
    run(common, format, async |_, status| {
        if status.expected_in_file {
            let message = format!(
                "expected_nodes = {} is set in the coordinator's configuration file, which decides",
                status.expected_nodes
            );
            return Err(refused(message, &in_file(status, *number)));
        }
        let PoolStatus { required, expected_nodes: before, .. } = status;
        let plan = Plan::new(Action::Expect.as_str(), status, *required)
            .line(format!("a rotation starts with {number} required nodes or more; until now {before}"))
            .line(format!("required now: {}", count_of_nodes(*required)));
        let plan = match (number < before, number > required) {
            // A serving node that is missing, and not missed, rejects cookies of the next key.
            (true, _) => plan.line("with fewer, a node that serves without an agent is not missed"),
            (false, true) => plan.harmless().line("no rotation starts by itself before the others are here"),
            (false, false) => plan.harmless(),
        };
        let body = ExpectRequest { number: *number, reason: common.reason.clone(), if_revision: Some(status.revision) };
        Ok(Prepared::post(plan, Action::Expect, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusions_have_a_range() {
        assert_eq!(exclusion("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["59s", "31d", "24", "-1h"] {
            assert!(exclusion(bad).is_err(), "{bad}");
        }
    }
}
