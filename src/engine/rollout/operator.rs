//! Commands that set policy, and the two that break the ordinary walk on purpose: recover and advance
//! (docs/protocol.md#rule-10; rules 11, 15).
//!
//! | command | from | effect |
//! |---|---|---|
//! | recover | frozen | Steady with the reported slots, generation + [`RECOVER_JUMP`], hold |
//! | advance | any | the nodes that are behind become `left_behind` |
//! | set policy | Empty, Steady | the policy changes |

use std::collections::BTreeSet;

use super::barrier::{Barrier, not_frozen, recoverable};
use super::document::{CHANGED_MAX, Hold, Revoke, Stage};
use super::draft::Draft;
use super::input::{Reason, Step};
use super::policy::Policy;
use super::record::Exclusion;
use super::slots::{PoolKey, Slots};
use tfo_model::count::{Epoch, Generation};
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;

/// How far `recover` jumps above the highest reported generation, so that no instruction of the lost store can be
/// above or equal to a new one (rule 10).
pub(super) const RECOVER_JUMP: u64 = 1_000_000;

impl Draft<'_> {
    /// Takes over what the fleet reports under its highest generation, and holds.
    ///
    /// Only when frozen.  Waits until each required node was seen or is absent.  Absent ones are excluded in the same
    /// commit, or in parts before it if they are many, because what they hold is unknown.
    pub(super) fn recover(mut self, slots: &Slots) -> Result<Step, Reason> {
        if not_frozen(self.snapshot, self.now.presence).is_ok() {
            return Err(Reason::WrongPhase("the pool is not frozen; there is nothing to recover"));
        }
        let presence = self.now.presence;
        let unseen = presence.unseen_required(self.snapshot);
        let (absent, late): (Vec<NodeId>, Vec<NodeId>) =
            unseen.into_iter().partition(|node| presence.absent.contains(node));
        if !late.is_empty() {
            return Err(Reason::NotHeard(late));
        }
        let highest = self.highest_reported()?;
        if !recoverable(self.snapshot).contains(slots) {
            return Err(Reason::NotReported);
        }
        if let Some((first, _)) = absent.split_at_checked(CHANGED_MAX).filter(|(_, rest)| !rest.is_empty()) {
            self.exclude(first, Exclusion::Absent);
            return self.commit_part();
        }
        self.exclude(&absent, Exclusion::Absent);
        let generation = highest.get().checked_add(RECOVER_JUMP).ok_or(Reason::Exhausted)?;
        self.document.generation = Generation::new(generation);
        let next_epoch = self.highest_reported_epoch().next().ok_or(Reason::Exhausted)?;
        self.document.next_epoch = next_epoch.max(self.document.next_epoch);
        self.document.stage = Stage::Steady { current: slots.primary, backup: slots.backup };
        self.document.revoke = None;
        self.revoke_again();
        self.document.paused = None;
        self.document.hold = Some(Hold::Recovered);
        self.document.rotated_at = self.now.wall;
        self.begin_phase();
        self.commit(Action::Recover)
    }

    /// Drives out revoked keys that the fleet turns out to hold, behind barriers like any others.  Refusing them would
    /// leave the pool frozen, and dropping them at once would break the invariant.
    fn revoke_again(&mut self) {
        let document = &self.document;
        let keys: BTreeSet<PoolKey> =
            document.keys_held().into_iter().filter(|key| document.is_revoked(*key)).collect();
        if !keys.is_empty() {
            self.document.revoke = Some(Revoke::of(keys, self.now.wall));
        }
    }

    /// The highest reported generation.
    ///
    /// A generation that was received and not installed counts, too: the new one must be above it.
    fn highest_reported(&self) -> Result<Generation, Reason> {
        let seen = self.snapshot.believed_reports().map(|report| report.seen);
        let installed = self.own_slots().map(|(generation, _)| generation);
        let highest = installed.chain(seen).max().ok_or(Reason::NotReported)?;
        Ok(highest.max(self.document.generation))
    }

    fn highest_reported_epoch(&self) -> Epoch {
        self.own_slots().map(|(_, slots)| slots.highest_epoch()).max().unwrap_or(Epoch::FIRST)
    }

    /// The generations and slots of this pool that nodes report.
    fn own_slots(&self) -> impl Iterator<Item = (Generation, Slots)> {
        let fences = self.snapshot.believed_reports().filter_map(|report| report.fence.as_ref());
        fences.filter(|fence| fence.pool_id == self.document.pool_id).map(|fence| (fence.generation, fence.slots))
    }

    /// Leaves behind exactly the nodes that the operator saw behind, if they still are (rule 15).
    ///
    /// A node not seen in this life also counts as behind: the pool waits for it, whatever it acknowledged before.
    pub(super) fn advance(mut self, generation: Generation, leave: &BTreeSet<NodeId>) -> Result<Step, Reason> {
        if self.document.generation != generation {
            return Err(Reason::GenerationMoved(self.document.generation));
        }
        let barrier = Barrier::of_opened(self.snapshot);
        let unseen = self.now.presence.unseen_required(self.snapshot);
        let behind: BTreeSet<NodeId> = barrier.waiting_for.iter().chain(&unseen).cloned().collect();
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
        let is_part = behind.len() > CHANGED_MAX;
        let behind: Vec<NodeId> = behind.into_iter().take(CHANGED_MAX).collect();
        self.exclude(&behind, Exclusion::LeftBehind);
        if is_part {
            return self.commit_part();
        }
        self.commit(Action::Advance)
    }

    /// Takes another policy; not during a rotation, whose gates would change under it.
    pub(super) fn set_policy(mut self, policy: &Policy) -> Result<Step, Reason> {
        if !matches!(self.document.stage, Stage::Empty | Stage::Steady { .. }) {
            return Err(Reason::WrongPhase("the policy changes only between rotations"));
        }
        policy.check().map_err(Reason::Policy)?;
        let at = self.document.revision.next().ok_or(Reason::Exhausted)?;
        self.document.replace_policy(policy, at);
        self.leaves_room()?;
        self.commit(Action::SetPolicy)
    }
}
