//! Strangers at the enrolment port, where none has a certificate: they hold connections, send slowly, send too much and guess
//! tokens at full speed, from one address and from a hundred.  The fleet beside them does not notice.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::enrolment::{Enrolling, csr};
use tfo_testbed::coordinator::runtime;
use tfo_testbed::pki::client_config;
use tfo_testbed::{SOON, poll_until};

/// Connections of the strangers, a fifth of each kind: more than the port takes from one address, or shakes hands with.
const STRANGERS: usize = 400;
/// What the port holds at most: `Limits::strangers`, handshakes, those before one, and connections.
const HELD_MAX: u64 = 64 + 4 * 64 + 256;
/// How much memory that may cost, in KiB.
const MEMORY_MAX_KB: u64 = 96 << 10;
/// What the fleet asks meanwhile, each so often.
const QUESTIONS: usize = 12;
/// How long a stranger waits until it comes again.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest visit: longer than the port bears any of them.
const VISIT_MAX: Duration = Duration::from_secs(8);

/// What a stranger does with its connection.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Silent,
    HalfAHello,
    SlowHead,
    Endless,
    Guess,
}

const KINDS: [Kind; 5] = [Kind::Silent, Kind::HalfAHello, Kind::SlowHead, Kind::Endless, Kind::Guess];

/// What strangers know: the port, the authority, and the id of a token.
struct Known {
    door: SocketAddr,
    tls: TlsConnector,
    guess: String,
}

/// One connection, until it is thrown out.
async fn come(known: &Known, kind: Kind, from: IpAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let mut stream = socket.connect(known.door).await?;
    match kind {
        Kind::Silent => {}
        Kind::HalfAHello => stream.write_all(&[22, 3, 1, 2, 0, 1]).await?,
        Kind::SlowHead | Kind::Endless | Kind::Guess => {
            let mut stream = known.tls.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
            let head = |length: usize| format!("POST /v1/enrol HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n");
            match kind {
                Kind::Guess => {
                    let request = format!("{}\r\n{}", head(known.guess.len()), known.guess);
                    stream.write_all(request.as_bytes()).await?;
                }
                Kind::Endless => {
                    stream.write_all(format!("{}\r\n", head(1 << 30)).as_bytes()).await?;
                    for _ in 0..1_000 {
                        stream.write_all(&[b'x'; 16 << 10]).await?;
                    }
                }
                _ => stream.write_all(head(100).as_bytes()).await?,
            }
            stream.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
    }
    stream.read(&mut [0]).await.map(drop)
}

/// One stranger of one kind, which always comes back.
async fn insist(known: Arc<Known>, kind: Kind, from: IpAddr) {
    loop {
        // Being refused is what it comes for.
        drop(tokio::time::timeout(VISIT_MAX, come(&known, kind, from)).await);
        tokio::time::sleep(PAUSE).await;
    }
}

/// All strangers, until they are told to stop.
fn flood(known: &Arc<Known>, addresses: usize, stop: &AtomicBool) {
    runtime().block_on(async {
        let mut strangers = tokio::task::JoinSet::new();
        for number in 0..STRANGERS {
            let host = u8::try_from(number / KINDS.len() % addresses + 1).unwrap();
            let from = IpAddr::V4(Ipv4Addr::new(127, 0, 7, host));
            strangers.spawn(insist(Arc::clone(known), KINDS[number % KINDS.len()], from));
        }
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// Tells the strangers to stop when it is dropped, also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A number of `/proc/PID/status`, in KiB.
fn memory_kb(on: &Enrolling) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", on.world.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn metric(on: &Enrolling, name: &str) -> u64 {
    let (_, metrics) = on.world.observed("/metrics").expect("it serves");
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

fn refused(on: &Enrolling, reason: &str) -> u64 {
    metric(on, &format!("tfo_coordinator_enrolment_refused_total{{reason=\"{reason}\"}}"))
}

#[test]
fn the_fleet_does_not_feel_a_flood_at_the_enrolment_port() {
    let mut on = Enrolling::start();
    let token = on.token(&json!({"uses": 9}));
    let mut node = on.world.node("a.cache.example.org");
    assert_eq!(node.sync(0).0, 204);
    let guess = json!({"token_id": token.id, "secret": "A".repeat(22), "name": "b.cache.example.org", "csr": csr("b.cache.example.org")});
    let tls = TlsConnector::from(Arc::new(client_config(&on.world.ca.pem, None)));
    let known = Arc::new(Known { door: on.door, tls, guess: guess.to_string() });
    let before = memory_kb(&on);
    for (addresses, joins) in [(1, "c.cache.example.org"), (100, "d.cache.example.org")] {
        let stop = AtomicBool::new(false);
        let reasons = ["handshake_gave_way", "head_timeout", "body_too_large", "request_refused"];
        let counts: Vec<u64> = reasons.iter().map(|reason| refused(&on, reason)).collect();
        std::thread::scope(|scope| {
            let end = StopAtEnd(&stop);
            scope.spawn(|| flood(&known, addresses, &stop));
            // Each kind has met its bound.
            let full = || reasons.iter().zip(&counts).all(|(reason, before)| refused(&on, reason) > *before);
            assert!(
                poll_until(3 * SOON, full),
                "{addresses}: {:?}",
                reasons.map(|reason| (reason, refused(&on, reason)))
            );
            let held = metric(&on, "tfo_coordinator_enrolment_connections");
            assert!(held > 32 && held <= HELD_MAX, "{addresses}: {held} connections");
            let operator = on.world.operator();
            for _ in 0..QUESTIONS {
                assert_eq!(node.sync(0).0, 204);
                let (status, pools): (u16, Value) = operator.get("/v1/pools");
                assert_eq!((status, &pools["pools"][0]["pool"]), (200, &json!("edge")));
                let held = metric(&on, "tfo_coordinator_enrolment_connections");
                assert!(held <= HELD_MAX, "{addresses}: {held} connections");
            }
            assert!(metric(&on, "tfo_coordinator_connections") < 32, "none of them is at the API");
            // A host with a good token gets in beside them, as `tfo-agent join` does: it comes again if it is refused.
            let csr = csr(joins);
            let joined = poll_until(2 * SOON, || on.enrol(&token, joins, &csr).0 == 200);
            assert!(joined, "{addresses}: {} held", metric(&on, "tfo_coordinator_enrolment_connections"));
            drop(end);
        });
        let gone = poll_until(SOON, || metric(&on, "tfo_coordinator_enrolment_connections") == 0);
        assert!(gone, "{addresses}: places are given back");
    }
    let grown = memory_kb(&on) - before;
    assert!(grown < MEMORY_MAX_KB, "{grown} KiB");
    assert_eq!(on.used(&token), 2);
    // Thousands of guesses are two lines of the audit log at most.
    let lines = on.logged("refused");
    assert!((1..=2).contains(&lines.len()), "{lines:#?}");
    on.world.must_run();
}
