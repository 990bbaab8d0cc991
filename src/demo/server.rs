//! A node's service: a TCP Fast Open listener that reads a request, answers and closes.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use super::error::DemoError;
use super::network::PORT;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::sys;

/// The client's request, sent in the SYN.
pub const REQUEST: &[u8] = b"GET\n";
/// The server's answer.
pub const ANSWER: &[u8] = b"OK\n";
/// Length of the TFO queue: more than the connections that all clients open at once.
const QUEUE: i32 = 1024;
/// Accepting threads of each node: one may be waiting for a slow client's request.
const THREADS: usize = 2;
/// Timeout for a client's request.  The clients are on this machine, so a slower one is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service of one node.
pub struct Server {
    listener: TcpListener,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the listener of one node, for v4 and v6, and serves it.
    pub fn start(namespace: &Namespace) -> Result<Self, DemoError> {
        // A socket stays in the namespace that it was made in, regardless of the thread that uses it.
        let listener = namespace.within(listen)?.map_err(DemoError::step("open a TCP Fast Open listener"))?;
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let listener = listener.try_clone().map_err(DemoError::step("share a listener"))?;
            threads.push(std::thread::spawn(move || serve(&listener)));
        }
        Ok(Self { listener, threads })
    }

    /// Whether the service has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends the service; afterwards its namespace is empty.
    pub fn close(self) -> Result<(), DemoError> {
        // A thread in accept(2) gets EINVAL.
        let ended = rustix::net::shutdown(&self.listener, Shutdown::Both);
        ended.map_err(|error| DemoError::step("end a listener")(error.into()))?;
        self.threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| DemoError::Worker("server")))
    }
}

fn listen() -> std::io::Result<TcpListener> {
    let (family, kind, flags) = (AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))?;
    sys::set_tcp_fastopen_queue(socket.as_fd(), QUEUE)?;
    rustix::net::listen(&socket, QUEUE)?;
    Ok(socket.into())
}

/// Serves until accepting fails permanently: because the listener was closed, or because of a fault that the fleet notices.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        match stream {
            // The client counts a broken connection.
            Ok(stream) => drop(answer(stream)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}

/// Answers one request.  The server closes first, so that TIME_WAIT stays on the server's side and clients do not run out of ports.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request)?;
    stream.write_all(ANSWER)
}
