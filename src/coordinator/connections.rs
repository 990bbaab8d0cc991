//! Which names have a connection now: kept by the server, shown by the pools.
//!
//! A node that stops closes its connection, and one that dies has it closed by the kernel: this is known long before the
//! node counts as silent.  It is only shown; no decision depends on it (docs/protocol.md#rule-11).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tfo_host::runtime::clock;
use tfo_model::ids::{NodeId, merge_join};
use tfo_model::time::UnixTime;
use tfo_tls::identity::Peer;

/// Most names that are kept.  Only certificates of the fleet's authority bring names in, so this is never reached in
/// practice; beyond it those without a connection are forgotten.
const NAMES_MAX: usize = 32_768;

/// The connections of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// Open connections.
    pub open: usize,
    /// Since when it has had at least one, or none.
    pub since: UnixTime,
    /// Last second of the certificate of its latest connection.
    pub certificate_until: UnixTime,
}

/// The names of the peers, with their connections.
#[derive(Debug, Default)]
pub struct Connections {
    names: Mutex<BTreeMap<NodeId, Contact>>,
}

/// A connection that is counted until this value goes.
#[derive(Debug)]
pub struct OpenConnection {
    connections: Arc<Connections>,
    peer: Arc<Peer>,
}

impl Connections {
    /// Counts a connection under every name of its certificate.
    #[must_use]
    pub fn opened(self: &Arc<Self>, peer: &Arc<Peer>) -> OpenConnection {
        let since = clock::now();
        let mut names = self.lock();
        if names.len() >= NAMES_MAX {
            names.retain(|_, contact| contact.open > 0);
        }
        for name in &peer.names {
            let none = Contact { open: 0, since, certificate_until: peer.not_after };
            let contact = names.entry(name.clone()).or_insert(none);
            if contact.open == 0 {
                contact.since = since;
            }
            contact.open += 1;
            contact.certificate_until = peer.not_after;
        }
        drop(names);
        OpenConnection { connections: Arc::clone(self), peer: Arc::clone(peer) }
    }

    /// What is known of each of these names, which come in their order; none of one without a connection since the start.
    #[must_use]
    pub fn of_each<'a>(&self, names: impl Iterator<Item = &'a NodeId>) -> Vec<Option<Contact>> {
        let known = self.lock();
        merge_join(names.map(|name| (name, ())), known.iter()).map(|(_, (), contact)| contact.copied()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Contact>> {
        // Nothing between two changes of the map can panic.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let now = clock::now();
        let mut names = self.connections.lock();
        for name in &self.peer.names {
            if let Some(contact) = names.get_mut(name) {
                contact.open -= 1;
                if contact.open == 0 {
                    contact.since = now;
                }
            }
        }
    }
}
