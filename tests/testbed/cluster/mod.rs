//! Three coordinators on three members of etcd, each on a host of its own, behind the nodes and live clients of `levers`.
//!
//! Tests cause faults of members, coordinators and the network between them while a rotation is under way.  Everything is
//! in namespaces of the test ([`crate::levers::inside`]), whose own one is the operator's host.

pub mod stand_in;
pub mod wires;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tfo_demo::error::DemoError;
use tfo_demo::network::Network;
use tfo_demo::node::{File, Supplies};
use tfo_model::problem::chain;
use zeroize::Zeroizing;

use self::stand_in::StandIn;
use self::wires::{Place, own_address, plug_operator};
use crate::config::{CoordinatorToml, kek};
use crate::coordinator::{Client, Coordinator, runtime};
use crate::etcd::{Etcd, MemberHost, Plan};
use crate::history::{self, Recorder, Shown, Told};
use crate::levers::{Center, DIRECTORY, Fleet};
use crate::output::stderr;
use crate::pki::{Ca, Identity, client_config};
use crate::swarm::{self, Swarm};
use crate::{PATIENCE, now, poll_some, poll_until, program};

/// Members and coordinators.
pub const COORDINATORS: usize = 3;
pub const MEMBERS: usize = 3;
/// The pool, and what all of its keys in etcd begin with.
pub const POOL: &str = "edge";
pub const PREFIX: &str = "/tfo-fleet/";
/// Clients' namespaces that are used: a third, because the programs share two cores with them, and other beds.
const SITES: usize = 4;
/// Where the members keep their data: a file system in memory of the test's own, because each of them begins with 128 MB of log.
const MEMBER_DIR: &str = "/run/etcd";
const MEMBER_DIR_MB: usize = 2_048;
/// How long a request of the operator waits for one coordinator.
const ASK_PATIENCE: Duration = Duration::from_secs(3);
/// Shortest time between two of its questions about the pool: each is a read of most members of etcd, on two cores that beds share.
const ASK_GAP: Duration = Duration::from_millis(50);
/// How long an order waits for its answer: longer than a coordinator tries.
const ORDER_PATIENCE: Duration = Duration::from_secs(30);
/// The operator.
const OPERATOR: &str = "ops1.example.org";
/// Times of the pool.  The shortest `absent_after` that a file may have: beats come every two seconds and a half, and a
/// coordinator is blind after five.  A daemon is absent after three of its periods of a minute, a poll and two beats.
pub const ABSENT_AFTER: Duration = Duration::from_secs(30);
pub const ABSENCE_LIMIT: Duration = Duration::from_secs(195);
pub const BEAT: Duration = Duration::from_millis(2_500);
const POLICY: &str = "interval = \"1d\"\npromote_waves = [\"node1\", \"100%\"]\nhealth_window = \"1s\"\n\
                      drain_max = \"2s\"\nabsent_after = \"30s\"\n";
/// The rest of an agent's `[source]`: it reports often, because the gates need its counters.
const CADENCE: &str = "wait = \"2s\"\nperiod = \"10s\"\nstart_timeout = \"20s\"\n";

/// How a cluster is made.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// More arguments of each member.
    pub member: Vec<&'static str>,
    /// Lines of the pool besides the usual ones.
    pub policy: String,
    /// Rows that wait for minutes: half of the clients are enough.
    pub waits: bool,
    /// What stands in for the program of these coordinators, from the beginning.
    pub stand_ins: BTreeMap<usize, StandIn>,
}

/// Coordinators and members.
pub struct Cluster {
    ca: Ca,
    pub etcd: Etcd,
    /// Hosts of the coordinators.
    pub places: Vec<Place>,
    /// Hosts of the members.
    pub member_places: Vec<Place>,
    coordinators: Vec<Coordinator>,
    clients: Vec<Client>,
    /// Whom the operator asks, in this order.
    pub ask: Vec<usize>,
    /// The coordinators' user in etcd, from their next configuration on.
    pub user: Option<(String, String)>,
    layout: Layout,
    /// What stands in for which coordinator, from its next start on.
    pub stand_ins: BTreeMap<usize, StandIn>,
    nodes: usize,
    /// Agents without kernels, with an authority of their own.
    swarm_ca: Ca,
    swarm: Option<Swarm>,
    /// What is collected for the judgement of the whole.
    pub recorder: Recorder,
    /// When the operator asked last.
    asked_at: Cell<Option<Instant>>,
    // Dropped last: clients use it.
    runtime: tokio::runtime::Runtime,
}

