//! Places for `tfoctl`: a cable between two namespaces, a fleet behind one address, and servers inside them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tfo_model::cookie::Cookie;
use tfo_model::key_text;

use tfo_testbed::host::KEY_FILE;
use tfo_testbed::{NetNs, SOON, ip, poll_until};

pub(crate) const A: &str = "13121110-17161514-1b1a1918-1f1e1d1c";
pub(crate) const B: &str = "deadbeef-00000002-cafef00d-00000004";
pub(crate) const C: &str = "0badc0de-11111111-22222222-33333333";

pub(crate) const SERVER: [&str; 2] = ["10.77.1.2", "fd77::2"];
pub(crate) const CLIENT: [&str; 2] = ["10.77.1.1", "fd77::1"];
/// The client's other addresses.
pub(crate) const OTHER_CLIENT: [&str; 2] = ["10.77.1.3", "fd77::3"];

/// Bits of `tcp_fastopen`: client and server, for listeners that ask for it.
const BITS_ASKED: &str = "3";
/// The same, and for every listener that starts to listen now (docs/kernel.md#when-a-key-takes-effect).
const BITS_ALL: &str = "1027";

/// `MSG_FASTOPEN` (Linux `include/linux/socket.h`).
const MSG_FASTOPEN: i32 = 0x2000_0000;

/// `ADDRESS:PORT` as the command line takes it.
pub(crate) fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

/// Sets a sysctl in a namespace.
pub(crate) fn set(netns: &NetNs, name: &str, value: &str) {
    netns.run(|| std::fs::write(Path::new("/proc/sys/net").join(name), value)).unwrap();
}

/// Gives a namespace these keys, as kernel text.
pub(crate) fn set_keys(netns: &NetNs, text: &str) {
    netns.run(|| std::fs::write(KEY_FILE, text)).unwrap();
}

