//! Agents without a kernel, thousands in one process: the wire protocol of `tfo-agent` over real TLS, one connection and
//! one certificate each.  They install new keys at once.
//!
//! The HTTP client is written by hand, because in a benchmark on two cores a real one would take more of them than the
//! coordinator.  Which coordinator they ask and when is the agent's own (`tfo_engine::route`), and so is what it makes of
//! "not heard".

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tfo_engine::backoff::Trouble;
use tfo_engine::route::{Returns, Route, preferred};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use tfo_wire::v1::sync::ELSEWHERE_HEADER;

use crate::pki::{Ca, roots};

/// Longest wait for a handshake, and for an answer beyond its long poll.
const PATIENCE: Duration = Duration::from_secs(30);
/// Agents that share a source address: below the coordinator's limit for each address.
const AGENTS_PER_ADDRESS: usize = 1_000;
/// How many new agents connect at a time.
const STARTING_MAX: usize = 100;

/// What agents connect with.
struct Tls {
    authority: Ca,
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Tls {
    fn new(authority: Ca, server_ca: &str) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(server_ca)), Arc::clone(&provider));
        Self { authority, provider, verifier: verifier.build().expect("a CA is there") }
    }

    fn connector(&self, name: &str) -> TlsConnector {
        let own = self.authority.client(&[name]);
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("the provider has it");
        let builder = builder.with_webpki_verifier(Arc::clone(&self.verifier));
        let mut config = builder.with_client_auth_cert(own.chain(), own.key()).expect("a pair");
        config.resumption = Resumption::disabled();
        TlsConnector::from(Arc::new(config))
    }
}

/// What is counted over all agents.
#[derive(Default)]
pub struct Counts {
    pub handshakes: AtomicU64,
    pub told: AtomicU64,
    pub nothing: AtomicU64,
    /// Answers that are neither 200 nor 204, by status and kind; connections that failed or broke.
    pub troubles: Mutex<BTreeMap<String, u64>>,
    /// Rules that were broken, in words.
    pub violations: Mutex<Vec<String>>,
}

/// A parsed answer, shared by all agents that get the same instruction.
#[derive(Debug, PartialEq, Eq)]
struct Learnt {
    generation: u64,
    /// `installed` of the next request.
    installed: String,
    primary: String,
    backup: Option<String>,
}

/// State of one agent.
#[derive(Default)]
struct Standing {
    /// The generation that it holds; 0 = none.
    generation: AtomicU64,
    /// Answers that it got on its present connection; 0 = not there.
    answers: AtomicU64,
    /// The coordinator that answered last.
    server: AtomicUsize,
    holds: Mutex<Option<Arc<Learnt>>>,
}

/// A disturbance of one agent.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Closes its connection, and returns after this time as a new run of the agent.
    Vanish(Duration),
    /// Cuts its connection, and reconnects as an agent does.
    Cut,
    /// Takes this long for its next installation.
    Slow(Duration),
}

/// Where and how agents connect.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The coordinators: a name, by which agents prefer one to another, and its address.
    pub servers: Vec<(String, SocketAddr)>,
    /// When agents go back to a coordinator that they prefer.
    pub returns: Returns,
    /// The CA of the servers' certificates, PEM.
    pub server_ca: String,
    /// Ordinals of the agents.
    pub agents: std::ops::Range<usize>,
    /// The address that they connect from; none: those of loopback, some of which they share.
    pub from: Option<Ipv4Addr>,
    /// Length of a long poll in seconds.
    pub poll_secs: u64,
    /// Whether agents are compared with each other at each installation (docs/protocol.md#the-theorem), and none may miss a
    /// generation.
    pub strict: bool,
}

impl Plan {
    /// For one coordinator.
    pub fn for_one(server: SocketAddr, server_ca: String, agents: std::ops::Range<usize>) -> Self {
        let servers = vec![("coordinator".to_owned(), server)];
        Self { servers, returns: Returns::SLOWLY, server_ca, agents, from: None, poll_secs: 5, strict: false }
    }
}

struct Shared {
    plan: Plan,
    tls: Tls,
    counts: Counts,
    standings: Vec<Standing>,
    /// Permits: bounds the agents that connect for the first time at once.
    starting: Semaphore,
    /// The latest answers, parsed.
    learnt: Mutex<HashMap<Vec<u8>, Arc<Learnt>>>,
}

