//! `tfoctl verify`: checks from outside, by their cookies, whether all nodes behind an address hold the same key.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use super::ending::{ask_each, together};
use super::key_ring::KeyRing;
use super::raw::{Answer, Asker, Plan};
use super::target::{Families, Target};
use super::tcp_option::{Form, WireCookie};
use tfo_cli::report::{Failure, Format, Outcome, show};

mod judge;

use judge::{AddressResult, Group, Keys, Verdict, VerifyReport};

/// Most requests that wait for an answer at a time, below the smallest SYN queue of a server (docs/kernel.md#counters).
const IN_FLIGHT_MAX: usize = 8;

/// How often a SYN is sent before it counts as unanswered.
const TRIES: u32 = 3;

/// Unanswered requests at the start after which the address counts as unreachable.
const SILENCE_MAX: u32 = 16;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all nodes agree (with --expect: hold the keys of the files), 1 otherwise, 2 usage, 3 not allowed."
)]
pub struct Arguments {
    /// Addresses that several nodes share; the default port is 443
    #[arg(required = true, value_name = "VIP[:PORT]")]
    targets: Vec<Target>,
    /// Cookie requests to each address, each from a port of its own, spread over the sources
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,
    #[command(flatten)]
    families: Families,
    /// Source address; may be given several times
    #[arg(long = "source", value_name = "ADDRESS")]
    sources: Vec<IpAddr>,
    /// Kernel text, one key or PRIMARY,BACKUP ("-": stdin), to name the key of each cookie; may be given several times
    #[arg(long = "key-file", value_name = "FILE")]
    key_files: Vec<PathBuf>,
    /// Fail unless every answer has a cookie of a key in the files: a monitor, which succeeds through every phase of a rotation as
    /// long as the files have the pool's keys
    #[arg(long, requires = "key_files")]
    expect: bool,
    /// Ask with the experimental option 254/0xF989 instead of option 34
    #[arg(long)]
    experimental: bool,
    /// Seconds to wait for each answer; a SYN is sent 3 times
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// Samples the cookies of every address, and shows the conclusion about the nodes behind it.
///
/// # Errors
/// Fails if a key file cannot be read, or if an address cannot be probed; then the results of the others are shown first.
pub fn run(arguments: &Arguments, format: Format) -> Result<Outcome, Failure> {
    let keys = KeyRing::from_files(&arguments.key_files).map_err(|problem| Failure::new(Outcome::Config, problem))?;
    let (results, failures) = ask_each(&arguments.targets, arguments.families, &arguments.sources, |_, address| {
        verify(arguments, address, &keys)
    });
    let report = VerifyReport { results };
    if !report.results.is_empty() || failures.is_empty() {
        show(&report, format).map_err(Failure::undelivered)?;
    }
    if let Some(failure) = together(failures) {
        return Err(failure);
    }
    let is_well = |result: &AddressResult| result.expected.unwrap_or(result.verdict == Verdict::Agree);
    Ok(if report.results.iter().all(is_well) { Outcome::Done } else { Outcome::Failed })
}

fn verify(arguments: &Arguments, address: SocketAddr, keys: &KeyRing) -> Result<AddressResult, Failure> {
    let given: Vec<Option<IpAddr>> =
        arguments.sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4()).copied().map(Some).collect();
    let sources = if given.is_empty() { vec![None] } else { given };
    let mut seen = Seen::default();
    let count = u32::try_from(sources.len()).unwrap_or(u32::MAX);
    for (index, source) in (0..count).zip(sources) {
        // The first sources get the remainder, and every source gets at least one request.
        let share = arguments.samples / count + u32::from(index < arguments.samples % count);
        seen.ask(arguments, source, address, share.max(1))?;
    }
    let groups = seen.groups.into_iter().map(|((source, cookie), samples)| {
        let key = cookie.and_then(|cookie| keys.maker(&cookie, source, address.ip()));
        Group::new(source, cookie, samples, key)
    });
    let judged = match (keys.is_empty(), arguments.expect) {
        (true, _) => Keys::Unknown,
        (false, false) => Keys::Known,
        (false, true) => Keys::Expected,
    };
    Ok(AddressResult::new(address, groups.collect(), seen.unanswered, judged))
}

/// The answers so far.
#[derive(Default)]
struct Seen {
    /// Number of answers by source and cookie; no cookie: an answer without TFO.
    groups: BTreeMap<(IpAddr, Option<WireCookie>), u32>,
    unanswered: u32,
}

impl Seen {
    fn ask(
        &mut self,
        arguments: &Arguments,
        source: Option<IpAddr>,
        address: SocketAddr,
        requests: u32,
    ) -> Result<(), Failure> {
        let form = if arguments.experimental { Form::Experimental } else { Form::Standard };
        let wait = Duration::from_secs(arguments.timeout);
        let plan = Plan { requests, in_flight_max: IN_FLIGHT_MAX, wait, tries: TRIES };
        let asker = Asker::open(source, address, form).map_err(|error| error.failure())?;
        let (mut answered, mut unanswered) = (0, 0);
        let asked = asker.ask(plan, |reply| {
            let cookie = match reply.answer {
                Answer::Cookie(fast_open) => fast_open.cookie,
                Answer::NoCookie => None,
                Answer::Reset | Answer::Silence => {
                    unanswered += 1;
                    let nothing_there = answered == 0 && unanswered >= SILENCE_MAX;
                    return if nothing_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                }
            };
            answered += 1;
            *self.groups.entry((asker.source(), cookie)).or_default() += 1;
            ControlFlow::Continue(())
        });
        self.unanswered += unanswered;
        asked.map_err(|error| error.failure())
    }
}
