//! `tfo-coordinator`: the process with real TLS and SQLite on disk, its transport, what it exports, and a long run under
//! faults.

#[cfg(test)]
mod calendar;
#[cfg(test)]
mod config;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod page;
#[cfg(test)]
mod process;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod several;
#[cfg(test)]
mod siege;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod spiffe;
#[cfg(test)]
mod stolen;
#[cfg(test)]
mod stuck;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod verdict;

use tfo_testbed::coordinator::{Node, World};

/// A coordinator whose nodes have the first key, and these nodes.
#[track_caller]
fn with_first_key(pool: &str) -> (World, Vec<Node>) {
    let world = World::started(pool);
    let mut nodes = world.nodes();
    world.first_key(&mut nodes);
    (world, nodes)
}
