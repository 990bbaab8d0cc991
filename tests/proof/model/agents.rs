//! Agents: what they send, and take, and install in file and kernel, and what is lost when they start again.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::fence::{AnswerRefused, Ask, PoolAnswer, Readiness};
use tfo_engine::rollout::record::{Membership, SlotCount};
use tfo_engine::rollout::slots::{Fence, Instruction, Slots};
use tfo_model::time::UnixTime;

use super::rules::Off;
use super::world::{Answer, Reply, Request, Serving, World, link, pool_id};

/// `absent_after` of every answer, and how long agents ask before they serve by their file.  Time stands still
/// in the model, and both are over: the worst that can be.
pub(super) const ABSENT_AFTER: Duration = Duration::from_secs(60);

pub(super) const START_TIMEOUT: Duration = Duration::ZERO;

impl World {
    pub(super) fn sync(&mut self, n: usize, wall: UnixTime) -> bool {
        let sync = self.sync_of(n);
        let is_repetition = |r: &&Request| r.node == n && self.is_outstanding(n, &r.ask) && r.sync == sync;
        let repeated = self.requests.iter().find(is_repetition).map(|request| request.ask);
        let request = match repeated {
            Some(ask) => Request { node: n, to: self.nodes[n].coordinator, ask, sync },
            None => self.ask(n),
        };
        self.deliver(&request, wall)
    }

    pub(super) fn send(&mut self, n: usize) -> bool {
        let request = self.ask(n);
        self.requests.push(request);
        true
    }

    pub(super) fn ask(&mut self, n: usize) -> Request {
        let sync = self.sync_of(n);
        let ask = Rc::make_mut(&mut self.nodes[n].link).ask();
        self.drop_dead_answers(n);
        Request { node: n, to: self.nodes[n].coordinator, ask, sync }
    }

    /// Whether this agent waits for the answer to it: numbers start again with every run, and no session lives in two.
    pub(crate) fn is_outstanding(&self, n: usize, ask: &Ask) -> bool {
        let link = &self.nodes[n].link;
        link.session() == ask.session && link.outstanding() == Some(ask.request)
    }

    /// The agent refuses the answer to a request that is no longer outstanding, so there is no need to keep it.
    pub(super) fn drop_dead_answers(&mut self, n: usize) {
        if !self.is_off(Off::OwnAnswerOnly) {
            let answers = std::mem::take(&mut self.answers);
            let is_dead = |answer: &Answer| answer.node == n && !self.is_outstanding(n, &answer.ask);
            self.answers = answers.into_iter().filter(|answer| !is_dead(answer)).collect();
        }
        while self.is_off(Off::OwnAnswerOnly) && self.answers.iter().filter(|answer| answer.node == n).count() > 1 {
            let newest = self.answers.iter().rposition(|answer| answer.node == n).unwrap();
            self.answers.remove(newest);
        }
    }

    pub(super) fn take(&mut self, index: usize) -> bool {
        let taken = self.answers.remove(index);
        let n = taken.node;
        self.installing = None;
        let image = self.nodes[n].image;
        let link = Rc::make_mut(&mut self.nodes[n].link);
        // Without the rule an agent takes whatever comes for the answer to its last request.
        let id = match link.outstanding() {
            Some(outstanding) if self.off == Some(Off::OwnAnswerOnly) => outstanding,
            None if self.off == Some(Off::OwnAnswerOnly) => link.ask().request,
            Some(_) | None => taken.ask.request,
        };
        let result = match &taken.reply {
            Reply::SessionClosed(open) => link.session_closed(id, *open, image, Duration::ZERO).map(|()| None),
            Reply::Nothing => {
                let taken = link.nothing_new(id, Duration::ZERO).map(|()| None);
                self.nodes[n].was_told_empty |= self.is_empty_to(n);
                taken
            }
            Reply::Tell(told) => {
                let pool_id = self.store.document.pool_id;
                let answer = PoolAnswer { pool_id, instruction: *told, absent_after: ABSENT_AFTER };
                let taken = link.answered(id, &answer, Duration::ZERO);
                taken.map(|_| Some(*told))
            }
        };
        self.drop_dead_answers(n);
        match result {
            Ok(told) => self.installing = told.map(|told| (n, told, taken.is_of_lost_store)),
            Err(AnswerRefused::NotOutstanding) => return false,
            Err(_) => {}
        }
        true
    }

    /// Only an install can fail like this: what the file holds already is drift, and the agent repairs that by itself.
    pub(super) fn take_in_vain(&mut self, index: usize) -> bool {
        let is_taken = self.take(index);
        let told = self.installing.take();
        is_taken && told.is_some_and(|(n, ..)| self.nodes[n].link.pending().is_some())
    }

