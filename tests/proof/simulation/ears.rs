//! What coordinators and nodes hear of each other, and what keeps them from it: held requests, a coordinator that is cut
//! off from its store while the others are not, one that no node reaches, one that is stopped and goes on later, nodes that
//! receive and cannot send.
//!
//! A ghost checks every exclusion for absence (docs/protocol.md#rule-11): no node that was answered within `absent_after`
//! is excluded, none before it is detached, and none by a fleet of coordinators that hears no node.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::RequestId;
use tfo_engine::rollout::document::{Proposal, Snapshot};
use tfo_engine::rollout::presence::Presence;
use tfo_engine::rollout::record::{Exclusion, Membership};
use tfo_engine::rollout::sync::{Answer, PoolView, Sync, SyncRefused};
use tfo_model::ids::NodeId;

use super::fleet::{COORDINATORS, Event, FAULTS_UNTIL, Fleet, RuleOff};

/// The longest that a node's request may be under way beyond the time for which it is held.
pub(super) const PATIENCE_SECS: u64 = 10;
/// Longest time for which the fleet's coordinators may hear no node and still exclude one: one and a half of the longest
/// period of a node here, a look, and the slowest commit.
const DEAF_SECS_MAX: u64 = 120 + 30;
/// What a coordinator that looks late adds: a minute counts for ten seconds.
const LATE_LOOKS_SECS_MAX: u64 = 180;
/// Longest pause between two requests of a node that fails.
const BACKOFF_SECS_MAX: u64 = 60;

/// What keeps one coordinator from the store or from the nodes, each until a time.
#[derive(Default)]
pub(super) struct Troubles {
    /// Its calls to the store fail, those of the others do not.
    pub(super) cut_until: u64,
    /// No node's request arrives, and the store works.
    pub(super) deaf_until: u64,
    /// It does nothing (SIGSTOP), and then everything at once.
    pub(super) paused_until: u64,
}

/// What a coordinator has of its store.
#[derive(Default)]
pub(super) struct Copied {
    pub(super) snapshot: Option<Rc<Snapshot>>,
    confirmed_at: u64,
}

/// A request that waits for news.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) to: usize,
    life: u64,
    pub(super) request: RequestId,
    sync: Rc<Sync>,
    until: u64,
}

impl Fleet {
    // ---- troubles ----

    pub(super) fn cut_off(&mut self, c: usize) {
        self.summary.count("coordinators cut off from the store", 1);
        self.coordinators[c].troubles.cut_until = self.now + self.random.below(600);
    }

    pub(super) fn deafen(&mut self, c: usize) {
        self.summary.count("coordinators that no node reaches", 1);
        self.coordinators[c].troubles.deaf_until = self.now + self.random.below(600);
    }

    pub(super) fn pause(&mut self, c: usize) {
        self.summary.count("coordinators that stand still", 1);
        self.coordinators[c].troubles.paused_until = (self.now + self.random.below(600)).min(FAULTS_UNTIL);
    }

    pub(super) fn mute(&mut self, n: usize) {
        self.summary.count("nodes that receive and cannot send", 1);
        self.nodes[n].mute_until = self.now + self.random.below(600);
    }

    /// A rule of this module is off: then nothing else stops the fleet, so that every seed comes to the exclusion.
    pub(super) fn is_about_ears(&self) -> bool {
        matches!(self.rule_off, Some(RuleOff::Blindness | RuleOff::DetachedFirst | RuleOff::Deafness))
    }

    /// Puts the fleet to the test that a rule is for, again and again while it is off.
    pub(super) fn plan(&mut self) {
        if !self.has_faults() {
            return;
        }
        let again = match self.rule_off {
            None | Some(RuleOff::Barriers | RuleOff::Promise | RuleOff::FileProposes) => return self.black_out(),
            Some(RuleOff::Deafness) => {
                self.black_out();
                550
            }
            Some(RuleOff::Blindness) => {
                let nodes_at = |c: &usize| self.nodes.iter().filter(|node| node.coordinator == *c).count();
                let busiest = (0..COORDINATORS).max_by_key(nodes_at).expect("there are some");
                self.coordinators[busiest].troubles.cut_until = self.now + 280;
                300
            }
            Some(RuleOff::DetachedFirst) => {
                let n = self.random.index(self.nodes.len());
                self.mute(n);
                30
            }
        };
        self.at(again, Event::Plan);
    }

    /// No node reaches any coordinator.
    fn black_out(&mut self) {
        self.summary.count("times in which no coordinator heard a node", 1);
        let until = self.now + 400 + self.random.below(100);
        for coordinator in &mut self.coordinators {
            let until_now = coordinator.troubles.deaf_until;
            coordinator.troubles.deaf_until = until.max(until_now);
        }
    }

