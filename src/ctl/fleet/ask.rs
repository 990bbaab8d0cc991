//! Asking the coordinators, one after the other, and never doing a thing twice.
//!
//! Reads go to the next coordinator where one cannot answer.  Commands do too, but whether an unanswered one was done is
//! unknown: the audit log is asked before anything is said about it, and what a command carries (revision, generation)
//! keeps its repetition from being done as well.

use std::cell::Cell;
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::{failed, not_answered, unknown_outcome};
use crate::report::Failure;
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::fleet::Action;
use tfo_model::ids::{NodeId, PoolName};
use tfo_wire::client::{BaseUrl, Call, Client, ClientError};
use tfo_wire::v1::fleet::{Audit, AuditLine, Done, Nodes, PoolStatus, Pools};

/// Longest wait for one answer: a coordinator answers within its store's time limit, which is a few seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long coordinators that all ask to come back later (503) are asked again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two rounds where no Retry-After says another.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Longest answer in bytes: ten thousand nodes with everything that is known of each are 8 MiB.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Most pages of the audit log that are read for one question.
const PAGES_MAX: usize = 1_000;

/// The coordinators of a fleet.
pub(super) struct Fleet {
    client: Client,
    urls: Vec<BaseUrl>,
    /// Who we are to them.
    names: Vec<NodeId>,
    /// Who answered last: it is asked first.
    preferred: Cell<usize>,
}

/// A command on its way, and what tells it from others in the audit log.
pub(super) struct Order<'a, B> {
    /// `POST`, `PUT`, `DELETE`.
    pub(super) method: Method,
    /// Below the pool.
    pub(super) path: String,
    /// The body; none for DELETE.
    pub(super) body: Option<&'a B>,
    /// The pool.
    pub(super) pool: &'a PoolName,
    /// Its revision as the operator saw it.
    pub(super) seen: Revision,
    /// What the audit log calls it.
    pub(super) action: Action,
    /// What the operator said.
    pub(super) reason: &'a str,
}

/// Whether a command without an answer may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// It was not.
    None,
    /// The connection was lost: what was done is in the log by now.
    Lost,
    /// No answer came in time: it may be done still.
    Late,
}

/// What a round over all coordinators brought.
enum Round<A> {
    Answer(A),
    /// The last word: asking another one would bring the same.  `doubt`: one before may have done it.
    Final {
        error: ClientError,
        doubt: Doubt,
    },
    /// Nobody answered; `retry` if at least one asked to come back, `doubt` if one may have done it.
    Nobody {
        errors: Vec<ClientError>,
        retry: Option<Duration>,
        doubt: Doubt,
    },
}

impl Fleet {
    pub(super) fn new(client: Client, urls: Vec<BaseUrl>, names: Vec<NodeId>) -> Self {
        Self { client, urls, names, preferred: Cell::new(0) }
    }

    /// All pools.
    pub(super) async fn pools(&self) -> Result<Pools, Failure> {
        self.read("/v1/pools").await
    }

    /// One pool.
    pub(super) async fn status(&self, pool: &PoolName) -> Result<PoolStatus, Failure> {
        self.read(&format!("/v1/pools/{pool}")).await
    }

    /// Its nodes.
    pub(super) async fn nodes(&self, pool: &PoolName) -> Result<Nodes, Failure> {
        self.read(&format!("/v1/pools/{pool}/nodes")).await
    }

    /// A page of its audit log.
    pub(super) async fn audit(&self, pool: &PoolName, after: Revision) -> Result<Audit, Failure> {
        self.read(&format!("/v1/pools/{pool}/audit?after={after}")).await
    }

