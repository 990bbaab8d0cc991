//! The agent with the real coordinator: first key, a rotation, a coordinator that is killed, `once`, and `[report]`.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tfo_host::runtime::clock;
use tfo_host::secret::SecretPath;
use tfo_tls::client::client_config;
use tfo_wire::client::{BaseUrl, Call, Client, ClientError};

use tfo_testbed::daemon::{Daemon, DaemonHost, SOON, lasting};
use tfo_testbed::fake_coordinator::{Pki, source};
use tfo_testbed::{need_netns, poll_some, poll_until};

/// Where the coordinator listens, in its own namespace.
const URL: &str = "https://10.99.0.1:9443";

/// Agents with kernels of their own around one coordinator.
struct Fleet {
    pki: Pki,
    /// The coordinator's host, which is the operator's too.
    center: DaemonHost,
    hosts: Vec<DaemonHost>,
    coordinator: Option<Child>,
}

impl Fleet {
    fn new(count: usize) -> Self {
        let (pki, center) = (Pki::new(), DaemonHost::new());
        center.netns().become_hub();
        let hosts: Vec<DaemonHost> = (0..count).map(|_| DaemonHost::new()).collect();
        for (number, host) in hosts.iter().enumerate() {
            host.netns().plug_into(center.netns(), number);
            pki.equip(host, &format!("n{number}.cache.example.org"), 90);
            let rest = "start_timeout = \"20s\"\nwait = \"5s\"\nperiod = \"10s\"";
            host.configure(&source(host, &[URL.to_owned()], rest), "verify_interval = \"1s\"");
        }
        let mut fleet = Self { pki, center, hosts, coordinator: None };
        fleet.equip_center(count);
        fleet.start();
        fleet
    }

    fn equip_center(&self, expected: usize) {
        let center = &self.center;
        self.pki.equip(center, "ops1.example.org", 90);
        let (cert, key) = self.pki.issue("10.99.0.1", 90);
        center.put("server.crt", cert.as_bytes(), 0o644);
        center.put("server.key", key.as_bytes(), 0o400);
        center.put("kek", &(0..32u8).map(|at| at.wrapping_mul(37)).collect::<Vec<_>>(), 0o400);
        let dir = center.path("");
        let dir = dir.display().to_string();
        let dir = dir.trim_end_matches('/');
        let text = format!(
            "[api]\nlisten = \"10.99.0.1:9443\"\ncert = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\n\
             client_ca = \"{dir}/ca.crt\"\n[store]\npath = \"{dir}/state.db\"\nkey_encryption_key = \"{dir}/kek\"\n\
             [access]\noperators = [\"ops1.example.org\"]\n[observe]\nlisten = \"127.0.0.1:9441\"\n[pools.text]\n\
             nodes = [\"*.cache.example.org\"]\ninterval = \"1d\"\nexpected_nodes = {expected}\n\
             promote_waves = [\"100%\"]\ndrain_max = \"0s\"\nhealth_window = \"0s\"\n"
        );
        center.put("coordinator.toml", text.as_bytes(), 0o644);
    }

    fn start(&mut self) {
        let log = File::create(self.center.path("coordinator-log")).unwrap();
        let mut command = self.center.command(tfo_testbed::program("tfo-coordinator"));
        command.arg("serve").arg("--config").arg(self.center.path("coordinator.toml"));
        self.coordinator = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let answers = poll_until(2 * SOON, || self.ask(Method::GET, "/v1/pools", None).is_ok());
        assert!(answers, "{}", self.log());
    }

    /// kill -9.
    fn kill(&mut self) {
        let mut child = self.coordinator.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.center.path("coordinator-log")).unwrap_or_default()
    }

    /// As the operator, by the library's own client.
    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<Value>, ClientError> {
        let file = |name| self.center.path(name);
        let key = SecretPath::File(file("node.key"));
        let tls = client_config(&file("ca.crt"), &file("node.crt"), &key, clock::now()).unwrap();
        self.center.netns().run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (client, base) = (Client::new(tls).unwrap(), URL.parse::<BaseUrl>().unwrap());
            let call = Call { method: &method, path, timeout: Duration::from_secs(10), answer_bytes_max: 1 << 20 };
            runtime.block_on(client.call(&base, call, body))
        })
    }

    #[track_caller]
    fn until(&self, wanted: &str, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let found = poll_some(3 * SOON, || {
            last = self.ask(Method::GET, path, None).ok().flatten();
            last.clone().filter(|seen| is(seen))
        });
        found.unwrap_or_else(|| panic!("never {wanted}: {last:#?}\n{}", self.log()))
    }

    #[track_caller]
    fn command(&self, path: &str, body: &Value) {
        let mut last = None;
        // Refused for as long as a coordinator that has started has not heard every node.
        let done = poll_until(2 * SOON, || {
            last = Some(self.ask(Method::POST, path, Some(body)));
            !matches!(last, Some(Err(ClientError::Refused { status: 503, .. })))
        });
        assert!(done && matches!(last, Some(Ok(_))), "{path}: {last:?}\n{}", self.log());
    }

    /// Generation and phase, as every node has to have them.
    #[track_caller]
    fn converged(&self, phase: &str) -> u64 {
        let pool = self.until(phase, "/v1/pools/text", |pool| {
            pool["phase"] == phase && pool["required"] == self.hosts.len() && pool["converged"] == pool["required"]
        });
        let kernels: Vec<String> = self.hosts.iter().map(|host| host.kernel()).collect();
        assert!(kernels.windows(2).all(|two| two[0] == two[1]), "{kernels:?}");
        pool["generation"].as_u64().unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(child) = &mut self.coordinator {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the coordinator\n{}", self.log());
        }
    }
}

