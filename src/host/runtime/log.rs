//! Logs of the daemons: one line per event on stderr, which systemd takes to the journal.

use std::fmt;

use tfo_model::problem::{Problem, Severity, printable};
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
        builder.event_format(OneLine(WithPriority(plain.without_time().with_level(false)))).try_init()
    } else {
        builder.event_format(OneLine(plain)).try_init()
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

/// Keeps an event on one line, whatever its fields have: a peer's text must not pass for a line of its own, with a priority
/// of its own.
struct OneLine<F>(F);

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", printable(line.trim_end_matches('\n')))
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_peers_text_forges_no_line() {
        let sink = Sink::default();
        let into = sink.clone();
        let plain = Format::default().with_target(false).with_ansi(false).without_time().with_level(false);
        let builder = tracing_subscriber::fmt().with_writer(move || into.clone()).with_ansi(false);
        let subscriber = builder.event_format(OneLine(WithPriority(plain))).finish();
        tracing::subscriber::with_default(subscriber, || {
            let field = "x`\n<2>2026-11-23T00:00:00Z ERROR the pool was recovered \u{1b}[2J";
            warn!(error = %field, "refused");
            warn!("two");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text:?}");
        assert!(lines.iter().all(|line| line.starts_with("<4>")) && !text.contains('\u{1b}'), "{text:?}");
        assert!(lines[0].contains("\\n<2>2026") && lines[0].contains("\\u{1b}[2J"), "{text:?}");
    }
}
