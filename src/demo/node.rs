//! One node of the fleet: its files, its agent, and what can be seen of both from outside.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use zeroize::Zeroizing;

use super::error::DemoError;
use super::program::{Launch, Program};
use super::{AGENT_NAME, DEMO_DIR};
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::runtime::files::{Durability, replace};
use tfo_wire::status::{FILE_NAME, State, Status};

/// Where an agent has its keys from.
pub(super) struct Supplies {
    /// The `[source]` section of its configuration.
    pub(super) source_toml: String,
    /// The files in the node's directory that the section names.
    pub(super) files: Vec<File>,
}

/// A file that only its owner reads.
pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) content: Zeroizing<Vec<u8>>,
}

/// A node without its programs.
pub(super) struct NodeFiles {
    pub(super) namespace: Namespace,
    directory: PathBuf,
}

/// A node whose agent runs.
pub(super) struct Node {
    pub(super) files: NodeFiles,
    agent: Program,
}

impl NodeFiles {
    /// Makes the node's directory with everything that its agent needs.
    pub(super) fn write(
        namespace: Namespace,
        supplies: impl FnOnce(&Path, &str) -> Result<Supplies, DemoError>,
    ) -> Result<Self, DemoError> {
        let directory = Path::new(DEMO_DIR).join(namespace.name());
        for part in ["run", "sysctl.d"] {
            let part = directory.join(part);
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&part);
            made.map_err(DemoError::step(format!("make {}", part.display())))?;
        }
        let supplies = supplies(&directory, namespace.name())?;
        let files = Self { namespace, directory };
        files.supply(&supplies)?;
        Ok(files)
    }

    /// Writes its agent's configuration, and the files that it names.
    pub(super) fn supply(&self, supplies: &Supplies) -> Result<(), DemoError> {
        for File { name, content } in &supplies.files {
            replace(&self.path(name), content, 0o400, Durability::Volatile)?;
        }
        let text = config_toml(&self.directory, self.name(), &supplies.source_toml);
        Ok(replace(&self.path("agent.toml"), text.as_bytes(), 0o644, Durability::Volatile)?)
    }

    /// Name of the node.
    pub(super) fn name(&self) -> &str {
        self.namespace.name()
    }

    /// A file of the node.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts its agent as a daemon.
    pub(super) fn start_agent(&self) -> Result<Program, DemoError> {
        self.start("run")
    }

    /// Starts its agent as a timer would.
    pub(super) fn start_once(&self) -> Result<Program, DemoError> {
        self.start("once")
    }

    fn start(&self, command: &str) -> Result<Program, DemoError> {
        let launch = Launch {
            who: format!("the agent of {}", self.name()),
            name: AGENT_NAME,
            command,
            config: &self.path("agent.toml"),
            log: self.path("agent.log"),
        };
        Program::start(&self.namespace, launch)
    }

    /// The kernel's counters in the node's network namespace.
    pub(super) fn counters(&self) -> Result<TfoCounters, DemoError> {
        let read = self.namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH)))?;
        read.map_err(DemoError::step(format!("read the counters of {}", self.name())))
    }
}

impl Node {
    /// Writes the node's files and starts its agent in its network namespace.
    pub(super) fn start(
        namespace: Namespace,
        supplies: impl FnOnce(&Path, &str) -> Result<Supplies, DemoError>,
    ) -> Result<Self, DemoError> {
        let files = NodeFiles::write(namespace, supplies)?;
        let agent = files.start_agent()?;
        Ok(Self { files, agent })
    }

    /// A file of the node.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.files.path(name)
    }

    /// What the agent says of itself; none before it has said anything.
    ///
    /// # Errors
    /// Fails if the agent has ended, or writes what nobody can read.
    pub(super) fn status(&mut self) -> Result<Option<Status>, DemoError> {
        self.agent.must_run()?;
        let Ok(text) = std::fs::read(self.path("run").join(FILE_NAME)) else { return Ok(None) };
        let status: Status = serde_json::from_slice(&text)
            .map_err(|error| self.fault(format!("wrote a status.json that does not fit the design ({error})")))?;
        Ok(Some(status))
    }

    /// What a node that serves says of itself.
    ///
    /// # Errors
    /// Fails as [`Self::status`], and if the agent has failed or says nothing.
    pub(super) fn good_status(&mut self) -> Result<Status, DemoError> {
        let status = self.status()?.ok_or_else(|| self.fault("has lost its status.json".to_owned()))?;
        if status.state == State::Failed {
            let message = status.error.map_or_else(String::new, |error| error.message);
            return Err(self.fault(format!("failed: {message}")));
        }
        Ok(status)
    }

    /// The kernel's counters in the node's network namespace.
    pub(super) fn counters(&self) -> Result<TfoCounters, DemoError> {
        self.files.counters()
    }

    /// Asks the agent to end.
    pub(super) fn ask_to_end(&self) {
        self.agent.signal(Signal::TERM);
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Fails if it does not end soon, or not with exit code 0.
    pub(super) fn wait_for_end(self) -> Result<(), DemoError> {
        self.agent.wait_for_end()
    }

    /// An error about this node's agent, with the end of its log.
    pub(super) fn fault(&self, what: String) -> DemoError {
        self.agent.fault(what)
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
