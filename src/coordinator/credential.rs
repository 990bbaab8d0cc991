//! Whether the service's unit gives it a credential, and whether that can be made.  `check` cannot read a credential:
//! systemd shows it to the service's main process alone, not to a shell and not to ExecReload= (systemd issue 35227).
//!
//! Read from the unit's files, because a service's sandbox has no systemctl.  Must not know: the content.

use std::fs;
use std::path::{Path, PathBuf};

use tfo_crypto::seal::KeyEncryptionKey;
use tfo_model::problem::Problem;

/// The service's unit.
pub const UNIT: &str = "tfo-coordinator.service";
/// Where units are; of two with one name the first counts (`systemd.unit(5)`).
pub const DIRECTORIES: [&str; 3] = ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"];

/// One credential that the unit loads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    name: String,
    /// The file, if it is one that this host has to have.
    file: Option<PathBuf>,
    /// Sealed for this host: another length than the secret's.
    is_encrypted: bool,
}

/// Which secret a credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// The key that seals those in the store.
    KeyEncryptionKey,
    /// The private key of the authority.
    AuthorityKey,
}

impl Secret {
    /// Its length in bytes, if that is always the same.
    const fn bytes(self) -> Option<usize> {
        match self {
            Self::KeyEncryptionKey => Some(KeyEncryptionKey::BYTES),
            Self::AuthorityKey => None,
        }
    }

    /// What else the setting may name.
    fn as_file(self) -> String {
        match self {
            Self::KeyEncryptionKey => format!("a file of {} bytes", KeyEncryptionKey::BYTES),
            Self::AuthorityKey => "the key's file".to_owned(),
        }
    }

    /// How it is made.
    fn made(self, shown: &str) -> String {
        match self {
            Self::KeyEncryptionKey => format!(
                "(umask 377; head -c {} /dev/urandom > {shown}), and keep a copy apart from the store: without it all keys in \
                 the store are lost",
                KeyEncryptionKey::BYTES
            ),
            Self::AuthorityKey => format!(
                "put the private key of enrolment.ca_cert at {shown}, with mode 0400; `tfo-coordinator init` or `tfoctl pki \
                 init` made it"
            ),
        }
    }
}

/// What is wrong with a secret, by its credential's name; none if the unit loads it and its file is as it should be.
#[must_use]
pub fn problem_of(name: &str, secret: Secret) -> Option<Problem> {
    judge(name, secret, &unit_text(&DIRECTORIES.map(Path::new)))
}

/// Whether the unit, as it is in these directories, loads a credential, from wherever.
#[must_use]
pub fn is_loaded(name: &str, directories: &[&Path]) -> bool {
    sources(&unit_text(directories)).iter().any(|source| source.name == name)
}

fn judge(name: &str, secret: Secret, unit: &str) -> Option<Problem> {
    if unit.is_empty() {
        let message = format!("this host has no {UNIT}, and only a service can read a credential");
        let remedy =
            format!("start the coordinator as a systemd service with LoadCredential={name}:FILE, or name a file");
        return Some(Problem::warning("credential_unseen", message, remedy));
    }
    let Some(source) = sources(unit).into_iter().rfind(|source| source.name == name) else {
        let message = format!("{UNIT} loads no credential {name:?}, so the coordinator cannot start");
        let remedy = format!(
            "systemctl edit tfo-coordinator, and add [Service] and LoadCredential={name}:FILE; or name {} here",
            secret.as_file()
        );
        return Some(Problem::error("credential_not_loaded", message, remedy));
    };
    let file = source.file?;
    let shown = file.display();
    let wrong = match fs::metadata(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        // A directory that this user cannot enter: systemd can.
        Err(_) => return None,
        Ok(found) => {
            let wanted = secret.bytes().filter(|wanted| !source.is_encrypted && found.len() != *wanted as u64);
            format!("has {} bytes instead of {}", found.len(), wanted?)
        }
    };
    let message = format!("{UNIT} loads it from {shown}, which {wrong}");
    Some(Problem::error("credential_missing", message, secret.made(&shown.to_string())))
}

/// The unit and its drop-ins, in the order in which systemd reads them.
fn unit_text(directories: &[&Path]) -> String {
    let unit = directories.iter().find_map(|directory| fs::read_to_string(directory.join(UNIT)).ok());
    let drop_ins = directories.iter().flat_map(|directory| fs::read_dir(directory.join(format!("{UNIT}.d"))));
    let mut drop_ins: Vec<PathBuf> = drop_ins.flatten().flatten().map(|entry| entry.path()).collect();
    drop_ins.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    drop_ins.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    let texts = drop_ins.iter().filter_map(|path| fs::read_to_string(path).ok());
    unit.into_iter().chain(texts).collect::<Vec<_>>().join("\n")
}

/// `LoadCredential=NAME:FILE` and its kin; an empty one takes back those before it.
fn sources(text: &str) -> Vec<Source> {
    let mut found: Vec<Source> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let is_file = match key.trim_end() {
            "LoadCredential" | "LoadCredentialEncrypted" => true,
            "SetCredential" | "SetCredentialEncrypted" | "ImportCredential" => false,
            _ => continue,
        };
        let (name, rest) = value.trim().split_once(':').unwrap_or((value.trim(), ""));
        if name.is_empty() {
            found.clear();
            continue;
        }
        // Without a slash it is a name in a credential store, and with a % systemd fills something in.
        let file = (is_file && rest.starts_with('/') && !rest.contains('%')).then(|| rest.into());
        found.push(Source { name: name.to_owned(), file, is_encrypted: key.trim_end().ends_with("Encrypted") });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_unit_and_drop_ins_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let directories = [path("etc"), path("usr")];
        for made in ["etc/tfo-coordinator.service.d", "usr"] {
            fs::create_dir_all(path(made)).unwrap();
        }
        let find = |name: &str| {
            judge(name, Secret::KeyEncryptionKey, &unit_text(&directories.each_ref().map(PathBuf::as_path)))
                .map(|problem| problem.kind)
        };
        assert_eq!(find("kek"), Some("credential_unseen"), "there is no unit");
        let kek = path("kek");
        fs::write(path("usr/tfo-coordinator.service"), format!("[Service]\nLoadCredential=kek:{}\n", kek.display()))
            .unwrap();
        assert_eq!(find("kek"), Some("credential_missing"));
        fs::write(&kek, [7; 31]).unwrap();
        assert_eq!(find("kek"), Some("credential_missing"));
        fs::write(&kek, [7; 32]).unwrap();
        assert_eq!((find("kek"), find("other")), (None, Some("credential_not_loaded")));
        let drop_in = path("etc/tfo-coordinator.service.d/own.conf");
        fs::write(&drop_in, "[Service]\nLoadCredential=\nLoadCredentialEncrypted=own:/nowhere/own.cred\n").unwrap();
        assert_eq!((find("kek"), find("own")), (Some("credential_not_loaded"), Some("credential_missing")));
        fs::write(&drop_in, format!("[Service]\nLoadCredentialEncrypted=own:{}\n", drop_in.display())).unwrap();
        assert_eq!(find("own"), None, "of any length");
        fs::write(&drop_in, "[Service]\nSetCredential=own:0123\nLoadCredential=stored\n").unwrap();
        assert_eq!((find("own"), find("stored"), find("kek")), (None, None, None));
    }
}
