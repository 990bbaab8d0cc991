//! The fleet of the demo with every part in reach: tests cause faults of nodes, agents and coordinators under live TCP Fast Open
//! clients on v4 and v6.
//!
//! Network, servers, clients and judge are those of `tfo_demo`; agents and coordinator are the real programs.  A test runs
//! in namespaces of its own ([`inside`]), so the fleet is called, not sent orders.  Numbers of nodes begin with 1.

mod center;
mod inside;
mod scenario;

use std::collections::BTreeMap;
use std::fs::File as Output;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tfo_crypto::random;
use tfo_demo::client::{self, ClientControl};
use tfo_demo::coordinator::Coordinator;
use tfo_demo::error::DemoError;
use tfo_demo::judge::{Evidence, Outcome, Tally};
use tfo_demo::network::{Network, Wire};
use tfo_demo::node::{File, NodeFiles, Supplies};
use tfo_demo::program::{Kit, Program};
use tfo_demo::server::Server;
use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::kernel::procfs::KEY_PATH;
use tfo_host::runtime::files::{Durability, replace};
use tfo_model::key::TfoKey;
use tfo_model::key_text::KeyText;
use tfo_model::problem::chain;
use tfo_model::time::UnixTime;
use tfo_wire::v1::secret::SecretText;
use zeroize::Zeroizing;

use crate::program;

pub use center::Center;
pub use inside::{beside, inside};
pub use scenario::{CLIENTS, Cost, UNDER_WAY};

/// The fleet's files, in a /run of its own.
pub const DIRECTORY: &str = "/run/tfo-test";
/// The agent's file, in the node's directory, and where an older one is kept.
const SYSCTL_FILE: &str = "sysctl.d/50-tcp_fastopen_key.conf";
const KEPT_FILE: &str = "kept";
/// Secrets that derived keys are made from, the same for all nodes.
const SECRET_FILES: [&str; 2] = ["first.secret", "second.secret"];
const SECRET_BYTES: usize = 32;
/// Keys of an agent whose source is a file.
const KEY_FILE: &str = "keys";
/// The sysctl that the agent's file sets.
const SYSCTL_NAME: &str = "net.ipv4.tcp_fastopen_key = ";
/// Output file of a line typed on a node, so that a program left running does not keep a pipe of the test open.
const SAID_FILE: &str = "said";

/// A node and its programs.
struct Member {
    files: NodeFiles,
    agent: Option<Program>,
    server: Option<Server>,
}

/// An entry of a schedule of derived keys.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Number of the secret, from 0.
    pub secret: usize,
    pub interval_secs: u64,
    pub lead_secs: u64,
    pub not_before: Option<UnixTime>,
}

/// How a line that was typed on a node ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Both outputs.
    pub said: String,
}

/// All parts.  Processes end with the test's PID namespace.
pub struct Fleet<C = Coordinator> {
    kit: Kit,
    network: Network,
    /// The coordinator, or the coordinators and what they need.
    pub center: C,
    members: BTreeMap<u8, Member>,
    clients: Vec<JoinHandle<Result<(), NamespaceError>>>,
    tally: Arc<Tally>,
    control: ClientControl,
    static_key: Option<TfoKey>,
    secrets: [Zeroizing<Vec<u8>>; SECRET_FILES.len()],
    /// PassiveFail of namespaces that are gone.
    gone_passive_fail: u64,
}

/// Unwraps the result of a step that must succeed.
#[track_caller]
fn done<T, E: Into<DemoError>>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{}", chain(&error.into())))
}

fn number(node: usize) -> u8 {
    u8::try_from(node).expect("a fleet has few nodes")
}

/// Directory and programs.
pub fn kit() -> Kit {
    Kit {
        directory: DIRECTORY.into(),
        agent: program("tfo-agent").into(),
        coordinator: program("tfo-coordinator").into(),
    }
}

