//! Times, percentiles, and what /proc says of a process.

use std::fmt;
use std::time::Duration;

/// Share of all that have acknowledged after so long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percentiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p100: Duration,
}

impl Percentiles {
    /// Of all times; sorts them.
    pub(crate) fn of(times: &mut [Duration]) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        Self { p50: at(50), p99: at(99), p100: at(100) }
    }
}

/// A time as it is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown(pub(crate) Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:6.0} ms", self.0.as_secs_f64() * 1e3))
    }
}

pub(crate) fn ms(time: Duration) -> Shown {
    Shown(time)
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// CPU time of a process so far, all threads.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = read(&format!("/proc/{pid}/stat"));
    // The name may have spaces; utime and stime are fields 14 and 15 (proc(5)).
    let (_, fields) = stat.rsplit_once(") ").expect("the name is in brackets");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> usize {
    let status = read(&format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel shows it");
    line.split_whitespace().next().and_then(|value| value.parse().ok()).expect("a number")
}

pub(crate) fn loadavg() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}
