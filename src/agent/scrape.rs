//! The agent's HTTP listener for a scrape: few connections, each for a short time, so that strangers at the port take neither
//! descriptors nor time from the work on keys.
//!
//! Not the coordinator's server, which is built around TLS, handlers that wait, and thousands of peers.  Here a connection is
//! one request, and a newcomer is never refused: the oldest connection gives way to it, because a scrape sends its request at
//! once and is over within milliseconds, and what is old only waits.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Connections at once: more than monitoring has.
const CONNECTIONS_MAX: usize = 16;
/// From the accept to the last byte of the answer.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest head of a request, in bytes: hyper's least.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Lines in a head.
const HEADERS_MAX: usize = 64;
/// Pause after a failed accept: usually there are no descriptors until a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that ends with this value.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Ends it, and waits until its descriptor is closed.
    async fn end(mut self) {
        self.0.abort();
        drop((&mut self.0).await);
    }
}

/// Serves `router` until it is dropped, one request a connection.
pub(crate) async fn serve(listener: TcpListener, router: Router) {
    let mut open: VecDeque<Connection> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a scrape");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.0.is_finished());
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.end().await;
        }
        open.push_back(Connection(tokio::spawn(answer(stream, router.clone()))));
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).header_read_timeout(None);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that is too slow, or sends something else, is cut off; there is nothing to say to it.
    drop(timeout(CONNECTION_TIME_MAX, connection).await);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use axum::routing::get;

    use super::*;

    /// A listener on a thread of its own, in the agent's kind of runtime.
    fn listening() -> SocketAddr {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, Router::new().route("/metrics", get(|| async { "tfo 1\n" }))).await;
            });
        });
        told.recv().unwrap()
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        answer
    }

    #[test]
    fn a_newcomer_is_answered_however_many_wait_and_who_waits_is_cut_off() {
        let address = listening();
        let mut idle: Vec<TcpStream> = Vec::new();
        for round in 0..5 {
            for _ in 0..2 * CONNECTIONS_MAX {
                let mut stream = TcpStream::connect(address).unwrap();
                // Half of them send a head that never ends.
                if idle.len().is_multiple_of(2) {
                    stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
                }
                idle.push(stream);
            }
            let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("tfo 1\n"), "{round}: {answer}");
        }
        // All of them, the last ones by their time.
        for mut stream in idle {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let ended = stream.read(&mut [0; 1]);
            assert!(
                matches!(&ended, Ok(0))
                    || ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
                "{ended:?}"
            );
        }
    }

    #[test]
    fn a_head_is_bounded_and_other_requests_are_refused() {
        let address = listening();
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES_MAX));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        for request in [long, many] {
            let answer = ask(address, &request);
            assert!(!answer.contains(" 200 "), "{answer}");
        }
        assert!(ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(ask(address, "GET /other HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404 "));
    }
}
