//! What a coordinator has of its store.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::rollout::document::Snapshot;

use super::fleet::Fleet;
use super::rules::RuleOff;

/// What a coordinator has of its store.
#[derive(Default)]
pub(super) struct Copied {
    pub(super) snapshot: Option<Rc<Snapshot>>,
    pub(super) confirmed_at: u64,
}

impl Fleet {
    /// What a coordinator reads of its store, if it reaches it.
    pub(super) fn read(&mut self, c: usize, whole: bool) -> Option<Rc<Snapshot>> {
        let is_cut = self.coordinators[c].troubles.cut_until > self.now;
        let read = if is_cut {
            None
        } else if whole {
            self.shelf.load()
        } else {
            self.shelf.read()
        };
        match &read {
            Some(snapshot) => {
                self.coordinators[c].copied = Copied { snapshot: Some(snapshot.clone()), confirmed_at: self.now };
            }
            None => self.summary.count("calls to a store that is down", 1),
        }
        read
    }

    pub(super) fn is_cut(&self, c: usize) -> bool {
        self.coordinators[c].troubles.cut_until > self.now
    }

    pub(super) fn is_blind(&self, c: usize) -> bool {
        let blind_max = self.shelf.now.document.policy.blind_max();
        let unconfirmed = Duration::from_secs(self.now - self.coordinators[c].copied.confirmed_at);
        self.rule_off != Some(RuleOff::Blindness) && unconfirmed >= blind_max
    }
}
