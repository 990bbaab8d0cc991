//! The rollout of a driver's pool: asks the engine, commits what it proposes, and erases dropped keys.

use tracing::{error, info, warn};

use super::Driver;
use crate::pool::replica::GivenKeys;
use tfo_config::coordinator::CONFIG_OPERATOR;
use tfo_crypto::random::{self, NoRandomness};
use tfo_engine::rollout::document::{Actor, AuditEntry, Proposal};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Reason, Refused, Step, Wait};
use tfo_host::runtime::clock;
use tfo_model::fleet::Action;
use tfo_model::ids::NodeId;
use tfo_store::{CommitError, Erasure};

impl Driver {
    /// Takes one step of the rollout.  False: there is nothing more to do now.
    pub(super) fn step(&mut self) -> bool {
        self.turn.begin();
        if self.rest.holds(clock::now()) {
            return false;
        }
        let mut given = GivenKeys::default();
        let proposal = self.propose(&mut given);
        let is_proposed = proposal.is_some();
        let decided = match proposal {
            Some(proposal) => Ok(Ok(Step::Commit(proposal))),
            None => self.decide(&Input::Tick, &mut given),
        };
        match decided {
            Ok(Ok(Step::Commit(_))) if !is_proposed && !self.has_its_turn() => false,
            Ok(Ok(Step::Commit(proposal) | Step::Part(proposal))) => match self.commit(&proposal, &given) {
                // After a conflict another writer was faster: decide again from what is stored now.
                Ok(()) | Err(CommitError::Conflict { .. }) => true,
                Err(_) => false,
            },
            Ok(Ok(Step::Wait(wait))) => {
                let (document, now) = (self.replica.document(), clock::now());
                let is_proposed = self.file.proposal(document).is_some();
                self.rest.begin(now, wait.rests_until(document, now).filter(|_| !is_proposed));
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

    /// The commit of the file's policy, if that is still proposed and the engine accepts it now.  It has to wait for nodes
    /// that were not heard from; ticks continue meanwhile, because one may exclude them.
    fn propose(&mut self, given: &mut GivenKeys) -> Option<Box<Proposal>> {
        let proposed = self.file.proposal(self.replica.document()).cloned();
        let differs = self.note_differs();
        let order = OperatorRequest {
            operator: CONFIG_OPERATOR.parse().expect("it is a name"),
            reason: format!("changed in the configuration file: {}", differs.join(", ")),
            if_revision: None,
            command: Command::SetPolicy { policy: Box::new(proposed?) },
        };
        match self.decide(&Input::Request(order), given) {
            Ok(Ok(Step::Commit(proposal))) => Some(proposal),
            Ok(Err(Refused { reason: Reason::NotHeard(_) | Reason::Frozen { .. }, .. })) => None,
            Ok(Err(refused)) => {
                let (error, remedy) = (refused.to_string(), refused.remedy());
                if self.logged.refused.as_ref() != Some(&error) {
                    error!(pool = %self.replica.pool(), error, remedy, "the policy in the configuration file is refused; the pool keeps its own");
                    self.logged.refused = Some(error);
                }
                None
            }
            Ok(Ok(Step::Part(_) | Step::Wait(_) | Step::MakeKey { .. })) => {
                unreachable!("an order is committed or refused")
            }
            // The tick meets the same, and logs it.
            Err(NoRandomness) => None,
        }
    }

    /// The settings in which the file differs from the document; a change of them is logged once.
    fn note_differs(&mut self) -> Vec<&'static str> {
        let now = (self.differs(), self.file.is_pending());
        if now != self.logged.differs {
            let (pool, fields) = (self.replica.pool(), now.0.join(", "));
            match &now {
                (differs, _) if differs.is_empty() => {
                    if !self.logged.differs.0.is_empty() {
                        info!(%pool, "the policy in the configuration file is the pool's now");
                    }
                }
                (_, true) => {
                    info!(%pool, fields, "the policy in the configuration file differs from the pool's; it takes effect between rotations");
                }
                (_, false) => {
                    warn!(%pool, fields, "the policy in the configuration file differs from the pool's, which counts; a reload of this coordinator makes the file's the pool's");
                }
            }
            self.logged.differs.clone_from(&now);
        }
        now.0
    }

    /// The settings in which the file differs from the document.
    pub(super) fn differs(&self) -> Vec<&'static str> {
        self.file.differs(self.replica.document())
    }

    /// Asks the engine, with a fresh key where it wants one.
    pub(super) fn decide(&self, input: &Input, given: &mut GivenKeys) -> Result<Result<Step, Refused>, NoRandomness> {
        let snapshot = self.replica.snapshot();
        let now = Now { wall: clock::now(), presence: self.seen.presence() };
        match handle(snapshot, now, input, None) {
            Ok(Step::MakeKey { .. }) => {
                let fresh = given.add(random::fresh_key()?);
                Ok(handle(snapshot, now, input, Some(fresh)))
            }
            decided => Ok(decided),
        }
    }

    /// Commits a proposal, follows it in the copy, and logs it.  A commit whose outcome is open is settled, not guessed: one
    /// that is still under way would take effect after the operator was told that it had not.
    pub(super) fn commit(&mut self, proposal: &Proposal, given: &GivenKeys) -> Result<(), CommitError> {
        let (audit, start) = (&proposal.audit, clock::monotonic());
        let mut result = self.replica.commit(proposal, given);
        if let Err(CommitError::Store(error)) = &result
            && error.outcome_is_open()
        {
            self.store_failed(error);
            let settled = self.replica.settle(clock::now());
            match settled.and_then(|()| Ok(self.replica.has(audit, proposal.expected)?)) {
                Ok(true) => result = Ok(Erasure::Waiting),
                // Not done: decided again, from what is stored now.
                Ok(false) if self.follow().is_some() => {
                    let stored = self.replica.document().revision;
                    result = Err(CommitError::Conflict { expected: proposal.expected, stored });
                }
                Ok(false) | Err(_) => {}
            }
        }
        self.metrics.commit_took(self.replica.pool(), start);
        match result {
            Ok(erasure) => {
                self.touched.extend(proposal.exclusions.keys().chain(&proposal.dropped).cloned());
                self.committed = Some(proposal.document.revision);
                self.store_is_good();
                self.metrics.committed(self.replica.pool(), audit.action);
                if erasure == Erasure::Waiting {
                    self.pace.erase_soon();
                }
                self.log_commit(audit);
                // It is published from the copy.
                self.follow();
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
            nodes = audit.nodes.len() + audit.more,
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
            Ok(Erasure::Done | Erasure::History) => {}
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
