//! Keys from shared secrets and the clock (PROTOCOL.md section 3).
//!
//! The secret is read anew each time and is in memory only while a key is made from it.

use std::path::Path;

use super::{Offer, desired};
use crate::config::agent::{Algorithm, DeriveSettings};
use crate::config::reader::Located;
use crate::config::secret::SecretPath;
use crate::crypto::derive::{self, SECRET_BYTES_MAX, Secret};
use crate::engine::reconcile::ClockUse;
use crate::engine::schedule::{KeyRef, SlotRefs};
use crate::model::key::{KeyPair, KeyPairError, TfoKey};
use crate::model::problem::Problem;
use crate::model::time::UnixTime;

/// The keys of now.
pub(super) fn offer(settings: &DeriveSettings, config: &Path, now: UnixTime) -> Result<Offer, Problem> {
    let slots = settings.schedule.slots_at(now);
    let keys = keys_of(settings, config, &slots)?;
    let epochs = [slots.primary.epoch, slots.backup.and_then(|key| key.epoch)];
    let tolerance = settings.schedule.skew_tolerance_secs();
    Ok(Offer {
        desired: desired(keys, epochs, slots.phase, slots.next_change_at),
        clock: tolerance.map_or(ClockUse::None, ClockUse::Within),
        joints: settings.schedule.entries().iter().filter_map(|entry| entry.not_before).collect(),
    })
}

fn keys_of(settings: &DeriveSettings, config: &Path, slots: &SlotRefs) -> Result<KeyPair, Problem> {
    let (primary, own_backup) = key_of(settings, config, slots.primary)?;
    let backup = match slots.backup {
        Some(key) => Some(key_of(settings, config, key)?.0),
        // A static key that was given with its own predecessor keeps it until the next key is staged.
        None => own_backup,
    };
    KeyPair::new(primary, backup).map_err(|error| joint_problem(settings, config, slots.primary.entry, error))
}

/// The key, and the predecessor that a static key file may name.
fn key_of(settings: &DeriveSettings, config: &Path, key: KeyRef) -> Result<(TfoKey, Option<TfoKey>), Problem> {
    let entry = &settings.entries[key.entry];
    match (entry.algorithm, key.counter) {
        (Algorithm::HkdfSha256 { interval }, Some(counter)) => {
            Ok((derive::hkdf_sha256(&secret_of(settings, config, key.entry)?, interval, counter), None))
        }
        (Algorithm::Tofurkey, Some(counter)) => {
            Ok((derive::tofurkey(&secret_of(settings, config, key.entry)?, counter), None))
        }
        (Algorithm::Static, _) | (_, None) => {
            let keys = super::key_text(&entry.secret, config)?;
            Ok((keys.primary().duplicate(), keys.backup().map(TfoKey::duplicate)))
        }
    }
}

fn secret_of(settings: &DeriveSettings, config: &Path, entry: usize) -> Result<Secret, Problem> {
    secret_at(&settings.entries[entry].secret, config)
}

/// Reads the secret at a place of the configuration.
pub(super) fn secret_at(place: &Located<SecretPath>, config: &Path) -> Result<Secret, Problem> {
    Secret::new(place.read_for(config, SECRET_BYTES_MAX)?).map_err(|error| {
        let message = format!("{}: {error}", place.value);
        let remedy = "make one with `head -c 32 /dev/urandom` under umask 077, the same on every node";
        place.locate(config, Problem::error("secret_weak", message, remedy))
    })
}

fn joint_problem(settings: &DeriveSettings, config: &Path, entry: usize, error: KeyPairError) -> Problem {
    let message = match error {
        KeyPairError::PrimaryIsBackup => {
            "two neighbouring keys are equal: old and new entry derive the same key at the joint \
             (tofurkey does not bind the interval into its keys)"
        }
        KeyPairError::ZeroKey => "a key is all zeros",
    };
    let remedy = "give the new entry another secret, or move its not_before by an interval";
    settings.entries[entry].secret.locate(config, Problem::error("equal_keys", message, remedy))
}

/// Reads every entry's secret once, and compares the keys on both sides of each joint.
#[must_use]
pub fn check_entries(settings: &DeriveSettings, config: &Path) -> Vec<Problem> {
    let mut problems: Vec<Problem> = (0..settings.entries.len())
        .filter_map(|entry| {
            let key = KeyRef { entry, counter: Some(0), epoch: None };
            key_of(settings, config, key).err()
        })
        .collect();
    if problems.is_empty() {
        for (before, after) in settings.schedule.joints() {
            let keys = [before, after].map(|key| key_of(settings, config, key));
            if let [Ok((before_key, _)), Ok((after_key, _))] = keys
                && before_key.same_as(&after_key)
            {
                problems.push(joint_problem(settings, config, after.entry, KeyPairError::PrimaryIsBackup));
            }
        }
    }
    problems
}

/// A problem for each joint that this host sees for the first time when it is too late: after the instant at which nodes that had the entry
/// changed their slots for it (PROTOCOL.md section 3).  `known` are the joints that the host knew before.
#[must_use]
pub fn late_joints(settings: &DeriveSettings, config: &Path, now: UnixTime, known: &[UnixTime]) -> Vec<Problem> {
    let late = |entry: usize| {
        let joint = settings.schedule.entries()[entry].not_before?;
        let deadline = settings.schedule.deploy_before(entry)?;
        if now < deadline || known.contains(&joint) {
            return None;
        }
        let message = format!(
            "this entry (not_before {joint}) is seen here for the first time at {now}; nodes that had it changed at {deadline}, \
             and this node may have rejected their cookies since then"
        );
        let remedy = "deploy a new entry to every node before the instant that `tfo-agent check` prints";
        Some(settings.entries[entry].secret.locate(config, Problem::warning("late_entry", message, remedy)))
    };
    (1..settings.entries.len()).filter_map(late).collect()
}