/// A whole fleet on a cluster, with the first key on all nodes, and clients that have cookies.
pub fn up(nodes: usize, layout: Layout) -> Fleet<Cluster> {
    let places: Vec<Place> = (0..COORDINATORS).map(Place::coordinator).collect();
    let member_places: Vec<Place> = (0..MEMBERS).map(Place::member).collect();
    std::fs::create_dir_all("/run/netns").expect("/run is the test's");
    places.iter().chain(&member_places).for_each(Place::make);
    let mut network = made(Network::make(u8::try_from(nodes).expect("a few nodes")));
    network.clients.truncate(if layout.waits { SITES / 2 } else { SITES });
    places.iter().chain(&member_places).for_each(Place::plug);
    plug_operator();
    let cluster = Cluster::start(nodes, layout, places, member_places);
    let mut fleet = Fleet::around(cluster, network, nodes);
    fleet.begin(nodes);
    fleet.center.recorder.sample(nodes);
    fleet
}

fn made<T>(result: Result<T, DemoError>) -> T {
    result.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// A file system in memory for the members, in the test's own mounts.
fn member_dir() -> PathBuf {
    std::fs::create_dir_all(MEMBER_DIR).expect("/run is the test's");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("mode=0755,size={MEMBER_DIR_MB}m"), "tfo-test", MEMBER_DIR]);
    let output = mount.stdin(Stdio::null()).output().expect("mount starts");
    assert!(output.status.success(), "{}", stderr(&output));
    MEMBER_DIR.into()
}

impl Cluster {
    fn start(nodes: usize, layout: Layout, places: Vec<Place>, member_places: Vec<Place>) -> Self {
        let hosts: Vec<MemberHost> =
            member_places.iter().map(|place| MemberHost { netns: place.netns(), address: place.ip() }).collect();
        let dir = member_dir();
        let plan = Plan {
            client_certs: true,
            more: &layout.member,
            hosts: &hosts,
            names: &[&own_address().to_string()],
            dir: Some(&dir),
            ..Plan::of(MEMBERS)
        };
        let etcd = Etcd::new(&plan);
        let (ca, runtime) = (Ca::new("fleet"), runtime());
        let operator = ca.client(&[OPERATOR]);
        let clients: Vec<Client> = places
            .iter()
            .map(|place| {
                let tls = client_config(&ca.pem, Some(&operator));
                Client::new(runtime.handle(), SocketAddr::new(place.ip(), 9443), tls).waiting(ASK_PATIENCE)
            })
            .collect();
        let ask_every = if layout.waits { history::ASK_SELDOM } else { history::ASK_EVERY };
        let recorder = Recorder::new(clients.clone(), ask_every);
        let coordinators = places.iter().map(|place| Coordinator::new(&directory(place))).collect();
        let mut cluster = Self {
            ca,
            etcd,
            places,
            member_places,
            coordinators,
            clients,
            ask: (0..COORDINATORS).collect(),
            user: None,
            stand_ins: layout.stand_ins.clone(),
            layout,
            nodes,
            swarm_ca: Ca::new("swarm"),
            swarm: None,
            recorder,
            asked_at: Cell::new(None),
            runtime,
        };
        for number in 0..COORDINATORS {
            cluster.equip(number);
            cluster.spawn(number);
        }
        (0..COORDINATORS).for_each(|number| cluster.serves(number));
        cluster
    }

