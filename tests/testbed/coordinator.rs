//! A real coordinator without kernels: the process, operators, and fake nodes that hold the keys they are instructed to.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::config::{CoordinatorToml, kek};
use crate::host::replace;
use crate::pki::{Ca, Identity, client_config};
use crate::{PATIENCE, SOON, free_port, mortal, poll_some, poll_until, program, scratch};

/// Log file of all runs, in the coordinator's directory.
const LOG: &str = "coordinator-log";

/// The operator and the viewer of the configuration.
pub const OPERATOR: &str = "ops1.example.org";
pub const VIEWER: &str = "view1.example.org";

/// Runtime for clients that several threads use.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A running `tfo-coordinator`, or one that could run: `coordinator.toml` and everything else is in one directory.
pub struct Coordinator {
    dir: PathBuf,
    child: Option<Child>,
}

impl Coordinator {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), child: None }
    }

    /// `tfo-coordinator COMMAND --config ... MORE`.
    pub fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut run = mortal(program("tfo-coordinator"));
        run.arg(command).arg("--config").arg(self.dir.join("coordinator.toml")).args(more);
        run.env_remove("NOTIFY_SOCKET").env("TFO_LOG", "debug");
        run
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        self.spawn_by(self.command("serve", &[]));
    }

    /// Starts it through a command that executes it.
    pub fn spawn_by(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "one at a time");
        let log = File::options().create(true).append(true).open(self.dir.join(LOG)).unwrap();
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("it runs")
    }

    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    pub fn signal(&self, signal: Signal) {
        crate::signal::send(self.pid(), signal);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGTERM, and returns the exit status.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let status = poll_some(PATIENCE, || self.child.as_mut().expect("it runs").try_wait().unwrap());
        self.child = None;
        status.unwrap_or_else(|| panic!("it does not end: {}", self.log()))
    }

    /// Whether it has ended by itself; then it may be started again.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.child = None;
        }
        ended
    }

    /// Fails if it has ended by itself.
    #[track_caller]
    pub fn must_run(&mut self) {
        let ended = self.child.as_mut().expect("it was started").try_wait().unwrap();
        assert!(ended.is_none(), "ended with {ended:?}: {}", self.log());
    }

    /// Everything that all runs have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join(LOG)).unwrap_or_default()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the coordinator\n{}", self.log());
        }
    }
}

/// A coordinator with its files and clients.
pub struct World {
    pub ca: Ca,
    coordinator: Coordinator,
    pub api: SocketAddr,
    pub observe: SocketAddr,
    runtime: tokio::runtime::Runtime,
    // Dropped last, so that the coordinator's log can be shown first.
    pub dir: tempfile::TempDir,
}

impl std::ops::Deref for World {
    type Target = Coordinator;

    fn deref(&self) -> &Coordinator {
        &self.coordinator
    }
}

impl std::ops::DerefMut for World {
    fn deref_mut(&mut self) -> &mut Coordinator {
        &mut self.coordinator
    }
}

impl World {
    /// A coordinator that is configured, not started: `pool` are lines of `[pools.edge]`.
    pub fn new(pool: &str) -> Self {
        let dir = scratch();
        let world = Self {
            ca: Ca::new("world"),
            coordinator: Coordinator::new(dir.path()),
            api: free_port(),
            observe: free_port(),
            runtime: runtime(),
            dir,
        };
        let server = world.ca.both(&["localhost", "127.0.0.1"]);
        world.put("ca.crt", world.ca.pem.as_bytes(), 0o644);
        world.put("server.crt", server.cert_pem.as_bytes(), 0o644);
        world.put("server.key", server.key_pem.as_bytes(), 0o600);
        world.put("kek", &kek(), 0o400);
        world.configure(pool);
        world
    }

