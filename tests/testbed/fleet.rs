//! A whole fleet of real programs: one coordinator with certificates of `tfoctl pki` and SQLite on disk, agents with
//! kernels of their own in network namespaces on one wire, and an operator with `tfoctl`.
//!
//! The coordinator's host is the operator's too; its directory is the operator's home and working directory, so that
//! commands are typed as the documentation has them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use crate::config::{CoordinatorToml, client_files, fast, kek};
use crate::coordinator::Coordinator;
use crate::daemon::{Daemon, DaemonHost};
use crate::fake_coordinator::source;
use crate::output::{said, stderr, stdout};
use crate::{PATIENCE, poll_some, poll_until};

/// Where the coordinator listens.
pub const URL: &str = "https://10.99.0.1:9443";

/// The fleet.  What runs is ended when it is dropped.
pub struct Fleet {
    // First: its log is in the center's directory.
    coordinator: Coordinator,
    /// The coordinator's and the operator's host.
    pub center: DaemonHost,
    /// The nodes.
    pub hosts: Vec<DaemonHost>,
    /// Their agents; none where it does not run.
    pub daemons: Vec<Option<Daemon>>,
}

/// A node's name.
pub fn node(number: usize) -> String {
    format!("cp{}.example.org", number + 1)
}

impl Fleet {
    /// Hosts, certificates and configurations; nothing runs.  `policy` are the lines of the pool besides `nodes`.
    pub fn new(count: usize, policy: &str) -> Self {
        let center = DaemonHost::new();
        center.netns().become_hub();
        let hosts: Vec<DaemonHost> = (0..count).map(|_| DaemonHost::new()).collect();
        let daemons = hosts.iter().map(|_| None).collect();
        let coordinator = Coordinator::new(&center.path(""));
        let fleet = Self { center, hosts, daemons, coordinator };
        fleet.pki(&["init", "--dir", "pki"]);
        fleet.pki(&["issue", "--dir", "pki", "--coordinator", "tfo1.example.org", "--address", "10.99.0.1"]);
        fleet.pki(&["issue", "--dir", "pki", "--operator", "ops1.example.org"]);
        for (number, host) in fleet.hosts.iter().enumerate() {
            host.netns().plug_into(fleet.center.netns(), number);
            fleet.pki(&["issue", "--dir", "pki", "--node", &node(number)]);
            fleet.equip("pki", number);
            fleet.configure_agent(number, URL);
        }
        fleet.identify_center("pki");
        fleet.believe(&fleet.issued("pki", "ca.crt"), &fleet.issued("pki", "crl.pem"));
        fleet.center.put("kek", &kek(), 0o400);
        fleet.configure(policy);
        fleet
    }

    /// The same, with coordinator and agents running.
    pub fn running(count: usize, policy: &str) -> Self {
        let mut fleet = Self::new(count, policy);
        fleet.serve();
        fleet.start_agents();
        fleet
    }

    /// Running, with a first key on all nodes, and driving.
    pub fn steady(count: usize) -> Self {
        let fleet = Self::running(count, &fast(count));
        fleet.first_key();
        fleet
    }

    /// A file of a directory of `tfoctl pki`.
    pub fn issued(&self, pki: &str, name: &str) -> Vec<u8> {
        fs::read(self.center.path(&format!("{pki}/{name}"))).unwrap()
    }

    /// Puts a node's certificate, and the authority's, where its agent looks for them.
    pub fn equip(&self, pki: &str, number: usize) {
        self.hosts[number].put("ca.crt", &self.issued(pki, "ca.crt"), 0o644);
        self.identify(pki, number);
    }

    /// Puts a node's certificate where its agent looks for it.
    pub fn identify(&self, pki: &str, number: usize) {
        self.identify_from(&format!("{pki}/{}", node(number)), number);
    }

    /// The same from the directory that has its files.
    pub fn identify_from(&self, directory: &str, number: usize) {
        let host = &self.hosts[number];
        host.put("node.key", &self.issued(directory, "node.key"), 0o400);
        host.put("node.crt", &self.issued(directory, "node.crt"), 0o644);
    }

    /// Puts the coordinator's and the operator's certificates where their configurations have them.
    pub fn identify_center(&self, pki: &str) {
        for (name, role) in [("tfo1.example.org", "coordinator"), ("ops1.example.org", "operator")] {
            let issued = |file: &str| self.issued(&format!("{pki}/{name}"), file);
            let (key, certificate) = (format!("{role}.key"), format!("{role}.crt"));
            self.center.put(&key, &issued(&key), 0o400);
            self.center.put(&certificate, &issued(&certificate), 0o644);
        }
    }

