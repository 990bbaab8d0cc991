//! Coordinators that beat (docs/protocol.md#rule-10; rule 18): a sync that says nothing new is heard and not written, and
//! beats tell the other coordinators which nodes are heard.  Every write names its writer's last beat, so that a process
//! whose name was taken over, or whose store went back, changes nothing.
//!
//! Time stands still in the model; where a coordinator beats, so much of it passes as a beat needs to vouch.

use std::rc::Rc;
use std::time::Duration;

use tfo_engine::rollout::parts::{About, Beat, PoolContent, Stamp, Writes};
use tfo_engine::rollout::record::NodeRecord;
use tfo_engine::rollout::sync::Recording;
use tfo_model::ids::CoordinatorName;
use tfo_model::time::UnixTime;

use super::event::{Event, narrow};
use super::rules::Off;
use super::stored::{Stored, plain};
use super::world::{Coordinator, World, coordinator_name};

/// Longest time between two looks that counts, and so many of them that a life's beats vouch.
const LOOK: Duration = Duration::from_secs(10);

const LOOKS: u32 = 4;

/// Names, and processes beyond them are older ones of the same names.
const NAMES: usize = 2;

/// What became of a sync.
pub(crate) enum Recorded {
    Written,
    /// It says nothing new, or is written later.
    Heard,
    /// The writer is fenced off.
    Refused,
}

impl World {
    /// The same world with coordinators that beat, and have their names.
    pub(crate) fn beating(self) -> Self {
        let mut world = self.counted();
        world.has_beats = true;
        for c in 0..world.coordinators.len() {
            world.beat(c);
        }
        world.look_where_beating();
        world
    }

    /// A coordinator sees at once what is stored, unless it does not know that its store went back: what it sees later
    /// makes it wait for longer, and is looked at in the worlds in which copies lag.
    pub(crate) fn look_where_beating(&mut self) {
        for c in 0..self.coordinators.len() {
            if self.has_beats && self.coordinators[c].copy.is_none() {
                self.look(c);
            }
        }
    }

    /// Name of a process.
    pub(crate) fn name(&self, c: usize) -> CoordinatorName {
        coordinator_name(if c < NAMES { c } else { c - NAMES })
    }

    /// What is stored as the copy of a coordinator: without its own beats, by which it does not hear its nodes.
    pub(crate) fn owned(&self, c: usize) -> Rc<Stored> {
        if !self.has_beats {
            return self.store.clone();
        }
        Rc::new(Stored { content: self.store.content.clone().owned_by(self.name(c)) })
    }

    /// Whether a copy lacks something of what is stored.
    pub(crate) fn is_behind(&self, copy: &Stored) -> bool {
        copy.document != self.store.document || copy.content.parts() != self.store.content.parts()
    }

    pub(crate) fn beat_events(&self, events: &mut Vec<Event>) {
        if !self.has_beats {
            return;
        }
        for (c, coordinator) in self.coordinators.iter().enumerate() {
            events.push(Event::Beat(narrow(c)));
            if !coordinator.unwritten.is_empty() {
                events.push(Event::Flush(narrow(c)));
            }
            let has_beaten =
                |backup: &Rc<Stored>| coordinator.holds_name && self.stamp_in(backup, c) < coordinator.last;
            if self.budget.survivals > 0 && c < NAMES && self.backup.as_ref().is_some_and(has_beaten) {
                events.push(Event::RestoreUnder(narrow(c)));
            }
        }
        if self.budget.take_overs > 0 && self.coordinators.len() == NAMES {
            events.push(Event::TakeOver);
        }
    }

    /// Stamp of the last beat under a coordinator's name.
    pub(crate) fn stamp_in(&self, stored: &Stored, c: usize) -> Option<Stamp> {
        stored.content.parts().stamp(&self.name(c))
    }

    /// Whether the store refuses what this coordinator writes.
    pub(crate) fn is_fenced(&self, c: usize) -> bool {
        let Coordinator { last, holds_name, .. } = &self.coordinators[c];
        // One that has not written a beat yet commits nothing.
        !holds_name || *last != self.stamp_in(&self.store, c)
    }

    /// The store has refused a write: a process that has lost its name ends, and a store that went back ends a life.
    pub(crate) fn fence(&mut self, c: usize) -> bool {
        let stored = self.stamp_in(&self.store, c);
        let coordinator = &mut self.coordinators[c];
        coordinator.pending = None;
        coordinator.hesitates = false;
        if c >= NAMES && coordinator.holds_name && stored > coordinator.last {
            self.requests.retain(|request| request.to != c);
            self.coordinators.remove(c);
            return true;
        }
        coordinator.life.end();
        (coordinator.looked, coordinator.copy, coordinator.next) = (None, None, None);
        coordinator.holds_name = false;
        true
    }

