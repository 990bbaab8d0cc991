//! The states, gates, reasons and actions of a pool and its nodes, by the names that the API, the audit log and metrics use.
//!
//! Wire v1 and Persisted (actions): the names.  A later release may add some; see [`Named`](crate::named::Named).

use crate::named_enum;

named_enum! {
    /// Which gate is closed.
    pub enum BlockedBy {
        /// No rotation is due.
        Schedule = "schedule",
        /// Nodes have not acknowledged, or were not heard since this coordinator started.
        Barrier = "barrier",
        /// Clients still come with cookies of the key that the next stage drops.
        Drain = "drain",
        /// A wave is being watched.
        Health = "health",
        /// Too few nodes would be left if the absent ones were excluded, or the policy is to wait for them.
        Absent = "absent",
        /// Fewer nodes than expected.
        ExpectedNodes = "expected_nodes",
        /// An operator or the health gate paused it.
        Paused = "paused",
        /// Held after an abort, a first key or a recovery; or there is no key yet.
        Held = "held",
        /// The store was restored: `recover`.
        Frozen = "frozen",
    }
}

named_enum! {
    /// How a node stands.
    pub enum NodeState {
        /// It has acknowledged its instruction.
        Converged = "converged",
        /// Heard, and behind.
        Straggler = "straggler",
        /// Not heard for longer than its limit.
        Silent = "silent",
        /// A kernel holds other keys than the node was given.
        Drifted = "drifted",
        /// An operator or the barrier took it out.
        Excluded = "excluded",
        /// It gets no keys.
        Denied = "denied",
        /// It could not write, read back or persist.
        Failed = "failed",
        /// Its kernel cannot share two keys.
        OneSlot = "one_slot",
        /// Its keys come from elsewhere; it only reports.
        Reporting = "reporting",
    }
}

named_enum! {
    /// Why no rotation starts by itself until an operator resumes.
    pub enum HoldReason {
        /// A rotation was aborted, or a key revoked by aborting it.
        Aborted = "aborted",
        /// The pool got its first key, or the keys of a running fleet.
        FirstKey = "first_key",
        /// `recover` took over the state of a fleet that was ahead of a restored store.
        Recovered = "recovered",
    }
}

named_enum! {
    /// Why a node is excluded.
    pub enum ExclusionReason {
        /// Not heard for too long.
        Absent = "absent",
        /// Left behind by `advance` or by the short barrier of a revoke.
        LeftBehind = "left_behind",
        /// An operator excluded it for a time.
        Operator = "operator",
    }
}

named_enum! {
    /// What an audit entry is about: a step of the walk or a command.
    #[expect(missing_docs, reason = "the names are those of docs/protocol.md#rules, rules 3, 6, 13, 14 and 15")]
    pub enum Action {
        FirstKey = "first_key",
        Import = "import",
        Stage = "stage",
        Promote = "promote",
        OpenWave = "open_wave",
        Settle = "settle",
        DropRevoked = "drop_revoked",
        Abort = "abort",
        Revoke = "revoke",
        Pause = "pause",
        Resume = "resume",
        Recover = "recover",
        Advance = "advance",
        Exclude = "exclude",
        Deny = "deny",
        Forget = "forget",
        SetPolicy = "set_policy",
        Unhealthy = "unhealthy",
        TakeIn = "take_in",
    }
}
