//! A coordinator that does what a test says: real TLS, real HTTP, and answers from a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::{Response, Uri};
use axum::serve::{IncomingStream, Listener};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tfo_crypto::fingerprint::pair_print;
use tfo_model::key_text;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::daemon::{DaemonHost, SOON, key_text};
use crate::{NetNs, poll_some};

/// The pool's identity in every answer that says nothing else.
pub const POOL_ID: &str = "0123456789abcdef0123456789abcdef";

/// A CA that is trusted on both sides.
pub struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Certificate and key in PEM, valid from 1975 on for so many days from now; fewer than 0: expired.
    pub fn issue(&self, name: &str, days: i64) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = i64::try_from(tfo_host::runtime::clock::now().secs()).unwrap();
        let end = u64::try_from(now + days * 86_400).unwrap();
        // A coordinator that is reached by its address has one certificate for both.
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.extended_key_usages = both.into();
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    /// Puts ca.crt, node.crt and node.key into the host's directory.
    pub fn equip(&self, host: &DaemonHost, name: &str, days: i64) {
        let (cert, key) = self.issue(name, days);
        host.put("ca.crt", self.ca.pem().as_bytes(), 0o644);
        host.put("node.crt", cert.as_bytes(), 0o644);
        host.put("node.key", key.as_bytes(), 0o400);
    }

    fn server(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let chain = vec![params.signed_by(&key, &self.ca).unwrap().der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        builder.unwrap().with_client_cert_verifier(verifier).with_single_cert(chain, key.into()).unwrap()
    }
}

/// What a request gets.
#[derive(Debug, Clone)]
pub enum Reply {
    /// This body under this status, with `Retry-After` if there is one.
    Status(u16, String, Option<u64>),
    /// This answer, however long it takes the test to open the gate ([`FakeCoordinator::open_gate`]).
    Gated(Value),
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The connection that it came over.
    pub connection: u64,
    pub path: String,
    pub body: Value,
}

#[derive(Default)]
struct Script {
    /// Answers for the next requests; when there are none left, `told` is served as a coordinator would.
    replies: VecDeque<Reply>,
    /// The same for every request, until it is taken away.
    always: Option<Reply>,
    told: Option<Value>,
    asked: Vec<Asked>,
}

struct Shared {
    script: Mutex<Script>,
    gate: AtomicBool,
    connections: AtomicU64,
}

/// A coordinator on 127.0.0.1 in a host's namespace.
pub struct FakeCoordinator {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<(tokio::sync::oneshot::Sender<()>, JoinHandle<()>)>,
}

impl FakeCoordinator {
    /// Listens; tells nothing before [`FakeCoordinator::tell`].
    pub fn start(netns: &NetNs, pki: &Pki) -> Self {
        Self::start_on(netns, pki, "127.0.0.1:0")
    }

