//! Commands of operators (docs/protocol.md#rule-3; rules 10, 13, 14, 15): what is allowed in which phase.
//!
//! While the pool is frozen, or required nodes were not seen in this life, the table of rule 10 decides which commands
//! are allowed.  Its exceptions exist so that neither a dead node nor a false report locks the operator out:
//!
//! * pause, deny, forget and exclude need no word from any node.  They give no node other slots, and the node that they
//!   take out is not covered any more.  A forgotten node that reports again freezes the pool again, so forget a node of
//!   a frozen pool only if it is gone or its file is wiped.  If its report was true, the pool has given the lost history
//!   to others by then, and no `recover` joins the two (known limit);
//! * a revoke waits for no node that it denies, and for others at most the short barrier;
//! * advance is allowed if each node that it takes out was seen or is measured absent in this life.
//!
//! | command | from | effect |
//! |---|---|---|
//! | first key, import | Empty | Steady, and hold until the expected nodes have the keys |
//! | rotate | Steady, not paused or held | `walk::stage` |
//! | pause, resume | any | sets or clears `paused`; resume also ends a hold |
//! | abort, revoke | | `abort` |
//! | recover, advance, policy | | `operator` |
//! | exclude, include, deny, allow, forget, expect | any | `members` |

use super::abort::{abort, revoke};
use super::barrier::{Barrier, may_commit, no_common_foreign_key, not_frozen};
use super::document::{Actor, CHANGED_MAX, Hold, Pause, PauseCause, Snapshot, Stage};
use super::draft::{Draft, Origin};
use super::gates::{drained, missing, not_drained};
use super::input::{Command, Now, OperatorRequest, Reason, Step};
use super::record::Exclusion;
use super::refusal::{EXPECTED_MAX, EXPECTED_NAMES_MAX};
use super::slots::{PoolKey, Slots};
use super::walk::stage;
use tfo_model::fleet::Action;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::node::Expected;

pub(super) fn carry_out(
    snapshot: &Snapshot,
    now: Now<'_>,
    request: &OperatorRequest,
    fresh: Option<KeyFingerprint>,
) -> Result<Step, Reason> {
    let document = &snapshot.document;
    if request.if_revision.is_some_and(|seen| seen != document.revision) {
        return Err(Reason::RevisionMoved(document.revision));
    }
    permitted(snapshot, now, &request.command)?;
    let origin = Origin { actor: Actor::Operator(request.operator.clone()), reason: request.reason.clone() };
    let mut draft = Draft::of(snapshot, now, origin);
    match &request.command {
        Command::FirstKey { expect, force } => first_key(draft, expect, *force, fresh),
        Command::Import { keys, expect } => import(draft, *keys, expect),
        Command::Recover { slots } => draft.recover(slots),
        Command::Rotate { force } => rotate(draft, *force, fresh),
        Command::Pause => pause(draft),
        Command::Resume { force } => resume(draft, *force),
        Command::Abort { force } => abort(draft, *force),
        Command::Revoke { keys, deny } => revoke(draft, keys, deny),
        Command::Advance { generation, leave } => draft.advance(*generation, leave),
        Command::Exclude { nodes, until } => draft.exclude_until(nodes, *until),
        Command::Include { nodes } => draft.include(nodes),
        Command::Deny { nodes } => {
            if nodes.len() > CHANGED_MAX {
                return Err(Reason::TooManyNodes(nodes.len()));
            }
            draft.exclude(nodes, Exclusion::Denied);
            draft.commit(Action::Deny)
        }
        Command::Allow { nodes } => draft.allow(nodes),
        Command::Forget { nodes, expected } => draft.forget(nodes, *expected),
        Command::Move { nodes, to, expected } => draft.move_to(nodes, to, *expected),
        Command::Expect { number } => draft.expect(*number),
        Command::SetPolicy { policy } => draft.set_policy(policy),
    }
}

/// What an operator may do while the pool is frozen or nodes were not seen in this life (rule 10).
fn permitted(snapshot: &Snapshot, now: Now<'_>, command: &Command) -> Result<(), Reason> {
    match command {
        Command::Pause
        | Command::Recover { .. }
        | Command::Deny { .. }
        | Command::Forget { .. }
        | Command::Exclude { .. } => Ok(()),
        Command::Advance { .. } => {
            not_frozen(snapshot, now.presence)?;
            let mut late = now.presence.unseen_required(snapshot);
            late.retain(|node| !now.presence.absent.contains(node));
            if late.is_empty() { Ok(()) } else { Err(Reason::NotHeard(late)) }
        }
        // It asks for itself, because of the nodes that it denies.
        Command::Revoke { .. } => Ok(()),
        Command::FirstKey { .. }
        | Command::Import { .. }
        | Command::Rotate { .. }
        | Command::Resume { .. }
        | Command::Abort { .. }
        | Command::Include { .. }
        | Command::Allow { .. }
        | Command::Move { .. }
        | Command::Expect { .. }
        | Command::SetPolicy { .. } => may_commit(snapshot, now),
    }
}

/// Empty -> Steady(c), with a key that was made here.
fn first_key(
    mut draft: Draft<'_>,
    expect: &Expected,
    force: bool,
    fresh: Option<KeyFingerprint>,
) -> Result<Step, Reason> {
    if draft.document.stage != Stage::Empty {
        return Err(Reason::WrongPhase("the pool has a key already; rotate"));
    }
    if !force {
        no_common_foreign_key(draft.snapshot)?;
    }
    let epoch = draft.document.next_epoch;
    let Some(fingerprint) = fresh else { return Ok(Step::MakeKey { epoch }) };
    draft.fill(Slots { primary: PoolKey { epoch, fingerprint }, backup: None }, expect)?;
    draft.commit(Action::FirstKey)
}

