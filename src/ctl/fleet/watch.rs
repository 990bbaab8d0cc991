//! `watch`: the pools as they change; a live screen on a terminal, a line per change elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::connect::{ConnectArgs, Connection, block_on};
use super::follow::progress;
use super::shown::{Listed, remarks, write_nodes};
use crate::report::{Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::time::parse_span;
use tfo_wire::v1::fleet::PoolStatus;

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How often to look
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let span = parse_span(text).map_err(|error| error.to_string())?;
    if span.is_zero() { Err("an interval is at least 1s".to_owned()) } else { Ok(span) }
}

/// Where it is shown.
enum Screen {
    Live(ProgressBar),
    Lines { format: Format, last: Vec<PoolStatus> },
}

/// Shows the pools until told to stop.
///
/// # Errors
/// Fails with what is wrong at the first look, its remedy and the exit code; later trouble is shown and survived.
pub fn watch(arguments: &WatchArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.connect.open()?;
    let mut screen = Screen::new(format);
    let mut shown_once = false;
    block_on(async {
        loop {
            let shown = match look(&connection).await {
                Ok(pools) => screen.show(&connection, pools).await,
                Err(failure) => Err(failure),
            };
            match shown {
                Ok(()) => shown_once = true,
                Err(failure) if shown_once && failure.outcome == Outcome::Failed && !failure.problems.is_empty() => {
                    screen.show_trouble(&failure);
                }
                Err(failure) => return Err(failure),
            }
            tokio::select! {
                _ = tokio::signal::ctrl_c() => break,
                () = tokio::time::sleep(arguments.interval) => {}
            }
        }
        screen.close().map_err(Failure::undelivered)?;
        Ok(Outcome::Done)
    })
}

/// The pool of `--pool`, or all.
async fn look(connection: &Connection) -> Result<Vec<PoolStatus>, Failure> {
    match &connection.argument {
        Some(pool) => Ok(vec![connection.fleet.status(pool).await?]),
        None => Ok(connection.fleet.pools().await?.pools),
    }
}

impl Screen {
    fn new(format: Format) -> Self {
        if format == Format::Json || !io::stdout().is_terminal() {
            return Self::Lines { format, last: Vec::new() };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        bar.set_style(ProgressStyle::with_template("{msg}").expect("a literal template"));
        Self::Live(bar)
    }

    async fn show(&mut self, connection: &Connection, pools: Vec<PoolStatus>) -> Result<(), Failure> {
        match self {
            Self::Live(bar) => {
                bar.set_message(picture(connection, &pools).await?);
                bar.tick();
                Ok(())
            }
            Self::Lines { format, last } => {
                let written = write_changes(*format, last, &pools).map_err(Failure::undelivered);
                *last = pools;
                written
            }
        }
    }

    fn show_trouble(&self, failure: &Failure) {
        let text: Vec<String> = failure.problems.iter().map(ToString::to_string).collect();
        match self {
            Self::Live(bar) => {
                let seen = bar.message();
                let seen = seen.split("\nlost since ").next().unwrap_or_default().to_owned();
                bar.set_message(format!("{seen}\nlost since {}:\n{}", clock::now(), text.join("\n")));
                bar.tick();
            }
            // If stderr is gone, the next line on stdout tells.
            Self::Lines { .. } => drop(failure.show()),
        }
    }

    /// Leaves the last picture where it is, and begins a new line.
    fn close(&self) -> io::Result<()> {
        let Self::Live(bar) = self else { return Ok(()) };
        bar.finish();
        writeln!(io::stdout())
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

fn write_changes(format: Format, last: &[PoolStatus], pools: &[PoolStatus]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for status in pools {
        let before = last.iter().find(|other| other.pool == status.pool);
        match format {
            Format::Text if before.map(progress) != Some(progress(status)) => {
                writeln!(out, "{}  {}  {}", clock::now(), status.pool, progress(status))?;
            }
            Format::Json if before != Some(status) => {
                serde_json::to_writer(&mut out, status)?;
                out.write_all(b"\n")?;
            }
            Format::Text | Format::Json => {}
        }
    }
    out.flush()
}
