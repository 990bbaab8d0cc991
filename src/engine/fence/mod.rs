//! The agent's end of a rotation: which answers it takes, when it is ready, when it is detached
//! (docs/protocol.md#rule-9; rule 8).
//!
//! The fence is `pool_id`, generation and fingerprints in the header of the sysctl.d file, so it survives a restart.
//! The order that makes it a fence: **file, then kernel, then read back, then acknowledge**.  Call [`Link::persisted`]
//! when the file is durable; a report acknowledges only what the fence holds.
//!
//! | answer, compared with the fence | result |
//! |---|---|
//! | no fence, or a higher generation | install |
//! | same generation, same fingerprints | same: look at the kernel only |
//! | same generation and primary, a backup added | install |
//! | another pool, a lower generation, or other fingerprints under the same one | refused |
//! | the pool that an operator moved the node to, by an order of its own pool | install |
//! | a generation that no rotation can have reached since | refused |
//!
//! Must not know: sockets, files, clocks (monotonic time is passed in), key bytes.  Invariants: at most one request is
//! outstanding; the generation of the fence never falls; every session's ordinal is above the one before it; a session
//! that was open when the node became detached is not continued.

mod answer;

use std::time::Duration;

pub use self::answer::{AnswerAccepted, AnswerRefused, JOINER_GENERATION_MAX, check_answer};

use crate::rollout::slots::{Fence, Instruction};
use crate::rollout::timing::hold_max;
use tfo_model::count::Generation;
use tfo_model::ids::PoolId;
use tfo_model::node::Session;

/// A request of this agent; its answer counts only while it is the outstanding one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

/// What goes into the sync besides the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Keep it beside the connection, and give it back with the answer.
    pub request: RequestId,
    /// The open session.
    pub session: Session,
    /// The highest generation received in this session; the coordinator answers with what is above it.
    pub seen: Generation,
}

/// An answer with an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolAnswer {
    /// The pool that answers.
    pub pool_id: PoolId,
    /// What the node is to hold.
    pub instruction: Instruction,
    /// How long the pool waits for a node that is out of contact.
    pub absent_after: Duration,
}

/// An operator's order to this node, which a coordinator gives instead of an answer: ask another pool (rule 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MoveOrder {
    /// The pool that it left.
    pub from: PoolId,
    /// The pool that it belongs to now.
    pub to: PoolId,
}

/// Whether the node may serve (READY=1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// Asking; not yet.
    Asking,
    /// No keys of the pool, neither in the file nor in an answer: the node must not make cookies at all.
    NoKeys,
    /// A coordinator has answered in this run that the pool has no key yet, and the node has none either: there is no
    /// cookie to lose.
    EmptyPool,
    /// No coordinator answered within `start_timeout`; the node serves by its file, and reports that.
    Unconfirmed,
    /// A coordinator has answered in this run, and the node holds keys of the pool.
    Confirmed,
}

/// The agent's end of the rotation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Link {
    fence: Option<Fence>,
    session: Session,
    last_request: u64,
    outstanding: Option<RequestId>,
    seen: Generation,
    pending: Option<Instruction>,
    /// Generation of the fence that the latest request reports.
    asked: Option<Generation>,
    confirmed: bool,
    /// A coordinator has answered in this run that the pool has no key, and none has answered with keys since.
    empty: bool,
    /// The latest instruction of this session was refused.
    refused: bool,
    /// A coordinator has answered in this run that the fence belongs to another pool.
    foreign: bool,
    /// The pool that this node was led to from the fence's; until its keys are in the file.
    led_to: Option<PoolId>,
    started_at: Duration,
    contact_at: Duration,
    absent_after: Option<Duration>,
    /// The session was opened while the node was detached.
    returns: bool,
    /// When the outstanding request was sent.
    asked_at: Option<Duration>,
}

