//! Connections that have spoken and wait for a place to shake hands, served by turns.
//!
//! Must not know: how many places there are, and who has a right to one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::HandshakePlace;
use super::contest::Contest;

/// Connections that have spoken and wait for a handshake, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    next: u64,
    waiting: BTreeMap<u64, (IpAddr, Instant)>,
    turns: HashMap<IpAddr, BTreeMap<u64, oneshot::Sender<HandshakePlace>>>,
}

impl Crowd {
    pub(super) fn add(&mut self, address: IpAddr, now: Instant) -> (u64, oneshot::Receiver<HandshakePlace>) {
        let (turn, comes) = oneshot::channel();
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, (address, now));
        self.turns.entry(address).or_default().insert(id, turn);
        (id, comes)
    }

    /// Who is no longer there has its place, or has left.
    pub(super) fn remove(&mut self, id: u64) -> Option<oneshot::Sender<HandshakePlace>> {
        let Entry::Occupied(mut own) = self.turns.entry(self.waiting.remove(&id)?.0) else { return None };
        let turn = own.get_mut().remove(&id);
        if own.get().is_empty() {
            own.remove();
        }
        turn
    }

    pub(super) fn total(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn of(&self, address: IpAddr) -> usize {
        self.turns.get(&address).map_or(0, BTreeMap::len)
    }

    /// Whether this one waits longer than all others.
    pub(super) fn is_oldest(&self, id: u64) -> bool {
        self.waiting.first_key_value().is_some_and(|(oldest, _)| *oldest == id)
    }

    /// Who is next, and since when it waits: of the address with fewest handshakes, and of those who came first.
    pub(super) fn first(&self, handshakes: &Contest) -> Option<(u64, IpAddr, Instant)> {
        let (oldest, (address, since)) = self.waiting.first_key_value()?;
        if handshakes.of(*address) == 0 {
            return Some((*oldest, *address, *since));
        }
        let of_address =
            |(address, own): (&IpAddr, &BTreeMap<u64, _>)| Some((handshakes.of(*address), *own.first_key_value()?.0));
        let (_, id) = self.turns.iter().filter_map(of_address).min()?;
        self.waiting.get(&id).map(|(address, since)| (id, *address, *since))
    }

    /// Ends the wait of who came first from an address, if there is one.
    pub(super) fn end_oldest(&mut self, address: IpAddr) -> bool {
        let oldest = self.turns.get(&address).and_then(BTreeMap::first_key_value).map(|(id, _)| *id);
        oldest.and_then(|id| self.remove(id)).is_some()
    }

    /// Addresses of those who wait.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.turns.keys().copied()
    }
}
