//! The agent's end of a rotation: which answers it takes, when it is ready, when it is detached (PROTOCOL.md rules 8, 9).
//!
//! The fence is `pool_id`, generation and fingerprints in the header of the sysctl.d file, so it survives a restart.
//! The order that makes it a fence: **file, then kernel, then read back, then acknowledge**; [`Link::persisted`] is
//! called when the file is durable, and a report acknowledges only what the fence says.
//!
//! Must not know: sockets, files, clocks (monotonic time is passed in), key bytes.  Invariants: at most one request is
//! outstanding; the generation of the fence never falls; every session's ordinal is above the one before it.

use std::time::Duration;

use crate::engine::rollout::document::Instruction;
use crate::engine::rollout::record::{Fence, Session};
use crate::model::count::Generation;
use crate::model::ids::PoolId;

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
mod tests {
    use super::*;
    use crate::engine::rollout::document::{PoolKey, Slots};
    use crate::model::count::Epoch;
    use crate::model::key::KeyFingerprint;

    const NOW: Duration = Duration::from_secs(100);
    const ABSENT_AFTER: Duration = Duration::from_secs(60);

    fn pool_id() -> PoolId {
        "0123456789abcdef0123456789abcdef".parse().unwrap()
    }

    fn key(epoch: u64) -> PoolKey {
        let fingerprint = KeyFingerprint::from_bytes(epoch.to_be_bytes());
        PoolKey { epoch: Epoch::new(epoch).unwrap(), fingerprint }
    }

    fn told(generation: u64, primary: u64, backup: Option<u64>) -> Instruction {
        let slots = Slots { primary: key(primary), backup: backup.map(key) };
        Instruction { generation: Generation::new(generation), slots }
    }

    fn fence(told: Instruction) -> Fence {
        Fence { pool_id: pool_id(), generation: told.generation, slots: told.slots }
    }

    fn link(held: Option<Instruction>) -> Link {
        Link::start(held.map(fence), Session { ordinal: 5, nonce: 1 }, NOW)
    }

    fn answer(link: &mut Link, request: RequestId, told: &Instruction) -> Result<Verdict, AnswerRefused> {
        link.answered(request, &pool_id(), told, (NOW, ABSENT_AFTER))
    }

    #[test]
    fn the_fence_judges_pool_generation_and_keys() {
        let held = fence(told(5, 2, Some(3)));
        let judged = |told: &Instruction| judge(Some(&held), &pool_id(), told);
        assert_eq!(judged(&told(6, 3, Some(2))), Ok(Verdict::Install));
        assert_eq!(judged(&told(900, 9, None)), Ok(Verdict::Install), "any number of generations may be missed");
        assert_eq!(judged(&told(5, 2, Some(3))), Ok(Verdict::Same));
        let (low, high) = (Generation::new(4), Generation::new(5));
        assert_eq!(judged(&told(4, 2, Some(1))), Err(AnswerRefused::LowerGeneration { held: high, told: low }));
        for other in [told(5, 2, Some(4)), told(5, 3, Some(2)), told(5, 2, None)] {
            assert_eq!(judged(&other), Err(AnswerRefused::OtherKeys { generation: high }));
        }
        let other: PoolId = "ffffffffffffffffffffffffffffffff".parse().unwrap();
        let refused = judge(Some(&held), &other, &told(6, 3, Some(2)));
        assert_eq!(refused, Err(AnswerRefused::OtherPool { held: pool_id(), told: other }));
        assert_eq!(judge(None, &other, &told(1, 1, None)), Ok(Verdict::Install));
        // A kernel that had one slot when the file was written.
        assert_eq!(judge(Some(&fence(told(5, 2, None))), &pool_id(), &told(5, 2, Some(3))), Ok(Verdict::Install));
    }

    #[test]
    fn only_the_outstanding_request_is_answered_and_only_once() {
        let mut link = link(None);
        let (first, second) = (link.ask(), link.ask());
        let new = told(1, 1, None);
        assert_eq!(answer(&mut link, first.request, &new), Err(AnswerRefused::NotOutstanding));
        assert_eq!(link.nothing_new(first.request, NOW), Err(AnswerRefused::NotOutstanding));
        assert_eq!(link.session_closed(first.request, 9, 2, NOW), Err(AnswerRefused::NotOutstanding));
        assert_eq!(answer(&mut link, second.request, &new), Ok(Verdict::Install));
        assert_eq!(answer(&mut link, second.request, &new), Err(AnswerRefused::NotOutstanding));
        let third = link.ask();
        assert_eq!(third.seen, Generation::new(1), "told, installed or not");
        link.give_up();
        assert_eq!(answer(&mut link, third.request, &new), Err(AnswerRefused::NotOutstanding));
    }

