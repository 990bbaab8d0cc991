//! `tfo-agent check`: everything that would make `run` fail or be unsafe, all at once.  Writes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::worker::{PassMode, Worker};
use super::{contact, preflight, service, timer, units};
use tfo_cli::report::Outcome;
use tfo_config::agent::{AgentSettings, InstallMode, InstallSettings, SourceSettings};
use tfo_host::kernel::boot_order;
use tfo_host::kernel::key_writers;
use tfo_host::kernel::procfs::SERVER_BIT;
use tfo_host::kernel::release;
use tfo_host::kernel::sysctl_d::{self, Persisted};
use tfo_host::runtime::sys;
use tfo_host::secret::CREDENTIAL_UNSEEN;
use tfo_model::problem::{Problem, Severity, first_error};
use tfo_model::time::{UnixTime, span_text};

/// How far `check` looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The configuration and its secrets.
    Config,
    /// The places that it names too: what a daemon's reload would refuse.
    Places,
    /// The host too.
    Host,
}

/// What was found.  Wire v1: `check --format json`.
#[derive(Debug, Serialize)]
pub struct Found {
    /// Whether `run` would work and be safe.
    pub ok: bool,
    /// How far the clocks of two nodes may differ, in seconds; null without a schedule that depends on the clock.
    pub skew_tolerance_secs: Option<u64>,
    /// How long a cookie is accepted at least after its key's last instant as primary, in seconds.
    pub retention_secs: Option<u64>,
    /// The schedule's joints.
    pub joints: Vec<Joint>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How the command ends.
    #[serde(skip)]
    pub outcome: Outcome,
}

/// When a schedule entry takes over, and until when it must be deployed.
#[derive(Debug, Serialize)]
pub struct Joint {
    /// When it takes over.
    pub not_before: UnixTime,
    /// The instant before which every node must have it.
    pub deploy_before: Option<UnixTime>,
    /// From when on the entries above it may be removed.
    pub entries_above_removable_at: Option<UnixTime>,
}

impl Found {
    /// What an operator wants to know even when nothing is wrong.
    #[must_use]
    pub fn fact_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(tolerance) = self.skew_tolerance_secs {
            lines.push(format!(
                "clocks of two nodes may differ by {}; with a timer: clock error, period, RandomizedDelaySec, AccuracySec \
                 and run time together",
                span_text(tolerance)
            ));
        }
        if let Some(retention) = self.retention_secs {
            lines.push(format!("a cookie is accepted for at least {} after its key's time", span_text(retention)));
        }
        for joint in &self.joints {
            let at = |at: Option<UnixTime>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
            lines.push(format!(
                "entry not_before {}: deploy to every node before {}; the entries above it may go after {}",
                joint.not_before,
                at(joint.deploy_before),
                at(joint.entries_above_removable_at)
            ));
        }
        lines
    }
}

/// Looks at everything.
#[must_use]
pub fn examine(config: &Path, now: UnixTime, depth: Depth) -> Found {
    let settings = match preflight::load(config, depth) {
        Ok(settings) => settings,
        Err(problems) => {
            let (skew_tolerance_secs, retention_secs, joints) = (None, None, Vec::new());
            let outcome = Outcome::Config;
            return Found { ok: false, skew_tolerance_secs, retention_secs, joints, problems, outcome };
        }
    };
    let (skew_tolerance_secs, retention_secs, joints) = facts(&settings);
    let mut problems = preflight::sources(&settings, now);
    if depth != Depth::Host {
        // A reload's ExecReload= cannot see the service's credentials (systemd issue 35227); the service itself can, and
        // refuses what is wrong with them.
        problems
            .iter_mut()
            .filter(|problem| problem.kind == CREDENTIAL_UNSEEN)
            .for_each(|p| p.severity = Severity::Warning);
    }
    problems.extend(certificates(&settings, now));
    problems.extend(writable_by_others(config));
    let config_is_wrong = first_error(&problems).is_some();
    if depth != Depth::Config {
        problems.extend(preflight::host(&settings));
    }
    if depth == Depth::Host {
        let own = &settings.install.sysctl_file.value;
        problems.extend(boot_order::scan(Path::new("/"), own).problems(own));
        problems.extend(foreign_file(&settings.install));
        problems.extend(key_writers::scan(Path::new("/")).iter().map(key_writers::Writer::problem));
        problems.extend(release::problem());
        problems.extend(clock_problem(&settings));
        problems.extend(coordinators(&settings, now));
        problems.extend(skew_tolerance_secs.and_then(timer::too_slow));
        problems.extend(units::problems());
        problems.extend(service::failed());
        problems.extend(hook_problem(&settings));
        if first_error(&problems).is_none() {
            problems.extend(pass_problems(settings, now));
        }
    }
    let ok = first_error(&problems).is_none();
    let outcome = match (ok, config_is_wrong) {
        (true, _) => Outcome::Done,
        (false, true) => Outcome::Config,
        (false, false) => Outcome::Failed,
    };
    Found { ok, skew_tolerance_secs, retention_secs, joints, problems, outcome }
}

