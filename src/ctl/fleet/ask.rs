//! Asks the coordinators, one after the other, and does nothing twice.
//!
//! If a coordinator cannot answer, the next one is asked.  A command without an answer may have been done: the audit log
//! is read before anything is reported, and the revision or generation in a command keeps a repeated one from being done
//! again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::console::Relay;
use super::failure::{failed, not_answered, unknown_outcome};
use tfo_cli::report::{Failure, Format, Outcome, show_problems};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::fleet::Action;
use tfo_model::ids::{NodeId, PoolId, PoolName, TokenId};
use tfo_model::problem::Problem;
use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::{Call, Client, ClientError};
use tfo_wire::v1::chain::{AuditChain, EnrolmentChain};
use tfo_wire::v1::coordinators::{Coordinators, ForgetCoordinatorRequest};
use tfo_wire::v1::enrol::{Certified, RenewRequest};
use tfo_wire::v1::fleet::{Audit, AuditLine, Done, FRESH_SECS_MAX, Nodes, PoolStatus, Pools};
use tfo_wire::v1::tokens::{EnrolmentAudit, EnrolmentLine, MadeToken, TokenRequest, TokenStatus, Tokens};

/// Longest wait for one answer: a coordinator answers within its store's time limit, which is a few seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to ask again while all coordinators ask to come back later (503).
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two rounds without Retry-After.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Longest answer in bytes: the full status of ten thousand nodes has 8 MiB.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Most pages of the audit log that are read for one question.
const PAGES_MAX: usize = 1_000;

/// The coordinators of a fleet.
pub(super) struct Fleet {
    client: Client,
    urls: Vec<BaseUrl>,
    /// Our names, by our certificate.
    names: Vec<NodeId>,
    /// Index of the address that answered last: it is asked first.
    preferred: Cell<usize>,
    /// The form of notes on stderr; none for silence.
    notes: Option<Format>,
    /// The pools that were seen: a pool of the same name with another identity is another coordinator's.
    seen: RefCell<BTreeMap<PoolName, PoolId>>,
}

/// A command as a request.
pub(super) struct Request<B> {
    /// Path below the pool; the method is `POST`.
    pub(super) path: String,
    /// Body.
    pub(super) body: B,
    /// What the audit log calls it.
    pub(super) action: Action,
}

/// What is sent to a coordinator, and how long its answer may take.
struct Asked<'a, B> {
    method: &'a Method,
    path: &'a str,
    body: Option<&'a B>,
    timeout: Duration,
}

/// The entry that a command leaves in the audit log of its pool.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// The revision that the operator saw: the entry comes later.
    pub(super) after: Revision,
    /// Its action.
    pub(super) action: Action,
    /// The operator's reason.
    pub(super) reason: &'a str,
}

impl Entry<'_> {
    /// Whether the line has this reason.  The coordinator adds to it what it expects from then on, and
    /// where nodes were moved.
    fn is_reason_of(&self, line: &AuditLine) -> bool {
        match self.action {
            Action::Expect | Action::Forget | Action::Move => line.reason.starts_with(self.reason),
            _ => line.reason == self.reason,
        }
    }
}

/// Whether a command without an answer may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// It was not done.
    None,
    /// The connection was lost: if it was done, the audit log has it by now.
    Lost,
    /// No answer came in time: it may still be done.
    Late,
}

/// The result of asking each coordinator once.
enum Round<A> {
    Answer(A),
    /// Asking another one would bring the same.  `doubt`: whether an earlier one may have done it.
    Final {
        error: ClientError,
        doubt: Doubt,
    },
    /// The next address is another coordinator's.
    Foreign(Failure),
    /// No coordinator answered; `retry` if at least one asked to come back, `doubt` if one may have done it.
    NoAnswer {
        errors: Vec<ClientError>,
        retry: Option<Duration>,
        doubt: Doubt,
    },
}

impl Fleet {
    pub(super) fn new(client: Client, urls: Vec<BaseUrl>, names: Vec<NodeId>, notes: Option<Format>) -> Self {
        Self { client, urls, names, preferred: Cell::new(0), notes, seen: RefCell::default() }
    }

    /// The same coordinators for a browser.
    pub(super) fn relay(&self) -> Relay {
        Relay::new(self.client.clone(), self.urls.clone(), self.preferred.get())
    }

