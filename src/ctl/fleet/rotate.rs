//! `rotate`: a fresh key, a revoke, or the first key; and waiting for its end.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::Method;

use super::ask::Order;
use super::connect::{OrderArgs, block_on};
use super::consent::{Agreed, ConsentArgs, Plan, Weight};
use super::follow::{Goal, follow};
use super::keys::{ExpectArgs, expectation};
use super::shown::{gate, slot};
use crate::plain::{count_of_nodes, names};
use crate::report::{Failure, Format, Outcome, deliver, deliver_as};
use tfo_model::count::Epoch;
use tfo_model::fleet::{Action, BlockedBy};
use tfo_model::ids::NodeId;
use tfo_model::named::Named;
use tfo_model::problem::Problem;
use tfo_model::state::Phase;
use tfo_model::time::parse_span;
use tfo_wire::v1::fleet::{Expected, PoolStatus, RotationMode, RotationRequest};

/// Arguments of `rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// What for
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// With --mode revoke: a node that gets no keys any more (repeatable)
    #[arg(long, value_name = "NODE")]
    deny: Vec<NodeId>,
    /// With --mode revoke: the epoch of a key to drive out (repeatable); default: all that nodes are told now
    #[arg(long, value_name = "EPOCH")]
    epoch: Vec<Epoch>,
    /// Give an empty pool its first key
    #[arg(long, conflicts_with = "mode")]
    first: bool,
    #[command(flatten)]
    expect: ExpectArgs,
    /// Pass over the gates that only protect comfort (expected_nodes, drain); barriers stay
    #[arg(long)]
    force: bool,
    /// Follow it to its end
    #[arg(long)]
    wait: bool,
    /// With --wait: for how long
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = timeout)]
    timeout: Duration,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Mode {
    /// A fresh key, as the schedule would do it
    #[default]
    Normal,
    /// Drive keys out that others may know
    Revoke,
}

fn timeout(text: &str) -> Result<Duration, String> {
    parse_span(text).map_err(|error| error.to_string())
}

/// Starts a rotation.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn rotate(arguments: &RotateArgs, format: Format) -> Result<Outcome, Failure> {
    arguments.check()?;
    let expect = arguments.expect.expected()?;
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        let (mode, plan, action) = match (arguments.first, arguments.mode) {
            (true, _) => (RotationMode::First, arguments.first_plan(&status, expect.as_ref()), Action::FirstKey),
            (false, Mode::Normal) => (RotationMode::Normal, normal_plan(&status), Action::Stage),
            (false, Mode::Revoke) => (RotationMode::Revoke, arguments.revoke_plan(&status), Action::Revoke),
        };
        // A first key replaces what every node holds, as an import does.
        let is_heavy = arguments.force || mode != RotationMode::Normal;
        let plan = if arguments.force {
            plan.line("--force: expected_nodes and drain are passed over; barriers are not")
        } else {
            plan
        };
        if plan.agree(&arguments.consent, if is_heavy { Weight::Heavy } else { Weight::Light }, format)?
            == Agreed::Explained
        {
            return Ok(Outcome::Done);
        }
        let body = RotationRequest {
            reason: arguments.order.reason.clone(),
            mode,
            deny: arguments.deny.iter().cloned().collect(),
            epochs: arguments.epoch.iter().copied().collect(),
            expect: expect.clone(),
            force: arguments.force,
            if_revision: Some(status.revision),
        };
        let order = Order {
            method: Method::POST,
            path: "/rotations".to_owned(),
            body: Some(&body),
            pool: &pool,
            seen: status.revision,
            action,
            reason: &arguments.order.reason,
        };
        let done = connection.fleet.order(&order).await?;
        if !arguments.wait {
            return deliver(&done, format);
        }
        let goal = match mode {
            RotationMode::Normal => Goal::Settled,
            RotationMode::Revoke => Goal::DrivenOut,
            RotationMode::First => Goal::Given(expect),
        };
        let followed = follow(&connection, done, goal, arguments.timeout).await?;
        let outcome = followed.outcome();
        deliver_as(&followed, format, outcome)
    })
}

impl RotateArgs {
    /// Options that belong to another mode.
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
                let message = format!("{option} has a meaning only with {mode}");
                Problem::error("usage", message, format!("add {mode}, or leave {option} out"))
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(Failure { problems, outcome: Outcome::Config }) }
    }

    fn first_plan(&self, status: &PoolStatus, expect: Option<&Expected>) -> Plan {
        Plan::new("rotate --first", status, status.required)
            .line("the pool gets its first key, and every node is told it")
            .line("clients with cookies of a node's own key lose TFO once; a key that nodes share is imported instead")
            .line(format!("the pool then holds until {} have it, and you resume", expectation(expect)))
    }

    fn revoke_plan(&self, status: &PoolStatus) -> Plan {
        let told = [status.primary, status.backup].into_iter().flatten();
        let keys: Vec<String> = if self.epoch.is_empty() {
            told.map(|key| slot(Some(key))).collect()
        } else {
            let all: BTreeSet<Epoch> = self.epoch.iter().copied().collect();
            all.iter().map(|epoch| format!("epoch {epoch}")).collect()
        };
        let plan = Plan::new("rotate --mode revoke", status, status.required)
            .line(format!("{} drive out {}", count_of_nodes(status.required), keys.join(" and ")))
            .line("clients with cookies of these keys lose TFO once; drain and health gates are passed over")
            .line("nodes that are behind for revoke_barrier_max are excluded");
        if self.deny.is_empty() {
            return plan.line("nobody is denied: whoever leaked the key is told the new one too (--deny NODE)");
        }
        plan.line(format!(
            "{} told no keys any more: {}; revoke the certificates as well",
            if self.deny.len() == 1 { "1 node is".to_owned() } else { format!("{} nodes are", self.deny.len()) },
            names(&self.deny)
        ))
    }
}

fn normal_plan(status: &PoolStatus) -> Plan {
    let plan = Plan::new("rotate", status, status.required)
        .line(format!("a fresh key is staged beside {}, then made primary wave by wave", slot(status.primary)))
        .line(format!(
            "{} are required; each step waits until all of them have acknowledged",
            count_of_nodes(status.required)
        ));
    match (status.phase, &status.blocked_by) {
        (Phase::Steady, None | Some(Named::Known(BlockedBy::Schedule))) => plan,
        (Phase::Steady, Some(closed)) => plan.line(format!("now it would be refused or wait: {}", gate(closed))),
        (phase, _) => plan.line(format!("now it would be refused: the pool is {}", phase.as_str())),
    }
}
