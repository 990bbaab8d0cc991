//! One life of a coordinator: its clock of served time, and what it has heard of the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::barrier::Conflict;
use super::super::changes::Changes;
use super::super::document::{Document, Snapshot, Stage};
use super::super::parts::{Beat, Stamp};
use super::super::policy::Policy;
use super::super::record::NodeRecord;
use super::super::slots::PoolKey;
use super::super::wave::instructions;
use super::census::{Census, Clock, Counted, Known, LastSeen};
use super::look::Look;
use super::{BLIND_MAX, Presence, SERVED_GAP_MAX, THAW};
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::{CoordinatorName, NodeId, merge_join};
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// After so many beats of a life a node that was not heard in it counts as silent.
const BEATS_TO_RETURN: u32 = 3;
/// Contacts that a node may miss before it counts as silent.
const SILENT_PERIODS: u32 = 2;
/// How often the counters of a wave's nodes are asked for while it is observed, the last time at its end (rule 12).
const OBSERVATIONS: u32 = 4;

/// When this coordinator last heard of any node, from it or through the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Heard {
    /// On the clock of served time.
    at: Duration,
    /// Of the look.
    monotonic: Duration,
}

/// A value, and when it was first observed on the clock of served time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Since<T> {
    value: T,
    at: Duration,
}

/// What distinguishes one revoke from another; the nodes that it left behind do not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RevokeIdentity {
    since: UnixTime,
    keys: BTreeSet<PoolKey>,
}

/// The settings by which nodes become absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Limits {
    absent_after_secs: u64,
    period_max_secs: u64,
}

impl Limits {
    fn of(policy: &Policy) -> Self {
        Self { absent_after_secs: policy.absent_after_secs, period_max_secs: policy.period_max_secs }
    }
}

/// One life of a coordinator: from its start, or from the moment its store went back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Life {
    /// How many there were before.
    ordinal: u64,
    served: Duration,
    /// When it looked last; none if the store did not confirm that look.
    last_look: Option<Duration>,
    /// At the last look.
    limits: Limits,
    heard: Heard,
    /// It is deaf when it has heard of no node for so long.
    deaf_after: Duration,
    /// When it last read the store.
    last_read: Option<Duration>,
    begun: bool,
    /// On the clock of served time.
    begun_at: Duration,
    /// The last beats of the other coordinators.
    beats: BTreeMap<CoordinatorName, Stamp>,
    highest: Revision,
    census: Census,
    instruction: Option<Since<(Generation, Phase, Option<RevokeIdentity>)>>,
    /// Generation, opened waves and nodes taken in.
    wave: Option<Since<(Generation, usize, usize)>>,
    /// The last conflict, the revision under which it was observed, and when.
    conflict: Option<Since<(Conflict, Revision)>>,
}

/// What a look takes in: nodes that it looked at, and what is known of them now.  In name order, if it is at all nodes.
type TakenIn = Vec<(NodeId, Option<(LastSeen, Counted)>)>;

impl Life {
    /// Advances the clock of served time to `monotonic`, and looks at a snapshot that the store has confirmed.
    ///
    /// Must be called at least every [`SERVED_GAP_MAX`]: a longer gap counts as that much, and one of more than
    /// [`BLIND_MAX`] ends the life.  Call it with a snapshot before deciding on it: a node that came since the last
    /// look is not known to have been seen.
    pub fn observe(&mut self, monotonic: Duration, snapshot: &Snapshot) {
        self.follow(monotonic, snapshot, &Changes::everything());
    }

