//! Whether present nodes refuse cookies that other present nodes make: the safety property, as far as they report.
//!
//! Denied and excluded nodes do not count: an operator or the pool took them out, and nothing is known of what an absent
//! one does.  Neither does a node whose instruction is on its way: it came a moment ago, and has other keys by the time
//! this is read.  An empty pool and one whose first key is being spread have no common cookies to lose.

use std::collections::BTreeMap;

use super::words::{counted_nodes, listed};
use super::{Verdict, standing};
use crate::rollout::document::{Document, Hold, Snapshot, Stage};
use crate::rollout::input::Now;
use crate::rollout::record::{Membership, NodeRecord, SlotCount};
use crate::rollout::wave::instructions;
use tfo_model::fleet::{Severity, VerdictKind};
use tfo_model::ids::NodeId;
use tfo_model::key::PairPrint;

/// Nodes that hold the same keys.
struct Group<'a> {
    pair: PairPrint,
    nodes: Vec<&'a NodeId>,
    /// Whether the pool instructs some node to hold them.
    is_instructed: bool,
}

/// Who is out of step with the others.
struct Found {
    /// The nodes that are, in name order.
    out: Vec<NodeId>,
    /// Number of others whose cookies they refuse.
    refused: usize,
    /// Number of others that refuse their cookies.
    refusing: usize,
    /// A key whose cookies they refuse, or else one of theirs that is refused.
    key: PairPrint,
    /// Their keys.
    pairs: Vec<PairPrint>,
}

pub(super) fn split(snapshot: &Snapshot, now: Now<'_>) -> Option<Verdict> {
    let document = &snapshot.document;
    let found = find(&groups(snapshot, now))?;
    let count = found.out.len();
    let (out, key, names) = (counted_nodes(count), found.key.primary, listed(&found.out));
    let (verb, of) = (if count == 1 { "refuses" } else { "refuse" }, counted_others(found.refused));
    let what = match (found.refused, found.refusing) {
        (0, refusing) => format!("the cookies of {out} (key {key}) are refused by {}", counted_others(refusing)),
        (_, 0) => format!("{out} {verb} the cookies of {of} (key {key})"),
        (refused, refusing) if refused == refusing => {
            format!("{out} {verb} the cookies of {of} (key {key}), and the other way round")
        }
        (_, refusing) => format!("{out} {verb} the cookies of {of} (key {key}), and {refusing} refuse theirs"),
    };
    let aborts = abort_ends_it(document, &found);
    let remedy = if aborts { "`abort` ends it" } else { "take them out of service and repair them, or exclude them" };
    let verdict = Verdict::new(Severity::Critical, VerdictKind::Split, format!("split: {what}: {names}; {remedy}"))
        .counts("out_of_step", count)
        .counts("refused", found.refused)
        .counts("refusing", found.refusing);
    let verdict = if aborts { verdict.next("tfoctl abort") } else { verdict.next_with("exclude", &found.out) };
    Some(verdict.nodes(found.out))
}

fn counted_others(count: usize) -> String {
    if count == 1 { "1 other".to_owned() } else { format!("{count} others") }
}

/// The present nodes by what they hold.
fn groups<'a>(snapshot: &'a Snapshot, now: Now<'_>) -> Vec<Group<'a>> {
    let document = &snapshot.document;
    if document.stage == Stage::Empty || matches!(document.hold, Some(Hold::FirstKey { .. })) {
        // Nodes that only report still share the keys of their own source.
        return grouped(document, snapshot.nodes.iter().filter(|(_, record)| record.only_reports()), now);
    }
    grouped(document, snapshot.nodes.iter(), now)
}

