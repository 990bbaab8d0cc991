//! What must hold: the invariant and the promise to clients after every step, and with every exclusion for absence
//! (docs/protocol.md#rule-11) that its node was not answered within `absent_after`, is detached, and that the fleet of
//! coordinators hears nodes at all.

use std::time::Duration;

use tfo_engine::rollout::document::{Document, Proposal, Snapshot, Stage};
use tfo_engine::rollout::record::{Exclusion, Membership, NodeRecord};
use tfo_engine::rollout::wave::is_opened;
use tfo_model::count::Generation;
use tfo_model::ids::NodeId;
use tfo_model::key::KeyFingerprint;

use super::coordinators::coordinator;
use super::copies::LAG_SECS_MAX;
use super::fleet::Fleet;

/// Longest time for which the fleet's coordinators may hear no node and still exclude one: one and a half of the longest
/// period of a node here, a look, and the slowest commit.
const DEAF_SECS_MAX: u64 = 120 + 30;
/// What others hear of a node by beats, they hear so much later at most.
const BEATS_SECS_MAX: u64 = 20;
/// What a coordinator that looks late adds: a minute counts for ten seconds.
const LATE_LOOKS_SECS_MAX: u64 = 180;

/// By how much later than it is recorded a coordinator may take a sync in: a put off write, and a look.
const TAKEN_IN_SECS_MAX: u64 = 10;
/// The same under all faults: a look that is late, and one of a copy that lags.
const TAKEN_IN_LATE_SECS_MAX: u64 = TAKEN_IN_SECS_MAX + 60 + LAG_SECS_MAX;

/// Which wave of which rotation: generation, opened waves, nodes taken in.
pub(super) type WaveMark = (Generation, usize, usize);

fn wave_mark(document: &Document) -> Option<WaveMark> {
    let Stage::Promoted { wave, .. } = &document.stage else { return None };
    Some((document.generation, wave.opened, wave.taken_in.len()))
}

impl Fleet {
    /// The invariant, over the distinct pairs of covered nodes, and the promise to clients.
    pub(super) fn check(&mut self) {
        let mut distinct: Vec<(KeyFingerprint, Option<KeyFingerprint>, &NodeId)> = Vec::with_capacity(4);
        for node in self.nodes.iter().filter(|node| node.is_covered) {
            let Some(slots) = node.kernel else { continue };
            let pair = (slots.primary.fingerprint, slots.backup.map(|key| key.fingerprint));
            if !distinct.iter().any(|known| (known.0, known.1) == pair) {
                distinct.push((pair.0, pair.1, &node.id));
            }
        }
        for a in &distinct {
            for b in &distinct {
                assert!(a.0 == b.0 || Some(a.0) == b.1, "at {} s: {a:?} is not accepted by {b:?}", self.now);
            }
            self.promises.minted(a.0);
        }
        for key in self.promises.kept() {
            for node in &distinct {
                let is_accepted = node.0 == key || node.1 == Some(key);
                assert!(is_accepted, "at {} s: a cookie of {key} is not accepted by {node:?}", self.now);
            }
        }
    }

    /// Every node that this commit takes for absent has detached itself, and some node was heard.
    pub(super) fn check_absences(&mut self, proposal: &Proposal) {
        // Not one that has opened a session since it was decided.
        let is_absent = |node: &&NodeId| {
            let record = self.shelf.now().nodes.get(*node);
            record.is_some_and(|record| record.membership == Membership::Excluded(Exclusion::Absent))
        };
        let absent: Vec<NodeId> = proposal.exclusions.keys().filter(is_absent).cloned().collect();
        let absent_after = proposal.document.policy.absent_after_secs;
        let late = if self.is_about_ears() { 0 } else { LAG_SECS_MAX + LATE_LOOKS_SECS_MAX };
        // A request that is held is heard until the hold is over, if its host has died.
        let hold_max = proposal.document.policy.hold_max().as_secs();
        let deaf_max = DEAF_SECS_MAX + BEATS_SECS_MAX + hold_max + late;
        for id in &absent {
            let Some(node) = self.index.get(id).map(|n| &self.nodes[*n]) else { continue };
            let silent_secs = node.answered_at.map_or(u64::MAX, |at| self.now - at);
            let now = self.now;
            assert!(silent_secs > absent_after, "at {now} s: {id} is excluded, and was answered {silent_secs} s ago");
            let detaches = node.link.detaches_after(Duration::from_secs(now));
            assert_eq!(detaches, None, "at {now} s: {id} is excluded before it is detached");
            let unheard_secs = now - self.heard_at;
            assert!(
                unheard_secs <= deaf_max,
                "at {now} s: {id} is excluded, and no node was heard for {unheard_secs} s"
            );
        }
        self.summary.count("exclusions for absence", absent.len() as u64);
    }