    #[test]
    fn what_is_not_durable_is_tried_again_within_its_session_only() {
        let mut link = link(None);
        let ask = link.ask();
        let new = told(1, 1, None);
        assert_eq!(answer(&mut link, ask.request, &new), Ok(Verdict::Install));
        assert_eq!(link.pending(), Some(&new));
        let mut installed = link.clone();
        installed.persisted(&pool_id(), &new);
        assert_eq!((installed.pending(), installed.fence()), (None, Some(&fence(new))));
        let ask = link.ask();
        assert_eq!(link.session_closed(ask.request, 7, 2, NOW), Ok(()));
        assert_eq!(link.pending(), None);
        assert_eq!(link.ask().seen, Generation::ZERO);
    }

    #[test]
    fn what_is_refused_was_seen_and_is_no_evidence_beyond_the_fence() {
        let held = told(5, 2, Some(3));
        for (other, seen) in [(told(3, 2, Some(1)), 3), (told(5, 2, Some(4)), 5)] {
            let mut link = link(Some(held));
            let ask = link.ask();
            assert!(answer(&mut link, ask.request, &other).is_err());
            let ask = link.ask();
            assert_eq!(ask.seen, Generation::new(seen), "the long poll waits for what is above it");
            assert!(ask.seen <= held.generation, "a report says nothing that its fence does not say");
            assert_eq!((link.pending(), link.fence()), (None, Some(&fence(held))));
            // Nothing above what was refused: that confirms nothing.
            assert_eq!(link.nothing_new(ask.request, NOW), Ok(()));
            let timeout = Duration::from_secs(10);
            assert_eq!(link.readiness(NOW, timeout), Readiness::Asking);
            assert_eq!(link.readiness(NOW + timeout, timeout), Readiness::Unconfirmed);
            // It is not for ever: the next instruction is taken, and a new session begins from nothing.
            let mut moved = link.clone();
            moved.open_session(1_000, 9);
            let ask = moved.ask();
            assert_eq!(ask.seen, Generation::ZERO);
            assert_eq!(moved.nothing_new(ask.request, NOW), Ok(()));
            assert_eq!(moved.readiness(NOW, timeout), Readiness::Confirmed);
            let ask = link.ask();
            assert_eq!(answer(&mut link, ask.request, &told(6, 3, Some(2))), Ok(Verdict::Install));
            assert_eq!(link.readiness(NOW, timeout), Readiness::Confirmed);
        }
    }

    #[test]
    fn another_pools_generation_is_not_seen() {
        let mut link = link(Some(told(5, 2, Some(3))));
        let other: PoolId = "ffffffffffffffffffffffffffffffff".parse().unwrap();
        let ask = link.ask();
        let refused = link.answered(ask.request, &other, &told(900, 9, None), (NOW, ABSENT_AFTER));
        assert!(matches!(refused, Err(AnswerRefused::OtherPool { .. })));
        assert_eq!(link.ask().seen, Generation::ZERO, "it would freeze this pool, and hide its next instruction");
    }

    #[test]
    fn keys_of_another_pool_are_no_keys() {
        let timeout = Duration::from_secs(10);
        let held = told(5, 2, Some(3));
        let other: PoolId = "ffffffffffffffffffffffffffffffff".parse().unwrap();
        // Told other keys, or refused for those that it reports.
        let mut moved = link(Some(held));
        let ask = moved.ask();
        assert!(moved.answered(ask.request, &other, &told(900, 9, None), (NOW, ABSENT_AFTER)).is_err());
        let mut refused = link(Some(held));
        let ask = refused.ask();
        assert_eq!(refused.other_pool(ask.request, NOW), Ok(()));
        assert_eq!(refused.other_pool(ask.request, NOW), Err(AnswerRefused::NotOutstanding));
        for mut link in [moved, refused] {
            assert!(!link.has_keys());
            link.open_session(1_000, 9);
            for at in [NOW, NOW + timeout * 10] {
                assert_eq!(link.readiness(at, timeout), Readiness::NoKeys, "also after another coordinator is silent");
            }
            // Another coordinator knows the pool of these keys.
            let ask = link.ask();
            assert_eq!(answer(&mut link, ask.request, &held), Ok(Verdict::Same));
            assert_eq!((link.has_keys(), link.readiness(NOW, timeout)), (true, Readiness::Confirmed));
            let ask = link.ask();
            assert_eq!(link.other_pool(ask.request, NOW), Ok(()));
            assert!(link.has_keys(), "confirmed in this run");
        }
    }

