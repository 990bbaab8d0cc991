//! The nodes: agents with a file, a kernel and a clock, and clients that come to them.  An install may end anywhere between
//! answer, file and kernel; requests and answers may be lost, late or repeated.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::{AnswerAccepted, AnswerRefused, Link, PoolAnswer, RequestId};
use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::record::{Installed, Membership, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, Instruction, Slots};
use tfo_engine::rollout::sync::{Answer, Sync, SyncRefused};
use tfo_model::count::Generation;
use tfo_model::ids::NodeId;
use tfo_model::node::{Counters, KeySource, Session};

use super::fleet::{COORDINATORS, Event, Fleet, pool_id};
use super::held::{Held, PATIENCE_SECS};

/// A daemon declares this period; like all times here it is shorter than in a fleet.
const DAEMON_SECS: u64 = 30;
/// Longest pause between two requests of a node that fails.
const BACKOFF_SECS_MAX: u64 = 60;

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) slot_count: SlotCount,
    pub(super) link: Link,
    pub(super) file: Option<Fence>,
    pub(super) kernel: Option<Slots>,
    /// A `once` agent comes back after so long; a daemon has its long poll.
    pub(super) timer_secs: Option<u64>,
    pub(super) coordinator: usize,
    /// Its request that a coordinator holds.
    pub(super) held: Option<Held>,
    /// Requests that failed, one after the other.
    pub(super) failures: usize,
    /// When it last took an answer, in whatever run of its agent.
    pub(super) answered_at: Option<u64>,
    /// Stopped or cut off until then.
    pub(super) away_until: u64,
    /// Until then its requests are lost, and answers arrive.
    pub(super) mute_until: u64,
    /// Wakes of an earlier schedule are void.
    pub(super) wake: u64,
    pub(super) counters: Counters,
    pub(super) is_covered: bool,
    /// Ghost: what a coordinator has taken in of it last, unless that was lost: who, in which session, and the generation.
    pub(super) accepted: Option<(usize, Session, Generation)>,
    /// Ghost: when a coordinator took its counters in last; not with the first sync of a session, which nothing holds a node by
    /// before it is looked at.
    pub(super) counted_at: Option<u64>,
    /// Ghost: the highest generation that it has reported in each of its sessions.
    pub(super) said: BTreeMap<Session, Generation>,
}

impl Fleet {
    pub(super) fn sync(&mut self, n: usize) {
        let hold_secs = self.shelf.now().document.policy.hold_max().as_secs();
        let jitter = self.random.below(15);
        let again = self.nodes[n].timer_secs.map_or(hold_secs + PATIENCE_SECS, |secs| secs + jitter);
        self.wake(n, again);
        if self.nodes[n].away_until > self.now {
            return;
        }
        if self.nodes[n].link.outstanding().is_some() {
            self.hop(n);
            return;
        }
        let (nonce, monotonic) = (self.random.roll(), Duration::from_secs(self.now));
        if self.nodes[n].link.returns(1_000 + self.now, nonce, monotonic) {
            self.summary.count("nodes that ask while they are detached", 1);
        }
        if let Some(told) = self.nodes[n].link.pending().copied() {
            self.install(n, told);
        }
        self.traffic(n);
        let node = &mut self.nodes[n];
        let ask = node.link.ask();
        let fence = node.file.clone();
        let expected = fence.as_ref().map(|fence| match node.slot_count {
            SlotCount::Two => fence.slots,
            SlotCount::One => Slots { backup: None, ..fence.slots },
        });
        let installed =
            if expected.is_some() && expected == node.kernel { Installed::ReadBack } else { Installed::Failed };
        let foreign = node.kernel.filter(|_| fence.is_none()).map(|slots| slots.primary.fingerprint);
        let said = node.said.entry(ask.session).or_default();
        *said = fence.as_ref().map_or(Generation::ZERO, |fence| fence.generation).max(*said);
        let sync = Rc::new(Sync {
            session: ask.session,
            seen: ask.seen,
            report: Report {
                fence,
                installed,
                foreign,
                slot_count: node.slot_count,
                next_sync_secs: node.timer_secs.unwrap_or(DAEMON_SECS),
                counters: Some(node.counters),
                seen: Generation::ZERO,
                source: KeySource::Coordinator,
                holds: None,
            }
            .into(),
        });
        let (to, is_mute) = (node.coordinator, node.mute_until > self.now);
        let life = self.coordinators[to].lives;
        let copies = if is_mute {
            0
        } else if !self.has_faults() {
            1
        } else if self.random.once_in(20) {
            self.random.below(3)
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self.delay();
            let sync = sync.clone();
            self.at(delay, Event::Request { node: n, to, life, request: ask.request, sync });
        }
    }

    /// Clients have come to this node since its last sync.
    pub(super) fn traffic(&mut self, n: usize) {
        let next = match &self.shelf.now().document.stage {
            Stage::Promoted { next, .. } => Some(*next),
            Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => None,
        };
        let node = &mut self.nodes[n];
        let Some(slots) = node.kernel else { return };
        let is_broken = self.now < self.broken_until && Some(slots.primary) == next;
        let before = node.counters;
        self.clients.connect(&mut self.random, &slots, &mut node.counters, is_broken);
        let counted = node.counters.since(&before).unwrap();
        self.summary.count("connections accepted", counted.passive);
        self.summary.count("connections accepted by the backup", counted.passive_alt_key);
        self.summary.count("connections rejected", counted.passive_fail);
    }

    pub(super) fn delay(&mut self) -> u64 {
        if self.has_faults() && self.random.once_in(30) { self.random.below(60) } else { self.random.below(3) }
    }