    /// All of its audit log after a revision.
    pub(super) async fn audit_after(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditLine>, Failure> {
        let mut lines: Vec<AuditLine> = Vec::new();
        for _ in 0..PAGES_MAX {
            let after = lines.last().map_or(after, |line| line.revision);
            let page = self.audit(pool, after).await?;
            let got_any = !page.entries.is_empty();
            lines.extend(page.entries);
            if !page.more || !got_any {
                break;
            }
        }
        Ok(lines)
    }

    /// Sends a command.
    pub(super) async fn order<B: Serialize>(&self, order: &Order<'_, B>) -> Result<Done, Failure> {
        let path = format!("/v1/pools/{}{}", order.pool, order.path);
        let start = clock::monotonic();
        let mut doubt = Doubt::None;
        loop {
            let (errors, retry) = match self.round(&order.method, &path, order.body).await {
                Round::Answer(done) => return Ok(done),
                Round::Final { error, doubt: new } => {
                    return match doubt.max(new) {
                        Doubt::None => Err(failed(&error)),
                        doubt => self.settle(order, vec![error], doubt).await,
                    };
                }
                Round::Nobody { errors, retry, doubt: new } => {
                    doubt = doubt.max(new);
                    (errors, retry)
                }
            };
            let left = clock::left_of(PATIENCE, start);
            match retry {
                Some(pause) if !left.is_zero() => tokio::time::sleep(pause.min(left)).await,
                _ if doubt != Doubt::None => return self.settle(order, errors, doubt).await,
                _ => return Err(not_answered(&errors)),
            }
        }
    }

    /// Whether a command that nobody answered was done all the same: the audit log knows.
    async fn settle<B>(&self, order: &Order<'_, B>, errors: Vec<ClientError>, doubt: Doubt) -> Result<Done, Failure> {
        let Ok(lines) = self.audit_after(order.pool, order.seen).await else {
            return Err(unknown_outcome(&errors, order.pool, order.seen));
        };
        let ours = |line: &AuditLine| {
            line.operator.as_ref().is_some_and(|operator| self.names.contains(operator))
                && line.action == order.action
                && line.reason == order.reason
        };
        match lines.into_iter().find(ours) {
            Some(AuditLine { revision, generation, phase, action, nodes, .. }) => {
                Ok(Done { pool: order.pool.clone(), revision, generation, phase, action, nodes })
            }
            // Not done yet: a coordinator that is slow may be at it.
            None if doubt == Doubt::Late => Err(unknown_outcome(&errors, order.pool, order.seen)),
            None => Err(errors.first().map_or_else(|| not_answered(&errors), failed)),
        }
    }

    async fn read<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        let start = clock::monotonic();
        loop {
            let (errors, retry) = match self.round::<(), A>(&Method::GET, path, None).await {
                Round::Answer(answer) => return Ok(answer),
                Round::Final { error, .. } => return Err(failed(&error)),
                Round::Nobody { errors, retry, .. } => (errors, retry),
            };
            let left = clock::left_of(PATIENCE, start);
            match retry {
                Some(pause) if !left.is_zero() => tokio::time::sleep(pause.min(left)).await,
                _ => return Err(not_answered(&errors)),
            }
        }
    }

    /// Asks each coordinator once, until one answers.
    async fn round<B: Serialize, A: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&B>,
    ) -> Round<A> {
        let (mut errors, mut retry, mut doubt) = (Vec::new(), None, Doubt::None);
        let call = Call { method, path, timeout: CALL_TIMEOUT, answer_bytes_max: ANSWER_BYTES_MAX };
        for step in 0..self.urls.len() {
            let at = (self.preferred.get() + step) % self.urls.len();
            let error = match self.client.call(&self.urls[at], call, body).await {
                Ok(Some(answer)) => {
                    self.preferred.set(at);
                    return Round::Answer(answer);
                }
                Ok(None) => {
                    let (url, what) = (self.urls[at].to_string(), "there is nothing in it".to_owned());
                    ClientError::BadAnswer { url, what }
                }
                Err(error) => error,
            };
            match &error {
                ClientError::Refused { status: 503, retry_after, .. } => {
                    let pause = retry_after.unwrap_or(ROUND_PAUSE).max(Duration::from_millis(100));
                    retry = Some(retry.map_or(pause, |other: Duration| other.min(pause)));
                }
                // Ours, about the request: another coordinator would say the same.
                ClientError::Refused { body: Some(_), .. } => {
                    self.preferred.set(at);
                    return Round::Final { error, doubt };
                }
                // A proxy's page.
                ClientError::Refused { .. } | ClientError::Tls { .. } => {}
                error @ ClientError::Unreachable { .. } if error.is_late() => doubt = Doubt::Late,
                ClientError::Unreachable { .. } | ClientError::BadAnswer { .. } => doubt = doubt.max(Doubt::Lost),
            }
            errors.push(error);
        }
        Round::Nobody { errors, retry, doubt }
    }
}
