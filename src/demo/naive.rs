//! The naive way to change a key, to compare with: one key, which every node replaces at once by the next.  No backup, no
//! staging, no waves; it is what a script on every host does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::error::DemoError;
use super::node::{File, Supplies};
use tfo_crypto::random;
use tfo_host::runtime::clock;
use tfo_host::runtime::files::{Durability, replace};
use tfo_model::key_text::KeyText;

/// Time between two rotations: the agents' look at the file, and as many connections as between two staged rotations.
const REST: Duration = Duration::from_secs(4);

const KEY_FILE: &str = "keys";

/// The script.
pub(super) struct Naive {
    key: Zeroizing<Vec<u8>>,
    /// The nodes' key files.
    files: Vec<PathBuf>,
    /// When the present key was written; none before clients connect.
    since: Option<Instant>,
}

impl Naive {
    pub(super) fn new() -> Result<Self, DemoError> {
        Ok(Self { key: fresh()?, files: Vec::new(), since: None })
    }

    /// The key file of a node, with the present key.
    pub(super) fn supplies(&mut self, directory: &Path) -> Supplies {
        let path = directory.join(KEY_FILE);
        let source_toml = format!("[source]\nkind = \"file\"\npath = \"{}\"", path.display());
        self.files.push(path);
        Supplies { source_toml, files: vec![File { name: KEY_FILE, content: self.key.clone() }] }
    }

    /// Longest time between two rotations, without the agents' share.
    pub(super) fn rest() -> Duration {
        REST
    }

    /// Replaces the key everywhere when it is time.
    pub(super) fn act(&mut self) -> Result<(), DemoError> {
        if !clock::left_of(REST, *self.since.get_or_insert_with(clock::monotonic)).is_zero() {
            return Ok(());
        }
        self.key = fresh()?;
        self.since = Some(clock::monotonic());
        for file in &self.files {
            replace(file, &self.key, 0o400, Durability::Volatile)?;
        }
        Ok(())
    }
}

fn fresh() -> Result<Zeroizing<Vec<u8>>, DemoError> {
    Ok(Zeroizing::new(KeyText::of_key(&random::fresh_key()?).expose().to_vec()))
}
