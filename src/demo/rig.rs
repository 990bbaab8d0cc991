//! The fleet with every part in reach: whatever can happen to a node, an agent or a coordinator can be made to happen.
//!
//! For the fleet tests, which decide what happens when (`driven`); the demo itself uses `fleet`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::client::{self, Whistle};
use super::coordinator::Coordinator;
use super::error::DemoError;
use super::judge::{Outcome, Tally};
use super::network::{Network, Wire};
use super::node::{File, NodeFiles, Supplies};
use super::program::Program;
use super::server::Server;
use super::shell;
use tfo_crypto::random;
use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::kernel::procfs::KEY_PATH;
use tfo_model::key::TfoKey;
use tfo_model::key_text::KeyText;
use tfo_model::time::UnixTime;
use tfo_wire::v1::secret::SecretText;

/// The agent's file, in the node's directory, and where an older one is kept.
const SYSCTL_FILE: &str = "sysctl.d/50-tcp_fastopen_key.conf";
const KEPT_FILE: &str = "kept";
/// Secrets that derived keys are made from, the same for all nodes.
const SECRET_FILES: [&str; 2] = ["first.secret", "second.secret"];
const SECRET_BYTES: usize = 32;
/// The line that the agent's file is about.
const SYSCTL_NAME: &str = "net.ipv4.tcp_fastopen_key = ";

/// A node and its programs.
struct Member {
    files: NodeFiles,
    agent: Option<Program>,
    server: Option<Server>,
}

/// An entry of a schedule of derived keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Which of the secrets, from 0.
    secret: usize,
    interval_secs: u64,
    lead_secs: u64,
    not_before: Option<UnixTime>,
}

/// All parts.
pub(super) struct Rig {
    network: Network,
    pub(super) coordinator: Coordinator,
    members: BTreeMap<u8, Member>,
    clients: Vec<JoinHandle<Result<(), NamespaceError>>>,
    tally: Arc<Tally>,
    whistle: Whistle,
    static_key: Option<TfoKey>,
    secrets: [Zeroizing<Vec<u8>>; SECRET_FILES.len()],
    /// PassiveFail of namespaces that are gone.
    gone_passive_fail: u64,
}

/// What can be counted.
#[derive(Debug, Serialize)]
pub(super) struct Sight {
    connections: u64,
    accepted: u64,
    rejected: u64,
    /// The parts of them that went to the v6 address.
    accepted_v6: u64,
    rejected_v6: u64,
    failed: u64,
    lost: u64,
    /// Over all nodes, those that were wiped too.
    passive_fail: u64,
    nodes: BTreeMap<String, MemberSight>,
}

#[derive(Debug, Serialize)]
struct MemberSight {
    agent: bool,
    serves: bool,
    passive: Option<u64>,
    passive_fail: Option<u64>,
    /// status.json as it is; null if there is none.
    status: Value,
}

impl Rig {
    /// The network, the coordinator, and nodes without programs.
    pub(super) fn make(nodes: u8) -> Result<Self, DemoError> {
        let network = Network::make(nodes)?;
        let coordinator = Coordinator::start(network.management.clone(), nodes)?;
        let mut secrets = [(); SECRET_FILES.len()].map(|()| Zeroizing::new(vec![0; SECRET_BYTES]));
        secrets.iter_mut().try_for_each(|secret| random::fill(secret))?;
        let mut rig = Self {
            network,
            coordinator,
            members: BTreeMap::new(),
            clients: Vec::new(),
            tally: Arc::default(),
            whistle: Whistle::default(),
            static_key: None,
            secrets,
            gone_passive_fail: 0,
        };
        (1..=nodes).try_for_each(|node| rig.equip(node))?;
        Ok(rig)
    }

    fn equip(&mut self, node: u8) -> Result<(), DemoError> {
        let supplies = |directory: &Path, name: &str| self.coordinator.supplies(directory, name);
        let files = NodeFiles::write(self.network.node(node), supplies)?;
        self.members.insert(node, Member { files, agent: None, server: None });
        Ok(())
    }

    fn member(&mut self, node: u8) -> Result<&mut Member, DemoError> {
        self.members.get_mut(&node).ok_or_else(|| no_node(node))
    }

    /// Starts a node's agent.
    pub(super) fn start_agent(&mut self, node: u8) -> Result<(), DemoError> {
        let member = self.member(node)?;
        member.agent = Some(member.files.start_agent()?);
        Ok(())
    }

    /// Runs a node's agent as a timer would, and gives its exit code.
    pub(super) fn once(&mut self, node: u8) -> Result<Option<i32>, DemoError> {
        self.member(node)?.files.start_once()?.exit_code()
    }

