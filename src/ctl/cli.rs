//! The command line of `tfoctl`: which commands there are, and how each ends.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::host::{probe, sniff, verify};
use super::report::{Failure, Format, Outcome};
use crate::runtime::process;

/// Shows and drives the TCP Fast Open keys of a fleet, and looks at one host.
#[derive(Debug, Parser)]
#[command(name = "tfoctl", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Form of the output on stdout
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused or not allowed, 4 not converged in time.";

/// What `tfoctl` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask servers whether they do TCP Fast Open, without taking a place in their queue
    Probe(probe::Arguments),
    /// Find out whether all nodes behind an address hold the same key
    Verify(verify::Arguments),
    /// Show packets with TCP Fast Open, and which key made their cookies
    Sniff(sniff::Arguments),
}

/// The whole program: parses, runs, and says how it ended.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Nowhere left to say it if even the terminal is gone.
            drop(error.print());
            let outcome = if error.use_stderr() { Outcome::Config } else { Outcome::Done };
            return ExitCode::from(outcome.code());
        }
    };
    process::forbid_dumps();
    let outcome = run(&parsed).unwrap_or_else(|failure| {
        // As above.
        drop(failure.show());
        failure.outcome
    });
    ExitCode::from(outcome.code())
}

fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    match &arguments.command {
        Command::Probe(probe) => probe::run(probe, arguments.format),
        Command::Verify(verify) => verify::run(verify, arguments.format),
        Command::Sniff(sniff) => sniff::run(sniff, arguments.format),
    }
}
