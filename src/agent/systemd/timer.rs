//! Whether `tfo-agent-once.timer` runs often enough for the schedule (docs/protocol.md#timer-mode).
//!
//! clock error + period + RandomizedDelaySec + AccuracySec + run time <= tolerance.  The clock error is unknown here.

use super::Systemctl;
use tfo_model::problem::Problem;
use tfo_model::time::{parse_span, span_text};

const TIMER: &str = "tfo-agent-once.timer";
/// Longest run, in seconds: a run takes milliseconds, and this leaves time for the fsync of a busy disk.
const RUN_SECS_MAX: u64 = 2;

/// The timer as systemd has it, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Timer {
    period: u64,
    random_delay: u64,
    accuracy: u64,
}

impl Timer {
    /// Longest time from a change in the schedule to the next run, in seconds.
    fn lag_secs(self) -> u64 {
        self.period + self.random_delay + self.accuracy + RUN_SECS_MAX
    }
}

/// A problem if the timer is active and too slow for this tolerance, in seconds.
#[must_use]
pub fn too_slow(tolerance_secs: u64) -> Option<Problem> {
    let timer = active_timer(Systemctl::booted()?)?;
    let lag = timer.lag_secs();
    (lag > tolerance_secs).then(|| {
        let message = format!(
            "{TIMER} may run {} late (period {}, random delay {}, accuracy {}, run {}), and the schedule tolerates {}, clock error included",
            span_text(lag),
            span_text(timer.period),
            span_text(timer.random_delay),
            span_text(timer.accuracy),
            span_text(RUN_SECS_MAX),
            span_text(tolerance_secs)
        );
        let remedy = "shorten the timer's period in a drop-in, lengthen stage_lead, or run the daemon";
        Problem::error("timer_too_slow", message, remedy)
    })
}

fn active_timer(systemctl: Systemctl) -> Option<Timer> {
    let shown = systemctl.show(TIMER, "ActiveState,TimersCalendar,TimersMonotonic,RandomizedDelayUSec,AccuracyUSec")?;
    if shown.get("ActiveState")? != "active" {
        return None;
    }
    // One line for each; OnBootSec= and its like are not repeated.
    let period = match shown.all("TimersMonotonic").find_map(monotonic_period) {
        Some(period) => period,
        None => {
            let calendar = calendar_specification(shown.get("TimersCalendar")?)?;
            calendar_period(&systemctl.calendar(calendar)?)?
        }
    };
    let seconds = |name| shown.get(name).and_then(span_secs).unwrap_or(0);
    Some(Timer { period, random_delay: seconds("RandomizedDelayUSec"), accuracy: seconds("AccuracyUSec") })
}

/// `2min`, `1min 30s`; a part of a second counts as a whole one.
fn span_secs(text: &str) -> Option<u64> {
    match parse_span(text) {
        Ok(span) => Some(span.as_secs()),
        Err(_) if text.ends_with("ms") || text.ends_with("us") => Some(1),
        Err(_) => None,
    }
}

/// `{ OnUnitActiveUSec=10min ; next_elapse=… }`: a timer that counts from its last run.
fn monotonic_period(text: &str) -> Option<u64> {
    let span = ["OnUnitActiveUSec=", "OnUnitInactiveUSec="].iter().find_map(|name| text.split_once(name))?.1;
    span_secs(span.split(';').next()?.trim())
}

/// `{ OnCalendar=*-*-* *:00/10:00 ; next_elapse=… }`.
fn calendar_specification(text: &str) -> Option<&str> {
    Some(text.split_once("OnCalendar=")?.1.split(';').next()?.trim())
}

/// The time between the next two runs, from `systemd-analyze calendar --iterations=2` in UTC.
fn calendar_period(text: &str) -> Option<u64> {
    let instants = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let wanted = name.trim() == "Next elapse" || name.trim().starts_with("Iter. #");
        let mut words = value.trim().split(' ').skip(1);
        let instant = wanted.then(|| Some(format!("{}T{}Z", words.next()?, words.next()?)))??;
        instant.parse::<tfo_model::time::UnixTime>().ok()
    });
    let instants: Vec<_> = instants.collect();
    Some(instants.get(1)?.secs_since(*instants.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::Properties;

    #[test]
    fn what_systemd_shows_is_understood() {
        let shown = "ActiveState=active\nTimersCalendar={ OnCalendar=*-*-* *:00/10:00 ; next_elapse=Sun 2026-11-22 20:00:00 UTC }\nRandomizedDelayUSec=2min\nAccuracyUSec=10s\n";
        let shown = Properties(shown.to_owned());
        assert_eq!(shown.get("ActiveState"), Some("active"));
        assert_eq!(shown.get("TimersMonotonic"), None);
        assert_eq!(calendar_specification(shown.get("TimersCalendar").unwrap()), Some("*-*-* *:00/10:00"));
        assert_eq!(shown.get("RandomizedDelayUSec").and_then(span_secs), Some(120));
        let monotonic = "{ OnUnitActiveUSec=1h 30min ; next_elapse=0 }";
        assert_eq!(monotonic_period(monotonic), Some(5_400));
        assert_eq!(monotonic_period("{ OnBootUSec=1min ; next_elapse=0 }"), None);
        assert_eq!((span_secs("0"), span_secs("500ms"), span_secs("1us")), (None, Some(1), Some(1)));
    }

    #[test]
    fn the_period_of_a_calendar_is_the_time_between_two_runs() {
        let text = "  Original form: *:0/10\nNormalized form: *-*-* *:00/10:00\n    Next elapse: Sun 2026-11-22 20:00:00 UTC\n       From now: 8min left\n       Iter. #2: Sun 2026-11-22 20:10:00 UTC\n       From now: 18min left\n";
        assert_eq!(calendar_period(text), Some(600));
        assert_eq!(calendar_period("    Next elapse: never\n"), None);
    }

    #[test]
    fn the_lag_is_the_sum_of_all() {
        assert_eq!(Timer { period: 600, random_delay: 120, accuracy: 10 }.lag_secs(), 732);
    }
}
