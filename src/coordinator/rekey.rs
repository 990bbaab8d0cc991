//! `rekey`: the next key-encryption key takes the place of the present one, while coordinators serve the store.
//!
//! What it says at its end is the whole truth about erasing: copies that the key before opens stay in backups, and in etcd in
//! the history, the logs and the snapshots.  They are worth nothing without that key, so its destruction erases them all.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::{preflight, store};
use tfo_cli::plain::counted;
use tfo_cli::report::{Failure, Outcome, Report};
use tfo_config::coordinator::CoordinatorSettings;
use tfo_config::reader::ConfigFile;
use tfo_model::problem::Problem;
use tfo_store::{Erasure, Rekeyed};

/// What was done, and what is left to do.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Pools of the store.
    pools: usize,
    /// Keys that were sealed again.
    keys: usize,
    /// Public name of the key that seals now.
    sealed_by: String,
    /// Where copies are left that the key before opens.
    left_in: Left,
}

/// See [`Shown`].
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Left {
    /// Only in backups that were made before.
    Backups,
    /// In the database, until the next commit of a rotation, and in backups.
    Database,
    /// In the history, logs and snapshots of etcd, and in backups.
    History,
}

/// Puts the next key-encryption key of the configuration in the place of the present one.
///
/// # Errors
/// Fails with what is wrong with the configuration, or why the store keeps its key.
pub fn rekey(config: &Path) -> Result<Shown, Failure> {
    let wrong = |problems| Failure { outcome: Outcome::Config, problems };
    let settings = CoordinatorSettings::load(config).map_err(wrong)?;
    let keys = preflight::keys_of(&settings).map_err(|problem| wrong(vec![problem]))?;
    let Some(sealed_by) = keys.next().map(|next| next.id().to_string()) else {
        let message = "there is no next key-encryption key, or it is the present one";
        let remedy = "make one (`head -c 32 /dev/urandom`, mode 0400), add key_encryption_key_next = \"/etc/tfo-fleet/kek-next\" to \
                      [store] of every coordinator, reload them, and ask again";
        let problem = Problem::error("missing_key", message, remedy).at_key("store.key_encryption_key_next");
        return Err(wrong(vec![problem.in_file(config)]));
    };
    let Rekeyed { pools, keys, erasure } = store::rekey(&settings, keys).map_err(|problem| {
        let outcome = match problem.kind {
            "store_not_prepared" => Outcome::Refused,
            "store_wrong_key" => Outcome::Config,
            _ => Outcome::Failed,
        };
        Failure::new(outcome, problem)
    })?;
    let left_in = match erasure {
        Erasure::Done => Left::Backups,
        Erasure::Waiting => Left::Database,
        Erasure::History => Left::History,
    };
    Ok(Shown { pools, keys, sealed_by, left_in })
}

impl Report for Shown {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { pools, keys, sealed_by, left_in } = self;
        let (pools, keys) = (counted(*pools, "pool"), counted(*keys, "key"));
        writeln!(
            out,
            "{keys} of {pools} sealed again: key-encryption key {sealed_by} opens all keys in the store now"
        )?;
        let left = match left_in {
            Left::Backups => "backups that were made before",
            Left::Database => {
                "the -wal file, until the next commit of a rotation, because another program reads the database; and in backups that were made before"
            }
            Left::History => "the history, the logs and the snapshots of etcd, and in backups that were made before",
        };
        writeln!(out, "copies that the key before opens are left in {left}")?;
        writeln!(
            out,
            "next: make a backup, name this key in store.key_encryption_key of every coordinator without \
             key_encryption_key_next, reload them, and destroy the key before: nothing opens those copies then"
        )
    }
}
