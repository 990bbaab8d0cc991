//! Commands of operators (docs/protocol.md#rules, rules 3, 10, 13, 14, 15): who may do what in which phase.
//!
//! Everything is refused while required nodes were not heard in this life, except pause, and while the pool is frozen,
//! except recover.  Beyond docs/protocol.md#rule-10, so that neither a dead node nor a bogus report locks the operator out:
//!
//! * exclude, deny, forget and advance pass "not heard" if whoever they take out was heard, or is measured absent in
//!   this life: they tell nobody other slots, and take out nobody whom rule 11 could not exclude;
//! * pause, deny and forget act on a frozen pool.  Whoever is forgotten and reports again freezes it again: so a node is
//!   forgotten there only when it is gone, or its file is wiped.  If its report was true, the pool has told the lost
//!   history to others by then, and no `recover` makes one of the two (known limit).
//!
//! Node commands and policy are in `operator`.

use super::abort::{abort, revoke};
use super::document::{Action, Actor, Expect, Hold, Pause, PoolKey, Snapshot, Stage};
use super::gates::drained;
use super::input::{Command, Force, Now, Order, Reason, Step, fresh_key};
use super::walk::stage;
use super::wave::has_acked;
use super::{Draft, may_commit, not_frozen};
use crate::convergence::{Barrier, common_foreign_key};
use tfo_model::count::Epoch;
use tfo_model::ids::NodeId;
use tfo_model::key::{KeyFingerprint, PairPrint};

pub(super) fn order(
    snapshot: &Snapshot,
    now: Now<'_>,
    order: &Order,
    fresh: Option<KeyFingerprint>,
) -> Result<Step, Reason> {
    let document = &snapshot.document;
    if order.if_revision.is_some_and(|seen| seen != document.revision) {
        return Err(Reason::RevisionMoved(document.revision));
    }
    permitted(snapshot, now, &order.command)?;
    let draft = Draft::of(snapshot, now);
    let actor = Actor::Operator(order.operator.clone());
    let reason = order.reason.as_str();
    match &order.command {
        Command::FirstKey { expect, force } => first_key(draft, (expect, *force), fresh, (actor, reason)),
        Command::Import { keys, expect } => import(draft, *keys, expect, (actor, reason)),
        Command::Recover { slots } => draft.recover(slots, actor, reason),
        Command::Rotate { force } => rotate(snapshot, now, *force, fresh, (actor, reason)),
        Command::Pause => pause(draft, actor, reason),
        Command::Resume { force } => resume(draft, *force, actor, reason),
        Command::Abort { force } => abort(draft, *force, actor, reason),
        Command::Revoke { keys, deny } => revoke(draft, keys, deny, actor, reason),
        Command::Advance { generation, leave } => draft.advance(*generation, leave, actor, reason),
        Command::Exclude { node, until } => draft.exclude_until(node, *until, actor, reason),
        Command::Deny { node } => {
            let mut draft = draft;
            draft.deny(node);
            draft.commit(actor, Action::Deny, reason)
        }
        Command::Forget { node } => draft.forget(node, actor, reason),
        Command::SetPolicy { policy } => draft.set_policy(policy, actor, reason),
    }
}

/// What a frozen pool, and nodes that were not heard in this life, leave to the operator (rule 10).
fn permitted(snapshot: &Snapshot, now: Now<'_>, command: &Command) -> Result<(), Reason> {
    match command {
        Command::Pause | Command::Recover { .. } => Ok(()),
        Command::Deny { node } | Command::Forget { node } => heard_or_absent(snapshot, now, |other| other == node),
        Command::Exclude { node, .. } => {
            not_frozen(snapshot)?;
            heard_or_absent(snapshot, now, |other| other == node)
        }
        Command::Advance { .. } => {
            not_frozen(snapshot)?;
            heard_or_absent(snapshot, now, |_| true)
        }
        Command::FirstKey { .. }
        | Command::Import { .. }
        | Command::Rotate { .. }
        | Command::Resume { .. }
        | Command::Abort { .. }
        | Command::Revoke { .. }
        | Command::SetPolicy { .. } => may_commit(snapshot, now),
    }
}

/// Whether nobody whom the command takes out is only late: it was heard in this life, or is measured absent in it.
fn heard_or_absent(snapshot: &Snapshot, now: Now<'_>, takes_out: impl Fn(&NodeId) -> bool) -> Result<(), Reason> {
    let mut late = now.presence.unheard_required(snapshot);
    late.retain(|node| takes_out(node) && !now.presence.absent.contains(node));
    if late.is_empty() { Ok(()) } else { Err(Reason::NotHeard(late)) }
}

/// Empty -> Steady(c), with a key that was made here.
fn first_key(
    mut draft: Draft<'_>,
    (expect, force): (&Expect, Force),
    fresh: Option<KeyFingerprint>,
    (actor, reason): (Actor, &str),
) -> Result<Step, Reason> {
    if draft.document.stage != Stage::Empty {
        return Err(Reason::WrongPhase("the pool has a key already; rotate"));
    }
    if let (Some((fingerprint, nodes)), Force::No) = (common_foreign_key(draft.snapshot), force) {
        return Err(Reason::ForeignKey { fingerprint, nodes });
    }
    let epoch = draft.document.next_epoch;
    let Some(fresh) = fresh else { return Ok(Step::MakeKey { epoch }) };
    draft.fill(fresh_key(epoch, fresh), None, expect)?;
    draft.commit(actor, Action::FirstKey, reason)
}

