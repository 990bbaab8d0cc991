//! One node of the fleet: its files and its agent, observed from outside.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use zeroize::Zeroizing;

use super::AGENT_NAME;
use super::error::DemoError;
use super::program::{Kit, Launch, Program};
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::runtime::files::{Durability, replace};
use tfo_wire::status::{FILE_NAME, State, Status};

/// Source of an agent's keys.
pub struct Supplies {
    /// The `[source]` section of its configuration.
    pub source_toml: String,
    /// The files that the section names, in the node's directory.
    pub files: Vec<File>,
}

/// A file that only its owner reads.
pub struct File {
    /// Name in the node's directory.
    pub name: &'static str,
    /// Content, wiped on drop.
    pub content: Zeroizing<Vec<u8>>,
}

/// A node without its programs.
pub struct NodeFiles {
    /// Network namespace of its programs.
    pub namespace: Namespace,
    directory: PathBuf,
    agent: PathBuf,
}

/// A node with a running agent.
pub(crate) struct Node {
    pub(crate) files: NodeFiles,
    agent: Program,
}

impl NodeFiles {
    /// Makes the node's directory with all files of its agent.
    pub fn write(
        kit: &Kit,
        namespace: Namespace,
        supplies: impl FnOnce(&Path, &str) -> Result<Supplies, DemoError>,
    ) -> Result<Self, DemoError> {
        let directory = kit.directory.join(namespace.name());
        for part in ["run", "sysctl.d"] {
            let part = directory.join(part);
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&part);
            made.map_err(DemoError::step(format!("make {}", part.display())))?;
        }
        let supplies = supplies(&directory, namespace.name())?;
        let files = Self { namespace, directory, agent: kit.agent.clone() };
        files.supply(&supplies)?;
        Ok(files)
    }

    /// Writes the agent's configuration, and the files that it names.
    pub fn supply(&self, supplies: &Supplies) -> Result<(), DemoError> {
        for File { name, content } in &supplies.files {
            replace(&self.path(name), content, 0o400, Durability::Volatile)?;
        }
        let text = config_toml(&self.directory, self.name(), &supplies.source_toml);
        Ok(replace(&self.path("agent.toml"), text.as_bytes(), 0o644, Durability::Volatile)?)
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// A file of the node.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts the agent as a daemon.
    pub fn start_agent(&self) -> Result<Program, DemoError> {
        self.start("run")
    }

    /// Starts one run of the agent, as a timer would.
    pub fn start_once(&self) -> Result<Program, DemoError> {
        self.start("once")
    }

    fn start(&self, command: &str) -> Result<Program, DemoError> {
        let launch = Launch {
            who: format!("the agent of {}", self.name()),
            executable: &self.agent,
            name: AGENT_NAME,
            command,
            config: &self.path("agent.toml"),
            log: self.path("agent.log"),
        };
        Program::start(&self.namespace, launch)
    }

    /// The kernel's counters in the node's network namespace.
    pub fn counters(&self) -> Result<TfoCounters, DemoError> {
        let read = self.namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH)))?;
        read.map_err(DemoError::step(format!("read the counters of {}", self.name())))
    }
}

impl Node {
    /// Writes the node's files and starts its agent in its network namespace.
    pub(crate) fn start(
        kit: &Kit,
        namespace: Namespace,
        supplies: impl FnOnce(&Path, &str) -> Result<Supplies, DemoError>,
    ) -> Result<Self, DemoError> {
        let files = NodeFiles::write(kit, namespace, supplies)?;
        let agent = files.start_agent()?;
        Ok(Self { files, agent })
    }

    /// A file of the node.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.path(name)
    }

    /// The agent's status.json; none before the agent has written it.
    ///
    /// # Errors
    /// Fails if the agent has ended, or writes an unreadable status.
    pub(crate) fn status(&mut self) -> Result<Option<Status>, DemoError> {
        self.agent.must_run()?;
        let Ok(text) = std::fs::read(self.path("run").join(FILE_NAME)) else { return Ok(None) };
        let status: Status = serde_json::from_slice(&text)
            .map_err(|error| self.fault(format!("wrote a status.json that does not fit the design ({error})")))?;
        Ok(Some(status))
    }

    /// The status of a node that serves.
    ///
    /// # Errors
    /// Fails like [`Self::status`], and if the agent has failed or has no status.
    pub(crate) fn good_status(&mut self) -> Result<Status, DemoError> {
        let status = self.status()?.ok_or_else(|| self.fault("has lost its status.json".to_owned()))?;
        if status.state == State::Failed {
            let message = status.error.map_or_else(String::new, |error| error.message);
            return Err(self.fault(format!("failed: {message}")));
        }
        Ok(status)
    }

    /// The kernel's counters in the node's network namespace.
    pub(crate) fn counters(&self) -> Result<TfoCounters, DemoError> {
        self.files.counters()
    }

    /// Asks the agent to end.
    pub(crate) fn ask_to_end(&self) {
        self.agent.signal(Signal::TERM);
    }

    /// Waits for the agent's end.
    ///
    /// # Errors
    /// Fails if the agent does not end in time, or ends with another exit code than 0.
    pub(crate) fn wait_for_end(self) -> Result<(), DemoError> {
        self.agent.wait_for_end()
    }

    /// An error of this node's agent, with the end of its log.
    pub(crate) fn fault(&self, what: String) -> DemoError {
        self.agent.fault(what)
    }
}

/// The configuration of a real node, except for its paths.
fn config_toml(directory: &Path, node: &str, source: &str) -> String {
    let directory = directory.display();
    format!(
        "[agent]\nnode = \"{node}\"\nruntime_dir = \"{directory}/run\"\n{source}\n[install]\n\
         sysctl_file = \"{directory}/sysctl.d/50-tcp_fastopen_key.conf\"\nverify_interval = \"1s\"\n"
    )
}
