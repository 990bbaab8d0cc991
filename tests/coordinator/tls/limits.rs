//! What one peer may take, and how it is told that it was too much.

use std::net::SocketAddr;
use std::time::Duration;

use tfo_coordinator::server::{Limits, Reason, Server, listen};
use tfo_host::runtime::process::raise_file_limit;
use tfo_wire::error::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::harness::{Bench, Client, LARGE_BYTES, ask, closed, echo, read_answer, send, until, within};
use tfo_testbed::pki::Ca;

/// How long an agent waits for a connection (`tfo_wire::client`).
const AGENT_PATIENCE: Duration = Duration::from_secs(5);
/// Short enough to wait for, long enough for an honest exchange on a busy machine.
const SHORT: Duration = Duration::from_secs(1);
/// The head of a record with a handshake, and the first byte of its message.
const HELLO_START: &[u8] = &[22, 3, 1, 2, 0, 1];

fn start(limits: Limits) -> (Bench, Client) {
    let (bench, [client, _]) = start_for(limits, ["cp1.example.org", "other.example.org"]);
    (bench, client)
}

/// Clients with these names.
fn start_for(limits: Limits, names: [&str; 2]) -> (Bench, [Client; 2]) {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, limits);
    let clients = names.map(|name| bench.client(&ca.client(&[name])));
    (bench, clients)
}

async fn works(client: &Client) {
    assert_eq!(client.get("/who").await.expect("an answer").status, 200);
}

