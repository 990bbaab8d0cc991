//! `[pools.NAME]`: the policy of a pool.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::freeze::freezes;
use crate::reader::{Findings, Located, Table, bound, ppm_of};
use tfo_engine::rollout::policy::{
    AbsentPolicy, BadPattern, BadPolicy, NamePattern, PERIOD_MAX_SECS_MIN, Policy, Share, WaveRule,
};
use tfo_engine::rollout::refusal::EXPECTED_MAX;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_model::time::{RotationInterval, duration_text};

/// The shortest `absent_after`.  A daemon reports within 30 s (`wait`) or a third of `absent_after`, and a failed request is
/// repeated after up to 8 s: a pool that gives up sooner makes healthy nodes withdraw themselves.  A coordinator is blind after a
/// sixth of it, and etcd's members have to be asked in turn before (`store/etcd/client.rs`).
const ABSENT_AFTER_SECS_MIN: u64 = 30;
/// Most pools of one coordinator: each has a thread.
const POOLS_MAX: usize = 64;
/// Most names or patterns in one list.
pub(super) const NAMES_MAX: usize = 1_024;
/// Most waves of a promotion: each costs a barrier and a health window.
const WAVES_MAX: usize = 32;
/// A day and a week, in seconds.
const DAY: u64 = 86_400;
const WEEK: u64 = 7 * DAY;

pub(super) fn pools_section(mut table: Table<'_, '_>, findings: &mut Findings) -> BTreeMap<PoolName, Located<Policy>> {
    let place = table.place("NAME", findings);
    let sections = table.sections(findings);
    if sections.is_empty() || sections.len() > POOLS_MAX {
        let message = format!("the file has {} pools", sections.len());
        let remedy = format!("add [pools.NAME], 1 to {POOLS_MAX} of them");
        findings.add_at(&place, Problem::error("out_of_range", message, remedy));
    }
    let mut pools = BTreeMap::new();
    for (name, table) in sections {
        let Located { key, line, .. } = table.place("nodes", findings);
        let key = key.trim_end_matches(".nodes").to_owned();
        let place = Located { value: (), key: key.clone(), line };
        let policy = pool_section(table, findings);
        match name.parse::<PoolName>() {
            Ok(name) => drop(policy.map(|value| pools.insert(name, Located { value, key, line }))),
            Err(error) => {
                let message = format!("{name:?} is not a valid pool name");
                findings.add_at(&place, Problem::error("bad_value", message, error.to_string()));
            }
        }
    }
    pools
}

fn pool_section(mut table: Table<'_, '_>, findings: &mut Findings) -> Option<Policy> {
    table.require("nodes", "write which nodes may join, for example nodes = [\"*.cache.example.org\"]", findings);
    let nodes = patterns(&mut table, findings);
    let mut policy = Policy::with_defaults(nodes.unwrap_or_default());
    if let Some(number) = table.count("expected_nodes", findings) {
        match usize::try_from(number.value).ok().filter(|number| (1..=EXPECTED_MAX).contains(number)) {
            Some(number) => policy.expected_nodes = Some(number),
            None => out_of_range(&number, "write 1 to 1000000", findings),
        }
    }
    let minutes = RotationInterval::MIN_SECS..=RotationInterval::MAX_SECS;
    let interval = span(&mut table, "interval", minutes, &mut policy.interval_secs, findings);
    span(&mut table, "absent_after", ABSENT_AFTER_SECS_MIN..=WEEK, &mut policy.absent_after_secs, findings);
    let absent = table.parsed("absent_policy", findings, |text| match text {
        "exclude" => Ok(AbsentPolicy::Exclude),
        "wait" => Ok(AbsentPolicy::Wait),
        _ => Err("write \"exclude\" or \"wait\""),
    });
    policy.absent_policy = absent.map_or(policy.absent_policy, |absent| absent.value);
    share(&mut table, "min_present", &mut policy.min_present, findings);
    if let Some(waves) = waves(&mut table, findings) {
        policy.promote_waves = waves;
    }
    share(&mut table, "drain_below", &mut policy.drain_below, findings);
    let drain_max = span(&mut table, "drain_max", 0..=30 * DAY, &mut policy.drain_max_secs, findings);
    cookie_lifetime(&mut table, (interval, drain_max), &mut policy, findings);
    count(&mut table, "drain_min_samples", &mut policy.drain_min_samples, findings);
    span(&mut table, "health_window", 0..=DAY, &mut policy.health_window_secs, findings);
    share(&mut table, "health_rise_max", &mut policy.health_rise_max, findings);
    count(&mut table, "health_min_connections", &mut policy.health_min_connections, findings);
    span(&mut table, "revoke_barrier_max", 1..=WEEK, &mut policy.revoke_barrier_max_secs, findings);
    span(&mut table, "period_max", PERIOD_MAX_SECS_MIN..=WEEK, &mut policy.period_max_secs, findings);
    policy.freeze = freezes(&mut table, findings);
    let places = ["nodes", "promote_waves", "freeze"].map(|key| table.place(key, findings));
    table.finish(findings);
    if let Err(bad) = policy.check() {
        let (place, message) = match bad {
            BadPolicy::TooLong => (&places[0], "these names are too long for a pool's document"),
            BadPolicy::Calendar(_) => (&places[2], "this calendar cannot be kept"),
            _ => (&places[1], "this policy is contradictory"),
        };
        findings.add_at(place, Problem::error("policy", message, bad.to_string()));
    }
    Some(policy)
}

