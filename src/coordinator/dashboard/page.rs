//! The page: every pool with its verdict, its phase, its slots by fingerprint, and the nodes that it waits for.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::pool::{StoreDown, Summary, without_store};
use tfo_model::fleet::Severity;
use tfo_model::ids::PoolName;
use tfo_model::state::SlotPrint;
use tfo_wire::v1::fleet::{PoolStatus, Verdict};

/// Most names that are shown of those that a pool waits for.
const NAMES_MAX: usize = 20;

/// Most pairs of keys that are shown.
const PAIRS_MAX: usize = 10;

/// How often a browser reloads it, in seconds.
const REFRESH_SECS: &str = "5";

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse;margin:.5rem 0 1rem}td,th{text-align:left;padding:.15rem 1.2rem .15rem 0;\
    vertical-align:top}th{font-weight:600}code{font:14px ui-monospace,monospace}.alert{color:#b00020;font-weight:600}\
    .verdict{border-left:.4rem solid;padding:.2rem 1rem}.verdict strong{text-transform:uppercase}\
    .verdict.ok{border-color:#1b7a33}.verdict.notice{border-color:#1559b3}.verdict.warning{border-color:#b36b00}\
    .verdict.critical{border-color:#b00020;color:#b00020}";

/// The whole page.
pub(super) fn page(pools: &[(PoolName, Result<Summary, StoreDown>)]) -> Markup {
    let verdicts: Vec<(&PoolName, Verdict)> = pools
        .iter()
        .map(|(name, summary)| {
            (
                name,
                summary
                    .as_ref()
                    .map_or_else(|down| without_store(name, *down), |summary| summary.status.verdict.clone()),
            )
        })
        .collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta http-equiv="refresh" content=(REFRESH_SECS);
                title { (title(&verdicts)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "TCP Fast Open keys" }
                @for ((name, verdict), (_, summary)) in verdicts.iter().zip(pools) {
                    h2 { (name) }
                    (shown(verdict))
                    @if let Ok(summary) = summary { (pool(summary)) }
                }
                p { "tfo-coordinator " (env!("CARGO_PKG_VERSION")) }
            }
        }
    }
}

/// The worst verdict, so that a tab in the background shows it.
fn title(verdicts: &[(&PoolName, Verdict)]) -> String {
    let rank = |verdict: &Verdict| Severity::ALL.into_iter().position(|severity| verdict.severity == severity);
    match verdicts.iter().rev().max_by_key(|(_, verdict)| rank(verdict)) {
        Some((pool, verdict)) => {
            let severity = verdict.severity.as_str().to_uppercase();
            format!("{severity}: {pool} {} - tfo-coordinator", verdict.kind.as_str().replace('_', " "))
        }
        None => "tfo-coordinator".to_owned(),
    }
}

/// The verdict: severity as text and colour, sentence, nodes and the next command.
fn shown(verdict: &Verdict) -> Markup {
    let nodes: Vec<&str> = verdict.nodes.iter().map(|node| node.as_str()).collect();
    html! {
        div class={ "verdict " (verdict.severity) } {
            p { strong { (verdict.severity) } ": " (verdict.sentence) }
            @if let Some(since) = verdict.since { p { "Since " (since) } }
            @if !nodes.is_empty() {
                p { "Nodes: " (nodes.join(", ")) @if verdict.more > 0 { " and " (verdict.more) " more" } }
            }
            @if let Some(next) = &verdict.next { p { "Next: " code { (next) } } }
            @if let Some(docs) = &verdict.docs { p { "More: docs/" (docs) } }
        }
    }
}

fn pool(summary: &Summary) -> Markup {
    let status = &summary.status;
    html! {
        @if !status.policy_differs.is_empty() {
            p.alert { "The configuration file of this coordinator differs in " (status.policy_differs.join(", "))
                @if status.policy_waits { ": applied between rotations." } @else { ": the pool's policy counts." } }
        }
        table {
            tr { th { "Phase" } td { (status.phase.as_str()) @if let Some(waves) = status.waves {
                ", wave " (waves.opened) " of " (waves.of) } " since " (status.since) } }
            tr { th { "Primary" } td { (slot(status.primary)) } }
            tr { th { "Backup" } td { (slot(status.backup)) } }
            tr { th { "Generation" } td { (status.generation) ", revision " (status.revision) } }
            tr { th { "Nodes" } td { (status.converged) " of " (status.required) " have converged"
                @if status.reporting > 0 { ", " (status.reporting) " only report" } } }
            tr { th { "Waiting for" } td { (waits(status)) } }
            tr { th { "States" } td { @for (state, count) in summary.states.iter().filter(|(_, count)| **count > 0) {
                (state) " " (count) " " } } }
        }
        table {
            tr { th { "Installed primary" } th { "Installed backup" } th { "Nodes" } }
            @for pair in summary.fingerprints.iter().take(PAIRS_MAX) {
                tr {
                    td { code { (pair.primary) } }
                    td { @if let Some(backup) = pair.backup { code { (backup) } } @else { "none" } }
                    td { (pair.nodes) }
                }
            }
        }
    }
}

fn slot(slot: Option<SlotPrint>) -> Markup {
    html! {
        @match slot {
            Some(slot) => {
                code { (slot.fingerprint) }
                @if let Some(epoch) = slot.epoch { " epoch " (epoch) }
            },
            None => "none",
        }
    }
}

fn waits(status: &PoolStatus) -> Markup {
    let names: Vec<&str> = status.waiting_for.iter().take(NAMES_MAX).map(|node| node.as_str()).collect();
    let more = status.waiting_for.len().saturating_sub(NAMES_MAX);
    html! {
        @match &status.blocked_by {
            Some(gate) => (gate),
            None => "nothing",
        }
        @if let Some(hold) = &status.hold { " (" (hold) ")" }
        @if let Some(at) = status.next_at { " until " (at) }
        @if !names.is_empty() { ": " (names.join(", ")) }
        @if more > 0 { " and " (more) " more" }
    }
}
