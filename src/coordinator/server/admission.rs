//! Bounds on connections: in all, of one address, and before the peer has shown a certificate.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::limits::Limits;
use super::refusals::Reason;

/// Bits of an IPv6 address that identify one customer (RFC 6177), who chooses the rest.
const IPV6_PREFIX_BITS: u32 = 64;

/// Counts open connections and handshakes.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    open: Mutex<Open>,
    /// A handshake is over.  One task waits for it, the accept loop.
    shaken: Notify,
}

#[derive(Debug, Default)]
struct Open {
    connections: Count,
    handshakes: Count,
}

#[derive(Debug, Default)]
struct Count {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Count {
    fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or(0)
    }

    fn add(&mut self, address: IpAddr) {
        self.total += 1;
        *self.by_address.entry(address).or_default() += 1;
    }

    /// Addresses without a place are forgotten.
    fn remove(&mut self, address: IpAddr) {
        self.total -= 1;
        if let Entry::Occupied(mut own) = self.by_address.entry(address) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// A connection's place; given back with the value.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    gate: Arc<Gate>,
    address: IpAddr,
}

/// A handshake's place; given back with the value.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), shaken: Notify::new() })
    }

    /// A place for a connection of this address.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPlace, Reason> {
        let address = payer(address);
        let mut open = self.lock();
        if open.connections.total >= self.limits.connections_max {
            return Err(Reason::TooManyConnections);
        }
        if open.connections.of(address) >= self.limits.connections_per_address_max {
            return Err(Reason::TooManyFromAddress);
        }
        open.connections.add(address);
        Ok(ConnectionPlace { gate: Arc::clone(self), address })
    }

    /// A place for a handshake of this address.
    ///
    /// One address gets at most half of them: a peer that opens connections and sends nothing must not lock the fleet out.
    pub(super) fn begin_handshake(self: &Arc<Self>, address: IpAddr) -> Result<HandshakePlace, Reason> {
        let address = payer(address);
        let mut open = self.lock();
        let max = self.limits.handshakes_max;
        if open.handshakes.total >= max || open.handshakes.of(address) >= max.div_ceil(2) {
            return Err(Reason::TooManyHandshakes);
        }
        open.handshakes.add(address);
        Ok(HandshakePlace { gate: Arc::clone(self), address })
    }

    /// Waits until there is a place for a handshake.
    pub(super) async fn room_for_handshake(&self) {
        while self.lock().handshakes.total >= self.limits.handshakes_max {
            self.shaken.notified().await;
        }
    }

    /// Connections now.
    pub(super) fn connections(&self) -> usize {
        self.lock().connections.total
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing between two changes of the counts can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.gate.lock().connections.remove(self.address);
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.gate.lock().handshakes.remove(self.address);
        self.gate.shaken.notify_one();
    }
}

/// The address or network whose limit an address counts for.
fn payer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> (Ipv6Addr::BITS - IPV6_PREFIX_BITS);
            Ipv6Addr::from_bits(prefix << (Ipv6Addr::BITS - IPV6_PREFIX_BITS)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Arc<Gate> {
        let limits =
            Limits { connections_max: 3, connections_per_address_max: 2, handshakes_max: 1, ..Limits::default() };
        Gate::new(limits)
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let gate = gate();
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = gate.enter(a).unwrap();
        let second = gate.enter(a).unwrap();
        assert_eq!(gate.enter(a).unwrap_err(), Reason::TooManyFromAddress);
        let third = gate.enter(b).unwrap();
        assert_eq!(gate.enter(c).unwrap_err(), Reason::TooManyConnections);
        drop(third);
        drop(first);
        let again = gate.enter(a).unwrap();
        assert_eq!(gate.connections(), 2);
        drop((second, again));
        assert_eq!(gate.connections(), 0);
        assert!(gate.lock().connections.by_address.is_empty(), "addresses that left are forgotten");

        let handshake = gate.begin_handshake(a).unwrap();
        assert_eq!(gate.begin_handshake(b).unwrap_err(), Reason::TooManyHandshakes);
        drop(handshake);
        assert!(gate.begin_handshake(b).is_ok());
        assert!(gate.lock().handshakes.by_address.is_empty(), "addresses that left are forgotten");
    }

    #[test]
    fn one_address_leaves_half_of_the_handshakes_to_the_others() {
        let gate = Gate::new(Limits { handshakes_max: 4, ..Limits::default() });
        let [stalls, node] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let stalled: Vec<_> = (0..2).map(|_| gate.begin_handshake(stalls).unwrap()).collect();
        assert_eq!(gate.begin_handshake(stalls).unwrap_err(), Reason::TooManyHandshakes);
        assert!(gate.begin_handshake(node).is_ok());
        drop(stalled);
        assert!(gate.begin_handshake(stalls).is_ok());
    }

    #[test]
    fn an_ipv6_customer_has_one_limit_and_so_has_a_mapped_ipv4_address() {
        let payer = |text: &str| super::payer(text.parse().unwrap()).to_string();
        assert_eq!(payer("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(payer("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(payer("192.0.2.1"), "192.0.2.1");
    }
}
