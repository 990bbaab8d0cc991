//! A real etcd, of one member or three, with TLS: its members are started, killed, stopped and continued by pid, and end with
//! their test.  They are on loopback, or each on a host of its own.  Data is in memory.
//!
//! `etcdctl` does what an administrator does: users, compaction, snapshots.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rcgen::ExtendedKeyUsagePurpose;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::history::Event;
use crate::pki::{Ca, Identity, Leaf, client_config, put};
use crate::{PATIENCE, free_port, mortal, need_tool, poll_some, poll_until, scratch_below, scratch_in_memory};

/// Skips the calling test unless etcd is installed.
#[track_caller]
pub fn need_etcd() -> bool {
    need_tool("etcd") && need_tool("etcdctl")
}

/// Ports of a member that has a host of its own.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// How a cluster is made.
pub struct Plan<'a> {
    /// Members: one or three.
    pub members: usize,
    /// Clients must show a certificate of the cluster's CA.
    pub client_certs: bool,
    /// The members' certificates are for servers alone, as those that most authorities issue.
    pub server_only: bool,
    /// More arguments of each member.
    pub more: &'a [&'a str],
    /// Starts a program, so that it ends with the test.
    pub start: &'a dyn Fn(&str) -> Command,
    /// The hosts of the members; none: this one.
    pub hosts: &'a [MemberHost],
    /// Names and addresses that the members' certificate has besides their own: those of proxies.
    pub names: &'a [&'a str],
    /// Where its files are; none: in a directory in memory.
    pub dir: Option<&'a Path>,
}

/// Where a member runs.
#[derive(Debug, Clone)]
pub struct MemberHost {
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Its address there.
    pub address: IpAddr,
}

impl MemberHost {
    /// A program on this host that ends with the test.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).args([
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            program,
        ]);
        command
    }
}

impl Plan<'_> {
    /// So many members that take every client.
    pub fn of(members: usize) -> Self {
        Self {
            members,
            client_certs: false,
            server_only: false,
            more: &[],
            start: &|program| mortal(program),
            hosts: &[],
            names: &[],
            dir: None,
        }
    }
}

struct Member {
    host: Option<MemberHost>,
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

impl Member {
    fn on(host: Option<&MemberHost>) -> Self {
        let at = |port| host.map_or_else(free_port, |host| (host.address, port).into());
        Self { host: host.cloned(), client: at(CLIENT_PORT), peer: at(PEER_PORT), child: None }
    }
}

/// A cluster.
pub struct Etcd {
    ca: Ca,
    /// A client's certificate.
    pub client: Identity,
    client_certs: bool,
    members: Vec<Member>,
    more: Vec<String>,
    wrapper: Vec<String>,
    is_root: bool,
    // Dropped last, so that the logs can be shown first.
    dir: TempDir,
}

impl Etcd {
    /// A running cluster.
    pub fn new(plan: &Plan<'_>) -> Self {
        let ca = Ca::new("etcd");
        let dir = plan.dir.map_or_else(scratch_in_memory, |dir| scratch_below(dir).expect("it is the test's"));
        put(&dir.path().join("ca.crt"), &ca.pem);
        // With client certificates the gateway shows the member's own to the member itself.
        let addresses: Vec<String> = plan.hosts.iter().map(|host| host.address.to_string()).collect();
        let names: Vec<&str> = ["localhost", "127.0.0.1"]
            .into_iter()
            .chain(addresses.iter().map(String::as_str))
            .chain(plan.names.iter().copied())
            .collect();
        let member = if plan.server_only { ca.issue(&Leaf::server()) } else { ca.both(&names) };
        member.write(dir.path(), "member");
        let client = ca.client(&["tfo1.example.org"]);
        client.write(dir.path(), "client");
        let members = (0..plan.members).map(|number| Member::on(plan.hosts.get(number))).collect();
        let more = plan.more.iter().map(|&one| one.to_owned()).collect();
        let mut etcd = Self {
            ca,
            client,
            client_certs: plan.client_certs,
            members,
            more,
            wrapper: Vec::new(),
            is_root: false,
            dir,
        };
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

    /// The processes of the members that run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| Some(member.child.as_ref()?.id())).collect()
    }

    /// Where a member listens for clients.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.members[number].client
    }

    /// What a client trusts and shows.
    pub fn tls(&self) -> rustls::ClientConfig {
        client_config(&self.ca.pem, self.client_certs.then_some(&self.client))
    }

