//! Requests whose answer comes later: while they wait, their connections have neither hyper nor a handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::Value;
use tfo_coordinator::server::{Drained, Draining, JsonBody, Keepalive, Later, Limits, Reason, Refusal};
use tfo_tls::identity::Peer;
use tfo_tls::server::Reload;
use tfo_wire::error::ErrorKind;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

use super::harness::{Bench, Client, Files, ask, closed, read_answer, send, until, within};
use tfo_testbed::pki::{Ca, Identity};
use tfo_testbed::{NetNs, cable, need_netns, skip_unless};

const SHORT: Duration = Duration::from_millis(300);
/// Body of an answer that fills buffers: as much as one that comes later may have.
const LONG_BYTES: usize = 16 << 10;

/// A server whose handlers wait until they are told.
struct Desk {
    bench: Bench,
    client: Client,
    identity: Identity,
    ca: Ca,
    told: watch::Sender<bool>,
    waiting: Arc<AtomicUsize>,
}

/// A handler that waits, while this lives.
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn of(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Desk {
    fn new(limits: Limits) -> Self {
        Self::at("127.0.0.1:0", limits)
    }

    /// At this address of the thread's network namespace.
    fn at(address: &str, limits: Limits) -> Self {
        let (told, hears) = watch::channel(false);
        let waiting = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&waiting);
        let wait = move |Extension(draining): Extension<Draining>, JsonBody(body): JsonBody<Value, 4096>| {
            let (mut hears, counted) = (hears.clone(), Arc::clone(&counted));
            async move {
                Later::new(async move {
                    let _waits = Waits::of(&counted);
                    tokio::select! {
                        _ = hears.wait_for(|told| *told) => {}
                        () = draining.begun() => {}
                    }
                    Json(body)
                })
            }
        };
        let never = |JsonBody(_): JsonBody<Value, 4096>| async move { Later::new(std::future::pending::<()>()) };
        let refused = |JsonBody(_): JsonBody<Value, 4096>| async move {
            Later::new(async { Refusal::new(ErrorKind::NotInPool, "none of yours") })
        };
        let panics = |JsonBody(_): JsonBody<Value, 4096>| async move { Later::new(async { panics() }) };
        let long = |JsonBody(_): JsonBody<Value, 4096>| async move { Later::new(async { "x".repeat(LONG_BYTES) }) };
        let router = Router::new()
            .route("/wait", post(wait))
            .route("/never", post(never))
            .route("/refused", post(refused))
            .route("/panics", post(panics))
            .route("/long", post(long))
            .route("/unread", post(|| async { Later::new(async { "without its body" }) }))
            .route("/who", get(|Extension(peer): Extension<Arc<Peer>>| async move { peer.to_string() }));
        let ca = Ca::new("ca");
        let bench = Bench::serving_at(address, router, None, (Files::of(&ca), &ca), limits);
        let identity = ca.client(&["cp1.example.org"]);
        let client = bench.client(&identity);
        Self { bench, client, identity, ca, told, waiting }
    }

    /// A connection with a request that is parked.
    async fn parked(&self) -> TlsStream<TcpStream> {
        self.parked_over(self.client.connect().await.unwrap()).await
    }

    async fn parked_over(&self, mut stream: TlsStream<TcpStream>) -> TlsStream<TcpStream> {
        let before = self.waiting.load(Ordering::SeqCst);
        send(&mut stream, &posted("/wait", "{\"n\":1}")).await.unwrap();
        until(|| self.waiting.load(Ordering::SeqCst) == before + 1).await;
        stream
    }

    async fn no_longer_waits(&self) {
        until(|| self.waiting.load(Ordering::SeqCst) == 0 && self.bench.server.connections() == 0).await;
    }
}

fn panics() -> &'static str {
    panic!("as ordered")
}

