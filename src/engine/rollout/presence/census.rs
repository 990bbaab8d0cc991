//! What a coordinator knows of each node, and what it counts over all of them, kept by change.
//!
//! Invariant: all but [`Census::nodes`] follows from the nodes and the clock, so that a census that was kept by change and one
//! that was made of all nodes ([`Census::of`]) are equal.  The simulation checks that after every look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::barrier::{Conflict, contradicts};
use super::super::document::Document;
use super::super::record::NodeRecord;
use super::super::slots::Instruction;
use super::super::timing::{absence_limit, deaf_after, hold_max};
use super::{Presence, SERVED_GAP_MAX};
use tfo_model::count::Generation;
use tfo_model::ids::NodeId;
use tfo_model::node::Session;

/// When a node was seen last, and what was stored of it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastSeen {
    pub(super) session: Option<Session>,
    /// Within the session: another coordinator may have counted further before it knew of it.
    pub(super) syncs: u64,
    /// Its coordinator had marked it as silent.
    pub(super) silent: bool,
    pub(super) in_this_life: bool,
    /// Its last contact, on the clock of served time: a sync, or the end of its hold.
    pub(super) at: Duration,
    /// Its last sync, in the same way: absence counts from it, because the node counts from the answer to it.
    pub(super) synced_at: Duration,
    /// This coordinator holds its request, on a connection that has not ended: it is heard now.
    pub(super) held: bool,
    /// This coordinator has held a request of its session: it can be asked.
    pub(super) waits_here: bool,
    /// `absent_after` when it was last seen: the node detaches itself by it.
    pub(super) told_secs: u64,
}

impl LastSeen {
    pub(super) fn of(record: &NodeRecord) -> Self {
        Self {
            session: record.session,
            syncs: record.syncs,
            silent: record.silent,
            in_this_life: false,
            at: Duration::ZERO,
            synced_at: Duration::ZERO,
            held: false,
            waits_here: false,
            told_secs: 0,
        }
    }

    /// A sync at that time.
    pub(super) fn synced(self, at: Duration, told_secs: u64) -> Self {
        Self { at, synced_at: at, told_secs, ..self }
    }

    /// What was known of its hold, if the session is still the same.
    pub(super) fn held_as(self, before: Option<&Self>) -> Self {
        let same = before.filter(|before| before.session == self.session);
        let is = |of: fn(&Self) -> bool| same.is_some_and(of);
        Self { held: is(|before| before.held), waits_here: is(|before| before.waits_here), ..self }
    }

    /// Whether the node has synced since, as far as what is stored tells.  A mark of silence may bring its counters up to date:
    /// it does not count.
    pub(super) fn is_before(&self, record: &NodeRecord) -> bool {
        self.is_less_than(record) && !record.silent
    }

    /// Whether the node has synced and been marked since, and nothing that was seen covers that sync: neither a record without
    /// a mark, nor a beat, one of which may have been missed.
    pub(super) fn is_before_mark(&self, record: &NodeRecord, misses_a_beat: bool) -> bool {
        let is_uncovered = self.silent || !self.in_this_life || self.session < record.session || misses_a_beat;
        self.is_less_than(record) && record.silent && is_uncovered
    }

    fn is_less_than(&self, record: &NodeRecord) -> bool {
        (self.session, self.syncs) < (record.session, record.syncs)
    }

    /// Whether the record lacks what was seen.
    pub(super) fn is_after(&self, record: &NodeRecord) -> bool {
        (self.session, self.syncs) > (record.session, record.syncs)
    }

    /// The answer to its sync may still be given, and tells the present `absent_after`.
    pub(super) fn told(self, served: Duration, now_secs: u64) -> Self {
        let told_secs = self.told_secs.max(now_secs);
        let is_answered =
            served.saturating_sub(self.synced_at) > hold_max(Duration::from_secs(told_secs)) + SERVED_GAP_MAX;
        if is_answered { self } else { Self { told_secs, ..self } }
    }

