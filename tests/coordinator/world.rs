//! The world of these tests: a CA, a coordinator that can be killed, fake nodes and operators.

use std::fs::{self, File};
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use tfo_testbed::{poll_some, poll_until, scratch};

/// Longest wait for anything that happens at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The operator and the viewer of the configuration.
pub(crate) const OPERATOR: &str = "ops1.example.org";
pub(crate) const VIEWER: &str = "view1.example.org";

/// An authority that issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, PEM.
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate with these names, for servers and clients alike.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// A coordinator with its files, and whoever talks to it.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) authority: Authority,
    runtime: tokio::runtime::Runtime,
    child: Option<Child>,
    pub(crate) api: SocketAddr,
    pub(crate) observe: SocketAddr,
    logs: Vec<PathBuf>,
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A pool whose rotations pass as fast as their barriers.
pub(crate) const FAST: &str = "interval = \"1d\"\nexpected_nodes = 3\npromote_waves = [\"100%\"]\ndrain_max = \"0s\"\n\
                               health_window = \"0s\"\n";

impl World {
    /// A coordinator that is configured, not started: `pool` are lines of `[pools.text]`.
    pub(crate) fn new(pool: &str) -> Self {
        let world = Self {
            dir: scratch(),
            authority: Authority::new(),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
            child: None,
            api: free_port(),
            observe: free_port(),
            logs: Vec::new(),
        };
        let server = world.authority.issue(&["localhost"]);
        world.put("ca.crt", world.authority.pem.as_bytes(), 0o644);
        world.put("server.crt", server.cert.as_bytes(), 0o644);
        world.put("server.key", server.key.as_bytes(), 0o600);
        world.put("kek", &(0..32u8).map(|at| at.wrapping_mul(37)).collect::<Vec<_>>(), 0o400);
        world.configure(pool);
        world
    }

    /// A running coordinator.
    pub(crate) fn started(pool: &str) -> Self {
        let mut world = Self::new(pool);
        world.start();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.path(name);
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// The whole configuration, with these lines in `[pools.text]`, and what follows them.
    pub(crate) fn configure(&self, pool: &str) {
        let (api, observe, dir) = (self.api, self.observe, self.dir.path().display());
        let text = format!(
            "[api]\nlisten = \"{api}\"\ncert = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\n\
             client_ca = \"{dir}/ca.crt\"\n[store]\npath = \"{dir}/state.db\"\nkey_encryption_key = \"{dir}/kek\"\n\
             [access]\noperators = [\"{OPERATOR}\"]\nviewers = [\"{VIEWER}\"]\n[observe]\nlisten = \"{observe}\"\n\
             [pools.text]\nnodes = [\"*.cache.example.org\"]\n{pool}"
        );
        self.put("coordinator.toml", text.as_bytes(), 0o644);
    }

    /// `tfo-coordinator COMMAND --config … MORE`.
    pub(crate) fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut run = Command::new(tfo_testbed::program("tfo-coordinator"));
        run.stdin(Stdio::null()).arg(command).arg("--config").arg(self.path("coordinator.toml")).args(more);
        run.env_remove("NOTIFY_SOCKET").env("TFO_LOG", "debug");
        run
    }

    pub(crate) fn run(&self, command: &str, more: &[&str]) -> Output {
        self.command(command, more).output().unwrap()
    }

    /// Starts it without waiting.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "one at a time");
        let log = self.path(&format!("log-{}", self.logs.len()));
        let stderr = File::create(&log).unwrap();
        self.logs.push(log);
        self.child = Some(self.command("serve", &[]).stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(&mut self) {
        self.spawn();
        let ready = poll_until(SOON, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "ended with {ended:?}: {}", self.log());
            self.observed("/readyz").is_some_and(|(status, _)| status == 200)
        });
        assert!(ready, "not ready: {}", self.log());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let status = poll_some(SOON, || self.child.as_mut().unwrap().try_wait().unwrap());
        self.child = None;
        status.unwrap_or_else(|| panic!("it does not end: {}", self.log()))
    }

    /// Everything that all runs have logged.
    pub(crate) fn log(&self) -> String {
        self.logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default()).collect()
    }

    /// GET of the plain listener; none if nobody listens.
    pub(crate) fn observed(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{}{path}", self.observe);
        self.runtime.block_on(async {
            let client = reqwest::Client::builder().tls_backend_preconfigured(tls(&self.authority.pem, None));
            let response = client.build().unwrap().get(url).send().await.ok()?;
            Some((response.status().as_u16(), response.text().await.ok()?))
        })
    }

    /// Somebody whose certificate has these names.
    pub(crate) fn client(&self, names: &[&str]) -> Client {
        self.client_of(&self.authority.issue(names))
    }

    pub(crate) fn client_of(&self, identity: &Identity) -> Client {
        let tls = tls(&self.authority.pem, Some(identity));
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        Client { client, base: format!("https://{}", self.api), runtime: self.runtime.handle().clone() }
    }

    pub(crate) fn operator(&self) -> Client {
        self.client(&[OPERATOR])
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        Node::new(self.client(&[name]), name)
    }

    /// The three nodes of most tests.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        ["a", "b", "c"].map(|name| self.node(&format!("{name}.cache.example.org"))).into()
    }

    /// The pool, as the operator sees it.
    #[track_caller]
    pub(crate) fn pool(&self) -> Value {
        let (status, body) = self.operator().get("/v1/pools/text");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Waits until the pool is as wanted, and gives it.
    #[track_caller]
    pub(crate) fn until(&self, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        let operator = self.operator();
        let mut last = Value::Null;
        let found = poll_some(SOON, || {
            last = operator.get("/v1/pools/text").1;
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("never {wanted}: {last:#}\n{}", self.log()))
    }

    /// Gives the pool its first key and lets all nodes take it; then it is steady and not held.
    #[track_caller]
    pub(crate) fn first_key(&self, nodes: &mut [Node]) {
        nodes.iter_mut().for_each(|node| drop(node.sync(0)));
        let operator = self.operator();
        let (status, body) = operator.post("/v1/pools/text/rotations", &json!({"mode": "first", "reason": "begin"}));
        assert_eq!(status, 200, "{body}");
        nodes.iter_mut().for_each(Node::converge);
        self.until("everybody has the first key", |pool| pool["converged"] == pool["required"]);
        let (status, body) = operator.post("/v1/pools/text/resume", &json!({}));
        assert_eq!(status, 200, "{body}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the coordinator\n{}", self.log());
        }
    }
}

