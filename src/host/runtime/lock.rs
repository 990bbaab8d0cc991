//! One agent per network namespace: a lock file in /run/tfo-agent, named after the namespace, held with flock(2).
//!
//! In a directory that only root (or the agent's own user) can write: in /run/lock any user could plant a file under a name
//! that any user can compute, and an agent without CAP_DAC_OVERRIDE could not even open it.
//!
//! A lock file is removed with its lock.  What a killed agent left, the next one of the namespace takes over, and a daemon that
//! starts removes, whichever namespace it was for.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::clock;

/// Where lock files live, whatever the configuration says: two agents with different ones must exclude each other.  The
/// units' RuntimeDirectory=, kept by RuntimeDirectoryPreserve=yes.
pub const DIRECTORY: &str = "/run/tfo-agent";
/// A lock file's name, around the identity of its namespace.
const NAME: (&str, &str) = ("net-", ".lock");
/// Pause between two attempts at a held lock.
const RETRY: Duration = Duration::from_millis(20);
/// Shortest wait for another holder: one that only removes a stale file holds its lock for a moment.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
/// Most files that a sweep looks at.
const SWEPT_MAX: usize = 1_000;
/// Youngest file that it removes: nothing is taken from under an agent that starts at this moment.
const SWEPT_AGE_MIN: Duration = Duration::from_secs(3_600);
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
    file: File,
    path: PathBuf,
}

impl NamespaceLock {
    /// Takes the lock of the namespace with this identity, waiting at most `patience` for another holder.
    ///
    /// # Errors
    /// Fails if it is held all that time, or if the file cannot be created or opened.
    pub fn take(namespace: &str, program: &str, patience: Duration) -> Result<Self, LockError> {
        Self::take_in(Path::new(DIRECTORY), namespace, program, patience)
    }

    fn take_in(dir: &Path, namespace: &str, program: &str, patience: Duration) -> Result<Self, LockError> {
        let path = dir.join(format!("{}{namespace}{}", NAME.0, NAME.1));
        let failed = |source: io::Error| LockError::Failed { path: path.clone(), source };
        secure_directory(dir).map_err(failed)?;
        let (start, patience) = (clock::monotonic(), patience.max(PATIENCE_MIN));
        let mut file = loop {
            let file = open_own(&path).map_err(failed)?;
            let locked = lock_exclusive(&file, Duration::ZERO).map_err(failed)?;
            if locked && is_at(&file, &path) {
                break file;
            }
            // A holder removes the file before it lets go: what was opened before locks nothing, and is opened again.
            let left = !clock::left_of(patience, start).is_zero();
            match locked {
                false if !left => {
                    return Err(LockError::Held { namespace: namespace.to_owned(), holder: note_of(file) });
                }
                true if !left => return Err(failed(io::Error::other("it is replaced again and again"))),
                _ => std::thread::sleep(RETRY),
            }
        };
        file.set_len(0).map_err(failed)?;
        let note = format!("pid {} ({program})\n", std::process::id());
        file.write_all(note.as_bytes()).map_err(failed)?;
        Ok(Self { file, path })
    }

    /// Whether the lock file is still this one.  Who removes the directory of a running agent takes its lock away: another
    /// agent would make a new file.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }
}

impl Drop for NamespaceLock {
    fn drop(&mut self) {
        // While it is locked, so that no other agent's file is removed.  A file that is left is swept by the next agent.
        if self.is_in_place() {
            drop(std::fs::remove_file(&self.path));
        }
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

/// The directory, made if it is missing, in which no other user can plant, hold or remove a lock file.
fn secure_directory(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        // Readable for all: status.json is there as well.
        Ok(()) => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Without write permission above it, it may be there all the same.
        Err(error) if !dir.exists() => return Err(error),
        Err(_) => {}
    }
    let found = std::fs::symlink_metadata(dir)?;
    let own = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && own && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let shown = dir.display();
    Err(io::Error::other(format!("{shown} must be a directory that only root or the agent's own user can write")))
}

/// Opens or makes the lock file: regular, of this user, 0600.  Other users can open no such file, and so cannot hold its lock.
fn open_own(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Not O_TRUNC: until we hold the lock the note in it is another's.
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let found = file.metadata()?;
    if found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0 {
        return Ok(file);
    }
    Err(io::Error::other("it is not a file of this user with mode 0600; remove it"))
}

/// Whether the path still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().is_ok_and(|own| std::fs::symlink_metadata(path).is_ok_and(|there| same(&own, &there)))
}

