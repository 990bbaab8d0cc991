//! What a store of one process has written lately, so that a copy follows by what has changed.
//!
//! Invariants: changes are in the order in which they took effect; a copy that is older than the oldest of them, or of
//! another history, cannot follow.  Must not know: key bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::contract::Head;
use tfo_engine::rollout::document::Proposal;
use tfo_engine::rollout::parts::{PoolContent, Writes};
use tfo_model::ids::CoordinatorName;

/// Most parts that a journal remembers, if its latest change has not more by itself: a copy follows after each change of its
/// own coordinator, and one that cannot is read again.
const PARTS_KEPT: usize = 1_024;

/// One transaction.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// A coordinator wrote into its roster.
    Written(Arc<(CoordinatorName, Writes)>),
    /// A document was committed.
    Committed(Arc<Proposal>),
}

impl Change {
    fn parts(&self) -> usize {
        match self {
            Self::Written(written) => written.1.len(),
            Self::Committed(proposal) => 1 + proposal.exclusions.len() + proposal.dropped.len(),
        }
    }

    /// Takes it over into a copy that has everything before it.
    pub(super) fn apply(&self, content: &mut PoolContent) {
        match self {
            Self::Written(written) => content.write(&written.0, &written.1),
            Self::Committed(proposal) => content.commit(proposal),
        }
    }
}

/// The latest transactions of one pool.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Each with the positions before and after it.
    changes: VecDeque<(Head, Change, Head)>,
    parts: usize,
}

impl Journal {
    /// A transaction took effect.
    pub(super) fn push(&mut self, before: Head, change: Change, after: Head) {
        self.parts += change.parts();
        self.changes.push_back((before, change, after));
        while self.parts > PARTS_KEPT
            && self.changes.len() > 1
            && let Some((_, oldest, _)) = self.changes.pop_front()
        {
            self.parts -= oldest.parts();
        }
    }

    /// What leads from one position to the other; none if that is not known.
    pub(super) fn between(&self, from: Head, to: Head) -> Option<Vec<Change>> {
        let first = self.changes.iter().position(|(before, ..)| *before == from)?;
        let (mut changes, mut at) = (Vec::new(), from);
        for (before, change, after) in self.changes.iter().skip(first) {
            if *before != at {
                return None;
            }
            changes.push(change.clone());
            at = *after;
            if at == to {
                return Some(changes);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_model::count::Revision;

    fn at(part_writes: u64) -> Head {
        Head { revision: Revision::new(1), part_writes, mark: 0 }
    }

    fn written(parts: usize) -> Change {
        let removed = (0..parts).map(|n| format!("cp{n}.example.org").parse().unwrap()).collect();
        let writes = Writes { removed, ..Writes::default() };
        Change::Written(Arc::new(("coordinator".parse().unwrap(), writes)))
    }

    #[test]
    fn it_leads_from_one_known_position_to_another_and_no_further() {
        let mut journal = Journal::default();
        for n in 0..5 {
            journal.push(at(n), written(1), at(n + 1));
        }
        assert_eq!(journal.between(at(1), at(4)).map(|changes| changes.len()), Some(3));
        for (from, to) in [(at(1), at(6)), (at(4), at(1)), (at(9), at(9))] {
            assert!(journal.between(from, to).is_none(), "{from:?} {to:?}");
        }
        // A transaction whose outcome was open is missing.
        journal.push(at(6), written(1), at(7));
        assert!(journal.between(at(4), at(7)).is_none() && journal.between(at(6), at(7)).is_some());
        journal.push(at(7), written(PARTS_KEPT), at(8));
        assert!(journal.between(at(6), at(8)).is_none(), "the oldest are forgotten");
        assert_eq!(journal.between(at(7), at(8)).map(|changes| changes.len()), Some(1));
    }
}
