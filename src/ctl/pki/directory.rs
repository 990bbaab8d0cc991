//! The directory of an authority: ca.key (0600), ca.crt, index.json, crl.pem, and the certificates issued into it.
//!
//! One process at a time works in it (flock on `lock`).  Keys and certificates are never overwritten; the index and the
//! revocation list are replaced whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::authority::{Authority, AuthorityError};
use super::index::Index;
use tfo_cli::report::{Failure, Outcome};
use tfo_host::runtime::clock;
use tfo_host::runtime::files::{self, Durability, Guard, SecretFileError};
use tfo_model::problem::Problem;

/// File names that the authority needs for itself.
pub(super) const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const INDEX: &str = "index.json";
pub(super) const REVOCATION_LIST: &str = "crl.pem";
const LOCK: &str = "lock";

/// Longest file of ours in bytes: an index of some ten thousand certificates.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Longest private key file in bytes; a PKCS#8 P-256 key has 241.
const KEY_BYTES_MAX: usize = 8_192;
/// How long another process is waited for; it needs milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How often a held lock is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The directory, locked until dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory (0700), unless it is there, and locks it.
    pub(super) fn make(path: &Path) -> Result<Self, Failure> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| cannot("make", path, &error))?;
        Self::lock(path)
    }

    /// Locks the directory of an authority.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if !path.join(CA_CERTIFICATE).exists() {
            let problem = Problem::error(
                "no_authority",
                format!("there is no certificate authority in {}", path.display()),
                "name its directory with --dir, or make one with `tfoctl pki init --dir DIR`",
            );
            return Err(Failure::new(Outcome::Config, problem));
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, Failure> {
        let file = path.join(LOCK);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let lock = opened.map_err(|error| cannot("lock", &file, &error))?;
        let start = clock::monotonic();
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                Err(Errno::WOULDBLOCK) if clock::left_of(LOCK_PATIENCE, start).is_zero() => {
                    let message = format!("another tfoctl works in {}", path.display());
                    let problem = Problem::error("locked", message, "wait until it is done, then run this again");
                    return Err(Failure::new(Outcome::Refused, problem));
                }
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY),
                Err(error) => return Err(cannot("lock", &file, &error.into())),
            }
        }
    }

    /// A path in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses if any part of an authority is there already.
    pub(super) fn refuse_if_used(&self) -> Result<(), Failure> {
        let names = [CA_CERTIFICATE, CA_KEY, INDEX, REVOCATION_LIST];
        refuse_existing(&names.map(|name| self.file(name)), "name another directory with --dir")
    }

    /// Takes away what a failed start of an authority has left: all of it was made by this call, for
    /// [`Directory::refuse_if_used`] was asked before under the lock.
    pub(super) fn clear_authority(&self) {
        for name in [CA_KEY, CA_CERTIFICATE, INDEX, REVOCATION_LIST] {
            // The first error is the one to tell; half an authority would be in the way of the next try.
            drop(std::fs::remove_file(self.file(name)));
        }
    }

    /// Puts a new authority there.
    pub(super) fn put_authority(&self, certificate: &str, key: &str) -> Result<(), Failure> {
        write_new(&self.file(CA_KEY), key.as_bytes(), 0o600)?;
        write_new(&self.file(CA_CERTIFICATE), certificate.as_bytes(), 0o644)
    }

    /// Text of ca.crt.
    pub(super) fn ca_certificate(&self) -> Result<String, Failure> {
        let path = self.file(CA_CERTIFICATE);
        let bytes = read_bounded(&path).map_err(|error| cannot("read", &path, &error))?;
        String::from_utf8(bytes).map_err(|_| broken(&path, &AuthorityError::Certificate))
    }

    /// The authority, able to sign.
    pub(super) fn authority(&self) -> Result<Authority, Failure> {
        let certificate = self.ca_certificate()?;
        let path = self.file(CA_KEY);
        let key = files::read_secret(&path, KEY_BYTES_MAX, Guard::Mode).map_err(|error| secret(&path, &error))?;
        Authority::read(&certificate, &key).map_err(|error| match error {
            AuthorityError::Certificate => broken(&self.file(CA_CERTIFICATE), &error),
            _ => broken(&path, &error),
        })
    }

    /// What was issued.
    pub(super) fn index(&self) -> Result<Index, Failure> {
        let path = self.file(INDEX);
        let text = read_bounded(&path).map_err(|error| cannot("read", &path, &error))?;
        Index::parse(&text).map_err(|message| {
            let remedy = "take it from a backup: certificates that are in no index cannot be revoked";
            Failure::new(Outcome::Failed, Problem::error("bad_index", message, remedy).in_file(&path))
        })
    }

    /// Keeps what was issued, durably.
    pub(super) fn put_index(&self, index: &Index) -> Result<(), Failure> {
        self.replace(INDEX, &index.to_json(), 0o600)
    }

    /// Replaces the revocation list, durably.
    pub(super) fn put_revocation_list(&self, list: &str) -> Result<(), Failure> {
        self.replace(REVOCATION_LIST, list.as_bytes(), 0o644)
    }

    fn replace(&self, name: &str, content: &[u8], mode: u32) -> Result<(), Failure> {
        let path = self.file(name);
        files::replace(&path, content, mode, Durability::Synced).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            Failure::new(Outcome::Failed, file_problem(format!("{error}{cause}")))
        })
    }
}

