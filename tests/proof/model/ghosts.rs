//! Ghosts: what only the properties look at, namely who is covered, what was promised, and what was confirmed.

use std::collections::BTreeSet;

use tfo_engine::rollout::document::{Actor, Proposal, Snapshot, Stage};
use tfo_engine::rollout::presence::Presence;
use tfo_engine::rollout::record::{Exclusion, Membership, NodeRecord, SlotCount};
use tfo_engine::rollout::slots::{PoolKey, Slots};
use tfo_engine::rollout::wave;
use tfo_model::fleet::Action as Audit;

use super::world::{Request, World, number};

impl World {
    /// Ghost: covered nodes make cookies, and the promise covers those.
    pub(super) fn note_minted(&mut self) {
        let revoked = |key: PoolKey| self.store.document.is_revoked(key);
        let covered = self.nodes.iter().filter(|node| node.is_covered);
        let minting: Vec<u64> = covered
            .filter_map(|node| node.kernel)
            .filter(|slots| !revoked(slots.primary))
            .map(|slots| number(slots.primary.fingerprint))
            .collect();
        self.promised.extend(minting);
    }

    /// Ghost: whether the run that sent the request was admitted while the pool had no key, and no node held one.
    pub(super) fn note_joined(&mut self, request: &Request) {
        let is_empty = self.store.document.stage == Stage::Empty && !self.nodes.iter().any(|node| node.is_covered);
        let node = &mut self.nodes[request.node];
        node.joined_empty |= is_empty && node.kernel.is_none() && node.link.session() == request.sync.session;
    }

    /// Ghost: a node that holds its instruction is covered when the coordinator has confirmed it.
    pub(super) fn confirm(&mut self, request: &Request, presence: &Presence) {
        let n = request.node;
        let told =
            wave::instruction_for(&self.seen_by(request.to).document, &self.ids[n], request.sync.report.slot_count);
        let Some(told) = told else { return };
        let holds = self.nodes[n].kernel == Some(told.slots) && self.nodes[n].slot_count == SlotCount::Two;
        let is_heard = presence.unseen_required(&self.store).is_empty();
        if self.is_outstanding(n, &request.ask)
            && holds
            && is_heard
            && self.is_admitted(n)
            && request.sync.report.acknowledges(&self.store.document.pool_id, &told)
        {
            self.nodes[n].is_covered = true;
            self.note_minted();
        }
    }

    /// Ghost: a confirmed deny holds until an operator ends it.
    pub(super) fn note_denied(&mut self, proposal: &Proposal) {
        for (index, id) in self.ids.iter().enumerate() {
            match proposal.exclusions.get(id).map(|excluded| excluded.cause) {
                Some(Exclusion::Denied) => self.denied |= 1 << index,
                Some(Exclusion::Forgotten) => self.denied &= !(1 << index),
                Some(
                    Exclusion::Absent | Exclusion::LeftBehind | Exclusion::Operator { .. } | Exclusion::Moved { .. },
                )
                | None => {}
            }
        }
    }

    /// Ghost: the nodes that a command on keys, confirmed after the store went back, covers.  Commands that take nodes out,
    /// and `recover`, have rules of their own.
    pub(super) fn note_order(&mut self, before: &Snapshot, proposal: &Proposal) {
        let audit = &proposal.audit;
        let is_own_rule = matches!(
            audit.action,
            Audit::Pause | Audit::Recover | Audit::Advance | Audit::Exclude | Audit::Deny | Audit::Forget
        );
        if audit.action == Audit::Recover {
            self.ordered_on = 0;
        } else if self.is_restored && matches!(audit.actor, Actor::Operator(_)) && !is_own_rule {
            for (index, id) in self.ids.iter().enumerate() {
                if before.nodes.get(id).is_some_and(NodeRecord::is_required) {
                    self.ordered_on |= 1 << index;
                }
            }
        }
    }

    /// Ghosts: what a commit promises, and what it ends.
    pub(super) fn note_commit(&mut self, before: &Snapshot, action: Audit) {
        let document = self.store.document.clone();
        match action {
            Audit::Rotate => {
                if let Stage::Staged { current, .. } = &document.stage {
                    let current = number(current.fingerprint);
                    self.promised.retain(|key| *key == current);
                }
            }
            Audit::Promote => {
                if let Stage::Staged { prior_backup, .. } = &before.document.stage {
                    self.dropped_backup = *prior_backup;
                }
            }
            Audit::Pause => self.is_paused = true,
            Audit::Resume => {
                self.is_paused = false;
                self.is_aborted = false;
            }
            Audit::Abort => self.is_aborted = true,
            Audit::Deny | Audit::Forget | Audit::Revoke if self.is_restored => {
                // The node that is taken out may be the only witness of a promise that the store forgot, and the operator
                // decides that its report does not count.
                self.promised.clear();
                self.note_minted();
            }
            Audit::Recover => {
                self.is_paused = false;
                self.is_aborted = false;
            }
            Audit::Import => {
                let imported = document.keys_held();
                for (id, node) in self.ids.iter().zip(&mut self.nodes) {
                    let record = self.store.nodes.get(id);
                    let holds = |slots: Slots| imported.iter().any(|k| k.fingerprint == slots.primary.fingerprint);
                    node.is_expected = record.is_none();
                    node.is_covered |= record.is_none_or(|record| record.membership == Membership::Admitted)
                        && node.kernel.is_some_and(holds);
                }
            }
            _ => {}
        }
        let revoked: BTreeSet<u64> = document.revoked.iter().map(|key| number(key.fingerprint)).collect();
        self.promised.retain(|key| !revoked.contains(key));
        self.dropped_backup = self.dropped_backup.filter(|_| matches!(document.stage, Stage::Promoted { .. }));
    }
}
