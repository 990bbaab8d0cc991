//! `agent.toml`: see config/agent.toml, which has every key with its default, unit and range.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::contact::{ContactSettings, CoordinatorSettings, coordinator_source, report_section};
use super::reader::{Findings, Located, Table, read_file, read_str};
use tfo_engine::schedule::{Entry, Rule, Schedule};
use tfo_host::secret::SecretPath;
use tfo_model::ids::{NamespaceName, NodeId};
use tfo_model::problem::Problem;
use tfo_model::time::{RotationInterval, StageLead, UnixTime};

/// Where the configuration is looked for without `--config`.
pub const DEFAULT_FILE: &str = "/etc/tfo-fleet/agent.toml";
/// Default of `agent.runtime_dir`.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/tfo-agent";
/// Default of `install.sysctl_file`: the name that GrapheneOS and others use; late enough to win over most.
pub const DEFAULT_SYSCTL_FILE: &str = "/etc/sysctl.d/50-tcp_fastopen_key.conf";
/// Default of `install.verify_interval`: a poll costs microseconds, and a drifted node costs cookies until it is seen.
const DEFAULT_VERIFY_INTERVAL: Duration = Duration::from_secs(30);
/// Range of `install.verify_interval`.
const VERIFY_INTERVAL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Most entries of a schedule: each is a planned migration, and nobody plans more.
const SCHEDULE_ENTRIES_MAX: usize = 16;
/// Most namespaces besides the own one.
const NAMESPACES_MAX: usize = 256;

/// Checked settings of an agent.
#[derive(Debug)]
pub struct AgentSettings {
    /// The configuration file, for problems that are found later.
    pub file: PathBuf,
    /// The node's name: the host's, where none is given; none if that is no DNS name.
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
    /// To whom keys that come from elsewhere are reported.
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
    /// Where its secret, or its static key, lies.
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
    /// Look and report; write nothing but the status.
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

/// What a configuration names on this host, as far as it could be read: so that it can be looked at although something
/// else is wrong.
#[derive(Debug, Default)]
pub struct Named {
    /// Secrets and key files.
    pub secrets: Vec<NamedSecret>,
    /// Where keys go; none if the file is no TOML at all.
    pub install: Option<InstallSettings>,
    /// See [`MetricsSettings::textfile`].
    pub textfile: Option<Located<PathBuf>>,
    /// See [`AgentSettings::runtime_dir`].
    pub runtime_dir: Option<Located<PathBuf>>,
}

/// A secret and what it holds.
#[derive(Debug)]
pub struct NamedSecret {
    /// Where it lies.
    pub place: Located<SecretPath>,
    /// What keys are made of, or the keys themselves.
    pub holds: Holds,
}

/// What lies in a secret file.
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

