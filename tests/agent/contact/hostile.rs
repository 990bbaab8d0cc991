//! A bad coordinator, byte by byte: whatever it sends, the client takes little of it, ends in time, goes nowhere else, and
//! repeats nothing into a log.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use tfo_testbed::SOON;
use tfo_testbed::pki::{Ca, client_config, server_config};
use tfo_wire::client::{Call, Client, ClientError};

/// How long an answer may take; most come at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4_096;
/// What an endless answer can get rid of, in bytes: what the two sockets buffer.
const TAKEN_BYTES_MAX: usize = 16 << 20;

/// What follows the beginning of an answer.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Silence,
    /// This, again and again.
    Endless(&'static str),
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Unreachable,
    Late,
    Bad,
    Refused(u16, Option<Duration>),
}

fn ended(answer: Result<Option<Value>, ClientError>) -> Ended {
    let error = answer.expect_err("it is no good answer");
    assert!(!error.to_string().chars().any(char::is_control), "{error}");
    match error {
        late if late.is_late() => Ended::Late,
        ClientError::Unreachable { .. } => Ended::Unreachable,
        ClientError::BadAnswer { .. } => Ended::Bad,
        ClientError::Refused { status, retry_after, .. } => Ended::Refused(status, retry_after),
        ClientError::Tls { .. } => panic!("the certificate is good: {error}"),
    }
}

/// Answers one request; how many bytes it got rid of.
async fn answer(mut stream: TlsStream<TcpStream>, start: &str, then: Then) -> usize {
    let mut head = [0; 4_096];
    drop(stream.read(&mut head).await);
    let mut sent = start.len();
    drop(stream.write_all(start.as_bytes()).await);
    drop(stream.flush().await);
    match then {
        Then::Close => drop(stream.shutdown().await),
        Then::Silence => drop(stream.read(&mut head).await),
        Then::Endless(more) => {
            let more = more.repeat(200);
            while sent < 2 * TAKEN_BYTES_MAX && stream.write_all(more.as_bytes()).await.is_ok() {
                sent += more.len();
            }
        }
    }
    sent
}

const CASES: &[(&str, &str, Then, Ended)] = &[
    ("nothing", "", Then::Close, Ended::Unreachable),
    ("silence", "", Then::Silence, Ended::Late),
    ("no HTTP", "\x16\x03\x01\0\0 what\r\n\r\n", Then::Close, Ended::Unreachable),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Then::Close, Ended::Unreachable),
    ("half a body", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"pool", Then::Close, Ended::Unreachable),
    ("half a body, and silence", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", Then::Silence, Ended::Late),
    (
        "two lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        Then::Close,
        Ended::Unreachable,
    ),
    ("no JSON", "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n<html>no", Then::Close, Ended::Bad),
    ("a length of 100 GB", "HTTP/1.1 200 OK\r\ncontent-length: 107374182400\r\n\r\n", Then::Endless(LINE), Ended::Bad),
    ("no end of chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Then::Endless(CHUNK), Ended::Bad),
    (
        "an error without end",
        "HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n",
        Then::Endless(CHUNK),
        Ended::Refused(500, None),
    ),
    ("a head without end", "HTTP/1.1 200 OK\r\n", Then::Endless(LINE), Ended::Unreachable),
    (
        "one line without end",
        "HTTP/1.1 200 OK\r\nx: ",
        Then::Endless("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        Ended::Unreachable,
    ),
    (
        "to a place without TLS",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        Then::Close,
        Ended::Refused(302, None),
    ),
    (
        "to another coordinator",
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n",
        Then::Close,
        Ended::Refused(307, None),
    ),
    ("a teapot", "HTTP/1.1 418 No\r\ncontent-length: 0\r\n\r\n", Then::Close, Ended::Refused(418, None)),
    (
        "come back in three years",
        "HTTP/1.1 503 Later\r\nretry-after: 100000000\r\ncontent-length: 0\r\n\r\n",
        Then::Close,
        Ended::Refused(503, Some(Duration::from_secs(3_600))),
    ),
    (
        "come back in a number too large",
        "HTTP/1.1 503 Later\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n",
        Then::Close,
        Ended::Refused(503, None),
    ),
    (
        "a message for the terminal",
        "HTTP/1.1 409 No\r\ncontent-length: 70\r\n\r\n\
         {\"kind\":\"denied\",\"message\":\"\\u001b[2J\\nroot: ok\",\"request_id\":\"r\\u0007\"}",
        Then::Close,
        Ended::Refused(409, None),
    ),
];
/// A line of a head, or of whatever it is.
const LINE: &str = "x-padding: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";
const CHUNK: &str = "40\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";

#[test]
fn a_bad_coordinator_gets_little_attention_and_no_second_request() {
    let ca = Ca::new("ca");
    let server = TlsAcceptor::from(std::sync::Arc::new(server_config(&ca.pem, None, &ca.both(&["localhost"]))));
    let client = Client::new(client_config(&ca.pem, Some(&ca.client(&["a.example.org"])))).unwrap();
    let runtime = tfo_testbed::coordinator::runtime();
    for (name, start, then, expected) in CASES {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let (server, start, then) = (server.clone(), *start, *then);
        let taken = runtime.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let sent = answer(server.accept(stream).await.unwrap(), start, then).await;
            // A second connection would be accepted, and wait.
            (sent, tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err())
        });
        let call = Call { method: &Method::POST, path: "/v1/x", timeout: PATIENCE, answer_bytes_max: ANSWER_BYTES_MAX };
        let got = runtime.block_on(client.call::<_, Value>(&base, call, Some(&serde_json::json!({"a": 1}))));
        assert_eq!(ended(got), *expected, "{name}");
        let taken = runtime.block_on(async { tokio::time::timeout(SOON, taken).await });
        let (sent, is_alone) = taken.expect("the client is gone").unwrap();
        assert!(sent < TAKEN_BYTES_MAX && is_alone, "{name}: {sent} bytes");
    }
}
