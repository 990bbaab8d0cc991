//! What the holder of a certificate may do, and how long such a certificate holds.

use serde::{Deserialize, Serialize};

/// What a certificate is for.  Persisted: the snake-case names, in index.json.
///
/// The coordinator decides by the name alone (its pools' `nodes`, its `operators` and `viewers`); the role says which
/// extended key usage and which lifetime the certificate gets, and keeps a node from being given an operator's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// An agent.
    Node,
    /// May change things.
    Operator,
    /// May look.
    Viewer,
    /// The server.
    Coordinator,
}

impl Role {
    /// The name used everywhere.
    #[must_use]
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Coordinator => "coordinator",
        }
    }

    /// Default lifetime in days.
    ///
    /// Hosts: a year and a month of slack, so that certificates can be renewed in a yearly round; shorter would need
    /// machinery that renews them, and a fleet with that machinery has a PKI of its own.  People: 90 days, because
    /// their keys lie on machines that travel, an operator's can change every node, and there are few to renew.
    #[must_use]
    pub(super) const fn days(self) -> u32 {
        match self {
            Self::Node | Self::Coordinator => 397,
            Self::Operator | Self::Viewer => 90,
        }
    }

    /// Whether one name may hold both: a coordinator may run on a node, but a node's key must never open what an
    /// operator's opens.
    #[must_use]
    pub(super) fn may_share_name_with(self, other: Self) -> bool {
        let host = |role| matches!(role, Self::Node | Self::Coordinator);
        self == other || host(self) && host(other)
    }
}
