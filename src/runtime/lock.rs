//! One agent per network namespace: a lock file in /run/lock, named after the namespace, held with flock(2).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::clock;

/// Where lock files live (Filesystem Hierarchy Standard 3.0, section 5.9; /run/lock since Debian 7).
const LOCK_DIR: &str = "/run/lock";
/// How often a held lock is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// Longest note about the holder that is read back, in bytes.
const NOTE_BYTES_MAX: u64 = 200;

/// The lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent looks after this namespace.
    #[error("another agent looks after network namespace {namespace} already: {holder}")]
    Held {
        /// Identity of the namespace.
        namespace: String,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}", .path.display())]
    Failed {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct NamespaceLock {
    _file: File,
}

impl NamespaceLock {
    /// Takes the lock of the namespace with this identity, waiting at most `patience` for another holder.
    ///
    /// # Errors
    /// Fails if it is held all that time, or if the file cannot be made or opened.
    pub fn take(namespace: &str, program: &str, patience: Duration) -> Result<Self, LockError> {
        let path = Path::new(LOCK_DIR).join(format!("tfo-agent.net-{namespace}.lock"));
        let failed = |source: io::Error| LockError::Failed { path: path.clone(), source };
        std::fs::create_dir_all(LOCK_DIR).map_err(failed)?;
        // Not O_TRUNC: until we hold the lock the note in it is another's.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let mut file = File::from(rustix::fs::open(&path, flags, mode).map_err(|error| failed(error.into()))?);
        let start = clock::monotonic();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if clock::left_of(patience, start).is_zero() => {
                    let mut holder = String::new();
                    if file.take(NOTE_BYTES_MAX).read_to_string(&mut holder).is_err() || holder.is_empty() {
                        "an unnamed process".clone_into(&mut holder);
                    }
                    let holder = holder.trim().to_owned();
                    return Err(LockError::Held { namespace: namespace.to_owned(), holder });
                }
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(RETRY),
                Err(error) => return Err(failed(error.into())),
            }
        }
        file.set_len(0).map_err(failed)?;
        let note = format!("pid {} ({program})\n", std::process::id());
        file.write_all(note.as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}
