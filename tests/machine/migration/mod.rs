//! From what a fleet has to tfo-fleet, while clients connect to all nodes: what is typed is what the pages
//! of docs/how-to have.
//!
//! Each test first takes a step that the page warns of, and sees it cost cookies; a migration that then costs nothing does so because
//! of its steps.  They run beside each other, in any number: they mostly wait for the clock, because the shortest interval is 10 s.

mod node;
mod script;
mod static_key;
mod tofurkey;

use std::time::Duration;

use tfo_testbed::levers::Fleet;

/// Nodes of each fleet.
const NODES: usize = 4;
/// More rejections than clients, so not only one unlucky cookie each (tests/fleet/broken.rs).
const MANY: u64 = 20;
/// What `check` says of a file that another program has written.
const FOREIGN: &str = "50-tcp_fastopen_key.conf: this file was not written by tfo-agent";
/// Longest wait for a change of keys: two intervals, on a slow machine.
const CHANGE: Duration = Duration::from_secs(60);

/// A fleet whose nodes all have the same keys by these commands, with servers and clients.
fn serving(keys_by: &str) -> Fleet {
    let mut fleet = Fleet::start(NODES);
    node::prepare(&mut fleet, NODES);
    for number in 1..=NODES {
        node::typed(&mut fleet, number, keys_by);
    }
    fleet.serve_all(NODES);
    fleet
}
