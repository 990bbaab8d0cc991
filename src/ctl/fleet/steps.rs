//! `pause`, `resume`, `abort`, `advance`: what an operator does to a rotation that runs.

use clap::Args;
use reqwest::Method;
use serde::Serialize;

use super::ask::Order;
use super::connect::{Connection, OrderArgs, block_on};
use super::consent::{Agreed, ConsentArgs, Plan, Weight};
use super::shown::slot;
use crate::plain::{count_of_nodes, names};
use crate::report::{Failure, Format, Outcome, deliver};
use tfo_model::fleet::Action;
use tfo_model::problem::Problem;
use tfo_model::state::Phase;
use tfo_wire::v1::fleet::{AdvanceRequest, Command, PoolStatus};

/// Arguments of `pause` and `resume`.
#[derive(Debug, Args)]
pub struct StepArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Say what it would do, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Also without nodes that a first key or an import expects, and that have never come
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Arguments of `abort`.
#[derive(Debug, Args)]
pub struct AbortArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Abort a revoke too: its keys stay in use
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Arguments of `advance`.
#[derive(Debug, Args)]
pub struct AdvanceArgs {
    #[command(flatten)]
    order: OrderArgs,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// What a command says, and what is said about it.
pub(super) struct Prepared<'a, B> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<&'a B>,
    /// What the audit log calls it.
    pub(super) action: Action,
    pub(super) reason: &'a str,
    pub(super) plan: Plan,
    pub(super) weight: Weight,
}

/// Explains a command, asks if need be, sends it, and shows what it did.
pub(super) async fn carry_out<B: Serialize>(
    connection: &Connection,
    status: &PoolStatus,
    prepared: Prepared<'_, B>,
    consent: &ConsentArgs,
    format: Format,
) -> Result<Outcome, Failure> {
    let Prepared { method, path, body, action, reason, plan, weight } = prepared;
    if plan.agree(consent, weight, format)? == Agreed::Explained {
        return Ok(Outcome::Done);
    }
    let order = Order { method, path, body, pool: &status.pool, seen: status.revision, action, reason };
    let done = connection.fleet.order(&order).await?;
    deliver(&done, format)
}

/// A refusal that needs no coordinator: what was just seen says it.
pub(super) fn refused(message: impl Into<String>, remedy: &str) -> Failure {
    Failure::new(Outcome::Refused, Problem::error("refused", message, remedy))
}

/// Stops the pool at its present phase.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn pause(arguments: &StepArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        let plan = Plan::new("pause", &status, status.required)
            .line(format!("the pool stays {} until `tfoctl resume`", status.phase.as_str()))
            .line("nodes keep the keys that they are told now; nothing else changes");
        // Whatever happened since it was looked at: to stop must always be possible, so it carries no revision.
        let body = Command { reason: arguments.order.reason.clone(), force: false, if_revision: None };
        let prepared = step(Action::Pause, &body, plan, Weight::Light);
        carry_out(&connection, &status, prepared, &dry(arguments), format).await
    })
}

/// Lets a paused or held pool go on.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn resume(arguments: &ResumeArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        let what = match (&status.hold, status.paused) {
            (Some(hold), _) => format!("the hold ({hold}) ends, and rotations start by schedule again"),
            (None, true) => format!("the pool goes on from {}", status.phase.as_str()),
            (None, false) => "the pool is neither paused nor held: it will be refused".to_owned(),
        };
        let plan = Plan::new("resume", &status, status.required)
            .line(what)
            .line(format!("{} are required", count_of_nodes(status.required)));
        let plan =
            if arguments.force { plan.line("nodes that are expected and never came are not waited for") } else { plan };
        let weight = if arguments.force { Weight::Heavy } else { Weight::Light };
        let force = arguments.force;
        let body = Command { reason: arguments.order.reason.clone(), force, if_revision: Some(status.revision) };
        let prepared = step(Action::Resume, &body, plan, weight);
        carry_out(&connection, &status, prepared, &arguments.consent, format).await
    })
}

/// Turns a rotation back, and holds.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn abort(arguments: &AbortArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        let what = match status.phase {
            Phase::Empty | Phase::Steady => {
                let message = format!("pool {pool} is {}: there is no rotation to abort", status.phase.as_str());
                return Err(refused(message, "see `tfoctl pools`; `tfoctl pause` stops a pool that is about to start"));
            }
            Phase::Staged => {
                format!("the staged key {} is dropped, nobody has made cookies with it", slot(status.backup))
            }
            Phase::Promoted => "nodes go back to the old key at once; cookies of the new one stay valid".to_owned(),
        };
        let mut plan = Plan::new("abort", &status, status.required)
            .line(what)
            .line(format!("{} are told so; the pool then holds until `tfoctl resume`", count_of_nodes(status.required)))
            .line("the epoch of the aborted key is not used again");
        if !status.revoking.is_empty() {
            let keys = names(status.revoking.iter().map(|key| slot(Some(*key))));
            plan = plan.line(format!("this is a revoke: {keys} stay in use (refused without --force)"));
        }
        let body = Command {
            reason: arguments.order.reason.clone(),
            force: arguments.force,
            if_revision: Some(status.revision),
        };
        carry_out(&connection, &status, step(Action::Abort, &body, plan, Weight::Heavy), &arguments.consent, format)
            .await
    })
}

/// Goes past a barrier without the nodes that are behind.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn advance(arguments: &AdvanceArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        let behind = status.waiting_for.len();
        if behind == 0 {
            let message = format!("pool {pool} waits for no node: there is nobody to leave behind");
            return Err(refused(message, "see `tfoctl pools` for what it waits for"));
        }
        let plan = Plan::new("advance", &status, behind)
            .line(format!(
                "{} of {} required are left behind: {}",
                count_of_nodes(behind),
                status.required,
                names(&status.waiting_for)
            ))
            .line("they are excluded: if they still serve, their clients may lose TFO until they are back")
            .line("each returns by its next contact; refused if more nodes are behind by then");
        let body = AdvanceRequest {
            reason: arguments.order.reason.clone(),
            generation: status.generation,
            leave: status.waiting_for.iter().cloned().collect(),
        };
        let prepared = Prepared {
            method: Method::POST,
            path: "/advance".to_owned(),
            body: Some(&body),
            action: Action::Advance,
            reason: &arguments.order.reason,
            plan,
            weight: Weight::Heavy,
        };
        carry_out(&connection, &status, prepared, &arguments.consent, format).await
    })
}

/// `POST …/{action}` with what every command carries.
fn step<'a>(action: Action, body: &'a Command, plan: Plan, weight: Weight) -> Prepared<'a, Command> {
    Prepared {
        method: Method::POST,
        path: format!("/{action}"),
        body: Some(body),
        action,
        reason: &body.reason,
        plan,
        weight,
    }
}

fn dry(arguments: &StepArgs) -> ConsentArgs {
    ConsentArgs::light(arguments.dry_run)
}
