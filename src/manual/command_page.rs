//! One page for a program with all its commands, from the clap definition behind `--help`.

use std::io;

use clap::Command;
use clap_mangen::Man;

use super::{Program, escape, see_also};

/// The page.
///
/// # Errors
/// Does not fail: it writes to memory.
pub(super) fn render(program: &Program) -> io::Result<Vec<u8>> {
    let mut command = program.command.clone();
    command.build();
    let man = Man::new(command.clone())
        .section(program.section.to_string())
        .manual("tfo-fleet")
        .source(format!("tfo-fleet {}", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_opts().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    page.extend_from_slice(b".SH COMMANDS\n");
    subcommands(&command, &mut page)?;
    match (command.get_after_long_help(), command.get_after_help()) {
        (Some(long), _) => page.extend_from_slice(sections(&long.to_string()).as_bytes()),
        (None, Some(short)) => page.extend_from_slice(sections(&short.to_string()).as_bytes()),
        (None, None) => {}
    }
    page.extend_from_slice(see_also(program.see_also).as_bytes());
    Ok(page)
}

/// The text after the options, which `--help` shows as it is.  Its form: `Title:` begins a section; lines with two spaces
/// in front are terms, those with more explain them.  The exit codes come first and have a line of their own.
fn sections(text: &str) -> String {
    let mut page = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        let indent = line.len() - line.trim_start().len();
        let text = escape(trimmed);
        match (indent, trimmed.strip_prefix("Exit codes:"), trimmed.strip_suffix(':')) {
            _ if trimmed.is_empty() => continue,
            (0, Some(codes), _) => page += &format!(".SH \"EXIT STATUS\"\n{}\n", escape(codes.trim())),
            (0, None, Some(title)) => page += &format!(".SH \"{}\"\n", escape(&title.to_uppercase())),
            (0, None, None) => page += &format!("{text}\n"),
            (2, ..) => page += &format!(".TP\n.B {text}\n"),
            _ => page += &format!("{text}\n"),
        }
    }
    page
}

/// Every visible command below `command`, each with its own options.
fn subcommands(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let name = sub.get_bin_name().unwrap_or(sub.get_name()).to_owned();
        page.extend_from_slice(format!(".SS \"{}\"\n", escape(&name)).as_bytes());
        if sub.has_subcommands() {
            if let Some(about) = sub.get_about() {
                page.extend_from_slice(format!("{}\n", escape(&about.to_string())).as_bytes());
            }
            subcommands(sub, page)?;
            continue;
        }
        let man = Man::new(sub.clone());
        let mut part = Vec::new();
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        // Its sections become paragraphs of this one.
        let part = String::from_utf8_lossy(&part);
        for line in part.lines().filter(|line| !line.starts_with(".ie") && !line.starts_with(".el")) {
            let line = if line.starts_with(".SH") { ".PP" } else { line };
            page.extend_from_slice(line.as_bytes());
            page.push(b'\n');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;
    use crate::Completions;

    #[test]
    fn a_page_has_every_command_with_its_options() {
        let once =
            Command::new("once").about("Converge one time").arg(Arg::new("dry").long("dry-run").help("Write nothing"));
        let hidden = Command::new("secret-command").hide(true);
        let command =
            Command::new("tfo-x").about("Does x").after_help("Exit codes: 0 done").subcommand(once).subcommand(hidden);
        let page = render(&Program { command, section: 8, see_also: &["x.toml(5)"], completions: Completions::Script })
            .unwrap();
        let page = String::from_utf8(page).unwrap();
        for part in [
            ".TH tfo-x 8",
            "Does x",
            ".SS \"tfo\\-x once\"",
            "Converge one time",
            "\\-\\-dry\\-run",
            "Write nothing",
            ".SH \"EXIT STATUS\"\n0 done",
            "x.toml",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("secret"), "{page}");
    }

    #[test]
    fn the_text_after_the_options_becomes_sections() {
        let text = "Exit codes: 0 done.\nonce: 2 changed.\n\nFiles:\n  /etc/x.toml\n      The file.\n  .hidden\n      Another.\n";
        let expected = ".SH \"EXIT STATUS\"\n0 done.\nonce: 2 changed.\n.SH \"FILES\"\n.TP\n.B /etc/x.toml\nThe file.\n\
                        .TP\n.B \\&.hidden\nAnother.\n";
        assert_eq!(sections(text), expected);
    }
}
