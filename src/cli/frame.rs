//! The frame of every program: parse the arguments, run the command, print its problems, exit.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use super::report::{Failure, Format, Outcome};
use tfo_host::runtime::process;
use tfo_model::problem::Problem;

/// Parses the arguments; prints help, the version, or what is wrong with the arguments.
///
/// # Errors
/// Returns the outcome of a program that has nothing left to do: it has printed help, or the arguments are wrong.
#[inline(never)]
pub fn parse<A: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<A, Outcome> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let format = Format::of(&arguments);
    A::try_parse_from(arguments).map_err(|error| {
        // If this cannot be printed, the terminal is gone; the exit code remains.
        match format {
            Format::Json if error.use_stderr() => drop(usage(&error).show(format)),
            Format::Text | Format::Json => drop(error.print()),
        }
        if error.use_stderr() { Outcome::Config } else { Outcome::Done }
    })
}

/// What is wrong with the arguments, as a problem.
fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default().trim();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    Failure::new(Outcome::Config, Problem::error("usage", message, "see --help"))
}

/// Parses the arguments, runs the command, and shows the problems of a failed one.
pub fn run<A: Parser, C: From<Outcome>>(
    arguments: impl IntoIterator<Item = OsString>,
    command: impl FnOnce(A) -> Result<C, Failure>,
) -> C {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let format = Format::of(&arguments);
    let parsed = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(outcome) => return outcome.into(),
    };
    process::forbid_dumps();
    command(parsed).unwrap_or_else(|failure| {
        // If nothing reads it, the exit code remains.
        drop(failure.show(format));
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
