//! The frame of every program: parse the arguments, run the command, print its problems, exit.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use super::report::{Failure, Outcome};
use tfo_host::runtime::process;

/// Parses the arguments; prints help, the version, or what is wrong with the arguments.
///
/// # Errors
/// Returns the outcome of a program that has nothing left to do: it has printed help, or the arguments are wrong.
pub fn parse<A: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<A, Outcome> {
    A::try_parse_from(arguments).map_err(|error| {
        // If this cannot be printed, the terminal is gone; the exit code remains.
        drop(error.print());
        if error.use_stderr() { Outcome::Config } else { Outcome::Done }
    })
}

/// Parses the arguments, runs the command, and prints the problems of a failed one to stderr.
pub fn run<A: Parser, C: From<Outcome>>(
    arguments: impl IntoIterator<Item = OsString>,
    command: impl FnOnce(A) -> Result<C, Failure>,
) -> C {
    let parsed = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(outcome) => return outcome.into(),
    };
    process::forbid_dumps();
    command(parsed).unwrap_or_else(|failure| {
        // If stderr is closed, the exit code remains.
        drop(failure.show());
        failure.outcome.into()
    })
}

/// A whole program: [`run`], and its outcome as the exit code.
pub fn main_with<A: Parser, C: From<Outcome> + Into<ExitCode>>(
    arguments: impl IntoIterator<Item = OsString>,
    command: impl FnOnce(A) -> Result<C, Failure>,
) -> ExitCode {
    run(arguments, command).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[arg(long)]
        refuse: bool,
    }

    fn outcome(words: &[&str]) -> Outcome {
        let words = ["program"].iter().chain(words).map(OsString::from);
        run(words, |arguments: Arguments| {
            if arguments.refuse {
                Err(Failure { problems: Vec::new(), outcome: Outcome::Refused })
            } else {
                Ok(Outcome::NotConverged)
            }
        })
    }

    #[test]
    fn help_is_done_and_wrong_usage_is_not() {
        assert_eq!(outcome(&["--help"]), Outcome::Done);
        assert_eq!(outcome(&["--no-such-option"]), Outcome::Config);
        assert_eq!(outcome(&["--refuse"]), Outcome::Refused);
        assert_eq!(outcome(&[]), Outcome::NotConverged);
    }
}