    /// Gives the client another certificate, without a common name, and with these usages.
    pub fn replace_client(&mut self, usages: Vec<ExtendedKeyUsagePurpose>) {
        let leaf = Leaf { common_name: "", usages, ..Leaf::client(&["tfo1.example.org"]) };
        self.client = self.ca.issue(&leaf);
        self.client.write(self.dir.path(), "client");
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
        let Member { host, client, peer, .. } = &self.members[number];
        let (client, peer) = (*client, *peer);
        let first = self.wrapper.first().map_or("etcd", String::as_str);
        let mut command = host.as_ref().map_or_else(|| start(first), |host| host.command(first));
        command.args(self.wrapper.iter().skip(1)).args(self.wrapper.first().map(|_| "etcd"));
        let pair = |name: &str, value: String| [name.to_owned(), value];
        command.args(pair("--name", format!("m{number}")));
        command.args(["--data-dir".into(), self.path(&format!("data{number}"))]);
        command.args(pair("--listen-client-urls", url(client, "https")));
        command.args(pair("--advertise-client-urls", url(client, "https")));
        command.args(pair("--listen-peer-urls", url(peer, "http")));
        command.args(pair("--initial-advertise-peer-urls", url(peer, "http")));
        command.args(pair("--initial-cluster", self.peers()));
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
        crate::signal::send(child.id(), signal);
    }

    /// The member that leads.
    #[track_caller]
    pub fn leader(&self) -> usize {
        let found = poll_some(PATIENCE, || {
            let all = self.status();
            let leads = |one: &&serde_json::Value| one["Status"]["header"]["member_id"] == one["Status"]["leader"];
            let leader = all.as_array()?.iter().find(leads)?;
            self.urls().iter().position(|url| leader["Endpoint"] == url.as_str())
        });
        found.unwrap_or_else(|| panic!("no leader: {}", self.status()))
    }

