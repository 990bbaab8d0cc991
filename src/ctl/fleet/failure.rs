//! What a coordinator's refusal, or its silence, means for the operator: the exit code and the remedy.

use tfo_cli::report::{Failure, Outcome};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_wire::client::ClientError;
use tfo_wire::error::ErrorKind;

/// One error, which is the last word.
pub(super) fn failed(error: &ClientError) -> Failure {
    let (outcome, problem) = explain(error);
    Failure::new(outcome, problem)
}

/// Nobody answered: what each of them said.
pub(super) fn not_answered(errors: &[ClientError]) -> Failure {
    let explained: Vec<(Outcome, Problem)> = errors.iter().map(explain).collect();
    // The most telling one decides the exit code: a refusal before a silence.
    let outcomes: Vec<Outcome> = explained.iter().map(|(outcome, _)| *outcome).collect();
    let order = [Outcome::Refused, Outcome::Config];
    let outcome = order.into_iter().find(|outcome| outcomes.contains(outcome)).unwrap_or(Outcome::Failed);
    Failure { problems: explained.into_iter().map(|(_, problem)| problem).collect(), outcome }
}

/// A command was sent, no answer came, and nobody can be asked whether it was done.
pub(super) fn unknown_outcome(errors: &[ClientError], pool: &PoolName, seen: Revision) -> Failure {
    let mut failure = not_answered(errors);
    let message = "the command was sent, and nobody says whether it was done";
    let remedy = format!("look before you repeat it: tfoctl audit --pool {pool} --after {seen}");
    failure.problems.push(Problem::error("unknown_outcome", message, remedy));
    failure.outcome = Outcome::Failed;
    failure
}

fn explain(error: &ClientError) -> (Outcome, Problem) {
    match error {
        ClientError::Unreachable { .. } => {
            let remedy =
                "see whether that coordinator runs and listens there: `urls` in ctl.toml, its service, firewalls";
            (Outcome::Failed, Problem::error("unreachable", error.to_string(), remedy))
        }
        ClientError::Tls { cause, .. } => explain_tls(error, cause),
        ClientError::Refused { body: Some(body), .. } => {
            let (outcome, kind, remedy) = explain_kind(body.kind);
            (outcome, Problem::error(kind, error.to_string(), remedy))
        }
        ClientError::Refused { body: None, .. } => {
            let remedy = "that is no coordinator's answer: see what else listens there, such as a proxy";
            (Outcome::Failed, Problem::error("bad_answer", error.to_string(), remedy))
        }
        ClientError::BadAnswer { .. } => {
            let remedy =
                "see whether `urls` names a tfo-coordinator, and whether both are of releases that fit together";
            (Outcome::Failed, Problem::error("bad_answer", error.to_string(), remedy))
        }
    }
}

fn explain_tls(error: &ClientError, cause: &str) -> (Outcome, Problem) {
    let says = |text: &str| cause.contains(text);
    let now = clock::now();
    let (outcome, kind, remedy) = if says("fatal alert") {
        let remedy = format!(
            "the coordinator does not take your certificate (`cert` in ctl.toml): expired, revoked, or not of its \
             `client_ca`; issue a new one with `tfoctl pki issue --operator NAME`; this host's clock says {now}"
        );
        (Outcome::Refused, "certificate_refused", remedy)
    } else if says("Expired") || says("expired") || says("NotValidYet") || says("not valid yet") {
        let remedy = format!(
            "this host's clock says {now}: set it if that is wrong; if it is right, the coordinator needs a new \
             certificate (`tfoctl pki issue --coordinator NAME`)"
        );
        (Outcome::Failed, "coordinator_certificate", remedy)
    } else if says("NotValidForName") || says("not valid for name") {
        let remedy = "write the name or address that is in the coordinator's certificate into `urls`, or issue one with \
                      --address";
        (Outcome::Config, "coordinator_name", remedy.to_owned())
    } else if says("UnknownIssuer") || says("BadSignature") {
        let remedy = "`ca` in ctl.toml must be the certificate of the authority that signed the coordinator's";
        (Outcome::Config, "wrong_ca", remedy.to_owned())
    } else {
        let remedy = "see whether `urls` names the coordinator's API (9443 by default), not its plain page";
        (Outcome::Failed, "tls", remedy.to_owned())
    };
    (outcome, Problem::error(kind, error.to_string(), remedy))
}

