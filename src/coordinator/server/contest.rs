//! Who holds one of a bounded number of places that cost nothing to ask for, and who has to give way.
//!
//! Must not know: sockets, TLS, what a place is for.  Who comes from an address with few places takes one from the address
//! with most, so strangers can take places only from each other.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many each address has.
#[derive(Debug, Default)]
pub(super) struct Count {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Count {
    pub(super) fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, address: IpAddr) {
        self.total += 1;
        *self.by_address.entry(address).or_default() += 1;
    }

    /// Addresses without a place are forgotten.
    pub(super) fn remove(&mut self, address: IpAddr) {
        self.total -= 1;
        if let Entry::Occupied(mut own) = self.by_address.entry(address) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }
}

/// Places that are taken, by address and in the order in which they were taken.
#[derive(Debug, Default)]
pub(super) struct Contest {
    next: u64,
    total: usize,
    by_address: HashMap<IpAddr, BTreeMap<u64, Taken>>,
}

#[derive(Debug)]
struct Taken {
    since: Instant,
    gives_way: CancellationToken,
}

impl Contest {
    pub(super) fn add(&mut self, address: IpAddr, now: Instant) -> (u64, CancellationToken) {
        let (id, gives_way) = (self.next, CancellationToken::new());
        self.next += 1;
        self.total += 1;
        let taken = Taken { since: now, gives_way: gives_way.clone() };
        self.by_address.entry(address).or_default().insert(id, taken);
        (id, gives_way)
    }

    /// One that has given way already is not there.
    pub(super) fn remove(&mut self, address: IpAddr, id: u64) {
        if let Entry::Occupied(mut own) = self.by_address.entry(address) {
            self.total -= usize::from(own.get_mut().remove(&id).is_some());
            if own.get().is_empty() {
                own.remove();
            }
        }
    }

    /// Ends the oldest of an address, if it has one.
    pub(super) fn end_oldest(&mut self, address: IpAddr) -> bool {
        let oldest = self.by_address.get(&address).and_then(BTreeMap::first_key_value);
        let oldest = oldest.map(|(id, taken)| {
            taken.gives_way.cancel();
            *id
        });
        if let Some(id) = oldest {
            self.remove(address, id);
        }
        oldest.is_some()
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, BTreeMap::len)
    }

    /// Addresses that have one.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// Since when an address has its oldest.
    pub(super) fn oldest_since(&self, address: IpAddr) -> Option<Instant> {
        let (_, oldest) = self.by_address.get(&address)?.first_key_value()?;
        Some(oldest.since)
    }

    /// The address with most places; among equals the one that has the oldest.
    pub(super) fn greediest(&self) -> Option<IpAddr> {
        let order = |own: &BTreeMap<u64, Taken>| {
            (own.len(), std::cmp::Reverse(own.first_key_value().map_or(u64::MAX, |(id, _)| *id)))
        };
        self.by_address.iter().max_by_key(|(_, own)| order(own)).map(|(address, _)| *address)
    }
}
