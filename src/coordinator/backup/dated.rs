//! Backups in a directory of their own, named by their time: what tfo-coordinator-backup.timer makes.
//!
//! Invariants: only files that have such a name and are backups are ever removed, only after the new one is complete, and
//! never the new one.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::{Existing, Exported, KeyEncryptionKey, export, is_backup};
use tfo_host::runtime::clock;
use tfo_model::problem::Problem;
use tfo_model::time::UnixTime;
use tfo_store::ReadWhole;

/// Around the time in a name.
const PREFIX: &str = "tfo-fleet-";
const SUFFIX: &str = ".backup";

/// Writes a backup into `directory` and then removes the oldest ones there, until `keep` are left.
///
/// # Errors
/// As [`export`]; and if an old backup cannot be removed, after the new one was written.
pub fn export_dated(
    store: &dyn ReadWhole,
    kek: &KeyEncryptionKey,
    directory: &Path,
    keep: NonZeroUsize,
) -> Result<Exported, Problem> {
    let mut exported = export(store, kek, &directory.join(name_at(clock::now())), Existing::Keep)?;
    exported.removed = thin_out(directory, keep, &exported.file).map_err(|error| {
        let message = format!("the backup is complete, but older ones cannot be removed: {error}");
        let remedy = "make the directory writable for this user, or remove them by hand";
        Problem::error("backup_not_removed", message, remedy).in_file(directory)
    })?;
    Ok(exported)
}

/// The name of a backup of this time: in the order of names the oldest is first.  No colons: they mean a host to scp.
fn name_at(now: UnixTime) -> String {
    format!("{PREFIX}{}{SUFFIX}", now.to_string().replace(':', "-"))
}

fn is_dated(name: &OsStr) -> bool {
    let time = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
    let Some((day, time)) = time.and_then(|time| time.split_once('T')) else { return false };
    format!("{day}T{}", time.replace('-', ":")).parse::<UnixTime>().is_ok()
}

fn thin_out(directory: &Path, keep: NonZeroUsize, newest: &Path) -> io::Result<Vec<PathBuf>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // One that is gone meanwhile, or cannot be read, is not ours to remove.
        if path != newest && path.file_name().is_some_and(is_dated) && is_backup(&path).unwrap_or(false) {
            others.push(path);
        }
    }
    others.sort();
    others.truncate((others.len() + 1).saturating_sub(keep.get()));
    others.iter().try_for_each(fs::remove_file)?;
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_are_dated() {
        let now = UnixTime::from_secs(1_800_000_000);
        assert_eq!(name_at(now), "tfo-fleet-2027-01-15T08-00-00Z.backup");
        assert!(is_dated(OsStr::new(&name_at(now))));
        for other in ["tfo-fleet-.backup", "tfo-fleet-2027-01-15T08-00-00Z.backup.tmp", "2027-01-15T08-00-00Z", "mine"]
        {
            assert!(!is_dated(OsStr::new(other)), "{other}");
        }
    }
}
