//! One sync: what this node says, and what comes back.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use reqwest::Method;
use serde::de::IgnoredAny;

use crate::report::PassReport;
use tfo_config::contact::ContactSettings;
use tfo_engine::fence::Ask;
use tfo_engine::rollout::slots::Fence;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::kernel::release;
use tfo_host::runtime::{clock, sys};
use tfo_model::node::Counters;
use tfo_model::problem::first_error;
use tfo_model::state::{BackupSlot, SlotPrint};
use tfo_wire::client::{BaseUrl, Call, Client, ClientError};
use tfo_wire::v1::sync::{ANSWER_BYTES_MAX, ClockReport, InstalledKeys, KeySource, SyncAnswer, SyncRequest};

/// How much longer than it was asked to wait a coordinator may take: connecting, a slow store, the way back.  Longer than
/// what a coordinator gives its own store for a record (8 s, `coordinator::routes::node`).
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What a coordinator says.
#[derive(Debug)]
pub(super) enum Reply {
    /// 204.
    Nothing,
    /// 200.
    Told(Box<SyncAnswer>),
    /// 200 to a node that only reports; its keys are not even read.
    Unwanted,
}

/// A request that is under way.
pub(super) struct Flight {
    /// What it asks.
    pub(super) ask: Ask,
    /// When it began, monotonic.
    pub(super) began: Duration,
    /// Whether it says that keys were changed by somebody else.
    pub(super) drift: bool,
    /// Whether an answer may be held back.
    pub(super) waits: bool,
    pub(super) reply: Pin<Box<dyn Future<Output = Result<Reply, ClientError>>>>,
}

/// What the last pass found, as far as a coordinator is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NodeState {
    installed: Option<InstalledKeys>,
    error: Option<&'static str>,
    bits: Option<i32>,
    backup_slot: Option<bool>,
    namespaces: Vec<Namespace>,
}

impl NodeState {
    /// After a pass; `fence` is what the file says.
    pub(super) fn of(report: &PassReport, fence: Option<&Fence>) -> Self {
        let error = first_error(&report.problems).map(|problem| problem.kind);
        // Whatever the reason is: what is not in the file and in every kernel is no acknowledgement.
        let error = error.or_else(|| (report.held.is_some() && !report.verified()).then_some("not_verified"));
        let both = report.namespaces.iter().all(|namespace| namespace.backup_slot == BackupSlot::Present);
        Self {
            installed: installed(report, fence),
            error,
            bits: report.namespaces.first().and_then(|own| own.bits),
            backup_slot: Some(both),
            namespaces: report.namespaces.iter().map(|namespace| namespace.namespace.clone()).collect(),
        }
    }

    /// The request, with `refused` as its error where this node itself refuses what it was told.
    pub(super) fn request(&self, ask: Ask, says: &Says) -> SyncRequest {
        SyncRequest {
            wait_secs: says.wait.as_secs(),
            next_contact_secs: says.next_contact.as_secs(),
            session: ask.session,
            seen: ask.seen,
            installed: self.installed.clone(),
            kernel: text(release::running_text()),
            agent: text(env!("CARGO_PKG_VERSION").to_owned()),
            tcp_fastopen: self.bits,
            clock: ClockReport { unix_ms: clock::now_ms(), synchronised: sys::clock_synchronised() },
            counters: counters(&self.namespaces),
            error: says.refused.or(self.error).or(says.drift.then_some("drift")).map(str::to_owned),
            backup_slot: self.backup_slot,
            source: says.source,
        }
    }

    /// Whether a pass found an error.
    pub(super) fn has_error(&self) -> bool {
        self.error.is_some()
    }
}

/// What a request says besides the node's state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Says {
    pub(super) wait: Duration,
    pub(super) next_contact: Duration,
    pub(super) source: KeySource,
    pub(super) refused: Option<&'static str>,
    pub(super) drift: bool,
}

/// Cut to what a coordinator takes.
fn text(mut text: String) -> String {
    let bytes_max = tfo_wire::v1::sync::TEXT_BYTES_MAX;
    while text.len() > bytes_max {
        text.pop();
    }
    text
}

/// What is held, under the fence's name where a pool told it; without a file of ours, what the kernels agree on.
fn installed(report: &PassReport, fence: Option<&Fence>) -> Option<InstalledKeys> {
    let Some(held) = &report.held else {
        let own = report.namespaces.first()?.shown?;
        let same = report.namespaces.iter().all(|namespace| namespace.shown == Some(own));
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

/// Of all namespaces together; none if the kernel has none, or if one of them cannot be read.
fn counters(namespaces: &[Namespace]) -> Option<Counters> {
    let mut sum = Counters::default();
    for namespace in namespaces {
        let read = namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH))).ok()?.ok()?;
        sum.passive = sum.passive.checked_add(read.passive?)?;
        sum.passive_alt_key = sum.passive_alt_key.checked_add(read.passive_alt_key.unwrap_or(0))?;
        sum.passive_fail = sum.passive_fail.checked_add(read.passive_fail?)?;
    }
    Some(sum)
}

/// The exchange itself; owns everything, so that it may go on while the loop does other work.
pub(super) fn send(
    client: &Client,
    base: &BaseUrl,
    settings: &ContactSettings,
    (request, patience): (SyncRequest, Duration),
) -> Pin<Box<dyn Future<Output = Result<Reply, ClientError>>>> {
    let (client, base) = (client.clone(), base.clone());
    let path = format!("/v1/pools/{}/sync", settings.pool);
    let timeout = Duration::from_secs(request.wait_secs) + patience;
    Box::pin(async move {
        let call = Call { method: &Method::POST, path: &path, timeout, answer_bytes_max: ANSWER_BYTES_MAX };
        if request.source == KeySource::Coordinator {
            let answer: Option<SyncAnswer> = client.call(&base, call, Some(&request)).await?;
            Ok(answer.map_or(Reply::Nothing, |answer| Reply::Told(Box::new(answer))))
        } else {
            let answer: Option<IgnoredAny> = client.call(&base, call, Some(&request)).await?;
            Ok(answer.map_or(Reply::Nothing, |_| Reply::Unwanted))
        }
    })
}
