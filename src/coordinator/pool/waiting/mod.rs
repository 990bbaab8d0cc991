//! The nodes that wait for an answer.
//!
//! A hold ends with news, at its own time, with its connection, or because a gate asks for the node's counters; which holds
//! have begun and ended is told to the coordinator's life ([`WaitingNodes::take_turns`]).

mod answers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use self::answers::Answers;
use super::replica::Replica;
use tfo_engine::rollout::sync::{Answer, PoolView, Sync, SyncRefused};
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;

/// How long a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until there is something new, and not for longer than this.
    News(Duration),
    /// Until it is recorded.
    Recorded,
}

/// What the driver has done with a request so far.
mod taken {
    /// Nothing.
    pub(super) const NOT: u8 = 0;
    /// It holds it, because there is nothing new.
    pub(super) const HELD: u8 = 1;
    /// It keeps it until it has heard the other nodes, and will know then whether there is something new.
    pub(super) const KEPT: u8 = 2;
}

/// The handler's end of a request at the driver.
pub struct Held {
    taken: Arc<AtomicU8>,
    answer: oneshot::Receiver<Result<Option<Bytes>, SyncError>>,
}

impl Held {
    /// Waits for the answer: a body, which is shared between nodes and wiped after the last of them; `Ok(None)` if there
    /// is nothing new.  None: another request of the same node has replaced this one, or the driver has ended.
    pub async fn answer(&mut self) -> Option<Result<Option<Bytes>, SyncError>> {
        (&mut self.answer).await.ok()
    }

    /// True once the driver holds the request because there is nothing new; only then may a handler that stops waiting
    /// answer "nothing new".
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.taken.load(Ordering::Acquire) == taken::HELD
    }

    /// This request, for the driver.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(Arc::clone(&self.taken))
    }

    /// Whether the driver keeps the request until it has heard the other nodes: what the answer of a handler that stops
    /// waiting says.
    #[must_use]
    pub fn awaits_others(&self) -> bool {
        self.taken.load(Ordering::Acquire) == taken::KEPT
    }
}

/// One request, to be told from others of its node.
#[derive(Debug, Clone)]
pub struct Mark(Arc<AtomicU8>);

/// Why a sync gets no instruction.
#[derive(Debug, PartialEq, Eq)]
pub enum SyncError {
    /// The engine refuses it.
    Refused(SyncRefused),
    /// The store cannot be reached, and this sync needs it.
    StoreDown,
    /// The bytes of a key of the document are missing: a bug, logged.
    Internal,
}

/// The driver's end of a request.
pub(crate) struct Reply {
    until: Until,
    taken: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<Option<Bytes>, SyncError>>,
}

impl Reply {
    /// Both ends.
    pub(crate) fn new(until: Until) -> (Self, Held) {
        let (sender, receiver) = oneshot::channel();
        let taken = Arc::new(AtomicU8::new(taken::NOT));
        (Self { until, taken: Arc::clone(&taken), answer: sender }, Held { taken, answer: receiver })
    }

    /// Marks the request as held: from now on its handler may answer "nothing new".
    pub(crate) fn hold(&self) {
        self.taken.store(taken::HELD, Ordering::Release);
    }

    /// Marks the request as kept: its handler may say that the others are missing, and nothing else.
    pub(crate) fn keep(&self) {
        self.taken.store(taken::KEPT, Ordering::Release);
    }

    /// Answers; a node that has left needs no answer.
    pub(crate) fn give(self, answer: Result<Option<Bytes>, SyncError>) {
        drop(self.answer.send(answer));
    }

    /// How long the request waits for news; none: it does not.
    pub(super) fn hold_for(&self) -> Option<Duration> {
        match self.until {
            Until::News(time) => Some(time),
            Until::Recorded => None,
        }
    }

    fn is_held(&self) -> bool {
        self.taken.load(Ordering::Acquire) == taken::HELD
    }

    fn is(&self, mark: &Mark) -> bool {
        Arc::ptr_eq(&self.taken, &mark.0)
    }

    /// How long the request waits.
    pub(super) fn until(&self) -> Until {
        self.until
    }

    /// Whether the handler has stopped waiting.
    fn is_closed(&self) -> bool {
        self.answer.is_closed()
    }
}

/// A sync that waits for its answer.
pub(super) struct Pending {
    pub(super) node: NodeId,
    pub(super) sync: Sync,
    pub(super) reply: Reply,
    pub(super) hold: Hold,
}

/// What becomes of a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hold {
    /// When it is answered without news.
    ends_at: Option<Instant>,
    /// Nothing of the sync is stored or heard.
    is_unrecorded: bool,
    /// Whether its node is heard while it lasts, as was told.
    is_heard: bool,
}

/// A hold by which a node is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Begun,
    Ended,
}

/// Holds of this length and more end at whole seconds of the driver, so that it wakes up once for many: of what an idle
/// coordinator does, waking up takes most.
const TOGETHER_FROM: Duration = Duration::from_secs(10);

