//! One coordinator process for each database file: a lock file beside it, held with flock(2).
//!
//! The file names its holder and the position of the database ([`Mark`]), which the database itself cannot: SQLite takes
//! a WAL that was removed or cut for one that a crash cut, and silently starts from an older state.
//!
//! The database itself is held too, by flock(2): it can get a second name, and its lock file can be removed.  That
//! descriptor is opened before SQLite opens the database and closed after it has closed it, because closing any descriptor
//! of a file drops SQLite's own locks (fcntl(2), POSIX locks), which last for one transaction only.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::file::{DatabaseFile, file_error};
use crate::error::StoreError;
use tfo_crypto::checksum::checksum;
use tfo_crypto::seal::KeyEncryptionKeys;

/// Longest note that is read back, in bytes.
const NOTE_BYTES_MAX: u64 = 200;
/// First word of the line with the mark.
const MARK: &str = "writes";
/// First word of the line with the names of the holder's key-encryption keys.
const KEYS: &str = "keys";

/// Position of a database.  Noted after each commit and without a sync of its own: after a power cut the note may lag
/// behind the database, and it is never ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Identity of the database.
    pub(super) store_id: [u8; 16],
    /// Sum over its pools of revisions and record writes, and of the entries of the log of enrolment: all only rise.
    pub(super) writes: u64,
}

impl Mark {
    fn line(&self) -> String {
        let id = u128::from_be_bytes(self.store_id);
        let text = format!("{MARK} {id:032x} {:020}", self.writes);
        format!("{text} {:032x}\n", u128::from_be_bytes(checksum(&[text.as_bytes()])))
    }

    /// Reads a line; none if it is not complete.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ').skip(1);
        let store_id = u128::from_str_radix(words.next()?, 16).ok()?.to_be_bytes();
        let mark = Self { store_id, writes: words.next()?.parse().ok()? };
        (mark.line().trim_end() == line).then_some(mark)
    }
}

/// A file that must stay where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Placed {
    fn of(file: &File, path: PathBuf) -> Result<Self, StoreError> {
        let found = file.metadata().map_err(file_error("look at", &path))?;
        Ok(Self { path, device: found.dev(), inode: found.ino() })
    }

    fn check(&self) -> Result<(), StoreError> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(file_error("look at", &self.path)(error)),
            Ok(_) | Err(_) => Err(StoreError::Gone { place: self.path.display().to_string() }),
        }
    }
}

/// Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    /// The database, once it is there.
    database: Option<File>,
    placed: Vec<Placed>,
    /// The mark of the run before.
    pub(super) found: Option<Mark>,
    /// Offset of the mark in the file.
    offset: u64,
}

impl FileLock {
    /// Takes the lock of this database.
    pub(super) fn take(place: &DatabaseFile) -> Result<Self, StoreError> {
        let path = place.beside(".lock");
        let failed = file_error("lock", &path);
        // Not O_TRUNC: until we hold the lock the note in it is another's.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?);
        let note = |file: &File| {
            let mut text = String::new();
            // An unreadable note counts as empty; only the lock matters.
            file.take(NOTE_BYTES_MAX).read_to_string(&mut text).map_or_else(|_| String::new(), |_| text)
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let note = note(&file);
                let holder = note.lines().next().unwrap_or("unnamed").trim().to_owned();
                return Err(StoreError::InUse { place: place.text(), holder });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let found = note(&file).lines().nth(1).and_then(Mark::parse);
        let holder = format!("pid {}\n", std::process::id());
        let text = found.map_or_else(|| holder.clone(), |mark| holder.clone() + &mark.line());
        // The note is a courtesy: on a full disk the lock holds without it.
        if let Err(error) = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0)) {
            tracing::warn!(path = %path.display(), %error, "cannot note the holder in the lock file");
        }
        let placed = vec![Placed::of(&file, path.clone())?];
        Ok(Self { file, database: None, placed, found, offset: holder.len() as u64 })
    }

    /// Holds the database itself, before SQLite opens it.
    pub(super) fn hold(&mut self, place: &DatabaseFile) -> Result<(), StoreError> {
        let failed = file_error("lock", &place.0);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&place.0, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let database = File::from(opened);
        let links = database.metadata().map_err(&failed)?.nlink();
        if links > 1 {
            return Err(StoreError::Linked { place: place.text(), links });
        }
        flock(&database, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => {
                let holder = "a coordinator whose lock file was removed".to_owned();
                StoreError::InUse { place: place.text(), holder }
            }
            error => failed(error.into()),
        })?;
        self.placed.push(Placed::of(&database, place.0.clone())?);
        self.database = Some(database);
        Ok(())
    }

    /// Adds a file that must stay where it is, if it is there.
    pub(super) fn watch(&mut self, path: PathBuf) {
        if let Ok(found) = std::fs::symlink_metadata(&path) {
            self.placed.push(Placed { path, device: found.dev(), inode: found.ino() });
        }
    }

    /// Fails if a file of the store is no longer at its place: what is written then is lost.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.placed.iter().try_for_each(Placed::check)
    }

    /// Notes the position of the database after a commit.
    pub(super) fn note(&self, mark: Mark) {
        if let Err(error) = self.file.write_all_at(mark.line().as_bytes(), self.offset) {
            tracing::debug!(%error, "cannot note the latest commit in the lock file");
        }
    }

    /// Notes, after the mark, which key-encryption keys this process has: one that it does not have may not seal in the store.
    pub(super) fn note_keys(&self, keys: &KeyEncryptionKeys) {
        let names: Vec<&str> = keys.all().map(|key| key.id().as_str()).collect();
        let mark = Mark { store_id: [0; 16], writes: 0 }.line().len() as u64;
        let line = format!("{KEYS} {}\n", names.join(" "));
        let end = self.offset + mark;
        if let Err(error) = self.file.set_len(end).and_then(|()| self.file.write_all_at(line.as_bytes(), end)) {
            tracing::debug!(%error, "cannot note the key-encryption keys in the lock file");
        }
    }

    /// The names of the key-encryption keys that the process has which holds this lock; read beside it.
    pub(super) fn keys_of_holder(place: &DatabaseFile) -> Vec<String> {
        let text = std::fs::read(place.beside(".lock")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix(KEYS)?.strip_prefix(' '));
        line.map(|names| names.split(' ').map(str::to_owned).collect()).unwrap_or_default()
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing would not be enough while another thread is between fork and exec: its child has a copy of the
        // descriptor until then, and the lock would outlive us by that moment (flock(2)).
        for file in std::iter::once(&self.file).chain(&self.database) {
            if let Err(error) = flock(file, FlockOperation::Unlock) {
                tracing::warn!(%error, "cannot unlock the database; the end of the process will");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_whole_or_not_at_all() {
        let mark = Mark { store_id: [7; 16], writes: 1_234 };
        let line = mark.line();
        let line = line.trim_end();
        assert_eq!(Mark::parse(line), Some(mark));
        assert_eq!(line.len(), Mark { writes: u64::MAX, ..mark }.line().trim_end().len(), "always written over whole");
        for at in 0..line.len() {
            let mut torn = line.as_bytes().to_vec();
            torn[at] = if torn[at] == b'3' { b'4' } else { b'3' };
            assert_eq!(Mark::parse(std::str::from_utf8(&torn).unwrap()), None, "byte {at}");
            assert_eq!(Mark::parse(&line[..at]), None, "cut to {at}");
        }
    }
}