    /// A commit has opened a wave, or another one than before.
    pub(super) fn note_wave(&mut self) {
        let mark = wave_mark(&self.shelf.now().document);
        if self.watched.map(|(before, _)| before) != mark {
            self.watched = mark.map(|mark| (mark, self.now));
        }
    }

    /// Who opens another wave has counters of the nodes that it holds, from after the end of what it watched of the wave before
    /// (docs/protocol.md#rule-12).
    pub(super) fn check_counters(&mut self, c: usize, snapshot: &Snapshot) {
        let (document, process) = (&snapshot.document, &self.coordinators[c]);
        let Stage::Promoted { next, wave, .. } = &document.stage else { return };
        let Some((_, since)) = self.watched.filter(|(mark, _)| Some(*mark) == wave_mark(document)) else { return };
        // A revoke and a waived gate do not wait, and what stood still takes all in at once.
        if wave.health_waived || document.revoke.is_some() || process.troubles.paused_until >= since {
            return;
        }
        let is_calm = !self.has_faults() || self.is_about_ears();
        let late_secs = if is_calm { TAKEN_IN_SECS_MAX } else { TAKEN_IN_LATE_SECS_MAX };
        let end = since + document.policy.health_window_secs;
        let mut watched = 0;
        for (n, request) in &process.holding {
            let node = &self.nodes[*n];
            let Some(counted_at) = node.counted_at else { continue };
            let is_held = node.held.as_ref().is_some_and(|held| held.to == c && held.request == *request);
            let is_required = snapshot.nodes.get(&node.id).is_some_and(NodeRecord::is_required);
            let is_late = process.presence.absent.contains(&node.id) || process.presence.overdue.contains_key(&node.id);
            if !is_held || !is_required || is_late || !is_opened(document, next.epoch, wave, &node.id) {
                continue;
            }
            let (now, id) = (self.now, &node.id);
            assert!(
                counted_at + late_secs >= end,
                "at {now} s: a wave that was watched until {end} s is passed with what {id} had counted at {counted_at} s"
            );
            watched += 1;
        }
        self.summary.count("fresh counters behind an opened wave", watched);
    }

    /// What is taken for a node's report is one that it made in the session that is open (docs/protocol.md#rule-8).
    pub(super) fn check_record(&self, id: &NodeId) {
        let record = self.shelf.now().nodes.get(id).filter(|record| record.membership == Membership::Admitted);
        let Some((record, node)) = record.zip(self.index.get(id).map(|n| &self.nodes[*n])) else { return };
        let Some((session, fence)) =
            record.session.zip(record.report.as_ref().and_then(|report| report.fence.as_ref()))
        else {
            return;
        };
        let said = node.said.get(&session).copied().unwrap_or_default();
        let (generation, now) = (fence.generation, self.now);
        assert!(
            generation <= said,
            "at {now} s: {id} counts with {generation:?}, and has said {said:?} in its session"
        );
    }

    /// A beat vouches for a node only if what its writer has taken in of it is stored (docs/protocol.md#rule-10).
    pub(super) fn check_vouched(&self, c: usize) {
        let own = coordinator(c);
        for node in &self.nodes {
            let Some((_, session, generation)) = node.accepted.filter(|(by, ..)| *by == c) else { continue };
            let id = &node.id;
            let Some(record) = self.shelf.now().nodes.get(id) else { continue };
            let is_vouched = record.coordinator.as_ref() == Some(&own) && !record.silent;
            if !is_vouched || record.session != Some(session) || record.report.is_none() {
                continue;
            }
            let fence = record.report.as_ref().and_then(|report| report.fence.as_ref());
            let stored = fence.map_or(Generation::ZERO, |fence| fence.generation);
            let now = self.now;
            assert!(stored >= generation, "at {now} s: {own} vouches for {id}, of which {generation:?} is not stored");
        }
    }
}
