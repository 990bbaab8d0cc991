//! Strangers with many addresses, behind wires of their own: network namespaces around the coordinator's.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use tfo_host::runtime::process::raise_file_limit;
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{World, runtime};
use tfo_testbed::pki::{Identity, client_config};
use tfo_testbed::{NetNs, SOON, need_netns, need_tool, poll_until, skip_unless};

/// Where the coordinator is: the middle of the network.
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 8443);
/// Its limit of open files: 150 handshakes, more than there are addresses, and four times as many that wait.
const FILES: &str = "--nofile=3400:3400";
/// Networks of the strangers; each has a /24.
const NETWORKS: usize = 3;
/// Connections of all strangers: more than handshakes and those that wait together.
const STALLED: usize = 900;
/// Connections of the honest node, one after the other.
const HONEST: usize = 50;
/// How long an agent waits for a connection (`tfo_wire::client`).
const AGENT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a stranger waits until it comes again.
const PAUSE: Duration = Duration::from_millis(100);

/// The strangers' networks, plugged into the middle one and known to it.
fn networks(hub: &NetNs) -> Vec<NetNs> {
    let plugged = (0..NETWORKS).map(|number| {
        let network = NetNs::new();
        network.plug_into(hub, number + 1);
        network.ip(&format!("route add local 10.98.{number}.0/24 dev lo"));
        hub.ip(&format!("route add 10.98.{number}.0/24 via 10.99.0.{}", number + 11));
        network
    });
    plugged.collect()
}

/// Its configuration, and its certificate for this address.
fn start(world: &mut World) {
    world.api = SERVER;
    let server = world.ca.both(&["localhost", "10.99.0.1"]);
    world.put("server.crt", server.cert_pem.as_bytes(), 0o644);
    world.put("server.key", server.key_pem.as_bytes(), 0o600);
    world.configure(FAST);
    let serve = world.command("serve", &[]);
    let mut limited = Command::new("prlimit");
    limited.arg(FILES).arg("--").arg(serve.get_program()).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    world.spawn_by(limited);
    let ready = poll_until(SOON, || world.observed("/readyz").is_some_and(|(status, _)| status == 200));
    assert!(ready, "not ready: {}", world.log());
}

/// A stranger at one of its addresses: it says nothing, or the beginning of a hello, and comes back when it is thrown out.
async fn stall(from: Ipv4Addr, speaks: bool) {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
        if let Ok(mut stream) = socket.connect(SERVER).await {
            let hello: &[u8] = if speaks { &[22, 3, 1, 2, 0, 1] } else { &[] };
            if stream.write_all(hello).await.is_ok() {
                drop(stream.read(&mut [0]).await);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The strangers of one network, until they are told to stop.
fn attack(number: usize, addresses: usize, stop: &AtomicBool) {
    runtime().block_on(async {
        let mut stalled = tokio::task::JoinSet::new();
        for index in (number..STALLED).step_by(NETWORKS) {
            // Network by network, so that few addresses are in all of them.
            let address = (index / NETWORKS) % addresses.div_ceil(NETWORKS);
            let [network, host] = [number, address + 1].map(|part| u8::try_from(part).unwrap());
            stalled.spawn(stall(Ipv4Addr::new(10, 98, network, host), index % 2 == 0));
        }
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// Connects as a node does, and asks for something: the status of the answer.
async fn come(ca: &str, node: &Identity) -> std::io::Result<String> {
    let stream = TcpStream::connect(SERVER).await?;
    let connector = TlsConnector::from(Arc::new(client_config(ca, Some(node))));
    let mut stream = connector.connect(ServerName::IpAddress(SERVER.ip().into()), stream).await?;
    stream.write_all(b"GET /v1/pools/edge HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// How many connections the coordinator has, and how many gave way so far.
fn at_the_door(world: &World) -> (u64, u64) {
    let (_, metrics) = world.observed("/metrics").expect("it serves");
    let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0);
    (value("tfo_coordinator_connections"), value("tfo_coordinator_refused_total{reason=\"handshake_gave_way\"}"))
}

#[test]
fn an_honest_node_gets_in_beside_strangers_of_3_and_10_and_100_addresses() {
    skip_unless!(need_netns() && need_tool("prlimit"));
    raise_file_limit();
    let (hub, home) = (NetNs::new(), NetNs::new());
    hub.become_hub();
    home.plug_into(&hub, 0);
    let networks = networks(&hub);
    hub.run(|| {
        let mut world = World::new(FAST);
        start(&mut world);
        let node = world.ca.client(&["a.cache.example.org"]);
        for addresses in [3, 10, 100] {
            let (stop, (_, gave_way)) = (AtomicBool::new(false), at_the_door(&world));
            std::thread::scope(|scope| {
                for (number, network) in networks.iter().enumerate() {
                    let stop = &stop;
                    scope.spawn(move || network.run(|| attack(number, addresses, stop)));
                }
                let full = poll_until(SOON, || at_the_door(&world).1 > gave_way);
                let got_in = home.run(|| {
                    let runtime = runtime();
                    let once = || {
                        let come = async { tokio::time::timeout(AGENT_PATIENCE, come(&world.ca.pem, &node)).await };
                        matches!(runtime.block_on(come), Ok(Ok(status)) if status == "HTTP/1.1 403")
                    };
                    (0..HONEST).filter(|_| once()).count()
                });
                let (open, gave_way) = at_the_door(&world);
                stop.store(true, Ordering::Relaxed);
                assert!(full, "{addresses} addresses never took all places: {open} connections");
                assert_eq!(got_in, HONEST, "{addresses} addresses: {open} connections, {gave_way} gave way");
            });
        }
        world.must_run();
    });
}
