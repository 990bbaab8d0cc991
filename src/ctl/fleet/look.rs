//! `pools`, `nodes`, `audit`: the commands that only look; viewers may use them too.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::connect::{ConnectArgs, Connection, block_on};
use super::shown::{Listed, Shown, audit_line, write_nodes};
use super::verdict::{VerdictCodeArgs, outcome};
use tfo_cli::output::while_read;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver, deliver_as, write_json};
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;
use tfo_wire::v1::fleet::{Audit, Nodes, PoolStatus, Pools};

/// How often `audit --follow` looks again.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

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
    /// List every node, also those that need no attention
    #[arg(long)]
    all: bool,
}

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Only entries after this revision
    #[arg(long, value_name = "REVISION", default_value_t = Revision::ZERO)]
    after: Revision,
    /// Show new entries until interrupted; as JSON: one entry a line
    #[arg(long)]
    follow: bool,
}

/// Shows all pools, or the one of `--pool`.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn pools(arguments: &PoolsArgs, format: Format) -> Result<Outcome, Failure> {
    let shown = || {
        let connection = arguments.connect.open()?;
        let pools = block_on(connection.looked_at())?;
        let outcome = outcome(pools.iter().map(|status| &status.verdict));
        deliver_as(&Shown(Pools { pools }), format, outcome)
    };
    arguments.codes.apply(shown())
}

/// Nodes, and as text the pool above them.
struct NodesShown {
    status: PoolStatus,
    nodes: Nodes,
    listed: Listed,
}

impl Serialize for NodesShown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.nodes.serialize(serializer)
    }
}

impl Report for NodesShown {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_nodes(out, &self.status, (&self.nodes.nodes, &self.nodes.fingerprints), self.listed)
    }
}

/// Shows the nodes of a pool.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn list_nodes(arguments: &NodesArgs, format: Format) -> Result<Outcome, Failure> {
    let listed = if arguments.all { Listed::All } else { Listed::Behind };
    let shown = || {
        let connection = arguments.connect.open()?;
        let shown = block_on(async {
            let pool = connection.pool().await?;
            let status = connection.fleet.status(&pool).await?;
            let nodes = connection.fleet.nodes(&pool).await?;
            Ok(NodesShown { status, nodes, listed })
        })?;
        let outcome = outcome(std::iter::once(&shown.status.verdict));
        deliver_as(&shown, format, outcome)
    };
    arguments.codes.apply(shown())
}

impl Report for Shown<Audit> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.entries.iter().try_for_each(|line| writeln!(out, "{}", audit_line(line)))
    }
}

/// Shows the audit log, oldest first.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn audit(arguments: &AuditArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        if arguments.follow {
            return while_read(follow(&connection, &pool, arguments.after, format)).await;
        }
        let entries = connection.fleet.audit_after(&pool, arguments.after).await?;
        deliver(&Shown(Audit { pool, entries, more: false }), format)
    })
}

async fn follow(connection: &Connection, pool: &PoolName, after: Revision, format: Format) -> Result<Outcome, Failure> {
    let mut after = after;
    loop {
        // The whole log first, so that a wrong pool or certificate ends it at once.
        let entries = connection.fleet.audit_after(pool, after).await?;
        after = entries.last().map_or(after, |line| line.revision);
        show_lines(&entries, format).map_err(Failure::undelivered)?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Outcome::Done),
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
        }
    }
}

fn show_lines(entries: &[tfo_wire::v1::fleet::AuditLine], format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in entries {
        match format {
            Format::Text => writeln!(out, "{}", audit_line(line))?,
            Format::Json => write_json(&mut out, line)?,
        }
    }
    out.flush()
}