    /// What a sync comes to at a coordinator that beats.
    pub(crate) fn record_beating(
        &mut self,
        c: usize,
        n: usize,
        recording: Recording,
        before: Option<&NodeRecord>,
    ) -> Recorded {
        let view = self.seen_by(c).clone();
        if let Recording::Later(later) = &recording {
            let is_known = self.presence(c, None, 0).has_seen(&view, &self.ids[n]);
            if is_known && !before.is_none_or(|before| later.is_news(before)) {
                return Recorded::Heard;
            }
            if self.is_off(Off::PresenceCarriesReport) {
                let unwritten = &mut self.coordinators[c].unwritten;
                unwritten.retain(|(node, _)| *node != n);
                unwritten.push((n, later.clone()));
                return Recorded::Heard;
            }
        }
        let names = if self.coordinators[c].holds_name { self.coordinators[c].last } else { self.stamp_in(&view, c) };
        if names != self.stamp_in(&self.store, c) {
            self.fence(c);
            return Recorded::Refused;
        }
        self.store_sync(c, n, recording);
        Recorded::Written
    }

    pub(crate) fn flush(&mut self, c: usize) -> bool {
        if self.is_fenced(c) {
            return self.fence(c);
        }
        for (n, later) in std::mem::take(&mut self.coordinators[c].unwritten) {
            self.store_sync(c, n, Recording::Later(later));
        }
        true
    }

    /// A coordinator beats: its first beat takes the name over, and the others vouch for the nodes that it has heard in this
    /// life, and mark the others of its roster.
    pub(crate) fn beat(&mut self, c: usize) -> bool {
        let stored = self.stamp_in(&self.store, c);
        let coordinator = &self.coordinators[c];
        let compares = !self.is_off(Off::BeatComparesLife);
        if compares && coordinator.holds_name && coordinator.last != stored {
            return self.fence(c);
        }
        let stamp = match coordinator.last {
            Some(last) if coordinator.holds_name => last.next(),
            last => Stamp::taken_over(last.max(stored)),
        };
        let by = self.name(c);
        let copy = self.seen_by(c).content.clone().owned_by(by.clone());
        let silent = if coordinator.holds_name && coordinator.looked.is_some() { self.silent(c, &copy) } else { None };
        let beat =
            Beat { stamp, vouches: silent.is_some(), at: UnixTime::from_secs(0), tally: None, about: About::default() };
        let silent = silent.unwrap_or_default();
        // What its nodes reported last it knows, however far its copy is behind.
        let own = if self.is_lagging && self.coordinators[c].copy.is_some() {
            PoolContent::new(copy.snapshot().document.clone(), self.parts_known_to(c)).owned_by(by.clone())
        } else {
            copy
        };
        let writes = Writes { acks: own.marked_silent(&silent), beat: Some(beat), ..Writes::default() };
        let mut content = self.store.content.clone();
        content.write(&by, &writes);
        self.store = plain(content, self.counts());
        let coordinator = &mut self.coordinators[c];
        (coordinator.last, coordinator.holds_name) = (Some(stamp), true);
        true
    }

    /// The nodes of its roster that a coordinator has not heard in this life; none before its life has begun.
    pub(super) fn silent(&self, c: usize, copy: &PoolContent) -> Option<Vec<tfo_model::ids::NodeId>> {
        let mut life = self.coordinators[c].life.clone();
        (0..LOOKS).for_each(|look| life.observe(LOOK * look, copy.snapshot()));
        let unwritten = &self.coordinators[c].unwritten;
        let is_queued = |node: &tfo_model::ids::NodeId| unwritten.iter().any(|(n, _)| self.ids[*n] == *node);
        let silent = life.silent(copy.snapshot(), &self.name(c))?;
        Some(silent.into_iter().filter(|node| !is_queued(node)).collect())
    }

    /// One coordinator runs on, with the copy of the lost history.  It has beaten since the backup was made: no backup is
    /// restored within a minute.
    pub(crate) fn restore_under(&mut self, survivor: usize) -> bool {
        self.budget.survivals -= 1;
        for c in (0..self.coordinators.len()).filter(|c| *c != survivor) {
            self.restart_coordinator(c);
        }
        if self.coordinators[survivor].copy.is_none() {
            self.coordinators[survivor].copy = Some(self.owned(survivor));
        }
        self.go_back()
    }

    /// The process that had the first coordinator's name stands still with what it has, and the name's new one starts.
    pub(crate) fn take_over(&mut self) -> bool {
        self.budget.take_overs -= 1;
        let copy = self.coordinators[0].copy.clone().or_else(|| Some(self.owned(0)));
        let zombie = Coordinator { copy, ..self.coordinators[0].clone() };
        self.restart_coordinator(0);
        self.coordinators.push(zombie);
        true
    }
}