    /// A running coordinator.
    pub fn started(pool: &str) -> Self {
        let mut world = Self::new(pool);
        world.start();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn put(&self, name: &str, content: &[u8], mode: u32) {
        replace(&self.path(name), content, mode);
    }

    /// The whole configuration, with these lines in `[pools.edge]`, and what follows them.
    pub fn configure(&self, pool: &str) {
        let of = CoordinatorToml::of(self.dir.path(), self.api, self.observe);
        let config = CoordinatorToml { operators: &[OPERATOR], viewers: &[VIEWER], ..of };
        let text = config.with_pools(&format!("[pools.edge]\nnodes = [\"*.cache.example.org\"]\n{pool}"));
        self.put("coordinator.toml", text.as_bytes(), 0o644);
    }

    /// Runs a command of `tfo-coordinator` to its end.
    pub fn run(&self, command: &str, more: &[&str]) -> Output {
        self.coordinator.command(command, more).output().unwrap()
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(&mut self) {
        self.coordinator.spawn();
        let ready = poll_until(SOON, || {
            self.coordinator.must_run();
            self.observed("/readyz").is_some_and(|(status, _)| status == 200)
        });
        assert!(ready, "not ready: {}", self.log());
    }

    /// GET from the plain listener; none if there is no listener.
    pub fn observed(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{}{path}", self.observe);
        self.runtime.block_on(async {
            let client = reqwest::Client::builder().tls_backend_preconfigured(client_config(&self.ca.pem, None));
            let response = client.build().unwrap().get(url).send().await.ok()?;
            Some((response.status().as_u16(), response.text().await.ok()?))
        })
    }

    /// A client whose certificate has these names.
    pub fn client(&self, names: &[&str]) -> Client {
        self.client_of(&self.ca.both(names))
    }

    pub fn client_of(&self, identity: &Identity) -> Client {
        Client::new(self.runtime.handle(), self.api, client_config(&self.ca.pem, Some(identity)))
    }

    pub fn operator(&self) -> Client {
        self.client(&[OPERATOR])
    }

    pub fn node(&self, name: &str) -> Node {
        Node::new(self.client(&[name]), name)
    }

    /// The three nodes of most tests.
    pub fn nodes(&self) -> Vec<Node> {
        ["a", "b", "c"].map(|name| self.node(&format!("{name}.cache.example.org"))).into()
    }

    /// The pool, as the operator sees it.
    #[track_caller]
    pub fn pool(&self) -> Value {
        let (status, body) = self.operator().get("/v1/pools/edge");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Waits until the pool is as wanted, and gives it.
    #[track_caller]
    pub fn until(&self, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        let operator = self.operator();
        let mut last = Value::Null;
        let found = poll_some(SOON, || {
            last = operator.get("/v1/pools/edge").1;
            is(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("never {wanted}: {last:#}\n{}", self.log()))
    }

    /// Gives the pool its first key and lets all nodes take it; then it is steady and not held.
    #[track_caller]
    pub fn first_key(&self, nodes: &mut [Node]) {
        nodes.iter_mut().for_each(|node| drop(node.sync(0)));
        let operator = self.operator();
        let (status, body) = operator.post("/v1/pools/edge/rotations", &json!({"mode": "first", "reason": "begin"}));
        assert_eq!(status, 200, "{body}");
        nodes.iter_mut().for_each(Node::converge);
        self.until("all nodes have the first key", |pool| pool["converged"] == pool["required"]);
        let (status, body) = operator.post("/v1/pools/edge/resume", &json!({}));
        assert_eq!(status, 200, "{body}");
    }
}

/// A client with a certificate.
#[derive(Clone)]
pub struct Client {
    client: reqwest::Client,
    base: String,
    runtime: tokio::runtime::Handle,
    patience: Duration,
}

impl Client {
    pub fn new(runtime: &tokio::runtime::Handle, api: SocketAddr, tls: rustls::ClientConfig) -> Self {
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        Self { client, base: format!("https://{api}"), runtime: runtime.clone(), patience: SOON }
    }

    /// The same, and it waits so long for an answer.
    pub fn waiting(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Any request; status 0 if there was no answer at all.
    pub fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).timeout(self.patience);
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

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, path, Some(body.to_string().into_bytes()))
    }
}

/// A node without a kernel: it holds the keys it is instructed to.
pub struct Node {
    pub client: Client,
    pub name: String,
    pub session: u64,
    pub seen: u64,
    /// `installed` of the next sync.
    pub installed: Value,
    /// The last answer with keys.
    pub told: Value,
    /// Fields of the request that differ from the usual ones.
    pub different: Value,
}

static SESSIONS: AtomicU64 = AtomicU64::new(1);

impl Node {
    pub fn new(client: Client, name: &str) -> Self {
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
    pub fn new_session(&mut self) {
        self.session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        self.seen = 0;
    }

    pub fn request(&self, wait_secs: u64) -> Value {
        let mut body = json!({
            "wait_secs": wait_secs,
            // Longer than a test is silent: a coordinator that hears no node for that long and a half says so.
            "next_contact_secs": 120,
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

    /// One sync; the node receives the keys but does not install them.
    pub fn sync(&mut self, wait_secs: u64) -> (u16, Value) {
        let (status, body) = self.client.post("/v1/pools/edge/sync", &self.request(wait_secs));
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

    /// Installs the keys that it received last.
    pub fn install(&mut self) {
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
    pub fn converge(&mut self) {
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
    pub fn step(&mut self) -> u64 {
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
    pub fn epochs(&self) -> Vec<u64> {
        [&self.installed["primary"], &self.installed["backup"]]
            .into_iter()
            .filter_map(|slot| slot["epoch"].as_u64())
            .collect()
    }
}

/// Whether a file holds these bytes.
pub fn holds(file: &Path, wanted: &[u8]) -> bool {
    let mut bytes = Vec::new();
    File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
