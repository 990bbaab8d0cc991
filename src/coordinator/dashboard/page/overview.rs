//! Several pools: the verdict on each, the worst first.

use maud::{Markup, html};

use super::certificates::{self, Expiring};
use super::{rank, words};
use crate::dashboard::look::Look;
use std::sync::Arc;
use tfo_model::ids::PoolName;
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::Verdict;

/// A pool; without a look its store does not answer.
pub(in crate::dashboard) struct Row {
    pub(in crate::dashboard) pool: PoolName,
    pub(in crate::dashboard) verdict: Verdict,
    pub(in crate::dashboard) look: Option<Arc<Look>>,
}

/// The worst one; of two that are alike the first by name.
pub(in crate::dashboard) fn worst(rows: &[Row]) -> Option<&Row> {
    rows.iter().rev().max_by_key(|row| rank(&row.verdict.severity))
}

/// The main part of the page.
pub(in crate::dashboard) fn main(rows: &[Row], expiring: &Expiring, now: UnixTime) -> Markup {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| std::cmp::Reverse(rank(&row.verdict.severity)));
    html! {
        h1 { "TCP Fast Open keys" }
        div #verdict role="status" {
            p #lost {}
            @match worst(rows) {
                Some(row) => { p { (rows.len()) " pools; the worst: " strong class={ "sev " (row.verdict.severity) } {
                    (row.verdict.severity) } " in " a href={ "/pools/" (row.pool) } { (row.pool) } } }
                None => p { "No pool is configured." },
            }
        }
        div.scroll tabindex="0" role="group" aria-label="Pools" {
            table {
                caption { "The pools, the worst first" }
                thead { tr { th scope="col" { "Pool" } th scope="col" { "Verdict" } th.num scope="col" { "Converged" }
                    th.wide scope="col" { "Phase" } th.wide scope="col" { "Next rotation" } } }
                tbody { @for row in sorted { (shown(row, now)) } }
            }
        }
        section aria-labelledby="certificates" { (certificates::coordinator(expiring, now)) }
    }
}

fn shown(row: &Row, now: UnixTime) -> Markup {
    let verdict = &row.verdict;
    let summary = row.look.as_ref().map(|look| &look.summary);
    html! {
        tr id={ "pool-" (row.pool) } {
            th scope="row" { a href={ "/pools/" (row.pool) } { (row.pool) } }
            td { strong class={ "sev " (verdict.severity) } { (verdict.severity) } ": " (verdict.sentence)
                @if let Some(next) = &verdict.next { br; code.cmd { (next) } }
                @if let Some(docs) = &verdict.docs { " " a href={ "/docs/" (docs) } { "More" span.vh { " about " (row.pool) } } } }
            td.num { @if let Some(summary) = summary { (summary.status.converged) "/" (summary.status.required) } }
            td.wide { @if let Some(summary) = summary { (summary.status.phase.as_str())
                @if let Some(waves) = summary.status.waves { ", wave " (waves.opened) " of " (waves.of) } } }
            td.wide { @if let Some(at) = summary.and_then(|summary| summary.next_rotation_at) { (words::when(at, now)) } }
        }
    }
}
