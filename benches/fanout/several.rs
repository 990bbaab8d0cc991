//! Several coordinators at once: each with a store, a pool and agents of its own (`TFO_FANOUT_COORDINATORS=5`: every size is
//! that of one of them), or all with one pool on one etcd of three members (`TFO_FANOUT_STORE=etcd`: a size is that of the pool).
//!
//! They share this machine's cores with all agents and the members: what is measured is what they take, and not how fast they
//! would be on a machine each.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::agents::{Crowd, poll_secs};
use super::coordinator::{Coordinator, Files, Line, is_settled, own_store, phases};
use super::figures::{Percentiles, cpu, median, ms, resident_kib};
use super::{PATIENCE, Scale, count, micros};
use tfo_testbed::etcd::{Etcd, Plan};

/// How many coordinators there are.
const COORDINATORS: &str = "TFO_FANOUT_COORDINATORS";
/// What they keep their pools in: `sqlite` (default) or `etcd`.
const STORE: &str = "TFO_FANOUT_STORE";
/// Coordinators, and members, of one pool.
const SHARERS: usize = 3;

/// How many coordinators are measured at once, and whether they have one pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Several {
    count: usize,
    is_shared: bool,
}

/// What the environment asks for; none: one coordinator.
pub(crate) fn wanted() -> Option<Several> {
    let count = std::env::var(COORDINATORS).ok().map(|count| count.parse().expect("a number"));
    let store = std::env::var(STORE).unwrap_or_else(|_| "sqlite".to_owned());
    assert!(matches!(store.as_str(), "sqlite" | "etcd"), "{STORE} is sqlite or etcd");
    let is_shared = store == "etcd";
    (is_shared || count.is_some()).then(|| Several { count: count.unwrap_or(SHARERS), is_shared })
}

/// The coordinators of one pool, and its agents.
struct Pool {
    coordinators: Vec<Coordinator>,
    crowd: Crowd,
    agents: usize,
}

impl Several {
    /// Everything for one number of agents.
    pub(crate) fn measure(self, size: usize, scale: &Scale) {
        let Self { count: coordinators, is_shared } = self;
        let etcd = is_shared.then(|| {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
            Etcd::new(&Plan { dir: Some(dir), ..Plan::of(SHARERS) })
        });
        let what = if is_shared { "with one pool on an etcd of three members" } else { "with a pool each" };
        println!("\n{coordinators} coordinators {what}, {size} agents of each pool");
        let start = Instant::now();
        let (mut pools, empty) = self.start(size, etcd.as_ref());
        for pool in &mut pools {
            pool.crowd.wait("all agents", |seen| seen.connected == size);
        }
        println!(
            "  all agents come                 {:.1} s from the start of the first coordinator",
            start.elapsed().as_secs_f64()
        );
        for pool in &mut pools {
            pool.coordinators[0].first_key(size);
            pool.crowd.wait("the first key", |seen| seen.on(1) == size);
            pool.coordinators[0].resume();
        }
        let spent = Spent::now(&pools, etcd.as_ref());
        let phases: Vec<Vec<Percentiles>> = (0..scale.rotations).flat_map(|_| rotate(&pools)).collect();
        let (took, of_etcd) = spent.since(&pools, etcd.as_ref());
        let each: Vec<Percentiles> = phases.into_iter().flatten().collect();
        report(&each, took, size);
        if etcd.is_some() {
            let phases = count(each.len());
            println!("  etcd                            {:.2} s of CPU for each phase", of_etcd.as_secs_f64() / phases);
        }
        let full: usize = pids(&pools).map(resident_kib).sum();
        let agents = size * pools.len();
        println!(
            "  memory                          {:.1} KiB for each agent ({empty} KiB without, {full} KiB with all)",
            count(full - empty) / count(agents)
        );
        idle(&pools, etcd.as_ref(), scale.idle);
        for pool in &mut pools {
            let seen = pool.crowd.seen();
            assert_eq!((seen.violations, seen.troubles.as_str()), (0, "none"), "a connection broke, or worse");
        }
    }

