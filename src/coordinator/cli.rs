//! The command line of `tfo-coordinator`: arguments, output, exit codes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::backup;
use super::preflight::{self, Opened};
use super::{serve, service_user};
use tfo_config::coordinator::DEFAULT_FILE;
use tfo_host::runtime::process;
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

/// How a command ended (docs/reference/exit-codes.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Usage or configuration is wrong; nothing was touched.
    Config,
    /// Refused.
    Refused,
}

impl Outcome {
    /// The exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Config => 2,
            Self::Refused => 3,
        }
    }
}

/// The whole program: parses, runs, and returns its exit code.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Without a terminal there is nowhere left to report it.
            drop(error.print());
            let outcome = if error.use_stderr() { Outcome::Config } else { Outcome::Done };
            return ExitCode::from(outcome.code());
        }
    };
    process::forbid_dumps();
    let code = |outcome: Outcome| ExitCode::from(outcome.code());
    let ended = match &parsed.command {
        Command::Serve { config } => Ok(code(serve::serve(config))),
        Command::Check { config } => check(config),
        Command::Export { config, to } => with_store(preflight::open_to_export(config), |opened| {
            backup::export(&opened.store, &opened.key, to).map(|done| serde_json::to_value(done).unwrap_or_default())
        })
        .map(code),
        Command::Import { config, from } => with_store(preflight::open_to_import(config), |opened| {
            backup::import(&opened.store, &opened.key, from).map(|done| serde_json::to_value(done).unwrap_or_default())
        })
        .map(code),
    };
    // A closed pipe: the work is done, but its result was not delivered.
    ended.unwrap_or_else(|_| code(Outcome::Failed))
}

fn check(config: &Path) -> io::Result<ExitCode> {
    let user = service_user::find();
    if config == Path::new(DEFAULT_FILE)
        && let Some(user) = user.filter(|_| rustix::process::geteuid().is_root())
    {
        return user.run(&["check"]).or_else(|problem| {
            show(&[problem])?;
            Ok(ExitCode::from(Outcome::Failed.code()))
        });
    }
    let problems = preflight::check(config);
    show(&problems)?;
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let as_user = if user.is_some_and(|user| user.is_us()) { ", read as the service's user" } else { "" };
    let warnings = problems.len() - errors;
    writeln!(io::stdout().lock(), "{}{as_user}: {errors} errors, {warnings} warnings", config.display())?;
    Ok(ExitCode::from(if errors == 0 { Outcome::Done } else { Outcome::Config }.code()))
}

fn with_store<S>(
    opened: Result<Opened<S>, Vec<Problem>>,
    work: impl FnOnce(&Opened<S>) -> Result<serde_json::Value, Problem>,
) -> io::Result<Outcome> {
    let opened = match opened {
        Ok(opened) => opened,
        Err(problems) => {
            show(&problems)?;
            let has = |kind: &str| problems.iter().any(|problem| problem.kind == kind);
            let outcome = if has(preflight::NO_STORE) { Outcome::Failed } else { Outcome::Config };
            return Ok(if has("store_in_use") { Outcome::Refused } else { outcome });
        }
    };
    show(&opened.warnings)?;
    match work(&opened) {
        Ok(done) => {
            writeln!(io::stdout().lock(), "{done}")?;
            Ok(Outcome::Done)
        }
        Err(problem) => {
            show(std::slice::from_ref(&problem))?;
            Ok(if REFUSALS.contains(&problem.kind) { Outcome::Refused } else { Outcome::Failed })
        }
    }
}

/// Problems of backups that are refusals, not failures.
const REFUSALS: [&str; 2] = ["rotation_runs", "pool_exists"];

fn show(problems: &[Problem]) -> io::Result<()> {
    let mut err = io::stderr().lock();
    problems.iter().try_for_each(|problem| writeln!(err, "{problem}"))
}
