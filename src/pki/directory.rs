//! The directory of an authority that is kept by hand: ca.key (0600), ca.crt, index.json, crl.pem, and for each holder a
//! directory with its files, under the names that the shipped configurations have.
//!
//! One process at a time works in it (flock on `lock`).  Keys and certificates are never overwritten; the index and the
//! revocation list are replaced whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::authority::{self, Authority, AuthorityError, Lifetime, Subject};
use super::index::{Entry, Index};
use super::role::Role;
use super::serial;
use tfo_host::runtime::files::{self, Durability, Guard, SecretFileError};
use tfo_host::runtime::lock::lock_exclusive;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;

/// Files of the authority itself; no holder's directory can have such a name.
pub const OWN_FILES: [&str; 5] = [CA_CERTIFICATE, CA_KEY, INDEX, REVOCATION_LIST, LOCK];
/// The authority's certificate.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// Its private key.
pub const CA_KEY: &str = "ca.key";
const INDEX: &str = "index.json";
/// Its revocation list.
pub const REVOCATION_LIST: &str = "crl.pem";
const LOCK: &str = "lock";

/// Default lifetime of an authority in days: ten years.  Replacing it means a new ca.crt on every host; the lifetime of a
/// leaf and the revocation list limit the harm of a leaked leaf.
pub const AUTHORITY_DAYS: u32 = 3_650;
/// Default lifetime of a revocation list in days: that of hosts' certificates, so that one yearly round renews both.
///
/// Coordinators refuse new nodes under an expired list, and nothing renews this one automatically, so it must not be the first
/// thing of a fleet to expire.  A shorter life would gain nothing: the list is a local file, which an attacker on the network
/// cannot hold back, and every revocation makes a new one.
pub const LIST_DAYS: u32 = 397;

/// Longest index or certificate file in bytes: an index of some ten thousand certificates.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Longest private key file in bytes; a PKCS#8 P-256 key has 241.
const KEY_BYTES_MAX: usize = 8_192;
/// Longest wait for another process; it needs milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What a failure of a directory means for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller named the wrong thing.
    Usage,
    /// What is there does not allow it; nothing was changed.
    Refused,
    /// It could not be done.
    Failed,
}

/// Why a directory could not be used.
#[derive(Debug)]
pub struct DirectoryError {
    /// What it means.
    pub fault: Fault,
    /// What is wrong, and what to do.
    pub problem: Problem,
}

impl DirectoryError {
    fn failed(problem: Problem) -> Self {
        Self { fault: Fault::Failed, problem }
    }

    fn refused(kind: &'static str, message: impl Into<String>, remedy: &str) -> Self {
        Self { fault: Fault::Refused, problem: Problem::error(kind, message, remedy) }
    }

    /// A failure of the authority itself: no randomness, or nothing can be signed.
    fn sign(error: &AuthorityError) -> Self {
        Self::failed(Problem::error("sign", chain(error), "try again"))
    }
}

