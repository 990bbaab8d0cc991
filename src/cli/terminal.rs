//! What stdout is: a terminal with so many columns and lines, with colours or without; or no terminal.

use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;

/// Columns of a terminal that does not say how many it has.
const COLUMNS: u16 = 80;
/// Lines of such a terminal.
const LINES: u16 = 24;

/// Stdout, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Columns; none off a terminal, where text is as wide as it is.
    pub columns: Option<usize>,
    /// Lines; none likewise.
    pub lines: Option<usize>,
    /// Whether colours are welcome.
    pub colours: bool,
}

impl Terminal {
    /// Looks at stdout and the environment.
    #[must_use]
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self { columns: None, lines: None, colours: false };
        }
        let size = tcgetwinsize(&stdout).ok();
        let or = |found: Option<u16>, otherwise| Some(usize::from(found.filter(|n| *n > 0).unwrap_or(otherwise)));
        Self {
            columns: or(size.map(|size| size.ws_col), COLUMNS),
            lines: or(size.map(|size| size.ws_row), LINES),
            colours: welcomes_colours(|name| std::env::var_os(name)),
        }
    }
}

/// <https://no-color.org>, and a terminal that calls itself dumb.
fn welcomes_colours(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty()) && variable("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_and_dumb_terminals_get_none() {
        let with = |variables: &[(&str, &str)]| {
            welcomes_colours(|name| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into()))
        };
        assert!(with(&[]) && with(&[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(!with(&[("TERM", "dumb")]) && !with(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
    }
}