    pub(super) fn counted_as(self, record: &NodeRecord) -> Self {
        let NodeRecord { session, syncs, silent, .. } = *record;
        Self { session, syncs, silent, ..self }.held_as(Some(&self))
    }
}

/// What is counted of a record, under one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    is_required: bool,
    /// The period that it declares; none of a node that never reported, or is gone.
    period_secs: Option<u64>,
    /// Its report contradicts the document.
    contradicts: Option<Generation>,
}

impl Counted {
    pub(super) fn of(document: &Document, instructions: &[Instruction], record: &NodeRecord) -> Self {
        Self {
            is_required: record.is_required(),
            period_secs: record.report.as_ref().map(|report| report.period_secs(&document.policy)),
            contradicts: contradicts(document, instructions, record),
        }
    }

    pub(super) fn contradicts(&self) -> Option<Generation> {
        self.contradicts
    }
}

/// The clock by which nodes become absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) served: Duration,
    pub(super) absent_after_secs: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Present,
    /// Not seen in this life, or for longer than its period.
    Overdue,
    Absent,
}

/// One node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) seen: LastSeen,
    pub(super) counted: Counted,
    standing: Standing,
}

impl Known {
    fn new(seen: LastSeen, counted: Counted, clock: Clock) -> Self {
        let known = Self { seen, counted, standing: Standing::Present };
        let since = |at: Duration| clock.served.saturating_sub(at);
        let standing = if !seen.held && since(seen.synced_at) > known.limit(clock) {
            Standing::Absent
        } else if !seen.in_this_life || !seen.held && since(seen.at) > known.period() {
            Standing::Overdue
        } else {
            Standing::Present
        };
        Self { standing, ..known }
    }

    fn period(&self) -> Duration {
        Duration::from_secs(self.counted.period_secs.unwrap_or(0))
    }

    fn limit(&self, clock: Clock) -> Duration {
        let period_secs = self.counted.period_secs.unwrap_or(0);
        absence_limit(clock.absent_after_secs, period_secs, self.seen.told_secs)
    }

    /// Its standing is another one later than that; none if time alone changes nothing.
    fn deadline(&self, clock: Clock) -> Option<Duration> {
        match self.standing {
            Standing::Present | Standing::Overdue if self.seen.held => None,
            // A node that was held for long is absent before it is overdue, if its period is longer than all of its limit.
            Standing::Present => Some(self.seen.at.saturating_add(self.period()).min(self.absent_at(clock))),
            Standing::Overdue => Some(self.absent_at(clock)),
            Standing::Absent => None,
        }
    }

    fn absent_at(&self, clock: Clock) -> Duration {
        self.seen.synced_at.saturating_add(self.limit(clock))
    }

    /// Its period and its limit, if a coordinator that hears all such nodes is not deaf: one that died does not decide how
    /// often the others are heard.
    fn listened_for(&self, clock: Clock) -> Option<(u64, Duration)> {
        let period_secs = self.counted.period_secs.filter(|_| self.standing != Standing::Absent)?;
        Some((period_secs, self.limit(clock)))
    }

    /// Whether it is present before and after, and nothing that is counted or shown of it changes.
    fn counts_as(&self, now: &Self, observed_until: Option<Duration>) -> bool {
        let shown = |known: &Self| {
            let LastSeen { in_this_life, held, told_secs, .. } = known.seen;
            (known.standing, in_this_life, held, told_secs, known.counted, known.is_unobserved(observed_until))
        };
        self.standing == Standing::Present && shown(self) == shown(now)
    }

    /// Whether a gate waits for its next report: its last one is from before the end of what is observed.
    fn is_unobserved(&self, observed_until: Option<Duration>) -> bool {
        self.seen.waits_here && observed_until.is_some_and(|until| self.seen.synced_at < until)
    }

