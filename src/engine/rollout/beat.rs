//! Signs of life: what a coordinator writes every few seconds, and by which its other writes are told from those of a process that
//! lost its name (docs/protocol.md#rule-10; rule 18).
//!
//! Must not know: stores, clocks, decisions.  Persisted: every type here but [`Writer`]; no secrets.

use serde::{Deserialize, Serialize};

use super::tally::Tally;
use tfo_model::ids::CoordinatorName;
use tfo_model::time::UnixTime;

/// Tells one write of a coordinator's beat from another: the order of one writer's writes, over all its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Rises when a process takes the name over (rule 18).
    pub life: u64,
    /// Rises with every beat of that life.
    pub number: u64,
}

impl Stamp {
    /// The first one of a process that takes the name over from `before`.
    #[must_use]
    pub fn taken_over(before: Option<Self>) -> Self {
        Self { life: before.map_or(0, |before| before.life) + 1, number: 0 }
    }

    /// The next one of the same process.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

/// A coordinator's sign of life: it has heard the nodes of its roster, but for those that are marked as silent.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    /// Every later write of this coordinator, commits included, names it: see [`Writer`].
    pub stamp: Stamp,
    /// Whether it vouches for its nodes; not until those that it did not hear in this life are marked.
    pub vouches: bool,
    /// Wall clock of the coordinator.
    pub at: UnixTime,
    /// What its nodes counted; none without keys.
    pub tally: Option<Tally>,
    /// What operators are shown of it.
    #[serde(default)]
    pub about: About,
}

/// What a beat says of its writer for operators; nothing is decided by it.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct About {
    /// Version of the program.
    pub release: String,
    /// The settings in which its configuration file differs from the pool's policy.
    pub policy_differs: Vec<String>,
    /// An operator has it forgotten: it is not shown until it beats again.
    pub is_forgotten: bool,
}

/// Who writes, and what it takes for its own last beat (rule 18): a store refuses the write if that is not so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its name.
    pub name: CoordinatorName,
    /// Stamp of its last beat; none before the first one.
    pub last: Option<Stamp>,
}

impl Writer {
    /// One that has never written a beat.
    #[must_use]
    pub fn new(name: CoordinatorName) -> Self {
        Self { name, last: None }
    }
}
