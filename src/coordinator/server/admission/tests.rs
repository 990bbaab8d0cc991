//! Whom the gate lets in, turns away and lets give way.

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
    let limits = Limits { connections_max: 3, connections_per_address_max: 2, operators_kept: 1, ..Limits::default() };
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
