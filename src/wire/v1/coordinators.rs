//! The coordinators of a pool, as its store knows them (docs/reference/json.md#coordinators).

use serde::{Deserialize, Serialize};

use tfo_model::ids::{CoordinatorName, PoolName};
use tfo_model::time::UnixTime;

/// `GET /v1/pools/{pool}/coordinators`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinators {
    /// The pool.
    pub pool: PoolName,
    /// Sorted by name: all that have beaten in the pool, and were not forgotten since.
    pub coordinators: Vec<CoordinatorStatus>,
}

/// One coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorStatus {
    /// Its name in the store.
    pub name: CoordinatorName,
    /// Whether it is the one that answers.
    pub answers: bool,
    /// Version of its program, as its last beat has it; null before its first beat.
    pub release: Option<String>,
    /// How often a process has taken this name; null as above.
    pub life: Option<u64>,
    /// Known nodes whose sessions are open at it.
    pub nodes: usize,
    /// Its last beat, by its own clock; null as above.
    pub beat_at: Option<UnixTime>,
    /// Whether it has been silent for longer than the others wait for it.
    pub silent: bool,
    /// Seconds by which its clock is ahead of that of the one that answers; null while it does not beat.
    pub clock_ahead_secs: Option<i64>,
    /// The settings in which its configuration file differs from the pool's policy.
    pub policy_differs: Vec<String>,
}

/// `POST /v1/pools/{pool}/coordinators`: forgets one that was taken away for good.  The answer is [`Coordinators`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetCoordinatorRequest {
    /// Its name.
    pub forget: CoordinatorName,
    /// The operator's reason, for the log.
    #[serde(default)]
    pub reason: String,
}
