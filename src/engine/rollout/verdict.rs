//! The verdict on a pool: how bad it is, one sentence, the nodes, and the next command (docs/reference/json.md#verdict).
//!
//! Computed here alone; every surface shows it.  A function of one snapshot, the time, and what the next tick waits for.
//! Must not know: clocks, stores, screens.

use std::collections::BTreeMap;

use super::document::{PauseCause, Snapshot};
use super::input::{Now, Wait};
use tfo_model::fleet::{BlockedBy, Severity, VerdictKind};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How much it asks of an operator.
    pub severity: Severity,
    /// What it is about.
    pub kind: VerdictKind,
    /// Since when, by wall clock.
    pub since: Option<UnixTime>,
    /// One sentence for people.
    pub sentence: String,
    /// The nodes that it is about, in the order of their weight.
    pub nodes: Vec<NodeId>,
    /// The numbers of the sentence by name; shares are in millionths and end in `_ppm`.
    pub numbers: BTreeMap<&'static str, u64>,
    /// The next command.
    pub next: Option<String>,
    /// The page of the documentation that says more.
    pub docs: Option<&'static str>,
}

impl Verdict {
    fn new(severity: Severity, kind: VerdictKind, sentence: impl Into<String>) -> Self {
        Self {
            severity,
            kind,
            since: None,
            sentence: sentence.into(),
            nodes: Vec::new(),
            numbers: BTreeMap::new(),
            next: None,
            docs: None,
        }
    }
}

/// The verdict on the pool of this snapshot, whose next tick waits for `wait`; none if it moves.
#[must_use]
pub fn verdict(snapshot: &Snapshot, _now: Now<'_>, wait: Option<&Wait>) -> Verdict {
    let document = &snapshot.document;
    match (&document.paused, wait.map(|wait| wait.blocked_by)) {
        (_, Some(BlockedBy::Frozen)) => {
            Verdict::new(Severity::Critical, VerdictKind::Frozen, "frozen: the store is older than its fleet")
        }
        (Some(pause), _) => match &pause.cause {
            PauseCause::Operator { operator, .. } => {
                Verdict::new(Severity::Warning, VerdictKind::Paused, format!("paused by {operator}"))
            }
            PauseCause::Health { .. } => {
                Verdict::new(Severity::Critical, VerdictKind::StoppedByHealth, "stopped by the health gate")
            }
        },
        (None, Some(BlockedBy::NoKey)) => {
            Verdict::new(Severity::Warning, VerdictKind::NoKey, "the pool has no key yet")
        }
        (None, Some(BlockedBy::Held)) => Verdict::new(Severity::Warning, VerdictKind::Held, "held"),
        (None, Some(BlockedBy::Schedule)) => Verdict::new(Severity::Ok, VerdictKind::Agree, "agree"),
        (None, _) => Verdict::new(Severity::Notice, VerdictKind::Rotating, "a rotation runs"),
    }
}
