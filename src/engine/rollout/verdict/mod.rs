//! The verdict on a pool: how bad it is, one sentence, the nodes, and the next command (docs/reference/json.md#verdict).
//!
//! Computed here alone; every surface shows it.  A function of one snapshot and the time.  The first line of this table
//! that applies is the verdict; `split` and `rest` have the details.
//!
//! | kind | severity | when |
//! |---|---|---|
//! | frozen | critical | some report contradicts the document (docs/protocol.md#rule-10) |
//! | split | critical | present nodes refuse cookies that other present nodes make |
//! | `stopped_by_health` | critical | the health gate paused a promotion (docs/protocol.md#rule-12) |
//! | deaf | critical | this coordinator has heard of no node for too long (docs/protocol.md#rule-11) |
//! | paused | warning | an operator paused it |
//! | blind | notice, warning | required nodes were not seen in this life; warning if some are absent |
//! | `only_reports` | ok | no node takes keys from the pool |
//! | `no_key` | warning | the pool is empty |
//! | absent, rotating | warning, notice | a rotation or a revoke runs; absent if it waits for nodes that cannot be excluded |
//! | held | warning | no rotation starts before `resume` |
//! | `expected_nodes` | warning | fewer nodes than expected, also before the next rotation is due |
//! | absent | warning | nodes that the next rotation waits for, or that were taken out |
//! | `certificate_ends` | warning | in place of a verdict that is ok: nodes' certificates end and were not renewed |
//! | agree | ok | |
//!
//! Must not know: clocks, stores, screens, the pool's name.

mod rest;
mod split;
mod standing;
mod words;

use std::collections::BTreeMap;

use self::words::{count, counted_nodes, listed};
use super::barrier::{Barrier, frozen_by, witnesses};
use super::document::{Document, Hold, PauseCause, Snapshot, Stage};
use super::gates::{missing, rejections};
use super::input::{Now, Reason};
use tfo_model::fleet::{Severity, VerdictKind};
use tfo_model::ids::NodeId;
use tfo_model::node::Expected;
use tfo_model::time::UnixTime;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How much it asks of an operator.
    pub severity: Severity,
    /// What it is about.
    pub kind: VerdictKind,
    /// Since when, by wall clock; none if the document does not have it.
    pub since: Option<UnixTime>,
    /// One sentence for people.
    pub sentence: String,
    /// The nodes that it is about, in the order of their weight.
    pub nodes: Vec<NodeId>,
    /// The numbers of the sentence by name; shares are in millionths and end in `_ppm`.
    pub numbers: BTreeMap<&'static str, u64>,
    /// The next command, for the pool of this verdict.
    pub next: Option<String>,
    /// The page of the documentation that says more.
    pub docs: Option<&'static str>,
}

impl Verdict {
    fn new(severity: Severity, kind: VerdictKind, sentence: impl Into<String>) -> Self {
        Self {
            severity,
            kind,
            since: None,
            sentence: sentence.into(),
            nodes: Vec::new(),
            numbers: BTreeMap::new(),
            next: None,
            docs: page(kind),
        }
    }

    /// The verdict on a pool whose store cannot be reached: no snapshot is current.
    #[must_use]
    pub fn without_store() -> Self {
        let sentence = "the store cannot be reached: nodes keep their keys, and nothing moves until it is back; nodes that \
                        ask get 503, and go to another coordinator if they know one";
        Self::new(Severity::Critical, VerdictKind::Blind, sentence)
    }

    fn since(self, since: UnixTime) -> Self {
        Self { since: Some(since), ..self }
    }

    fn nodes(self, nodes: Vec<NodeId>) -> Self {
        Self { nodes, ..self }
    }

    fn number(mut self, name: &'static str, number: u64) -> Self {
        self.numbers.insert(name, number);
        self
    }

    fn counts(self, name: &'static str, number: usize) -> Self {
        self.number(name, count(number))
    }

    fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    /// The next command is about these nodes, if they are few enough to type.
    fn next_with(self, verb: &str, nodes: &[NodeId]) -> Self {
        Self { next: Some(words::command(verb, nodes)), ..self }
    }
}

