//! What a handshake costs the coordinator, by what the peer shows: processor time of the server's side as a ratio to that
//! for a node's certificate.  A stranger must not be dearer than a node.
//!
//! `cargo bench --bench handshake`.  Both sides are in this thread and in memory; only the server's work is counted, on the
//! thread's own clock, so other processes do not disturb it.  The server's TLS is the coordinator's, with files on disk and a
//! revocation list.  How many signatures are checked is a test (src/tls/forged_chains.rs).
//! `TFO_SMOKE=1` runs each a few times, to see that it still works; its figures mean nothing.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use tfo_host::secret::SecretPath;
use tfo_testbed::pki::{Ca, Identity, client_config, put};
use tfo_tls::server::{ServerFiles, ServerTls};

/// Handshakes of each kind; taken in turn, so that a drift of the machine's speed meets all alike.
const RUNS: usize = 500;
/// Both sides are done within so many turns.
const TURNS_MAX: usize = 16;

/// One kind of peer.
struct Kind {
    name: String,
    client: Arc<ClientConfig>,
    /// Whether it is let in.
    is_good: bool,
    /// The good one that it is compared with, in the order of the kinds.
    beside: usize,
}

/// What the server did: its processor time, and whether it let the peer in.
struct Served {
    cost: Duration,
    let_in: bool,
}

fn main() -> ExitCode {
    let runs = if std::env::var_os("TFO_SMOKE").is_some() { 3 } else { RUNS };
    let (ca, liar) = (Ca::new("ca"), Ca::new("ca"));
    let below = ca.intermediate("below");
    let dir = tempfile::tempdir().expect("a directory");
    let server = server(&ca, &below, dir.path());
    let kinds = kinds(&ca, &below, &liar);
    let mut costs = vec![Vec::new(); kinds.len()];
    for _ in 0..runs {
        for (kind, costs) in kinds.iter().zip(&mut costs) {
            let served = serve(&server, &kind.client);
            assert_eq!(served.let_in, kind.is_good, "{}", kind.name);
            costs.push(served.cost);
        }
    }
    let medians: Vec<Duration> = costs.into_iter().map(median).collect();
    println!("processor time of the server for a handshake, median of {runs} in turn; ratio to a node");
    for (kind, cost) in kinds.iter().zip(&medians) {
        let ratio = cost.as_secs_f64() / medians[kind.beside].as_secs_f64();
        let aim = if kind.is_good { "" } else { "  (aim: at most 1)" };
        println!("  {:<62} {:5} us  {ratio:5.2}{aim}", kind.name, cost.as_micros());
    }
    ExitCode::SUCCESS
}

/// The coordinator's side, with lists of both CAs that revoke nothing.
fn server(ca: &Ca, below: &Ca, dir: &std::path::Path) -> Arc<ServerConfig> {
    ca.both(&["localhost"]).write(dir, "server");
    put(&dir.join("ca.crt"), &ca.pem);
    put(&dir.join("crl.pem"), &(ca.crl(&[]) + &below.crl(&[])));
    let files = ServerFiles {
        cert: dir.join("server.crt"),
        key: SecretPath::File(dir.join("server.key")),
        client_ca: dir.join("ca.crt"),
        crl: Some(dir.join("crl.pem")),
    };
    Arc::clone(&ServerTls::load(files, None).expect("the files are good").in_use().config)
}

fn kinds(ca: &Ca, below: &Ca, liar: &Ca) -> Vec<Kind> {
    let node = &["a.cache.example.org"][..];
    let kind = |name: &str, identity: Option<&Identity>, is_good| Kind {
        name: name.to_owned(),
        client: Arc::new(client_config(&ca.pem, identity)),
        is_good,
        beside: 0,
    };
    // Each claims to be the CA and to be issued by it, or by the next.
    let twins = |count: usize| (0..count).fold(liar.client(node), |chain, _| chain.below(&Ca::new("ca")));
    let path = |names: &[&str]| names.iter().fold(liar.client(node), |chain, name| chain.below(&Ca::new(name)));
    // As deep as a good chain can be, each signed by the next, with a true intermediate certificate of the CA at the end.
    let (upper, shadow) = (Ca::new("below"), Ca::new("x"));
    let lower = upper.intermediate("y");
    let deep = lower.client(node).below(&lower).below(below).below(&shadow);
    let mut kinds = vec![
        kind("a node", Some(&ca.client(node)), true),
        kind("a node below an intermediate CA", Some(&below.client(node).below(below)), true),
        kind("no certificate", None, false),
        kind("forged, of a CA of the same name", Some(&liar.client(node)), false),
        kind("forged, 3 intermediates of three names", Some(&path(&["x", "y", "ca"])), false),
        // There is a true one only where nodes are below it.
        Kind { beside: 1, ..kind("forged, 3 intermediates, one of them true", Some(&deep), false) },
        kind("forged, 3 intermediates of one name", Some(&twins(3)), false),
    ];
    for count in [4, 10, 100] {
        kinds.push(kind(
            &format!("forged, {count} intermediates that claim the CA's name"),
            Some(&twins(count)),
            false,
        ));
    }
    kinds
}

/// One handshake in memory.
fn serve(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Served {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client: Connection = ClientConnection::new(Arc::clone(client), name).expect("good settings").into();
    let mut cost = Duration::ZERO;
    let mut server: Connection =
        timed(&mut cost, || ServerConnection::new(Arc::clone(server)).expect("good settings")).into();
    let mut refused = false;
    for _ in 0..TURNS_MAX {
        let sent = written(&mut client);
        let answer = timed(&mut cost, || {
            refused |= read(&mut server, &sent).is_err();
            // With the alert, if it is one.
            written(&mut server)
        });
        if refused || (sent.is_empty() && answer.is_empty()) {
            break;
        }
        // The client's view does not count: with TLS 1.3 it is done before it is refused.
        drop(read(&mut client, &answer));
    }
    Served { cost, let_in: !refused && !server.is_handshaking() }
}

/// Everything that a side has to send.
fn written(side: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while side.wants_write() {
        side.write_tls(&mut bytes).expect("memory takes it");
    }
    bytes
}

fn read(side: &mut Connection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        side.read_tls(&mut bytes).expect("memory gives it");
        side.process_new_packets()?;
    }
    Ok(())
}

/// Adds the processor time of a step, of this thread.
fn timed<T>(cost: &mut Duration, step: impl FnOnce() -> T) -> T {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let (secs, nanos) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
        Duration::from_secs(secs) + Duration::from_nanos(nanos)
    };
    let before = now();
    let result = step();
    *cost += now() - before;
    result
}

fn median(mut costs: Vec<Duration>) -> Duration {
    costs.sort_unstable();
    costs[costs.len() / 2]
}
