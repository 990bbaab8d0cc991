//! `tfo-demo`: see `tfo_demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_demo::main_with(std::env::args_os(), tfo_agent::cli::main_with, tfo_coordinator::cli::main_with)
}
