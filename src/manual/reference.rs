//! The generated pages of `docs/reference`: every command with its help, and every configuration file with its comments.
//!
//! They say what `--help` and the examples in `config/` say, so a test can hold them to it (`tests/docs.rs`).

use std::fmt::Write as _;

use clap::Command;

use super::{Configuration, Program};

/// How the pages are made again.
const MADE_BY: &str = "cargo run --bin tfo-manual -- --docs docs/reference";

/// `commands.md`: one section for each program, and one below it for each of its commands.
pub(super) fn commands(programs: &[Program]) -> String {
    let mut page = opening("Commands", "The help of every command, as `--help` prints it.");
    for program in programs {
        let mut command = program.command.clone();
        command.build();
        describe(&command, 2, &mut page);
    }
    page
}

/// `configuration.md`: the commented examples, which have every key with its default.
pub(super) fn configuration(configurations: &[Configuration]) -> String {
    let about = "Every key of every file. A key that is commented out shows its default, or an example.";
    let mut page = opening("Configuration", about);
    for Configuration { name, about, example, .. } in configurations {
        write!(page, "\n## {name}\n\n`/etc/tfo-fleet/{name}`: {about}.\n\n```toml\n{}\n```\n", example.trim_end())
            .expect("a String takes everything");
    }
    page
}

fn opening(title: &str, about: &str) -> String {
    format!(
        "# {title}\n\n<!-- Generated: `{MADE_BY}`. Do not edit. -->\n\n{about} This page is generated: `{MADE_BY}`.\n"
    )
}

/// A command, then the visible commands below it.
fn describe(command: &Command, level: usize, page: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let help = command.clone().render_long_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    write!(page, "\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(level), help.trim_end())
        .expect("a String takes everything");
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        describe(sub, level + 1, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_have_every_command_and_every_file() {
        let inner = Command::new("inner").about("Does the inner thing");
        let hidden = Command::new("secret-command").hide(true);
        let command = Command::new("tfo-x").about("Does x").subcommand(inner).subcommand(hidden);
        let page = commands(&[Program { command, section: 8, see_also: &[] }]);
        for part in ["# Commands\n", "\n## tfo-x\n\n```text\nDoes x", "\n### tfo-x inner\n\n```text\nDoes the inner"] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("secret") && !page.contains("help help"), "{page}");
        let file = Configuration { name: "x.toml", about: "configures x", example: "# Text.\nx = 1\n", see_also: &[] };
        let page = configuration(&[file]);
        assert!(
            page.contains("\n## x.toml\n\n`/etc/tfo-fleet/x.toml`: configures x.\n\n```toml\n# Text.\nx = 1\n```\n")
        );
    }
}
