//! `tfo-coordinator`: see `tfo_coordinator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_coordinator::cli::main_with(std::env::args_os())
}
