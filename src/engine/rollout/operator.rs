//! Commands about nodes, and the two that break the ordinary walk on purpose: recover and advance
//! (docs/protocol.md#rules, rules 6, 10, 11, 15).

use std::collections::BTreeSet;

use super::document::{Action, Actor, Hold, PoolKey, Revoke, Slots, Stage};
use super::input::{Reason, Step};
use super::policy::Policy;
use super::record::{Exclusion, Fence, NodeRecord, Standing};
use super::{Draft, not_frozen};
use crate::convergence::{Barrier, recoverable};
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// How far `recover` jumps above the highest reported generation, so that no instruction of the lost store can be
/// above or equal to a new one (rule 10).
pub const RECOVER_JUMP: u64 = 1_000_000;

/// How far a report may be ahead of the document, in generations and in epochs; what is further ahead is no report of
/// this pool's nodes, and is not stored, for `recover` could not count beyond it.
///
/// Room for a thousand recoveries since the backup that was restored; a generation every second for 31 years.
pub const REPORT_LEAD_MAX: u64 = 1_000 * RECOVER_JUMP;

/// How long the session of a forgotten node is remembered: no request is under way for a day.
const FORGOTTEN_KEPT_SECS: u64 = 86_400;

/// Whether a sync ends this exclusion by admitting the node again (rule 6).
#[must_use]
pub fn end_of_exclusion_admits(exclusion: Exclusion, wall: UnixTime) -> bool {
    match exclusion {
        Exclusion::Absent | Exclusion::LeftBehind | Exclusion::Forgotten => true,
        Exclusion::Operator { until } => wall >= until,
        Exclusion::Denied => false,
    }
}

