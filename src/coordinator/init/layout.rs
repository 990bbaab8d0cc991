//! Where the files of a coordinator lie that `init` makes, and who owns them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::credential;
use crate::service_user;
use tfo_cli::report::{Failure, Outcome};
use tfo_config::coordinator::DEFAULT_FILE;
use tfo_host::runtime::files::{self, Durability};
use tfo_host::runtime::lock::lock_exclusive;
use tfo_model::problem::{Problem, chain};

/// The state directory of the unit, which its user owns.
const STATE: &str = "/var/lib/tfo-coordinator";
/// The drop-in of the unit, below its directory of drop-ins.
const DROP_IN: &str = "authority.conf";

/// The places on a host.
#[derive(Debug)]
pub struct Layout {
    /// Configuration, authority, key-encryption key: root's.
    pub etc: PathBuf,
    /// What the coordinator renews by itself: its own certificate and the revocation list.
    pub state: PathBuf,
    /// Directories of units, the one for this host's own first.
    pub units: Vec<PathBuf>,
    /// User and group of the service.
    pub owner: (u32, u32),
}

impl Layout {
    /// The places that units, packages and pages know.
    ///
    /// # Errors
    /// Fails without root's rights, or if this host has no user for the service.
    pub fn of_host() -> Result<Self, Problem> {
        if !rustix::process::geteuid().is_root() {
            let message = "`init` writes files of root and of the service";
            return Err(Problem::error("not_root", message, "run it as root; nothing was changed"));
        }
        let user = service_user::find().ok_or_else(|| {
            let message = format!("this host has no user {}, which the service runs as", service_user::NAME);
            let remedy = "install the package tfo-coordinator; or put systemd/sysusers.d/tfo-coordinator.conf into \
                          /usr/lib/sysusers.d, and run systemd-sysusers; nothing was changed";
            Problem::error("no_service_user", message, remedy)
        })?;
        let etc = Path::new(DEFAULT_FILE).parent().expect("it has a directory").to_owned();
        let units = credential::DIRECTORIES.map(PathBuf::from).to_vec();
        Ok(Self { etc, state: STATE.into(), units, owner: user.owner() })
    }

    /// Keeps other runs of `init` out until it is dropped.
    pub(super) fn lock(&self) -> Result<File, Failure> {
        /// Longest wait for another run, which takes milliseconds.
        const PATIENCE: Duration = Duration::from_secs(10);
        let locked = File::open(&self.etc).and_then(|directory| Ok((lock_exclusive(&directory, PATIENCE)?, directory)));
        match locked {
            Ok((true, directory)) => Ok(directory),
            Ok((false, _)) => {
                let message = format!("another `init` is working in {}", self.etc.display());
                let problem = Problem::error("locked", message, "wait until it is done, then run this again");
                Err(Failure::new(Outcome::Refused, problem))
            }
            Err(error) => {
                let problem = not_written(&format!("cannot lock {}: {error}", self.etc.display()));
                Err(Failure::new(Outcome::Failed, problem))
            }
        }
    }

    /// The directory of the authority, as `tfoctl pki` has it.
    pub(super) fn authority(&self) -> PathBuf {
        self.etc.join("pki")
    }

    /// The same while it is made: it gets its name when it is whole.
    pub(super) fn unfinished_authority(&self) -> PathBuf {
        self.etc.join("pki.new")
    }

    /// The authority's certificate, for all.
    pub(super) fn ca(&self) -> PathBuf {
        self.etc.join("ca.crt")
    }

    /// The key-encryption key.
    pub(super) fn kek(&self) -> PathBuf {
        self.etc.join("kek")
    }

    /// Certificate and key of root as an operator.
    pub(super) fn operator(&self) -> PathBuf {
        self.etc.join("operator.pem")
    }

    /// The coordinator's configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.etc.join("coordinator.toml")
    }

    /// The operator's configuration.
    pub(super) fn ctl(&self) -> PathBuf {
        self.etc.join("ctl.toml")
    }

    /// The coordinator's certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.state.join("coordinator.crt")
    }

    /// Its private key.
    pub(super) fn key(&self) -> PathBuf {
        self.state.join("coordinator.key")
    }

    /// The revocation list.
    pub(super) fn list(&self) -> PathBuf {
        self.state.join("crl.pem")
    }

    /// What gives the authority's key to the service.
    pub(super) fn drop_in(&self) -> PathBuf {
        self.units[0].join(format!("{}.d", credential::UNIT)).join(DROP_IN)
    }
}

/// What is in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing.
    Free,
    /// The example of the package, unchanged.
    Example,
    /// What belongs there.
    Taken,
}

/// Puts a file, whole and durable, into a place that is not taken; `owner`: whose it is then, root's without.
pub(super) fn put(
    path: &Path,
    content: &[u8],
    mode: u32,
    place: Place,
    owner: Option<(u32, u32)>,
) -> Result<(), Problem> {
    let done = match place {
        Place::Free => files::place(path, content, mode),
        Place::Example => files::replace(path, content, mode, Durability::Synced),
        Place::Taken => return Ok(()),
    };
    done.map_err(|error| not_written(&chain(&error)))?;
    owner.map_or(Ok(()), |owner| give(path, owner))
}

/// Gives a file to the service's user.
pub(super) fn give(path: &Path, (user, group): (u32, u32)) -> Result<(), Problem> {
    std::os::unix::fs::chown(path, Some(user), Some(group))
        .map_err(|error| not_written(&format!("cannot give {} to the service's user: {error}", path.display())))
}

/// The problem of a step that failed.
pub(super) fn not_written(what: &str) -> Problem {
    let remedy = "correct that, and run the same command again: it keeps what it has made, and makes the rest";
    Problem::error("init_write", what, remedy)
}
