//! The coordinator of the demo: its files, its process, its certificates.
//!
//! The coordinator runs in the management namespace.  Every node reaches that over a link separate from the clients' one.

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
    program: Option<Program>,
    /// The operator's connection.
    pub api: Api,
}

impl Coordinator {
    /// Writes its files and starts it.
    pub fn start(kit: &Kit, namespace: Namespace, nodes: u8) -> Result<Self, DemoError> {
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
        write("coordinator.toml", config_toml(&directory, nodes).as_bytes(), 0o644)?;
        let api = Api::new(namespace.clone(), &directory, &url(), POOL)?;
        let executable = kit.coordinator.clone();
        let mut coordinator = Self { namespace, directory, executable, authority, program: None, api };
        coordinator.run()?;
        Ok(coordinator)
    }

    /// Starts the coordinator, for the first time or again.
    pub fn run(&mut self) -> Result<(), DemoError> {
        let launch = Launch {
            who: "the coordinator".to_owned(),
            executable: &self.executable,
            name: COORDINATOR_NAME,
            command: "serve",
            config: &self.directory.join("coordinator.toml"),
            log: self.directory.join("log"),
        };
        self.program = Some(Program::start(&self.namespace, launch)?);
        Ok(())
    }

    /// Fails if the coordinator has ended by itself.
    pub fn must_run(&mut self) -> Result<(), DemoError> {
        self.program.as_mut().map_or(Ok(()), Program::must_run)
    }

    /// Kills the coordinator with SIGKILL.
    pub fn kill(&mut self) -> Result<(), DemoError> {
        self.program.take().map_or(Ok(()), Program::kill)
    }

    /// Ends the coordinator with SIGTERM.
    pub fn end(&mut self) -> Result<(), DemoError> {
        let Some(program) = self.program.take() else { return Ok(()) };
        program.signal(Signal::TERM);
        program.wait_for_end()
    }

    /// The source of a node's agent.
    pub fn supplies(&self, directory: &Path, node: &str) -> Result<Supplies, DemoError> {
        let Identity { cert, key } = self.authority.issue(&Subject::Client(node))?;
        let (directory, url) = (directory.display(), url());
        let file = |name, text: &str| File { name, content: Zeroizing::new(text.as_bytes().to_vec()) };
        Ok(Supplies {
            source_toml: format!(
                "[source]\nkind = \"coordinator\"\nurls = [\"{url}\"]\npool = \"{POOL}\"\nca = \"{directory}/ca.crt\"\n\
                 cert = \"{directory}/node.crt\"\nkey = \"{directory}/node.key\"\n{CADENCE}"
            ),
            files: vec![file("ca.crt", &self.authority.pem), file("node.crt", &cert), file("node.key", &key)],
        })
    }
}

fn url() -> String {
    format!("https://{ADDRESS}:9443")
}

fn config_toml(directory: &Path, nodes: u8) -> String {
    let (directory, port) = (directory.display(), PAGE.1);
    format!(
        "[api]\nlisten = \"{ADDRESS}:9443\"\ncert = \"{directory}/server.crt\"\nkey = \"{directory}/server.key\"\n\
         client_ca = \"{directory}/ca.crt\"\n[store]\npath = \"{directory}/state.db\"\n\
         key_encryption_key = \"{directory}/kek\"\n[access]\noperators = [\"{OPERATOR}\"]\n\
         [observe]\nlisten = \"{ADDRESS}:{port}\"\n\
         [pools.{POOL}]\nnodes = [\"node*\"]\nexpected_nodes = {nodes}\n{POLICY}"
    )
}
