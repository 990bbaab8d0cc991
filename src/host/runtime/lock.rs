//! One agent per network namespace: a lock file in /run/lock, named after the namespace, held with flock(2).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::clock;

/// Where lock files live (Filesystem Hierarchy Standard 3.0, section 5.9; /run/lock since Debian 7).
const LOCK_DIR: &str = "/run/lock";
/// Pause between two attempts at a held lock.
const RETRY: Duration = Duration::from_millis(20);
/// How often another user's lock file is removed before the lock is given up.
const TRIES: usize = 5;
/// Longest note about the holder that is read back, in bytes.
const NOTE_BYTES_MAX: u64 = 200;

/// The lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent manages this namespace.
    #[error("another agent already manages network namespace {namespace}: {holder}")]
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
        /// The cause.
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
    /// Fails if it is held all that time, or if the file cannot be created or opened.
    pub fn take(namespace: &str, program: &str, patience: Duration) -> Result<Self, LockError> {
        let path = Path::new(LOCK_DIR).join(format!("tfo-agent.net-{namespace}.lock"));
        let failed = |source: io::Error| LockError::Failed { path: path.clone(), source };
        let mut file = open_own(&path).map_err(failed)?;
        if !lock_exclusive(&file, patience).map_err(failed)? {
            let mut holder = String::new();
            if file.take(NOTE_BYTES_MAX).read_to_string(&mut holder).is_err() || holder.is_empty() {
                "an unnamed process".clone_into(&mut holder);
            }
            let holder = holder.trim().to_owned();
            return Err(LockError::Held { namespace: namespace.to_owned(), holder });
        }
        file.set_len(0).map_err(failed)?;
        let note = format!("pid {} ({program})\n", std::process::id());
        file.write_all(note.as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Locks a file with flock(2), waiting at most `patience` for another holder; false if that was not enough.
///
/// # Errors
/// Fails if the file cannot be locked at all.
pub fn lock_exclusive(file: &File, patience: Duration) -> io::Result<bool> {
    let start = clock::monotonic();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if clock::left_of(patience, start).is_zero() => return Ok(false),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(RETRY),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens the lock file, 0600 and owned by this user: any user may create files in /run/lock, and could hold a lock on a
/// file that it can open.
fn open_own(path: &Path) -> io::Result<File> {
    for _ in 0..TRIES {
        // No O_CREAT at first: with it the kernel refuses another user's file even to root (ip-sysctl
        // fs.protected_regular).  Not O_TRUNC: until we hold the lock the note in it is another's.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => {
                let file = File::from(file);
                let found = file.metadata()?;
                if found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0 {
                    return Ok(file);
                }
                std::fs::remove_file(path)?;
            }
            Err(Errno::LOOP | Errno::NXIO) => std::fs::remove_file(path)?,
            // A directory may have content, which must not be deleted: it is renamed.
            Err(Errno::ISDIR) => std::fs::rename(path, path.with_extension(format!("planted-{}", std::process::id())))?,
            Err(Errno::NOENT) => match make_own(path) {
                Err(Errno::EXIST) => {}
                // A minimal container may lack the directory.
                Err(Errno::NOENT) => std::fs::create_dir_all(LOCK_DIR)?,
                made => return Ok(made?),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("another process recreates it as often as it is removed"))
}

fn make_own(path: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A namespace that no other test and no agent has.
    fn nobodys() -> String {
        format!("test-{}-{:?}", std::process::id(), std::thread::current().id()).replace(['(', ')'], "")
    }

    #[test]
    fn a_held_lock_is_refused_and_its_holder_named() {
        let name = nobodys();
        let lock = NamespaceLock::take(&name, "first", Duration::ZERO).unwrap();
        let refused = NamespaceLock::take(&name, "second", Duration::from_millis(60)).err().unwrap();
        assert!(refused.to_string().contains(&format!("pid {} (first)", std::process::id())), "{refused}");
        drop(lock);
        assert!(NamespaceLock::take(&name, "second", Duration::ZERO).is_ok());
        std::fs::remove_file(Path::new(LOCK_DIR).join(format!("tfo-agent.net-{name}.lock"))).unwrap();
    }

    #[test]
    fn a_lock_file_that_others_can_open_is_replaced() {
        let name = nobodys();
        let path = Path::new(LOCK_DIR).join(format!("tfo-agent.net-{name}.lock"));
        std::fs::write(&path, "planted").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let planted = File::open(&path).unwrap();
        flock(&planted, FlockOperation::NonBlockingLockExclusive).unwrap();
        let _lock = NamespaceLock::take(&name, "ours", Duration::ZERO).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        let _lock = NamespaceLock::take(&name, "ours", Duration::ZERO).unwrap();
        assert!(!path.is_symlink());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir_all(path.join("full")).unwrap();
        let _lock = NamespaceLock::take(&name, "ours", Duration::ZERO).unwrap();
        assert!(path.is_file());
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir_all(path.with_extension(format!("planted-{}", std::process::id()))).unwrap();
    }
}