    pub(super) fn answered(&mut self, n: usize, request: RequestId, answer: Result<Answer, SyncRefused>) {
        let monotonic = Duration::from_secs(self.now);
        let nonce = self.random.roll();
        let node = &mut self.nodes[n];
        if node.away_until > self.now {
            return;
        }
        let absent_after = Duration::from_secs(self.shelf.now().document.policy.absent_after_secs);
        let is_outstanding = node.link.outstanding() == Some(request);
        if is_outstanding && answer.is_ok() && node.link.has_lapsed(monotonic) {
            // It asks again in a new session.
            self.summary.count("answers that came when the node was detached", 1);
            node.link.give_up();
            return self.wake(n, 0);
        }
        match answer {
            Ok(Answer::Instruct(told)) => {
                let answer = PoolAnswer { pool_id: pool_id(), instruction: told, absent_after };
                match node.link.answered(request, &answer, monotonic) {
                    Ok(AnswerAccepted::Install | AnswerAccepted::Same) => {
                        self.contacted(n);
                        self.install(n, told);
                    }
                    Err(AnswerRefused::NotOutstanding) => {}
                    // What it holds is another history's: it backs off.
                    Err(_) => {
                        self.contacted(n);
                        self.hop(n);
                    }
                }
            }
            Ok(Answer::Nothing) => {
                if node.link.nothing_new(request, monotonic).is_ok() {
                    node.link.pool_waits(absent_after);
                    let is_daemon = node.timer_secs.is_none();
                    self.contacted(n);
                    if is_daemon {
                        self.wake(n, 1);
                    }
                    self.repair(n);
                }
            }
            Err(SyncRefused::SessionClosed { ordinal }) => {
                if node.link.session_closed(request, ordinal, nonce, monotonic).is_ok() {
                    // No answer for which the pool waits: nothing was recorded of the node.
                    node.failures = 0;
                    self.wake(n, 1);
                }
            }
            Err(_) if is_outstanding => self.hop(n),
            Err(_) => {}
        }
    }

    pub(super) fn contacted(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        (node.answered_at, node.failures) = (Some(self.now), 0);
    }

    /// File, then kernel; a fault may come in between.
    pub(super) fn install(&mut self, n: usize, told: Instruction) {
        self.note(|| format!("{} told {:?}", self.nodes[n].id, told.generation));
        if self.has_faults() && self.random.once_in(200) {
            self.wake(n, 5);
            return;
        }
        let node = &mut self.nodes[n];
        node.file = Some(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots });
        node.link.persisted(&pool_id(), &told);
        if self.has_faults() && self.random.once_in(200) {
            self.restart(n);
            return;
        }
        let node = &mut self.nodes[n];
        let backup = if node.slot_count == SlotCount::One { None } else { told.slots.backup };
        node.kernel = Some(Slots { primary: told.slots.primary, backup });
        let is_admitted =
            self.shelf.now().nodes.get(&node.id).is_some_and(|record| record.membership == Membership::Admitted);
        node.is_covered |= is_admitted && node.slot_count == SlotCount::Two;
        self.wake(n, 1);
    }

    /// What was confirmed is in the file, and a fault kept it from the kernel: drift, which an agent repairs by itself.
    pub(super) fn repair(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(fence) = node.file.as_ref().filter(|_| node.link.pending().is_none()) else { return };
        let backup = if node.slot_count == SlotCount::One { None } else { fence.slots.backup };
        if node.kernel != Some(Slots { backup, ..fence.slots }) {
            let confirmed = Instruction { generation: fence.generation, slots: fence.slots };
            self.summary.count("drift repaired", 1);
            self.install(n, confirmed);
        }
    }

    /// The agent starts again with what its file holds; the kernel's keys stay.
    pub(crate) fn restart(&mut self, n: usize) {
        self.summary.count("agent restarts", 1);
        // Its connection ends with it.
        self.disconnected(n);
        let nonce = self.random.roll();
        let node = &mut self.nodes[n];
        // A clock that stepped: the ordinal may be below that of the session before.
        let ordinal = 1_000 + if nonce.is_multiple_of(5) { 0 } else { self.now };
        node.link = Link::start(node.file.clone(), Session { ordinal, nonce }, Duration::from_secs(self.now));
        self.wake(n, 2);
    }

    pub(super) fn reboot(&mut self, n: usize) {
        self.summary.count("reboots: counters start again", 1);
        let node = &mut self.nodes[n];
        node.counters = Counters::default();
        if let Some(fence) = &node.file {
            let backup = if node.slot_count == SlotCount::One { None } else { fence.slots.backup };
            node.kernel = Some(Slots { primary: fence.slots.primary, backup });
        }
        self.restart(n);
    }

    pub(super) fn reimage(&mut self, n: usize) {
        self.note(|| format!("{} has a new image", self.nodes[n].id));
        self.summary.count("new images", 1);
        let node = &mut self.nodes[n];
        node.counters = Counters::default();
        node.file = None;
        node.kernel = None;
        node.is_covered = false;
        self.restart(n);
    }

    /// The node's request failed, or got no answer in time: it asks the next coordinator, in a new session.
    pub(super) fn hop(&mut self, n: usize) {
        self.disconnected(n);
        let nonce = self.random.roll();
        let node = &mut self.nodes[n];
        node.link.give_up();
        node.failures += 1;
        node.coordinator = (node.coordinator + 1) % COORDINATORS;
        node.link.open_session(1_000 + self.now, nonce);
        let rounds = u32::try_from(node.failures / COORDINATORS).unwrap().min(6);
        let pause = 1 + self.random.below(2_u64.pow(rounds).min(BACKOFF_SECS_MAX));
        self.wake(n, pause);
    }
}
