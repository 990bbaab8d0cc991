//! What this node reports to its coordinators, and how much of it they know.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::report::PassReport;
use tfo_engine::fence::Ask;
use tfo_engine::rollout::slots::Fence;
use tfo_host::examine;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::kernel::release;
use tfo_host::runtime::{clock, sys};
use tfo_model::caveat::Caveat;
use tfo_model::node::{Counters, KeySource};
use tfo_model::problem::first_error;
use tfo_model::state::{BackupSlot, Phase, SlotPrint};
use tfo_wire::v1::sync::{ClockReport, InstalledKeys, SyncRequest};

/// The report, from pass to pass.
#[derive(Debug, Default)]
pub(super) struct NodeReport {
    found: Found,
    /// The namespaces of the last pass that do not come and go.
    lasting: Vec<Namespace>,
    /// Their number, with those that do.  It is told with the next request, and not a reason for one.
    namespaces: usize,
    /// What those that do have counted.
    passing: TfoCounters,
    /// What the last answered request reported.
    acknowledged: Option<Found>,
    /// Another program changed the keys, and no coordinator knows.
    pub(super) drift: bool,
    /// The phase that the last pass found in the file.
    pub(super) phase: Option<Phase>,
}

/// What a pass found, as far as it is reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Found {
    installed: Option<InstalledKeys>,
    error: Option<&'static str>,
    bits: Option<i32>,
    backup_slot: Option<bool>,
    caveats: BTreeSet<Caveat>,
}

/// What a request states about itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestTerms {
    /// How long the answer may be held back.
    pub(super) wait: Duration,
    /// When this node asks again, at the latest.
    pub(super) next_contact: Duration,
    pub(super) source: KeySource,
    /// Kind of the failure, where this node refused the last answer.
    pub(super) refused: Option<&'static str>,
    /// Kind of what the operator has to look at.
    pub(super) note: Option<&'static str>,
    /// Whether this node is a joiner of the pool that it asks, whatever it holds.
    pub(super) is_joiner: bool,
}

impl NodeReport {
    /// Takes in a pass; `fence` is the one in the file.  True if a coordinator should hear of it now.
    #[must_use]
    pub(super) fn observed(&mut self, pass: &PassReport, fence: Option<&Fence>) -> bool {
        self.phase = pass.held.filter(|_| pass.file_current).map(|held| held.phase);
        let lasting = pass.namespaces.iter().map(|seen| &seen.namespace).filter(|namespace| !namespace.is_found());
        self.lasting = lasting.cloned().collect();
        self.namespaces = pass.namespaces.iter().filter(|seen| seen.verified).count();
        self.passing = pass.passing;
        let found = Found::of(pass, fence);
        let drift = pass.problems.iter().any(|problem| problem.kind == "drift");
        self.drift |= drift;
        let is_news = drift || found != self.found;
        self.found = found;
        is_news
    }

    /// A request was answered; `drift`: it reported the drift.  A request with an older report would have been given up.
    pub(super) fn answered(&mut self, drift: bool) {
        self.drift &= !drift;
        self.acknowledged = Some(self.found.clone());
    }

    /// Whether a coordinator has answered any report of this process.
    pub(super) fn is_known(&self) -> bool {
        self.acknowledged.is_some()
    }

    /// Whether no coordinator knows yet what the last pass found.
    pub(super) fn is_pending(&self) -> bool {
        self.acknowledged.as_ref() != Some(&self.found)
    }

    /// Whether there is something to report that the next pass may not find any more.
    pub(super) fn is_momentary(&self) -> bool {
        self.drift && self.found.error.is_none()
    }

