//! A real fleet without kernels: `tfo-coordinator` with certificates of `tfoctl pki`, and nodes that hold what they are
//! told.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tfo_host::runtime::clock;
use tfo_host::secret::SecretPath;
use tfo_tls::client::client_config;
use tfo_wire::client::{BaseUrl, Call, Client};
use zeroize::Zeroizing;

use super::fake::{Operator, SOON};
use tfo_testbed::poll_until;

/// Names of the nodes.
pub(crate) const NODES: [&str; 3] = ["a.test", "b.test", "c.test"];

/// A coordinator, an operator, and three nodes.
pub(crate) struct Fleet {
    pub(crate) operator: Operator,
    pub(crate) nodes: Vec<FakeNode>,
    api: SocketAddr,
    coordinator: Option<Child>,
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
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
        let (api, observe, dir) = (free_port(), free_port(), operator.path(""));
        let dir = dir.display();
        let pool = "nodes = [\"*.test\"]\ninterval = \"1d\"\nexpected_nodes = 3\npromote_waves = [\"100%\"]\n\
                    drain_max = \"0s\"\nhealth_window = \"0s\"\n";
        let config = format!(
            "[api]\nlisten = \"{api}\"\ncert = \"{dir}/pki/c1.test.crt\"\nkey = \"{dir}/pki/c1.test.key\"\n\
             client_ca = \"{dir}/pki/ca.crt\"\ncrl = \"{dir}/pki/crl.pem\"\n\
             [store]\npath = \"{dir}/state.db\"\nkey_encryption_key = \"{dir}/kek\"\n\
             [access]\noperators = [\"ops1.test\"]\nviewers = [\"view1.test\"]\n[observe]\nlisten = \"{observe}\"\n\
             [pools.text]\n{pool}[pools.bulk]\n{pool}"
        );
        operator.write("coordinator.toml", &config, 0o644);
        operator.write("kek", "0123456789abcdef0123456789abcdef", 0o400);
        operator.configure(&[&format!("https://{api}")], "pool = \"text\"");
        let mut fleet = Self { operator, nodes: Vec::new(), api, coordinator: None };
        fleet.start_coordinator();
        fleet.nodes = NODES.iter().map(|node| FakeNode::start(&fleet.operator, api, node)).collect();
        fleet
    }

    /// Starts the coordinator, and waits until it listens.
    pub(crate) fn start_coordinator(&mut self) {
        let log = File::options().create(true).append(true).open(self.operator.path("log")).unwrap();
        let child = Command::new(tfo_testbed::program("tfo-coordinator"))
            .args(["serve", "--config"])
            .arg(self.operator.path("coordinator.toml"))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.coordinator = Some(child);
        assert!(poll_until(SOON, || TcpStream::connect(self.api).is_ok()), "{}", self.log());
    }

    /// Stops it.
    pub(crate) fn stop_coordinator(&mut self) {
        let mut child = self.coordinator.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.operator.path("log")).unwrap_or_default()
    }

    /// The pool as `tfoctl pools` has it.
    #[track_caller]
    pub(crate) fn pool(&self) -> Value {
        self.operator.json(&["pools", "--pool", "text"], 0)["pools"][0].take()
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
        self.until_known(3);
        self.operator.ends(&["rotate", "--first", "--expect", "3", "--wait", "--yes", "--timeout", "20s"], 0);
        self.operator.ok(&["resume"]);
    }

    /// Waits until so many nodes have registered.
    #[track_caller]
    pub(crate) fn until_known(&self, count: usize) {
        let known = || self.operator.json(&["nodes"], 0)["nodes"].as_array().unwrap().len() == count;
        assert!(poll_until(SOON, known), "{}", self.log());
    }

    /// Keeps a node from installing what it is told.
    pub(crate) fn stick(&self, node: usize, is_stuck: bool) {
        self.nodes[node].stuck.store(is_stuck, Ordering::SeqCst);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.nodes.clear();
        if let Some(child) = &mut self.coordinator {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the coordinator\n{}", self.log());
        }
    }
}

/// A node without a kernel.
pub(crate) struct FakeNode {
    stuck: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    held: Arc<Mutex<Value>>,
    thread: Option<JoinHandle<()>>,
}

static SESSIONS: AtomicU64 = AtomicU64::new(1);

impl FakeNode {
    fn start(operator: &Operator, api: SocketAddr, name: &'static str) -> Self {
        let file = |name: &str| operator.path("pki").join(name);
        let key = SecretPath::File(file(&format!("{name}.key")));
        let tls = client_config(&file("ca.crt"), &file(&format!("{name}.crt")), &key, clock::now()).unwrap();
        let mut node = Self {
            stuck: Arc::default(),
            ended: Arc::default(),
            held: Arc::new(Mutex::new(Value::Null)),
            thread: None,
        };
        let (stuck, ended, held) = (Arc::clone(&node.stuck), Arc::clone(&node.ended), Arc::clone(&node.held));
        node.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let base: BaseUrl = format!("https://{api}").parse().unwrap();
            runtime.block_on(async {
                let client = Client::new(tls).unwrap();
                let (mut session, mut seen) = (SESSIONS.fetch_add(1, Ordering::Relaxed), 0);
                let mut told = Value::Null;
                while !ended.load(Ordering::SeqCst) {
                    if !stuck.load(Ordering::SeqCst) {
                        held.lock().unwrap().clone_from(&told);
                    }
                    let body = request(session, seen, &held.lock().unwrap());
                    let call = Call {
                        method: &Method::POST,
                        path: "/v1/pools/text/sync",
                        timeout: SOON,
                        answer_bytes_max: 4_096,
                    };
                    match client.call::<_, Value>(&base, call, Some(&body)).await {
                        Ok(Some(answer)) => {
                            seen = answer["generation"].as_u64().unwrap();
                            told = answer;
                        }
                        Ok(None) => {}
                        // Away, denied, or another session: what an agent does too, only sooner.
                        Err(_) => {
                            (session, seen) = (SESSIONS.fetch_add(1, Ordering::Relaxed), 0);
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            });
        }));
        node
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

fn request(session: u64, seen: u64, held: &Value) -> Value {
    let slot = |key: &Value| match key {
        Value::Null => Value::Null,
        key => json!({"epoch": key["epoch"], "fingerprint": key["fingerprint"]}),
    };
    let installed = match held {
        Value::Null => Value::Null,
        held => json!({
            "pool_id": held["pool_id"], "generation": held["generation"],
            "primary": slot(&held["primary"]), "backup": slot(&held["backup"])
        }),
    };
    json!({
        "wait_secs": 1, "next_contact_secs": 5, "session": format!("{session}-{:016x}", 1), "seen": seen,
        "installed": installed, "kernel": "6.1.0-42-amd64", "agent": "0.1.0", "tcp_fastopen": 3,
        "clock": {"unix_ms": 1_790_000_000_000_u64, "synchronised": true}, "counters": null, "error": null
    })
}
