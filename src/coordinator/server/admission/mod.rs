//! Bounds on connections: in all, of one address, and before the peer has shown a certificate.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::contest::{Contest, Count};
use super::crowd::Crowd;
use super::limits::Limits;
use super::refusals::Reason;

/// Bits of an IPv6 address that identify one customer (RFC 6177), who chooses the rest.
const IPV6_PREFIX_BITS: u32 = 64;
/// While at least half of the handshakes' places are taken, an address gets one part in this many.
const SHORT_PARTS: usize = 16;
/// From this age on a handshake gives way to another one of its own address.  An honest one takes two round trips.
const HANDSHAKE_SLOW: Duration = Duration::from_secs(3);
/// From this age on a handshake gives way to one of an address that has as many, and that has waited for so long
/// ([`CROWD_DUE`]).  When a whole fleet returns, work that is begun is better ended than begun again.
const HANDSHAKE_YOUNG: Duration = Duration::from_secs(1);
/// How many connections wait before a handshake, for each place.  They cost a socket, and no TLS.  With 1 000 places and
/// 1 000 handshakes a second 5 000 nodes return within a second, and none is refused (benches/fanout).
pub(super) const CROWD_PARTS: usize = 4;
/// How long a connection waits for its turn before it takes the place of another one.
const CROWD_DUE: Duration = Duration::from_secs(2);
/// How long a connection waits for a place.  After a restart all nodes connect within a second, and a node that is refused
/// returns only after a longer pause; an agent gives up after 5 s, its own handshake included.
const CROWD_PATIENCE: Duration = Duration::from_secs(4);
/// How often a connection that waits looks whether a handshake has become too old to stay.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Counts open connections and handshakes.
///
/// A handshake needs no certificate, so its places are contested.  Who comes from an address with few of them takes one
/// from the address with most: strangers can take places only from each other.  And who says nothing takes none at all.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connections: Count,
    /// Peers that have said nothing yet.
    silent: Contest,
    crowd: Crowd,
    handshakes: Contest,
}

impl Open {
    /// Makes room for a connection that has said nothing.  One of the address with most gives way, first what is silent.
    fn make_room_for_silent(&mut self, address: IpAddr, max: usize) -> Result<(), Reason> {
        let own = self.before_handshake(address);
        let is_there = if own >= max.div_ceil(2) {
            self.silent.end_oldest(address)
        } else if self.silent.total() + self.crowd.total() < max {
            true
        } else {
            let all = self.silent.addresses().chain(self.crowd.addresses());
            let greediest = all.max_by_key(|one| self.before_handshake(*one));
            match greediest.filter(|greediest| self.before_handshake(*greediest) > own + 1) {
                Some(greediest) => self.silent.end_oldest(greediest) || self.crowd.end_oldest(greediest),
                // Nothing was spent on those.
                None => self.silent.greediest().is_some_and(|oldest| self.silent.end_oldest(oldest)),
            }
        };
        if is_there { Ok(()) } else { Err(Reason::TooManyHandshakes) }
    }

    /// Connections of an address that are not in a handshake yet.
    fn before_handshake(&self, address: IpAddr) -> usize {
        self.silent.of(address) + self.crowd.of(address)
    }

    /// Most handshakes that an address may have now.
    fn share(&self, max: usize) -> usize {
        let short = self.handshakes.total() >= max.div_ceil(2);
        if short { (max / SHORT_PARTS).max(1) } else { max.div_ceil(2) }
    }

    /// Whether there is a place for a handshake of this address that no other has.
    fn has_room(&self, address: IpAddr, max: usize) -> bool {
        self.handshakes.of(address) < self.share(max) && self.handshakes.total() < max
    }

    /// Makes room for a handshake of this address, which waits since then, if it has a right to one.
    fn make_room(&mut self, address: IpAddr, max: usize, since: Instant, now: Instant) -> bool {
        if self.has_room(address, max) {
            return true;
        }
        let share = self.share(max);
        let (handshakes, own) = (&self.handshakes, self.handshakes.of(address));
        let is_older = |since: Option<Instant>, age| since.is_some_and(|since| now.duration_since(since) >= age);
        let gives_way = match handshakes.greediest() {
            _ if own >= share => is_older(handshakes.oldest_since(address), HANDSHAKE_SLOW).then_some(address),
            // It has as many as the newcomer, once that has its place.
            Some(other) if handshakes.of(other) == own + 1 => {
                let is_due =
                    is_older(Some(since), CROWD_DUE) && is_older(handshakes.oldest_since(other), HANDSHAKE_YOUNG);
                is_due.then_some(other)
            }
            other => other.filter(|other| handshakes.of(*other) > own),
        };
        gives_way.is_some_and(|address| self.handshakes.end_oldest(address))
    }
}

/// A connection's place; given back with the value.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    gate: Arc<Gate>,
    address: IpAddr,
}

/// The place of a connection that has said nothing; given back with the value.
#[derive(Debug)]
struct SilentPlace {
    gate: Arc<Gate>,
    address: IpAddr,
    id: u64,
    gives_way: CancellationToken,
}

