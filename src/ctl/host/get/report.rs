//! What `get` shows.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Url;
use serde::Serialize;

use super::exchange::{Exchange, Ride, Target};
use super::http::Head;
use tfo_cli::report::Report;
use tfo_host::kernel::tcp_info::SynData;

/// Wire v1: `get --format json`.
#[derive(Serialize)]
pub(super) struct Fetched<'a> {
    url: String,
    address: SocketAddr,
    /// Whether the server accepted the last request that was sent in a SYN.
    accepted: bool,
    exchanges: Vec<Shown>,
    /// The head of the last response.
    response: &'a Head,
    /// Target of a redirect; not followed.
    redirect: Option<&'a str>,
    compare: Option<Compared>,
}

#[derive(Serialize)]
struct Shown {
    local: SocketAddr,
    syn_data: &'static str,
    /// Why it was not accepted; null if it was.
    reason: Option<&'static str>,
    status: u16,
    first_byte_us: u64,
    total_us: u64,
    body_bytes: u64,
    complete: bool,
}

/// Times to the first byte, with and without Fast Open.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    /// Number of exchanges with, and again without, Fast Open.
    samples: usize,
    /// How many of the exchanges with Fast Open were accepted.
    accepted: u32,
    with_median_us: u64,
    without_median_us: u64,
    /// Median with divided by median without; null if the latter is 0.
    ratio: Option<f64>,
}

impl Compared {
    pub(super) fn of(with: Vec<Duration>, without: Vec<Duration>, accepted: u32) -> Self {
        let samples = with.len();
        let (with, without) = (median(with), median(without));
        let ratio =
            (!without.is_zero()).then(|| (with.as_secs_f64() / without.as_secs_f64() * 1_000.0).round() / 1_000.0);
        Self { samples, accepted, with_median_us: micros(with), without_median_us: micros(without), ratio }
    }
}

/// The median; of an even number, the mean of the two in the middle.
fn median(mut times: Vec<Duration>) -> Duration {
    assert!(!times.is_empty(), "a comparison has at least one pair");
    times.sort_unstable();
    let middle = times.len() / 2;
    if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2 }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// `syn_data` in JSON and, unless the data was accepted, the reason.
fn words(ride: Ride, attempt: usize) -> (&'static str, Option<&'static str>) {
    match ride {
        Ride::Known(SynData::Accepted) => ("accepted", None),
        Ride::Known(SynData::Asked) if attempt == 0 => {
            ("asked", Some("not sent: there was no cookie for this server yet, so the kernel asked for one"))
        }
        Ride::Known(SynData::Asked) => {
            ("asked", Some("not sent: still no cookie; TFO is off at the server, or a middlebox removes the option"))
        }
        Ride::Known(SynData::Rejected) => (
            "rejected",
            Some(
                "sent, but not accepted: the cookie does not match the server's keys (another node, or a removed key), its TFO is \
                 off by now, or its TFO queue is full",
            ),
        ),
        Ride::Known(SynData::Lost) => (
            "lost",
            Some("sent, but that SYN was lost and a plain one a second later was not: a middlebox may drop it"),
        ),
        Ride::Known(SynData::Untried) => (
            "untried",
            Some(
                "not sent: the kernel has switched TFO off for a while because packets vanished (TCPFastOpenBlackhole)",
            ),
        ),
        Ride::ClientOff => {
            ("client_off", Some("not sent: the client side of TFO is off here (net.ipv4.tcp_fastopen has no 0x1)"))
        }
    }
}

impl<'a> Fetched<'a> {
    pub(super) fn of(url: &Url, target: &Target, exchanges: &'a [Exchange], compare: Option<Compared>) -> Self {
        let shown = exchanges.iter().enumerate().map(|(attempt, exchange)| {
            let (syn_data, reason) = words(exchange.ride, attempt);
            Shown {
                local: exchange.local,
                syn_data,
                reason,
                status: exchange.head.status,
                first_byte_us: micros(exchange.first_byte),
                total_us: micros(exchange.total),
                body_bytes: exchange.body_bytes,
                complete: exchange.complete,
            }
        });
        let last = exchanges.last().expect("there was at least one");
        let redirect = last.head.header("location").filter(|_| matches!(last.head.status, 300..=399));
        Self {
            url: url.to_string(),
            address: target.address,
            accepted: last.ride == Ride::Known(SynData::Accepted),
            exchanges: shown.collect(),
            response: &last.head,
            redirect,
            compare,
        }
    }
}

impl Report for Fetched<'_> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "GET {} from {}", self.url, self.address)?;
        for (exchange, name) in self.exchanges.iter().zip(["1st", "2nd"]) {
            let how = exchange.reason.unwrap_or("sent and accepted: the request rode in the SYN");
            writeln!(out, "{name}  data in the SYN {how}")?;
            let cut = if exchange.complete { "" } else { " (cut)" };
            let (first, total) = (millis(exchange.first_byte_us), millis(exchange.total_us));
            let (status, bytes) = (exchange.status, exchange.body_bytes);
            writeln!(out, "     first byte after {first}, all after {total}; status {status}, {bytes} bytes{cut}")?;
        }
        if let Some(compared) = &self.compare {
            let Compared { samples, accepted, .. } = compared;
            writeln!(out, "\ntime to first byte, median of {samples} each, in turn")?;
            writeln!(
                out,
                "  with TFO     {:>11}  ({accepted} of {samples} accepted)",
                millis(compared.with_median_us)
            )?;
            writeln!(out, "  without TFO  {:>11}", millis(compared.without_median_us))?;
            if let Some(ratio) = compared.ratio {
                writeln!(out, "  ratio        {ratio:>8.3}")?;
            }
        }
        let Head { version, status, reason, headers } = self.response;
        writeln!(out, "\n{}", format!("{version} {status} {reason}").trim_end())?;
        headers.iter().try_for_each(|header| writeln!(out, "{}: {}", header.name, header.value))?;
        match self.redirect {
            Some(location) => writeln!(out, "\nThe server redirects to {location}; redirects are not followed."),
            None => Ok(()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time to show, exact up to 285 years")]
fn millis(micros: u64) -> String {
    format!("{:.3} ms", micros as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_their_ratio() {
        let ms = |times: &[u64]| times.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
        let compared = Compared::of(ms(&[9, 1, 2]), ms(&[4, 1, 100, 6]), 2);
        assert_eq!((compared.samples, compared.with_median_us, compared.without_median_us), (3, 2_000, 5_000));
        assert_eq!(compared.ratio, Some(0.4));
        assert_eq!(Compared::of(ms(&[1]), ms(&[0]), 0).ratio, None);
    }
}