/// The page that says more about a verdict of this kind, from the root of the documentation.
#[must_use]
pub const fn page(kind: VerdictKind) -> Option<&'static str> {
    match kind {
        VerdictKind::Agree => None,
        VerdictKind::Rotating => Some("explanation/how-a-rotation-works.md#gates"),
        VerdictKind::Paused => Some("how-to/paused_or_held.md#paused"),
        VerdictKind::StoppedByHealth => Some("how-to/stopped_by_health.md"),
        VerdictKind::Held => Some("how-to/paused_or_held.md#held"),
        VerdictKind::NoKey => Some("how-to/no_pool_keys.md"),
        VerdictKind::ExpectedNodes => Some("how-to/expected_nodes.md"),
        VerdictKind::Absent => Some("how-to/nodes_behind.md"),
        VerdictKind::Split => Some("how-to/split.md"),
        VerdictKind::Frozen => Some("how-to/pool_frozen.md"),
        VerdictKind::Blind => Some("how-to/coordinator_unreachable.md"),
        VerdictKind::Deaf => Some("how-to/coordinator_unreachable.md#deaf"),
        VerdictKind::OnlyReports => Some("explanation/three-ways.md"),
        VerdictKind::CertificateEnds => Some("how-to/enrol_nodes.md#a-certificate-ends"),
    }
}

/// What a coordinator knows beside the snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// The settings in which its file differs from the pool's policy.
    pub differs: &'a [&'static str],
    /// The nodes whose certificates end and were not renewed, in the order of their names.
    pub certificates_end: &'a [NodeId],
}

/// The verdict on the pool of this snapshot.
#[must_use]
pub fn verdict(snapshot: &Snapshot, now: Now<'_>, beside: Beside<'_>) -> Verdict {
    let barrier = Barrier::of_all(snapshot);
    let found = frozen(snapshot, now)
        .or_else(|| split::split(snapshot, now))
        .or_else(|| stopped_by_health(snapshot))
        .or_else(|| deaf(now, &barrier))
        .or_else(|| paused(&snapshot.document))
        .or_else(|| blind(snapshot, now, &barrier))
        .or_else(|| only_reports(snapshot, &barrier))
        .or_else(|| no_key(snapshot, &barrier))
        .or_else(|| rest::rotating(snapshot, now))
        .or_else(|| held(snapshot))
        .or_else(|| rest::coming(snapshot, now, &barrier))
        .unwrap_or_else(|| rest::agree(snapshot, now, &barrier));
    let found = differing(found, beside.differs);
    if found.severity == Severity::Ok { certificates_end(found, beside.certificates_end) } else { found }
}

/// Adds that the coordinator's file differs from the policy of a pool that is all right.
fn differing(found: Verdict, differs: &[&str]) -> Verdict {
    if differs.is_empty() || found.kind != VerdictKind::Agree {
        return found;
    }
    let sentence = format!(
        "{}; the configuration file of this coordinator differs from the pool's policy in {}, and the pool's counts",
        found.sentence,
        differs.join(", ")
    );
    Verdict { severity: Severity::Warning, sentence, docs: Some("how-to/change-the-policy.md"), ..found }
}

/// The verdict on a pool that is all right, and will lose these nodes if their certificates end.
fn certificates_end(found: Verdict, nodes: &[NodeId]) -> Verdict {
    if nodes.is_empty() {
        return found;
    }
    let (certificates, were) = if nodes.len() == 1 {
        ("the certificate of 1 node ends", "was")
    } else {
        ("certificates end of nodes", "were")
    };
    let sentence = format!(
        "{certificates} and {were} not renewed: {}; from the end on no rotation reaches {}; {}",
        listed(nodes),
        if nodes.len() == 1 { "it" } else { "them" },
        found.sentence
    );
    let kind = VerdictKind::CertificateEnds;
    let verdict = Verdict { severity: Severity::Warning, kind, sentence, since: None, docs: page(kind), ..found };
    verdict.counts("ending", nodes.len()).nodes(nodes.to_vec()).next_with("nodes", nodes)
}

