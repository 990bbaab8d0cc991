//! The directory of an authority: ca.key (0600), ca.crt, index.json, crl.pem, and for each holder a directory with its
//! files, under the names that the shipped configurations have.
//!
//! One process at a time works in it (flock on `lock`).  Keys and certificates are never overwritten; the index and the
//! revocation list are replaced whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::index::Index;
use tfo_cli::report::{Failure, Outcome};
use tfo_host::runtime::files::{self, Durability, Guard, SecretFileError};
use tfo_host::runtime::lock::lock_exclusive;
use tfo_model::problem::{Problem, chain};
use tfo_pki::authority::{Authority, AuthorityError};
use tfo_pki::role::Role;

/// Files of the authority itself; no holder's directory can have such a name.
pub(super) const OWN_FILES: [&str; 5] = [CA_CERTIFICATE, CA_KEY, INDEX, REVOCATION_LIST, LOCK];
pub(super) const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const INDEX: &str = "index.json";
pub(super) const REVOCATION_LIST: &str = "crl.pem";
const LOCK: &str = "lock";

/// Longest index or certificate file in bytes: an index of some ten thousand certificates.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Longest private key file in bytes; a PKCS#8 P-256 key has 241.
const KEY_BYTES_MAX: usize = 8_192;
/// Longest wait for another process; it needs milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

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
                format!("found no certificate authority in {}", path.display()),
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
        if lock_exclusive(&lock, LOCK_PATIENCE).map_err(|error| cannot("lock", &file, &error))? {
            return Ok(Self { path: path.to_owned(), _lock: lock });
        }
        let message = format!("another tfoctl is working in {}", path.display());
        let problem = Problem::error("locked", message, "wait until it is done, then run this again");
        Err(Failure::new(Outcome::Refused, problem))
    }

    /// A path in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses if any part of an authority exists already.
    pub(super) fn refuse_if_used(&self) -> Result<(), Failure> {
        let names = [CA_CERTIFICATE, CA_KEY, INDEX, REVOCATION_LIST];
        refuse_existing(&names.map(|name| self.file(name)), "name another directory with --dir")
    }

    /// Removes what a failed `init` has left.  This call has made all of it, because [`Directory::refuse_if_used`] was checked
    /// under the lock.
    pub(super) fn clear_authority(&self) {
        for name in [CA_KEY, CA_CERTIFICATE, INDEX, REVOCATION_LIST] {
            // The first error is the one to report; half an authority would block the next try.
            drop(std::fs::remove_file(self.file(name)));
        }
    }

    /// Writes a new authority.
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

    /// The index of issued certificates.
    pub(super) fn index(&self) -> Result<Index, Failure> {
        let path = self.file(INDEX);
        let text = read_bounded(&path).map_err(|error| cannot("read", &path, &error))?;
        Index::parse(&text).map_err(|message| {
            let remedy = "restore it from a backup: only certificates in the index can be revoked";
            Failure::new(Outcome::Failed, Problem::error("bad_index", message, remedy).in_file(&path))
        })
    }

    /// Replaces the index, durably.
    pub(super) fn put_index(&self, index: &Index) -> Result<(), Failure> {
        self.replace(INDEX, &index.to_json(), 0o600)
    }

    /// Replaces the revocation list, durably.
    pub(super) fn put_revocation_list(&self, list: &str) -> Result<(), Failure> {
        self.replace(REVOCATION_LIST, list.as_bytes(), 0o644)
    }

    fn replace(&self, name: &str, content: &[u8], mode: u32) -> Result<(), Failure> {
        let path = self.file(name);
        files::replace(&path, content, mode, Durability::Synced)
            .map_err(|error| Failure::new(Outcome::Failed, file_problem(chain(&error))))
    }
}

/// Files of a new certificate.
#[derive(Debug)]
pub(super) struct Place {
    /// The certificate.
    pub(super) certificate: PathBuf,
    /// Its private key.
    pub(super) key: PathBuf,
    /// The authority's certificate, in the same directory.
    pub(super) ca: PathBuf,
}

impl Place {
    /// Files of a holder of this role in a directory of its own.
    pub(super) fn of(role: Role, directory: &Path) -> Self {
        let file = |suffix: &str| directory.join(format!("{}.{suffix}", role.as_str()));
        Self { certificate: file("crt"), key: file("key"), ca: directory.join(CA_CERTIFICATE) }
    }

    /// Refuses if the certificate or the key exists, or another authority's certificate.
    pub(super) fn refuse_if_used(&self, ca_certificate: &str) -> Result<(), Failure> {
        let remedy = "move it away to make its successor, or name another directory with --out; \
                      `tfoctl pki revoke` revokes a certificate that is not needed any more";
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
            // An existing one was checked before: it is the same authority's.
            if !self.ca.exists() {
                rest = write_new(&self.ca, ca_certificate.as_bytes(), 0o644);
            }
        }
        if rest.is_err() {
            // The first error is the one to report; a part of the files is useless, and would block the next try.
            made.into_iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
        rest
    }
}

fn refuse_existing(paths: &[PathBuf], remedy: &str) -> Result<(), Failure> {
    // A dangling link counts too.
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => {
            let message = format!("{} exists already, and files are never overwritten", path.display());
            Err(Failure::new(Outcome::Refused, Problem::error("exists", message, remedy)))
        }
    }
}

/// Makes a new file of exactly this mode, complete and durable, or none.
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
    let remedy = "restore ca.crt and ca.key from a backup of this directory";
    Failure::new(Outcome::Failed, Problem::error("bad_authority", error.to_string(), remedy).in_file(path))
}

fn secret(path: &Path, error: &SecretFileError) -> Failure {
    let shown = path.display();
    let remedy = match error {
        SecretFileError::Exposed { .. } | SecretFileError::ForeignOwner { .. } => {
            format!(
                "chmod 0600 {shown} and chown it to yourself; if others may have read it, make a new authority and replace all certificates"
            )
        }
        SecretFileError::Missing => "restore the key from where it is kept, for the time of this command".to_owned(),
        SecretFileError::Unreadable(_) | SecretFileError::NotAFile | SecretFileError::TooLong { .. } => {
            "restore it from a backup".to_owned()
        }
    };
    Failure::new(Outcome::Failed, Problem::error("ca_key", chain(error), remedy).in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_put_whole_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(Role::Node, dir.path());
        // A dangling link: it does not exist, and cannot be made.
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &place.ca).unwrap();
        assert!(place.write("certificate", "key", "ca").is_err());
        assert!(!place.key.exists() && !place.certificate.exists());
        std::fs::remove_file(&place.ca).unwrap();
        assert!(place.write("certificate", "key", "ca").is_ok());
        assert!(place.key.exists() && place.certificate.exists() && place.ca.exists());
    }

    #[test]
    fn half_an_authority_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::make(&dir.path().join("pki")).unwrap();
        directory.put_authority("certificate", "key").unwrap();
        assert!(directory.refuse_if_used().is_err());
        directory.clear_authority();
        assert!(directory.refuse_if_used().is_ok());
    }
}
