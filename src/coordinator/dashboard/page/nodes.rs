//! The nodes: fifty on a page, the worst first, by name and state; and all that is known of one.

use maud::{Markup, html};

use super::{act, rotation, words};
use crate::dashboard::act::Act;
use crate::dashboard::look::{Look, ROWS_MAX, is_trouble};
use tfo_model::caveat::Caveat;
use tfo_model::fleet::NodeState;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::NodeStatus;

/// Longest text to search for: that of a name.
pub(in crate::dashboard) const SEARCH_BYTES_MAX: usize = 253;

/// What a reader looks for.
#[derive(Debug, Clone, Default)]
pub(in crate::dashboard) struct Wanted {
    /// A part of the name.
    pub(in crate::dashboard) search: String,
    pub(in crate::dashboard) state: Option<NodeState>,
    /// From 1.
    pub(in crate::dashboard) page: usize,
}

impl Wanted {
    /// The address of one page of it.
    fn address(&self, pool: &PoolName, page: usize) -> String {
        let mut parts = Vec::new();
        if !self.search.is_empty() {
            parts.push(format!("search={}", words::encoded(&self.search)));
        }
        if let Some(state) = self.state {
            parts.push(format!("state={state}"));
        }
        if page > 1 {
            parts.push(format!("page={page}"));
        }
        let query = if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) };
        format!("/pools/{pool}/nodes{query}")
    }
}

pub(super) fn address(pool: &PoolName, node: &NodeId) -> String {
    format!("/pools/{pool}/nodes/{}", words::encoded(node.as_str()))
}

/// Names that lead to their nodes.
pub(super) fn links(pool: &PoolName, nodes: &[NodeId], more: usize) -> Markup {
    html! {
        @for (index, node) in nodes.iter().enumerate() {
            @if index > 0 { ", " }
            a href=(address(pool, node)) { (node) }
        }
        @if more > 0 { " and " a href={ "/pools/" (pool) "/nodes" } { (more) " more" } }
    }
}

/// The list.
pub(in crate::dashboard) fn list(look: &Look, wanted: &Wanted, now: UnixTime) -> Markup {
    let pool = &look.summary.status.pool;
    let search = wanted.search.to_ascii_lowercase();
    let fits = |node: &&NodeStatus| {
        node.node.as_str().contains(&search) && wanted.state.is_none_or(|state| node.state == state)
    };
    let found: Vec<&NodeStatus> = look.nodes.iter().filter(fits).collect();
    let pages = found.len().div_ceil(ROWS_MAX).max(1);
    let page = wanted.page.clamp(1, pages);
    let begin = (page - 1) * ROWS_MAX;
    let shown = &found[begin..found.len().min(begin + ROWS_MAX)];
    let caption = format!(
        "{} of {} nodes{}, the worst first",
        found.len(),
        look.nodes.len(),
        if shown.is_empty() { String::new() } else { format!(", {} to {} here", begin + 1, begin + shown.len()) }
    );
    html! {
        h1 { "Nodes of pool " (pool) }
        form method="get" action={ "/pools/" (pool) "/nodes" } role="search" {
            label { "Part of the name"
                input type="search" name="search" value=(wanted.search) maxlength=(SEARCH_BYTES_MAX); }
            label { "State"
                select name="state" {
                    option value="" { "any" }
                    @for (state, count) in &look.summary.states {
                        option value=(state) selected[wanted.state == Some(*state)] { (state) " (" (count) ")" }
                    }
                }
            }
            button { "Show" }
        }
        @if shown.is_empty() { p { (caption) "." } } @else { (table(shown, &caption, pool, now)) }
        @if pages > 1 {
            nav aria-label="Pages of the list" {
                ul {
                    @if page > 1 { li { a rel="prev" href=(wanted.address(pool, page - 1)) { "Previous" } } }
                    li { "Page " (page) " of " (pages) }
                    @if page < pages { li { a rel="next" href=(wanted.address(pool, page + 1)) { "Next" } } }
                }
            }
        }
    }
}