/// Sends a request, reads its refusal, and sees the connection closed.
async fn refused(stream: &mut TlsStream<TcpStream>, request: &str) -> (u16, ErrorKind) {
    send(stream, request).await.unwrap();
    let answer = read_answer(stream).await.unwrap();
    assert_eq!(answer.headers.get("connection").map(String::as_str), Some("close"), "{answer:?}");
    closed(stream).await;
    answer.refusal()
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_ended() {
    let (bench, client) = start(Limits { handshake_timeout: SHORT, ..Limits::default() });
    let mut silent = TcpStream::connect(bench.address).await.unwrap();
    let mut slow = TcpStream::connect(bench.address).await.unwrap();
    // And then one byte at a time.
    slow.write_all(HELLO_START).await.unwrap();
    let (mut from, mut to) = slow.split();
    let drip = async {
        while to.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::select! {
        () = closed(&mut from) => {}
        () = within(drip) => {}
    }
    closed(&mut silent).await;
    until(|| bench.refused(Reason::HandshakeTimeout) == 2).await;
    works(&client).await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_408() {
    let (bench, client) = start(Limits { head_timeout: SHORT, ..Limits::default() });
    let mut stream = client.connect().await.unwrap();
    assert_eq!(ask(&mut stream, "/who").await.unwrap().status, 200);
    // One line at a time would go on for ever.
    let (mut from, mut to) = tokio::io::split(stream);
    let drip = tokio::spawn(async move {
        to.write_all(b"GET /who HTTP/1.1\r\n").await?;
        loop {
            to.write_all(b"x-header: 1\r\n").await?;
            to.flush().await?;
            tokio::time::sleep(SHORT / 5).await;
        }
        #[expect(unreachable_code, reason = "names the type")]
        std::io::Result::Ok(())
    });
    let answer = read_answer(&mut from).await.unwrap();
    assert_eq!(answer.refusal(), (408, ErrorKind::Timeout));
    closed(&mut from).await;
    drop(within(drip).await);
    assert_eq!(bench.refused(Reason::HeadTimeout), 1);
    works(&client).await;
}

#[tokio::test]
async fn a_body_that_does_not_end_is_answered_408() {
    let (bench, client) = start(Limits { body_timeout: SHORT, ..Limits::default() });
    for request in [
        "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{",
        "POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
        "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n",
    ] {
        let mut stream = client.connect().await.unwrap();
        send(&mut stream, request).await.unwrap();
        let mut answer = read_answer(&mut stream).await.unwrap();
        if answer.status == 100 {
            answer = read_answer(&mut stream).await.unwrap();
        }
        assert_eq!(answer.refusal(), (408, ErrorKind::Timeout), "{request}");
        closed(&mut stream).await;
    }
    assert_eq!(bench.refused(Reason::BodyTimeout), 3);
    works(&client).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431() {
    let (bench, client) = start(Limits::default());
    let long = "a".repeat(9000);
    let many: String = (0..100).map(|index| format!("x-{index}: 1\r\n")).collect();
    for request in [
        format!("GET /who HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n"),
        format!("GET /who HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        let mut stream = client.connect().await.unwrap();
        assert_eq!(refused(&mut stream, &request).await, (431, ErrorKind::TooLarge), "{}", &request[..40]);
        // On a connection that has answered before, too.
        let mut stream = client.connect().await.unwrap();
        assert_eq!(ask(&mut stream, "/who").await.unwrap().status, 200);
        assert_eq!(refused(&mut stream, &request).await, (431, ErrorKind::TooLarge), "{}", &request[..40]);
    }
    assert_eq!(bench.refused(Reason::HeadTooLarge), 6);
    works(&client).await;
}

#[tokio::test]
async fn what_is_no_http_is_answered_400() {
    let (bench, client) = start(Limits::default());
    for request in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET /who HTTP/7.3\r\n\r\n",
        "GET /who HTTP/1.1\r\nno colon\r\n\r\n",
        "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = client.connect().await.unwrap();
        assert_eq!(refused(&mut stream, request).await, (400, ErrorKind::BadRequest), "{request:?}");
    }
    assert_eq!(bench.refused(Reason::BadRequest), 7);
    works(&client).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_413() {
    let (bench, client) = start(Limits { body_bytes_max: 10_000, ..Limits::default() });
    let to = |path: &str, length: usize| {
        let body = format!("\"{}\"", "a".repeat(length - 2));
        let announced = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
        let chunked = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        );
        [announced, chunked]
    };
    let post = |length| to("/body", length);
    // The route allows 4096.
    for request in post(4096) {
        let mut stream = client.connect().await.unwrap();
        send(&mut stream, &request).await.unwrap();
        let answer = read_answer(&mut stream).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 4096));
    }
    let large = [post(4097), post(10_001), post(300_000), to("/wide", 10_001)];
    for request in large.as_flattened() {
        let mut stream = client.connect().await.unwrap();
        send(&mut stream, request).await.unwrap();
        let answer = read_answer(&mut stream).await.unwrap();
        assert_eq!(answer.refusal(), (413, ErrorKind::TooLarge), "{answer:?}");
    }
    // An announced one is refused before it is sent.
    let mut stream = client.connect().await.unwrap();
    let announced = "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10001\r\n\r\n";
    send(&mut stream, announced).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().refusal(), (413, ErrorKind::TooLarge));
    // Who sends on is read for a while: a reset could overtake the answer.
    closed(&mut stream).await;
    for _ in 0..3 {
        send(&mut stream, &"a".repeat(1000)).await.unwrap();
    }
    assert_eq!(bench.refused(Reason::BodyTooLarge), 4);
    works(&client).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_that_polls_is_not() {
    let (bench, client) = start(Limits { idle_timeout: SHORT, ..Limits::default() });
    let mut polling = client.connect().await.unwrap();
    send(&mut polling, "GET /poll HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut fresh = client.connect().await.unwrap();
    let mut used = client.connect().await.unwrap();
    assert_eq!(ask(&mut used, "/who").await.unwrap().status, 200);
    closed(&mut fresh).await;
    closed(&mut used).await;
    until(|| bench.server.connections() == 1).await;
    bench.shutdown.cancel();
    assert_eq!(read_answer(&mut polling).await.unwrap().status, 204);
}

#[tokio::test]
async fn a_handler_that_does_not_answer_is_answered_for() {
    let (bench, client) = start(Limits { answer_timeout: SHORT, ..Limits::default() });
    let answer = client.get("/held").await.unwrap();
    assert_eq!(answer.refusal(), (503, ErrorKind::Unavailable));
    assert_eq!(bench.refused(Reason::HandlerTimeout), 1);
    works(&client).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answer_loses_it() {
    let (bench, client) = start(Limits { write_timeout: SHORT, ..Limits::default() });
    let mut stream = client.connect().await.unwrap();
    send(&mut stream, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(|| bench.refused(Reason::SlowReader) == 1).await;
    let mut answer = Vec::new();
    let read = within(stream.read_to_end(&mut answer)).await;
    assert!(read.is_err() && answer.len() < LARGE_BYTES, "cut: {read:?}");
    until(|| bench.server.connections() == 0).await;
    // One that reads gets all of it.
    let (_bench, client) = start(Limits::default());
    assert_eq!(client.get("/large").await.unwrap().body.len(), LARGE_BYTES);
}

#[tokio::test]
async fn connections_are_bounded_in_all_and_of_one_address() {
    for (limits, reason) in [
        (Limits { connections_max: 2, ..Limits::default() }, Reason::TooManyConnections),
        (Limits { connections_per_address_max: 2, ..Limits::default() }, Reason::TooManyFromAddress),
    ] {
        let (bench, [client, operator]) = start_for(limits, ["cp1.example.org", "ops1.example.org"]);
        let mut first = client.connect().await.unwrap();
        assert_eq!(ask(&mut first, "/who").await.unwrap().status, 200);
        let mut second = client.connect().await.unwrap();
        assert_eq!(ask(&mut second, "/who").await.unwrap().status, 200);
        assert!(client.get("/who").await.is_err(), "{reason}");
        assert_eq!(bench.refused(reason), 1);
        works(&operator).await;
        assert_eq!(ask(&mut first, "/who").await.unwrap().status, 200, "the others are served");
        drop(second);
        until(|| bench.server.connections() == 1).await;
        works(&client).await;
    }
}

#[tokio::test]
async fn peers_without_a_certificate_take_only_the_places_of_handshakes() {
    let (bench, client) = start(Limits { handshakes_max: 2, ..Limits::default() });
    let mut served = client.connect().await.unwrap();
    assert_eq!(ask(&mut served, "/who").await.unwrap().status, 200);
    let mut strangers = Vec::new();
    for _ in 0..7 {
        strangers.push(TcpStream::connect(bench.address).await.unwrap());
    }
    // Four may be silent, half of those that may wait; they keep no one from a handshake.
    until(|| bench.refused(Reason::HandshakeGaveWay) == 3).await;
    works(&client).await;
    drop(strangers.drain(..));
    until(|| bench.server.connections() == 1).await;
    for _ in 0..7 {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(HELLO_START).await.unwrap();
        strangers.push(stream);
    }
    // One shakes hands, as its address may have half of the places; four wait, and the others are refused, or one of them
    // that had not spoken yet.
    let refused = || bench.refused(Reason::TooManyHandshakes) + bench.refused(Reason::HandshakeGaveWay);
    until(|| refused() >= 4 + 2).await;
    assert_eq!(ask(&mut served, "/who").await.unwrap().status, 200, "who was let in is served");
    drop(strangers);
    until(|| bench.server.connections() == 1).await;
    works(&client).await;
}

#[tokio::test]
async fn strangers_take_the_places_of_handshakes_from_each_other_only() {
    raise_file_limit();
    for addresses in [3, 10, 100] {
        let (bench, client) = start(Limits { handshakes_max: 150, ..Limits::default() });
        let attack: Vec<_> = (0..900).map(|index| stall(bench.address, index % addresses, index % 2 == 0)).collect();
        until(|| bench.server.connections() >= 600 && bench.refused(Reason::HandshakeGaveWay) > 0).await;
        for _ in 0..50 {
            let answer = tokio::time::timeout(AGENT_PATIENCE, client.get("/who")).await;
            assert_eq!(answer.expect("as an agent waits").expect("an answer").status, 200, "{addresses} addresses");
        }
        drop(attack);
    }
}

/// A stranger that opens connections from one of its addresses, sends nothing or the beginning of a handshake, and comes back
/// when it is thrown out.
fn stall(server: SocketAddr, address: usize, speaks: bool) -> AbortOnDropHandle<()> {
    let from = SocketAddr::from(([127, 66, 0, u8::try_from(address).unwrap()], 0));
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from).unwrap();
            if let Ok(mut stream) = socket.connect(server).await {
                drop(stream.write_all(if speaks { HELLO_START } else { &[] }).await);
                drop(stream.read(&mut [0]).await);
            }
            tokio::time::sleep(SHORT / 4).await;
        }
    }))
}

