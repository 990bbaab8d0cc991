//! Bounds on connections: in all, of one address, and before the peer has shown a certificate.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::limits::Limits;
use super::refusals::Reason;

/// Bits of an IPv6 address that identify one customer (RFC 6177), who chooses the rest.
const IPV6_PREFIX_BITS: u32 = 64;
/// While at least half of the handshakes' places are taken, an address gets one part in this many.
const SHORT_PARTS: usize = 16;
/// From this age on a handshake gives way to another one of its own address.  An honest one takes two round trips.
const HANDSHAKE_SLOW: Duration = Duration::from_secs(3);
/// How many connections wait for a place, for each place.  They cost a socket, and no TLS.
pub(super) const CROWD_PARTS: usize = 2;
/// How long a connection waits for a place.  After a restart all nodes connect within a second, and a node that is refused
/// returns only after a longer pause; an agent gives up after 5 s.
const CROWD_PATIENCE: Duration = Duration::from_secs(2);

/// Counts open connections and handshakes.
///
/// A handshake needs no certificate, so its places are contested.  Who comes from an address with few of them takes one
/// from the address with most: strangers can take places only from each other.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    open: Mutex<Open>,
    /// A handshake is over.  Connections of the crowd wait for it.
    shaken: Notify,
}

#[derive(Debug, Default)]
struct Open {
    connections: Count,
    crowd: Count,
    handshakes: Handshakes,
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

/// Handshakes under way, by address and in the order of their beginnings.
#[derive(Debug, Default)]
struct Handshakes {
    next: u64,
    total: usize,
    by_address: HashMap<IpAddr, BTreeMap<u64, Shaking>>,
}

#[derive(Debug)]
struct Shaking {
    since: Instant,
    gives_way: CancellationToken,
}

impl Handshakes {
    fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, BTreeMap::len)
    }

    fn add(&mut self, address: IpAddr, now: Instant) -> (u64, CancellationToken) {
        let (id, gives_way) = (self.next, CancellationToken::new());
        self.next += 1;
        self.total += 1;
        let shaking = Shaking { since: now, gives_way: gives_way.clone() };
        self.by_address.entry(address).or_default().insert(id, shaking);
        (id, gives_way)
    }

    /// One that has given way already is not there.
    fn remove(&mut self, address: IpAddr, id: u64) {
        if let Entry::Occupied(mut own) = self.by_address.entry(address) {
            self.total -= usize::from(own.get_mut().remove(&id).is_some());
            if own.get().is_empty() {
                own.remove();
            }
        }
    }

    /// Ends the oldest handshake of an address.
    fn end_oldest(&mut self, address: IpAddr) {
        let oldest = self.by_address.get(&address).and_then(BTreeMap::first_key_value);
        if let Some((id, shaking)) = oldest.map(|(id, shaking)| (*id, shaking)) {
            shaking.gives_way.cancel();
            self.remove(address, id);
        }
    }

    /// The address with most handshakes; among equals the one that has the oldest.
    fn greediest(&self) -> Option<IpAddr> {
        let order = |own: &BTreeMap<u64, Shaking>| {
            (own.len(), std::cmp::Reverse(own.first_key_value().map_or(u64::MAX, |(id, _)| *id)))
        };
        self.by_address.iter().max_by_key(|(_, own)| order(own)).map(|(address, _)| *address)
    }

    fn is_slow(&self, address: IpAddr, now: Instant) -> bool {
        let oldest = self.by_address.get(&address).and_then(BTreeMap::first_key_value);
        oldest.is_some_and(|(_, oldest)| now.duration_since(oldest.since) >= HANDSHAKE_SLOW)
    }

    /// Makes room for one more of this address, at the cost of the oldest: its own, or the greediest address's.
    fn force_room(&mut self, address: IpAddr, max: usize, share: usize) {
        if self.of(address) >= share {
            self.end_oldest(address);
        } else if let Some(greediest) = self.greediest().filter(|_| self.total >= max) {
            self.end_oldest(greediest);
        }
    }

    /// Makes room for a handshake of this address, if it has a right to one.
    fn make_room(&mut self, address: IpAddr, max: usize, now: Instant) -> bool {
        let short = self.total >= max.div_ceil(2);
        let share = if short { (max / SHORT_PARTS).max(1) } else { max.div_ceil(2) };
        if self.of(address) >= share {
            let slow = self.is_slow(address, now);
            if slow {
                self.end_oldest(address);
            }
            return slow;
        }
        if self.total < max {
            return true;
        }
        let greediest = self.greediest().filter(|greediest| self.of(*greediest) > self.of(address));
        if let Some(greediest) = greediest {
            self.end_oldest(greediest);
        }
        greediest.is_some()
    }
}

