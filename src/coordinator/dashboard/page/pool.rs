//! The page of one pool: what an engineer on call reads first, from the top.

use maud::{Markup, html};

use super::certificates::{self, Expiring};
use super::cookies::{self, Counted};
use super::{act, coordinators, nodes, rotation, verdict, words};
use crate::dashboard::act::Act;
use crate::dashboard::log::Ended;
use crate::dashboard::look::{Look, is_trouble};
use tfo_engine::rollout::policy::Policy;
use tfo_model::fleet::Action;
use tfo_model::key::KeyFingerprint;
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::v1::fleet::{FingerprintCount, PoolStatus};

/// Most pairs of keys that are shown by themselves.
const PAIRS_MAX: usize = 10;
/// Nodes in trouble that are shown here.
const TROUBLED_MAX: usize = 10;

/// Everything that the page is made from.
pub(in crate::dashboard) struct Pool<'a> {
    pub(in crate::dashboard) look: &'a Look,
    /// What its reader can do.
    pub(in crate::dashboard) acts: &'a [Act],
    pub(in crate::dashboard) policy: &'a Policy,
    pub(in crate::dashboard) counted: Counted,
    /// None: the log cannot be read.
    pub(in crate::dashboard) rotations: Option<&'a [Ended]>,
    pub(in crate::dashboard) expiring: Expiring,
    pub(in crate::dashboard) now: UnixTime,
}

/// The main part of the page.
pub(in crate::dashboard) fn main(of: &Pool<'_>) -> Markup {
    let status = &of.look.summary.status;
    html! {
        h1 { "Pool " (status.pool) }
        (verdict(&status.pool, &status.verdict, of.now))
        @if !status.policy_differs.is_empty() {
            p { "The configuration file of this coordinator differs in " (status.policy_differs.join(", "))
                @if status.policy_waits { ": it is applied between rotations." } @else { ": the pool's policy counts." } }
        }
        (act::buttons(&status.pool, None, of.acts))
        section aria-labelledby="rotation" { (rotation::now(of)) }
        section aria-labelledby="troubled" { (troubled(of)) }
        section aria-labelledby="agreement" { (agreement(of.look)) }
        section aria-labelledby="cookies" { (cookies::cookies(&of.counted, of.now)) }
        section aria-labelledby="rotations" { (rotations(of)) }
        section aria-labelledby="coordinators" { (coordinators::table(&of.look.summary.coordinators, of.now)) }
        section aria-labelledby="certificates" { (certificates::table(&of.expiring, &status.pool, of.now)) }
    }
}

/// What a pair of keys is to the pool: its colour, and in words.
fn role(status: &PoolStatus, pair: &FingerprintCount) -> (u8, &'static str) {
    let [primary, backup] = [status.primary, status.backup].map(|slot| slot.map(|slot| slot.fingerprint));
    let is_ours = |key: KeyFingerprint| Some(key) == primary || Some(key) == backup;
    if Some(pair.primary) == primary && pair.backup == backup {
        (1, "what most nodes are told to hold")
    } else if is_ours(pair.primary) && pair.backup.is_some_and(is_ours) {
        (2, "the same keys, the other way round: a wave before or after")
    } else if is_ours(pair.primary) || pair.backup.is_some_and(is_ours) {
        (3, "one of these keys: a step before or after")
    } else {
        (4, "other keys")
    }
}

/// Which keys the nodes hold, as a bar and as a table.
fn agreement(look: &Look) -> Markup {
    let (status, pairs) = (&look.summary.status, &look.summary.fingerprints);
    let total: usize = pairs.iter().map(|pair| pair.nodes).sum();
    let shown = &pairs[..pairs.len().min(PAIRS_MAX)];
    let others: usize = pairs.iter().skip(PAIRS_MAX).map(|pair| pair.nodes).sum();
    let mut left = 0;
    let bars: Vec<(u8, usize, usize)> = (shown.iter().map(|pair| (role(status, pair).0, pair.nodes)))
        .chain((others > 0).then_some((0, others)))
        .map(|(colour, nodes)| {
            let begin = left;
            left += nodes;
            (colour, begin, nodes)
        })
        .collect();
    let summary = match pairs.len() {
        1 => format!("{total} nodes report their keys, all of them the same"),
        pairs => format!("{total} nodes report their keys, in {pairs} different pairs"),
    };
    html! {
        h2 #agreement { "Agreement" }
        @if pairs.is_empty() {
            p { "No node has reported keys yet." }
        } @else {
            svg.bar role="img" aria-label=(summary) viewBox={ "0 0 " (total) " 1" } preserveAspectRatio="none" {
                @for (colour, begin, nodes) in bars { rect class={ "f" (colour) } x=(begin) width=(nodes) height="1" {} }
            }
            div.scroll tabindex="0" role="group" aria-label="Pairs of keys" {
                table {
                    caption { (summary) "." }
                    thead { tr { th scope="col" { "Primary" } th scope="col" { "Backup" } th.num scope="col" { "Nodes" }
                        th.wide scope="col" { "Which" } } }
                    tbody {
                        @for pair in shown {
                            @let (colour, words) = role(status, pair);
                            tr {
                                th scope="row" { span class={ "key c" (colour) } {} code { (pair.primary) } }
                                td { @if let Some(backup) = pair.backup { code { (backup) } } @else { "none" } }
                                td.num { (pair.nodes) }
                                td.wide { (words) }
                            }
                        }
                        @if others > 0 {
                            tr { th scope="row" { span.key.c0 {} (pairs.len() - PAIRS_MAX) " other pairs" } td {}
                                td.num { (others) } td.wide {} }
                        }
                    }
                }
            }
        }
    }
}

