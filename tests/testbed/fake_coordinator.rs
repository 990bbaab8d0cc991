//! A scripted coordinator: real TLS and HTTP, and answers that the test chooses.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tfo_crypto::fingerprint::pair_print;
use tfo_model::key_text;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::config::client_files;
use crate::daemon::{DaemonHost, key_text};
use crate::pki::{Ca, Identity, open_server_config, server_config};
use crate::{NetNs, SOON, poll_some};

/// The pool's identity in every answer that says nothing else.
pub const POOL_ID: &str = "0123456789abcdef0123456789abcdef";
/// Longest body that is read.
const BODY_BYTES_MAX: usize = 1 << 22;
/// Longest wait for connections to end.
const END_MAX: Duration = Duration::from_secs(5);

/// What a request gets.
#[derive(Debug, Clone)]
pub enum Reply {
    /// JSON with a status.
    Json(u16, Value),
    /// The same, with a Retry-After in seconds.
    RetryAfter(u16, Value, u64),
    /// Bytes as they are, with a status.
    Raw(u16, String),
    /// This answer with 200, however long it takes the test to open the gate ([`FakeCoordinator::open_gate`]).
    Gated(Value),
    /// The request is read, and the connection closed.
    Drop,
    /// The request is read, and not answered.
    Hang,
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The connection that it came over, from 0.
    pub connection: u64,
    /// `POST /v1/pools/edge/pause`, with its query.
    pub what: String,
    /// Null if there was none.
    pub body: Value,
    /// What a console wants in the forms of a page; empty from other programs.
    pub form_token: String,
}

/// Answers requests by their bodies; may block.
type Relay = Arc<dyn Fn(&Value) -> Reply + Send + Sync>;

/// Certifies a certificate request, PEM.
type Signer = Arc<dyn Fn(&str) -> String + Send + Sync>;

#[derive(Default)]
struct Script {
    /// By method and path, with its query or without; the last reply stays.
    by_path: HashMap<String, VecDeque<Reply>>,
    /// For the next requests, whatever they are about.
    replies: VecDeque<Reply>,
    /// The same for every request, until it is taken away.
    always: Option<Reply>,
    /// What is served to nodes as a coordinator would, where there is no reply for them.
    desired: Option<Value>,
    /// Answers in place of that.
    relay: Option<Relay>,
    /// Answers certificate requests, where there is no reply for them, with the rest of the answer.
    signer: Option<(Signer, Value)>,
    asked: Vec<Asked>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    gate: AtomicBool,
    connections: AtomicU64,
}

/// A coordinator.
pub struct FakeCoordinator {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl FakeCoordinator {
    /// On 127.0.0.1 in a namespace; has nothing for nodes before [`FakeCoordinator::tell`].
    pub fn start(netns: &NetNs, ca: &Ca) -> Self {
        Self::start_on(netns, ca, "127.0.0.1:0")
    }

    /// The same at this address.
    pub fn start_on(netns: &NetNs, ca: &Ca, address: &str) -> Self {
        Self::start_as(netns, ca, address, &ca.both(&["localhost", "127.0.0.1"]))
    }

    /// One that this node prefers less than `first`.
    pub fn start_behind(first: &Self, node: &str, netns: &NetNs, ca: &Ca) -> Self {
        loop {
            let second = Self::start(netns, ca);
            // The order follows from the ports, which chance has given.
            if tfo_engine::route::preferred(node, &[first.url(), second.url()])[0] == 0 {
                return second;
            }
        }
    }

    /// The same with this certificate.
    pub fn start_as(netns: &NetNs, ca: &Ca, address: &str, identity: &Identity) -> Self {
        let listener = netns.run(|| std::net::TcpListener::bind(address)).unwrap();
        Self::serve(listener, server_config(&ca.pem, None, identity))
    }

    /// The enrolment port of one: it takes clients without a certificate.
    pub fn enrolling(netns: &NetNs, ca: &Ca) -> Self {
        let listener = netns.run(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        Self::serve(listener, open_server_config(&ca.pem, &ca.both(&["localhost", "127.0.0.1"])))
    }

    /// With the certificate of `name` in a directory of `tfoctl pki`, on 127.0.0.1.
    pub fn with_pki(pki: &Path, name: &str) -> Self {
        let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
        let config = server_config(
            &read("ca.crt"),
            Some(&read("crl.pem")),
            &Identity::read(pki, &format!("{name}/coordinator")),
        );
        Self::serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), config)
    }

