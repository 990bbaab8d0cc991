//! Files of this program: replaced whole or not at all.  Secret files: read only if no other user can read them.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use zeroize::Zeroizing;

/// What a step of [`replace`] was doing when it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {path}", path = .path.display())]
pub struct ReplaceError {
    step: &'static str,
    path: std::path::PathBuf,
    source: io::Error,
}

impl ReplaceError {
    /// Whether [`place`] found the name taken.
    #[must_use]
    pub fn name_exists(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// Whether the new content must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fsync of the file before the rename and of the directory after it.
    Synced,
    /// Rename only: for files on tmpfs that are recreated at every start.
    Volatile,
}

/// Replaces `path` with `content`, mode `mode`, owned by the caller: readers see the old or the new file, whole.
///
/// The temporary file is in the same directory, is made with mode 0600, and ends in `.tmp`, which neither
/// systemd-sysctl nor procps reads (docs/kernel.md#the-key-file).  One that a killed run left behind is replaced.
///
/// # Errors
/// Fails if any step fails; `path` is the old file then, except when the last step, the directory's fsync, failed.
pub fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> Result<(), ReplaceError> {
    put(path, content, mode, durability, |from, to| std::fs::rename(from, to))
}

/// The same, durable, for a path that must be free: readers see no file or the whole one, and nothing is overwritten.
///
/// # Errors
/// Fails if the name exists ([`ReplaceError::name_exists`]) or if any step fails.
pub fn place(path: &Path, content: &[u8], mode: u32) -> Result<(), ReplaceError> {
    put(path, content, mode, Durability::Synced, rename_to_free)
}

/// Renames `from` to `to`, durable: readers of `to` see the old or the new file, whole.
///
/// # Errors
/// Fails if it cannot be renamed; after a failure of the directory's fsync `to` is the new file.
pub fn rename(from: &Path, to: &Path) -> Result<(), ReplaceError> {
    let step = |step, path: &Path| {
        let path = path.to_owned();
        move |source| ReplaceError { step, path, source }
    };
    std::fs::rename(from, to).map_err(step("replace", to))?;
    sync_directory_of(to).map_err(step("make durable", to))
}

/// Renames unless `to` exists.  NFS and some others have no such rename, but links, which need a free name too.
fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL) => std::fs::hard_link(from, to).and_then(|()| std::fs::remove_file(from)),
        done => done.map_err(io::Error::from),
    }
}

fn put(
    path: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
    rename: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), ReplaceError> {
    let mut temporary = OsString::from(path);
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let step = |step, path: &Path| {
        let path = path.to_owned();
        move |source| ReplaceError { step, path, source }
    };
    let result = write_new(temporary, content, mode, durability)
        .map_err(step("write", temporary))
        .and_then(|()| rename(temporary, path).map_err(step("replace", path)));
    if let Err(error) = result {
        // The first error is the one that matters; a .tmp file that is left, 0600, is never read.
        drop(std::fs::remove_file(temporary));
        return Err(error);
    }
    if durability == Durability::Synced {
        sync_directory_of(path).map_err(step("make durable", path))?;
    }
    Ok(())
}

/// Makes durable what was renamed, made or removed beside `path`.
///
/// # Errors
/// Fails if the directory cannot be opened or synced: a power cut may undo it then.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(match open() {
        Err(rustix::io::Errno::EXIST) => {
            std::fs::remove_file(path)?;
            open()?
        }
        other => other?,
    });
    file.write_all(content)?;
    if mode != 0o600 {
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    if durability == Durability::Synced { file.sync_all() } else { Ok(()) }
}

/// Creates a new file of this mode, whole and durable, or none.  An existing file is not changed.
///
/// # Errors
/// Fails if the name exists ([`io::ErrorKind::AlreadyExists`]), or if the file cannot be created or written.
pub fn create_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| sync_directory_of(path));
    if written.is_err() {
        // Otherwise a truncated secret would pass for a complete one later.
        std::fs::remove_file(path)?;
    }
    written
}

/// Why a secret file is not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It does not exist.
    #[error("it does not exist")]
    Missing,
    /// It cannot be opened or read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// Not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// Users other than its owner can read or change it.
    #[error("its mode is {mode:04o}: users other than its owner can read or change it")]
    Exposed {
        /// Permission bits.
        mode: u32,
    },
    /// It belongs to another user, who can read and change it.
    #[error("it belongs to uid {uid}, who can read and change it")]
    ForeignOwner {
        /// The owner.
        uid: u32,
    },
    /// More bytes than such a file can have.
    #[error("it has more than {max} bytes")]
    TooLong {
        /// The most it may have.
        max: usize,
    },
}