fn out_of_range<T>(place: &Located<T>, remedy: &str, findings: &mut Findings) {
    findings.add_at(place, Problem::error("out_of_range", "this is out of range", remedy));
}

fn span(
    table: &mut Table<'_, '_>,
    key: &'static str,
    range: RangeInclusive<u64>,
    into: &mut u64,
    findings: &mut Findings,
) -> Option<Located<Duration>> {
    let span = table.span(key, findings)?;
    if range.contains(&span.value.as_secs()) {
        *into = span.value.as_secs();
    } else {
        out_of_range(&span, &format!("write {} to {} seconds, with a unit", range.start(), range.end()), findings);
    }
    Some(span)
}

/// Refuses settings under which a cookie would be accepted for longer than `cookie_lifetime_max`: an interval, and a time to
/// drain that the file names.  Its default gives way.
///
/// In the file alone: the pool's document has the interval that came out of it.
fn cookie_lifetime(
    table: &mut Table<'_, '_>,
    (interval, drain_max): (Option<Located<Duration>>, Option<Located<Duration>>),
    policy: &mut Policy,
    findings: &mut Findings,
) {
    let mut longest = 0;
    let range = 2 * RotationInterval::MIN_SECS..=4 * WEEK;
    let Some(named) = span(table, "cookie_lifetime_max", range, &mut longest, findings) else { return };
    if longest == 0 {
        return;
    }
    let half = longest / 2;
    let refuse = |place: &Located<Duration>, key: &str, findings: &mut Findings| {
        let message = format!(
            "a cookie would be accepted for up to {}, and cookie_lifetime_max is {}",
            duration_text(2 * place.value.as_secs()),
            duration_text(longest)
        );
        let remedy = format!(
            "write {key} = \"{}\" or less: a key makes cookies once as long, and takes them once more",
            duration_text(half)
        );
        findings.add_at(place, Problem::error("cookie_lifetime", message, remedy));
    };
    if policy.interval_secs > half {
        let default = Located { value: Duration::from_secs(policy.interval_secs), key: named.key, line: named.line };
        refuse(&interval.unwrap_or(default), "interval", findings);
    }
    match drain_max {
        Some(place) if policy.drain_max_secs > half => refuse(&place, "drain_max", findings),
        Some(_) => {}
        None => policy.drain_max_secs = policy.drain_max_secs.min(half),
    }
}

fn share(table: &mut Table<'_, '_>, key: &'static str, into: &mut Share, findings: &mut Findings) {
    // Checked already: a share is always in range.
    if let Some(share) = table.share_ppm(key, findings).and_then(|share| Share::from_ppm(share.value)) {
        *into = share;
    }
}

fn count(table: &mut Table<'_, '_>, key: &'static str, into: &mut u64, findings: &mut Findings) {
    if let Some(count) = table.count(key, findings) {
        *into = count.value;
    }
}

