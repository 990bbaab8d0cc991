//! Readers that ask for much and read nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use tfo_crypto::seal::KeyEncryptionKey;
use tfo_engine::rollout::document::{Document, KeyRing, Snapshot};
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::record::{Membership, NodeRecord};
use tfo_host::runtime::clock;
use tfo_host::runtime::process::raise_file_limit;
use tfo_model::node::Session;
use tfo_store::{PoolImage, SqliteStore, Store};
use tfo_testbed::config::{FAST, kek};
use tfo_testbed::coordinator::{World, runtime};
use tfo_testbed::pki::{Identity, client_config};
use tfo_testbed::{SOON, by_size, poll_until};

/// Nodes of the pool: their list has more than 2 MB.
const NODES: usize = 6_000;
/// Requests of one certificate that may be under way (`coordinator::server::service`).
const REQUESTS_MAX: usize = 4;
/// What all readers together may cost, in KiB.
const GROWTH_MAX_KIB: u64 = 50 << 10;

/// A world whose pool has many nodes with long names, and these viewers.
fn large_world(viewers: &[String]) -> World {
    let world = World::new(FAST);
    let config = std::fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let with_viewers = config.lines().map(|line| match line.starts_with("viewers") {
        true => format!("viewers = {viewers:?}\n"),
        false => format!("{line}\n"),
    });
    world.put("coordinator.toml", with_viewers.collect::<String>().as_bytes(), 0o644);
    let store = SqliteStore::open(&world.path("state.db"), KeyEncryptionKey::from_bytes(&kek()).unwrap()).unwrap();
    let policy = Policy::with_defaults(vec!["*.cache.example.org".parse().unwrap()]);
    let document = Document::new(format!("{:032x}", 7).parse().unwrap(), policy, clock::now());
    let record = NodeRecord {
        version: 1,
        syncs: 1,
        membership: Membership::Admitted,
        session: Some(Session { ordinal: 1, nonce: 1 }),
        report: None,
        window: None,
        baseline: None,
        last_report_at: Some(clock::now()),
    };
    let long = ["n".repeat(60), "m".repeat(60), "k".repeat(60)].join(".");
    let name = |index| format!("n{index}.{long}.cache.example.org").parse().unwrap();
    let nodes: BTreeMap<_, _> = (0..NODES).map(|index| (name(index), record.clone())).collect();
    let image = PoolImage { snapshot: &Snapshot { document, nodes }, keys: &KeyRing::default(), audit: &[] };
    store.create(&"edge".parse().unwrap(), &image).unwrap();
    world
}

fn resident_kib(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.split_whitespace().next().unwrap().parse().unwrap()
}

/// Asks for the nodes, and reads the head of the answer.
async fn ask(world: &World, identity: &Identity) -> (TlsStream<TcpStream>, String) {
    let config = client_config(&world.ca.pem, Some(identity));
    let socket = TcpSocket::new_v4().unwrap();
    // The kernel must not take the answer in the reader's place.
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let stream = socket.connect(world.api).await.unwrap();
    let name = ServerName::IpAddress(world.api.ip().into());
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET /v1/pools/edge/nodes HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = vec![0; 15];
    tokio::time::timeout(SOON, stream.read_exact(&mut head)).await.expect("in time").unwrap();
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn readers_that_do_not_read_cost_little_and_it_comes_back() {
    raise_file_limit();
    let names: Vec<String> = (0..by_size(40, 172, 172)).map(|index| format!("view{index}.example.org")).collect();
    let mut world = large_world(&names);
    world.start();
    let identities: Vec<Identity> = names.iter().map(|name| world.ca.client(&[name])).collect();
    let runtime = runtime();
    let (_, body) = world.operator().get("/v1/pools/edge/nodes");
    assert_eq!(body["nodes"].as_array().unwrap().len(), NODES);
    assert!(body.to_string().len() > 2 << 20, "{}", body.to_string().len());
    let before = resident_kib(&world);
    let held = runtime.block_on(async {
        let mut held = Vec::new();
        for identity in &identities {
            for _ in 0..REQUESTS_MAX {
                let (stream, head) = ask(&world, identity).await;
                assert_eq!(head, "HTTP/1.1 200 OK");
                held.push(stream);
            }
        }
        // One more of a certificate is refused, until an answer was read or given up.
        let (_, head) = ask(&world, &identities[identities.len() - 1]).await;
        assert_eq!(head, "HTTP/1.1 503 Se");
        held
    });
    let with_all = resident_kib(&world);
    assert!(with_all < before + GROWTH_MAX_KIB, "{} readers: {before} KiB, then {with_all} KiB", held.len());
    assert_eq!(world.operator().get("/v1/pools/edge").0, 200, "others are served");
    let readers = held.len();
    drop(held);
    let back = || {
        std::thread::sleep(Duration::from_millis(50));
        resident_kib(&world) < before + GROWTH_MAX_KIB / 4
    };
    let came_back = poll_until(SOON, back);
    let after = resident_kib(&world);
    println!("{readers} readers: {before} KiB before, {with_all} KiB with all, {after} KiB after");
    assert!(came_back, "{readers} readers: {before} KiB before, {with_all} KiB with all, {after} KiB after");
    let again = || runtime.block_on(ask(&world, &identities[identities.len() - 1])).1 == "HTTP/1.1 200 OK";
    assert!(poll_until(SOON, again), "its requests are over");
}
