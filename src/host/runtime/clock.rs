//! The only place that reads the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tfo_model::time::UnixTime;

/// The wall clock, cut to whole seconds.  A clock before 1970 reads as 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub fn now() -> UnixTime {
    UnixTime::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// The wall clock as the duration since 1970, for times of packets.  A clock before 1970 reads as 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub fn precise() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock in milliseconds since 1970: for reports and for ordinals of sessions.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(precise().as_millis()).unwrap_or(u64::MAX)
}

/// The monotonic clock: for durations, because wall clocks jump (docs/kernel.md#a-fleet-under-rotation).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// How long this host has been up, its sleep included.
#[must_use]
pub fn uptime() -> Duration {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(since_boot.tv_sec).unwrap_or(0), u32::try_from(since_boot.tv_nsec).unwrap_or(0))
}

/// How much of `budget` is left since `start`.
#[must_use]
pub fn left_of(budget: Duration, start: Instant) -> Duration {
    budget.saturating_sub(monotonic().duration_since(start))
}
