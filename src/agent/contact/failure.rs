//! What a failed exchange means for an operator: its kind, the remedy, and how long to wait.

use std::time::Duration;

use super::instruction::InvalidInstruction;
use tfo_engine::backoff::Trouble;
use tfo_engine::fence::AnswerRefused;
use tfo_model::problem::Problem;
use tfo_wire::client::{ClientError, Lost};
use tfo_wire::error::ErrorKind;

/// Kind of the problem that a coordinator cannot be reached.
pub(super) const UNREACHABLE: &str = "coordinator_unreachable";

/// A name that is wrong or that came before the order, or a pool that was made again under its name.
const OTHER_POOL_REMEDY: &str = "if this node is to change its pool, order it (`tfoctl move`); if `pool` is wrong here, correct it; if the \
     pool was created again on purpose, remove this node's sysctl.d file and restart the agent";

/// Why an exchange failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// For programs: status, metrics, and the next sync's `error`.
    pub(super) kind: &'static str,
    /// For people.
    pub(super) message: String,
    pub(super) remedy: &'static str,
    /// Pause that the coordinator asked for.
    pub(super) asked: Option<Duration>,
    /// What it says about the coordinator.
    pub(super) trouble: Trouble,
    /// Whether the next sync reports it: this node refused an answer.
    pub(super) reported: bool,
}

impl Failure {
    pub(super) fn new(kind: &'static str, message: String, remedy: &'static str) -> Self {
        Self { kind, message, remedy, asked: None, trouble: Trouble::Strained, reported: false }
    }

    pub(super) fn problem(&self) -> Problem {
        Problem::error(self.kind, self.message.clone(), self.remedy)
    }

    /// From an error of the client.
    pub(super) fn of_error(error: &ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Unreachable { lost, .. } => {
                let trouble = if *lost == Lost::Away { Trouble::Away } else { Trouble::Strained };
                let remedy = "check that host and the network to it; the installed keys stay";
                Self { trouble, ..Self::new(UNREACHABLE, message, remedy) }
            }
            // The alert of the coordinator's TLS, as rustls names it.
            ClientError::Tls { cause, .. } if cause.contains("CertificateRevoked") => Self::new(
                "certificate_revoked",
                message,
                "this node's certificate was revoked: if the node is to stay in the fleet, get a new one (`tfo-agent join` \
                 with a new token, or `tfoctl pki issue --node NAME`); the installed keys stay",
            ),
            // The alert that a coordinator sends for this alone (`tfo_tls::authorities`).
            ClientError::Tls { cause, .. } if cause.contains("AccessDenied") => Self::new(
                "coordinator_tls",
                message,
                "the coordinator's revocation list is out of date: its operator must renew it; the installed keys stay",
            ),
            ClientError::Tls { .. } => Self::new(
                "coordinator_tls",
                message,
                "compare CA and certificates on both sides (`tfo-agent check`), and the clocks; the installed keys stay",
            ),
            ClientError::BadAnswer { .. } => Self::new(
                "coordinator_bad_answer",
                message,
                "check that a coordinator of a compatible release listens there; the installed keys stay",
            ),
            ClientError::Refused { body, retry_after, status, .. } => {
                let (kind, remedy) = match body.as_deref() {
                    Some(body) => refusal(body.kind),
                    None if *status >= 500 => ("coordinator_unavailable", "check that coordinator and its log"),
                    None => ("coordinator_bad_answer", "check what answers there: it is not a coordinator (a proxy?)"),
                };
                Self { asked: *retry_after, ..Self::new(kind, message, remedy) }
            }
        }
    }

    /// An answer that the fence refuses.
    pub(super) fn of_refused(url: &str, refused: &AnswerRefused, sysctl_file: &str) -> Self {
        let (kind, remedy) = match refused {
            AnswerRefused::NotOutstanding => ("answer_late", "nothing to do: the agent has asked again"),
            AnswerRefused::OtherPool { .. } => ("answer_other_pool", OTHER_POOL_REMEDY),
            AnswerRefused::LowerGeneration { .. } => (
                "answer_lower_generation",
                "if the coordinator's store was restored, run `tfoctl recover`; the installed keys stay",
            ),
            AnswerRefused::TooFarAhead { .. } => (
                "answer_too_far_ahead",
                "find out what that coordinator is, and who took it over; the installed keys stay",
            ),
            AnswerRefused::OtherKeys { .. } => (
                "answer_other_keys",
                "if the coordinator's store was restored, run `tfoctl recover`; the installed keys stay",
            ),
        };
        let message = format!("{url}: answer refused: {refused} (by {sysctl_file})");
        Self { reported: true, ..Self::new(kind, message, remedy) }
    }

    /// An answer that contradicts itself.
    pub(super) fn of_invalid(url: &str, invalid: InvalidInstruction) -> Self {
        let remedy = "this is a bug of that coordinator; please report it, with both releases; the installed keys stay";
        let message = format!("{url}: answer refused: {invalid}");
        Self { reported: true, ..Self::new("answer_broken", message, remedy) }
    }
}