    /// The same, where these are all changes since the snapshot that was looked at last: looks at no other node.  Whether a
    /// decision may come out differently, if nothing but its presence has changed.
    pub fn follow(&mut self, monotonic: Duration, snapshot: &Snapshot, changes: &Changes) -> bool {
        let gap = monotonic.saturating_sub(self.last_look.unwrap_or(monotonic)).min(SERVED_GAP_MAX);
        self.last_look = Some(monotonic);
        let document = &snapshot.document;
        let mut looks_at_all = changes.are_everything() || !self.begun || self.limits != Limits::of(&document.policy);
        let blind_for = monotonic.saturating_sub(self.last_read.unwrap_or(monotonic));
        let look = if looks_at_all { None } else { Some(changes.nodes()) };
        if self.begun && (blind_for > BLIND_MAX || self.went_back(snapshot, look)) {
            self.end();
            self.last_look = Some(monotonic);
            looks_at_all = true;
        }
        self.last_read = Some(monotonic);
        self.highest = document.revision;
        let served = self.served + gap;
        let (taken_in, is_heard) =
            if looks_at_all { self.take_all_in(snapshot, served) } else { self.take_in(snapshot, served, changes) };
        if is_heard || self.census.holds_one() || !self.begun {
            self.served = served;
            self.hear_at(served, monotonic);
        } else {
            // Deaf: not all of the gap counts, or nothing of it.
            self.served = served.min(self.heard.at + self.deaf_after).max(self.served);
        }
        let is_news = self.count(taken_in, looks_at_all);
        self.deaf_after = self.census.deaf_after();
        self.mark(snapshot);
        self.show(snapshot) || is_news
    }

    /// Counts what was looked at, and lets time pass for all others.
    fn count(&mut self, taken_in: TakenIn, of_all: bool) -> bool {
        let clock = self.clock();
        if of_all {
            let nodes = taken_in.into_iter().filter_map(|(node, now)| now.map(|(seen, counted)| (node, seen, counted)));
            let clock_off_secs = self.census.presence.clock_off_secs;
            self.census = Census::of(nodes, clock, self.census.observed_until());
            self.census.presence.clock_off_secs = clock_off_secs;
            return true;
        }
        let mut is_news = false;
        for (node, now) in taken_in {
            is_news |= self.census.put(&node, now, clock);
        }
        self.census.advance(clock) || is_news
    }

    fn clock(&self) -> Clock {
        Clock { served: self.served, absent_after_secs: self.limits.absent_after_secs }
    }

    /// Notes when the present instruction, wave and conflict were first observed.
    fn mark(&mut self, snapshot: &Snapshot) {
        let (served, document) = (self.served, &snapshot.document);
        let revoke = document.revoke.as_ref();
        let revoke = revoke.map(|revoke| RevokeIdentity { since: revoke.since, keys: revoke.keys.clone() });
        mark(&mut self.instruction, (document.generation, document.stage.phase(), revoke), served);
        let wave = match &document.stage {
            Stage::Promoted { wave, .. } => (document.generation, wave.opened, wave.taken_in.len()),
            Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => (document.generation, 0, 0),
        };
        mark(&mut self.wave, wave, served);
        self.census.observe_until(self.observed_until(document));
        match self.census.conflict() {
            Some(conflict) => self.conflict = Some(Since { value: (conflict, document.revision), at: served }),
            // A frozen pool makes no commit by itself: another revision is an operator's.
            None => {
                drop(self.conflict.take_if(|since| since.value.1 != document.revision || served - since.at >= THAW))
            }
        }
        if !self.begun {
            // The time before its first look is not of this life.
            (self.begun, self.begun_at) = (true, served);
        }
    }

    /// Until when the present wave is to be observed by now: the last of its [`OBSERVATIONS`] points that is over.
    fn observed_until(&self, document: &Document) -> Option<Duration> {
        let Stage::Promoted { wave, .. } = &document.stage else { return None };
        if wave.is_last() {
            return None;
        }
        let since = self.wave.as_ref()?.at;
        let part = Duration::from_secs(document.policy.health_window_secs) / OBSERVATIONS;
        let over = (1..=OBSERVATIONS).rev().map(|parts| since + part * parts);
        over.filter(|at| *at <= self.served && *at > since).max()
    }

    /// Brings what does not belong to one node into the presence.  Whether a decision may come out differently.
    fn show(&mut self, snapshot: &Snapshot) -> bool {
        let times = (
            self.secs_since(self.instruction.as_ref().map(|since| since.at)),
            self.secs_since(self.wave.as_ref().map(|since| since.at)),
        );
        let thawing = self.conflict.as_ref().map(|since| since.value.0.clone());
        let deaf_secs = self.deaf_secs(snapshot);
        let presence = &mut self.census.presence;
        let is_news = presence.deaf_secs.is_some() != deaf_secs.is_some() || presence.thawing != thawing;
        (presence.revision, presence.served) = (self.highest, self.served);
        (presence.phase_secs, presence.wave_secs) = times;
        (presence.thawing, presence.deaf_secs) = (thawing, deaf_secs);
        is_news
    }