fn note_of(file: File) -> String {
    let mut holder = String::new();
    if file.take(NOTE_BYTES_MAX).read_to_string(&mut holder).is_err() || holder.is_empty() {
        "an unnamed process".clone_into(&mut holder);
    }
    holder.trim().to_owned()
}

/// Removes the lock files of agents that were killed: the inode in the name returns seldom, so they would stay for ever.
/// Nothing depends on it.
pub fn sweep() {
    sweep_in(Path::new(DIRECTORY));
}

fn sweep_in(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(SWEPT_MAX);
    let is_lock = |name: &str| name.starts_with(NAME.0) && name.ends_with(NAME.1);
    for path in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_lock)).map(|entry| entry.path()) {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()).map(File::from) else { continue };
        let age = || file.metadata()?.modified()?.elapsed().map_err(io::Error::other);
        if age().is_ok_and(|age| age >= SWEPT_AGE_MIN)
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && is_at(&file, &path)
        {
            drop(std::fs::remove_file(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn take(dir: &tempfile::TempDir, name: &str, program: &str) -> Result<NamespaceLock, LockError> {
        NamespaceLock::take_in(dir.path(), name, program, Duration::ZERO)
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_held_lock_is_refused_and_its_holder_named_and_nothing_stays() {
        let dir = directory();
        let lock = take(&dir, "1", "first").unwrap();
        let refused = take(&dir, "1", "second").err().unwrap();
        assert!(refused.to_string().contains(&format!("pid {} (first)", std::process::id())), "{refused}");
        let other = take(&dir, "2", "other").unwrap();
        assert_eq!(names(&dir), ["net-1.lock", "net-2.lock"]);
        drop(lock);
        assert_eq!(names(&dir), ["net-2.lock"]);
        drop((take(&dir, "1", "second").unwrap(), other));
        assert_eq!(names(&dir), [""; 0]);
    }

    #[test]
    fn what_a_killed_agent_left_is_taken_over_or_swept_and_a_held_or_young_file_is_not() {
        let dir = directory();
        let write = |name: &str, age: Duration| {
            let path = dir.path().join(name);
            std::fs::write(&path, "pid 1 (run)\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let at = std::fs::metadata(&path).unwrap().modified().unwrap() - age;
            File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        };
        write("net-1.lock", SWEPT_AGE_MIN);
        let _own = take(&dir, "1", "own").unwrap();
        let _held = take(&dir, "2", "held").unwrap();
        let held = File::options().write(true).open(dir.path().join("net-2.lock")).unwrap();
        held.set_modified(held.metadata().unwrap().modified().unwrap() - 2 * SWEPT_AGE_MIN).unwrap();
        for (name, age) in [("net-3.lock", SWEPT_AGE_MIN), ("net-4.lock", SWEPT_AGE_MIN / 2)] {
            write(name, age);
        }
        write("net-5.txt", SWEPT_AGE_MIN);
        write("status.json", SWEPT_AGE_MIN);
        sweep_in(dir.path());
        assert_eq!(names(&dir), ["net-1.lock", "net-2.lock", "net-4.lock", "net-5.txt", "status.json"]);
    }

    /// Each holds it alone for a moment, takes its file away and lets go, again and again.
    #[test]
    fn of_many_that_race_one_holds_it_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = directory();
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = NamespaceLock::take_in(dir.path(), "1", "racer", Duration::from_secs(30)).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                        assert!(lock.is_in_place());
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((taken.into_inner(), names(&dir).len()), (200, 0));
    }

    #[test]
    fn a_lock_whose_file_was_taken_away_says_so() {
        let dir = directory();
        let lock = take(&dir, "1", "first").unwrap();
        assert!(lock.is_in_place());
        std::fs::remove_file(dir.path().join("net-1.lock")).unwrap();
        assert!(!lock.is_in_place());
        let _second = take(&dir, "1", "second").unwrap();
        assert!(!lock.is_in_place());
        drop(lock);
        assert_eq!(names(&dir), ["net-1.lock"], "the second one's file stays");
    }

    #[test]
    fn a_directory_that_others_can_write_and_files_that_others_can_open_are_refused() {
        let dir = directory();
        for mode in [0o777, 0o1777, 0o775] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = take(&dir, "1", "own").err().unwrap();
            assert!(matches!(refused, LockError::Failed { .. }), "{refused:?}");
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("net-1.lock");
        let refused = || assert!(matches!(take(&dir, "1", "own"), Err(LockError::Failed { .. })));
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        refused();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        refused();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        refused();
        std::fs::remove_dir(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        refused();
    }
}
