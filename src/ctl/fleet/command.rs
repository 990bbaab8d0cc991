//! The shape of every command to a pool: look at it, explain what will happen, ask where it can do harm, send, show.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::ask::{Entry, Fleet, Request};
use super::connect::{ConnectArgs, block_on};
use super::consent::{Agreed, ConsentArgs, agree};
use super::follow::{Goal, Interrupt, follow};
use super::shown::Shown;
use tfo_cli::output::while_read;
use tfo_cli::plan::Plan;
use tfo_cli::report::{Failure, Format, Outcome, deliver, deliver_as};
use tfo_model::count::Revision;
use tfo_model::fleet::Action;
use tfo_model::problem::Problem;
use tfo_wire::v1::fleet::{Command as CommandBody, PoolStatus};

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct CommandArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Reason, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) reason: String,
    #[command(flatten)]
    consent: ConsentArgs,
}

impl CommandArgs {
    /// The body of a command without options of its own.
    pub(super) fn body(&self, force: bool, if_revision: Option<Revision>) -> CommandBody {
        CommandBody { reason: self.reason.clone(), force, if_revision }
    }
}

/// A command that is ready to be sent.
pub(super) struct Prepared<B> {
    plan: Plan,
    request: Request<B>,
    wait: Option<Wait>,
}

/// What `--wait` waits for, and for how long at most.
pub(super) struct Wait {
    pub(super) goal: Goal,
    pub(super) timeout: Duration,
}

impl<B> Prepared<B> {
    /// A command with its plan and request.
    pub(super) fn new(plan: Plan, request: Request<B>) -> Self {
        Self { plan, request, wait: None }
    }

    /// `POST` to the path that is named like the action.
    pub(super) fn post(plan: Plan, action: Action, body: B) -> Self {
        Self::new(plan, Request { path: format!("/{action}"), body, action })
    }

    /// The same, followed to its end.
    pub(super) fn waiting(self, wait: Option<Wait>) -> Self {
        Self { wait, ..self }
    }
}

/// Runs a command.  `prepare` explains what it does to the pool as it is now, and builds the request that does it; it fails
/// if the pool as it was just seen rules the command out.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(super) fn run<B: Serialize>(
    common: &CommandArgs,
    format: Format,
    prepare: impl AsyncFnOnce(&Fleet, &PoolStatus) -> Result<Prepared<B>, Failure>,
) -> Result<Outcome, Failure> {
    let connection = common.connect.open(format)?;
    block_on(async {
        let pool = connection.pool().await?;
        let fleet = &connection.fleet;
        let status = fleet.status(&pool).await?;
        let Prepared { plan, request, wait } = prepare(fleet, &status).await?;
        if agree(&plan, &common.consent, format)? == Agreed::Explained {
            return Ok(Outcome::Done);
        }
        // From here on Ctrl-C ends the following, not the command before its outcome is known.
        let interrupt = wait.is_some().then(Interrupt::catch).transpose()?;
        let entry = Entry { after: status.revision, action: request.action, reason: &common.reason };
        let done = fleet.send(&pool, &request, entry).await?;
        let (Some(Wait { goal, timeout }), Some(interrupt)) = (wait, interrupt) else {
            return deliver(&Shown(done), format);
        };
        let followed = while_read(follow(fleet, done, goal, timeout, interrupt)).await?;
        deliver_as(&followed, format, followed.outcome())
    })
}

/// A refusal that needs no coordinator: the pool as it was just seen is reason enough.
pub(super) fn refused(message: impl Into<String>, remedy: &str) -> Failure {
    Failure::new(Outcome::Refused, Problem::error("refused", message, remedy))
}
