//! One node of the fleet: its files, its agent, and what can be seen of both from outside.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::DemoError;
use super::operator::Operator;
use super::{AGENT_NAME, OWN_EXECUTABLE};
use crate::kernel::namespace::Namespace;
use crate::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use crate::model::key::{KeyFingerprint, PairPrint};
use crate::model::state::{Phase, SlotPrint};
use crate::model::time::UnixTime;
use crate::runtime::clock;
use crate::runtime::files::{Durability, replace};

/// Parent of the nodes' directories, in the demo's own tmpfs.
const NODES_DIR: &str = "/run/tfo-demo";
/// Longest time that an agent may take to end after SIGTERM.
const END_MAX: Duration = Duration::from_secs(5);
/// How much of a log is shown when its agent failed.
const LOG_LINES_SHOWN: usize = 8;

/// Where an agent has its keys from.
pub(super) struct Supplies {
    /// The `[source]` section of its configuration.
    pub(super) source_toml: String,
    /// The file in the node's directory that the section names.
    pub(super) file_name: &'static str,
    pub(super) content: Zeroizing<Vec<u8>>,
}

/// A node whose agent runs.
pub(super) struct Node {
    pub(super) namespace: Namespace,
    directory: PathBuf,
    agent: Child,
}

/// What status.json tells (DESIGN.md section 2); the parts that are shown here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Status {
    pub(super) state: State,
    pub(super) phase: Phase,
    pub(super) primary: Option<SlotPrint>,
    pub(super) backup: Option<SlotPrint>,
    pub(super) next_change_at: Option<UnixTime>,
    pub(super) error: Option<StatusError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    Degraded,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct StatusError {
    pub(super) message: String,
}

impl Status {
    /// The slots that the agent read back; none before the first install.
    pub(super) fn pair(&self) -> Option<PairPrint> {
        let primary = self.primary?.fingerprint;
        Some(PairPrint { primary, backup: self.backup.map(|slot| slot.fingerprint) })
    }

    /// The key that makes cookies.
    pub(super) fn primary(&self) -> Option<KeyFingerprint> {
        Some(self.primary?.fingerprint)
    }
}

impl Node {
    /// Writes the node's files and starts its agent in its network namespace.
    pub(super) fn start(namespace: Namespace, operator: &Operator) -> Result<Self, DemoError> {
        let directory = Path::new(NODES_DIR).join(namespace.name());
        let supplies = operator.supplies(&directory);
        for part in ["run", "sysctl.d"] {
            let part = directory.join(part);
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&part);
            made.map_err(DemoError::step(format!("make {}", part.display())))?;
        }
        let supply = directory.join(supplies.file_name);
        replace(&supply, &supplies.content, 0o400, Durability::Volatile)?;
        let config = directory.join("agent.toml");
        let text = config_toml(&directory, namespace.name(), &supplies.source_toml);
        replace(&config, text.as_bytes(), 0o644, Durability::Volatile)?;
        let agent = namespace.within(|| start_agent(&directory, &config))?;
        let agent = agent.map_err(DemoError::step(format!("start the agent of {}", namespace.name())))?;
        Ok(Self { namespace, directory, agent })
    }

    /// Name of the node.
    pub(super) fn name(&self) -> &str {
        self.namespace.name()
    }

    /// A file of the node.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What the agent says of itself; none before it has said anything.
    ///
    /// # Errors
    /// Fails if the agent has ended, has failed, or writes what nobody can read.
    pub(super) fn status(&mut self) -> Result<Option<Status>, DemoError> {
        let ended = self.agent.try_wait().map_err(DemoError::step("look after an agent"))?;
        if let Some(status) = ended {
            return Err(self.fault(format!("ended ({status})")));
        }
        let Ok(text) = std::fs::read(self.path("run/status.json")) else { return Ok(None) };
        let status: Status = serde_json::from_slice(&text)
            .map_err(|error| self.fault(format!("wrote a status.json that does not fit the design ({error})")))?;
        if status.state == State::Failed {
            let message = status.error.map_or_else(String::new, |error| error.message);
            return Err(self.fault(format!("failed: {message}")));
        }
        Ok(Some(status))
    }

    /// The kernel's counters in the node's network namespace.
    pub(super) fn counters(&self) -> Result<TfoCounters, DemoError> {
        let read = self.namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH)))?;
        read.map_err(DemoError::step(format!("read the counters of {}", self.name())))
    }

    /// Asks the agent to end.
    pub(super) fn ask_to_end(&self) {
        // An agent that has ended already is seen when it is waited for.
        rustix::process::kill_process(Pid::from_child(&self.agent), Signal::TERM).unwrap_or_default();
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Fails if it does not end soon, or not with exit code 0.
    pub(super) fn wait_for_end(mut self) -> Result<(), DemoError> {
        let since = clock::monotonic();
        match self.poll_end(since).map_err(DemoError::step("wait for an agent"))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.fault(format!("did not end well ({status})"))),
            None => Err(self.fault(format!("did not end within {} s", END_MAX.as_secs()))),
        }
    }

    fn poll_end(&mut self, since: Instant) -> std::io::Result<Option<ExitStatus>> {
        loop {
            let ended = self.agent.try_wait()?;
            if ended.is_some() || clock::left_of(END_MAX, since).is_zero() {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// An error about this node's agent, with the end of its log.
    pub(super) fn fault(&self, what: String) -> DemoError {
        let log = std::fs::read_to_string(self.path("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        DemoError::Agent { node: self.name().to_owned(), what, log }
    }
}

/// The configuration that a real node would have, apart from its paths.
fn config_toml(directory: &Path, node: &str, source: &str) -> String {
    let directory = directory.display();
    format!(
        "[agent]\nnode = \"{node}\"\nruntime_dir = \"{directory}/run\"\n{source}\n[install]\n\
         sysctl_file = \"{directory}/sysctl.d/50-tcp_fastopen_key.conf\"\nverify_interval = \"1s\"\n"
    )
}

/// Starts the agent on the calling thread's network namespace, with an empty environment.
fn start_agent(directory: &Path, config: &Path) -> std::io::Result<Child> {
    let log = File::create(directory.join("agent.log"))?;
    let mut command = Command::new(OWN_EXECUTABLE);
    command.arg0(AGENT_NAME).args(["run", "--config"]).arg(config).env_clear();
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_status_is_understood() {
        let text = r#"{"version":1,"state":"ok","source":"derive","pool":null,"generation":null,"phase":"staged",
            "primary":{"epoch":1796083200,"fingerprint":"00010203040506ff"},"backup":null,
            "installed_at":"2026-12-01T00:00:00Z","next_change_at":"2026-12-01T00:00:05Z","drift_repairs":0,
            "clock_synchronised":null,"last_contact_at":null,"error":null,"namespaces":[]}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.state, status.phase), (State::Ok, Phase::Staged));
        assert_eq!(status.primary().unwrap().to_string(), "00010203040506ff");
        assert_eq!(status.pair().unwrap().backup, None);
    }
}
