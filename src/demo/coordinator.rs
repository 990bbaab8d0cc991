//! The coordinators of the demo: their files, their processes, their certificates.  One with a file, or several with an etcd.
//!
//! They run in the management namespace.  Every node reaches that over a link separate from the clients' one.

use std::fs::DirBuilder;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use zeroize::Zeroizing;

use super::COORDINATOR_NAME;
use super::api::Api;
use super::authority::{Authority, Identity, Subject};
use super::error::DemoError;
use super::etcd;
use super::node::{File, Supplies};
use super::program::{Kit, Launch, Program};
use tfo_crypto::random;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::files::{Durability, replace};

/// Address that the coordinator listens on, in the management namespace.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Where its page is, in the management namespace.
pub(super) const PAGE: (Ipv4Addr, u16) = (ADDRESS, 9441);
/// Name of its only pool.
const POOL: &str = "demo";
/// Name of the operator in its certificate.
const OPERATOR: &str = "operator";
/// Length in bytes of the key that encrypts the stored keys.
const SEAL_BYTES: usize = 32;

/// `[pools.demo]`: gates and waves as in a real pool, but shorter; rotations only on the operator's command.
///
/// The first wave is a quarter of the nodes, with a health window of two seconds.  The old key counts as drained when fewer than 1 % of
/// the accepted cookies are made with it; every client connects again within a tenth of a second.
const POLICY: &str = "interval = \"1d\"\npromote_waves = [\"25%\", \"100%\"]\nhealth_window = \"2s\"\n\
                      drain_max = \"5s\"\nabsent_after = \"30s\"\n";
/// The rest of an agent's `[source]`: it reports at least once a second, because the gates need its counters.
const CADENCE: &str = "wait = \"1s\"\nstart_timeout = \"20s\"\n";

/// A coordinator with its files.
pub struct Coordinator {
    namespace: Namespace,
    directory: PathBuf,
    executable: PathBuf,
    authority: Authority,
    /// None: it was killed.
    programs: Vec<Option<Program>>,
    /// None: there is one coordinator, which has a file.
    etcd: Option<Program>,
    /// The operator's connection.
    pub api: Api,
}

impl Coordinator {
    /// Writes its files and starts it.
    pub fn start(kit: &Kit, namespace: Namespace, nodes: u8) -> Result<Self, DemoError> {
        Self::start_several(kit, namespace, nodes, 1)
    }

    /// The same for so many, which share an etcd.
    pub fn start_several(kit: &Kit, namespace: Namespace, nodes: u8, count: u8) -> Result<Self, DemoError> {
        let directory = kit.directory.join("coordinator");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(DemoError::step(format!("make {}", directory.display())))?;
        let authority = Authority::new()?;
        let write =
            |name: &str, content: &[u8], mode| replace(&directory.join(name), content, mode, Durability::Volatile);
        write("ca.crt", authority.pem.as_bytes(), 0o644)?;
        for (name, subject) in [("server", Subject::Server(ADDRESS.into())), ("operator", Subject::Client(OPERATOR))] {
            let Identity { cert, key } = authority.issue(&subject)?;
            write(&format!("{name}.crt"), cert.as_bytes(), 0o644)?;
            write(&format!("{name}.key"), key.as_bytes(), 0o400)?;
        }
        let mut seal = Zeroizing::new([0; SEAL_BYTES]);
        random::fill(&mut *seal)?;
        write("kek", &*seal, 0o400)?;
        let api = Api::new(namespace.clone(), &directory, &url(0), POOL)?;
        let (executable, programs, etcd) = (kit.coordinator.clone(), Vec::new(), None);
        let mut coordinator = Self { namespace, directory, executable, authority, programs, etcd, api };
        coordinator.equip(nodes, count)?;
        (0..usize::from(count)).try_for_each(|number| coordinator.run_one(number))?;
        Ok(coordinator)
    }

    /// Writes the configurations of so many, none of which runs, and starts the etcd that several need.
    pub fn equip(&mut self, nodes: u8, count: u8) -> Result<(), DemoError> {
        let store = if count > 1 { Store::Etcd } else { Store::File };
        for number in 0..usize::from(count) {
            let text = config_toml(&self.directory, nodes, (number, store));
            replace(&self.directory.join(config_name(number)), text.as_bytes(), 0o644, Durability::Volatile)?;
        }
        if count > 1 {
            self.etcd = Some(etcd::start(&self.namespace, &self.directory)?);
        }
        self.programs = (0..count).map(|_| None).collect();
        Ok(())
    }

