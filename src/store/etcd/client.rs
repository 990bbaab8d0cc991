//! Requests to an etcd cluster through its JSON gateway: members in turn, one token, one cluster.
//!
//! Invariants: every read is linearizable; a request that may have been done is not sent again; a client that has heard one
//! cluster hears no other, because two clusters that mirror each other have different histories.  Calls block, on a runtime
//! of the client's own.  Must not know: what is stored.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::auth::{Asked, EtcdUser, Given, Shown, Token};
use super::failure::Failure;
use super::wire::{Pair, Range, Transacted, Transaction};

/// How long a coordinator that serves waits for a read of a few keys.  Not longer: a read is what confirms a coordinator's copy, and
/// one that a stopped member does not answer goes to the next, which has to answer before the coordinator is blind: after five
/// seconds with the shortest `absent_after`.  Not shorter: a leader whose disk takes half a second for each `fdatasync` answers in
/// time (rows 1 and 4 of docs/reference/fault-matrix.md), and a new one is elected within the second.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// See there.
const BLIND_AFTER_MIN: Duration = Duration::from_secs(5);
const _: () = assert!(READ_TIMEOUT.as_millis() * 2 < BLIND_AFTER_MIN.as_millis(), "two members, one after another");
/// Keys of one page; a value is at most a megabyte.
const PAGE_KEYS: i64 = 64;
/// Longest answer: a page of the largest values, as base64.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// A connection that is not used for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a read is tried on a lone member, whose connection may have been cut by a restart.
const TRIES_MIN: usize = 2;

/// Where transactions go, reads included.
const TRANSACT: &str = "v3/kv/txn";

/// How to reach a cluster.
#[derive(Debug)]
pub struct EtcdSettings {
    /// The members: `https://HOST:2379`.
    pub urls: Vec<Url>,
    /// What every key begins with.
    pub prefix: String,
    /// Whom to trust, and the own certificate, if members ask for one.
    pub tls: rustls::ClientConfig,
    /// The user, if etcd has users.
    pub user: Option<EtcdUser>,
    /// The latest schema that this program writes: [`ETCD_SCHEMA`](crate::ETCD_SCHEMA).
    pub newest_schema: i64,
    /// How long it waits for the members.
    pub patience: Patience,
}

/// How long a client waits for a member before it asks the next one, or gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A coordinator that serves: nodes wait for it, and it has to know in time that it is blind (docs/protocol.md#rule-7).
    Serving,
    /// A command: a late answer is better than none, and on a busy machine a lone member may need seconds.
    Command,
}

impl Patience {
    const fn connect(self) -> Duration {
        Duration::from_secs(match self {
            Self::Serving => 1,
            Self::Command => 5,
        })
    }

    /// For a few keys.
    const fn read(self) -> Duration {
        match self {
            Self::Serving => READ_TIMEOUT,
            Self::Command => Duration::from_secs(10),
        }
    }

    /// For a page of a large read.
    const fn page(self) -> Duration {
        Duration::from_secs(match self {
            Self::Serving => 5,
            Self::Command => 15,
        })
    }

    /// For a transaction that may write: longer than etcd itself waits for a leader in the common case.
    const fn write(self) -> Duration {
        Duration::from_secs(match self {
            Self::Serving => 3,
            Self::Command => 10,
        })
    }
}

/// Connections to the members.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    urls: Vec<Url>,
    patience: Patience,
    user: Option<EtcdUser>,
    token: Token,
    /// The member that is asked first.
    at: AtomicUsize,
    /// Identity of the cluster; 0 before the first answer.
    cluster: AtomicU64,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

/// What a request is.
#[derive(Clone, Copy)]
struct Call {
    path: &'static str,
    timeout: Duration,
    /// It may be sent again.
    reads: bool,
}

impl Client {
    pub(super) fn new(settings: EtcdSettings) -> Result<Self, Failure> {
        let EtcdSettings { urls, tls, user, patience, .. } = settings;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("tfo-fleet/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(patience.connect())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true);
        let failed = |what: String| Failure::Refused { url: "this host".to_owned(), what };
        let http = http.build().map_err(|error| failed(error.to_string()))?;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let (at, cluster) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self { http, urls, patience, user, token: Token::default(), at, cluster, runtime: Some(runtime) })
    }

