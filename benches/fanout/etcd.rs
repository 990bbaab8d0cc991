//! etcd beside it: each client watches one key through the JSON gateway and acknowledges with a put of as many bytes as a
//! sync has.  One member, no TLS, which flatters it.

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use super::figures::{Percentiles, cpu, median, ms};
use super::{PATIENCE, ROLE};
use tfo_testbed::free_port;
use tfo_testbed::swarm::parse;

const PROGRAM: &str = "/usr/bin/etcd";
/// A client has two connections, and the gateway more of its own: above this they meet the limit of descriptors.
const CLIENTS_MAX: usize = 5_000;
/// Bytes that are announced, and bytes of an acknowledgement.
const VALUE_BYTES: usize = 400;
const ACK_BYTES: usize = 500;

pub(crate) fn measure(size: usize, rounds: usize) {
    if !Path::new(PROGRAM).exists() {
        println!("  etcd                            not measured: {PROGRAM} is not there (Debian: etcd-server)");
        return;
    }
    if size > CLIENTS_MAX {
        println!("  etcd                            not measured with more than {CLIENTS_MAX}: descriptors");
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fanout-etcd-{}", std::process::id()));
    let (client, peer) = (free_port(), free_port());
    let mut etcd = Command::new(PROGRAM);
    etcd.arg("--data-dir").arg(&dir).args([
        "--log-level",
        "error",
        "--listen-client-urls",
        &format!("http://{client}"),
    ]);
    etcd.args([
        "--advertise-client-urls",
        &format!("http://{client}"),
        "--listen-peer-urls",
        &format!("http://{peer}"),
    ]);
    let mut etcd = etcd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let own = std::env::current_exe().expect("the path of this program");
    let clients = Command::new(own).env(ROLE, "etcd").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut clients = clients.expect("it starts");
    writeln!(clients.stdin.as_mut().expect("piped"), "{client} {size} {rounds}").expect("it reads");
    let before = cpu(etcd.id());
    let mut line = String::new();
    io::BufReader::new(clients.stdout.take().expect("piped")).read_line(&mut line).expect("it says something");
    let spent = cpu(etcd.id()) - before;
    clients.wait().expect("our own child");
    etcd.kill().expect("our own child");
    etcd.wait().expect("our own child");
    std::fs::remove_dir_all(dir).ok();
    let said = if line.is_empty() { "failed" } else { line.trim_end() };
    println!("  etcd, watch and put, no TLS     {said}  {:.1} s of CPU in all", spent.as_secs_f64());
}

/// The other process: all clients, and whoever announces.
pub(crate) fn run_clients() {
    let mut line = String::new();
    io::stdin().read_line(&mut line).expect("the parent writes");
    let words: Vec<&str> = line.split_whitespace().collect();
    let server: SocketAddr = words[0].parse().expect("an address");
    let (size, rounds): (usize, usize) = (words[1].parse().expect("a number"), words[2].parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let results = runtime.block_on(announce(server, size, rounds));
    let of = |read: fn(&Percentiles) -> Duration| ms(median(results.iter().map(read).collect()));
    println!("p50 {}  p99 {}  p100 {}", of(|p| p.p50), of(|p| p.p99), of(|p| p.p100));
}

async fn announce(server: SocketAddr, size: usize, rounds: usize) -> Vec<Percentiles> {
    let mut operator = loop {
        // It takes a moment to start.
        match connect(server, 0).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    put(&mut operator, "fleet", VALUE_BYTES).await.expect("etcd takes a put");
    let (round, seen) = watch::channel(Instant::now());
    let (sender, mut done) = mpsc::unbounded_channel();
    for at in 0..size {
        let watching = watch_key(server, at).await.expect("etcd takes a watch");
        let putting = connect(server, at).await.expect("etcd takes a connection");
        tokio::spawn(client(watching, putting, at, seen.clone(), sender.clone()));
    }
    let mut results = Vec::new();
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(300)).await;
        round.send(Instant::now()).expect("clients run");
        put(&mut operator, "fleet", VALUE_BYTES).await.expect("etcd takes a put");
        let mut times = Vec::new();
        while times.len() < size {
            let next = tokio::time::timeout(PATIENCE, done.recv()).await;
            times.push(next.expect("clients acknowledge").expect("clients run"));
        }
        results.push(Percentiles::of(&mut times));
    }
    results
}

async fn client(
    mut watching: TcpStream,
    mut putting: TcpStream,
    at: usize,
    round: watch::Receiver<Instant>,
    done: mpsc::UnboundedSender<Duration>,
) {
    loop {
        read_until(&mut watching, b"\"events\"", b"}}\n").await.expect("etcd tells");
        put(&mut putting, &format!("ack/{at}"), ACK_BYTES).await.expect("etcd takes a put");
        done.send(round.borrow().elapsed()).expect("somebody counts");
    }
}

async fn connect(server: SocketAddr, at: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let host = u8::try_from(1 + at / 1_000).expect("few");
    socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 9, host).into(), 0))?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn post(stream: &mut TcpStream, path: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).await
}

async fn put(stream: &mut TcpStream, key: &str, bytes: usize) -> io::Result<()> {
    let value = BASE64.encode(vec![b'v'; bytes]);
    post(stream, "/v3/kv/put", &format!("{{\"key\":\"{}\",\"value\":\"{value}\"}}", BASE64.encode(key))).await?;
    let mut buffer = Vec::with_capacity(512);
    loop {
        if let Some((status, _)) = parse(&buffer)? {
            return if status == 200 { Ok(()) } else { Err(io::Error::other(format!("status {status}"))) };
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn watch_key(server: SocketAddr, at: usize) -> io::Result<TcpStream> {
    let mut stream = connect(server, at).await?;
    let body = format!("{{\"create_request\":{{\"key\":\"{}\"}}}}", BASE64.encode("fleet"));
    post(&mut stream, "/v3/watch", &body).await?;
    read_until(&mut stream, b"\"created\":true", b"}}\n").await?;
    Ok(stream)
}

/// Reads until `mark` and then `end` came.
async fn read_until(stream: &mut TcpStream, mark: &[u8], end: &[u8]) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(2_048);
    let find = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).position(|window| window == wanted);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(at) = find(&buffer, mark)
            && find(&buffer[at..], end).is_some()
        {
            return Ok(());
        }
    }
}
