//! `pools`, `nodes`: commands that only look, which viewers may use too; and `contexts`.

use std::io::{self, Write};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::connect::{ConnectArgs, block_on};
use super::roster::{self, Roster, Selection, Sort};
use super::shown::Shown;
use super::verdict::{VerdictCodeArgs, outcome};
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver, deliver_as};
use tfo_cli::table::Table;
use tfo_cli::terminal::Terminal;
use tfo_config::ctl::CtlFile;
use tfo_config::reader::ConfigFile;
use tfo_host::runtime::clock;
use tfo_model::fleet::NodeState;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::pattern::NamePattern;
use tfo_model::problem::Problem;
use tfo_wire::v1::fleet::{NodeStatus, Nodes, PoolStatus, Pools};

/// Most nodes that text lists without `--limit` and `--all`.
const SHOWN_MAX: usize = 20;

/// Arguments of `pools`.
#[derive(Debug, Args)]
pub(crate) struct PoolsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    codes: VerdictCodeArgs,
}

/// Arguments of `nodes`.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    codes: VerdictCodeArgs,
    /// One node: everything that is known of it
    #[arg(value_name = "NODE", conflicts_with_all = ["states", "patterns", "sort", "limit", "all"])]
    node: Option<NodeId>,
    /// Only nodes in these states, separated by commas
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = states())]
    states: Vec<NodeState>,
    /// Only nodes whose names fit, such as 'edge-*.example.org'; may be repeated
    #[arg(long = "match", value_name = "PATTERN")]
    patterns: Vec<NamePattern>,
    /// Order: the worst state first, by name, the longest without a report, or the longest behind first
    #[arg(long, value_name = "ORDER", value_enum)]
    sort: Option<Sort>,
    /// At most so many nodes; as text 20
    #[arg(long, value_name = "N", conflicts_with = "all")]
    limit: Option<usize>,
    /// All nodes, also those that need no attention
    #[arg(long)]
    all: bool,
    /// Ask the nodes first: what they say now, and not up to minutes ago.  Waits for them for at most 10 s
    #[arg(long)]
    fresh: bool,
}

fn states() -> impl TypedValueParser<Value = NodeState> {
    PossibleValuesParser::new(NodeState::ALL.map(NodeState::as_str)).try_map(|name| name.parse::<NodeState>())
}

/// Shows all pools, or the one of `--pool`.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn pools(arguments: &PoolsArgs, format: Format) -> Result<Outcome, Failure> {
    let shown = || {
        let connection = arguments.connect.open(format)?;
        let pools = block_on(connection.looked_at())?;
        let outcome = outcome(pools.iter().map(|status| &status.verdict));
        deliver_as(&Shown(Pools { pools }), format, outcome)
    };
    arguments.codes.apply(shown())
}

/// The nodes that were asked for, and as text the pool above them.
#[derive(Serialize)]
#[serde(transparent)]
struct NodesShown {
    #[serde(skip)]
    status: PoolStatus,
    /// As the API has them, for what is counted over all.
    #[serde(skip)]
    all: Nodes,
    selected: Nodes,
    /// Lines below the table.
    #[serde(skip)]
    below: Option<String>,
}

