//! Network namespaces: run one step in another one, and distinguish two of them.
//!
//! `/proc/sys/net` follows the calling thread's namespace at open(), and an open file stays with the namespace that it was opened in
//! (docs/kernel.md#the-key-file), so entering, opening and leaving is enough.  Entering needs CAP_SYS_ADMIN.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::runtime::descriptors::is_exhausted;
use tfo_model::ids::NamespaceName;

/// Where `ip netns add` keeps names (iproute2, `ip-netns(8)`).
pub(super) const NAMES_DIR: &str = "/run/netns";
const OWN_PATH: &str = "/proc/thread-self/ns/net";

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    /// The one that this process runs in.
    Own,
    /// One with a name under /run/netns.
    Named(NamespaceName),
    /// One that was found in a place of the configuration, and may be gone at any time.
    Found(FoundNamespace),
}

/// One that was found: it is the one with this identity, and no other that is in its place later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundNamespace {
    name: String,
    path: PathBuf,
    identity: NamespaceIdentity,
}

impl FoundNamespace {
    pub(super) fn new(name: String, path: PathBuf, identity: NamespaceIdentity) -> Self {
        Self { name, path, identity }
    }

    /// The one that is behind a file now.
    ///
    /// # Errors
    /// Fails if the file cannot be opened.
    pub fn at(name: String, path: PathBuf) -> Result<Self, NamespaceError> {
        let opened = File::open(&path).and_then(|file| file.metadata());
        let found = opened.map_err(|source| NamespaceError::Open { path: path.clone(), source })?;
        Ok(Self { name, path, identity: NamespaceIdentity::new(found.dev(), found.ino()) })
    }

    /// Which namespace it is.
    #[must_use]
    pub fn identity(&self) -> NamespaceIdentity {
        self.identity
    }
}

impl fmt::Display for Namespace {
    /// The name; `own` for the agent's own namespace, which has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Identity of a namespace, whatever its names: device and inode of its file in nsfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceIdentity {
    device: u64,
    inode: u64,
}

impl NamespaceIdentity {
    /// Of these numbers, as stat(2) has them.
    #[must_use]
    pub fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }
}

impl fmt::Display for NamespaceIdentity {
    /// As in `readlink /proc/self/ns/net`: the inode.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inode.fmt(f)
    }
}

/// A namespace cannot be looked at or entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// No such name, or no network namespace behind it.
    #[error("no network namespace {}", .path.display())]
    Open {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It may not be entered.
    #[error("cannot enter network namespace {}", .path.display())]
    Enter {
        /// Its file.
        path: PathBuf,
        /// Why: EPERM without CAP_SYS_ADMIN, or under `RestrictNamespaces=`.
        source: io::Error,
    },
}

impl Namespace {
    /// The name in every output.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Own => "own",
            Self::Named(name) => name.as_str(),
            Self::Found(found) => &found.name,
        }
    }

    /// Whether it comes and goes.
    #[must_use]
    pub fn is_found(&self) -> bool {
        matches!(self, Self::Found(_))
    }

    /// Whether `error` means that it is gone: there is nothing to do then.
    #[must_use]
    pub fn is_gone(&self, error: &NamespaceError) -> bool {
        let entered = match error {
            NamespaceError::Open { source, .. } => !is_exhausted(source),
            NamespaceError::Enter { source, .. } => !matches!(source.kind(), io::ErrorKind::PermissionDenied),
        };
        self.is_found() && entered
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Own => OWN_PATH.into(),
            Self::Named(name) => [NAMES_DIR, name.as_str()].iter().collect(),
            Self::Found(found) => found.path.clone(),
        }
    }

    fn open(&self) -> Result<File, NamespaceError> {
        let path = self.path();
        let opened = File::open(&path).and_then(|file| match self {
            Self::Found(found) => {
                let behind = file.metadata()?;
                let is_it = NamespaceIdentity::new(behind.dev(), behind.ino()) == found.identity;
                if is_it {
                    Ok(file)
                } else {
                    Err(io::Error::new(io::ErrorKind::NotFound, "it is gone, and another one is there"))
                }
            }
            Self::Own | Self::Named(_) => Ok(file),
        });
        opened.map_err(|source| NamespaceError::Open { path, source })
    }

    /// Which namespace it is at this moment.
    ///
    /// # Errors
    /// Fails if there is none of that name.
    pub fn identity(&self) -> Result<NamespaceIdentity, NamespaceError> {
        let found = self.open()?.metadata();
        let found = found.map_err(|source| NamespaceError::Open { path: self.path(), source })?;
        Ok(NamespaceIdentity { device: found.dev(), inode: found.ino() })
    }

    /// Runs `step` on this thread inside the namespace, and comes back.
    ///
    /// # Errors
    /// Fails if there is no such namespace, or if it may not be entered; `step` has not run then.
    ///
    /// # Panics
    /// Ends the process if the way back is barred: every later write would go to the wrong namespace.
    pub fn within<R>(&self, step: impl FnOnce() -> R) -> Result<R, NamespaceError> {
        if matches!(self, Self::Own) {
            return Ok(step());
        }
        let (own, other) = (Self::Own.open()?, self.open()?);
        move_into_link_name_space(other.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| NamespaceError::Enter { path: self.path(), source: error.into() })?;
        let _back = WayBack(own);
        Ok(step())
    }
}

/// Returns to the namespace when dropped, also when the step panics.
struct WayBack(File);

impl Drop for WayBack {
    fn drop(&mut self) {
        if move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
            std::process::abort();
        }
    }
}