impl<C: Center> Fleet<C> {
    /// Nodes without programs, in a network with what they have their keys from.
    pub fn around(center: C, network: Network, nodes: usize) -> Self {
        let secrets = SECRET_FILES.map(|_| {
            let mut secret = Zeroizing::new(vec![0; SECRET_BYTES]);
            done(random::fill(&mut secret));
            secret
        });
        let mut fleet = Self {
            kit: kit(),
            network,
            center,
            members: BTreeMap::new(),
            clients: Vec::new(),
            tally: Arc::default(),
            control: ClientControl::default(),
            static_key: None,
            secrets,
            gone_passive_fail: 0,
        };
        (1..=nodes).for_each(|node| fleet.equip(node));
        fleet
    }

    /// Agents, the first key, servers and clients.
    pub fn begin(&mut self, nodes: usize) {
        (1..=nodes).for_each(|node| self.start_agent(node));
        self.until("all nodes are admitted", |pool| pool["required"] == nodes);
        let first = json!({"mode": "first", "reason": "test", "expect": {"number": nodes}});
        self.command("/rotations", &first);
        self.converged();
        self.command("/resume", &json!({}));
        self.serve_all(nodes);
    }

    /// Opens all listeners and starts the clients, until each has a cookie.
    pub fn serve_all(&mut self, nodes: usize) {
        (1..=nodes).for_each(|node| self.serve(node));
        self.start_clients();
        self.clients_come_round();
    }

    fn equip(&mut self, node: usize) {
        let supplies = |directory: &Path, name: &str| self.center.supplies(directory, name);
        let files = done(NodeFiles::write(&self.kit, self.network.node(number(node)), supplies));
        self.members.insert(number(node), Member { files, agent: None, server: None });
    }

    fn member(&mut self, node: usize) -> &mut Member {
        self.members.get_mut(&number(node)).unwrap_or_else(|| panic!("there is no node{node}"))
    }

    fn files(&self, node: usize) -> &NodeFiles {
        &self.members.get(&number(node)).unwrap_or_else(|| panic!("there is no node{node}")).files
    }

    /// A file of a node.
    fn path(&self, node: usize, name: &str) -> std::path::PathBuf {
        self.files(node).path(name)
    }

    // ---- the agents ----

    pub fn start_agent(&mut self, node: usize) {
        let member = self.member(node);
        member.agent = Some(done(member.files.start_agent()));
    }

    /// Runs a node's agent as a timer would, and gives its exit code.
    pub fn once(&mut self, node: usize) -> Option<i32> {
        done(self.member(node).files.start_once().and_then(Program::exit_code))
    }

    /// kill -9, and waits for its end.
    pub fn kill_agent(&mut self, node: usize) {
        done(self.member(node).agent.take().map_or(Ok(()), Program::kill));
    }

    /// SIGTERM, and waits for an orderly end.
    pub fn end_agent(&mut self, node: usize) {
        let Some(agent) = self.member(node).agent.take() else { return };
        agent.signal(Signal::TERM);
        done(agent.wait_for_end());
    }

    fn signal_agent(&mut self, node: usize, signal: Signal) {
        if let Some(agent) = &self.member(node).agent {
            agent.signal(signal);
        }
    }

    pub fn reload_agent(&mut self, node: usize) {
        self.signal_agent(node, Signal::HUP);
    }

    pub fn freeze_agent(&mut self, node: usize) {
        self.signal_agent(node, Signal::STOP);
    }

    pub fn thaw_agent(&mut self, node: usize) {
        self.signal_agent(node, Signal::CONT);
    }

    // ---- their sources, from the next start or reload on ----

    /// Keys derived from the secrets and the clock.
    pub fn derive(&mut self, node: usize, schedule: &[Entry]) {
        let mut source_toml = "[source]\nkind = \"derive\"\n".to_owned();
        for entry in schedule {
            source_toml += &format!(
                "[[source.schedule]]\nsecret = {:?}\ninterval = \"{}s\"\nstage_lead = \"{}s\"\n",
                self.path(node, SECRET_FILES[entry.secret]),
                entry.interval_secs,
                entry.lead_secs
            );
            source_toml += &entry.not_before.map_or_else(String::new, |at| format!("not_before = \"{at}\"\n"));
        }
        let secrets = SECRET_FILES.iter().zip(&self.secrets);
        let files = secrets.map(|(name, content)| File { name, content: content.clone() }).collect();
        done(self.files(node).supply(&Supplies { source_toml, files }));
    }

