//! A server with an echo router, and clients that speak to it byte by byte.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Extension;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tfo_coordinator::server::{Drained, Draining, JsonBody, Limits, Reason, Refusal, RequestId, Server, listen};
use tfo_host::secret::SecretPath;
use tfo_tls::identity::Peer;
use tfo_tls::server::{ServerFiles, ServerTls};
use tfo_tls::spiffe::TrustDomain;
use tfo_wire::error::ErrorKind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use tfo_testbed::pki::{Ca, Identity, Leaf, client_config_of, put};
use tfo_testbed::{POLL_EVERY, now, scratch};

/// Longest wait for anything that has to happen; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the large answer: more than all buffers between two sockets on loopback.
pub(crate) const LARGE_BYTES: usize = 16 << 20;

/// Waits for what has to happen.
pub(crate) async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// Looks until it is so.
pub(crate) async fn until(mut look: impl FnMut() -> bool) {
    let started = now();
    while !look() {
        assert!(started.elapsed() < PATIENCE, "it happens in time");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The files of a server in a scratch directory.
pub(crate) struct Files {
    pub(crate) dir: TempDir,
}

impl Files {
    /// A good server of this CA, which is also the clients', with an empty revocation list.
    pub(crate) fn of(ca: &Ca) -> Self {
        let files = Self { dir: scratch() };
        ca.issue(&Leaf::server()).write(files.dir.path(), "server");
        files.put("ca.crt", &ca.pem);
        files.put("crl.pem", &ca.crl(&[]));
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        put(&self.path(name), text);
    }

    pub(crate) fn server(&self) -> ServerFiles {
        ServerFiles {
            cert: self.path("server.crt"),
            key: SecretPath::File(self.path("server.key")),
            client_ca: self.path("ca.crt"),
            crl: Some(self.path("crl.pem")),
        }
    }
}

/// A running server.
pub(crate) struct Bench {
    pub(crate) files: Files,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Drained>,
    server_ca: String,
}

impl Bench {
    /// With the files of [`Files::of`] and these limits.
    pub(crate) fn start(ca: &Ca, limits: Limits) -> Self {
        Self::with(Files::of(ca), ca, limits)
    }

    /// With these files; `ca` signed the server's certificate.
    pub(crate) fn with(files: Files, ca: &Ca, limits: Limits) -> Self {
        Self::within(None, files, ca, limits)
    }

    /// With peers that IDs of this trust domain name.
    pub(crate) fn within(domain: Option<TrustDomain>, files: Files, ca: &Ca, limits: Limits) -> Self {
        Self::serving(echo(), domain, (files, ca), limits)
    }

    /// With these routes.
    pub(crate) fn serving(router: Router, domain: Option<TrustDomain>, of: (Files, &Ca), limits: Limits) -> Self {
        Self::serving_at("127.0.0.1:0", router, domain, of, limits)
    }

    /// The same at this address of the thread's network namespace.
    pub(crate) fn serving_at(
        address: &str,
        router: Router,
        domain: Option<TrustDomain>,
        (files, ca): (Files, &Ca),
        limits: Limits,
    ) -> Self {
        let tls = ServerTls::load(files.server(), domain).expect("the files are good");
        let is_operator = |peer: &Peer| peer.names.iter().any(|name| name.as_str().starts_with("ops"));
        tls.give_grace_to(is_operator);
        let server = Arc::new(Server::new(limits).keeping_places(is_operator));
        let listener = listen(address.parse().unwrap()).expect("it has free ports");
        let address = listener.local_addr().expect("a bound socket");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (server, tls, shutdown) = (Arc::clone(&server), Arc::clone(&tls), shutdown.clone());
            async move { server.serve(listener, tls, router, shutdown).await }
        });
        let server_ca = ca.pem.clone();
        Self { files, tls, server, address, shutdown, task, server_ca }
    }

    /// A client with this certificate.
    pub(crate) fn client(&self, identity: &Identity) -> Client {
        self.speaking(Some(identity), &[&rustls::version::TLS13])
    }

    /// A client without a certificate.
    pub(crate) fn nobody(&self) -> Client {
        self.speaking(None, &[&rustls::version::TLS13])
    }

    /// A client that speaks these versions of TLS.
    pub(crate) fn speaking(
        &self,
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Client {
        let config = client_config_of(versions, &self.server_ca, identity);
        Client { config: Arc::new(config), address: self.address }
    }

    /// How often the server has refused for this reason.
    pub(crate) fn refused(&self, reason: Reason) -> u64 {
        let refusals = self.server.refusals();
        refusals.counts().find(|(other, _)| *other == reason).map_or(0, |(_, count)| count)
    }

    /// Ends it, and says how that went.
    pub(crate) async fn stop(self) -> Drained {
        self.shutdown.cancel();
        within(self.task).await.expect("the server does not panic")
    }
}

/// A client, with its session cache.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Client {
    /// Does the handshake.  With TLS 1.3 that says nothing about whether the server takes the certificate.
    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_over(TcpStream::connect(self.address).await?).await
    }

    /// The same over a connection that is there.
    pub(crate) async fn connect_over(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST).into());
        within(TlsConnector::from(Arc::clone(&self.config)).connect(name, stream)).await
    }

    /// Connects and asks for a path.
    pub(crate) async fn get(&self, path: &str) -> std::io::Result<Answer> {
        let mut stream = self.connect().await?;
        ask(&mut stream, path).await
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    /// The error body, which every refusal has; checks what is common to all.
    #[track_caller]
    pub(crate) fn refusal(&self) -> (u16, ErrorKind) {
        let body: tfo_wire::error::ErrorBody =
            serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: no error body: {self:?}"));
        assert_eq!(self.headers.get("x-request-id"), Some(&body.request_id), "{self:?}");
        assert_eq!(body.request_id.len(), 16, "{self:?}");
        assert_eq!(self.headers.contains_key("retry-after"), self.status == 503, "{self:?}");
        assert!(!body.message.is_empty());
        (self.status, body.kind)
    }
}

