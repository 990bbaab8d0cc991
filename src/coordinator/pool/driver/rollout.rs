//! The rollout of a driver's pool: asks the engine, commits what it proposes, and erases dropped keys.

use tracing::{error, info, warn};

use super::Driver;
use crate::pool::replica::GivenKeys;
use tfo_config::coordinator::CONFIG_OPERATOR;
use tfo_crypto::random::{self, NoRandomness};
use tfo_engine::rollout::document::{Actor, AuditEntry, Proposal, Stage};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Reason, Refused, Step, Wait};
use tfo_host::runtime::clock;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;
use tfo_store::{CommitError, Erasure};

impl Driver {
    /// Takes one step of the rollout.  False: there is nothing more to do now.
    pub(super) fn step(&mut self) -> bool {
        let mut input = self.next_input();
        let mut given = GivenKeys::default();
        let mut decided = self.decide(&input, &mut given);
        // The file's policy has to wait for nodes that were not heard from.  A tick may exclude them; without it the
        // pool would wait for them forever.
        if let Ok(Err(Refused { reason: Reason::NotHeard(_), .. })) = decided
            && input != Input::Tick
        {
            input = Input::Tick;
            decided = self.decide(&input, &mut given);
        }
        match decided {
            Ok(Ok(Step::Commit(proposal))) => match self.commit(*proposal, &given) {
                // After a conflict another writer was faster: decide again from what is stored now.
                Ok(()) | Err(CommitError::Conflict { .. } | CommitError::RecordConflict { .. }) => true,
                Err(_) => false,
            },
            Ok(Ok(Step::Wait(wait))) => {
                self.wait = Some(wait);
                false
            }
            Ok(Ok(Step::MakeKey { .. })) => unreachable!("the engine was given a key"),
            Ok(Err(refused)) => {
                self.wait = Some(Wait::from(&refused));
                false
            }
            Err(error) => {
                error!(pool = %self.replica.pool(), %error, "cannot generate a key; the pool keeps its present keys");
                false
            }
        }
    }

    /// A tick, or the policy of the file if the engine accepts it now.
    fn next_input(&mut self) -> Input {
        let differs = self.differs();
        let is_between = matches!(self.replica.document().stage, Stage::Empty | Stage::Steady { .. });
        if differs != self.logged.differs {
            if !differs.is_empty() {
                let fields = differs.join(", ");
                warn!(pool = %self.replica.pool(), fields, "the policy in the configuration file differs from the pool's; it takes effect before the next rotation");
            }
            self.logged.differs.clone_from(&differs);
        }
        if differs.is_empty() || !is_between {
            return Input::Tick;
        }
        Input::Request(OperatorRequest {
            operator: CONFIG_OPERATOR.parse().expect("it is a name"),
            reason: format!("changed in the configuration file: {}", differs.join(", ")),
            if_revision: None,
            command: Command::SetPolicy { policy: Box::new(self.file_policy.clone()) },
        })
    }

    /// The settings in which the file differs from the document.
    pub(super) fn differs(&self) -> Vec<&'static str> {
        self.file_policy.differs_from(&self.replica.document().policy)
    }

    /// Asks the engine, with a fresh key where it wants one.
    pub(super) fn decide(&self, input: &Input, given: &mut GivenKeys) -> Result<Result<Step, Refused>, NoRandomness> {
        let snapshot = self.replica.snapshot();
        let now = Now { wall: clock::now(), presence: &self.seen.presence };
        match handle(snapshot, now, input, None) {
            Ok(Step::MakeKey { .. }) => {
                let fresh = given.add(random::fresh_key()?);
                Ok(handle(snapshot, now, input, Some(fresh)))
            }
            decided => Ok(decided),
        }
    }

    /// Commits a proposal, follows it in the copy, and logs it.
    pub(super) fn commit(&mut self, proposal: Proposal, given: &GivenKeys) -> Result<(), CommitError> {
        let (audit, start) = (proposal.audit.clone(), clock::monotonic());
        let touched: Vec<NodeId> = proposal.records.iter().map(|change| change.node.clone()).collect();
        let result = self.replica.commit(proposal, given);
        self.metrics.commit_took(self.replica.pool(), start);
        match result {
            Ok(erasure) => {
                self.touched.extend(touched);
                self.store_is_good();
                self.metrics.committed(self.replica.pool(), audit.action);
                if erasure == Erasure::Waiting {
                    self.pace.erase_soon();
                }
                self.log_commit(&audit);
                Ok(())
            }
            Err(error) => {
                self.commit_failed(&error);
                Err(error)
            }
        }
    }

    fn log_commit(&self, audit: &AuditEntry) {
        let instructions = tfo_engine::rollout::wave::instructions(self.replica.document());
        let slots = instructions.first().map(|first| first.slots);
        if audit.action == Action::Unhealthy {
            let nodes: Vec<&str> = audit.nodes.iter().map(NodeId::as_str).collect();
            let (worst, reason) = (nodes.join(", "), &audit.reason);
            warn!(pool = %self.replica.pool(), reason, worst, "the health gate stops the rotation; see `tfoctl check`");
        }
        info!(
            pool = %self.replica.pool(),
            revision = %audit.revision,
            generation = %audit.generation,
            phase = audit.phase.as_str(),
            action = audit.action.as_str(),
            actor = actor_name(&audit.actor),
            reason = (!audit.reason.is_empty()).then_some(&audit.reason),
            nodes = audit.nodes.len(),
            primary_fp = slots.map(|slots| tracing::field::display(slots.primary.fingerprint)),
            backup_fp = slots.and_then(|slots| slots.backup).map(|key| tracing::field::display(key.fingerprint)),
            "committed"
        );
    }

    /// Erases keys from the medium that are gone from the document, as soon as no reader is in the way.
    pub(super) fn erase(&mut self) {
        if !self.pace.takes_erasure() {
            return;
        }
        match self.replica.erase_leftovers() {
            Ok(Erasure::Done) => {}
            Ok(Erasure::Waiting) => warn!(pool = %self.replica.pool(), "erased keys are still on the medium"),
            Err(error) => self.store_failed(&error),
        }
    }
}

fn actor_name(actor: &Actor) -> &str {
    match actor {
        Actor::Engine => "engine",
        Actor::Operator(name) => name.as_str(),
    }
}
