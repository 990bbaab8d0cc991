//! Landlock: what this process may still write, execute and connect to once it has started (landlock(7)).
//!
//! Invariants: nothing widens it, for this process and what it starts; a kernel without it changes nothing.  Reading stays as file
//! modes and the unit leave it: an agent looks for other writers of the key all over the host.  Must not know: settings, keys.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use tfo_model::state::Confinement;

/// The first Landlock with rules for TCP (Linux 6.7).
const NETWORK: ABI = ABI::V4;
/// What replacing a file takes in its directory.
const IN_DIRECTORY: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | RemoveFile | MakeReg | Truncate});

/// What writing a file in place takes.
const IN_PLACE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | Truncate});

/// What stays possible.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Directories in which files are replaced.
    pub directories: BTreeSet<PathBuf>,
    /// Files that are written in place, and directories below which all are.
    pub files: BTreeSet<PathBuf>,
    /// TCP ports that are connected to.
    pub connect: BTreeSet<u16>,
    /// TCP ports that are listened on.
    pub bind: BTreeSet<u16>,
}

/// How this process is confined.
#[derive(Debug)]
pub struct Confined {
    /// How much of it is enforced.
    pub level: Confinement,
    allowed: Allowed,
    /// Whether connections are among it.
    has_network: bool,
    /// A rule is about an inode, and one in /proc/sys lives as long as something uses it: the next one would be another.
    _pinned: Vec<PathFd>,
}

impl Confined {
    /// Not at all, and why.
    #[must_use]
    pub fn not(level: Confinement) -> Self {
        Self { level, allowed: Allowed::default(), has_network: false, _pinned: Vec::new() }
    }

    /// What of `wanted` is not possible any more, in words; nothing where nothing is enforced.
    #[must_use]
    pub fn lacks(&self, wanted: &Allowed) -> Vec<String> {
        if !matches!(self.level, Confinement::Full | Confinement::Partial) {
            return Vec::new();
        }
        let path = |path: &PathBuf| format!("write {}", path.display());
        // What is allowed in a directory is allowed below it.
        let is_below = |directory: &&PathBuf| self.allowed.directories.iter().any(|above| directory.starts_with(above));
        let directories = wanted.directories.iter().filter(|directory| !is_below(directory)).map(path);
        let mut lacking: Vec<String> =
            directories.chain(wanted.files.difference(&self.allowed.files).map(path)).collect();
        if self.has_network {
            let connect = wanted.connect.difference(&self.allowed.connect);
            lacking.extend(connect.map(|port| format!("connect to port {port}")));
            lacking.extend(wanted.bind.difference(&self.allowed.bind).map(|port| format!("listen on port {port}")));
        }
        lacking
    }
}

/// Confines the calling thread and what it starts from now on, as far as the kernel can.  For a process that has one thread yet.
///
/// A directory that does not exist is left out, and stays out of reach.
#[must_use]
pub fn confine(allowed: Allowed) -> Confined {
    match enforce(&allowed) {
        Ok((level, has_network, pinned)) => Confined { level, allowed, has_network, _pinned: pinned },
        Err(error) => {
            tracing::debug!(%error, "hardening step refused by the host");
            Confined::not(Confinement::None)
        }
    }
}

fn enforce(allowed: &Allowed) -> Result<(Confinement, bool, Vec<PathFd>), RulesetError> {
    let open = |path: &Path| PathFd::new(path).ok();
    let directories: Vec<PathFd> = allowed.directories.iter().filter_map(|path| open(path)).collect();
    let files: Vec<PathFd> = allowed.files.iter().filter_map(|path| open(path)).collect();
    let in_directory =
        directories.iter().map(|directory| Ok::<_, RulesetError>(PathBeneath::new(directory, IN_DIRECTORY)));
    let in_place = files.iter().map(|file| Ok::<_, RulesetError>(PathBeneath::new(file, IN_PLACE)));
    let port = |access: AccessNet| move |port: &u16| Ok::<_, RulesetError>(NetPort::new(*port, access));
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_write(ABI::V5) | AccessFs::Execute)?
        .handle_access(AccessNet::from_all(NETWORK))?
        // Not abstract sockets: sd_notify may have one.
        .scope(Scope::Signal)?
        .create()?
        .add_rules(in_directory.chain(in_place))?
        .add_rules(allowed.connect.iter().map(port(AccessNet::ConnectTcp)))?
        .add_rules(allowed.bind.iter().map(port(AccessNet::BindTcp)))?
        .restrict_self()?;
    let level = match restricted.ruleset {
        RulesetStatus::FullyEnforced => Confinement::Full,
        RulesetStatus::PartiallyEnforced => Confinement::Partial,
        RulesetStatus::NotEnforced => Confinement::None,
    };
    let has_network =
        matches!(restricted.landlock, LandlockStatus::Available { effective_abi, .. } if effective_abi >= NETWORK);
    Ok((level, has_network, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(directories: &[&str], connect: &[u16]) -> Allowed {
        Allowed {
            directories: directories.iter().map(PathBuf::from).collect(),
            connect: connect.iter().copied().collect(),
            ..Allowed::default()
        }
    }

    #[test]
    fn what_was_not_allowed_at_the_start_is_lacking_where_it_is_enforced() {
        let of = |level, has_network| Confined { allowed: allowed(&["/a"], &[1]), has_network, ..Confined::not(level) };
        let wanted = allowed(&["/a", "/b"], &[1, 2]);
        assert_eq!(of(Confinement::Full, true).lacks(&wanted), ["write /b", "connect to port 2"]);
        assert_eq!(of(Confinement::Partial, false).lacks(&wanted), ["write /b"]);
        for level in [Confinement::None, Confinement::Off] {
            assert_eq!(of(level, true).lacks(&wanted), [""; 0]);
        }
        assert_eq!(of(Confinement::Full, true).lacks(&allowed(&["/a", "/a/below"], &[])), [""; 0]);
        assert_eq!(of(Confinement::Full, true).lacks(&allowed(&["/ab"], &[])), ["write /ab"]);
    }
}
