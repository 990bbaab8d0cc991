//! Shell completions and man pages of `tfoctl`, made from its own command line.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::cli::Arguments;
use super::report::{Failure, Outcome};
use crate::model::problem::Problem;
use crate::runtime::files::{self, Durability};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for tfoctl.1 and a page for each command
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Writes the completions to stdout.
///
/// # Errors
/// Fails if stdout cannot be written.
pub fn completions(arguments: &CompletionsArgs) -> Result<Outcome, Failure> {
    let shell = match arguments.shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        _ => Shell::Fish,
    };
    // Into memory first: clap_complete panics if it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tfoctl", &mut text);
    io::stdout().write_all(&text).map(|()| Outcome::Done).map_err(Failure::undelivered)
}

/// Writes the man pages.
///
/// # Errors
/// Fails with the first page that cannot be written.
pub fn man(arguments: &ManArgs) -> Result<Outcome, Failure> {
    let mut command = Arguments::command();
    command.build();
    write_pages(&command, "tfoctl", &arguments.dir).map(|()| Outcome::Done)
}

fn write_pages(command: &clap::Command, name: &str, directory: &PathBuf) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.1"));
    let failed = |message: String| {
        let problem = Problem::error("man", message, "name a directory that is there and yours with --dir");
        Failure::new(Outcome::Failed, problem)
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .render(&mut page)
        .map_err(|error| failed(format!("cannot make {name}.1: {error}")))?;
    files::replace(&path, &page, 0o644, Durability::Volatile).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        failed(format!("{error}{cause}"))
    })?;
    let shown = command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
    shown.into_iter().try_for_each(|inner| write_pages(inner, &format!("{name}-{}", inner.get_name()), directory))
}
