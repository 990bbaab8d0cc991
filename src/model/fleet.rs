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
        /// A rotation is due, and the pool's calendar lets none start now.
        Calendar = "calendar",
        /// It is due by a wall clock that is off those of the other coordinators.
        Clock = "clock",
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
        /// Held after an abort, a first key or a recovery.
        Held = "held",
        /// The pool has no key yet.
        NoKey = "no_key",
        /// The store was restored: `recover`.
        Frozen = "frozen",
    }
}

named_enum! {
    /// How much a verdict on a pool asks of an operator.
    pub enum Severity {
        /// Nothing.
        Ok = "ok",
        /// To know, such as a rotation that runs.
        Notice = "notice",
        /// Something to do, today.
        Warning = "warning",
        /// Something to do now: clients lose cookies, or nothing can be driven.
        Critical = "critical",
    }
}

named_enum! {
    /// What a verdict on a pool is about (docs/reference/json.md).
    pub enum VerdictKind {
        /// Every node accepts every other node's cookies, and nothing is in the way of the next rotation.
        Agree = "agree",
        /// A rotation runs.
        Rotating = "rotating",
        /// An operator paused the pool.
        Paused = "paused",
        /// The health gate stopped a rotation: cookies are rejected.
        StoppedByHealth = "stopped_by_health",
        /// No rotation starts until an operator resumes.
        Held = "held",
        /// The pool has no key yet.
        NoKey = "no_key",
        /// Fewer nodes than expected: the next rotation does not start, or will not.
        ExpectedNodes = "expected_nodes",
        /// Nodes are absent or behind: a rotation waits for them, or the next one will.
        Absent = "absent",
        /// Some nodes refuse cookies that other nodes make.
        Split = "split",
        /// The store was restored and is behind its own fleet.
        Frozen = "frozen",
        /// The coordinator cannot tell: its store or most nodes were not heard.
        Blind = "blind",
        /// No node reaches the coordinator.
        Deaf = "deaf",
        /// All nodes have their keys from elsewhere.
        OnlyReports = "only_reports",
        /// Nodes say that their certificates end and were not renewed.
        CertificateEnds = "certificate_ends",
    }
}

named_enum! {
    /// What operators are told of without asking (`[[notify]]`): kinds of verdicts that ask for something, and two events.
    pub enum NoticeKind {
        /// The verdict of that name.
        Split = "split",
        /// The verdict of that name.
        Frozen = "frozen",
        /// The verdict of that name.
        StoppedByHealth = "stopped_by_health",
        /// The verdict of that name.
        Deaf = "deaf",
        /// The verdict of that name, if it is critical: the store is not reached.
        Blind = "blind",
        /// The verdict of that name.
        Paused = "paused",
        /// The verdict of that name.
        Held = "held",
        /// The verdict of that name.
        NoKey = "no_key",
        /// The verdict of that name.
        ExpectedNodes = "expected_nodes",
        /// The verdict of that name.
        Absent = "absent",
        /// A rotation has ended with a new primary.
        RotationEnded = "rotation_ended",
        /// A certificate ends soon.
        CertificateEnds = "certificate_ends",
        /// An operator tries whether it is told.
        Test = "test",
    }
}

named_enum! {
    /// Whether what operators are told of has begun, is over, or has no length.
    pub enum NoticeState {
        /// It has begun, or is still so after a day.
        Raised = "raised",
        /// It is over.
        Recovered = "recovered",
        /// It has no length.
        Done = "done",
    }
}

named_enum! {
    /// What paused a pool.
    pub enum PausedBy {
        /// An operator.
        Operator = "operator",
        /// The health gate.
        Health = "health",
    }
}

named_enum! {
    /// How a node stands.
    pub enum NodeState {
        /// It has acknowledged its instruction.
        Converged = "converged",
        /// Heard, and behind.
        Straggler = "straggler",
        /// It holds its keys, and its connection has gone; it is not silent yet.
        Disconnected = "disconnected",
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
        /// An operator moved it to another pool.
        Moved = "moved",
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
        Rotate = "rotate",
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
        Include = "include",
        Deny = "deny",
        Allow = "allow",
        Forget = "forget",
        Move = "move",
        Expect = "expect",
        SetPolicy = "set_policy",
        Unhealthy = "unhealthy",
        TakeIn = "take_in",
    }
}

named_enum! {
    /// What an entry of the log of enrolment is about.
    pub enum EnrolAction {
        /// An operator made a token.
        TokenMade = "token_made",
        /// An operator revoked a token, or a restore ended it.
        TokenRevoked = "token_revoked",
        /// A token's last use was taken.
        TokenUsedUp = "token_used_up",
        /// A token's time was over before its uses were.
        TokenExpired = "token_expired",
        /// A node got a certificate by a token.
        Enrolled = "enrolled",
        /// A node, an operator or a viewer got the next certificate.
        Renewed = "renewed",
        /// Certificates of nodes were revoked.
        CertificatesRevoked = "certificates_revoked",
        /// Attempts to get a certificate were refused.
        Refused = "refused",
        /// A node showed a certificate that was not recorded: it was issued after a backup that was restored, or by hand.
        Met = "met",
        /// Tokens and certificates came from a backup.
        Restored = "restored",
    }
}
