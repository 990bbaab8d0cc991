//! `tfoctl keygen`: one fresh key, as kernel text, for a file that only its owner may read or for a pipe.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::Zeroizing;

use super::reveal::{self, Revealed};
use tfo_cli::report::{Failure, Format, Outcome, Report};
use tfo_crypto::fingerprint::fingerprint;
use tfo_crypto::random;
use tfo_host::runtime::files;
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_model::problem::Problem;

/// Room for the result as JSON, in bytes: a path of the longest kind (PATH_MAX 4096), each byte escaped.
const RESULT_BYTES_MAX: usize = 32_768;

/// Arguments of `keygen`.
#[derive(Debug, clap::Args)]
pub struct KeygenArgs {
    /// New file for the key, made with mode 0600, never overwritten; without it the key goes to stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Wire v1: `keygen --format json`.
#[derive(Serialize)]
struct Made {
    fingerprint: KeyFingerprint,
    file: Option<String>,
    /// Only if the key was not written to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Revealed>,
}

impl Report for Made {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        match (&self.file, &self.key) {
            (Some(file), _) => writeln!(out, "made {file}, key {}", self.fingerprint),
            (None, Some(key)) => writeln!(out, "{}", key.expose()),
            (None, None) => Ok(()),
        }
    }
}

/// Makes a key.
///
/// # Errors
/// Fails if there is no randomness, if the file exists already (refused), or if it cannot be created.
pub fn run(arguments: &KeygenArgs, format: Format) -> Result<Outcome, Failure> {
    let key = random::fresh_key().map_err(|error| {
        Failure::new(Outcome::Failed, Problem::error("no_randomness", error.to_string(), "try again"))
    })?;
    if let Some(file) = &arguments.out {
        write(file, &key)?;
    }
    let file = arguments.out.as_ref().map(|file| file.display().to_string());
    let shown = file.is_none().then(|| Revealed::of(&key));
    reveal::deliver(&Made { fingerprint: fingerprint(&key), file, key: shown }, format, RESULT_BYTES_MAX)
}

fn write(file: &Path, key: &TfoKey) -> Result<(), Failure> {
    let text = Revealed::of(key);
    let mut line = Zeroizing::new(Vec::with_capacity(text.expose().len() + 1));
    line.extend_from_slice(text.expose().as_bytes());
    line.push(b'\n');
    files::create_new(file, &line, 0o600).map_err(|error| {
        let (outcome, kind, remedy) = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                (Outcome::Refused, "file_exists", "give another file: existing files are never overwritten")
            }
            _ => (Outcome::Failed, "file_not_made", "give a file in a directory that you can write to"),
        };
        let message = format!("cannot make {}: {error}", file.display());
        Failure::new(outcome, Problem::error(kind, message, remedy))
    })
}
