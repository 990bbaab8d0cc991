//! Rows, and how they are run: one after another on one bed, each under live clients, and at the end the judgement of the history.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tfo_testbed::cluster::{self, Cluster, Layout};
use tfo_testbed::etcd::need_etcd;
use tfo_testbed::levers::Fleet;
use tfo_testbed::{PATIENCE, by_size, need_netns, need_tool, now, poll_some};

/// Nodes of a bed.
pub(crate) const NODES: usize = 8;
/// The node that holds a rotation up, so that a fault meets it where it should.
pub(crate) const HELD: usize = 8;

/// The fleet of a bed.
pub(crate) type Bed = Fleet<Cluster>;

/// In which runs a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Runs {
    /// All of them.
    Short,
    /// `tests/run --long`, as CI does it.
    Long,
    /// `tests/run --full`.
    Full,
}

/// A row of the matrix.
pub(crate) struct Row {
    pub(crate) number: u8,
    pub(crate) name: &'static str,
    pub(crate) runs: Runs,
    /// Injects the fault, and leaves the fleet as good as it was.
    pub(crate) act: fn(&mut Bed),
}

/// Whether a bed can be made here; otherwise skips.
#[track_caller]
pub(crate) fn can_run() -> bool {
    need_netns() && need_etcd() && need_tool("nft") && need_tool("cc") && need_tool("strace")
}

/// Rows of this run: those of its size, or those that `TFO_ROWS` names.
fn wanted(rows: &'static [Row]) -> Vec<&'static Row> {
    let size = by_size(Runs::Short, Runs::Long, Runs::Full);
    let named = std::env::var("TFO_ROWS").ok();
    let named: Option<Vec<u8>> =
        named.map(|named| named.split(',').map(|number| number.trim().parse().expect("TFO_ROWS=1,7")).collect());
    let is_wanted = |row: &&Row| named.as_ref().map_or(row.runs <= size, |named| named.contains(&row.number));
    rows.iter().filter(is_wanted).collect()
}

fn made(layout: Layout) -> Bed {
    let start = now();
    let bed = cluster::up(NODES, layout);
    println!("a bed was made in {}", secs(start));
    bed
}

/// Runs rows that are about the harm that is done in them: each judges that itself.
pub(crate) fn run_unjudged(rows: &'static [Row], layout: Layout) {
    let rows = wanted(rows);
    if rows.is_empty() {
        return;
    }
    let mut bed = made(layout);
    for row in rows {
        println!("row {} ({}):", row.number, row.name);
        (row.act)(&mut bed);
    }
    bed.end();
}

/// Runs rows on a bed.  No connection may lose its cookie in any of them.
pub(crate) fn run(rows: &'static [Row], layout: Layout) {
    let rows = wanted(rows);
    if rows.is_empty() {
        return;
    }
    let mut bed = made(layout);
    for row in rows {
        let start = now();
        let name = format!("row {} ({})", row.number, row.name);
        println!("{name}:");
        bed.costs_nothing(&name, |bed| (row.act)(bed));
        steady(&mut bed);
        println!("{name}: {}", secs(start));
    }
    let faults = bed.faults();
    assert!(faults.is_empty(), "{faults:?}");
    bed.center.history().must_be_good();
    bed.end();
}

/// Time since then, for people.
pub(crate) fn secs(start: Instant) -> String {
    format!("{:.1} s", now().duration_since(start).as_secs_f64())
}

/// Nodes of the pool: those of the bed, and simulated ones.
pub(crate) fn all(bed: &Bed) -> usize {
    NODES + bed.center.simulated()
}

/// Every node is required and has converged, whatever coordinator is asked.
pub(crate) fn steady(bed: &mut Bed) {
    let all = all(bed);
    for first in 0..cluster::COORDINATORS {
        bed.center.ask = (0..cluster::COORDINATORS).map(|step| (first + step) % cluster::COORDINATORS).collect();
        bed.until("all are converged", |pool| {
            pool["phase"] == "steady" && pool["required"] == all && pool["converged"] == all
        });
    }
    bed.center.ask = (0..cluster::COORDINATORS).collect();
}

/// Where a rotation stands still for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// The next key is staged, and one node has not acknowledged it.
    Staged,
    /// All waves are open, and one node has not acknowledged its promotion.
    Promoted,
}

/// A rotation that stands still in two places; `fault` happens there, and what comes after it is the next commit.
///
/// The faults end when that is made: `heal` undoes each.
pub(crate) fn rotation(
    bed: &mut Bed,
    fault: &mut dyn FnMut(&mut Bed, Stand) -> String,
    heal: &mut dyn FnMut(&mut Bed, Stand),
) {
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    for (stand, phase) in [(Stand::Staged, "staged"), (Stand::Promoted, "promoted")] {
        bed.waits_for(phase, HELD);
        let before = bed.center.revision().expect("a coordinator answers");
        let start = now();
        let what = fault(bed, stand);
        bed.thaw_agent(HELD);
        let after = bed.center.next_commit(before, start);
        println!("  {phase}: {what}: next commit after {:.2} s", after.as_secs_f64());
        if stand == Stand::Staged {
            // The canary is another node, and its wave is looked at for a while: this one is not instructed yet.
            bed.freeze_agent(HELD);
        }
        heal(bed, stand);
    }
    bed.settled();
}

/// All entries of the audit log.
pub(crate) fn entries(bed: &Bed) -> Vec<Value> {
    let asked = poll_some(PATIENCE, || bed.ask(&Method::GET, "/audit?after=0", None).ok());
    let body = asked.unwrap_or_else(|| panic!("no audit log: {}", bed.center.logs()));
    body["entries"].as_array().cloned().expect("it is the audit log")
}

/// What was done, in its order.
pub(crate) fn actions(bed: &Bed) -> Vec<String> {
    entries(bed).iter().map(|entry| entry["action"].as_str().unwrap_or_default().to_owned()).collect()
}

/// No node was ever excluded.
#[track_caller]
pub(crate) fn none_excluded(bed: &Bed) {
    let actions = actions(bed);
    assert!(!actions.iter().any(|action| action == "exclude"), "{actions:?}");
}

/// What the agents say of themselves, by node.
pub(crate) fn states(look: &Value) -> String {
    let mut text = String::new();
    for (node, sight) in look["nodes"].as_object().into_iter().flatten() {
        write!(text, "{node}: {} ", sight["status"]["state"]).expect("a String takes everything");
    }
    text
}

/// Waits without doing anything: for rows that are about a time.
pub(crate) fn pass(time: Duration) {
    std::thread::sleep(time);
}
