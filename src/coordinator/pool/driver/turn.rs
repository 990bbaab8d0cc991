//! Whose turn it is to take a step that several coordinators may take (docs/protocol.md#rule-2).
//!
//! Only steps that the rollout takes by itself have turns: an order, and a policy that is proposed, are this coordinator's own.

use std::time::Duration;

use super::Driver;
use tfo_engine::rollout::turn::wait_before;
use tfo_model::count::Revision;

/// When it is this coordinator's turn, on the driver's clock, with the step from this revision.
#[derive(Debug, Default)]
pub(super) struct Turn {
    revision: Revision,
    at: Option<Duration>,
    /// The last tick has left the step to others.
    is_awaited: bool,
}

impl Turn {
    /// Whether it has come at `now`; for the same revision it stays when it was.
    fn has_come(&mut self, revision: Revision, now: Duration, wait: Duration) -> bool {
        if self.revision != revision {
            *self = Self { revision, ..Self::default() };
        }
        let has_come = *self.at.get_or_insert(now + wait) <= now;
        self.is_awaited = !has_come;
        has_come
    }

    /// Another decision begins.
    pub(super) fn begin(&mut self) {
        self.is_awaited = false;
    }
}

impl Driver {
    /// Whether to take the step that the rollout can take now, or to leave it to one that comes before.
    pub(super) fn has_its_turn(&mut self) -> bool {
        let (now, document) = (self.monotonic(), self.replica.document());
        let others = self.seen.clocks.live(now, document.policy.beat()).map(|(name, _)| name);
        let wait = wait_before(document, self.replica.by(), others);
        self.turn.has_come(document.revision, now, wait)
    }

    /// Time until this coordinator takes the step that it has left to others.
    pub(super) fn until_its_turn(&self) -> Option<Duration> {
        let at = self.turn.at.filter(|_| self.turn.is_awaited)?;
        Some(at.saturating_sub(self.monotonic()))
    }
}
