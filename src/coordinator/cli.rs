//! The command line of `tfo-coordinator`: arguments, output, exit codes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use super::backup;
use super::preflight::{self, Opened};
use super::{serve, service_user};
use tfo_cli::plain::counted;
use tfo_cli::report::{Failure, Outcome, show_problems};
use tfo_config::coordinator::DEFAULT_FILE;
use tfo_model::problem::{Problem, Severity};

/// Generates the TCP Fast Open keys of a fleet, and takes it through their rotations.
#[derive(Debug, Parser)]
#[command(name = "tfo-coordinator", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run as a daemon until stopped
    ///
    /// SIGHUP (systemctl reload) applies a new configuration as a whole, or refuses it and keeps the old one. A refused
    /// reload fails; systemctl itself prints no reason, but `systemctl status` shows it in its Status line until a reload
    /// succeeds, and `check` shows it beforehand.
    #[command(after_help = EXIT_CODES)]
    Serve {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Find everything that would make `serve` fail, all at once; changes nothing
    ///
    /// With the default FILE root checks as the service's user, tfo-coordinator. Only the service can read a credential:
    /// if the key-encryption key is one, this is a warning, and the store is not checked.
    #[command(after_help = EXIT_CODES)]
    Check {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Write a sealed backup of all pools, even while the coordinator serves; refused during a rotation
    #[command(after_help = EXIT_CODES)]
    Export {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
        /// Backup file to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Import the pools of a sealed backup into a store that lacks them; refused while a coordinator serves it
    #[command(after_help = EXIT_CODES)]
    Import {
        /// Configuration file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
        /// Backup file to read
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
    },
}

/// The whole program: parses the arguments and runs the command.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    tfo_cli::frame::main_with(arguments, |arguments: Arguments| run(&arguments.command))
}

fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve { config } => Ok(serve::serve(config).into()),
        Command::Check { config } => check(config),
        Command::Export { config, to } => {
            with_store(preflight::open_to_export(config), |opened| backup::export(&opened.store, &opened.key, to))
        }
        Command::Import { config, from } => {
            with_store(preflight::open_to_import(config), |opened| backup::import(&opened.store, &opened.key, from))
        }
    }
}

fn check(config: &Path) -> Result<ExitCode, Failure> {
    let user = service_user::find();
    if config == Path::new(DEFAULT_FILE)
        && let Some(user) = user.filter(|_| rustix::process::geteuid().is_root())
    {
        return user.run(&["check"]).map_err(|problem| Failure::new(Outcome::Failed, problem));
    }
    let problems = preflight::check(config);
    show_problems(&problems).map_err(Failure::undelivered)?;
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let as_user = if user.is_some_and(|user| user.is_us()) { ", read as the service's user" } else { "" };
    let counts = format!("{}, {}", counted(errors, "error"), counted(problems.len() - errors, "warning"));
    writeln!(io::stdout().lock(), "{}{as_user}: {counts}", config.display()).map_err(Failure::undelivered)?;
    Ok(if errors == 0 { Outcome::Done } else { Outcome::Config }.into())
}

fn with_store<S, T: Serialize>(
    opened: Result<Opened<S>, Vec<Problem>>,
    work: impl FnOnce(&Opened<S>) -> Result<T, Problem>,
) -> Result<ExitCode, Failure> {
    let opened = opened.map_err(|problems| {
        let has = |kind: &str| problems.iter().any(|problem| problem.kind == kind);
        let outcome = if has(preflight::NO_STORE) { Outcome::Failed } else { Outcome::Config };
        Failure { outcome: if has("store_in_use") { Outcome::Refused } else { outcome }, problems }
    })?;
    show_problems(&opened.warnings).map_err(Failure::undelivered)?;
    let done = work(&opened).map_err(|problem| {
        let outcome = if REFUSALS.contains(&problem.kind) { Outcome::Refused } else { Outcome::Failed };
        Failure::new(outcome, problem)
    })?;
    // As a value, whose keys are sorted.
    let done = serde_json::to_value(done).unwrap_or_default();
    writeln!(io::stdout().lock(), "{done}").map_err(Failure::undelivered)?;
    Ok(Outcome::Done.into())
}

/// Problems of backups that are refusals, not failures.
const REFUSALS: [&str; 2] = ["rotation_runs", "pool_exists"];
