//! The kernel's key file and TFO switch: one write(2) of the whole text, one read(2) back, compare.
//!
//! Why so: writes are parsed one by one and go live one by one, a read in two pieces can mix keys, and the parser takes
//! nonsense for keys (docs/kernel.md#the-key-file).  A failed write leaves the old keys.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::namespace::Namespace;
use crate::runtime::descriptors;
use tfo_crypto::fingerprint::fingerprint;
use tfo_model::caveat::{CLIENT_BITS, EVERY_LISTENER_BIT, SERVER_BIT, SERVER_WITHOUT_COOKIE_BIT};
use tfo_model::key::{KeyPair, PairPrint, TfoKey};
use tfo_model::key_text::{self, KeyText, TEXT_CHARS_MAX, TextError};
use tfo_model::problem::{Problem, chain};

/// `net.ipv4.tcp_fastopen_key` of the calling thread's network namespace (ip-sysctl).
pub const KEY_PATH: &str = "/proc/sys/net/ipv4/tcp_fastopen_key";
/// `net.ipv4.tcp_fastopen`: the TFO bits (ip-sysctl).
pub const BITS_PATH: &str = "/proc/sys/net/ipv4/tcp_fastopen";

/// What the kernel holds: none, or primary and backup, of which any may be zero.
pub type ShownKeys = Option<(TfoKey, Option<TfoKey>)>;

/// Which slots took a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotsTaken {
    /// All that were given.
    All,
    /// The kernel has no backup slot (before 5.3, commit 9092a76d3cf8): it holds the primary alone.
    PrimaryAlone,
}

/// The kernel does not hold what it should, or cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No such file: no TFO in this kernel, or no /proc (`ProcSubset=pid`).
    #[error("{} does not exist", .0.display())]
    NoFile(PathBuf),
    /// Not root and without CAP_NET_ADMIN, or the sandbox makes it read-only.
    #[error("no permission for {}", .path.display())]
    NotAllowed {
        /// The key file.
        path: PathBuf,
        /// EACCES, EPERM or EROFS.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Writing failed; the kernel keeps its old keys (docs/kernel.md#the-key-file).
    #[error("cannot write {}", .path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel shows something other than key text.
    #[error("{} has no valid key text", .path.display())]
    Strange {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        source: TextError,
    },
    /// The write succeeded, but other keys came back: another program writes too.
    #[error("{} was written, but other keys were read back: does another program write it?", .0.display())]
    ReadBack(PathBuf),
}

impl KernelError {
    /// The same for people: in which namespace, and what to do.
    #[must_use]
    pub fn problem(&self, namespace: &Namespace) -> Problem {
        let (kind, path, remedy) = match self {
            Self::NoFile(path) => {
                ("kernel_file_missing", path, "use a kernel with IPv4 TFO, and no ProcSubset=pid in the unit")
            }
            Self::NotAllowed { path, .. } => (
                "kernel_not_allowed",
                path,
                "run as root or with CAP_NET_ADMIN, and with ReadWritePaths= for this file in the unit",
            ),
            Self::Read { path, .. } => ("kernel_read", path, "look at the host: this file can always be read"),
            Self::Write { path, .. } => ("kernel_write", path, "look at the host: this file can always be written"),
            Self::Strange { path, .. } => {
                ("kernel_read", path, "set the key once by hand, or report this kernel as a bug")
            }
            Self::ReadBack(path) => (
                "kernel_read_back",
                path,
                "find the other program that writes the key (timers, cron, tofurkey) and stop it",
            ),
        };
        let problem = Problem::error(kind, format!("namespace {namespace}: {}", chain(self)), remedy).in_file(path);
        descriptors::problem_of(self, problem)
    }
}

/// The key file; its path is injected so that tests can put a plain file in its place.
#[derive(Debug, Clone)]
pub struct KeyFile {
    path: PathBuf,
}

impl Default for KeyFile {
    fn default() -> Self {
        Self::at(KEY_PATH)
    }
}

