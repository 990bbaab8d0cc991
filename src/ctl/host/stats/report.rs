//! The output of `stats`: a table, a line for each interval, a screen, or JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::counters::{COUNTERS, Counter, PerCounter, Ratios, Window};
use tfo_cli::report::{Format, Report, show};
use tfo_cli::screen::Screen;
use tfo_model::time::UnixTime;

/// Wire v1: `stats --format json`; with `--watch`, one per line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Stats {
    pub(super) at: UnixTime,
    pub(super) namespaces: Vec<NamespaceStats>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct NamespaceStats {
    pub(super) name: String,
    /// Counts since the namespace was made; null: this kernel does not have the counter.
    pub(super) counters: PerCounter<u64>,
    /// Ratios of `counters`.
    pub(super) ratios: Ratios,
    /// Changes since the previous sample; null in the first.
    pub(super) window: Option<Window>,
}

impl Report for Stats {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for (index, namespace) in self.namespaces.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            namespace.write_table(out, Detail::Everything)?;
        }
        Ok(())
    }
}

/// How much of the table to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// The reasons to worry of every counter.
    Everything,
    /// Only those of counters that rise and should not: a screen has 24 lines.
    Screen,
}

impl NamespaceStats {
    fn write_table(&self, out: &mut dyn Write, detail: Detail) -> io::Result<()> {
        let reset = if self.window.as_ref().is_some_and(|window| window.reset) { "  (counters restarted)" } else { "" };
        writeln!(out, "namespace {}{reset}", self.name)?;
        for (index, Counter { name, meaning, worry, alarming, .. }) in COUNTERS.iter().enumerate() {
            let total = self.counters.0[index].map_or_else(|| "missing".to_owned(), |total| total.to_string());
            let rate = match &self.window {
                None => String::new(),
                Some(window) => {
                    window.per_second.0[index].map_or_else(|| " ".repeat(12), |rate| format!("{rate:>10.1}/s"))
                }
            };
            let rises = self.window.as_ref().is_some_and(|window| window.rises.0[index].is_some_and(|rise| rise > 0));
            let alarm = *alarming && rises;
            writeln!(out, "{} {name:<25}{total:>12}{rate}  {meaning}", if alarm { '!' } else { ' ' })?;
            if alarm || detail == Detail::Everything {
                writeln!(out, "    worry {worry}")?;
            }
        }
        writeln!(out, "  all:        {}", ratios_line(&self.ratios))?;
        match &self.window {
            Some(window) => writeln!(out, "  last {:>4.1} s: {}", seconds(window), ratios_line(&window.ratios)),
            None => Ok(()),
        }
    }