/// Loads nftables rules into a namespace: lines of a chain at the input hook.
pub(crate) fn filter_input(netns: &NetNs, rules: &str) {
    let text = format!(
        "flush ruleset\ntable inet test {{\nchain input {{\ntype filter hook input priority 0;\n{rules}\n}}\n}}\n"
    );
    let mut child = netns.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

/// The cookie that our own model makes from the primary of a key text.
pub(crate) fn modelled(key: &str, client: &str, server: &str) -> String {
    let [client, server] = [client, server].map(|address| address.parse::<IpAddr>().unwrap());
    Cookie::of(key_text::parse(key.as_bytes()).unwrap().primary(), client, server).unwrap().to_string()
}

/// The fingerprint of a key text's primary.
pub(crate) fn fingerprint(key: &str) -> String {
    tfo_crypto::fingerprint::fingerprint(key_text::parse(key.as_bytes()).unwrap().primary()).to_string()
}

/// A key file of its owner's.
pub(crate) fn key_file(dir: &tempfile::TempDir, name: &str, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    path
}

/// Addresses work at once, link-local ones too.
fn no_dad(netns: &NetNs) {
    for interfaces in ["all", "default"] {
        set(netns, &format!("ipv6/conf/{interfaces}/accept_dad"), "0");
    }
}

/// Link address of one end, known beforehand.
fn mac(number: usize, end: u8) -> String {
    format!("02:00:00:00:{number:02x}:{end:02x}")
}

/// A neighbour that need not be asked for: on a busy machine that can take longer than a SYN waits (docs/kernel.md#a-fleet-under-rotation).
fn neighbour(netns: &NetNs, address: &str, mac: &str, interface: &str) {
    ip(&format!("-n {} neigh replace {address} lladdr {mac} dev {interface} nud permanent", netns.name()));
}

/// Two hosts and the cable between them.
pub(crate) struct Cable {
    pub(crate) client: NetNs,
    pub(crate) server: NetNs,
}

impl Cable {
    pub(crate) fn new() -> Self {
        let (client, server) = (NetNs::new(), NetNs::new());
        for netns in [&client, &server] {
            no_dad(netns);
        }
        let [ours, theirs] = [mac(0, 1), mac(0, 2)];
        ip(&format!(
            "-n {} link add cable address {ours} type veth peer name cable address {theirs} netns {}",
            client.name(),
            server.name()
        ));
        let ends = [(&client, CLIENT), (&client, OTHER_CLIENT), (&server, SERVER)];
        for (netns, [v4, v6]) in ends {
            ip(&format!("-n {} addr add {v4}/24 dev cable", netns.name()));
            // Deprecated: not what the kernel chooses by itself.
            let lifetime = if v6 == OTHER_CLIENT[1] { " preferred_lft 0" } else { "" };
            ip(&format!("-n {} addr add {v6}/64 dev cable nodad{lifetime}", netns.name()));
        }
        for netns in [&client, &server] {
            ip(&format!("-n {} link set cable up", netns.name()));
            set(netns, "ipv4/tcp_fastopen", BITS_ASKED);
            // Loss on purpose must not switch the client off.
            set(netns, "ipv4/tcp_fastopen_blackhole_timeout_sec", "0");
        }
        for (netns, [v4, v6], mac) in
            [(&client, SERVER, &theirs), (&server, CLIENT, &ours), (&server, OTHER_CLIENT, &ours)]
        {
            for address in [v4, v6] {
                neighbour(netns, address, mac, "cable");
            }
        }
        set_keys(&server, A);
        Self { client, server }
    }

    /// `tfoctl` at the client's end.
    pub(crate) fn tfoctl(&self, arguments: &[&str]) -> Output {
        tfoctl(&self.client, arguments).output().unwrap()
    }

    /// `results` of a command of the client's, and its exit code.
    pub(crate) fn results(&self, arguments: &[&str]) -> (Vec<Value>, i32) {
        results(&self.client, arguments)
    }
}

/// `tfoctl` in a namespace.
pub(crate) fn tfoctl(netns: &NetNs, arguments: &[&str]) -> Command {
    let mut command = netns.command(tfo_testbed::program("tfoctl"));
    command.args(arguments);
    command
}

pub(crate) fn results(netns: &NetNs, arguments: &[&str]) -> (Vec<Value>, i32) {
    let output = tfoctl(netns, arguments).args(["--format", "json"]).output().unwrap();
    let stdout: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (stdout["results"].as_array().unwrap().clone(), output.status.code().unwrap())
}

/// A listener in a namespace, of both families; it does TFO if it is to.
pub(crate) fn listen(netns: &NetNs, port: u16, tfo: bool) -> TcpListener {
    netns.run(|| {
        let bits = Path::new("/proc/sys/net/ipv4/tcp_fastopen");
        std::fs::write(bits, if tfo { BITS_ALL } else { BITS_ASKED }).unwrap();
        let listener = TcpListener::bind(("::", port)).unwrap();
        std::fs::write(bits, BITS_ASKED).unwrap();
        listener
    })
}

/// A listener that answers each connection with what came, until the test process ends.
pub(crate) fn echo(netns: &NetNs, port: u16) {
    let listener = listen(netns, port, true);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut buffer = [0; 2048];
            let came = connection.read(&mut buffer).unwrap_or(0);
            connection.write_all(&buffer[..came]).ok();
        }
    });
}

