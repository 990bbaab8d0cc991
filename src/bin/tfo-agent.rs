//! `tfo-agent`: see `tfo_agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_agent::cli::main_with(std::env::args_os())
}