/// A connection's place; given back with the value.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    gate: Arc<Gate>,
    address: IpAddr,
}

/// A place in the crowd that waits for handshakes; given back with the value.
#[derive(Debug)]
struct CrowdPlace {
    gate: Arc<Gate>,
    address: IpAddr,
}

/// A handshake's place; given back with the value.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    gate: Arc<Gate>,
    address: IpAddr,
    id: u64,
    gives_way: CancellationToken,
}

impl HandshakePlace {
    /// Waits until the place goes to another address.
    pub(super) async fn given_away(&self) {
        self.gives_way.cancelled().await;
    }
}

/// For whom a connection's place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not known yet, or not an operator.
    Anybody,
    /// An operator, for whom some places are kept.
    Operator,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), shaken: Notify::new() })
    }

    /// A place for a connection of this address.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, standing: Standing) -> Result<ConnectionPlace, Reason> {
        let address = payer(address);
        let mut open = self.lock();
        self.judge(&open, address, standing)?;
        open.connections.add(address);
        Ok(ConnectionPlace { gate: Arc::clone(self), address })
    }

    /// A place for a connection that shows no certificate and is soon over: a probe's or a browser's.  None is refused; one
    /// that was opened earlier gives way.
    pub(super) fn enter_plain(self: &Arc<Self>, address: IpAddr) -> HandshakePlace {
        let address = payer(address);
        let mut open = self.lock();
        let (max, share) = (self.limits.connections_max, self.limits.connections_per_address_max);
        open.handshakes.force_room(address, max, share);
        let (id, gives_way) = open.handshakes.add(address, Instant::now());
        HandshakePlace { gate: Arc::clone(self), address, id, gives_way }
    }

    /// Whether it is worth a handshake to learn who this is: it could be an operator.
    pub(super) fn could_enter(&self, address: IpAddr) -> Result<(), Reason> {
        self.judge(&self.lock(), payer(address), Standing::Operator)
    }

    fn judge(&self, open: &Open, address: IpAddr, standing: Standing) -> Result<(), Reason> {
        let kept = if standing == Standing::Operator { self.limits.operators_kept } else { 0 };
        if open.connections.total >= self.limits.connections_max + kept {
            return Err(Reason::TooManyConnections);
        }
        if open.connections.of(address) >= self.limits.connections_per_address_max + kept {
            return Err(Reason::TooManyFromAddress);
        }
        Ok(())
    }

    /// A place for a handshake of this address, at once or after a wait in the crowd.
    pub(super) async fn begin_handshake(self: &Arc<Self>, address: IpAddr) -> Result<HandshakePlace, Reason> {
        let address = payer(address);
        if let Some(place) = self.place_for_handshake(address, Instant::now()) {
            return Ok(place);
        }
        let _waits = self.join_crowd(address)?;
        let place = async {
            loop {
                // A permit is kept for who asks late, so no end of a handshake is missed.
                self.shaken.notified().await;
                if let Some(place) = self.place_for_handshake(address, Instant::now()) {
                    return place;
                }
            }
        };
        timeout(CROWD_PATIENCE, place).await.map_err(|_| Reason::TooManyHandshakes)
    }

    fn place_for_handshake(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<HandshakePlace> {
        let mut open = self.lock();
        open.handshakes.make_room(address, self.limits.handshakes_max, now).then(|| {
            let (id, gives_way) = open.handshakes.add(address, now);
            HandshakePlace { gate: Arc::clone(self), address, id, gives_way }
        })
    }

    /// One address gets at most half of the crowd.
    fn join_crowd(self: &Arc<Self>, address: IpAddr) -> Result<CrowdPlace, Reason> {
        let mut open = self.lock();
        let max = CROWD_PARTS * self.limits.handshakes_max;
        if open.crowd.total >= max || open.crowd.of(address) >= max / 2 {
            return Err(Reason::TooManyHandshakes);
        }
        open.crowd.add(address);
        Ok(CrowdPlace { gate: Arc::clone(self), address })
    }

    /// Connections now, those in a handshake or before it included.
    pub(super) fn connections(&self) -> usize {
        let open = self.lock();
        open.connections.total + open.handshakes.total + open.crowd.total
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

impl Drop for CrowdPlace {
    fn drop(&mut self) {
        self.gate.lock().crowd.remove(self.address);
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.gate.lock().handshakes.remove(self.address, self.id);
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

    fn addresses<const N: usize>() -> [IpAddr; N] {
        std::array::from_fn(|index| IpAddr::from([192, 0, 2, u8::try_from(index).unwrap()]))
    }

    fn shaking(handshakes_max: usize) -> Arc<Gate> {
        Gate::new(Limits { handshakes_max, ..Limits::default() })
    }

    fn ended(place: &HandshakePlace) -> bool {
        place.gives_way.is_cancelled()
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let limits =
            Limits { connections_max: 3, connections_per_address_max: 2, operators_kept: 1, ..Limits::default() };
        let gate = Gate::new(limits);
        let enter = |address| gate.enter(address, Standing::Anybody);
        let [a, b, c] = addresses();
        let first = enter(a).unwrap();
        let second = enter(a).unwrap();
        assert_eq!(enter(a).unwrap_err(), Reason::TooManyFromAddress);
        let third = enter(b).unwrap();
        assert_eq!(enter(c).unwrap_err(), Reason::TooManyConnections);
        assert_eq!(gate.could_enter(a), Ok(()), "it may be an operator");
        let operator = gate.enter(a, Standing::Operator).unwrap();
        assert_eq!(gate.enter(c, Standing::Operator).unwrap_err(), Reason::TooManyConnections);
        assert_eq!(gate.could_enter(c), Err(Reason::TooManyConnections));
        drop((operator, third, first));
        let again = enter(a).unwrap();
        assert_eq!(gate.connections(), 2);
        drop((second, again));
        assert_eq!(gate.connections(), 0);
        assert!(gate.lock().connections.by_address.is_empty(), "addresses that left are forgotten");
    }

    #[test]
    fn one_address_gets_half_of_the_handshakes_and_less_when_they_are_short() {
        let gate = shaking(64);
        let [stalls, node, other] = addresses();
        let begin = |address| gate.place_for_handshake(address, Instant::now());
        let mut held: Vec<_> = std::iter::from_fn(|| begin(stalls)).take(100).collect();
        assert_eq!(held.len(), 32);
        held.extend(std::iter::from_fn(|| begin(node)).take(100));
        assert_eq!(held.len(), 36, "64 / 16 of them: half is gone");
        assert!(!held.iter().any(ended) && begin(other).is_some());
        drop(held);
        assert!(gate.lock().handshakes.by_address.is_empty(), "addresses that left are forgotten");
        assert!(begin(stalls).is_some());
    }

    #[test]
    fn the_oldest_handshake_of_the_greediest_address_gives_way() {
        let gate = shaking(8);
        let [greedy, modest, newcomer] = addresses();
        let begin = |address| gate.place_for_handshake(address, Instant::now());
        let held: Vec<_> = std::iter::from_fn(|| begin(greedy)).take(4).collect();
        let other = begin(modest).unwrap();
        let rest: Vec<_> = (10..13).map(|last| begin(IpAddr::from([198, 51, 100, last])).unwrap()).collect();
        let let_in = begin(newcomer).unwrap();
        assert_eq!(held.iter().map(ended).collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(gate.connections(), 8);
        assert!(begin(greedy).is_none(), "it has more than its share");
        // Down to what the others have.
        let more: Vec<_> = (20..22).map(|last| begin(IpAddr::from([203, 0, 113, last])).unwrap()).collect();
        assert_eq!(held.iter().map(ended).collect::<Vec<_>>(), [true, true, true, false]);
        // Among equals the oldest of all; a newcomer is never refused for lack of places.
        let last = begin(IpAddr::from([203, 0, 113, 99])).unwrap();
        assert!(ended(&held[3]) && ![&other, &let_in, &last].into_iter().any(ended));
        drop((held, other, rest, let_in, more, last));
        let open = gate.lock();
        assert!(open.handshakes.total == 0 && open.handshakes.by_address.is_empty());
    }

    #[test]
    fn a_plain_connection_is_never_refused() {
        let gate = Gate::new(Limits { connections_max: 5, connections_per_address_max: 3, ..Limits::default() });
        let [probes, browser, other] = addresses();
        let silent: Vec<_> = (0..3).map(|_| gate.enter_plain(probes)).collect();
        let probe = gate.enter_plain(probes);
        assert_eq!(silent.iter().map(ended).collect::<Vec<_>>(), [true, false, false], "its own address's oldest");
        let page = gate.enter_plain(browser);
        let also = gate.enter_plain(browser);
        assert!(!silent[1..].iter().any(ended));
        let third = gate.enter_plain(other);
        assert_eq!(silent.iter().map(ended).collect::<Vec<_>>(), [true, true, false], "all places are taken");
        assert!(![&probe, &page, &also, &third].into_iter().any(ended));
        assert_eq!(gate.connections(), 5);
    }

    #[test]
    fn a_handshake_that_takes_long_gives_way_to_its_own_address() {
        let gate = shaking(4);
        let ([shared], now) = (addresses(), Instant::now());
        let slow: Vec<_> = std::iter::from_fn(|| gate.place_for_handshake(shared, now)).take(9).collect();
        assert_eq!(slow.len(), 2);
        assert!(gate.place_for_handshake(shared, now + HANDSHAKE_SLOW / 2).is_none());
        let honest = gate.place_for_handshake(shared, now + HANDSHAKE_SLOW).unwrap();
        assert!(ended(&slow[0]) && !ended(&slow[1]) && !ended(&honest));
    }

    #[tokio::test]
    async fn a_crowd_waits_for_its_places_and_is_bounded() {
        let gate = shaking(2);
        let [crowd] = addresses();
        let first = gate.begin_handshake(crowd).await.unwrap();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.begin_handshake(crowd).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(gate.connections(), 3, "half of the crowd's places for one address; the third was refused");
        drop(first);
        let mut ends = Vec::new();
        for one in waiting {
            // Each gives its place back at once, for the next.
            ends.push(one.await.unwrap().map(drop));
        }
        assert_eq!(ends, [Ok(()), Ok(()), Err(Reason::TooManyHandshakes)]);
        assert!(gate.lock().crowd.by_address.is_empty());
    }

    #[test]
    fn an_ipv6_customer_has_one_limit_and_so_has_a_mapped_ipv4_address() {
        let payer = |text: &str| super::payer(text.parse().unwrap()).to_string();
        assert_eq!(payer("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(payer("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(payer("192.0.2.1"), "192.0.2.1");
    }
}
