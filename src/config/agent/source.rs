//! `[source]`: where keys come from.

use super::settings::{Algorithm, DeriveEntry, DeriveSettings, Holds, Named, NamedSecret, SourceSettings};
use crate::contact::coordinator_source;
use crate::reader::{Findings, Located, Table};
use tfo_engine::schedule::{Entry, Rule, Schedule};
use tfo_model::problem::Problem;
use tfo_model::time::{RotationInterval, StageLead, UnixTime};

/// Most entries of a schedule: each is a planned migration, and few are planned at a time.
const SCHEDULE_ENTRIES_MAX: usize = 16;

pub(super) fn source_section(
    mut table: Table<'_, '_>,
    findings: &mut Findings,
    named: &mut Named,
) -> Option<SourceSettings> {
    let kind = table.string("kind", findings);
    let source = match kind.as_ref().map(|kind| kind.value.as_str()) {
        Some("derive") => {
            let entries = table.tables("schedule", findings);
            if entries.is_empty() {
                table.require("schedule", "add a [[source.schedule]] with its secret", findings);
            }
            derive_source(entries, findings, named).map(SourceSettings::Derive)
        }
        Some("file") => {
            table.require("path", "write the absolute path of the file with the key text", findings);
            let path = table.secret_path("path", findings);
            named.secrets.extend(path.clone().map(|place| NamedSecret { place, holds: Holds::KeyText }));
            path.map(|path| SourceSettings::File { path })
        }
        Some("coordinator") => {
            coordinator_source(&mut table, findings).map(|source| SourceSettings::Coordinator(Box::new(source)))
        }
        Some("random") => {
            let interval = interval(&mut table, findings).map(|interval| interval.value);
            Some(SourceSettings::Random { interval: interval.unwrap_or(RotationInterval::DEFAULT) })
        }
        Some(_) => {
            let kind = kind.as_ref().expect("it has a value");
            let message = format!("unknown source {:?}", kind.value);
            let remedy = "write \"derive\", \"coordinator\", \"file\" or \"random\"";
            findings.add_at(kind, Problem::error("bad_value", message, remedy));
            return None;
        }
        None => {
            table.require("kind", "write kind = \"derive\", \"coordinator\", \"file\" or \"random\"", findings);
            return None;
        }
    };
    table.finish(findings);
    source
}

/// An interval in its range; none if it is missing or wrong.
fn interval(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Located<RotationInterval>> {
    let Located { value, key, line } = table.span("interval", findings)?;
    match RotationInterval::from_secs(value.as_secs()) {
        Ok(value) => Some(Located { value, key, line }),
        Err(error) => {
            let place = Located { value: (), key, line };
            findings.add_at(&place, Problem::error("out_of_range", "this is out of range", error.to_string()));
            None
        }
    }
}

fn derive_source(tables: Vec<Table<'_, '_>>, findings: &mut Findings, named: &mut Named) -> Option<DeriveSettings> {
    if tables.len() > SCHEDULE_ENTRIES_MAX {
        let place = tables[SCHEDULE_ENTRIES_MAX].place("secret", findings);
        let message = format!("the schedule has more than {SCHEDULE_ENTRIES_MAX} entries");
        findings
            .add_at(&place, Problem::error("out_of_range", message, "remove entries whose keys are no longer in use"));
        return None;
    }
    let count = tables.len();
    let mut places = Vec::new();
    let parsed: Vec<_> = tables
        .into_iter()
        .filter_map(|table| {
            places.push(table.place("not_before", findings));
            schedule_entry(table, findings, named)
        })
        .collect();
    // A wrong entry has its problem already, and the schedule cannot be checked without it.
    if parsed.len() < count || parsed.is_empty() {
        return None;
    }
    let (entries, rules): (Vec<_>, Vec<_>) = parsed.into_iter().unzip();
    match Schedule::new(rules) {
        Ok(schedule) => Some(DeriveSettings { schedule, entries }),
        Err(error) => {
            let remedy =
                "give every entry after the first a not_before that leaves the one above it at least its own interval";
            findings.add_at(&places[error.entry()], Problem::error("schedule", error.to_string(), remedy));
            None
        }
    }
}

fn schedule_entry(
    mut table: Table<'_, '_>,
    findings: &mut Findings,
    named: &mut Named,
) -> Option<(DeriveEntry, Entry)> {
    let algorithm = table.string("algorithm", findings);
    let not_before = table.parsed("not_before", findings, str::parse::<UnixTime>);
    let name = algorithm.as_ref().map_or("hkdf-sha256", |algorithm| algorithm.value.as_str());
    let (secret_key, holds) = match name {
        "hkdf-sha256" | "tofurkey" => ("secret", Holds::Secret),
        "static" => ("key_file", Holds::KeyText),
        _ => {
            let place = algorithm.as_ref().expect("the default is known");
            let remedy = "write \"hkdf-sha256\", \"tofurkey\" or \"static\"";
            findings.add_at(place, Problem::error("bad_value", format!("unknown algorithm {name:?}"), remedy));
            return None;
        }
    };
    let remedy = format!("write {secret_key} = \"/absolute/path\" or \"credential:NAME\"");
    table.require(secret_key, remedy, findings);
    let secret = table.secret_path(secret_key, findings);
    named.secrets.extend(secret.clone().map(|place| NamedSecret { place, holds }));
    let rule = match name {
        "static" => fixed_rule(&mut table, findings).map(|rule| (Algorithm::Static, rule)),
        _ => periodic_rule(&mut table, name == "tofurkey", findings),
    };
    table.finish(findings);
    let (algorithm, rule) = rule?;
    let entry = Entry { rule, not_before: not_before.map(|at| at.value) };
    Some((DeriveEntry { secret: secret?, algorithm }, entry))
}

fn fixed_rule(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Rule> {
    let remedy = "a static key needs it: write how long before its end the next key is staged, for example \"1h\"";
    table.require("stage_lead", remedy, findings);
    let lead = table.span("stage_lead", findings)?;
    match StageLead::alone(lead.value.as_secs()) {
        Ok(lead) => Some(Rule::Fixed { lead }),
        Err(_) => {
            findings.add_at(
                &lead,
                Problem::error("out_of_range", "this is out of range", "a stage_lead is 1 second to 7 days"),
            );
            None
        }
    }
}

fn periodic_rule(table: &mut Table<'_, '_>, tofurkey: bool, findings: &mut Findings) -> Option<(Algorithm, Rule)> {
    // A wrong interval has its problem already; the default only allows a check of the lead.
    let given = interval(table, findings);
    let interval = given.as_ref().map_or(RotationInterval::DEFAULT, |given| given.value);
    if let (true, Some(given)) = (tofurkey && interval.secs() % 2 == 1, &given) {
        let remedy = "tofurkey stages half an interval ahead: write an even number of seconds";
        findings.add_at(given, Problem::error("out_of_range", "the interval is odd", remedy));
    }
    let lead = match table.span("stage_lead", findings) {
        None if tofurkey => StageLead::half_of(interval),
        None => StageLead::default_for(interval),
        Some(lead) => match StageLead::within(lead.value.as_secs(), interval) {
            Ok(lead) => lead,
            Err(error) => {
                findings.add_at(&lead, Problem::error("out_of_range", "this is out of range", error.to_string()));
                return None;
            }
        },
    };
    let algorithm = if tofurkey { Algorithm::Tofurkey } else { Algorithm::HkdfSha256 { interval } };
    Some((algorithm, Rule::Periodic { interval, lead }))
}
