//! What a pass holds and sees.

use crate::observation::Observation;
use crate::report::HeldReport;
use crate::source::Installed;
use tfo_engine::reconcile::ObservedKernel;
use tfo_host::kernel::sysctl_d::{Persisted, Record};
use tfo_model::key::{KeyPair, PairPrint};
use tfo_model::time::UnixTime;

/// Keys with their header in the sysctl.d file.
pub(super) struct Held {
    pub(super) keys: KeyPair,
    pub(super) record: Record,
    pub(super) next_change_at: Option<UnixTime>,
}

impl Held {
    pub(super) fn from_file(record: &Record, keys: &KeyPair) -> Self {
        Self { keys: keys.duplicate(), record: record.clone(), next_change_at: None }
    }

    pub(super) fn duplicate(&self) -> Self {
        Self { next_change_at: self.next_change_at, ..Self::from_file(&self.record, &self.keys) }
    }

    pub(super) fn pair(&self) -> PairPrint {
        self.record.prints.pair()
    }

    pub(super) fn installed(&self) -> Installed<'_> {
        Installed { source: self.record.source.as_str(), keys: &self.keys, prints: self.record.prints }
    }

    pub(super) fn report(&self) -> HeldReport {
        HeldReport {
            prints: self.record.prints,
            phase: self.record.phase,
            generation: self.record.generation,
            installed_at: self.record.installed_at,
            next_change_at: self.next_change_at,
        }
    }
}

/// What a pass sees before it writes.
pub(super) struct Seen {
    /// What cannot be read counts as foreign, and is written again.
    pub(super) persisted: Persisted,
    /// Whether the file could be read: otherwise it is not known to have changed.
    pub(super) file_is_read: bool,
    /// In the order of the namespaces.
    pub(super) kernels: Vec<Observation>,
}

impl Seen {
    /// The kernels; none for one that could not be read.
    pub(super) fn observed(&self) -> Vec<Option<ObservedKernel>> {
        self.kernels.iter().map(|seen| seen.kernel.as_ref().ok().copied()).collect()
    }
}
