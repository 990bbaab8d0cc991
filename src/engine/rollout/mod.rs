//! The coordinator's machine: docs/protocol.md#rules, rules 1 to 16 as pure code.
//!
//! Safety property: for any two required nodes a and b, `primary(a)` is in `{primary(b), backup(b)}`.  Two slot pairs
//! are compatible iff they have the same primary, or are the same two keys swapped; so there are two kinds of move,
//! change of the backup and flip, and a barrier stands wherever the kind changes.
//!
//! | from | to | slots told | generation | needs | code |
//! |---|---|---|---|---|---|
//! | Empty | Steady(c, b?) | `[c,b?]` | +1 | operator: first key or import | `command::first_key`, `import` |
//! | Steady(c,b) | Staged(c→x) | `[c,x]` | +1 | barrier, not paused or held, due, drained | `walk::stage` |
//! | Staged(c→x) | Promoted, first wave | in the wave `[x,c]`, others as before | +1 | barrier | `walk::promote` |
//! | Promoted, wave k | wave k+1 | same | 0 | every opened node acked, health gate | `walk::open_wave` |
//! | Promoted, all | Steady(x,c) | same | 0 | barrier | `walk::settle` |
//! | Promoted, all, revoke c | Steady(x) | `[x]` | +1 | barrier | `walk::settle` |
//! | Steady(c,b), revoke b | Steady(c) | `[c]` | +1 | barrier | `walk::drop_backup` |
//! | Staged, abort | Steady(c, prior backup) + hold | `[c,b]` | +1 | none | `abort::abort` |
//! | Promoted, abort | Steady(c, backup x) + hold | `[c,x]` | +1 | none | `abort::abort` |
//!
//! Known limit: a restored database brings back the records of nodes that an operator forgot, excluded or denied after
//! the backup was made.  Nothing is committed before such a node is heard again or measured absent, but what it holds, or
//! installs of an answer that was still under way, may be anything that it was told before it was taken out: it is covered
//! by the invariant again only from its first install of what it is told after the restore.  So after a restore an operator
//! repeats forget and deny before `recover`, and exclude after it.  And nodes that the backup does not require (it
//! excludes them, or does not know them) are not waited for: what the restored pool tells others before such a node shows
//! that the pool had gone on costs those others their cookies at `recover`.
//!
//! Nothing else changes the slots, except `recover` (rule 10).  [`handle`] takes one consistent snapshot and says what
//! to commit against its revision; the driver commits, and on a conflict drops the result and asks again.  [`sync`] is
//! the nodes' side: admission, then the answer.  Must not know: clocks, stores, key bytes.

mod abort;
mod command;
pub mod document;
mod gates;
pub mod input;
mod operator;
pub mod policy;
pub mod record;
pub mod sync;
mod walk;
pub mod wave;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use self::document::{Action, Actor, AuditEntry, Document, Proposal, Snapshot};
use self::input::{Input, Now, Reason, Refused, Step};
use self::record::{NodeRecord, RecordChange};
use crate::convergence::{Barrier, conflict};
use tfo_model::ids::NodeId;
use tfo_model::key::KeyFingerprint;

pub use self::operator::{RECOVER_JUMP, REPORT_LEAD_MAX, end_of_exclusion_admits};

/// Decides what one input does to the snapshot.
///
/// `fresh` is the fingerprint of a key that was made for [`Document::next_epoch`]; without one, a step that needs it
/// is answered with [`Step::MakeKey`].
///
/// # Errors
/// Fails if a command is not allowed now, with the phase and the reason.  A tick is never refused.
pub fn handle(
    snapshot: &Snapshot,
    now: Now<'_>,
    input: &Input,
    fresh: Option<KeyFingerprint>,
) -> Result<Step, Refused> {
    let result = match input {
        Input::Tick => walk::tick(snapshot, now, fresh),
        Input::Order(order) => command::order(snapshot, now, order, fresh),
    };
    result.map_err(|reason| Refused { phase: snapshot.document.stage.phase(), reason })
}

/// A change of the document in the making: bumps the revision once, and the generation at most once.
struct Draft<'a> {
    snapshot: &'a Snapshot,
    now: Now<'a>,
    document: Document,
    records: Vec<RecordChange>,
    /// Nodes that the audit entry names besides those whose records change.
    taken_in: BTreeSet<NodeId>,
}

impl<'a> Draft<'a> {
    fn of(snapshot: &'a Snapshot, now: Now<'a>) -> Self {
        Self { snapshot, now, document: snapshot.document.clone(), records: Vec::new(), taken_in: BTreeSet::new() }
    }

    /// Some node is told other slots from here on.
    fn tell(&mut self) -> Result<(), Reason> {
        self.document.generation = self.snapshot.document.generation.next().ok_or(Reason::Exhausted)?;
        Ok(())
    }

    /// Another phase, or another instruction in it, begins.
    fn begin_phase(&mut self) {
        self.document.since = self.now.wall;
    }

    /// Changes one record against the version in the snapshot.
    fn record(&mut self, node: &NodeId, next: Option<NodeRecord>) {
        let before = self.snapshot.nodes.get(node);
        let expected = before.map(|record| record.version);
        let next = next.map(|record| NodeRecord { version: expected.unwrap_or(0) + 1, ..record });
        self.records.push(RecordChange { node: node.clone(), expected, next });
    }

    fn commit(mut self, actor: Actor, action: Action, reason: &str) -> Result<Step, Reason> {
        let expected = self.snapshot.document.revision;
        self.document.revision = expected.next().ok_or(Reason::Exhausted)?;
        self.forget_finished_revoke();
        let changed = self.records.iter().map(|change| change.node.clone());
        let nodes = changed.chain(self.taken_in).collect();
        let audit = AuditEntry {
            at: self.now.wall,
            revision: self.document.revision,
            generation: self.document.generation,
            phase: self.document.stage.phase(),
            actor,
            action,
            nodes,
            reason: reason.to_owned(),
        };
        Ok(Step::Commit(Box::new(Proposal { expected, document: self.document, records: self.records, audit })))
    }

    /// A revoke ends when none of its keys is in a slot any more.
    fn forget_finished_revoke(&mut self) {
        let held = self.document.keys_held();
        if let Some(revoke) = &mut self.document.revoke {
            revoke.keys.retain(|key| held.contains(key));
            if revoke.keys.is_empty() {
                self.document.revoke = None;
            }
        }
    }
}

/// The two things before which nothing is committed: a frozen pool, and required nodes that were not heard (rule 10).
fn may_commit(snapshot: &Snapshot, now: Now<'_>) -> Result<(), Reason> {
    not_frozen(snapshot)?;
    let unheard = now.presence.unheard_required(snapshot);
    if unheard.is_empty() { Ok(()) } else { Err(Reason::NotHeard(unheard)) }
}

fn not_frozen(snapshot: &Snapshot) -> Result<(), Reason> {
    match conflict(snapshot) {
        None => Ok(()),
        Some(conflict) => Err(Reason::Frozen { node: conflict.node, generation: conflict.generation }),
    }
}

fn passed(barrier: Barrier) -> Result<(), Reason> {
    if barrier.required < barrier.needed {
        return Err(Reason::TooFew { left: barrier.required, needed: barrier.needed });
    }
    if barrier.waiting_for.is_empty() { Ok(()) } else { Err(Reason::Barrier(barrier.waiting_for)) }
}
