//! `tfo-agent once`: one run from the configuration to the report.  With a coordinator it asks, installs, and acknowledges
//! in the same run (docs/protocol.md#rule-17).

use std::path::Path;
use std::time::Duration;

use super::contact::{Cadence, Contact};
use super::locks;
use super::metrics::Metrics;
use super::preflight;
use super::reconcile::{PassMode, Reconciler};
use super::report::PassReport;
use super::server_bit::{self, PoolKeys};
use super::status::{self, Circumstances};
use tfo_cli::report::Failure;
use tfo_config::agent::AgentSettings;
use tfo_config::agent::SourceSettings;
use tfo_config::contact::ServerBit;
use tfo_host::kernel::sysctl_d::{self, Persisted};
use tfo_host::runtime::confine::Confined;
use tfo_host::runtime::{clock, event_loop, sys};
use tfo_model::problem::Problem;

/// How long a run waits for another agent in the middle of a pass: longer than any pass takes.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Longest time for one exchange.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for a renewal of the certificate.  One that takes longer is continued by the next run.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(4);
/// Longest time for all exchanges: together with the wait for the lock, the passes and a renewal it fits the unit's
/// TimeoutStartSec=30s.
const EXCHANGES_PATIENCE: Duration = Duration::from_secs(18);
/// Most exchanges in one run: the first, the acknowledgement, and those of a pool that moves on in between.
const EXCHANGES_MAX: usize = 4;

/// Runs once.  `confine` gives up what the rest of the process does not need.
///
/// # Errors
/// Fails if nothing was done: the configuration is wrong, or another agent runs here.
pub fn run(
    config: &Path,
    mode: PassMode,
    confine: impl FnOnce(&AgentSettings) -> Confined,
) -> Result<PassReport, Failure> {
    let settings = preflight::ready(config, clock::now())?;
    if mode == PassMode::DryRun {
        return Ok(dry_run(Reconciler::new(settings)));
    }
    let _locks = locks::take(&settings, "once", LOCK_PATIENCE, &[])?;
    let confined = confine(&settings);
    let persisted = sysctl_d::read(&settings.install.sysctl_file.value).ok();
    let mut contact = Contact::of(&settings, persisted.as_ref().and_then(Persisted::record), Cadence::Once);
    let mut reconciler = Reconciler::new(settings);
    let mut report = match &mut contact {
        Some(contact) => converge(&mut reconciler, contact),
        None => reconciler.pass(clock::now(), mode, None),
    };
    let settings = reconciler.settings();
    let circumstances = Circumstances {
        now: clock::now(),
        drift_repairs: reconciler.drift_repairs(),
        clock_synchronised: sys::clock_synchronised(),
        node: settings.node.as_ref(),
        contact: contact.as_ref(),
        confinement: confined.level,
    };
    let written = status::write(&status::status_of(&report, circumstances), &settings.runtime_dir, &settings.file);
    report.problems.extend(written.err());
    // Only the file for node_exporter: only a daemon has an address to scrape.
    report.problems.extend(Metrics::new(&settings.metrics).write_textfile(&report, circumstances, &settings.file));
    Ok(report)
}

/// Needs no lock, so config management may look while the daemon runs; asks no coordinator, which would join its pool.
fn dry_run(mut reconciler: Reconciler) -> PassReport {
    let mut report = reconciler.pass(clock::now(), PassMode::DryRun, None);
    if reconciler.settings().has_coordinator() {
        let message = "a dry run asks no coordinator: this is about the keys of the last instruction";
        let remedy = "run it without --dry-run to join the pool, or `tfo-agent check` to check the coordinators";
        report.problems.push(Problem::warning("not_asked", message, remedy));
    }
    report
}

/// Installs what the coordinators instruct or, if none answers, verifies what is installed.
///
/// Not inlined: without a coordinator its large frame is not touched.
#[inline(never)]
fn converge(reconciler: &mut Reconciler, contact: &mut Contact) -> PassReport {
    let runtime = event_loop::new();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let mut report = reconciler.pass(clock::now(), PassMode::Apply, None);
            let problem = Problem::error("event_loop", error.to_string(), "check the limits of this process");
            report.problems.push(problem);
            return report;
        }
    };
    let report = runtime.block_on(exchange(reconciler, contact));
    // A name lookup in flight must not hold up the end of this process.
    runtime.shutdown_background();
    report
}

async fn exchange(reconciler: &mut Reconciler, contact: &mut Contact) -> PassReport {
    if !contact.gives_keys() {
        let mut report = pass(reconciler, contact, PassMode::Apply);
        contact.exchange(EXCHANGE_PATIENCE).await;
        contact.renew(RENEWAL_PATIENCE).await;
        report.problems.extend(contact.problems());
        return report;
    }
    // The first request reports what is here; its answer is what comes after that.
    pass(reconciler, contact, PassMode::DryRun);
    let mut done: Option<PassReport> = None;
    let began = clock::monotonic();
    for _ in 0..EXCHANGES_MAX {
        let left = clock::left_of(EXCHANGES_PATIENCE, began);
        if left.is_zero() {
            break;
        }
        contact.exchange(left.min(EXCHANGE_PATIENCE)).await;
        if done.is_some() && (contact.has_failed() || contact.offer().is_none()) {
            break;
        }
        let mut report = pass(reconciler, contact, PassMode::Apply);
        if let Some(before) = &done {
            report.add_changes(before);
        }
        done = Some(report);
        if contact.has_failed() || !contact.has_pending_report() {
            break;
        }
    }
    contact.renew(RENEWAL_PATIENCE).await;
    let mut report = done.expect("the first exchange is followed by a pass");
    report.problems.extend(contact.problems());
    report.awaits_first_key = contact.serves_without_key();
    if let SourceSettings::Coordinator(source) = &reconciler.settings().source
        && source.server_bit == ServerBit::Held
    {
        let keys = if contact.has_keys() { PoolKeys::Held } else { PoolKeys::Missing };
        let runtime_dir = &reconciler.settings().runtime_dir.value;
        report.problems.extend(server_bit::hold(runtime_dir, keys, &report.namespaces));
    }
    report
}

/// One pass, whose result the next request reports.
fn pass(reconciler: &mut Reconciler, contact: &mut Contact, mode: PassMode) -> PassReport {
    let mut report = reconciler.pass(clock::now(), mode, contact.offer());
    report.problems.extend(preflight::unacknowledgeable(reconciler.settings()));
    contact.observed(&report);
    report
}
