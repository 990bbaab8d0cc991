//! `tfo-agent init`: a commented configuration and a fresh secret, to start from.  Never overwrites.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use tfo_config::agent::DEFAULT_FILE;
use tfo_crypto::derive::SECRET_BYTES_MIN;
use tfo_crypto::{fingerprint, random};
use tfo_host::runtime::files::{self, Durability};
use tfo_model::problem::Problem;

/// The commented example that is shipped; it has every key.
pub(crate) const EXAMPLE: &str = include_str!("../../config/agent.toml");
const CONFIG_NAME: &str = "agent.toml";
const SECRET_NAME: &str = "fleet.secret";
/// Beside the secret: which one was made here.  A purge of the package removes that secret and no other
/// (config/debian/tfo-agent/postrm).
const MARK_NAME: &str = "fleet.secret.init";

/// What `init` did with one file.
#[derive(Debug, PartialEq, Eq)]
pub enum Made {
    /// It is new.
    New(PathBuf),
    /// It existed and was not changed.
    Kept(PathBuf),
}

/// Creates the directory (0755), the secret (0400) and the configuration (0644), each only if it is missing.
///
/// # Errors
/// Fails with the first one that cannot be created.
pub fn init(directory: &Path) -> Result<Vec<Made>, Problem> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| {
            let message = format!("cannot create {}: {error}", path.display());
            Problem::error("init", message, "run as root, or name another directory with --dir")
        }
    };
    // The secret is named in the configuration, where a path must be absolute.
    let directory = &std::path::absolute(directory).map_err(failed(directory))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed(directory))?;
    let mut secret = Zeroizing::new([0; SECRET_BYTES_MIN]);
    random::fill(secret.as_mut()).map_err(|error| Problem::error("no_randomness", error.to_string(), "try again"))?;
    let secret_path = directory.join(SECRET_NAME);
    let config_path = directory.join(CONFIG_NAME);
    let default_secret = Path::new(DEFAULT_FILE).with_file_name(SECRET_NAME);
    let config = EXAMPLE.replace(&*default_secret.to_string_lossy(), &secret_path.to_string_lossy());
    let make = |path: &Path, content: &[u8], mode| match files::create_new(path, content, mode) {
        Ok(()) => Ok(Made::New(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Made::Kept(path.to_owned())),
        Err(error) => Err(failed(path)(error)),
    };
    let made = make(&secret_path, secret.as_slice(), 0o400)?;
    if let Made::New(_) = &made {
        let mark = directory.join(MARK_NAME);
        let text = fingerprint::secret_mark(secret.as_slice()) + "\n";
        files::replace(&mark, text.as_bytes(), 0o400, Durability::Synced)
            .map_err(|error| failed(&mark)(io::Error::other(error)))?;
    }
    Ok(vec![made, make(&config_path, config.as_bytes(), 0o644)?])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use tfo_config::agent::{AgentSettings, SourceSettings};
    use tfo_config::reader::ConfigFile;

    #[test]
    fn what_init_makes_can_be_used_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("etc/tfo-fleet");
        let made = init(&target).unwrap();
        let (secret, config) = (target.join("fleet.secret"), target.join("agent.toml"));
        assert_eq!(made, [Made::New(secret.clone()), Made::New(config.clone())]);
        let first = std::fs::read(&secret).unwrap();
        assert_eq!((first.len(), std::fs::metadata(&secret).unwrap().mode() & 0o7777), (32, 0o400));
        let settings = AgentSettings::load(&config).unwrap();
        let SourceSettings::Derive(derive) = &settings.source else { panic!("not derived") };
        assert_eq!(derive.entries[0].secret.value.to_string(), secret.display().to_string());
        assert_eq!(init(&target).unwrap(), [Made::Kept(secret.clone()), Made::Kept(config)]);
        assert_eq!(std::fs::read(&secret).unwrap(), first);
        let mark = std::fs::read_to_string(target.join(MARK_NAME)).unwrap();
        assert_eq!(mark.trim_end(), fingerprint::secret_mark(&first));
    }

    #[test]
    fn a_secret_of_another_maker_gets_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("fleet.secret"), [7; 32]).unwrap();
        init(dir.path()).unwrap();
        assert!(!dir.path().join(MARK_NAME).exists());
    }

    #[test]
    fn two_hosts_get_two_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let secret = |name: &str| {
            init(&dir.path().join(name)).unwrap();
            std::fs::read(dir.path().join(name).join("fleet.secret")).unwrap()
        };
        assert_ne!(secret("a"), secret("b"));
    }
}
