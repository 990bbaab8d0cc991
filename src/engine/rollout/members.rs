//! Commands about named nodes, and how many are expected (docs/protocol.md#rule-6; rule 3).
//!
//! One command names at most [`CHANGED_MAX`] nodes: it changes all their records in one commit, or none.
//!
//! | command | of | then |
//! |---|---|---|
//! | exclude | known nodes, none denied | excluded until a time |
//! | include | nodes that an operator excluded | that time is now: the next sync admits them |
//! | allow | denied nodes | unknown: the next sync admits them, and nothing of their old report counts |
//! | forget | known nodes | unknown |
//! | expect | | another number, unless the policy has one |

use std::collections::BTreeSet;

use super::barrier::Barrier;
use super::document::CHANGED_MAX;
use super::draft::Draft;
use super::input::{Expectation, Reason, Step};
use super::record::{Exclusion, Membership, NodeRecord};
use super::refusal::EXPECTED_MAX;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// How long the session of a forgotten node is remembered: no request is in flight for a day.
const FORGOTTEN_KEPT_SECS: u64 = 86_400;

impl Draft<'_> {
    /// Takes nodes out of all barriers until a time; their first sync after that admits them again.
    pub(super) fn exclude_until(mut self, nodes: &BTreeSet<NodeId>, until: UnixTime) -> Result<Step, Reason> {
        self.all(nodes, "denied already", |record| !record.is_denied())?;
        let nodes: Vec<NodeId> = nodes.iter().cloned().collect();
        self.exclude(&nodes, Exclusion::Operator { until });
        self.commit(Action::Exclude)
    }

    /// Ends the exclusion of nodes now.  That admits no node: its next sync does (rule 6).
    pub(super) fn include(mut self, nodes: &BTreeSet<NodeId>) -> Result<Step, Reason> {
        let is_excluded =
            |record: &NodeRecord| matches!(record.membership, Membership::Excluded(Exclusion::Operator { .. }));
        self.all(
            nodes,
            "not excluded by an operator; an exclusion as absent or left behind ends by itself",
            is_excluded,
        )?;
        let nodes: Vec<NodeId> = nodes.iter().cloned().collect();
        let until = self.now.wall;
        self.exclude(&nodes, Exclusion::Operator { until });
        self.commit(Action::Include)
    }

    /// Ends the deny of nodes: they become unknown, and come again as new ones.
    ///
    /// What they reported before counts for nothing.  What they report next is believed, as that of any new node, so a
    /// report that this store cannot have caused freezes the pool (rule 10).
    pub(super) fn allow(mut self, nodes: &BTreeSet<NodeId>) -> Result<Step, Reason> {
        self.all(nodes, "not denied", NodeRecord::is_denied)?;
        self.make_unknown(nodes);
        self.commit(Action::Allow)
    }

    /// Makes nodes unknown: the pool does not wait for them, and they may come again as new ones.
    pub(super) fn forget(mut self, nodes: &BTreeSet<NodeId>, expected: Expectation) -> Result<Step, Reason> {
        self.all(nodes, "", |_| true)?;
        if expected == Expectation::Lower {
            let gone = nodes.iter().filter(|node| self.snapshot.nodes.get(*node).is_some_and(NodeRecord::is_required));
            let left = Barrier::of_all(self.snapshot).required - gone.count();
            if left < self.document.expected_nodes() {
                self.set_expected(left.max(1))?;
            }
        }
        self.make_unknown(nodes);
        self.commit(Action::Forget)
    }

    /// Expects so many nodes from now on.
    pub(super) fn expect(mut self, number: usize) -> Result<Step, Reason> {
        self.set_expected(number)?;
        self.commit(Action::Expect)
    }

    fn set_expected(&mut self, number: usize) -> Result<(), Reason> {
        if let Some(in_file) = self.document.policy.expected_nodes {
            return Err(Reason::ExpectedInFile(in_file));
        }
        if !(1..=EXPECTED_MAX).contains(&number) {
            return Err(Reason::ExpectedOutOfRange);
        }
        self.document.expected = number;
        // The audit log has no column for a number.
        let reason = &mut self.origin.reason;
        let gap = if reason.is_empty() { "" } else { "; " };
        *reason = format!("{reason}{gap}expects {number}");
        Ok(())
    }

    /// Forgets nodes, but for the ordinals of their sessions.  The remains of nodes that were forgotten long ago go with
    /// them.
    fn make_unknown(&mut self, nodes: &BTreeSet<NodeId>) {
        let (snapshot, wall) = (self.snapshot, self.now.wall);
        for node in nodes {
            let known = snapshot.nodes.get(node);
            let remains = known.filter(|known| known.session.is_some()).map(|known| NodeRecord {
                membership: Membership::Excluded(Exclusion::Forgotten),
                report: None,
                window: None,
                baseline: None,
                last_report_at: Some(wall),
                ..known.clone()
            });
            self.record(node, remains);
        }
        let is_old = |record: &NodeRecord| {
            let since = record.last_report_at.map_or(u64::MAX, |at| wall.secs_since(at));
            !record.is_known() && since > FORGOTTEN_KEPT_SECS
        };
        let old = snapshot.nodes.iter().filter(|(_, record)| is_old(record));
        for (node, _) in old.take(CHANGED_MAX.saturating_sub(nodes.len())) {
            self.record(node, None);
        }
    }

    /// Refuses the command for all if one of the nodes is unknown, or is not as the command needs it.
    fn all(
        &self,
        nodes: &BTreeSet<NodeId>,
        why: &'static str,
        fits: impl Fn(&NodeRecord) -> bool,
    ) -> Result<(), Reason> {
        if nodes.len() > CHANGED_MAX {
            return Err(Reason::TooManyNodes(nodes.len()));
        }
        let known = |node: &NodeId| self.snapshot.nodes.get(node).filter(|record| record.is_known());
        let unknown: Vec<NodeId> = nodes.iter().filter(|node| known(node).is_none()).cloned().collect();
        if !unknown.is_empty() {
            return Err(Reason::UnknownNodes(unknown));
        }
        let wrong: Vec<NodeId> = nodes.iter().filter(|node| !known(node).is_some_and(&fits)).cloned().collect();
        if wrong.is_empty() { Ok(()) } else { Err(Reason::WrongNodes { why, nodes: wrong }) }
    }
}
