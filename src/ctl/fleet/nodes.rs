//! `exclude`, `deny`, `forget`: what an operator does with one node.

use std::time::Duration;

use clap::Args;
use reqwest::Method;

use super::connect::{Connection, OrderArgs, block_on};
use super::consent::{ConsentArgs, Plan, Weight};
use super::steps::{Prepared, carry_out};
use crate::report::{Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::fleet::Action;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::problem::Problem;
use tfo_model::time::parse_span;
use tfo_wire::v1::fleet::{NodeAction, NodeRequest, NodeStatus, PoolStatus};

/// Shortest exclusion: shorter ones end before anything was done with them.
const EXCLUDE_MIN: Duration = Duration::from_secs(60);
/// Longest exclusion: whoever is away longer is forgotten, and comes again as a new node.
const EXCLUDE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Arguments of `deny` and `forget`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Arguments of `exclude`.
#[derive(Debug, Args)]
pub struct ExcludeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// For how long
    #[arg(long = "for", value_name = "SPAN", default_value = "24h", value_parser = exclusion)]
    span: Duration,
}

fn exclusion(text: &str) -> Result<Duration, String> {
    let span = parse_span(text).map_err(|error| error.to_string())?;
    if (EXCLUDE_MIN..=EXCLUDE_MAX).contains(&span) { Ok(span) } else { Err("an exclusion is 1m to 30d".to_owned()) }
}

/// Barriers do not wait for a node for a while.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn exclude(arguments: &ExcludeArgs, format: Format) -> Result<Outcome, Failure> {
    let node = &arguments.node;
    let until = clock::now().plus(arguments.span.as_secs());
    let connection = node.order.connect.open()?;
    block_on(async {
        let seen = Seen::look(&connection, &node.node).await?;
        let plan = seen
            .plan("exclude")
            .line(format!("no barrier waits for it until {until}"))
            .line("if it still serves, its clients may lose TFO while the others rotate")
            .line("its first contact after that admits it again");
        let body = NodeRequest { action: NodeAction::Exclude { until }, reason: node.order.reason.clone() };
        let prepared = node.put(Action::Exclude, &body, plan);
        carry_out(&connection, &seen.status, prepared, &node.consent, format).await
    })
}

/// A node gets no keys any more.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn deny(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let seen = Seen::look(&connection, &arguments.node).await?;
        let plan = seen
            .plan("deny")
            .line("it is told no keys any more, and nobody waits for it, until it is forgotten")
            .line(
                "the keys that it has stay with it: if it is not trusted, `tfoctl rotate --mode revoke --deny` instead",
            )
            .line("its certificate stays valid: revoke that too (`tfoctl pki revoke`)");
        let body = NodeRequest { action: NodeAction::Deny, reason: arguments.order.reason.clone() };
        let prepared = arguments.put(Action::Deny, &body, plan);
        carry_out(&connection, &seen.status, prepared, &arguments.consent, format).await
    })
}

/// A node becomes unknown.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn forget(arguments: &NodeArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let seen = Seen::look(&connection, &arguments.node).await?;
        let plan = seen
            .plan("forget")
            .line("nobody waits for it, and nothing is known of it")
            .line("if it still runs, its next contact admits it as a new node");
        let prepared = Prepared::<()> {
            method: Method::DELETE,
            path: format!("/nodes/{}?reason={}", arguments.node, query_value(&arguments.order.reason)),
            body: None,
            action: Action::Forget,
            reason: &arguments.order.reason,
            plan,
            weight: Weight::Heavy,
        };
        carry_out(&connection, &seen.status, prepared, &arguments.consent, format).await
    })
}

/// A node as the operator sees it, and its pool.
struct Seen {
    status: PoolStatus,
    node: NodeStatus,
}

impl Seen {
    async fn look(connection: &Connection, node: &NodeId) -> Result<Self, Failure> {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        let nodes = connection.fleet.nodes(&pool).await?.nodes;
        match nodes.into_iter().find(|found| found.node == *node) {
            Some(node) => Ok(Self { status, node }),
            None => Err(unknown(node, &pool)),
        }
    }

    fn plan(&self, action: &'static str) -> Plan {
        let NodeStatus { node, state, generation, .. } = &self.node;
        let generation = generation.map_or_else(|| "no generation".to_owned(), |g| format!("generation {g}"));
        Plan::new(action, &self.status, 1)
            .line(format!("1 node of {} required: {node}, now {state} at {generation}", self.status.required))
    }
}

fn unknown(node: &NodeId, pool: &PoolName) -> Failure {
    let message = format!("pool {pool} knows no node {node}");
    let remedy = "see `tfoctl nodes --all` for the nodes there are";
    Failure::new(Outcome::Failed, Problem::error("unknown_node", message, remedy))
}

impl NodeArgs {
    fn put<'a>(&'a self, action: Action, body: &'a NodeRequest, plan: Plan) -> Prepared<'a, NodeRequest> {
        Prepared {
            method: Method::PUT,
            path: format!("/nodes/{}", self.node),
            body: Some(body),
            action,
            reason: &self.order.reason,
            plan,
            weight: Weight::Heavy,
        }
    }
}

/// A text as the value in a query (RFC 3986 section 2.3: everything but the unreserved characters is escaped).
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
