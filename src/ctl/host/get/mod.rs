//! `tfoctl get`: sends an http:// request in the SYN, shows whether the server accepted it, and measures the time saved.

mod exchange;
mod http;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::Url;

use exchange::{Exchange, ExchangeError, Ride, Target, Way, exchange};
use report::{Compared, Fetched};
use tfo_cli::report::{Failure, Format, Outcome, deliver};
use tfo_host::kernel::tcp_info::SynData;
use tfo_model::problem::{Problem, chain};

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// http://HOST[:PORT]/PATH
    #[arg(value_name = "URL")]
    url: String,
    /// Then compare N requests with and N without Fast Open: median times to the first byte, and their ratio
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    compare: Option<u32>,
    /// Longest time for one connection and its answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
    /// Source address
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let duration = tfo_model::time::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(1)..=Duration::from_secs(3_600);
    if range.contains(&duration) { Ok(duration) } else { Err("a timeout must be 1 second to 1 hour".to_owned()) }
}

/// Sends the request, a second time if the first one obtained a cookie, and then as often as a comparison needs.
///
/// # Errors
/// Fails if the URL cannot be used or no server answers.
pub fn run(arguments: &GetArgs, format: Format) -> Result<Outcome, Failure> {
    let url = parse_url(&arguments.url).map_err(|problem| Failure::new(Outcome::Config, problem))?;
    let (target, first) = first_answer(arguments, &url)?;
    let mut exchanges = vec![first];
    // If the kernel had no cookie, or a stale one, it has received a new one by now: try again with that.
    if matches!(exchanges[0].ride, Ride::Known(SynData::Asked | SynData::Rejected)) {
        exchanges.push(again(&target, &url, Way::FastOpen)?);
    }
    let compared = arguments.compare.map(|pairs| compare(&target, &url, pairs)).transpose()?;
    deliver(&Fetched::of(&url, &target, &exchanges, compared), format)
}

fn parse_url(text: &str) -> Result<Url, Problem> {
    let wrong = |message: String, remedy: &str| Problem::error("bad_url", message, remedy);
    let form = "write http://HOST[:PORT]/PATH";
    let url = Url::parse(text).map_err(|error| wrong(format!("{text:?} is not a URL: {error}"), form))?;
    match url.scheme() {
        "http" => {}
        "https" => {
            let remedy = "use an http:// address of the same server, or `tfoctl probe` for its port 443: TFO is a matter of \
                          TCP, and below TLS the answer is the same";
            return Err(wrong("https:// is not supported: `get` speaks plain HTTP only".to_owned(), remedy));
        }
        other => return Err(wrong(format!("the scheme {other}:// is not supported"), form)),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "the URL holds a user name or a password".to_owned(),
            "leave it out: other users of this host can read arguments",
        ));
    }
    Ok(url)
}

/// The first address that answers.
fn first_answer(arguments: &GetArgs, url: &Url) -> Result<(Target, Exchange), Failure> {
    let host = url.host_str().expect("an http:// URL has a host").to_owned();
    let failed = |problem| Failure { problems: problem, outcome: Outcome::Failed };
    let addresses = url.socket_addrs(|| None).map_err(|error| {
        let remedy = "check the name and the name servers of this host, or give an address";
        failed(vec![Problem::error("unresolved", format!("{host} has no address: {error}"), remedy)])
    })?;
    let family = |address: &SocketAddr| {
        let wanted = if arguments.ipv4 { Some(true) } else { arguments.ipv6.then_some(false) };
        let wanted = wanted.or(arguments.source.map(|source| source.is_ipv4()));
        wanted.is_none_or(|ipv4| address.is_ipv4() == ipv4)
    };
    let mut problems = Vec::new();
    for address in addresses.into_iter().filter(family) {
        let authority = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let request = http::request(&path, &authority);
        let target = Target { address, source: arguments.source, request, timeout: arguments.timeout };
        match exchange(&target, Way::FastOpen) {
            Ok(answer) => return Ok((target, answer)),
            Err(error) => problems.push(no_answer(&target, url, &error)),
        }
    }
    if problems.is_empty() {
        let message = format!("{host} has no address of the requested family");
        problems.push(Problem::error("unresolved", message, "leave out -4, -6 and --source, or use another name"));
    }
    Err(failed(problems))
}

fn again(target: &Target, url: &Url, way: Way) -> Result<Exchange, Failure> {
    exchange(target, way).map_err(|error| Failure::new(Outcome::Failed, no_answer(target, url, &error)))
}

fn no_answer(target: &Target, url: &Url, error: &ExchangeError) -> Problem {
    let message = format!("{url} at {}: {}", target.address, chain(error));
    let (kind, remedy) = match error {
        ExchangeError::Socket(_) => {
            ("no_family", "use an address of the other family: this host does not support this one")
        }
        ExchangeError::Source(..) => ("bad_source", "give an address of this host, of the server's family"),
        ExchangeError::Connect(_) => {
            ("no_connection", "check that the server runs and that this host has a route to it")
        }
        ExchangeError::Answer(_) | ExchangeError::Closed => {
            ("no_answer", "check the server's log, or give a longer --timeout")
        }
        ExchangeError::Head(_) => ("no_http", "give the port of a web server that speaks HTTP/1"),
    };
    Problem::error(kind, message, remedy)
}

/// Alternates the two ways, and swaps their order in every pair, so that changes of the network affect both alike.
fn compare(target: &Target, url: &Url, pairs: u32) -> Result<Compared, Failure> {
    let (mut with, mut without, mut accepted) = (Vec::new(), Vec::new(), 0);
    for pair in 0..pairs {
        let order = if pair % 2 == 0 { [Way::FastOpen, Way::Plain] } else { [Way::Plain, Way::FastOpen] };
        for way in order {
            let answer = again(target, url, way)?;
            match way {
                Way::Plain => without.push(answer.first_byte),
                Way::FastOpen => {
                    accepted += u32::from(answer.ride == Ride::Known(SynData::Accepted));
                    with.push(answer.first_byte);
                }
            }
        }
    }
    Ok(Compared::of(with, without, accepted))
}
