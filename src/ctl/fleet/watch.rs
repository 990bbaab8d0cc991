//! `watch`: the pools as they change; a live screen on a terminal, a line per change elsewhere.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;

use super::connect::{ConnectArgs, Connection, block_on};
use super::follow::progress;
use super::shown::{Listed, remarks, write_nodes};
use super::verdict::line;
use tfo_cli::output::while_read;
use tfo_cli::report::{Failure, Format, Outcome, write_json};
use tfo_cli::screen::Screen;
use tfo_host::runtime::clock;
use tfo_model::fleet::{Severity, VerdictKind};
use tfo_model::named::Named;
use tfo_model::time::parse_duration;
use tfo_wire::v1::fleet::PoolStatus;

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Time between looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text).map_err(|error| error.to_string())?;
    if span.is_zero() { Err("an interval is at least 1s".to_owned()) } else { Ok(span) }
}

/// Where the pools are shown.
enum Display {
    Live(Screen),
    Lines { format: Format, last: Vec<PoolStatus> },
}

/// Shows the pools until it is interrupted, or stdout has no reader any more.
///
/// # Errors
/// Fails with its problems and the exit code if the first look fails; later failures are shown, and it looks again.
pub(crate) fn watch(arguments: &WatchArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.connect.open()?;
    let mut display = Display::new(format);
    block_on(while_read(async {
        let mut shown_once = false;
        loop {
            let shown = match connection.looked_at().await {
                Ok(pools) => display.show(&connection, pools).await,
                Err(failure) => Err(failure),
            };
            match shown {
                Ok(()) => shown_once = true,
                Err(failure) if shown_once && failure.outcome == Outcome::Failed && !failure.problems.is_empty() => {
                    display.show_failure(&failure);
                }
                Err(failure) => return Err(failure),
            }
            tokio::select! {
                _ = tokio::signal::ctrl_c() => break,
                () = tokio::time::sleep(arguments.interval) => {}
            }
        }
        display.close().map_err(Failure::undelivered)?;
        Ok(Outcome::Done)
    }))
}

impl Display {
    fn new(format: Format) -> Self {
        let screen = if format == Format::Text { Screen::on_terminal() } else { None };
        screen.map_or(Self::Lines { format, last: Vec::new() }, Self::Live)
    }

    async fn show(&mut self, connection: &Connection, pools: Vec<PoolStatus>) -> Result<(), Failure> {
        match self {
            Self::Live(screen) => {
                screen.draw(picture(connection, &pools).await?);
                Ok(())
            }
            Self::Lines { format, last } => {
                let written = write_changes(*format, last, &pools).map_err(Failure::undelivered);
                *last = pools;
                written
            }
        }
    }

    fn show_failure(&self, failure: &Failure) {
        let text: Vec<String> = failure.problems.iter().map(ToString::to_string).collect();
        match self {
            Self::Live(screen) => {
                let seen = screen.picture();
                let seen = seen.split("\nlost since ").next().unwrap_or_default();
                screen.draw(format!("{seen}\nlost since {}:\n{}", clock::now(), text.join("\n")));
            }
            // If stderr is gone, the next line on stdout tells.
            Self::Lines { .. } => drop(failure.show()),
        }
    }

    fn close(&self) -> io::Result<()> {
        match self {
            Self::Live(screen) => screen.close(),
            Self::Lines { .. } => Ok(()),
        }
    }
}

async fn picture(connection: &Connection, pools: &[PoolStatus]) -> Result<String, Failure> {
    let mut text = format!("{}  (Ctrl-C ends)\n", clock::now()).into_bytes();
    for status in pools {
        let nodes = connection.fleet.nodes(&status.pool).await?;
        let into_memory = write_nodes(&mut text, status, (&nodes.nodes, &nodes.fingerprints), Listed::Behind);
        into_memory.map_err(Failure::undelivered)?;
        for remark in remarks(status) {
            text.extend_from_slice(remark.as_bytes());
            text.push(b'\n');
        }
        text.push(b'\n');
    }
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// What a new line is written for.
fn seen(status: &PoolStatus) -> (String, Named<Severity>, Named<VerdictKind>) {
    (progress(status), status.verdict.severity.clone(), status.verdict.kind.clone())
}

fn write_changes(format: Format, last: &[PoolStatus], pools: &[PoolStatus]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for status in pools {
        let before = last.iter().find(|other| other.pool == status.pool);
        match format {
            Format::Text if before.map(seen) != Some(seen(status)) => {
                let (pool, verdict) = (&status.pool, line(&status.verdict));
                writeln!(out, "{}  {pool}  {}  {verdict}", clock::now(), progress(status))?;
            }
            Format::Json if before != Some(status) => {
                write_json(&mut out, status)?;
            }
            Format::Text | Format::Json => {}
        }
    }
    out.flush()
}