    /// What the members that answer say of themselves.
    fn status(&self) -> serde_json::Value {
        let output = self.etcdctl(&["endpoint", "status", "-w", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Makes another member the leader, and gives its number.
    pub fn move_leader(&self) -> usize {
        let (from, count) = (self.leader(), self.members.len());
        let to = (from + 1) % count;
        let all = self.status();
        let (all, url) = (all.as_array().cloned().unwrap_or_default(), &self.urls()[to]);
        let id = all.iter().find(|one| one["Endpoint"] == url.as_str());
        let id = id.and_then(|one| one["Status"]["header"]["member_id"].as_u64()).expect("every member answers");
        self.ctl_at(from, &["move-leader", &format!("{id:x}")]);
        to
    }

    /// More arguments of members from their next start on, and what starts them: a program with its arguments.
    pub fn start_as(&mut self, wrapper: &[&str], more: &[&str]) {
        let owned = |words: &[&str]| words.iter().map(|&one| one.to_owned()).collect();
        (self.wrapper, self.more) = (owned(wrapper), owned(more));
    }

    /// `etcdctl` with these arguments.
    pub fn etcdctl(&self, arguments: &[&str]) -> Output {
        self.as_client(Command::new("etcdctl").args(arguments)).output().unwrap()
    }

    /// The same for what may be done twice: again while the members are too busy to say whether it was done.
    #[track_caller]
    pub fn ctl_surely(&self, arguments: &[&str]) {
        let mut last = String::new();
        let done = poll_until(PATIENCE, || {
            let output = self.etcdctl(arguments);
            last = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success() || last.contains("already")
        });
        assert!(done, "{arguments:?}: {last}");
    }

    /// The same, and it asks this member alone.
    #[track_caller]
    pub fn ctl_at(&self, number: usize, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        self.as_client(command.args(arguments)).env("ETCDCTL_ENDPOINTS", &self.urls()[number]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Tells `etcdctl` where the members are, and who asks.
    fn as_client<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        // A busy machine is slow to answer.
        command.env("ETCDCTL_DIAL_TIMEOUT", "30s").env("ETCDCTL_COMMAND_TIMEOUT", "60s");
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", self.urls().join(","));
        command.env("ETCDCTL_CACERT", self.path("ca.crt"));
        if self.is_root {
            command.env("ETCDCTL_USER", "root:root");
        }
        if self.client_certs {
            command.env("ETCDCTL_CERT", self.path("client.crt")).env("ETCDCTL_KEY", self.path("client.key"));
        }
        command.stdin(Stdio::null())
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

    /// What was written under a prefix from a revision on, in order, and the revision after it.
    #[track_caller]
    pub fn written_since(&self, prefix: &str, revision: i64) -> (Vec<Event>, i64) {
        let last = self.last_under(prefix, revision);
        let mut events = Vec::new();
        let Some(last) = last else { return (events, revision) };
        let mut command = Command::new("timeout");
        command.args(["60", "etcdctl", "watch", prefix, "--prefix", "--rev", &revision.to_string(), "-w", "json"]);
        let mut child = self.as_client(&mut command).stdout(Stdio::piped()).spawn().unwrap();
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            let line = line.unwrap();
            let answer: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            events.extend(answer["Events"].as_array().into_iter().flatten().map(Event::of));
            if events.last().is_some_and(|event| event.revision >= last) {
                child.kill().unwrap();
                child.wait().unwrap();
                // Transactions come whole; what was written meanwhile stays for the next time.
                events.retain(|event| event.revision <= last);
                return (events, last + 1);
            }
        }
        panic!("etcdctl watch ended: {:?}", child.wait());
    }

    /// The latest revision from this one on at which something was put under a prefix.
    fn last_under(&self, prefix: &str, revision: i64) -> Option<i64> {
        let order =
            ["--prefix", "--keys-only", "--sort-by", "MODIFY", "--order", "DESCEND", "--limit", "1", "-w", "json"];
        let answer: serde_json::Value =
            serde_json::from_str(&self.ctl(&[&["get", prefix][..], &order].concat())).unwrap();
        answer["kvs"][0]["mod_revision"].as_i64().filter(|last| *last >= revision)
    }

    /// Adds the user `root`, and one that may read and write under a prefix, and turns passwords on.
    pub fn enable_users(&self, name: &str, password: &str, prefix: &str) {
        self.ctl_surely(&["user", "add", "root:root"]);
        self.ctl_surely(&["user", "grant-role", "root", "root"]);
        self.ctl_surely(&["role", "add", "fleet"]);
        self.ctl_surely(&["role", "grant-permission", "--prefix", "fleet", "readwrite", prefix]);
        self.ctl_surely(&["user", "add", &format!("{name}:{password}")]);
        self.ctl_surely(&["user", "grant-role", name, "fleet"]);
        self.ctl_surely(&["auth", "enable"]);
    }

    /// From now on `etcdctl` is the user `root`.
    pub fn be_root(&mut self) {
        self.is_root = true;
    }

    /// Saves what a cluster of one member has.
    pub fn save(&self, name: &str) {
        self.save_at(0, name);
    }

    /// Saves what a member has.
    pub fn save_at(&self, number: usize, name: &str) {
        let path = self.path(name);
        self.ctl_at(number, &["snapshot", "save", path.to_str().unwrap()]);
    }

    /// Stops a cluster of one member, puts a saved state in its place, and starts it again.
    pub fn restore(&mut self, name: &str) {
        self.kill(0);
        self.restore_all(name, "etcd-cluster");
    }

    /// Puts a saved state in the place of what all members had, which were killed, and starts them again as a cluster with
    /// this token.
    pub fn restore_all(&mut self, name: &str, token: &str) {
        let cluster = self.peers();
        for number in 0..self.members.len() {
            let data = self.path(&format!("data{number}"));
            fs::remove_dir_all(&data).unwrap();
            let (snapshot, data) = (self.path(name), data.to_str().unwrap().to_owned());
            let (member, peer) = (format!("m{number}"), format!("http://{}", self.members[number].peer));
            let restore = ["snapshot", "restore", snapshot.to_str().unwrap(), "--name", &member, "--data-dir", &data];
            let as_cluster = [
                "--initial-cluster",
                &cluster,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster-token",
                token,
            ];
            self.ctl(&[&restore[..], &as_cluster].concat());
        }
        // A member serves only with a majority, so all are started before one is waited for.
        let seen: Vec<usize> = (0..self.members.len()).map(|number| self.log(number).len()).collect();
        (0..self.members.len()).for_each(|number| self.spawn(number, &|program| mortal(program)));
        seen.into_iter().enumerate().for_each(|(number, seen)| self.ready(number, seen));
    }

    /// `NAME=URL` of all members.
    fn peers(&self) -> String {
        let peers = self.members.iter().enumerate().map(|(n, one)| format!("m{n}=http://{}", one.peer));
        peers.collect::<Vec<_>>().join(",")
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
