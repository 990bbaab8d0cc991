//! Turns: with a step that several coordinators may take, each waits for those that come before it (docs/protocol.md#rule-2),
//! whether they live or not.  A turn is a second here.

use tfo_engine::rollout::document::Snapshot;
use tfo_engine::rollout::input::Input;
use tfo_engine::rollout::turn::{TURN, wait_before};

use super::coordinators::coordinator;
use super::fleet::{Event, Fleet};

impl Fleet {
    /// Whether a coordinator takes a step that it can take now; otherwise it looks again when it is its turn.
    pub(super) fn has_its_turn(&mut self, c: usize, snapshot: &Snapshot) -> bool {
        let revision = snapshot.document.revision;
        let wait = wait_before(&snapshot.document, &coordinator(c), snapshot.beats.keys());
        let turns = u64::try_from(wait.as_millis() / TURN.as_millis()).unwrap();
        let turn = &mut self.coordinators[c].turn;
        let known = turn.filter(|(of, _)| *of == revision);
        let (_, at) = *turn.insert(known.unwrap_or((revision, self.now + turns)));
        if at > self.now {
            self.summary.count("steps that are left to others first", 1);
            self.at(at - self.now, Event::Turn(c));
        } else if !wait.is_zero() {
            self.summary.count("steps in the turn of one that does not come first", 1);
        }
        at <= self.now
    }

    /// Looks again, and takes the step that it has left to others if that is still to be taken.
    pub(super) fn take_turn(&mut self, c: usize) {
        if !self.coordinators[c].is_up {
            return;
        }
        let Some(copy) = self.read(c, false) else { return };
        self.observe(c, copy.snapshot());
        if self.coordinators[c].holds_name {
            self.decide(c, copy.snapshot(), &Input::Tick);
        }
    }
}
