//! `tfo-manual DIR`: writes man pages and completions for the packages (config/debian/pack, config/rpm/pack).
//! `tfo-manual --docs docs/reference`: writes the generated pages of the documentation.  See `tfo_manual`.

use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use tfo_manual::{Completions, Configuration, Program, write, write_reference};

/// Writes man pages and shell completions for the packages, or the generated pages of docs/reference
#[derive(Parser)]
#[command(name = "tfo-manual", version)]
struct Arguments {
    /// Directory for man pages and completions
    #[arg(value_name = "DIR", default_value = "target/package", conflicts_with = "docs")]
    directory: PathBuf,
    /// Write commands.md and configuration.md into this directory instead
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let programs = [
        Program {
            command: tfo_agent::cli::Arguments::command(),
            section: 8,
            see_also: &["tfo-agent.toml(5)", "tfoctl(1)", "tfo-coordinator(8)", "sysctl.d(5)", "tcp(7)"],
            completions: Completions::Script,
        },
        Program {
            command: tfo_coordinator::cli::Arguments::command(),
            section: 8,
            see_also: &["tfo-coordinator.toml(5)", "tfoctl(1)", "tfo-agent(8)"],
            completions: Completions::Script,
        },
        Program {
            command: tfo_ctl::cli::Arguments::command(),
            section: 1,
            see_also: &["tfo-ctl.toml(5)", "tfo-agent(8)", "tfo-coordinator(8)", "tcp(7)"],
            completions: Completions::Program(tfo_ctl::cli::completions_for),
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
    match arguments.docs {
        Some(docs) => write_reference(&docs, &programs, &configurations),
        None => write(&arguments.directory, &programs, &configurations),
    }
}
