//! What must be right before anything is written: secrets, files, permissions.  All problems at once.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::check::Depth;
use super::contact;
use super::source::{self, Installed};
use tfo_config::agent::{AgentSettings, InstallMode, InstallSettings, Named, SourceSettings};
use tfo_config::reader::Located;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::procfs::KEY_PATH;
use tfo_model::problem::{Problem, chain, first_error};
use tfo_model::time::UnixTime;

/// Reads the configuration.  One that is refused is refused with everything else too that is wrong with its secrets
/// and, other than at [`Depth::Config`], with the places that it names.
///
/// # Errors
/// Fails with all problems, in the order of their lines.
pub fn load(config: &Path, depth: Depth) -> Result<AgentSettings, Vec<Problem>> {
    let mut named = Named::default();
    AgentSettings::load_noting(config, &mut named).map_err(|mut problems| {
        problems.extend(named.secrets.iter().filter_map(|secret| source::check_secret(secret, config)));
        if let (Depth::Places | Depth::Host, Some(install)) = (depth, &named.install) {
            problems.extend(places(config, install, named.textfile.as_ref()));
        }
        problems.sort_by_key(|problem| (problem.line.is_none(), problem.line));
        problems
    })
}

/// Reads the configuration for work: nothing may be wrong with it, with its secrets, or with this host.
///
/// # Errors
/// Fails with all problems.
pub fn ready(config: &Path, now: UnixTime) -> Result<AgentSettings, Vec<Problem>> {
    let settings = load(config, Depth::Places)?;
    let mut problems = sources(&settings, now);
    problems.extend(host(&settings));
    if first_error(&problems).is_some() { Err(problems) } else { Ok(settings) }
}

/// Looks at the secrets and the schedule, which need no host.
#[must_use]
pub fn sources(settings: &AgentSettings, now: UnixTime) -> Vec<Problem> {
    match &settings.source {
        SourceSettings::Coordinator(coordinator) => {
            contact::load_identity(&coordinator.contact, &settings.file, now).err().unwrap_or_default()
        }
        SourceSettings::Derive(derive) => source::check_entries(derive, &settings.file),
        SourceSettings::File { .. } => {
            let nothing: Option<&Installed<'_>> = None;
            source::offer(settings, now, nothing, None).err().into_iter().collect()
        }
        SourceSettings::Random { .. } => Vec::new(),
    }
}

/// Looks at the places that will be written.
#[must_use]
pub fn host(settings: &AgentSettings) -> Vec<Problem> {
    places(&settings.file, &settings.install, settings.metrics.textfile.as_ref())
}

fn places(config: &Path, install: &InstallSettings, textfile: Option<&Located<PathBuf>>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if install.mode == InstallMode::Install {
        problems.extend(directory_of(&install.sysctl_file, config));
    }
    problems.extend(textfile.and_then(|textfile| directory_of(textfile, config)));
    problems.extend(key_file(install.mode, &Namespace::Own));
    for name in &install.namespaces {
        let namespace = Namespace::Named(name.value.clone());
        problems.extend(key_file(install.mode, &namespace).map(|problem| match problem.file {
            None => name.locate(config, problem),
            Some(_) => problem,
        }));
    }
    problems
}

/// A directory in which a file is to be replaced: there, and writable.
fn directory_of(place: &Located<PathBuf>, config: &Path) -> Option<Problem> {
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
fn key_file(mode: InstallMode, namespace: &Namespace) -> Option<Problem> {
    let writes = mode == InstallMode::Install;
    let opened = namespace.within(|| std::fs::OpenOptions::new().read(true).write(writes).open(KEY_PATH));
    let error = match opened {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error,
        Err(error) => {
            let remedy = format!("make it with `ip netns add {namespace}`, or take it out of the list");
            return Some(Problem::error("namespace", chain(&error), remedy));
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
