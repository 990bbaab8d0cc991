//! `tfo-coordinator`: see `tfo_fleet::coordinator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_fleet::coordinator::cli::main_with(std::env::args_os())
}