impl Draft<'_> {
    /// Takes over what the fleet reports under its highest generation, and holds.
    ///
    /// Only when frozen.  Waits for the required nodes to be heard, or absent: those are excluded in the same commit,
    /// for nobody knows what they hold.
    pub(super) fn recover(mut self, slots: &Slots, actor: Actor, reason: &str) -> Result<Step, Reason> {
        if not_frozen(self.snapshot).is_ok() {
            return Err(Reason::WrongPhase("the pool is not frozen; there is nothing to recover"));
        }
        let presence = self.now.presence;
        let unheard = presence.unheard_required(self.snapshot);
        let (absent, present): (Vec<NodeId>, Vec<NodeId>) =
            unheard.into_iter().partition(|node| presence.absent.contains(node));
        if !present.is_empty() {
            return Err(Reason::NotHeard(present));
        }
        let (highest, highest_epoch) = self.highest_reported(slots)?;
        self.exclude(&absent, Exclusion::Absent);
        let generation = highest.get().checked_add(RECOVER_JUMP).ok_or(Reason::Exhausted)?;
        self.document.generation = Generation::new(generation);
        self.document.next_epoch =
            highest_epoch.next().map(|epoch| epoch.max(self.document.next_epoch)).ok_or(Reason::Exhausted)?;
        self.document.stage = Stage::Steady { current: slots.primary, backup: slots.backup };
        self.document.revoke = None;
        self.revoke_again();
        self.document.paused = None;
        self.document.hold = Some(Hold::Recovered);
        self.document.rotated_at = self.now.wall;
        self.begin_phase();
        self.commit(actor, Action::Recover, reason)
    }

    /// Revoked keys that the fleet turns out to hold still are driven out again, behind barriers like any others:
    /// refusing them would leave the pool frozen, and dropping them at once would break the invariant.
    fn revoke_again(&mut self) {
        let document = &self.document;
        let keys: BTreeSet<PoolKey> =
            document.keys_held().into_iter().filter(|key| document.is_revoked(*key)).collect();
        if !keys.is_empty() {
            self.document.revoke = Some(Revoke { keys, left_behind: BTreeSet::new(), since: self.now.wall });
        }
    }

    /// The highest reported generation and the highest reported epoch, if `slots` may be taken over.
    ///
    /// A generation that was told and not installed counts too: the new one must be above it.  If nobody has installed
    /// anything, there is nothing to take over: `forget` the nodes that were told.
    fn highest_reported(&self, slots: &Slots) -> Result<(Generation, Epoch), Reason> {
        let pool_id = &self.document.pool_id;
        let reports = || {
            let believed = self.snapshot.nodes.values().filter(|record| !record.is_denied());
            believed.filter_map(|record| record.report.as_ref())
        };
        let fences = || reports().filter_map(|report| report.fence.as_ref()).filter(|fence| fence.pool_id == *pool_id);
        let highest = fences().map(|fence| fence.generation).chain(reports().map(|report| report.seen)).max();
        let highest = highest.ok_or(Reason::NotReported)?.max(self.document.generation);
        if !recoverable(self.snapshot).contains(slots) {
            return Err(Reason::NotReported);
        }
        let epochs =
            |fence: &Fence| fence.slots.primary.epoch.max(fence.slots.backup.map_or(Epoch::FIRST, |key| key.epoch));
        let epoch = fences().map(epochs).max().unwrap_or(Epoch::FIRST);
        Ok((highest, epoch))
    }

    /// Leaves behind exactly the nodes that the operator saw behind, as far as they still are (rule 15).
    ///
    /// Behind is also who was not heard in this life: the pool waits for it, whatever it acknowledged before.
    pub(super) fn advance(
        mut self,
        generation: Generation,
        leave: &BTreeSet<NodeId>,
        actor: Actor,
        reason: &str,
    ) -> Result<Step, Reason> {
        if self.document.generation != generation {
            return Err(Reason::GenerationMoved(self.document.generation));
        }
        let barrier = Barrier::of_opened(self.snapshot);
        let unheard = self.now.presence.unheard_required(self.snapshot);
        let behind: BTreeSet<NodeId> = barrier.waiting_for.iter().chain(&unheard).cloned().collect();
        let more: Vec<NodeId> = behind.difference(leave).cloned().collect();
        if !more.is_empty() {
            return Err(Reason::MoreBehind(more));
        }
        if behind.is_empty() {
            return Err(Reason::WrongPhase("no node is behind; nothing is waited for"));
        }
        if behind.len() > barrier.spare() {
            let left = barrier.required - behind.len();
            return Err(Reason::TooFew { left, needed: barrier.needed });
        }
        let behind: Vec<NodeId> = behind.into_iter().collect();
        self.exclude(&behind, Exclusion::LeftBehind);
        self.commit(actor, Action::Advance, reason)
    }

    /// Takes a node out of all barriers until a time; its first sync after that admits it again.
    pub(super) fn exclude_until(
        mut self,
        node: &NodeId,
        until: UnixTime,
        actor: Actor,
        reason: &str,
    ) -> Result<Step, Reason> {
        let known = self.known(node)?;
        if known.standing == Standing::Excluded(Exclusion::Denied) {
            return Err(Reason::WrongPhase("the node is denied; forget it first"));
        }
        self.exclude(std::slice::from_ref(node), Exclusion::Operator { until });
        self.commit(actor, Action::Exclude, reason)
    }

    /// Makes a node unknown: nobody waits for it, and it may come again as a new one.
    ///
    /// The rests of nodes that were forgotten long ago go with it.
    pub(super) fn forget(mut self, node: &NodeId, actor: Actor, reason: &str) -> Result<Step, Reason> {
        let known = self.known(node)?;
        let rest = known.session.map(|_| NodeRecord {
            standing: Standing::Excluded(Exclusion::Forgotten),
            report: None,
            window: None,
            baseline: None,
            last_report_at: Some(self.now.wall),
            ..known.clone()
        });
        self.record(node, rest);
        let (snapshot, wall) = (self.snapshot, self.now.wall);
        let is_old = |record: &NodeRecord| {
            let since = record.last_report_at.map_or(u64::MAX, |at| wall.secs_since(at));
            !record.is_known() && since > FORGOTTEN_KEPT_SECS
        };
        for (node, _) in snapshot.nodes.iter().filter(|(_, record)| is_old(record)) {
            self.record(node, None);
        }
        self.commit(actor, Action::Forget, reason)
    }

    fn known(&self, node: &NodeId) -> Result<&NodeRecord, Reason> {
        let record = self.snapshot.nodes.get(node).filter(|record| record.is_known());
        record.ok_or_else(|| Reason::UnknownNode(node.clone()))
    }

    /// Takes another policy; not in a rotation, whose gates would change under it.
    pub(super) fn set_policy(mut self, policy: &Policy, actor: Actor, reason: &str) -> Result<Step, Reason> {
        if !matches!(self.document.stage, Stage::Empty | Stage::Steady { .. }) {
            return Err(Reason::WrongPhase("the policy changes only between rotations"));
        }
        policy.check().map_err(Reason::Policy)?;
        self.document.policy = policy.clone();
        self.commit(actor, Action::SetPolicy, reason)
    }
}