impl Link {
    /// The link of an agent that starts with this fence in its file.
    ///
    /// `session` is new in every start: ordinal = the clock in milliseconds, nonce random.
    #[must_use]
    pub fn start(fence: Option<Fence>, session: Session, monotonic: Duration) -> Self {
        Self {
            fence,
            session,
            last_request: 0,
            outstanding: None,
            seen: Generation::ZERO,
            pending: None,
            asked: None,
            confirmed: false,
            empty: false,
            refused: false,
            foreign: false,
            led_to: None,
            started_at: monotonic,
            contact_at: monotonic,
            absent_after: None,
            returns: false,
            asked_at: None,
        }
    }

    /// Continues from `before` under other settings: keeps the fence, whatever the file at the new place holds, and
    /// opens a session above the one before.
    #[must_use]
    pub fn succeeding(mut self, before: &Self) -> Self {
        self.fence = before.fence.clone().or(self.fence);
        self.led_to = before.led_to;
        self.session.ordinal = self.session.ordinal.max(before.session.ordinal.saturating_add(1));
        self
    }

    /// Takes over the contact, too: the settings changed, not the pool.  Both must count monotonic time from the same
    /// start.
    #[must_use]
    pub fn in_contact_since(mut self, before: &Self) -> Self {
        self.confirmed = before.confirmed;
        self.empty = before.empty;
        self.foreign = before.foreign;
        self.started_at = before.started_at;
        self.contact_at = before.contact_at;
        self.absent_after = before.absent_after;
        self
    }

    /// The next request.  The one before it is no longer outstanding, so its answer is dropped when it comes.
    pub fn ask(&mut self) -> Ask {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.outstanding = Some(request);
        self.asked = self.reported().map(|fence| fence.generation);
        Ask { request, session: self.session, seen: self.seen }
    }

    /// The request failed or was given up.
    pub fn give_up(&mut self) {
        self.outstanding = None;
    }

    /// Takes or refuses an answer; 204 is [`Link::nothing_new`].
    ///
    /// A refused answer of its own pool was received all the same: `seen` rises, so that the long poll does not deliver
    /// it again at once (rule 8).  `seen` stays as good as evidence of a restored store: what is refused is not above
    /// the fence's own generation, which is in every report.  The generation of another pool says nothing about this
    /// one, and does not count, and neither does one that no pool reaches.
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request, or the fence refuses it.
    pub fn answered(
        &mut self,
        request: RequestId,
        answer: &PoolAnswer,
        monotonic: Duration,
    ) -> Result<AnswerAccepted, AnswerRefused> {
        self.take(request, monotonic)?;
        let PoolAnswer { pool_id, instruction, absent_after } = answer;
        self.empty = false;
        let checked = match self.led_to {
            // A joiner there, whatever it holds.
            Some(to) if to == *pool_id => check_answer(None, pool_id, instruction),
            Some(held) => Err(AnswerRefused::OtherPool { held, answered: *pool_id }),
            None => check_answer(self.fence.as_ref(), pool_id, instruction),
        };
        self.refused = checked.is_err();
        match checked {
            Err(AnswerRefused::OtherPool { .. }) => self.foreign = true,
            Err(AnswerRefused::TooFarAhead { .. }) => {}
            _ => self.seen = self.seen.max(instruction.generation),
        }
        let accepted = checked?;
        self.absent_after = Some(*absent_after);
        self.confirmed = true;
        self.pending = (accepted == AnswerAccepted::Install).then_some(*instruction);
        Ok(accepted)
    }

    /// The coordinator has nothing above `seen`.
    ///
    /// That confirms the keys of a node that received an instruction in this session, or that reported the fence that
    /// it has now.  It confirms nothing for a node without keys, or for one that took other keys since.  After a
    /// refused answer it confirms nothing either: there is only nothing above what was refused (rule 9).
    ///
    /// To a node that reported no keys of the pool, and has received none in this session, it says that the pool has no
    /// key yet: from a pool with a key such a node gets an instruction or an error
    /// ([`PoolView::answer`](crate::rollout::sync::PoolView::answer)).
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request.
    pub fn nothing_new(&mut self, request: RequestId, monotonic: Duration) -> Result<(), AnswerRefused> {
        self.take(request, monotonic)?;
        let held = self.fence.as_ref().map(|fence| fence.generation);
        self.empty = self.asked.is_none() && self.seen == Generation::ZERO && !self.refused;
        self.confirmed |= !self.refused && (self.seen != Generation::ZERO || (held.is_some() && held == self.asked));
        Ok(())
    }

