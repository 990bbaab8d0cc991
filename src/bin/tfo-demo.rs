//! `tfo-demo`: see `tfo_fleet::demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfo_fleet::demo::main_with(
        std::env::args_os(),
        tfo_fleet::agent::cli::main_with,
        tfo_fleet::coordinator::cli::main_with,
    )
}