fn first_key(fleet: &Fleet) -> u64 {
    fleet.until("here", "/v1/pools/text/nodes", |nodes| nodes["nodes"].as_array().unwrap().len() == fleet.hosts.len());
    fleet.command("/v1/pools/text/rotations", &json!({"mode": "first", "reason": "begin"}));
    fleet.converged("steady")
}

#[test]
fn three_agents_walk_through_a_rotation_and_past_a_killed_coordinator() {
    if !need_netns() {
        return;
    }
    let mut fleet = Fleet::new(3);
    let mut daemons: Vec<Daemon> = fleet.hosts.iter().map(DaemonHost::start).collect();
    let first = first_key(&fleet);
    daemons.iter().for_each(|daemon| drop(daemon.ready()));
    fleet.command("/v1/pools/text/resume", &json!({}));
    let before = fleet.hosts[0].kernel();
    fleet.command("/v1/pools/text/rotations", &json!({"reason": "test"}));
    let moved = fleet.until("rotated", "/v1/pools/text", |pool| {
        pool["phase"] == "steady" && pool["generation"].as_u64() >= Some(first + 2)
    });
    assert_eq!(moved["converged"], 3, "{moved:#}");
    let (after, old) = (fleet.hosts[0].kernel(), before.split(',').next().unwrap());
    assert!(after.ends_with(&format!(",{old}")), "{before} {after}");

    // The agents outlive it, and say so; a rotation goes on after it is back.
    fleet.kill();
    for host in &fleet.hosts {
        let lost = || host.status()["error"]["kind"] == "coordinator_unreachable";
        assert!(poll_until(2 * SOON, lost), "{}", host.status());
        assert_eq!(host.kernel(), after);
    }
    fleet.start();
    let held = fleet.converged("steady");
    fleet.command("/v1/pools/text/rotations", &json!({"reason": "again"}));
    fleet.until("rotated", "/v1/pools/text", |pool| {
        pool["phase"] == "steady" && pool["generation"].as_u64() >= Some(held + 2)
    });
    for (host, daemon) in fleet.hosts.iter().zip(&mut daemons) {
        let well = || host.status()["state"] == "ok" && host.status()["contact"] == "connected";
        assert!(poll_until(SOON, well), "{}", host.status());
        assert!(host.kernel().ends_with(&format!(",{}", after.split(',').next().unwrap())));
        daemon.stop();
    }
}

#[test]
fn timers_walk_through_a_rotation_too() {
    if !need_netns() {
        return;
    }
    let fleet = Fleet::new(2);
    let all = |expected: Option<i32>| {
        for host in &fleet.hosts {
            let output = host.once(&["--detailed-exit-codes"]);
            let good = expected.is_none_or(|code| output.status.code() == Some(code));
            assert!(good, "{}", String::from_utf8_lossy(&output.stderr));
        }
    };
    // An empty pool: no keys yet.
    all(Some(1));
    fleet.command("/v1/pools/text/rotations", &json!({"mode": "first", "reason": "begin"}));
    all(Some(2));
    let first = fleet.converged("steady");
    all(Some(0));
    fleet.command("/v1/pools/text/resume", &json!({}));
    fleet.command("/v1/pools/text/rotations", &json!({"reason": "test"}));
    for phase in ["staged", "promoted"] {
        fleet.until(phase, "/v1/pools/text", |pool| pool["phase"] == phase);
        all(Some(2));
    }
    assert_eq!(fleet.converged("steady"), first + 2);
    // What `check` asks joins nothing, and is answered.
    let check = fleet.hosts[0].run("check", &["--format", "json"]);
    let found: Value = serde_json::from_slice(&check.stdout).unwrap();
    let kinds = found["problems"].as_array().unwrap().iter().map(|problem| problem["kind"].as_str().unwrap());
    assert!(kinds.clone().all(|kind| !kind.starts_with("coordinator")), "{found:#}");
    let stranger = &fleet.hosts[1];
    fleet.pki.equip(stranger, "n1.other.example.org", 90);
    let check = stranger.run("check", &["--format", "json"]);
    let found: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert!(found["problems"].as_array().unwrap().iter().any(|problem| problem["kind"] == "not_in_pool"), "{found:#}");
    assert_eq!(stranger.once(&["--detailed-exit-codes"]).status.code(), Some(1));
}

#[test]
fn a_deriving_agent_is_shown_and_driven_nowhere() {
    if !need_netns() {
        return;
    }
    let fleet = Fleet::new(1);
    let host = &fleet.hosts[0];
    let [ca, cert, key] = ["ca.crt", "node.crt", "node.key"].map(|name| host.path(name));
    let report = format!("[report]\nurls = [{URL:?}]\npool = \"text\"\nca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n");
    host.configure(&lasting(host), &format!("verify_interval = \"1s\"\n{report}"));
    let mut daemon = host.start();
    daemon.ready();
    let nodes = fleet.until("shown", "/v1/pools/text/nodes", |nodes| nodes["nodes"][0]["state"] == "reporting");
    assert_eq!(
        (&nodes["nodes"][0]["source"], &nodes["nodes"][0]["primary"]),
        (&"derive".into(), &host.status()["primary"])
    );
    let pool = fleet.until("reporting", "/v1/pools/text", |pool| pool["reporting"] == 1);
    assert_eq!((&pool["required"], &pool["phase"]), (&0.into(), &"empty".into()));
    assert!(poll_until(SOON, || host.status()["contact"] == "connected"));
    daemon.stop();
}
