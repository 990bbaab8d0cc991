//! Announces changes inside one process: a count for threads that wait, and callbacks.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Called after a change.  Must return at once and must not call the store: it runs on the writer's thread.
type Callback = Arc<dyn Fn() + Send + Sync>;

/// Announces writes: by a count that rises with each, for threads that wait, and by callbacks.
///
/// Announces *that* something changed, never what: the listener reads the store, so it can miss or reorder nothing.
#[derive(Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    ticks: u64,
    next_id: u64,
    callbacks: BTreeMap<u64, Callback>,
}

/// Count of the changes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(u64);

/// Identifies a callback, to end it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a callback is called until it is ended with this"]
pub struct Subscription(u64);

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("ticks", &self.lock().ticks).finish_non_exhaustive()
    }
}

impl Hub {
    /// Announces a write that is visible to readers.
    pub fn notify(&self) {
        let callbacks: Vec<Callback> = {
            let mut inner = self.lock();
            inner.ticks = inner.ticks.wrapping_add(1);
            inner.callbacks.values().cloned().collect()
        };
        self.changed.notify_all();
        for callback in callbacks {
            callback();
        }
    }

    /// Calls `callback` after every change of any pool, until [`Self::unsubscribe`].
    pub fn subscribe(&self, callback: impl Fn() + Send + Sync + 'static) -> Subscription {
        let mut inner = self.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.callbacks.insert(id, Arc::new(callback));
        Subscription(id)
    }

    /// Ends a callback; a call that is under way on another thread may still finish.
    #[expect(clippy::needless_pass_by_value, reason = "a subscription ends once")]
    pub fn unsubscribe(&self, subscription: Subscription) {
        self.lock().callbacks.remove(&subscription.0);
    }

    /// The present count; take it before reading the store.
    pub fn tick(&self) -> Tick {
        Tick(self.lock().ticks)
    }

    /// Waits until the count is not `since`, at most `patience`.
    pub fn wait(&self, since: Tick, patience: Duration) {
        let waiting = self.changed.wait_timeout_while(self.lock(), patience, |inner| inner.ticks == since.0);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No change in here can panic half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