    /// The coordinator answers that this node's keys belong to another pool.
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request.
    pub fn other_pool(&mut self, request: RequestId, monotonic: Duration) -> Result<(), AnswerRefused> {
        self.take(request, monotonic)?;
        // Only if the request reported a fence: otherwise there is nothing to doubt.
        self.foreign |= self.asked.is_some();
        Ok(())
    }

    /// The coordinator answers that an operator moved this node to another pool.
    ///
    /// The order of the pool of the fence, or of the pool that it was led to before, changes what the fence takes: from
    /// then on the answers of the new pool alone, as those for a joiner.  The keys of the old pool stay installed until
    /// then; for a node that was not confirmed in this run they do not count as keys of the new one.  The order of any
    /// other pool says where to ask, and the fence judges that pool's answers as before.  The session ends with it.
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request.
    pub fn moved(
        &mut self,
        request: RequestId,
        order: &MoveOrder,
        session: Session,
        monotonic: Duration,
    ) -> Result<(), AnswerRefused> {
        // No contact: the pool that it left does not cover it any more, and the new one does not yet.
        self.end(request, monotonic)?;
        if let Some(fence) = &self.fence
            && self.led_to.unwrap_or(fence.pool_id) == order.from
        {
            // Back where the file is from: it is the fence again.
            self.led_to = Some(order.to).filter(|to| *to != fence.pool_id);
            self.foreign = true;
        }
        let ordinal = session.ordinal.max(self.session.ordinal.saturating_add(1));
        self.open(Session { ordinal, ..session });
        Ok(())
    }

    /// The order is no longer followed: the pool that it names does not take this node.
    pub fn stay(&mut self) {
        self.led_to = None;
    }

    /// The coordinator knows a later session of this node; opens one above it.
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request.
    pub fn session_closed(
        &mut self,
        request: RequestId,
        open_ordinal: u64,
        nonce: u64,
        monotonic: Duration,
    ) -> Result<(), AnswerRefused> {
        // No contact: nothing was recorded of the node.
        self.end(request, monotonic)?;
        let ordinal = open_ordinal.max(self.session.ordinal).saturating_add(1);
        self.open(Session { ordinal, nonce });
        Ok(())
    }

    /// The answer without an instruction says how long the pool waits for this node.
    pub fn pool_waits(&mut self, absent_after: Duration) {
        self.absent_after = Some(absent_after);
    }

    /// Opens a session if the node is detached: the pool may have excluded it, and does so with the session that it knows.
    /// Call it when a request is sent, before [`Link::ask`].  True: whatever belonged to the session before is void.
    pub fn returns(&mut self, clock_ms: u64, nonce: u64, monotonic: Duration) -> bool {
        self.asked_at = Some(monotonic);
        let is_detached = self.is_detached(monotonic);
        if is_detached {
            self.open_session(clock_ms, nonce);
            self.returns = true;
        }
        is_detached
    }

    /// Whether the node became detached while its request was under way: an answer to it does not count.
    #[must_use]
    pub fn has_lapsed(&self, monotonic: Duration) -> bool {
        self.is_detached(monotonic) && !self.returns
    }

    /// Opens a session at another coordinator.
    ///
    /// Its ordinal is the clock in milliseconds, or one above the present session's if the clock is not above that.
    pub fn open_session(&mut self, clock_ms: u64, nonce: u64) {
        let ordinal = clock_ms.max(self.session.ordinal.saturating_add(1));
        self.open(Session { ordinal, nonce });
    }

    /// The file with this instruction is durable: it is the fence from now on.
    pub fn persisted(&mut self, pool_id: &PoolId, instruction: &Instruction) {
        self.fence = Some(Fence::of(*pool_id, instruction));
        self.pending = None;
        self.foreign = false;
        self.led_to = None;
    }

    /// The instruction of this session that is not durable yet: try it again before the next request, after a pause.
    ///
    /// The coordinator does not send it a second time (`seen`).  It ends with the session, because an instruction from
    /// before an admission must not be installed after it.
    #[must_use]
    pub fn pending(&self) -> Option<&Instruction> {
        self.pending.as_ref()
    }

