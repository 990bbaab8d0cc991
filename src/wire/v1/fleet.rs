//! The operators' side of API v1: pools, nodes, the audit log, and the commands (docs/reference/json.md).
//!
//! Null means unknown.  Readers skip fields that they do not know, and keep unknown names as they are ([`Named`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::orders::{Closed, Waiver};
use super::secret::SecretText;
use tfo_model::caveat::Caveat;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::{Action, BlockedBy, ExclusionReason, HoldReason, NodeState, PausedBy, Severity, VerdictKind};
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::key::KeyFingerprint;
use tfo_model::named::Named;
use tfo_model::node::Expected;
use tfo_model::node::KeySource;
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;

/// Longest body of a command in bytes: a `leave` of a lost site of thirty thousand names fits.
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
    /// Revision of its document.
    pub revision: Revision,
    /// Generation of its document: the nodes' fence.
    pub generation: Generation,
    /// Where the rotation stands.
    pub phase: Phase,
    /// The desired primary of most nodes; null in an empty pool.
    pub primary: Option<SlotPrint>,
    /// The desired backup of most nodes.
    pub backup: Option<SlotPrint>,
    /// The one thing to know about the pool, and what to do.
    pub verdict: Verdict,
    /// Longest time for which a cookie is accepted while rotations run as planned, in seconds: an observer can follow a client
    /// by it.
    #[serde(default)]
    pub cookie_lifetime_secs: u64,
    /// What paused it; null if it is not paused.
    pub paused: Option<Paused>,
    /// Why no rotation starts until an operator resumes; null without a hold.
    pub hold: Option<Named<HoldReason>>,
    /// The nodes that must have the key before `resume`, after a first key or an import; null without such a hold, and
    /// from earlier releases.
    #[serde(default)]
    pub expect: Option<Expected>,
    /// Nodes that barriers wait for.
    pub required: usize,
    /// How many of these have acknowledged their present instruction.
    pub converged: usize,
    /// Nodes that only report: their keys come from elsewhere (`[report]`).
    pub reporting: usize,
    /// Nodes that the pool waits for, in name order.
    pub waiting_for: Vec<NodeId>,
    /// When the gate opens by time alone; null if that is unknown.
    pub next_at: Option<UnixTime>,
    /// The gate that is closed; null while the pool moves.
    pub blocked_by: Option<Named<BlockedBy>>,
    /// When this phase began.
    pub since: UnixTime,
    /// The waves of a promotion; null in other phases.
    pub waves: Option<Waves>,
    /// Keys that a revoke is driving out.
    pub revoking: Vec<SlotPrint>,
    /// What `recover` can take over; empty unless the pool is frozen.
    pub recoverable: Vec<SlotPairShown>,
    /// The settings in which this coordinator's configuration file differs from the pool's policy, by which it drives all
    /// the same.
    #[serde(default)]
    pub policy_differs: Vec<String>,
    /// Whether the file becomes the pool's policy between rotations; false if it differs and only a reload would do that.
    #[serde(default)]
    pub policy_waits: bool,
    /// Fewest required nodes with which a rotation starts.
    #[serde(default)]
    pub expected_nodes: usize,
    /// Whether that number is in the coordinator's configuration file; otherwise operators set it (`expect`).
    #[serde(default)]
    pub expected_in_file: bool,
    /// Required nodes that this coordinator has not seen since its start; they are not counted as converged.
    #[serde(default)]
    pub unseen: usize,
    /// When the first node that is waited for is excluded, at the earliest, if it stays silent; null if none will be.
    #[serde(default)]
    pub next_exclusion_at: Option<UnixTime>,
    /// When this coordinator heard of a node last, once that is so long ago that it counts as deaf: it excludes no node;
    /// null while it hears some.
    #[serde(default)]
    pub deaf_since: Option<UnixTime>,
    /// What `resume` would waive; null unless the health gate has stopped a wave.
    #[serde(default)]
    pub waiver: Option<Waiver>,
    /// Why `rotate` would be refused now; null if it would not.
    #[serde(default)]
    pub rotate_refused: Option<Closed>,
    /// The span of the pool's calendar in which no rotation starts now or, without one, that delays the next rotation; null
    /// if none does.
    #[serde(default)]
    pub calendar: Option<CalendarSpan>,
}

