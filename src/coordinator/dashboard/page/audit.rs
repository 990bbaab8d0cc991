//! The audit log, the latest entries first, by what a reader looks for.

use maud::{Markup, html};

use super::{nodes, words};
use crate::dashboard::log::{Page, Wanted, operator};
use tfo_engine::rollout::document::AuditEntry;
use tfo_model::fleet::Action;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::UnixTime;
use tfo_store::enrolment::LogEntry;

/// Most nodes that an entry names here.
const NODES_MAX: usize = 3;

/// The address of the entries before a revision.
fn older(pool: &PoolName, wanted: &Wanted, before: u64) -> String {
    let mut address = format!("/pools/{pool}/audit?before={before}");
    let parts = [
        ("action", wanted.action.map(|action| action.as_str().to_owned())),
        ("operator", wanted.operator.as_ref().map(ToString::to_string)),
        ("node", wanted.node.as_ref().map(ToString::to_string)),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            address = format!("{address}&{name}={}", words::encoded(&value));
        }
    }
    address
}

/// The main part of the page.  Without `enrolment` it is one of the older pages, or the coordinator enrols no nodes.
pub(in crate::dashboard) fn main(
    page: &Page,
    enrolment: Option<&[LogEntry]>,
    (pool, wanted): (&PoolName, &Wanted),
    now: UnixTime,
) -> Markup {
    let name = |name: &Option<NodeId>| name.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut actions = Action::ALL;
    actions.sort_unstable();
    html! {
        h1 { "Audit log of pool " (pool) }
        form method="get" action={ "/pools/" (pool) "/audit" } role="search" {
            label { "Action"
                select name="action" {
                    option value="" { "any" }
                    @for action in actions { option value=(action) selected[wanted.action == Some(action)] { (action) } }
                }
            }
            label { "Operator" input name="operator" value=(name(&wanted.operator)) maxlength="253"; }
            label { "Node" input name="node" value=(name(&wanted.node)) maxlength="253"; }
            button { "Show" }
        }
        @if page.entries.is_empty() {
            p { "No entry here fits." }
        } @else {
            div.scroll tabindex="0" role="group" aria-label="Entries" {
                table {
                    caption { (page.entries.len()) " entries, the latest first" }
                    thead { tr { th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "By" }
                        th scope="col" { "Nodes" } th scope="col" { "Reason" } th.wide.num scope="col" { "Revision" }
                        th.wide scope="col" { "Phase after it" } } }
                    tbody { @for entry in &page.entries { (shown(entry, pool, now)) } }
                }
            }
        }
        @if let Some(before) = page.older { p { a rel="next" href=(older(pool, wanted, before.get())) { "Older entries" } } }
        @if let Some(entries) = enrolment.filter(|entries| !entries.is_empty()) {
            h2 { "Tokens and certificates" }
            div.scroll {
                table {
                    caption { (entries.len()) " entries, the latest first" }
                    thead { tr { th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "By" }
                        th scope="col" { "Token" } th scope="col" { "Nodes" } th scope="col" { "Remark" } } }
                    tbody { @for entry in entries { (of_enrolment(entry, pool, now)) } }
                }
            }
        }
    }
}

fn of_enrolment(entry: &LogEntry, pool: &PoolName, now: UnixTime) -> Markup {
    let named: Vec<NodeId> = entry.nodes.iter().take(NODES_MAX).cloned().collect();
    let more = entry.nodes.len() - named.len() + entry.more;
    html! {
        tr {
            th scope="row" { (words::when(entry.at, now)) }
            td { (entry.action) @if entry.count != 1 { " x" (entry.count) } }
            td {
                @if let Some(operator) = &entry.operator { (operator) }
                @else if let Some(address) = entry.address { (address) }
                @else { "coordinator" }
            }
            td { @if let Some(token) = &entry.token { (token) } }
            td { (nodes::links(pool, &named, more)) }
            td { (entry.reason) }
        }
    }
}

fn shown(entry: &AuditEntry, pool: &PoolName, now: UnixTime) -> Markup {
    let named: Vec<NodeId> = entry.nodes.iter().take(NODES_MAX).cloned().collect();
    let more = entry.nodes.len() - named.len() + entry.more;
    html! {
        tr id={ "r" (entry.revision) } {
            th scope="row" { (words::when(entry.at, now)) }
            td { (entry.action) }
            td { @if let Some(operator) = operator(entry) { (operator) } @else { "coordinator" } }
            td { (nodes::links(pool, &named, more)) }
            td { (entry.reason) }
            td.wide.num { (entry.revision) }
            td.wide { (entry.phase.as_str()) ", generation " (entry.generation) }
        }
    }
}