    fn serve(listener: std::net::TcpListener, config: ServerConfig) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (shared, acceptor) = (Arc::new(Shared::default()), TlsAcceptor::from(Arc::new(config)));
        let state = Arc::clone(&shared);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&state)));
            }
        });
        Self { address, shared, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The address, to start another one there.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends the listener and all connections.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END_MAX);
        }
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap()
    }

    /// Sets the pool's instruction for nodes.
    pub fn tell(&self, desired: Value) {
        self.script().desired = Some(desired);
    }

    /// Lets `relay` answer what no reply is set for, such as a real coordinator behind it; it may block.
    pub fn relay(&self, relay: impl Fn(&Value) -> Reply + Send + Sync + 'static) {
        self.script().relay = Some(Arc::new(relay));
    }

    /// Certifies requests by `ca`, for so many seconds; the answers name `urls`.
    pub fn certify(&self, ca: &Ca, secs: i64, urls: &[String]) {
        self.certify_with(ca, secs, &ca.pem, urls);
    }

    /// The same; these authorities come with the certificates.
    pub fn certify_with(&self, ca: &Ca, secs: i64, chain: &str, urls: &[String]) {
        let rest = json!({"chain": chain, "pools": ["edge"], "urls": urls});
        self.script().signer = Some((Arc::new(ca.signer(secs)), rest));
    }

    /// The next requests get these, in their order.
    pub fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.script().replies.extend(replies);
    }

    /// Every request gets this, until it is none.
    pub fn always(&self, reply: Option<Reply>) {
        self.script().always = reply;
    }

    /// What to answer to `METHOD /path`, with its query or without; the last one stays.
    pub fn on(&self, what: &str, replies: impl IntoIterator<Item = Reply>) -> &Self {
        self.script().by_path.insert(what.to_owned(), replies.into_iter().collect());
        self
    }

    /// The same with 200 and one answer.
    pub fn ok(&self, what: &str, answer: Value) -> &Self {
        self.on(what, [Reply::Json(200, answer)])
    }

    /// Lets [`Reply::Gated`] go.
    pub fn open_gate(&self) {
        self.shared.gate.store(true, Ordering::SeqCst);
    }

    /// All requests until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.script().asked.clone()
    }

    /// The requests that change something: all except GET.
    pub fn orders(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| !asked.what.starts_with("GET ")).collect()
    }

    /// Waits for a request that is like this, after the first `seen`.
    #[track_caller]
    pub fn expect(&self, seen: usize, like: impl Fn(&Value) -> bool) -> Asked {
        let found = poll_some(SOON, || self.asked().into_iter().skip(seen).find(|asked| like(&asked.body)));
        found.unwrap_or_else(|| panic!("no such request: {:#?}", self.asked()))
    }

    /// Waits for an acknowledgement of this generation.
    #[track_caller]
    pub fn acknowledged(&self, generation: u64) -> Asked {
        self.expect(0, |body| body["installed"]["generation"] == generation && body["error"].is_null())
    }
}

