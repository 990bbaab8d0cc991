//! The open connections and their certificates.
//!
//! TLS verifies a certificate once, in the handshake (docs/decisions/008-rustls-and-ring-only.md).  A connection lives for
//! weeks, so all are verified again when the CAs or revocation lists change, and each when a certificate of its chain
//! expires.  A name has few connections: where one more comes, its oldest one gives way.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::identity::Peer;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// The peer's certificate and the intermediate ones after it.
pub(super) type Chain = Arc<[CertificateDer<'static>]>;

/// Most connections of one name.  A node has one, an operator's tools a few; who has stolen a certificate must not hold all
/// places with it.
const PER_NAME_MAX: usize = 8;

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct Registry {
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    entries: HashMap<u64, Entry>,
    /// By name of a certificate, or by its serial number if it has none.  The lowest number is the oldest connection.
    by_name: BTreeSet<(Name, u64)>,
}

impl Open {
    /// Adds a connection.  Returns one that gives way to it, if a name has too many.
    fn add(&mut self, id: u64, entry: Entry) -> Option<Arc<Peer>> {
        let mut gone = None;
        for name in names(&entry.peer) {
            self.by_name.insert((name.clone(), id));
            let mut own = self.by_name.range((name.clone(), 0)..=(name, u64::MAX));
            // The oldest, not the newcomer: after a network failure the old ones are those that nothing answers on.
            if let Some(oldest) = own.next().cloned()
                && own.count() >= PER_NAME_MAX
            {
                self.by_name.remove(&oldest);
                if let Some(old) = self.entries.get(&oldest.1) {
                    old.close.cancel();
                    gone = Some(Arc::clone(&old.peer));
                }
            }
        }
        self.entries.insert(id, entry);
        gone
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        for name in names(&entry.peer) {
            self.by_name.remove(&(name, id));
        }
    }
}

/// What the connections of one peer have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Node(NodeId),
    Serial(String),
}

fn names(peer: &Peer) -> Vec<Name> {
    match peer.names.is_empty() {
        true => vec![Name::Serial(peer.serial.to_string())],
        false => peer.names.iter().cloned().map(Name::Node).collect(),
    }
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
        self.registry.lock().remove(self.id);
    }
}

impl Registry {
    /// Adds a connection whose chain was verified.
    pub(super) fn insert(self: &Arc<Self>, peer: Arc<Peer>, chain: Chain, expires: Option<UnixTime>) -> LiveConnection {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let close = CancellationToken::new();
        let entry = Entry { peer: Arc::clone(&peer), chain, expires, close: close.clone() };
        if let Some(gone) = self.lock().add(id, entry) {
            debug!(peer = %gone, most = PER_NAME_MAX, "connection closed: its name has opened more than it may have");
        }
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
        let suspects: Vec<(u64, Entry)> = self
            .lock()
            .entries
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(id, entry)| (*id, entry.clone()))
            .collect();
        // Several connections may share a certificate.
        let mut verdicts: HashMap<&Chain, Result<Option<UnixTime>, rustls::Error>> = HashMap::new();
        let mut closed = Vec::new();
        for (id, entry) in &suspects {
            match verdicts.entry(&entry.chain).or_insert_with(|| judge(&entry.chain)) {
                Ok(expires) => {
                    if let Some(kept) = self.lock().entries.get_mut(id) {
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

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing between two changes of the maps can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(names: &[&str]) -> Arc<Peer> {
        let der = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        Arc::new(Peer::of(der.unwrap().cert.der()).unwrap())
    }

    #[test]
    fn the_oldest_connection_of_a_name_gives_way() {
        let registry = Arc::new(Registry::default());
        let open = |peer: &Arc<Peer>| registry.insert(Arc::clone(peer), Vec::new().into(), None);
        let (thief, other) = (peer(&["n1.example.org"]), peer(&["n2.example.org"]));
        let first = open(&other);
        let held: Vec<_> = (0..PER_NAME_MAX + 2).map(|_| open(&thief)).collect();
        let cut = |one: &LiveConnection| one.close.is_cancelled();
        assert!(held[..2].iter().all(cut) && !held[2..].iter().any(cut), "the two oldest");
        assert!(!cut(&first), "another name's is untouched");
        // A certificate with two names counts for both.
        let both = open(&peer(&["n1.example.org", "n2.example.org"]));
        assert!(cut(&held[2]) && !cut(&held[3]) && !cut(&first) && !cut(&both));
        // Places come back, and names are forgotten.
        drop((held, both, first));
        let open = registry.lock();
        assert!(open.entries.is_empty() && open.by_name.is_empty());
    }

    #[test]
    fn certificates_without_a_name_are_told_apart_by_their_serial_numbers() {
        let registry = Arc::new(Registry::default());
        let nameless = [peer(&[]), peer(&[])];
        let held: Vec<_> = (0..2 * PER_NAME_MAX)
            .map(|index| registry.insert(Arc::clone(&nameless[index % 2]), Vec::new().into(), None))
            .collect();
        assert!(!held.iter().any(|one| one.close.is_cancelled()));
    }
}
