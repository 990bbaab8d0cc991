//! How fast one change reaches a whole fleet: commit to the last acknowledgement stored, beside the floor.
//!
//! `cargo bench --bench fanout`.  The coordinator is the real program with its SQLite store on the disk under target/;
//! agents are simulated (tests/testbed/swarm.rs) in processes of their own, each with its own certificate, connection
//! and long poll.  All share this machine's cores, so the agents' work is in the times.
//! * Phases: from the commit in the coordinator's log to the write that stored the acknowledgement, for each record.
//! * Floor: the same bytes, broadcast and acknowledged over plain TCP, in the same run; nothing is parsed or stored.
//! * etcd: a watch and an acknowledging put for each client, if /usr/bin/etcd is there (Debian: etcd-server).
//!
//! `TFO_SMOKE=1` runs it once and small; its figures mean nothing.  `TFO_FANOUT_SIZES=1000,5000` chooses sizes.
//! `TFO_FANOUT_BASELINE=BINARY` measures another coordinator in the same run, for the two have the same floor and the same
//! hour of the machine.  `TFO_FANOUT_IDLE=600` is how long the idle coordinator is watched, in seconds;
//! `TFO_FANOUT_POLL=30` what agents bear of a long poll.
//! `TFO_FANOUT_COORDINATORS=5` measures so many at once, `TFO_FANOUT_STORE=etcd` three with one pool: `several`.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod agents;
mod coordinator;
mod etcd;
mod figures;
mod floor;
mod several;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agents::Crowd;
use coordinator::Coordinator;
use figures::{Percentiles, cpu, loadavg, median, resident_kib};

/// Numbers of agents.  The last is as near to the limit of 20 000 descriptors as the coordinator's reserve lets.
const SIZES: [usize; 4] = [1_000, 5_000, 10_000, 19_500];
/// Rotations of each size; each has two phases.
const ROTATIONS: usize = 5;
/// How long the coordinator is watched when nothing happens.
const IDLE: Duration = Duration::from_secs(60);
/// Descriptors of a process that are no connections.
const OTHER_FILES: usize = 290;
/// Names another coordinator to be measured beside that of this build.
const BASELINE: &str = "TFO_FANOUT_BASELINE";
/// What this process is.
const ROLE: &str = "TFO_FANOUT_ROLE";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much is done.
struct Scale {
    sizes: Vec<usize>,
    rotations: usize,
    idle: Duration,
}

impl Scale {
    fn wanted() -> Self {
        if std::env::var_os("TFO_SMOKE").is_some() {
            return Self { sizes: vec![50], rotations: 1, idle: Duration::from_secs(2) };
        }
        let chosen = std::env::var("TFO_FANOUT_SIZES").ok();
        let chosen = chosen.map(|text| text.split(',').map(|size| size.parse().expect("numbers")).collect());
        let idle = std::env::var("TFO_FANOUT_IDLE").ok().map(|secs| secs.parse().expect("a number of seconds"));
        let idle = idle.map_or(IDLE, Duration::from_secs);
        Self { sizes: chosen.unwrap_or_else(|| SIZES.to_vec()), rotations: ROTATIONS, idle }
    }
}

