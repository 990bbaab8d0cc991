//! Turns the ordinals of `engine::schedule` into keys.
//!
//! Holds secrets and reads none: the owner of a [`KeyGenerator`] decides how long they stay in memory.

use super::derive::{self, Secret};
use super::fingerprint::{fingerprint, slot_prints};
use tfo_engine::schedule::{Entry, Rule, Schedule};
use tfo_model::key::{KeyFingerprint, KeyPair, KeyPairError, TfoKey};
use tfo_model::state::DesiredState;
use tfo_model::time::{RotationInterval, StageLead, UnixTime};

/// What makes the keys of one schedule entry.
#[derive(Debug)]
pub enum KeyGenerator {
    /// [`derive::hkdf_sha256`], which binds the interval.
    HkdfSha256(Secret, RotationInterval),
    /// [`derive::tofurkey`].
    Tofurkey(Secret),
    /// The key itself; a backup is its predecessor.
    Static(KeyPair),
}

impl KeyGenerator {
    /// Public fingerprint of the secret: that of counter 0, a key that is never used; for a static key, its own.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        fingerprint(&self.key(Some(0)).0)
    }

    /// The key of this counter, and the predecessor that a static key may have.
    ///
    /// # Panics
    /// Without a counter, unless the key is static: the keys of a periodic entry have one.
    #[must_use]
    pub fn key(&self, counter: Option<u64>) -> (TfoKey, Option<TfoKey>) {
        let periodic = || counter.expect("the keys of a periodic entry have a counter");
        match self {
            Self::HkdfSha256(secret, interval) => (derive::hkdf_sha256(secret, *interval, periodic()), None),
            Self::Tofurkey(secret) => (derive::tofurkey(secret, periodic()), None),
            Self::Static(keys) => (keys.primary().duplicate(), keys.backup().map(TfoKey::duplicate)),
        }
    }
}

/// One secret and one interval: the schedule of a fleet that never changed either.
#[derive(Debug)]
pub struct Derivation {
    generator: KeyGenerator,
    schedule: Schedule,
}

impl Derivation {
    /// Keys of `generator`, each primary for `interval` and backup for `lead` before that.
    ///
    /// # Panics
    /// If the generator binds another interval.
    #[must_use]
    pub fn new(generator: KeyGenerator, interval: RotationInterval, lead: StageLead) -> Self {
        if let KeyGenerator::HkdfSha256(_, bound) = &generator {
            assert!(*bound == interval, "the interval of the keys is that of the schedule");
        }
        let entry = Entry { rule: Rule::Periodic { interval, lead }, not_before: None };
        let schedule = Schedule::new(vec![entry]).expect("one entry that holds from the beginning is a schedule");
        Self { generator, schedule }
    }

    /// What the slots hold at `now`.
    ///
    /// # Errors
    /// Fails if two neighbouring keys are equal or one is all zeros, which no real secret gives.
    pub fn at(&self, now: UnixTime) -> Result<DesiredState, KeyPairError> {
        let slots = self.schedule.slots_at(now);
        let backup = slots.backup.map(|key| self.generator.key(key.counter).0);
        let keys = KeyPair::new(self.generator.key(slots.primary.counter).0, backup)?;
        let prints = slot_prints(&keys, [slots.primary.epoch, slots.backup.and_then(|key| key.epoch)]);
        let (phase, next_change_at) = (slots.phase, slots.next_change_at);
        Ok(DesiredState { keys, prints, phase, pool_id: None, generation: None, next_change_at })
    }
}