    fn is_awaited(&self) -> bool {
        self.counted.is_required && !self.seen.in_this_life
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Census {
    nodes: BTreeMap<NodeId, Known>,
    /// When the standing of a node changes by time alone.
    deadlines: BTreeSet<(Duration, NodeId)>,
    /// How many nodes that are listened for have this period, and this limit.
    periods: BTreeMap<u64, usize>,
    limits: BTreeMap<Duration, usize>,
    /// Reports that contradict the document.
    conflicts: BTreeSet<(Generation, NodeId)>,
    /// Required nodes that were not seen in this life.
    awaited: usize,
    /// Nodes whose request is held.
    held: usize,
    /// Nodes that can be asked have to report counters that are not older than this.
    observed_until: Option<Duration>,
    pub(super) presence: Presence,
}

impl Census {
    /// Of all nodes, in name order.
    pub(super) fn of(
        nodes: impl Iterator<Item = (NodeId, LastSeen, Counted)>,
        clock: Clock,
        observed_until: Option<Duration>,
    ) -> Self {
        let mut census = Self { observed_until, ..Self::default() };
        let (mut all, mut deadlines) = (Vec::new(), Vec::new());
        let (mut seen, mut absent, mut overdue) = (Vec::new(), Vec::new(), Vec::new());
        for (node, last_seen, counted) in nodes {
            let known = Known::new(last_seen, counted, clock);
            deadlines.extend(known.deadline(clock).map(|at| (at, node.clone())));
            census.count(&node, &known, clock);
            if last_seen.in_this_life {
                seen.push(node.clone());
            }
            if known.is_unobserved(observed_until) {
                census.presence.unobserved.insert(node.clone());
            }
            match known.standing {
                Standing::Present => {}
                Standing::Overdue => overdue.push((node.clone(), known.absent_at(clock))),
                Standing::Absent => absent.push(node.clone()),
            }
            all.push((node, known));
        }
        census.nodes = all.into_iter().collect();
        census.deadlines = deadlines.into_iter().collect();
        census.presence.seen = seen.into_iter().collect();
        census.presence.absent = absent.into_iter().collect();
        census.presence.overdue = overdue.into_iter().collect();
        census
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Known> {
        self.nodes.get(node)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.nodes.iter()
    }

    /// Takes in what is known of a node now; none: it is gone.  Whether a decision may come out differently for it.
    pub(super) fn put(&mut self, node: &NodeId, now: Option<(LastSeen, Counted)>, clock: Clock) -> bool {
        let now = now.map(|(seen, counted)| Known::new(seen, counted, clock));
        if let (Some(known), Some(now)) = (self.nodes.get_mut(node), now)
            && known.counts_as(&now, self.observed_until)
        {
            // Most nodes, at most looks: nothing of them is new but when they were heard.
            let (due_before, due) = (known.deadline(clock), now.deadline(clock));
            *known = now;
            self.move_deadline(node, due_before, due);
            return false;
        }
        let before = self.nodes.get(node).copied();
        if before == now {
            return false;
        }
        if let Some(before) = &before {
            self.discount(node, before, clock);
        }
        if let Some(now) = &now {
            self.count(node, now, clock);
        }
        let deadline = |known: Option<Known>| known.and_then(|known| known.deadline(clock));
        self.move_deadline(node, deadline(before), deadline(now));
        match (self.nodes.get_mut(node), now) {
            (Some(known), Some(now)) => *known = now,
            (None, Some(now)) => drop(self.nodes.insert(node.clone(), now)),
            (_, None) => drop(self.nodes.remove(node)),
        }
        self.show(node, now, clock);
        let decided =
            |known: Option<Known>| known.map(|known| (known.seen.in_this_life, known.standing, known.counted));
        decided(before) != decided(now)
    }

    fn move_deadline(&mut self, node: &NodeId, before: Option<Duration>, now: Option<Duration>) {
        if before == now {
            return;
        }
        if let Some(at) = before {
            self.deadlines.remove(&(at, node.clone()));
        }
        self.deadlines.extend(now.map(|at| (at, node.clone())));
    }

    /// Brings the clock forward.  Whether a decision may come out differently.
    pub(super) fn advance(&mut self, clock: Clock) -> bool {
        let mut is_news = false;
        while let Some((_, node)) = self.deadlines.first().filter(|(at, _)| *at < clock.served).cloned() {
            let known = self.nodes.get(&node).copied();
            is_news |= self.put(&node, known.map(|known| (known.seen, known.counted)), clock);
        }
        is_news
    }

    /// The report with the highest generation of those that contradict the document.
    pub(super) fn conflict(&self) -> Option<Conflict> {
        let (generation, node) = self.conflicts.last()?;
        Some(Conflict { node: node.clone(), generation: *generation, witnesses: self.conflicts.len() })
    }

    /// Whether all required nodes were seen in this life.
    pub(super) fn all_seen(&self) -> bool {
        self.awaited == 0
    }

    /// Whether this coordinator holds a request, on a connection that has not ended.
    pub(super) fn holds_one(&self) -> bool {
        self.held > 0
    }

    /// The observation of a wave has come so far, or there is none: notes which nodes have to be asked.
    pub(super) fn observe_until(&mut self, until: Option<Duration>) {
        if self.observed_until != until {
            self.observed_until = until;
            let unobserved = self.nodes.iter().filter(|(_, known)| known.is_unobserved(self.observed_until));
            self.presence.unobserved = unobserved.map(|(node, _)| node.clone()).collect();
        }
    }

    pub(super) fn observed_until(&self) -> Option<Duration> {
        self.observed_until
    }

    /// After how long without any node the coordinator is deaf.
    pub(super) fn deaf_after(&self) -> Duration {
        let period_secs = self.periods.first_key_value().map_or(0, |(secs, _)| *secs);
        deaf_after(period_secs, self.limits.first_key_value().map_or(Duration::MAX, |(limit, _)| *limit))
    }

    fn count(&mut self, node: &NodeId, known: &Known, clock: Clock) {
        if let Some((period_secs, limit)) = known.listened_for(clock) {
            *self.periods.entry(period_secs).or_default() += 1;
            *self.limits.entry(limit).or_default() += 1;
        }
        self.awaited += usize::from(known.is_awaited());
        self.held += usize::from(known.seen.held);
        self.conflicts.extend(known.counted.contradicts.map(|generation| (generation, node.clone())));
    }

    fn discount(&mut self, node: &NodeId, known: &Known, clock: Clock) {
        if let Some((period_secs, limit)) = known.listened_for(clock) {
            take_one(&mut self.periods, &period_secs);
            take_one(&mut self.limits, &limit);
        }
        self.awaited -= usize::from(known.is_awaited());
        self.held -= usize::from(known.seen.held);
        if let Some(generation) = known.counted.contradicts {
            self.conflicts.remove(&(generation, node.clone()));
        }
    }

    /// Shows a node in the lists that decisions read.
    fn show(&mut self, node: &NodeId, known: Option<Known>, clock: Clock) {
        let is_unobserved = known.is_some_and(|known| known.is_unobserved(self.observed_until));
        let Presence { seen, absent, overdue, unobserved, .. } = &mut self.presence;
        if !is_unobserved {
            unobserved.remove(node);
        } else if !unobserved.contains(node) {
            unobserved.insert(node.clone());
        }
        if known.is_none_or(|known| !known.seen.in_this_life) {
            seen.remove(node);
        } else if !seen.contains(node) {
            seen.insert(node.clone());
        }
        let standing = known.map(|known| known.standing);
        if standing != Some(Standing::Absent) {
            absent.remove(node);
        } else if !absent.contains(node) {
            absent.insert(node.clone());
        }
        match known {
            Some(known) if known.standing == Standing::Overdue => {
                overdue.insert(node.clone(), known.absent_at(clock));
            }
            Some(_) | None => drop(overdue.remove(node)),
        }
    }
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
