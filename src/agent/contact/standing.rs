//! How it stands with the coordinators: whether the node may serve, what an operator is told, what a reload keeps.

use std::time::Instant;

use super::Contact;
use tfo_engine::fence::Readiness;
use tfo_model::problem::{Problem, Severity};
use tfo_wire::status::Standing;

impl Contact {
    /// Goes on from `before` after a reload of the settings that [`Contact::fits`] refused: the fence is what this process
    /// holds, not what stands in a file's place, and a pool that was silent has been so since then (docs/protocol.md#rule-9).
    #[must_use]
    pub fn succeeding(mut self, before: &Self) -> Self {
        if !(self.teaches() && before.teaches()) {
            return self;
        }
        self.link = self.link.succeeding(&before.link);
        if self.settings.pool == before.settings.pool {
            self.started = before.started;
            self.next_at = self.now();
            self.link = self.link.in_contact_since(&before.link);
            self.trouble.clone_from(&before.trouble);
            self.counts.clone_from(&before.counts);
        }
        self
    }

    /// Whether the node may serve as far as its pool is concerned; the caller adds "installed and read back".
    #[must_use]
    pub fn may_serve(&self) -> bool {
        match self.readiness() {
            Some(Readiness::Confirmed | Readiness::Unconfirmed) | None => true,
            Some(Readiness::Asking | Readiness::NoKeys) => false,
        }
    }

    /// When [`Contact::may_serve`] changes by time alone.
    #[must_use]
    pub fn start_deadline(&self) -> Option<Instant> {
        (self.readiness() == Some(Readiness::Asking)).then(|| self.started + self.start_timeout)
    }

    /// None for an agent that only reports.
    fn readiness(&self) -> Option<Readiness> {
        (self.teaches()).then(|| self.link.readiness(self.now(), self.start_timeout))
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.link.is_detached(self.now()) {
            return Standing::Detached;
        }
        match (self.readiness(), &self.trouble, self.counts.answers) {
            (Some(Readiness::NoKeys), ..) => Standing::NoKeys,
            (Some(Readiness::Unconfirmed), ..) => Standing::Unconfirmed,
            (_, None, 0) => Standing::Asking,
            (_, None, _) => Standing::Connected,
            (_, Some(_), 0) => Standing::Asking,
            (_, Some(_), _) => Standing::Disconnected,
        }
    }

    /// What is wrong, the worst first.  For an agent that only reports all of it is warnings.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let since = self.counts.last_contact_at.map_or_else(
            || "no coordinator has answered in this run".to_owned(),
            |at| format!("the last answer of a coordinator was at {at}"),
        );
        let cause = self.trouble.as_ref().map_or_else(String::new, |trouble| format!("; {}", trouble.message));
        let stand = "look at the coordinators and the way to them; the installed keys stay";
        match self.standing() {
            Standing::Detached => {
                let message = format!("the pool goes on without this node: {since}{cause}");
                problems.push(Problem::error("detached", message, stand));
            }
            Standing::Unconfirmed => {
                let message = format!("the keys are those of the file, and nobody has confirmed them: {since}{cause}");
                problems.push(Problem::error("unconfirmed", message, stand));
            }
            Standing::NoKeys => {
                let message = format!("there are no keys of pool {}: {since}{cause}", self.settings.pool);
                let remedy = "servers must not start without them; `tfoctl pools` shows whether the pool has keys";
                problems.push(Problem::error("no_pool_keys", message, remedy));
            }
            Standing::Asking | Standing::Connected | Standing::Disconnected => {}
        }
        if let Some(trouble) = &self.trouble {
            let mut problem = trouble.problem();
            problem.message = format!("{}; {since}", problem.message);
            problems.push(problem);
        }
        match &self.identity {
            Ok(identity) => problems.extend(identity.notes()),
            Err(wrong) => problems.extend(wrong.iter().cloned()),
        }
        if !self.teaches() {
            problems.iter_mut().for_each(|problem| problem.severity = Severity::Warning);
        }
        problems
    }
}
