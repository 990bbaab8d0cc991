//! status.json: what an agent says about its host to whoever looks there.  No secrets.
//!
//! Wire v1 (docs/reference/json.md): fields may be added, never renamed or removed.  Unknown = null.  Fingerprints, never keys.

use serde::{Deserialize, Serialize};

use tfo_model::count::Generation;
use tfo_model::ids::PoolName;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;

/// Version of the format.
pub const VERSION: u32 = 1;
/// Its name in the agent's runtime directory.
pub const FILE_NAME: &str = "status.json";

/// How it stands with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The keys that the source wants are in the file and in every kernel.
    Ok,
    /// Keys are installed and verified, but something needs a look.
    Degraded,
    /// There are no keys, or they are not where they belong.
    Failed,
}

impl State {
    /// The name used in every output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// How it stands with the coordinators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nobody has answered yet.
    Asking,
    /// The last request was answered.
    Connected,
    /// Answers came in this run, but the last request failed.
    Disconnected,
    /// Nobody answered in time at the start: the node serves by its file.
    Unconfirmed,
    /// The node has no keys of its pool.
    NoKeys,
    /// Out of contact for longer than the pool waits.
    Detached,
}

impl Standing {
    /// Every standing.
    pub const ALL: [Self; 6] =
        [Self::Asking, Self::Connected, Self::Disconnected, Self::Unconfirmed, Self::NoKeys, Self::Detached];

    /// The name used in every output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Unconfirmed => "unconfirmed",
            Self::NoKeys => "no_keys",
            Self::Detached => "detached",
        }
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// How it stands.
    pub state: State,
    /// Kind of the source: `derive`, `coordinator`, `file`, `random`.
    pub source: String,
    /// The pool, with a coordinator.
    pub pool: Option<PoolName>,
    /// The instruction that was followed last.
    pub generation: Option<Generation>,
    /// Where the rotation stands.
    pub phase: Phase,
    /// The slot that makes cookies.
    pub primary: Option<SlotPrint>,
    /// The slot that only validates.
    pub backup: Option<SlotPrint>,
    /// When these keys were first installed here.
    pub installed_at: Option<UnixTime>,
    /// When they change next.
    pub next_change_at: Option<UnixTime>,
    /// Repairs of keys that somebody else had changed, since the agent started.
    pub drift_repairs: u64,
    /// Whether the kernel's clock is synchronised.
    pub clock_synchronised: Option<bool>,
    /// When a coordinator answered last.
    pub last_contact_at: Option<UnixTime>,
    /// How it stands with the coordinators; null without any.
    #[serde(default)]
    pub contact: Option<Standing>,
    /// What is wrong.
    pub error: Option<StatusError>,
    /// What each namespace's kernel holds, the agent's own one first.
    pub namespaces: Vec<NamespaceStatus>,
}

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusError {
    /// A problem's kind.
    pub kind: String,
    /// For people.
    pub message: String,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// Its name under /run/netns; `own` for the agent's own.
    pub name: String,
    /// What its kernel showed.
    pub primary: Option<KeyFingerprint>,
    /// The same, of the backup.
    pub backup: Option<KeyFingerprint>,
    /// When that was last seen to be what it should be; null if it is not.
    pub verified_at: Option<UnixTime>,
    /// `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<i32>,
}

impl NamespaceStatus {
    /// Both slots; none if no key was seen.
    #[must_use]
    pub fn slots(&self) -> Option<PairPrint> {
        self.primary.map(|primary| PairPrint { primary, backup: self.backup })
    }
}
