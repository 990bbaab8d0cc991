//! The coordinators of the pool as operators see them, by their beats and their nodes; and how one is forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::info;

use super::Driver;
use crate::pool::message::CommandError;
use tfo_cli::plain::count_of_nodes;
use tfo_engine::rollout::clocks::BEATS_TO_LIVE;
use tfo_engine::rollout::record::Membership;
use tfo_host::runtime::clock;
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_store::CommitError;
use tfo_wire::v1::coordinators::{CoordinatorStatus, Coordinators};

/// Seconds after which a coordinator that was not heard is shown as silent, at the earliest: its clock may be off by some.
const SILENT_SECS_MIN: u64 = 60;
/// Most nodes that a refusal names.
const NAMED_MAX: usize = 5;

impl Driver {
    /// The coordinators that the store knows, but for those that were forgotten.
    pub(super) fn coordinators(&self) -> Vec<CoordinatorStatus> {
        let (own, snapshot) = (self.replica.by(), self.replica.snapshot());
        let mut nodes = self.nodes_of_each();
        for name in snapshot.beats.keys().chain([own]) {
            nodes.entry(name).or_default();
        }
        let (now, limit) = (clock::now(), u64::from(BEATS_TO_LIVE) * self.beat().as_secs());
        let of = |(name, nodes): (&CoordinatorName, usize)| {
            let beat = self.replica.content().parts().rosters.get(name).and_then(|roster| roster.beat.as_ref());
            let answers = name == own;
            let is_old = beat.is_none_or(|beat| now.secs_since(beat.at) > limit.max(SILENT_SECS_MIN));
            let ahead = if answers { Some(0) } else { self.clock_ahead(name) };
            let about = if answers { Some(self.about()) } else { beat.map(|beat| beat.about.clone()) };
            CoordinatorStatus {
                name: name.clone(),
                answers,
                release: about.as_ref().map(|about| about.release.clone()).filter(|release| !release.is_empty()),
                life: beat.map(|beat| beat.stamp.life),
                nodes,
                beat_at: beat.map(|beat| beat.at),
                silent: is_old && ahead.is_none(),
                clock_ahead_secs: ahead,
                policy_differs: about.map(|about| about.policy_differs).unwrap_or_default(),
            }
        };
        let is_forgotten =
            |name: &CoordinatorName| snapshot.beats.get(name).is_some_and(|beat| beat.about.is_forgotten);
        nodes.into_iter().filter(|(name, _)| !is_forgotten(name)).map(of).collect()
    }

    pub(super) fn coordinators_shown(&self) -> Coordinators {
        Coordinators { pool: self.replica.pool().clone(), coordinators: self.coordinators() }
    }

    /// Seconds by which the clock of another one is ahead, if it beats.
    fn clock_ahead(&self, name: &CoordinatorName) -> Option<i64> {
        let mut live = self.seen.clocks.live(self.monotonic(), self.beat());
        live.find(|(other, _)| *other == name).map(|(_, ahead)| ahead)
    }

    fn beat(&self) -> Duration {
        self.replica.document().policy.beat()
    }

    /// Forgets a coordinator that was taken away, and gives the others.  Nothing of a node is lost: it must have no node whose
    /// record follows from what it has written.
    pub(super) fn forget_coordinator(&mut self, name: &CoordinatorName) -> Result<Coordinators, CommandError> {
        if !self.flush() || !self.look() {
            return Err(CommandError::StoreDown);
        }
        if let Some(why) = self.may_not_forget(name) {
            return Err(CommandError::NotPossible(why));
        }
        let removed = self.replica.content().parts().superseded(name, clock::now());
        match self.replica.forget(name, &removed, clock::now()) {
            Ok(()) => {}
            Err(CommitError::Fenced { .. }) => {
                return Err(CommandError::NotPossible(format!("{name} has just beaten")));
            }
            Err(CommitError::Store(error)) if error.outcome_is_open() => return Err(CommandError::OutcomeOpen),
            Err(_) => return Err(CommandError::StoreDown),
        }
        info!(pool = %self.replica.pool(), coordinator = %name, entries = removed.len(), "a coordinator was forgotten");
        if self.look() { Ok(self.coordinators_shown()) } else { Err(CommandError::OutcomeOpen) }
    }

    /// Why a coordinator is not forgotten.
    fn may_not_forget(&self, name: &CoordinatorName) -> Option<String> {
        let known = self.coordinators();
        let Some(found) = known.iter().find(|one| one.name == *name) else {
            let names: Vec<&str> = known.iter().map(|one| one.name.as_str()).collect();
            return Some(format!("no coordinator of this pool is named {name}; there are {}", names.join(", ")));
        };
        if found.answers {
            return Some(format!("{name} is the one that answers: ask another one, after you have stopped it"));
        }
        if self.monotonic() <= self.beat() * (BEATS_TO_LIVE + 1) {
            return Some(
                "this coordinator has just started, and has not listened for beats long enough; ask again in a minute"
                    .to_owned(),
            );
        }
        if found.clock_ahead_secs.is_some() {
            return Some(format!("{name} is alive, it beats: stop it first"));
        }
        let held = self.held_by(name);
        (!held.is_empty()).then(|| {
            let shown: Vec<&str> = held.iter().take(NAMED_MAX).map(|node| node.as_str()).collect();
            let more = if held.len() > NAMED_MAX { ", ..." } else { "" };
            format!(
                "{} heard by {name} last ({}{more}), and by no other since: a daemon that is alive asks another one within a minute, \
                 a node with a timer at its next run; `tfoctl exclude` or `tfoctl forget` those that are gone, and ask again",
                count_of_nodes(held.len()),
                shown.join(", ")
            )
        })
    }

    /// The nodes whose records follow from what this coordinator has written.
    fn held_by(&self, name: &CoordinatorName) -> BTreeSet<&NodeId> {
        let is_held = |membership: &Membership| *membership == Membership::Admitted;
        let of = self.known().filter(|(_, record)| record.coordinator.as_ref() == Some(name));
        of.filter(|(_, record)| is_held(&record.membership)).map(|(node, _)| node).collect()
    }
}