    #[test]
    fn a_reload_forgets_neither_the_fence_nor_the_silence() {
        let held = told(5, 2, Some(3));
        let mut before = link(Some(held));
        let ask = before.ask();
        assert_eq!(answer(&mut before, ask.request, &held), Ok(Verdict::Same));
        let session = Session { ordinal: 3, nonce: 9 };
        let fresh = || Link::start(None, session, NOW * 2).succeeding(&before);
        let after = fresh().in_contact_since(&before);
        assert_eq!(after.session(), Session { ordinal: 6, nonce: 9 }, "a clock that stepped back");
        assert_eq!((after.seen(), after.outstanding()), (Generation::ZERO, None));
        let late = NOW + ABSENT_AFTER + Duration::from_secs(1);
        assert!(after.is_detached(late) && !after.is_detached(NOW));
        assert_eq!(after.readiness(late, Duration::ZERO), Readiness::Confirmed);
        // Of another pool: the fence alone.
        assert!(!fresh().is_detached(NOW * 9));
        assert_eq!(fresh().readiness(NOW * 9, Duration::ZERO), Readiness::Unconfirmed);
        for mut link in [after, fresh()] {
            let ask = link.ask();
            let refused = answer(&mut link, ask.request, &told(4, 1, Some(2)));
            assert!(matches!(refused, Err(AnswerRefused::LowerGeneration { .. })), "{refused:?}");
        }
        // What the file says counts where nothing was held.
        let joiner = link(None);
        let found = Link::start(Some(fence(held)), session, NOW).succeeding(&joiner);
        assert_eq!(found.fence(), Some(&fence(held)));
    }

    #[test]
    fn every_session_is_above_the_one_before() {
        let mut link = link(None);
        let ask = link.ask();
        assert_eq!(link.session_closed(ask.request, 7, 2, NOW), Ok(()));
        assert_eq!(link.session(), Session { ordinal: 8, nonce: 2 });
        link.open_session(3, 9);
        assert_eq!(link.session(), Session { ordinal: 9, nonce: 9 }, "a clock that stepped back");
        link.open_session(1_000, 9);
        assert_eq!(link.session().ordinal, 1_000);
    }

    #[test]
    fn readiness_needs_keys_of_the_pool() {
        let timeout = Duration::from_secs(10);
        let late = NOW + timeout;
        let mut joiner = link(None);
        assert_eq!(joiner.readiness(NOW, timeout), Readiness::Asking);
        assert_eq!(joiner.readiness(late, timeout), Readiness::NoKeys);
        let ask = joiner.ask();
        let new = told(1, 1, None);
        assert_eq!(answer(&mut joiner, ask.request, &new), Ok(Verdict::Install));
        assert_eq!(joiner.readiness(NOW, timeout), Readiness::Asking, "told is not installed");
        joiner.persisted(&pool_id(), &new);
        assert_eq!(joiner.readiness(NOW, timeout), Readiness::Confirmed);

        let mut restarted = link(Some(new));
        assert_eq!(restarted.readiness(NOW, timeout), Readiness::Asking);
        assert_eq!(restarted.readiness(late, timeout), Readiness::Unconfirmed);
        let ask = restarted.ask();
        assert_eq!(restarted.nothing_new(ask.request, NOW), Ok(()));
        assert_eq!(restarted.readiness(NOW, timeout), Readiness::Confirmed);
    }

    #[test]
    fn nothing_new_confirms_only_what_the_node_had_when_it_asked() {
        let timeout = Duration::from_secs(10);
        let mut joiner = link(None);
        let ask = joiner.ask();
        assert_eq!(joiner.nothing_new(ask.request, NOW), Ok(()));
        joiner.persisted(&pool_id(), &told(1, 1, None));
        assert_eq!(joiner.readiness(NOW, timeout), Readiness::Asking, "nobody has confirmed these keys");
        let ask = joiner.ask();
        assert_eq!(joiner.nothing_new(ask.request, NOW), Ok(()));
        assert_eq!(joiner.readiness(NOW, timeout), Readiness::Confirmed);
    }

    #[test]
    fn detached_is_out_of_contact_for_longer_than_told() {
        let mut link = link(None);
        assert!(!link.is_detached(NOW * 1_000), "no pool waits for a node that never had an answer");
        let ask = link.ask();
        assert_eq!(answer(&mut link, ask.request, &told(1, 1, None)), Ok(Verdict::Install));
        assert!(!link.is_detached(NOW + ABSENT_AFTER));
        assert!(link.is_detached(NOW + ABSENT_AFTER + Duration::from_secs(1)));
        let ask = link.ask();
        assert_eq!(link.nothing_new(ask.request, NOW * 2), Ok(()));
        assert!(!link.is_detached(NOW * 2));
    }
}
