//! The agent's end of a rotation: which answers it takes, when it is ready, when it is detached (docs/protocol.md#rules, rules 8, 9).
//!
//! The fence is `pool_id`, generation and fingerprints in the header of the sysctl.d file, so it survives a restart.
//! The order that makes it a fence: **file, then kernel, then read back, then acknowledge**; [`Link::persisted`] is
//! called when the file is durable, and a report acknowledges only what the fence says.
//!
//! Must not know: sockets, files, clocks (monotonic time is passed in), key bytes.  Invariants: at most one request is
//! outstanding; the generation of the fence never falls; every session's ordinal is above the one before it.

use std::time::Duration;

use crate::rollout::document::Instruction;
use crate::rollout::record::Fence;
use tfo_model::count::Generation;
use tfo_model::ids::PoolId;
use tfo_model::node::Session;

/// A request of this agent; its answer counts only while it is the outstanding one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

/// What goes into the sync besides the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask {
    /// To be kept beside the connection, and given back with the answer.
    pub request: RequestId,
    /// The open session.
    pub session: Session,
    /// The highest generation told in this session; the coordinator answers what is above it.
    pub seen: Generation,
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Install it: file, kernel, read back.
    Install,
    /// It is what the file says already: look at the kernel only.
    Same,
}

/// An answer that is not taken: the installed keys stay, it is reported, and the agent backs off.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AnswerRefused {
    /// Not the answer to the outstanding request: late, or repeated.
    #[error("the answer belongs to no outstanding request")]
    NotOutstanding,
    /// The pool was made anew under the old name, or this is the wrong coordinator.
    #[error("the answer is of pool {told}, and this node's keys are of pool {held}")]
    OtherPool {
        /// In the file.
        held: PoolId,
        /// In the answer.
        told: PoolId,
    },
    /// The coordinator's store lags or was restored.
    #[error("the answer is of generation {told}, and this node holds generation {held}")]
    LowerGeneration {
        /// In the file.
        held: Generation,
        /// In the answer.
        told: Generation,
    },
    /// The coordinator's store was restored and went another way.
    #[error("the answer gives generation {generation} other keys than this node was told under it")]
    OtherKeys {
        /// Of both.
        generation: Generation,
    },
}

/// Judges an answer by the fence alone.
///
/// Under one generation the same primary with a backup added is taken: the node's kernel had one slot when the file
/// was written, and has two now (rule 16).
///
/// # Errors
/// Fails for another pool, a lower generation, and the same generation with other fingerprints.
pub fn judge(fence: Option<&Fence>, pool_id: &PoolId, told: &Instruction) -> Result<Verdict, AnswerRefused> {
    let Some(fence) = fence else { return Ok(Verdict::Install) };
    if fence.pool_id != *pool_id {
        return Err(AnswerRefused::OtherPool { held: fence.pool_id, told: *pool_id });
    }
    if told.generation < fence.generation {
        return Err(AnswerRefused::LowerGeneration { held: fence.generation, told: told.generation });
    }
    if told.generation > fence.generation {
        return Ok(Verdict::Install);
    }
    let (held, now) = (fence.slots.pair(), told.slots.pair());
    if held == now {
        Ok(Verdict::Same)
    } else if held == now.primary_alone() {
        Ok(Verdict::Install)
    } else {
        Err(AnswerRefused::OtherKeys { generation: told.generation })
    }
}

/// Whether the node may serve (READY=1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// Asking; not yet.
    Asking,
    /// No keys of the pool, neither in the file nor by an answer: it must not mint cookies at all.
    NoKeys,
    /// Nobody answered within `start_timeout`; it serves by its file, and says so.
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
    /// Generation of the fence that the outstanding request reports.
    asked: Option<Generation>,
    confirmed: bool,
    /// What was told last in this session was refused.
    refused: bool,
    /// A coordinator has said in this run that the fence is of another pool.
    foreign: bool,
    started_at: Duration,
    contact_at: Duration,
    absent_after: Option<Duration>,
}