    /// Runs a line on a node, as its root types it.
    pub(super) fn shell(&mut self, node: u8, line: &str) -> Result<shell::Ended, DemoError> {
        shell::run(&self.member(node)?.files, line)
    }

    /// Gives a node's agent another source: keys derived from the secrets and the clock.  It is for the next start or reload.
    pub(super) fn derive(&mut self, node: u8, schedule: &[Entry]) -> Result<(), DemoError> {
        let files = &self.members.get(&node).ok_or_else(|| no_node(node))?.files;
        let mut source_toml = "[source]\nkind = \"derive\"\n".to_owned();
        for entry in schedule {
            let none = || DemoError::Order(format!("there is no secret {}", entry.secret));
            let secret = files.path(SECRET_FILES.get(entry.secret).ok_or_else(none)?);
            source_toml += &format!(
                "[[source.schedule]]\nsecret = \"{}\"\ninterval = \"{}s\"\nstage_lead = \"{}s\"\n",
                secret.display(),
                entry.interval_secs,
                entry.lead_secs
            );
            source_toml += &entry.not_before.map_or_else(String::new, |at| format!("not_before = \"{at}\"\n"));
        }
        let secrets = SECRET_FILES.iter().zip(&self.secrets);
        let secrets = secrets.map(|(name, content)| File { name, content: content.clone() });
        files.supply(&Supplies { source_toml, files: secrets.collect() })
    }

    /// Makes a node one whose agent a timer runs so often, or one with a daemon; nothing runs it yet.
    pub(super) fn time(&mut self, node: u8, period_secs: Option<u64>) -> Result<(), DemoError> {
        let files = &self.members.get(&node).ok_or_else(|| no_node(node))?.files;
        let mut supplies = self.coordinator.supplies(&files.path(""), files.name())?;
        supplies.source_toml += &period_secs.map_or_else(String::new, |secs| format!("period = \"{secs}s\"\n"));
        files.supply(&supplies)
    }

    /// kill -9, and waits for its end.
    pub(super) fn kill_agent(&mut self, node: u8) -> Result<(), DemoError> {
        self.member(node)?.agent.take().map_or(Ok(()), Program::kill)
    }

    /// SIGTERM, and waits for an orderly end.
    pub(super) fn end_agent(&mut self, node: u8) -> Result<(), DemoError> {
        let Some(agent) = self.member(node)?.agent.take() else { return Ok(()) };
        agent.signal(Signal::TERM);
        agent.wait_for_end()
    }

    /// SIGSTOP, SIGCONT or SIGHUP.
    pub(super) fn signal_agent(&mut self, node: u8, signal: Signal) -> Result<(), DemoError> {
        if let Some(agent) = &self.member(node)?.agent {
            agent.signal(signal);
        }
        Ok(())
    }

    /// Opens a node's listener.
    pub(super) fn serve(&mut self, node: u8) -> Result<(), DemoError> {
        let member = self.member(node)?;
        member.server = Some(Server::start(&member.files.namespace)?);
        Ok(())
    }

    /// Lets connections go to a node, too.
    pub(super) fn announce(&mut self, node: u8) -> Result<(), DemoError> {
        let network = &mut self.network;
        self.whistle.between_connections(|| network.announce(node))
    }

    /// Lets no connection go to a node any more.
    pub(super) fn withdraw(&mut self, node: u8) -> Result<(), DemoError> {
        let network = &mut self.network;
        self.whistle.between_connections(|| network.withdraw(node))
    }

    /// Cuts a node off from the coordinator, or ends that.
    pub(super) fn wire(&mut self, node: u8, wire: Wire) -> Result<(), DemoError> {
        self.network.management_wire(node, wire)
    }

    /// Keeps a copy of the agent's file.
    pub(super) fn keep_file(&mut self, node: u8) -> Result<(), DemoError> {
        let files = &self.member(node)?.files;
        let kept = std::fs::copy(files.path(SYSCTL_FILE), files.path(KEPT_FILE));
        kept.map(drop).map_err(DemoError::step("keep a node's file"))
    }

    /// Reboots a node that serves nobody: its programs end, the file that was kept takes the place of the present one, and the kernel
    /// gets its keys from it, as from systemd-sysctl.
    pub(super) fn reboot_with_kept_file(&mut self, node: u8) -> Result<(), DemoError> {
        self.end_programs(node)?;
        let files = &self.member(node)?.files;
        let (kept, path) = (files.path(KEPT_FILE), files.path(SYSCTL_FILE));
        std::fs::copy(kept, &path).map_err(DemoError::step("put an older file into place"))?;
        // /run is empty after a boot: nobody may read there what the agent said before it.
        std::fs::remove_file(files.path("run/status.json")).map_err(DemoError::step("empty a node's /run"))?;
        let text = std::fs::read_to_string(&path).map_err(DemoError::step("read a node's file"))?;
        let keys = text.lines().find_map(|line| line.strip_prefix(SYSCTL_NAME)).unwrap_or_default();
        let written = files.namespace.within(|| std::fs::write(KEY_PATH, keys))?;
        written.map_err(DemoError::step("give a kernel its keys at boot"))
    }

