//! What must be right before anything is written: configuration, secrets, files, permissions, boot order.  All problems
//! at once.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{contact, observation, source};
use tfo_cli::report::{Failure, Outcome};
use tfo_config::agent::{AgentSettings, InstallMode, InstallSettings, Named, SourceSettings};
use tfo_config::contact::Renewal;
use tfo_config::reader::{ConfigFile, Located};
use tfo_host::kernel::boot_order;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::procfs::KEY_PATH;
use tfo_host::runtime::descriptors;
use tfo_model::problem::{Problem, Severity, first_error};
use tfo_model::time::UnixTime;

/// How far a check looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The configuration and its secrets.
    Config,
    /// Also the places that it names: what a daemon's reload would refuse.
    Places,
    /// Also the host.
    Host,
}

/// Reads the configuration.  If it is refused, the problems include those of its secrets and, other than at
/// [`Depth::Config`], of the places that it names.
///
/// # Errors
/// Fails with all problems, in the order of their lines.
pub fn load(config: &Path, depth: Depth) -> Result<AgentSettings, Vec<Problem>> {
    let mut named = Named::default();
    AgentSettings::load_noting(config, &mut named).map_err(|mut problems| {
        problems.extend(named.secrets.iter().filter_map(|secret| source::check_secret(secret, config)));
        if let (Depth::Places | Depth::Host, Some(install)) = (depth, &named.install) {
            problems.extend(places(config, install, named.textfile.as_ref(), depth));
        }
        problems.sort_by_key(|problem| (problem.line.is_none(), problem.line));
        problems
    })
}

/// Reads the configuration for work: it, its secrets and the places that it names must be right.
///
/// # Errors
/// Fails with all problems.
pub fn ready(config: &Path, now: UnixTime) -> Result<AgentSettings, Failure> {
    let refused = |problems| Failure { problems, outcome: Outcome::Config };
    let settings = load(config, Depth::Places).map_err(refused)?;
    let mut problems = sources(&settings, now);
    problems.extend(host(&settings, Depth::Places));
    if first_error(&problems).is_some() { Err(refused(problems)) } else { Ok(settings) }
}

/// Checks the secrets and the schedule, which need no host.
#[must_use]
pub fn sources(settings: &AgentSettings, now: UnixTime) -> Vec<Problem> {
    match &settings.source {
        SourceSettings::Coordinator(coordinator) => {
            contact::load_identity(&coordinator.contact, &settings.file, now).err().unwrap_or_default()
        }
        SourceSettings::Derive(derive) => source::check_entries(derive, &settings.file),
        SourceSettings::File { .. } => source::offer(settings, now, None).err().into_iter().collect(),
        SourceSettings::Random { .. } => Vec::new(),
    }
}

/// Checks the places that will be written.
#[must_use]
pub fn host(settings: &AgentSettings, depth: Depth) -> Vec<Problem> {
    let mut problems = places(&settings.file, &settings.install, settings.metrics.textfile.as_ref(), depth);
    problems.extend(renewable(settings, depth));
    problems
}

/// A certificate that the agent renews is in a directory that it can write; as with metrics, keys do not wait for it.
fn renewable(settings: &AgentSettings, depth: Depth) -> Option<Problem> {
    let contact = settings.contact().filter(|contact| contact.renewal == Renewal::ByAgent)?;
    let Located { key, line, .. } = contact.place.clone();
    let problem = directory_of(&Located { value: contact.files.cert.clone(), key, line }, &settings.file)?;
    let severity = if depth == Depth::Host { Severity::Error } else { Severity::Warning };
    Some(Problem { severity, ..problem })
}

/// A place for metrics is an error only where an operator asks (`check`): monitoring never keeps a node without keys.
fn places(config: &Path, install: &InstallSettings, textfile: Option<&Located<PathBuf>>, depth: Depth) -> Vec<Problem> {
    let severity = if depth == Depth::Host { Severity::Error } else { Severity::Warning };
    let mut problems = Vec::new();
    if install.mode == InstallMode::Install {
        problems.extend(directory_of(&install.sysctl_file, config));
    }
    let unwritable = textfile.and_then(|textfile| directory_of(textfile, config));
    problems.extend(unwritable.map(|problem| Problem { severity, ..problem }));
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

/// A directory in which a file is to be replaced must exist and be writable.
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

/// The kernel's key file must open in the way in which it will be used.  Opening it changes nothing.
fn key_file(mode: InstallMode, namespace: &Namespace) -> Option<Problem> {
    let writes = mode == InstallMode::Install;
    let opened = namespace.within(|| std::fs::OpenOptions::new().read(true).write(writes).open(KEY_PATH));
    let error = match opened {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error,
        Err(error) => return Some(observation::not_entered(namespace, &error)),
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
    Some(descriptors::problem_of(&error, Problem::error(kind, message, remedy).in_file(KEY_PATH)))
}

/// Files that would win over the agent's at boot, for a node of a pool: it must not acknowledge what a reboot would undo
/// (docs/protocol.md#rule-8).  Nothing for other sources.
#[must_use]
pub fn unacknowledgeable(settings: &AgentSettings) -> Vec<Problem> {
    if !settings.has_coordinator() {
        return Vec::new();
    }
    let own = &settings.install.sysctl_file.value;
    let problems = boot_order::scan(Path::new("/"), own).problems(own).into_iter();
    problems.filter(|problem| problem.severity == Severity::Error).collect()
}
