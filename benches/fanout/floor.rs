//! The floor: one thread pool writes an answer to every plain TCP connection, another process writes a request back.
//! As many bytes each way as a sync has; nothing is encrypted, parsed or stored.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use super::figures::{Percentiles, Shown, median, ms};
use super::{PATIENCE, ROLE};

/// Bytes of an answer with two keys, its head and its TLS record; of the acknowledging request.
const ANSWER_BYTES: usize = 640;
const REQUEST_BYTES: usize = 810;
/// Connections from one address: there are 28 000 ports.
const PER_ADDRESS: usize = 1_000;

/// What it came to, over some rounds.
pub(crate) struct Floor {
    pub(crate) p50: Shown,
    pub(crate) p99: Shown,
    pub(crate) p100: Shown,
    pub(crate) worst: Shown,
}

pub(crate) fn measure(size: usize, rounds: usize) -> Floor {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let rounds = runtime.expect("threads").block_on(serve(size, rounds));
    let of = |read: fn(&Percentiles) -> Duration| ms(median(rounds.iter().map(read).collect()));
    let worst = rounds.iter().map(|round| round.p100).max().unwrap_or_default();
    Floor { p50: of(|p| p.p50), p99: of(|p| p.p99), p100: of(|p| p.p100), worst: ms(worst) }
}

async fn serve(size: usize, rounds: usize) -> Vec<Percentiles> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).expect("a port");
    let listener = socket.listen(4_096).expect("it listens");
    let mut clients = start_clients(&listener, size);
    let (round, rounds_seen) = watch::channel(None);
    let (done, mut times) = mpsc::unbounded_channel();
    for _ in 0..size {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
        let (stream, _) = accepted.expect("the clients come").expect("accept");
        tokio::spawn(one(stream, rounds_seen.clone(), done.clone()));
    }
    let mut results = Vec::new();
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(300)).await;
        round.send(Some(Instant::now())).expect("connections are open");
        let mut all = Vec::with_capacity(size);
        while all.len() < size {
            all.push(times.recv().await.expect("connections are open"));
        }
        results.push(Percentiles::of(&mut all));
    }
    drop(clients.stdin.take());
    clients.wait().expect("our own child");
    results
}

async fn one(
    mut stream: TcpStream,
    mut rounds: watch::Receiver<Option<Instant>>,
    done: mpsc::UnboundedSender<Duration>,
) {
    stream.set_nodelay(true).expect("a TCP socket");
    let answer = [b'a'; ANSWER_BYTES];
    let mut request = [0; REQUEST_BYTES];
    while rounds.changed().await.is_ok() {
        let Some(start) = *rounds.borrow_and_update() else { continue };
        stream.write_all(&answer).await.expect("the client reads");
        stream.read_exact(&mut request).await.expect("the client answers");
        done.send(start.elapsed()).expect("somebody counts");
    }
}

fn start_clients(listener: &TcpListener, size: usize) -> Child {
    let address = listener.local_addr().expect("it is bound");
    let own = std::env::current_exe().expect("the path of this program");
    let clients = Command::new(own).env(ROLE, "floor").stdin(Stdio::piped()).spawn();
    let mut clients = clients.expect("it starts");
    let stdin = clients.stdin.as_mut().expect("piped");
    writeln!(stdin, "{address} {size}").expect("it reads");
    clients
}

/// The other process.
pub(crate) fn run_clients() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent writes");
    let (address, size) = line.trim().split_once(' ').expect("two words");
    let (address, size): (SocketAddr, usize) = (address.parse().expect("an address"), size.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for at in 0..size {
            let socket = TcpSocket::new_v4().expect("a socket");
            let host = u8::try_from(1 + at / PER_ADDRESS).expect("at most 250 000");
            socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 8, host).into(), 0)).expect("a port");
            let mut stream = socket.connect(address).await.expect("the parent listens");
            stream.set_nodelay(true).expect("a TCP socket");
            tokio::spawn(async move {
                let mut answer = [0; ANSWER_BYTES];
                while stream.read_exact(&mut answer).await.is_ok() {
                    if stream.write_all(&[b'r'; REQUEST_BYTES]).await.is_err() {
                        break;
                    }
                }
            });
        }
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.ok();
    });
}
