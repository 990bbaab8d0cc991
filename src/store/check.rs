//! What every store checks before it writes: the rules that hold between two revisions of a document, and its keys.
//!
//! They guard against our own bugs; a proposal of the engine must never be refused here.

use std::collections::BTreeSet;

use super::error::{CommitError, Refusal};
use tfo_crypto::fingerprint::fingerprint;
use tfo_engine::rollout::document::{Document, KeyRing, Proposal};
use tfo_engine::rollout::history::Written;
use tfo_engine::rollout::parts::{Stamp, Writer};
use tfo_engine::rollout::slots::PoolKey;
use tfo_model::count::Epoch;
use tfo_model::key::TfoKey;

/// Slots of a document (docs/protocol.md#rule-1: current, backup, next, `prior_backup`).
pub(super) const SLOTS: usize = 4;

/// Changes of the stored keys in a commit.
#[derive(Debug)]
pub(super) struct KeyPlan<'a> {
    /// Epochs that stay.
    pub(super) keep: BTreeSet<Epoch>,
    /// Keys that are added.
    pub(super) add: Vec<(Epoch, &'a TfoKey)>,
    /// Whether a key is removed.
    pub(super) erases: bool,
}

/// Judges a proposal against the stored document, whose revision is the expected one.
pub(super) fn plan<'a>(stored: &Document, proposal: &Proposal, keys: &'a KeyRing) -> Result<KeyPlan<'a>, Refusal> {
    let next = &proposal.document;
    if proposal.expected.next() != Some(next.revision) {
        return Err(Refusal::Revision);
    }
    if proposal.audit.revision != next.revision {
        return Err(Refusal::Audit);
    }
    if next.pool_id != stored.pool_id {
        return Err(Refusal::PoolId);
    }
    if next.generation < stored.generation {
        return Err(Refusal::Generation);
    }
    if next.next_epoch < stored.next_epoch {
        return Err(Refusal::NextEpoch);
    }
    if proposal.exclusions.values().any(|excluded| excluded.revision != next.revision) {
        return Err(Refusal::Exclusion);
    }
    plan_keys(&stored.keys_held(), next, keys)
}

/// Judges the first document of a pool.
pub(super) fn plan_first<'a>(
    document: &Document,
    keys: &'a KeyRing,
    audit: &[Written],
) -> Result<KeyPlan<'a>, Refusal> {
    let revision = |written: &Written| written.link().entry.revision;
    let rising = audit.windows(2).all(|pair| revision(&pair[0]) < revision(&pair[1]));
    if !rising || audit.last().is_some_and(|last| revision(last) > document.revision) {
        return Err(Refusal::Audit);
    }
    plan_keys(&BTreeSet::new(), document, keys)
}

fn plan_keys<'a>(held: &BTreeSet<PoolKey>, next: &Document, keys: &'a KeyRing) -> Result<KeyPlan<'a>, Refusal> {
    let holds = next.keys_held();
    let epochs: BTreeSet<Epoch> = holds.iter().map(|key| key.epoch).collect();
    if epochs.len() != holds.len() || epochs.len() > SLOTS {
        return Err(Refusal::Slots);
    }
    if epochs.last().is_some_and(|last| *last >= next.next_epoch) {
        return Err(Refusal::NextEpoch);
    }
    let mut add = Vec::new();
    for new in holds.difference(held) {
        let key = keys.key(new.epoch).ok_or(Refusal::KeyMissing { epoch: new.epoch })?;
        if fingerprint(key) != new.fingerprint {
            return Err(Refusal::KeyDiffers { epoch: new.epoch });
        }
        add.push((new.epoch, key));
    }
    let keep = holds.intersection(held).map(|key| key.epoch).collect();
    Ok(KeyPlan { keep, add, erases: held.difference(&holds).next().is_some() })
}

/// Whether the writer's last beat is the one that it names.
pub(super) fn fence(by: &Writer, stored: Option<Stamp>) -> Result<(), CommitError> {
    if by.last == stored { Ok(()) } else { Err(CommitError::Fenced { name: by.name.clone(), stored }) }
}
