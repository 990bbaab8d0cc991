//! The keys that `--key-file` names: kernel text of one key or two, in a file that only its owner may read, or on standard
//! input.  Never from the arguments, which every user of the host can read.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use zeroize::Zeroizing;

use tfo_cli::report::{Failure, Outcome};
use tfo_host::secret::SecretPath;
use tfo_model::key::KeyPair;
use tfo_model::key_text;
use tfo_model::problem::Problem;

/// Longest text that is accepted, in bytes: more than two keys need.
const BYTES_MAX: usize = 256;
/// Stands for standard input on the command line.
pub(super) const STDIN: &str = "-";

/// Reads the keys of `place`: a path, `credential:NAME`, or `-`.
///
/// # Errors
/// Fails if the text cannot be read, is exposed to other users, or is anything but one or two keys.
pub fn read(place: &str) -> Result<KeyPair, Failure> {
    let config = |problem| Failure::new(Outcome::Config, problem);
    let (name, text) = if place == STDIN {
        ("standard input", read_stdin().map_err(config)?)
    } else {
        (place, secret_path(place).read(BYTES_MAX).map_err(config)?)
    };
    key_text::parse(&text).map_err(|error| {
        let remedy = "write primary[,backup] as net.ipv4.tcp_fastopen_key takes it, and nothing else";
        config(Problem::error("key_text", format!("{name}: {error}"), remedy))
    })
}

/// A path as typed, which may be relative, or `credential:NAME`.
#[must_use]
pub fn secret_path(text: &str) -> SecretPath {
    match text.parse() {
        Ok(credential @ SecretPath::Credential(_)) => credential,
        _ => SecretPath::File(Path::new(text).to_owned()),
    }
}

/// Reads standard input without `std::io::Stdin`, whose buffer is never wiped.
pub(super) fn read_stdin() -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut bytes = Zeroizing::new(vec![0; BYTES_MAX + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(io::stdin().as_fd(), &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let message = format!("cannot read standard input: {}", io::Error::from(error));
                return Err(Problem::error("secret_unreadable", message, "pipe the key text into it, or name a file"));
            }
        }
    }
    if filled > BYTES_MAX {
        let message = format!("standard input has more than {BYTES_MAX} bytes");
        return Err(Problem::error("secret_too_long", message, "pipe one or two keys into it, and nothing else"));
    }
    bytes.truncate(filled);
    Ok(bytes)
}
