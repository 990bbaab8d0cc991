//! A real etcd on loopback, of one member or three, with TLS: its members are started, killed, stopped and continued by pid,
//! and end with their test.  Data is in memory.
//!
//! `etcdctl` does what an administrator does: users, compaction, snapshots.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::pki::{Ca, Identity, client_config, put};
use crate::{PATIENCE, free_port, mortal, need_tool, poll_until, scratch_in_memory};

/// Skips the calling test unless etcd is installed.
#[track_caller]
pub fn need_etcd() -> bool {
    need_tool("etcd") && need_tool("etcdctl")
}

/// How a cluster is made.
pub struct Plan<'a> {
    /// Members: one or three.
    pub members: usize,
    /// Clients must show a certificate of the cluster's CA.
    pub client_certs: bool,
    /// More arguments of each member.
    pub more: &'a [&'a str],
    /// Starts a program, so that it ends with the test.
    pub start: &'a dyn Fn(&str) -> Command,
}

impl Plan<'_> {
    /// So many members that take every client.
    pub fn of(members: usize) -> Self {
        Self { members, client_certs: false, more: &[], start: &|program| mortal(program) }
    }
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

/// A cluster.
pub struct Etcd {
    ca: Ca,
    /// A client's certificate.
    pub client: Identity,
    client_certs: bool,
    members: Vec<Member>,
    more: Vec<String>,
    // Dropped last, so that the logs can be shown first.
    dir: TempDir,
}

impl Etcd {
    /// A running cluster.
    pub fn new(plan: &Plan<'_>) -> Self {
        let ca = Ca::new("etcd");
        let dir = scratch_in_memory();
        put(&dir.path().join("ca.crt"), &ca.pem);
        // With client certificates the gateway shows the member's own to the member itself.
        ca.both(&["localhost", "127.0.0.1"]).write(dir.path(), "member");
        let client = ca.client(&["tfo1.example.org"]);
        client.write(dir.path(), "client");
        let member = |_| Member { client: free_port(), peer: free_port(), child: None };
        let members = (0..plan.members).map(member).collect();
        let more = plan.more.iter().map(|&one| one.to_owned()).collect();
        let mut etcd = Self { ca, client, client_certs: plan.client_certs, members, more, dir };
        for number in 0..plan.members {
            etcd.spawn(number, plan.start);
        }
        (0..plan.members).for_each(|number| etcd.ready(number, 0));
        etcd
    }

