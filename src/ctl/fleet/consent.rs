//! Explains what a command will do, and to how many nodes, before it does it; asks for confirmation if it can do harm.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use tfo_cli::plan::Plan;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver};
use tfo_model::problem::Problem;

/// Options that confirm a command, or only explain it.
#[derive(Debug, Args)]
pub(super) struct ConsentArgs {
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Explain what it would do, and do nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// How the question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    /// The command is to be sent.
    Yes,
    /// The command was only to be explained.
    Explained,
}

/// Explains the plan, and asks if it can do harm.
pub(super) fn agree(plan: &Plan, consent: &ConsentArgs, format: Format) -> Result<Agreed, Failure> {
    if consent.dry_run {
        return deliver(plan, format).map(|_| Agreed::Explained);
    }
    if !plan.is_harmful() {
        return Ok(Agreed::Yes);
    }
    let mut stderr = io::stderr();
    // If stderr is closed, no question can be asked: see below.
    drop(plan.write_text(&mut stderr));
    if consent.yes {
        return Ok(Agreed::Yes);
    }
    if !(io::stdin().is_terminal() && stderr.is_terminal()) {
        let message = format!("{} can do harm and needs confirmation on a terminal; nothing was done", plan.action());
        let problem = Problem::error("no_consent", message, "add --yes to confirm it");
        return Err(Failure::new(Outcome::Config, problem));
    }
    let mut answer = String::new();
    let asked = write!(stderr, "Do it? [y/N] ").and_then(|()| stderr.flush());
    let read = asked.and_then(|()| io::stdin().lock().read_line(&mut answer));
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(Agreed::Yes);
    }
    let problem = Problem::error("declined", "nothing was done", "answer y to do it");
    Err(Failure::new(Outcome::Refused, problem))
}
