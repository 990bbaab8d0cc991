//! How the agent's state is shown: status.json (`wire::status`), `once --format json`, and the line in `systemctl status`.
//!
//! Wire v1 (docs/reference/json.md): fields may be added, never renamed or removed.  Unknown = null.  Fingerprints, never keys.

use std::path::Path;

use serde::Serialize;

use super::contact::{Contact, MOVED, NO_KEY};
use super::reconcile::PassMode;
use super::report::{HeldReport, PassReport};
use tfo_config::agent::InstallMode;
use tfo_config::reader::Located;
use tfo_host::runtime::descriptors;
use tfo_host::runtime::files::{self, Durability};
use tfo_model::count::Generation;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain, first_error};
use tfo_model::state::{Confinement, Phase, SlotPrint};
use tfo_model::time::UnixTime;
use tfo_wire::status::{FILE_NAME, NamespaceStatus, State, Status, StatusError, VERSION};
use tfo_wire::v1::sync::CERTIFICATE_ENDS;

impl PassReport {
    /// The node's state after this pass.
    #[must_use]
    pub fn state(&self) -> State {
        let kernels = self.held.is_some() && self.namespaces.iter().all(|namespace| namespace.verified);
        match self.mode {
            InstallMode::Install if self.awaits_first_key => State::Degraded,
            InstallMode::Install if !kernels => State::Failed,
            InstallMode::Install if self.has_error() || !self.file_current => State::Degraded,
            InstallMode::LookOnly if self.has_error() => State::Degraded,
            InstallMode::Install | InstallMode::LookOnly => State::Ok,
        }
    }
}

/// What a pass report does not include.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    /// When the pass was.
    pub now: UnixTime,
    /// Repairs since the process started.
    pub drift_repairs: u64,
    /// Whether the kernel's clock is synchronised.
    pub clock_synchronised: Option<bool>,
    /// The name of the node in the configuration, or the host's.
    pub node: Option<&'a NodeId>,
    /// The contact with the coordinators; none without them.
    pub contact: Option<&'a Contact>,
    /// How far this process has confined itself.
    pub confinement: Confinement,
}

/// The status after a pass.
#[must_use]
pub fn status_of(report: &PassReport, circumstances: Circumstances<'_>) -> Status {
    let held = report.held;
    let namespaces = report.namespaces.iter().map(|namespace| NamespaceStatus {
        name: namespace.namespace.name().to_owned(),
        primary: namespace.shown.map(|shown| shown.primary),
        backup: namespace.shown.and_then(|shown| shown.backup),
        verified_at: namespace.verified.then_some(circumstances.now),
        tcp_fastopen: namespace.bits,
        found: namespace.namespace.is_found(),
    });
    Status {
        version: VERSION,
        state: report.state(),
        source: report.source.into(),
        pool: circumstances.contact.map(|contact| contact.pool().clone()),
        generation: held.and_then(|held| held.generation),
        phase: held.map_or(Phase::Empty, |held| held.phase),
        primary: held.map(|held| held.prints.primary),
        backup: held.and_then(|held| held.prints.backup),
        installed_at: held.map(|held| held.installed_at),
        next_change_at: held.and_then(|held| held.next_change_at),
        drift_repairs: circumstances.drift_repairs,
        clock_synchronised: circumstances.clock_synchronised,
        last_contact_at: circumstances.contact.and_then(|contact| contact.counts().last_contact_at),
        contact: circumstances.contact.map(|contact| contact.standing().into()),
        landlock: Some(circumstances.confinement.into()),
        error: first_error(&report.problems)
            .or_else(|| note(report))
            .map(|problem| StatusError { kind: problem.kind.to_owned(), message: problem.message.clone() }),
        namespaces: namespaces.collect(),
    }
}

/// Replaces status.json in the runtime directory, which is made if it is missing.
///
/// # Errors
/// Fails with the problem; the agent itself does not depend on the file.
pub fn write(status: &Status, runtime_dir: &Located<std::path::PathBuf>, config: &Path) -> Result<(), Problem> {
    let directory = &runtime_dir.value;
    let text = serde_json::to_vec(status).expect("plain structs with string keys");
    let write = || files::replace(&directory.join(FILE_NAME), &text, 0o644, Durability::Volatile);
    let written =
        if directory.is_dir() { write() } else { make_directory(directory).map_or_else(|_| write(), |()| write()) };
    written.map_err(|error| {
        if descriptors::is_exhausted(&error) {
            // Removing takes no descriptor.  Better none than one that says "ok" for as long as nothing can be looked at.
            drop(std::fs::remove_file(directory.join(FILE_NAME)));
        }
        let remedy = "make the directory writable, or set agent.runtime_dir";
        let problem = descriptors::problem_of(&error, Problem::warning("runtime_dir", chain(&error), remedy));
        runtime_dir.locate(config, problem)
    })
}

