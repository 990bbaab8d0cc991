//! kill -9 of the coordinator in the middle of a rotation, and systemd's 2 s until it runs again: all nodes are back at
//! once, without asking all the time, and the rotation ends about as soon as it would have.

use std::time::Duration;

use super::killed::commits;
use tfo_testbed::fleet::Fleet;
use tfo_testbed::{PATIENCE, by_size, need_netns, now, poll_until, skip_unless};

const NODES: usize = 8;
/// `RestartSec` of the unit.
const AWAY: Duration = Duration::from_secs(2);
/// Far more than it takes: 0.4 s without a kill, and 2 s more for the coordinator.
const SOON_ENOUGH: Duration = Duration::from_secs(10);
/// Most requests of an agent in such a rotation: its tries, and what it asks in any rotation.
const ASKS_MAX: usize = 20;

/// When the coordinator is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    Never,
    Staged,
    Promoted,
    /// Half of the nodes have not heard of the rotation; their agents start together with the coordinator.
    Unheard,
}

fn asks(fleet: &Fleet) -> Vec<usize> {
    let count = |log: String| log.lines().filter(|line| line.contains("asking")).count();
    fleet.daemons.iter().map(|daemon| count(daemon.as_ref().unwrap().log())).collect()
}

fn rotate(fleet: &mut Fleet, kill: Kill) -> Duration {
    let before = fleet.converged(NODES);
    let late = if kill == Kill::Unheard { NODES / 2 } else { 0 };
    (0..late).for_each(|number| fleet.stop_agent(number));
    let phase = if kill == Kill::Promoted { "promoted" } else { "staged" };
    let logged = commits(fleet, phase);
    fleet.ends(&["rotate"], 0);
    let began = now();
    if kill != Kill::Never {
        assert!(poll_until(PATIENCE, || commits(fleet, phase) > logged), "{}", fleet.log());
        fleet.kill();
        (0..late).for_each(|number| fleet.start_agent(number));
        std::thread::sleep(AWAY);
        fleet.serve();
    }
    let epoch = before["primary"]["epoch"].as_u64();
    fleet.until("steady with the next key", |pool| {
        pool["phase"] == "steady" && pool["converged"] == NODES && pool["primary"]["epoch"].as_u64() > epoch
    });
    now().duration_since(began)
}

#[test]
fn a_rotation_ends_soon_after_its_coordinator_was_killed() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::steady(NODES);
    for _ in 0..by_size(1, 3, 10) {
        for kill in [Kill::Never, Kill::Staged, Kill::Promoted, Kill::Unheard] {
            let before = asks(&fleet);
            let took = rotate(&mut fleet, kill);
            let asked: Vec<usize> = match kill {
                // Some agents have a log of their own since.
                Kill::Unheard => asks(&fleet),
                _ => asks(&fleet).iter().zip(before).map(|(after, before)| after - before).collect(),
            };
            println!("killed {kill:?}: steady after {:.1} s, requests of the agents {asked:?}", took.as_secs_f64());
            assert!(took < SOON_ENOUGH, "{kill:?}: {took:?}\n{}", fleet.log());
            if kill != Kill::Unheard {
                assert!(asked.iter().all(|asked| *asked <= ASKS_MAX), "{kill:?}: {asked:?}");
            }
        }
    }
}