/// The directory, locked until dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory (0700), unless it is there, and locks it.
    fn make(path: &Path) -> Result<Self, DirectoryError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| cannot("make", path, &error))?;
        Self::lock(path)
    }

    /// Locks the directory of an authority.
    ///
    /// # Errors
    /// Fails if there is none, or if another program works in it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        if !path.join(CA_CERTIFICATE).exists() {
            let problem = Problem::error(
                "no_authority",
                format!("found no certificate authority in {}", path.display()),
                "name its directory with --dir, or make one with `tfoctl pki init --dir DIR`",
            );
            return Err(DirectoryError { fault: Fault::Usage, problem });
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let file = path.join(LOCK);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let lock = opened.map_err(|error| cannot("lock", &file, &error))?;
        if lock_exclusive(&lock, LOCK_PATIENCE).map_err(|error| cannot("lock", &file, &error))? {
            return Ok(Self { path: path.to_owned(), _lock: lock });
        }
        let message = format!("another program is working in {}", path.display());
        Err(DirectoryError::refused("locked", message, "wait until it is done, then run this again"))
    }

    /// Makes the directory with a new authority and an empty list; with `domains` it issues only names in these.
    ///
    /// # Errors
    /// Fails, and leaves no part of an authority, if one exists there, or if it cannot be made.
    pub fn create(
        path: &Path,
        days: u32,
        domains: &[NodeId],
        now: UnixTime,
    ) -> Result<(Self, Authority, Index), DirectoryError> {
        let directory = Self::make(path)?;
        directory.refuse_if_used()?;
        let made = authority::make(now, days, domains).map_err(|error| DirectoryError::sign(&error))?;
        let mut index = Index::empty(now);
        let put = directory.put_authority(&made.certificate, &made.key).and_then(|()| directory.authority());
        let listed = put.and_then(|authority| {
            directory.renew_list(&authority, &mut index, LIST_DAYS, now)?;
            Ok(authority)
        });
        match listed {
            Ok(authority) => Ok((directory, authority, index)),
            Err(error) => {
                directory.clear_authority();
                Err(error)
            }
        }
    }

    /// Writes the next revocation list.  Raises its number, writes the index, and only then the list: a number must never be
    /// used twice.
    ///
    /// # Errors
    /// Fails if the authority has ended, or if a file cannot be written.
    pub fn renew_list(
        &self,
        authority: &Authority,
        index: &mut Index,
        days: u32,
        now: UnixTime,
    ) -> Result<(), DirectoryError> {
        let lifetime = lifetime_of(authority, now, days)?;
        index.crl_number += 1;
        index.crl_next_update = lifetime.not_after;
        let text = authority.revocation_list(index.crl_number, lifetime, &index.revoked());
        let text = text.map_err(|error| DirectoryError::sign(&error))?;
        self.put_index(index)?;
        self.replace(REVOCATION_LIST, text.as_bytes(), 0o644)
    }

    /// Signs a certificate for a key, and has it in the index before anybody gets it.  Gives the certificate, PEM.
    ///
    /// # Errors
    /// Fails, without a change, if the name is another role's or outside of the authority's domains, or if the authority has
    /// ended.
    pub fn certify(
        &self,
        (authority, index): (&Authority, &mut Index),
        wanted: &Wanted<'_>,
        public_key: &[u8],
        now: UnixTime,
    ) -> Result<(String, Entry), DirectoryError> {
        let Wanted { role, name, addresses, days } = *wanted;
        wanted.refuse(authority, index, now)?;
        let lifetime = lifetime_of(authority, now, days)?;
        let serial = serial::fresh().map_err(|error| DirectoryError::sign(&error.into()))?;
        let subject = Subject { role, name, addresses, serial, lifetime };
        let text = authority.certify(&subject, public_key).map_err(|error| DirectoryError::sign(&error))?;
        let entry = Entry {
            serial,
            role,
            name: name.clone(),
            addresses: addresses.to_vec(),
            not_before: lifetime.not_before,
            not_after: lifetime.not_after,
            revoked_at: None,
        };
        index.certificates.push(entry.clone());
        self.put_index(index)?;
        Ok((text, entry))
    }

    /// A path in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses if any part of an authority exists already.
    fn refuse_if_used(&self) -> Result<(), DirectoryError> {
        let names = [CA_CERTIFICATE, CA_KEY, INDEX, REVOCATION_LIST];
        refuse_existing(&names.map(|name| self.file(name)), "name another directory with --dir")
    }

    /// Removes what a failed [`Self::create`] has left: all of it is new, because [`Self::refuse_if_used`] was asked under the
    /// lock.
    fn clear_authority(&self) {
        for name in [CA_KEY, CA_CERTIFICATE, INDEX, REVOCATION_LIST] {
            // The first error is the one to report; half an authority would block the next try.
            drop(std::fs::remove_file(self.file(name)));
        }
    }

    /// Writes a new authority.
    fn put_authority(&self, certificate: &str, key: &str) -> Result<(), DirectoryError> {
        write_new(&self.file(CA_KEY), key.as_bytes(), 0o600)?;
        write_new(&self.file(CA_CERTIFICATE), certificate.as_bytes(), 0o644)
    }

    /// Text of ca.crt.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub fn ca_certificate(&self) -> Result<String, DirectoryError> {
        let path = self.file(CA_CERTIFICATE);
        let bytes = read_bounded(&path).map_err(|error| cannot("read", &path, &error))?;
        String::from_utf8(bytes).map_err(|_| broken(&path, &AuthorityError::Certificate))
    }

    /// The authority, able to sign.
    ///
    /// # Errors
    /// Fails if certificate or key cannot be read, or if they do not belong together.
    pub fn authority(&self) -> Result<Authority, DirectoryError> {
        let certificate = self.ca_certificate()?;
        let path = self.file(CA_KEY);
        let key = files::read_secret(&path, KEY_BYTES_MAX, Guard::Mode).map_err(|error| secret(&path, &error))?;
        Authority::read(&certificate, &key).map_err(|error| match error {
            AuthorityError::Certificate => broken(&self.file(CA_CERTIFICATE), &error),
            _ => broken(&path, &error),
        })
    }

    /// The index of issued certificates.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub fn index(&self) -> Result<Index, DirectoryError> {
        let path = self.file(INDEX);
        let text = read_bounded(&path).map_err(|error| cannot("read", &path, &error))?;
        Index::parse(&text).map_err(|message| {
            let remedy = "restore it from a backup: only certificates in the index can be revoked";
            DirectoryError::failed(Problem::error("bad_index", message, remedy).in_file(&path))
        })
    }

    /// Replaces the index, durably.
    fn put_index(&self, index: &Index) -> Result<(), DirectoryError> {
        self.replace(INDEX, &index.to_json(), 0o600)
    }

    fn replace(&self, name: &str, content: &[u8], mode: u32) -> Result<(), DirectoryError> {
        let path = self.file(name);
        files::replace(&path, content, mode, Durability::Synced)
            .map_err(|error| DirectoryError::failed(file_problem(chain(&error))))
    }
}

