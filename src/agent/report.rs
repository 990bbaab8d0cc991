//! What a pass did, and what is there now, without key bytes.

use std::path::PathBuf;

use tfo_config::agent::InstallMode;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::TfoCounters;
use tfo_model::count::Generation;
use tfo_model::key::PairPrint;
use tfo_model::node::KeySource;
use tfo_model::problem::{Problem, first_error};
use tfo_model::state::{BackupSlot, Phase, SlotPrints};
use tfo_model::time::UnixTime;

/// What one namespace holds after a pass.
#[derive(Debug, Clone)]
pub struct NamespaceReport {
    /// The namespace.
    pub namespace: Namespace,
    /// What its kernel shows; none if no key is set or it cannot be read.
    pub shown: Option<PairPrint>,
    /// Whether its kernel could be read.
    pub readable: bool,
    /// Whether that is what it should show.
    pub verified: bool,
    /// Whether this pass wrote it, or would have in a dry run.
    pub changed: bool,
    /// `net.ipv4.tcp_fastopen`.
    pub bits: Option<i32>,
    /// Whether its kernel keeps a backup.
    pub backup_slot: BackupSlot,
}

/// What a pass did, and what is there now.
#[derive(Debug, Clone)]
pub struct PassReport {
    /// Kind of the source.
    pub source: KeySource,
    /// What is held; none without any keys.
    pub held: Option<HeldReport>,
    /// The sysctl.d file.
    pub file: PathBuf,
    /// Whether it was written, or would have been.
    pub file_changed: bool,
    /// Whether it has the keys that are held.
    pub file_current: bool,
    /// The namespaces, the own one first.
    pub namespaces: Vec<NamespaceReport>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Whether the agent writes at all.
    pub mode: InstallMode,
    /// Whether the pool has no key yet, so that none is missing here.
    pub awaits_first_key: bool,
    /// What namespaces that come and go have counted, those that are gone among them.
    pub passing: TfoCounters,
}

/// The public side of what is held.
#[derive(Debug, Clone, Copy)]
pub struct HeldReport {
    /// Epochs and fingerprints.
    pub prints: SlotPrints,
    /// Phase of the rotation.
    pub phase: Phase,
    /// The instruction with these keys; none without a coordinator.
    pub generation: Option<Generation>,
    /// When these keys were first installed here.
    pub installed_at: UnixTime,
    /// When they change next.
    pub next_change_at: Option<UnixTime>,
}

impl PassReport {
    /// Whether anything was written, or would have been.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.file_changed || self.namespaces.iter().any(|namespace| namespace.changed)
    }

    /// Whether the keys are in the file and, read back, in every kernel.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.held.is_some() && self.file_current && self.namespaces.iter().all(|namespace| namespace.verified)
    }

    /// Adds what an earlier pass of the same run has written.
    pub fn add_changes(&mut self, before: &Self) {
        self.file_changed |= before.file_changed;
        for seen in &mut self.namespaces {
            let earlier = before.namespaces.iter().find(|earlier| earlier.namespace == seen.namespace);
            seen.changed |= earlier.is_some_and(|earlier| earlier.changed);
        }
    }

    /// Whether an error was found.
    #[must_use]
    pub fn has_error(&self) -> bool {
        first_error(&self.problems).is_some()
    }
}