    /// The request.
    pub(super) fn request(&self, ask: Ask, terms: &RequestTerms) -> SyncRequest {
        let Found { installed, error, bits, backup_slot, caveats } = &self.found;
        SyncRequest {
            wait_secs: terms.wait.as_secs(),
            next_contact_secs: terms.next_contact.as_secs(),
            session: ask.session,
            seen: ask.seen,
            installed: installed.clone().map(|held| if terms.is_joiner { from_elsewhere(held) } else { held }),
            kernel: truncated(release::running_text()),
            agent: truncated(env!("CARGO_PKG_VERSION").to_owned()),
            tcp_fastopen: *bits,
            clock: ClockReport { unix_ms: clock::now_ms(), synchronised: sys::clock_synchronised() },
            counters: counters(&self.lasting, self.passing),
            error: terms.refused.or(*error).or(self.drift.then_some("drift")).map(str::to_owned),
            note: terms.note.map(str::to_owned),
            backup_slot: *backup_slot,
            source: terms.source,
            caveats: caveats.iter().copied().map(Into::into).collect(),
            namespaces: Some(self.namespaces as u64),
        }
    }
}

impl Found {
    fn of(pass: &PassReport, fence: Option<&Fence>) -> Self {
        let error = first_error(&pass.problems).map(|problem| problem.kind);
        // Keys that are not in the file and in every kernel are not acknowledged, whatever the reason.
        let error = error.or_else(|| (pass.held.is_some() && !pass.verified()).then_some("not_verified"));
        let both = pass.namespaces.iter().all(|namespace| namespace.backup_slot == BackupSlot::Present);
        Self {
            installed: installed(pass, fence),
            error,
            bits: pass.namespaces.first().and_then(|own| own.bits),
            backup_slot: Some(both),
            caveats: examine::caveats(pass.namespaces.iter().map(|seen| (&seen.namespace, seen.bits))),
        }
    }
}

/// The same keys without the name of a pool.
fn from_elsewhere(held: InstalledKeys) -> InstalledKeys {
    let unnamed = |slot: SlotPrint| SlotPrint { epoch: None, ..slot };
    InstalledKeys { pool_id: None, generation: None, primary: unnamed(held.primary), backup: held.backup.map(unnamed) }
}

/// Cut to what a coordinator accepts.
fn truncated(mut text: String) -> String {
    let bytes_max = tfo_wire::v1::sync::TEXT_BYTES_MAX;
    while text.len() > bytes_max {
        text.pop();
    }
    text
}

/// What is held, under the fence's name where a pool instructed it; without a file of the agent, what the kernels agree on.
fn installed(pass: &PassReport, fence: Option<&Fence>) -> Option<InstalledKeys> {
    let Some(held) = &pass.held else {
        let own = pass.namespaces.first()?.shown?;
        let same = pass.namespaces.iter().all(|namespace| namespace.shown == Some(own));
        let slot = |fingerprint| SlotPrint { epoch: None, fingerprint };
        let (primary, backup) = (slot(own.primary), own.backup.map(slot));
        return same.then_some(InstalledKeys { pool_id: None, generation: None, primary, backup });
    };
    let fence = fence.filter(|fence| held.generation == Some(fence.generation));
    Some(InstalledKeys {
        pool_id: fence.map(|fence| fence.pool_id),
        generation: fence.map(|fence| fence.generation),
        primary: held.prints.primary,
        backup: held.prints.backup,
    })
}

/// The sum over all namespaces; none if the kernel has no such counters, or if one that lasts cannot be read.
fn counters(namespaces: &[Namespace], passing: TfoCounters) -> Option<Counters> {
    let mut sum = Counters {
        passive: passing.passive.unwrap_or(0),
        passive_alt_key: passing.passive_alt_key.unwrap_or(0),
        passive_fail: passing.passive_fail.unwrap_or(0),
    };
    for namespace in namespaces {
        let read = namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH))).ok()?.ok()?;
        sum.passive = sum.passive.checked_add(read.passive?)?;
        sum.passive_alt_key = sum.passive_alt_key.checked_add(read.passive_alt_key.unwrap_or(0))?;
        sum.passive_fail = sum.passive_fail.checked_add(read.passive_fail?)?;
    }
    Some(sum)
}
