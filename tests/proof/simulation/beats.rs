//! Beats (docs/protocol.md#rule-10; rule 18), as the coordinator's driver writes them: with, or after, everything that it has
//! recorded.  Every write names the writer's last beat; one that is fenced off belongs to a process or a history that is
//! over.

use std::time::Duration;

use tfo_engine::rollout::parts::{About, Beat, Stamp, Writer, Writes};
use tfo_engine::rollout::presence::Presence;
use tfo_engine::rollout::sync::SyncRefused;
use tfo_engine::rollout::tally::Tally;
use tfo_model::ids::NodeId;

use super::coordinators::coordinator;
use super::fleet::{Event, Fleet};
use super::rules::{RuleOff, unfenced};
use super::shelf::Written;

/// A beat that could not be written is tried again after so long.
const AGAIN_SECS: u64 = 1;

impl Fleet {
    /// As whom the coordinator writes: before its first beat as its predecessor, whose last beat is in its copy.
    pub(super) fn writer(&self, c: usize) -> Writer {
        let process = &self.coordinators[c];
        let last = if process.holds_name { process.last } else { self.stored_stamp(c) };
        Writer { name: coordinator(c), last }
    }

    fn stored_stamp(&self, c: usize) -> Option<Stamp> {
        self.copy(c).and_then(|copy| copy.parts().stamp(&coordinator(c)))
    }

    /// Whether the last beat is so old that other coordinators may count its nodes as silent before they hear of them.
    pub(super) fn is_late(&self, c: usize) -> bool {
        let two_beats = self.shelf.now().document.policy.beat() * 2;
        self.coordinators[c].beat_at.is_none_or(|at| Duration::from_secs(self.now - at) > two_beats)
    }

    pub(super) fn beat_if_due(&mut self, c: usize) {
        if self.coordinators[c].beat_due <= self.now {
            self.flush(c);
        }
    }

    /// Adds a beat to what is written next, if one is due.  A coordinator looks at its store before: what it remembers
    /// may be of a life that is over.
    fn add_beat(&mut self, c: usize) {
        if self.now < self.coordinators[c].beat_due {
            return;
        }
        let Some(copy) = self.read(c, false) else { return };
        self.observe(c, copy.snapshot());
        let beat_secs = copy.snapshot().document.policy.beat().as_secs();
        self.coordinators[c].beat_due = self.now + AGAIN_SECS;
        self.at(beat_secs, Event::Flush(c));
        let (own, process) = (coordinator(c), &self.coordinators[c]);
        let silent = process.life.silent(copy.snapshot(), &own);
        // Those in the queue have just been heard, and those whose records its copy will have later.
        let is_heard = |node: &NodeId| {
            let known = self.known(c, &copy, &process.put_off, node).map(|record| (record.session, record.syncs));
            let copied = copy.snapshot().nodes.get(node).map(|record| (record.session, record.syncs));
            process.put_off.queue.names(node) || known > copied
        };
        let silent = silent.map(|silent| silent.into_iter().filter(|node| !is_heard(node)).collect::<Vec<_>>());
        let marks = copy.marked_silent(silent.iter().flatten());
        let stamp = match process.last {
            Some(last) if process.holds_name => last.next(),
            last => Stamp::taken_over(last.max(self.stored_stamp(c))),
        };
        let tally = Tally::of(copy.snapshot(), &own, &self.coordinators[c].presence);
        let beat = Beat { stamp, vouches: silent.is_some(), at: self.wall(c), tally, about: About::default() };
        self.summary.count("nodes marked as silent", marks.len() as u64);
        let queue = &mut self.coordinators[c].put_off.queue;
        queue.acks.extend(marks);
        queue.beat = Some(beat);
    }

    /// Writes what was put off, and a beat if that is due, in one transaction.  False: nothing of it may be taken for
    /// written, and the nodes that wait for an answer have to say it again.
    pub(super) fn flush(&mut self, c: usize) -> bool {
        if !self.coordinators[c].is_up || self.is_cut(c) {
            return false;
        }
        self.add_beat(c);
        let mut queue = std::mem::take(&mut self.coordinators[c].put_off.queue);
        if queue.is_empty() {
            return true;
        }
        if self.rule_off == Some(RuleOff::AcksOfOpenSessions) {
            queue = unfenced(queue, self.shelf.now());
        }
        if self.rule_off == Some(RuleOff::PresenceCarriesReport) && queue.beat.is_some() && queue.entries.is_empty() {
            // The beat is written first, and the reports some seconds later.
            let (marks, reports) = queue.acks.into_iter().partition(|(_, later)| later.silent);
            self.coordinators[c].put_off.queue.acks = reports;
            queue = Writes { acks: marks, ..queue };
            self.at(5, Event::Flush(c));
        }
        let written = self.shelf.write(&self.writer(c), &queue);
        self.count_write(written);
        self.coordinators[c].writes_fail = written != Written::Yes;
        if written == Written::Yes {
            self.was_written(c, &queue);
            return true;
        }
        if let Written::Fenced(stored) = written {
            self.fenced(c, stored);
        }
        self.not_written(c, &queue);
        false
    }

    fn was_written(&mut self, c: usize, queue: &Writes) {
        if queue.acks.values().any(|later| !later.silent) || !queue.entries.is_empty() {
            // Also what one that stood still heard long ago: the others see it now.
            self.heard_at = self.now;
        }
        if let Some(beat) = &queue.beat {
            let beat_secs = self.shelf.now().document.policy.beat().as_secs();
            let process = &mut self.coordinators[c];
            (process.last, process.holds_name, process.vouched) = (Some(beat.stamp), true, beat.vouches);
            (process.beat_at, process.beat_due) = (Some(self.now), self.now + beat_secs);
            self.summary.count("beats", 1);
            if beat.vouches {
                self.check_vouched(c);
            }
        }
        queue.nodes().for_each(|node| self.check_record(node));
    }

    fn not_written(&mut self, c: usize, queue: &Writes) {
        for node in queue.nodes() {
            let n = self.index[node];
            self.nodes[n].accepted = None;
            if let Some(held) = self.nodes[n].held.take_if(|held| held.to == c) {
                self.ended(n, &held);
                self.send(n, held.request, Err(SyncRefused::NotAdmitted));
            }
        }
    }

    /// The store has refused this writer, because its last beat is `stored`.
    pub(super) fn fenced(&mut self, c: usize, stored: Option<Stamp>) {
        let life = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.life);
        let process = &mut self.coordinators[c];
        process.beat_due = self.now;
        if stored > process.last && life(stored) == life(process.last) {
            process.last = stored;
            self.summary.count("beats with an open outcome that took effect", 1);
            return;
        }
        process.holds_name = false;
        process.life.end();
        process.holding.clear();
        (process.presence, process.view, process.rest) = (Presence::default(), None, None);
        self.summary.count("lives that a fence has ended", 1);
        self.look_again_at_held(c);
    }
}
