//! The open connections and their certificates.
//!
//! TLS verifies a certificate once, in the handshake (docs/decisions/008-rustls-and-ring-only.md).  A connection lives for
//! weeks, so all are verified again when the CAs or revocation lists change, and each when a certificate of its chain
//! expires.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::identity::Peer;
use tfo_model::time::UnixTime;

/// The peer's certificate and the intermediate ones after it.
pub(super) type Chain = Arc<[CertificateDer<'static>]>;

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct Registry {
    next: AtomicU64,
    entries: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug, Clone)]
struct Entry {
    peer: Arc<Peer>,
    chain: Chain,
    /// When a certificate of its chain expires.
    expires: Option<UnixTime>,
    close: CancellationToken,
}

/// Which connections [`Registry::sweep`] verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// All: the CAs or revocation lists have changed.
    All,
    /// Those with a certificate that has expired.
    Expired,
}

/// A connection that was closed.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) peer: Arc<Peer>,
    pub(super) reason: rustls::Error,
}

/// An open connection; it leaves the registry with this value.
#[derive(Debug)]
pub struct LiveConnection {
    registry: Arc<Registry>,
    id: u64,
    peer: Arc<Peer>,
    close: CancellationToken,
}

impl LiveConnection {
    /// The peer.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Waits until its certificate is no longer accepted.
    pub async fn barred(&self) {
        self.close.cancelled().await;
    }
}

impl Drop for LiveConnection {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

impl Registry {
    /// Adds a connection whose chain was verified.
    pub(super) fn insert(self: &Arc<Self>, peer: Arc<Peer>, chain: Chain, expires: Option<UnixTime>) -> LiveConnection {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let close = CancellationToken::new();
        let entry = Entry { peer: Arc::clone(&peer), chain, expires, close: close.clone() };
        self.lock().insert(id, entry);
        LiveConnection { registry: Arc::clone(self), id, peer, close }
    }

    /// Verifies chains again and closes the connections of those that `judge` refuses; it returns the next expiry.
    /// Blocking.
    ///
    /// A connection that is added meanwhile is not seen: its handshake compares the files itself.
    pub(super) fn sweep(
        &self,
        which: Sweep,
        now: UnixTime,
        judge: impl Fn(&Chain) -> Result<Option<UnixTime>, rustls::Error>,
    ) -> Vec<Closed> {
        let due = |entry: &Entry| which == Sweep::All || entry.expires.is_some_and(|at| at < now);
        let suspects: Vec<(u64, Entry)> =
            self.lock().iter().filter(|(_, entry)| due(entry)).map(|(id, entry)| (*id, entry.clone())).collect();
        // Several connections may share a certificate.
        let mut verdicts: HashMap<&Chain, Result<Option<UnixTime>, rustls::Error>> = HashMap::new();
        let mut closed = Vec::new();
        for (id, entry) in &suspects {
            match verdicts.entry(&entry.chain).or_insert_with(|| judge(&entry.chain)) {
                Ok(expires) => {
                    if let Some(kept) = self.lock().get_mut(id) {
                        kept.expires = *expires;
                    }
                }
                Err(reason) => {
                    entry.close.cancel();
                    closed.push(Closed { peer: Arc::clone(&entry.peer), reason: reason.clone() });
                }
            }
        }
        closed
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        // Every change of the map is one call, so a panic elsewhere leaves it consistent.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
