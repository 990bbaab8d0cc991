//! Orders of an operator, to a coordinator.

use std::collections::BTreeSet;

use tfo_engine::rollout::barrier::{Barrier, conflict, recoverable};
use tfo_engine::rollout::input::{Command, Expectation, Input, OperatorRequest, RevokeKeys};
use tfo_engine::rollout::slots::Slots;
use tfo_engine::rollout::wave;
use tfo_model::key::PairPrint;
use tfo_model::time::UnixTime;

use super::rules::Off;
use super::world::{Op, World, fingerprint, policy};

/// End of every operator's exclusion, and a clock on either side of it.
pub(super) const EXCLUSION_ENDS: UnixTime = UnixTime::from_secs(1);

impl World {
    pub(super) fn order(&mut self, c: usize, op: Op) -> bool {
        let seen = self.seen_by(c).clone();
        let held: Vec<_> = seen.document.keys_held().into_iter().collect();
        let node = |n: u8| self.ids.get(usize::from(n)).cloned();
        let forget = |node| Command::Forget { nodes: [node].into(), expected: Expectation::Keep };
        let command = match op {
            Op::Pause => Command::Pause,
            Op::Resume => Command::Resume { force: false },
            Op::Abort => Command::Abort { force: false },
            Op::ForceAbort => Command::Abort { force: true },
            Op::RevokeAll | Op::RevokeLate => {
                Command::Revoke { keys: RevokeKeys::AllInstructed, deny: BTreeSet::new() }
            }
            Op::RevokeHeld(index) => match held.get(usize::from(index)) {
                Some(key) => Command::Revoke { keys: RevokeKeys::Epochs([key.epoch].into()), deny: BTreeSet::new() },
                None => return false,
            },
            Op::Exclude(n) => match node(n) {
                Some(node) => Command::Exclude { nodes: [node].into(), until: EXCLUSION_ENDS },
                None => return false,
            },
            Op::Forget(n) => match node(n) {
                Some(node) => forget(node),
                None => return false,
            },
            Op::ForgetWhileFrozen(_) if conflict(&self.store).is_none() => return false,
            Op::ForgetWhileFrozen(n) => match node(n) {
                Some(node) => forget(node),
                None => return false,
            },
            Op::Advance => {
                let leave = Barrier::of_opened(&seen).waiting_for.into_iter().collect();
                Command::Advance { generation: seen.document.generation, leave }
            }
            Op::Recover => match self.highest_reported() {
                Some(slots) => Command::Recover { slots },
                None => return false,
            },
            Op::Import => {
                // Into a running pool: a key that no node there knows.
                let key = if self.is_off(Off::ImportOnlyIntoEmpty) { 99 } else { 1 };
                Command::Import { keys: PairPrint { primary: fingerprint(key), backup: None }, expect: Self::expect() }
            }
            Op::FirstKey => Command::FirstKey { expect: Self::expect(), force: true },
            Op::Rotate => Command::Rotate { force: true },
            Op::Deny(n) => match node(n) {
                Some(node) => Command::Deny { nodes: [node].into() },
                None => return false,
            },
            Op::Include(n) => match node(n) {
                Some(node) => Command::Include { nodes: [node].into() },
                None => return false,
            },
            Op::Allow(n) => match node(n) {
                Some(node) => Command::Allow { nodes: [node].into() },
                None => return false,
            },
            Op::RevokeAndDeny(n) => match node(n) {
                Some(node) => Command::Revoke { keys: RevokeKeys::AllInstructed, deny: [node].into() },
                None => return false,
            },
            Op::SetPolicy => {
                let has_waves = seen.document.policy.promote_waves.len() > 1;
                Command::SetPolicy { policy: Box::new(policy(if has_waves { &[] } else { &["a"] })) }
            }
        };
        let order =
            OperatorRequest { operator: "ops".parse().unwrap(), reason: String::new(), if_revision: None, command };
        let served_secs = if op == Op::RevokeLate { 1_000_000 } else { 0 };
        let is_done = self.decide(c, &Input::Request(order), None, served_secs);
        // The known limit of a forget after a restore: the node is wiped first.  If it spoke the truth and came back with
        // its file, there would be two histories.
        if let (Op::Forget(n) | Op::ForgetWhileFrozen(n) | Op::Allow(n), true) = (op, is_done && self.is_restored) {
            self.reimage(usize::from(n));
        }
        is_done
    }

    /// Of two histories the operator takes the document's own.
    pub(super) fn highest_reported(&self) -> Option<Slots> {
        let offered = recoverable(&self.store);
        let told = wave::instructions(&self.store.document);
        let own = offered.iter().find(|slots| told.iter().any(|told| told.slots == **slots));
        own.or(offered.first()).copied()
    }
}