fn patterns(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Vec<NamePattern>> {
    let list = table.strings("nodes", findings)?;
    if list.value.is_empty() {
        out_of_range(&list, "write at least one name or pattern", findings);
    }
    bound(&list, NAMES_MAX, findings);
    let mut found = Vec::new();
    for text in &list.value {
        match text.parse() {
            Ok(pattern) => found.push(pattern),
            Err(error) => {
                let error: BadPattern = error;
                let message = format!("invalid value {text:?}");
                findings.add_at(&list, Problem::error("bad_value", message, error.to_string()));
            }
        }
    }
    Some(found)
}

fn waves(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Vec<WaveRule>> {
    let list = table.strings("promote_waves", findings)?;
    bound(&list, WAVES_MAX, findings);
    let mut found = Vec::new();
    for text in &list.value {
        match wave(text) {
            Ok(rule) => found.push(rule),
            Err(remedy) => {
                let message = format!("invalid value {text:?}");
                findings.add_at(&list, Problem::error("bad_value", message, remedy));
            }
        }
    }
    (found.len() == list.value.len()).then_some(found)
}

/// `5%` or `0.5%` is a share, anything else a pattern of names.
fn wave(text: &str) -> Result<WaveRule, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return text.parse().map(WaveRule::Names).map_err(|error| format!("{error}, or a share such as \"5%\""));
    };
    // A percentage is a hundredth, so its millionths are divided by 100: at most four decimals.
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, ""));
    let padded = format!("{whole:0>3}");
    let (ones, hundredths) = padded.split_at(padded.len() - 2);
    let share = ppm_of(&format!("{ones}.{hundredths}{decimals}")).and_then(Share::from_ppm);
    let share = share.filter(|share| share.ppm() > 0 && !whole.is_empty());
    share
        .map(WaveRule::Share)
        .ok_or_else(|| "a share is above 0% and at most \"100%\", with at most four decimals".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pool of a file with these lines, or the kinds and keys of what is wrong.
    fn pool(lines: &str) -> Result<Policy, Vec<(&'static str, String)>> {
        use crate::coordinator::CoordinatorSettings;
        use crate::reader::ConfigFile;
        let text = format!(
            "[api]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/ca\"\n[store]\nkey_encryption_key = \"credential:kek\"\n\
             [access]\noperators = []\n[pools.edge]\nnodes = [\"a\"]\n{lines}\n"
        );
        let parsed = CoordinatorSettings::parse(std::path::Path::new("c.toml"), &text);
        let named =
            |problems: Vec<Problem>| problems.into_iter().map(|one| (one.kind, one.key.unwrap_or_default())).collect();
        parsed.map(|settings| settings.pools.into_values().next().unwrap().value).map_err(named)
    }

    #[test]
    fn no_cookie_is_accepted_for_longer_than_the_file_allows() {
        let lifetime = |lines: &str| pool(lines).map(|policy| (policy.cookie_lifetime_secs(), policy.drain_max_secs));
        let refused = |key: &str| Err(vec![("cookie_lifetime", format!("pools.edge.{key}"))]);
        let hour = 3_600;
        assert_eq!(lifetime(""), Ok((48 * hour, 6 * hour)));
        assert_eq!(
            lifetime("interval = \"1h\""),
            Ok((12 * hour, 6 * hour)),
            "clients may stay with the backup that long"
        );
        let two = "cookie_lifetime_max = \"2h\"";
        assert_eq!(lifetime(&format!("{two}\ninterval = \"1h\"")), Ok((2 * hour, hour)));
        assert_eq!(lifetime(&format!("{two}\ninterval = \"61m\"")), refused("interval"));
        assert_eq!(lifetime(&format!("{two}\ninterval = \"1h\"\ndrain_max = \"1h\"")), Ok((2 * hour, hour)));
        assert_eq!(lifetime(&format!("{two}\ninterval = \"1h\"\ndrain_max = \"61m\"")), refused("drain_max"));
        assert_eq!(lifetime(two), refused("cookie_lifetime_max"), "the default of a day");
        assert_eq!(lifetime("cookie_lifetime_max = \"2d\""), Ok((48 * hour, 6 * hour)));
        for bad in ["19s", "29d"] {
            let found = pool(&format!("interval = \"10s\"\ncookie_lifetime_max = {bad:?}"));
            assert_eq!(found, Err(vec![("out_of_range", "pools.edge.cookie_lifetime_max".to_owned())]), "{bad}");
        }
    }

    #[test]
    fn shares_of_waves_are_percentages() {
        for (text, ppm) in [("100%", 1_000_000), ("5%", 50_000), ("0.5%", 5_000), ("12.5%", 125_000), ("0.0001%", 1)] {
            assert_eq!(wave(text), Ok(WaveRule::Share(Share::from_ppm(ppm).unwrap())), "{text}");
        }
        for bad in ["%", "0%", "101%", "-5%", "5 %", "1e1%", "0.00001%", ""] {
            assert!(wave(bad).is_err(), "{bad}");
        }
    }
}