/// What protects a secret file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Owner and mode: only root or this user may have access.
    Mode,
    /// systemd: `$CREDENTIALS_DIRECTORY`, where an ACL can make a protected file look group-readable.
    CredentialsDirectory,
}

/// Opens a regular file for reading, and nothing else: a pipe without a writer would block for ever, and a device has
/// no end.
///
/// # Errors
/// Fails if it cannot be opened, or is not a regular file ([`io::ErrorKind::InvalidInput`]).
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Reads a whole secret file of at most `max` bytes into memory that is wiped.
///
/// # Errors
/// Fails if it is missing, unreadable, too long, or exposed to others.
pub fn read_secret(path: &Path, max: usize, guard: Guard) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => SecretFileError::Missing,
        // Made by `open_regular`, not the system's EINVAL.
        io::ErrorKind::InvalidInput if error.raw_os_error().is_none() => SecretFileError::NotAFile,
        _ => SecretFileError::Unreadable(error),
    };
    let file = open_regular(path).map_err(failed)?;
    check_guarded(&file.metadata().map_err(failed)?, guard)?;
    // One byte more than allowed, to detect a longer file, and no reallocation that would leave a copy behind.
    let mut bytes = Zeroizing::new(vec![0; max + 1]);
    let mut filled = 0;
    let mut file = file.take(max as u64 + 1);
    loop {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if filled > max {
        return Err(SecretFileError::TooLong { max });
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn check_guarded(found: &Metadata, guard: Guard) -> Result<(), SecretFileError> {
    if guard == Guard::CredentialsDirectory {
        return Ok(());
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Exposed { mode });
    }
    let uid = found.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(SecretFileError::ForeignOwner { uid });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_replaced_file_has_the_new_content_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.conf");
        std::fs::write(&path, "old").unwrap();
        replace(&path, b"new", 0o600, Durability::Synced).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), mode_of(&path)), (b"new".to_vec(), 0o600));
        replace(&path, b"newer", 0o644, Durability::Volatile).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), mode_of(&path)), (b"newer".to_vec(), 0o644));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_left_over_temporary_file_is_replaced_and_a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("file.conf"), dir.path().join("target"));
        std::fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join("file.conf.tmp")).unwrap();
        replace(&path, b"new", 0o600, Durability::Synced).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"untouched");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(!path.is_symlink());
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = replace(&dir.path().join("no/file"), b"new", 0o600, Durability::Synced).err().unwrap();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        // A directory in the file's place: the rename fails after the write.
        let path = dir.path().join("dir");
        std::fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new", 0o600, Durability::Synced).is_err());
        assert!(path.is_dir() && !dir.path().join("dir.tmp").exists());
    }

    #[test]
    fn a_placed_file_never_takes_the_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        place(&path, b"first", 0o600).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), mode_of(&path)), (b"first".to_vec(), 0o600));
        std::os::unix::fs::symlink("/nowhere", dir.path().join("link")).unwrap();
        for taken in ["backup", "link"] {
            assert!(
                place(&dir.path().join(taken), b"second", 0o600).is_err_and(|error| error.name_exists()),
                "{taken}"
            );
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert!(place(&dir.path().join("no/file"), b"x", 0o600).is_err_and(|error| !error.name_exists()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn exposed_and_endless_secrets_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(matches!(read_secret(&path, 10, Guard::Mode), Err(SecretFileError::Missing)));
        replace(&path, &[1; 10], 0o600, Durability::Volatile).unwrap();
        assert_eq!(*read_secret(&path, 10, Guard::Mode).unwrap(), [1; 10]);
        assert!(matches!(read_secret(&path, 9, Guard::Mode), Err(SecretFileError::TooLong { max: 9 })));
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_secret(&path, 10, Guard::Mode), Err(SecretFileError::Exposed { .. })), "{mode:o}");
        }
        assert!(read_secret(&path, 10, Guard::CredentialsDirectory).is_ok());
        assert!(matches!(read_secret(dir.path(), 10, Guard::Mode), Err(SecretFileError::NotAFile)));
        assert!(matches!(read_secret(Path::new("/dev/zero"), 10, Guard::Mode), Err(SecretFileError::NotAFile)));
    }
}
