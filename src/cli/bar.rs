//! A progress bar on the last line of a terminal, with lines of text above it.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on stderr, or plain lines if stderr is not a terminal.
#[derive(Debug)]
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar that counts `noun`; nothing is drawn before [`Bar::at`].
    #[must_use]
    pub fn on_stderr(noun: &str) -> Self {
        Self(io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = format!("[{{bar:16}}] {{pos}}/{{len}} {noun}{{wide_msg}}");
            bar.set_style(ProgressStyle::with_template(&template).expect("a literal template").progress_chars("=> "));
            bar
        }))
    }

    /// Draws the bar at `done` of `of`, with a text behind it that is cut at the terminal's width.  Off a terminal
    /// nothing.
    pub fn at(&self, done: usize, of: usize, text: &str) {
        let Some(bar) = &self.0 else { return };
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(if text.is_empty() { String::new() } else { format!("  {text}") });
        bar.tick();
    }

    /// Writes a line, above the bar if there is one.  A failed write is not reported: see [`super::output`].
    pub fn line(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.println(text),
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// Takes the bar away.
    pub fn close(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