/// The requests that are held or kept, at most one for each node.
pub(super) struct WaitingNodes {
    /// What its seconds are counted from.
    began: Instant,
    nodes: BTreeMap<NodeId, Pending>,
    /// When holds end, each that has a time.
    ends: BTreeSet<(Instant, NodeId)>,
    /// What has become of holds lately, in this order.
    turns: Vec<(NodeId, Turn)>,
    answers: Answers,
    /// Requests that were looked at because something had changed.
    #[cfg(test)]
    pub(super) looks: usize,
}

impl WaitingNodes {
    pub(super) fn new() -> Self {
        Self {
            began: clock::monotonic(),
            nodes: BTreeMap::new(),
            ends: BTreeSet::new(),
            turns: Vec::new(),
            answers: Answers::default(),
            #[cfg(test)]
            looks: 0,
        }
    }

    /// Number of held requests whose handler still waits.
    pub(super) fn len(&self) -> usize {
        self.nodes.values().filter(|waiting| !waiting.reply.is_closed()).count()
    }

    /// There is nothing new, as far as is known without the store: holds the request if it waits for news, which ends an
    /// earlier one of the same node.  Its node is not heard by that, because nothing of it is recorded.
    pub(super) fn hold_unrecorded(&mut self, mut pending: Pending) {
        let Some(time) = pending.reply.hold_for() else { return pending.reply.give(Ok(None)) };
        pending.reply.hold();
        pending.hold = Hold { ends_at: Some(self.end_after(time)), is_unrecorded: true, is_heard: false };
        self.insert(pending);
    }

