//! The operators' side of API v1: what a pool and its nodes look like, and the commands (docs/reference/json.md).
//!
//! Unknown = null; fields that docs/reference/json.md does not name may be added, and readers skip what they do not know.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::secret::SecretText;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::{Action, BlockedBy, ExclusionReason, HoldReason, NodeState};
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::key::KeyFingerprint;
use tfo_model::named::Named;
pub use tfo_model::node::Expected;
use tfo_model::node::KeySource;
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;

/// Longest body of a command in bytes: an `expect` or `leave` of ten thousand names fits.
pub const COMMAND_BYTES_MAX: usize = 3 << 20;

/// Longest reason in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// `GET /v1/pools`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pools {
    /// Sorted by name.
    pub pools: Vec<PoolStatus>,
}

/// `GET /v1/pools/{pool}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub pool: PoolName,
    /// Its identity.
    pub pool_id: PoolId,
    /// Of the document.
    pub revision: Revision,
    /// What the nodes fence on.
    pub generation: Generation,
    /// Where the rotation stands.
    pub phase: Phase,
    /// What most nodes are told: the slot that makes cookies; null in an empty pool.
    pub primary: Option<SlotPrint>,
    /// The slot that only validates.
    pub backup: Option<SlotPrint>,
    /// Whether an operator or the health gate stopped it.
    pub paused: bool,
    /// Why no rotation starts by itself; null if one may.
    pub hold: Option<Named<HoldReason>>,
    /// Who must be here before the pool goes on after a first key or an import; null without such a hold, and from
    /// coordinators that do not say it.
    #[serde(default)]
    pub expect: Option<Expected>,
    /// Nodes that barriers wait for.
    pub required: usize,
    /// Of these, how many have acknowledged what they are told now.
    pub converged: usize,
    /// Nodes that are only looked at: their keys come from elsewhere (`[report]`).
    pub reporting: usize,
    /// Whom the pool waits for, in name order.
    pub waiting_for: Vec<NodeId>,
    /// When the next step is due by time alone.
    pub next_at: Option<UnixTime>,
    /// The gate that is closed; null while the pool moves.
    pub blocked_by: Option<Named<BlockedBy>>,
    /// When this phase began.
    pub since: UnixTime,
    /// While promoted: the waves that are open, and how many there are.
    pub waves: Option<Waves>,
    /// Keys that are being driven out.
    pub revoking: Vec<SlotPrint>,
    /// While frozen: what `recover` may take over.
    pub recoverable: Vec<SlotPairShown>,
    /// Whether this coordinator drives the pool; false if its configuration file differs from the pool's policy, which
    /// it takes over as soon as the pool allows it: no rotation starts before.
    pub drives: bool,
    /// The settings in which the file differs, by their names there.
    #[serde(default)]
    pub policy_differs: Vec<String>,
}

/// How far a promotion is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waves {
    /// Opened.
    pub opened: usize,
    /// In all.
    pub of: usize,
}

/// Both slots by their public names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPairShown {
    /// Makes cookies.
    pub primary: SlotPrint,
    /// Only validates.
    pub backup: Option<SlotPrint>,
}

/// `GET /v1/pools/{pool}/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// The pool.
    pub pool: PoolName,
    /// Sorted by name.
    pub nodes: Vec<NodeStatus>,
    /// How many nodes hold which keys, most first.
    pub fingerprints: Vec<FingerprintCount>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name, by its certificate.
    pub node: NodeId,
    /// How it stands.
    pub state: Named<NodeState>,
    /// The generation that it has installed.
    pub generation: Option<Generation>,
    /// What it has installed.
    pub primary: Option<SlotPrint>,
    /// What it has installed.
    pub backup: Option<SlotPrint>,
    /// Its latest sync.
    pub last_report_at: Option<UnixTime>,
    /// Since when it is behind what it is told; null if it is not.
    pub behind_since: Option<UnixTime>,
    /// Where it has its keys from.
    pub source: Named<KeySource>,
    /// What it says is wrong.
    pub error: Option<String>,
    /// Its kernel, as far as this coordinator has heard it since its start.
    pub kernel: Option<String>,
    /// Its agent's version, likewise.
    pub agent: Option<String>,
    /// Its `net.ipv4.tcp_fastopen`, likewise.
    pub tcp_fastopen: Option<i32>,
    /// Why it is excluded; null if it is not.
    pub excluded: Option<Named<ExclusionReason>>,
}

/// How many nodes hold these keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FingerprintCount {
    /// Primary.
    pub primary: KeyFingerprint,
    /// Backup.
    pub backup: Option<KeyFingerprint>,
    /// How many.
    pub nodes: usize,
}

/// `GET /v1/pools/{pool}/audit?after=REVISION`: oldest first, a page at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The pool.
    pub pool: PoolName,
    /// Revisions after the one asked for.
    pub entries: Vec<AuditLine>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When.
    pub at: UnixTime,
    /// The revision that it made.
    pub revision: Revision,
    /// The generation after it.
    pub generation: Generation,
    /// The phase after it.
    pub phase: Phase,
    /// The operator; null for the coordinator's own steps.
    pub operator: Option<NodeId>,
    /// What was done.
    pub action: Named<Action>,
    /// Nodes whose records it changed.
    pub nodes: BTreeSet<NodeId>,
    /// What the operator said.
    pub reason: String,
}