impl KeyFile {
    /// The file at this path.
    #[must_use]
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// What the kernel holds now, with one read(2) from offset 0.
    ///
    /// # Errors
    /// Fails if the file is missing, may not be read, or holds something other than keys.
    pub fn read(&self) -> Result<ShownKeys, KernelError> {
        let failed = |error| self.error(error, |path, source| KernelError::Read { path, source });
        let mut buffer = Zeroizing::new([0; TEXT_CHARS_MAX + 2]);
        let read = File::open(&self.path).and_then(|mut file| file.read(buffer.as_mut())).map_err(failed)?;
        key_text::parse_shown(&buffer[..read])
            .map_err(|source| KernelError::Strange { path: self.path.clone(), source })
    }

    /// Writes both keys at once, reads back and compares.  A kernel without a backup slot gets the primary alone.
    ///
    /// # Errors
    /// Fails if the file cannot be written or read, or if other keys come back.
    pub fn install(&self, keys: &KeyPair) -> Result<SlotsTaken, KernelError> {
        let refused = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::INVAL);
        let both = KeyText::of(keys);
        // Tried twice: the backup slot must not be given up for an error that came once.
        match self.write(&both).or_else(|error| if refused(&error) { self.write(&both) } else { Err(error) }) {
            Ok(()) => {}
            // Old kernels that refuse the comma; others cut there, which the read-back shows.
            Err(error) if keys.backup().is_some() && refused(&error) => {
                self.write(&KeyText::of_key(keys.primary())).map_err(|error| self.write_error(error))?;
            }
            Err(error) => return Err(self.write_error(error)),
        }
        let Some((primary, backup)) = self.read()? else { return Err(KernelError::ReadBack(self.path.clone())) };
        if !primary.same_as(keys.primary()) {
            return Err(KernelError::ReadBack(self.path.clone()));
        }
        match (keys.backup(), backup) {
            (None, None) => Ok(SlotsTaken::All),
            (Some(wanted), Some(shown)) if shown.same_as(wanted) => Ok(SlotsTaken::All),
            (Some(_), None) => Ok(SlotsTaken::PrimaryAlone),
            (_, Some(_)) => Err(KernelError::ReadBack(self.path.clone())),
        }
    }

    fn write(&self, text: &KeyText) -> io::Result<()> {
        let written = OpenOptions::new().write(true).open(&self.path)?.write(text.expose())?;
        // The rest must not be written after it: it would be parsed as a text of its own and go live.
        if written == text.expose().len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn write_error(&self, error: io::Error) -> KernelError {
        self.error(error, |path, source| KernelError::Write { path, source })
    }

    fn error(&self, error: io::Error, other: impl FnOnce(PathBuf, io::Error) -> KernelError) -> KernelError {
        let path = self.path.clone();
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => KernelError::NoFile(path),
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => KernelError::NotAllowed { path, source: error },
            _ => other(path, error),
        }
    }
}

/// Fingerprints of what a kernel shows.
#[must_use]
pub fn print_of(shown: &ShownKeys) -> Option<PairPrint> {
    shown
        .as_ref()
        .map(|(primary, backup)| PairPrint { primary: fingerprint(primary), backup: backup.as_ref().map(fingerprint) })
}

/// The TFO bits of the calling thread's network namespace; none if the kernel shows none.
///
/// Any int is taken by the kernel, also 4096 and -1 (docs/kernel.md#when-a-key-takes-effect), so no bit is refused here.
#[must_use]
pub fn tcp_fastopen_bits() -> Option<i32> {
    std::fs::read_to_string(BITS_PATH).ok()?.trim().parse().ok()
}

/// Sets the TFO bits of the calling thread's network namespace.
///
/// # Errors
/// Fails as the write does: EROFS where the unit does not open the file, EACCES without CAP_NET_ADMIN.
pub fn set_tcp_fastopen_bits(bits: i32) -> std::io::Result<()> {
    std::fs::write(BITS_PATH, bits.to_string())
}

/// The bits that have a meaning, each with its name in outputs.
const BIT_NAMES: [(i32, &str); 5] = [
    (CLIENT_BITS[0], "client"),
    (SERVER_BIT, "server"),
    (CLIENT_BITS[1], "client_without_cookie"),
    (SERVER_WITHOUT_COOKIE_BIT, "server_without_cookie"),
    (EVERY_LISTENER_BIT, "server_every_listener"),
];

