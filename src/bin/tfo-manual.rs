//! `tfo-manual DIR`: writes man pages and completions for the packages (config/debian/build); see `tfo_manual`.

use clap::CommandFactory;
use tfo_manual::{Configuration, Program, write};

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).unwrap_or_else(|| "target/package".into());
    let programs = [
        Program {
            command: tfo_agent::cli::Arguments::command(),
            section: 8,
            see_also: &["agent.toml(5)", "tfoctl(1)", "tfo-coordinator(8)", "sysctl.d(5)", "tcp(7)"],
        },
        Program {
            command: tfo_coordinator::cli::Arguments::command(),
            section: 8,
            see_also: &["coordinator.toml(5)", "tfoctl(1)", "tfo-agent(8)"],
        },
        Program {
            command: tfo_ctl::cli::Arguments::command(),
            section: 1,
            see_also: &["ctl.toml(5)", "tfo-agent(8)", "tfo-coordinator(8)", "tcp(7)"],
        },
    ];
    let configurations = [
        Configuration {
            name: "agent.toml",
            about: "configuration of tfo-agent",
            example: include_str!("../../config/agent.toml"),
            see_also: &["tfo-agent(8)"],
        },
        Configuration {
            name: "coordinator.toml",
            about: "configuration of tfo-coordinator",
            example: include_str!("../../config/coordinator.toml"),
            see_also: &["tfo-coordinator(8)"],
        },
        Configuration {
            name: "ctl.toml",
            about: "configuration of tfoctl",
            example: include_str!("../../config/ctl.toml"),
            see_also: &["tfoctl(1)"],
        },
    ];
    write(directory.as_ref(), &programs, &configurations)
}
