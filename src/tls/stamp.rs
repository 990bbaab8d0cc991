//! Whether a file is still the one that was read, and reading until it is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Most times that files are read again because they were replaced meanwhile.
const READ_AGAIN_MAX: usize = 32;

/// What changes when a file is written or replaced.  Inode and change time see a copy that kept size and mtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file behind `path`, links followed (Kubernetes and certbot swap links).  None if it cannot be seen.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Reads files; after a failure once more if they are not those that were there before.
pub(super) fn read_steady<S: PartialEq, T, E>(stamps: impl Fn() -> S, read: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let mut before = stamps();
    let mut found = read();
    for _ in 0..READ_AGAIN_MAX {
        let now = stamps();
        if found.is_ok() || now == before {
            break;
        }
        before = now;
        found = read();
    }
    found
}
