//! What a driver's copy shows under a rule that is switched off, in place of what is stored.

use std::collections::{BTreeMap, BTreeSet};

use tfo_engine::rollout::barrier::Barrier;
use tfo_engine::rollout::document::{Document, Snapshot};
use tfo_engine::rollout::parts::{Ack, Entry, Later, PoolContent, Writes};
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::proposed::{PolicyDigest, Replaced};
use tfo_engine::rollout::record::{Installed, NodeRecord, Report, SlotCount};
use tfo_engine::rollout::slots::Fence;
use tfo_engine::rollout::wave::instruction_for;
use tfo_host::runtime::clock;
use tfo_model::count::Generation;
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::node::{KeySource, Session};

/// A node, and its coordinator, that are there to be heard.
const GHOST: &str = "ghost";
/// For how long drivers wait for a node whose coordinators tell it [`TOLD`]: absent after 18 + 6 + 2 · 1.5 s.
const HASTY_SECS: u64 = 18;
/// The period that they believe it declares.
const HASTY_PERIOD_SECS: u64 = 6;
/// `absent_after` of the file, which nodes are told by a coordinator that is as shipped.
pub(super) const TOLD: &str = "absent_after = \"60s\"\n";

/// Acknowledgements, by the coordinators that have the nodes' sessions.
pub(super) type Forged = BTreeMap<CoordinatorName, Writes>;

/// Puts them into a copy; false: there are none.
pub(super) fn write(forged: &Forged, content: &mut PoolContent) -> bool {
    forged.iter().for_each(|(by, writes)| content.write(by, writes));
    !forged.is_empty()
}

/// The record with another report.
fn forge(forged: &mut Forged, (node, record): (&NodeId, &NodeRecord), change: impl FnOnce(Report) -> Option<Report>) {
    let (Some(session), Some(by)) = (record.session, record.coordinator.clone()) else { return };
    let Some(report) = record.report.as_deref().cloned().and_then(change) else { return };
    let (window, baseline, at) = (record.window, record.baseline, record.last_report_at.unwrap_or_else(clock::now));
    let ack = Ack { report: report.into(), syncs: record.syncs, window, baseline, at };
    forged.entry(by).or_default().acks.insert(node.clone(), Later { session, ack, silent: record.silent }.into());
}

/// This report, as if the node held what it is instructed to hold.
fn acknowledging(document: &Document, node: &NodeId, report: Report) -> Option<Report> {
    let told = instruction_for(document, node, SlotCount::Two)?;
    let fence = Some(Fence::of(document.pool_id, &told));
    Some(Report { fence, installed: Installed::ReadBack, ..report })
}

/// All nodes that are waited for have acknowledged.
pub(super) fn all_acked(snapshot: &Snapshot) -> Forged {
    let mut forged = Forged::new();
    for node in Barrier::of_all(snapshot).waiting_for {
        let Some(record) = snapshot.nodes.get(&node) else { continue };
        forge(&mut forged, (&node, record), |report| acknowledging(&snapshot.document, &node, report));
    }
    forged
}

/// A node that reports a generation which the document has not reached yet has acknowledged every one before it.
pub(super) fn later_acks_earlier(snapshot: &Snapshot) -> Forged {
    let (document, mut forged) = (&snapshot.document, Forged::new());
    for (node, record) in &snapshot.nodes {
        forge(&mut forged, (node, record), |report| {
            let fence = report.fence.as_ref().map_or(Generation::ZERO, |fence| fence.generation);
            let told = instruction_for(document, node, SlotCount::Two)?;
            let is_behind = fence < document.generation && report.seen <= document.generation;
            if is_behind || (report.acknowledges(&document.pool_id, &told) && report.seen <= document.generation) {
                return None;
            }
            acknowledging(document, node, Report { seen: document.generation, ..report })
        });
    }
    forged
}

/// Nodes that declare a short period.
pub(super) fn short_periods(snapshot: &Snapshot) -> Forged {
    let mut forged = Forged::new();
    for (node, record) in &snapshot.nodes {
        forge(&mut forged, (node, record), |report| {
            let is_long = report.next_sync_secs > HASTY_PERIOD_SECS;
            is_long.then_some(Report { next_sync_secs: HASTY_PERIOD_SECS, ..report })
        });
    }
    forged
}

/// What a document says of its policy.
#[derive(Debug, Clone)]
pub(super) struct PolicyParts {
    policy: Policy,
    replaced: Vec<Replaced>,
}

impl PolicyParts {
    /// As this document has them.
    fn of(document: &Document) -> Self {
        Self { policy: document.policy.clone(), replaced: document.replaced.clone() }
    }

    /// A document with them.
    pub(super) fn put_into(self, document: Document) -> Document {
        Document { policy: self.policy, replaced: self.replaced, ..document }
    }
}

/// Shows a policy by which nodes are absent soon, and gives the true one; none: it was shown before.
pub(super) fn hasty_policy(content: &mut PoolContent) -> Option<PolicyParts> {
    let stored = &content.snapshot().document;
    if stored.policy.absent_after_secs == HASTY_SECS {
        return None;
    }
    let (parts, mut shown) = (PolicyParts::of(stored), stored.clone());
    // No file proposes the true one.
    let at = shown.revision.next().unwrap_or(shown.revision);
    shown.replaced.push(Replaced { digest: PolicyDigest::of(&shown.policy), at });
    shown.policy.absent_after_secs = HASTY_SECS;
    content.take_over(&shown, &BTreeMap::new(), &BTreeSet::new());
    Some(parts)
}

/// Shows a document that remembers no policy which another one has replaced.
pub(super) fn forgetful(content: &mut PoolContent) -> bool {
    let stored = &content.snapshot().document;
    if stored.replaced.is_empty() {
        return false;
    }
    let shown = Document { replaced: Vec::new(), ..stored.clone() };
    content.take_over(&shown, &BTreeMap::new(), &BTreeSet::new());
    true
}

/// The ghost reports for the `syncs`th time.
pub(super) fn haunt(content: &mut PoolContent, syncs: u64) {
    let report = Report {
        fence: None,
        installed: Installed::ReadBack,
        foreign: None,
        slot_count: SlotCount::Two,
        next_sync_secs: 60,
        counters: None,
        seen: Generation::ZERO,
        // It only reports, so that nothing waits for it.
        source: KeySource::Derive,
        holds: None,
    };
    let first = Ack { report: report.into(), syncs, window: None, baseline: None, at: clock::now() };
    let entry = Entry { session: Session { ordinal: 1, nonce: 1 }, answers: None, first };
    let node: NodeId = GHOST.parse().expect("a name");
    let by: CoordinatorName = GHOST.parse().expect("a name");
    content.write(&by, &Writes { entries: [(node, entry.into())].into(), ..Writes::default() });
}