fn frozen(snapshot: &Snapshot, now: Now<'_>) -> Option<Verdict> {
    let document = &snapshot.document;
    let conflict = frozen_by(snapshot, now.presence)?;
    let (node, reported, own) = (&conflict.node, conflict.generation, document.generation);
    let report = if reported > own {
        format!("{node} reports generation {reported}, and this store has given out only {own}")
    } else {
        format!("{node} reports other keys under generation {reported} than this store gave out")
    };
    let (sentence, next) = if conflict.is_credible(document) {
        let sentence = format!(
            "frozen: {report}: the store was restored (then `recover`), or {node} lies (then `deny` it); no node gets \
             keys until then"
        );
        (sentence, "tfoctl recover".to_owned())
    } else {
        // No restored store has missed so much, and no other node agrees.
        let sentence = format!(
            "frozen by one report that is probably false: {report}; `deny` the node, or `recover` if it is true"
        );
        (sentence, format!("tfoctl deny {node}"))
    };
    let mut nodes = witnesses(snapshot);
    if nodes.is_empty() {
        nodes.push(node.clone());
    }
    let verdict = Verdict::new(Severity::Critical, VerdictKind::Frozen, sentence)
        .number("reported_generation", reported.get())
        .number("own_generation", own.get());
    Some(verdict.nodes(nodes).next(next))
}

/// The pause by the health gate, while there is a promotion to turn back.
fn stopped_by_health(snapshot: &Snapshot) -> Option<Verdict> {
    let document = &snapshot.document;
    let pause = document.paused.as_ref()?;
    let (PauseCause::Health { rejected, baseline, worst }, Stage::Promoted { next, wave, .. }) =
        (&pause.cause, &document.stage)
    else {
        return None;
    };
    let since = rejections(snapshot, next.epoch, wave);
    let worst = if since.worst.is_empty() { worst.clone() } else { since.worst };
    let (opened, of) = (wave.opened + 1, wave.rules.len());
    let sentence = format!(
        "the health gate stopped the rotation in wave {opened} of {of}: {} of the cookies are rejected now ({} \
         when it stopped, {} before the promotion){}",
        since.rejected,
        rejected,
        baseline,
        if worst.is_empty() { String::new() } else { format!("; worst: {}", listed(&worst)) },
    );
    let verdict = Verdict::new(Severity::Critical, VerdictKind::StoppedByHealth, sentence)
        .number("rejected_ppm", since.rejected.ppm().into())
        .number("rejected_at_stop_ppm", rejected.ppm().into())
        .number("baseline_ppm", baseline.ppm().into())
        .counts("wave", opened)
        .counts("waves", of);
    Some(verdict.since(pause.since).nodes(worst).next("tfoctl abort"))
}

fn paused(document: &Document) -> Option<Verdict> {
    let pause = document.paused.as_ref()?;
    let place = match &document.stage {
        Stage::Empty => "; the pool has no key yet".to_owned(),
        Stage::Steady { .. } => "; no rotation starts".to_owned(),
        Stage::Staged { .. } => "; the rotation stands still with the next key staged".to_owned(),
        Stage::Promoted { wave, .. } => {
            format!("; the rotation stands still in wave {} of {}", wave.opened + 1, wave.rules.len())
        }
    };
    let sentence = match &pause.cause {
        PauseCause::Operator { operator, reason } if reason.is_empty() => {
            format!("paused by {operator}, without a reason{place}")
        }
        PauseCause::Operator { operator, reason } => format!("paused by {operator} (\"{reason}\"){place}"),
        PauseCause::Health { rejected, baseline, worst } => format!(
            "no rotation starts: the health gate stopped the last one, which was aborted ({} of the cookies \
             were rejected, {} before; worst: {})",
            rejected,
            baseline,
            listed(worst)
        ),
    };
    let kind = if pause.is_health() { VerdictKind::Held } else { VerdictKind::Paused };
    Some(Verdict::new(Severity::Warning, kind, sentence).since(pause.since).next("tfoctl resume"))
}

/// No node is heard: its own network is the likelier cause, so this coordinator judges none of them.
fn deaf(now: Now<'_>, barrier: &Barrier) -> Option<Verdict> {
    let (_, required) = (now.presence.deaf_secs?, barrier.required);
    if required == 0 {
        return None;
    }
    let sentence = format!(
        "this coordinator hears no node of {required}: nothing moves, and it excludes none, until one reaches it; look at \
         its address, certificate and network first"
    );
    Some(Verdict::new(Severity::Critical, VerdictKind::Deaf, sentence).counts("required", required))
}

