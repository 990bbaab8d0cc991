//! A picture on a terminal, redrawn in place.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The picture and the terminal on stdout.
#[derive(Debug)]
pub struct Screen(ProgressBar);

impl Screen {
    /// A screen, if stdout is a terminal.
    #[must_use]
    pub fn on_terminal() -> Option<Self> {
        io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.set_style(ProgressStyle::with_template("{msg}").expect("a literal template"));
            Self(bar)
        })
    }

    /// Replaces the picture.  A failed write is not reported: see [`super::output`].
    pub fn draw(&self, picture: impl Into<String>) {
        self.0.set_message(picture.into());
        self.0.tick();
    }

    /// The picture that is shown.
    #[must_use]
    pub fn picture(&self) -> String {
        self.0.message()
    }

    /// Leaves the last picture where it is, and begins a new line.
    ///
    /// # Errors
    /// Fails if the terminal cannot be written.
    pub fn close(&self) -> io::Result<()> {
        self.0.finish();
        // The bar pads its last line to the terminal's width and leaves the cursor there.
        writeln!(io::stdout())
    }
}
