//! How a command shows its result, and how it ended: one type for text and JSON, one for problems and the exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use tfo_model::problem::Problem;

/// Form of the output on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Format {
    /// What `--format` says in these arguments, also where they are wrong: their problems have that form too.
    #[must_use]
    pub fn of(arguments: &[OsString]) -> Self {
        let before_values = arguments.iter().take_while(|argument| *argument != "--");
        let words: Vec<&str> = before_values.map(|argument| argument.to_str().unwrap_or_default()).collect();
        let json = words.contains(&"--format=json") || words.windows(2).any(|two| two == ["--format", "json"]);
        if json { Self::Json } else { Self::Text }
    }
}

/// How a command ended (docs/reference/exit-codes.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; a check has found nothing wrong.
    Done,
    /// Done, and something has changed (or would have, in a dry run).  Only `once --detailed-exit-codes` tells it apart.
    Changed,
    /// Failed; a check has found something wrong.
    Failed,
    /// Usage or configuration is wrong; nothing was done.
    Config,
    /// Refused, or not allowed.
    Refused,
    /// Not converged in time.
    NotConverged,
    /// The user interrupted it (Ctrl-C); what it follows continues.
    Interrupted,
    /// A check for a monitoring system found something to do today.
    Warning,
    /// A check for a monitoring system found something to do now.
    Critical,
    /// A check for a monitoring system could not find out.
    Unknown,
}

impl Outcome {
    /// The exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done | Self::Changed => 0,
            Self::Failed | Self::Warning => 1,
            Self::Config | Self::Critical => 2,
            Self::Refused | Self::Unknown => 3,
            Self::NotConverged => 4,
            // As a shell has it for a command that SIGINT ended.
            Self::Interrupted => 130,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.code())
    }
}

/// Why a command failed: its problems, and its exit code.
#[derive(Debug)]
pub struct Failure {
    /// Everything that is wrong, with remedies.
    pub problems: Vec<Problem>,
    /// The exit code.
    pub outcome: Outcome,
}

impl Failure {
    /// A failure with one problem.
    #[must_use]
    pub fn new(outcome: Outcome, problem: Problem) -> Self {
        Self { problems: vec![problem], outcome }
    }

    /// The result could not be written to stdout.  A reader that has gone (a closed pipe) is not worth a message, but its
    /// result was not delivered: exit code 1.
    #[must_use]
    pub fn undelivered(error: io::Error) -> Self {
        let problems = match error.kind() {
            io::ErrorKind::BrokenPipe => Vec::new(),
            _ => {
                let message = format!("cannot write the result to stdout: {error}");
                vec![Problem::error("output", message, "check where stdout goes; the command itself was carried out")]
            }
        };
        Self { problems, outcome: Outcome::Failed }
    }

    /// Writes the problems in the place of the result: as text to stderr, as JSON to stdout (docs/reference/json.md#problems).
    ///
    /// # Errors
    /// Fails if they cannot be written.
    pub fn show(&self, format: Format) -> io::Result<()> {
        match format {
            Format::Text => show_problems(&self.problems, format),
            // The reader of stdout has gone; for anything else there is a problem.
            Format::Json if self.problems.is_empty() => Ok(()),
            Format::Json => {
                let mut stdout = io::stdout().lock();
                write_json(&mut stdout, &Problems { problems: &self.problems })?;
                stdout.flush()
            }
        }
    }
}

/// The one JSON shape of problems without a result.
#[derive(Serialize)]
struct Problems<'a> {
    problems: &'a [Problem],
}

/// Writes problems beside a result to stderr: as text, or as one line of JSON.
///
/// # Errors
/// Fails if stderr cannot be written.
pub fn show_problems(problems: &[Problem], format: Format) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    match format {
        Format::Text => problems.iter().try_for_each(|problem| writeln!(stderr, "{problem}")),
        Format::Json if problems.is_empty() => Ok(()),
        Format::Json => write_json(&mut stderr, &Problems { problems }),
    }
}

/// A result that can be shown both ways.
pub trait Report: Serialize {
    /// For people: aligned, without colour, ends with a newline if there is anything.
    ///
    /// # Errors
    /// Fails if `out` cannot be written.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Writes a result to stdout: as text, or as one line of JSON.
///
/// # Errors
/// Fails if stdout cannot be written, such as a closed pipe.
pub fn show<R: Report>(report: &R, format: Format) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match format {
        Format::Text => report.write_text(&mut stdout)?,
        Format::Json => write_json(&mut stdout, report)?,
    }
    stdout.flush()
}

/// Writes one line of JSON.
///
/// # Errors
/// Fails if `out` cannot be written.
pub fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Shows the result of a command that is done.
///
/// # Errors
/// Fails if it cannot be delivered, such as to a closed pipe: the work is done, but its reader does not know.
pub fn deliver<R: Report>(report: &R, format: Format) -> Result<Outcome, Failure> {
    deliver_as(report, format, Outcome::Done)
}

/// Shows the result of a command that has ended with `outcome`.
///
/// # Errors
/// As [`deliver`].
pub fn deliver_as<R: Report>(report: &R, format: Format, outcome: Outcome) -> Result<Outcome, Failure> {
    show(report, format).map(|()| outcome).map_err(Failure::undelivered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_known_before_the_arguments_are_understood() {
        let of = |words: &[&str]| Format::of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of(&["tfoctl", "--format", "json", "--no-such"]), Format::Json);
        assert_eq!(of(&["tfoctl", "--format=json"]), Format::Json);
        assert_eq!(of(&["tfoctl", "pools", "--format", "text"]), Format::Text);
        assert_eq!(of(&["tfoctl", "--", "--format=json"]), Format::Text);
    }

    #[test]
    fn a_closed_pipe_gets_no_message_and_a_full_disk_does() {
        let pipe = Failure::undelivered(io::ErrorKind::BrokenPipe.into());
        assert!(pipe.problems.is_empty() && pipe.outcome == Outcome::Failed);
        assert_eq!(Failure::undelivered(io::ErrorKind::StorageFull.into()).problems.len(), 1);
    }
}