/// Empty -> Steady(c, b?), with the keys that the nodes hold already.
fn import(
    mut draft: Draft<'_>,
    keys: PairPrint,
    expect: &Expect,
    (actor, reason): (Actor, &str),
) -> Result<Step, Reason> {
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
    draft.fill(PoolKey { epoch, fingerprint: keys.primary }, backup, expect)?;
    draft.commit(actor, Action::Import, reason)
}

fn rotate(
    snapshot: &Snapshot,
    now: Now<'_>,
    force: Force,
    fresh: Option<KeyFingerprint>,
    by: (Actor, &str),
) -> Result<Step, Reason> {
    let document = &snapshot.document;
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
    let required = Barrier::of_all(snapshot).required;
    if required < document.policy.expected_nodes && force == Force::No {
        return Err(Reason::ExpectedNodes { required, expected: document.policy.expected_nodes });
    }
    if drained(snapshot, now).is_err() && force == Force::No {
        return Err(Reason::NotDrained);
    }
    stage(snapshot, now, fresh, by)
}

fn pause(mut draft: Draft<'_>, actor: Actor, reason: &str) -> Result<Step, Reason> {
    if draft.document.paused.is_some() {
        return Err(Reason::WrongPhase("paused already"));
    }
    draft.document.paused = Some(Pause::Operator);
    draft.commit(actor, Action::Pause, reason)
}

/// Clears pause and hold.  After a first key or an import every expected node must be here (rule 14); until then only
/// a pause is cleared, if there is one, so that it does not stop a revoke.  By force the hold ends without those who never
/// came: they are unknown, and hold none of the pool's keys.
fn resume(mut draft: Draft<'_>, force: Force, actor: Actor, reason: &str) -> Result<Step, Reason> {
    if draft.document.paused.is_none() && draft.document.hold.is_none() {
        return Err(Reason::WrongPhase("neither paused nor held"));
    }
    if let Some(Hold::FirstKey { expect }) = &draft.document.hold {
        let mut missing = missing(draft.snapshot, expect);
        if force == Force::Yes {
            // Those who are here are never passed over.
            missing = Barrier::of_all(draft.snapshot).waiting_for.iter().map(ToString::to_string).collect();
        }
        if !missing.is_empty() {
            if draft.document.paused.take().is_none() {
                return Err(Reason::Expected(missing));
            }
            return draft.commit(actor, Action::Resume, reason);
        }
    }
    let was_unhealthy = matches!(draft.document.paused, Some(Pause::Health { .. }));
    if let (Stage::Promoted { wave, .. }, true) = (&mut draft.document.stage, was_unhealthy) {
        wave.health_waived = true;
    }
    draft.document.paused = None;
    draft.document.hold = None;
    draft.commit(actor, Action::Resume, reason)
}

/// Whom `expect` misses, by name or by how many; required nodes that have not acknowledged are always missing.
pub(super) fn missing(snapshot: &Snapshot, expect: &Expect) -> Vec<String> {
    let document = &snapshot.document;
    let is_here =
        |node| snapshot.nodes.get(node).is_some_and(|record| record.is_required() && has_acked(document, node, record));
    let behind = Barrier::of_all(snapshot).waiting_for;
    let mut missing: Vec<String> = behind.iter().map(ToString::to_string).collect();
    match expect {
        Expect::Names(names) => {
            missing
                .extend(names.iter().filter(|node| !is_here(node) && !behind.contains(node)).map(ToString::to_string));
        }
        Expect::Number(number) => {
            let here = snapshot.nodes.keys().filter(|node| is_here(node)).count();
            if here < *number {
                missing.push(format!("{} of {number} nodes", number - here));
            }
        }
    }
    missing
}

impl Draft<'_> {
    /// Gives an empty pool its keys; it holds until the expected nodes have them.
    fn fill(&mut self, current: PoolKey, backup: Option<PoolKey>, expect: &Expect) -> Result<(), Reason> {
        if backup.is_some_and(|backup| backup.fingerprint == current.fingerprint) {
            return Err(Reason::KeyReused(current.fingerprint));
        }
        if let Some(gone) = [Some(current), backup].into_iter().flatten().find(|key| self.document.is_revoked(*key)) {
            return Err(Reason::KeyReused(gone.fingerprint));
        }
        self.document.next_epoch =
            current.epoch.max(backup.map_or(Epoch::FIRST, |key| key.epoch)).next().ok_or(Reason::Exhausted)?;
        self.document.stage = Stage::Steady { current, backup };
        self.document.hold = Some(Hold::FirstKey { expect: expect.clone() });
        self.document.rotated_at = self.now.wall;
        self.tell()?;
        self.begin_phase();
        Ok(())
    }
}