fn explain_kind(kind: ErrorKind) -> (Outcome, &'static str, &'static str) {
    use Outcome::{Config, Failed, Refused};
    match kind {
        ErrorKind::BadRequest => (Config, "bad_request", "mend the arguments; or the releases do not fit together"),
        ErrorKind::NotAllowed => (
            Refused,
            "not_allowed",
            "name your certificate's DNS name in `operators` (or `viewers`, to look) of the coordinator's [access]",
        ),
        ErrorKind::NotInPool | ErrorKind::Denied => {
            (Refused, "not_allowed", "this is a node's certificate, or a denied one: use an operator's (`cert`, `key`)")
        }
        ErrorKind::UnknownPool => (Config, "unknown_pool", "see `tfoctl pools` for the pools there are"),
        ErrorKind::UnknownNode => (Failed, "unknown_node", "see `tfoctl nodes --all` for the nodes there are"),
        ErrorKind::UnknownPath | ErrorKind::UnknownMethod => {
            (Failed, "unknown_path", "the coordinator is of a release that does not know this command")
        }
        ErrorKind::Timeout => (Failed, "timeout", "try again; the network between here and there is slow"),
        ErrorKind::PoolFrozen => (
            Refused,
            "pool_frozen",
            "the coordinator's store is older than its fleet: see `tfoctl pools`, then `tfoctl recover`",
        ),
        ErrorKind::Refused => (Refused, "refused", "see `tfoctl pools` and `tfoctl nodes` for how it stands now"),
        ErrorKind::Moved => {
            (Refused, "moved", "somebody was quicker: look again (`tfoctl pools`, `tfoctl audit`), and decide anew")
        }
        ErrorKind::TooLarge => (Config, "too_large", "name fewer nodes at once"),
        ErrorKind::NotHeard => (
            Refused,
            "not_heard",
            "a coordinator that was started hears every node before it acts: wait, or exclude who will not come back",
        ),
        ErrorKind::StoreUnavailable => {
            (Failed, "store_unavailable", "see to the coordinator's store; nothing was done")
        }
        ErrorKind::Unavailable => {
            (Failed, "unavailable", "it is stopping, or its configuration file differs: ask another")
        }
        ErrorKind::OtherPool | ErrorKind::SessionClosed | ErrorKind::TooFarAhead => {
            (Failed, "refused", "this is an answer to nodes: the releases do not fit together")
        }
        ErrorKind::Internal => (Failed, "internal", "see the coordinator's log under that request"),
        ErrorKind::Unknown => (Failed, "refused", "the coordinator is of a later release: see what it says"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(cause: &str) -> (Outcome, &'static str) {
        let error = ClientError::Tls { url: "https://c".to_owned(), cause: cause.to_owned() };
        let (outcome, problem) = explain(&error);
        (outcome, problem.kind)
    }

    #[test]
    fn tls_errors_say_whose_they_are() {
        // As rustls 0.23 writes them.
        assert_eq!(tls("received fatal alert: CertificateRevoked"), (Outcome::Refused, "certificate_refused"));
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
        let silent = || ClientError::Unreachable { url: "https://a".to_owned(), cause: "refused".to_owned() };
        let alert = ClientError::Tls { url: "https://b".to_owned(), cause: "received fatal alert: X".to_owned() };
        let failure = not_answered(&[silent(), alert]);
        assert_eq!((failure.outcome, failure.problems.len()), (Outcome::Refused, 2));
        assert_eq!(not_answered(&[silent()]).outcome, Outcome::Failed);
    }
}
