//! Where keys come from.  A source offers what the slots should hold now; it never writes anything.
//!
//! A coordinator is not asked here: `contact` has what it instructed.

mod derive;
mod file;
mod random;

use std::collections::BTreeMap;
use std::path::Path;

use tfo_config::agent::{AgentSettings, Holds, NamedSecret, SourceSettings};
use tfo_config::reader::Located;
use tfo_crypto::fingerprint::{pair_print, slot_prints};
use tfo_engine::reconcile::ClockUse;
use tfo_host::secret::SecretPath;
use tfo_model::count::Epoch;
use tfo_model::key::{KeyFingerprint, KeyPair};
use tfo_model::key_text;
use tfo_model::node::KeySource;
use tfo_model::problem::Problem;
use tfo_model::state::{DesiredState, Phase, SlotPrint, SlotPrints};
use tfo_model::time::UnixTime;

pub use derive::{check_entries, late_joints};

/// Longest key file that is read, in bytes: two keys, and room to detect a longer one.
const KEY_FILE_BYTES_MAX: usize = 256;

/// What a source offers.
#[derive(Debug)]
pub struct Offer {
    /// What to hold.
    pub desired: DesiredState,
    /// How it depends on this host's clock.
    pub clock: ClockUse,
    /// The generators of the keys by name, each with a public fingerprint of its secret.
    pub generators: BTreeMap<String, KeyFingerprint>,
    /// Joints of the schedule, to be recorded in the header.
    pub joints: Vec<UnixTime>,
}

/// What is installed, for sources that continue from it.
pub struct Installed<'a> {
    /// The kind of source that it came from.
    pub source: &'a str,
    /// The keys.
    pub keys: &'a KeyPair,
    /// Their epochs.
    pub prints: SlotPrints,
}

impl<'a> Installed<'a> {
    /// Keys that only the kernel holds: another program's, or its own.
    #[must_use]
    pub fn by_kernel(keys: &'a KeyPair) -> Self {
        let slot = |fingerprint| SlotPrint { epoch: None, fingerprint };
        let print = pair_print(keys);
        let prints = SlotPrints { primary: slot(print.primary), backup: print.backup.map(slot) };
        Self { source: "kernel", keys, prints }
    }
}

/// The kind of a source as outputs and the header name it.
#[must_use]
pub fn kind(settings: &SourceSettings) -> KeySource {
    match settings {
        SourceSettings::Coordinator(_) => KeySource::Coordinator,
        SourceSettings::Derive(_) => KeySource::Derive,
        SourceSettings::File { .. } => KeySource::File,
        SourceSettings::Random { .. } => KeySource::Random,
    }
}

/// Whether the kernel may get new keys although the sysctl.d file could not be written.
#[must_use]
pub fn survives_without_file(settings: &SourceSettings) -> bool {
    match settings {
        // The source has the keys after a reboot too, and the fleet uses them already.
        SourceSettings::Derive(_) | SourceSettings::File { .. } => true,
        // The file is the fence: a key that only the kernel has would be lost at a reboot that the pool does not notice.
        SourceSettings::Coordinator(_) | SourceSettings::Random { .. } => false,
    }
}

/// Asks the source of `settings`; `installed` is what this host holds, by its file or, without one, by its kernel.  None
/// for a coordinator.
///
/// # Errors
/// Fails with the problem and its remedy; the installed keys stay.
pub fn offer(
    settings: &AgentSettings,
    now: UnixTime,
    installed: Option<&Installed<'_>>,
) -> Result<Option<Offer>, Problem> {
    match &settings.source {
        SourceSettings::Coordinator(_) => Ok(None),
        SourceSettings::Derive(source) => derive::offer(source, &settings.file, now).map(Some),
        SourceSettings::File { path } => file::offer(path, &settings.file).map(Some),
        SourceSettings::Random { interval } => random::offer(*interval, now, installed).map(Some),
    }
}

/// Reads a secret that the configuration names, and drops it: can it be used?
#[must_use]
pub fn check_secret(secret: &NamedSecret, config: &Path) -> Option<Problem> {
    match secret.holds {
        Holds::Secret => derive::read_secret(&secret.place, config).err(),
        Holds::KeyText => read_key_file(&secret.place, config).err(),
    }
}

/// Reads a file of kernel text: one key, or primary and backup.
fn read_key_file(place: &Located<SecretPath>, config: &Path) -> Result<KeyPair, Problem> {
    let text = place.read_for(config, KEY_FILE_BYTES_MAX)?;
    key_text::parse(&text).map_err(|error| {
        let message = format!("{}: {error}", place.value);
        let remedy =
            "write primary[,backup] as net.ipv4.tcp_fastopen_key takes it, and nothing else; the installed keys stay";
        place.locate(config, Problem::error("key_text", message, remedy))
    })
}

/// Adds fingerprints and `epochs`, in the order primary, backup.
fn desired(keys: KeyPair, epochs: [Option<Epoch>; 2], phase: Phase, next_change_at: Option<UnixTime>) -> DesiredState {
    let prints = slot_prints(&keys, epochs);
    DesiredState { keys, prints, phase, pool_id: None, generation: None, next_change_at }
}
