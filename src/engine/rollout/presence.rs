//! Which nodes one coordinator has seen in its life, and which are absent (docs/protocol.md#rule-10; rule 11).
//!
//! [`Life`] is the only memory that a coordinator has besides the store: the nodes that it has seen since it started,
//! on its own monotonic clock.  [`Presence`] is what it gives to one decision.  Must not know: wall clocks.
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
use super::record::NodeRecord;
use super::slots::PoolKey;
use super::timing::{deaf_after, hold_max};
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::NodeId;
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

    /// Whether the node has synced since.
    fn is_before(&self, record: &NodeRecord) -> bool {
        (self.session, self.syncs) < (record.session, record.syncs)
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
            *self = Self { served: self.served, last_look: self.last_look, ..Self::default() };
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
        self.begun = true;
    }

    /// Takes the nodes of a snapshot in, those that were heard since the last look at `served`; whether one was.
    fn take_in(&mut self, snapshot: &Snapshot, served: Duration) -> bool {
        // The answer to what was heard since the last look may have been made before the policy was changed.
        let now_secs = snapshot.document.policy.absent_after_secs;
        let (begun, told_secs) = (self.begun, now_secs.max(self.told_secs));
        self.told_secs = now_secs;
        let mut is_heard = false;
        let mut before = std::mem::take(&mut self.nodes).into_iter().peekable();
        let now = snapshot.nodes.iter().map(|(node, record)| {
            while before.next_if(|(known, _)| known < node).is_some() {}
            let seen = LastSeen { in_this_life: true, at: served, told_secs, ..LastSeen::of(record) };
            match before.next_if(|(known, _)| known == node) {
                Some((node, known)) if known.is_before(record) => {
                    is_heard = true;
                    (node, seen)
                }
                // What is left of a forgotten node becomes less, and says nothing of it.
                Some((node, known)) if !record.is_known() => (node, known.counted_as(record)),
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

    /// Takes in one record that this coordinator has just written for a sync: what [`Self::observe`] would do for this
    /// node alone.  Without it, thousands of nodes that acknowledge at once would all be looked at for each write.
    pub fn see(&mut self, monotonic: Duration, (node, record): (&NodeId, &NodeRecord), presence: &mut Presence) {
        // The time since the last look will count as served, or less of it does.
        let since_look = self.last_look.map_or(Duration::ZERO, |look| monotonic.saturating_sub(look));
        let at = self.served + since_look.min(SERVED_GAP_MAX);
        let seen = LastSeen { in_this_life: true, at, told_secs: self.told_secs, ..LastSeen::of(record) };
        match self.nodes.get_mut(node) {
            Some(known) if known.is_before(record) => *known = seen,
            Some(known) => {
                if !record.is_known() {
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

    /// The store could not be read or written: the time since the look before, and until the next one, does not count as
    /// served.
    pub fn interrupt(&mut self) {
        self.last_look = None;
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
        revision < self.highest || merge_join(self.nodes.iter(), snapshot.nodes.iter()).any(is_older)
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
