//! Keys from shared secrets and the clock (docs/protocol.md#derive-mode).
//!
//! The secret is read each time, and is in memory only while a key is made from it.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Offer, desired};
use tfo_config::agent::{Algorithm, DeriveEntry, DeriveSettings};
use tfo_config::reader::Located;
use tfo_crypto::derive::{SECRET_BYTES_MAX, Secret};
use tfo_crypto::generator::KeyGenerator;
use tfo_engine::reconcile::ClockUse;
use tfo_engine::schedule::{KeyRef, SlotRefs};
use tfo_host::secret::SecretPath;
use tfo_model::key::{KeyFingerprint, KeyPair, KeyPairError};
use tfo_model::problem::Problem;
use tfo_model::time::{UnixTime, span_text};

/// The keys at `now`.
pub(super) fn offer(settings: &DeriveSettings, config: &Path, now: UnixTime) -> Result<Offer, Problem> {
    let slots = settings.schedule.slots_at(now);
    let (keys, generators) = keys_of(settings, config, &slots)?;
    let epochs = [slots.primary.epoch, slots.backup.and_then(|key| key.epoch)];
    let tolerance = settings.schedule.skew_tolerance_secs();
    Ok(Offer {
        desired: desired(keys, epochs, slots.phase, slots.next_change_at),
        clock: tolerance.map_or(ClockUse::None, ClockUse::Within),
        generators,
        joints: settings.schedule.entries().iter().filter_map(|entry| entry.not_before).collect(),
    })
}

fn keys_of(
    settings: &DeriveSettings,
    config: &Path,
    slots: &SlotRefs,
) -> Result<(KeyPair, BTreeMap<String, KeyFingerprint>), Problem> {
    let generator = open(settings, config, slots.primary.entry)?;
    let mut generators = BTreeMap::from([(name_of(settings, slots.primary.entry), generator.fingerprint())]);
    let (primary, own_backup) = generator.key(slots.primary.counter);
    let backup = match slots.backup {
        Some(key) if key.entry == slots.primary.entry => Some(generator.key(key.counter).0),
        Some(key) => {
            let generator = open(settings, config, key.entry)?;
            generators.insert(name_of(settings, key.entry), generator.fingerprint());
            Some(generator.key(key.counter).0)
        }
        // A static key whose file has a backup keeps that until the next key is staged.
        None => own_backup,
    };
    let keys = KeyPair::new(primary, backup);
    let keys = keys.map_err(|error| joint_problem(settings, config, slots.primary.entry, error))?;
    Ok((keys, generators))
}

/// Name of an entry from the configuration, not from file contents: editing the configuration is deliberate; replacing
/// the file may be an accident.
fn name_of(settings: &DeriveSettings, entry: usize) -> String {
    let DeriveEntry { secret, algorithm } = &settings.entries[entry];
    let from =
        settings.schedule.entries()[entry].not_before.map_or_else(|| "the beginning".to_owned(), |at| at.to_string());
    let how = match algorithm {
        Algorithm::HkdfSha256 { interval } => format!("hkdf-sha256, {}", span_text(interval.secs())),
        Algorithm::Tofurkey => "tofurkey".to_owned(),
        Algorithm::Static => "static".to_owned(),
    };
    format!("{} ({how}, from {from})", secret.value)
}

/// What one entry makes keys from.
fn open(settings: &DeriveSettings, config: &Path, entry: usize) -> Result<KeyGenerator, Problem> {
    let DeriveEntry { secret: place, algorithm } = &settings.entries[entry];
    match algorithm {
        Algorithm::HkdfSha256 { interval } => Ok(KeyGenerator::HkdfSha256(read_secret(place, config)?, *interval)),
        Algorithm::Tofurkey => Ok(KeyGenerator::Tofurkey(read_secret(place, config)?)),
        Algorithm::Static => super::read_key_file(place, config).map(KeyGenerator::Static),
    }
}

/// Reads the secret at a place of the configuration.
pub(super) fn read_secret(place: &Located<SecretPath>, config: &Path) -> Result<Secret, Problem> {
    Secret::new(place.read_for(config, SECRET_BYTES_MAX)?).map_err(|error| {
        let message = format!("{}: {error}", place.value);
        let remedy = "make one with `head -c 32 /dev/urandom` under umask 077, the same on every node";
        place.locate(config, Problem::error("secret_weak", message, remedy))
    })
}

fn joint_problem(settings: &DeriveSettings, config: &Path, entry: usize, error: KeyPairError) -> Problem {
    let message = match error {
        KeyPairError::PrimaryIsBackup => {
            "the old and the new entry derive the same key at the cutover \
             (tofurkey does not bind the interval into its keys)"
        }
        KeyPairError::ZeroKey => "a derived key is all zeros",
    };
    let remedy = "give the new entry another secret, or move its not_before by an interval";
    settings.entries[entry].secret.locate(config, Problem::error("equal_keys", message, remedy))
}

/// Reads the secret of each entry once, and compares the keys on both sides of each joint.
#[must_use]
pub fn check_entries(settings: &DeriveSettings, config: &Path) -> Vec<Problem> {
    let (mut generators, mut problems) = (Vec::new(), Vec::new());
    for entry in 0..settings.entries.len() {
        match open(settings, config, entry) {
            Ok(maker) => generators.push(maker),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return problems;
    }
    for (before, after) in settings.schedule.joints() {
        let key = |key: KeyRef| generators[key.entry].key(key.counter).0;
        if key(before).same_as(&key(after)) {
            problems.push(joint_problem(settings, config, after.entry, KeyPairError::PrimaryIsBackup));
        }
    }
    problems
}

/// A problem for each joint that this host sees too late: after the instant at which nodes with the entry changed their
/// slots for it (docs/protocol.md#derive-mode).  `known` are the joints that the host had recorded.
#[must_use]
pub fn late_joints(settings: &DeriveSettings, config: &Path, now: UnixTime, known: &[UnixTime]) -> Vec<Problem> {
    let late = |entry: usize| {
        let joint = settings.schedule.entries()[entry].not_before?;
        let deadline = settings.schedule.deploy_before(entry)?;
        if now < deadline || known.contains(&joint) {
            return None;
        }
        let message = format!(
            "this entry (not_before {joint}) reached this node at {now}; nodes that had it changed keys at {deadline}, and \
             this node may have rejected their cookies since then"
        );
        let remedy = "deploy a new entry to every node before the instant that `tfo-agent check` prints";
        Some(settings.entries[entry].secret.locate(config, Problem::warning("late_entry", message, remedy)))
    };
    (1..settings.entries.len()).filter_map(late).collect()
}
