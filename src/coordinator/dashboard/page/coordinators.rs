//! The coordinators of a pool, as its store knows them: who beats, and how many nodes ask each.

use maud::{Markup, html};

use super::words;
use crate::pool::CoordinatorSeen;
use tfo_model::time::UnixTime;

/// The table; the one that shows it is named, and one that is silent is marked.
pub(super) fn table(coordinators: &[CoordinatorSeen], now: UnixTime) -> Markup {
    html! {
        h2 #coordinators { "Coordinators" }
        div.scroll {
            table {
                caption { "Each that has written into the pool's store" }
                thead { tr { th scope="col" { "Name" } th scope="col" { "Latest beat" } th.num scope="col" { "Nodes" }
                    th.wide scope="col" { "Note" } } }
                tbody {
                    @for seen in coordinators { tr id={ "coordinator-" (seen.name) } {
                        th scope="row" { (seen.name) }
                        td { span class=[seen.is_silent.then_some("sev warning")] {
                            @if let Some(at) = seen.beat_at { (words::when(at, now)) } @else { "none yet" } } }
                        td.num { (seen.nodes) }
                        td.wide { (note(seen)) }
                    } }
                }
            }
        }
    }
}

fn note(seen: &CoordinatorSeen) -> &'static str {
    match (seen.is_own, seen.is_silent, seen.nodes) {
        (true, ..) => "this one",
        (false, true, 0) => "silent: it was taken away, or is down",
        (false, true, _) => "silent: its nodes are to ask another one",
        (false, false, _) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_row_and_one_that_is_silent_is_marked() {
        let now: UnixTime = "2026-11-30T12:00:00Z".parse().unwrap();
        let seen = |name: &str, beat_at, nodes, is_own, is_silent| CoordinatorSeen {
            name: name.parse().unwrap(),
            beat_at,
            nodes,
            is_own,
            is_silent,
        };
        let all = [
            seen("tfo1", Some(now.minus(5)), 7, true, false),
            seen("tfo2", Some(now.minus(400)), 2, false, true),
            seen("tfo3", None, 0, false, false),
        ];
        let shown = table(&all, now).into_string();
        for part in [
            "<tr id=\"coordinator-tfo1\">",
            "(5s ago)",
            "this one",
            "<span class=\"sev warning\"><time datetime=\"2026-11-30T11:53:20Z\">",
            "silent: its nodes are to ask another one",
            "none yet",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
