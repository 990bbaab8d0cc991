//! Roles of certificates: the rights of the holder, and the default lifetime.

use tfo_model::named_enum;

named_enum! {
    /// What a certificate is for.  Persisted: the snake-case names, in index.json.
    ///
    /// The coordinator decides by the name alone (its pools' `nodes`, its `operators` and `viewers`); the role determines the
    /// extended key usage and the lifetime of the certificate, and keeps a node from getting an operator's name.
    pub enum Role {
        /// An agent.
        Node = "node",
        /// May change pools.
        Operator = "operator",
        /// May only look.
        Viewer = "viewer",
        /// The server.
        Coordinator = "coordinator",
    }
}

impl Role {
    /// Default lifetime in days.
    ///
    /// Hosts: a year and a month of slack, so that certificates can be renewed in a yearly round; a shorter
    /// life would need automatic renewal, and a fleet that has it has a PKI of its own.  People: 90 days, because
    /// their keys are on machines that travel, an operator's can change every node, and few need renewal.
    #[must_use]
    pub const fn days(self) -> u32 {
        match self {
            Self::Node | Self::Coordinator => 397,
            Self::Operator | Self::Viewer => 90,
        }
    }

    /// Whether one name may have both roles: a coordinator may run on a node, but a node's key must never have an
    /// operator's rights.
    #[must_use]
    pub fn may_share_name_with(self, other: Self) -> bool {
        let host = |role| matches!(role, Self::Node | Self::Coordinator);
        self == other || host(self) && host(other)
    }
}
