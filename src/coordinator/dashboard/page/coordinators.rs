//! The coordinators of a pool, as its store knows them: who beats, and how many nodes ask each.

use maud::{Markup, html};

use super::words;
use tfo_engine::rollout::clocks::CLOCK_OFF_MAX_SECS;
use tfo_model::time::UnixTime;
use tfo_wire::v1::coordinators::CoordinatorStatus;

/// The table; the one that shows it is named, and one that is silent is marked.
pub(super) fn table(coordinators: &[CoordinatorStatus], now: UnixTime) -> Markup {
    html! {
        h2 #coordinators { "Coordinators" }
        div.scroll tabindex="0" role="group" aria-label="Coordinators" {
            table {
                caption { "Each that has written into the pool's store" }
                thead { tr { th scope="col" { "Name" } th scope="col" { "Release" } th scope="col" { "Latest beat" } th.num scope="col" { "Nodes" }
                    th.wide scope="col" { "Note" } } }
                tbody {
                    @for seen in coordinators { tr id={ "coordinator-" (seen.name) } {
                        th scope="row" { (seen.name) }
                        td { (seen.release.as_deref().unwrap_or("–")) }
                        td { span class=[seen.silent.then_some("sev warning")] {
                            @if let Some(at) = seen.beat_at { (words::when(at, now)) } @else { "none yet" } } }
                        td.num { (seen.nodes) }
                        td.wide { (note(seen)) }
                    } }
                }
            }
        }
    }
}

fn note(seen: &CoordinatorStatus) -> String {
    let mut notes = Vec::new();
    match (seen.answers, seen.silent, seen.nodes) {
        (true, ..) => notes.push("this one".to_owned()),
        (false, true, 0) => notes.push("silent: it was taken away, or is down".to_owned()),
        (false, true, _) => notes.push("silent: its nodes are to ask another one".to_owned()),
        (false, false, _) => {}
    }
    if let Some(secs) = seen.clock_ahead_secs.filter(|secs| secs.abs() > CLOCK_OFF_MAX_SECS) {
        notes.push(format!("its clock is {} s {}", secs.abs(), if secs > 0 { "ahead" } else { "behind" }));
    }
    if !seen.policy_differs.is_empty() {
        notes.push(format!("its file differs from the policy in {}", seen.policy_differs.join(", ")));
    }
    notes.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_row_and_one_that_is_silent_is_marked() {
        let now: UnixTime = "2026-11-30T12:00:00Z".parse().unwrap();
        let seen = |name: &str, beat_at, nodes| CoordinatorStatus {
            name: name.parse().unwrap(),
            answers: false,
            release: Some("0.1.0".to_owned()),
            life: Some(1),
            nodes,
            beat_at,
            silent: false,
            clock_ahead_secs: Some(2),
            policy_differs: Vec::new(),
        };
        let all = [
            CoordinatorStatus { answers: true, ..seen("tfo1", Some(now.minus(5)), 7) },
            CoordinatorStatus { silent: true, clock_ahead_secs: None, ..seen("tfo2", Some(now.minus(400)), 2) },
            CoordinatorStatus { release: None, ..seen("tfo3", None, 0) },
            CoordinatorStatus {
                clock_ahead_secs: Some(-61),
                policy_differs: vec!["interval".to_owned(), "nodes".to_owned()],
                ..seen("tfo4", Some(now.minus(5)), 1)
            },
        ];
        let shown = table(&all, now).into_string();
        for part in [
            "<tr id=\"coordinator-tfo1\">",
            "(5s ago)",
            "<td>0.1.0</td>",
            "this one",
            "<span class=\"sev warning\"><time datetime=\"2026-11-30T11:53:20Z\">",
            "silent: its nodes are to ask another one",
            "none yet",
            "its clock is 61 s behind; its file differs from the policy in interval, nodes",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
