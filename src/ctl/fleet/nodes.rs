//! `exclude`, `deny`, `forget`: commands about one node.

use std::time::Duration;

use clap::Args;
use reqwest::Method;

use super::ask::{Fleet, Request};
use super::command::{CommandArgs, Prepared, run};
use super::consent::Plan;
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;
use tfo_model::problem::Problem;
use tfo_model::time::parse_duration;
use tfo_wire::v1::fleet::{NodeAction, NodeRequest, NodeStatus, PoolStatus};

/// Shortest exclusion: a shorter one ends before it is of use.
const EXCLUDE_MIN: Duration = Duration::from_secs(60);
/// Longest exclusion: a node that is away for longer is forgotten, and comes back as a new one.
const EXCLUDE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Options of every command about a node.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    common: CommandArgs,
    /// Name of the node
    #[arg(value_name = "NODE")]
    node: NodeId,
}

impl NodeArgs {
    /// The plan of a command about a node that the pool knows.
    async fn plan(&self, action: Action, fleet: &Fleet, status: &PoolStatus) -> Result<Plan, Failure> {
        let nodes = fleet.nodes(&status.pool).await?.nodes;
        let Some(found) = nodes.iter().find(|found| found.node == self.node) else {
            let message = format!("pool {} has no node {}", status.pool, self.node);
            let problem = Problem::error("unknown_node", message, "`tfoctl nodes --all` lists the nodes of the pool");
            return Err(Failure::new(Outcome::Failed, problem));
        };
        let NodeStatus { node, state, generation, .. } = found;
        let generation = generation.map_or_else(|| "no generation".to_owned(), |g| format!("generation {g}"));
        let line = format!("1 node of {} required: {node}, now {state} at {generation}", status.required);
        Ok(Plan::new(action.as_str(), status, 1).line(line))
    }

    /// `PUT` to the node.
    fn put(&self, action: Action, what: NodeAction) -> Request<NodeRequest> {
        let body = Some(NodeRequest { action: what, reason: self.common.reason.clone() });
        Request { method: Method::PUT, path: format!("/nodes/{}", self.node), body, action }
    }
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

/// Excludes a node from barriers for a limited time.
pub(crate) fn exclude(arguments: &ExcludeArgs, format: Format) -> Result<Outcome, Failure> {
    run(&arguments.node.common, format, async |fleet, status| {
        let until = clock::now().plus(arguments.span.as_secs());
        let plan = arguments.node.plan(Action::Exclude, fleet, status).await?;
        let plan = plan
            .line(format!("no barrier waits for it until {until}"))
            .line("while it still serves, its clients may lose TFO when the others rotate")
            .line("its first contact after that admits it again");
        Ok(Prepared::new(plan, arguments.node.put(Action::Exclude, NodeAction::Exclude { until })))
    })
}

/// Gives a node no more keys.
pub(crate) fn deny(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    run(&arguments.common, format, async |fleet, status| {
        let plan = arguments.plan(Action::Deny, fleet, status).await?;
        let plan = plan
            .line("it gets no more keys, and no barrier waits for it, until it is forgotten")
            .line("it keeps the keys that it has: if you do not trust it, `tfoctl rotate --mode revoke --deny` instead")
            .line("its certificate stays valid: revoke that too (`tfoctl pki revoke`)");
        Ok(Prepared::new(plan, arguments.put(Action::Deny, NodeAction::Deny)))
    })
}

/// Forgets a node.
pub(crate) fn forget(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    run(&arguments.common, format, async |fleet, status| {
        let plan = arguments.plan(Action::Forget, fleet, status).await?;
        let plan = plan
            .line("no barrier waits for it, and the pool keeps no record of it")
            .line("if it still runs, its next contact admits it as a new node");
        let NodeArgs { node, common } = arguments;
        let path = format!("/nodes/{node}?reason={}", query_value(&common.reason));
        Ok(Prepared::new(plan, Request::<()> { method: Method::DELETE, path, body: None, action: Action::Forget }))
    })
}

/// Escapes a text as the value in a query: everything but the unreserved characters of RFC 3986 section 2.3.
fn query_value(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped += &format!("%{byte:02X}"),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_a_query() {
        assert_eq!(query_value("a b&c=ä/?#%"), "a%20b%26c%3D%C3%A4%2F%3F%23%25");
    }

    #[test]
    fn exclusions_have_a_range() {
        assert_eq!(exclusion("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["59s", "31d", "24", "-1h"] {
            assert!(exclusion(bad).is_err(), "{bad}");
        }
    }
}
