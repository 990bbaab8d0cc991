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
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;

    use super::*;

    thread_local! {
        /// The time of a test that does not wait for it.
        pub(super) static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    fn addresses<const N: usize>() -> [IpAddr; N] {
        std::array::from_fn(|index| IpAddr::from([192, 0, 2, u8::try_from(index).unwrap()]))
    }

    fn shaking(handshakes_max: usize) -> Arc<Gate> {
        Gate::new(Limits { handshakes_max, ..Limits::default() })
    }

    fn ended(place: &HandshakePlace) -> bool {
        place.gives_way.is_cancelled()
    }

    /// A place for one that has spoken, if it gets one at once.
    fn begin(gate: &Arc<Gate>, address: IpAddr, now: Instant) -> Option<HandshakePlace> {
        gate.step_up(gate.admit_silent(payer(address)).unwrap(), now).ok()
    }

    async fn spoken() -> Result<(), Reason> {
        Ok(())
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
        assert!(gate.lock().connections.of(c) == 0, "addresses that left are forgotten");
    }

    #[test]
    fn one_address_gets_half_of_the_handshakes_and_less_when_they_are_short() {
        let gate = shaking(64);
        let [stalls, node, other] = addresses();
        let begin = |address| begin(&gate, address, Instant::now());
        let mut held: Vec<_> = std::iter::from_fn(|| begin(stalls)).take(100).collect();
        assert_eq!(held.len(), 32);
        held.extend(std::iter::from_fn(|| begin(node)).take(100));
        assert_eq!(held.len(), 36, "64 / 16 of them: half is gone");
        assert!(!held.iter().any(ended) && begin(other).is_some());
        drop(held);
        assert!(gate.lock().handshakes.greediest().is_none(), "addresses that left are forgotten");
        assert!(begin(stalls).is_some());
    }

    #[test]
    fn the_oldest_handshake_of_the_greediest_address_gives_way() {
        let (gate, now) = (shaking(8), Instant::now());
        let [greedy, modest, newcomer] = addresses();
        let begin = |address| begin(&gate, address, now);
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
        drop((held, other, rest, let_in, more));
        let open = gate.lock();
        assert!(open.handshakes.total() == 0 && open.handshakes.of(modest) == 0);
    }

    #[test]
    fn among_equals_a_handshake_gives_way_only_to_one_that_has_waited() {
        let (gate, start) = (shaking(4), Instant::now());
        let held: Vec<_> = addresses::<4>().map(|address| begin(&gate, address, start).unwrap()).into();
        let newcomer = IpAddr::from([198, 51, 100, 1]);
        // However old the others are: a fleet that returns looks the same, and soon ends by itself.
        let came = start + 2 * HANDSHAKE_YOUNG;
        let mut waits = gate.step_up(gate.admit_silent(newcomer).unwrap(), came).unwrap_err();
        gate.look_again(came + CROWD_DUE / 2);
        assert!(waits.turn.try_recv().is_err() && !held.iter().any(ended));
        gate.look_again(came + CROWD_DUE);
        let place = waits.turn.try_recv().expect("it has waited long enough");
        assert_eq!(held.iter().map(ended).collect::<Vec<_>>(), [true, false, false, false], "the oldest of all");
        assert!(!ended(&place));
        // One that has just begun is left alone.
        let (late, all) = (came + CROWD_DUE, IpAddr::from([198, 51, 100, 2]));
        drop((held, place));
        let young: Vec<_> = addresses::<4>().map(|address| begin(&gate, address, late).unwrap()).into();
        let mut waits = gate.step_up(gate.admit_silent(all).unwrap(), start).unwrap_err();
        gate.look_again(late);
        assert!(waits.turn.try_recv().is_err() && !young.iter().any(ended));
    }

    /// A fleet returns within a second, to a server that ends so many handshakes a second, in the order in which they began.
    /// Counts those that are refused or lose their handshake, and says when the last one is in.
    fn returns(nodes: usize, behind_one_address: usize, per_10_ms: usize) -> (usize, Duration) {
        let (gate, start) = (Gate::new(Limits::default()), Instant::now());
        let (mut shaking, mut waiting) = (VecDeque::new(), Vec::new());
        let (mut come, mut lost, mut now) = (0, 0, start);
        while come < nodes || !shaking.is_empty() || !waiting.is_empty() {
            NOW.set(Some(now));
            let due = nodes.min(nodes * usize::try_from((now - start).as_millis() + 10).unwrap() / 1_000);
            for node in come..due {
                let address = u32::try_from(node % nodes.div_ceil(behind_one_address)).unwrap() + (10 << 24);
                match gate.admit_silent(IpAddr::from(address.to_be_bytes())).map(|silent| gate.step_up(silent, now)) {
                    Ok(Ok(place)) => shaking.push_back(place),
                    Ok(Err(waits)) => waiting.push((now, waits)),
                    Err(_) => lost += 1,
                }
            }
            come = due;
            for place in shaking.drain(..per_10_ms.min(shaking.len())) {
                lost += usize::from(ended(&place));
            }
            gate.look_again(now);
            waiting.retain_mut(|(since, waits)| match waits.turn.try_recv() {
                Ok(place) => {
                    shaking.push_back(place);
                    false
                }
                Err(_) if now - *since >= CROWD_PATIENCE => {
                    lost += 1;
                    false
                }
                Err(_) => true,
            });
            now += Duration::from_millis(10);
        }
        assert_eq!(gate.connections(), 0);
        (lost, now - start)
    }

    #[test]
    fn a_fleet_returns_and_no_node_is_refused() {
        // Each node with an address of its own, or a thousand behind one, as in benches/fanout.
        for behind_one_address in [1, 1_000] {
            let (lost, took) = returns(5_000, behind_one_address, 12);
            assert_eq!(lost, 0, "{behind_one_address} behind each address");
            assert!(took < Duration::from_millis(4_500), "no place stays empty while others wait: {took:?}");
        }
    }

    #[test]
    fn who_says_nothing_takes_no_handshake_and_gives_way_at_once() {
        let gate = shaking(2);
        let [silent, other, honest] = addresses();
        let admit = |address| gate.admit_silent(address).unwrap();
        let held: Vec<_> = [[silent; 5], [other; 5]].concat().into_iter().take(8).map(admit).collect();
        let alone = admit(honest);
        let ended = || {
            let ended = held.iter().enumerate().filter(|(_, place)| place.gives_way.is_cancelled());
            ended.map(|(index, _)| index).collect::<Vec<_>>()
        };
        assert_eq!(ended(), [0], "an address has half of the places before a handshake");
        let place = begin(&gate, honest, Instant::now()).expect("there is no handshake");
        assert_eq!(ended(), [0, 1], "all are taken, and the oldest of those with most gives way");
        assert!(!alone.gives_way.is_cancelled());
        drop((held, alone));
        assert_eq!(gate.connections(), 1);
        drop(place);
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
        let slow: Vec<_> = std::iter::from_fn(|| begin(&gate, shared, now)).take(9).collect();
        assert_eq!(slow.len(), 2);
        assert!(begin(&gate, shared, now + HANDSHAKE_SLOW / 2).is_none());
        let honest = begin(&gate, shared, now + HANDSHAKE_SLOW).unwrap();
        assert!(ended(&slow[0]) && !ended(&slow[1]) && !ended(&honest));
    }

    #[tokio::test]
    async fn a_crowd_waits_for_its_places_and_is_bounded() {
        let gate = shaking(2);
        let [crowd] = addresses();
        let first = gate.begin_handshake(crowd, spoken()).await.unwrap();
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.begin_handshake(crowd, spoken()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(gate.connections(), 5, "half of the crowd's places for one address; the fifth was refused");
        drop(first);
        let mut ends = Vec::new();
        for one in waiting {
            // Each gives its place back at once, for the next.
            ends.push(one.await.unwrap().map(drop));
        }
        assert_eq!(ends, [Ok(()), Ok(()), Ok(()), Ok(()), Err(Reason::TooManyHandshakes)]);
        let open = gate.lock();
        assert!(open.crowd.total() == 0 && open.crowd.of(crowd) == 0);
    }

    #[tokio::test]
    async fn the_crowd_is_served_by_turns_and_a_place_goes_to_who_has_fewest() {
        let gate = shaking(4);
        let [many, few, newcomer] = addresses();
        let held = [many, many, few].map(|address| begin(&gate, address, Instant::now()).unwrap());
        let served = Arc::new(Mutex::new(Vec::new()));
        let wait = |address, name| {
            let (gate, served) = (Arc::clone(&gate), Arc::clone(&served));
            tokio::spawn(async move {
                let place = gate.begin_handshake(address, spoken()).await.unwrap();
                served.lock().unwrap().push(name);
                tokio::task::yield_now().await;
                drop(place);
            })
        };
        let waiting = [wait(many, "many 1"), wait(many, "many 2"), wait(few, "few 1")];
        tokio::task::yield_now().await;
        assert_eq!(gate.connections(), 6, "they are at their share: one part of 16, but at least one");
        let honest = begin(&gate, newcomer, Instant::now()).expect("there is one place, and it has no other");
        drop((honest, held));
        for one in waiting {
            one.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), ["many 1", "few 1", "many 2"]);
        assert_eq!(gate.connections(), 0);
    }

    #[test]
    fn an_ipv6_customer_has_one_limit_and_so_has_a_mapped_ipv4_address() {
        let payer = |text: &str| super::payer(text.parse().unwrap()).to_string();
        assert_eq!(payer("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(payer("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(payer("192.0.2.1"), "192.0.2.1");
    }
}
