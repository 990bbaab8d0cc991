//! The exit code and the remedy for a coordinator's refusal, or its silence.

use tfo_cli::plain::plain;
use tfo_cli::plan::until_then;
use tfo_cli::report::{Failure, Outcome};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_wire::client::ClientError;
use tfo_wire::error::ErrorKind;

/// The failure for one error that asking another coordinator would not change.
pub(super) fn failed(error: &ClientError) -> Failure {
    let (outcome, problem) = explain(error);
    Failure::new(outcome, problem)
}

/// The failure if no coordinator answered, with the error of each.
pub(super) fn not_answered(errors: &[ClientError]) -> Failure {
    let explained: Vec<(Outcome, Problem)> = errors.iter().map(explain).collect();
    // The most specific one decides the exit code: a refusal before a silence.
    let outcomes: Vec<Outcome> = explained.iter().map(|(outcome, _)| *outcome).collect();
    let order = [Outcome::Refused, Outcome::Config];
    let outcome = order.into_iter().find(|outcome| outcomes.contains(outcome)).unwrap_or(Outcome::Failed);
    Failure { problems: explained.into_iter().map(|(_, problem)| problem).collect(), outcome }
}

/// The failure if a command was sent, no answer came, and the audit log does not show whether it was done.
pub(super) fn unknown_outcome(errors: &[ClientError], pool: &PoolName, seen: Revision) -> Failure {
    let mut failure = not_answered(errors);
    let message = "the command was sent, and its outcome is unknown: no coordinator has confirmed it";
    let remedy = format!("check whether it was done before you repeat it: tfoctl audit --pool {pool} --after {seen}");
    failure.problems.push(Problem::error("unknown_outcome", message, remedy));
    failure.outcome = Outcome::Failed;
    failure
}

fn explain(error: &ClientError) -> (Outcome, Problem) {
    match error {
        ClientError::Unreachable { .. } => {
            let remedy =
                "check that the coordinator runs and listens there: `urls` in ctl.toml, its service, firewalls";
            (Outcome::Failed, Problem::error("unreachable", error.to_string(), remedy))
        }
        ClientError::Tls { cause, .. } => explain_tls(error, cause),
        ClientError::Refused { body: Some(body), .. } => {
            let (outcome, kind, remedy) = explain_kind(body.kind);
            // The coordinator knows its reason, and so the better remedy.
            let remedy = body.remedy.as_deref().map_or_else(|| remedy.to_owned(), plain);
            let remedy = match body.until {
                Some(until) => format!("{remedy} ({})", until_then(until, clock::now())),
                None => remedy,
            };
            (outcome, Problem::error(kind, error.to_string(), remedy))
        }
        ClientError::Refused { body: None, .. } => {
            let remedy = "this answer is not from a coordinator: check what listens there, such as a proxy";
            (Outcome::Failed, Problem::error("bad_answer", error.to_string(), remedy))
        }
        ClientError::BadAnswer { .. } => {
            let remedy =
                "check that `urls` names a tfo-coordinator, and that its release is compatible with this tfoctl";
            (Outcome::Failed, Problem::error("bad_answer", error.to_string(), remedy))
        }
    }
}

fn explain_tls(error: &ClientError, cause: &str) -> (Outcome, Problem) {
    let has = |text: &str| cause.contains(text);
    let now = clock::now();
    let (outcome, kind, remedy) = if has("AccessDenied") {
        let remedy = "the coordinator's revocation list (`crl`) is out of date, so it lets in operators alone, and your \
                      certificate does not name one: renew the list with `tfoctl pki crl` and copy it to the coordinator";
        (Outcome::Refused, "revocation_list_overdue", remedy.to_owned())
    } else if has("fatal alert") {
        let remedy = format!(
            "the coordinator does not accept your certificate (`cert` in ctl.toml): it is expired, revoked, or not from its \
             `client_ca`; issue a new one with `tfoctl pki issue --operator NAME`; this host's clock is at {now}"
        );
        (Outcome::Refused, "certificate_refused", remedy)
    } else if has("Expired") || has("expired") || has("NotValidYet") || has("not valid yet") {
        let remedy = format!(
            "this host's clock is at {now}: set it if that is wrong; if it is right, the coordinator needs a new \
             certificate (`tfoctl pki issue --coordinator NAME`)"
        );
        (Outcome::Failed, "coordinator_certificate", remedy)
    } else if has("NotValidForName") || has("not valid for name") {
        let remedy = "use the name or address of the coordinator's certificate in `urls`, or issue a certificate with \
                      --address";
        (Outcome::Config, "coordinator_name", remedy.to_owned())
    } else if has("UnknownIssuer") || has("BadSignature") {
        let remedy = "`ca` in ctl.toml must be the certificate of the authority that signed the coordinator's";
        (Outcome::Config, "wrong_ca", remedy.to_owned())
    } else {
        let remedy = "check that `urls` names the coordinator's API (port 9443 by default), not its dashboard";
        (Outcome::Failed, "tls", remedy.to_owned())
    };
    (outcome, Problem::error(kind, error.to_string(), remedy))
}

