//! What a failed exchange means for an operator: its kind, what to do, and whether waiting helps.

use std::time::Duration;

use crate::source::BadTold;
use tfo_engine::fence::AnswerRefused;
use tfo_model::problem::Problem;
use tfo_wire::client::ClientError;
use tfo_wire::error::{ErrorBody, ErrorKind};

/// Kind of the problem that nobody answers.
pub(super) const UNREACHABLE: &str = "coordinator_unreachable";

/// Why an exchange came to nothing.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// For programs: status, metrics, and the next sync's `error`.
    pub(super) kind: &'static str,
    /// For people.
    pub(super) message: String,
    pub(super) remedy: &'static str,
    /// How long the coordinator wants to be left alone.
    pub(super) asked: Option<Duration>,
    /// Whether the next sync says it: an answer was refused by this node.
    pub(super) reported: bool,
}

impl Trouble {
    pub(super) fn new(kind: &'static str, message: String, remedy: &'static str) -> Self {
        Self { kind, message, remedy, asked: None, reported: false }
    }

    pub(super) fn problem(&self) -> Problem {
        Problem::error(self.kind, self.message.clone(), self.remedy)
    }

    /// From an error of the client; none is a session that was closed, which is answered by another one.
    pub(super) fn of_error(error: &ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Unreachable { .. } => {
                Self::new(UNREACHABLE, message, "look at that host and the way to it; the installed keys stay")
            }
            ClientError::Tls { .. } => Self::new(
                "coordinator_tls",
                message,
                "compare CA and certificates on both sides (`tfo-agent check`), and the clocks; the installed keys stay",
            ),
            ClientError::BadAnswer { .. } => Self::new(
                "coordinator_bad_answer",
                message,
                "is that a coordinator, of a release that fits? the installed keys stay",
            ),
            ClientError::Refused { body, retry_after, status, .. } => {
                let (kind, remedy) = match body.as_deref() {
                    Some(body) => refusal(body),
                    None if *status >= 500 => ("coordinator_unavailable", "look at that coordinator and its log"),
                    None => ("coordinator_bad_answer", "something else than a coordinator answers there: a proxy?"),
                };
                Self { asked: *retry_after, ..Self::new(kind, message, remedy) }
            }
        }
    }

    /// An answer that the fence refuses.
    pub(super) fn of_refused(url: &str, refused: &AnswerRefused, sysctl_file: &str) -> Self {
        let (kind, remedy) = match refused {
            AnswerRefused::NotOutstanding => ("answer_late", "nothing: it was asked again"),
            AnswerRefused::OtherPool { .. } => (
                "answer_other_pool",
                "if the pool was made anew on purpose, remove the sysctl.d file of this node and restart the agent",
            ),
            AnswerRefused::LowerGeneration { .. } => (
                "answer_lower_generation",
                "was the coordinator's store restored? then `tfoctl recover`; the installed keys stay",
            ),
            AnswerRefused::OtherKeys { .. } => (
                "answer_other_keys",
                "was the coordinator's store restored? then `tfoctl recover`; the installed keys stay",
            ),
        };
        let message = format!("{url}: {refused} (by {sysctl_file}): refused");
        Self { reported: true, ..Self::new(kind, message, remedy) }
    }

    /// An answer that contradicts itself.
    pub(super) fn of_told(url: &str, told: BadTold) -> Self {
        let remedy = "report this to us, with both releases; the installed keys stay";
        let trouble = Self::new("answer_broken", format!("{url} gives an answer that is refused: {told}"), remedy);
        Self { reported: true, ..trouble }
    }
}

fn refusal(body: &ErrorBody) -> (&'static str, &'static str) {
    match body.kind {
        ErrorKind::NotInPool => (
            "not_in_pool",
            "add this certificate's name to the pool's `nodes` at the coordinators, or mend source.pool",
        ),
        ErrorKind::Denied => {
            ("denied", "an operator has denied this node; issue it a new certificate, or `tfoctl forget` it")
        }
        ErrorKind::UnknownPool => ("unknown_pool", "mend `pool` here, or add the pool at the coordinators"),
        ErrorKind::PoolFrozen => {
            ("pool_frozen", "an operator has to `tfoctl recover` the pool; the installed keys stay")
        }
        ErrorKind::OtherPool => (
            "other_pool",
            "this node's keys are of a pool that was made anew: remove its sysctl.d file and restart the agent, if that is meant",
        ),
        ErrorKind::SessionClosed => {
            ("session_closed", "another agent uses this node's certificate: every host needs one of its own")
        }
        ErrorKind::TooFarAhead => {
            ("too_far_ahead", "the store was restored further back than it should be: ask its operator")
        }
        ErrorKind::NotHeard | ErrorKind::StoreUnavailable | ErrorKind::Unavailable => {
            ("coordinator_unavailable", "wait, or look at that coordinator and its store; the installed keys stay")
        }
        ErrorKind::BadRequest
        | ErrorKind::NotAllowed
        | ErrorKind::UnknownNode
        | ErrorKind::UnknownPath
        | ErrorKind::UnknownMethod
        | ErrorKind::Timeout
        | ErrorKind::Refused
        | ErrorKind::Moved
        | ErrorKind::TooLarge
        | ErrorKind::Internal
        | ErrorKind::Unknown => {
            ("coordinator_refused", "compare the releases of agent and coordinator, and see its log for the request")
        }
    }
}
