//! `tfoctl stats`: the kernel's TFO counters with their meaning, their rates, and the ratios between them.

mod counters;
mod report;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::namespaces;
use counters::{Lineage, PerCounter, Ratios, Window};
use report::{Display, NamespaceStats, Stats};
use tfo_cli::output::while_read;
use tfo_cli::report::{Failure, Format, Outcome, deliver};
use tfo_host::kernel::namespace::{Namespace, NamespaceIdentity};
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::runtime::clock;
use tfo_model::ids::NamespaceName;
use tfo_model::problem::Problem;
use tfo_model::time::parse_duration;

/// Arguments of `stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Repeat at this interval, with rates [default: 1s]
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s", value_parser = interval)]
    watch: Option<Duration>,
    /// End after this many intervals
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Network namespace under /run/netns; may be given several times; without it, the current one
    #[arg(long = "namespace", value_name = "NAME")]
    namespaces: Vec<NamespaceName>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
    if range.contains(&duration) { Ok(duration) } else { Err("an interval must be 1 second to 1 day".to_owned()) }
}

/// Shows the counters once, or until a signal.
///
/// # Errors
/// Fails if a namespace cannot be read, or if the output cannot be written.
pub fn run(arguments: &StatsArgs, format: Format) -> Result<Outcome, Failure> {
    let mut watch = Watch { namespaces: namespaces::chosen(&arguments.namespaces), before: Vec::new() };
    let Some(interval) = arguments.watch else { return deliver(&watch.sample()?, format) };
    let display = Display::new(format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let shown =
        runtime.map_err(Failure::undelivered)?.block_on(while_read(watch.run(&display, interval, arguments.count)));
    // Close the screen before reporting an error, so that the error is shown below it.
    let closed = display.close().map_err(Failure::undelivered);
    shown?;
    closed?;
    Ok(Outcome::Done)
}

/// The counters of one namespace at one moment.
struct Sample {
    identity: NamespaceIdentity,
    at: Instant,
    counters: PerCounter<u64>,
}

/// The namespaces and their last samples.
struct Watch {
    namespaces: Vec<Namespace>,
    before: Vec<Sample>,
}

impl Watch {
    /// Shows samples until a signal, or until the count is reached.
    async fn run(&mut self, display: &Display, interval: Duration, count: Option<u64>) -> Result<(), Failure> {
        let listen = |kind| signal(kind).map_err(Failure::undelivered);
        let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown: u64 = 0;
        // The first sample only starts the first interval.
        while count.is_none_or(|count| shown <= count) {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
            }
            display.show(&self.sample()?).map_err(Failure::undelivered)?;
            shown += 1;
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<Stats, Failure> {
        let samples = self.namespaces.iter().map(look).collect::<Result<Vec<_>, _>>()?;
        let namespaces = self.namespaces.iter().zip(&samples).enumerate().map(|(index, (namespace, sample))| {
            let window = self.before.get(index).map(|before| {
                let same = before.identity == sample.identity;
                let lineage = if same { Lineage::Same } else { Lineage::Recreated };
                let elapsed = sample.at.duration_since(before.at);
                Window::between(&before.counters, &sample.counters, elapsed, lineage)
            });
            let (name, ratios) = (namespace.name().to_owned(), Ratios::of(&sample.counters));
            NamespaceStats { name, counters: sample.counters, ratios, window }
        });
        let stats = Stats { at: clock::now(), namespaces: namespaces.collect() };
        self.before = samples;
        Ok(stats)
    }
}

fn look(namespace: &Namespace) -> Result<Sample, Failure> {
    let failed = |problem| Failure::new(Outcome::Failed, problem);
    let unreachable = |error| failed(namespaces::problem(namespace, &error));
    let identity = namespace.identity().map_err(unreachable)?;
    let read = || (clock::monotonic(), TfoCounters::read(Path::new(NETSTAT_PATH)));
    let (at, counters) = namespace.within(read).map_err(unreachable)?;
    let counters = counters.map_err(|error: io::Error| {
        let message = format!("namespace {namespace}: cannot read {NETSTAT_PATH}: {error}");
        failed(Problem::error("no_counters", message, "run it where all of /proc is mounted (without ProcSubset=pid)"))
    })?;
    Ok(Sample { identity, at, counters: PerCounter::of(&counters) })
}
