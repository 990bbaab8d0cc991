//! Keys that the operator hands over: kernel text in a file of its owner's, or on standard input.  Never in argv.

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::report::{Failure, Outcome};
use crate::kernel::text::{self, TEXT_CHARS_MAX};
use crate::model::key::KeyPair;
use crate::model::problem::Problem;
use crate::runtime::files::{self, Guard, SecretFileError};

/// Longest text with its newline, in bytes.
const TEXT_BYTES_MAX: usize = TEXT_CHARS_MAX + 1;

/// Reads one key or `primary,backup`; `-` is standard input.
///
/// # Errors
/// Fails if it cannot be read, is exposed to others, or is not exactly kernel text.
pub fn read(path: &Path) -> Result<KeyPair, Failure> {
    let bytes = if path == Path::new("-") { read_stdin()? } else { read_file(path)? };
    text::parse(&bytes).map_err(|error| {
        let remedy = "give it as the kernel shows it: xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx[,the backup key]";
        Failure::new(Outcome::Config, Problem::error("bad_key_text", error.to_string(), remedy).in_file(shown(path)))
    })
}

fn shown(path: &Path) -> PathBuf {
    if path == Path::new("-") { "(stdin)".into() } else { path.to_owned() }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    files::read_secret(path, TEXT_BYTES_MAX, Guard::Mode).map_err(|error| {
        let remedy = match error {
            SecretFileError::Missing => "name the file with the key, or - for standard input".to_owned(),
            SecretFileError::Exposed { .. } | SecretFileError::ForeignOwner { .. } => format!(
                "chmod 0400 {} and make it yours; if others may have read it, rotate with --mode revoke afterwards",
                path.display()
            ),
            SecretFileError::TooLong { .. } => "a key file holds one line of kernel text and nothing else".to_owned(),
            SecretFileError::Unreadable(_) | SecretFileError::NotAFile => {
                "name a regular file that is yours".to_owned()
            }
        };
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        Failure::new(Outcome::Config, Problem::error("key_file", format!("{error}{cause}"), remedy).in_file(path))
    })
}

/// Straight from the descriptor: the library's own buffer would keep a copy.
fn read_stdin() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(vec![0; TEXT_BYTES_MAX + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(io::stdin(), &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let problem = Problem::error("key_file", format!("cannot read standard input: {error}"), "name a file");
                return Err(Failure::new(Outcome::Config, problem));
            }
        }
    }
    // One byte more than any text has: `parse` refuses it.
    bytes.truncate(filled);
    Ok(bytes)
}
