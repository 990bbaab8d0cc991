//! A coordinator that says what a test tells it to, over real TLS with certificates of `tfoctl pki`, and remembers what
//! it was asked; and an operator with a configuration.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What the fake answers.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// JSON with a status.
    Json(u16, Value),
    /// The same, with a Retry-After.
    RetryAfter(u16, Value, u64),
    /// Bytes as they are, with a status.
    Raw(u16, String),
    /// Reads the request, and closes the connection.
    Drop,
    /// Reads the request, and says nothing.
    Hang,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `POST /v1/pools/text/pause`.
    pub(crate) what: String,
    /// The body; null without one.
    pub(crate) body: Value,
}

type Script = Arc<Mutex<HashMap<String, VecDeque<Reply>>>>;

/// A coordinator.
pub(crate) struct FakeCoordinator {
    pub(crate) url: String,
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
    _runtime: Runtime,
}

impl FakeCoordinator {
    /// Starts one with the certificate of `c1.test` in a directory of `tfoctl pki`.
    pub(crate) fn start(pki: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (script, seen) = (Script::default(), Arc::new(Mutex::new(Vec::new())));
        let acceptor = acceptor(pki);
        let (own_script, own_seen) = (Arc::clone(&script), Arc::clone(&seen));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script, seen) = (acceptor.clone(), Arc::clone(&own_script), Arc::clone(&own_seen));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(Arc::clone(&script), Arc::clone(&seen), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A connection that breaks is what some tests want.
                    connection.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Self { url, script, seen, _runtime: runtime }
    }

    /// What to answer to `METHOD /path`, with its query or without; the last one stays.
    pub(crate) fn on(&self, what: &str, replies: impl IntoIterator<Item = Reply>) -> &Self {
        self.script.lock().unwrap().insert(what.to_owned(), replies.into_iter().collect());
        self
    }

    /// The same with 200 and one answer.
    pub(crate) fn ok(&self, what: &str, answer: Value) -> &Self {
        self.on(what, [Reply::Json(200, answer)])
    }

    /// A coordinator with one pool, some nodes and no audit log.
    pub(crate) fn with_pool(&self, status: &Value, nodes: &Value) -> &Self {
        let name = status["pool"].as_str().unwrap();
        let fingerprints = fingerprints(nodes);
        self.ok("GET /v1/pools", json!({"pools": [status]}))
            .ok(&format!("GET /v1/pools/{name}"), status.clone())
            .ok(
                &format!("GET /v1/pools/{name}/nodes"),
                json!({"pool": name, "nodes": nodes, "fingerprints": fingerprints}),
            )
            .ok(&format!("GET /v1/pools/{name}/audit"), json!({"pool": name, "entries": [], "more": false}))
    }

    /// What it was asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What it was told to do: everything but GET.
    pub(crate) fn orders(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| !seen.what.starts_with("GET ")).collect()
    }
}

/// What the API counts: how many nodes hold which keys, most first.
fn fingerprints(nodes: &Value) -> Value {
    let mut groups: Vec<(Value, Value, usize)> = Vec::new();
    for node in nodes.as_array().unwrap().iter().filter(|node| !node["primary"].is_null()) {
        let (primary, backup) = (&node["primary"]["fingerprint"], &node["backup"]["fingerprint"]);
        match groups.iter_mut().find(|group| group.0 == *primary && group.1 == *backup) {
            Some(group) => group.2 += 1,
            None => groups.push((primary.clone(), backup.clone(), 1)),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.2));
    groups
        .into_iter()
        .map(|(primary, backup, nodes)| json!({"primary": primary, "backup": backup, "nodes": nodes}))
        .collect()
}

async fn answer(script: Script, seen: Arc<Mutex<Vec<Seen>>>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let what = format!("{} {}", request.method(), request.uri());
    let body = to_bytes(Body::new(request.into_body()), 1 << 22).await.map_err(io::Error::other)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    seen.lock().unwrap().push(Seen { what: what.clone(), body });
    let reply = {
        let mut script = script.lock().unwrap();
        let key = if script.contains_key(&what) { what } else { what.split('?').next().unwrap().to_owned() };
        match script.get_mut(&key) {
            None => Reply::Json(404, refusal("unknown_path", &format!("the test has no answer to {key}"))),
            Some(replies) if replies.len() > 1 => replies.pop_front().unwrap(),
            Some(replies) => replies[0].clone(),
        }
    };
    let response = |status: u16| Response::builder().status(status).header("content-type", "application/json");
    match reply {
        Reply::Json(status, value) => response(status).body(value.to_string().into()),
        Reply::RetryAfter(status, value, secs) => {
            response(status).header("retry-after", secs).body(value.to_string().into())
        }
        Reply::Raw(status, text) => response(status).body(text.into()),
        Reply::Drop => return Err(io::Error::other("as the test wants")),
        Reply::Hang => std::future::pending().await,
    }
    .map_err(io::Error::other)
}

fn acceptor(pki: &Path) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = |name: &str| CertificateDer::pem_file_iter(pki.join(name)).unwrap().map(Result::unwrap);
    let mut roots = rustls::RootCertStore::empty();
    certificates("ca.crt").for_each(|certificate| roots.add(certificate).unwrap());
    let list = CertificateRevocationListDer::from_pem_file(pki.join("crl.pem")).unwrap();
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .with_crls([list])
        .build()
        .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            certificates("c1.test.crt").collect(),
            PrivateKeyDer::from_pem_file(pki.join("c1.test.key")).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The body of a refusal.
pub(crate) fn refusal(kind: &str, message: &str) -> Value {
    json!({"kind": kind, "message": message, "request_id": "r-1"})
}