/// A span in which no rotation starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarSpan {
    /// Its first second.
    pub from: UnixTime,
    /// The second after its last one.
    pub until: UnixTime,
    /// The reason of the configuration; may be empty.
    pub reason: String,
}

/// The verdict on a pool: computed in one place, and the same on every surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How much it asks of an operator.
    pub severity: Named<Severity>,
    /// What it is about.
    pub kind: Named<VerdictKind>,
    /// Since when; null if that is unknown.
    pub since: Option<UnixTime>,
    /// One sentence for people, with the cause and its numbers.
    pub sentence: String,
    /// The nodes that it is about, in the order of their weight, at most [`VERDICT_NODES_MAX`].
    pub nodes: Vec<NodeId>,
    /// How many more nodes it is about.
    pub more: usize,
    /// The numbers of the sentence by name; shares are in millionths and end in `_ppm`.
    pub numbers: BTreeMap<String, u64>,
    /// The next command; null if there is nothing to do.
    pub next: Option<String>,
    /// The page of the documentation that says more, from its root; null if there is none.
    pub docs: Option<String>,
}

/// Most nodes that a verdict names.
pub const VERDICT_NODES_MAX: usize = 20;

/// What paused a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// An operator or the health gate.
    pub by: Named<PausedBy>,
    /// When.
    pub since: UnixTime,
    /// The operator; null for the health gate.
    pub operator: Option<NodeId>,
    /// The operator's reason; may be empty.
    pub reason: String,
    /// Share of rejected cookies when the health gate stopped the rotation, in millionths.
    pub rejected_ppm: Option<u32>,
    /// The same before the promotion, in millionths.
    pub baseline_ppm: Option<u32>,
    /// The nodes that rejected most, the worst first.
    pub worst: Vec<NodeId>,
}

/// How far a promotion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waves {
    /// Number of opened waves.
    pub opened: usize,
    /// Number of all waves.
    pub of: usize,
}

/// Both slots by their fingerprints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPairShown {
    /// The key that makes cookies.
    pub primary: SlotPrint,
    /// The key that only validates.
    pub backup: Option<SlotPrint>,
}

/// Longest time for which `GET /v1/pools/{pool}/nodes?fresh=true` waits for the nodes, in seconds.
pub const FRESH_SECS_MAX: u64 = 10;

/// `GET /v1/pools/{pool}/nodes`.  With `?fresh=true` the nodes whose requests the coordinator holds are asked first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// The pool.
    pub pool: PoolName,
    /// Sorted by name.
    pub nodes: Vec<NodeStatus>,
    /// How many nodes hold which keys, the largest group first.
    pub fingerprints: Vec<FingerprintCount>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name, from its certificate.
    pub node: NodeId,
    /// Its state.
    pub state: Named<NodeState>,
    /// The generation of its installed keys.
    pub generation: Option<Generation>,
    /// Its installed primary.
    pub primary: Option<SlotPrint>,
    /// Its installed backup.
    pub backup: Option<SlotPrint>,
    /// When it last synced.
    pub last_report_at: Option<UnixTime>,
    /// Since when it has been behind its instruction; null if it is not.
    pub behind_since: Option<UnixTime>,
    /// Where it has its keys from.
    pub source: Named<KeySource>,
    /// The kind of the problem that it reports.
    pub error: Option<String>,
    /// The kind of what its operator has to look at although it works, such as `certificate_ends`; null for nothing.
    #[serde(default)]
    pub note: Option<String>,
    /// Its `uname -r`; null until it has synced with this coordinator since its start, as the next two.
    pub kernel: Option<String>,
    /// Its agent's version.
    pub agent: Option<String>,
    /// Its `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<i32>,
    /// What limits or endangers TFO there although its keys are right; empty as well until it has synced.
    #[serde(default)]
    pub caveats: Vec<Named<Caveat>>,
    /// In how many network namespaces its keys were read back; null until it has synced.
    #[serde(default)]
    pub namespaces: Option<u64>,
    /// Why it is excluded; null if it is not.
    pub excluded: Option<Named<ExclusionReason>>,
    /// When an operator's exclusion ends; null without one.
    #[serde(default)]
    pub excluded_until: Option<UnixTime>,
    /// The pool that an operator moved it to; null if none did, or if this coordinator has no such pool any more.
    #[serde(default)]
    pub moved_to: Option<PoolName>,
    /// Whether it has a connection; null for a node that has none because it asks by a timer, and until it has synced with
    /// this coordinator since its start.
    #[serde(default)]
    pub connected: Option<bool>,
    /// Since when it has had a connection, or none; null as above.
    #[serde(default)]
    pub connected_since: Option<UnixTime>,
    /// The end of the certificate that it showed last; null until it has connected to this coordinator since its start.
    #[serde(default)]
    pub certificate_until: Option<UnixTime>,
}

