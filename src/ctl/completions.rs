//! Shell completions of `tfoctl`, made from its command line.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

use tfo_cli::report::{Failure, Outcome};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Writes the completions of `program` to stdout.
///
/// # Errors
/// Fails if stdout cannot be written.
pub(crate) fn completions(arguments: &CompletionsArgs, program: &mut Command) -> Result<Outcome, Failure> {
    let shell = match arguments.shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        _ => Shell::Fish,
    };
    // Into memory first: clap_complete panics if it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, program, "tfoctl", &mut text);
    io::stdout().write_all(&text).map(|()| Outcome::Done).map_err(Failure::undelivered)
}
