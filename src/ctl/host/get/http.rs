//! The part of HTTP/1.1 that one GET needs: the request, and the head of the response (RFC 9112).

use httparse::{ParserConfig, Response, Status};
use serde::Serialize;

/// Longest head that is read, in bytes; servers themselves stop at 8 to 64 KiB.
const HEAD_BYTES_MAX: usize = 65_536;

/// Most headers that fit into it: four bytes each at least, `a:` and the end of its line.
const HEADERS_MAX: usize = HEAD_BYTES_MAX / 4;

/// The head of a response, without control characters that could steer a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Head {
    /// `HTTP/1.1`.
    pub(super) version: String,
    /// 100 to 999.
    pub(super) status: u16,
    /// Reason phrase; may be empty.
    pub(super) reason: String,
    /// Headers in the order of the response.
    pub(super) headers: Vec<Header>,
}

/// One header line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Header {
    /// As the server wrote it.
    pub(super) name: String,
    /// Without spaces around it.
    pub(super) value: String,
}

/// The bytes are not the head of an HTTP/1 response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadError {
    #[error("not an HTTP/1 response: the first line is not a status line")]
    NoStatusLine,
    #[error("the response head has a line that is not a header")]
    NoHeader,
    #[error("the response head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
}

/// How the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// After this many bytes.
    Bytes(u64),
    /// When the server closes the connection, as the request asks.
    Close,
}

/// A GET request for a path that asks the server to close the connection afterwards.
pub(super) fn request(path_and_query: &str, host: &str) -> Vec<u8> {
    let agent = concat!("tfoctl/", env!("CARGO_PKG_VERSION"));
    format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

impl Head {
    /// Reads the final head at the start of `bytes` and returns it with its length.  Skips interim heads (1xx).  None: the head is
    /// not complete yet.
    ///
    /// # Errors
    /// Fails if the bytes are not a head (RFC 9112 sections 4 and 5), or if it is too long.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut start = 0;
        loop {
            let mut lines = Vec::with_capacity(HEADERS_MAX);
            let mut response = Response::new(&mut []);
            let mut parser = ParserConfig::default();
            parser.allow_spaces_after_header_name_in_responses(true);
            let read =
                parser.parse_response_with_uninit_headers(&mut response, &bytes[start..], lines.spare_capacity_mut());
            let length = match read {
                Ok(Status::Complete(length)) => length,
                Ok(Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
                Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLong),
                Err(_) if response.code.is_none() || response.reason.is_none() => return Err(HeadError::NoStatusLine),
                Err(_) => return Err(HeadError::NoHeader),
            };
            start += length;
            let head = Self::of(&response)?;
            if head.status >= 200 {
                return Ok(Some((head, start)));
            }
        }
    }

    fn of(response: &Response<'_, '_>) -> Result<Self, HeadError> {
        let status = response.code.filter(|status| *status >= 100).ok_or(HeadError::NoStatusLine)?;
        let header = |header: &httparse::Header<'_>| Header {
            name: header.name.to_owned(),
            value: printable(&String::from_utf8_lossy(header.value)),
        };
        Ok(Self {
            version: format!("HTTP/1.{}", response.version.unwrap_or_default()),
            status,
            reason: printable(response.reason.unwrap_or_default()),
            headers: response.headers.iter().map(header).collect(),
        })
    }

    /// The value of the first header with this name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.as_str())
    }

    /// How the body of this response to a GET ends.
    pub(super) fn body_end(&self) -> BodyEnd {
        if matches!(self.status, 204 | 304) {
            return BodyEnd::Bytes(0);
        }
        // A transfer encoding overrides the length (RFC 9112 section 6.3).
        let length = self.header("content-length").filter(|_| self.header("transfer-encoding").is_none());
        length.and_then(|length| length.parse().ok()).map_or(BodyEnd::Close, BodyEnd::Bytes)
    }
}

/// Control characters as escapes: what a server sends must not steer a terminal.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nhi";

    #[test]
    fn an_answer_is_read_however_it_is_cut() {
        for cut in 0..ANSWER.len() - 2 {
            assert_eq!(Head::read(&ANSWER[..cut]), Ok(None), "{cut}");
        }
        let (head, length) = Head::read(ANSWER).unwrap().unwrap();
        assert_eq!((head.status, head.reason.as_str(), &ANSWER[length..]), (200, "OK", b"hi".as_slice()));
        assert_eq!((head.header("SERVER"), head.body_end()), (Some("x"), BodyEnd::Bytes(2)));
    }

    #[test]
    fn interim_answers_are_skipped() {
        let both = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".as_slice(), ANSWER].concat();
        assert_eq!(Head::read(&both).unwrap().unwrap().0.status, 200);
        assert_eq!(Head::read(&both[..40]), Ok(None));
    }

    #[test]
    fn other_protocols_and_endless_heads_are_refused() {
        assert_eq!(Head::read(b"SSH-2.0-OpenSSH_9.2p1\r\n"), Err(HeadError::NoStatusLine));
        assert_eq!(Head::read(b"HTTP/2 200 \r\n\r\n"), Err(HeadError::NoStatusLine));
        assert_eq!(Head::read(b"HTTP/1.1 20 OK\r\n\r\n"), Err(HeadError::NoStatusLine));
        assert_eq!(Head::read(b"HTTP/1.1 +20 OK\r\n\r\n"), Err(HeadError::NoStatusLine));
        assert_eq!(Head::read(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Err(HeadError::NoHeader));
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(Head::read(&endless), Err(HeadError::TooLong));
    }

    #[test]
    fn a_head_cannot_steer_a_terminal() {
        // C1 control characters are UTF-8 and lawful in a value; those of ASCII are lawful nowhere.
        let (head, _) = Head::read(b"HTTP/1.1 200 OK\r\nX: a\xc2\x9b\xffb\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.header("x"), Some("a\\u{9b}\u{fffd}b"));
        assert_eq!(Head::read(b"HTTP/1.1 200 \x1b[2J\r\n\r\n"), Err(HeadError::NoStatusLine));
        assert_eq!(Head::read(b"HTTP/1.1 200 OK\r\nX: a\x07b\r\n\r\n"), Err(HeadError::NoHeader));
    }

    #[test]
    fn bodies_end_as_the_head_says() {
        let end = |text: &str| Head::read(format!("{text}\r\n\r\n").as_bytes()).unwrap().unwrap().0.body_end();
        assert_eq!(end("HTTP/1.1 304 Not Modified\r\nContent-Length: 7"), BodyEnd::Bytes(0));
        assert_eq!(end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7"), BodyEnd::Close);
        assert_eq!(end("HTTP/1.0 200 OK"), BodyEnd::Close);
        assert_eq!(end("HTTP/1.0 200 OK\r\nContent-Length: -1"), BodyEnd::Close);
    }
}
