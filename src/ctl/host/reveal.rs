//! The only place where `tfoctl` shows key bytes: it renders them in memory that is wiped, and bypasses stdout's buffer.

use std::io;
use std::os::fd::AsFd;

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use tfo_cli::report::{Failure, Format, Outcome, Report};
use tfo_model::key::TfoKey;
use tfo_model::key_text::KeyText;

/// A key that the user asked to see, as kernel text.
pub struct Revealed(KeyText);

impl Revealed {
    /// The text of one key.
    #[must_use]
    pub fn of(key: &TfoKey) -> Self {
        Self(KeyText::of_key(key))
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        std::str::from_utf8(self.0.expose()).expect("hex digits and dashes")
    }
}

impl Serialize for Revealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

/// Shows a result that holds keys, of at most `bytes_max` bytes: a growing buffer would leave copies behind.
///
/// # Errors
/// Fails if the result cannot be written.
///
/// # Panics
/// If the result is longer, which is a bug of the caller.
pub fn deliver<R: Report>(report: &R, format: Format, bytes_max: usize) -> Result<Outcome, Failure> {
    let mut text = Zeroizing::new(Vec::with_capacity(bytes_max));
    let room = text.capacity();
    let rendered = match format {
        Format::Text => report.write_text(&mut *text),
        Format::Json => serde_json::to_writer(&mut *text, report).map_err(io::Error::from).map(|()| text.push(b'\n')),
    };
    assert!(text.capacity() == room, "the room for a result with keys was too small");
    rendered.and_then(|()| write_all(&text)).map_err(Failure::undelivered)?;
    Ok(Outcome::Done)
}

fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stdout().as_fd(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