fn posted(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The bodies of all answers up to the one with the last of these.
async fn bodies(stream: &mut TlsStream<TcpStream>, last: &str) -> Vec<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(format!("\r\n\r\n{last}").as_bytes()) {
        assert!(within(stream.read_buf(&mut bytes)).await.unwrap() > 0, "{}", String::from_utf8_lossy(&bytes));
    }
    let text = String::from_utf8(bytes).unwrap();
    let answers = text.split("HTTP/1.1 ").skip(1);
    answers.map(|answer| answer.split_once("\r\n\r\n").unwrap().1.to_owned()).collect()
}

#[tokio::test]
async fn an_answer_that_comes_later_is_as_any_other_and_the_connection_continues() {
    let desk = Desk::new(Limits::default());
    let mut stream = desk.parked().await;
    desk.told.send_replace(true);
    let answer = read_answer(&mut stream).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (200, "{\"n\":1}"));
    let at_once = ask(&mut stream, "/who").await.unwrap();
    for name in ["content-type", "content-length", "cache-control", "x-request-id", "date"] {
        assert!(answer.headers.contains_key(name) && at_once.headers.contains_key(name), "{name}: {answer:?}");
    }
    assert!(!answer.headers.contains_key("connection"));
    assert_eq!(answer.headers["cache-control"], "no-store");
    // And again, both ways.
    for round in 0..3 {
        let body = format!("{{\"n\":{round}}}");
        send(&mut stream, &posted("/wait", &body)).await.unwrap();
        assert_eq!(read_answer(&mut stream).await.unwrap().body, body);
        assert_eq!(ask(&mut stream, "/who").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn refusals_are_counted_and_have_the_requests_id() {
    let desk = Desk::new(Limits::default());
    let mut stream = desk.client.connect().await.unwrap();
    send(&mut stream, &posted("/refused", "{}")).await.unwrap();
    assert_eq!(
        read_answer(&mut stream).await.unwrap().refusal(),
        (ErrorKind::NotInPool.status(), ErrorKind::NotInPool)
    );
    assert_eq!(desk.bench.refused(Reason::RequestRefused), 1);
    send(&mut stream, &posted("/panics", "{}")).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().refusal(), (500, ErrorKind::Internal));
    assert_eq!(desk.bench.refused(Reason::HandlerPanic), 1);
    assert_eq!(ask(&mut stream, "/who").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_end_of_the_peers_stream_ends_the_wait() {
    let desk = Desk::new(Limits::default());
    drop(desk.parked().await);
    desk.no_longer_waits().await;
    // Without a word of TLS, as a process that is killed.
    let stream = desk.parked().await;
    drop(stream.into_inner().0.into_std().unwrap());
    desk.no_longer_waits().await;
}

/// docs/protocol.md#rule-11: by this a coordinator learns that a node has died whose request it holds.
#[test]
fn a_host_that_dies_while_its_request_waits_is_noticed() {
    skip_unless!(need_netns());
    let (far, near) = (NetNs::new(), NetNs::new());
    cable::connect(&far, &near);
    let secs = Duration::from_secs;
    let keepalive = Keepalive { idle: secs(1), interval: secs(1), dead_after: secs(3) };
    near.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let desk = Desk::at(&format!("{}:0", cable::SERVER[0]), Limits { keepalive, ..Limits::default() });
            let stream = far.run(|| std::net::TcpStream::connect(desk.bench.address)).unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = desk.client.connect_over(TcpStream::from_std(stream).unwrap()).await.unwrap();
            let _dead = desk.parked_over(stream).await;
            far.ip("link set cable down");
            desk.no_longer_waits().await;
        });
    });
}

