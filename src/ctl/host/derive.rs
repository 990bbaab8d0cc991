//! `tfoctl derive`: the keys that a secret and an interval put into the slots at a given time, and at each change after it.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::key_file::secret_path;
use super::reveal::{self, Revealed};
use tfo_cli::report::{Failure, Format, Outcome, Report};
use tfo_crypto::derive::{SECRET_BYTES_MAX, Secret};
use tfo_crypto::generator::{Derivation, KeyGenerator};
use tfo_host::runtime::clock;
use tfo_model::count::Epoch;
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_model::problem::Problem;
use tfo_model::state::{DesiredState, Phase, SlotPrint};
use tfo_model::time::{RotationInterval, StageLead, UnixTime, parse_duration};

/// Most steps of one call.  A year of 10-minute keys has more, but that is too long a list to read.
const STEPS_MAX: u32 = 10_000;
/// Room for one step as JSON, in bytes: two keys with fingerprint, epoch and text are 300.
const STEP_BYTES_MAX: usize = 600;

/// How a key is made from the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeriveAlgorithm {
    /// HKDF-SHA-256, this project's own
    #[value(name = "hkdf-sha256")]
    HkdfSha256,
    /// BLAKE2b as the program tofurkey does it
    Tofurkey,
}

/// A time, or now.
#[derive(Debug, Clone, Copy)]
enum At {
    Now,
    Time(UnixTime),
}

impl std::str::FromStr for At {
    type Err = tfo_model::time::BadTime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "now" { Ok(Self::Now) } else { text.parse().map(Self::Time) }
    }
}

/// Arguments of `derive`.
#[derive(Debug, clap::Args)]
pub struct DeriveArgs {
    /// File with the fleet's secret, which only its owner may read, or credential:NAME
    #[arg(long, value_name = "FILE")]
    secret: String,
    /// How long a key is primary, 10s to 7d; as in agent.toml
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    interval: u64,
    /// How long before that it is staged as backup [default: 1h, at most half the interval; tofurkey: half the interval]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    stage_lead: Option<u64>,
    /// How keys are made
    #[arg(long, value_enum, default_value_t = DeriveAlgorithm::HkdfSha256)]
    algorithm: DeriveAlgorithm,
    /// Time of the first step, RFC 3339, or "now"
    #[arg(long, value_name = "TIME")]
    at: At,
    /// Number of steps: the slots at that time, and after each change that follows
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(STEPS_MAX)))]
    count: u32,
    /// Show the keys themselves, not only their fingerprints
    #[arg(long)]
    reveal: bool,
}

fn seconds(text: &str) -> Result<u64, tfo_model::time::BadDuration> {
    parse_duration(text).map(|duration| duration.as_secs())
}

/// Wire v1: `derive --format json` (docs/reference/json.md).
#[derive(Serialize)]
struct Steps {
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    at: UnixTime,
    phase: Phase,
    primary: Slot,
    backup: Option<Slot>,
    next_change_at: Option<UnixTime>,
}

#[derive(Serialize)]
struct Slot {
    epoch: Option<Epoch>,
    fingerprint: KeyFingerprint,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Revealed>,
}

impl Step {
    fn of(at: UnixTime, state: &DesiredState, reveal: bool) -> Self {
        let slot = |SlotPrint { epoch, fingerprint }, key: &TfoKey| {
            let key = reveal.then(|| Revealed::of(key));
            Slot { epoch, fingerprint, key }
        };
        let backup = state.prints.backup.zip(state.keys.backup());
        Self {
            at,
            phase: state.phase,
            primary: slot(state.prints.primary, state.keys.primary()),
            backup: backup.map(|(print, key)| slot(print, key)),
            next_change_at: state.next_change_at,
        }
    }
}

impl Report for Steps {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:<20}  {:<6}  {:<16}  {:<16}  UNTIL", "AT", "PHASE", "PRIMARY", "BACKUP")?;
        for Step { at, phase, primary, backup, next_change_at } in &self.steps {
            let print = |slot: Option<&Slot>| slot.map_or_else(|| "-".to_owned(), |slot| slot.fingerprint.to_string());
            let until = next_change_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
            let (first, second) = (print(Some(primary)), print(backup.as_ref()));
            writeln!(out, "{at:<20}  {:<6}  {first:<16}  {second:<16}  {until}", phase.as_str())?;
            if let Some(key) = &primary.key {
                let backup = backup.as_ref().and_then(|backup| backup.key.as_ref());
                let (comma, backup) = backup.map_or(("", ""), |backup| (",", backup.expose()));
                writeln!(out, "  {}{comma}{backup}", key.expose())?;
            }
        }
        Ok(())
    }
}

/// Derives the keys.
///
/// # Errors
/// Fails if the secret cannot be used, or if the interval or the lead is out of range.
pub fn run(arguments: &DeriveArgs, format: Format) -> Result<Outcome, Failure> {
    let derivation = derivation(arguments)?;
    let mut next = match arguments.at {
        At::Now => Some(clock::now()),
        At::Time(at) => Some(at),
    };
    let mut steps = Vec::new();
    for _ in 0..arguments.count {
        let Some(at) = next else { break };
        let state = derivation.at(at).map_err(|error| {
            let remedy = "use a secret of random bytes: head -c 32 /dev/urandom";
            Failure::new(Outcome::Failed, Problem::error("equal_keys", error.to_string(), remedy))
        })?;
        steps.push(Step::of(at, &state, arguments.reveal));
        // The last representable time is in the year 9999.
        next = state.next_change_at.filter(|next| *next > at && *next < UnixTime::MAX);
    }
    let bytes_max = (steps.len() + 1) * STEP_BYTES_MAX;
    reveal::deliver(&Steps { steps }, format, bytes_max)
}

fn derivation(arguments: &DeriveArgs) -> Result<Derivation, Failure> {
    let usage = |key: &str, error: &dyn std::fmt::Display, remedy: &str| {
        let problem = Problem::error("out_of_range", error.to_string(), remedy).at_key(key);
        Failure::new(Outcome::Config, problem)
    };
    let interval = RotationInterval::from_secs(arguments.interval)
        .map_err(|error| usage("--interval", &error, "give the interval of agent.toml, for example 24h"))?;
    let tofurkey = arguments.algorithm == DeriveAlgorithm::Tofurkey;
    if tofurkey && interval.secs() % 2 == 1 {
        let remedy = "tofurkey stages half an interval ahead: give an even number of seconds";
        return Err(usage("--interval", &"the interval is odd", remedy));
    }
    let lead = match arguments.stage_lead {
        Some(secs) => StageLead::within(secs, interval).map_err(|error| {
            usage("--stage-lead", &error, "give a duration shorter than the interval, for example 1h")
        })?,
        None if tofurkey => StageLead::half_of(interval),
        None => StageLead::default_for(interval),
    };
    let place = secret_path(&arguments.secret);
    let config = |problem| Failure::new(Outcome::Config, problem);
    let secret = Secret::new(place.read(SECRET_BYTES_MAX).map_err(config)?).map_err(|error| {
        let remedy = "give the file that source.schedule.secret in agent.toml names";
        config(Problem::error("secret_weak", format!("{place}: {error}"), remedy))
    })?;
    let generator = match arguments.algorithm {
        DeriveAlgorithm::HkdfSha256 => KeyGenerator::HkdfSha256(secret, interval),
        DeriveAlgorithm::Tofurkey => KeyGenerator::Tofurkey(secret),
    };
    Ok(Derivation::new(generator, interval, lead))
}