    /// Writes all files of a coordinator.
    fn equip(&self, number: usize) {
        let place = &self.places[number];
        let dir = directory(place);
        std::fs::create_dir_all(&dir).expect("/run is the test's");
        let address = place.address.to_string();
        let server: Identity = self.ca.both(&[&format!("{}.example.org", place.name), &address, "localhost"]);
        let authorities = format!("{}{}", self.ca.pem, self.swarm_ca.pem);
        for (name, content, mode) in [
            ("ca.crt", authorities.as_bytes(), 0o644),
            ("server.crt", server.cert_pem.as_bytes(), 0o644),
            ("server.key", server.key_pem.as_bytes(), 0o400),
            ("kek", &kek(), 0o400),
        ] {
            put(&dir, name, content, mode);
        }
        self.configure(number, &self.etcd.urls(), "");
    }

    /// Writes a coordinator's configuration: the members that it asks, and lines of the pool besides those of all.
    pub fn configure(&self, number: usize, members: &[String], more: &str) {
        let place = &self.places[number];
        let dir = directory(place);
        let path = |name: &str| self.etcd.path(name);
        let store = format!(
            "kind = \"etcd\"\nurls = {members:?}\nca = {:?}\ncert = {:?}\nkey = {:?}\nname = {:?}\nname_lock = {:?}\n",
            path("ca.crt"),
            path("client.crt"),
            path("client.key"),
            place.name,
            dir.join("name.lock"),
        );
        let user = self.user.as_ref().map_or_else(String::new, |(user, password)| {
            put(&dir, "password", password.as_bytes(), 0o400);
            format!("user = {user:?}\npassword = {:?}\n", dir.join("password"))
        });
        let store = store + &user;
        let of = CoordinatorToml::of(&dir, format!("{}:9443", place.address), format!("{}:9441", place.address));
        let config = CoordinatorToml { operators: &[OPERATOR], store, ..of };
        let (nodes, policy) = (self.nodes, policy(&[&self.layout.policy, more]));
        let pool = format!("[pools.{POOL}]\nnodes = [\"node*\"]\nexpected_nodes = {nodes}\n{policy}");
        put(&dir, "coordinator.toml", config.with_pools(&pool).as_bytes(), 0o644);
    }

    // ---- the coordinators ----

    /// Starts a coordinator, without waiting.
    pub fn spawn(&mut self, number: usize) {
        self.spawn_with(number, &[]);
    }

    /// The same with variables of its environment.
    pub fn spawn_with(&mut self, number: usize, variables: &[(&str, &str)]) {
        let place = &self.places[number];
        let config = directory(place).join("coordinator.toml");
        let mut command = match self.stand_ins.get(&number) {
            None => {
                let mut command = place.command(program("tfo-coordinator"));
                command.args(["serve", "--config"]).arg(config);
                command
            }
            Some(stand_in) => stand_in.command(place, &config),
        };
        command.env("TFO_LOG", "info").envs(variables.iter().copied());
        self.coordinators[number].spawn_by(command);
    }

    /// `systemctl stop`.
    #[track_caller]
    pub fn stop(&mut self, number: usize) {
        let coordinator = &mut self.coordinators[number];
        assert!(coordinator.stop().success(), "{}", coordinator.log());
    }

    /// Waits until a coordinator answers for the pool.  One that finds its store too busy at its start ends, and a service
    /// manager starts it again.
    #[track_caller]
    pub fn serves(&mut self, number: usize) {
        let answers = poll_until(PATIENCE * 2, || {
            if self.coordinators[number].has_ended() {
                self.spawn(number);
            }
            self.pool_at(number).is_some()
        });
        assert!(answers, "{}", self.coordinators[number].log());
    }

    /// The pool as one coordinator shows it; none if it does not.
    pub fn pool_at(&self, number: usize) -> Option<Value> {
        let (status, body) = self.clients[number].get(&format!("/v1/pools/{POOL}"));
        (status == 200).then_some(body)
    }

    /// A coordinator, to be signalled, killed or read.
    pub fn coordinator(&mut self, number: usize) -> &mut Coordinator {
        &mut self.coordinators[number]
    }