    /// Starts the coordinator, for the first time or again.
    pub fn run(&mut self) -> Result<(), DemoError> {
        self.run_one(0)
    }

    /// The same for one of several.
    pub fn run_one(&mut self, number: usize) -> Result<(), DemoError> {
        let launch = Launch {
            who: if self.etcd.is_some() {
                format!("coordinator {}", name(number))
            } else {
                "the coordinator".to_owned()
            },
            executable: &self.executable,
            name: COORDINATOR_NAME,
            command: "serve",
            config: &self.directory.join(config_name(number)),
            log: self.directory.join(if number == 0 { "log".to_owned() } else { format!("log{number}") }),
        };
        self.programs[number] = Some(Program::start(&self.namespace, launch)?);
        Ok(())
    }

    /// Fails if a coordinator, or their store, has ended by itself.
    pub fn must_run(&mut self) -> Result<(), DemoError> {
        self.programs.iter_mut().flatten().chain(&mut self.etcd).try_for_each(Program::must_run)
    }

    /// Kills the coordinator with SIGKILL.
    pub fn kill(&mut self) -> Result<(), DemoError> {
        self.kill_one(0)
    }

    /// The same for one of several.
    pub fn kill_one(&mut self, number: usize) -> Result<(), DemoError> {
        self.programs[number].take().map_or(Ok(()), Program::kill)
    }

    /// Ends all coordinators with SIGTERM, and then their store.
    pub fn end(&mut self) -> Result<(), DemoError> {
        let programs: Vec<Program> = self.programs.iter_mut().filter_map(Option::take).collect();
        programs.iter().for_each(|program| program.signal(Signal::TERM));
        programs.into_iter().try_for_each(Program::wait_for_end)?;
        self.etcd.take().map_or(Ok(()), Program::kill)
    }

    /// The source of a node's agent.
    pub fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        let Identity { cert, key } = self.authority.issue(&Subject::Client(node))?;
        let directory = directory.display();
        let urls: Vec<String> = (0..self.programs.len()).map(url).collect();
        let file = |name, text: &str| File { name, content: Zeroizing::new(text.as_bytes().to_vec()) };
        Ok(Supplies {
            source_toml: format!(
                "[source]\nkind = \"coordinator\"\nurls = {urls:?}\npool = \"{POOL}\"\nca = \"{directory}/ca.crt\"\n\
                 cert = \"{directory}/node.crt\"\nkey = \"{directory}/node.key\"\n{CADENCE}"
            ),
            files: vec![file("ca.crt", &self.authority.pem), file("node.crt", &cert), file("node.key", &key)],
        })
    }
}

/// Where pools are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    File,
    Etcd,
}

/// The name of one of several coordinators in their store.
pub(super) fn name(number: usize) -> String {
    format!("tfo{}", number + 1)
}

fn config_name(number: usize) -> String {
    if number == 0 { "coordinator.toml".to_owned() } else { format!("coordinator{number}.toml") }
}

fn url(number: usize) -> String {
    format!("https://{ADDRESS}:{}", 9_443 + number)
}

fn config_toml(directory: &Path, nodes: u8, (number, store): (usize, Store)) -> String {
    let directory = directory.display();
    let (listen, page) = (9_443 + number, if number == 0 { PAGE.1.into() } else { 9_500 + number });
    let store = match store {
        Store::File => format!("path = \"{directory}/state.db\"\n"),
        Store::Etcd => format!(
            "kind = \"etcd\"\nurls = [{:?}]\nca = \"{directory}/ca.crt\"\nname = {:?}\nname_lock = \"{directory}/name{number}.lock\"\n",
            etcd::url(),
            name(number)
        ),
    };
    format!(
        "[api]\nlisten = \"{ADDRESS}:{listen}\"\ncert = \"{directory}/server.crt\"\nkey = \"{directory}/server.key\"\n\
         client_ca = \"{directory}/ca.crt\"\n[store]\n{store}\
         key_encryption_key = \"{directory}/kek\"\n[access]\noperators = [\"{OPERATOR}\"]\n\
         [observe]\nlisten = \"{ADDRESS}:{page}\"\n\
         [pools.{POOL}]\nnodes = [\"node*\"]\nexpected_nodes = {nodes}\n{POLICY}"
    )
}