    /// Whom the coordinator and the operator believe, and whom the coordinator does not any more.
    pub fn believe(&self, authorities: &[u8], lists: &[u8]) {
        self.center.put("crl.pem", lists, 0o644);
        self.center.put("ca.crt", authorities, 0o644);
    }

    /// Writes an agent's configuration.
    pub fn configure_agent(&self, number: usize, url: &str) {
        let host = &self.hosts[number];
        let textfile = host.path("tfo.prom");
        host.configure(
            &source(host, &[url.to_owned()], "start_timeout = \"20s\"\nwait = \"5s\"\nperiod = \"10s\""),
            &format!("verify_interval = \"1s\"\n[metrics]\ntextfile = {textfile:?}"),
        );
    }

    /// Writes the coordinator's configuration and the operator's.
    pub fn configure(&self, policy: &str) {
        let dir = self.center.path("");
        let of = CoordinatorToml::of(&dir, "10.99.0.1:9443", "127.0.0.1:9441");
        let config =
            CoordinatorToml { identity: "coordinator", crl: Some("crl.pem"), operators: &["ops1.example.org"], ..of };
        let text = config.with_pools(&format!("[pools.edge]\nnodes = [\"cp*.example.org\"]\n{policy}"));
        self.center.put("coordinator.toml", text.as_bytes(), 0o644);
        let files = client_files(&dir.join("ca.crt"), &dir.join("operator.crt"), &dir.join("operator.key"));
        let text = format!("urls = [{URL:?}]\npool = \"edge\"\n{files}");
        fs::create_dir_all(self.center.path(".config/tfo-fleet")).unwrap();
        self.center.put(".config/tfo-fleet/ctl.toml", text.as_bytes(), 0o644);
    }

    // ---- the coordinator ----

    fn coordinator_command(&self, command: &str, more: &[&str]) -> Command {
        let mut coordinator = self.center.command("setpriv");
        coordinator
            .args(["--pdeathsig", "KILL", crate::program("tfo-coordinator")])
            .current_dir(self.center.path(""))
            .arg(command)
            .args(["--config", "coordinator.toml"])
            .args(more);
        coordinator
    }

    /// Runs a command of `tfo-coordinator` to its end, with this exit code; gives stdout and stderr together.
    #[track_caller]
    pub fn coordinator(&self, command: &str, more: &[&str], code: i32) -> String {
        let output = self.coordinator_command(command, more).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{command} {more:?}: {}", said(&output));
        said(&output)
    }

    /// The phase of the pool in the coordinator's store, whether it is served or not: as a backup shows it.
    pub fn stored_phase(&self) -> String {
        let output = self.coordinator_command("export", &["--to", "looked-at", "--force"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let exported: Value = serde_json::from_slice(&output.stdout).unwrap();
        exported["pools"][0]["phase"].as_str().unwrap().to_owned()
    }

    /// Starts the coordinator, and waits until it answers the operator.
    #[track_caller]
    pub fn serve(&mut self) {
        self.spawn();
        let answers = || self.ctl(&["pools"]).status.success();
        assert!(poll_until(PATIENCE, answers), "{:?}\n{}", self.ctl(&["pools"]), self.log());
    }

    /// Starts the coordinator.
    pub fn spawn(&mut self) {
        let mut command = self.coordinator_command("serve", &[]);
        command.env("TFO_LOG", "debug");
        self.coordinator.spawn_by(command);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.coordinator.kill();
    }

    /// `systemctl stop`.
    #[track_caller]
    pub fn stop(&mut self) {
        assert!(self.coordinator.stop().success(), "{}", self.log());
    }

    /// `systemctl reload`.
    pub fn reload(&self) {
        self.coordinator.signal(Signal::HUP);
    }

    /// All that coordinators logged.
    pub fn log(&self) -> String {
        self.coordinator.log()
    }

    // ---- the agents ----

    /// Starts one agent.
    pub fn start_agent(&mut self, number: usize) {
        self.daemons[number] = Some(self.hosts[number].start_with("TFO_LOG=debug exec \"$@\""));
    }

    /// Starts all agents.
    pub fn start_agents(&mut self) {
        (0..self.hosts.len()).for_each(|number| self.start_agent(number));
    }

    /// `systemctl stop` on a node.
    #[track_caller]
    pub fn stop_agent(&mut self, number: usize) {
        self.daemons[number].take().unwrap().stop();
    }

    /// What all kernels hold; fails unless it is the same, and what all files and statuses say.
    #[track_caller]
    pub fn agreed(&self) -> String {
        let kernels: Vec<String> = self.hosts.iter().map(|host| host.kernel()).collect();
        assert!(kernels.windows(2).all(|two| two[0] == two[1]), "{kernels:?}");
        for host in &self.hosts {
            assert_eq!(host.persisted_keys().as_ref(), Some(&kernels[0]));
        }
        kernels[0].clone()
    }

    // ---- the operator ----

    fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut ctl = self.center.command(crate::program("tfoctl"));
        ctl.args(arguments).current_dir(self.center.path("")).env("HOME", self.center.path(""));
        ctl.env_remove("XDG_CONFIG_HOME");
        ctl
    }

    /// Runs a line as the operator types it: the programs are in the PATH.
    pub fn shell(&self, line: &str) -> Output {
        let programs = crate::agent_path().parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = self.center.command("/bin/sh");
        shell.args(["-c", line]).current_dir(self.center.path("")).env("HOME", self.center.path("")).env("PATH", path);
        shell.env_remove("XDG_CONFIG_HOME").output().unwrap()
    }

    /// Runs `tfoctl`.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_command(arguments).output().unwrap()
    }

