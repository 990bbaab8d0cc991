//! Verdicts on a pool that moves or could move: rotating, absent, expected nodes, agree; also of what is to come.

use super::Verdict;
use super::standing::{Trouble, described, excluded_by, may_exclude, names, trouble, troubled};
use super::words::{counted_nodes, listed};
use crate::rollout::barrier::Barrier;
use crate::rollout::document::{Snapshot, Stage, Wave};
use crate::rollout::gates::{Health, drained, due, due_at, health};
use crate::rollout::input::Now;
use crate::rollout::policy::AbsentPolicy;
use crate::rollout::record::{Exclusion, Membership};
use crate::rollout::slots::PoolKey;
use crate::rollout::wave::{has_acked, is_opened};
use tfo_model::fleet::{Severity, VerdictKind};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// How many of these nodes are required and have acknowledged.
pub(super) fn holders(snapshot: &Snapshot, of: impl Fn(&NodeId) -> bool) -> usize {
    let required = snapshot.nodes.iter().filter(|(node, record)| of(node) && record.is_required());
    required.filter(|(node, record)| has_acked(&snapshot.document, node, record)).count()
}

/// A rotation or a revoke that runs.
pub(super) fn rotating(snapshot: &Snapshot, now: Now<'_>) -> Option<Verdict> {
    let document = &snapshot.document;
    let barrier = Barrier::of_opened(snapshot);
    let (required, acked) = (barrier.required, barrier.required - barrier.waiting_for.len());
    let run = if document.revoke.is_some() { "a revoke runs" } else { "a rotation runs" };
    let verdict = |sentence: String| {
        Verdict::new(Severity::Notice, VerdictKind::Rotating, sentence)
            .since(document.since)
            .counts("required", required)
            .counts("waiting_for", barrier.waiting_for.len())
    };
    let begun = match &document.stage {
        Stage::Empty => return None,
        Stage::Steady { .. } => {
            let keys = document.revoke.as_ref()?.keys.len();
            let keys = if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") };
            verdict(format!("{run}: {keys} must leave the nodes, {acked} of {required} have what they should"))
        }
        Stage::Staged { .. } => {
            verdict(format!("{run}: {acked} of {required} nodes have the next key as their backup"))
                .counts("converged", acked)
        }
        Stage::Promoted { next, wave, .. } => {
            let (holders, members) = members(snapshot, *next, wave);
            let (opened, of) = (wave.opened + 1, wave.rules.len());
            let place = if of == 1 { String::new() } else { format!("wave {opened} of {of}, ") };
            verdict(format!("{run}: {place}{holders} of {members} nodes make cookies with the new key"))
                .counts("converged", holders)
                .counts("members", members)
                .counts("wave", opened)
                .counts("waves", of)
        }
    };
    Some(waiting(snapshot, now, &barrier, begun))
}

/// How many nodes of the opened waves have acknowledged, and how many there are.
fn members(snapshot: &Snapshot, next: PoolKey, wave: &Wave) -> (usize, usize) {
    let document = &snapshot.document;
    let opened = |node: &NodeId| is_opened(document, next.epoch, wave, node);
    let members = || snapshot.nodes.iter().filter(|(node, record)| record.is_required() && opened(node));
    (members().filter(|(node, record)| has_acked(document, node, record)).count(), members().count())
}

/// Adds what the rotation waits for: nodes, or the end of the observation of a wave.
fn waiting(snapshot: &Snapshot, now: Now<'_>, barrier: &Barrier, begun: Verdict) -> Verdict {
    let document = &snapshot.document;
    if barrier.required < barrier.needed {
        return too_few(snapshot, barrier, begun.sentence);
    }
    if barrier.waiting_for.is_empty() {
        return observed(snapshot, now, begun);
    }
    let of_barrier = |node: &NodeId| {
        let record = snapshot.nodes.get(node)?;
        Some((trouble(document, now, node, record)?, node.clone()))
    };
    let mut waits: Vec<(Trouble, NodeId)> = barrier.waiting_for.iter().filter_map(of_barrier).collect();
    waits.sort();
    let of_kind = |kind: Trouble| names(&waits.iter().filter(|(own, _)| *own == kind).cloned().collect::<Vec<_>>());
    let silent = of_kind(Trouble::Silent);
    // The next tick excludes them.
    let leaves = may_exclude(snapshot, barrier, silent.len());
    let is_lasting = |trouble: Trouble| !(trouble.is_brief() || leaves && trouble == Trouble::Silent);
    let lasting: Vec<(Trouble, NodeId)> = waits.iter().filter(|(trouble, _)| is_lasting(*trouble)).cloned().collect();
    if !silent.is_empty() && silent.len() == lasting.len() {
        return waiting_for_absent(snapshot, barrier, begun, silent);
    }
    let shown = if lasting.is_empty() { listed(&names(&waits)) } else { described(&lasting) };
    let mut sentence = format!("{}; it waits for {shown}", begun.sentence);
    let late = of_kind(Trouble::Late);
    let until = excluded_by(snapshot, now, barrier, &late);
    if let Some(until) = until {
        sentence += &format!("; nodes that stay away are excluded by {until}");
    }
    let mut verdict = Verdict { sentence, ..begun }.nodes(names(&waits));
    if let Some(until) = until {
        verdict = verdict.number("until_timestamp_seconds", until.secs());
    }
    if lasting.is_empty() {
        return verdict;
    }
    // `advance` would leave them behind until their next sync, which comes within seconds.
    Verdict { severity: Severity::Warning, ..verdict }.next_with("exclude", &names(&lasting))
}