    /// Status and body of a request to one coordinator.
    pub fn get_at(&self, number: usize, below: &str) -> (u16, Value) {
        self.clients[number].get(&format!("/v1/pools/{POOL}{below}"))
    }

    /// Gives an order to one coordinator, and waits for its answer however long it takes.
    pub fn order_at(&self, number: usize, below: &str) -> (u16, Value) {
        let (path, body) = (format!("/v1/pools/{POOL}{below}"), order());
        let (status, answer) = self.clients[number].clone().waiting(PATIENCE).post(&path, &body);
        if status == 200 {
            self.recorder.told(Told::of(&answer));
        }
        (status, answer)
    }

    /// Whether a coordinator says that it has no store, however long it takes to find out.
    pub fn is_blind(&self, number: usize) -> bool {
        self.clients[number].clone().waiting(PATIENCE).get(&format!("/v1/pools/{POOL}")).0 == 503
    }

    /// The coordinator at which a node's session is.
    #[track_caller]
    pub fn of_node(&self, node: usize) -> usize {
        let name = self.history().coordinator_of(&format!("node{node}")).expect("it has reported");
        self.places.iter().position(|place| place.name == name).expect("they are ours")
    }

    /// Asks all others before this one, which is about to be harmed.
    pub fn ask_last(&mut self, last: usize) {
        self.ask = (1..=COORDINATORS).map(|step| (last + step) % COORDINATORS).collect();
    }

    /// Stops or continues a coordinator.
    pub fn signal(&self, number: usize, signal: Signal) {
        self.coordinators[number].signal(signal);
    }

    /// Ends the cuts of all hosts.
    pub fn heal(&self) {
        self.places.iter().chain(&self.member_places).for_each(Place::heal);
    }

    // ---- agents without kernels ----

    /// Starts so many agents beside those of the nodes.
    pub fn simulate(&mut self, count: usize) {
        let server = |place: &Place| (place.name.clone(), SocketAddr::new(place.ip(), 9443));
        let servers: Vec<(String, SocketAddr)> = self.places.iter().map(server).collect();
        let plan = swarm::Plan {
            from: Some(own_address()),
            poll_secs: 2,
            // No node of it is excluded, and each kind of move waits for all of them.
            strict: true,
            ..swarm::Plan::for_one(servers[0].1, self.ca.pem.clone(), 0..count)
        };
        let _inside = self.runtime.enter();
        self.swarm = Some(Swarm::start(swarm::Plan { servers, ..plan }, self.swarm_ca.duplicate()));
    }

    /// How many of them there are.
    pub fn simulated(&self) -> usize {
        self.swarm.as_ref().map_or(0, Swarm::agents)
    }

    /// One of them is gone for so long, and comes back as a new run of the agent with what it held.
    pub fn vanish(&self, agent: usize, time: Duration) {
        self.swarm.as_ref().expect("they were started").fault(agent, swarm::Fault::Vanish(time));
    }

    /// Rules that they have found broken, in words.
    pub fn violations(&self) -> Vec<String> {
        self.swarm.as_ref().map_or_else(Vec::new, |swarm| swarm::lock(&swarm.counts().violations).clone())
    }

    // ---- what is stored ----

    /// The document's revision as any coordinator shows it.
    pub fn revision(&self) -> Option<u64> {
        self.ask(&Method::GET, "", None).ok()?["revision"].as_u64()
    }

    /// The life of each coordinator, by its last beat.
    pub fn lives(&self) -> Vec<u64> {
        let life = |place: &Place| {
            let stamp = self.etcd.ctl(&["get", "--print-value-only", &format!("{PREFIX}p/{POOL}/s/{}", place.name)]);
            let stamp: Value = serde_json::from_str(stamp.split_once(' ').expect("a checksum first").1).expect("JSON");
            stamp["life"].as_u64().expect("a number")
        };
        self.places.iter().map(life).collect()
    }

