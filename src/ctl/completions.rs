//! Shell completions of `tfoctl`.  The shell asks `tfoctl` itself at each Tab, so that names of nodes, pools and contexts
//! complete too.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::{Args, Command, CommandFactory, ValueHint};
use clap_complete::CompleteEnv;
use clap_complete::engine::ArgValueCompleter;
use clap_complete::env::Shells;

use super::cli::Arguments;
use super::fleet;
use tfo_cli::report::{Failure, Outcome};

/// The program that the shell asks.
const PROGRAM: &str = "tfoctl";
/// The environment variable that makes it answer: its value is the shell's name.
const VARIABLE: &str = "TFOCTL_COMPLETE";

/// In a directory of `fpath` the whole text is a function's body, and the first Tab calls it: it has to complete too.
const ZSH_AUTOLOAD: &[u8] =
    b"\n\nif [ \"$funcstack[1]\" = \"_tfoctl\" ]; then\n    _clap_dynamic_completer_tfoctl \"$@\"\nfi\n";

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Writes what a shell has to run for the completions of `tfoctl`.
///
/// # Errors
/// Fails if stdout cannot be written.
pub(crate) fn completions(arguments: &CompletionsArgs) -> Result<Outcome, Failure> {
    let text = registration(&arguments.shell).map_err(Failure::undelivered)?;
    io::stdout().write_all(&text).map(|()| Outcome::Done).map_err(Failure::undelivered)
}

/// What `shell` has to run.
///
/// # Errors
/// Fails for a shell that is not known.
pub(crate) fn registration(shell: &str) -> io::Result<Vec<u8>> {
    let shells = Shells::builtins();
    let completer = shells.completer(shell).ok_or(io::ErrorKind::Unsupported)?;
    let mut text = Vec::new();
    completer.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut text)?;
    if shell == "zsh" {
        text.extend_from_slice(ZSH_AUTOLOAD);
    }
    Ok(text)
}

/// Answers a shell that asks; none if no shell asks.
pub(crate) fn answer(arguments: &[OsString]) -> Option<Outcome> {
    let asked = CompleteEnv::with_factory(Arguments::command).var(VARIABLE).completer(PROGRAM);
    match asked.try_complete(arguments.iter().cloned(), std::env::current_dir().ok().as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(Outcome::Done),
        // The line cannot be completed.
        Err(_) => Some(Outcome::Failed),
    }
}

/// Tells the shell what values are, by the names that the help gives them.
pub(crate) fn with_names(command: Command) -> Command {
    let named = command.mut_args(|arg| {
        let Some([name]) = arg.get_value_names().filter(|_| arg.get_action().takes_values()) else { return arg };
        match name.as_str() {
            "NODE" => arg.add(ArgValueCompleter::new(fleet::node_names)),
            "POOL" => arg.add(ArgValueCompleter::new(fleet::pool_names)),
            "CONTEXT" => arg.add(ArgValueCompleter::new(fleet::context_names)),
            "FILE" => arg.value_hint(ValueHint::FilePath),
            "DIR" => arg.value_hint(ValueHint::DirPath),
            // Shells complete file names where nothing is known.
            _ => arg.value_hint(ValueHint::Other),
        }
    });
    named.mut_subcommands(with_names)
}