/// A rotation that waits for absent nodes, which are not excluded without an operator.
fn waiting_for_absent(snapshot: &Snapshot, barrier: &Barrier, begun: Verdict, silent: Vec<NodeId>) -> Verdict {
    let nodes = if silent.len() == 1 { "an absent node" } else { "absent nodes" };
    let sentence =
        format!("{}; it waits for {nodes}: {}; {}", begun.sentence, listed(&silent), why_kept(snapshot, barrier));
    let (severity, kind) = (Severity::Warning, VerdictKind::Absent);
    let verdict = Verdict { severity, kind, sentence, docs: super::page(kind), ..begun };
    let verdict = verdict.counts("absent", silent.len());
    let verdict = match snapshot.document.policy.absent_policy {
        AbsentPolicy::Wait => verdict.next("tfoctl advance"),
        AbsentPolicy::Exclude => verdict.next_with("forget", &silent),
    };
    verdict.nodes(silent)
}

/// Why absent nodes are not excluded.
fn why_kept(snapshot: &Snapshot, barrier: &Barrier) -> String {
    match snapshot.document.policy.absent_policy {
        AbsentPolicy::Wait => "absent_policy is \"wait\"".to_owned(),
        AbsentPolicy::Exclude => {
            format!("without them fewer than {} nodes would be left, which min_present asks for", barrier.needed)
        }
    }
}

/// Adds the share of rejected cookies and the end of the observation.
fn observed(snapshot: &Snapshot, now: Now<'_>, begun: Verdict) -> Verdict {
    let Stage::Promoted { next, wave, .. } = &snapshot.document.stage else { return begun };
    if wave.is_last() || snapshot.document.revoke.is_some() {
        return begun;
    }
    match health(snapshot, now, next.epoch, wave) {
        Health::Observing { left_secs } => {
            let until = now.wall.plus(left_secs);
            let sentence = format!("{}; it is watched until {until}", begun.sentence);
            Verdict { sentence, ..begun }.number("until_timestamp_seconds", until.secs())
        }
        Health::Asking { nodes } => {
            let sentence = format!("{}; it waits for the latest counters of {}", begun.sentence, listed(&nodes));
            Verdict { sentence, ..begun }
        }
        Health::Good | Health::Bad { .. } => begun,
    }
}

/// Fewer nodes than `min_present` are left: no barrier opens.
fn too_few(snapshot: &Snapshot, barrier: &Barrier, begun: String) -> Verdict {
    let gone = taken_out(snapshot);
    let sentence = format!(
        "{begun}; {} left, and min_present asks for {}",
        if barrier.required == 1 { "1 node is".to_owned() } else { format!("{} nodes are", barrier.required) },
        barrier.needed
    );
    let verdict = Verdict::new(Severity::Warning, VerdictKind::Absent, sentence)
        .since(snapshot.document.since)
        .counts("required", barrier.required)
        .counts("needed", barrier.needed);
    verdict.next_with("forget", &gone).nodes(gone)
}

/// Nodes that the pool itself took out: absent or left behind.
fn taken_out(snapshot: &Snapshot) -> Vec<NodeId> {
    let is_out =
        |membership: Membership| matches!(membership, Membership::Excluded(Exclusion::Absent | Exclusion::LeftBehind));
    let out = snapshot.nodes.iter().filter(|(_, record)| is_out(record.membership));
    out.map(|(node, _)| node.clone()).collect()
}

/// When the next rotation is due, and how a sentence begins with it.
fn next_rotation(snapshot: &Snapshot, now: Now<'_>) -> (UnixTime, bool) {
    let document = &snapshot.document;
    match due(document, now) {
        Ok(()) => (due_at(document, now.wall), true),
        Err(wait) => (wait.next_at.unwrap_or(now.wall), false),
    }
}

