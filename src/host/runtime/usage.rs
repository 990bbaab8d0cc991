//! What this process uses: the `process_*` metrics that Prometheus' own client libraries export, under the same names.
//!
//! Read from /proc/self, which a process always may read of itself: under ProtectProc=invisible and ProcSubset=pid too, and
//! when it is not dumpable (proc_fd_permission in the kernel's fs/proc/fd.c).  What cannot be read is left out.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::clock;
use super::sheet::{Sheet, float};

/// Fields of /proc/self/stat behind the name in parentheses, counted from 0 (proc_pid_stat(5)).
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const START_TICKS: usize = 19;
const VIRTUAL_BYTES: usize = 20;
const RESIDENT_PAGES: usize = 21;

/// What /proc/self/stat has of it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    cpu: Duration,
    /// After the boot.
    started: Duration,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn parse(text: &str, ticks: u64, page: u64) -> Option<Self> {
        // The name may have blanks and parentheses in it.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let time = |count: u64| Duration::from_millis(count.saturating_mul(1_000).checked_div(ticks).unwrap_or(0));
        Some(Self {
            cpu: time(number(USER_TICKS)?.saturating_add(number(SYSTEM_TICKS)?)),
            started: time(number(START_TICKS)?),
            virtual_bytes: number(VIRTUAL_BYTES)?,
            resident_bytes: number(RESIDENT_PAGES)?.saturating_mul(page),
        })
    }
}

/// Adds what this process uses.
pub fn add_to(sheet: &mut Sheet) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat = Stat::parse(&text, clock_ticks_per_second(), page_size() as u64);
    let help = "Processor time that the process has used.";
    sheet.counter_secs("process_cpu_seconds_total", help, stat.map(|stat| stat.cpu.as_secs_f64()));
    let resident = stat.map(|stat| float(stat.resident_bytes));
    sheet.gauge("process_resident_memory_bytes", "Memory of the process that is in RAM.", resident);
    let virtual_bytes = stat.map(|stat| float(stat.virtual_bytes));
    sheet.gauge("process_virtual_memory_bytes", "Address space of the process.", virtual_bytes);
    // One of them is the directory that is being read.
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|open| float((open.count() as u64).saturating_sub(1)));
    sheet.gauge("process_open_fds", "Open file descriptors.", open);
    let most = getrlimit(Resource::Nofile).current.map(float);
    sheet.gauge("process_max_fds", "Most file descriptors that it may open.", most);
    let started = stat.map(|stat| started_at(stat.started));
    sheet.gauge("process_start_time_seconds", "When the process started.", started);
}

/// When the process started, by the wall clock at the first call: the same at each scrape, also after the clock was set.
fn started_at(after_boot: Duration) -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let up = clock_gettime(ClockId::Boottime);
        let up = Duration::new(u64::try_from(up.tv_sec).unwrap_or(0), u32::try_from(up.tv_nsec).unwrap_or(0));
        let age = up.saturating_sub(after_boot);
        (float(clock::now().secs()) - age.as_secs_f64()).max(0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found_behind_any_name() {
        let text =
            "42 (a ) b) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 3 0 12345 1000000 25 18446744073709551615 1";
        let stat = Stat::parse(text, 100, 4_096).unwrap();
        let expected = Stat {
            cpu: Duration::from_secs(2),
            started: Duration::from_millis(123_450),
            virtual_bytes: 1_000_000,
            resident_bytes: 102_400,
        };
        assert_eq!(stat, expected);
        for bad in ["", "42 (x) S 1 2", "no parentheses"] {
            assert_eq!(Stat::parse(bad, 100, 4_096), None, "{bad}");
        }
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut sheet = Sheet::default();
        add_to(&mut sheet);
        let text = sheet.encode(Vec::new()).unwrap();
        let value = |name: &str| -> f64 {
            let line =
                text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{text}"));
            line.rsplit_once(' ').unwrap().1.parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") > value("process_open_fds"));
        // It started before now, and after the boot.
        let (started, now) = (value("process_start_time_seconds"), float(clock::now().secs()));
        assert!(started <= now + 1.0 && started > now - 86_400.0, "{started} {now}");
    }
}
