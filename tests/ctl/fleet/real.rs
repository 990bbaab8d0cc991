//! A real fleet without kernels: `tfo-coordinator` with certificates of `tfoctl pki`, and nodes that hold what they are
//! told.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tfo_testbed::config::{CoordinatorToml, FAST};
use tfo_testbed::coordinator::{Client, Coordinator, Node, runtime};
use tfo_testbed::pki::{Identity, client_config};
use tfo_testbed::{SOON, free_port, poll_until};
use zeroize::Zeroizing;

use super::fake::Operator;

/// Names of the nodes.
pub(crate) const NODES: [&str; 3] = ["a.test", "b.test", "c.test"];

/// A coordinator, an operator, and three nodes.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<FakeNode>,
    coordinator: Coordinator,
    api: SocketAddr,
    _runtime: tokio::runtime::Runtime,
    // Last: the coordinator's log is in its directory.
    pub(crate) operator: Operator,
}

impl Fleet {
    /// All of it, running; the pools are empty.
    pub(crate) fn start() -> Self {
        let operator = Operator::new();
        let pki = operator.path("pki");
        let issue = |role: &str, name: &str| {
            operator.plain(&["pki", "issue", "--dir", pki.to_str().unwrap(), role, name]);
        };
        issue("--viewer", "view1.test");
        NODES.iter().for_each(|node| issue("--node", node));
        let (dir, api) = (operator.path(""), free_port());
        let config = CoordinatorToml {
            identity: "pki/c1.test/coordinator",
            client_ca: "pki/ca.crt",
            crl: Some("pki/crl.pem"),
            operators: &["ops1.test"],
            viewers: &["view1.test"],
            ..CoordinatorToml::of(&dir, api, free_port())
        };
        let pool = format!("nodes = {NODES:?}\n{FAST}");
        operator.write(
            "coordinator.toml",
            &config.with_pools(&format!("[pools.edge]\n{pool}[pools.bulk]\n{pool}")),
            0o644,
        );
        operator.write("kek", "0123456789abcdef0123456789abcdef", 0o400);
        operator.configure(&[&format!("https://{api}")], "pool = \"edge\"");
        let (coordinator, runtime) = (Coordinator::new(&dir), runtime());
        let mut fleet = Self { nodes: Vec::new(), coordinator, api, _runtime: runtime, operator };
        fleet.start_coordinator();
        let ca = std::fs::read_to_string(pki.join("ca.crt")).unwrap();
        let node = |name: &&str| {
            let tls = client_config(&ca, Some(&Identity::read(&pki, &format!("{name}/node"))));
            FakeNode::start(Node::new(Client::new(fleet._runtime.handle(), api, tls), name))
        };
        fleet.nodes = NODES.iter().map(node).collect();
        fleet
    }

    /// Starts the coordinator, and waits until it listens.
    pub(crate) fn start_coordinator(&mut self) {
        self.coordinator.spawn();
        assert!(poll_until(SOON, || TcpStream::connect(self.api).is_ok()), "{}", self.log());
    }

    /// Stops it.
    pub(crate) fn stop_coordinator(&mut self) {
        assert!(self.coordinator.stop().success(), "{}", self.log());
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        self.coordinator.log()
    }

    /// The pool as `tfoctl pools` has it.
    #[track_caller]
    pub(crate) fn pool(&self) -> Value {
        self.operator.json(&["pools", "--pool", "edge"], 0)["pools"][0].take()
    }

    /// Waits until the pool is as wanted.
    #[track_caller]
    pub(crate) fn until(&self, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = poll_until(SOON, || {
            last = self.pool();
            is(&last)
        });
        assert!(found, "never {wanted}: {last}\n{}", self.log());
        last
    }

    /// Gives the pool its first key, and lets it go on.
    #[track_caller]
    pub(crate) fn first_key(&self) {
        let known = || self.operator.json(&["nodes"], 0)["nodes"].as_array().unwrap().len() == NODES.len();
        assert!(poll_until(SOON, known), "{}", self.log());
        self.operator.ends(&["rotate", "--first", "--expect", "3", "--wait", "--yes", "--timeout", "20s"], 0);
        self.operator.ok(&["resume"]);
    }

    /// Keeps a node from installing what it is told.
    pub(crate) fn stick(&self, node: usize, is_stuck: bool) {
        self.nodes[node].stuck.store(is_stuck, Ordering::SeqCst);
    }
}

/// A node that asks all the time, until it is dropped.
pub(crate) struct FakeNode {
    stuck: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    held: Arc<Mutex<Value>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeNode {
    fn start(mut node: Node) -> Self {
        let (stuck, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let held = Arc::<Mutex<Value>>::default();
        let (own_stuck, own_ended, own_held) = (Arc::clone(&stuck), Arc::clone(&ended), Arc::clone(&held));
        let thread = std::thread::spawn(move || {
            while !own_ended.load(Ordering::SeqCst) {
                if !own_stuck.load(Ordering::SeqCst) && !node.told.is_null() {
                    node.install();
                    own_held.lock().unwrap().clone_from(&node.told);
                }
                let (status, _) = node.sync(1);
                if !matches!(status, 200 | 204) {
                    // Away, denied, or another session: what an agent does too, only sooner.
                    node.new_session();
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        });
        Self { stuck, ended, held, thread: Some(thread) }
    }

    /// The kernel text of what it holds.
    pub(crate) fn keys(&self) -> Zeroizing<String> {
        let held = self.held.lock().unwrap();
        let slots = [&held["primary"]["key"], &held["backup"]["key"]];
        Zeroizing::new(slots.iter().filter_map(|slot| slot.as_str()).collect::<Vec<_>>().join(","))
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