fn explain_kind(kind: ErrorKind) -> (Outcome, &'static str, &'static str) {
    use Outcome::{Config, Failed, Refused};
    match kind {
        ErrorKind::BadRequest => (
            Config,
            "bad_request",
            "check the arguments; the releases of tfoctl and the coordinator may also be incompatible",
        ),
        ErrorKind::NotAllowed => (
            Refused,
            "not_allowed",
            "add your certificate's DNS name to `operators` (or `viewers`, to look) in the coordinator's [access]",
        ),
        ErrorKind::NotInPool | ErrorKind::NotANode | ErrorKind::Denied => (
            Refused,
            "not_allowed",
            "this certificate is a node's, or denied: use an operator's (`cert` and `key` in ctl.toml)",
        ),
        ErrorKind::UnknownPool => (Config, "unknown_pool", "`tfoctl pools` lists the pools"),
        ErrorKind::UnknownToken => (Failed, "unknown_token", "`tfoctl token list` lists the tokens"),
        ErrorKind::UnknownNode => (Failed, "unknown_node", "`tfoctl nodes --all` lists the nodes"),
        ErrorKind::UnknownPath | ErrorKind::UnknownMethod => {
            (Failed, "unknown_path", "the coordinator's release does not support this command")
        }
        ErrorKind::Timeout => (Failed, "timeout", "try again; the network to the coordinator is slow"),
        ErrorKind::PoolFrozen => (
            Refused,
            "pool_frozen",
            "see `tfoctl check`: the coordinator's store was restored (`tfoctl recover`), or the node that it names lies (`tfoctl deny`)",
        ),
        ErrorKind::Refused => (Refused, "refused", "the message has the reason"),
        ErrorKind::Moved => {
            (Refused, "moved", "the pool has changed: look again (`tfoctl pools`, `tfoctl audit`), then decide")
        }
        ErrorKind::TooLarge => (Config, "too_large", "name fewer nodes at a time"),
        ErrorKind::NotHeard => (
            Refused,
            "not_heard",
            "after a start, a coordinator waits for a report of every node: wait, or exclude the nodes that will not return",
        ),
        ErrorKind::StoreUnavailable => {
            (Failed, "store_unavailable", "repair the coordinator's store; nothing was done")
        }
        ErrorKind::NoAuthority => {
            (Failed, "no_authority", "ask a coordinator that has the authority's key: name it in `urls`")
        }
        ErrorKind::Unavailable => (Failed, "unavailable", "it is busy or stopping: ask another coordinator"),
        ErrorKind::OtherPool
        | ErrorKind::TokenRefused
        | ErrorKind::NameNotAllowed
        | ErrorKind::NameTaken
        | ErrorKind::BadRequestKey
        | ErrorKind::NodeMoved
        | ErrorKind::SessionClosed
        | ErrorKind::TooFarAhead
        | ErrorKind::PeriodTooLong => (
            Failed,
            "refused",
            "this is an answer to a node: the releases of tfoctl and the coordinator are incompatible",
        ),
        ErrorKind::Internal => (Failed, "internal", "look up the request in the coordinator's log"),
        ErrorKind::Unknown => (
            Failed,
            "refused",
            "the coordinator's release is newer than this tfoctl; its own message explains the refusal",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_wire::client::Lost;

    fn tls(cause: &str) -> (Outcome, &'static str) {
        let error = ClientError::Tls { url: "https://c".to_owned(), cause: cause.to_owned() };
        let (outcome, problem) = explain(&error);
        (outcome, problem.kind)
    }

    #[test]
    fn tls_errors_name_the_side_at_fault() {
        // As rustls 0.23 writes them.
        assert_eq!(tls("received fatal alert: CertificateRevoked"), (Outcome::Refused, "certificate_refused"));
        assert_eq!(tls("received fatal alert: AccessDenied"), (Outcome::Refused, "revocation_list_overdue"));
        assert_eq!(tls("invalid peer certificate: UnknownIssuer"), (Outcome::Config, "wrong_ca"));
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired).to_string();
        assert_eq!(tls(&expired), (Outcome::Failed, "coordinator_certificate"));
        let early = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYet).to_string();
        assert_eq!(tls(&early), (Outcome::Failed, "coordinator_certificate"));
        let name = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName).to_string();
        assert_eq!(tls(&name), (Outcome::Config, "coordinator_name"));
        assert_eq!(tls("received corrupt message of type InvalidContentType"), (Outcome::Failed, "tls"));
    }

    #[test]
    fn a_refusal_outweighs_a_silence() {
        let silent = || {
            let (url, cause) = ("https://a".to_owned(), "refused".to_owned());
            ClientError::Unreachable { url, cause, lost: Lost::Away }
        };
        let alert = ClientError::Tls { url: "https://b".to_owned(), cause: "received fatal alert: X".to_owned() };
        let failure = not_answered(&[silent(), alert]);
        assert_eq!((failure.outcome, failure.problems.len()), (Outcome::Refused, 2));
        assert_eq!(not_answered(&[silent()]).outcome, Outcome::Failed);
    }
}
