//! Man pages, shell completions and the generated pages of `docs/reference`, made from what the programs themselves use:
//! the definitions behind `--help`, and the commented example configurations.
//!
//! Must not know: the programs.  `tfo-manual` hands their command lines in.

mod command_page;
mod config_page;
mod reference;

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Generator, Shell, generate_to};

/// A program and where its page belongs.
pub struct Program {
    /// Its command line.
    pub command: Command,
    /// Section of the manual: 1 for all users, 8 for root.
    pub section: u8,
    /// Pages that its own refers to, such as `tfo-agent.toml(5)`.
    pub see_also: &'static [&'static str],
    /// Who completes its command line.
    pub completions: Completions,
}

/// Who completes a command line.
pub enum Completions {
    /// The shell, from a script that is made of the definition.
    Script,
    /// The program: this is what a shell has to run so that it asks.
    Program(fn(shell: &str) -> io::Result<Vec<u8>>),
}

/// A configuration file.
pub struct Configuration {
    /// Its name, `agent.toml`; its page is `tfo-agent.toml(5)`.
    pub name: &'static str,
    /// One line of what it is.
    pub about: &'static str,
    /// The commented example: every key, with its default.
    pub example: &'static str,
    /// Pages that its own refers to.
    pub see_also: &'static [&'static str],
}

impl Configuration {
    /// The name of its page: pages of all packages share one directory.
    fn page(&self) -> String {
        format!("tfo-{}", self.name)
    }
}

/// Shells that completions are made for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `man/NAME.SECTION` and `completions/{bash,zsh,fish}/…` below `directory`.
///
/// # Errors
/// Fails if a file cannot be written.
pub fn write(directory: &Path, programs: &[Program], configurations: &[Configuration]) -> io::Result<()> {
    let man = directory.join("man");
    std::fs::create_dir_all(&man)?;
    for program in programs {
        let name = program.command.get_name();
        let page = command_page::render(program)?;
        std::fs::write(man.join(format!("{name}.{}", program.section)), ascii(&String::from_utf8_lossy(&page)))?;
        for shell in SHELLS {
            let completions = directory.join("completions").join(shell.to_string());
            std::fs::create_dir_all(&completions)?;
            match program.completions {
                Completions::Program(of) => {
                    std::fs::write(completions.join(shell.file_name(name)), of(&shell.to_string())?)?;
                }
                Completions::Script => drop(generate_to(shell, &mut program.command.clone(), name, &completions)?),
            }
        }
    }
    for configuration in configurations {
        std::fs::write(man.join(format!("{}.5", configuration.page())), ascii(&config_page::render(configuration)))?;
    }
    Ok(())
}

/// Writes `commands.md` and `configuration.md` into `directory`.
///
/// # Errors
/// Fails if a file cannot be written.
pub fn write_reference(directory: &Path, programs: &[Program], configurations: &[Configuration]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("commands.md"), reference::commands(programs))?;
    std::fs::write(directory.join("configuration.md"), reference::configuration(configurations))
}

/// `SEE ALSO`, as every page ends.
fn see_also(pages: &[&str]) -> String {
    let mut references = Vec::with_capacity(pages.len());
    for page in pages {
        let (name, section) = page.split_once('(').unwrap_or((page, ""));
        references.push(if section.is_empty() {
            (*page).to_owned()
        } else {
            format!("\\fB{}\\fR({section}", escape(name))
        });
    }
    format!(".SH \"SEE ALSO\"\n{}\n", references.join(", "))
}

/// Roff in ASCII: groff reads bytes as Latin-1, and warns.
fn ascii(page: &str) -> String {
    page.chars().fold(String::with_capacity(page.len()), |mut ascii, c| {
        match c.is_ascii() {
            true => ascii.push(c),
            false => ascii += &format!("\\[u{:04X}]", u32::from(c)),
        }
        ascii
    })
}

/// Text as roff takes it: no line starts a request, and backslashes, hyphens and quotes are themselves.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    let guard = |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    escaped.lines().map(guard).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_ascii() {
        assert_eq!(ascii("a…–\n"), "a\\[u2026]\\[u2013]\n");
    }

    #[test]
    fn text_starts_no_request() {
        assert_eq!(escape("a = \"b\""), "a = \\(dqb\\(dq");
        assert_eq!(escape(".SH x\n'y\na\\b --c"), "\\&.SH x\n\\&'y\na\\eb \\-\\-c");
        assert_eq!(
            see_also(&["agent.toml(5)", "tfo-agent(8)"]),
            ".SH \"SEE ALSO\"\n\\fBagent.toml\\fR(5), \\fBtfo\\-agent\\fR(8)\n"
        );
    }
}
