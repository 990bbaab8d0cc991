//! `pause`, `resume`, `abort`, `advance`: commands to a rotation that runs.

use clap::Args;

use super::command::{CommandArgs, Prepared, refused, run};
use tfo_cli::plan::steps;
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::fleet::Action;
use tfo_wire::v1::fleet::AdvanceRequest;

/// Stops the pool at its current phase.
pub(crate) fn pause(arguments: &CommandArgs, format: Format) -> Result<Outcome, Failure> {
    run(arguments, format, async |_, status| {
        // Without a revision: a pause must be possible whatever has happened since the pool was looked at.
        Ok(Prepared::post(steps::pause(status), Action::Pause, arguments.body(false, None)))
    })
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    common: CommandArgs,
    /// Do not wait for nodes that a first key or an import expects, and that have never reported
    #[arg(long)]
    force: bool,
}

/// Resumes a paused or held pool.
pub(crate) fn resume(arguments: &ResumeArgs, format: Format) -> Result<Outcome, Failure> {
    run(&arguments.common, format, async |_, status| {
        let body = arguments.common.body(arguments.force, Some(status.revision));
        Ok(Prepared::post(steps::resume(status, arguments.force), Action::Resume, body))
    })
}

/// Arguments of `abort`.
#[derive(Debug, Args)]
pub(crate) struct AbortArgs {
    #[command(flatten)]
    common: CommandArgs,
    /// Abort a revoke too: its keys stay in use
    #[arg(long)]
    force: bool,
}

/// Turns a rotation back, then holds.
pub(crate) fn abort(arguments: &AbortArgs, format: Format) -> Result<Outcome, Failure> {
    run(&arguments.common, format, async |_, status| {
        let plan = steps::abort(status).ok_or_else(|| {
            let message = format!("pool {} is {}: it has no rotation to abort", status.pool, status.phase.as_str());
            refused(message, "see `tfoctl pools`; `tfoctl pause` stops a pool that is about to start")
        })?;
        Ok(Prepared::post(plan, Action::Abort, arguments.common.body(arguments.force, Some(status.revision))))
    })
}

/// Passes a barrier without the nodes that are behind.
pub(crate) fn advance(arguments: &CommandArgs, format: Format) -> Result<Outcome, Failure> {
    run(arguments, format, async |fleet, status| {
        let nothing = || {
            let message = format!("pool {} waits for no node: it has no barrier to pass", status.pool);
            refused(message, "`tfoctl pools` shows what blocks the pool")
        };
        if status.waiting_for.is_empty() {
            return Err(nothing());
        }
        let nodes = fleet.nodes(&status.pool).await?.nodes;
        let plan = steps::advance(status, &nodes, clock::now()).ok_or_else(nothing)?;
        let body = AdvanceRequest {
            reason: arguments.reason.clone(),
            generation: status.generation,
            leave: status.waiting_for.iter().cloned().collect(),
        };
        Ok(Prepared::post(plan, Action::Advance, body))
    })
}
