//! Collects the evidence while a test runs: what coordinators show, what the operator is told, what kernels hold.
//!
//! Must not know: what it means.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::procfs::{KEY_PATH, KeyFile, print_of};
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;

use super::{History, Segment, Shown, Span, Told};
use crate::cluster::{POOL, PREFIX};
use crate::coordinator::Client;
use crate::etcd::Etcd;

/// How often each kernel is read.
const LOOK_EVERY: Duration = Duration::from_millis(15);
/// How often each coordinator is asked; and in a test that mostly waits.
pub const ASK_EVERY: Duration = Duration::from_millis(250);
pub const ASK_SELDOM: Duration = Duration::from_secs(1);
/// How long one of these questions waits.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Seen {
    shown: Mutex<Vec<Shown>>,
    told: Mutex<Vec<Told>>,
    kernels: Mutex<BTreeMap<NodeId, Vec<Span>>>,
    /// When a coordinator said that it could not answer.
    refused: Mutex<Vec<u64>>,
    is_over: AtomicBool,
}

/// What was collected of the store.
#[derive(Default)]
struct Stored {
    segments: Vec<Segment>,
    /// The revision of etcd to continue from.
    next: i64,
}

/// The collection.
pub struct Recorder {
    clients: Vec<Client>,
    ask_every: Duration,
    seen: Arc<Seen>,
    stored: Mutex<Stored>,
    threads: Vec<JoinHandle<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Of these coordinators; nothing is asked yet.
    pub fn new(clients: Vec<Client>, ask_every: Duration) -> Self {
        let first = Segment { from_ms: clock::now_ms(), events: Vec::new() };
        let stored = Stored { segments: vec![first], next: 1 };
        let clients = clients.into_iter().map(|client| client.waiting(ASK_PATIENCE)).collect();
        Self { clients, ask_every, seen: Arc::default(), stored: Mutex::new(stored), threads: Vec::new() }
    }

    /// Begins to read the kernels of so many nodes, and to ask all coordinators.
    pub fn sample(&mut self, nodes: usize) {
        for node in 1..=nodes {
            let seen = Arc::clone(&self.seen);
            self.threads.push(std::thread::spawn(move || watch_kernel(&format!("node{node}"), &seen)));
        }
        for (number, client) in self.clients.iter().enumerate() {
            let (seen, client, pause) = (Arc::clone(&self.seen), client.clone(), self.ask_every);
            self.threads.push(std::thread::spawn(move || {
                while !seen.is_over.load(Ordering::Relaxed) {
                    let (status, pool) = client.get(&format!("/v1/pools/{POOL}"));
                    match status {
                        200 => locked(&seen.shown).extend(Shown::of(number, &pool)),
                        503 => locked(&seen.refused).push(clock::now_ms()),
                        _ => {}
                    }
                    std::thread::sleep(pause);
                }
            }));
        }
    }

    /// A coordinator has shown this to the test.
    pub fn shown(&self, shown: Option<Shown>) {
        locked(&self.seen.shown).extend(shown);
    }

    /// The operator was told this.
    pub fn told(&self, told: Option<Told>) {
        locked(&self.seen.told).extend(told);
    }

    /// How often coordinators have answered 503 since then.
    pub fn refused_since(&self, at_ms: u64) -> usize {
        locked(&self.seen.refused).iter().filter(|at| **at >= at_ms).count()
    }

    /// Reads what was stored since the last call; before a compaction, or it is gone.
    pub fn collect(&self, etcd: &Etcd) {
        let mut stored = locked(&self.stored);
        let (events, next) = etcd.written_since(PREFIX, stored.next);
        stored.next = next;
        stored.segments.last_mut().expect("there is always one").events.extend(events);
    }

    /// etcd has forgotten everything before this revision, in which nothing of ours was written since the last collection.
    pub fn compacted(&self, revision: i64) {
        let mut stored = locked(&self.stored);
        stored.next = stored.next.max(revision + 1);
    }

    /// The store is about to be another one: its history begins again.
    pub fn begin_again(&self) {
        let mut stored = locked(&self.stored);
        stored.segments.push(Segment { from_ms: clock::now_ms(), events: Vec::new() });
        stored.next = 1;
    }

    /// Everything up to now.
    pub fn history(&self, etcd: &Etcd) -> History {
        self.collect(etcd);
        History {
            segments: locked(&self.stored).segments.clone(),
            shown: locked(&self.seen.shown).clone(),
            told: locked(&self.seen.told).clone(),
            kernels: locked(&self.seen.kernels).clone(),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.seen.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a thread of the recorder has panicked");
            }
        }
    }
}

/// Reads one kernel until all is over.
fn watch_kernel(node: &str, seen: &Seen) {
    let name: NodeId = node.parse().expect("a name");
    let namespace = Namespace::Named(node.parse().expect("a name"));
    let look = || {
        let file = KeyFile::at(Path::new(KEY_PATH));
        while !seen.is_over.load(Ordering::Relaxed) {
            let from_ms = clock::now_ms();
            let pair = file.read().ok().and_then(|shown| print_of(&shown));
            let until_ms = clock::now_ms();
            let mut kernels = locked(&seen.kernels);
            let spans = kernels.entry(name.clone()).or_default();
            match spans.last_mut() {
                Some(last) if last.pair == pair => last.until_ms = from_ms,
                Some(_) | None => spans.push(Span { from_ms: until_ms, until_ms, pair }),
            }
            drop(kernels);
            std::thread::sleep(LOOK_EVERY);
        }
    };
    namespace.within(look).expect("the node is there");
}