    /// All pools.
    pub(super) async fn pools(&self) -> Result<Pools, Failure> {
        let pools: Pools = self.read("/v1/pools").await?;
        pools.pools.iter().try_for_each(|status| self.recognise(status, self.preferred.get()))?;
        Ok(pools)
    }

    /// One pool.
    pub(super) async fn status(&self, pool: &PoolName) -> Result<PoolStatus, Failure> {
        let status = self.read(&format!("/v1/pools/{pool}")).await?;
        self.recognise(&status, self.preferred.get())?;
        Ok(status)
    }

    /// Fails if the pool of this name had another identity before: `urls` names two coordinators with stores of their own.
    fn recognise(&self, status: &PoolStatus, at: usize) -> Result<(), Failure> {
        let before = *self.seen.borrow_mut().entry(status.pool.clone()).or_insert(status.pool_id);
        if before == status.pool_id {
            return Ok(());
        }
        let url = &self.urls[at];
        let message = format!(
            "pool {} at {url} is another pool: its identity is {}, and was {before}",
            status.pool, status.pool_id
        );
        let remedy = "`urls` must be addresses of one coordinator; write a [contexts.NAME] for each fleet";
        Err(Failure::new(Outcome::Refused, Problem::error("other_pool", message, remedy)))
    }

    /// Remembers which address answered, and says so if one before it did not.
    fn answered(&self, at: usize, errors: &[ClientError]) {
        let before = self.preferred.replace(at);
        if let (Some(format), Some(error), true) = (self.notes, errors.first(), before != at) {
            let message = format!("{} answered instead: {error}", self.urls[at]);
            let remedy = "check the address that did not answer; `urls` must be addresses of one coordinator";
            // If stderr is closed, a note is not worth failing for.
            drop(show_problems(&[Problem::warning("other_address", message, remedy)], format));
        }
    }

    /// Its nodes.
    pub(super) async fn nodes(&self, pool: &PoolName) -> Result<Nodes, Failure> {
        self.read(&format!("/v1/pools/{pool}/nodes")).await
    }

    /// Its nodes as they are now: the coordinator asks them first.
    pub(super) async fn fresh_nodes(&self, pool: &PoolName) -> Result<Nodes, Failure> {
        let timeout = CALL_TIMEOUT + Duration::from_secs(FRESH_SECS_MAX);
        self.read_within(timeout, &format!("/v1/pools/{pool}/nodes?fresh=true")).await
    }