    /// Runs `tfoctl` to its end, with this exit code; gives stdout and stderr.
    #[track_caller]
    pub fn ends(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = self.ctl(arguments);
        let (stdout, stderr) = (stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}\n{}", self.log());
        (stdout, stderr)
    }

    /// Its JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let (stdout, _) = self.ends(&[arguments, &["--format", "json"]].concat(), 0);
        serde_json::from_str(&stdout).unwrap()
    }

    /// `tfoctl pki`, which must succeed.
    #[track_caller]
    pub fn pki(&self, arguments: &[&str]) {
        self.ends(&[&["pki"], arguments].concat(), 0);
    }

    /// The pool.
    #[track_caller]
    pub fn pool(&self) -> Value {
        self.json(&["pools"])["pools"][0].take()
    }

    /// Waits until the pool is like this.
    #[track_caller]
    pub fn until(&self, wanted: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = poll_some(PATIENCE, || {
            last = serde_json::from_slice(&self.ctl(&["pools", "--format", "json"]).stdout).unwrap_or(Value::Null);
            Some(last["pools"][0].take()).filter(&is)
        });
        found.unwrap_or_else(|| panic!("never {wanted}: {last:#}\n{:#}\n{}", self.json(&["nodes"]), self.log()))
    }

    /// Waits until so many nodes are converged, and none is not.
    #[track_caller]
    pub fn converged(&self, count: usize) -> Value {
        self.until("converged", |pool| {
            pool["phase"] == "steady" && pool["required"] == count && pool["converged"] == count
        })
    }

    /// Waits until so many nodes have reported.
    #[track_caller]
    pub fn until_known(&self, count: usize) {
        let known = || self.json(&["nodes"])["nodes"].as_array().unwrap().len() == count;
        assert!(poll_until(PATIENCE, known), "{:#}\n{}", self.json(&["nodes"]), self.log());
    }

    /// Gives the pool its first key, and lets it go on.
    #[track_caller]
    pub fn first_key(&self) {
        self.until_known(self.hosts.len());
        self.ends(&["rotate", "--first", "--wait", "--yes", "--timeout", "60s"], 0);
        self.ends(&["resume"], 0);
    }

    /// A rotation from its start to its end; gives what all kernels hold.
    #[track_caller]
    pub fn rotate(&self) -> String {
        let before = self.agreed();
        self.ends(&["rotate", "--wait", "--timeout", "60s"], 0);
        let (after, old) = (self.agreed(), before.split(',').next().unwrap());
        assert!(after.ends_with(&format!(",{old}")), "{before} {after}");
        after
    }

    /// Writes the line of a node's sysctl.d file to a key file of the operator's, as an operator does.
    pub fn take_keys(&self, number: usize) -> PathBuf {
        let keys = self.hosts[number].persisted_keys().unwrap();
        self.center.put("keys", keys.as_bytes(), 0o400);
        self.center.path("keys")
    }
}