    /// What the file holds.
    #[must_use]
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// The fence as the next request reports it: none while the node is led to another pool, where it is a joiner.
    #[must_use]
    pub fn reported(&self) -> Option<&Fence> {
        self.fence.as_ref().filter(|_| self.led_to.is_none())
    }

    /// The open session.
    #[must_use]
    pub fn session(&self) -> Session {
        self.session
    }

    /// The highest generation received in this session.
    #[must_use]
    pub fn seen(&self) -> Generation {
        self.seen
    }

    /// The request whose answer counts.
    #[must_use]
    pub fn outstanding(&self) -> Option<RequestId> {
        self.outstanding
    }

    /// Whether the file holds keys of the pool, as far as is known.
    ///
    /// A fence is believed until a coordinator answers that it belongs to another pool: a node that was moved between
    /// pools and reaches no coordinator serves by its file.  A fence that was confirmed in this run is not doubted
    /// again: then the pool was made again under a running fleet, and all nodes still hold the same keys (rule 9).
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.fence.is_some() && (self.confirmed || !self.foreign)
    }

    /// Whether the node may serve, as far as the pool is concerned; the caller adds "installed and read back".
    #[must_use]
    pub fn readiness(&self, monotonic: Duration, start_timeout: Duration) -> Readiness {
        if self.fence.is_some() && !self.has_keys() {
            return Readiness::NoKeys;
        }
        if self.fence.is_none() && self.empty {
            return Readiness::EmptyPool;
        }
        match (self.fence.is_some(), self.confirmed) {
            (true, true) => Readiness::Confirmed,
            (true, false) if monotonic.saturating_sub(self.started_at) >= start_timeout => Readiness::Unconfirmed,
            (true, false) => Readiness::Asking,
            (false, _) if monotonic.saturating_sub(self.started_at) >= start_timeout => Readiness::NoKeys,
            (false, _) => Readiness::Asking,
        }
    }

    /// Whether the pool has stopped waiting for this node: out of contact for longer than the `absent_after` of the
    /// latest answer.  Never before a first answer.
    #[must_use]
    pub fn is_detached(&self, monotonic: Duration) -> bool {
        self.absent_after.is_some_and(|limit| monotonic.saturating_sub(self.contact_at) > limit)
    }

    /// The longest that the pool holds a request, as far as this node was told: one that is held for longer hangs.
    #[must_use]
    pub fn longest_hold(&self) -> Option<Duration> {
        self.absent_after.map(hold_max)
    }

    /// When [`Link::is_detached`] changes by time alone; none if it has, or cannot.
    #[must_use]
    pub fn detaches_after(&self, monotonic: Duration) -> Option<Duration> {
        self.absent_after.map(|limit| self.contact_at.saturating_add(limit)).filter(|at| *at >= monotonic)
    }

    fn open(&mut self, session: Session) {
        self.session = session;
        self.returns = false;
        self.outstanding = None;
        self.pending = None;
        self.refused = false;
        self.seen = Generation::ZERO;
    }

    /// The request is over; whether it was the outstanding one, and its answer counts.
    fn end(&mut self, request: RequestId, monotonic: Duration) -> Result<(), AnswerRefused> {
        if self.outstanding != Some(request) {
            return Err(AnswerRefused::NotOutstanding);
        }
        self.outstanding = None;
        if self.has_lapsed(monotonic) {
            return Err(AnswerRefused::NotOutstanding);
        }
        self.returns = false;
        Ok(())
    }

    /// The request is over, and the node is in contact.
    fn take(&mut self, request: RequestId, monotonic: Duration) -> Result<(), AnswerRefused> {
        self.end(request, monotonic)?;
        // An answer that was under way for longer than a request is held makes the contact no younger: the pool counts from
        // its record of the request.
        let held_until = self.asked_at.zip(self.absent_after).map(|(at, limit)| at.saturating_add(hold_max(limit)));
        self.contact_at = held_until.map_or(monotonic, |until| until.min(monotonic));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