    pub(super) fn try_again(&mut self, n: usize) -> bool {
        let Some(told) = self.nodes[n].link.pending().copied() else { return false };
        self.installing = Some((n, told, false));
        self.write_file() && self.write_kernel()
    }

    pub(super) fn write_file(&mut self) -> bool {
        if let Some((n, told, _)) = self.installing {
            let node = &mut self.nodes[n];
            node.file = Some(Rc::new(Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots }));
            Rc::make_mut(&mut node.link).persisted(&pool_id(), &told);
        }
        true
    }

    pub(super) fn write_kernel(&mut self) -> bool {
        if let Some((n, told, is_of_lost_store)) = self.installing.take() {
            self.load(n, told, is_of_lost_store);
        }
        true
    }

    pub(super) fn crash_in_install(&mut self) -> bool {
        match self.installing.take() {
            Some((n, ..)) => self.restart(n),
            None => false,
        }
    }

    pub(super) fn file_fails(&mut self) -> bool {
        let Some((n, told, _)) = self.installing.take() else { return false };
        Rc::make_mut(&mut self.nodes[n].link).persisted(&pool_id(), &told);
        self.load(n, told, false);
        true
    }

    pub(super) fn load(&mut self, n: usize, told: Instruction, is_of_lost_store: bool) {
        // A record that a restore brings back does not admit the node: the first install after it is that of an answer
        // given after it.
        let is_admitted = self.is_admitted(n) && (!is_of_lost_store || self.restore_admits);
        let one_slot_counts = self.is_off(Off::OneSlotIsNeverRequired);
        let node = &mut self.nodes[n];
        let backup = if node.slot_count == SlotCount::One { None } else { told.slots.backup };
        node.kernel = Some(Slots { primary: told.slots.primary, backup });
        node.is_covered |= is_admitted && (node.slot_count == SlotCount::Two || one_slot_counts);
        self.note_minted();
    }

    pub(super) fn is_admitted(&self, n: usize) -> bool {
        self.store.nodes.get(&self.ids[n]).is_some_and(|record| record.membership == Membership::Admitted)
    }

    pub(super) fn restart(&mut self, n: usize) -> bool {
        let ordinal = self.nodes[n].link.session().ordinal + 1;
        self.start_agent(n, ordinal);
        true
    }

    /// The agent starts with what its file holds; requests and answers of the one before it are dropped.
    pub(super) fn start_agent(&mut self, n: usize, ordinal: u64) {
        let has_fence = !self.is_off(Off::FenceInFile);
        let node = &mut self.nodes[n];
        node.link = link(node.file.as_deref().filter(|_| has_fence).cloned(), ordinal, node.image);
        node.joined_empty = false;
        self.drop_dead_answers(n);
    }

    /// A new session at another coordinator, by the same agent.
    pub(super) fn move_to_other(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        node.coordinator ^= 1;
        let image = node.image;
        Rc::make_mut(&mut node.link).open_session(0, image);
        self.drop_dead_answers(n);
        true
    }

    /// READY before the kernel has keys: what is installed, if anything, must be as instructed, and the link agrees.
    pub(super) fn may_serve_without_keys(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let is_ready = match node.link.readiness(Duration::ZERO, START_TIMEOUT) {
            Readiness::Confirmed | Readiness::Unconfirmed | Readiness::EmptyPool => true,
            Readiness::NoKeys | Readiness::Asking if self.is_off(Off::EmptyIsOfThisRun) => node.was_told_empty,
            Readiness::NoKeys | Readiness::Asking => self.is_off(Off::JoinerWaitsForKeys),
        };
        node.kernel.is_none() && node.serving == Serving::No && node.link.fence().is_none() && is_ready
    }

    pub(super) fn is_empty_to(&self, n: usize) -> bool {
        self.nodes[n].link.readiness(Duration::ZERO, START_TIMEOUT) == Readiness::EmptyPool
    }

    pub(super) fn reboot(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        node.kernel = node.file.as_ref().map(|fence| match node.slot_count {
            SlotCount::Two => fence.slots,
            SlotCount::One => Slots { backup: None, ..fence.slots },
        });
        node.is_covered &= node.kernel.is_some();
        node.serving = Serving::No;
        self.restart(n);
        self.note_minted();
        true
    }

    /// Everything on the node is new, its clock may be behind: the session's ordinal starts again.
    pub(super) fn reimage(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        node.file = None;
        node.kernel = None;
        node.image += 1;
        node.serving = Serving::No;
        node.was_told_empty = false;
        node.is_covered = false;
        node.is_expected = false;
        self.ordered_on &= !(1 << n);
        self.start_agent(n, 1);
        if self.is_restored {
            // It may have been the only witness of a promise that the store forgot.
            self.promised.clear();
            self.note_minted();
        }
        true
    }
}