    /// When an event of a coordinator that stands still happens.
    pub(super) fn put_off_until(&self, event: &Event) -> Option<u64> {
        let c = match event {
            Event::Tick(c) | Event::Commit(c, ..) | Event::Flush(c) => *c,
            Event::Request { to, .. } | Event::Release { to, .. } => *to,
            Event::Wake(..) | Event::Answer { .. } | Event::Fault | Event::File | Event::Plan => return None,
        };
        Some(self.coordinators[c].troubles.paused_until).filter(|until| *until > self.now)
    }

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

    fn is_blind(&self, c: usize) -> bool {
        let blind_max = self.shelf.now.document.policy.blind_max();
        let unconfirmed = Duration::from_secs(self.now - self.coordinators[c].copied.confirmed_at);
        self.rule_off != Some(RuleOff::Blindness) && unconfirmed >= blind_max
    }

    // ---- held requests ----

    /// Whether a node's request is held while there is nothing new: a timer's is not.
    fn hold_secs(&self, n: usize) -> Option<u64> {
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

    fn send(&mut self, n: usize, request: RequestId, answer: Result<Answer, SyncRefused>) {
        if !(self.has_faults() && self.random.once_in(40)) {
            let delay = self.delay();
            self.at(delay, Event::Answer { node: n, request, answer });
        }
    }

    /// The node's request failed, or got no answer in time: it asks the next coordinator, in a new session.
    pub(super) fn hop(&mut self, n: usize) {
        let nonce = self.random.roll();
        let node = &mut self.nodes[n];
        node.link.give_up();
        node.held = None;
        node.failures += 1;
        node.coordinator = (node.coordinator + 1) % COORDINATORS;
        node.link.open_session(1_000 + self.now, nonce);
        let rounds = u32::try_from(node.failures / COORDINATORS).unwrap().min(6);
        let pause = 1 + self.random.below(2_u64.pow(rounds).min(BACKOFF_SECS_MAX));
        self.wake(n, pause);
    }

    // ---- the ghost ----

    /// A presence under a rule that is off.
    pub(super) fn judged(&self, snapshot: &Snapshot, mut presence: Presence) -> Presence {
        if self.rule_off == Some(RuleOff::DetachedFirst) {
            let policy = &snapshot.document.policy;
            let too_early = (policy.hold_max() + policy.beat() * 2).as_secs();
            let early = presence.overdue.iter().filter(|(_, left)| **left <= too_early).map(|(node, _)| node.clone());
            presence.absent.extend(early);
        }
        presence
    }

    /// What a coordinator looks at: with a node that is heard at every look if deafness is off.
    pub(super) fn looked_at(&self, snapshot: &Snapshot) -> Option<Snapshot> {
        (self.rule_off == Some(RuleOff::Deafness)).then(|| {
            let mut heard = snapshot.clone();
            if let Some(mut record) = heard.nodes.values().next().cloned() {
                (record.session, record.syncs) = (None, 1 + self.now);
                heard.nodes.insert("zz-always-heard".parse().unwrap(), record);
            }
            heard
        })
    }

    /// Every node that this commit takes for absent has detached itself, and some node was heard.
    pub(super) fn check_absences(&mut self, proposal: &Proposal) {
        // Not one that has opened a session since it was decided.
        let is_absent = |node: &&NodeId| {
            let record = self.shelf.now.nodes.get(*node);
            record.is_some_and(|record| record.membership == Membership::Excluded(Exclusion::Absent))
        };
        let absent: Vec<NodeId> = proposal.exclusions.keys().filter(is_absent).cloned().collect();
        let absent_after = proposal.document.policy.absent_after_secs;
        let deaf_max = DEAF_SECS_MAX + if self.is_about_ears() { 0 } else { LATE_LOOKS_SECS_MAX };
        for id in &absent {
            let Some(node) = self.index.get(id).map(|n| &self.nodes[*n]) else { continue };
            let silent_secs = node.answered_at.map_or(u64::MAX, |at| self.now - at);
            let now = self.now;
            assert!(silent_secs > absent_after, "at {now} s: {id} is excluded, and was answered {silent_secs} s ago");
            let detaches = node.link.detaches_after(Duration::from_secs(now));
            assert_eq!(detaches, None, "at {now} s: {id} is excluded before it is detached");
            let unheard_secs = now - self.heard_at;
            assert!(
                unheard_secs <= deaf_max,
                "at {now} s: {id} is excluded, and no node was heard for {unheard_secs} s"
            );
        }
        self.summary.count("exclusions for absence", absent.len() as u64);
    }
}
