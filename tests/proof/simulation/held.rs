//! Requests that a coordinator holds while it has nothing new for their nodes, for a while also without its store.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::RequestId;
use tfo_engine::rollout::sync::{Answer, PoolView, Sync, SyncRefused};
use tfo_engine::rollout::timing::hold;
use tfo_model::ids::NodeId;

use super::fleet::{Event, Fleet};
use super::shelf::Position;

/// The longest that a node's request may be under way beyond the time for which it is held.
pub(super) const PATIENCE_SECS: u64 = 10;

/// How long a request waits for the copy to have its node's entry.
pub(super) const COPY_PATIENCE_SECS: u64 = 8;

/// A request that waits for news.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) to: usize,
    pub(super) life: u64,
    pub(super) request: RequestId,
    pub(super) sync: Rc<Sync>,
    pub(super) until: u64,
    /// The answer is made from a copy that has followed so far: that far the node's entry is written, ...
    pub(super) entered: Option<Position>,
    /// ... or it is refused.
    pub(super) copy_by: u64,
    /// The coordinator's life in which it was taken in: in a later one its node has to sync again.
    pub(super) of_life: u64,
    /// It was taken in without the store: its node is not heard by it, and has to sync again once the store is back.
    pub(super) is_unrecorded: bool,
}

impl Fleet {
    /// For how long a node's request is held while there is nothing new: a timer's is not.
    pub(super) fn hold_secs(&mut self, n: usize) -> Option<u64> {
        let longest = self.shelf.now().document.policy.hold_max();
        let random = u32::try_from(self.random.below(1 << 32)).unwrap();
        self.nodes[n].timer_secs.is_none().then(|| hold(longest, longest, random).as_secs())
    }

    /// Holds a request until the coordinator's copy has what was written for it, and then while there is nothing new.
    pub(super) fn hold_for_copy(
        &mut self,
        (n, request): (usize, RequestId),
        (to, life): (usize, u64),
        (sync, entered): (&Rc<Sync>, Position),
    ) {
        self.summary.count("answers that wait for the copy", 1);
        let until = self.now + self.hold_secs(n).unwrap_or_default();
        let copy_by = self.now + COPY_PATIENCE_SECS;
        let wait = self.coordinators[to].copied.lag_secs.min(COPY_PATIENCE_SECS);
        let of_life = self.coordinators[to].life.ordinal();
        let (sync, entered, is_unrecorded) = (sync.clone(), Some(entered), false);
        self.hold(n, Held { to, life, request, sync, until, entered, copy_by, of_life, is_unrecorded });
        self.at(wait, Event::Release { to, node: n, request });
    }

    /// Sends the answer to a sync that was recorded or was not, or holds the request.
    pub(super) fn hold_or_send(
        &mut self,
        (n, request): (usize, RequestId),
        (to, life): (usize, u64),
        (sync, is_unrecorded): (&Rc<Sync>, bool),
        answer: Result<Answer, SyncRefused>,
    ) {
        let Some(hold_secs) = self.hold_secs(n).filter(|_| answer == Ok(Answer::Nothing)) else {
            return self.send(n, request, answer);
        };
        let until = self.now + hold_secs;
        let of_life = self.coordinators[to].life.ordinal();
        let (sync, entered, copy_by) = (sync.clone(), None, until);
        self.hold(n, Held { to, life, request, sync, until, entered, copy_by, of_life, is_unrecorded });
    }

    fn hold(&mut self, n: usize, held: Held) {
        self.at(held.until - self.now, Event::Release { to: held.to, node: n, request: held.request });
        if let Some(before) = self.nodes[n].held.take() {
            self.ended(n, &before);
        }
        if held.entered.is_none() && !held.is_unrecorded {
            self.hears_by(n, &held);
        }
        self.nodes[n].held = Some(held);
    }

    /// From now on the coordinator hears the node by the request that it holds.
    fn hears_by(&mut self, n: usize, held: &Held) {
        let (id, process) = (&self.nodes[n].id, &mut self.coordinators[held.to]);
        if process.life.hold(id) {
            process.rest = None;
        }
        process.holding.insert(n, held.request);
    }

    /// The coordinator knows that this hold is over: it was answered, or its connection has ended.
    pub(super) fn ended(&mut self, n: usize, held: &Held) {
        let process = &mut self.coordinators[held.to];
        if process.lives == held.life && process.holding.get(&n) == Some(&held.request) {
            process.holding.remove(&n);
            if process.life.release(Duration::from_secs(self.now), &self.nodes[n].id) {
                process.rest = None;
            }
        }
    }

