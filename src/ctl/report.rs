//! How a command shows its result and how it ended: one type gives text and JSON, the stream, and the exit code.

use std::io::{self, Write};

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

/// How a command ended (docs/reference/exit-codes.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; of a check: everything is as it should be.
    Done,
    /// Failed; of a check: something is not as it should be.
    Failed,
    /// Usage or configuration is wrong; nothing was done.
    Config,
    /// Refused, or not allowed.
    Refused,
    /// Not converged in time.
    NotConverged,
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
            Self::NotConverged => 4,
        }
    }
}

/// Why a command did not come to its end: what is wrong, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// Everything that is wrong, with remedies.
    pub problems: Vec<Problem>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Failure {
    /// One problem.
    #[must_use]
    pub fn new(outcome: Outcome, problem: Problem) -> Self {
        Self { problems: vec![problem], outcome }
    }

    /// The result could not be written.  A reader that has gone needs no word about it.
    #[must_use]
    pub fn undelivered(error: io::Error) -> Self {
        let problems = match error.kind() {
            io::ErrorKind::BrokenPipe => Vec::new(),
            _ => {
                let message = format!("cannot write the result: {error}");
                vec![Problem::error("output", message, "what was asked is done; look at it with another command")]
            }
        };
        Self { problems, outcome: Outcome::Failed }
    }

    /// Writes the problems to stderr.
    ///
    /// # Errors
    /// Fails if stderr cannot be written.
    pub fn show(&self) -> io::Result<()> {
        let mut stderr = io::stderr().lock();
        self.problems.iter().try_for_each(|problem| writeln!(stderr, "{problem}"))
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
        Format::Json => {
            serde_json::to_writer(&mut stdout, report)?;
            stdout.write_all(b"\n")?;
        }
    }
    stdout.flush()
}

/// Shows the result of something that is done.
///
/// # Errors
/// Fails if it cannot be delivered, such as to a closed pipe: the work is done, but nobody heard of it.
pub fn deliver<R: Report>(report: &R, format: Format) -> Result<Outcome, Failure> {
    deliver_as(report, format, Outcome::Done)
}

/// The same for something that ended otherwise.
///
/// # Errors
/// As [`deliver`].
pub fn deliver_as<R: Report>(report: &R, format: Format, outcome: Outcome) -> Result<Outcome, Failure> {
    show(report, format).map(|()| outcome).map_err(Failure::undelivered)
}
