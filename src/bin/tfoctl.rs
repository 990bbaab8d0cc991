//! `tfoctl`: see `tfo_fleet::ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_fleet::ctl::cli::main_with(std::env::args_os())
}