/// What every command carries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Why; for the audit log.  At most [`REASON_BYTES_MAX`].
    #[serde(default)]
    pub reason: String,
    /// Gates that only protect comfort are passed over; barriers never are.
    #[serde(default)]
    pub force: bool,
    /// Refused if the document has moved on from this revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<Revision>,
}

/// What a rotation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationMode {
    /// A fresh key, as the schedule would do it.
    #[default]
    Normal,
    /// Drive keys out: those of `epochs`, or all that are told now.
    Revoke,
    /// The first key of an empty pool.
    First,
}

/// `POST …/rotations`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationRequest {
    /// See [`Command::reason`].
    #[serde(default)]
    pub reason: String,
    /// What for.
    #[serde(default)]
    pub mode: RotationMode,
    /// `revoke`: nodes to deny in the same commit.
    #[serde(default)]
    pub deny: BTreeSet<NodeId>,
    /// `revoke`: epochs of the keys to drive out; empty = all that nodes are told now.
    #[serde(default)]
    pub epochs: BTreeSet<Epoch>,
    /// `first`: who must be here before the pool goes on; null = `expected_nodes` of the policy.
    #[serde(default)]
    pub expect: Option<Expected>,
    /// See [`Command::force`].
    #[serde(default)]
    pub force: bool,
    /// See [`Command::if_revision`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<Revision>,
}

/// `POST …/advance`: goes past a barrier without the nodes that are behind (rule 15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvanceRequest {
    /// See [`Command::reason`].
    #[serde(default)]
    pub reason: String,
    /// The generation that the operator saw.
    pub generation: Generation,
    /// The nodes that the operator saw behind.
    pub leave: BTreeSet<NodeId>,
}

/// `POST …/import`: keys that the nodes of an empty pool hold already (rule 14).
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// See [`Command::reason`].
    #[serde(default)]
    pub reason: String,
    /// Kernel text, one key or `primary,backup`.
    pub keys: SecretText,
    /// Who must be here before the pool goes on; null = `expected_nodes` of the policy.
    #[serde(default)]
    pub expect: Option<Expected>,
}

/// `POST …/recover`: takes over a fleet that is ahead of a restored store (rule 10).
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// See [`Command::reason`].
    #[serde(default)]
    pub reason: String,
    /// One of [`PoolStatus::recoverable`]; null = the only one.
    #[serde(default)]
    pub slots: Option<SlotPairShown>,
    /// The bytes of these slots, kernel text, where the restored store does not have them: from a node's sysctl.d file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SecretText>,
}

/// `PUT …/nodes/{node}`; `DELETE` with `?reason=` forgets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRequest {
    /// What to do with it.
    pub action: NodeAction,
    /// See [`Command::reason`].
    #[serde(default)]
    pub reason: String,
}

/// What an operator does with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAction {
    /// Barriers do not wait for it until this time.
    Exclude {
        /// End of the exclusion.
        until: UnixTime,
    },
    /// It gets no keys any more, until it is forgotten.
    Deny,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The pool.
    pub pool: PoolName,
    /// The revision that it made.
    pub revision: Revision,
    /// The generation after it.
    pub generation: Generation,
    /// The phase after it.
    pub phase: Phase,
    /// What was done, as the audit log has it.
    pub action: Named<Action>,
    /// Nodes whose records it changed.
    pub nodes: BTreeSet<NodeId>,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;
    use crate::error::ErrorKind;
    use crate::status::{Standing, State};
    use tfo_model::named::UNKNOWN_CHARS_MAX;

    fn is_its_name<T>(all: &[T])
    where
        T: AsRef<str> + Copy + Debug + DeserializeOwned + PartialEq + Serialize,
        Named<T>: DeserializeOwned + Serialize,
    {
        for value in all {
            let name = json!(value.as_ref());
            assert_eq!(json!(value), name);
            assert_eq!(json!(Named::Known(*value)), name);
            assert_eq!(serde_json::from_value::<T>(name.clone()).unwrap(), *value);
            assert_eq!(serde_json::from_value::<Named<T>>(name).unwrap(), Named::Known(*value));
        }
        let later = json!("of_a_later_release");
        assert!(serde_json::from_value::<T>(later.clone()).is_err());
        assert_eq!(json!(serde_json::from_value::<Named<T>>(later.clone()).unwrap()), later);
        let long = "x".repeat(UNKNOWN_CHARS_MAX);
        let cut = serde_json::from_value::<Named<T>>(json!(format!("{long}yz"))).unwrap();
        assert_eq!(json!(cut), json!(format!("{long}…")));
        assert!(serde_json::from_value::<Named<T>>(json!(1)).is_err());
    }

    #[test]
    fn every_value_is_its_name_and_an_unknown_name_is_kept() {
        is_its_name(&BlockedBy::ALL);
        is_its_name(&NodeState::ALL);
        is_its_name(&HoldReason::ALL);
        is_its_name(&ExclusionReason::ALL);
        is_its_name(&Action::ALL);
        is_its_name(&KeySource::ALL);
        is_its_name(&Phase::ALL);
        is_its_name(&State::ALL);
        is_its_name(&Standing::ALL);
        is_its_name(&ErrorKind::ALL);
    }
}
