//! `tfo-agent hook`: a createRuntime hook of the OCI runtime specification.  The network namespace of a container gets the keys of this
//! host before its first process runs, and so before its first answer.
//!
//! It installs what the agent's file has and asks no source: the daemon, which finds the namespace too, does the rest.  By default a
//! container starts whatever happens here: a miss costs a client one round trip.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use tfo_config::agent::{AgentSettings, DEFAULT_SYSCTL_FILE, InstallMode, Named};
use tfo_config::reader::ConfigFile;
use tfo_host::kernel::namespace::{FoundNamespace, Namespace};
use tfo_host::kernel::procfs::KeyFile;
use tfo_host::kernel::sysctl_d::{self, Persisted};
use tfo_model::problem::{Problem, chain};

/// Longest state of a container that is read, in bytes: its annotations may be many.
const STATE_BYTES_MAX: u64 = 1 << 20;

/// What a runtime says of a container on standard input (OCI runtime specification, "State").
#[derive(Debug, Deserialize)]
struct State {
    id: String,
    pid: Option<u32>,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub enum Installed {
    /// The namespace has this host's keys, read back.
    Keys,
    /// Nothing was to be done: the container has no network namespace of its own, or this host has no keys.
    Nothing,
}

/// Installs the keys for the container that `input` describes.
///
/// # Errors
/// Fails if the state cannot be understood, the namespace not be entered, or the keys not be installed.
pub fn run(config: &Path, input: impl Read) -> Result<Installed, Problem> {
    let state: State = serde_json::from_reader(input.take(STATE_BYTES_MAX)).map_err(|error| {
        let message = format!("this is not the state of a container: {error}");
        Problem::error(
            "oci_state",
            message,
            "call it as a createRuntime hook of an OCI runtime, which writes the state to stdin",
        )
    })?;
    let pid = state.pid.filter(|pid| *pid > 0).ok_or_else(|| {
        let message = format!("container {} has no process yet", state.id);
        Problem::error("oci_state", message, "use the stage createRuntime, in which its namespaces are there")
    })?;
    let (file, mode) = file_of(config);
    if mode == InstallMode::LookOnly {
        return Ok(Installed::Nothing);
    }
    let read = sysctl_d::read(&file).map_err(|error| {
        let message = format!("cannot read {}: {error}", file.display());
        Problem::error("sysctl_file", message, "run it as root: the file has the installed keys")
    })?;
    let Persisted::Ours { keys, .. } = read else { return Ok(Installed::Nothing) };
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let not_entered = |error: &dyn std::error::Error| {
        let remedy = "run it in the host's PID namespace, as root with CAP_SYS_ADMIN: it enters the container's network namespace";
        Problem::error("namespace", format!("container {}: {}", state.id, chain(error)), remedy)
    };
    let found = FoundNamespace::at(format!("container:{}", state.id), path).map_err(|error| not_entered(&error))?;
    let own = Namespace::Own.identity().map_err(|error| not_entered(&error))?;
    if found.identity() == own {
        return Ok(Installed::Nothing);
    }
    let namespace = Namespace::Found(found);
    let installed = namespace.within(|| KeyFile::default().install(&keys)).map_err(|error| not_entered(&error))?;
    installed.map(|_| Installed::Keys).map_err(|error| error.problem(&namespace))
}

/// The agent's file, also where the configuration is wrong in another place.
fn file_of(config: &Path) -> (PathBuf, InstallMode) {
    let mut named = Named::default();
    drop(AgentSettings::load_noting(config, &mut named));
    named.install.map_or_else(
        || (DEFAULT_SYSCTL_FILE.into(), InstallMode::Install),
        |install| (install.sysctl_file.value, install.mode),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_state_of_a_container_is_refused() {
        let none = Path::new("/nonexistent/agent.toml");
        for bad in ["", "{}", "[]", r#"{"id":"c"}"#, r#"{"id":"c","pid":0}"#, r#"{"id":"c","pid":-1}"#, r#"{"pid":1}"#]
        {
            assert_eq!(run(none, bad.as_bytes()).unwrap_err().kind, "oci_state", "{bad}");
        }
    }
}