fn facts(settings: &AgentSettings) -> (Option<u64>, Option<u64>, Vec<Joint>) {
    let SourceSettings::Derive(derive) = &settings.source else { return (None, None, Vec::new()) };
    let schedule = &derive.schedule;
    let joints = schedule.entries().iter().zip(0..).filter_map(|(entry, index)| {
        Some(Joint {
            not_before: entry.not_before?,
            deploy_before: schedule.deploy_before(index),
            entries_above_removable_at: schedule.entries_above_removable_at(index),
        })
    });
    (schedule.skew_tolerance_secs(), schedule.retention_secs(), joints.collect())
}

/// Who can change the configuration can choose the keys.
fn writable_by_others(config: &Path) -> Option<Problem> {
    let mode = std::fs::metadata(config).ok()?.mode() & 0o7777;
    (mode & 0o022 != 0).then(|| {
        let message = format!("others than its owner can change it (mode {mode:04o})");
        Problem::warning("config_exposed", message, format!("chmod go-w {}", config.display())).in_file(config)
    })
}

/// Somebody else's file in the place of ours: it will be replaced, and whoever wrote it may write it again.
fn foreign_file(install: &InstallSettings) -> Option<Problem> {
    let own = &install.sysctl_file.value;
    let replaced = install.mode == InstallMode::Install && matches!(sysctl_d::read(own), Ok(Persisted::Foreign));
    replaced.then(|| {
        let message = "this file was not written by tfo-agent, which will replace it";
        let remedy = "stop what writes it (a timer, cron, config management) on every node first; its key is lost unless the source \
                      has it (algorithm = \"static\", or `tfoctl import`)";
        Problem::warning("foreign_file", message, remedy).in_file(own)
    })
}

/// What is to be said of certificates that can be used; those that cannot have stopped the reading (a source's), or are no
/// more than a warning (a report's).
fn certificates(settings: &AgentSettings, now: UnixTime) -> Vec<Problem> {
    let load = |contact| contact::load_identity(contact, &settings.file, now);
    let warn = |problem: Problem| Problem { severity: Severity::Warning, ..problem };
    let mut problems = Vec::new();
    if let SourceSettings::Coordinator(source) = &settings.source
        && let Ok(identity) = load(&source.contact)
    {
        if let Some(node) = &settings.node
            && settings.node_is_named
            && !identity.names.contains(node)
        {
            let message = format!(
                "agent.node is {node}, and the certificate does not say so: coordinators go by the certificate"
            );
            let remedy = "remove agent.node, or issue the certificate for this name";
            problems.push(Problem::warning("node_name", message, remedy).in_file(&settings.file).at_key("agent.node"));
        }
        problems.extend(identity.notes);
    }
    if let Some(report) = &settings.report {
        let found = load(report).map_or_else(|problems| problems, |identity| identity.notes);
        problems.extend(found.into_iter().map(warn));
    }
    problems
}

/// Whether the coordinators can be reached and know this node.
fn coordinators(settings: &AgentSettings, now: UnixTime) -> Vec<Problem> {
    // Notes on certificates were found already.
    let probe = |contact| contact::probe(contact, &settings.file, now);
    let warn = |problem: Problem| Problem { severity: Severity::Warning, ..problem };
    match (&settings.source, &settings.report) {
        (SourceSettings::Coordinator(source), _) => probe(&source.contact),
        (_, Some(report)) => probe(report).into_iter().map(warn).collect(),
        (_, None) => Vec::new(),
    }
}

/// Files that would win over ours at boot, for a node of a pool: it must not acknowledge what a reboot would take back
/// (docs/protocol.md#rule-8).  Nothing for other sources.
#[must_use]
pub fn unacknowledgeable(settings: &AgentSettings) -> Vec<Problem> {
    if !settings.has_coordinator() {
        return Vec::new();
    }
    let own = &settings.install.sysctl_file.value;
    boot_order::scan(Path::new("/"), own)
        .problems(own)
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect()
}

/// A hook that the agent's own unit would not let it execute.
fn hook_problem(settings: &AgentSettings) -> Option<Problem> {
    let SourceSettings::Coordinator(source) = &settings.source else { return None };
    (!source.on_detached.is_empty())
        .then(service::executes_nothing)
        .flatten()
        .map(|problem| problem.in_file(&settings.file))
}

fn clock_problem(settings: &AgentSettings) -> Option<Problem> {
    let uses_clock = matches!(settings.source, SourceSettings::Derive(_) | SourceSettings::Random { .. });
    (uses_clock && sys::clock_synchronised() == Some(false)).then(|| {
        let message = "the kernel says that its clock is not synchronised";
        Problem::warning("clock_unsynchronised", message, "run chrony, timesyncd or another NTP client")
    })
}

/// A pass that writes nothing finds the rest: a clock that is behind, an entry that came too late, TFO that is off.
fn pass_problems(settings: AgentSettings, now: UnixTime) -> Vec<Problem> {
    let report = Worker::new(settings).pass(now, PassMode::DryRun, None);
    let mut problems = report.problems;
    for namespace in &report.namespaces {
        if namespace.bits.is_some_and(|bits| bits & SERVER_BIT == 0) {
            let message = format!(
                "namespace {}: the server side of TFO is off (net.ipv4.tcp_fastopen has no 0x2)",
                namespace.namespace
            );
            let remedy = "set net.ipv4.tcp_fastopen = 3, or install.enabled = false if it is off on purpose";
            problems.push(Problem::warning("tfo_off", message, remedy));
        }
    }
    problems
}