    /// Waits for a revision above this one, and gives the time since `start`.
    #[track_caller]
    pub fn next_commit(&self, before: u64, start: Instant) -> Duration {
        let found = poll_some(PATIENCE, || self.revision().filter(|revision| *revision > before));
        assert!(found.is_some(), "no commit after revision {before}: {}", self.logs());
        now().duration_since(start)
    }

    /// Ends of the logs of all coordinators.
    pub fn logs(&self) -> String {
        let tail = |log: String| {
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        self.coordinators.iter().map(|one| tail(one.log()) + "\n---\n").collect()
    }

    /// What etcd has kept of everything that was stored, with what was seen beside it.
    pub fn history(&self) -> history::History {
        self.recorder.history(&self.etcd)
    }
}

/// Lines of the pool, where later ones take the place of earlier ones.
fn policy(more: &[&str]) -> String {
    let mut lines: BTreeMap<&str, &str> = BTreeMap::new();
    for line in std::iter::once(POLICY).chain(more.iter().copied()).flat_map(str::lines) {
        lines.insert(line.split(' ').next().unwrap_or_default(), line);
    }
    lines.values().map(|line| format!("{line}\n")).collect()
}

/// A coordinator's directory.
pub fn directory(place: &Place) -> PathBuf {
    Path::new(DIRECTORY).join(&place.name)
}

fn put(dir: &Path, name: &str, content: &[u8], mode: u32) {
    let path = dir.join(name);
    std::fs::remove_file(&path)
        .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .expect("it is ours");
    std::fs::write(&path, content).expect("it is ours");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

impl Center for Cluster {
    fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        let identity = self.ca.client(&[node]);
        let number: usize = node.trim_start_matches("node").parse().expect("nodes are numbered");
        let urls: Vec<String> = (0..COORDINATORS)
            .map(|step| format!("https://{}:9443", self.places[(number + step) % COORDINATORS].address))
            .collect();
        let file = |name, text: &str| File { name, content: Zeroizing::new(text.as_bytes().to_vec()) };
        let directory = directory.display();
        Ok(Supplies {
            source_toml: format!(
                "[source]\nkind = \"coordinator\"\nurls = {urls:?}\npool = \"{POOL}\"\nca = \"{directory}/ca.crt\"\n\
                 cert = \"{directory}/node.crt\"\nkey = \"{directory}/node.key\"\n{CADENCE}"
            ),
            files: vec![
                file("ca.crt", &self.ca.pem),
                file("node.crt", &identity.cert_pem),
                file("node.key", &identity.key_pem),
            ],
        })
    }

    /// Asks coordinators in turn until one answers with a decision.
    fn ask(&self, method: &Method, below: &str, body: Option<&Value>) -> Result<Value, String> {
        if let Some(at) = self.asked_at.get() {
            std::thread::sleep(ASK_GAP.saturating_sub(at.elapsed()));
        }
        self.asked_at.set(Some(now()));
        let path = format!("/v1/pools/{POOL}{below}");
        let mut last = "no coordinator answers".to_owned();
        for number in &self.ask {
            let body = body.map(|body| body.to_string().into_bytes());
            // An order may be done although its answer is late, and is not given twice then.
            let patience = if *method == Method::POST { ORDER_PATIENCE } else { ASK_PATIENCE };
            let client = self.clients[*number].clone().waiting(patience);
            let (status, answer) = client.ask(method.clone(), &path, body);
            match status {
                200 => {
                    if *method == Method::POST {
                        self.recorder.told(Told::of(&answer));
                    } else if below.is_empty() {
                        self.recorder.shown(Shown::of(*number, &answer));
                    }
                    return Ok(answer);
                }
                0 | 503 => {
                    if let Some(message) = answer["message"].as_str() {
                        last = message.to_owned();
                    }
                }
                _ => return Err(format!("{status} {answer}")),
            }
        }
        Err(last)
    }

    /// The judgement of the whole, and an orderly end of all.
    #[track_caller]
    fn end(&mut self) {
        (0..COORDINATORS).for_each(|number| self.stop(number));
    }
}

/// An order of the operator, without more.
pub fn order() -> Value {
    json!({"reason": "test"})
}
