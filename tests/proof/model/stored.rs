//! What is stored: a pure value, of which only counts that mean something in a world are kept.

use std::rc::Rc;

use tfo_engine::rollout::document::{Snapshot, Stage};
use tfo_engine::rollout::parts::{Ack, Beat, Entry, Excluded, Later, Parts, PoolContent};
use tfo_model::count::Revision;
use tfo_model::time::UnixTime;

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) content: PoolContent,
}

impl std::ops::Deref for Stored {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        self.content.snapshot()
    }
}

/// What of a store's numbers and parts means something in a world.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) revisions: bool,
    pub(crate) syncs: bool,
    /// Every coordinator's entries, not only that of the highest session.
    pub(crate) rosters: bool,
}

/// A store is a pure value here: revision, counts of syncs and times mean nothing in a model without races on them (a
/// commit drops every other pending proposal, which is what the compare-and-swap does to it).  They do where a store goes
/// back under running coordinators, and where copies lag.  Where they do not, of exclusions only the latest of a node
/// counts, and of entries that of the highest session, and whether it answers that exclusion.
pub(crate) fn plain(content: PoolContent, counts: Counts) -> Rc<Stored> {
    let zero = UnixTime::from_secs(0);
    let (mut document, stored) = (content.snapshot().document.clone(), content.parts());
    if !counts.revisions {
        document.revision = Revision::ZERO;
    }
    // Only a coordinator's file looks at it, and there are none here.
    document.replaced.clear();
    document.since = zero;
    document.rotated_at = zero;
    if let Stage::Promoted { wave, .. } = &mut document.stage {
        wave.opened_at = zero;
    }
    if let Some(revoke) = &mut document.revoke {
        revoke.since = zero;
        revoke.left_behind.clear();
        revoke.left_behind_more = 0;
    }
    let mut parts = Parts::default();
    for (by, roster) in &stored.rosters {
        let kept = parts.rosters.entry(by.clone()).or_default();
        kept.beat = roster.beat.clone().map(|beat| Beat { at: zero, tally: None, ..beat });
        for (node, entry) in &roster.entries {
            let record = content.snapshot().nodes.get(node);
            if !counts.rosters && record.and_then(|record| record.coordinator.as_ref()) != Some(by) {
                continue;
            }
            let later = roster.acks.get(node).filter(|later| later.session == entry.session);
            let latest = later.map_or(&entry.first, |later| &later.ack);
            let syncs = if counts.syncs { latest.syncs } else { 0 };
            let first = Ack { syncs, at: zero, ..latest.clone() };
            if later.is_some_and(|later| later.silent) {
                let silent = Later { session: entry.session, ack: first.clone(), silent: true };
                kept.acks.insert(node.clone(), silent.into());
            }
            let excluded = stored.exclusions.get(node).map(|excluded| excluded.revision);
            let answers = match entry.answers {
                answers if counts.rosters => answers,
                answers => answers.filter(|answered| excluded == Some(*answered)).map(|_| Revision::ZERO),
            };
            kept.entries.insert(node.clone(), Entry { session: entry.session, answers, first }.into());
        }
    }
    for (node, excluded) in &stored.exclusions {
        let revision = if counts.rosters { excluded.revision } else { Revision::ZERO };
        parts.exclusions.insert(node.clone(), Excluded { revision, at: zero, ..excluded.clone() });
    }
    Rc::new(Stored { content: PoolContent::new(document, parts) })
}
