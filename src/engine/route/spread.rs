//! Whether a fleet spreads over its coordinators, and does so again after each of them was restarted: 300 nodes in virtual
//! time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{Returns, Route, preferred};
use crate::backoff::Trouble;
use crate::rollout::crowd::{ELSEWHERE_PARTS, is_crowded};

const NODES: usize = 300;
const COORDINATORS: usize = 3;
/// How long a request without news is held.
const HOLD: Duration = Duration::from_secs(60);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// When a coordinator is away.
#[derive(Debug, Clone, Copy)]
struct Outage {
    coordinator: usize,
    from: Duration,
    until: Duration,
}

struct Node {
    route: Route,
    /// The coordinator that holds its request.
    held: Option<usize>,
    /// Its next request opens a session.
    opens: bool,
    sessions: usize,
}

struct Fleet {
    nodes: Vec<Node>,
    outages: Vec<Outage>,
    events: BinaryHeap<Reverse<(Duration, usize)>>,
    seed: u64,
    crowded_answers: usize,
    /// Requests that each coordinator holds.
    loads: [usize; COORDINATORS],
}

impl Fleet {
    /// Nodes that prefer coordinators in these orders.
    fn new(outages: &[Outage], order: impl Fn(&str) -> Vec<usize>) -> Self {
        let node = |number: usize| {
            let route = Route::new(order(&format!("cp{number}.example.org")), Returns::SLOWLY);
            Node { route, held: None, opens: true, sessions: 0 }
        };
        let events = (0..NODES).map(|node| Reverse((Duration::ZERO, node))).collect();
        let nodes = (0..NODES).map(node).collect();
        Self {
            nodes,
            outages: outages.to_vec(),
            events,
            seed: 0x9e37_79b9_7f4a_7c15,
            crowded_answers: 0,
            loads: [0; COORDINATORS],
        }
    }

    fn random(&mut self) -> u32 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        u32::try_from(self.seed >> 32).expect("32 bits are left")
    }

    /// When a coordinator that holds a request from `now` on ends; none if it is away.
    fn serves(&self, coordinator: usize, now: Duration) -> Option<Duration> {
        let own = || self.outages.iter().filter(|outage| outage.coordinator == coordinator);
        let is_up = !own().any(|outage| (outage.from..outage.until).contains(&now));
        is_up.then(|| own().map(|outage| outage.from).filter(|from| *from > now).min().unwrap_or(Duration::MAX))
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((now, at))) = self.events.pop() {
            if now > until {
                self.events.push(Reverse((now, at)));
                return;
            }
            self.step(now, at);
        }
    }

    /// The node's request ends, or its pause does.
    fn step(&mut self, now: Duration, at: usize) {
        let random = self.random();
        let before = self.nodes[at].route.current();
        if self.nodes[at].held.is_some() && self.serves(before, now).is_some() {
            // Nothing new.
            // Those that do not beat do not count.
            let is_other = |at: &usize| *at != before && self.serves(*at, now).is_some();
            let others: Vec<usize> = (0..COORDINATORS).filter(is_other).map(|at| self.loads[at]).collect();
            let own = self.loads[before];
            let is_crowded = is_crowded(own, &others);
            let sent = is_crowded && self.crowded_answers.is_multiple_of(ELSEWHERE_PARTS);
            self.crowded_answers += usize::from(is_crowded);
            let route = &mut self.nodes[at].route;
            self.nodes[at].opens = route.returns(now) || (sent && route.relieved(now, random));
        }
        if let Some(held) = self.nodes[at].held.take() {
            self.loads[held] -= 1;
        }
        let current = self.nodes[at].route.current();
        let ends = self.serves(current, now);
        let node = &mut self.nodes[at];
        let next = match ends {
            Some(ends) => {
                node.route.succeeded();
                node.held = Some(current);
                node.sessions += usize::from(std::mem::take(&mut node.opens));
                self.loads[current] += 1;
                (now + HOLD).min(ends)
            }
            None => {
                let next = node.route.failed(now, Trouble::Away, None, random);
                node.opens |= next.other;
                next.at
            }
        };
        self.events.push(Reverse((next, at)));
    }

    fn sessions(&self) -> usize {
        self.nodes.iter().map(|node| node.sessions).sum()
    }
}

fn by_name(node: &str) -> Vec<usize> {
    let urls: Vec<String> = (1..=COORDINATORS).map(|number| format!("https://tfo{number}.example.org:9443")).collect();
    preferred(node, &urls)
}

fn is_even(loads: [usize; COORDINATORS]) -> bool {
    let third = NODES / COORDINATORS;
    loads.iter().all(|load| load.abs_diff(third) * 100 <= third * 15)
}

#[test]
fn each_has_its_share_again_some_time_after_all_were_restarted_one_after_another() {
    let restart = |coordinator: usize, at: u64| Outage { coordinator, from: secs(at), until: secs(at + 3) };
    let mut fleet = Fleet::new(&[restart(0, 100), restart(1, 130), restart(2, 160)], by_name);
    fleet.run(secs(90));
    assert!(is_even(fleet.loads), "at the start: {:?}", fleet.loads);
    fleet.run(secs(170));
    let loads = fleet.loads;
    assert!(loads[2] < 5, "the last one has none: {loads:?}");
    assert_eq!(loads.iter().sum::<usize>(), NODES, "no node is left alone: {loads:?}");
    fleet.run(secs(170 + 600));
    let (early, returns) = (fleet.loads, Returns::SLOWLY);
    assert!(early[2] < 40, "they come back slowly: {early:?}");
    fleet.run(secs(170) + returns.after + returns.spread + HOLD);
    assert!(is_even(fleet.loads), "at the end: {:?}", fleet.loads);
    assert!(fleet.sessions() <= 4 * NODES, "{} sessions", fleet.sessions());
}

#[test]
fn one_that_stays_away_is_tried_ever_more_seldom() {
    let mut fleet = Fleet::new(&[Outage { coordinator: 1, from: secs(100), until: Duration::MAX }], by_name);
    fleet.run(secs(90));
    let own = fleet.loads[1];
    fleet.run(secs(86_400));
    let loads = fleet.loads;
    assert!(loads[1] == 0 && loads[0].abs_diff(loads[2]) < 45, "its nodes spread over both: {loads:?}");
    // Back to the one that they have, each time in a new session: for each of its nodes about one try in 95 minutes.
    assert!(fleet.sessions() < NODES + own * 30, "{} sessions of {own} nodes", fleet.sessions());
}

#[test]
fn a_coordinator_with_too_many_sends_some_elsewhere_and_not_more_than_that() {
    // All know the first, and each one of the others.
    let mut fleet = Fleet::new(&[], |node| vec![0, 1 + node.len() % 2]);
    fleet.run(secs(50));
    assert_eq!(fleet.loads, [NODES, 0, 0]);
    fleet.run(secs(120));
    assert!(fleet.loads[0] > NODES / 2, "slowly: {:?}", fleet.loads);
    fleet.run(secs(1_200));
    let loads = fleet.loads;
    assert!((NODES / 3..=NODES * 6 / 10).contains(&loads[0]), "{loads:?}");
    assert!(loads.iter().all(|load| *load > 0), "{loads:?}");
}
