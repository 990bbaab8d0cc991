//! How the demo ends: the numbers of a run side by side with those of the naive one, a sentence for people, a line for programs.
//! Pure.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::judge::{Evidence, Outcome};

/// The numbers of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Numbers {
    rotations: u16,
    connections: u64,
    accepted: u64,
    rejected: u64,
    passive_fail: Option<u64>,
}

/// The last line of the output, where that is not a terminal.
#[derive(Debug, Serialize)]
pub(super) struct LastLine {
    #[serde(flatten)]
    staged: Numbers,
    #[serde(skip_serializing_if = "Option::is_none")]
    naive: Option<Numbers>,
}

impl Numbers {
    pub(super) fn of(evidence: &Evidence) -> Self {
        Self {
            rotations: evidence.rotations,
            connections: evidence.totals.connections(),
            accepted: evidence.totals.of(Outcome::Accepted),
            rejected: evidence.totals.of(Outcome::Rejected),
            passive_fail: evidence.passive_fail,
        }
    }

    /// Of the connections that presented a cookie, the share that was accepted; rounded down, so that 100 % means all.
    fn share(&self) -> String {
        match (u128::from(self.accepted) * 10_000).checked_div(u128::from(self.accepted + self.rejected)) {
            Some(share) => format!("{}.{:02} %", share / 100, share % 100),
            None => "-".to_owned(),
        }
    }

    /// `553 of 3 612 connections`.
    fn lost(&self) -> String {
        format!("{} of {} connections", grouped(self.rejected), grouped(self.connections))
    }
}

impl LastLine {
    pub(super) fn of(staged: Numbers, naive: Option<Numbers>) -> Self {
        Self { staged, naive }
    }
}

/// What the run has shown, in one sentence.
pub(super) fn sentence(staged: &Numbers, naive: Option<&Numbers>) -> String {
    match naive {
        Some(naive) => {
            format!(
                "naive: {} lost their cookie; staged: {}",
                naive.lost(),
                staged.lost().trim_end_matches(" connections")
            )
        }
        None => {
            let rotations = if staged.rotations == 1 { "rotation" } else { "rotations" };
            format!("{} lost their cookie in {} {rotations}", staged.lost(), staged.rotations)
        }
    }
}

/// Both runs side by side.
pub(super) fn table(staged: &Numbers, naive: &Numbers) -> String {
    let count = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), grouped);
    let row = |of: fn(&Numbers) -> u64| [grouped(of(naive)), grouped(of(staged))];
    let rows = [
        ("", ["naive".to_owned(), "staged".to_owned()]),
        ("rotations", row(|numbers| numbers.rotations.into())),
        ("connections", row(|numbers| numbers.connections)),
        ("accepted", [naive.share(), staged.share()]),
        ("rejected", row(|numbers| numbers.rejected)),
        ("PassiveFail", [count(naive.passive_fail), count(staged.passive_fail)]),
    ];
    rows.iter().fold(String::new(), |mut text, (name, [naive, staged])| {
        writeln!(text, "{name:<12}{naive:>12}{staged:>12}").expect("a String takes everything");
        text
    })
}

/// `13 306`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGED: Numbers =
        Numbers { rotations: 3, connections: 13_306, accepted: 13_258, rejected: 0, passive_fail: Some(0) };
    const NAIVE: Numbers =
        Numbers { rotations: 3, connections: 3_612, accepted: 3_011, rejected: 553, passive_fail: Some(553) };

    #[test]
    fn a_run_ends_with_a_sentence_and_a_line() {
        assert_eq!(sentence(&STAGED, None), "0 of 13 306 connections lost their cookie in 3 rotations");
        let one = Numbers { rotations: 1, rejected: 2, connections: 999, ..STAGED };
        assert_eq!(sentence(&one, None), "2 of 999 connections lost their cookie in 1 rotation");
        let line = serde_json::to_string(&LastLine::of(STAGED, None)).unwrap();
        let expected = r#"{"rotations":3,"connections":13306,"accepted":13258,"rejected":0,"passive_fail":0}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn the_naive_run_stands_beside_it() {
        let both = "naive: 553 of 3 612 connections lost their cookie; staged: 0 of 13 306";
        assert_eq!(sentence(&STAGED, Some(&NAIVE)), both);
        let table = table(&STAGED, &NAIVE);
        for line in [
            "                   naive      staged\n",
            "accepted         84.48 %    100.00 %\n",
            "rejected             553           0\n",
        ] {
            assert!(table.contains(line), "{line}{table}");
        }
        let line = serde_json::to_string(&LastLine::of(STAGED, Some(NAIVE))).unwrap();
        assert!(
            line.ends_with(
                r#","naive":{"rotations":3,"connections":3612,"accepted":3011,"rejected":553,"passive_fail":553}}"#
            ),
            "{line}"
        );
        // What the first fleet hands to the second.
        assert_eq!(serde_json::from_str::<Numbers>(&serde_json::to_string(&NAIVE).unwrap()).unwrap(), NAIVE);
    }

    #[test]
    fn nothing_that_presented_a_cookie_has_no_share() {
        assert_eq!(Numbers { accepted: 0, rejected: 0, ..STAGED }.share(), "-");
        let nearly = Numbers { accepted: 1_000_000, rejected: 1, ..STAGED };
        assert_eq!((nearly.share().as_str(), grouped(1_000_000).as_str()), ("99.99 %", "1 000 000"));
    }
}