impl Link {
    /// An agent that starts with what its file says.
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
            refused: false,
            foreign: false,
            started_at: monotonic,
            contact_at: monotonic,
            absent_after: None,
        }
    }

    /// Goes on from `before` under other settings: what was held is held still, whatever was found in the place of its
    /// file, and the session is above the one before.
    #[must_use]
    pub fn succeeding(mut self, before: &Self) -> Self {
        self.fence = before.fence.clone().or(self.fence);
        self.session.ordinal = self.session.ordinal.max(before.session.ordinal.saturating_add(1));
        self
    }

    /// Takes over how long ago the pool was heard, too: the settings changed, not the pool.  Both must count monotonic
    /// time from the same start.
    #[must_use]
    pub fn in_contact_since(mut self, before: &Self) -> Self {
        self.confirmed = before.confirmed;
        self.foreign = before.foreign;
        self.started_at = before.started_at;
        self.contact_at = before.contact_at;
        self.absent_after = before.absent_after;
        self
    }

    /// The next request; the one before it is outstanding no more, so its answer is dropped when it comes.
    pub fn ask(&mut self) -> Ask {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.outstanding = Some(request);
        self.asked = self.fence.as_ref().map(|fence| fence.generation);
        Ask { request, session: self.session, seen: self.seen }
    }

    /// The request failed or was given up.
    pub fn give_up(&mut self) {
        self.outstanding = None;
    }

    /// Judges an answer; 204 is [`Link::nothing_new`].
    ///
    /// What the fence refuses of its own pool was told all the same: `seen` rises, so that the long poll does not bring it
    /// again at once and for ever (rule 8).  As evidence of a restored store `seen` stays as good as it was: what is
    /// refused is not above the fence's own generation, which is in every report.  Another pool's generation says nothing
    /// about this one, and does not count.
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request, or the fence refuses it.
    pub fn answered(
        &mut self,
        request: RequestId,
        pool_id: &PoolId,
        told: &Instruction,
        (monotonic, absent_after): (Duration, Duration),
    ) -> Result<Verdict, AnswerRefused> {
        self.take(request, monotonic)?;
        let judged = judge(self.fence.as_ref(), pool_id, told);
        self.refused = judged.is_err();
        if matches!(judged, Err(AnswerRefused::OtherPool { .. })) {
            self.foreign = true;
        } else {
            self.seen = self.seen.max(told.generation);
        }
        let verdict = judged?;
        self.absent_after = Some(absent_after);
        self.confirmed = true;
        self.pending = (verdict == Verdict::Install).then_some(*told);
        Ok(verdict)
    }

    /// The coordinator has nothing above `seen`.
    ///
    /// That confirms the keys of a node which was told some in this session, or which reported the fence that it has
    /// now: said to a node without keys, or before it took others, it confirms none.  After a refused answer it confirms
    /// none either: it only says that there is nothing above what was refused.
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request.
    pub fn nothing_new(&mut self, request: RequestId, monotonic: Duration) -> Result<(), AnswerRefused> {
        self.take(request, monotonic)?;
        let held = self.fence.as_ref().map(|fence| fence.generation);
        self.confirmed |= !self.refused && (self.seen != Generation::ZERO || (held.is_some() && held == self.asked));
        Ok(())
    }

    /// The coordinator says that what this node reports is another pool's.
    ///
    /// # Errors
    /// Fails if it is not the answer to the outstanding request.
    pub fn other_pool(&mut self, request: RequestId, monotonic: Duration) -> Result<(), AnswerRefused> {
        self.take(request, monotonic)?;
        // Only about what was reported: a node that reported nothing of the kind has nothing to take back.
        self.foreign |= self.asked.is_some();
        Ok(())
    }

    /// The coordinator knows a later session of this node: opens one above it.
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
        self.take(request, monotonic)?;
        let ordinal = open_ordinal.max(self.session.ordinal).saturating_add(1);
        self.open(Session { ordinal, nonce });
        Ok(())
    }

    /// Opens a session at another coordinator.
    ///
    /// Its ordinal is the clock's, or the one after the present session's where the clock is not above that.
    pub fn open_session(&mut self, clock_ms: u64, nonce: u64) {
        let ordinal = clock_ms.max(self.session.ordinal.saturating_add(1));
        self.open(Session { ordinal, nonce });
    }

    /// The file with this instruction is durable: it is the fence from here on.
    pub fn persisted(&mut self, pool_id: &PoolId, told: &Instruction) {
        self.fence = Some(Fence { pool_id: *pool_id, generation: told.generation, slots: told.slots });
        self.pending = None;
        self.foreign = false;
    }

    /// What was told in this session and is not durable yet: to be tried again before the next request, after a pause.
    ///
    /// The coordinator does not tell it a second time (`seen`).  It ends with the session, for what was told before an
    /// admission must not be installed after it.
    #[must_use]
    pub fn pending(&self) -> Option<&Instruction> {
        self.pending.as_ref()
    }

    /// What the file says.
    #[must_use]
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// The open session.
    #[must_use]
    pub fn session(&self) -> Session {
        self.session
    }

    /// The highest generation told in this session.
    #[must_use]
    pub fn seen(&self) -> Generation {
        self.seen
    }

    /// The request whose answer would be taken.
    #[must_use]
    pub fn outstanding(&self) -> Option<RequestId> {
        self.outstanding
    }

    /// Whether the file holds keys of the pool, as far as is known.
    ///
    /// A fence is believed until a coordinator says that it is another pool's: a node that was moved between pools and
    /// finds nobody to ask serves by its file.  One that was confirmed in this run is not doubted any more: then the pool
    /// was made anew while the nodes run, and they all hold the same keys still.
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
        match (self.fence.is_some(), self.confirmed) {
            (true, true) => Readiness::Confirmed,
            (true, false) if monotonic.saturating_sub(self.started_at) >= start_timeout => Readiness::Unconfirmed,
            (true, false) => Readiness::Asking,
            (false, _) if monotonic.saturating_sub(self.started_at) >= start_timeout => Readiness::NoKeys,
            (false, _) => Readiness::Asking,
        }
    }

    /// Whether the pool has stopped waiting for this node: out of contact for longer than it was told.
    ///
    /// Never before a first answer: without one there is no pool that could wait.
    #[must_use]
    pub fn is_detached(&self, monotonic: Duration) -> bool {
        self.absent_after.is_some_and(|limit| monotonic.saturating_sub(self.contact_at) > limit)
    }

    fn open(&mut self, session: Session) {
        self.session = session;
        self.outstanding = None;
        self.pending = None;
        self.refused = false;
        self.seen = Generation::ZERO;
    }

    fn take(&mut self, request: RequestId, monotonic: Duration) -> Result<(), AnswerRefused> {
        if self.outstanding != Some(request) {
            return Err(AnswerRefused::NotOutstanding);
        }
        self.outstanding = None;
        self.contact_at = monotonic;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
