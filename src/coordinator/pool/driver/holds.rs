//! Requests that the driver holds: their ends by time, whose nodes are heard by them, and whose counters a gate asks for
//! (docs/protocol.md#rule-11; rule 12).

use super::Driver;
use crate::pool::waiting::Turn;
use tfo_engine::rollout::observed;
use tfo_host::runtime::clock;

impl Driver {
    /// Ends the holds whose time is over.
    pub(super) fn end_holds(&mut self) {
        self.waiting.end_due(clock::monotonic(), self.shared.is_blind());
    }

    /// Tells the life which nodes are heard by the requests that are held: at each tick and before each beat, so that one that was
    /// told something has come back meanwhile.
    pub(super) fn note_turns(&mut self) {
        let now = self.monotonic();
        for (node, turn) in self.waiting.take_turns() {
            let is_news = match turn {
                Turn::Begun => self.seen.life.hold(&node),
                Turn::Ended => self.seen.life.release(now, &node),
            };
            if is_news {
                self.rest.end();
            }
        }
    }

    /// Asks the nodes of an opened wave whose counters are too old, and tells the other coordinators soon once all are heard.
    pub(super) fn ask_for_counters(&mut self) {
        let (snapshot, presence) = (self.replica.snapshot(), self.seen.presence());
        self.waiting.ask(&observed::to_ask(snapshot, presence));
        let has_observed = observed::has_observed(snapshot, presence);
        if has_observed.is_some() && has_observed != self.observed && !snapshot.beats.is_empty() {
            self.beats.soon();
        }
        self.observed = has_observed;
    }
}