    /// All of its audit log after a revision.
    pub(super) async fn audit_after(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditLine>, Failure> {
        Ok(self.audit(pool, after, "").await?.0)
    }

    /// All of its audit log after a revision that fits the rest of the query, and the revision up to which it was read.
    pub(super) async fn audit(
        &self,
        pool: &PoolName,
        after: Revision,
        rest: &str,
    ) -> Result<(Vec<AuditLine>, Revision), Failure> {
        let (mut lines, mut read_to) = (Vec::new(), after);
        for _ in 0..PAGES_MAX {
            let Audit { entries, more, read_to: page_to, .. } =
                self.read(&format!("/v1/pools/{pool}/audit?after={read_to}{rest}")).await?;
            let before = read_to;
            read_to = entries.last().map_or(read_to, |line| line.revision).max(page_to);
            lines.extend(entries);
            if !more || read_to == before {
                break;
            }
        }
        Ok((lines, read_to))
    }

    /// The audit log after a revision as it is stored, to be verified.
    pub(super) async fn chain(&self, pool: &PoolName, after: Revision) -> Result<AuditChain, Failure> {
        self.read(&format!("/v1/pools/{pool}/audit/chain?after={after}")).await
    }

    /// The log of tokens and certificates as it is stored, after a number.
    pub(super) async fn enrolment_chain(&self, after: u64) -> Result<EnrolmentChain, Failure> {
        self.read(&format!("/v1/enrolment/audit/chain?after={after}")).await
    }

    /// Sends a command.
    pub(super) async fn send<B: Serialize>(
        &self,
        pool: &PoolName,
        request: &Request<B>,
        entry: Entry<'_>,
    ) -> Result<Done, Failure> {
        let path = format!("/v1/pools/{pool}{}", request.path);
        let asked = Asked { method: &Method::POST, path: &path, body: Some(&request.body), timeout: CALL_TIMEOUT };
        let start = clock::monotonic();
        let mut doubt = Doubt::None;
        loop {
            let (errors, retry) = match self.round(&asked, Some(pool)).await {
                Round::Answer(done) => return Ok(done),
                Round::Final { error, doubt: new } => {
                    return match doubt.max(new) {
                        Doubt::None => Err(failed(&error)),
                        doubt => self.settle(pool, entry, vec![error], doubt).await,
                    };
                }
                Round::Foreign(failure) => return Err(failure),
                Round::NoAnswer { errors, retry, doubt: new } => {
                    doubt = doubt.max(new);
                    (errors, retry)
                }
            };
            let left = clock::left_of(PATIENCE, start);
            match retry {
                Some(pause) if !left.is_zero() => tokio::time::sleep(pause.min(left)).await,
                _ if doubt != Doubt::None => return self.settle(pool, entry, errors, doubt).await,
                _ => return Err(not_answered(&errors)),
            }
        }
    }

    /// The coordinators of a pool.
    pub(super) async fn coordinators(&self, pool: &PoolName) -> Result<Coordinators, Failure> {
        self.read(&format!("/v1/pools/{pool}/coordinators")).await
    }

    /// Forgets one of them, and gives the others.  Without an answer it may be done: to ask again is harmless.
    pub(super) async fn forget_coordinator(
        &self,
        pool: &PoolName,
        wanted: &ForgetCoordinatorRequest,
    ) -> Result<Coordinators, Failure> {
        self.change(&Method::POST, &format!("/v1/pools/{pool}/coordinators"), Some(wanted)).await
    }

    /// Makes a token.  Without an answer one may have been made that is lost: it ends by itself.
    pub(super) async fn create_token(&self, wanted: &TokenRequest) -> Result<MadeToken, Failure> {
        self.change(&Method::POST, "/v1/tokens", Some(wanted)).await
    }

    /// Revokes a token.
    pub(super) async fn revoke_token(&self, id: &TokenId) -> Result<TokenStatus, Failure> {
        self.change::<(), _>(&Method::DELETE, &format!("/v1/tokens/{id}"), None).await
    }

    /// Another certificate under our own name.  Without an answer one may have been issued that is lost: its key is, too.
    pub(super) async fn certificate(&self, wanted: &RenewRequest) -> Result<Certified, Failure> {
        self.change(&Method::POST, "/v1/certificate", Some(wanted)).await
    }

    /// All tokens.
    pub(super) async fn tokens(&self) -> Result<Tokens, Failure> {
        self.read("/v1/tokens").await
    }

    /// All that happened to tokens and certificates after a number, and the number up to which it was read.
    pub(super) async fn enrolment_audit(&self, after: u64) -> Result<(Vec<EnrolmentLine>, u64), Failure> {
        let (mut lines, mut read_to) = (Vec::new(), after);
        for _ in 0..PAGES_MAX {
            let page: EnrolmentAudit = self.read(&format!("/v1/enrolment/audit?after={read_to}")).await?;
            let before = read_to;
            read_to = page.read_to.max(before);
            lines.extend(page.entries);
            if !page.more || read_to == before {
                break;
            }
        }
        Ok((lines, read_to))
    }

    /// A change outside of the pools' documents, which no audit log would show: asked once.
    async fn change<B: Serialize, A: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<A, Failure> {
        match self.round(&Asked { method, path, body, timeout: CALL_TIMEOUT }, None).await {
            Round::Answer(answer) => Ok(answer),
            Round::Final { error, .. } => Err(failed(&error)),
            Round::Foreign(failure) => Err(failure),
            Round::NoAnswer { errors, .. } => Err(not_answered(&errors)),
        }
    }

    /// Looks up in the audit log whether a command without an answer was done.
    async fn settle(
        &self,
        pool: &PoolName,
        entry: Entry<'_>,
        errors: Vec<ClientError>,
        doubt: Doubt,
    ) -> Result<Done, Failure> {
        let unknown = || unknown_outcome(&errors, pool, entry.after);
        let lines = self.audit_after(pool, entry.after).await.map_err(|_| unknown())?;
        let ours = |line: &AuditLine| {
            line.operator.as_ref().is_some_and(|operator| self.names.contains(operator))
                && line.action == entry.action
                && entry.is_reason_of(line)
        };
        match lines.into_iter().find(ours) {
            Some(AuditLine { revision, generation, phase, action, nodes, more, .. }) => {
                Ok(Done { pool: pool.clone(), revision, generation, phase, action, nodes, more })
            }
            // Not done yet: a slow coordinator may still be working on it.
            None if doubt == Doubt::Late => Err(unknown()),
            None => Err(errors.first().map_or_else(|| not_answered(&errors), failed)),
        }
    }

    async fn read<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        self.read_within(CALL_TIMEOUT, path).await
    }

