//! Whether a fleet that comes back all together wears its coordinator down: ten thousand nodes and the places of one
//! coordinator, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::{Pauses, Trouble};

/// Handshakes under way at a coordinator, and connections that wait for a place (`coordinator::server::limits`).
const PLACES: usize = 1_000;
const CROWD_MAX: usize = 2 * PLACES;
/// How long one waits there.
const CROWD_PATIENCE: Duration = Duration::from_secs(2);
/// What a slow coordinator does for each that comes: handshake and admission.  Ours takes 0.5 ms (`benches/fanout`).
const WORK: Duration = Duration::from_micros(850);

/// What happens to the node with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks(usize),
    IsBack(usize),
}

/// How a return went.
#[derive(Debug, Default)]
struct Return {
    /// Time from the coordinator's start to the last node.
    all: Duration,
    /// Connections that the coordinator accepted and then refused: work for nothing, for both.
    refused: usize,
    /// Attempts while nothing listened.
    unheard: usize,
}

/// A coordinator with its places.
struct Coordinator {
    up_at: Duration,
    free_at: Duration,
    shaking: usize,
    crowd: VecDeque<(Duration, usize)>,
}

impl Coordinator {
    /// Begins with this node's handshake; gives when it is over.
    fn shake(&mut self, now: Duration) -> Duration {
        self.shaking += 1;
        self.free_at = self.free_at.max(now) + WORK;
        self.free_at
    }
}

/// `nodes` lose their connections at 0, and the coordinator is away until `up_at`.
fn come_back(nodes: usize, up_at: Duration) -> Return {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        u32::try_from(seed >> 32).expect("32 bits are left")
    };
    let mut pauses = vec![Pauses::default(); nodes];
    let mut coordinator = Coordinator { up_at, free_at: up_at, shaking: 0, crowd: VecDeque::new() };
    let mut went = Return::default();
    let mut events = BinaryHeap::new();
    for (node, own) in pauses.iter_mut().enumerate() {
        events.push(Reverse((own.after(Trouble::Away, None, random()), Event::Asks(node))));
    }
    while let Some(Reverse((now, event))) = events.pop() {
        let mut again = |node: usize, trouble| {
            events.push(Reverse((now + pauses[node].after(trouble, None, random()), Event::Asks(node))));
        };
        match event {
            Event::Asks(node) if now < coordinator.up_at => {
                went.unheard += 1;
                again(node, Trouble::Away);
            }
            Event::Asks(node) if coordinator.shaking < PLACES => {
                let over = coordinator.shake(now);
                events.push(Reverse((over, Event::IsBack(node))));
            }
            Event::Asks(node) if coordinator.crowd.len() < CROWD_MAX => coordinator.crowd.push_back((now, node)),
            Event::Asks(node) => {
                went.refused += 1;
                again(node, Trouble::Strained);
            }
            Event::IsBack(_) => {
                went.all = now - up_at;
                coordinator.shaking -= 1;
                while let Some((since, node)) = coordinator.crowd.pop_front() {
                    if now - since <= CROWD_PATIENCE {
                        let over = coordinator.shake(now);
                        events.push(Reverse((over, Event::IsBack(node))));
                        break;
                    }
                    went.refused += 1;
                    let pause = pauses[node].after(Trouble::Strained, None, random());
                    events.push(Reverse((now + pause, Event::Asks(node))));
                }
            }
        }
    }
    went
}

#[test]
fn a_fleet_comes_back_as_fast_as_its_coordinator_can_take_it() {
    let (ms, secs) = (Duration::from_millis, Duration::from_secs);
    // A few nodes: after one quick try, whether systemd takes its 2 s or not.
    for up_at in [ms(100), ms(2_100), ms(3_000)] {
        let went = come_back(8, up_at);
        assert!(went.all <= ms(1_260) && went.refused == 0, "{up_at:?}: {went:?}");
    }
    // Many: no faster than the work for all, and not much slower; each is refused once or twice at most.
    for (nodes, up_at) in [(5_000, ms(300)), (5_000, ms(2_100)), (10_000, ms(300)), (10_000, ms(2_100))] {
        let (went, work) = (come_back(nodes, up_at), WORK * u32::try_from(nodes).unwrap());
        println!("{nodes} nodes, away for {up_at:?}: {went:?}, work for {work:?}");
        assert!(went.all >= work && went.all <= work + secs(3), "{nodes} {up_at:?}: {went:?}, work for {work:?}");
        assert!(went.refused <= nodes + nodes / 2, "{nodes} {up_at:?}: {went:?}");
        assert!(went.unheard <= 4 * nodes, "{nodes} {up_at:?}: {went:?}");
    }
    // A coordinator that stays away is asked ever more seldom.
    let went = come_back(1_000, secs(600));
    assert!(went.unheard <= 25 * 1_000 && went.all <= secs(60) && went.refused == 0, "{went:?}");
}