    /// Takes all nodes of a snapshot in, those that were heard since the last look at `served`; whether one was.
    fn take_all_in(&mut self, snapshot: &Snapshot, served: Duration) -> (TakenIn, bool) {
        let look = self.begin_look(snapshot, served);
        let mut is_heard = false;
        let nodes = merge_join(snapshot.nodes.iter(), self.census.nodes());
        let taken_in = nodes.map(|(node, record, known)| {
            let (seen, heard) = look.seen(known.map(|known| known.seen), record);
            is_heard |= heard;
            (node.clone(), Some((seen, Counted::of(&snapshot.document, &look.instructions, record))))
        });
        let taken_in = taken_in.collect();
        (taken_in, is_heard)
    }

    /// The same for the nodes that have changed, or that a beat vouches for.
    fn take_in(&mut self, snapshot: &Snapshot, served: Duration, changes: &Changes) -> (TakenIn, bool) {
        let look = self.begin_look(snapshot, served);
        let counted = |record: &NodeRecord| Counted::of(&snapshot.document, &look.instructions, record);
        let mut is_heard = false;
        let mut take = |known: Option<&Known>, record: &NodeRecord| {
            let (seen, heard) = look.seen(known.map(|known| known.seen), record);
            is_heard |= heard;
            (seen, counted(record))
        };
        let mut taken_in: TakenIn = Vec::new();
        if changes.are_of_document() || !look.vouching.is_empty() {
            let contradicts_now = |known: Option<&Known>, record: &NodeRecord| {
                known.is_some_and(|known| known.counted.contradicts() != counted(record).contradicts())
            };
            let changed = changes.nodes().iter().map(|node| (node, ()));
            let known = merge_join(snapshot.nodes.iter(), self.census.nodes());
            let nodes = merge_join(known.map(|(node, record, known)| (node, (record, known))), changed);
            for (node, (record, known), changed) in nodes {
                let is_other = look.is_vouched(record) || changes.are_of_document() && contradicts_now(known, record);
                if changed.is_some() || is_other {
                    taken_in.push((node.clone(), Some(take(known, record))));
                }
            }
            let gone = changes.nodes().iter().filter(|node| !snapshot.nodes.contains_key(*node));
            taken_in.extend(gone.map(|node| (node.clone(), None)));
        } else {
            taken_in.extend(changes.nodes().iter().map(|node| {
                let now = snapshot.nodes.get(node).map(|record| take(self.census.get(node), record));
                (node.clone(), now)
            }));
        }
        (taken_in, is_heard)
    }