    /// Installs a node that serves nobody anew: its namespace, with key and counters, and its files are gone, and made again.
    pub(super) fn wipe(&mut self, node: u8) -> Result<(), DemoError> {
        self.end_programs(node)?;
        let files = &self.member(node)?.files;
        let counters = files.counters()?;
        std::fs::remove_dir_all(files.path("")).map_err(DemoError::step("remove a node's files"))?;
        self.gone_passive_fail += counters.passive_fail.unwrap_or(0);
        self.members.remove(&node);
        self.network.remove_node(node)?;
        self.join(node)
    }

    /// Adds a node: namespace and files, no programs, not announced.
    pub(super) fn join(&mut self, node: u8) -> Result<(), DemoError> {
        self.network.add_node(node)?;
        self.equip(node)
    }

    fn end_programs(&mut self, node: u8) -> Result<(), DemoError> {
        self.kill_agent(node)?;
        self.member(node)?.server.take().map_or(Ok(()), Server::close)
    }

    /// Gives all kernels one key, as config management did before there was a coordinator.
    pub(super) fn share_static_key(&mut self) -> Result<(), DemoError> {
        let key = random::fresh_key()?;
        for member in self.members.values() {
            let text = KeyText::of_key(&key);
            let written = member.files.namespace.within(|| std::fs::write(KEY_PATH, text.expose()))?;
            written.map_err(DemoError::step("give a kernel the static key"))?;
        }
        self.static_key = Some(key);
        Ok(())
    }

    /// The key of [`Self::share_static_key`].
    pub(super) fn static_key(&self) -> Option<SecretText> {
        self.static_key.as_ref().map(SecretText::of_key)
    }

    /// Starts the clients, for good.
    pub(super) fn start_clients(&mut self) {
        let (tally, whistle) = (&self.tally, &self.whistle);
        let sites = std::mem::take(&mut self.network.clients).into_iter();
        self.clients.extend(sites.map(|site| client::start(site, Arc::clone(tally), whistle.clone())));
    }

    /// What can be seen now.
    ///
    /// # Errors
    /// Fails if a client or a server has ended by itself.
    pub(super) fn look(&mut self) -> Result<Sight, DemoError> {
        if self.clients.iter().any(JoinHandle::is_finished) {
            return Err(DemoError::Worker("client"));
        }
        let mut nodes = BTreeMap::new();
        let mut passive_fail = self.gone_passive_fail;
        for member in self.members.values_mut() {
            if member.server.as_ref().is_some_and(Server::has_ended) {
                return Err(DemoError::Worker("server"));
            }
            let counters = member.files.counters()?;
            passive_fail += counters.passive_fail.unwrap_or(0);
            let agent = match &mut member.agent {
                Some(agent) => agent.ended()?.is_none(),
                None => false,
            };
            let status = std::fs::read(member.files.path("run/status.json")).unwrap_or_default();
            let sight = MemberSight {
                agent,
                serves: member.server.is_some(),
                passive: counters.passive,
                passive_fail: counters.passive_fail,
                status: serde_json::from_slice(&status).unwrap_or(Value::Null),
            };
            nodes.insert(member.files.name().to_owned(), sight);
        }
        let totals = self.tally.totals();
        let [accepted, rejected, failed, lost] =
            [Outcome::Accepted, Outcome::Rejected, Outcome::Failed, Outcome::Lost].map(|outcome| totals.of(outcome));
        let [accepted_v6, rejected_v6] = [Outcome::Accepted, Outcome::Rejected].map(|outcome| totals.of_v6(outcome));
        Ok(Sight {
            connections: totals.connections(),
            accepted,
            rejected,
            accepted_v6,
            rejected_v6,
            failed,
            lost,
            passive_fail,
            nodes,
        })
    }

    /// Ends clients, agents and coordinator in order.
    pub(super) fn end(mut self) -> Result<(), DemoError> {
        self.whistle.blow();
        for client in std::mem::take(&mut self.clients) {
            client.join().map_err(|_| DemoError::Worker("client"))??;
        }
        let nodes: Vec<u8> = self.members.keys().copied().collect();
        for node in nodes {
            self.signal_agent(node, Signal::CONT)?;
            self.end_agent(node)?;
        }
        self.coordinator.end()
    }
}

fn no_node(node: u8) -> DemoError {
    DemoError::Order(format!("there is no node{node}"))
}
