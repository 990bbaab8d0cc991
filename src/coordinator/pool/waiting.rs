//! The nodes that wait for an answer, and the answers: serialised once for all nodes with the same instruction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::replica::Replica;
use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::slots::{Instruction, PoolKey};
use tfo_engine::rollout::sync::{Answer, PoolView, Sync, SyncRefused};
use tfo_model::count::Revision;
use tfo_model::ids::NodeId;
use tfo_model::state::Phase;
use tfo_wire::v1::secret::SecretText;
use tfo_wire::v1::sync::{ANSWER_BYTES_MAX, KeyMaterial, SyncAnswer};

/// How long a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until there is something new.
    News,
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

    /// Whether the driver keeps the request until it has heard the other nodes: what the answer of a handler that stops
    /// waiting says.
    #[must_use]
    pub fn awaits_others(&self) -> bool {
        self.taken.load(Ordering::Acquire) == taken::KEPT
    }
}

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
}

/// The requests that are held or kept, at most one for each node.
#[derive(Default)]
pub(super) struct WaitingNodes {
    nodes: BTreeMap<NodeId, Pending>,
    answers: Answers,
    /// Requests that were looked at because something had changed.
    #[cfg(test)]
    pub(super) looks: usize,
}

impl WaitingNodes {
    /// Number of held requests whose handler still waits.
    pub(super) fn len(&self) -> usize {
        self.nodes.values().filter(|waiting| !waiting.reply.is_closed()).count()
    }

    /// There is nothing new: holds the request if it waits for news, which ends an earlier one of the same node.
    pub(super) fn hold(&mut self, pending: Pending) {
        match pending.reply.until {
            Until::News => {
                pending.reply.hold();
                self.nodes.insert(pending.node.clone(), pending);
            }
            Until::Recorded => pending.reply.give(Ok(None)),
        }
    }

    /// The latest records of these nodes are not stored: those that are held must sync again.
    pub(super) fn not_stored<'a>(&mut self, nodes: impl IntoIterator<Item = &'a NodeId>) {
        for node in nodes {
            if let Some(waiting) = self.nodes.remove(node) {
                waiting.reply.give(Err(SyncError::StoreDown));
            }
        }
    }

    /// The store has not confirmed the copy for too long: all that are held must ask elsewhere, or again.
    pub(super) fn without_store(&mut self) {
        for waiting in std::mem::take(&mut self.nodes).into_values() {
            waiting.reply.give(Err(SyncError::StoreDown));
        }
    }

    /// Answers now or holds.  The copy was verified after the sync was recorded, and `view` is of it.
    pub(super) fn answer(&mut self, replica: &Replica, view: PoolView, pending: Pending) {
        if let Some(waiting) = self.judge(replica, view, pending) {
            self.nodes.insert(waiting.node.clone(), waiting);
        }
    }

    /// Answers a request, or gives it back if it is to wait.
    fn judge(&mut self, replica: &Replica, view: PoolView, pending: Pending) -> Option<Pending> {
        let answer = match view.answer(replica.snapshot(), &pending.node, &pending.sync) {
            Ok(Answer::Nothing) if pending.reply.until == Until::News => {
                pending.reply.hold();
                return Some(pending);
            }
            // Once all are heard it gets what is new, if something is.  Until then no node is told anything.
            Err(SyncRefused::NotHeard) if pending.reply.until == Until::News => {
                pending.reply.keep();
                return Some(pending);
            }
            Ok(Answer::Nothing) => Ok(None),
            Ok(Answer::Instruct(instruction)) => self.answers.body(replica, &instruction),
            Err(refused) => Err(SyncError::Refused(refused)),
        };
        pending.reply.give(answer);
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
        if waiting.reply.is_closed() { None } else { self.judge(replica, view, waiting) }
    }

    /// Ends all requests with "nothing new".
    pub(super) fn let_go(&mut self) {
        self.nodes.clear();
    }
}

/// Bodies of the present revision.
#[derive(Default)]
struct Answers {
    revision: Option<Revision>,
    bodies: Vec<(Instruction, Bytes)>,
}

impl Answers {
    /// Wipes the bodies of another revision: a dropped key must not stay until a node asks for the next.
    fn forget_older(&mut self, replica: &Replica) {
        let revision = Some(replica.document().revision);
        if self.revision != revision {
            self.revision = revision;
            self.bodies.clear();
        }
    }

    fn body(&mut self, replica: &Replica, instruction: &Instruction) -> Result<Option<Bytes>, SyncError> {
        self.forget_older(replica);
        if let Some((_, body)) = self.bodies.iter().find(|(own, _)| own == instruction) {
            return Ok(Some(body.clone()));
        }
        let Some(body) = serialise(replica, instruction) else {
            tracing::error!(pool = %replica.pool(), generation = %instruction.generation, "the bytes of a key of the document are missing; this is a bug, please report it");
            return Err(SyncError::Internal);
        };
        self.bodies.push((*instruction, body.clone()));
        Ok(Some(body))
    }
}

fn serialise(replica: &Replica, instruction: &Instruction) -> Option<Bytes> {
    let document = replica.document();
    let material = |key: PoolKey| {
        let bytes = replica.keys().key(key.epoch)?;
        Some(KeyMaterial { epoch: key.epoch, fingerprint: key.fingerprint, key: SecretText::of_key(bytes) })
    };
    let backup = match instruction.slots.backup {
        Some(key) => Some(material(key)?),
        None => None,
    };
    let answer = SyncAnswer {
        pool: replica.pool().clone(),
        pool_id: document.pool_id,
        generation: instruction.generation,
        phase: phase_of(&document.stage, instruction),
        primary: material(instruction.slots.primary)?,
        backup,
        absent_after_secs: document.policy.absent_after_secs,
    };
    // Room from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    serde_json::to_writer(&mut *bytes, &answer).ok()?;
    assert!(bytes.capacity() == ANSWER_BYTES_MAX, "an answer is shorter than its limit");
    Some(Bytes::from_owner(Wiped(bytes)))
}

/// The phase by the node's own slots: staged while its backup is the next primary, otherwise steady.
///
/// Not "promoted": the end of a promotion changes no slots (docs/protocol.md#rule-2), so nothing would tell the node of
/// it, and it would say "promoted" until the next rotation.
fn phase_of(stage: &Stage, instruction: &Instruction) -> Phase {
    match stage {
        Stage::Promoted { next, .. } if instruction.slots.primary == *next => Phase::Steady,
        Stage::Promoted { .. } => Phase::Staged,
        Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => stage.phase(),
    }
}

/// Shared bytes that are wiped with the last owner.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
