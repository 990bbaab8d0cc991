//! The state of a contact: whether the node may serve, its problems for an operator, what a reload keeps.

use std::time::{Duration, Instant};

use super::Contact;
use tfo_config::contact::EmptyPool;
use tfo_engine::fence::Readiness;
use tfo_model::ids::PoolName;
use tfo_model::problem::{Problem, Severity};
use tfo_wire::status::Standing;

/// Kind of the problem that the pool has no key yet.
pub const NO_KEY: &str = "no_key";

impl Contact {
    /// Continues from `before` after a reload of the settings that [`Contact::fits`] refused: the fence is what this process
    /// holds, whatever is in the file's place, and a pool that was silent stays silent since then (docs/protocol.md#rule-9).
    #[must_use]
    pub fn succeeding(mut self, before: &Self) -> Self {
        if !(self.purpose.gives_keys() && before.purpose.gives_keys()) {
            return self;
        }
        self.link = self.link.succeeding(&before.link);
        // Also if the file names the pool by now that an operator moved this node to.
        let is_same = self.pool == before.purpose.settings.pool || self.pool == before.pool;
        if is_same {
            self.pool = before.pool.clone();
            self.started = before.started;
            self.next_at = self.now();
            self.link = self.link.in_contact_since(&before.link);
            self.failure.clone_from(&before.failure);
            self.counts.clone_from(&before.counts);
        } else {
            self.link.stay();
        }
        self
    }

    /// Whether the node may serve as far as its pool is concerned; the caller adds "installed and read back".
    #[must_use]
    pub fn may_serve(&self) -> bool {
        match self.readiness() {
            Some(Readiness::Confirmed | Readiness::Unconfirmed) | None => true,
            Some(Readiness::EmptyPool) => self.purpose.empty_pool == EmptyPool::Ready,
            Some(Readiness::Asking | Readiness::NoKeys) => false,
        }
    }

    /// Whether the node may serve without keys: a coordinator has answered in this run that its pool has none.
    #[must_use]
    pub fn serves_without_key(&self) -> bool {
        self.readiness() == Some(Readiness::EmptyPool) && self.may_serve()
    }

    /// When [`Contact::may_serve`] changes by time alone.
    #[must_use]
    pub fn start_deadline(&self) -> Option<Instant> {
        (self.readiness() == Some(Readiness::Asking)).then(|| self.started + self.purpose.start_timeout)
    }

    /// When the node becomes detached if no answer comes: a coordinator counts on it.
    #[must_use]
    pub fn detaches_at(&self) -> Option<Instant> {
        // At the instant itself it is not detached yet.
        let at = self.link.detaches_after(self.now())?.checked_add(Duration::from_millis(1))?;
        self.started.checked_add(at)
    }

    /// None for an agent that only reports.
    fn readiness(&self) -> Option<Readiness> {
        self.purpose.gives_keys().then(|| self.link.readiness(self.now(), self.purpose.start_timeout))
    }

    /// State of the contact.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.link.is_detached(self.now()) {
            return Standing::Detached;
        }
        match (self.readiness(), &self.failure, self.counts.answers) {
            (Some(Readiness::NoKeys), ..) => Standing::NoKeys,
            (Some(Readiness::Unconfirmed), ..) => Standing::Unconfirmed,
            (Some(Readiness::EmptyPool), None, _) => Standing::EmptyPool,
            (.., 0) => Standing::Asking,
            (_, None, _) => Standing::Connected,
            (_, Some(_), _) => Standing::Disconnected,
        }
    }

    /// What is wrong, the worst first; warnings only for an agent that only reports.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let since = self.counts.last_contact_at.map_or_else(
            || "no coordinator has answered in this run".to_owned(),
            |at| format!("a coordinator last answered at {at}"),
        );
        let cause = self.failure.as_ref().map_or_else(String::new, |failure| format!("; {}", failure.message));
        let remedy = "check the coordinators and the network to them; the installed keys stay";
        match self.standing() {
            Standing::Detached => {
                let message = format!("the pool may continue without this node: {since}{cause}");
                problems.push(Problem::error("detached", message, remedy));
            }
            Standing::Unconfirmed => {
                let message =
                    format!("no coordinator has confirmed the keys, which come from the file: {since}{cause}");
                problems.push(Problem::error("unconfirmed", message, remedy));
            }
            Standing::NoKeys => {
                let message = format!("this node has no keys of pool {}: {since}{cause}", self.pool);
                let remedy = "servers must not start without them; `tfoctl pools` shows whether the pool has keys";
                problems.push(Problem::error("no_pool_keys", message, remedy));
            }
            Standing::Asking | Standing::Connected | Standing::Disconnected | Standing::EmptyPool => {}
        }
        if self.readiness() == Some(Readiness::EmptyPool) {
            let mut problem = no_key(&self.pool);
            if self.purpose.empty_pool == EmptyPool::Held {
                problem.message += ", and hold_until_first_key holds this node back until it has one";
                problem.severity = Severity::Error;
            }
            problems.push(problem);
        }
        problems.extend(self.moved());
        if let Some(failure) = &self.failure {
            let mut problem = failure.problem();
            problem.message = format!("{}; {since}", problem.message);
            problems.push(problem);
        }
        match &self.identity {
            Ok(identity) => {
                problems.extend(identity.notes().map(|note| self.with_reason(note)));
                problems.extend(self.renewals.as_ref().and_then(|renewals| renewals.remark.clone()));
            }
            Err(wrong) => problems.extend(wrong.iter().cloned()),
        }
        if !self.purpose.gives_keys() {
            problems.iter_mut().for_each(|problem| problem.severity = Severity::Warning);
        }
        problems
    }
}

/// The pool has no key yet: nothing is wrong with this node, and an operator has to act.
pub(super) fn no_key(pool: &PoolName) -> Problem {
    let message = format!("pool {pool} has no key yet");
    let remedy = "`tfoctl rotate --first` or `tfoctl import` on an operator's machine gives it one";
    Problem::warning(NO_KEY, message, remedy)
}
