//! Network namespaces that come and go: which ones are in the places that a configuration names, and when to look again.
//!
//! A namespace is known by its identity, not by its name: a file that is bound over, or a process that ends, may be followed by
//! another one of that name.  No descriptor of one is kept, because that would keep the namespace.  Must not know: keys.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::namespace::{FoundNamespace, NAMES_DIR, Namespace, NamespaceIdentity};
use tfo_model::namespace_place::NamespacePlace;

/// Most namespaces that are found at a time.
pub const FOUND_MAX: usize = 1_024;
/// Most cgroups that are looked at.
const CGROUPS_MAX: usize = 20_000;
/// Most processes of one cgroup that are looked at: those of a container share a namespace.
const PROCESSES_MAX: usize = 64;
/// Where it says which file systems are mounted (proc(5)).
const MOUNTS_PATH: &str = "/proc/self/mounts";
/// The same, which can be polled for changes (proc_pid_mountinfo(5)).
const MOUNT_CHANGES_PATH: &str = "/proc/self/mountinfo";
/// Magic number of the file system of namespaces: a name is made before the namespace is bound over it.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// What is there now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the order of their names; none of `known`, and none twice.
    pub namespaces: Vec<Namespace>,
    /// Whether there are more than [`FOUND_MAX`].
    pub more: bool,
}

/// Looks at all places.  `known`: namespaces that are managed by another name.
#[must_use]
pub fn find<'a>(places: impl IntoIterator<Item = &'a NamespacePlace>, known: &BTreeSet<NamespaceIdentity>) -> Found {
    let mut found = Collected { seen: known.clone(), names: BTreeSet::new(), found: Found::default() };
    for place in places {
        match place {
            NamespacePlace::Named(_) => {}
            NamespacePlace::Names(names) => found.files(Path::new(NAMES_DIR), &|name| names.fits(name), ""),
            NamespacePlace::Files { directory, names } => {
                found.files(directory, &|name| names.fits(name), &format!("{}/", directory.display()));
            }
            NamespacePlace::Unit(names) => {
                found.cgroups(&|path| path.rsplit('/').next().filter(|unit| names.fits(unit)).map(str::to_owned));
            }
            NamespacePlace::Cgroup(glob) => found.cgroups(&|path| glob.fits(path).then(|| path.to_owned())),
        }
    }
    let mut found = found.found;
    found.namespaces.sort();
    found
}

/// What was found so far.
struct Collected {
    seen: BTreeSet<NamespaceIdentity>,
    names: BTreeSet<String>,
    found: Found,
}

impl Collected {
    fn add(&mut self, name: String, path: PathBuf, identity: NamespaceIdentity) {
        if !self.seen.insert(identity) {
            return;
        }
        if self.found.namespaces.len() >= FOUND_MAX {
            self.found.more = true;
            return;
        }
        // Two of a unit are told apart by their inodes.
        let name = if self.names.insert(name.clone()) { name } else { format!("{name}:{identity}") };
        self.names.insert(name.clone());
        self.found.namespaces.push(Namespace::Found(FoundNamespace::new(name, path, identity)));
    }

    fn files(&mut self, directory: &Path, fits: &dyn Fn(&str) -> bool, prefix: &str) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if fits(&name)
                && let Some(identity) = identity_of(&entry.path())
            {
                self.add(format!("{prefix}{name}"), entry.path(), identity);
            }
        }
    }

    /// The processes of the cgroups for whose path `name` has one, and of those below.
    fn cgroups(&mut self, name: &dyn Fn(&str) -> Option<String>) {
        let Some(root) = cgroup_root() else { return };
        let mut left = vec![(root.clone(), None)];
        let mut looked = 0;
        while let Some((directory, inherited)) = left.pop() {
            looked += 1;
            if looked > CGROUPS_MAX {
                self.found.more = true;
                return;
            }
            let path = format!("/{}", directory.strip_prefix(&root).unwrap_or(&directory).display());
            let own: Option<String> = inherited.or_else(|| name(&path));
            if let Some(own) = &own {
                let processes = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                for process in processes.lines().take(PROCESSES_MAX) {
                    let file = PathBuf::from(format!("/proc/{process}/ns/net"));
                    if let Some(identity) = identity_of(&file) {
                        self.add(own.clone(), file, identity);
                    }
                }
            }
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push((entry.path(), own.clone()));
                }
            }
        }
    }
}

