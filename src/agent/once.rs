//! `once` with a coordinator: ask, install, and acknowledge in the same run (docs/protocol.md#rule-17).

use std::time::Duration;

use super::check;
use super::contact::Contact;
use super::report::PassReport;
use super::server_bit::{self, PoolKeys};
use super::worker::{PassMode, Worker};
use tfo_config::agent::SourceSettings;
use tfo_config::contact::ServerBit;
use tfo_host::runtime::clock;
use tfo_model::problem::Problem;

/// Longest time for one exchange with whoever answers first.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for all of them: with the wait for another agent's lock, and the passes, the unit's TimeoutStartSec=30s
/// holds it.
const TALK_PATIENCE: Duration = Duration::from_secs(20);
/// Most exchanges in one run: the first, the acknowledgement, and a pool that moves on in between.
const EXCHANGES_MAX: usize = 4;

/// Brings this host up to date: what the coordinators tell, or, if none answers, what is installed.
pub fn converge(worker: &mut Worker, contact: &mut Contact) -> PassReport {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let mut report = worker.pass(clock::now(), PassMode::Apply, None);
            let problem = Problem::error("event_loop", error.to_string(), "look at the limits of this process");
            report.problems.push(problem);
            return report;
        }
    };
    let report = runtime.block_on(talk(worker, contact));
    // A name that is still looked up must not hold this process up.
    runtime.shutdown_background();
    report
}

async fn talk(worker: &mut Worker, contact: &mut Contact) -> PassReport {
    if !contact.teaches() {
        let mut report = pass(worker, contact, PassMode::Apply);
        contact.exchange(EXCHANGE_PATIENCE).await;
        report.problems.extend(contact.problems());
        return report;
    }
    // What is here is said first: the answer is what is above it.
    pass(worker, contact, PassMode::DryRun);
    let mut done: Option<PassReport> = None;
    let began = clock::monotonic();
    for _ in 0..EXCHANGES_MAX {
        let left = clock::left_of(TALK_PATIENCE, began);
        if left.is_zero() {
            break;
        }
        contact.exchange(left.min(EXCHANGE_PATIENCE)).await;
        if done.is_some() && (contact.is_in_trouble() || contact.told().is_none()) {
            break;
        }
        let mut report = pass(worker, contact, PassMode::Apply);
        if let Some(before) = &done {
            report.add_changes(before);
        }
        done = Some(report);
        if contact.is_in_trouble() || !contact.has_unsaid() {
            break;
        }
    }
    let mut report = done.expect("the first exchange is followed by a pass");
    report.problems.extend(contact.problems());
    if let SourceSettings::Coordinator(source) = &worker.settings().source
        && source.server_bit == ServerBit::Held
    {
        let keys = if contact.has_keys() { PoolKeys::Held } else { PoolKeys::Missing };
        let runtime_dir = &worker.settings().runtime_dir.value;
        report.problems.extend(server_bit::hold(runtime_dir, keys, &report.namespaces));
    }
    report
}

/// A pass, and its result for the coordinator.
fn pass(worker: &mut Worker, contact: &mut Contact, mode: PassMode) -> PassReport {
    let mut report = worker.pass(clock::now(), mode, contact.told());
    report.problems.extend(check::unacknowledgeable(worker.settings()));
    contact.observed(&report);
    report
}
