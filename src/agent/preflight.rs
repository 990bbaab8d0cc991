//! What must be right before anything is written: secrets, files, permissions.  All problems at once.

use std::path::Path;

use rustix::fs::Access;

use super::source::{self, Installed};
use crate::config::agent::{AgentSettings, InstallMode, SourceSettings};
use crate::config::reader::Located;
use crate::kernel::namespace::Namespace;
use crate::kernel::procfs::KEY_PATH;
use crate::model::problem::Problem;
use crate::model::time::UnixTime;

/// Looks at the secrets and the schedule, which need no host.
#[must_use]
pub fn sources(settings: &AgentSettings, now: UnixTime) -> Vec<Problem> {
    match &settings.source {
        SourceSettings::Derive(derive) => source::check_entries(derive, &settings.file),
        SourceSettings::File { .. } => {
            let nothing: Option<&Installed<'_>> = None;
            source::offer(settings, now, nothing).err().into_iter().collect()
        }
        SourceSettings::Random { .. } => Vec::new(),
    }
}

/// Looks at the places that will be written.
#[must_use]
pub fn host(settings: &AgentSettings) -> Vec<Problem> {
    let mut problems = Vec::new();
    if settings.install.mode == InstallMode::Install {
        problems.extend(directory_of(&settings.install.sysctl_file, &settings.file));
    }
    if let Some(textfile) = &settings.metrics.textfile {
        problems.extend(directory_of(textfile, &settings.file));
    }
    problems.extend(key_file(settings, &Namespace::Own));
    for name in &settings.install.namespaces {
        let namespace = Namespace::Named(name.value.clone());
        problems.extend(key_file(settings, &namespace).map(|problem| match problem.file {
            None => name.locate(&settings.file, problem),
            Some(_) => problem,
        }));
    }
    problems
}

/// A directory in which a file is to be replaced: there, and writable.
fn directory_of(place: &Located<std::path::PathBuf>, config: &Path) -> Option<Problem> {
    let directory = place.value.parent().unwrap_or(Path::new("/"));
    let error = rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).err()?;
    let shown = directory.display();
    let remedy = match error {
        rustix::io::Errno::NOENT => format!("mkdir {shown}, or name another file"),
        rustix::io::Errno::ROFS => {
            format!("remount {shown} writable, or add it to ReadWritePaths= in the unit, or name another file")
        }
        _ => format!("run as root, or make {shown} writable for this user"),
    };
    let message = format!("files in {shown} cannot be replaced: {}", std::io::Error::from(error));
    Some(place.locate(config, Problem::error("directory_not_writable", message, remedy)))
}

/// The kernel's key file: there, and openable the way that it will be used.  Opening it changes nothing.
fn key_file(settings: &AgentSettings, namespace: &Namespace) -> Option<Problem> {
    let writes = settings.install.mode == InstallMode::Install;
    let opened = namespace.within(|| std::fs::OpenOptions::new().read(true).write(writes).open(KEY_PATH));
    let error = match opened {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error,
        Err(error) => {
            let remedy = format!("make it with `ip netns add {namespace}`, or take it out of the list");
            return Some(Problem::error("namespace", super::host::chain(&error), remedy));
        }
    };
    let (kind, remedy) = match error.kind() {
        std::io::ErrorKind::NotFound => {
            ("kernel_file_missing", "use a kernel with IPv4 TFO, and no ProcSubset=pid in the unit")
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            ("kernel_not_allowed", "add ReadWritePaths=/proc/sys/net/ipv4/tcp_fastopen_key to the unit or container")
        }
        _ => ("kernel_not_allowed", "run as root, or with AmbientCapabilities=CAP_NET_ADMIN"),
    };
    let message = format!("namespace {namespace}: the kernel's key file cannot be used: {error}");
    Some(Problem::error(kind, message, remedy).in_file(KEY_PATH))
}