    /// The runtime; for what runs beside the calls.
    pub(super) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the client is dropped")
    }

    /// Reads few keys, of one revision.
    pub(super) fn read(&self, ranges: impl IntoIterator<Item = Range>) -> Result<Transacted, Failure> {
        self.transact(
            Call { path: TRANSACT, timeout: self.patience.read(), reads: true },
            &Transaction::reading(ranges),
        )
    }

    /// As [`Self::read`], if the answer may be long.
    pub(super) fn read_much(&self, ranges: impl IntoIterator<Item = Range>) -> Result<Transacted, Failure> {
        self.transact(
            Call { path: TRANSACT, timeout: self.patience.page(), reads: true },
            &Transaction::reading(ranges),
        )
    }

    /// Does one transaction, which may write.
    pub(super) fn write(&self, transaction: &Transaction) -> Result<Transacted, Failure> {
        self.transact(Call { path: TRANSACT, timeout: self.patience.write(), reads: false }, transaction)
    }

    /// Everything under a prefix as it was at one revision: that of `at`, or the present one if that is 0.
    ///
    /// Fails with [`Failure::Compacted`] if that takes so long that etcd forgets it.
    pub(super) fn read_all(&self, prefix: &str, at: i64) -> Result<(Vec<Pair>, i64), Failure> {
        self.read_all_beside(prefix, None, at).map(|(pairs, _, revision)| (pairs, revision))
    }

    /// The same, with another key of that revision.
    pub(super) fn read_all_beside(
        &self,
        prefix: &str,
        beside: Option<&str>,
        at: i64,
    ) -> Result<(Vec<Pair>, Option<Pair>, i64), Failure> {
        let (mut found, mut first, mut revision) = (Vec::new(), prefix.to_owned(), at);
        let mut other = None;
        loop {
            let page = Range::from(&first, prefix).limit(PAGE_KEYS).at(revision);
            let one = beside.filter(|_| found.is_empty()).map(|key| Range::one(key).at(revision));
            let mut read = self.read_much([page].into_iter().chain(one))?;
            if revision == 0 {
                revision = read.header.revision;
            }
            let mut ranges = read.take_ranges();
            let page = ranges.next().unwrap_or_default();
            found.extend(page.kvs);
            other = ranges.next().and_then(|mut range| range.kvs.pop()).or(other);
            match found.last() {
                // The first key after it.
                Some(last) if page.more => first = format!("{}\0", last.name()),
                Some(_) | None => return Ok((found, other, revision)),
            }
        }
    }

    /// The version of the member that answers, such as "3.4.23".
    pub(super) fn version(&self) -> Result<String, Failure> {
        self.runtime().block_on(async {
            let url = &self.urls[self.at.load(Ordering::Relaxed) % self.urls.len()];
            let asked = self.http.get(join(url, "version")).timeout(self.patience.read()).send().await;
            let lost = |error: reqwest::Error| Failure::without_answer(url.as_str(), &error);
            let mut answer = asked.map_err(lost)?;
            let body = body(&mut answer).await.map_err(lost)?.unwrap_or_default();
            let found: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let version = found.get("etcdserver").and_then(serde_json::Value::as_str);
            let foreign =
                || Failure::Refused { url: url.to_string(), what: "it does not answer as etcd does".to_owned() };
            version.map(str::to_owned).ok_or_else(foreign)
        })
    }

    /// What each member says of itself to monitoring, in the text format of Prometheus; none of those that say nothing there.
    pub(super) fn metrics(&self) -> Vec<(String, String)> {
        self.runtime().block_on(async {
            let mut found = Vec::new();
            for url in &self.urls {
                let Ok(mut answer) = self.http.get(join(url, "metrics")).timeout(self.patience.read()).send().await
                else {
                    continue;
                };
                let is_good = answer.status().is_success();
                if let (true, Ok(Some(body))) = (is_good, body(&mut answer).await) {
                    let name = url.as_str().trim_end_matches('/').to_owned();
                    found.push((name, String::from_utf8_lossy(&body).into_owned()));
                }
            }
            found
        })
    }

    fn transact(&self, call: Call, request: &Transaction) -> Result<Transacted, Failure> {
        let body = Zeroizing::new(serde_json::to_vec(request).expect("plain data"));
        self.runtime().block_on(self.ask_in_turn(call, &body))
    }

    /// Asks the member that answered last, and the others if that cannot be done twice.
    async fn ask_in_turn(&self, call: Call, body: &[u8]) -> Result<Transacted, Failure> {
        let (count, start) = (self.urls.len(), self.at.load(Ordering::Relaxed));
        let mut tries = 0..count.max(TRIES_MIN);
        loop {
            let index = (start + tries.next().unwrap_or_default()) % count;
            match self.ask(&self.urls[index], call, body).await {
                Ok(answer) => {
                    self.at.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) => {
                    // The next call begins with another one.
                    self.at.store((index + 1) % count, Ordering::Relaxed);
                    if !failure.goes_elsewhere(call.reads) || tries.is_empty() {
                        return Err(failure);
                    }
                    tracing::debug!(%failure, "asking another member");
                }
            }
        }
    }

    /// Asks one member; with a fresh token if it does not accept the present one.
    async fn ask(&self, url: &Url, call: Call, body: &[u8]) -> Result<Transacted, Failure> {
        let shown = self.shown(url, None).await?;
        let answer = match self.post(url, call, body, shown.as_ref()).await {
            Err(Failure::Token { .. }) if self.user.is_some() => {
                let shown = self.shown(url, shown.as_ref()).await?;
                self.post(url, call, body, shown.as_ref()).await?
            }
            answer => answer?,
        };
        let open = |what: String| Failure::Open { url: url.to_string(), what };
        let answer: Transacted =
            serde_json::from_slice(&answer).map_err(|error| open(format!("its answer is cut or foreign: {error}")))?;
        self.is_ours(answer.header.cluster_id).map_err(open)?;
        Ok(answer)
    }

    fn is_ours(&self, cluster: u64) -> Result<(), String> {
        match self.cluster.compare_exchange(0, cluster, Ordering::AcqRel, Ordering::Acquire) {
            Err(known) if known != cluster => {
                tracing::error!(
                    known,
                    found = cluster,
                    "a member belongs to another cluster; name the members of one cluster in store.urls"
                );
                Err(format!("it belongs to cluster {cluster:x}, and this coordinator has begun with {known:x}"))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The token, if there is a user; another one than `refused`.
    async fn shown(&self, url: &Url, refused: Option<&Shown>) -> Result<Option<Shown>, Failure> {
        let Some(user) = &self.user else { return Ok(None) };
        let make = async || {
            let asked = Asked { name: &user.name, password: &user.password };
            let body = Zeroizing::new(serde_json::to_vec(&asked).expect("plain data"));
            let call = Call { path: "v3/auth/authenticate", timeout: self.patience.read(), reads: true };
            // No token is made by a request whose outcome is open: nothing of the store is changed by it.
            let answer = self.post(url, call, &body, None).await.map_err(|failure| match failure {
                Failure::Open { url, what } | Failure::Token { url, what } => Failure::Away { url, what },
                other => other,
            })?;
            let given = serde_json::from_slice::<Given>(&answer);
            given
                .map(|given| Zeroizing::new(given.token))
                .map_err(|_| Failure::Away { url: url.to_string(), what: "its answer has no token".to_owned() })
        };
        self.token.get(refused, make).await.map(Some)
    }

    async fn post(
        &self,
        url: &Url,
        call: Call,
        body: &[u8],
        shown: Option<&Shown>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let request = self.http.post(join(url, call.path)).timeout(call.timeout);
        let request = request.header(CONTENT_TYPE, "application/json").body(body.to_vec());
        let request = with_token(request, shown);
        let lost = |error: reqwest::Error| Failure::without_answer(url.as_str(), &error);
        let mut answer = request.send().await.map_err(lost)?;
        let status = answer.status().as_u16();
        let Some(body) = self::body(&mut answer).await.map_err(lost)? else {
            return Err(Failure::Open { url: url.to_string(), what: "its answer is too long".to_owned() });
        };
        if status == 200 { Ok(body) } else { Err(Failure::of(url.as_str(), status, &body)) }
    }

    /// Opens a stream at the member after the present one for `turn` times.
    pub(super) async fn stream(
        &self,
        path: &str,
        body: &impl Serialize,
        turn: usize,
    ) -> Result<reqwest::Response, Failure> {
        let url = &self.urls[(self.at.load(Ordering::Relaxed) + turn) % self.urls.len()];
        let shown = self.shown(url, None).await?;
        let request = self.http.post(join(url, path)).header(CONTENT_TYPE, "application/json");
        let request = request.body(serde_json::to_vec(body).expect("plain data"));
        let request = with_token(request, shown.as_ref());
        let lost = |error: reqwest::Error| Failure::without_answer(url.as_str(), &error);
        let mut answer = request.send().await.map_err(lost)?;
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok(answer);
        }
        let body = self::body(&mut answer).await.map_err(lost)?.unwrap_or_default();
        let failure = Failure::of(url.as_str(), status, &body);
        if let (Failure::Token { .. }, Some(_)) = (&failure, &self.user) {
            // The next try has another one.
            self.shown(url, shown.as_ref()).await?;
        }
        Err(failure)
    }

    /// The members, for messages.
    pub(super) fn members(&self) -> String {
        let urls: Vec<&str> = self.urls.iter().map(|url| url.as_str().trim_end_matches('/')).collect();
        urls.join(",")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A runtime that waits for its tasks may not be dropped by a thread that runs others.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The whole body; none if it is too long.
async fn body(answer: &mut reqwest::Response) -> Result<Option<Zeroizing<Vec<u8>>>, reqwest::Error> {
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn with_token(request: reqwest::RequestBuilder, shown: Option<&Shown>) -> reqwest::RequestBuilder {
    match shown.map(|shown| HeaderValue::from_str(shown.text())) {
        Some(Ok(mut token)) => {
            token.set_sensitive(true);
            request.header(AUTHORIZATION, token)
        }
        Some(Err(_)) | None => request,
    }
}

fn join(url: &Url, path: &str) -> Url {
    let mut joined = url.clone();
    joined.set_path(path);
    joined
}