    /// The same, and notes what the file names, also if it is refused.
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
            let remedy = "remove [report]: an agent with a coordinator reports to it by itself";
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

fn source_section(mut table: Table<'_, '_>, findings: &mut Findings, named: &mut Named) -> Option<SourceSettings> {
    let missing = |table: &Table<'_, '_>, key, remedy: &str, findings: &mut Findings| {
        let place = table.place(key, findings);
        findings.add_at(&place, Problem::error("missing_key", "it is needed here", remedy));
    };
    let kind = table.string("kind", findings);
    let source = match kind.as_ref().map(|kind| kind.value.as_str()) {
        Some("derive") => {
            let entries = table.tables("schedule", findings);
            if entries.is_empty() {
                missing(&table, "schedule", "add a [[source.schedule]] with its secret", findings);
            }
            derive_source(entries, findings, named).map(SourceSettings::Derive)
        }
        Some("file") => {
            if !table.has("path") {
                missing(&table, "path", "write the absolute path of the file with the key text", findings);
            }
            let path = table.secret_path("path", findings);
            named.secrets.extend(path.clone().map(|place| NamedSecret { place, holds: Holds::KeyText }));
            path.map(|path| SourceSettings::File { path })
        }
        Some("coordinator") => {
            coordinator_source(&mut table, findings).map(|source| SourceSettings::Coordinator(Box::new(source)))
        }
        Some("random") => {
            let interval = interval(&mut table, findings).map(|interval| interval.value);
            Some(SourceSettings::Random { interval: interval.unwrap_or(RotationInterval::DEFAULT) })
        }
        Some(_) => {
            let kind = kind.as_ref().expect("it has a value");
            let message = format!("there is no source {:?}", kind.value);
            let remedy = "write \"derive\", \"coordinator\", \"file\" or \"random\"";
            findings.add_at(kind, Problem::error("bad_value", message, remedy));
            return None;
        }
        None => {
            missing(&table, "kind", "write kind = \"derive\", \"coordinator\", \"file\" or \"random\"", findings);
            return None;
        }
    };
    table.finish(findings);
    source
}

/// An interval in its range; none if it is missing or wrong.
fn interval(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Located<RotationInterval>> {
    let Located { value, key, line } = table.span("interval", findings)?;
    match RotationInterval::from_secs(value.as_secs()) {
        Ok(value) => Some(Located { value, key, line }),
        Err(error) => {
            let place = Located { value: (), key, line };
            findings.add_at(&place, Problem::error("out_of_range", "this is out of range", error.to_string()));
            None
        }
    }
}

fn derive_source(tables: Vec<Table<'_, '_>>, findings: &mut Findings, named: &mut Named) -> Option<DeriveSettings> {
    if tables.len() > SCHEDULE_ENTRIES_MAX {
        let place = tables[SCHEDULE_ENTRIES_MAX].place("secret", findings);
        let message = format!("there are more than {SCHEDULE_ENTRIES_MAX} entries");
        findings.add_at(&place, Problem::error("out_of_range", message, "remove the entries that are over"));
        return None;
    }
    let count = tables.len();
    let mut places = Vec::new();
    let parsed: Vec<_> = tables
        .into_iter()
        .filter_map(|table| {
            places.push(table.place("not_before", findings));
            schedule_entry(table, findings, named)
        })
        .collect();
    // An entry that is wrong in itself has its problem already; the others cannot be judged without it.
    if parsed.len() < count || parsed.is_empty() {
        return None;
    }
    let (entries, rules): (Vec<_>, Vec<_>) = parsed.into_iter().unzip();
    match Schedule::new(rules) {
        Ok(schedule) => Some(DeriveSettings { schedule, entries }),
        Err(error) => {
            let remedy =
                "give every entry after the first a not_before that leaves the one above it at least its own interval";
            findings.add_at(&places[error.entry()], Problem::error("schedule", error.to_string(), remedy));
            None
        }
    }
}

fn schedule_entry(
    mut table: Table<'_, '_>,
    findings: &mut Findings,
    named: &mut Named,
) -> Option<(DeriveEntry, Entry)> {
    let algorithm = table.string("algorithm", findings);
    let not_before = table.parsed("not_before", findings, str::parse::<UnixTime>);
    let name = algorithm.as_ref().map_or("hkdf-sha256", |algorithm| algorithm.value.as_str());
    let (secret_key, holds) = match name {
        "hkdf-sha256" | "tofurkey" => ("secret", Holds::Secret),
        "static" => ("key_file", Holds::KeyText),
        _ => {
            let place = algorithm.as_ref().expect("the default is known");
            let remedy = "write \"hkdf-sha256\", \"tofurkey\" or \"static\"";
            findings.add_at(place, Problem::error("bad_value", format!("there is no algorithm {name:?}"), remedy));
            return None;
        }
    };
    if !table.has(secret_key) {
        let place = table.place(secret_key, findings);
        let remedy = format!("write {secret_key} = \"/absolute/path\" or \"credential:NAME\"");
        findings.add_at(&place, Problem::error("missing_key", "it is needed here", remedy));
    }
    let secret = table.secret_path(secret_key, findings);
    named.secrets.extend(secret.clone().map(|place| NamedSecret { place, holds }));
    let rule = match name {
        "static" => fixed_rule(&mut table, findings).map(|rule| (Algorithm::Static, rule)),
        _ => periodic_rule(&mut table, name == "tofurkey", findings),
    };
    table.finish(findings);
    let (algorithm, rule) = rule?;
    let entry = Entry { rule, not_before: not_before.map(|at| at.value) };
    Some((DeriveEntry { secret: secret?, algorithm }, entry))
}

fn fixed_rule(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Rule> {
    if !table.has("stage_lead") {
        let place = table.place("stage_lead", findings);
        let remedy = "write how long before its end the next key is staged, for example \"1h\"";
        findings.add_at(&place, Problem::error("missing_key", "a static key needs it", remedy));
    }
    let lead = table.span("stage_lead", findings)?;
    match StageLead::alone(lead.value.as_secs()) {
        Ok(lead) => Some(Rule::Fixed { lead }),
        Err(_) => {
            findings.add_at(
                &lead,
                Problem::error("out_of_range", "this is out of range", "a stage_lead is 1 second to 7 days"),
            );
            None
        }
    }
}

fn periodic_rule(table: &mut Table<'_, '_>, tofurkey: bool, findings: &mut Findings) -> Option<(Algorithm, Rule)> {
    // A wrong interval has its problem already; the default then only lets the lead be judged.
    let given = interval(table, findings);
    let interval = given.as_ref().map_or(RotationInterval::DEFAULT, |given| given.value);
    if let (true, Some(given)) = (tofurkey && interval.secs() % 2 == 1, &given) {
        let remedy = "tofurkey stages half an interval ahead: write an even number of seconds";
        findings.add_at(given, Problem::error("out_of_range", "the interval is odd", remedy));
    }
    let lead = match table.span("stage_lead", findings) {
        None if tofurkey => StageLead::half_of(interval),
        None => StageLead::default_for(interval),
        Some(lead) => match StageLead::within(lead.value.as_secs(), interval) {
            Ok(lead) => lead,
            Err(error) => {
                findings.add_at(&lead, Problem::error("out_of_range", "this is out of range", error.to_string()));
                return None;
            }
        },
    };
    let algorithm = if tofurkey { Algorithm::Tofurkey } else { Algorithm::HkdfSha256 { interval } };
    Some((algorithm, Rule::Periodic { interval, lead }))
}

fn install_section(table: Option<Table<'_, '_>>, findings: &mut Findings) -> InstallSettings {
    let mut settings = InstallSettings {
        sysctl_file: default("install.sysctl_file", DEFAULT_SYSCTL_FILE),
        namespaces: Vec::new(),
        verify_interval: DEFAULT_VERIFY_INTERVAL,
        mode: InstallMode::Install,
    };
    let Some(mut table) = table else { return settings };
    let conf = |text: &str| match absolute(text) {
        Ok(path) if path.extension().is_some_and(|extension| extension == "conf") => Ok(path),
        _ => Err("write an absolute path that ends in .conf: nothing else is read at boot (sysctl.d(5))"),
    };
    if let Some(path) = table.parsed("sysctl_file", findings, conf) {
        settings.sysctl_file = path;
    }
    if let Some(names) = table.strings("namespaces", findings) {
        settings.namespaces = namespaces(&names, findings);
    }
    if let Some(span) = table.span("verify_interval", findings) {
        if VERIFY_INTERVAL_RANGE.contains(&span.value) {
            settings.verify_interval = span.value;
        } else {
            findings.add_at(&span, Problem::error("out_of_range", "this is out of range", "write 1 second to 1 hour"));
        }
    }
    if table.boolean("enabled", findings).is_some_and(|enabled| !enabled.value) {
        settings.mode = InstallMode::LookOnly;
    }
    table.finish(findings);
    settings
}

fn namespaces(names: &Located<Vec<String>>, findings: &mut Findings) -> Vec<Located<NamespaceName>> {
    if names.value.len() > NAMESPACES_MAX {
        let message = format!("there are more than {NAMESPACES_MAX} namespaces");
        findings.add_at(names, Problem::error("out_of_range", message, "run a second agent inside one of them"));
    }
    let mut parsed: Vec<Located<NamespaceName>> = Vec::new();
    for name in &names.value {
        match name.parse::<NamespaceName>() {
            Ok(value) if parsed.iter().any(|other| other.value == value) => {
                findings.add_at(names, Problem::error("bad_value", format!("{name:?} is named twice"), "remove one"));
            }
            Ok(value) => parsed.push(Located { value, key: names.key.clone(), line: names.line }),
            Err(error) => {
                let message = format!("{name:?} does not fit here");
                findings.add_at(names, Problem::error("bad_value", message, error.to_string()));
            }
        }
    }
    parsed
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