/// Kind and remedy of what a coordinator refuses.
pub(crate) fn refusal(kind: ErrorKind) -> (&'static str, &'static str) {
    match kind {
        ErrorKind::NotInPool => (
            "not_in_pool",
            "add this certificate's name to the pool's `nodes` at the coordinators, or correct `pool` in this configuration",
        ),
        ErrorKind::NotANode => (
            "not_a_node",
            "this certificate is an operator's, a viewer's or a coordinator's: issue this host one of its own",
        ),
        ErrorKind::Denied => {
            ("denied", "an operator denied this node: when it may have the keys again, `tfoctl allow` it")
        }
        ErrorKind::UnknownPool => {
            ("unknown_pool", "correct `pool` in this configuration, or add the pool at the coordinators")
        }
        ErrorKind::PoolFrozen => {
            ("pool_frozen", "an operator must run `tfoctl recover` for the pool; the installed keys stay")
        }
        ErrorKind::OtherPool => ("other_pool", OTHER_POOL_REMEDY),
        ErrorKind::NodeMoved => (
            "moved_in_circles",
            "pools send this node to each other: move it once more to the right one (`tfoctl move`); the installed keys stay",
        ),
        ErrorKind::SessionClosed => {
            ("session_closed", "another agent uses this node's certificate: issue one for each host")
        }
        ErrorKind::PeriodTooLong => (
            "period_too_long",
            "shorten the period of this node's timer, or raise `period_max` of the pool at the coordinators",
        ),
        ErrorKind::TooFarAhead => {
            ("too_far_ahead", "the coordinator's store was restored from an old backup: ask its operator")
        }
        ErrorKind::NotHeard | ErrorKind::StoreUnavailable | ErrorKind::Unavailable => {
            ("coordinator_unavailable", "wait, or check that coordinator and its store; the installed keys stay")
        }
        ErrorKind::NoAuthority => (
            "no_authority",
            "one coordinator with the authority's key is enough: this agent asks each address; the installed keys stay",
        ),
        ErrorKind::TokenRefused => (
            "token_refused",
            "ask for a new token (`tfoctl token create`): this one is wrong, used up, expired or revoked; `tfoctl audit` says which",
        ),
        ErrorKind::NameNotAllowed => (
            "name_not_allowed",
            "give this node a name that the token's and the pool's `nodes` allow (--name NAME), or ask for another token",
        ),
        ErrorKind::NameTaken => (
            "name_taken",
            "if this host replaces the one of that name, ask for a token that may: `tfoctl token create --replace`",
        ),
        ErrorKind::BadRequestKey => (
            "bad_request_key",
            "compare the releases of agent and coordinator: this one takes requests for a P-256 key and one name only",
        ),
        ErrorKind::BadRequest
        | ErrorKind::NotAllowed
        | ErrorKind::UnknownNode
        | ErrorKind::UnknownToken
        | ErrorKind::UnknownPath
        | ErrorKind::UnknownMethod
        | ErrorKind::Timeout
        | ErrorKind::Refused
        | ErrorKind::Moved
        | ErrorKind::TooLarge
        | ErrorKind::Internal
        | ErrorKind::Unknown => (
            "coordinator_refused",
            "compare the releases of agent and coordinator, and look for the request in its log",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_certificate_is_told_apart_from_broken_tls() {
        let of = |cause: &str| {
            let url = "https://c:9443".to_owned();
            Failure::of_error(&ClientError::Tls { url, cause: cause.to_owned() })
        };
        let revoked = of("received fatal alert: CertificateRevoked");
        assert_eq!(revoked.kind, "certificate_revoked");
        assert!(revoked.remedy.contains("was revoked") && revoked.remedy.contains("pki issue"), "{}", revoked.remedy);
        assert_eq!(of("received fatal alert: UnknownCA").kind, "coordinator_tls");
    }
}
