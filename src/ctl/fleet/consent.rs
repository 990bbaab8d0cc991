//! Explains what a command will do, and to how many nodes, before it does it; asks for confirmation if it can do harm.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use serde::Serialize;

use tfo_cli::plain::plain;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver};
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_wire::v1::fleet::PoolStatus;

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

/// What a command will do.  Its JSON is that of `--dry-run`.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    dry_run: bool,
    pool: PoolName,
    action: &'static str,
    /// The pool as the operator sees it.
    revision: Revision,
    generation: Generation,
    /// How many nodes it affects.
    nodes: usize,
    plan: Vec<String>,
    #[serde(skip)]
    harmful: bool,
}

/// How the question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    /// The command is to be sent.
    Yes,
    /// The command was only to be explained.
    Explained,
}

impl Plan {
    /// A plan for this pool, as it is now.
    pub(super) fn new(action: &'static str, status: &PoolStatus, nodes: usize) -> Self {
        let PoolStatus { pool, revision, generation, .. } = status;
        Self {
            dry_run: true,
            pool: pool.clone(),
            action,
            revision: *revision,
            generation: *generation,
            nodes,
            plan: Vec::new(),
            harmful: true,
        }
    }

    /// A plan that needs no confirmation.
    pub(super) fn harmless(self) -> Self {
        Self { harmful: false, ..self }
    }

    /// Adds a line.
    pub(super) fn line(mut self, text: impl AsRef<str>) -> Self {
        self.plan.push(plain(text.as_ref()));
        self
    }

    /// Explains it, and asks if it can do harm.
    pub(super) fn agree(&self, consent: &ConsentArgs, format: Format) -> Result<Agreed, Failure> {
        if consent.dry_run {
            return deliver(self, format).map(|_| Agreed::Explained);
        }
        if !self.harmful {
            return Ok(Agreed::Yes);
        }
        let mut stderr = io::stderr();
        // If stderr is closed, no question can be asked: see below.
        drop(self.write_text(&mut stderr));
        if consent.yes {
            return Ok(Agreed::Yes);
        }
        if !(io::stdin().is_terminal() && stderr.is_terminal()) {
            let message = format!("{} can do harm and needs confirmation on a terminal; nothing was done", self.action);
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
}

impl Report for Plan {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} in pool {}, generation {}:", self.action, self.pool, self.generation)?;
        self.plan.iter().try_for_each(|line| writeln!(out, "  {line}"))
    }
}
