//! The request that ten thousand nodes send all day, taken from its bytes without hyper: one strict shape, whole and alone.
//! Anything else is hyper's.
//!
//! Invariant: what is taken is what hyper makes of the same bytes, so every answer is the same; tests/proof/fuzz compares the
//! two.  Must not know: what the request means.

use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use zeroize::Zeroizing;

/// Room for such a request, in bytes: a node's body has at most 4 KiB.
pub(super) const BYTES_MAX: usize = 6 << 10;
/// Lines of its head.
const HEADERS_MAX: usize = 16;
/// The path of a sync, around the name of its pool.
const PATH: (&str, &str) = ("/v1/pools/", "/sync");
/// What says nothing of the connection, nor of how the body is framed.
const HEADERS: [HeaderName; 6] = [ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT];

/// The request in these bytes, if they are one of this shape and nothing more.
#[must_use]
pub fn request(bytes: &[u8]) -> Option<Request<Bytes>> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes).ok()? else { return None };
    if head.method != Some("POST") || head.version != Some(1) {
        return None;
    }
    let path = head.path.filter(|path| is_sync(path))?;
    let mut request = Request::new(Bytes::new());
    (*request.method_mut(), *request.uri_mut()) = (Method::POST, path.parse::<Uri>().ok()?);
    let headers = request.headers_mut();
    for line in head.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok().filter(|name| HEADERS.contains(name))?;
        // Said twice, it may be taken in two ways.
        if headers.insert(name, HeaderValue::from_bytes(line.value).ok()?).is_some() {
            return None;
        }
    }
    let body = &bytes[head_bytes..];
    if length(headers.get(CONTENT_LENGTH)?)? != body.len() {
        return None;
    }
    // Wiped, as the body that a handler reads.
    *request.body_mut() = Bytes::from_owner(Zeroizing::new(body.to_vec()));
    Some(request)
}

fn is_sync(path: &str) -> bool {
    let (before, after) = PATH;
    let pool = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    pool.is_some_and(|pool| !pool.is_empty() && pool.bytes().all(is_plain))
}

/// Digits and nothing else.
fn length(value: &HeaderValue) -> Option<usize> {
    let digits = value.as_bytes();
    let is_number = !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(lines: &str, body: &str) -> String {
        format!("POST /v1/pools/edge/sync HTTP/1.1\r\n{lines}\r\n{body}")
    }

    #[test]
    fn a_sync_as_agents_send_it_is_taken() {
        let lines = "content-type: application/json\r\nAccept: */*\r\nhost: c1:8443\r\nContent-Length: 2\r\n";
        let request = request(sync(lines, "{}").as_bytes()).unwrap();
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/pools/edge/sync"));
        assert_eq!(
            (request.headers().len(), request.headers()[HOST].as_bytes(), &request.body()[..]),
            (4, &b"c1:8443"[..], &b"{}"[..])
        );
    }

    #[test]
    fn anything_else_is_hypers() {
        let length = "host: x\r\ncontent-length: 2\r\n";
        let with = |line: &str| sync(&format!("{length}{line}\r\n"), "{}");
        let replaced = |from: &str, to: &str| sync(length, "{}").replacen(from, to, 1);
        for bytes in [
            sync(length, "{"),
            sync(length, "{}P"),
            sync("host: x\r\n", ""),
            sync("content-length: +2\r\n", "{}"),
            sync("content-length: 2, 2\r\n", "{}"),
            sync("content-length: 000002\r\n", "{}"),
            with("content-length: 2"),
            with("host: y"),
            with("transfer-encoding: chunked"),
            with("connection: close"),
            with("expect: 100-continue"),
            with("upgrade: h2c"),
            with("origin: https://x"),
            with("traceparent: 0"),
            with(" folded: x"),
            replaced("POST", "GET"),
            replaced("POST", "post"),
            replaced("HTTP/1.1", "HTTP/1.0"),
            replaced("edge", "e%64ge"),
            replaced("edge", "ed/ge"),
            replaced("edge/", "edge//"),
            replaced("sync ", "sync?a=b "),
            replaced("/v1/", "http://x/v1/"),
            replaced("\r\n\r\n", "\r\n"),
            String::new(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
        ] {
            assert!(request(bytes.as_bytes()).is_none(), "{bytes:?}");
        }
        let many = (0..HEADERS_MAX).fold(String::new(), |many, line| format!("{many}x{line}: y\r\n"));
        assert!(request(sync(&many, "").as_bytes()).is_none());
    }
}
