//! `pause`, `resume`, `abort`, `advance`: commands to a rotation that runs.

use clap::Args;

use super::command::{CommandArgs, Prepared, refused, run};
use super::consent::Plan;
use super::shown::slot;
use tfo_cli::plain::{count_of_nodes, names};
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_model::fleet::Action;
use tfo_model::state::Phase;
use tfo_wire::v1::fleet::{AdvanceRequest, PoolStatus};

/// Stops the pool at its current phase.
pub(crate) fn pause(arguments: &CommandArgs, format: Format) -> Result<Outcome, Failure> {
    run(arguments, format, async |_, status| {
        let plan = Plan::new("pause", status, status.required)
            .harmless()
            .line(format!("the pool stays {} until `tfoctl resume`", status.phase.as_str()))
            .line("nodes keep their current keys; nothing else changes");
        // Without a revision: a pause must be possible whatever has happened since the pool was looked at.
        Ok(Prepared::post(plan, Action::Pause, arguments.body(false, None)))
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
        let what = match (&status.hold, status.paused.is_some()) {
            (Some(hold), _) => format!("the hold ({hold}) ends, and rotations start by schedule again"),
            (None, true) => format!("the pool continues from {}", status.phase.as_str()),
            (None, false) => "the pool is neither paused nor held: the coordinator will refuse this".to_owned(),
        };
        let plan = Plan::new("resume", status, status.required)
            .line(what)
            .line(format!("required: {}", count_of_nodes(status.required)));
        let plan = match arguments.force {
            true => plan.line("--force: it does not wait for expected nodes that have never reported"),
            false => plan.harmless(),
        };
        Ok(Prepared::post(plan, Action::Resume, arguments.common.body(arguments.force, Some(status.revision))))
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
        let what = match status.phase {
            Phase::Empty | Phase::Steady => {
                let message = format!("pool {} is {}: it has no rotation to abort", status.pool, status.phase.as_str());
                return Err(refused(message, "see `tfoctl pools`; `tfoctl pause` stops a pool that is about to start"));
            }
            Phase::Staged => {
                format!("the staged key {} is dropped; no node has made cookies with it", slot(status.backup))
            }
            Phase::Promoted => "nodes return to the old key at once; cookies of the new key stay valid".to_owned(),
        };
        let affected = count_of_nodes(status.required);
        let mut plan = Plan::new("abort", status, status.required)
            .line(what)
            .line(format!("affects {affected}; the pool then holds until `tfoctl resume`"))
            .line("the epoch of the aborted key is never used again");
        if !status.revoking.is_empty() {
            let keys = names(status.revoking.iter().map(|key| slot(Some(*key))));
            plan = plan.line(format!("this is a revoke: {keys} stay in use (refused without --force)"));
        }
        Ok(Prepared::post(plan, Action::Abort, arguments.common.body(arguments.force, Some(status.revision))))
    })
}

/// Passes a barrier without the nodes that are behind.
pub(crate) fn advance(arguments: &CommandArgs, format: Format) -> Result<Outcome, Failure> {
    run(arguments, format, async |_, status| {
        let PoolStatus { pool, required, waiting_for, .. } = status;
        if waiting_for.is_empty() {
            let message = format!("pool {pool} waits for no node: it has no barrier to pass");
            return Err(refused(message, "`tfoctl pools` shows what blocks the pool"));
        }
        let behind = count_of_nodes(waiting_for.len());
        let plan = Plan::new("advance", status, waiting_for.len())
            .line(format!("leaves {behind} of {required} required behind: {}", names(waiting_for)))
            .line("they are excluded: while they still serve, their clients may lose TFO")
            .line("each returns with its next contact; refused if more nodes are behind by then");
        let body = AdvanceRequest {
            reason: arguments.reason.clone(),
            generation: status.generation,
            leave: waiting_for.iter().cloned().collect(),
        };
        Ok(Prepared::post(plan, Action::Advance, body))
    })
}