fn tls(ca: &str, identity: Option<&Identity>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_root_certificates(roots);
    match identity {
        Some(identity) => {
            let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

/// Somebody with a certificate.
#[derive(Clone)]
pub(crate) struct Client {
    client: reqwest::Client,
    base: String,
    runtime: tokio::runtime::Handle,
}

impl Client {
    /// Any request; status 0 if there was no answer at all.
    pub(crate) fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).timeout(SOON);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        self.runtime.block_on(async {
            let Ok(response) = request.send().await else { return (0, Value::Null) };
            let status = response.status().as_u16();
            let bytes = response.bytes().await.unwrap_or_default();
            (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
        })
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, path, Some(body.to_string().into_bytes()))
    }
}

/// A node without a kernel: it holds what it is told.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) session: u64,
    pub(crate) seen: u64,
    /// `installed` of the next sync.
    pub(crate) installed: Value,
    /// The last answer with keys.
    pub(crate) told: Value,
    /// Fields of the request that are not as usual.
    pub(crate) different: Value,
}

static SESSIONS: AtomicU64 = AtomicU64::new(1);

impl Node {
    fn new(client: Client, name: &str) -> Self {
        Self {
            client,
            name: name.to_owned(),
            session: SESSIONS.fetch_add(1, Ordering::Relaxed),
            seen: 0,
            installed: Value::Null,
            told: Value::Null,
            different: json!({}),
        }
    }

    /// The agent starts again.
    pub(crate) fn new_session(&mut self) {
        self.session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        self.seen = 0;
    }

    pub(crate) fn request(&self, wait_secs: u64) -> Value {
        let mut body = json!({
            "wait_secs": wait_secs,
            "next_contact_secs": 5,
            "session": format!("{}-{:016x}", self.session, 1),
            "seen": self.seen,
            "installed": self.installed,
            "kernel": "6.1.0-42-amd64",
            "agent": "0.1.0",
            "tcp_fastopen": 3,
            "clock": {"unix_ms": 1_790_000_000_000_u64, "synchronised": true},
            "counters": null,
            "error": null,
        });
        for (key, value) in self.different.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    }

    /// One sync; what it was told is seen, and not installed.
    pub(crate) fn sync(&mut self, wait_secs: u64) -> (u16, Value) {
        let (status, body) = self.client.post("/v1/pools/text/sync", &self.request(wait_secs));
        if status == 200 {
            self.seen = body["generation"].as_u64().unwrap();
            self.told = body.clone();
        }
        if status == 409 && body["kind"] == "session_closed" {
            self.session = SESSIONS.fetch_max(body["ordinal"].as_u64().unwrap() + 1, Ordering::Relaxed);
            self.new_session();
        }
        (status, body)
    }

    /// Installs what it was told last.
    pub(crate) fn install(&mut self) {
        let slot = |key: &Value| match key {
            Value::Null => Value::Null,
            key => json!({"epoch": key["epoch"], "fingerprint": key["fingerprint"]}),
        };
        let told = &self.told;
        self.installed = json!({
            "pool_id": told["pool_id"],
            "generation": told["generation"],
            "primary": slot(&told["primary"]),
            "backup": slot(&told["backup"]),
        });
    }

    /// Syncs and installs until there is nothing new.
    #[track_caller]
    pub(crate) fn converge(&mut self) {
        let mut last = (0, Value::Null);
        let done = poll_until(SOON, || {
            last = self.sync(0);
            if last.0 == 200 {
                self.install();
            }
            last.0 == 204
        });
        assert!(done, "{} does not converge: {last:?}", self.name);
    }

    /// Waits for something new and installs it; gives the generation.
    #[track_caller]
    pub(crate) fn step(&mut self) -> u64 {
        let mut last = (0, Value::Null);
        let told = poll_until(SOON, || {
            last = self.sync(5);
            last.0 == 200
        });
        assert!(told, "{} is told nothing: {last:?}", self.name);
        self.install();
        self.seen
    }

    /// The epochs that it holds, primary first.
    pub(crate) fn epochs(&self) -> Vec<u64> {
        [&self.installed["primary"], &self.installed["backup"]]
            .into_iter()
            .filter_map(|slot| slot["epoch"].as_u64())
            .collect()
    }
}

/// Whether a file holds these bytes.
pub(crate) fn holds(file: &Path, wanted: &[u8]) -> bool {
    let mut bytes = Vec::new();
    File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