#[tokio::test]
async fn a_certificate_has_few_connections_and_the_newest() {
    let (bench, [client, other]) = start_for(Limits::default(), ["cp1.example.org", "cp2.example.org"]);
    let mut other = other.connect().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..9 {
        let mut stream = client.connect().await.unwrap();
        assert_eq!(ask(&mut stream, "/who").await.unwrap().status, 200);
        held.push(stream);
    }
    closed(&mut held[0]).await;
    until(|| bench.server.connections() == 9).await;
    for stream in &mut held[1..] {
        assert_eq!(ask(stream, "/who").await.unwrap().status, 200);
    }
    assert_eq!(ask(&mut other, "/who").await.unwrap().status, 200);
}

#[tokio::test]
async fn routes_answer_with_error_bodies() {
    let (bench, client) = start(Limits::default());
    let mut stream = client.connect().await.unwrap();
    assert_eq!(ask(&mut stream, "/nowhere").await.unwrap().refusal(), (404, ErrorKind::UnknownPath));
    send(&mut stream, "DELETE /who HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().refusal(), (405, ErrorKind::UnknownMethod));
    let refusal = ask(&mut stream, "/refused").await.unwrap();
    assert_eq!(refusal.refusal(), (503, ErrorKind::NotHeard));
    assert_eq!(refusal.headers["retry-after"], "7");
    // The handler's id is the answer's; each request has its own, whatever the peer says.
    send(&mut stream, "GET /id HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\n\r\n").await.unwrap();
    let first = read_answer(&mut stream).await.unwrap();
    assert_eq!(first.headers["x-request-id"], first.body);
    assert_ne!(ask(&mut stream, "/id").await.unwrap().body, first.body);
    // A web page that borrows an operator's certificate.
    send(&mut stream, "POST /body HTTP/1.1\r\nhost: x\r\norigin: https://evil.example\r\ncontent-length: 2\r\n\r\n{}")
        .await
        .unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().refusal(), (403, ErrorKind::NotAllowed));
    works(&client).await;
    // A panic costs its own request, not the server.
    assert_eq!(client.get("/panic").await.unwrap().refusal(), (500, ErrorKind::Internal));
    assert_eq!(bench.refused(Reason::HandlerPanic), 1);
    works(&client).await;
}