    /// The same for what takes a coordinator longer.
    async fn read_within<A: DeserializeOwned>(&self, timeout: Duration, path: &str) -> Result<A, Failure> {
        let asked = Asked { method: &Method::GET, path, body: None, timeout };
        let start = clock::monotonic();
        loop {
            let (errors, retry) = match self.round::<(), A>(&asked, None).await {
                Round::Answer(answer) => return Ok(answer),
                Round::Final { error, .. } => return Err(failed(&error)),
                Round::Foreign(failure) => return Err(failure),
                Round::NoAnswer { errors, retry, .. } => (errors, retry),
            };
            let left = clock::left_of(PATIENCE, start);
            match retry {
                Some(pause) if !left.is_zero() => tokio::time::sleep(pause.min(left)).await,
                _ => return Err(not_answered(&errors)),
            }
        }
    }

    /// Fails if the pool at this address is not the one that was seen; an address that does not answer fails in its turn.
    async fn recognise_at(&self, at: usize, pool: &PoolName) -> Result<(), Failure> {
        let path = format!("/v1/pools/{pool}");
        let call =
            Call { method: &Method::GET, path: &path, timeout: CALL_TIMEOUT, answer_bytes_max: ANSWER_BYTES_MAX };
        match self.client.call::<(), PoolStatus>(&self.urls[at], call, None).await {
            Ok(Some(status)) => self.recognise(&status, at),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Asks each coordinator once, until one answers; a change to `pool` only where the pool is the one that was seen.
    async fn round<B: Serialize, A: DeserializeOwned>(
        &self,
        asked: &Asked<'_, B>,
        change: Option<&PoolName>,
    ) -> Round<A> {
        let (mut errors, mut retry, mut doubt) = (Vec::new(), None, Doubt::None);
        let Asked { method, path, body, timeout } = *asked;
        let call = Call { method, path, timeout, answer_bytes_max: ANSWER_BYTES_MAX };
        for step in 0..self.urls.len() {
            let at = (self.preferred.get() + step) % self.urls.len();
            if let Some(pool) = change.filter(|_| step > 0)
                && let Err(failure) = self.recognise_at(at, pool).await
            {
                return Round::Foreign(failure);
            }
            let error = match self.client.call(&self.urls[at], call, body).await {
                Ok(Some(answer)) => {
                    self.answered(at, &errors);
                    return Round::Answer(answer);
                }
                Ok(None) => {
                    let (url, what) = (self.urls[at].to_string(), "it is empty".to_owned());
                    ClientError::BadAnswer { url, what }
                }
                Err(error) => error,
            };
            match &error {
                ClientError::Refused { status: 503, retry_after, .. } => {
                    let pause = retry_after.unwrap_or(ROUND_PAUSE).max(Duration::from_millis(100));
                    retry = Some(retry.map_or(pause, |other: Duration| other.min(pause)));
                }
                // About the request itself: another coordinator would answer the same.
                ClientError::Refused { body: Some(_), .. } => {
                    self.answered(at, &errors);
                    return Round::Final { error, doubt };
                }
                // A proxy's page.
                ClientError::Refused { .. } | ClientError::Tls { .. } => {}
                error @ ClientError::Unreachable { .. } if error.is_late() => doubt = Doubt::Late,
                ClientError::Unreachable { .. } | ClientError::BadAnswer { .. } => doubt = doubt.max(Doubt::Lost),
            }
            errors.push(error);
        }
        Round::NoAnswer { errors, retry, doubt }
    }
}