/// Empty -> Steady(c, b?), with the keys that the nodes hold already.
fn import(mut draft: Draft<'_>, keys: PairPrint, expect: &Expected) -> Result<Step, Reason> {
    if draft.document.stage != Stage::Empty {
        return Err(Reason::WrongPhase("keys are imported only into an empty pool; rotate to a key with given bytes"));
    }
    // The backup is the older key, so it takes the lower epoch.
    let mut epoch = draft.document.next_epoch;
    let mut backup = None;
    if let Some(fingerprint) = keys.backup {
        backup = Some(PoolKey { epoch, fingerprint });
        epoch = epoch.next().ok_or(Reason::Exhausted)?;
    }
    draft.fill(Slots { primary: PoolKey { epoch, fingerprint: keys.primary }, backup }, expect)?;
    draft.commit(Action::Import)
}

fn rotate(draft: Draft<'_>, force: bool, fresh: Option<KeyFingerprint>) -> Result<Step, Reason> {
    let document = &draft.document;
    if matches!(document.stage, Stage::Empty) {
        return Err(Reason::WrongPhase("the pool has no key yet: make its first one (--first), or import the nodes'"));
    }
    if !matches!(document.stage, Stage::Steady { .. }) {
        return Err(Reason::WrongPhase("a rotation starts only in phase steady"));
    }
    if document.paused.is_some() {
        return Err(Reason::Paused);
    }
    if document.hold.is_some() {
        return Err(Reason::Held);
    }
    let required = Barrier::of_all(draft.snapshot).required;
    let expected = document.expected_nodes();
    if required < expected && !force {
        return Err(Reason::ExpectedNodes { required, expected });
    }
    let wall = draft.now.wall;
    if let (Some((freeze, _)), false) = (document.policy.freeze_at(wall), force) {
        return Err(Reason::Calendar { reason: freeze.reason.clone(), until: document.policy.free_from(wall) });
    }
    if let (Err(wait), false) = (drained(draft.snapshot, draft.now), force) {
        return Err(not_drained(draft.snapshot, &wait));
    }
    stage(draft, fresh)
}

fn pause(mut draft: Draft<'_>) -> Result<Step, Reason> {
    if draft.document.paused.is_some() {
        return Err(Reason::WrongPhase("paused already"));
    }
    let cause = match &draft.origin.actor {
        Actor::Operator(operator) => {
            PauseCause::Operator { operator: operator.clone(), reason: draft.origin.reason.clone() }
        }
        Actor::Engine => return Err(Reason::WrongPhase("only an operator pauses a pool by command")),
    };
    draft.document.paused = Some(Pause { since: draft.now.wall, cause });
    draft.commit(Action::Pause)
}

/// Clears pause and hold.  After a first key or an import every expected node must be here (rule 14).  Until then
/// resume clears only a pause, if there is one, so that it does not stop a revoke.  With `force` the hold ends without
/// the nodes that never came: they are unknown, and hold none of the pool's keys.
fn resume(mut draft: Draft<'_>, force: bool) -> Result<Step, Reason> {
    if draft.document.paused.is_none() && draft.document.hold.is_none() {
        return Err(Reason::WrongPhase("neither paused nor held"));
    }
    if let Some(Hold::FirstKey { expect }) = &draft.document.hold {
        let missing = if force {
            // Nodes that are here are never passed over.
            Barrier::of_all(draft.snapshot).waiting_for.iter().map(ToString::to_string).collect()
        } else {
            missing(draft.snapshot, expect)
        };
        if !missing.is_empty() {
            if draft.document.paused.take().is_none() {
                return Err(Reason::Expected(missing));
            }
            return draft.commit(Action::Resume);
        }
    }
    let was_unhealthy = draft.document.paused.as_ref().is_some_and(Pause::is_health);
    if let (Stage::Promoted { wave, .. }, true) = (&mut draft.document.stage, was_unhealthy) {
        wave.health_waived = true;
    }
    draft.document.paused = None;
    draft.document.hold = None;
    draft.commit(Action::Resume)
}

impl Draft<'_> {
    /// Gives an empty pool its keys; it holds until the expected nodes have them.
    fn fill(&mut self, slots: Slots, expect: &Expected) -> Result<(), Reason> {
        if let Expected::Names(names) = expect
            && names.len() > EXPECTED_NAMES_MAX
        {
            return Err(Reason::ExpectedNames(names.len()));
        }
        let Slots { primary, backup } = slots;
        if backup.is_some_and(|backup| backup.fingerprint == primary.fingerprint) {
            return Err(Reason::KeyReused(primary.fingerprint));
        }
        if let Some(revoked) = slots.keys().find(|key| self.document.is_revoked(*key)) {
            return Err(Reason::KeyReused(revoked.fingerprint));
        }
        self.document.next_epoch = slots.highest_epoch().next().ok_or(Reason::Exhausted)?;
        self.document.stage = Stage::Steady { current: primary, backup };
        self.document.hold = Some(Hold::FirstKey { expect: expect.clone() });
        self.document.expected = match expect {
            Expected::Number(number) => *number,
            Expected::Names(names) => names.len(),
        }
        .clamp(1, EXPECTED_MAX);
        self.document.rotated_at = self.now.wall;
        self.instruct()?;
        self.begin_phase();
        self.leaves_room()
    }
}