/// Running agents.
pub struct Swarm {
    shared: Arc<Shared>,
    faults: Vec<mpsc::UnboundedSender<Fault>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Swarm {
    /// Starts all agents, in a runtime, with certificates of `authority`.
    pub fn start(plan: Plan, authority: Ca) -> Self {
        let count = plan.agents.len();
        let shared = Arc::new(Shared {
            tls: Tls::new(authority, &plan.server_ca),
            counts: Counts::default(),
            standings: (0..count).map(|_| Standing::default()).collect(),
            starting: Semaphore::new(STARTING_MAX),
            learnt: Mutex::default(),
            plan,
        });
        let (mut faults, mut tasks) = (Vec::new(), tokio::task::JoinSet::new());
        for at in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            faults.push(sender);
            tasks.spawn(Agent::new(Arc::clone(&shared), at, receiver).live());
        }
        Self { shared, faults, tasks }
    }

    /// Number of agents.
    pub fn agents(&self) -> usize {
        self.faults.len()
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Makes one agent do something.
    pub fn fault(&self, agent: usize, fault: Fault) {
        self.faults[agent].send(fault).expect("agents live as long as the swarm");
    }

    /// How many agents have been answered on the connection that they have.
    pub fn connected(&self) -> usize {
        self.shared.standings.iter().filter(|own| own.answers.load(Ordering::Relaxed) > 0).count()
    }

    /// How many agents hold each generation.
    pub fn generations(&self) -> BTreeMap<u64, usize> {
        let mut generations = BTreeMap::new();
        for own in &self.shared.standings {
            *generations.entry(own.generation.load(Ordering::Relaxed)).or_default() += 1;
        }
        generations
    }

    /// How many agents were answered last by each coordinator, on the connection that they have.
    pub fn loads(&self) -> Vec<usize> {
        let mut loads = vec![0; self.shared.plan.servers.len()];
        let answered = self.shared.standings.iter().filter(|own| own.answers.load(Ordering::Relaxed) > 0);
        answered.for_each(|own| loads[own.server.load(Ordering::Relaxed)] += 1);
        loads
    }

    /// Ends them all.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Name of an agent.
pub fn name(ordinal: usize) -> String {
    format!("node{ordinal:05}.cache.example.org")
}

struct Agent {
    shared: Arc<Shared>,
    at: usize,
    name: String,
    connector: TlsConnector,
    route: Route,
    /// On the monotonic clock.
    started: std::time::Instant,
    faults: mpsc::UnboundedReceiver<Fault>,
    ordinal: u64,
    seen: u64,
    holds: Option<Arc<Learnt>>,
    slow: Option<Duration>,
}

/// Why a connection ended.
enum End {
    Trouble(Trouble, String),
    Fault(Fault),
    /// There was nothing new, and the next request goes to another coordinator.
    Turned,
}

impl End {
    fn of(trouble: Trouble, error: &io::Error) -> Self {
        Self::Trouble(trouble, format!("connection: {:?}", error.kind()))
    }
}

impl Agent {
    fn new(shared: Arc<Shared>, at: usize, faults: mpsc::UnboundedReceiver<Fault>) -> Self {
        let name = name(shared.plan.agents.start + at);
        let connector = shared.tls.connector(&name);
        let ordinal = tfo_host::runtime::clock::now_ms();
        let servers: Vec<String> = shared.plan.servers.iter().map(|(name, _)| name.clone()).collect();
        let route = Route::new(preferred(&name, &servers), shared.plan.returns);
        let started = tfo_host::runtime::clock::monotonic();
        Self { shared, at, name, connector, route, started, faults, ordinal, seen: 0, holds: None, slow: None }
    }

    async fn live(mut self) {
        let mut first = true;
        loop {
            let end = self.connection(std::mem::take(&mut first)).await;
            self.standing().answers.store(0, Ordering::Relaxed);
            match end {
                End::Fault(Fault::Vanish(time)) => {
                    sleep(time).await;
                    self.new_session();
                }
                End::Fault(Fault::Cut | Fault::Slow(_)) => self.pause(Trouble::Away).await,
                End::Trouble(trouble, why) => {
                    *lock(&self.shared.counts.troubles).entry(why).or_default() += 1;
                    self.pause(trouble).await;
                }
                End::Turned => self.new_session(),
            }
        }
    }

    fn new_session(&mut self) {
        self.ordinal = (self.ordinal + 1).max(tfo_host::runtime::clock::now_ms());
        self.seen = 0;
    }

    async fn pause(&mut self, trouble: Trouble) {
        let now = self.started.elapsed();
        let next = self.route.failed(now, trouble, None, random());
        if next.other {
            self.new_session();
        }
        sleep(next.at.saturating_sub(now)).await;
    }

    fn standing(&self) -> &Standing {
        &self.shared.standings[self.at]
    }

    /// Serves one connection from connecting to its end.
    async fn connection(&mut self, first: bool) -> End {
        let shared = Arc::clone(&self.shared);
        let place = if first { shared.starting.acquire().await.ok() } else { None };
        let mut line = match timeout(PATIENCE, self.connect()).await {
            Ok(Ok(line)) => line,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return End::of(Trouble::Away, &error);
            }
            Ok(Err(error)) => return End::of(Trouble::Strained, &error),
            Err(_) => return End::Trouble(Trouble::Strained, "connection: no handshake in time".to_owned()),
        };
        // Like the agent: the first request of a connection asks for the current state.
        let mut wait_secs = 0;
        let mut place = place;
        loop {
            let request = self.request(wait_secs);
            let answered = {
                let asked = timeout(PATIENCE + Duration::from_secs(wait_secs), line.ask(&request));
                tokio::pin!(asked);
                loop {
                    tokio::select! {
                        answered = &mut asked => break answered,
                        Some(fault) = self.faults.recv() => match fault {
                            Fault::Slow(time) => self.slow = Some(time),
                            Fault::Vanish(_) | Fault::Cut => return End::Fault(fault),
                        },
                    }
                }
            };
            let (status, body, elsewhere) = match answered {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return End::of(Trouble::Away, &error),
                Err(_) => return End::Trouble(Trouble::Strained, "no answer in time".to_owned()),
            };
            if is_not_heard(status, &body) && wait_secs == 0 && self.route.has_one() {
                wait_secs = self.shared.plan.poll_secs;
                continue;
            }
            drop(place.take());
            if let Err(end) = self.take(status, body).await {
                return end;
            }
            self.route.succeeded();
            let (standing, now) = (self.standing(), self.started.elapsed());
            standing.server.store(self.route.current(), Ordering::Relaxed);
            standing.answers.fetch_add(1, Ordering::Relaxed);
            let is_idle = status == 204 && wait_secs > 0;
            if is_idle && (self.route.returns(now) || (elsewhere && self.route.relieved(now, random()))) {
                return End::Turned;
            }
            wait_secs = self.shared.plan.poll_secs;
        }
    }

    async fn connect(&self) -> io::Result<Line> {
        let socket = TcpSocket::new_v4()?;
        let host = u8::try_from(1 + (self.shared.plan.agents.start + self.at) / AGENTS_PER_ADDRESS).unwrap_or(1);
        let from = self.shared.plan.from.unwrap_or(Ipv4Addr::new(127, 0, 7, host));
        socket.bind(SocketAddr::new(from.into(), 0))?;
        let stream = socket.connect(self.shared.plan.servers[self.route.current()].1).await?;
        stream.set_nodelay(true)?;
        let server = ServerName::try_from("localhost").expect("it is a name");
        let stream = self.connector.connect(server, stream).await?;
        self.shared.counts.handshakes.fetch_add(1, Ordering::Relaxed);
        Ok(Line { stream, buffer: Vec::with_capacity(1_024) })
    }

    fn request(&self, wait_secs: u64) -> String {
        let installed = self.holds.as_ref().map_or("null", |learnt| learnt.installed.as_str());
        let (ordinal, seen) = (self.ordinal, self.seen);
        let body = format!(
            "{{\"wait_secs\":{wait_secs},\"next_contact_secs\":60,\"session\":\"{ordinal}-{:016x}\",\"seen\":{seen},\
             \"installed\":{installed},\"kernel\":\"6.1.0-42-amd64\",\"agent\":\"0.1.0\",\"tcp_fastopen\":3,\
             \"clock\":{{\"unix_ms\":1790000000000,\"synchronised\":true}},\
             \"counters\":{{\"passive\":1000,\"passive_alt_key\":10,\"passive_fail\":1}},\"error\":null}}",
            self.at
        );
        format!(
            "POST /v1/pools/edge/sync HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Follows the instruction of an answer.
    async fn take(&mut self, status: u16, body: Vec<u8>) -> Result<(), End> {
        match status {
            200 => {
                if let Some(time) = self.slow.take() {
                    sleep(time).await;
                }
                self.shared.counts.told.fetch_add(1, Ordering::Relaxed);
                let learnt = self.shared.learn(body);
                self.install(learnt);
                Ok(())
            }
            204 => {
                self.shared.counts.nothing.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            _ => {
                let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                if let (409, Some(open)) = (status, body["ordinal"].as_u64()) {
                    self.ordinal = open + 1;
                    self.seen = 0;
                }
                Err(End::Trouble(Trouble::Strained, format!("{status} {}", body["kind"].as_str().unwrap_or("?"))))
            }
        }
    }

    fn install(&mut self, learnt: Arc<Learnt>) {
        let before = self.holds.as_ref().map_or(0, |learnt| learnt.generation);
        let is_same = self.holds.as_ref().is_some_and(|own| *own == learnt);
        if learnt.generation < before || (learnt.generation == before && !is_same) {
            self.violated(&format!("was told generation {} after {before}", learnt.generation));
            return;
        }
        if self.shared.plan.strict {
            // No node is excluded here, so every barrier has waited for this agent.
            if before > 0 && learnt.generation > before + 1 {
                self.violated(&format!("missed a generation: {} after {before}", learnt.generation));
            }
            for (other, standing) in self.shared.standings.iter().enumerate() {
                let Some(theirs) = lock(&standing.holds).clone() else { continue };
                let accepts = |a: &Learnt, b: &Learnt| b.primary == a.primary || b.backup.as_ref() == Some(&a.primary);
                if other != self.at && !(accepts(&learnt, &theirs) && accepts(&theirs, &learnt)) {
                    self.violated(&format!("{learnt:?} beside {theirs:?} of {other}"));
                }
            }
        }
        self.seen = learnt.generation;
        self.standing().generation.store(learnt.generation, Ordering::Relaxed);
        *lock(&self.standing().holds) = Some(Arc::clone(&learnt));
        self.holds = Some(learnt);
    }

    fn violated(&self, what: &str) {
        lock(&self.shared.counts.violations).push(format!("{}: {what}", self.name));
    }
}

impl Shared {
    /// Parses an answer, or finds it among the latest.
    fn learn(&self, body: Vec<u8>) -> Arc<Learnt> {
        let mut learnt = lock(&self.learnt);
        if let Some(known) = learnt.get(&body) {
            return Arc::clone(known);
        }
        let told: Value = serde_json::from_slice(&body).expect("the coordinator answers with JSON");
        let slot = |key: &Value| match key {
            Value::Null => Value::Null,
            key => json!({"epoch": key["epoch"], "fingerprint": key["fingerprint"]}),
        };
        let installed = json!({
            "pool_id": told["pool_id"], "generation": told["generation"],
            "primary": slot(&told["primary"]), "backup": slot(&told["backup"]),
        });
        let print = |key: &Value| key["fingerprint"].as_str().map(str::to_owned);
        let fresh = Arc::new(Learnt {
            generation: told["generation"].as_u64().expect("an answer has a generation"),
            installed: installed.to_string(),
            primary: print(&told["primary"]).expect("an answer has a primary"),
            backup: print(&told["backup"]),
        });
        if learnt.len() > 8 {
            learnt.clear();
        }
        learnt.insert(body, Arc::clone(&fresh));
        fresh
    }
}

/// One connection.
struct Line {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Line {
    /// Sends a request, and reads the whole answer: status, body, and whether it sends the node elsewhere.
    async fn ask(&mut self, request: &str) -> io::Result<(u16, Vec<u8>, bool)> {
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        loop {
            if let Some((status, body)) = parse(&self.buffer)? {
                let sent = ELSEWHERE_HEADER.as_bytes();
                let elsewhere = status == 204 && self.buffer.windows(sent.len()).any(|part| part == sent);
                return Ok((status, body, elsewhere));
            }
            self.buffer.reserve(1_024);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// An answer, if it is complete.
pub fn parse(bytes: &[u8]) -> io::Result<Option<(u16, Vec<u8>)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| bad())?;
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let body = &bytes[end + 4..];
    let length = length.unwrap_or(0);
    Ok((body.len() >= length).then(|| (status, body[..length].to_vec())))
}

/// Whether the coordinator knows this agent and not all others yet: if it is the only one, it is asked again at once, and
/// waits for them.
fn is_not_heard(status: u16, body: &[u8]) -> bool {
    status == 503 && serde_json::from_slice(body).is_ok_and(|body: Value| body["kind"] == "not_heard")
}

fn random() -> u32 {
    u32::try_from(tfo_crypto::random::fresh_u64().expect("randomness") >> 32).expect("32 bits")
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds the lock")
}
