//! Checked settings of an agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::contact::{ContactSettings, CoordinatorSettings};
use crate::reader::Located;
use tfo_engine::schedule::Schedule;
use tfo_host::secret::SecretPath;
use tfo_model::ids::{NamespaceName, NodeId};
use tfo_model::namespace_place::NamespacePlace;
use tfo_model::state::Confinement;
use tfo_model::time::RotationInterval;

/// The configuration file without `--config`.
pub const DEFAULT_FILE: &str = "/etc/tfo-fleet/agent.toml";
/// Default of `agent.runtime_dir`.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/tfo-agent";
/// Default of `install.sysctl_file`: the name that GrapheneOS and others use; late enough to win over most.
pub const DEFAULT_SYSCTL_FILE: &str = "/etc/sysctl.d/50-tcp_fastopen_key.conf";

/// Checked settings of an agent.
#[derive(Debug)]
pub struct AgentSettings {
    /// The configuration file, for problems that are found later.
    pub file: PathBuf,
    /// The node's name, by default the host's; none if that is not a DNS name.
    pub node: Option<NodeId>,
    /// Whether the configuration itself gives the name.
    pub node_is_named: bool,
    /// Directory of status.json.
    pub runtime_dir: Located<PathBuf>,
    /// [`Confinement::Off`] where the agent is not to confine itself.
    pub confinement: Confinement,
    /// Where keys come from.
    pub source: SourceSettings,
    /// Where they go.
    pub install: InstallSettings,
    /// Where counters go.
    pub metrics: MetricsSettings,
    /// Coordinators to which keys of another source are reported.
    pub report: Option<ContactSettings>,
}

/// Where keys come from.
#[derive(Debug)]
pub enum SourceSettings {
    /// From a pool's coordinators.
    Coordinator(Box<CoordinatorSettings>),
    /// From secrets and the clock.
    Derive(DeriveSettings),
    /// From a file with kernel text.
    File {
        /// The file.
        path: Located<SecretPath>,
    },
    /// Made here, for one host.
    Random {
        /// How long a key is primary.
        interval: RotationInterval,
    },
}

/// A checked schedule and the secrets of its entries, index by index.
#[derive(Debug)]
pub struct DeriveSettings {
    /// Which key when.
    pub schedule: Schedule,
    /// How each entry's keys are made.
    pub entries: Vec<DeriveEntry>,
}

/// How one entry's keys are made.
#[derive(Debug)]
pub struct DeriveEntry {
    /// Path of its secret or static key.
    pub secret: Located<SecretPath>,
    /// The derivation.
    pub algorithm: Algorithm,
}

/// How a key is made from a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `crypto::derive::hkdf_sha256`.
    HkdfSha256 {
        /// Bound into each key.
        interval: RotationInterval,
    },
    /// `crypto::derive::tofurkey`.
    Tofurkey,
    /// The file holds the key itself.
    Static,
}

/// Whether the agent writes at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallMode {
    /// Write, verify, repair.
    Install,
    /// Observe and report; write only the status.
    LookOnly,
}

/// Where keys go.
#[derive(Debug, Clone)]
pub struct InstallSettings {
    /// The file that sets the key at boot.
    pub sysctl_file: Located<PathBuf>,
    /// Network namespaces besides the agent's own.
    pub namespaces: Vec<Located<NamespaceName>>,
    /// Where others are that come and go.
    pub places: Vec<Located<NamespacePlace>>,
    /// How often drift is looked for.
    pub verify_interval: Duration,
    /// Whether anything is written.
    pub mode: InstallMode,
}

/// Where counters go.
#[derive(Debug)]
pub struct MetricsSettings {
    /// File for node_exporter's textfile collector.
    pub textfile: Option<Located<PathBuf>>,
    /// Address for a Prometheus scrape.
    pub listen: Option<Located<SocketAddr>>,
}

/// What a configuration names on this host, as far as it could be read, so that all of it can be checked although
/// something is wrong.
#[derive(Debug, Default)]
pub struct Named {
    /// Secrets and key files.
    pub secrets: Vec<NamedSecret>,
    /// Where keys go; none after a syntax error.
    pub install: Option<InstallSettings>,
    /// See [`MetricsSettings::textfile`].
    pub textfile: Option<Located<PathBuf>>,
    /// See [`AgentSettings::runtime_dir`].
    pub runtime_dir: Option<Located<PathBuf>>,
}

/// A secret and what it holds.
#[derive(Debug)]
pub struct NamedSecret {
    /// Its path.
    pub place: Located<SecretPath>,
    /// Its content.
    pub holds: Holds,
}

/// Content of a secret file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Bytes that keys are derived from.
    Secret,
    /// Kernel text.
    KeyText,
}

impl AgentSettings {
    /// How this node reaches its coordinators, for keys or for reports; none without any.
    #[must_use]
    pub fn contact(&self) -> Option<&ContactSettings> {
        match &self.source {
            SourceSettings::Coordinator(source) => Some(&source.contact),
            _ => self.report.as_ref(),
        }
    }

    /// Whether the keys come from a pool's coordinators.
    #[must_use]
    pub fn has_coordinator(&self) -> bool {
        matches!(self.source, SourceSettings::Coordinator(_))
    }
}

/// A default, at its place in the configuration.
pub(super) fn default(key: &str, path: &str) -> Located<PathBuf> {
    Located { value: path.into(), key: key.to_owned(), line: None }
}
