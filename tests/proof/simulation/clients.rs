//! Clients with cookies, and the promise that is made to them (docs/protocol.md#rule-4).

use std::collections::BTreeSet;

use tfo_engine::rollout::document::{Document, Stage};
use tfo_engine::rollout::slots::Slots;
use tfo_model::fleet::Action;
use tfo_model::key::KeyFingerprint;
use tfo_model::node::Counters;

use tfo_testbed::random::Dice;

/// Groups of clients, each with the cookie that it got last.
pub(crate) struct Clients {
    /// Come all the time.
    busy: Vec<Option<KeyFingerprint>>,
    /// Come now and then, with cookies of long ago.
    sleepers: Vec<Option<KeyFingerprint>>,
}

impl Clients {
    pub(crate) fn new(random: &mut Dice) -> Self {
        let sleepers = if random.once_in(2) { 30 } else { 0 };
        Self { busy: vec![None; 4 + random.index(20)], sleepers: vec![None; sleepers] }
    }

    /// Some connections to a node with these slots (docs/kernel.md#cookie); a broken node rejects every other cookie.
    pub(crate) fn connect(&mut self, random: &mut Dice, slots: &Slots, counters: &mut Counters, is_broken: bool) {
        const EACH: u64 = 4;
        for connection in 0..4 + random.below(8) {
            let is_sleeper = !self.sleepers.is_empty() && random.once_in(12);
            let group = if is_sleeper { &mut self.sleepers } else { &mut self.busy };
            let index = random.index(group.len());
            let cookie = &mut group[index];
            let fails = is_broken && connection % 2 == 0;
            let backup = slots.backup.map(|key| key.fingerprint);
            match *cookie {
                Some(key) if key == slots.primary.fingerprint && !fails => counters.passive += EACH,
                Some(key) if Some(key) == backup && !fails => {
                    counters.passive += EACH;
                    counters.passive_alt_key += EACH;
                }
                Some(_) => counters.passive_fail += EACH,
                None => {}
            }
            *cookie = Some(slots.primary.fingerprint);
        }
    }
}

/// The keys whose cookies every required node must accept now.
#[derive(Default)]
pub(crate) struct Promises {
    kept: BTreeSet<KeyFingerprint>,
    revoked: BTreeSet<KeyFingerprint>,
    /// How many ended as they should: by a stage.
    pub(crate) ended: u64,
    /// How many a revoke has ended.
    pub(crate) ended_by_revoke: u64,
}

impl Promises {
    /// A required node makes cookies with this key.
    pub(crate) fn minted(&mut self, key: KeyFingerprint) {
        if !self.revoked.contains(&key) {
            self.kept.insert(key);
        }
    }

    pub(crate) fn kept(&self) -> impl Iterator<Item = KeyFingerprint> + '_ {
        self.kept.iter().copied()
    }

    /// A stage ends the promise of every key that is not current any more, or was aborted; a revoke that of its keys.
    pub(crate) fn committed(&mut self, action: Action, document: &Document) {
        self.revoked.extend(document.revoked.iter().map(|key| key.fingerprint));
        let before = self.kept.len();
        self.kept.retain(|key| !self.revoked.contains(key));
        self.ended_by_revoke += (before - self.kept.len()) as u64;
        if let (Action::Rotate, Stage::Staged { current, .. }) = (action, &document.stage) {
            let before = self.kept.len();
            self.kept.retain(|key| *key == current.fingerprint);
            self.ended += (before - self.kept.len()) as u64;
        }
    }

    /// An older store knows nothing of nodes that came since: what only they have minted is lost.
    pub(crate) fn put_back(&mut self, still_minted: &BTreeSet<KeyFingerprint>) {
        self.kept.retain(|key| still_minted.contains(key));
    }
}