fn main() -> ExitCode {
    let files = usize::try_from(tfo_host::runtime::process::raise_file_limit()).unwrap_or(usize::MAX);
    match std::env::var(ROLE).as_deref() {
        Ok("agents") => agents::run(),
        Ok("floor") => floor::run_clients(),
        Ok("etcd") => etcd::run_clients(),
        _ => {
            let scale = Scale::wanted();
            println!("fan-out; load average at the start {}, descriptors per process {files}", loadavg());
            for size in &scale.sizes {
                let size = (*size).min(files.saturating_sub(OTHER_FILES));
                match several::wanted() {
                    Some(several) => several.measure(size, &scale),
                    None => measure(size, &scale),
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// Everything for one number of agents.
fn measure(size: usize, scale: &Scale) {
    println!("\n{size} agents");
    let floor = floor::measure(size, scale.rotations * 2);
    println!(
        "  floor, plain TCP                p50 {}  p99 {}  p100 {}  worst {}",
        floor.p50, floor.p99, floor.p100, floor.worst
    );
    let baseline = std::env::var_os(BASELINE).map(PathBuf::from);
    if let Some(baseline) = &baseline {
        println!("  -- {}", baseline.display());
        measure_coordinator(baseline, size, scale, &floor);
        println!("  -- this build");
    }
    measure_coordinator(env!("CARGO_BIN_EXE_tfo-coordinator").as_ref(), size, scale, &floor);
    etcd::measure(size, scale.rotations * 2);
}

/// What a coordinator takes, and how fast it is.
fn measure_coordinator(program: &Path, size: usize, scale: &Scale, floor: &floor::Floor) {
    let mut coordinator = Coordinator::new(program, size);
    coordinator.start();
    let empty = resident_kib(coordinator.pid());
    let mut crowd = Crowd::start(std::slice::from_ref(&coordinator), size);
    come(&coordinator, &mut crowd, size);
    coordinator.first_key(size);
    crowd.wait("the first key", |seen| seen.on(1) == size);
    coordinator.resume();

    let before = cpu(coordinator.pid());
    let mut phases: Vec<Percentiles> = Vec::new();
    for rotation in 1..=scale.rotations {
        phases.extend(coordinator.rotate(size));
        let generation = 1 + 2 * u64::try_from(rotation).expect("a few");
        crowd.wait("the rotation", |seen| seen.on(generation) == size);
    }
    let spent = cpu(coordinator.pid()) - before;
    report_phases(&phases, floor);
    let acks = size * phases.len();
    println!(
        "  coordinator                     {:.0} us of CPU for each acknowledged change",
        micros(spent) / count(acks)
    );
    let full = resident_kib(coordinator.pid());
    println!(
        "  memory                          {:.1} KiB for each agent ({empty} KiB without, {full} KiB with all)",
        count(full - empty) / count(size)
    );
    idle(&coordinator, scale.idle);
    assert_eq!(crowd.seen().troubles, "none", "a connection broke, or a request was refused, before the kill");
    restart(&mut coordinator, &mut crowd, size);
    let seen = crowd.seen();
    assert_eq!(seen.violations, 0, "an agent was told something that it must refuse");
    let generation = 1 + 2 * u64::try_from(scale.rotations).expect("a few");
    drop(coordinator.rotate(size));
    crowd.wait("a rotation after the restart", |seen| seen.on(generation + 2) == size);
    println!("  after a rotation more           all {size} hold generation {}", generation + 2);
}

fn come(coordinator: &Coordinator, crowd: &mut Crowd, size: usize) {
    let (start, before) = (Instant::now(), cpu(coordinator.pid()));
    crowd.wait("all agents", |seen| seen.connected == size);
    let (took, spent) = (start.elapsed(), cpu(coordinator.pid()) - before);
    println!(
        "  all agents come                 {:.1} s, {:.0} handshakes and admissions a second, {:.0} us of CPU each",
        took.as_secs_f64(),
        count(size) / took.as_secs_f64(),
        micros(spent) / count(size)
    );
}

fn report_phases(phases: &[Percentiles], floor: &floor::Floor) {
    let of = |read: fn(&Percentiles) -> Duration| median(phases.iter().map(read).collect());
    let (p50, p99, p100) = (of(|p| p.p50), of(|p| p.p99), of(|p| p.p100));
    let worst = phases.iter().map(|p| p.p100).max().unwrap_or_default();
    println!(
        "  commit to ack stored            p50 {}  p99 {}  p100 {}  worst {}  ({} phases)",
        figures::ms(p50),
        figures::ms(p99),
        figures::ms(p100),
        figures::ms(worst),
        phases.len()
    );
    println!("  p100 / floor's p100             {:.1}", p100.as_secs_f64() / floor.p100.0.as_secs_f64());
}

fn idle(coordinator: &Coordinator, time: Duration) {
    // What the rotations left behind is over by then.
    std::thread::sleep(time / 4);
    let before = cpu(coordinator.pid());
    std::thread::sleep(time);
    let spent = cpu(coordinator.pid()) - before;
    println!(
        "  idle, polls of at most {:3} s    {:.2} % of a core over {} s",
        agents::poll_secs(),
        100.0 * spent.as_secs_f64() / time.as_secs_f64(),
        time.as_secs()
    );
}

/// kill -9 and a new start: everybody comes back by the agent's own pauses.
fn restart(coordinator: &mut Coordinator, crowd: &mut Crowd, size: usize) {
    coordinator.kill();
    crowd.wait("the end of all connections", |seen| seen.connected == 0);
    let ended = crowd.seen();
    coordinator.start();
    let start = Instant::now();
    crowd.wait("the return of all", |seen| seen.connected == size);
    let (took, spent) = (start.elapsed(), cpu(coordinator.pid()));
    let seen = crowd.seen();
    println!(
        "  all back after kill -9, restart {:.1} s from ready, {} handshakes, {:.0} us of CPU for each agent, start included",
        took.as_secs_f64(),
        seen.handshakes - ended.handshakes,
        micros(spent) / count(size)
    );
    println!("  refused or lost since the end   {}", seen.since(&ended));
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn count(count: usize) -> f64 {
    count as f64
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
