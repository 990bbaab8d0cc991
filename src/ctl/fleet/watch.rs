//! `watch`: the pools as they change; a screen that scrolls on a terminal, a line per change elsewhere.

use std::future::Future;
use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::connect::{ConnectArgs, Connection, block_on};
use super::ends::signals;
use super::follow::progress;
use super::roster::{Roster, Selection};
use super::shown::remarks;
use super::verdict::line;
use tfo_cli::output::while_read;
use tfo_cli::plain::wrapped;
use tfo_cli::report::{Failure, Format, Outcome, show_problems, write_json};
use tfo_cli::scroll::{Key, Picture, Scroll};
use tfo_cli::terminal::Terminal;
use tfo_host::runtime::clock;
use tfo_model::fleet::{Severity, VerdictKind};
use tfo_model::named::Named;
use tfo_model::time::{UnixTime, parse_duration};
use tfo_wire::v1::fleet::{Nodes, PoolStatus};

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
    Live(Live),
    Lines { format: Format, last: Vec<PoolStatus> },
}

/// The screen, and what is on it.
struct Live {
    screen: Scroll,
    resized: Signal,
    seen: Vec<(PoolStatus, Nodes)>,
    seen_at: UnixTime,
    /// Since when, and why, it is not the present.
    lost: Option<(UnixTime, String)>,
}

/// Something that happens beside the looks.
enum Event {
    Key(Key),
    Resized,
}

/// Shows the pools until it is interrupted, or stdout has no reader any more.
///
/// # Errors
/// Fails with its problems and the exit code if the first look fails; later failures are shown, and it looks again.
pub(crate) fn watch(arguments: &WatchArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.connect.open(format)?;
    block_on(async {
        let ends = signals().map_err(Failure::undelivered)?;
        // Whatever ends it drops the display, and so gives the terminal back.
        tokio::select! {
            ended = while_read(show(&connection, arguments.interval, format)) => ended,
            () = ends => Ok(Outcome::Done),
        }
    })
}

async fn show(connection: &Connection, interval: Duration, format: Format) -> Result<Outcome, Failure> {
    let mut display: Option<Display> = None;
    loop {
        let Some(found) = attend(&mut display, look(connection, format)).await else { break };
        match (found, &mut display) {
            (Ok(seen), Some(display)) => display.show(seen)?,
            (Ok(seen), None) => display.insert(Display::new(format)?).show(seen)?,
            (Err(failure), Some(display)) if failure.outcome == Outcome::Failed && !failure.problems.is_empty() => {
                display.show_failure(&failure);
            }
            (Err(failure), _) => return Err(failure),
        }
        if attend(&mut display, tokio::time::sleep(interval)).await.is_none() {
            break;
        }
    }
    Ok(Outcome::Done)
}

/// Attends to the display until the future is done; none if a key ends it before.
async fn attend<T>(display: &mut Option<Display>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    loop {
        let event = match display {
            Some(Display::Live(live)) => tokio::select! {
                done = &mut future => return Some(done),
                event = live.event() => event,
            },
            Some(Display::Lines { .. }) | None => return Some(future.await),
        };
        if let Some(Display::Live(live)) = display
            && live.handle(&event)
        {
            return None;
        }
    }
}

/// The pool of `--pool`, or all, with the nodes where they are shown.
async fn look(connection: &Connection, format: Format) -> Result<Vec<(PoolStatus, Nodes)>, Failure> {
    let fleet = &connection.fleet;
    let pools = connection.looked_at().await?;
    let shows_nodes = format == Format::Text && Terminal::of_stdout().columns.is_some();
    let mut seen = Vec::with_capacity(pools.len());
    for status in pools {
        let nodes = if shows_nodes {
            fleet.nodes(&status.pool).await?
        } else {
            Nodes { pool: status.pool.clone(), nodes: Vec::new(), fingerprints: Vec::new() }
        };
        seen.push((status, nodes));
    }
    Ok(seen)
}

impl Display {
    fn new(format: Format) -> Result<Self, Failure> {
        let screen = if format == Format::Text { Scroll::on_terminal() } else { None };
        let Some(screen) = screen else { return Ok(Self::Lines { format, last: Vec::new() }) };
        let resized = signal(SignalKind::window_change()).map_err(Failure::undelivered)?;
        Ok(Self::Live(Live { screen, resized, seen: Vec::new(), seen_at: clock::now(), lost: None }))
    }

    fn show(&mut self, seen: Vec<(PoolStatus, Nodes)>) -> Result<(), Failure> {
        match self {
            Self::Live(live) => {
                live.seen = seen;
                live.seen_at = clock::now();
                live.lost = None;
                live.draw();
                Ok(())
            }
            Self::Lines { format, last } => {
                let pools: Vec<PoolStatus> = seen.into_iter().map(|(status, _)| status).collect();
                let written = write_changes(*format, last, &pools).map_err(Failure::undelivered);
                *last = pools;
                written
            }
        }
    }

    fn show_failure(&mut self, failure: &Failure) {
        match self {
            Self::Live(live) => {
                let text: Vec<String> = failure.problems.iter().map(ToString::to_string).collect();
                let since = live.lost.take().map_or_else(clock::now, |(since, _)| since);
                live.lost = Some((since, text.join("\n")));
                live.draw();
            }
            // If stderr is gone, the next line on stdout tells.
            Self::Lines { format, .. } => drop(show_problems(&failure.problems, *format)),
        }
    }
}

impl Live {
    async fn event(&mut self) -> Event {
        tokio::select! {
            key = self.screen.key() => Event::Key(key),
            _ = self.resized.recv() => Event::Resized,
        }
    }

    /// True if it ends.
    fn handle(&mut self, event: &Event) -> bool {
        match event {
            Event::Key(key) => self.screen.press(*key),
            Event::Resized => {
                self.draw();
                false
            }
        }
    }

    fn draw(&mut self) {
        let terminal = Terminal::of_stdout();
        let columns = terminal.columns.unwrap_or(usize::MAX);
        let mut head = vec![self.seen_at.to_string()];
        if let Some((since, why)) = &self.lost {
            head.push(format!("lost since {since}:"));
            head.extend(why.lines().flat_map(|line| wrapped(line, columns)));
        }
        let bad = Selection { only_bad: true, ..Selection::default() };
        let mut rows = Vec::new();
        for (status, nodes) in &self.seen {
            let mut roster = Roster::of(status, nodes, &bad.of(&nodes.nodes), (terminal, self.seen_at));
            roster.head.extend(remarks(status).iter().flat_map(|remark| wrapped(remark, columns)));
            if roster.rows.is_empty() && !nodes.nodes.is_empty() {
                roster.head.push("no node is behind".to_owned());
            }
            // Of one pool the heading stays in sight; several scroll as they are.
            let above = roster.head.into_iter().chain(roster.heading);
            if self.seen.len() == 1 {
                head.extend(above)
            } else {
                rows.extend(above)
            }
            rows.extend(roster.rows);
        }
        let rows_are = if self.seen.len() == 1 { "nodes" } else { "lines" };
        self.screen.draw(Picture { head, rows_are, rows });
    }
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