/// What keeps the next rotation from starting, or will once it is due.
pub(super) fn coming(snapshot: &Snapshot, now: Now<'_>, barrier: &Barrier) -> Option<Verdict> {
    let expected_nodes = snapshot.document.expected_nodes();
    let (at, is_due) = next_rotation(snapshot, now);
    let rotation =
        if is_due { format!("the rotation that was due at {at}") } else { format!("the next rotation, at {at},") };
    let since = |verdict: Verdict| if is_due { verdict.since(at) } else { verdict };
    let gone = taken_out(snapshot);
    if barrier.required < expected_nodes {
        let sentence = format!(
            "{rotation} {} start: {} of {} expected nodes are here{}",
            if is_due { "does not" } else { "will not" },
            barrier.required,
            expected_nodes,
            if gone.is_empty() {
                "; deploy the others, or expect fewer".to_owned()
            } else {
                format!("; absent or left behind: {}", listed(&gone))
            }
        );
        let verdict = Verdict::new(Severity::Warning, VerdictKind::ExpectedNodes, sentence)
            .counts("required", barrier.required)
            .counts("expected", expected_nodes)
            .number("next_rotation_timestamp_seconds", at.secs());
        let verdict = if gone.is_empty() { verdict } else { verdict.next_with("forget", &gone) };
        return Some(since(verdict.nodes(gone)));
    }
    if barrier.required < barrier.needed {
        let begun = format!("{rotation} {} start", if is_due { "does not" } else { "will not" });
        return Some(since(too_few(snapshot, barrier, begun)));
    }
    behind(snapshot, now, barrier, &rotation, is_due).map(since).or_else(|| out_of_pool(&gone))
}

/// Nodes that the next rotation waits for.
fn behind(snapshot: &Snapshot, now: Now<'_>, barrier: &Barrier, rotation: &str, is_due: bool) -> Option<Verdict> {
    let mut troubled = troubled(snapshot, now);
    troubled.retain(|(trouble, _)| !trouble.is_brief());
    let all_silent = !troubled.is_empty() && troubled.iter().all(|(trouble, _)| *trouble == Trouble::Silent);
    let nodes = names(&troubled);
    let verdict =
        |sentence: String| Verdict::new(Severity::Warning, VerdictKind::Absent, sentence).counts("behind", nodes.len());
    if troubled.is_empty() {
        return None;
    }
    if all_silent && may_exclude(snapshot, barrier, nodes.len()) {
        let sentence = format!(
            "{} silent: {}; {rotation} leaves {} behind, and those that serve then refuse cookies",
            if nodes.len() == 1 { "1 node is".to_owned() } else { format!("{} nodes are", nodes.len()) },
            listed(&nodes),
            if nodes.len() == 1 { "it" } else { "them" }
        );
        let verdict = verdict(sentence).next_with("forget", &nodes);
        return Some(verdict.nodes(nodes));
    }
    let waits = if is_due { "waits" } else { "will wait" };
    let sentence = format!("{rotation} {waits} for {}", described(&troubled));
    let verdict = verdict(sentence).next_with(if all_silent { "forget" } else { "exclude" }, &nodes);
    Some(verdict.nodes(nodes))
}

/// Nodes that were taken out and are still known.
fn out_of_pool(gone: &[NodeId]) -> Option<Verdict> {
    if gone.is_empty() {
        return None;
    }
    let sentence = format!(
        "{} left out as absent or left behind: {}; those that serve refuse cookies after the next rotation",
        if gone.len() == 1 { "1 node is".to_owned() } else { format!("{} nodes are", gone.len()) },
        listed(gone)
    );
    let verdict = Verdict::new(Severity::Warning, VerdictKind::Absent, sentence).counts("left_out", gone.len());
    Some(verdict.next_with("forget", gone).nodes(gone.to_vec()))
}

/// Nothing is in the way.
pub(super) fn agree(snapshot: &Snapshot, now: Now<'_>, barrier: &Barrier) -> Verdict {
    let (at, is_due) = next_rotation(snapshot, now);
    let agree = match barrier.required {
        1 => "1 node holds the pool's keys".to_owned(),
        more => format!("{} accept each other's cookies", counted_nodes(more)),
    };
    let then = match (is_due, drained(snapshot, now)) {
        (false, _) => match snapshot.document.policy.freeze_at(at.minus(1)) {
            Some((freeze, _)) if freeze.reason.is_empty() => {
                format!("the next rotation is due at {at}: the calendar lets none start before")
            }
            Some((freeze, _)) => {
                format!("the next rotation is due at {at}: the calendar lets none start before ({})", freeze.reason)
            }
            None => format!("the next rotation is due at {at}"),
        },
        (true, Ok(())) => "the next rotation starts".to_owned(),
        (true, Err(wait)) => {
            let by = wait.next_at.map_or_else(String::new, |by| format!(", at the latest at {by}"));
            format!("the next rotation starts when the clients have left the backup key{by}")
        }
    };
    Verdict::new(Severity::Ok, VerdictKind::Agree, format!("{agree}; {then}"))
        .since(snapshot.document.since)
        .counts("required", barrier.required)
        .number("next_rotation_timestamp_seconds", at.secs())
}
