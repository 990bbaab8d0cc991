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
//! | move | known nodes that take keys, none denied or moved elsewhere | told to ask the other pool, until they are forgotten |
//! | expect | | another number, unless the policy has one |

use std::collections::BTreeSet;

use super::barrier::Barrier;
use super::document::CHANGED_MAX;
use super::draft::Draft;
use super::input::{Expectation, Reason, Step, Target};
use super::record::{Exclusion, Membership, NodeRecord};
use super::refusal::EXPECTED_MAX;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

impl Draft<'_> {
    /// Takes nodes out of all barriers until a time; their first sync after that admits them again.
    pub(super) fn exclude_until(mut self, nodes: &BTreeSet<NodeId>, until: UnixTime) -> Result<Step, Reason> {
        self.all(nodes, "denied already", |record| !record.is_denied())?;
        self.all(nodes, "moved to another pool", |record| record.moved_to().is_none())?;
        self.exclude(nodes, Exclusion::Operator { until });
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
        let until = self.now.wall;
        self.exclude(nodes, Exclusion::Operator { until });
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
        self.expect_without(nodes, expected)?;
        self.make_unknown(nodes);
        self.commit(Action::Forget)
    }

    /// Leads nodes over to another pool.  From this commit on they are out of this one, and every sync of theirs is
    /// answered with the order (rules 6 and 9).  Once more to the same pool changes nothing.
    pub(super) fn move_to(
        mut self,
        nodes: &BTreeSet<NodeId>,
        to: &Target,
        expected: Expectation,
    ) -> Result<Step, Reason> {
        if to.pool_id == self.document.pool_id {
            return Err(Reason::SamePool);
        }
        self.all(nodes, "denied: `tfoctl allow` ends that", |record| !record.is_denied())?;
        self.all(nodes, "takes no keys from this pool, it only reports", |record| !record.only_reports())?;
        let elsewhere = "moved to another pool already; `tfoctl forget` ends that order";
        self.all(nodes, elsewhere, |record| record.moved_to().is_none_or(|before| before == to.pool_id))?;
        self.add_reason(&format!("to {}", to.name));
        self.expect_without(nodes, expected)?;
        self.exclude(nodes, Exclusion::Moved { to: to.pool_id });
        self.commit(Action::Move)
    }

    /// What becomes of the expected number when these nodes leave.
    fn expect_without(&mut self, nodes: &BTreeSet<NodeId>, expected: Expectation) -> Result<(), Reason> {
        if expected == Expectation::Keep {
            return Ok(());
        }
        let gone = nodes.iter().filter(|node| self.snapshot.nodes.get(*node).is_some_and(NodeRecord::is_required));
        let left = Barrier::of_all(self.snapshot).required - gone.count();
        if left < self.document.expected_nodes() { self.set_expected(left.max(1)) } else { Ok(()) }
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
        self.add_reason(&format!("expects {number}"));
        Ok(())
    }

    /// The audit log has no column for a number, or for another pool.
    fn add_reason(&mut self, more: &str) {
        let reason = &mut self.origin.reason;
        let gap = if reason.is_empty() { "" } else { "; " };
        *reason = format!("{reason}{gap}{more}");
    }

    /// Forgets nodes, but for the ordinals of their sessions; what is left of nodes that were forgotten long ago goes.
    fn make_unknown(&mut self, nodes: &BTreeSet<NodeId>) {
        self.exclude(nodes, Exclusion::Forgotten);
        let wall = self.now.wall;
        // A node that is still in a roster would be admitted again without its exclusion.
        let is_over = |record: &NodeRecord| record.is_long_forgotten(wall) && record.coordinator.is_none();
        let over = self.snapshot.nodes.iter().filter(|(node, record)| is_over(record) && !nodes.contains(*node));
        let room = CHANGED_MAX.saturating_sub(nodes.len());
        self.dropped.extend(over.take(room).map(|(node, _)| node.clone()));
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
