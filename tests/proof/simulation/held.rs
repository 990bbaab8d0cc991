//! Requests that a coordinator holds while it has nothing new for their nodes, for a while also without its store.

use std::rc::Rc;

use tfo_engine::fence::RequestId;
use tfo_engine::rollout::sync::{Answer, PoolView, Sync, SyncRefused};

use super::fleet::{Event, Fleet};

/// The longest that a node's request may be under way beyond the time for which it is held.
pub(super) const PATIENCE_SECS: u64 = 10;

/// A request that waits for news.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) to: usize,
    pub(super) life: u64,
    pub(super) request: RequestId,
    pub(super) sync: Rc<Sync>,
    pub(super) until: u64,
}

impl Fleet {
    /// Whether a node's request is held while there is nothing new: a timer's is not.
    pub(super) fn hold_secs(&self, n: usize) -> Option<u64> {
        let is_daemon = self.nodes[n].timer_secs.is_none();
        is_daemon.then(|| self.shelf.now.document.policy.hold_max().as_secs())
    }

    /// Sends the answer, or holds the request.
    pub(super) fn hold_or_send(
        &mut self,
        (n, request): (usize, RequestId),
        (to, life): (usize, u64),
        sync: &Rc<Sync>,
        answer: Result<Answer, SyncRefused>,
    ) {
        let Some(hold_secs) = self.hold_secs(n).filter(|_| answer == Ok(Answer::Nothing)) else {
            return self.send(n, request, answer);
        };
        let until = self.now + hold_secs;
        self.nodes[n].held = Some(Held { to, life, request, sync: sync.clone(), until });
        self.at(hold_secs, Event::Release { to, node: n, request });
    }

    /// Without its store a coordinator holds a request of an open session that has the copy's instruction, until it is
    /// blind.
    pub(super) fn without_store(&self, c: usize, n: usize, sync: &Sync) -> Result<Answer, SyncRefused> {
        let unreachable = Err(SyncRefused::NotAdmitted);
        let coordinator = &self.coordinators[c];
        let Some(copy) = coordinator.copied.snapshot.as_ref().filter(|_| !self.is_blind(c)) else { return unreachable };
        let is_open = copy.nodes.get(&self.nodes[n].id).is_some_and(|record| record.session == Some(sync.session));
        if self.hold_secs(n).is_none() || !is_open {
            return unreachable;
        }
        match PoolView::of(copy, &coordinator.presence).answer(copy, &self.nodes[n].id, sync) {
            Ok(Answer::Nothing) => Ok(Answer::Nothing),
            Ok(Answer::Instruct(_)) | Err(_) => unreachable,
        }
    }

    /// The time of a held request is over, or the document has changed.
    pub(super) fn release(&mut self, n: usize, request: RequestId) {
        let Some(held) = self.nodes[n].held.clone().filter(|held| held.request == request) else { return };
        let (c, id) = (held.to, self.nodes[n].id.clone());
        let is_gone = !self.coordinators[c].is_up || self.coordinators[c].lives != held.life;
        let answer = if is_gone {
            Err(SyncRefused::NotAdmitted)
        } else if self.is_cut(c) || self.shelf.store.is_down() {
            if self.is_blind(c) { Err(SyncRefused::NotAdmitted) } else { Ok(Answer::Nothing) }
        } else {
            self.answer(c, (&id, &held.sync))
        };
        if answer == Ok(Answer::Nothing) && self.now < held.until {
            return;
        }
        self.nodes[n].held = None;
        self.send(n, request, answer);
    }

    /// A coordinator that has become blind lets all go that it holds.
    pub(super) fn let_go_if_blind(&mut self, c: usize) {
        if !self.is_blind(c) {
            return;
        }
        for n in 0..self.nodes.len() {
            if let Some(held) = self.nodes[n].held.take_if(|held| held.to == c) {
                self.summary.count("held requests that a blind coordinator let go", 1);
                self.send(n, held.request, Err(SyncRefused::NotAdmitted));
            }
        }
    }

    /// The document has changed: every coordinator looks at what it holds.
    pub(super) fn publish(&mut self) {
        for n in 0..self.nodes.len() {
            if let Some(Held { to, request, .. }) = self.nodes[n].held {
                let delay = 1 + self.random.below(3);
                self.at(delay, Event::Release { to, node: n, request });
            }
        }
    }

    pub(super) fn send(&mut self, n: usize, request: RequestId, answer: Result<Answer, SyncRefused>) {
        if !(self.has_faults() && self.random.once_in(40)) {
            let delay = self.delay();
            self.at(delay, Event::Answer { node: n, request, answer });
        }
    }
}