    /// `https://…` of each member.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("https://{}", member.client)).collect()
    }

    /// Where a member listens for clients.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.members[number].client
    }

    /// What a client trusts and shows.
    pub fn tls(&self) -> rustls::ClientConfig {
        client_config(&self.ca.pem, self.client_certs.then_some(&self.client))
    }

    /// A file of the directory: `ca.crt`, `client.crt`, `client.key`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log_path(&self, number: usize) -> PathBuf {
        self.path(&format!("log{number}"))
    }

    fn spawn(&mut self, number: usize, start: &dyn Fn(&str) -> Command) {
        let url = |address: SocketAddr, scheme: &str| format!("{scheme}://{address}");
        let cluster: Vec<String> =
            self.members.iter().enumerate().map(|(n, one)| format!("m{n}={}", url(one.peer, "http"))).collect();
        let Member { client, peer, .. } = self.members[number];
        let mut command = start("etcd");
        let pair = |name: &str, value: String| [name.to_owned(), value];
        command.args(pair("--name", format!("m{number}")));
        command.args(["--data-dir".into(), self.path(&format!("data{number}"))]);
        command.args(pair("--listen-client-urls", url(client, "https")));
        command.args(pair("--advertise-client-urls", url(client, "https")));
        command.args(pair("--listen-peer-urls", url(peer, "http")));
        command.args(pair("--initial-advertise-peer-urls", url(peer, "http")));
        command.args(pair("--initial-cluster", cluster.join(",")));
        command.args(["--cert-file".into(), self.path("member.crt")]);
        command.args(["--key-file".into(), self.path("member.key")]);
        if self.client_certs {
            command.args(["--trusted-ca-file".into(), self.path("ca.crt")]).arg("--client-cert-auth");
        }
        command.args(["--logger", "zap", "--log-outputs", "stderr"]).args(&self.more);
        let log = File::options().create(true).append(true).open(self.log_path(number)).unwrap();
        self.members[number].child =
            Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Waits until a member serves clients; `seen` is the length of its log before its start.
    #[track_caller]
    fn ready(&mut self, number: usize, seen: usize) {
        let is_ready = poll_until(PATIENCE, || {
            let log = fs::read_to_string(self.log_path(number)).unwrap_or_default();
            log.get(seen..).is_some_and(|log| log.contains("serving client traffic"))
        });
        assert!(is_ready, "{}", self.log(number));
    }

    /// What a member has logged.
    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(self.log_path(number)).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(&mut self, number: usize) {
        let mut child = self.members[number].child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a member that was killed, with what it has on disk.
    #[track_caller]
    pub fn start(&mut self, number: usize) {
        let seen = self.log(number).len();
        self.spawn(number, &|program| mortal(program));
        self.ready(number, seen);
    }

    /// SIGSTOP or SIGCONT.
    pub fn signal(&self, number: usize, signal: Signal) {
        let child = self.members[number].child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        let text = self.ctl(&["endpoint", "status", "-w", "json"]);
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let leads = |one: &&serde_json::Value| one["Status"]["header"]["member_id"] == one["Status"]["leader"];
        let leader = all.as_array().unwrap().iter().find(leads).unwrap_or_else(|| panic!("no leader: {text}"));
        self.urls().iter().position(|url| leader["Endpoint"] == url.as_str()).unwrap()
    }

    /// `etcdctl` with these arguments.
    pub fn etcdctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.urls().join(",")]);
        command.args(["--cacert".into(), self.path("ca.crt")]);
        if self.client_certs {
            command.args(["--cert".into(), self.path("client.crt"), "--key".into(), self.path("client.key")]);
        }
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// The same; it must succeed.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.etcdctl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The present revision.
    pub fn revision(&self) -> i64 {
        let answer: serde_json::Value = serde_json::from_str(&self.ctl(&["get", "x", "-w", "json"])).unwrap();
        answer["header"]["revision"].as_i64().unwrap()
    }

    /// Adds the user `root`, and one that may read and write under a prefix, and turns passwords on.
    pub fn enable_users(&self, name: &str, password: &str, prefix: &str) {
        self.ctl(&["user", "add", "root:root"]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["role", "add", "fleet"]);
        self.ctl(&["role", "grant-permission", "--prefix", "fleet", "readwrite", prefix]);
        self.ctl(&["user", "add", &format!("{name}:{password}")]);
        self.ctl(&["user", "grant-role", name, "fleet"]);
        self.ctl(&["auth", "enable"]);
    }

    /// Saves what a cluster of one member has.
    pub fn save(&self, name: &str) {
        self.ctl(&["snapshot", "save", self.path(name).to_str().unwrap()]);
    }

    /// Stops a cluster of one member, puts a saved state in its place, and starts it again.
    pub fn restore(&mut self, name: &str) {
        self.kill(0);
        let data = self.path("data0");
        fs::remove_dir_all(&data).unwrap();
        let peer = format!("http://{}", self.members[0].peer);
        let (snapshot, data) = (self.path(name), data.to_str().unwrap().to_owned());
        let restore = ["snapshot", "restore", snapshot.to_str().unwrap(), "--name", "m0", "--data-dir", &data];
        let cluster = format!("m0={peer}");
        self.ctl(&[&restore[..], &["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer]].concat());
        self.start(0);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            // One that was stopped dies of it, too.
            member.kill().and_then(|()| member.wait()).map_or_else(|error| eprintln!("etcd: {error}"), drop);
        }
        if std::thread::panicking() {
            for number in 0..self.members.len() {
                let log = self.log(number);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "--- end of the log of etcd member {number}\n{}",
                    lines[lines.len().saturating_sub(15)..].join("\n")
                );
            }
        }
    }
}
