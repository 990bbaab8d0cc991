//! `exclude`, `include`, `deny`, `allow`, `forget`: commands about named nodes; and `expect`: how many there should be.
//!
//! One command is one plan, one request, one commit and one entry in the audit log, for any number of nodes.

use std::time::Duration;

use clap::Args;

use super::ask::{Fleet, Request};
use super::command::{CommandArgs, Prepared, refused, run};
use super::targets::{TargetArgs, Targets};
use tfo_cli::plain::count_of_nodes;
use tfo_cli::plan::Plan;
use tfo_cli::plan::members::{InFile, Meant, in_file, is_excluded, is_here};
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::fleet::{Action, NodeState};
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

/// The nodes of the pool that are meant; a pattern means those for which the command has a meaning.
pub(super) async fn meant<'a>(
    targets: &Targets<'_>,
    (fleet, status): (&Fleet, &'a PoolStatus),
    has_meaning: impl Fn(&NodeStatus) -> bool,
) -> Result<Meant<'a>, Failure> {
    let nodes = fleet.nodes(&status.pool).await?.nodes;
    let meant = targets.of(status, &nodes, has_meaning)?.into_iter().cloned().collect();
    Ok(Meant::new(status, meant))
}

/// The command as it is sent.
pub(super) fn ready(
    meant: Meant<'_>,
    plan: Plan,
    common: &CommandArgs,
    (action, what): (Action, NodeAction),
) -> Prepared<NodesRequest> {
    let body = NodesRequest { action: what, nodes: meant.into_names(), reason: common.reason.clone() };
    Prepared::new(plan, Request { path: "/nodes".to_owned(), body, action })
}

/// An order that would lower a number which is in a file.
pub(super) fn is_in_file(InFile { message, remedy }: InFile) -> Failure {
    refused(message, &remedy)
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
        let meant = meant(&targets, (fleet, status), is_here).await?;
        let plan = meant.exclude(until);
        Ok(ready(meant, plan, common, (Action::Exclude, NodeAction::Exclude { until })))
    })
}

/// Ends the exclusion of nodes.
pub(crate) fn include(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let targets = arguments.targets.read()?;
    run(&arguments.common, format, async |fleet, status| {
        let meant = meant(&targets, (fleet, status), is_excluded).await?;
        let plan = meant.include();
        Ok(ready(meant, plan, &arguments.common, (Action::Include, NodeAction::Include)))
    })
}

/// Gives nodes no more keys.
pub(crate) fn deny(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let targets = arguments.targets.read()?;
    run(&arguments.common, format, async |fleet, status| {
        let meant = meant(&targets, (fleet, status), is_here).await?;
        let gets = meant.word("it gets", "they get");
        let (it, is) = (meant.word("it", "them"), meant.word("it is", "they are"));
        let keeps = meant.word("it keeps the keys that it has", "they keep the keys that they have");
        let certificates = meant.word("its certificate is", "their certificates are");
        let mut plan = meant
            .plan(Action::Deny)
            .line(format!("{gets} no more keys, and no barrier waits for {it}, until {is} allowed (`tfoctl allow`)"))
            .line(format!("{keeps}: if you do not trust {it}, `tfoctl rotate --mode revoke --deny` instead"))
            .line(format!("{certificates} revoked, if the coordinator issued {it}; otherwise: `tfoctl pki revoke`"));
        if let Some(too_few) = meant.too_few() {
            plan = plan.line(too_few);
        }
        Ok(ready(meant, plan, &arguments.common, (Action::Deny, NodeAction::Deny)))
    })
}

/// Ends the deny of nodes.
pub(crate) fn allow(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let targets = arguments.targets.read()?;
    run(&arguments.common, format, async |fleet, status| {
        let meant = meant(&targets, (fleet, status), |node| node.state == NodeState::Denied).await?;
        let (its, it) = (meant.word("its", "their"), meant.word("it", "them"));
        let (new, reported) = (meant.word("a new node", "new nodes"), meant.word("it", "they"));
        let plan = meant
            .plan(Action::Allow)
            .line(format!("{its} next contact admits {it} as {new}, and {reported} may get the pool's keys again"))
            .line(format!("what {reported} reported before the deny counts for nothing; what comes next is believed"))
            .line("a revoked certificate stays revoked: issue another one (`tfoctl pki issue --node`)");
        Ok(ready(meant, plan, &arguments.common, (Action::Allow, NodeAction::Allow)))
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
        let meant = meant(&targets, (fleet, status), |_| true).await?;
        let plan = meant.forget(lower_expected).map_err(is_in_file)?;
        Ok(ready(meant, plan, common, (Action::Forget, NodeAction::Forget { lower_expected })))
    })
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