/// Some nodes.
pub(super) fn table(nodes: &[&NodeStatus], caption: &str, pool: &PoolName, now: UnixTime) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Nodes" {
            table {
                caption { (caption) }
                thead { tr { th scope="col" { "Node" } th scope="col" { "State" } th.wide scope="col" { "Problem" }
                    th scope="col" { "Behind since" } th.wide scope="col" { "Primary" } th.wide scope="col" { "Last seen" } } }
                tbody {
                    @for node in nodes {
                        tr id={ "node-" (node.node) } {
                            th scope="row" { a href=(address(pool, &node.node)) { (node.node) } }
                            td { span class=[is_trouble(node).then_some("sev warning")] { (node.state) } }
                            td.wide { @if let Some(error) = &node.error { (error) } }
                            td { @if let Some(since) = node.behind_since { (words::when(since, now)) } }
                            td.wide { @if let Some(slot) = node.primary { code { (slot.fingerprint) } } }
                            td.wide { @if let Some(at) = node.last_report_at { (words::when(at, now)) } @else { "never" } }
                        }
                    }
                }
            }
        }
    }
}

/// All that is known of one node.
pub(in crate::dashboard) fn one(node: &NodeStatus, pool: &PoolName, acts: &[Act], now: UnixTime) -> Markup {
    let unknown = || html! { "unknown: it has not synced since this coordinator started" };
    let text = |text: &Option<String>| text.as_ref().map_or_else(unknown, |text| html! { (text) });
    html! {
        h1 { "Node " (node.node) }
        p { span class=[is_trouble(node).then_some("sev warning")] { (node.state) } ": " (words::meaning(&node.state)) "." }
        dl {
            @if let Some(error) = &node.error { dt { "Problem" } dd { code { (error) } } }
            @if let Some(since) = node.behind_since { dt { "Behind since" } dd { (words::when(since, now)) } }
            @if let Some(reason) = &node.excluded {
                dt { "Excluded" }
                dd { (reason) @if let Some(until) = node.excluded_until { ", until " (words::when(until, now)) } }
            }
            @if let Some(to) = &node.moved_to { dt { "Moved to" } dd { a href={ "/pools/" (to) } { (to) } } }
            dt { "Pool" } dd { a href={ "/pools/" (pool) } { (pool) } }
            dt { "Primary" } dd { (rotation::slot(node.primary)) }
            dt { "Backup" } dd { (rotation::slot(node.backup)) }
            dt { "Generation" } dd { @if let Some(generation) = node.generation { (generation) } @else { "none" } }
            dt { "Keys from" } dd { (node.source) }
            dt { "Last seen" } dd { @if let Some(at) = node.last_report_at { (words::when(at, now)) } @else { "never" } }
            dt { "Connection" }
            dd {
                @match node.connected { Some(true) => "open", Some(false) => "none", None => "none that is kept" }
                @if let Some(since) = node.connected_since { " since " (words::when(since, now)) }
            }
            dt { "Certificate ends" }
            dd { @if let Some(at) = node.certificate_until { (words::when(at, now)) } @else { (unknown()) } }
            dt { "Agent" } dd { (text(&node.agent)) }
            dt { "Kernel" } dd { (text(&node.kernel)) }
            dt { "tcp_fastopen" } dd { (text(&node.tcp_fastopen.map(|value| value.to_string()))) }
            @if let Some(namespaces) = node.namespaces { dt { "Namespaces" } dd { (namespaces) } }
            @for caveat in &node.caveats {
                dt { "Caveat" } dd { (Caveat::shown(caveat)) }
            }
        }
        @if is_trouble(node) {
            p { "On the node: " code.cmd { "tfoctl status" } ", " code.cmd { "systemctl status tfo-agent" } ". "
                a href="/docs/how-to/nodes_behind.md" { "What to do about a node that is behind" } }
        }
        (act::buttons(pool, Some(&node.node), acts))
        p { a href={ "/pools/" (pool) "/audit?node=" (words::encoded(node.node.as_str())) } { "What was done to it" } }
    }
}
