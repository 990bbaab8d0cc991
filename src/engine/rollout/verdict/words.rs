//! Numbers, names and commands in the sentences of a verdict.

use std::fmt::Display;

use tfo_model::ids::NodeId;

/// Most names in a sentence or a command; the verdict carries all of them beside it.
const NAMES_MAX: usize = 3;

/// The first names, and how many more there are: `a, b, c and 27 more`.
pub(super) fn listed<T: Display>(names: &[T]) -> String {
    let first: Vec<String> = names.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    match names.len().saturating_sub(NAMES_MAX) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// `1 node`, `2 nodes`.
pub(super) fn counted_nodes(count: usize) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

/// A count as a number of a verdict.
pub(super) fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The command about these nodes; if they are too many to type, the command that lists them.
pub(super) fn command(verb: &str, nodes: &[NodeId]) -> String {
    if nodes.is_empty() || nodes.len() > NAMES_MAX {
        return "tfoctl nodes".to_owned();
    }
    let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
    format!("tfoctl {verb} {}", names.join(" "))
}
