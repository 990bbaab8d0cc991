//! The start and the end of a server, and what it says in its log.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tfo_coordinator::server::{Drained, Limits, Reason, listen};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::harness::{Bench, Client, ask, closed, read_answer, send, until, within};
use tfo_testbed::pki::Ca;

/// A drain timeout that keeps no test waiting.
const SHORT: Duration = Duration::from_millis(300);

/// A connection that has been used: its handshake is over on both sides.
async fn open(client: &Client) -> TlsStream<TcpStream> {
    let mut stream = client.connect().await.expect("let in");
    assert_eq!(ask(&mut stream, "/who").await.expect("an answer").status, 200);
    stream
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_closes_what_is_idle() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let client = bench.client(&ca.client(&["cp1.example.org"]));
    let [mut idle, mut polling, mut sending] = [open(&client).await, open(&client).await, open(&client).await];
    send(&mut polling, "GET /poll HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // Its body is under way.
    send(&mut sending, "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{").await.unwrap();
    let mut shaking = TcpStream::connect(bench.address).await.unwrap();
    until(|| bench.server.connections() == 4).await;
    // The server has seen both requests once a later one is answered.
    assert_eq!(ask(&mut idle, "/who").await.unwrap().status, 200);

    bench.shutdown.cancel();
    closed(&mut idle).await;
    closed(&mut shaking).await;
    let answer = read_answer(&mut polling).await.unwrap();
    assert_eq!((answer.status, &*answer.headers["connection"]), (204, "close"));
    closed(&mut polling).await;
    assert!(TcpStream::connect(bench.address).await.is_err(), "nobody listens");
    send(&mut sending, "}").await.unwrap();
    let answer = read_answer(&mut sending).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (200, "{}"));
    closed(&mut sending).await;
    assert_eq!(bench.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits { drain_timeout: SHORT, ..Limits::default() });
    let client = bench.client(&ca.client(&["cp1.example.org"]));
    let (mut held, mut idle) = (open(&client).await, open(&client).await);
    send(&mut held, "GET /held HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(ask(&mut idle, "/who").await.unwrap().status, 200);
    assert_eq!(bench.stop().await, Drained { cut: 1 });
    closed(&mut held).await;
}

#[tokio::test]
async fn one_socket_takes_both_families() {
    let listener = listen("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(TcpStream::connect(("127.0.0.1", port)).await.expect("IPv4"));
    assert!(listen(listener.local_addr().unwrap()).is_err(), "the address is taken");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).expect("text")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where the connections of the test below come from: its lines are told from those of the tests beside it.
const NOISY: &str = "127.0.0.77";

async fn noisy(to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(NOISY.parse().unwrap(), 0)).unwrap();
    within(socket.connect(to)).await.unwrap()
}

#[tokio::test]
async fn a_peer_cannot_fill_the_log() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .try_init()
        .expect("no other test of this binary looks at the log");
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    for _ in 0..100 {
        let mut stream = noisy(bench.address).await;
        send(&mut stream, "this is no TLS").await.unwrap();
        closed(&mut stream).await;
        // A port check says nothing at all.
        drop(noisy(bench.address).await);
    }
    let mut client = bench.client(&ca.client(&["cp1.example.org"])).connect().await.unwrap();
    for _ in 0..100 {
        assert_eq!(ask(&mut client, "/nowhere").await.unwrap().status, 404);
    }
    until(|| bench.refused(Reason::HandshakeAborted) == 100).await;
    assert_eq!(bench.refused(Reason::Protocol), 100);
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains(NOISY)).collect();
    assert_eq!(lines.len(), 10, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains("WARN") && line.contains("reason=protocol")), "{lines:#?}");
}
