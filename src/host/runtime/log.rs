//! Logs of the daemons: one line per event on stderr, which systemd takes to the journal.

use std::fmt;

use tfo_model::problem::{Problem, Severity};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber, error, warn};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Environment variable with the least level to log: error, warn, info (default), debug, trace.
pub const LEVEL_VARIABLE: &str = "TFO_LOG";
/// Set by systemd when stderr goes to the journal (`systemd.exec(5)`).
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// Starts logging for this process.  A second call is ignored.
pub fn start() {
    let level = std::env::var(LEVEL_VARIABLE).ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    let plain = Format::default().with_target(false).with_ansi(false);
    let started = if std::env::var_os(JOURNAL_VARIABLE).is_some() {
        builder.event_format(WithPriority(plain.without_time().with_level(false))).try_init()
    } else {
        builder.event_format(plain).try_init()
    };
    // Fails only if it was started already: a test that runs several agents in one process.
    drop(started);
}

/// Logs a problem: an error as an error, a warning as a warning.
pub fn problem(problem: &Problem) {
    let place = problem.file.as_ref().map(|file| match problem.line {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    });
    let (place, key) = (place.as_deref(), problem.key.as_deref());
    let (kind, error, remedy) = (problem.kind, &problem.message, &problem.remedy);
    match problem.severity {
        Severity::Error => error!(kind, place, key, error, remedy, "problem"),
        Severity::Warning => warn!(kind, place, key, error, remedy, "problem"),
    }
}

/// Puts the syslog priority before the line, `<3>` to `<7>` (`sd-daemon(3)`), so that `journalctl -p` works.
struct WithPriority(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for WithPriority
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