impl Report for NodesShown {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let shown: Vec<&NodeStatus> = self.selected.nodes.iter().collect();
        let Roster { head, heading, rows } =
            Roster::of(&self.status, &self.all, &shown, (Terminal::of_stdout(), clock::now()));
        let lines = head.iter().chain(&heading).chain(&rows).chain(&self.below);
        lines.into_iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// One node.
#[derive(Serialize)]
#[serde(transparent)]
struct NodeShown {
    #[serde(skip)]
    status: PoolStatus,
    found: Nodes,
}

impl Report for NodeShown {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let pages = self.found.nodes.iter().flat_map(|node| roster::page(&self.status, node, clock::now()));
        pages.into_iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// Shows the nodes of a pool, or one of them.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn list_nodes(arguments: &NodesArgs, format: Format) -> Result<Outcome, Failure> {
    let shown = || {
        let connection = arguments.connect.open(format)?;
        let (status, nodes) = block_on(async {
            let pool = connection.pool().await?;
            let fleet = &connection.fleet;
            // The nodes first: what they say now may change the verdict.
            let nodes = if arguments.fresh { fleet.fresh_nodes(&pool).await? } else { fleet.nodes(&pool).await? };
            Ok((fleet.status(&pool).await?, nodes))
        })?;
        let outcome = outcome(std::iter::once(&status.verdict));
        match &arguments.node {
            Some(name) => deliver_as(&one(name, status, nodes)?, format, outcome),
            None => deliver_as(&arguments.select(status, nodes, format), format, outcome),
        }
    };
    arguments.codes.apply(shown())
}

fn one(name: &NodeId, status: PoolStatus, nodes: Nodes) -> Result<NodeShown, Failure> {
    let Nodes { pool, nodes, fingerprints } = nodes;
    if let Some(node) = nodes.iter().find(|node| node.node == *name) {
        return Ok(NodeShown { found: Nodes { nodes: vec![node.clone()], pool, fingerprints }, status });
    }
    let remedy = match roster::near(name, &nodes) {
        Some(near) => format!("did you mean {near}? `tfoctl nodes --all` lists the nodes of the pool"),
        None => "`tfoctl nodes --all` lists the nodes of the pool".to_owned(),
    };
    let problem = Problem::error("unknown_node", format!("pool {pool} has no node {name}"), remedy);
    Err(Failure::new(Outcome::Failed, problem))
}

impl NodesArgs {
    fn select(&self, status: PoolStatus, all: Nodes, format: Format) -> NodesShown {
        let filtered =
            !self.states.is_empty() || !self.patterns.is_empty() || self.sort.is_some() || self.limit.is_some();
        // Programs get everything, in the order of the API, unless they ask for less.
        let text = format == Format::Text;
        let selection = Selection {
            states: self.states.clone(),
            patterns: self.patterns.clone(),
            only_bad: text && !filtered && !self.all,
            sort: self.sort.unwrap_or(if text { Sort::State } else { Sort::Name }),
        };
        let mut nodes: Vec<NodeStatus> = selection.of(&all.nodes).into_iter().cloned().collect();
        let found = nodes.len();
        nodes.truncate(match self.limit {
            Some(limit) => limit,
            None if text && !self.all => SHOWN_MAX,
            None => usize::MAX,
        });
        let below = match (nodes.len(), found) {
            _ if all.nodes.is_empty() => None,
            (0, 0) if filtered => Some("no node fits".to_owned()),
            (0, 0) => Some("no node is behind; --all lists every node".to_owned()),
            (shown, found) if shown < found => Some(format!(
                "{shown} of {found} nodes; --all lists every node, --limit N more, --state and --match fewer"
            )),
            _ => None,
        };
        let selected = Nodes { pool: all.pool.clone(), nodes, fingerprints: all.fingerprints.clone() };
        NodesShown { status, all, selected, below }
    }
}

/// One context of the configuration.
#[derive(Serialize)]
struct ContextShown {
    /// Null for the settings outside all contexts.
    name: Option<String>,
    /// Whether commands use it now.
    current: bool,
    pool: Option<PoolName>,
    urls: Vec<String>,
}

#[derive(Serialize)]
struct Contexts {
    contexts: Vec<ContextShown>,
}

impl Report for Contexts {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["CURRENT", "CONTEXT", "POOL", "URLS"]);
        for ContextShown { name, current, pool, urls } in &self.contexts {
            table.row([
                if *current { "*" } else { "" }.to_owned(),
                name.clone().unwrap_or_else(|| "-".to_owned()),
                pool.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                urls.join(" "),
            ]);
        }
        table.write(out)
    }
}

/// Shows the contexts of the configuration.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn contexts(arguments: &ConnectArgs, format: Format) -> Result<Outcome, Failure> {
    let config = |problems| Failure { problems, outcome: Outcome::Config };
    let file = CtlFile::load(&arguments.file()?).map_err(config)?;
    let asked = arguments.context();
    let shown = file.contexts().map(|(name, settings)| ContextShown {
        name: name.map(str::to_owned),
        current: file.is_chosen(name, asked.as_deref()),
        pool: settings.pool.clone(),
        urls: settings.urls.iter().map(ToString::to_string).collect(),
    });
    deliver(&Contexts { contexts: shown.collect() }, format)
}
