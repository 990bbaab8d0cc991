//! Which nodes one coordinator has seen in its life, and which are absent (docs/protocol.md#rule-10; rule 11).
//!
//! [`Life`] is the only memory that a coordinator has besides the store: the nodes that it has seen since it started,
//! on its own monotonic clock.  [`Presence`] is what it gives to one decision.  Must not know: wall clocks.
//!
//! A coordinator hears its own nodes itself ([`Life::hear`]), and those of others by their beats: a beat vouches for all nodes
//! of its writer's roster that are not marked as silent, so a sync that says nothing new is written nowhere.
//!
//! Invariants: a coordinator that starts has seen no node, whatever the store holds; time in which it does not serve, or
//! hears no node at all, makes no node absent; a store that went back begins a new life; a node counts as seen only if
//! that is known.
//!
//! Known limit: a coordinator notices that its store went back by what it has seen of the lost history, so one that saw
//! nothing of it notices nothing.  [`BLIND_MAX`] bounds that: what is lost must be younger than a minute, and this
//! coordinator the only one that had not looked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::barrier::{Conflict, conflict};
use super::document::{Snapshot, Stage};
use super::parts::{Beat, Stamp};
use super::record::NodeRecord;
use super::slots::PoolKey;
use super::timing::{deaf_after, hold_max};
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::{CoordinatorName, NodeId};
use tfo_model::node::Session;
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;

/// Longest time between two looks that counts as served.
///
/// A coordinator that was stopped or starved for an hour did not listen for an hour: the nodes were not silent.
pub const SERVED_GAP_MAX: Duration = Duration::from_secs(10);

/// Longest time between two looks at the store within one life.
///
/// A coordinator that was cut off for longer cannot know whether its store went back and forth again in the meantime:
/// no backup is made, outrun and restored within a minute.
pub const BLIND_MAX: Duration = Duration::from_secs(60);

/// How long a pool stays frozen after its last conflict vanished without a commit by an operator: a node that reports this
/// and that must not freeze and thaw the pool many times a second.
pub const THAW: Duration = Duration::from_secs(60);

/// After so many beats of a life a node that was not heard in it counts as silent.
const BEATS_TO_RETURN: u32 = 3;
/// Contacts that a node may miss before it counts as silent.
const SILENT_PERIODS: u32 = 2;

/// One coordinator's view of its nodes, for one decision.
///
/// Fails closed: by default no node was seen, a node that it does not name was not seen, and with a store that is
/// behind [`Presence::revision`] none was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// Revision of the snapshot that this was computed from.
    pub revision: Revision,
    /// Nodes that have been seen in this life of the coordinator.
    pub seen: BTreeSet<NodeId>,
    /// Nodes that have not been seen for longer than their limit.
    pub absent: BTreeSet<NodeId>,
    /// Seconds until these nodes are absent: those that were not seen in this life, or for longer than their period.
    /// Shown only; nothing is decided by it.
    pub overdue: BTreeMap<NodeId, u64>,
    /// Seconds served since this coordinator first saw the present instruction, or a later revoke.
    pub phase_secs: u64,
    /// Seconds served since it first saw the present wave.
    pub wave_secs: u64,
    /// A conflict that vanished by itself less than [`THAW`] ago: the pool is still frozen.
    pub thawing: Option<Conflict>,
    /// Seconds since this coordinator has heard of any node, once it is deaf: its time stands still, and it takes no
    /// node for absent (rule 11).
    pub deaf_secs: Option<u64>,
    /// Seconds by which this coordinator's wall clock is off those of the others, if that is too much: it opens no gate
    /// then ([`super::clocks`]).
    pub clock_off_secs: Option<i64>,
}

