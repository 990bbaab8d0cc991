//! One coordinator process for each database file: a lock file beside it, held with flock(2).
//!
//! Not a lock on the database itself: closing any descriptor of that would drop SQLite's own locks (fcntl(2), POSIX
//! locks), and SQLite's locks last for one transaction only.

use std::fs::File;
use std::io::{Read, Write};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::place::{Place, file_error};
use crate::store::StoreError;

/// Longest note about the holder that is read back, in bytes.
const NOTE_BYTES_MAX: u64 = 200;

/// Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock of this database.
    pub(super) fn take(place: &Place) -> Result<Self, StoreError> {
        let path = place.beside(".lock");
        let failed = file_error("lock", &path);
        // Not O_TRUNC: until we hold the lock the note in it is another's.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file =
            File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                if file.take(NOTE_BYTES_MAX).read_to_string(&mut holder).is_err() || holder.is_empty() {
                    "unnamed".clone_into(&mut holder);
                }
                return Err(StoreError::InUse { place: place.text(), holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        // The note is a courtesy: on a full disk the lock holds without it.
        if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "pid {}", std::process::id())) {
            tracing::warn!(path = %path.display(), %error, "cannot note the holder in the lock file");
        }
        Ok(Self { file })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing would not be enough while another thread is between fork and exec: its child has a copy of the
        // descriptor until then, and the lock would outlive us by that moment (flock(2)).
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock the database; the end of the process will");
        }
    }
}
