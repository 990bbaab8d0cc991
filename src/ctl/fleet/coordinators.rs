//! `coordinators`: those that a pool's store knows, and `coordinators forget`.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::connect::{ConnectArgs, block_on};
use super::shown::Shown;
use tfo_cli::plain::names;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver};
use tfo_cli::table::Table;
use tfo_engine::rollout::clocks::CLOCK_OFF_MAX_SECS;
use tfo_host::runtime::clock;
use tfo_model::ids::CoordinatorName;
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::v1::coordinators::{CoordinatorStatus, Coordinators, ForgetCoordinatorRequest};

/// Arguments of `coordinators`.
#[derive(Debug, Args)]
pub(crate) struct CoordinatorsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: Option<CoordinatorsCommand>,
}

#[derive(Debug, Subcommand)]
enum CoordinatorsCommand {
    /// Forget a coordinator that was taken away for good; one that comes back is there again
    Forget(ForgetCoordinatorArgs),
}

#[derive(Debug, Args)]
struct ForgetCoordinatorArgs {
    /// Its name, as `tfoctl coordinators` shows it
    #[arg(value_name = "NAME")]
    name: CoordinatorName,
    /// Reason, for the log of the coordinator that does it
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Runs `coordinators`.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn coordinators(arguments: &CoordinatorsArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.connect.open(format)?;
    let shown = block_on(async {
        let pool = connection.pool().await?;
        match &arguments.command {
            None => connection.fleet.coordinators(&pool).await,
            Some(CoordinatorsCommand::Forget(own)) => {
                let wanted = ForgetCoordinatorRequest { forget: own.name.clone(), reason: own.reason.clone() };
                connection.fleet.forget_coordinator(&pool, &wanted).await
            }
        }
    })?;
    deliver(&Shown(shown), format)
}

impl Report for Shown<Coordinators> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let now = clock::now();
        let mut table = Table::new(&["NAME", "RELEASE", "LIFE", "NODES", "BEAT", "CLOCK", "NOTE"]);
        for one in &self.0.coordinators {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            table.row([
                one.name.to_string(),
                or_dash(one.release.clone()),
                or_dash(one.life.map(|life| life.to_string())),
                one.nodes.to_string(),
                or_dash(one.beat_at.map(|at| beat(at, now))),
                or_dash(one.clock_ahead_secs.map(|secs| format!("{secs:+}s"))),
                note(one),
            ]);
        }
        table.write(out)
    }
}

fn beat(at: UnixTime, now: UnixTime) -> String {
    let age = duration_text(now.secs_since(at));
    // In its largest unit: a table has no room for more.
    format!("{} ago", age.split(' ').next().unwrap_or_default())
}

/// What an operator has to know of it besides its numbers.
fn note(one: &CoordinatorStatus) -> String {
    let mut notes = Vec::new();
    if one.answers {
        notes.push("answers".to_owned());
    }
    match (one.silent, one.nodes) {
        (true, 0) => notes.push("silent".to_owned()),
        (true, _) => notes.push("silent: its nodes are to ask another one".to_owned()),
        (false, _) => {}
    }
    if one.clock_ahead_secs.is_some_and(|secs| secs.abs() > CLOCK_OFF_MAX_SECS) {
        notes.push("its clock is off".to_owned());
    }
    if !one.policy_differs.is_empty() {
        notes.push(format!("its file differs in {}", names(&one.policy_differs)));
    }
    notes.join("; ")
}
