//! Telling drivers that a document has changed, by one stream of etcd for the whole process.
//!
//! The stream decides nothing: who is told asks the store, and gets the truth.  Without it a driver asks a second later.  So
//! a stream that breaks, was compacted away, or is of a store that went back is opened again, and all are told; the cases
//! are told apart because each continues from another revision.  Must not know: documents.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::client::Client;
use super::failure::Failure;
use super::keys::rest;
use super::locked;
use super::reader::EtcdReader;
use super::wire::{Bytes, Header, Pair, end_of};
use tfo_model::ids::PoolName;

/// A pause before a stream is opened again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often the stream is compared with what drivers have read.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// A stream that has been behind for so many comparisons is stuck.
const STUCK: u32 = 2;
/// Longest line: many documents that changed at once.
const LINE_BYTES_MAX: usize = 8 << 20;
/// How long a member may take to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Who is told.
type Listeners = BTreeMap<PoolName, Box<dyn Fn() + Send + Sync>>;

/// How often what has happened to the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// It was opened.
    pub opened: u64,
    /// It continued where it had ended.
    pub resumed: u64,
    /// Where it had ended was compacted away.
    pub compacted: u64,
    /// It would have begun in the future: the store went back.
    pub went_back: u64,
    /// It was silent about what a driver had read.
    pub stuck: u64,
}

#[derive(Default)]
struct Shared {
    listeners: Mutex<Listeners>,
    /// The highest revision of a document that a driver has read.
    read: AtomicI64,
    opened: AtomicU64,
    resumed: AtomicU64,
    compacted: AtomicU64,
    went_back: AtomicU64,
    stuck: AtomicU64,
}

/// The stream, once a driver wants to be told.
#[derive(Default)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    task: Mutex<Option<AbortHandle>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watch").field(&self.counts()).finish()
    }
}

impl Watch {
    /// Tells of changes of this pool's document from now on.
    pub(super) fn tell(&self, reader: &EtcdReader, pool: &PoolName, told: Box<dyn Fn() + Send + Sync>) {
        locked(&self.shared.listeners).insert(pool.clone(), told);
        locked(&self.task).get_or_insert_with(|| {
            let stream = Stream {
                client: Arc::clone(&reader.client),
                shared: Arc::clone(&self.shared),
                heads: reader.keys.heads(),
                next: 0,
            };
            reader.client.runtime().spawn(stream.run()).abort_handle()
        });
    }

    /// A driver has read a document that was written at this revision.
    pub(super) fn expect(&self, revision: i64) {
        self.shared.read.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) fn counts(&self) -> WatchCounts {
        let Shared { opened, resumed, compacted, went_back, stuck, .. } = &*self.shared;
        let [opened, resumed, compacted, went_back, stuck] =
            [opened, resumed, compacted, went_back, stuck].map(|count| count.load(Ordering::Acquire));
        WatchCounts { opened, resumed, compacted, went_back, stuck }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
    }
}

impl Shared {
    fn tell_all(&self) {
        locked(&self.listeners).values().for_each(|told| told());
    }

    fn count(count: &AtomicU64) {
        count.fetch_add(1, Ordering::AcqRel);
    }
}

#[derive(Serialize)]
struct Request {
    create_request: Create,
}

#[derive(Serialize)]
struct Create {
    key: Bytes,
    range_end: Bytes,
    start_revision: i64,
}

/// One line of the stream.
#[derive(Debug, Default, Deserialize)]
struct Line {
    #[serde(default)]
    result: Option<Answer>,
}

#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    created: bool,
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    compact_revision: Option<serde_json::Value>,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Debug, Default, Deserialize)]
struct Event {
    #[serde(default)]
    kv: Pair,
}

/// Why a stream has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It was cut, or a line was not understood.
    Cut,
    Compacted,
    WentBack,
    Stuck,
}

struct Stream {
    client: Arc<Client>,
    shared: Arc<Shared>,
    heads: String,
    /// The revision to continue from; 0: the present one.
    next: i64,
}

impl Stream {
    async fn run(mut self) {
        let mut turn = 0;
        loop {
            match self.follow(turn).await {
                Ok(End::Cut) => {}
                Ok(End::Compacted) => {
                    Shared::count(&self.shared.compacted);
                    self.next = 0;
                }
                Ok(End::WentBack) => {
                    tracing::error!(
                        "etcd shows an older revision than before: it was restored, or another cluster answers"
                    );
                    Shared::count(&self.shared.went_back);
                    self.shared.read.store(0, Ordering::Release);
                    self.next = 0;
                }
                Ok(End::Stuck) => {
                    tracing::warn!("etcd's stream of changes is silent; trying another member");
                    Shared::count(&self.shared.stuck);
                }
                Err(failure) => tracing::debug!(%failure, "cannot watch"),
            }
            // Another member, which may have what this one lacks.
            turn += 1;
            self.shared.tell_all();
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Opens the stream and follows it to its end.
    async fn follow(&mut self, turn: usize) -> Result<End, Failure> {
        let create = Create {
            key: Bytes(self.heads.clone().into_bytes()),
            range_end: Bytes(end_of(&self.heads)),
            start_revision: self.next,
        };
        let late = || Failure::Away { url: self.client.members(), what: "no stream in time".to_owned() };
        let request = Request { create_request: create };
        let opened = self.client.stream("v3/watch", &request, turn);
        let mut stream = tokio::time::timeout(OPEN_TIMEOUT, opened).await.map_err(|_| late())??;
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        let (mut buffer, mut behind) = (Vec::new(), 0);
        loop {
            tokio::select! {
                chunk = stream.chunk() => {
                    let Ok(Some(chunk)) = chunk else { return Ok(End::Cut) };
                    buffer.extend_from_slice(&chunk);
                    while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = buffer.drain(..=end).collect();
                        if let Some(end) = self.take(&line) {
                            return Ok(end);
                        }
                    }
                    if buffer.len() > LINE_BYTES_MAX {
                        // What it says is not needed: all are told.
                        self.next = 0;
                        return Ok(End::Cut);
                    }
                }
                _ = compare.tick() => {
                    let is_behind = self.shared.read.load(Ordering::Acquire) >= self.next.max(1);
                    behind = if is_behind { behind + 1 } else { 0 };
                    if behind > STUCK {
                        return Ok(End::Stuck);
                    }
                }
            }
        }
    }

    /// Takes a line in; some: the stream is of no use any more.
    fn take(&mut self, line: &[u8]) -> Option<End> {
        let Ok(Line { result: Some(answer) }) = serde_json::from_slice(line) else { return Some(End::Cut) };
        if answer.canceled {
            return Some(if answer.compact_revision.is_some() { End::Compacted } else { End::Cut });
        }
        if answer.created {
            Shared::count(&self.shared.opened);
            if answer.header.revision + 1 < self.next {
                return Some(End::WentBack);
            }
            if self.next > 0 {
                Shared::count(&self.shared.resumed);
            } else {
                self.next = answer.header.revision + 1;
                self.shared.tell_all();
            }
        }
        let listeners = locked(&self.shared.listeners);
        for event in &answer.events {
            self.next = self.next.max(event.kv.mod_revision + 1);
            let pool = rest(event.kv.name(), &self.heads).and_then(|name| name.parse::<PoolName>().ok());
            if let Some(told) = pool.and_then(|pool| listeners.get(&pool)) {
                told();
            }
        }
        None
    }
}