    /// All of them with their agents, and what the coordinators take without, in KiB.
    fn start(self, size: usize, etcd: Option<&Etcd>) -> (Vec<Pool>, usize) {
        let program = Path::new(env!("CARGO_BIN_EXE_tfo-coordinator"));
        let groups: Vec<Vec<Coordinator>> = match etcd {
            Some(etcd) => {
                let files = Files::new(&format!("etcd-{size}"));
                let store = |name: &str, dir: &Path| {
                    let (urls, ca, lock) = (etcd.urls(), etcd.path("ca.crt"), dir.join("name.lock"));
                    format!("kind = \"etcd\"\nurls = {urls:?}\nca = {ca:?}\nname = {name:?}\nname_lock = {lock:?}\n")
                };
                let one = |number| Coordinator::with(program, (files.clone(), number), size, &store);
                vec![(0..self.count).map(one).collect()]
            }
            None => {
                let one = |number| {
                    let files = Files::new(&format!("{number}-{size}"));
                    vec![Coordinator::with(program, (files, number), size, &own_store)]
                };
                (0..self.count).map(one).collect()
            }
        };
        let mut empty = 0;
        let start = |mut coordinators: Vec<Coordinator>| {
            for coordinator in &mut coordinators {
                coordinator.start();
                empty += resident_kib(coordinator.pid());
            }
            let crowd = Crowd::start(&coordinators, size);
            Pool { coordinators, crowd, agents: size }
        };
        let pools = groups.into_iter().map(start).collect();
        (pools, empty)
    }
}

/// One rotation of every pool, all at once: the times of each one's phases.
fn rotate(pools: &[Pool]) -> Vec<Vec<Percentiles>> {
    let logged = |pool: &Pool| -> Vec<u64> { pool.coordinators.iter().map(Coordinator::logged).collect() };
    let from: Vec<Vec<u64>> = pools.iter().map(logged).collect();
    pools.iter().for_each(|pool| pool.coordinators[0].order_rotation());
    let ended = |(pool, from): (&Pool, &Vec<u64>)| {
        let start = Instant::now();
        loop {
            // Whichever coordinator commits: the acknowledgements are stored by all.
            let mut lines: Vec<(Timestamp, Line)> = Vec::new();
            for (coordinator, from) in pool.coordinators.iter().zip(from) {
                lines.extend(coordinator.lines_after(*from));
            }
            lines.sort_by_key(|(at, _)| *at);
            if is_settled(&lines) {
                return phases(&lines, pool.agents);
            }
            assert!(start.elapsed() < PATIENCE, "a rotation does not end");
            sleep(Duration::from_millis(100));
        }
    };
    pools.iter().zip(&from).map(ended).collect()
}

fn pids(pools: &[Pool]) -> impl Iterator<Item = u32> {
    pools.iter().flat_map(|pool| &pool.coordinators).map(Coordinator::pid)
}

/// CPU time of all coordinators, and of the members.
struct Spent(Duration, Duration);

impl Spent {
    fn now(pools: &[Pool], etcd: Option<&Etcd>) -> Self {
        let members = etcd.into_iter().flat_map(Etcd::pids);
        Self(pids(pools).map(cpu).sum(), members.map(cpu).sum())
    }

    fn since(&self, pools: &[Pool], etcd: Option<&Etcd>) -> (Duration, Duration) {
        let Self(coordinators, members) = Self::now(pools, etcd);
        (coordinators - self.0, members - self.1)
    }
}

fn report(each: &[Percentiles], took: Duration, size: usize) {
    let of = |read: fn(&Percentiles) -> Duration| ms(median(each.iter().map(read).collect()));
    let worst = each.iter().map(|phase| phase.p100).max().unwrap_or_default();
    println!(
        "  commit to ack stored            p50 {}  p99 {}  p100 {}  worst {}  ({} phases of a pool)",
        of(|p| p.p50),
        of(|p| p.p99),
        of(|p| p.p100),
        ms(worst),
        each.len()
    );
    println!(
        "  coordinators                    {:.0} us of CPU for each acknowledged change",
        micros(took) / count(size * each.len())
    );
}

fn idle(pools: &[Pool], etcd: Option<&Etcd>, time: Duration) {
    // What the rotations left behind is over by then.
    sleep(time / 4);
    let before = Spent::now(pools, etcd);
    sleep(time);
    let (spent, of_etcd) = before.since(pools, etcd);
    let share = |spent: Duration| 100.0 * spent.as_secs_f64() / time.as_secs_f64();
    println!(
        "  idle, polls of at most {:3} s    {:.2} % of a core for each coordinator, {:.2} % for etcd, over {} s",
        poll_secs(),
        share(spent) / count(pids(pools).count()),
        share(of_etcd),
        time.as_secs()
    );
}
