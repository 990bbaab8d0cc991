//! How long fleets were kept under faults at random, for the sums of docs/reference/soak.md.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

/// File that takes one line for each run: `tests/run --full` sets it, and sums its lines.
const SOAK_LOG: &str = "TFO_SOAK_LOG";

/// What kind of time it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Soaked {
    /// Of a simulated fleet's own clock.
    Simulated,
    /// Of real programs.
    Real,
}

/// Notes that a run has passed, and how long it was.
pub fn soaked(kind: Soaked, time: Duration) {
    let Some(log) = std::env::var_os(SOAK_LOG).filter(|log| !log.is_empty()) else { return };
    let mut log = OpenOptions::new().create(true).append(true).open(log).expect("TFO_SOAK_LOG can be opened");
    let kind = match kind {
        Soaked::Simulated => "simulated",
        Soaked::Real => "real",
    };
    log.write_all(format!("{kind}\t{}\n", time.as_secs()).as_bytes()).expect("TFO_SOAK_LOG takes the time");
}
