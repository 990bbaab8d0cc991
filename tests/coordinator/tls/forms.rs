//! Requests of every odd form: each is answered with the status that it deserves or closed, none is a failure of the server.

use tfo_coordinator::server::{Limits, Reason};
use tokio::io::AsyncReadExt;

use super::harness::{Bench, send, within};
use tfo_testbed::pki::Ca;

/// A request and the statuses of its answers, in order; no more come.
type Form = (&'static str, &'static str, &'static [u16]);

const FORMS: &[Form] = &[
    // Where the body ends is not for two headers to say.
    ("two lengths", "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x", &[400]),
    ("a list of lengths", "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 2, 3\r\n\r\n{}x", &[400]),
    ("a negative length", "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}", &[400]),
    ("a length with a sign", "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: +2\r\n\r\n{}", &[400]),
    ("a length in hex", "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 0x2\r\n\r\n{}", &[400]),
    (
        "chunks of no size",
        "POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    (
        "a chunk of 2^64",
        "POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\n{}\r\n0\r\n\r\n",
        &[400],
    ),
    ("an encoding that is not chunked", "POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n{}", &[400]),
    // Heads.
    ("no host", "GET /who HTTP/1.1\r\nconnection: close\r\n\r\n", &[200]),
    ("lines without CR", "GET /who HTTP/1.1\nhost: x\nconnection: close\n\n", &[200]),
    ("a folded line", "GET /who HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n", &[400]),
    ("a space before the colon", "GET /who HTTP/1.1\r\nhost: x\r\nx-a : b\r\n\r\n", &[400]),
    ("NUL in a value", "GET /who HTTP/1.1\r\nhost: x\r\nx-a: \0\r\n\r\n", &[400]),
    ("NUL in the path", "GET /who\0 HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
    ("HTTP/0.9", "GET /who\r\n\r\n", &[400]),
    ("HTTP/1.0", "GET /who HTTP/1.0\r\n\r\n", &[200]),
    ("HTTP/2.0", "GET /who HTTP/2.0\r\nhost: x\r\n\r\n", &[400]),
    // Other protocols, and other places.
    ("h2c", "GET /who HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n", &[200]),
    ("CONNECT", "CONNECT evil:443 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", &[404]),
    ("an absolute address", "GET http://evil/who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", &[200]),
    ("up and away", "GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", &[404]),
    ("the same, written otherwise", "GET /%2e%2e/who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", &[404]),
    ("a method that no standard has", "FETCH /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", &[405]),
];

/// Bodies that are not JSON, or more than they seem.
fn bodies() -> Vec<(&'static str, Vec<u8>, u16)> {
    let deep = [vec![b'['; 2_000], vec![b']'; 2_000]].concat();
    vec![
        ("deep", deep, 400),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec(), 400),
        ("no UTF-8", b"\"\xff\xfe\"".to_vec(), 400),
        ("two values", b"{} {}".to_vec(), 400),
        ("not a number", b"{\"a\": NaN}".to_vec(), 400),
        ("a number too large for all", b"1e999".to_vec(), 400),
        ("nothing", Vec::new(), 400),
        ("half a surrogate", b"\"\\ud800\"".to_vec(), 400),
    ]
}

#[tokio::test]
async fn no_form_of_a_request_is_a_failure_of_the_server() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let client = bench.client(&ca.client(&["cp1.example.org"]));
    let post = |body: &[u8]| {
        let length = body.len();
        let head = format!("POST /body HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let of_bodies = bodies().into_iter().map(|(name, body, status)| (name, post(&body), vec![status]));
    let forms = FORMS.iter().map(|(name, request, statuses)| (*name, request.as_bytes().to_vec(), statuses.to_vec()));
    let mut wrong = Vec::new();
    for (name, request, expected) in forms.chain(of_bodies) {
        let mut stream = client.connect().await.unwrap();
        // The server may have answered and closed before all is sent.
        drop(send_bytes(&mut stream, &request).await);
        let mut answers = Vec::new();
        drop(within(stream.read_to_end(&mut answers)).await);
        let answers = String::from_utf8_lossy(&answers).into_owned();
        let statuses: Vec<u16> =
            answers.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect();
        if statuses != expected && !(name == "HTTP/1.0" && answers.starts_with("HTTP/1.0 200")) {
            wrong.push(format!("{name}: {statuses:?} instead of {expected:?}: {answers:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(bench.refused(Reason::HandlerPanic), 0);
    // Both ways to say where a body ends: the second request would be smuggled behind one that reads only one of them.
    let both = "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
                GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut stream = client.connect().await.unwrap();
    send(&mut stream, both).await.unwrap();
    let mut answers = String::new();
    drop(within(stream.read_to_string(&mut answers)).await);
    assert!(answers.starts_with("HTTP/1.1 400") && !answers.contains("cp1.example.org"), "{answers}");
}

async fn send_bytes<S: tokio::io::AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    stream.write_all(bytes).await?;
    stream.flush().await
}