/// Where a certificate goes.
#[derive(Debug)]
pub(super) struct Place {
    /// Its own file.
    pub(super) certificate: PathBuf,
    /// Its private key.
    pub(super) key: PathBuf,
    /// The authority's certificate, beside it.
    pub(super) ca: PathBuf,
}

impl Place {
    /// Files of this name in a directory.
    pub(super) fn of(name: &str, directory: &Path) -> Self {
        let file = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        Self { certificate: file("crt"), key: file("key"), ca: directory.join(CA_CERTIFICATE) }
    }

    /// Refuses if the certificate or the key is there, or another authority's certificate.
    pub(super) fn refuse_if_used(&self, ca_certificate: &str) -> Result<(), Failure> {
        let remedy = "move it away once its successor is to be made, or name another directory with --out; \
                      a certificate that is no longer wanted is revoked with `tfoctl pki revoke`";
        refuse_existing(&[self.certificate.clone(), self.key.clone()], remedy)?;
        match read_bounded(&self.ca) {
            Ok(found) if found == ca_certificate.as_bytes() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(cannot("read", &self.ca, &error)),
            Ok(_) => {
                let message = format!("{} is the certificate of another authority", self.ca.display());
                let remedy = "name another directory with --out";
                Err(Failure::new(Outcome::Refused, Problem::error("exists", message, remedy)))
            }
        }
    }

    /// Writes all three; if one cannot be written, none of the new ones stays.
    pub(super) fn write(&self, certificate: &str, key: &str, ca_certificate: &str) -> Result<(), Failure> {
        if let Some(directory) = self.key.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| cannot("make", directory, &e))?;
        }
        write_new(&self.key, key.as_bytes(), 0o600)?;
        let mut made = vec![&self.key];
        let mut rest = write_new(&self.certificate, certificate.as_bytes(), 0o644);
        if rest.is_ok() {
            made.push(&self.certificate);
            // What is there was looked at before: it is the same authority's.
            if !self.ca.exists() {
                rest = write_new(&self.ca, ca_certificate.as_bytes(), 0o644);
            }
        }
        if rest.is_err() {
            // The first error is the one to tell; a part of them is of no use to anybody, and in the way of the next try.
            made.into_iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
        rest
    }
}

fn refuse_existing(paths: &[PathBuf], remedy: &str) -> Result<(), Failure> {
    // A link that leads nowhere is in the way too.
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => {
            let message = format!("{} is there already, and nothing is ever overwritten", path.display());
            Err(Failure::new(Outcome::Refused, Problem::error("exists", message, remedy)))
        }
    }
}

/// Makes a new file of exactly this mode, whole and durable, or none.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    files::create_new(path, content, mode).map_err(|error| cannot("make", path, &error))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    files::open_regular(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Outcome::Failed, file_problem(format!("cannot {verb} {}: {error}", path.display())))
}

fn file_problem(message: String) -> Problem {
    Problem::error("file", message, "run it as the owner of the directory, with room on its disk")
}

fn broken(path: &Path, error: &AuthorityError) -> Failure {
    let remedy = "take ca.crt and ca.key from a backup of this directory";
    Failure::new(Outcome::Failed, Problem::error("bad_authority", error.to_string(), remedy).in_file(path))
}

fn secret(path: &Path, error: &SecretFileError) -> Failure {
    let shown = path.display();
    let remedy = match error {
        SecretFileError::Exposed { .. } | SecretFileError::ForeignOwner { .. } => {
            format!(
                "chmod 0600 {shown} and make it yours; if others may have read it, make a new authority and replace all"
            )
        }
        SecretFileError::Missing => "bring the key back from where it is kept for the time of this command".to_owned(),
        SecretFileError::Unreadable(_) | SecretFileError::NotAFile | SecretFileError::TooLong { .. } => {
            "take it from a backup".to_owned()
        }
    };
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    Failure::new(Outcome::Failed, Problem::error("ca_key", format!("{error}{cause}"), remedy).in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_put_whole_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of("n1.test", dir.path());
        // A link that leads nowhere: neither there nor to be made.
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &place.ca).unwrap();
        assert!(place.write("certificate", "key", "ca").is_err());
        assert!(!place.key.exists() && !place.certificate.exists());
        std::fs::remove_file(&place.ca).unwrap();
        assert!(place.write("certificate", "key", "ca").is_ok());
        assert!(place.key.exists() && place.certificate.exists() && place.ca.exists());
    }

    #[test]
    fn half_an_authority_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::make(&dir.path().join("pki")).unwrap();
        directory.put_authority("certificate", "key").unwrap();
        assert!(directory.refuse_if_used().is_err());
        directory.clear_authority();
        assert!(directory.refuse_if_used().is_ok());
    }
}