#[tokio::test]
async fn a_request_behind_one_that_waits_is_answered_after_it() {
    let desk = Desk::new(Limits::default());
    let who = "GET /who HTTP/1.1\r\nhost: x\r\n\r\n";
    // In one write, and when the first one waits already.
    let mut together = desk.client.connect().await.unwrap();
    send(&mut together, &format!("{}{who}", posted("/wait", "{}"))).await.unwrap();
    until(|| desk.waiting.load(Ordering::SeqCst) == 1).await;
    let mut after = desk.parked().await;
    send(&mut after, &format!("{}{who}", posted("/wait", "[2]"))).await.unwrap();
    desk.told.send_replace(true);
    assert_eq!(bodies(&mut together, "cp1.example.org").await, ["{}", "cp1.example.org"]);
    assert_eq!(bodies(&mut after, "cp1.example.org").await, ["{\"n\":1}", "[2]", "cp1.example.org"]);
}

#[tokio::test]
async fn a_drain_ends_the_wait_with_a_last_answer() {
    let desk = Desk::new(Limits { drain_timeout: SHORT, ..Limits::default() });
    let (mut stream, mut never) = (desk.parked().await, desk.client.connect().await.unwrap());
    send(&mut never, &posted("/never", "{}")).await.unwrap();
    assert_eq!(desk.client.get("/who").await.unwrap().status, 200);
    until(|| desk.bench.server.connections() == 2).await;
    desk.bench.shutdown.cancel();
    let answer = read_answer(&mut stream).await.unwrap();
    assert_eq!((answer.status, &*answer.headers["connection"]), (200, "close"));
    closed(&mut stream).await;
    assert_eq!(desk.bench.stop().await, Drained { cut: 1 }, "the one that does not answer");
    closed(&mut never).await;
}

#[tokio::test]
async fn a_certificate_that_is_revoked_while_its_request_waits_gets_no_answer() {
    let desk = Desk::new(Limits::default());
    let mut stream = desk.parked().await;
    desk.bench.files.put("crl.pem", &desk.ca.crl(&[&desk.identity]));
    assert!(matches!(desk.bench.tls.reload_if_changed(), Reload::Done { closed: 1, .. }));
    desk.no_longer_waits().await;
    desk.told.send_replace(true);
    assert!(read_answer(&mut stream).await.is_err());
}

#[tokio::test]
async fn a_handler_that_never_answers_is_answered_for() {
    let desk = Desk::new(Limits { hold_timeout: SHORT, ..Limits::default() });
    let mut stream = desk.client.connect().await.unwrap();
    send(&mut stream, &posted("/never", "{}")).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().refusal(), (503, ErrorKind::Unavailable));
    assert_eq!(desk.bench.refused(Reason::HandlerTimeout), 1);
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_such_answers_loses_its_connection() {
    let desk = Desk::new(Limits { write_timeout: SHORT, ..Limits::default() });
    let mut stream = desk.client.connect().await.unwrap();
    // Some MiB of answers: more than all buffers in between.
    let requests = posted("/long", "{}").repeat(1_000);
    drop(within(tokio::time::timeout(SHORT * 20, send(&mut stream, &requests))).await);
    until(|| desk.bench.refused(Reason::SlowReader) == 1).await;
    until(|| desk.bench.server.connections() == 0).await;
}

#[tokio::test]
async fn what_says_how_its_connection_continues_is_answered_by_hyper() {
    let desk = Desk::new(Limits::default());
    desk.told.send_replace(true);
    let last = |head: &str| format!("POST /wait HTTP/1.{head}host: x\r\ncontent-length: 2\r\n\r\n{{}}");
    for head in ["1\r\nconnection: close\r\n", "0\r\n"] {
        let mut stream = desk.client.connect().await.unwrap();
        send(&mut stream, &last(head)).await.unwrap();
        assert_eq!(read_answer(&mut stream).await.unwrap().body, "{}", "{head}");
        closed(&mut stream).await;
    }
    let mut stream = desk.client.connect().await.unwrap();
    send(&mut stream, &last("1\r\nexpect: 100-continue\r\n")).await.unwrap();
    assert_eq!(bodies(&mut stream, "{}").await, ["", "{}"], "100, and the answer");
    // A body that no handler has read is not taken for the next request.
    send(&mut stream, &posted("/unread", "GET /who HTTP/1.1\r\n")).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().body, "without its body");
}
