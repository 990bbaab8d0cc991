//! What the pages weigh, and what they cost the coordinator and the reader, by the number of nodes.
//!
//! `cargo bench --bench page`.  The coordinator is the real program with a pool on the disk whose nodes have the longest names.
//! Each page is asked for once a second and a bit, so that none is answered from the look that another one has had.
//! * bytes: the body.
//! * time: from the request to its last byte, median.
//! * processor: what the coordinator's threads have used from one request to the next, median; what it uses by itself in
//!   the same time is in the last line, and is a part of the others.
//!
//! `TFO_SMOKE=1` runs it once and small, to see that it still works; its figures mean nothing.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tfo_testbed::coordinator::World;
use tfo_testbed::large::{large_world, name};

/// Numbers of nodes.
const SIZES: [usize; 3] = [10, 1_000, 10_000];
/// Requests of each page.
const RUNS: usize = 7;
/// Longer than a look is shared.
const APART: Duration = Duration::from_millis(1_200);
/// The aims: bytes of a page, and what it costs the coordinator.
const BYTES_MAX: usize = 100 << 10;
const COST_MAX: Duration = Duration::from_millis(50);

/// What one request took.
struct Taken {
    bytes: usize,
    time: Duration,
    cost: Duration,
}

fn main() -> ExitCode {
    let smoke = std::env::var_os("TFO_SMOKE").is_some();
    let (sizes, runs) = if smoke { (&SIZES[..1], 1) } else { (&SIZES[..], RUNS) };
    println!("{:>6}  {:<42} {:>9} {:>10} {:>11}", "nodes", "page", "bytes", "time", "processor");
    let mut within = true;
    for &nodes in sizes {
        let mut world = large_world(nodes);
        world.start();
        let first = name(0);
        let pages = [
            "/".to_owned(),
            "/pools/edge/nodes".to_owned(),
            "/pools/edge/nodes?state=drifted".to_owned(),
            "/pools/edge/nodes?search=7123.".to_owned(),
            format!("/pools/edge/nodes/{first}"),
            "/pools/edge/audit".to_owned(),
            "/metrics".to_owned(),
        ];
        for page in &pages {
            let taken = (0..runs).map(|_| ask(&world, page)).collect();
            let Taken { bytes, time, cost } = medians(taken);
            let shown = page.replace(first.as_str(), "NODE");
            println!("{nodes:>6}  {shown:<42} {bytes:>9} {:>7.1} ms {:>8.1} ms", ms(time), ms(cost));
            within &= bytes <= BYTES_MAX && (smoke || cost <= COST_MAX);
        }
        let idle: Vec<Duration> = (0..runs).map(|_| spent(world.pid(), || std::thread::sleep(APART))).collect();
        println!("{nodes:>6}  {:<42} {:>9} {:>10} {:>8.1} ms", "(nothing)", "", "", ms(median(idle)));
    }
    println!(
        "aims: {BYTES_MAX} bytes, {:.0} ms of processor: {}",
        ms(COST_MAX),
        if within { "met" } else { "NOT met" }
    );
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Asks for a page, alone in its second.
fn ask(world: &World, page: &str) -> Taken {
    let (mut bytes, mut time) = (0, Duration::ZERO);
    let cost = spent(world.pid(), || {
        std::thread::sleep(APART);
        let begun = Instant::now();
        bytes = get(world, page);
        time = begun.elapsed();
    });
    Taken { bytes, time, cost }
}

/// The length of a body.
fn get(world: &World, path: &str) -> usize {
    let mut stream = TcpStream::connect(world.observe).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let answer = String::from_utf8(answer).expect("it is text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("it has a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    body.len()
}

/// Processor time that a process uses while `work` runs, all its threads.
fn spent(pid: u32, work: impl FnOnce()) -> Duration {
    let before = used(pid);
    work();
    used(pid).saturating_sub(before)
}

/// Nanoseconds on a processor, from each thread's schedstat (Documentation/scheduler/sched-stats.rst); a thread that ended
/// meanwhile takes its own with it.
fn used(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(threads.filter_map(|thread| of_thread(thread.path())).sum())
}

fn medians(taken: Vec<Taken>) -> Taken {
    let bytes = taken.iter().map(|taken| taken.bytes).max().unwrap_or_default();
    let (times, costs) = taken.into_iter().map(|taken| (taken.time, taken.cost)).unzip();
    Taken { bytes, time: median(times), cost: median(costs) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