/// A place in the crowd that waits for handshakes; given back with the value.
#[derive(Debug)]
struct CrowdPlace {
    gate: Arc<Gate>,
    id: u64,
    turn: oneshot::Receiver<HandshakePlace>,
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
        Arc::new(Self { limits, open: Mutex::default() })
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
        if open.handshakes.of(address) >= share {
            open.handshakes.end_oldest(address);
        } else if let Some(greediest) = open.handshakes.greediest().filter(|_| open.handshakes.total() >= max) {
            open.handshakes.end_oldest(greediest);
        }
        self.shaking(&mut open, address, now())
    }

    /// Whether it is worth a handshake to learn who this is: it could be an operator.
    pub(super) fn could_enter(&self, address: IpAddr) -> Result<(), Reason> {
        self.judge(&self.lock(), payer(address), Standing::Operator)
    }

    fn judge(&self, open: &Open, address: IpAddr, standing: Standing) -> Result<(), Reason> {
        let kept = if standing == Standing::Operator { self.limits.operators_kept } else { 0 };
        if open.connections.total() >= self.limits.connections_max + kept {
            return Err(Reason::TooManyConnections);
        }
        if open.connections.of(address) >= self.limits.connections_per_address_max + kept {
            return Err(Reason::TooManyFromAddress);
        }
        Ok(())
    }

    /// A place for a handshake of this address, once it has spoken: at once or after a wait in the crowd.
    pub(super) async fn begin_handshake(
        self: &Arc<Self>,
        address: IpAddr,
        speaks: impl Future<Output = Result<(), Reason>>,
    ) -> Result<HandshakePlace, Reason> {
        let silent = self.admit_silent(payer(address))?;
        tokio::select! {
            spoken = speaks => spoken?,
            () = silent.gives_way.cancelled() => return Err(Reason::HandshakeGaveWay),
        }
        let waits = match self.step_up(silent, now()) {
            Ok(place) => return Ok(place),
            Err(waits) => waits,
        };
        timeout(CROWD_PATIENCE, waits.turn()).await.unwrap_or(Err(Reason::TooManyHandshakes))
    }

    fn admit_silent(self: &Arc<Self>, address: IpAddr) -> Result<SilentPlace, Reason> {
        let mut open = self.lock();
        open.make_room_for_silent(address, CROWD_PARTS * self.limits.handshakes_max)?;
        let (id, gives_way) = open.silent.add(address, now());
        Ok(SilentPlace { gate: Arc::clone(self), address, id, gives_way })
    }

    /// A handshake's place for one that has spoken, or else a place in the crowd.
    fn step_up(self: &Arc<Self>, silent: SilentPlace, now: Instant) -> Result<HandshakePlace, CrowdPlace> {
        let address = silent.address;
        drop(silent);
        let mut open = self.lock();
        if open.make_room(address, self.limits.handshakes_max, now, now) {
            return Ok(self.shaking(&mut open, address, now));
        }
        let (id, turn) = open.crowd.add(address, now);
        Err(CrowdPlace { gate: Arc::clone(self), id, turn })
    }

    /// Gives free places to the crowd.
    fn hand_over(self: &Arc<Self>) {
        let max = self.limits.handshakes_max;
        self.serve_crowd(|open, address, _| open.has_room(address, max));
    }

    /// The same, and the places of handshakes that became too old.
    fn look_again(self: &Arc<Self>, now: Instant) {
        let max = self.limits.handshakes_max;
        self.serve_crowd(|open, address, since| open.make_room(address, max, since, now));
    }

    /// Gives places to the crowd by turns, as long as there is room for who is next, and since when it waits.
    fn serve_crowd(self: &Arc<Self>, room: impl Fn(&mut Open, IpAddr, Instant) -> bool) {
        loop {
            let mut open = self.lock();
            let Some((id, address, since)) = open.crowd.first(&open.handshakes) else { return };
            if !room(&mut open, address, since) {
                return;
            }
            let Some(turn) = open.crowd.remove(id) else { return };
            let place = self.shaking(&mut open, address, now());
            drop(open);
            // Who has just given up gives it back.
            drop(turn.send(place));
        }
    }

    fn shaking(self: &Arc<Self>, open: &mut Open, address: IpAddr, now: Instant) -> HandshakePlace {
        let (id, gives_way) = open.handshakes.add(address, now);
        HandshakePlace { gate: Arc::clone(self), address, id, gives_way }
    }

    /// Connections now, those in a handshake or before it included.
    pub(super) fn connections(&self) -> usize {
        let open = self.lock();
        open.connections.total() + open.handshakes.total() + open.crowd.total() + open.silent.total()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing between two changes of the counts can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CrowdPlace {
    async fn turn(mut self) -> Result<HandshakePlace, Reason> {
        let mut looks = interval(LOOK_AGAIN);
        loop {
            tokio::select! {
                turn = &mut self.turn => return turn.map_err(|_| Reason::TooManyHandshakes),
                // One is enough to look.
                _ = looks.tick() => if self.gate.lock().crowd.is_oldest(self.id) {
                    self.gate.look_again(now());
                },
            }
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.gate.lock().connections.remove(self.address);
    }
}

impl Drop for SilentPlace {
    fn drop(&mut self) {
        self.gate.lock().silent.remove(self.address, self.id);
    }
}

impl Drop for CrowdPlace {
    fn drop(&mut self) {
        self.gate.lock().crowd.remove(self.id);
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.gate.lock().handshakes.remove(self.address, self.id);
        self.gate.hand_over();
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

/// The time, or what a test says it is.
fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = tests::NOW.get() {
        return now;
    }
    Instant::now()
}

#[cfg(test)]
mod tests;