impl Presence {
    /// Required nodes that are not known to have been seen in this life.  Before all of them have been, nothing is
    /// committed, and no node is instructed to hold anything new (rule 10).
    #[must_use]
    pub fn unseen_required(&self, snapshot: &Snapshot) -> Vec<NodeId> {
        let is_of_this_life = snapshot.document.revision >= self.revision;
        let seen = self.seen.iter().map(|node| (node, ()));
        merge_join(snapshot.nodes.iter(), seen)
            .filter(|(_, record, seen)| record.is_required() && !(is_of_this_life && seen.is_some()))
            .map(|(node, _, _)| node.clone())
            .collect()
    }

    /// Whether the node was seen in the life that this snapshot belongs to.
    #[must_use]
    pub fn has_seen(&self, snapshot: &Snapshot, node: &NodeId) -> bool {
        snapshot.document.revision >= self.revision && self.seen.contains(node)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LastSeen {
    session: Option<Session>,
    /// Within the session: another coordinator may have counted further before it knew of it.
    syncs: u64,
    in_this_life: bool,
    /// On the clock of served time.
    at: Duration,
    /// `absent_after` when it was last seen: the node detaches itself by it.
    told_secs: u64,
}

impl LastSeen {
    fn of(record: &NodeRecord) -> Self {
        let (at, told_secs) = (Duration::ZERO, 0);
        Self { session: record.session, syncs: record.syncs, in_this_life: false, at, told_secs }
    }

    /// Whether the node has synced since.  A mark of silence may bring its counters up to date: it does not count.
    fn is_before(&self, record: &NodeRecord) -> bool {
        (self.session, self.syncs) < (record.session, record.syncs) && !record.silent
    }

    /// Whether the record lacks what was seen.
    fn is_after(&self, record: &NodeRecord) -> bool {
        (self.session, self.syncs) > (record.session, record.syncs)
    }

    /// The answer to its sync may still be given, and tells the present `absent_after`.
    fn told(self, served: Duration, now_secs: u64) -> Self {
        let told_secs = self.told_secs.max(now_secs);
        let is_answered = served.saturating_sub(self.at) > hold_max(Duration::from_secs(told_secs)) + SERVED_GAP_MAX;
        if is_answered { self } else { Self { told_secs, ..self } }
    }

    fn counted_as(self, record: &NodeRecord) -> Self {
        Self { session: record.session, syncs: record.syncs, ..self }
    }
}

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

/// One life of a coordinator: from its start, or from the moment its store went back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Life {
    served: Duration,
    /// When it looked last; none if the store did not confirm that look.
    last_look: Option<Duration>,
    /// `absent_after` at the last look.
    told_secs: u64,
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
    nodes: BTreeMap<NodeId, LastSeen>,
    instruction: Option<Since<(Generation, Phase, Option<RevokeIdentity>)>>,
    /// Generation, opened waves and nodes taken in.
    wave: Option<Since<(Generation, usize, usize)>>,
    /// The last conflict, the revision under which it was observed, and when.
    conflict: Option<Since<(Conflict, Revision)>>,
}

impl Life {
    /// Advances the clock of served time to `monotonic`, and looks at a snapshot that the store has confirmed.
    ///
    /// Must be called at least every [`SERVED_GAP_MAX`]: a longer gap counts as that much, and one of more than
    /// [`BLIND_MAX`] ends the life.  Call it with a snapshot before deciding on it: a node that came since the last
    /// look is not known to have been seen.
    pub fn observe(&mut self, monotonic: Duration, snapshot: &Snapshot) {
        let gap = monotonic.saturating_sub(self.last_look.unwrap_or(monotonic)).min(SERVED_GAP_MAX);
        self.last_look = Some(monotonic);
        let blind_for = monotonic.saturating_sub(self.last_read.unwrap_or(monotonic));
        if self.begun && (blind_for > BLIND_MAX || self.went_back(snapshot)) {
            self.end();
            self.last_look = Some(monotonic);
        }
        self.last_read = Some(monotonic);
        self.highest = snapshot.document.revision;
        let served = self.served + gap;
        if self.take_in(snapshot, served) || !self.begun {
            self.served = served;
            self.heard = Heard { at: served, monotonic };
        } else {
            // Deaf: not all of the gap counts, or nothing of it.
            self.served = served.min(self.heard.at + self.deaf_after).max(self.served);
        }
        self.deaf_after = self.deaf_after(snapshot);
        let served = self.served;
        let document = &snapshot.document;
        let revoke = document.revoke.as_ref();
        let revoke = revoke.map(|revoke| RevokeIdentity { since: revoke.since, keys: revoke.keys.clone() });
        mark(&mut self.instruction, (document.generation, document.stage.phase(), revoke), served);
        let wave = match &document.stage {
            Stage::Promoted { wave, .. } => (document.generation, wave.opened, wave.taken_in.len()),
            Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => (document.generation, 0, 0),
        };
        mark(&mut self.wave, wave, served);
        match conflict(snapshot) {
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

    /// Takes the nodes of a snapshot in, those that were heard since the last look at `served`; whether one was.
    fn take_in(&mut self, snapshot: &Snapshot, served: Duration) -> bool {
        // The answer to what was heard since the last look may have been made before the policy was changed.
        let now_secs = snapshot.document.policy.absent_after_secs;
        let (begun, told_secs) = (self.begun, now_secs.max(self.told_secs));
        self.told_secs = now_secs;
        let vouching = self.take_in_beats(&snapshot.beats);
        let is_vouched = |record: &NodeRecord| {
            let by = record.coordinator.as_ref().filter(|_| !vouching.is_empty() && !record.silent);
            record.report.is_some() && by.is_some_and(|by| vouching.contains(by))
        };
        let mut is_heard = false;
        let mut before = std::mem::take(&mut self.nodes).into_iter().peekable();
        let now = snapshot.nodes.iter().map(|(node, record)| {
            while before.next_if(|(known, _)| known < node).is_some() {}
            let seen = LastSeen { in_this_life: true, at: served, told_secs, ..LastSeen::of(record) };
            match before.next_if(|(known, _)| known == node) {
                Some((node, known)) if known.is_before(record) || is_vouched(record) => {
                    is_heard = true;
                    (node, seen)
                }
                // What is left of a forgotten node becomes less, and what marks one as silent more: neither says that it lives.
                Some((node, known)) if !record.is_known() || record.silent => {
                    (node, known.counted_as(record).told(served, now_secs))
                }
                Some((node, known)) => (node, known.told(served, now_secs)),
                None => {
                    is_heard |= begun;
                    (node.clone(), LastSeen { in_this_life: begun, ..seen })
                }
            }
        });
        self.nodes = now.collect();
        is_heard
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
    /// this life before; the sync by which it was is written ([`Self::see`]).
    pub fn hear(&mut self, monotonic: Duration, node: &NodeId, presence: &mut Presence) {
        let at = self.now(monotonic);
        let Some(known) = self.nodes.get_mut(node).filter(|known| known.in_this_life) else { return };
        (known.at, known.told_secs) = (at, self.told_secs);
        self.heard = Heard { at, monotonic };
        presence.deaf_secs = None;
        presence.absent.remove(node);
        presence.overdue.remove(node);
    }

    /// The clock of served time: the time since the last look will count as served, or less of it does.
    fn now(&self, monotonic: Duration) -> Duration {
        let since_look = self.last_look.map_or(Duration::ZERO, |look| monotonic.saturating_sub(look));
        self.served + since_look.min(SERVED_GAP_MAX)
    }

    /// Takes in one record that this coordinator has just written for a sync: what [`Self::observe`] would do for this
    /// node alone.  Without it, thousands of nodes that acknowledge at once would all be looked at for each write.
    pub fn see(&mut self, monotonic: Duration, (node, record): (&NodeId, &NodeRecord), presence: &mut Presence) {
        let at = self.now(monotonic);
        let seen = LastSeen { in_this_life: true, at, told_secs: self.told_secs, ..LastSeen::of(record) };
        match self.nodes.get_mut(node) {
            Some(known) if known.is_before(record) => *known = seen,
            Some(known) => {
                if !record.is_known() || record.silent {
                    *known = known.counted_as(record);
                }
                return;
            }
            // As in `observe`: a new node was seen if this life had begun before it came.
            None => drop(self.nodes.insert(node.clone(), LastSeen { in_this_life: self.begun, ..seen })),
        }
        self.heard = Heard { at, monotonic };
        presence.deaf_secs = None;
        if self.begun {
            presence.absent.remove(node);
            presence.overdue.remove(node);
            if !presence.seen.contains(node) {
                presence.seen.insert(node.clone());
            }
        }
    }

    /// Ends this life: the store has lost what this coordinator wrote.  The next look begins another one.
    pub fn end(&mut self) {
        *self = Self { served: self.served, ..Self::default() };
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
    #[must_use]
    pub fn silent(&self, snapshot: &Snapshot, own: &CoordinatorName) -> Option<Vec<NodeId>> {
        if !self.begun || self.served - self.begun_at < snapshot.document.policy.beat() * BEATS_TO_RETURN {
            return None;
        }
        let is_own = |record: &NodeRecord| record.coordinator.as_ref() == Some(own) && record.report.is_some();
        let own_nodes = merge_join(snapshot.nodes.iter(), self.nodes.iter()).filter(|(_, record, _)| is_own(record));
        let heard_at = own_nodes.filter_map(|(_, _, last_seen)| Some(last_seen?.at)).max();
        if heard_at.is_some_and(|at| self.served.saturating_sub(at) >= self.deaf_after) {
            return None;
        }
        let nodes = merge_join(snapshot.nodes.iter(), self.nodes.iter());
        let silent =
            nodes.filter(|(_, record, _)| is_own(record) && !record.silent).filter(|(_, record, last_seen)| {
                let period = Duration::from_secs(period_secs(snapshot, record));
                last_seen.is_none_or(|last_seen| {
                    let silent_for = self.served.saturating_sub(last_seen.at);
                    !last_seen.in_this_life || silent_for > period.saturating_mul(SILENT_PERIODS)
                })
            });
        Some(silent.map(|(node, ..)| node.clone()).collect())
    }

    /// The presence of the nodes of the snapshot that was observed last.
    #[must_use]
    pub fn presence(&self, snapshot: &Snapshot) -> Presence {
        let (mut seen, mut absent, mut overdue) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (node, record, last_seen) in merge_join(snapshot.nodes.iter(), self.nodes.iter()) {
            let is_seen = last_seen.is_some_and(|last_seen| last_seen.in_this_life);
            if is_seen {
                seen.push(node.clone());
            }
            let silent_for = last_seen.map_or(Duration::ZERO, |last_seen| self.served.saturating_sub(last_seen.at));
            let period_secs = period_secs(snapshot, record);
            let limit = absence_limit(snapshot, record, last_seen);
            if silent_for > limit {
                absent.push(node.clone());
            } else if !is_seen || silent_for > Duration::from_secs(period_secs) {
                overdue.insert(node.clone(), (limit - silent_for).as_secs().saturating_add(1));
            }
        }
        Presence {
            revision: self.highest,
            seen: seen.into_iter().collect(),
            absent: absent.into_iter().collect(),
            overdue,
            phase_secs: self.secs_since(self.instruction.as_ref().map(|since| since.at)),
            wave_secs: self.secs_since(self.wave.as_ref().map(|since| since.at)),
            thawing: self.conflict.as_ref().map(|since| since.value.0.clone()),
            deaf_secs: self.deaf_secs(snapshot),
            clock_off_secs: None,
        }
    }

    /// See [`Presence::deaf_secs`]; a pool without nodes is not listened to.
    fn deaf_secs(&self, snapshot: &Snapshot) -> Option<u64> {
        let is_deaf = !snapshot.nodes.is_empty() && self.served.saturating_sub(self.heard.at) >= self.deaf_after;
        is_deaf.then(|| self.last_read.unwrap_or_default().saturating_sub(self.heard.monotonic).as_secs())
    }

    /// Of the nodes that are not absent: one that died does not decide how often the others are heard.
    fn deaf_after(&self, snapshot: &Snapshot) -> Duration {
        let (mut period, mut shortest_limit) = (u64::MAX, Duration::MAX);
        for (_, record, last_seen) in merge_join(snapshot.nodes.iter(), self.nodes.iter()) {
            // A node that never reported, or is gone, declares no period.
            if record.report.is_none() {
                continue;
            }
            let limit = absence_limit(snapshot, record, last_seen);
            if last_seen.is_some_and(|last_seen| self.served.saturating_sub(last_seen.at) <= limit) {
                period = period.min(period_secs(snapshot, record));
                shortest_limit = shortest_limit.min(limit);
            }
        }
        deaf_after(if period == u64::MAX { 0 } else { period }, shortest_limit)
    }

    /// Whether the store shows less than this life has seen, so that it was restored from a backup.
    ///
    /// Also true for a restored store that was driven on past the revision that this life saw last: the nodes' own
    /// counts are lower then.  A node that was forgotten and came again while this coordinator was not looking looks
    /// the same, which only costs the waiting of a new life.
    fn went_back(&self, snapshot: &Snapshot) -> bool {
        let revision = snapshot.document.revision;
        let is_older = |(_, known, record): (&NodeId, &LastSeen, Option<&NodeRecord>)| match record {
            Some(record) => record.is_known() && known.is_after(record),
            // A node is forgotten by a commit, so at one revision none may vanish.
            None => revision == self.highest,
        };
        let beat_is_lost =
            |(by, stamp): (&CoordinatorName, &Stamp)| snapshot.beats.get(by).is_none_or(|beat| beat.stamp < *stamp);
        revision < self.highest
            || self.beats.iter().any(beat_is_lost)
            || merge_join(self.nodes.iter(), snapshot.nodes.iter()).any(is_older)
    }

    fn secs_since(&self, at: Option<Duration>) -> u64 {
        at.map_or(0, |at| self.served.saturating_sub(at).as_secs())
    }
}

/// The period that the node declares; 0 for one that never reported.
fn period_secs(snapshot: &Snapshot, record: &NodeRecord) -> u64 {
    record.report.as_ref().map_or(0, |report| report.period_secs(&snapshot.document.policy))
}

fn absence_limit(snapshot: &Snapshot, record: &NodeRecord, last_seen: Option<&LastSeen>) -> Duration {
    let told_secs = last_seen.map_or(0, |last_seen| last_seen.told_secs);
    snapshot.document.policy.absence_limit(period_secs(snapshot, record), told_secs)
}

fn mark<T: PartialEq>(since: &mut Option<Since<T>>, value: T, at: Duration) {
    if since.as_ref().is_none_or(|before| before.value != value) {
        *since = Some(Since { value, at });
    }
}

/// Joins two lists in the order of nodes in one pass.  Looking up each node of the first in the second would be most of
/// what a coordinator of ten thousand nodes does.
fn merge_join<'a, A, B>(
    left: impl Iterator<Item = (&'a NodeId, A)>,
    right: impl Iterator<Item = (&'a NodeId, B)>,
) -> impl Iterator<Item = (&'a NodeId, A, Option<B>)> {
    let mut right = right.peekable();
    left.map(move |(node, of_left)| {
        while right.next_if(|(other, _)| *other < node).is_some() {}
        let of_right = right.next_if(|(other, _)| *other == node).map(|(_, of_right)| of_right);
        (node, of_left, of_right)
    })
}