    /// Keys from a file, which may be replaced while the agent runs.
    pub fn from_file(&mut self, node: usize, keys: &KeyText) {
        let source_toml = format!("[source]\nkind = \"file\"\npath = {:?}\n", self.path(node, KEY_FILE));
        let files = vec![File { name: KEY_FILE, content: Zeroizing::new(keys.expose().to_vec()) }];
        done(self.files(node).supply(&Supplies { source_toml, files }));
    }

    /// Replaces such a file.
    pub fn replace_keys(&mut self, node: usize, keys: &KeyText) {
        done(replace(&self.path(node, KEY_FILE), keys.expose(), 0o400, Durability::Volatile));
    }

    // ---- the nodes ----

    /// Opens a node's listener.
    pub fn serve(&mut self, node: usize) {
        let member = self.member(node);
        member.server = Some(done(Server::start(&member.files.namespace)));
    }

    /// Lets connections go to a node, too.
    pub fn announce(&mut self, node: usize) {
        let network = &mut self.network;
        done(self.control.between_connections(|| network.announce(number(node))));
    }

    /// Lets no connection go to a node any more.
    pub fn withdraw(&mut self, node: usize) {
        let network = &mut self.network;
        done(self.control.between_connections(|| network.withdraw(number(node))));
    }

    /// Cuts a node off from the coordinator.
    pub fn cut(&mut self, node: usize) {
        done(self.network.management_wire(number(node), Wire::Down));
    }

    /// Ends that.
    pub fn reconnect(&mut self, node: usize) {
        done(self.network.management_wire(number(node), Wire::Up));
    }

    /// Runs a line on a node, in its namespace and directory, as its root types it.
    pub fn shell(&mut self, node: usize, line: &str) -> Ended {
        let said = self.path(node, SAID_FILE);
        let files = self.files(node);
        let run = || {
            let output = Output::create(&said)?;
            let mut shell = Command::new("/bin/sh");
            shell.args(["-ec", line]).current_dir(files.path("")).stdin(Stdio::null());
            shell.stdout(output.try_clone()?).stderr(output).status()
        };
        let status = done(files.namespace.within(run)).expect("a shell starts");
        let said = std::fs::read(said).expect("it was just written");
        Ended { code: status.code(), said: String::from_utf8_lossy(&said).into_owned() }
    }

    /// Keeps a copy of the agent's file.
    pub fn keep_file(&mut self, node: usize) {
        std::fs::copy(self.path(node, SYSCTL_FILE), self.path(node, KEPT_FILE)).expect("the agent has written it");
    }

    /// Reboots a node that is withdrawn: its programs end, the file that was kept takes the place of the present one, and
    /// the kernel gets its keys from it, as from systemd-sysctl.
    pub fn reboot_with_kept_file(&mut self, node: usize) {
        self.end_programs(node);
        let path = self.path(node, SYSCTL_FILE);
        std::fs::copy(self.path(node, KEPT_FILE), &path).expect("it was kept");
        // /run is empty after a boot.
        std::fs::remove_file(self.path(node, "run/status.json")).expect("the agent has written it");
        let text = std::fs::read_to_string(&path).expect("it was just written");
        let keys = text.lines().find_map(|line| line.strip_prefix(SYSCTL_NAME)).unwrap_or_default();
        self.write_kernel(node, keys.as_bytes());
    }

    /// What a node's file holds, as an operator copies it.
    pub fn keys_of(&self, node: usize) -> String {
        let text = std::fs::read_to_string(self.path(node, SYSCTL_FILE)).expect("the agent has written it");
        text.lines().find_map(|line| line.strip_prefix(SYSCTL_NAME)).unwrap_or_default().to_owned()
    }

    fn write_kernel(&self, node: usize, keys: &[u8]) {
        done(self.files(node).namespace.within(|| std::fs::write(KEY_PATH, keys))).expect("root writes the key");
    }

    /// Installs a node again that is withdrawn: its namespace, with key and counters, and its files are gone, and made again.
    pub fn wipe(&mut self, node: usize) {
        self.end_programs(node);
        self.gone_passive_fail += done(self.files(node).counters()).passive_fail.unwrap_or(0);
        std::fs::remove_dir_all(self.path(node, "")).expect("they are ours");
        self.members.remove(&number(node));
        done(self.network.remove_node(number(node)));
        self.join(node);
    }