fn grouped<'a>(
    document: &Document,
    nodes: impl Iterator<Item = (&'a NodeId, &'a NodeRecord)>,
    now: Now<'_>,
) -> Vec<Group<'a>> {
    let instructed: Vec<PairPrint> = instructions(document).iter().map(|own| own.slots.pair()).collect();
    let mut groups: BTreeMap<PairPrint, Vec<&NodeId>> = BTreeMap::new();
    for (node, record) in nodes {
        if let Some(pair) = counted_pair(document, now, node, record) {
            groups.entry(pair).or_default().push(node);
        }
    }
    let group = |(pair, nodes)| Group { pair, nodes, is_instructed: instructed.contains(&pair) };
    groups.into_iter().map(group).collect()
}

/// What the node holds, if it counts.
fn counted_pair(document: &Document, now: Now<'_>, node: &NodeId, record: &NodeRecord) -> Option<PairPrint> {
    if record.membership != Membership::Admitted || now.presence.absent.contains(node) {
        return None;
    }
    let report = record.report.as_ref()?;
    let in_rotation = matches!(document.stage, Stage::Staged { .. } | Stage::Promoted { .. });
    // It cannot share through a rotation, which is known, and shown as its state (docs/protocol.md#rule-16).
    if report.slot_count == SlotCount::One && in_rotation {
        return None;
    }
    let is_on_its_way =
        report.takes_keys() && standing::trouble(document, now, node, record).is_some_and(standing::Trouble::is_brief);
    if is_on_its_way { None } else { Some(record.holds()?.pair()) }
}

/// The groups that are out of step: of two that do not agree the one that the pool instructs no node to hold, and
/// otherwise the smaller one.
fn find(groups: &[Group<'_>]) -> Option<Found> {
    let refuses = |other: &Group<'_>, maker: &Group<'_>| !maker.pair.minted_is_accepted_by(&other.pair);
    let mut out = vec![false; groups.len()];
    for (at, a) in groups.iter().enumerate() {
        for (other, b) in groups.iter().enumerate().skip(at + 1) {
            if refuses(a, b) || refuses(b, a) {
                let weight = |group: &Group<'_>| (group.is_instructed, group.nodes.len());
                out[if weight(a) < weight(b) { at } else { other }] = true;
            }
        }
    }
    let outside: Vec<&Group<'_>> = groups.iter().zip(&out).filter(|(_, out)| **out).map(|(group, _)| group).collect();
    let inside: Vec<&Group<'_>> = groups.iter().zip(&out).filter(|(_, out)| !**out).map(|(group, _)| group).collect();
    let first = outside.first()?;
    let size = |groups: &[&Group<'_>]| groups.iter().map(|group| group.nodes.len()).sum();
    let refused: Vec<&Group<'_>> =
        inside.iter().filter(|maker| outside.iter().any(|other| refuses(other, maker))).copied().collect();
    let refusing: Vec<&Group<'_>> =
        inside.iter().filter(|other| outside.iter().any(|maker| refuses(other, maker))).copied().collect();
    let mut nodes: Vec<NodeId> = outside.iter().flat_map(|group| &group.nodes).map(|node| (*node).clone()).collect();
    nodes.sort();
    Some(Found {
        out: nodes,
        refused: size(&refused),
        refusing: size(&refusing),
        key: refused.iter().max_by_key(|group| group.nodes.len()).unwrap_or(first).pair,
        pairs: outside.iter().map(|group| group.pair).collect(),
    })
}

/// Whether all nodes agree once the running rotation is turned back: the nodes that are out of step would then agree
/// with what all others hold.
fn abort_ends_it(document: &Document, found: &Found) -> bool {
    let back = match &document.stage {
        Stage::Empty | Stage::Steady { .. } => return false,
        Stage::Staged { current, prior_backup, .. } => {
            PairPrint { primary: current.fingerprint, backup: prior_backup.map(|key| key.fingerprint) }
        }
        Stage::Promoted { current, next, .. } => {
            PairPrint { primary: current.fingerprint, backup: Some(next.fingerprint) }
        }
    };
    let agrees = |pair: &PairPrint| pair.minted_is_accepted_by(&back) && back.minted_is_accepted_by(pair);
    document.revoke.is_none() && found.pairs.iter().all(agrees)
}