/// The names of the bits that are set; bits without a meaning have none.
#[must_use]
pub fn bit_names(bits: i32) -> Vec<&'static str> {
    BIT_NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"13121110-17161514-1b1a1918-1f1e1d1c";

    fn plain_file(content: &[u8]) -> (tempfile::TempDir, KeyFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tcp_fastopen_key");
        std::fs::write(&path, content).unwrap();
        (dir, KeyFile::at(path))
    }

    fn pair() -> KeyPair {
        key_text::parse(b"13121110-17161514-1b1a1918-1f1e1d1c,00000001-00000002-00000003-00000004").unwrap()
    }

    #[test]
    fn what_was_written_comes_back() {
        let (_dir, file) = plain_file(b"");
        assert_eq!(file.install(&pair()).unwrap(), SlotsTaken::All);
        let (primary, backup) = file.read().unwrap().unwrap();
        assert!(primary.same_as(pair().primary()) && backup.unwrap().same_as(pair().backup().unwrap()));
        let print = print_of(&file.read().unwrap()).unwrap();
        assert_eq!(print, tfo_crypto::fingerprint::pair_print(&pair()));
        assert_eq!(print_of(&None), None);
    }

    #[test]
    fn other_keys_that_come_back_are_an_error() {
        // A plain file is not cut by a shorter text, so what comes back is not what was written.
        let (_dir, file) = plain_file(&[A, b",".as_slice(), A].concat());
        let single = KeyPair::new(pair().backup().unwrap().duplicate(), None).unwrap();
        assert!(matches!(file.install(&single), Err(KernelError::ReadBack(_))));
    }

    /// A file without a name, of which the test keeps a descriptor: each use opens what stands under /proc.
    fn behind(descriptor: &impl std::os::fd::AsRawFd) -> KeyFile {
        KeyFile::at(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
    }

    /// The write succeeds, and the first thing that is read afterwards is another program's text.
    #[test]
    fn another_programs_backup_is_an_error_too() {
        let (reader, writer) = io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::DIRECT).unwrap();
        for (text, is_ours) in
            [(&b"00000001-00000002-00000003-00000005"[..], false), (&KeyText::of(&pair()).expose()[36..], true)]
        {
            // One packet: a read ends with it.
            rustix::io::write(&writer, &[A, b",", text].concat()).unwrap();
            let installed = behind(&reader).install(&pair());
            assert_eq!(matches!(installed, Ok(SlotsTaken::All)), is_ours, "{installed:?}");
            assert_eq!(matches!(installed, Err(KernelError::ReadBack(_))), !is_ours, "{installed:?}");
            // What was written is behind it.
            let mut rest = [0; 100];
            assert_eq!(rustix::io::read(&reader, &mut rest).unwrap(), 71);
        }
    }

    /// The backup slot is given up only for EINVAL, which is what a kernel without one says.
    #[test]
    fn a_text_that_is_refused_for_another_reason_is_not_shortened() {
        use rustix::fs::{MemfdFlags, SealFlags};
        // It has room for one key, and does not grow: EPERM.
        let file = rustix::fs::memfd_create("key", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, A.len() as u64).unwrap();
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        let alone = KeyPair::new(pair().primary().duplicate(), None).unwrap();
        assert!(matches!(behind(&file).install(&pair()), Err(KernelError::NotAllowed { .. })));
        assert_eq!(behind(&file).install(&alone).unwrap(), SlotsTaken::All);
    }

    #[test]
    fn bits_are_spelled_out() {
        assert_eq!(bit_names(0), [""; 0]);
        assert_eq!(bit_names(3), ["client", "server"]);
        assert_eq!(bit_names(0x403), ["client", "server", "server_every_listener"]);
        assert_eq!(bit_names(4096), [""; 0]);
        assert_eq!(bit_names(-1).len(), BIT_NAMES.len());
    }

    #[test]
    fn a_missing_file_is_distinguished() {
        let file = KeyFile::at("/nonexistent/tcp_fastopen_key");
        assert!(matches!(file.read(), Err(KernelError::NoFile(_))));
        assert!(matches!(file.install(&pair()), Err(KernelError::NoFile(_))));
        let (_dir, file) = plain_file(b"garbage");
        assert!(matches!(file.read(), Err(KernelError::Strange { .. })));
    }
}
