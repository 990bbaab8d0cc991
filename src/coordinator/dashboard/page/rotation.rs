//! The rotation as a line of steps: where it stands, whom it waits for, and until when.

use maud::{Markup, html};

use super::pool::Pool;
use super::{nodes, words};
use tfo_engine::rollout::policy::{Policy, WaveRule};
use tfo_model::fleet::PausedBy;
use tfo_model::state::{Phase, SlotPrint};
use tfo_wire::v1::fleet::PoolStatus;

/// Most names that are shown of those that a pool waits for.
const NAMES_MAX: usize = 20;

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    Now,
    /// Now, and it stays so until the next rotation.
    Rest,
    Halted,
    ToCome,
}

impl Progress {
    /// Its class, and in words.
    fn shown(self) -> (&'static str, &'static str) {
        match self {
            Self::Done => ("done", "done"),
            Self::Now => ("now", "now"),
            Self::Rest => ("done", "now"),
            Self::Halted => ("halted", "stands still"),
            Self::ToCome => ("next", "to come"),
        }
    }
}

/// A step with what it is about.
type Step = (String, String, Progress);

/// The steps of a whole rotation.
fn steps(status: &PoolStatus, policy: &Policy) -> Vec<Step> {
    let of = status.waves.map_or(policy.promote_waves.len(), |waves| waves.of);
    // Waves are numbered from 1; stage is before them, and what follows is steady again.
    let place = match (status.phase, status.waves) {
        (Phase::Staged, _) => Some(0),
        (Phase::Promoted, Some(waves)) => Some(waves.opened),
        _ => None,
    };
    let halted = status.paused.is_some();
    let progress = |step: usize| match place {
        None => Progress::ToCome,
        Some(now) if step < now => Progress::Done,
        Some(now) if step == now && halted => Progress::Halted,
        Some(now) if step == now => Progress::Now,
        Some(_) => Progress::ToCome,
    };
    let mut steps = vec![("Stage".to_owned(), "the next key is every node's backup".to_owned(), progress(0))];
    steps.extend((1..=of).map(|wave| {
        // The policy is changed between rotations only.
        let rule = policy.promote_waves.get(wave - 1).filter(|_| policy.promote_waves.len() == of);
        (format!("Wave {wave} of {of}"), rule.map_or_else(String::new, members), progress(wave))
    }));
    let steady = match (status.phase, halted) {
        (Phase::Steady, true) => Progress::Halted,
        (Phase::Steady, false) => Progress::Rest,
        _ => Progress::ToCome,
    };
    let rest = ("Steady".to_owned(), "all nodes make cookies with one key".to_owned(), steady);
    if status.phase == Phase::Steady {
        steps.insert(0, rest)
    } else {
        steps.push(rest)
    }
    steps
}

fn members(rule: &WaveRule) -> String {
    match rule {
        WaveRule::Names(pattern) => pattern.to_string(),
        WaveRule::Share(share) => format!("{share} of the nodes"),
    }
}

/// Where the pool stands.
pub(super) fn now(of: &Pool<'_>) -> Markup {
    let status = &of.look.summary.status;
    html! {
        h2 #rotation { @if status.phase == Phase::Steady { "No rotation runs" }
            @else if status.phase == Phase::Empty { "The pool has no key" } @else { "A rotation runs" } }
        ol.steps {
            @for (name, about, progress) in steps(status, of.policy) {
                @let (class, words) = progress.shown();
                @let is_now = matches!(progress, Progress::Now | Progress::Rest | Progress::Halted);
                li class=(class) aria-current=[is_now.then_some("step")] {
                    (name) small { (words) @if !about.is_empty() { "; " (about) } }
                }
            }
        }
        (progress(of))
        dl {
            dt { "Primary" } dd { (slot(status.primary)) }
            dt { "Backup" } dd { (slot(status.backup)) }
            dt { "Phase" } dd { (status.phase.as_str()) " since " (words::when(status.since, of.now)) ", generation "
                (status.generation) ", revision " (status.revision) }
            (waits(of))
            @if !status.revoking.is_empty() {
                dt { "Drives out" } dd { @for key in &status.revoking { (slot(Some(*key))) " " } }
            }
        }
    }
}

/// How many nodes have done what they were told.
fn progress(of: &Pool<'_>) -> Markup {
    let status = &of.look.summary.status;
    let text = format!("{} of {} required nodes have converged", status.converged, status.required);
    html! {
        @if status.required > 0 {
            svg.wave role="img" aria-label=(text) viewBox={ "0 0 " (status.required) " 1" } preserveAspectRatio="none" {
                rect.f1 width=(status.converged) height="1" {}
            }
        }
        p { (text)
            @if status.unseen > 0 { "; " (status.unseen) " were not seen since this coordinator started" }
            @if status.reporting > 0 { "; " (status.reporting) " only report" } "." }
    }
}

fn waits(of: &Pool<'_>) -> Markup {
    let status = &of.look.summary.status;
    let names = &status.waiting_for[..status.waiting_for.len().min(NAMES_MAX)];
    html! {
        dt { "Waits for" }
        dd {
            @match &status.blocked_by {
                Some(gate) => { (words::gate(gate)) " (" (gate) ")" }
                None => "nothing",
            }
            @if let Some(hold) = &status.hold { ", held: " (hold) }
            @if let Some(at) = status.next_at { ", until " (words::when(at, of.now)) }
        }
        @if !names.is_empty() {
            dt { "Whom" }
            dd { (nodes::links(&status.pool, names, status.waiting_for.len() - names.len())) }
        }
        @if let Some(at) = status.next_exclusion_at {
            dt { "Next exclusion" }
            dd { "the first of them that stays silent is excluded " (words::when(at, of.now)) " at the earliest" }
        }
        @if let Some(paused) = &status.paused {
            dt { "Paused" }
            dd { "by " @if paused.by == PausedBy::Health { "the health gate" }
                @else if let Some(operator) = &paused.operator { (operator) } @else { (paused.by) }
                " " (words::when(paused.since, of.now))
                @if !paused.reason.is_empty() { ": " (paused.reason) } }
        }
    }
}

/// A key by its public name.
pub(super) fn slot(slot: Option<SlotPrint>) -> Markup {
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