impl Drop for FakeCoordinator {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The key `n` as an answer has it; epoch = `n`.
pub fn taught(n: u8) -> Value {
    let keys = key_text::parse(key_text(n).as_bytes()).unwrap();
    json!({"epoch": n, "fingerprint": pair_print(&keys).primary, "key": key_text(n)})
}

/// The same for a host whose certificate and key are one file, of [`Ca::equip_pair`], which the agent renews.
pub fn renewing(host: &DaemonHost, urls: &[String]) -> String {
    let pair = host.path("node.pem");
    let files = client_files(&host.path("ca.crt"), &pair, &pair);
    format!("[source]\nkind = \"coordinator\"\nurls = {urls:?}\npool = \"edge\"\n{files}renew = true\n")
}

/// An answer to a node.
pub fn told(generation: u64, phase: &str, primary: u8, backup: Option<u8>) -> Value {
    json!({
        "pool": "edge", "pool_id": POOL_ID, "generation": generation, "phase": phase,
        "primary": taught(primary), "backup": backup.map(taught), "absent_after_secs": 600,
    })
}

/// An error as a coordinator sends it.
pub fn refusal(status: u16, kind: &str) -> Reply {
    Reply::Json(status, json!({"kind": kind, "message": format!("because of {kind}"), "request_id": "r-1"}))
}

/// A coordinator source for the files of [`Ca::equip`]; `more` are further lines of [source].
pub fn source(host: &DaemonHost, urls: &[String], more: &str) -> String {
    let files = client_files(&host.path("ca.crt"), &host.path("node.crt"), &host.path("node.key"));
    format!("[source]\nkind = \"coordinator\"\nurls = {urls:?}\npool = \"edge\"\n{files}{more}\n")
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let number = shared.connections.fetch_add(1, Ordering::SeqCst);
    let service = service_fn(move |request| answer(Arc::clone(&shared), number, request));
    // Some tests break the connection on purpose.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(shared: Arc<Shared>, connection: u64, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let what = format!("{} {}", request.method(), request.uri());
    let form_token = request.headers().get("tfo-form-token").and_then(|token| token.to_str().ok());
    let form_token = form_token.unwrap_or_default().to_owned();
    let body = to_bytes(Body::new(request.into_body()), BODY_BYTES_MAX).await.map_err(io::Error::other)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (reply, relay) = {
        let mut script = shared.script.lock().unwrap();
        script.asked.push(Asked { connection, what: what.clone(), body: body.clone(), form_token });
        let signed = script.certified(&what, &body).filter(|_| !script.by_path.contains_key(&what));
        (signed.or_else(|| script.next(&what)), script.relay.clone())
    };
    let reply = match (reply, relay) {
        (None, Some(relay)) => {
            let body = body.clone();
            Some(tokio::task::spawn_blocking(move || relay(&body)).await.map_err(io::Error::other)?)
        }
        (reply, _) => reply,
    };
    match reply {
        Some(Reply::Json(status, value)) => response(status, None, value.to_string()),
        Some(Reply::RetryAfter(status, value, secs)) => response(status, Some(secs), value.to_string()),
        Some(Reply::Raw(status, text)) => response(status, None, text),
        Some(Reply::Gated(value)) => {
            while !shared.gate.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            response(200, None, value.to_string())
        }
        Some(Reply::Drop) => Err(io::Error::other("as the test wants")),
        Some(Reply::Hang) => std::future::pending().await,
        None => sync(&shared, &body).await,
    }
}

impl Script {
    /// The reply to a request, if the script has one.
    fn next(&mut self, what: &str) -> Option<Reply> {
        if self.by_path.is_empty() {
            return self.replies.pop_front().or_else(|| self.always.clone());
        }
        let path = what.split('?').next().unwrap_or(what);
        let key = if self.by_path.contains_key(what) { what } else { path };
        Some(match self.by_path.get_mut(key) {
            None => refusal(404, "unknown_path"),
            Some(replies) if replies.len() > 1 => replies.pop_front()?,
            Some(replies) => replies.front()?.clone(),
        })
    }
}

impl Script {
    /// The answer to a certificate request, and to the question that follows it.
    fn certified(&self, what: &str, body: &Value) -> Option<Reply> {
        let (signer, rest) = self.signer.as_ref()?;
        if what == "GET /v1/pools/edge/self" {
            return Some(Reply::Json(
                200,
                json!({
                    "pool": "edge", "pool_id": POOL_ID, "node": "n1.example.org", "phase": "steady", "frozen": false,
                    "denied": false,
                }),
            ));
        }
        let mut answer = rest.clone();
        answer["certificate"] = signer(body["csr"].as_str()?).into();
        Some(Reply::Json(200, answer))
    }
}

/// What is above `seen`, or nothing after `wait_secs`.
async fn sync(shared: &Shared, body: &Value) -> io::Result<Response<Body>> {
    let seen = body["seen"].as_u64().unwrap_or(0);
    let wait = Duration::from_secs(body["wait_secs"].as_u64().unwrap_or(0));
    let until = tokio::time::Instant::now() + wait;
    loop {
        let desired = shared.script.lock().unwrap().desired.clone();
        if let Some(desired) = desired.filter(|desired| desired["generation"].as_u64() > Some(seen)) {
            return response(200, None, desired.to_string());
        }
        if tokio::time::Instant::now() >= until {
            return response(204, None, String::new());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn response(status: u16, retry_after_secs: Option<u64>, body: String) -> io::Result<Response<Body>> {
    let mut response = Response::builder().status(status).header("content-type", "application/json");
    if let Some(secs) = retry_after_secs {
        response = response.header("retry-after", secs);
    }
    response.body(body.into()).map_err(io::Error::other)
}
