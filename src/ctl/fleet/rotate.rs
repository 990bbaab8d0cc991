//! `rotate`: a new key, a revoke, or the first key.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::ask::Request;
use super::command::{CommandArgs, Prepared, Wait, run};
use super::follow::Goal;
use super::keys::{ExpectArgs, expectation};
use tfo_cli::plan::{self, Plan};
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_model::count::Epoch;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;
use tfo_model::node::Expected;
use tfo_model::problem::Problem;
use tfo_model::time::parse_duration;
use tfo_wire::v1::fleet::{PoolStatus, RotationMode, RotationRequest};

/// Arguments of `rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    common: CommandArgs,
    /// Purpose
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// With --mode revoke: a node that gets no more keys (repeatable)
    #[arg(long, value_name = "NODE")]
    deny: Vec<NodeId>,
    /// With --mode revoke: the epoch of a key to drive out (repeatable); default: all current keys
    #[arg(long, value_name = "EPOCH")]
    epoch: Vec<Epoch>,
    /// Give an empty pool its first key
    #[arg(long, conflicts_with = "mode")]
    first: bool,
    #[command(flatten)]
    expect: ExpectArgs,
    /// Skip the gates that only protect comfort (expected_nodes, calendar, drain); barriers stay
    #[arg(long)]
    force: bool,
    /// Follow it to its end
    #[arg(long)]
    wait: bool,
    /// With --wait: longest wait
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = timeout)]
    timeout: Duration,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Mode {
    /// A new key, as the schedule would make it
    #[default]
    Normal,
    /// Drive out keys that others may know
    Revoke,
}

fn timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Starts a rotation.
pub(crate) fn rotate(arguments: &RotateArgs, format: Format) -> Result<Outcome, Failure> {
    arguments.check()?;
    let expect = arguments.expect.expected()?;
    run(&arguments.common, format, async |_, status| {
        let deny: BTreeSet<NodeId> = arguments.deny.iter().cloned().collect();
        let epochs: BTreeSet<Epoch> = arguments.epoch.iter().copied().collect();
        let (mode, action, goal, plan) = match (arguments.first, arguments.mode) {
            (true, _) => {
                let goal = Goal::Given(expect.clone());
                (RotationMode::First, Action::FirstKey, goal, first_plan(status, expect.as_ref()))
            }
            (false, Mode::Normal) => {
                (RotationMode::Normal, Action::Rotate, Goal::Settled, plan::rotations::rotate(status, arguments.force))
            }
            (false, Mode::Revoke) => {
                (RotationMode::Revoke, Action::Revoke, Goal::DrivenOut, plan::rotations::revoke(status, &epochs, &deny))
            }
        };
        let plan = match (arguments.force, mode) {
            (true, _) => plan.line("--force: skips the gates expected_nodes, calendar and drain; barriers stay"),
            (false, RotationMode::Normal) => plan.harmless(),
            // A first key replaces what every node holds, as an import does.
            (false, RotationMode::Revoke | RotationMode::First) => plan,
        };
        let body = RotationRequest {
            reason: arguments.common.reason.clone(),
            mode,
            deny,
            epochs,
            expect: expect.clone(),
            force: arguments.force,
            if_revision: Some(status.revision),
        };
        let request = Request { path: "/rotations".to_owned(), body, action };
        let wait = arguments.wait.then_some(Wait { goal, timeout: arguments.timeout });
        Ok(Prepared::new(plan, request).waiting(wait))
    })
}

impl RotateArgs {
    /// Refuses options that belong to another mode.
    fn check(&self) -> Result<(), Failure> {
        let is_revoke = self.mode == Mode::Revoke;
        let wrong = [
            (!self.deny.is_empty() && !is_revoke, "--deny", "--mode revoke"),
            (!self.epoch.is_empty() && !is_revoke, "--epoch", "--mode revoke"),
            (!self.expect.expect.is_empty() && !self.first, "--expect", "--first"),
        ];
        let problems: Vec<Problem> = wrong
            .iter()
            .filter(|(is_wrong, ..)| *is_wrong)
            .map(|(_, option, mode)| {
                let message = format!("{option} works only with {mode}");
                Problem::error("usage", message, format!("add {mode}, or leave {option} out"))
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(Failure { problems, outcome: Outcome::Config }) }
    }
}

fn first_plan(status: &PoolStatus, expect: Option<&Expected>) -> Plan {
    Plan::new("rotate --first", status, status.required)
        .line("the pool gets its first key, and every node installs it")
        .line(
            "clients with cookies of a node's own key lose TFO once; if the nodes share a key, `tfoctl import` instead",
        )
        .line(format!("the pool then holds until the key is on {} and you resume", expectation(expect)))
}
