//! `[[pools.NAME.freeze]]`: a span in which no rotation starts by itself.

use crate::reader::{Findings, Located, Table};
use tfo_engine::rollout::calendar::{BadCalendar, Freeze, When};
use tfo_model::problem::Problem;
use tfo_model::time::UnixTime;
use tfo_model::week::WeekTime;

/// One end of a span, as it is written.
#[derive(Debug, Clone, Copy)]
enum End {
    Once(UnixTime),
    Weekly(WeekTime),
}

/// The spans of a pool that are right by themselves; the policy judges them together.
pub(super) fn freezes(pool: &mut Table<'_, '_>, findings: &mut Findings) -> Vec<Freeze> {
    pool.tables("freeze", findings).into_iter().filter_map(|table| freeze(table, findings)).collect()
}

fn freeze(mut table: Table<'_, '_>, findings: &mut Findings) -> Option<Freeze> {
    for key in ["from", "until"] {
        table.require(
            key,
            "write an instant (\"2026-12-20T00:00:00Z\") or a time of the week (\"fri 16:00\")",
            findings,
        );
    }
    let (from, until) = (end(&mut table, "from", findings), end(&mut table, "until", findings));
    let reason = table.string("reason", findings);
    table.finish(findings);
    let (from, until) = (from?, until?);
    let when = match (from.value, until.value) {
        (End::Once(from), End::Once(until)) => When::Once { from, until },
        (End::Weekly(from), End::Weekly(until)) => When::Weekly { from, until },
        (End::Once(_), End::Weekly(_)) | (End::Weekly(_), End::Once(_)) => {
            let message = "from and until are of two kinds";
            let remedy = "write two instants for a span that comes once, or two times of the week";
            findings.add_at(&until, Problem::error("bad_value", message, remedy));
            return None;
        }
    };
    let place = |of: &Located<End>| Located { value: (), key: of.key.clone(), line: of.line };
    let (value, at) = match &reason {
        Some(reason) => (reason.value.clone(), Located { value: (), key: reason.key.clone(), line: reason.line }),
        None => (String::new(), place(&until)),
    };
    let freeze = Freeze { when, reason: value };
    match freeze.check() {
        Ok(()) => Some(freeze),
        Err(bad) => {
            let at = if bad == BadCalendar::Reason { at } else { place(&until) };
            findings.add_at(&at, Problem::error("out_of_range", "this span cannot be kept", bad.to_string()));
            None
        }
    }
}

fn end(table: &mut Table<'_, '_>, key: &'static str, findings: &mut Findings) -> Option<Located<End>> {
    table.parsed(key, findings, |text| {
        let once = text.parse().map(End::Once);
        once.or_else(|_| text.parse().map(End::Weekly)).map_err(
            |_| "write an instant such as \"2026-12-20T00:00:00Z\", or a time of the week in UTC such as \"fri 16:00\"",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::coordinator::CoordinatorSettings;
    use crate::reader::ConfigFile;

    /// The calendar of a pool with these lines, or the problems.
    fn calendar(lines: &str) -> Result<Vec<String>, Vec<(String, &'static str)>> {
        let text = format!(
            "[api]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/ca\"\n[store]\nkey_encryption_key = \"credential:kek\"\n\
             [access]\noperators = []\n[pools.edge]\nnodes = [\"*.example.org\"]\n{lines}"
        );
        match CoordinatorSettings::parse(Path::new("c.toml"), &text) {
            Ok(settings) => {
                let policy = &settings.pools.values().next().unwrap().value;
                Ok(policy.freeze.iter().map(ToString::to_string).collect())
            }
            Err(problems) => {
                assert!(problems.iter().all(|problem| problem.line.is_some() && !problem.remedy.is_empty()));
                Err(problems.into_iter().map(|problem| (problem.key.unwrap(), problem.kind)).collect())
            }
        }
    }

    fn span(lines: &str) -> String {
        format!("[[pools.edge.freeze]]\n{lines}\n")
    }

    #[test]
    fn a_span_comes_once_or_every_week() {
        let year_end =
            span("from = \"2026-12-20T01:00:00+01:00\"\nuntil = \"2027-01-04T06:00:00Z\"\nreason = \"year end\"");
        let weekend = span("from = \"fri 16:00\"\nuntil = \"mon 07:00\"");
        assert_eq!(
            calendar(&format!("{year_end}{weekend}")).unwrap(),
            ["2026-12-20T00:00:00Z to 2027-01-04T06:00:00Z year end", "fri 16:00 to mon 07:00 "]
        );
        assert_eq!(calendar(""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named_at_its_place() {
        let at = |key: &str, kind| vec![(format!("pools.edge.freeze[0].{key}"), kind)];
        let year = |from: &str, until: &str| span(&format!("from = {from:?}\nuntil = {until:?}"));
        let long = "x".repeat(201);
        let weekly = "from = \"fri 16:00\"\nuntil = \"mon 07:00\"\n";
        for (lines, expected) in [
            (year("2026-12-20", "2027-01-04T06:00:00Z"), at("from", "bad_value")),
            (year("fri 16:00", "2027-01-04T06:00:00Z"), at("until", "bad_value")),
            (year("fri 16:00", "fri 16:00"), at("until", "out_of_range")),
            (year("2027-01-04T06:00:00Z", "2026-12-20T00:00:00Z"), at("until", "out_of_range")),
            (year("2026-12-20T00:00:00Z", "2027-12-20T00:00:00Z"), at("until", "out_of_range")),
            (span(&format!("{weekly}reason = {long:?}")), at("reason", "out_of_range")),
            (span(&format!("{weekly}resaon = \"x\"")), at("resaon", "unknown_key")),
            (span("until = \"mon 07:00\""), at("from", "missing_key")),
            (
                year("mon 00:00", "thu 00:00") + &year("thu 00:00", "mon 00:00"),
                vec![("pools.edge.freeze".to_owned(), "policy")],
            ),
            (span(weekly).repeat(33), vec![("pools.edge.freeze".to_owned(), "policy")]),
        ] {
            assert_eq!(calendar(&lines), Err(expected), "{lines}");
        }
    }
}
