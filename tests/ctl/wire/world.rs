//! Places for `tfoctl`: a cable between two namespaces, a fleet behind one address, and servers inside them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tfo_model::cookie::Cookie;
use tfo_model::key_text;

use tfo_testbed::cable::{self, KEYS, Running, mac};
use tfo_testbed::{NetNs, SOON, poll_until};

pub(crate) const A: &str = KEYS[0];
pub(crate) const B: &str = KEYS[1];
pub(crate) const C: &str = KEYS[2];

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

/// Two hosts and the cable between them.
pub(crate) struct Cable {
    pub(crate) client: NetNs,
    pub(crate) server: NetNs,
}

impl Cable {
    pub(crate) fn new() -> Self {
        let (client, server) = (NetNs::new(), NetNs::new());
        cable::connect(&client, &server);
        for netns in [&client, &server] {
            netns.set("ipv4/tcp_fastopen", BITS_ASKED);
        }
        server.set_keys(A);
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

/// Half-open connections that clients have started.
pub(crate) fn half_open(netns: &NetNs) -> usize {
    let output = netns.command("ss").args(["-Htn", "state", "syn-recv"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
}

/// Waits until something listens on this port of a namespace; the child is to do that.
pub(crate) fn serving(child: Child, netns: &NetNs, port: u16) -> Running {
    let mut running = Running(child);
    let listens = || {
        assert_eq!(running.0.try_wait().unwrap(), None, "the server has ended");
        let output = netns.command("ss").args(["-Hltn", &format!("sport = :{port}")]).output().unwrap();
        !output.stdout.is_empty()
    };
    assert!(poll_until(SOON, listens), "nothing listens on {port}");
    running
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
        router.no_dad();
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/fib_multipath_hash_policy", "1"),
            ("ipv6/fib_multipath_hash_policy", "1"),
        ] {
            router.set(name, value);
        }
        let hosts = nodes.iter().map(|node| (node, 20)).chain([(&client, 30)]);
        for (number, (netns, net)) in (1..).zip(hosts) {
            let [ours, theirs] = [mac(number, 1), mac(number, 2)];
            let port = format!("p{number}");
            netns.no_dad();
            let inside = netns.name();
            router.ip(&format!(
                "link add {port} address {ours} type veth peer name eth0 address {theirs} netns {inside}"
            ));
            router.ip(&format!("addr add 10.{net}.{number}.1/24 dev {port}"));
            router.ip(&format!("addr add fd{net}:{number}::1/64 dev {port} nodad"));
            router.ip(&format!("link set {port} up"));
            for host in if net == 30 { 2..18 } else { 2..3 } {
                let (v4, v6) = (format!("10.{net}.{number}.{host}"), format!("fd{net}:{number}::{host}"));
                netns.ip(&format!("addr add {v4}/24 dev eth0"));
                let lifetime = if host == 2 { "" } else { " preferred_lft 0" };
                netns.ip(&format!("addr add {v6}/64 dev eth0 nodad{lifetime}"));
                router.neighbour(&v4, &theirs, &port);
                router.neighbour(&v6, &theirs, &port);
            }
            netns.ip("link set eth0 up");
            for via in [format!("10.{net}.{number}.1"), format!("fd{net}:{number}::1")] {
                netns.neighbour(&via, &ours, "eth0");
                netns.ip(&format!("route add default via {via}"));
            }
        }
        let hop = |via: &dyn Fn(usize) -> String| -> String {
            (1..=nodes.len()).map(|number| format!(" nexthop via {} dev p{number}", via(number))).collect()
        };
        router.ip(&format!("route add {}/32{}", VIP[0], hop(&|n| format!("10.20.{n}.2"))));
        router.ip(&format!("route add {}/128{}", VIP[1], hop(&|n| format!("fd20:{n}::2"))));
        let mut listeners = Vec::new();
        for node in &nodes {
            node.ip(&format!("addr add {}/32 dev lo", VIP[0]));
            node.ip(&format!("addr add {}/128 dev lo nodad", VIP[1]));
            node.set_keys(keys);
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