pub(super) fn make_directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().create(path)
}

/// A warning that an operator has to act on although nothing is wrong: the pool has no key yet, this node was moved, or its
/// certificate ends and was not renewed.
fn note(report: &PassReport) -> Option<&Problem> {
    let is_note = |problem: &&Problem| match problem.kind {
        NO_KEY => report.awaits_first_key,
        MOVED | CERTIFICATE_ENDS => true,
        _ => false,
    };
    report.problems.iter().find(is_note)
}

/// The line that `systemctl status` shows.
#[must_use]
pub fn line(report: &PassReport) -> String {
    let state = report.state();
    if let (None, Some(problem)) = (first_error(&report.problems), note(report)) {
        return format!("{}: {}; {}", state.as_str(), problem.message, problem.remedy);
    }
    let mut line = match (&report.held, report.mode) {
        (_, InstallMode::LookOnly) => "read-only (install.enabled = false)".to_owned(),
        (Some(held), InstallMode::Install) => keys_line(held),
        (None, InstallMode::Install) => "no keys".to_owned(),
    };
    if let (State::Degraded | State::Failed, Some(problem)) = (state, first_error(&report.problems)) {
        line = format!("{}: {line}; {}: {}", state.as_str(), problem.kind, problem.message);
    }
    line
}

/// `primary P, backup B, staged; next change at T`.
#[must_use]
pub fn keys_line(held: &HeldReport) -> String {
    let backup = held.prints.backup.map_or_else(|| "none".to_owned(), |slot| slot.fingerprint.to_string());
    let next = match (held.next_change_at, held.generation) {
        (Some(at), _) => format!("next change {at}"),
        // Only the coordinator knows when.
        (None, Some(generation)) => format!("generation {generation}"),
        (None, None) => "no change planned".to_owned(),
    };
    format!("primary {}, backup {backup}, {}; {next}", held.prints.primary.fingerprint, held.phase.as_str())
}

/// Output of `once --format json`.
#[derive(Debug, Serialize)]
pub struct OnceOutput<'a> {
    changed: bool,
    dry_run: bool,
    phase: Phase,
    generation: Option<Generation>,
    primary: Option<SlotPrint>,
    backup: Option<SlotPrint>,
    next_change_at: Option<UnixTime>,
    file: Option<FileChange<'a>>,
    namespaces: Vec<NamespaceChange<'a>>,
    problems: &'a [Problem],
}

#[derive(Debug, Serialize)]
struct FileChange<'a> {
    path: &'a Path,
    changed: bool,
}

#[derive(Debug, Serialize)]
struct NamespaceChange<'a> {
    name: &'a str,
    changed: bool,
}

impl<'a> OnceOutput<'a> {
    /// After a pass.
    #[must_use]
    pub fn of(report: &'a PassReport, mode: PassMode) -> Self {
        let namespaces = &report.namespaces;
        Self {
            changed: report.changed(),
            file: Some(FileChange { path: &report.file, changed: report.file_changed }),
            namespaces: namespaces
                .iter()
                .map(|n| NamespaceChange { name: n.namespace.name(), changed: n.changed })
                .collect(),
            phase: report.held.map_or(Phase::Empty, |held| held.phase),
            generation: report.held.and_then(|held| held.generation),
            primary: report.held.map(|held| held.prints.primary),
            backup: report.held.and_then(|held| held.prints.backup),
            next_change_at: report.held.and_then(|held| held.next_change_at),
            ..Self::refused(&report.problems, mode)
        }
    }

    /// Where there was no pass.
    #[must_use]
    pub fn refused(problems: &'a [Problem], mode: PassMode) -> Self {
        Self {
            changed: false,
            dry_run: mode == PassMode::DryRun,
            phase: Phase::Empty,
            generation: None,
            primary: None,
            backup: None,
            next_change_at: None,
            file: None,
            namespaces: Vec::new(),
            problems,
        }
    }
}
