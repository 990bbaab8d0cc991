//! The place of a secret, never the secret itself: a file of its owner, or a systemd credential.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::runtime::descriptors;
use crate::runtime::files::{self, Guard, SecretFileError};
use tfo_model::problem::Problem;

/// Prefix of a credential's name.
const CREDENTIAL: &str = "credential:";
/// Set by systemd for services with LoadCredential= (`systemd.exec(5)`).
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Kind of the problem that only the service can see a credential.
pub const CREDENTIAL_UNSEEN: &str = "credential_unseen";

/// A path, or `credential:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPath {
    /// A file that only its owner may read.
    File(PathBuf),
    /// A credential that systemd hands to the service.
    Credential(String),
}

/// A text that is not the place of a secret.  It quotes nothing: the text may be the secret itself, by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecretPath {
    /// `~/x`, `x`, `$HOME/x`, or no path at all.
    #[error("this is not an absolute path")]
    NotAbsolute,
    /// `credential:` with no name, or with one that is a path.
    #[error("this is not the name of a credential")]
    Credential,
}

impl BadSecretPath {
    /// What to write.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::NotAbsolute => {
                "write the whole path from / (\"~\" and variables mean nothing here), or \"credential:NAME\""
            }
            Self::Credential => "write \"credential:NAME\" with the name given to LoadCredential=",
        }
    }
}

impl std::str::FromStr for SecretPath {
    type Err = BadSecretPath;

    fn from_str(text: &str) -> Result<Self, BadSecretPath> {
        match text.strip_prefix(CREDENTIAL) {
            Some(name) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
                Ok(Self::Credential(name.to_owned()))
            }
            Some(_) => Err(BadSecretPath::Credential),
            None if text.starts_with('/') => Ok(Self::File(text.into())),
            None => Err(BadSecretPath::NotAbsolute),
        }
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Credential(name) => write!(f, "{CREDENTIAL}{name}"),
        }
    }
}

impl SecretPath {
    /// Path of the file.  None for a credential outside of a service that has any.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Credential(name) => Some(Path::new(&std::env::var_os(CREDENTIALS_VARIABLE)?).join(name)),
        }
    }

    /// Reads at most `max` bytes.
    ///
    /// # Errors
    /// Fails, with the remedy, if it is missing, unreadable, exposed to others, or too long.
    pub fn read(&self, max: usize) -> Result<Zeroizing<Vec<u8>>, Problem> {
        let guard = match self {
            Self::File(_) => Guard::Mode,
            Self::Credential(_) => Guard::CredentialsDirectory,
        };
        let path = self.path().ok_or_else(|| {
            let message = format!("this process has no credentials: {CREDENTIALS_VARIABLE} is not set");
            let name = self.to_string();
            let name = name.trim_start_matches(CREDENTIAL);
            let remedy = format!("run it as a systemd service with LoadCredential={name}:/path, or name a file");
            Problem::error(CREDENTIAL_UNSEEN, message, remedy)
        })?;
        files::read_secret(&path, max, guard).map_err(|error| self.problem(&path, &error))
    }

    fn problem(&self, path: &Path, error: &SecretFileError) -> Problem {
        let shown = path.display();
        let message = match error {
            SecretFileError::Unreadable(cause) => format!("{self}: {error}: {cause}"),
            _ => format!("{self}: {error}"),
        };
        let (kind, remedy) = match error {
            SecretFileError::Missing | SecretFileError::Unreadable(_) if matches!(self, Self::Credential(_)) => {
                (CREDENTIAL_UNSEEN, "add LoadCredential= with that name to the unit".to_owned())
            }
            SecretFileError::Missing => {
                ("secret_missing", format!("put the secret at {shown}; the installed keys stay"))
            }
            SecretFileError::Unreadable(_) => ("secret_unreadable", format!("make {shown} readable for this user")),
            SecretFileError::NotAFile => ("secret_unreadable", "name a regular file".to_owned()),
            SecretFileError::Exposed { .. } => {
                ("secret_exposed", format!("chmod 0400 {shown}; if others may have read it, replace the secret"))
            }
            SecretFileError::ForeignOwner { .. } => {
                ("secret_exposed", format!("chown root {shown}; if its owner may have read it, replace the secret"))
            }
            SecretFileError::TooLong { .. } => ("secret_too_long", "name the right file".to_owned()),
        };
        descriptors::problem_of(error, Problem::error(kind, message, remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_by_path_or_credential() {
        assert_eq!("/a/b".parse(), Ok(SecretPath::File("/a/b".into())));
        assert_eq!("credential:fleet".parse(), Ok(SecretPath::Credential("fleet".into())));
        for bad in ["", "a/b", "~/a", "0123456789abcdef"] {
            assert_eq!(bad.parse::<SecretPath>(), Err(BadSecretPath::NotAbsolute), "{bad}");
        }
        for bad in ["credential:", "credential:../x", "credential:.x"] {
            assert_eq!(bad.parse::<SecretPath>(), Err(BadSecretPath::Credential), "{bad}");
        }
    }
}
