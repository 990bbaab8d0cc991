//! `tfoctl probe`: shows whether a server supports TCP Fast Open, and how it answers a SYN that asks for a cookie.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::ending::{ask_each, together};
use super::raw::{Answer, Asker, Plan};
use super::target::{Families, Target};
use super::tcp_option::Form;
use tfo_cli::report::{Failure, Format, Outcome, Report, show};
use tfo_model::named_enum;

mod unprivileged;

/// How often a SYN is sent before the server counts as filtered.
const TRIES: u32 = 3;

/// Arguments of `probe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 every answer is tfo-on, 1 otherwise, 2 usage, 3 not allowed.")]
pub struct Arguments {
    /// Servers to probe; the default port is 443
    #[arg(required = true, value_name = "HOST[:PORT]")]
    targets: Vec<Target>,
    /// Number of requests to each address
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    #[command(flatten)]
    families: Families,
    /// Source address
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Ask with the experimental option 254/0xF989 instead of option 34
    #[arg(long, conflicts_with = "unprivileged")]
    experimental: bool,
    /// Ask through ordinary connections: needs no privilege, but neither shows the cookie nor chooses the option, and sends an empty line
    /// to a server whose cookie this host has already
    #[arg(long)]
    unprivileged: bool,
    /// Seconds to wait for each answer; a SYN is sent 3 times
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

named_enum! {
    /// What the probe found out about a server.
    enum Verdict {
        /// The server gave a cookie.
        TfoOn = "tfo-on",
        /// The server answers without a cookie.
        TfoOff = "tfo-off",
        /// The server refuses connections to this port.
        Closed = "closed",
        /// No answer: the server, or a firewall on the way, drops the packets.
        Filtered = "filtered",
    }
}

/// One answer.  Wire v1: `results[]` of `probe --format json` (docs/reference/json.md).
#[derive(Debug, Serialize)]
struct ProbeResult {
    #[serde(serialize_with = "as_text")]
    target: Target,
    address: IpAddr,
    port: u16,
    result: Verdict,
    /// Hex in wire order; unknown without a raw socket.
    cookie: Option<String>,
    /// Kind of the TCP option that carried the cookie.
    option: Option<u8>,
    rtt_us: Option<u64>,
    /// Note in the text output.
    #[serde(skip)]
    remark: Option<&'static str>,
}

fn as_text<S: Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(target)
}

/// All answers.
#[derive(Debug, Serialize)]
struct ProbeReport {
    results: Vec<ProbeResult>,
}

impl Report for ProbeReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let address = |result: &ProbeResult| SocketAddr::from((result.address, result.port)).to_string();
        let width = self.results.iter().map(|result| address(result).len()).max().unwrap_or(0);
        for result in &self.results {
            write!(out, "{:width$}  {:8}", address(result), result.result)?;
            if let Some(cookie) = &result.cookie {
                write!(out, "  cookie {cookie}")?;
            }
            if let Some(option) = result.option {
                write!(out, "  option {option}")?;
            }
            if let Some(micros) = result.rtt_us {
                write!(out, "  {}.{:03} ms", micros / 1000, micros % 1000)?;
            }
            if let Some(remark) = result.remark {
                write!(out, "  {remark}")?;
            }
            if result.address.to_string() != result.target.host() {
                write!(out, "  ({})", result.target)?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Probes every address of every server, and shows the answers.
///
/// # Errors
/// Fails if a server cannot be probed, after showing the answers of the others.
pub fn run(arguments: &Arguments, format: Format) -> Result<Outcome, Failure> {
    let sources: Vec<IpAddr> = arguments.source.into_iter().collect();
    let ask = if arguments.unprivileged { unprivileged::ask } else { ask };
    let (results, failures) =
        ask_each(&arguments.targets, arguments.families, &sources, |target, address| ask(arguments, target, address));
    let report = ProbeReport { results: results.into_iter().flatten().collect() };
    if !report.results.is_empty() || failures.is_empty() {
        show(&report, format).map_err(Failure::undelivered)?;
    }
    if let Some(failure) = together(failures) {
        return Err(failure);
    }
    let all_on = report.results.iter().all(|result| result.result == Verdict::TfoOn);
    Ok(if all_on { Outcome::Done } else { Outcome::Failed })
}

fn ask(arguments: &Arguments, target: &Target, address: SocketAddr) -> Result<Vec<ProbeResult>, Failure> {
    let form = if arguments.experimental { Form::Experimental } else { Form::Standard };
    let asker = Asker::open(arguments.source, address, form).map_err(|error| error.failure())?;
    let wait = Duration::from_secs(arguments.timeout);
    let plan = Plan { requests: arguments.count, in_flight_max: 1, wait, tries: TRIES };
    let mut results = Vec::new();
    let asked = asker.ask(plan, |reply| {
        let (result, fast_open) = match reply.answer {
            Answer::Cookie(fast_open) => (Verdict::TfoOn, Some(fast_open)),
            Answer::NoCookie => (Verdict::TfoOff, None),
            Answer::Reset => (Verdict::Closed, None),
            Answer::Silence => (Verdict::Filtered, None),
        };
        let cookie = fast_open.and_then(|option| option.cookie);
        results.push(ProbeResult {
            target: target.clone(),
            address: address.ip(),
            port: address.port(),
            result,
            cookie: cookie.map(|cookie| cookie.to_string()),
            option: fast_open.map(|option| option.form.kind()),
            rtt_us: reply.round_trip.map(micros),
            remark: cookie.filter(|cookie| !cookie.is_lawful()).map(|_| "a cookie of a length that RFC 7413 forbids"),
        });
        ControlFlow::Continue(())
    });
    asked.map_err(|error| error.failure())?;
    Ok(results)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ProbeReport {
        let result = |target: &str, address: &str, result, cookie: Option<&str>| ProbeResult {
            target: target.parse().unwrap(),
            address: address.parse().unwrap(),
            port: 80,
            result,
            cookie: cookie.map(str::to_owned),
            option: cookie.map(|_| 34),
            rtt_us: (result != Verdict::Filtered).then_some(1234),
            remark: None,
        };
        let results = vec![
            result("cache.example.org:80", "192.0.2.7", Verdict::TfoOn, Some("16ee6828df19dc58")),
            result("192.0.2.8:80", "192.0.2.8", Verdict::TfoOff, None),
            result("192.0.2.9:80", "192.0.2.9", Verdict::Closed, None),
            result("[2001:db8::1]:80", "2001:db8::1", Verdict::Filtered, None),
        ];
        ProbeReport { results }
    }

    #[test]
    fn the_json_is_pinned() {
        insta::assert_json_snapshot!(report());
    }

    #[test]
    fn the_text_is_aligned() {
        let mut text = Vec::new();
        report().write_text(&mut text).unwrap();
        insta::assert_snapshot!(String::from_utf8(text).unwrap());
    }
}
