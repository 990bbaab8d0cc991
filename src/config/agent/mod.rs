//! `agent.toml`: see config/agent.toml, which has every key with its default, unit and range.

mod install;
mod source;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::install::install_section;
use self::source::source_section;
use super::contact::{ContactSettings, CoordinatorSettings, report_section};
use super::reader::{Findings, Located, Table, read_file, read_str};
use tfo_engine::schedule::Schedule;
use tfo_host::secret::SecretPath;
use tfo_model::ids::{NamespaceName, NodeId};
use tfo_model::problem::Problem;
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
    /// Reads and checks the file.  Secrets are not opened here.
    ///
    /// # Errors
    /// Fails with all problems at once.
    pub fn load(file: &Path) -> Result<Self, Vec<Problem>> {
        Self::load_noting(file, &mut Named::default())
    }

    /// Whether the keys come from a pool's coordinators.
    #[must_use]
    pub fn has_coordinator(&self) -> bool {
        matches!(self.source, SourceSettings::Coordinator(_))
    }

    /// The same, and records what the file names, even if it is refused.
    ///
    /// # Errors
    /// As [`AgentSettings::load`].
    pub fn load_noting(file: &Path, named: &mut Named) -> Result<Self, Vec<Problem>> {
        read_file(file, |root, findings| Self::convert(file, root, findings, named))
    }

    /// The same for a text; `file` names it in problems.
    ///
    /// # Errors
    /// As [`AgentSettings::load`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        read_str(file, text, |root, findings| Self::convert(file, root, findings, &mut Named::default()))
    }

    fn convert(file: &Path, mut root: Table<'_, '_>, findings: &mut Findings, named: &mut Named) -> Option<Self> {
        let agent = root.table("agent", findings).map(|table| agent_section(table, findings));
        let (node, runtime_dir) = agent.unwrap_or((None, None));
        let source = match root.table("source", findings) {
            Some(table) => source_section(table, findings, named),
            None => {
                let remedy = "add [source] with kind = \"derive\", \"coordinator\", \"file\" or \"random\"";
                let problem = Problem::error("missing_key", "there is no [source] section", remedy);
                findings.add_at(&root.place("source", findings), problem);
                None
            }
        };
        let install = root.table("install", findings);
        let install = install_section(install, findings);
        let metrics = match root.table("metrics", findings) {
            Some(table) => metrics_section(table, findings),
            None => MetricsSettings { textfile: None, listen: None },
        };
        let report = root.table("report", findings).and_then(|table| report_section(table, findings));
        if let (Some(SourceSettings::Coordinator(_)), Some(report)) = (&source, &report) {
            let remedy = "remove [report]: an agent with a coordinator reports to it anyway";
            findings.add_at(&report.urls, Problem::error("bad_value", "[report] is for the other sources", remedy));
        }
        root.finish(findings);
        named.install = Some(install.clone());
        named.textfile.clone_from(&metrics.textfile);
        let runtime_dir = runtime_dir.unwrap_or_else(|| default("agent.runtime_dir", DEFAULT_RUNTIME_DIR));
        let node_is_named = node.is_some();
        named.runtime_dir = Some(runtime_dir.clone());
        let node = node.or_else(|| hostname().parse().ok());
        Some(Self {
            file: file.to_owned(),
            node,
            node_is_named,
            runtime_dir,
            source: source?,
            install,
            metrics,
            report,
        })
    }
}

fn default(key: &str, path: &str) -> Located<PathBuf> {
    Located { value: path.into(), key: key.to_owned(), line: None }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}

fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    if text.starts_with('/') { Ok(text.into()) } else { Err("write an absolute path") }
}

fn agent_section(mut table: Table<'_, '_>, findings: &mut Findings) -> (Option<NodeId>, Option<Located<PathBuf>>) {
    let node = table.parsed("node", findings, str::parse::<NodeId>);
    let runtime_dir = table.parsed("runtime_dir", findings, absolute);
    table.finish(findings);
    (node.map(|node| node.value), runtime_dir)
}

fn metrics_section(mut table: Table<'_, '_>, findings: &mut Findings) -> MetricsSettings {
    let textfile = table.parsed("textfile", findings, |text| match text {
        "" => Ok(None),
        _ if text.ends_with(".prom") => absolute(text).map(Some),
        _ => Err("write an absolute path that ends in .prom (node_exporter reads no other), or \"\" for none"),
    });
    let listen = table.parsed("listen", findings, |text| match text {
        "" => Ok::<_, &str>(None),
        _ => text.parse().map(Some).map_err(|_| "write ADDRESS:PORT, for example \"127.0.0.1:9440\", or \"\" for none"),
    });
    table.finish(findings);
    MetricsSettings { textfile: textfile.and_then(Located::transpose), listen: listen.and_then(Located::transpose) }
}

impl<T> Located<Option<T>> {
    fn transpose(self) -> Option<Located<T>> {
        let Self { value, key, line } = self;
        value.map(|value| Located { value, key, line })
    }
}