/// Required nodes that were not seen in this life: nothing is committed before all of them were, or are excluded.
fn blind(snapshot: &Snapshot, now: Now<'_>, barrier: &Barrier) -> Option<Verdict> {
    let unseen = now.presence.unseen_required(snapshot);
    if unseen.is_empty() {
        return None;
    }
    let is_absent = |node: &NodeId| now.presence.absent.contains(node);
    let absent = unseen.iter().filter(|node| is_absent(node)).count();
    let (have, required) = (if unseen.len() == 1 { "has" } else { "have" }, barrier.required);
    let mut sentence = format!(
        "{} of {required} nodes {have} not reported since this coordinator started: {}; nothing moves before",
        unseen.len(),
        listed(&unseen)
    );
    let until = standing::excluded_by(snapshot, now, barrier, &unseen);
    if let Some(until) = until {
        sentence += &format!("; nodes that stay away are excluded by {until}");
    }
    let severity = if absent > 0 { Severity::Warning } else { Severity::Notice };
    let mut verdict = Verdict::new(severity, VerdictKind::Blind, sentence)
        .counts("unseen", unseen.len())
        .counts("required", required)
        .counts("absent", absent);
    if let Some(until) = until {
        verdict = verdict.number("until_timestamp_seconds", until.secs());
    }
    if absent == unseen.len() {
        verdict = verdict.next("tfoctl advance");
    }
    Some(verdict.nodes(unseen))
}

fn only_reports(snapshot: &Snapshot, barrier: &Barrier) -> Option<Verdict> {
    let reporting = snapshot.nodes.values().filter(|record| record.is_known() && record.only_reports()).count();
    if barrier.required > 0 || reporting == 0 {
        return None;
    }
    let report = if reporting == 1 { "reports" } else { "report" };
    let sentence = format!("{} only {report}: their keys come from another source", counted_nodes(reporting));
    Some(Verdict::new(Severity::Ok, VerdictKind::OnlyReports, sentence).counts("reporting", reporting))
}

fn no_key(snapshot: &Snapshot, barrier: &Barrier) -> Option<Verdict> {
    if snapshot.document.stage != Stage::Empty {
        return None;
    }
    let waiting = match barrier.required {
        0 => "no node has joined".to_owned(),
        1 => "1 node waits for it".to_owned(),
        more => format!("{more} nodes wait for it"),
    };
    let shared = super::barrier::no_common_foreign_key(snapshot).err();
    let (what, next) = match shared {
        Some(Reason::ForeignKey { fingerprint, nodes }) => (
            format!("{nodes} nodes share key {fingerprint}, which `tfoctl import` takes over"),
            "tfoctl import --key-file FILE",
        ),
        _ => (
            "`tfoctl rotate --first` makes one, `tfoctl import` takes over one that the nodes share".to_owned(),
            "tfoctl rotate --first",
        ),
    };
    let sentence = format!("the pool has no key yet, and {waiting}: {what}");
    let verdict = Verdict::new(Severity::Warning, VerdictKind::NoKey, sentence).counts("required", barrier.required);
    Some(verdict.since(snapshot.document.since).next(next))
}

fn held(snapshot: &Snapshot) -> Option<Verdict> {
    let document = &snapshot.document;
    let verdict = |sentence: String| {
        Verdict::new(Severity::Warning, VerdictKind::Held, sentence).since(document.since).next("tfoctl resume")
    };
    Some(match document.hold.as_ref()? {
        Hold::Aborted => verdict("no rotation starts until `resume`: the last one was aborted".to_owned()),
        Hold::Recovered => {
            verdict("no rotation starts until `resume`: the keys of the fleet were taken over by `recover`".to_owned())
        }
        Hold::FirstKey { expect } => {
            let missing = missing(snapshot, expect);
            let (expected, here) = match expect {
                Expected::Number(number) => (*number, rest::holders(snapshot, |_| true)),
                Expected::Names(names) => (names.len(), rest::holders(snapshot, |node| names.contains(node))),
            };
            if missing.is_empty() {
                let have = if here == 1 { "has" } else { "have" };
                let sentence = format!(
                    "{} {have} the pool's first key, as expected: `resume` lets rotations begin",
                    counted_nodes(here)
                );
                verdict(sentence).counts("expected", expected).counts("here", here)
            } else {
                // A mere number of nodes has no names.
                let nodes: Vec<NodeId> = missing.iter().filter_map(|name| name.parse().ok()).collect();
                let names = if nodes.is_empty() { String::new() } else { format!("; missing: {}", listed(&nodes)) };
                let sentence = format!(
                    "no rotation starts before the expected nodes have the pool's first key: {here} of {expected} have \
                     it{names}"
                );
                let verdict = verdict(sentence).counts("expected", expected).counts("here", here);
                verdict.nodes(nodes).next("tfoctl nodes")
            }
        }
    })
}
