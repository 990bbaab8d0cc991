//! `audit`: what was done to a pool, and what happened to tokens and certificates, in the order of time.
//!
//! These are two logs: an entry of the pool's is a commit, and has a revision; an entry of enrolment has a number of its own.

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, value_parser};
use serde::Serialize;

use super::ask::Fleet;
use super::chain::{Noted, Notes, verify};
use super::connect::{ConnectArgs, Connection, block_on};
use super::shown::{audit_line, enrolment_line};
use tfo_cli::output::while_read;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver, write_json};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::{UnixTime, parse_duration};
use tfo_wire::v1::fleet::{Audit, AuditLine};
use tfo_wire::v1::tokens::EnrolmentLine;

/// How often `audit --follow` looks again.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Only entries after this revision of the pool, and none of tokens and certificates, which have no revision
    #[arg(long, value_name = "REVISION", default_value_t = Revision::ZERO)]
    after: Revision,
    /// Only entries since a time (2026-11-29T20:00:00Z), or of the last so long (24h)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<UnixTime>,
    /// Only entries that changed what the pool keeps of this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Only commands of this operator
    #[arg(long, value_name = "NAME")]
    operator: Option<NodeId>,
    /// Only the latest so many, 1 to 1000
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1_000))]
    limit: Option<u16>,
    /// Show new entries until interrupted; as JSON: one entry a line
    #[arg(long)]
    follow: bool,
    /// Read the whole log of the pool, and that of tokens and certificates, as they are stored, and name the first entry of
    /// each that was altered or removed, or that no rule allows
    #[arg(long, conflicts_with_all = ["after", "since", "node", "operator", "limit", "follow"])]
    verify: bool,
    /// An entry as an earlier run of --verify has printed it: it must still be the same
    #[arg(long, value_name = "REVISION:DIGEST", requires = "verify")]
    noted: Option<Noted>,
    /// The same for the log of tokens and certificates
    #[arg(long, value_name = "NUMBER:DIGEST", requires = "verify")]
    noted_enrolment: Option<Noted>,
}

/// A time, or a duration before now.
fn since(text: &str) -> Result<UnixTime, String> {
    match (text.parse(), parse_duration(text)) {
        (Ok(at), _) => Ok(at),
        (Err(_), Ok(span)) => Ok(clock::now().minus(span.as_secs())),
        (Err(time), Err(span)) => Err(format!("{time}; {span}")),
    }
}

impl AuditArgs {
    /// What the coordinator is to look for, after `after=`.
    fn filter(&self) -> String {
        let node = self.node.as_ref().map(|node| format!("&node={node}")).unwrap_or_default();
        let operator = self.operator.as_ref().map(|operator| format!("&operator={operator}")).unwrap_or_default();
        node + &operator
    }

    /// The same, and what only the first look is bounded by.
    fn first_filter(&self) -> String {
        let since = self.since.map(|since| format!("&since={since}")).unwrap_or_default();
        let limit = self.limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
        self.filter() + &since + &limit
    }

    /// The same filter for what happened to tokens and certificates.
    fn fits(&self, pool: &PoolName, line: &EnrolmentLine) -> bool {
        line.pool.as_ref().is_none_or(|own| own == pool)
            && self.since.is_none_or(|since| line.at >= since)
            && self.node.as_ref().is_none_or(|node| line.more > 0 || line.nodes.contains(node))
            && self.operator.as_ref().is_none_or(|operator| line.operator.as_ref() == Some(operator))
    }
}

/// Both logs.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    pool: Audit,
    /// What happened to tokens and certificates, for this pool or without a pool.
    enrolment: Vec<EnrolmentLine>,
}

/// An entry of one of the two logs.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Pool(&'a AuditLine),
    Enrolment(&'a EnrolmentLine),
}

impl Line<'_> {
    fn at(&self) -> UnixTime {
        match self {
            Self::Pool(line) => line.at,
            Self::Enrolment(line) => line.at,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Pool(line) => audit_line(line),
            Self::Enrolment(line) => enrolment_line(line),
        }
    }
}