/// An operator with certificates, and a configuration once there is somebody to ask.
pub(crate) struct Operator {
    dir: TempDir,
}

impl Operator {
    /// With an authority, `ops1.test` and the coordinator's certificate.
    pub(crate) fn new() -> Self {
        let operator = Self { dir: tfo_testbed::scratch() };
        let pki = operator.path("pki");
        let pki = pki.to_str().unwrap();
        operator.plain(&["pki", "init", "--dir", pki]);
        operator.plain(&["pki", "issue", "--dir", pki, "--operator", "ops1.test"]);
        operator.plain(&["pki", "issue", "--dir", pki, "--coordinator", "c1.test", "--address", "127.0.0.1"]);
        operator
    }

    /// With one coordinator that has this pool and these nodes.
    pub(crate) fn with(status: &Value, nodes: &Value) -> (Self, FakeCoordinator) {
        let operator = Self::new();
        let coordinator = FakeCoordinator::start(&operator.path("pki"));
        coordinator.with_pool(status, nodes);
        operator.configure(&[&coordinator.url], "pool = \"text\"");
        (operator, coordinator)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of this mode.
    pub(crate) fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::remove_file(&path).ok();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    /// Writes ctl.toml.
    pub(crate) fn configure(&self, urls: &[&str], more: &str) {
        let file = |name: &str| self.path("pki").join(name);
        let (ca, cert, key) = (file("ca.crt"), file("ops1.test.crt"), file("ops1.test.key"));
        let text = format!("urls = {urls:?}\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n{more}\n");
        self.write("ctl.toml", &text, 0o644);
    }

    /// `tfoctl` without a configuration of its own, and without the user's.
    pub(crate) fn bare(&self) -> Command {
        let mut ctl = Command::new(tfo_testbed::program("tfoctl"));
        ctl.stdin(Stdio::null()).env("HOME", self.dir.path()).env_remove("XDG_CONFIG_HOME");
        ctl
    }

    /// `tfoctl` with ctl.toml.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut ctl = self.bare();
        ctl.args(arguments).arg("--config").arg(self.path("ctl.toml"));
        ctl
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it to its end, with this exit code; gives stdout and stderr.
    #[track_caller]
    pub(crate) fn ends(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = self.run(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }

    /// Runs it with 0 and a silent stderr; gives stdout.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let (stdout, stderr) = self.ends(arguments, 0);
        assert_eq!(stderr, "", "{arguments:?}");
        stdout
    }

    /// Runs it with `--format json`: one line of JSON.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str], code: i32) -> Value {
        let (stdout, _) = self.ends(&[arguments, &["--format", "json"]].concat(), code);
        assert!(stdout.ends_with('\n') && stdout.lines().count() == 1, "one line: {stdout}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Starts it with pipes.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[track_caller]
    pub(crate) fn plain(&self, arguments: &[&str]) {
        let output = self.bare().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Longest wait for anything that happens at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A fingerprint that is this digit all over.
pub(crate) fn print(digit: char) -> String {
    digit.to_string().repeat(16)
}

/// A slot.
pub(crate) fn key(epoch: u64, digit: char) -> Value {
    json!({"epoch": epoch, "fingerprint": print(digit)})
}

/// Pool `text`, steady and converged; `with` replaces fields.
pub(crate) fn pool(with: Value) -> Value {
    let mut status = json!({
        "pool": "text", "pool_id": "0123456789abcdef0123456789abcdef", "revision": 40, "generation": 12,
        "phase": "steady", "primary": key(7, 'a'), "backup": key(6, 'b'), "paused": false, "hold": null, "expect": null,
        "required": 3, "converged": 3, "reporting": 0, "waiting_for": [], "next_at": "2026-11-23T22:00:00Z",
        "blocked_by": "schedule", "since": "2026-11-22T22:00:00Z", "waves": null, "revoking": [], "recoverable": [],
        "drives": true, "policy_differs": []
    });
    merge(&mut status, with);
    status
}

/// A node that holds what [`pool`] says.
pub(crate) fn node(name: &str, with: Value) -> Value {
    let mut node = json!({
        "node": name, "state": "converged", "generation": 12, "primary": key(7, 'a'), "backup": key(6, 'b'),
        "last_report_at": "2026-11-22T22:00:00Z", "behind_since": null, "source": "coordinator", "error": null,
        "kernel": "6.1.0", "agent": "0.1.0", "tcp_fastopen": 3, "excluded": null
    });
    merge(&mut node, with);
    node
}

/// Three of them.
pub(crate) fn three() -> Value {
    json!([node("cp1.test", json!({})), node("cp2.test", json!({})), node("cp3.test", json!({}))])
}

/// What a command did.
pub(crate) fn done(action: &str, with: Value) -> Value {
    let mut done = json!({
        "pool": "text", "revision": 41, "generation": 13, "phase": "staged", "action": action, "nodes": []
    });
    merge(&mut done, with);
    done
}

/// One line of the audit log.
pub(crate) fn audit(revision: u64, action: &str, operator: Option<&str>, reason: &str) -> Value {
    json!({
        "at": "2026-11-22T22:00:00Z", "revision": revision, "generation": 13, "phase": "staged",
        "operator": operator, "action": action, "nodes": [], "reason": reason
    })
}

/// A page of it.
pub(crate) fn page(entries: &[Value]) -> Reply {
    Reply::Json(200, json!({"pool": "text", "entries": entries, "more": false}))
}

fn merge(into: &mut Value, with: Value) {
    let (Value::Object(into), Value::Object(with)) = (into, with) else { panic!("objects") };
    into.extend(with);
}