/// The worst nodes, and where all of them are.
fn troubled(of: &Pool<'_>) -> Markup {
    let look = of.look;
    let status = &look.summary.status;
    let is_shown = |node: &&_| is_trouble(node) || status.verdict.nodes.contains(&node.node);
    let worst: Vec<_> = look.nodes.iter().filter(is_shown).take(TROUBLED_MAX).collect();
    html! {
        h2 #troubled { "Nodes" }
        @if look.nodes.is_empty() {
            p { "No node has come yet." }
        } @else {
            ul.links {
                @for (state, count) in look.summary.states.iter().filter(|(_, count)| **count > 0) {
                    li id={ "state-" (state) } {
                        a href={ "/pools/" (status.pool) "/nodes?state=" (state) } { (count) " " (state) }
                    }
                }
                li #state-all {
                    a href={ "/pools/" (status.pool) "/nodes" } { "All " (look.nodes.len()) " nodes, the worst first" }
                }
            }
        }
        @if !worst.is_empty() {
            (nodes::table(&worst, "The nodes that need a look", &status.pool, of.now))
        } @else if !look.nodes.is_empty() {
            p { "No node needs a look." }
        }
    }
}

/// The rotations that ended, and the next one.
fn rotations(of: &Pool<'_>) -> Markup {
    let status = &of.look.summary.status;
    html! {
        h2 #rotations { "Rotations" }
        p {
            @if let Some(at) = of.look.summary.next_rotation_at { "The next one is due " (words::when(at, of.now)) ". " }
            @else { "None starts by itself now. " }
            "A key is primary for " (duration_text(of.policy.interval_secs)) ". "
            "An observer can follow a client by one cookie for at most " (duration_text(of.policy.cookie_lifetime_secs())) "."
        }
        @if let Some(span) = &status.calendar {
            p { "The calendar lets none start from " (words::when(span.from, of.now)) " until " (words::when(span.until, of.now))
                @if !span.reason.is_empty() { ": " (span.reason) } "." }
        }
        @if let Some(refused) = &status.rotate_refused {
            p.soft { code { "tfoctl rotate" } " would be refused now: " (refused.message) }
        }
        @match of.rotations {
            None => { p { "The audit log cannot be read." } }
            Some([]) => { p.soft { "None has ended lately." } }
            Some(ended) => {
                div.scroll tabindex="0" role="group" aria-label="Rotations" {
                    table {
                        caption { "The latest ones" }
                        thead { tr { th scope="col" { "Began" } th scope="col" { "Took" } th scope="col" { "Ended" }
                            th scope="col" { "By" } } }
                        tbody {
                            @for rotation in ended { tr {
                                th scope="row" { (words::when(rotation.begun.at, of.now)) }
                                td { (words::rough(rotation.at.secs_since(rotation.begun.at))) }
                                td { (ending(rotation)) }
                                td { @if let Some(operator) = &rotation.begun.by { (operator) } @else { "schedule" } }
                            } }
                        }
                    }
                }
            }
        }
    }
}

/// How a rotation ended.
fn ending(rotation: &Ended) -> String {
    let how = match rotation.action {
        Action::Settle if rotation.begun.is_revoke => "done: the revoked keys are gone".to_owned(),
        Action::Settle => "done".to_owned(),
        Action::Abort | Action::Revoke => format!("turned back by {}", rotation.action),
        other => format!("by {other}"),
    };
    if rotation.begun.was_stopped { format!("{how}; the health gate had stopped it") } else { how }
}
