//! `tfo-agent check`: everything that would make `run` fail or be unsafe, all at once.  Writes nothing.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::preflight::Depth;
use super::reconcile::{PassMode, Reconciler};
use super::systemd::{order, service, timer};
use super::{contact, preflight, source};
use tfo_cli::host_report::{HostReport, HostView, Section};
use tfo_config::agent::{AgentSettings, InstallMode, InstallSettings, SourceSettings};
use tfo_config::reader::Located;
use tfo_host::examine::{FileState, examine};
use tfo_host::kernel::boot_order;
use tfo_host::kernel::key_writers;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::namespace_found::find;
use tfo_host::secret::CREDENTIAL_UNSEEN;
use tfo_model::problem::{Problem, Severity, first_error};
use tfo_model::time::{UnixTime, duration_text};

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// What is shown.
    pub report: HostReport<ScheduleSection>,
    /// Whether the configuration and its secrets are right, whatever the host is like.
    pub config_ok: bool,
}

/// What `tfo-agent check` alone says of a host.  Wire v1.
#[derive(Debug, Default, Serialize)]
pub struct ScheduleSection {
    /// How far the clocks of two nodes may differ, in seconds; null without a schedule that depends on the clock.
    skew_tolerance_secs: Option<u64>,
    /// Shortest time for which a cookie is accepted after its key was primary, in seconds.
    retention_secs: Option<u64>,
    /// Longest time for which a cookie is accepted: an observer can follow a client by it; null if it has no end, or if this host
    /// does not know it.
    cookie_lifetime_secs: Option<u64>,
    /// The schedule's joints.
    joints: Vec<Joint>,
}

/// When a schedule entry takes over, and when it must be deployed.
#[derive(Debug, Serialize)]
struct Joint {
    /// When it takes over.
    not_before: UnixTime,
    /// The instant before which every node must have it.
    deploy_before: Option<UnixTime>,
    /// From when on the entries above it may be removed.
    entries_above_removable_at: Option<UnixTime>,
}

impl ScheduleSection {
    fn of(settings: &AgentSettings, now: UnixTime) -> Self {
        let derive = match &settings.source {
            SourceSettings::Derive(derive) => derive,
            SourceSettings::Random { interval } => {
                return Self { cookie_lifetime_secs: Some(2 * interval.secs()), ..Self::default() };
            }
            SourceSettings::Coordinator(_) | SourceSettings::File { .. } => return Self::default(),
        };
        let schedule = &derive.schedule;
        let joints = schedule.entries().iter().zip(0..).filter_map(|(entry, index)| {
            Some(Joint {
                not_before: entry.not_before?,
                deploy_before: schedule.deploy_before(index),
                entries_above_removable_at: schedule.entries_above_removable_at(index),
            })
        });
        Self {
            skew_tolerance_secs: schedule.skew_tolerance_secs(),
            retention_secs: schedule.retention_secs(),
            cookie_lifetime_secs: schedule.cookie_lifetime_secs(now),
            joints: joints.collect(),
        }
    }
}

impl Section for ScheduleSection {
    fn write_text(&self, _at: UnixTime, out: &mut dyn Write) -> io::Result<()> {
        if let Some(tolerance) = self.skew_tolerance_secs {
            writeln!(
                out,
                "clocks of two nodes may differ by {}; with a timer: clock error, period, RandomizedDelaySec, AccuracySec \
                 and run time together",
                duration_text(tolerance)
            )?;
        }
        if let Some(retention) = self.retention_secs {
            let shown = duration_text(retention);
            writeln!(out, "a cookie is accepted for at least {shown} after its key was primary")?;
        }
        if let Some(lifetime) = self.cookie_lifetime_secs {
            writeln!(out, "an observer can follow a client by one cookie for at most {}", duration_text(lifetime))?;
        }
        self.joints.iter().try_for_each(|joint| {
            let at = |at: Option<UnixTime>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
            writeln!(
                out,
                "entry not_before {}: deploy to every node before {}; the entries above it may be removed after {}",
                joint.not_before,
                at(joint.deploy_before),
                at(joint.entries_above_removable_at)
            )
        })
    }
}

/// Checks as far as `depth`.
#[must_use]
pub fn check(config: &Path, now: UnixTime, depth: Depth) -> Found {
    let settings = match preflight::load(config, depth) {
        Ok(settings) => settings,
        Err(problems) => {
            let report = HostReport::new(now, ScheduleSection::default(), None, problems);
            return Found { report, config_ok: false };
        }
    };
    let section = ScheduleSection::of(&settings, now);
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
    let mut host = None;
    if depth == Depth::Host {
        let InstallSettings { sysctl_file: Located { value: own, .. }, namespaces, .. } = &settings.install;
        let named = namespaces.iter().map(|name| Namespace::Named(name.value.clone()));
        let mut all: Vec<Namespace> = std::iter::once(Namespace::Own).chain(named).collect();
        let known = all.iter().filter_map(|namespace| namespace.identity().ok()).collect();
        all.extend(find(settings.install.places.iter().map(|place| &place.value), &known).namespaces);
        let facts = examine(own, all);
        problems.extend(boot_order::scan(Path::new("/"), own).problems(own));
        problems.extend(foreign_file(&settings.install, &facts.file));
        problems.extend(key_writers::scan(Path::new("/")).iter().map(key_writers::Writer::problem));
        problems.extend(facts.problems(Some(source::kind(&settings.source))));
        problems.extend(coordinators(&settings, now));
        problems.extend(section.skew_tolerance_secs.and_then(timer::too_slow));
        problems.extend(order::problems());
        problems.extend(service::failed());
        problems.extend(hook_problem(&settings));
        let held = if let FileState::Ours(record) = &facts.file { Some(record.prints.pair()) } else { None };
        host = Some(HostView::of(&facts, own, held));
        if first_error(&problems).is_none() {
            problems.extend(pass_problems(settings, now));
        }
    }
    Found { report: HostReport::new(now, section, host, problems), config_ok }
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
fn foreign_file(install: &InstallSettings, file: &FileState) -> Option<Problem> {
    let own = &install.sysctl_file.value;
    let replaced = install.mode == InstallMode::Install && matches!(file, FileState::Foreign);
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

/// A dry run finds the rest: a clock that is behind, an entry that came too late.
fn pass_problems(settings: AgentSettings, now: UnixTime) -> Vec<Problem> {
    Reconciler::new(settings).pass(now, PassMode::DryRun, None).problems
}