/// Both in the order of time; each stays in its own order.
fn merged<'a>(pool: &'a [AuditLine], enrolment: &'a [EnrolmentLine]) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'_>> = pool.iter().map(Line::Pool).chain(enrolment.iter().map(Line::Enrolment)).collect();
    lines.sort_by_key(Line::at);
    lines
}

impl Shown {
    /// Leaves the latest entries of both together.
    fn limit(&mut self, limit: Option<u16>) {
        let Some(limit) = limit.map(usize::from) else { return };
        let lines = merged(&self.pool.entries, &self.enrolment);
        let gone = &lines[..lines.len().saturating_sub(limit)];
        let of_pool = gone.iter().filter(|line| matches!(line, Line::Pool(_))).count();
        let of_enrolment = gone.len() - of_pool;
        self.pool.entries.drain(..of_pool);
        self.enrolment.drain(..of_enrolment);
    }
}

impl Report for Shown {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        merged(&self.pool.entries, &self.enrolment).iter().try_for_each(|line| writeln!(out, "{}", line.text()))
    }
}

/// Where a reader of the log of enrolment is.
#[derive(Default)]
struct Enrolment {
    read_to: u64,
}

impl Enrolment {
    /// What came since the last look, and fits.
    async fn next(
        &mut self,
        fleet: &Fleet,
        pool: &PoolName,
        arguments: &AuditArgs,
    ) -> Result<Vec<EnrolmentLine>, Failure> {
        let (lines, read_to) = fleet.enrolment_audit(self.read_to).await?;
        self.read_to = read_to;
        Ok(lines.into_iter().filter(|line| arguments.fits(pool, line)).collect())
    }
}

/// Shows the audit log, oldest first.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn audit(arguments: &AuditArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.connect.open(format)?;
    block_on(async {
        let pool = connection.pool().await?;
        if arguments.verify {
            let notes = Notes { pool: arguments.noted, enrolment: arguments.noted_enrolment };
            return verify(&connection.fleet, pool, notes, format).await;
        }
        if arguments.follow {
            return while_read(follow(&connection, &pool, arguments, format)).await;
        }
        let (entries, read_to) = connection.fleet.audit(&pool, arguments.after, &arguments.first_filter()).await?;
        let enrolment = match arguments.after {
            Revision::ZERO => Enrolment::default().next(&connection.fleet, &pool, arguments).await?,
            _ => Vec::new(),
        };
        let mut shown = Shown { pool: Audit { pool, entries, more: false, read_to }, enrolment };
        shown.limit(arguments.limit);
        deliver(&shown, format)
    })
}

async fn follow(
    connection: &Connection,
    pool: &PoolName,
    arguments: &AuditArgs,
    format: Format,
) -> Result<Outcome, Failure> {
    let (mut after, mut filter, mut limit) = (arguments.after, arguments.first_filter(), arguments.limit);
    let mut enrolment = (after == Revision::ZERO).then(Enrolment::default);
    loop {
        // The whole log first, so that a wrong pool or certificate ends it at once.
        let (entries, read_to) = connection.fleet.audit(pool, after, &filter).await?;
        let more = match &mut enrolment {
            Some(enrolment) => enrolment.next(&connection.fleet, pool, arguments).await?,
            None => Vec::new(),
        };
        let mut shown = Shown { pool: Audit { pool: pool.clone(), entries, more: false, read_to }, enrolment: more };
        shown.limit(limit.take());
        (after, filter) = (read_to, arguments.filter());
        show_lines(&shown, format).map_err(Failure::undelivered)?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Outcome::Done),
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
        }
    }
}

fn show_lines(shown: &Shown, format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in merged(&shown.pool.entries, &shown.enrolment) {
        match format {
            Format::Text => writeln!(out, "{}", line.text())?,
            Format::Json => write_json(&mut out, &line)?,
        }
    }
    out.flush()
}
