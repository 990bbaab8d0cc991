//! What an agent asks its coordinators for: from whom, for which pool, and whether they give keys or only take reports.

use std::path::PathBuf;
use std::time::Duration;

use crate::source;
use tfo_config::agent::{AgentSettings, InstallMode, SourceSettings};
use tfo_config::contact::{ContactSettings, EmptyPool};
use tfo_model::node::KeySource;

/// How often this process asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// All the time.
    Daemon,
    /// In this run only; the next one comes after the configured period.
    Once,
}

/// The part of the settings that a contact is made of.
#[derive(Debug)]
pub(super) struct Purpose {
    pub(super) settings: ContactSettings,
    /// The configuration file, for problems.
    pub(super) config: PathBuf,
    /// The sysctl.d file, which holds the fence.
    pub(super) sysctl_file: String,
    /// Where the keys of this node come from.
    pub(super) source: KeySource,
    /// How long a start waits for an answer.
    pub(super) start_timeout: Duration,
    /// Whether the node may serve while its pool has no key yet.
    pub(super) empty_pool: EmptyPool,
    pub(super) cadence: Cadence,
}

impl Purpose {
    /// None without coordinators, and for a host that installs nothing: it is not a node of its pool.
    pub(super) fn of(settings: &AgentSettings, cadence: Cadence) -> Option<Self> {
        let (contact, start_timeout, empty_pool) = match &settings.source {
            SourceSettings::Coordinator(_) if settings.install.mode == InstallMode::LookOnly => return None,
            // A run of `once` waits for its answer anyway.
            SourceSettings::Coordinator(source) if cadence == Cadence::Once => {
                (&source.contact, Duration::ZERO, source.empty_pool)
            }
            SourceSettings::Coordinator(source) => (&source.contact, source.start_timeout, source.empty_pool),
            _ => (settings.report.as_ref()?, Duration::ZERO, EmptyPool::Ready),
        };
        Some(Self {
            settings: contact.clone(),
            config: settings.file.clone(),
            sysctl_file: settings.install.sysctl_file.value.display().to_string(),
            source: source::kind(&settings.source),
            start_timeout,
            empty_pool,
            cadence,
        })
    }

    /// Whether keys come from the coordinators; otherwise they are only reported.
    pub(super) fn gives_keys(&self) -> bool {
        self.source == KeySource::Coordinator
    }

    /// Whether a contact made for `self` can continue for `other`.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let fence = |purpose: &Self| purpose.gives_keys().then(|| purpose.sysctl_file.clone());
        let waits = |purpose: &Self| purpose.empty_pool == EmptyPool::Held;
        (self.source, &self.settings, fence(self), waits(self))
            == (other.source, &other.settings, fence(other), waits(other))
    }
}
