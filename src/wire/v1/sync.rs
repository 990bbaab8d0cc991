//! `POST /v1/pools/{pool}/sync`: one request acknowledges, and waits for the next change (docs/protocol.md#rules, rules 7 to 9).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::secret::SecretText;
use tfo_model::caveat::Caveat;
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::key::KeyFingerprint;
use tfo_model::named::Named;
use tfo_model::node::{Counters, Session};
use tfo_model::state::{Phase, SlotPrint};

/// Longest request body in bytes.
pub const REQUEST_BYTES_MAX: usize = 4_096;

/// Longest answer body in bytes that a node reads.
pub const ANSWER_BYTES_MAX: usize = 4_096;

/// Longest hold in seconds; a coordinator cuts more to this.
pub const WAIT_SECS_MAX: u64 = 300;

/// Header of an answer without content (204): its `absent_after_secs`, so that a node that gets no new keys knows it, too.
pub const ABSENT_AFTER_HEADER: &str = "tfo-absent-after";

/// Header of an answer without content, with any value: this coordinator has many more nodes than the others, so the node is
/// to ask another one.
pub const ELSEWHERE_HEADER: &str = "tfo-elsewhere";

/// Largest `next_contact_secs`: a timer that fires once a week.
pub const NEXT_CONTACT_SECS_MAX: u64 = 7 * 86_400;

/// Longest of the free texts (`kernel`, `agent`, `error`) in bytes.
pub const TEXT_BYTES_MAX: usize = 128;

/// The note of a node whose certificate ends and was not renewed, and the problem's kind on the node.
pub const CERTIFICATE_ENDS: &str = "certificate_ends";

/// Most `caveats`: more than there are, for agents of later releases.
pub const CAVEATS_MAX: usize = 16;

use tfo_model::node::KeySource;

/// What a node reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// The longest that the node, and the path to it, bears an answer to be held back while there is nothing new, 0 to
    /// [`WAIT_SECS_MAX`]; how long it is held, the coordinator chooses.
    pub wait_secs: u64,
    /// Latest time of the next sync, in seconds after the answer; at most [`NEXT_CONTACT_SECS_MAX`].
    pub next_contact_secs: u64,
    /// This run of the agent at this coordinator: `ordinal-nonce`, decimal and 16 hex digits.
    #[serde(with = "session_text")]
    pub session: Session,
    /// The highest generation that the node received in this session, installable or not; 0 at its start.
    pub seen: Generation,
    /// The keys of its file, read back from its kernels; null if it has none.
    pub installed: Option<InstalledKeys>,
    /// `uname -r`.
    pub kernel: String,
    /// The agent's version.
    pub agent: String,
    /// `net.ipv4.tcp_fastopen`; null if it cannot be read.
    pub tcp_fastopen: Option<i32>,
    /// Its clock.
    pub clock: ClockReport,
    /// TFO counters since its boot; null if its kernel has none.
    pub counters: Option<Counters>,
    /// What keeps the node from converging, in snake case: `drift`, `boot_order`, ...; null if nothing does.  Beside an
    /// error, `installed` has the keys of the file and acknowledges nothing.
    pub error: Option<String>,
    /// What its operator has to look at although it acknowledges, in snake case: [`CERTIFICATE_ENDS`]; absent = nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether its kernel keeps a backup key; absent = by `kernel` (Linux 5.3 and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_slot: Option<bool>,
    /// Where its keys come from.
    #[serde(default)]
    pub source: KeySource,
    /// What limits or endangers TFO there although its keys are right, at most [`CAVEATS_MAX`]; absent = nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<Named<Caveat>>,
    /// In how many network namespaces its keys were read back; absent = unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<u64>,
}

/// Keys that are durable and read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstalledKeys {
    /// The pool that they are from; null for keys from elsewhere.
    pub pool_id: Option<PoolId>,
    /// Their generation; null for keys from elsewhere.
    pub generation: Option<Generation>,
    /// The slot that makes cookies.
    pub primary: SlotPrint,
    /// The slot that only validates.
    pub backup: Option<SlotPrint>,
}

/// A node's clock: shown, and a reason for warnings; no decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockReport {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Whether its kernel reports it as synchronised; null if that is unknown.
    pub synchronised: Option<bool>,
}

/// What a node is to install (200).
#[derive(Debug, Serialize, Deserialize)]
pub struct SyncAnswer {
    /// The operator's name of the pool.
    pub pool: PoolName,
    /// Its identity.
    pub pool_id: PoolId,
    /// The fence.
    pub generation: Generation,
    /// The phase by the node's own slots, for the status line: `staged` while its backup is the next primary, otherwise
    /// `steady`.
    pub phase: Phase,
    /// The slot that makes cookies.
    pub primary: KeyMaterial,
    /// The slot that only validates.
    pub backup: Option<KeyMaterial>,
    /// The pool stops waiting for a node after this many seconds without contact.
    pub absent_after_secs: u64,
}

/// What a pool knows of the node that asks (`GET /v1/pools/{pool}/self`); nothing is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfAnswer {
    /// The operator's name of the pool.
    pub pool: PoolName,
    /// Its identity.
    pub pool_id: PoolId,
    /// The name of the node's certificate that the pool's patterns match.
    pub node: NodeId,
    /// Where the pool stands; `empty`: it has no key yet.
    pub phase: Phase,
    /// Whether the pool gives no keys before `recover`.
    pub frozen: bool,
    /// Whether an operator denied the node.
    pub denied: bool,
    /// The pool that an operator moved the node to; null if none did.
    #[serde(default)]
    pub moved_to: Option<PoolName>,
}

/// A key with its bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyMaterial {
    /// Ordinal of the key.
    pub epoch: Epoch,
    /// Fingerprint of the key; the node refuses an answer in which it does not match the bytes.
    pub fingerprint: KeyFingerprint,
    /// Kernel text of this key.
    pub key: SecretText,
}

mod session_text {
    use super::{Deserialize, Deserializer, Serializer, Session};

    pub(super) fn serialize<S: Serializer>(session: &Session, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(session)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Session, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
