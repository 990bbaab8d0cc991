//! `tfoctl`: see `tfo_ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_ctl::cli::main_with(std::env::args_os())
}