/// How many nodes hold these keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FingerprintCount {
    /// Their primary.
    pub primary: KeyFingerprint,
    /// Their backup.
    pub backup: Option<KeyFingerprint>,
    /// Number of nodes.
    pub nodes: usize,
}

/// `GET /v1/pools/{pool}/audit?after=REVISION&since=TIME&node=NAME&operator=NAME&limit=N`: one page.  Every part of the
/// query may be missing; `limit` gives the latest entries alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The pool.
    pub pool: PoolName,
    /// The entries after that revision, oldest first.
    pub entries: Vec<AuditLine>,
    /// Whether the log has more after `read_to`.
    pub more: bool,
    /// The last revision that was looked at, also where no entry of it fits: the `after` of the next page.
    #[serde(default = "unread")]
    pub read_to: Revision,
}

fn unread() -> Revision {
    Revision::ZERO
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When it was committed, by the coordinator's clock.
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
    /// Nodes whose records it changed, at most 100.
    pub nodes: BTreeSet<NodeId>,
    /// How many more nodes it is about.
    #[serde(default)]
    pub more: usize,
    /// The operator's reason, or a remark of the coordinator; may be empty.
    pub reason: String,
}

/// The body of a command without arguments, and what every command has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The operator's reason, for the audit log; at most [`REASON_BYTES_MAX`] bytes.
    #[serde(default)]
    pub reason: String,
    /// Skips the gates that only protect clients' comfort; no command skips a barrier.
    #[serde(default)]
    pub force: bool,
    /// The coordinator refuses the command if the document is at another revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<Revision>,
}

/// The purpose of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationMode {
    /// A fresh key, as the schedule does it.
    #[default]
    Normal,
    /// Drives keys out: those of `epochs`, or all desired ones.
    Revoke,
    /// Gives an empty pool its first key.
    First,
}

/// `POST …/rotations`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationRequest {
    /// See [`Command::reason`].
    #[serde(default)]
    pub reason: String,
    /// Its purpose.
    #[serde(default)]
    pub mode: RotationMode,
    /// With `revoke`: nodes to deny in the same commit.
    #[serde(default)]
    pub deny: BTreeSet<NodeId>,
    /// With `revoke`: epochs of the keys to drive out; empty for all desired keys.
    #[serde(default)]
    pub epochs: BTreeSet<Epoch>,
    /// With `first`: the nodes that must have the key before `resume`; null for the policy's `expected_nodes`.
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
    /// The nodes behind, as the operator saw them.
    pub leave: BTreeSet<NodeId>,
}

/// `POST …/import`: gives an empty pool the keys that its nodes already hold (rule 14).
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// See [`Command::reason`].
    #[serde(default)]
    pub reason: String,
    /// Kernel text, one key or `primary,backup`.
    pub keys: SecretText,
    /// The nodes that must have the keys before `resume`; null for the policy's `expected_nodes`.
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
    /// One of [`PoolStatus::recoverable`]; null for the only one.
    #[serde(default)]
    pub slots: Option<SlotPairShown>,
    /// Kernel text of these slots, from a node's sysctl.d file; needed if the restored store lacks their bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SecretText>,
}

/// The result of a command.
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
    /// Nodes whose records it changed, at most 100.
    pub nodes: BTreeSet<NodeId>,
    /// How many more nodes it is about.
    #[serde(default)]
    pub more: usize,
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
        is_its_name(&Severity::ALL);
        is_its_name(&VerdictKind::ALL);
        is_its_name(&PausedBy::ALL);
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