/// A certificate to sign.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Rights of its holder.
    pub role: Role,
    /// The dNSName.
    pub name: &'a NodeId,
    /// The iPAddresses.
    pub addresses: &'a [IpAddr],
    /// Its lifetime, at most that of its authority.
    pub days: u32,
}

impl Wanted<'_> {
    /// Refuses if the name has a certificate of another role or is outside of the authority's domains, or if the authority has
    /// ended.
    ///
    /// # Errors
    /// Fails with the first of these.
    pub fn refuse(&self, authority: &Authority, index: &Index, now: UnixTime) -> Result<(), DirectoryError> {
        let name = self.name;
        if let Some(Entry { role, not_after, serial, .. }) = index.conflict(name, self.role, now) {
            let role = role.as_str();
            let message = format!("{name} has a certificate as {role} until {not_after} (serial {serial})");
            let remedy = "the name alone identifies a peer: use another name, or revoke that certificate";
            return Err(DirectoryError::refused("name_taken", message, remedy));
        }
        if !authority.may_name(name) {
            let message = format!("this authority issues only names in {}", authority.domains().join(", "));
            let remedy = "use a name in that domain; peers would not accept another";
            return Err(DirectoryError::refused("outside_domain", message, remedy));
        }
        lifetime_of(authority, now, self.days).map(drop)
    }
}

/// The lifetime of something new: at most that of its authority, which must not have ended.
fn lifetime_of(authority: &Authority, now: UnixTime, days: u32) -> Result<Lifetime, DirectoryError> {
    let lifetime = Lifetime::days(now, days).within(authority.lifetime());
    if lifetime.not_after > now {
        return Ok(lifetime);
    }
    let message = format!("the authority's own certificate expired at {}", authority.lifetime().not_after);
    Err(DirectoryError::refused("authority_expired", message, "make a new authority with `tfoctl pki init`"))
}

/// Files of a new certificate.
#[derive(Debug)]
pub struct Place {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority's certificate, in the same directory.
    pub ca: PathBuf,
}

impl Place {
    /// Files of a holder of this role in a directory of its own.
    #[must_use]
    pub fn of(role: Role, directory: &Path) -> Self {
        let file = |suffix: &str| directory.join(format!("{}.{suffix}", role.as_str()));
        Self { certificate: file("crt"), key: file("key"), ca: directory.join(CA_CERTIFICATE) }
    }

    /// Refuses if the certificate or the key exists, or another authority's certificate.
    ///
    /// # Errors
    /// Fails with the first one.
    pub fn refuse_if_used(&self, ca_certificate: &str) -> Result<(), DirectoryError> {
        let remedy = "move it away to make its successor, or name another directory with --out; \
                      `tfoctl pki revoke` revokes a certificate that is not needed any more";
        refuse_existing(&[self.certificate.clone(), self.key.clone()], remedy)?;
        match read_bounded(&self.ca) {
            Ok(found) if found == ca_certificate.as_bytes() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(cannot("read", &self.ca, &error)),
            Ok(_) => {
                let message = format!("{} is the certificate of another authority", self.ca.display());
                Err(DirectoryError::refused("exists", message, "name another directory with --out"))
            }
        }
    }

    /// Writes all three; if one cannot be written, none of the new ones stays.
    ///
    /// # Errors
    /// Fails with the first one that cannot be written.
    pub fn write(&self, certificate: &str, key: &str, ca_certificate: &str) -> Result<(), DirectoryError> {
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

fn refuse_existing(paths: &[PathBuf], remedy: &str) -> Result<(), DirectoryError> {
    // A dangling link counts too.
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => {
            let message = format!("{} exists already, and files are never overwritten", path.display());
            Err(DirectoryError::refused("exists", message, remedy))
        }
    }
}

/// Makes a new file of exactly this mode, complete and durable, or none.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), DirectoryError> {
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

fn cannot(verb: &str, path: &Path, error: &io::Error) -> DirectoryError {
    DirectoryError::failed(file_problem(format!("cannot {verb} {}: {error}", path.display())))
}

fn file_problem(message: String) -> Problem {
    Problem::error("file", message, "run it as the owner of the directory, with room on its disk")
}

fn broken(path: &Path, error: &AuthorityError) -> DirectoryError {
    let remedy = "restore ca.crt and ca.key from a backup of this directory";
    DirectoryError::failed(Problem::error("bad_authority", error.to_string(), remedy).in_file(path))
}

fn secret(path: &Path, error: &SecretFileError) -> DirectoryError {
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
    DirectoryError::failed(Problem::error("ca_key", chain(error), remedy).in_file(path))
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