    /// The node's end of its connection is gone: the coordinator sees that at once, or only when the hold is over, if the
    /// host or the network died with it.
    pub(super) fn disconnected(&mut self, n: usize) {
        let Some(held) = self.nodes[n].held.take() else { return };
        if self.has_faults() && self.random.once_in(2) {
            self.summary.count("connections that stay half open", 1);
            let left = held.until.saturating_sub(self.now);
            self.at(left, Event::Ended { node: n, held: Box::new(held) });
        } else {
            self.ended(n, &held);
        }
    }

    /// Without its store a coordinator holds a request of an open session that has the copy's instruction, until it is
    /// blind.
    pub(super) fn without_store(&self, c: usize, n: usize, sync: &Sync) -> Result<Answer, SyncRefused> {
        let unreachable = Err(SyncRefused::NotAdmitted);
        let Some(copy) = self.copy(c).filter(|_| !self.is_blind(c)).map(|copy| copy.snapshot()) else {
            return unreachable;
        };
        let is_open = copy.nodes.get(&self.nodes[n].id).is_some_and(|record| record.session == Some(sync.session));
        if self.nodes[n].timer_secs.is_some() || !is_open {
            return unreachable;
        }
        match PoolView::of(copy, &self.coordinators[c].presence).answer(copy, &self.nodes[n].id, sync) {
            Ok(Answer::Nothing) => Ok(Answer::Nothing),
            Ok(Answer::Instruct(_)) | Err(_) => unreachable,
        }
    }

    /// The time of a held request is over, the document has changed, or the copy may have its node's entry.
    pub(super) fn release(&mut self, n: usize, request: RequestId) {
        let Some(held) = self.nodes[n].held.clone().filter(|held| held.request == request) else { return };
        let (c, id) = (held.to, self.nodes[n].id.clone());
        let is_gone = !self.coordinators[c].is_up || self.coordinators[c].lives != held.life;
        let answer = if is_gone {
            Err(SyncRefused::NotAdmitted)
        } else if self.is_cut(c) || self.shelf.store.is_down() {
            match held.entered {
                _ if self.is_blind(c) => Err(SyncRefused::NotAdmitted),
                None => Ok(Answer::Nothing),
                Some(_) if self.now < held.copy_by => return,
                Some(_) => Err(SyncRefused::NotAdmitted),
            }
        } else {
            match self.answer(c, (&id, &held.sync), held.entered) {
                Some(answer) => answer,
                None if self.now < held.copy_by => return,
                None => {
                    self.summary.count("answers that the copy was too late for", 1);
                    Err(SyncRefused::NotAdmitted)
                }
            }
        };
        let is_of_this_life = self.coordinators[c].life.ordinal() == held.of_life;
        if answer == Ok(Answer::Nothing) && self.now < held.until && is_of_this_life {
            return self.hears_by(n, &held);
        }
        self.nodes[n].held = None;
        self.ended(n, &held);
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
                self.ended(n, &held);
                self.send(n, held.request, Err(SyncRefused::NotAdmitted));
            }
        }
    }

    /// A coordinator has its store again: those that it holds without a record have to sync again.
    pub(super) fn let_unrecorded_go(&mut self, c: usize) {
        for n in 0..self.nodes.len() {
            if let Some(held) = self.nodes[n].held.take_if(|held| held.to == c && held.is_unrecorded) {
                self.summary.count("requests held without a record that were let go", 1);
                self.ended(n, &held);
                self.send(n, held.request, Err(SyncRefused::NotAdmitted));
            }
        }
    }

    /// A gate needs what these nodes have counted: they are answered without news, and sync.
    pub(super) fn ask(&mut self, c: usize, nodes: &[NodeId]) {
        for id in nodes {
            let n = self.index[id];
            if let Some(held) = self.nodes[n].held.take_if(|held| held.to == c && held.entered.is_none()) {
                self.summary.count("nodes that are asked for their counters", 1);
                self.ended(n, &held);
                self.send(n, held.request, Ok(Answer::Nothing));
            }
        }
    }

    /// A coordinator's life is over: those that it holds have to sync again.
    pub(super) fn look_again_at_held(&mut self, c: usize) {
        for n in 0..self.nodes.len() {
            if let Some(Held { to, request, .. }) = self.nodes[n].held
                && to == c
            {
                self.at(1, Event::Release { to, node: n, request });
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