/// Asks for a path and reads the answer.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, path: &str) -> std::io::Result<Answer> {
    send(stream, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await?;
    read_answer(stream).await
}

/// Sends bytes.
pub(crate) async fn send<S: AsyncWrite + Unpin>(stream: &mut S, text: &str) -> std::io::Result<()> {
    within(async {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    })
    .await
}

/// Reads one answer.
pub(crate) async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if within(stream.read_buf(&mut bytes)).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).expect("heads are ASCII");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().expect("a number"));
    while bytes.len() < head_end + length {
        if within(stream.read_buf(&mut bytes)).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&bytes[head_end..]).into_owned() })
}

/// Waits until the server has closed the connection, whatever it still sends.
pub(crate) async fn closed<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut sink = [0; 4096];
    while !matches!(within(stream.read(&mut sink)).await, Ok(0) | Err(_)) {}
}

/// The alert with which the server refused, from the client's first read after its handshake, or the handshake itself.
pub(crate) fn alert(error: &std::io::Error) -> Option<rustls::AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// What the routes are to the transport.
pub(crate) fn echo() -> Router {
    let who = |Extension(peer): Extension<Arc<Peer>>| async move { peer.to_string() };
    let body = |JsonBody(body): JsonBody<serde_json::Value, 4096>| async move { Json(body) };
    // Takes more than any body may have.
    let wide = |JsonBody(body): JsonBody<serde_json::Value, 1_000_000>| async move { Json(body) };
    let id = |Extension(id): Extension<RequestId>| async move { id.to_string() };
    let poll = |Extension(draining): Extension<Draining>| async move {
        draining.begun().await;
        StatusCode::NO_CONTENT
    };
    let held = |Extension(draining): Extension<Draining>| async move {
        draining.begun().await;
        std::future::pending::<()>().await;
    };
    Router::new()
        .route("/who", get(who))
        .route("/body", post(body))
        .route("/wide", post(wide))
        .route("/id", get(id))
        .route("/poll", get(poll))
        .route("/held", get(held))
        .route("/large", get(|| async { "x".repeat(LARGE_BYTES) }))
        .route("/panic", get(|| async { panics().into_response() }))
        .route("/refused", get(|| async { Refusal::new(ErrorKind::NotHeard, "ask again").with_retry_after(7) }))
}

fn panics() -> &'static str {
    panic!("as ordered")
}
