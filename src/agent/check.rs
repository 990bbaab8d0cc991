//! `tfo-agent check`: everything that would make `run` fail or be unsafe, all at once.  Writes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::preflight::Depth;
use super::reconcile::{PassMode, Reconciler};
use super::systemd::{order, service, timer};
use super::{contact, preflight, source};
use tfo_config::agent::{AgentSettings, InstallMode, InstallSettings, SourceSettings};
use tfo_host::examine::{clock_unsynchronised, server_off};
use tfo_host::kernel::boot_order;
use tfo_host::kernel::key_writers;
use tfo_host::kernel::release;
use tfo_host::kernel::sysctl_d::{self, Persisted};
use tfo_host::runtime::sys;
use tfo_host::secret::CREDENTIAL_UNSEEN;
use tfo_model::problem::{Problem, Severity, first_error};
use tfo_model::time::{UnixTime, duration_text};

/// What was found.  Wire v1: `check --format json`.
#[derive(Debug, Serialize)]
pub struct Found {
    /// Whether `run` would work and be safe.
    pub ok: bool,
    /// How far the clocks of two nodes may differ, in seconds; null without a schedule that depends on the clock.
    pub skew_tolerance_secs: Option<u64>,
    /// Shortest time for which a cookie is accepted after its key was primary, in seconds.
    pub retention_secs: Option<u64>,
    /// The schedule's joints.
    pub joints: Vec<Joint>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Whether the configuration and its secrets are right, whatever the host is like.
    #[serde(skip)]
    pub config_ok: bool,
}

/// When a schedule entry takes over, and when it must be deployed.
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
    /// Facts about the schedule, one a line.
    #[must_use]
    pub fn fact_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(tolerance) = self.skew_tolerance_secs {
            lines.push(format!(
                "clocks of two nodes may differ by {}; with a timer: clock error, period, RandomizedDelaySec, AccuracySec \
                 and run time together",
                duration_text(tolerance)
            ));
        }
        if let Some(retention) = self.retention_secs {
            lines.push(format!(
                "a cookie is accepted for at least {} after its key was primary",
                duration_text(retention)
            ));
        }
        for joint in &self.joints {
            let at = |at: Option<UnixTime>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
            lines.push(format!(
                "entry not_before {}: deploy to every node before {}; the entries above it may be removed after {}",
                joint.not_before,
                at(joint.deploy_before),
                at(joint.entries_above_removable_at)
            ));
        }
        lines
    }
}

/// Checks as far as `depth`.
#[must_use]
pub fn examine(config: &Path, now: UnixTime, depth: Depth) -> Found {
    let settings = match preflight::load(config, depth) {
        Ok(settings) => settings,
        Err(problems) => {
            let (skew_tolerance_secs, retention_secs, joints) = (None, None, Vec::new());
            return Found { ok: false, skew_tolerance_secs, retention_secs, joints, problems, config_ok: false };
        }
    };
    let (skew_tolerance_secs, retention_secs, joints) = facts(&settings);
    let mut problems = preflight::sources(&settings, now);
    if depth != Depth::Host {
        // ExecReload= cannot see the service's credentials (systemd issue 35227); the service itself can, and checks them.
        let unseen = problems.iter_mut().filter(|problem| problem.kind == CREDENTIAL_UNSEEN);
        unseen.for_each(|problem| problem.severity = Severity::Warning);
    }
    problems.extend(certificates(&settings, now));
    problems.extend(writable_by_others(config));
    let config_ok = first_error(&problems).is_none();
    if depth != Depth::Config {
        problems.extend(preflight::host(&settings, depth));
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
        problems.extend(order::problems());
        problems.extend(service::failed());
        problems.extend(hook_problem(&settings));
        if first_error(&problems).is_none() {
            problems.extend(pass_problems(settings, now));
        }
    }
    let ok = first_error(&problems).is_none();
    Found { ok, skew_tolerance_secs, retention_secs, joints, problems, config_ok }
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

/// A user who can change the configuration can choose the keys.
fn writable_by_others(config: &Path) -> Option<Problem> {
    let mode = std::fs::metadata(config).ok()?.mode() & 0o7777;
    (mode & 0o022 != 0).then(|| {
        let message = format!("users other than its owner can change it (mode {mode:04o})");
        Problem::warning("config_exposed", message, format!("chmod go-w {}", config.display())).in_file(config)
    })
}

/// Another program's file in the place of the agent's: the agent will replace it, and that program may write it again.
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

/// Notes on usable certificates.  Unusable ones of a source are errors already; those of a report are only warnings.
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
            let message =
                format!("agent.node is {node}, but the certificate has another name, and coordinators use that one");
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
    let probe = |contact| contact::probe(contact, &settings.file, now);
    let warn = |problem: Problem| Problem { severity: Severity::Warning, ..problem };
    match (&settings.source, &settings.report) {
        (SourceSettings::Coordinator(source), _) => probe(&source.contact),
        (_, Some(report)) => probe(report).into_iter().map(warn).collect(),
        (_, None) => Vec::new(),
    }
}

/// A hook that the agent's own unit does not let it execute.
fn hook_problem(settings: &AgentSettings) -> Option<Problem> {
    let SourceSettings::Coordinator(source) = &settings.source else { return None };
    (!source.on_detached.is_empty())
        .then(service::executes_nothing)
        .flatten()
        .map(|problem| problem.in_file(&settings.file))
}

fn clock_problem(settings: &AgentSettings) -> Option<Problem> {
    source::kind(&settings.source).uses_clock().then(|| clock_unsynchronised(sys::clock_synchronised())).flatten()
}

/// A dry run finds the rest: a clock that is behind, an entry that came too late, TFO that is off.
fn pass_problems(settings: AgentSettings, now: UnixTime) -> Vec<Problem> {
    let report = Reconciler::new(settings).pass(now, PassMode::DryRun, None);
    let off = report.namespaces.iter().filter_map(|namespace| server_off(&namespace.namespace, namespace.bits));
    report.problems.iter().cloned().chain(off).collect()
}