    /// One line with the increases, or with the totals in the first sample.
    fn line(&self, at: UnixTime) -> String {
        let Some(window) = &self.window else {
            let totals = COUNTERS.iter().zip(self.counters.0).map(|(counter, total)| {
                format!("{} {}", counter.short, total.map_or_else(|| "missing".to_owned(), |total| total.to_string()))
            });
            return format!("{at} {} totals: {}", self.name, totals.collect::<Vec<_>>().join(", "));
        };
        let rises = COUNTERS.iter().zip(window.rises.0).map(|(counter, rise)| {
            format!("{} {}", counter.short, rise.map_or_else(|| "missing".to_owned(), |rise| format!("+{rise}")))
        });
        let reset = if window.reset { "; counters restarted" } else { "" };
        let (rises, ratios) = (rises.collect::<Vec<_>>().join(", "), ratios_line(&window.ratios));
        format!("{at} {} {:.1} s: {rises}; {ratios}{reset}", self.name, seconds(window))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time to show")]
fn seconds(window: &Window) -> f64 {
    window.elapsed_ms as f64 / 1e3
}

fn ratios_line(ratios: &Ratios) -> String {
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
    let Ratios { server, client } = ratios;
    format!(
        "server accepted {}, by backup {}, failed {}; client accepted {}, failed {}",
        percent(server.accepted),
        percent(server.by_backup),
        percent(server.failed),
        percent(client.accepted),
        percent(client.failed)
    )
}

/// Output of a watch: a screen on a terminal, lines elsewhere.
pub(super) enum Display {
    Screen(Screen),
    Lines(Format),
}

impl Display {
    /// A screen if stdout is a terminal that can show one.
    pub(super) fn new(format: Format) -> Self {
        let screen = if format == Format::Text { Screen::on_terminal() } else { None };
        screen.map_or(Self::Lines(format), Self::Screen)
    }

    /// Shows one sample.
    ///
    /// # Errors
    /// Fails if the output cannot be written.
    pub(super) fn show(&self, stats: &Stats) -> io::Result<()> {
        match self {
            Self::Screen(screen) => {
                let mut text = Vec::new();
                writeln!(text, "{}  (Ctrl-C ends)", stats.at)?;
                stats.namespaces.iter().try_for_each(|namespace| namespace.write_table(&mut text, Detail::Screen))?;
                screen.draw(String::from_utf8_lossy(&text).trim_end());
                Ok(())
            }
            Self::Lines(Format::Json) => show(stats, Format::Json),
            Self::Lines(Format::Text) => {
                let mut stdout = io::stdout().lock();
                stats.namespaces.iter().try_for_each(|namespace| writeln!(stdout, "{}", namespace.line(stats.at)))?;
                stdout.flush()
            }
        }
    }

    /// Leaves the last picture on the screen, and starts a new line.
    ///
    /// # Errors
    /// Fails if the output cannot be written.
    pub(super) fn close(&self) -> io::Result<()> {
        match self {
            Self::Screen(screen) => screen.close(),
            Self::Lines(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::counters::Lineage;
    use super::*;
    use tfo_host::kernel::netstat::TfoCounters;

    /// A kernel without the column of the backup key.
    fn sample(passive: u64, fail: u64) -> PerCounter<u64> {
        let text = format!(
            "TcpExt: TCPFastOpenPassive TCPFastOpenPassiveFail TCPFastOpenActive TCPFastOpenActiveFail\nTcpExt: {passive} {fail} 0 0\n"
        );
        PerCounter::of(&TfoCounters::parse(&text))
    }

    fn stats(window: bool) -> Stats {
        let (before, counters) = (sample(10, 0), sample(40, 10));
        let window = window.then(|| Window::between(&before, &counters, Duration::from_secs(2), Lineage::Same));
        let ratios = Ratios::of(&counters);
        let at = UnixTime::from_secs(1_796_083_200);
        Stats { at, namespaces: vec![NamespaceStats { name: "own".to_owned(), counters, ratios, window }] }
    }

    fn text(stats: &Stats) -> String {
        let mut text = Vec::new();
        stats.write_text(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn missing_counters_are_shown_as_missing() {
        let text = text(&stats(false));
        let row = |name: &str| text.lines().find(|line| line.contains(&format!(" {name} "))).unwrap().to_owned();
        assert!(row("TCPFastOpenPassiveAltKey").contains(" missing  "), "{text}");
        assert!(row("TCPFastOpenActive").contains("  0  "), "{text}");
        assert!(text.contains("accepted 80.0 %, by backup -, failed 20.0 %; client accepted -, failed -"), "{text}");
    }

    #[test]
    fn alarming_increases_are_marked() {
        let text = text(&stats(true));
        assert!(text.contains("\n! TCPFastOpenPassiveFail             10       5.0/s  "), "{text}");
        assert!(text.contains("\n  TCPFastOpenPassive                 40      15.0/s  "), "{text}");
        assert!(text.contains("last  2.0 s: server accepted 75.0 %"), "{text}");
        let mut screen = Vec::new();
        stats(true).namespaces[0].write_table(&mut screen, Detail::Screen).unwrap();
        let screen = String::from_utf8(screen).unwrap();
        assert_eq!(screen.matches("    worry ").count(), 1, "{screen}");
        assert_eq!(text.matches("    worry ").count(), COUNTERS.len(), "{text}");
    }

    #[test]
    fn the_line_of_a_pipe() {
        let line = stats(true).namespaces[0].line(UnixTime::from_secs(1_796_083_200));
        assert_eq!(
            line,
            "2026-12-01T00:00:00Z own 2.0 s: accepted +30, by_backup missing, failed +10, requests missing, overflow missing, \
             active +0, active_fail +0, blackhole missing, syn_retrans missing, data_sent missing; \
             server accepted 75.0 %, by backup -, failed 25.0 %; client accepted -, failed -"
        );
    }
}
