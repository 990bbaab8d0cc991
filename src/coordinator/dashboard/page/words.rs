//! Words for people: times, states, gates, and addresses that a browser reads back.

use std::fmt::Write;

use maud::{Markup, html};

use tfo_model::fleet::{BlockedBy, NodeState};
use tfo_model::named::Named;
use tfo_model::time::{UnixTime, duration_text};

/// A length of time in its largest unit, and the next one.
pub(super) fn rough(secs: u64) -> String {
    let kept = match secs {
        0..3_600 => secs,
        3_600..86_400 => secs - secs % 60,
        _ => secs - secs % 3_600,
    };
    duration_text(kept)
}

/// How long ago, or in how long.
fn distance(at: UnixTime, now: UnixTime) -> String {
    if at > now { format!("in {}", rough(at.secs_since(now))) } else { format!("{} ago", rough(now.secs_since(at))) }
}

/// An instant, with its distance from now.
pub(super) fn when(at: UnixTime, now: UnixTime) -> Markup {
    html! { (instant(at, now)) " (" (distance(at, now)) ")" }
}

/// An instant in UTC: today's without its date.
pub(super) fn instant(at: UnixTime, now: UnixTime) -> Markup {
    let text = at.to_string();
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    let is_today = now.to_string().starts_with(day);
    html! { time datetime=(text) { @if !is_today { (day) " " } (time) } }
}

/// What a state means.
pub(super) fn meaning(state: &Named<NodeState>) -> &'static str {
    let Named::Known(state) = state else { return "a later release knows it" };
    match state {
        NodeState::Converged => "it holds the keys that it was told to",
        NodeState::Straggler => "heard, and behind what it was told",
        NodeState::Disconnected => "it holds its keys, and its connection has gone",
        NodeState::Silent => "not heard for longer than its limit",
        NodeState::Drifted => "a kernel holds other keys than the node was given",
        NodeState::Excluded => "taken out: no barrier waits for it",
        NodeState::Denied => "it gets no keys",
        NodeState::Failed => "it could not write, read back or persist its keys",
        NodeState::Moved => "an operator moved it to another pool",
        NodeState::OneSlot => "its kernel cannot share two keys",
        NodeState::Reporting => "its keys come from elsewhere; it only reports",
    }
}

/// What a closed gate means.
pub(super) fn gate(gate: &Named<BlockedBy>) -> &'static str {
    let Named::Known(gate) = gate else { return "something that a later release knows" };
    match gate {
        BlockedBy::Schedule => "the next rotation to be due",
        BlockedBy::Calendar => "the end of a span of its calendar (`freeze`)",
        BlockedBy::Clock => "this coordinator's clock, which is not believed",
        BlockedBy::Barrier => "every required node to report its instruction as done",
        BlockedBy::Drain => "clients to leave the key that the next stage drops",
        BlockedBy::Health => "the watch over the opened wave to end",
        BlockedBy::Absent => "absent nodes, which may not be excluded",
        BlockedBy::ExpectedNodes => "more nodes: fewer are here than expected",
        BlockedBy::Paused => "`tfoctl resume`: the pool is paused",
        BlockedBy::Held => "`tfoctl resume`: the pool is held",
        BlockedBy::NoKey => "its first key",
        BlockedBy::Frozen => "`tfoctl recover`: the pool is frozen",
    }
}

/// `text` as a part of an address.
pub(super) fn encoded(text: &str) -> String {
    let mut address = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            address.push(char::from(byte));
        } else {
            write!(address, "%{byte:02X}").expect("a string takes everything");
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_say_which_way() {
        let now: UnixTime = "2026-11-30T12:00:00Z".parse().unwrap();
        for (at, text) in [
            ("2026-11-30T12:00:00Z", "12:00:00Z</time> (0s ago)"),
            ("2026-11-30T11:59:01Z", "11:59:01Z</time> (59s ago)"),
            ("2026-11-30T13:02:00Z", "13:02:00Z</time> (in 1h 2m)"),
            ("2026-11-30T12:02:05Z", "12:02:05Z</time> (in 2m 5s)"),
            ("2026-12-01T12:00:59Z", "2026-12-01 12:00:59Z</time> (in 1d)"),
            ("2026-11-28T11:00:00Z", "2026-11-28 11:00:00Z</time> (2d 1h ago)"),
        ] {
            let shown = when(at.parse().unwrap(), now).into_string();
            assert_eq!(shown, format!("<time datetime=\"{at}\">{text}"));
        }
    }

    #[test]
    fn an_address_has_no_signs_of_its_own() {
        assert_eq!(encoded("cp1.example-a_b~"), "cp1.example-a_b~");
        assert_eq!(encoded("a&b=\"<%é"), "a%26b%3D%22%3C%25%C3%A9");
    }
}