/// Connections with data in the SYN where a cookie is known, one after the other.
pub(crate) fn connect(netns: &NetNs, source: &str, server: &str, port: u16, data: &[usize]) {
    let [source, server] = [source, server].map(|address| address.parse::<IpAddr>().unwrap());
    netns.run(|| {
        for length in data {
            let socket = Socket::new(Domain::for_address((server, port).into()), Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
            let request = vec![7; *length];
            let sent = socket.send_to_with_flags(&request, &SocketAddr::new(server, port).into(), MSG_FASTOPEN);
            assert_eq!(sent.unwrap(), *length);
            let mut answer = vec![0; *length];
            (&socket).read_exact(&mut answer).unwrap();
            assert_eq!(answer, request);
        }
    });
}

/// Connections that a client has begun and nobody has ended.
pub(crate) fn half_open(netns: &NetNs) -> usize {
    let output = netns.command("ss").args(["-Htn", "state", "syn-recv"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
}

/// A program that runs in a namespace until it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Waits until something listens on this port there.
    pub(crate) fn serving(child: Child, netns: &NetNs, port: u16) -> Self {
        let mut running = Self(child);
        let listens = || {
            assert_eq!(running.0.try_wait().unwrap(), None, "the server has ended");
            let output = netns.command("ss").args(["-Hltn", &format!("sport = :{port}")]).output().unwrap();
            !output.stdout.is_empty()
        };
        assert!(poll_until(SOON, listens), "nothing listens on {port}");
        running
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The address that all nodes of a [`Fleet`] share.
pub(crate) const VIP: [&str; 2] = ["10.10.10.10", "fd10::10"];
pub(crate) const FLEET_PORT: u16 = 80;

/// Nodes behind one address, a router that spreads connections over them, and a client host (docs/kernel.md#a-fleet-under-rotation).
pub(crate) struct Fleet {
    pub(crate) client: NetNs,
    pub(crate) router: NetNs,
    pub(crate) nodes: Vec<NetNs>,
    _listeners: Vec<TcpListener>,
}

impl Fleet {
    /// Every node has these keys and does TFO.
    pub(crate) fn new(nodes: usize, keys: &str) -> Self {
        let (client, router) = (NetNs::new(), NetNs::new());
        let nodes: Vec<NetNs> = (0..nodes).map(|_| NetNs::new()).collect();
        no_dad(&router);
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/fib_multipath_hash_policy", "1"),
            ("ipv6/fib_multipath_hash_policy", "1"),
        ] {
            set(&router, name, value);
        }
        let hosts = nodes.iter().map(|node| (node, 20)).chain([(&client, 30)]);
        for (number, (netns, net)) in (1..).zip(hosts) {
            let (inside, outside) = (netns.name(), router.name());
            let [ours, theirs] = [mac(number, 1), mac(number, 2)];
            no_dad(netns);
            ip(&format!(
                "-n {outside} link add p{number} address {ours} type veth peer name eth0 address {theirs} netns {inside}"
            ));
            ip(&format!("-n {outside} addr add 10.{net}.{number}.1/24 dev p{number}"));
            ip(&format!("-n {outside} addr add fd{net}:{number}::1/64 dev p{number} nodad"));
            ip(&format!("-n {outside} link set p{number} up"));
            for host in if net == 30 { 2..18 } else { 2..3 } {
                ip(&format!("-n {inside} addr add 10.{net}.{number}.{host}/24 dev eth0"));
                let lifetime = if host == 2 { "" } else { " preferred_lft 0" };
                ip(&format!("-n {inside} addr add fd{net}:{number}::{host}/64 dev eth0 nodad{lifetime}"));
            }
            ip(&format!("-n {inside} link set eth0 up"));
            for host in if net == 30 { 2..18 } else { 2..3 } {
                neighbour(&router, &format!("10.{net}.{number}.{host}"), &theirs, &format!("p{number}"));
                neighbour(&router, &format!("fd{net}:{number}::{host}"), &theirs, &format!("p{number}"));
            }
            neighbour(netns, &format!("10.{net}.{number}.1"), &ours, "eth0");
            neighbour(netns, &format!("fd{net}:{number}::1"), &ours, "eth0");
            ip(&format!("-n {inside} route add default via 10.{net}.{number}.1"));
            ip(&format!("-n {inside} route add default via fd{net}:{number}::1"));
        }
        let hop = |via: &dyn Fn(usize) -> String| -> String {
            (1..=nodes.len()).map(|number| format!(" nexthop via {} dev p{number}", via(number))).collect()
        };
        ip(&format!("-n {} route add {}/32{}", router.name(), VIP[0], hop(&|n| format!("10.20.{n}.2"))));
        ip(&format!("-n {} route add {}/128{}", router.name(), VIP[1], hop(&|n| format!("fd20:{n}::2"))));
        let mut listeners = Vec::new();
        for node in &nodes {
            ip(&format!("-n {} addr add {}/32 dev lo", node.name(), VIP[0]));
            ip(&format!("-n {} addr add {}/128 dev lo nodad", node.name(), VIP[1]));
            set_keys(node, keys);
            listeners.push(listen(node, FLEET_PORT, true));
        }
        Self { client, router, nodes, _listeners: listeners }
    }

    /// An address of the client's, by family: 2 is the first.
    pub(crate) fn source(&self, family: usize, host: usize) -> String {
        let number = self.nodes.len() + 1;
        if family == 0 { format!("10.30.{number}.{host}") } else { format!("fd30:{number}::{host}") }
    }
}