/// Where the tree of control groups of version 2 is (cgroups(7)): on hosts that have both versions not in /sys/fs/cgroup itself.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string(MOUNTS_PATH).ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut fields| {
        let place = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// The namespace behind a file; none if there is none (yet).
fn identity_of(path: &Path) -> Option<NamespaceIdentity> {
    let is_namespace = rustix::fs::statfs(path).is_ok_and(|found| found.f_type == NSFS_MAGIC);
    let found = std::fs::metadata(path).ok().filter(|_| is_namespace)?;
    Some(NamespaceIdentity::new(found.dev(), found.ino()))
}

/// Tells when something in the directories of places has changed, or what is mounted there.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    directories: BTreeSet<PathBuf>,
}

impl Watch {
    /// Watches nothing before [`Watch::refresh`].
    ///
    /// # Errors
    /// Fails if this user has no inotify instance left.
    pub fn new<'a>(places: impl IntoIterator<Item = &'a NamespacePlace>) -> std::io::Result<Self> {
        let directories = places.into_iter().filter_map(|place| match place {
            NamespacePlace::Names(_) => Some(PathBuf::from(NAMES_DIR)),
            NamespacePlace::Files { directory, .. } => Some(directory.clone()),
            NamespacePlace::Named(_) | NamespacePlace::Unit(_) | NamespacePlace::Cgroup(_) => None,
        });
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { inotify, directories: directories.collect() })
    }

    /// Its descriptor, to wait for.
    ///
    /// # Errors
    /// Fails if no descriptor is left.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.inotify.try_clone()
    }

    /// A file in which each change of a mount of this mount namespace is an event for poll(2); none without directories.
    #[must_use]
    pub fn mounts(&self) -> Option<OwnedFd> {
        if self.directories.is_empty() {
            return None;
        }
        // Looking again finds what this misses.
        let opened = std::fs::File::open(MOUNT_CHANGES_PATH);
        opened.inspect_err(|error| tracing::debug!(%error, "mounts are not watched")).ok().map(OwnedFd::from)
    }

    /// Watches the directories that are there; one that was made since the last time is watched from now on.
    pub fn refresh(&self) {
        let flags =
            WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ATTRIB | WatchFlags::ONLYDIR;
        for directory in &self.directories {
            // Not there yet, or no watch left: looking again finds what this misses.
            if let Err(error) = inotify::add_watch(&self.inotify, directory, flags) {
                tracing::debug!(%error, directory = %directory.display(), "not watched");
            }
        }
    }

    /// Takes what has happened.
    pub fn drain(&self) {
        let mut events = [0; 4_096];
        while rustix::io::read(&self.inotify, &mut events).is_ok_and(|read| read > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("gone", dir.path().join("b")).unwrap();
        let place: NamespacePlace = format!("{}/*", dir.path().display()).parse().unwrap();
        assert_eq!(find([&place], &BTreeSet::new()), Found::default());
        std::os::unix::fs::symlink("/proc/self/ns/net", dir.path().join("c")).unwrap();
        let found = find([&place], &BTreeSet::new());
        assert_eq!(found.namespaces.len(), 1, "{found:?}");
        let own = BTreeSet::from([Namespace::Own.identity().unwrap()]);
        assert_eq!(find([&place], &own), Found::default(), "it is the agent's own");
    }

    #[test]
    fn a_change_in_a_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let place: NamespacePlace = format!("{}/*", dir.path().display()).parse().unwrap();
        let watch = Watch::new([&place]).unwrap();
        watch.refresh();
        let is_told = || {
            let mut polled = [rustix::event::PollFd::new(&watch.inotify, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut polled, Some(&rustix::time::Timespec::default())).unwrap() > 0
        };
        assert!(!is_told());
        std::fs::write(dir.path().join("a"), "").unwrap();
        assert!(is_told());
        watch.drain();
        assert!(!is_told());
    }
}
