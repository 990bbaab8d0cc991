//! `tfo-agent`: see `tfo_fleet::agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_fleet::agent::cli::main_with(std::env::args_os())
}
