//! Certificates by their ends, the first to end first.

use maud::{Markup, html};

use super::words;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::UnixTime;

/// Nodes that are shown.
const NODES_MAX: usize = 5;
/// An end that is nearer than this is marked: a week to act.
const SOON_SECS: u64 = 7 * 86_400;

/// What ends when.
#[derive(Debug, Clone)]
pub(in crate::dashboard) struct Expiring {
    /// The coordinator's own, the first CA, the revocation list.
    pub(in crate::dashboard) own: Vec<(&'static str, UnixTime)>,
    /// Certificate files that are not in use because something is wrong with them, by what it is.
    pub(in crate::dashboard) broken: Vec<String>,
    /// The nodes whose certificates end first.
    nodes: Vec<(UnixTime, NodeId)>,
}

impl Expiring {
    pub(in crate::dashboard) fn of<'a>(
        own: Vec<(&'static str, UnixTime)>,
        broken: Vec<String>,
        nodes: impl Iterator<Item = (UnixTime, &'a NodeId)>,
    ) -> Self {
        let mut nodes: Vec<_> = nodes.collect();
        if nodes.len() > NODES_MAX {
            nodes.select_nth_unstable(NODES_MAX);
            nodes.truncate(NODES_MAX);
        }
        nodes.sort_unstable();
        Self { own, broken, nodes: nodes.into_iter().map(|(at, node)| (at, node.clone())).collect() }
    }
}

fn end(at: UnixTime, now: UnixTime) -> Markup {
    html! { span class=[(at.secs_since(now) < SOON_SECS).then_some("sev warning")] { (words::when(at, now)) } }
}

/// Those of the coordinator.
pub(super) fn coordinator(expiring: &Expiring, now: UnixTime) -> Markup {
    html! {
        h2 #certificates { "Certificates" }
        @for problem in &expiring.broken { p.sev.critical { (problem) } }
        dl { @for (name, at) in &expiring.own { dt { (name) } dd { "ends " (end(*at, now)) } } }
    }
}

/// Those of the coordinator, and the first of the nodes.
pub(super) fn table(expiring: &Expiring, pool: &PoolName, now: UnixTime) -> Markup {
    html! {
        (coordinator(expiring, now))
        @if !expiring.nodes.is_empty() {
            h3 { "Nodes whose certificates end first" }
            dl {
                @for (at, node) in &expiring.nodes {
                    dt { a href={ "/pools/" (pool) "/nodes/" (words::encoded(node.as_str())) } { (node) } }
                    dd { "ends " (end(*at, now)) }
                }
            }
        }
    }
}