    /// The same at this address.
    pub fn start_on(netns: &NetNs, pki: &Pki, address: &str) -> Self {
        let listener = netns.run(|| std::net::TcpListener::bind(address)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { script: Mutex::default(), gate: AtomicBool::new(false), connections: AtomicU64::new(0) });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (config, state) = (pki.server(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let acceptor = TlsAcceptor::from(Arc::new(config));
                let listener =
                    TlsListener { tcp: TcpListener::from_std(listener).unwrap(), acceptor, shared: Arc::clone(&state) };
                let router = Router::new().fallback(answer).with_state(state);
                let service = router.into_make_service_with_connect_info::<Connection>();
                tokio::select! {
                    served = axum::serve(listener, service) => served.unwrap(),
                    _ = stopped => {}
                }
            });
            // Ends connections too.
            runtime.shutdown_background();
        });
        Self { address, shared, server: Some((stop, thread)) }
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
        if let Some((stop, thread)) = self.server.take() {
            stop.send(()).ok();
            thread.join().ok();
        }
    }

    /// What a pool tells from now on.
    pub fn tell(&self, told: Value) {
        self.shared.script.lock().unwrap().told = Some(told);
    }

    /// The next requests get these, in their order.
    pub fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.script.lock().unwrap().replies.extend(replies);
    }

    /// Every request gets this, until it is none.
    pub fn always(&self, reply: Option<Reply>) {
        self.shared.script.lock().unwrap().always = reply;
    }

    /// Lets [`Reply::Gated`] go.
    pub fn open_gate(&self) {
        self.shared.gate.store(true, Ordering::SeqCst);
    }

    /// All requests until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.script.lock().unwrap().asked.clone()
    }

    /// Waits for a request that is like this, after the first `seen`.
    #[track_caller]
    pub fn expect(&self, seen: usize, like: impl Fn(&Value) -> bool) -> Asked {
        let found = poll_some(2 * SOON, || self.asked().into_iter().skip(seen).find(|asked| like(&asked.body)));
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

/// An answer.
pub fn told(generation: u64, phase: &str, primary: u8, backup: Option<u8>) -> Value {
    json!({
        "pool": "text", "pool_id": POOL_ID, "generation": generation, "phase": phase,
        "primary": taught(primary), "backup": backup.map(taught), "absent_after_secs": 600,
    })
}

/// An error as a coordinator sends it.
pub fn refusal(status: u16, kind: &str) -> Reply {
    let body = json!({"kind": kind, "message": format!("because of {kind}"), "request_id": "r-1"});
    Reply::Status(status, body.to_string(), None)
}

/// A coordinator source for the files of [`Pki::equip`]; `more` are further lines of [source].
pub fn source(host: &DaemonHost, urls: &[String], more: &str) -> String {
    let [ca, cert, key] = ["ca.crt", "node.crt", "node.key"].map(|name| -> PathBuf { host.path(name) });
    format!(
        "[source]\nkind = \"coordinator\"\nurls = {urls:?}\npool = \"text\"\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n{more}\n"
    )
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = u64;

    async fn accept(&mut self) -> (Self::Io, u64) {
        loop {
            let Ok((stream, _)) = self.tcp.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, self.shared.connections.fetch_add(1, Ordering::SeqCst));
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<u64> {
        Ok(0)
    }
}

#[derive(Clone, Copy)]
struct Connection(u64);

impl Connected<IncomingStream<'_, TlsListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    uri: Uri,
    body: Bytes,
) -> Response<Body> {
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let asked = Asked { connection: connection.0, path: uri.path().to_owned(), body: body.clone() };
    let scripted = {
        let mut script = shared.script.lock().unwrap();
        script.asked.push(asked);
        script.replies.pop_front().or_else(|| script.always.clone())
    };
    match scripted {
        Some(Reply::Status(status, text, retry_after)) => {
            let mut response = Response::builder().status(status);
            if let Some(secs) = retry_after {
                response = response.header("retry-after", secs);
            }
            response.body(Body::from(text)).unwrap()
        }
        Some(Reply::Gated(told)) => {
            while !shared.gate.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            success(&told)
        }
        None => serve(&shared, &body).await,
    }
}

/// What is above `seen`, or nothing after `wait_secs`.
async fn serve(shared: &Shared, body: &Value) -> Response<Body> {
    let seen = body["seen"].as_u64().unwrap_or(0);
    let wait = Duration::from_secs(body["wait_secs"].as_u64().unwrap_or(0));
    let until = tokio::time::Instant::now() + wait;
    loop {
        let told = shared.script.lock().unwrap().told.clone();
        if let Some(told) = told.filter(|told| told["generation"].as_u64() > Some(seen)) {
            return success(&told);
        }
        if tokio::time::Instant::now() >= until {
            return Response::builder().status(204).body(Body::empty()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn success(told: &Value) -> Response<Body> {
    Response::builder().header("content-type", "application/json").body(Body::from(told.to_string())).unwrap()
}