    /// Adds a node: namespace and files, no programs, not announced.
    pub fn join(&mut self, node: usize) {
        done(self.network.add_node(number(node)));
        self.equip(node);
    }

    fn end_programs(&mut self, node: usize) {
        self.kill_agent(node);
        done(self.member(node).server.take().map_or(Ok(()), Server::close));
    }

    /// Gives all kernels one key, as config management did before there was a coordinator.
    pub fn share_static_key(&mut self) {
        let key = done(random::fresh_key());
        for node in self.members.keys() {
            self.write_kernel(usize::from(*node), KeyText::of_key(&key).expose());
        }
        self.static_key = Some(key);
    }

    /// Starts the clients, for good.
    pub fn start_clients(&mut self) {
        let (tally, control) = (&self.tally, &self.control);
        let sites = std::mem::take(&mut self.network.clients).into_iter();
        self.clients.extend(sites.map(|site| client::start(site, Arc::clone(tally), control.clone())));
    }

    // ---- the coordinator ----

    /// Asks it as its operator; `below` is the path below the pool.
    ///
    /// # Errors
    /// The message is the coordinator's, or says that it does not answer.
    pub fn ask(&self, method: &Method, below: &str, body: Option<&Value>) -> Result<Value, String> {
        self.center.ask(method, below, body)
    }

    /// Imports the static key, with so many nodes expected.
    #[track_caller]
    pub fn import(&self, expect: usize) -> Value {
        let keys = SecretText::of_key(self.static_key.as_ref().expect("it was shared"));
        let body = json!({"reason": "the key of today", "keys": keys, "expect": {"number": expect}});
        self.ask(&Method::POST, "/import", Some(&body)).expect("the key is the nodes'")
    }

    // ---- what can be seen ----

    /// Everything that can be counted.
    #[track_caller]
    pub fn look(&mut self) -> Value {
        assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has ended by itself");
        let mut nodes = BTreeMap::new();
        let mut passive_fail = self.gone_passive_fail;
        for member in self.members.values_mut() {
            assert!(!member.server.as_ref().is_some_and(Server::has_ended), "a server has ended by itself");
            let counters = done(member.files.counters());
            passive_fail += counters.passive_fail.unwrap_or(0);
            let agent = member.agent.as_mut().is_some_and(|agent| done(agent.ended()).is_none());
            let status = std::fs::read(member.files.path("run/status.json")).unwrap_or_default();
            let sight = json!({
                "agent": agent,
                "serves": member.server.is_some(),
                "passive": counters.passive,
                "passive_fail": counters.passive_fail,
                "status": serde_json::from_slice::<Value>(&status).unwrap_or(Value::Null),
            });
            nodes.insert(member.files.name().to_owned(), sight);
        }
        let totals = self.tally.totals();
        json!({
            "connections": totals.connections(),
            "accepted": totals.of(Outcome::Accepted),
            "rejected": totals.of(Outcome::Rejected),
            // The parts of them that went to the v6 address.
            "accepted_v6": totals.of_v6(Outcome::Accepted),
            "rejected_v6": totals.of_v6(Outcome::Rejected),
            "failed": totals.of(Outcome::Failed),
            "lost": totals.of(Outcome::Lost),
            // Over all nodes, those that were wiped too.
            "passive_fail": passive_fail,
            "nodes": nodes,
        })
    }

    /// What the demo would say of it.
    pub fn faults(&mut self) -> Vec<String> {
        let passive_fail = self.look()["passive_fail"].as_u64();
        let (totals, rotations_wanted) = (self.tally.totals(), None);
        Evidence { totals, passive_fail, rotations: 0, rotations_wanted, faults: Vec::new() }.faults()
    }

    /// Ends clients, agents and coordinator in order.
    #[track_caller]
    pub fn end(mut self) {
        self.control.stop();
        for client in std::mem::take(&mut self.clients) {
            done(client.join().expect("clients do not panic"));
        }
        let nodes: Vec<usize> = self.members.keys().map(|node| usize::from(*node)).collect();
        for node in nodes {
            self.thaw_agent(node);
            self.end_agent(node);
        }
        self.center.end();
    }
}
