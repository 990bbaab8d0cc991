//! The verdict on the driver's pool: the engine's, with the pool's name in its command, and since when it holds.
//!
//! Each change of kind or severity is logged once, at the level that its severity asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::Driver;
use crate::pool::message::{Described, Judged, StoreDown};
use tfo_engine::rollout::input::Now;
use tfo_engine::rollout::record::Membership;
use tfo_engine::rollout::slots::PoolKey;
use tfo_engine::rollout::verdict::{self, Beside, verdict};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::fleet::Severity;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::{VERDICT_NODES_MAX, Verdict};
use tfo_wire::v1::sync::CERTIFICATE_ENDS;

/// Longest time between two looks while the document stays the same: one looks at every node.
const JUDGE_EVERY: Duration = Duration::from_secs(1);

/// The verdict that was found last: shown, and logged when it was new.
pub(super) struct Told {
    found: verdict::Verdict,
    /// Since when this kind has been seen.
    kind_since: UnixTime,
    at: Instant,
    revision: Revision,
}

#[cfg(test)]
impl Told {
    pub(super) fn kind(&self) -> tfo_model::fleet::VerdictKind {
        self.found.kind
    }
}

impl Driver {
    /// Looks at the verdict if the last look is old, or the document has changed; not while the rollout rests.
    pub(super) fn judge_now_and_then(&mut self) {
        if self.rest.is_judged() {
            return;
        }
        let revision = self.replica.document().revision;
        let is_recent = |told: &Told| told.revision == revision && !clock::left_of(JUDGE_EVERY, told.at).is_zero();
        if !self.told.as_ref().is_some_and(is_recent) {
            self.judge();
        }
    }

    /// Looks at the verdict, notes since when it holds, and logs a change.
    pub(super) fn judge(&mut self) {
        let found = self.found();
        let before = self.told.take();
        let same_kind = before.as_ref().filter(|told| told.found.kind == found.kind);
        if same_kind.is_none_or(|told| told.found.severity != found.severity) {
            self.log_verdict(&found);
        }
        let kind_since = same_kind.map_or_else(clock::now, |told| told.kind_since);
        let revision = self.replica.document().revision;
        self.told = Some(Told { found, kind_since, at: clock::monotonic(), revision });
        self.rest.judged();
        self.shared.judged.store(Some(Arc::new(self.judged())));
    }

    fn judged(&self) -> Judged {
        let (document, slots) = (self.replica.document(), self.slots_of_most());
        Judged {
            verdict: self.verdict(),
            phase: document.stage.phase(),
            generation: document.generation,
            primary: slots.map(|slots| slots.primary.shown()),
            backup: slots.and_then(|slots| slots.backup).map(PoolKey::shown),
            holds: document.hold.is_some(),
        }
    }

    fn log_verdict(&self, found: &verdict::Verdict) {
        let verdict::Verdict { kind, severity, sentence, next, .. } = found;
        let pool = self.replica.pool();
        let next = next.as_ref().map(|next| of_pool(next, pool));
        match severity {
            Severity::Critical => error!(%pool, %severity, %kind, sentence, next, "verdict"),
            Severity::Warning => warn!(%pool, %severity, %kind, sentence, next, "verdict"),
            Severity::Notice | Severity::Ok => info!(%pool, %severity, %kind, sentence, next, "verdict"),
        }
    }

    /// The verdict that [`Self::judge`] found last, as every surface shows it.
    pub(super) fn verdict(&self) -> Verdict {
        let found = match &self.told {
            Some(told) => {
                let found = told.found.clone();
                verdict::Verdict { since: found.since.or(Some(told.kind_since)), ..found }
            }
            None => self.found(),
        };
        shown(self.replica.pool(), found)
    }

    fn found(&self) -> verdict::Verdict {
        let now = Now { wall: clock::now(), presence: self.seen.presence() };
        let (differs, certificates_end) = (self.differs(), self.certificates_end());
        verdict(self.replica.snapshot(), now, Beside { differs: &differs, certificates_end: &certificates_end })
    }

    /// The nodes that say so of their certificates and still belong to the pool.
    fn certificates_end(&self) -> Vec<NodeId> {
        let says = |described: &Described| described.note.as_deref() == Some(CERTIFICATE_ENDS);
        let ending = self.described.iter().filter(|(_, described)| says(described)).map(|(node, _)| node);
        let nodes = &self.replica.snapshot().nodes;
        let is_in = |node: &&NodeId| nodes.get(*node).is_some_and(|record| record.membership == Membership::Admitted);
        ending.filter(is_in).cloned().collect()
    }
}

/// The verdict on a pool whose driver or store does not answer.
#[must_use]
pub fn without_store(pool: &PoolName, down: StoreDown) -> Verdict {
    shown(pool, verdict::Verdict { since: down.blind_since, ..verdict::Verdict::without_store() })
}

fn shown(pool: &PoolName, found: verdict::Verdict) -> Verdict {
    let mut nodes = found.nodes;
    let more = nodes.len().saturating_sub(VERDICT_NODES_MAX);
    nodes.truncate(VERDICT_NODES_MAX);
    Verdict {
        severity: found.severity.into(),
        kind: found.kind.into(),
        since: found.since,
        sentence: found.sentence,
        nodes,
        more,
        numbers: found.numbers.into_iter().map(|(name, number)| (name.to_owned(), number)).collect(),
        next: found.next.map(|next| of_pool(&next, pool)),
        docs: found.docs.map(str::to_owned),
    }
}

/// The command for this pool: there may be several, and another one may be the operator's default.
fn of_pool(command: &str, pool: &PoolName) -> String {
    format!("{command} --pool {pool}")
}
