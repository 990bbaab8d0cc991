//! The nodes that wait for an answer, and the answers: serialised once for all nodes that are told the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::book::Book;
use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::slots::{Instruction, PoolKey};
use tfo_engine::rollout::sync::{Answer, PoolView, Sync, SyncRefused};
use tfo_model::count::Revision;
use tfo_model::ids::NodeId;
use tfo_model::state::Phase;
use tfo_wire::v1::secret::SecretText;
use tfo_wire::v1::sync::{ANSWER_BYTES_MAX, SyncAnswer, TaughtKey};

/// What a node is told: a body, which is shared, and wiped when the last answer is out; none: nothing new.
pub type Told = Option<Bytes>;

/// Until when a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// There is something new.
    News,
    /// It is recorded.
    Recorded,
}

/// A request at the driver: whether it is held, and where its answer comes.
pub struct Held {
    held: Arc<AtomicBool>,
    answer: oneshot::Receiver<Result<Told, NotTold>>,
}

impl Held {
    /// Waits for the answer.  None: another request of the same node has taken its place, or the driver has ended.
    pub async fn answer(&mut self) -> Option<Result<Told, NotTold>> {
        (&mut self.answer).await.ok()
    }

    /// Whether the driver holds it, because there was nothing new: whoever stops to wait for the answer may say so.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }
}

/// Why a sync has no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum NotTold {
    /// By the rules.
    Refused(SyncRefused),
    /// The store cannot be reached, and this sync needs it.
    StoreDown,
    /// A key that the document holds is not there: our bug, logged.
    Internal,
}

/// Where the answer goes.
pub(crate) struct Reply {
    until: Until,
    held: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<Told, NotTold>>,
}

impl Reply {
    /// Both ends.
    pub(crate) fn new(until: Until) -> (Self, Held) {
        let (sender, receiver) = oneshot::channel();
        let held = Arc::new(AtomicBool::new(false));
        (Self { until, held: Arc::clone(&held), answer: sender }, Held { held, answer: receiver })
    }

    /// There is nothing new: whoever waits may be told so from now on.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// A node that has gone away needs no answer.
    pub(crate) fn give(self, answer: Result<Told, NotTold>) {
        drop(self.answer.send(answer));
    }

    /// Until when the request waits.
    pub(super) fn until(&self) -> Until {
        self.until
    }

    /// Whether nobody waits any more.
    fn is_closed(&self) -> bool {
        self.answer.is_closed()
    }
}

/// A request that is held until there is something new.
struct Waiting {
    sync: Sync,
    reply: Reply,
}

/// All that are held, at most one for each node.
#[derive(Default)]
pub(super) struct WaitingNodes {
    nodes: BTreeMap<NodeId, Waiting>,
    answers: Answers,
}

impl WaitingNodes {
    /// How many; those whose time is over do not count.
    pub(super) fn len(&self) -> usize {
        self.nodes.values().filter(|waiting| !waiting.reply.is_closed()).count()
    }

    /// There is nothing new: holds the request if it waits for that; an earlier one of the same node ends so.
    pub(super) fn hold(&mut self, node: NodeId, sync: Sync, reply: Reply) {
        match reply.until {
            Until::News => {
                reply.hold();
                self.nodes.insert(node, Waiting { sync, reply });
            }
            Until::Recorded => reply.give(Ok(None)),
        }
    }

    /// What these nodes said last is not stored: those that are held say it again.
    pub(super) fn not_stored<'a>(&mut self, nodes: impl IntoIterator<Item = &'a NodeId>) {
        for node in nodes {
            if let Some(waiting) = self.nodes.remove(node) {
                waiting.reply.give(Err(NotTold::StoreDown));
            }
        }
    }

    /// Answers now or holds.  The copy was verified after the sync was recorded, and `view` is of it.
    pub(super) fn answer(&mut self, book: &Book, view: PoolView, (node, sync): (NodeId, Sync), reply: Reply) {
        match view.answer(book.snapshot(), &node, &sync) {
            Ok(Answer::Nothing) => self.hold(node, sync, reply),
            Ok(Answer::Instruct(instruction)) => reply.give(self.answers.tell(book, &instruction)),
            Err(refused) => reply.give(Err(NotTold::Refused(refused))),
        }
    }

    /// The document has changed: answers whoever has something new now.
    pub(super) fn publish(&mut self, book: &Book, view: PoolView) {
        self.answers.forget_older(book);
        let mut still = Vec::new();
        for (node, waiting) in std::mem::take(&mut self.nodes) {
            if waiting.reply.is_closed() {
                continue;
            }
            match view.answer(book.snapshot(), &node, &waiting.sync) {
                Ok(Answer::Nothing) => still.push((node, waiting)),
                Ok(Answer::Instruct(instruction)) => waiting.reply.give(self.answers.tell(book, &instruction)),
                Err(refused) => waiting.reply.give(Err(NotTold::Refused(refused))),
            }
        }
        self.nodes = still.into_iter().collect();
    }

    /// Ends all of them with nothing new.
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
    /// Wipes the bodies of another revision: a key that was dropped must not stay until somebody asks for the next.
    fn forget_older(&mut self, book: &Book) {
        let revision = Some(book.document().revision);
        if self.revision != revision {
            self.revision = revision;
            self.bodies.clear();
        }
    }

    fn tell(&mut self, book: &Book, instruction: &Instruction) -> Result<Told, NotTold> {
        self.forget_older(book);
        if let Some((_, body)) = self.bodies.iter().find(|(own, _)| own == instruction) {
            return Ok(Some(body.clone()));
        }
        let Some(body) = body(book, instruction) else {
            tracing::error!(pool = %book.pool(), generation = %instruction.generation, "a key of the document is missing");
            return Err(NotTold::Internal);
        };
        self.bodies.push((*instruction, body.clone()));
        Ok(Some(body))
    }
}

fn body(book: &Book, instruction: &Instruction) -> Option<Bytes> {
    let document = book.document();
    let taught = |key: PoolKey| {
        let bytes = book.keys().key(key.epoch)?;
        Some(TaughtKey { epoch: key.epoch, fingerprint: key.fingerprint, key: SecretText::of_key(bytes) })
    };
    let backup = match instruction.slots.backup {
        Some(key) => Some(taught(key)?),
        None => None,
    };
    let answer = SyncAnswer {
        pool: book.pool().clone(),
        pool_id: document.pool_id,
        generation: instruction.generation,
        phase: phase_of(&document.stage, instruction),
        primary: taught(instruction.slots.primary)?,
        backup,
        absent_after_secs: document.policy.absent_after_secs,
    };
    // Room from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    serde_json::to_writer(&mut *bytes, &answer).ok()?;
    assert!(bytes.capacity() == ANSWER_BYTES_MAX, "an answer is shorter than its limit");
    Some(Bytes::from_owner(Wiped(bytes)))
}

/// A node outside the opened waves of a promotion is staged, as its slots are.
fn phase_of(stage: &Stage, instruction: &Instruction) -> Phase {
    match stage {
        Stage::Promoted { next, .. } if instruction.slots.primary != *next => Phase::Staged,
        Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } | Stage::Promoted { .. } => stage.phase(),
    }
}

/// Shared bytes that are wiped with the last owner.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