    fn begin_look<'a>(&mut self, snapshot: &'a Snapshot, served: Duration) -> Look<'a> {
        // The answer to what was heard since the last look may have been made before the policy was changed.
        let now_secs = snapshot.document.policy.absent_after_secs;
        let told_secs = now_secs.max(self.limits.absent_after_secs);
        self.limits = Limits::of(&snapshot.document.policy);
        let missed = self.missed(&snapshot.beats);
        let vouching = self.take_in_beats(&snapshot.beats);
        let instructions = instructions(&snapshot.document);
        Look { begun: self.begun, served, now_secs, told_secs, vouching, missed, instructions }
    }

    /// The coordinators of which a beat between the last one that was seen and the present one was not.
    fn missed<'a>(&self, beats: &'a BTreeMap<CoordinatorName, Beat>) -> BTreeSet<&'a CoordinatorName> {
        let is_missed = |(by, beat): &(&CoordinatorName, &Beat)| {
            self.beats.get(*by).is_none_or(|seen| *seen != beat.stamp && seen.next() != beat.stamp)
        };
        beats.iter().filter(is_missed).map(|(by, _)| by).collect()
    }

    /// The coordinators that have written a beat since the last look, within this life, that vouches for their nodes.
    fn take_in_beats<'a>(&mut self, beats: &'a BTreeMap<CoordinatorName, Beat>) -> BTreeSet<&'a CoordinatorName> {
        let is_new = |(by, beat): &(&CoordinatorName, &Beat)| self.beats.get(*by) != Some(&beat.stamp);
        let new = beats.iter().filter(|_| self.begun).filter(is_new);
        let vouching = new.filter(|(_, beat)| beat.vouches).map(|(by, _)| by).collect();
        self.beats = beats.iter().map(|(by, beat)| (by.clone(), beat.stamp)).collect();
        vouching
    }

    /// Hears a node of this coordinator's own: a sync of its open session that says nothing new.  The node was seen in
    /// this life before; the sync by which it was is written.  Whether a decision may come out differently.
    pub fn hear(&mut self, monotonic: Duration, node: &NodeId) -> bool {
        let (at, told_secs) = (self.now(monotonic), self.limits.absent_after_secs);
        let Some(known) = self.census.get(node).filter(|known| known.seen.in_this_life).copied() else { return false };
        self.hear_at(at, monotonic);
        let was_deaf = self.census.presence.deaf_secs.take().is_some();
        let seen = known.seen.synced(at, told_secs);
        self.census.put(node, Some((seen, known.counted)), self.clock()) || was_deaf
    }

    /// This coordinator holds the request of a node, which is heard until [`Life::release`]: its connection has not ended.
    /// Whether a decision may come out differently.
    pub fn hold(&mut self, node: &NodeId) -> bool {
        let Some(known) = self.census.get(node).copied() else { return false };
        let seen = LastSeen { held: true, waits_here: true, ..known.seen };
        self.census.put(node, Some((seen, known.counted)), self.clock())
    }

    /// The hold of a node is over, because it was answered or its connection has ended.  In a life that did not see it begin,
    /// or in which the node has opened another session meanwhile, this says nothing.  Whether a decision may come out
    /// differently.
    pub fn release(&mut self, monotonic: Duration, node: &NodeId) -> bool {
        let at = self.now(monotonic);
        let Some(known) = self.census.get(node).filter(|known| known.seen.held).copied() else { return false };
        self.hear_at(at, monotonic);
        let seen = LastSeen { held: false, at, ..known.seen };
        self.census.put(node, Some((seen, known.counted)), self.clock())
    }

    /// A node was heard.  The next look may count less time than was expected of it, so what is heard later may be earlier by
    /// the clock of served time.
    fn hear_at(&mut self, at: Duration, monotonic: Duration) {
        self.heard = Heard { at: at.max(self.heard.at), monotonic };
    }

    /// The clock of served time: the time since the last look will count as served, or less of it does.
    fn now(&self, monotonic: Duration) -> Duration {
        let since_look = self.last_look.map_or(Duration::ZERO, |look| monotonic.saturating_sub(look));
        self.served + since_look.min(SERVED_GAP_MAX)
    }

    /// Ends this life: the store has lost what this coordinator wrote.  The next look begins another one.
    pub fn end(&mut self) {
        *self = Self { ordinal: self.ordinal + 1, served: self.served, ..Self::default() };
    }

    /// How many lives there were before this one.
    #[must_use]
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// The store could not be read or written: the time since the look before, and until the next one, does not count as
    /// served.
    pub fn interrupt(&mut self) {
        self.last_look = None;
    }

    /// What the next beat says: the nodes of the coordinator `own` that are to be marked as silent with it, or none if it is
    /// too early to tell.  A beat vouches for all others, and a beat without this for none.
    ///
    /// One that has not heard any of its nodes for long vouches for none of them: two coordinators that no node reaches would
    /// keep each other from noticing that they are deaf, for as long as the longest period of a node.
    ///
    /// A node is silent once it has missed a contact, or has not been heard in this life when that has gone on for some
    /// beats.  That is early, and late enough: marks cost a write, and to vouch for too long only delays an exclusion.
    ///
    /// The snapshot is the one that was looked at last.  Looks at nodes until it finds one that was heard lately, and at
    /// those that are overdue.
    #[must_use]
    pub fn silent(&self, snapshot: &Snapshot, own: &CoordinatorName) -> Option<Vec<NodeId>> {
        if !self.begun || self.served - self.begun_at < snapshot.document.policy.beat() * BEATS_TO_RETURN {
            return None;
        }
        let is_own = |record: &NodeRecord| record.coordinator.as_ref() == Some(own) && record.report.is_some();
        let nodes = merge_join(snapshot.nodes.iter(), self.census.nodes());
        let mut own_nodes = nodes.filter(|(_, record, _)| is_own(record)).filter_map(|(_, _, known)| known).peekable();
        let is_recent = |at: Duration| self.served.saturating_sub(at) < self.deaf_after;
        if own_nodes.peek().is_some() && !own_nodes.any(|known| known.seen.held || is_recent(known.seen.at)) {
            return None;
        }
        let is_silent = |node: &NodeId| {
            let record = snapshot.nodes.get(node).filter(|record| is_own(record) && !record.silent)?;
            let seen = self.census.get(node)?.seen;
            let period = Duration::from_secs(period_secs(snapshot, record));
            let silent_for = self.served.saturating_sub(seen.at);
            Some(!seen.in_this_life || silent_for > period.saturating_mul(SILENT_PERIODS))
        };
        let Presence { absent, overdue, .. } = &self.census.presence;
        let mut silent: Vec<NodeId> = absent.iter().chain(overdue.keys()).cloned().collect();
        silent.retain(|node| is_silent(node) == Some(true));
        silent.sort();
        Some(silent)
    }

    /// The presence of the nodes of the snapshot that was looked at last, as it is kept.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.census.presence
    }

    /// Says that this coordinator's wall clock is off those of the others, or that it is not.  Whether that is news.
    pub fn set_clock_off(&mut self, secs: Option<i64>) -> bool {
        let before = std::mem::replace(&mut self.census.presence.clock_off_secs, secs);
        before.is_some() != secs.is_some()
    }

    /// The report with the highest generation of those that contradict the document, as of the last look.
    pub(in super::super) fn conflict(&self) -> Option<Conflict> {
        self.census.conflict()
    }

    /// Whether all required nodes were seen in this life, as of the last look.
    pub(in super::super) fn has_seen_all(&self) -> bool {
        self.census.all_seen()
    }

    /// See [`Presence::deaf_secs`]; a pool without nodes is not listened to.
    fn deaf_secs(&self, snapshot: &Snapshot) -> Option<u64> {
        let is_deaf = !snapshot.nodes.is_empty() && self.served.saturating_sub(self.heard.at) >= self.deaf_after;
        is_deaf.then(|| self.last_read.unwrap_or_default().saturating_sub(self.heard.monotonic).as_secs())
    }

    /// Whether the store shows less than this life has seen, so that it was restored from a backup.  Looks at these nodes;
    /// none: at all.
    ///
    /// Also true for a restored store that was driven on past the revision that this life saw last: the nodes' own
    /// counts are lower then.  A node that was forgotten and came again while this coordinator was not looking looks
    /// the same, which only costs the waiting of a new life.
    fn went_back(&self, snapshot: &Snapshot, nodes: Option<&BTreeSet<NodeId>>) -> bool {
        let revision = snapshot.document.revision;
        let is_older = |known: &LastSeen, record: Option<&NodeRecord>| match record {
            Some(record) => record.is_known() && known.is_after(record),
            // A node is forgotten by a commit, so at one revision none may vanish.
            None => revision == self.highest,
        };
        let beat_is_lost =
            |(by, stamp): (&CoordinatorName, &Stamp)| snapshot.beats.get(by).is_none_or(|beat| beat.stamp < *stamp);
        if revision < self.highest || self.beats.iter().any(beat_is_lost) {
            return true;
        }
        match nodes {
            Some(nodes) => nodes
                .iter()
                .any(|node| self.census.get(node).is_some_and(|known| is_older(&known.seen, snapshot.nodes.get(node)))),
            None => merge_join(self.census.nodes(), snapshot.nodes.iter())
                .any(|(_, known, record)| is_older(&known.seen, record)),
        }
    }

    fn secs_since(&self, at: Option<Duration>) -> u64 {
        at.map_or(0, |at| self.served.saturating_sub(at).as_secs())
    }
}

/// The period that the node declares; 0 for one that never reported.
fn period_secs(snapshot: &Snapshot, record: &NodeRecord) -> u64 {
    record.report.as_ref().map_or(0, |report| report.period_secs(&snapshot.document.policy))
}

fn mark<T: PartialEq>(since: &mut Option<Since<T>>, value: T, at: Duration) {
    if since.as_ref().is_none_or(|before| before.value != value) {
        *since = Some(Since { value, at });
    }
}
