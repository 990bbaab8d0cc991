//! Nodes that lose their certificates with an operator's order: planned before the order, carried out after it, and finished
//! by the keeper where this process ended in between (`tfo_store::enrolment::CutOff`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{AuthorityError, Enrolment};
use tfo_crypto::random;
use tfo_host::runtime::clock;
use tfo_model::ids::{CoordinatorName, NodeId, PoolName};
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_store::StoreError;
use tfo_store::enrolment::CutOff;
use tfo_wire::v1::coordinators::CoordinatorStatus;

/// A plan of another coordinator is looked at for so long before it counts as left behind: the last order of a process that
/// has ended is in the pool by then, or never will be.
const LEFT_AFTER: Duration = Duration::from_secs(30);

/// Plans of other coordinators, and since when this process sees them, by its own clock: theirs may be wrong.
pub(super) type SeenPlans = BTreeMap<u64, Instant>;

/// A plan that no request of this process has in hand.
#[derive(Debug)]
pub struct Left {
    /// The plan.
    pub plan: CutOff,
    /// Whether it is another coordinator's, which may have it in hand: see [`Self::is_over`].
    pub is_foreign: bool,
}

impl Left {
    /// Whether the process that wrote the plan is over, by what its pool shows of its coordinators.  One that beats in the life in
    /// which it wrote it has it in hand, or its keeper finishes it within a minute, however old it is.
    #[must_use]
    pub fn is_over(&self, coordinators: &[CoordinatorStatus]) -> bool {
        let Self { plan, is_foreign } = self;
        let by = coordinators.iter().find(|one| one.name == plan.by);
        let has_begun_another_life = |life: Option<u64>| plan.life.zip(life).is_some_and(|(then, now)| now > then);
        !is_foreign || by.is_none_or(|by| by.silent || has_begun_another_life(by.life))
    }
}

/// A plan that a request has in hand: as long as this value lives, the keeper leaves it alone.
#[derive(Debug)]
pub struct InHand {
    plan: CutOff,
    all: Arc<Mutex<BTreeSet<u64>>>,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.plan.id);
    }
}

impl InHand {
    /// What is planned.
    #[must_use]
    pub fn plan(&self) -> &CutOff {
        &self.plan
    }
}

impl Enrolment {
    /// Writes a plan to cut these nodes off with an order of an operator in a pool, in which this coordinator is in that life.
    ///
    /// # Errors
    /// Fails if the store cannot be written: then the order must not be given.
    pub fn plan_cut_off(
        &self,
        (pool, nodes): (PoolName, BTreeSet<NodeId>),
        (operator, order): (NodeId, &str),
        (life, at): (Option<u64>, UnixTime),
    ) -> Result<InHand, Problem> {
        let id = random::fresh_u64().map_err(|error| {
            Problem::error("no_randomness", chain(&AuthorityError::from(error)), "try again; nothing was changed")
        })?;
        let plan = CutOff { id, by: self.by.clone(), life, pool, nodes, operator, order: order.to_owned(), at };
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        let in_hand = InHand { plan, all: Arc::clone(&self.in_hand) };
        self.store.plan_cut_off(&in_hand.plan).map_err(|error| error.problem())?;
        Ok(in_hand)
    }

    /// Carries a plan out for those of its nodes for which the order took effect: their certificates are revoked in the store
    /// and on the list, which cuts their connections.
    ///
    /// # Errors
    /// Fails if the store or the list cannot be written; the keeper does the rest.
    pub fn cut_off(&self, plan: &CutOff, nodes: &BTreeSet<NodeId>, now: UnixTime) -> Result<usize, Problem> {
        let count = self.store.finish_cut_off(plan, nodes, now).map_err(|error| error.problem())?;
        if count > 0 {
            self.keep_list(now)?;
        }
        Ok(count)
    }

    /// The plans that no request of this process has in hand.  One of another coordinator is among them after a while; the caller
    /// finds out whether its coordinator is over.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn left_cut_offs(&self) -> Result<Vec<Left>, StoreError> {
        let mut plans = self.store.cut_offs()?;
        let in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.seen_plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|plan| !in_hand.contains(&plan.id));
        Ok(left(plans, &self.by, &mut seen, clock::monotonic()))
    }
}

/// Which of these plans may be left behind.
fn left(plans: Vec<CutOff>, own: &CoordinatorName, seen: &mut SeenPlans, now: Instant) -> Vec<Left> {
    seen.retain(|id, _| plans.iter().any(|plan| plan.id == *id));
    let left = plans.into_iter().filter_map(|plan| {
        if plan.by == *own {
            return Some(Left { plan, is_foreign: false });
        }
        let seen_for = now.saturating_duration_since(*seen.entry(plan.id).or_insert(now));
        (seen_for >= LEFT_AFTER).then_some(Left { plan, is_foreign: true })
    });
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(id: u64, by: &str) -> CutOff {
        CutOff {
            id,
            by: by.parse().unwrap(),
            life: None,
            pool: "edge".parse().unwrap(),
            nodes: BTreeSet::new(),
            operator: "ops1.example.org".parse().unwrap(),
            order: "deny".to_owned(),
            // Its clock says nothing.
            at: UnixTime::from_secs(1),
        }
    }

    #[test]
    fn a_plan_of_another_coordinator_is_left_alone_as_long_as_that_may_have_it_in_hand() {
        let (mut seen, start) = (SeenPlans::new(), clock::monotonic());
        let mut at = |secs, plans: &[(u64, &str)]| -> Vec<(u64, bool)> {
            let plans = plans.iter().map(|(id, by)| plan(*id, by)).collect();
            let found = left(plans, &"tfo1".parse().unwrap(), &mut seen, start + Duration::from_secs(secs));
            found.into_iter().map(|left| (left.plan.id, left.is_foreign)).collect()
        };
        let both = [(1, "tfo1"), (2, "tfo2")];
        assert_eq!(at(0, &both), [(1, false)]);
        assert_eq!(at(29, &both), [(1, false)]);
        assert_eq!(at(30, &both), [(1, false), (2, true)], "if its coordinator is over");
        assert_eq!(at(10_000, &both), [(1, false), (2, true)], "only then");
        // One that was carried out, and comes again, is looked at again.
        assert_eq!(at(10_001, &[]), []);
        assert_eq!(at(10_002, &both), [(1, false)]);
    }

    #[test]
    fn a_coordinator_that_beats_in_the_life_of_its_plan_is_not_over() {
        let status = |name: &str, life, silent| CoordinatorStatus {
            name: name.parse().unwrap(),
            answers: false,
            release: None,
            life,
            nodes: 0,
            beat_at: None,
            silent,
            clock_ahead_secs: None,
            policy_differs: Vec::new(),
        };
        let left = |life, is_foreign| Left { plan: CutOff { life, ..plan(2, "tfo2") }, is_foreign };
        // Its life in the plan; its life now, and whether it is silent; over.
        for (then, now, silent, is_over) in [
            (Some(3), Some(3), false, false),
            (Some(3), Some(3), true, true),
            (Some(3), Some(4), false, true),
            (Some(3), None, false, false),
            (None, Some(4), false, false),
            (None, Some(4), true, true),
        ] {
            let shown = [status("tfo1", Some(9), false), status("tfo2", now, silent)];
            assert_eq!(left(then, true).is_over(&shown), is_over, "{then:?} {now:?} {silent}");
        }
        assert!(
            left(Some(3), true).is_over(&[status("tfo1", Some(9), false)]),
            "it was forgotten, or serves the pool no more"
        );
        assert!(left(Some(3), false).is_over(&[status("tfo2", Some(3), false)]), "it is this one's own");
    }
}