    /// The latest records of these nodes are not stored: those that are held must sync again.
    pub(super) fn not_stored<'a>(&mut self, nodes: impl IntoIterator<Item = &'a NodeId>) {
        for node in nodes {
            if let Some(waiting) = self.take(node) {
                self.end(waiting, Err(SyncError::StoreDown));
            }
        }
    }

    /// The store has not confirmed the copy for too long: all that are held must ask elsewhere, or again.
    pub(super) fn without_store(&mut self) {
        for waiting in self.take_all() {
            self.end(waiting, Err(SyncError::StoreDown));
        }
    }

    /// When a hold of this length that begins now ends: never later than that.
    fn end_after(&self, time: Duration) -> Instant {
        let at = clock::monotonic() + time;
        if time < TOGETHER_FROM {
            return at;
        }
        self.began + Duration::from_secs(at.duration_since(self.began).as_secs())
    }

    /// The next end of a hold by its own time.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Ends the holds whose time is over: with "nothing new", unless no node may be answered.
    pub(super) fn end_due(&mut self, now: Instant, is_blind: bool) {
        while let Some((_, node)) = self.ends.first().filter(|(at, _)| *at <= now).cloned() {
            let waiting = self.take(&node).expect("its node waits");
            let answer = match (is_blind, waiting.reply.is_held()) {
                (true, _) => Err(SyncError::StoreDown),
                (false, true) => Ok(None),
                (false, false) => Err(SyncError::Refused(SyncRefused::NotHeard)),
            };
            self.end(waiting, answer);
        }
    }

    /// The nodes whose requests are held.
    pub(super) fn held(&self) -> Vec<NodeId> {
        let held = self.nodes.values().filter(|waiting| waiting.reply.is_held() && !waiting.reply.is_closed());
        held.map(|waiting| waiting.node.clone()).collect()
    }

    /// Ends the holds of these nodes with "nothing new", so that they sync: what they say now is needed.
    pub(super) fn ask(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if self.nodes.get(node).is_some_and(|waiting| waiting.reply.is_held()) {
                let waiting = self.take(node).expect("it has just been found");
                self.end(waiting, Ok(None));
            }
        }
    }

    /// Another life has begun, in which no node was heard: all that wait are answered as those that do not, so that they sync
    /// again.
    pub(super) fn of_former_life(&mut self, replica: &Replica, view: PoolView) {
        for mut waiting in self.take_all() {
            waiting.reply.until = Until::Recorded;
            let answered = self.judge(replica, view, waiting);
            assert!(answered.is_none(), "a request that does not wait is answered");
        }
    }

    /// The connection of this request has ended, or its handler has stopped waiting.
    pub(super) fn left(&mut self, node: &NodeId, mark: &Mark) {
        if self.nodes.get(node).is_some_and(|waiting| waiting.reply.is(mark)) {
            let waiting = self.take(node).expect("it has just been found");
            self.note_end(&waiting);
        }
    }

    /// The nodes whose holds have begun or ended since the last call, with what came last.
    pub(super) fn take_turns(&mut self) -> HashMap<NodeId, Turn> {
        std::mem::take(&mut self.turns).into_iter().collect()
    }

    /// Answers now or holds.  The copy was verified after the sync was recorded, and `view` is of it.
    pub(super) fn answer(&mut self, replica: &Replica, view: PoolView, pending: Pending) {
        if let Some(waiting) = self.judge(replica, view, pending) {
            self.insert(waiting);
        }
    }

    fn insert(&mut self, mut waiting: Pending) {
        let was_heard = self.take(&waiting.node).is_some_and(|before| before.hold.is_heard);
        // Also if it continues the one before: the node may have opened another session.
        self.note_hold(&mut waiting);
        if was_heard && !waiting.hold.is_heard {
            self.turns.push((waiting.node.clone(), Turn::Ended));
        }
        self.ends.extend(waiting.hold.ends_at.map(|at| (at, waiting.node.clone())));
        self.nodes.insert(waiting.node.clone(), waiting);
    }

    /// Tells whether the node of a request that waits is heard by that.
    fn note_hold(&mut self, waiting: &mut Pending) {
        let is_heard = waiting.reply.is_held() && !waiting.hold.is_unrecorded;
        if std::mem::replace(&mut waiting.hold.is_heard, is_heard) != is_heard {
            let turn = if is_heard { Turn::Begun } else { Turn::Ended };
            self.turns.push((waiting.node.clone(), turn));
        }
    }

    fn take(&mut self, node: &NodeId) -> Option<Pending> {
        let waiting = self.nodes.remove(node)?;
        if let Some(at) = waiting.hold.ends_at {
            self.ends.remove(&(at, node.clone()));
        }
        Some(waiting)
    }

    fn take_all(&mut self) -> impl Iterator<Item = Pending> + use<> {
        self.ends.clear();
        std::mem::take(&mut self.nodes).into_values()
    }

    fn end(&mut self, waiting: Pending, answer: Result<Option<Bytes>, SyncError>) {
        self.note_end(&waiting);
        waiting.reply.give(answer);
    }

    fn note_end(&mut self, waiting: &Pending) {
        if waiting.hold.is_heard {
            self.turns.push((waiting.node.clone(), Turn::Ended));
        }
    }

    /// Answers a request, or gives it back if it is to wait.
    fn judge(&mut self, replica: &Replica, view: PoolView, mut pending: Pending) -> Option<Pending> {
        let answer = match (view.answer(replica.snapshot(), &pending.node, &pending.sync), pending.reply.hold_for()) {
            (Ok(Answer::Nothing), Some(time)) => {
                pending.reply.hold();
                pending.hold.ends_at.get_or_insert_with(|| self.end_after(time));
                return Some(pending);
            }
            // Once all are heard it gets what is new, if something is.  Until then no node is told anything.
            (Err(SyncRefused::NotHeard), Some(_)) => {
                pending.reply.keep();
                return Some(pending);
            }
            (Ok(Answer::Nothing), None) => Ok(None),
            (Ok(Answer::Instruct(instruction)), _) => self.answers.body(replica, &instruction),
            (Err(refused), _) => Err(SyncError::Refused(refused)),
        };
        self.end(pending, answer);
        None
    }

    /// Something has changed that concerns all nodes: answers those for which there is something new.
    pub(super) fn publish(&mut self, replica: &Replica, view: PoolView) {
        self.answers.forget_older(replica);
        let mut still = Vec::new();
        for (node, waiting) in std::mem::take(&mut self.nodes) {
            still.extend(self.look_again(replica, view, waiting).map(|waiting| (node, waiting)));
        }
        self.nodes = still.into_iter().collect();
    }

    /// The same for a change that concerns these nodes alone.
    pub(super) fn publish_to(&mut self, nodes: &BTreeSet<NodeId>, replica: &Replica, view: PoolView) {
        self.answers.forget_older(replica);
        for node in nodes {
            let again = self.nodes.remove(node).and_then(|waiting| self.look_again(replica, view, waiting));
            self.nodes.extend(again.map(|waiting| (node.clone(), waiting)));
        }
    }

    fn look_again(&mut self, replica: &Replica, view: PoolView, waiting: Pending) -> Option<Pending> {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        let (node, ends_at) = (waiting.node.clone(), waiting.hold.ends_at);
        let mut again = if waiting.reply.is_closed() {
            self.note_end(&waiting);
            None
        } else {
            self.judge(replica, view, waiting)
        };
        if let Some(waiting) = &mut again {
            self.note_hold(waiting);
        }
        let now_ends_at = again.as_ref().and_then(|waiting| waiting.hold.ends_at);
        if now_ends_at != ends_at {
            if let Some(at) = ends_at {
                self.ends.remove(&(at, node.clone()));
            }
            self.ends.extend(now_ends_at.map(|at| (at, node)));
        }
        again
    }

    /// Ends all requests with "nothing new".
    pub(super) fn let_go(&mut self) {
        self.take_all().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_holds_end_together_and_none_ends_late() {
        let waiting = WaitingNodes::new();
        for secs in [10, 30, 300] {
            let (time, before) = (Duration::from_secs(secs), clock::monotonic());
            let end = waiting.end_after(time);
            assert!(end <= clock::monotonic() + time && end + Duration::from_secs(1) > before + time, "{secs}");
            assert_eq!(end.duration_since(waiting.began).subsec_nanos(), 0, "{secs}");
        }
        // What a test or an impatient agent asks for is kept to.
        let (time, before) = (Duration::from_millis(9_999), clock::monotonic());
        assert!(waiting.end_after(time) >= before + time);
    }
}
