//! The request for a certificate, and what came back.  Until all of it is in its places it is kept in one file, because a
//! token's use is spent and the answer comes once.

use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::contact::refusal;
use tfo_cli::report::{Failure, Outcome};
use tfo_crypto::random;
use tfo_engine::backoff::part;
use tfo_host::runtime::{clock, event_loop};
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::problem::{Problem, chain, printable};
use tfo_model::time::UnixTime;
use tfo_pki::token::{AuthorityPin, Token};
use tfo_pki::{issued, request};
use tfo_tls::pinned::{OTHER_AUTHORITY, pinned_config};
use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::{Call, Client, ClientError, Lost};
use tfo_wire::v1::enrol::{ANSWER_BYTES_MAX, Certified, EnrolRequest};

/// Longest time for one coordinator.
const PATIENCE: Duration = Duration::from_secs(15);
/// Rounds over all addresses while each of them is away, or fails.
const ROUNDS: u32 = 3;
/// How long a coordinator that takes no connection is asked again: a thousand nodes may come in the same minute.
const CROWD_PATIENCE: Duration = Duration::from_secs(60);
/// Pauses between rounds, the first and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Longest remedy of a coordinator that is shown, in bytes.
const REMEDY_BYTES_MAX: usize = 500;
/// Most addresses that are taken over into a configuration (as many as it may have).
const URLS_MAX: usize = 8;

/// A certificate with its key, and what the configuration needs.  Persisted: `NAME.join`, from the answer until everything
/// is in its place; the names of its fields may change between releases, and the file is then not used.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    pub(super) name: NodeId,
    #[serde(with = "wiped")]
    key: Zeroizing<String>,
    pub(super) certificate: String,
    pub(super) chain: String,
    pub(super) pools: Vec<PoolName>,
    pub(super) urls: Vec<String>,
}