#[tokio::test]
async fn a_pipelined_pair_is_answered_in_order_and_garbage_after_it_ends_it() {
    let (_bench, client) = start(Limits::default());
    let mut stream = client.connect().await.unwrap();
    let request = "GET /who HTTP/1.1\r\nhost: x\r\n\r\n";
    send(&mut stream, &format!("{request}{request}\0\r\n\r\n")).await.unwrap();
    let mut all = String::new();
    drop(within(stream.read_to_string(&mut all)).await);
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 2, "{all}");
    assert_eq!(all.matches("HTTP/1.1 400").count(), 1, "{all}");
}

#[tokio::test]
async fn the_plain_listener_serves_get_and_nothing_else() {
    let server = Server::new(Limits { head_timeout: SHORT, connections_per_address_max: 3, ..Limits::default() });
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serve = server.serve_plain(listener, echo(), shutdown.clone());
    let clients = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut stream, "/id").await.unwrap().status, 200);
        send(&mut stream, "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        assert_eq!(read_answer(&mut stream).await.unwrap().refusal(), (405, ErrorKind::UnknownMethod));
        let mut slow = TcpStream::connect(address).await.unwrap();
        send(&mut slow, "GET /id HTT").await.unwrap();
        assert_eq!(read_answer(&mut slow).await.unwrap().refusal(), (408, ErrorKind::Timeout));
        until(|| server.connections() <= 1).await;
        let mut many = Vec::new();
        for _ in 0..4 {
            many.push(TcpStream::connect(address).await.unwrap());
        }
        // The oldest give way: a probe among silent connections of its own address is answered.
        closed(&mut stream).await;
        closed(&mut many[0]).await;
        assert_eq!(ask(&mut many[3], "/id").await.unwrap().status, 200);
        drop((stream, many));
        shutdown.cancel();
    };
    let (drained, ()) = within(Box::pin(async { tokio::join!(serve, clients) })).await;
    assert_eq!(drained.cut, 0);
}