/// The key as text, wiped on drop.
mod wiped {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(key: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(key)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

impl Answer {
    /// The private key, PEM.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The end of the certificate, if key, certificate and chain belong together and are good now.
    pub(super) fn until(&self, now: UnixTime) -> Option<UnixTime> {
        let pair = (self.certificate.as_str(), self.chain.as_str());
        issued::check(pair, &self.key, &self.name, None, now).ok().map(|good| good.life.until())
    }
}

/// Asks the coordinators of the token, one after the other, until one has answered.
pub(super) fn ask(token: &Token, name: &NodeId) -> Result<Answer, Failure> {
    let made = request::make(name).map_err(|error| {
        failed(Problem::error(
            "no_randomness",
            chain(&error),
            "try again; if it stays, this is a bug, please report it",
        ))
    })?;
    let pin = token.pin;
    let tls = pinned_config(move |certificate| AuthorityPin::of(certificate).is_ok_and(|found| found == pin));
    let client = Client::new(tls);
    let runtime = event_loop::new();
    let (Ok(client), Ok(runtime)) = (client, runtime) else {
        return Err(failed(Problem::error(
            "http_client",
            "cannot make an HTTP client",
            "check the limits of this process",
        )));
    };
    let body =
        EnrolRequest { token_id: token.id.clone(), secret: token.secret.text(), name: name.clone(), csr: made.csr };
    let call = Call { method: &Method::POST, path: "/v1/enrol", timeout: PATIENCE, answer_bytes_max: ANSWER_BYTES_MAX };
    let asked = runtime.block_on(rounds(&client, &token.urls, call, &body));
    runtime.shutdown_background();
    let (base, certified) = asked?;
    let certified = certified.ok_or_else(|| unusable(base, "it is empty"))?;
    let pair = (certified.certificate.as_str(), certified.chain.as_str());
    let checked = issued::check(pair, &made.key, name, Some(token.pin), clock::now());
    checked.map_err(|bad| unusable(base, &bad.to_string()))?;
    let good_urls = certified.urls.iter().all(|url| url.parse::<BaseUrl>().is_ok());
    if !(1..=URLS_MAX).contains(&certified.urls.len()) || !good_urls || certified.pools.is_empty() {
        return Err(unusable(base, "it names no pool, or no address of the API"));
    }
    let Certified { certificate, chain, pools, urls } = certified;
    Ok(Answer { name: name.clone(), key: made.key, certificate, chain, pools, urls })
}

/// Asks each address, and all of them again after a pause where none could answer: a whole fleet may come at once, and a
/// coordinator takes so many in a second.
async fn rounds<'a>(
    client: &Client,
    urls: &'a [BaseUrl],
    call: Call<'_>,
    body: &EnrolRequest,
) -> Result<(&'a BaseUrl, Option<Certified>), Failure> {
    let began = clock::monotonic();
    let (mut pause, mut round) = (PAUSE_MIN, 0);
    loop {
        round += 1;
        let (mut problems, mut is_crowded, mut may_pass) = (Vec::new(), false, false);
        for base in urls {
            match client.call::<_, Certified>(base, call, Some(body)).await {
                Ok(certified) => return Ok((base, certified)),
                Err(error) => {
                    let failure = explained(&error);
                    // Another coordinator has the same tokens, and would refuse it, too.
                    if failure.outcome == Outcome::Refused {
                        return Err(failure);
                    }
                    is_crowded |= matches!(&error, ClientError::Unreachable { lost: Lost::NoConnection, .. });
                    may_pass |=
                        matches!(&error, ClientError::Unreachable { .. } | ClientError::Refused { status: 500.., .. });
                    problems.extend(failure.problems);
                }
            }
        }
        let is_late = clock::left_of(CROWD_PATIENCE, began).is_zero();
        if !may_pass || is_late || (!is_crowded && round >= ROUNDS) {
            return Err(Failure { problems, outcome: Outcome::Failed });
        }
        let share = u32::try_from(random::fresh_u64().unwrap_or(0) >> 32).expect("32 bits are left");
        tokio::time::sleep(pause / 2 + part(pause, share)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn failed(problem: Problem) -> Failure {
    Failure::new(Outcome::Failed, problem)
}

fn unusable(base: &BaseUrl, what: &str) -> Failure {
    let message = format!("{base} sent a certificate that cannot be used: {what}");
    let remedy = "compare the releases of agent and coordinator, and their clocks; a use of the token may be spent";
    failed(Problem::error("certificate_unusable", message, remedy))
}

/// Why a coordinator gave no certificate.
fn explained(error: &ClientError) -> Failure {
    let message = error.to_string();
    match error {
        ClientError::Refused { body: Some(body), status, .. } => {
            let (kind, ours) = refusal(body.kind);
            // The coordinator knows more; its text is a peer's.
            let theirs = body.remedy.as_deref().filter(|remedy| remedy.len() <= REMEDY_BYTES_MAX);
            let remedy = theirs.map_or_else(|| ours.to_owned(), |theirs| format!("{ours}; {}", printable(theirs)));
            let outcome = if matches!(status, 400..500) { Outcome::Refused } else { Outcome::Failed };
            Failure::new(outcome, Problem::error(kind, message, remedy))
        }
        ClientError::Refused { body: None, .. } | ClientError::BadAnswer { .. } => failed(Problem::error(
            "not_enrolment",
            message,
            "check that the token's address is the enrolment port of a coordinator (9444 by default)",
        )),
        ClientError::Tls { cause, .. } if cause.contains(OTHER_AUTHORITY) => Failure::new(
            Outcome::Refused,
            Problem::error(
                "wrong_authority",
                message,
                "nothing was sent: either another server answers at this address, or the token is of another fleet",
            ),
        ),
        ClientError::Tls { .. } => failed(Problem::error(
            "coordinator_tls",
            message,
            "check the names and addresses in the coordinator's certificate (`init --address`), and the clocks of both hosts",
        )),
        ClientError::Unreachable { .. } => failed(Problem::error(
            "coordinator_unreachable",
            message,
            "check that host, its `[enrolment]` and the network to its port; if the request was sent, a use of the token may be \
             spent, and the name taken",
        )),
    }
}
