//! Listens on this host's interfaces with a packet socket.  A kernel filter lets only TCP SYNs pass.
//!
//! The socket is "cooked" (`packet(7)`, SOCK_DGRAM): the kernel removes link headers, so one filter and one reader serve every kind of
//! interface, VLANs and tunnels included.  The filter also selects the interface.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};

use super::{Arguments, CapturedAt, Ending, Failure, Outcome, Problem, Sniffer};
use crate::host::bpf::{
    if_any, if_equal, load_byte, load_byte_behind_index, load_half, load_word, ret, v4_header_to_index,
};
use tfo_host::runtime::{clock, sys};

/// Receive buffer in bytes, the kernel's overhead included: some ten thousand SYNs.
const BUFFER_BYTES: usize = 16 << 20;

/// Bytes to keep of each packet: all headers of a SYN, which hold the length of its data.
const SNAPSHOT_BYTES: u32 = 512;

/// Most packets to read before checking for signals again.
const BATCH_MAX: usize = 1000;

/// Every protocol (Linux `include/uapi/linux/if_ether.h`).
const ETH_P_ALL: u16 = 3;
const ETH_P_IPV4: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;
/// TCP in IP headers, and the SYN bit in its own.
const TCP: u32 = 6;
const SYN: u32 = 2;
/// The loopback interface has this number in every network namespace (Linux `include/net/flow.h`).
const LOOPBACK_INDEX: u32 = 1;
/// `sll_pkttype` of a packet that this host sends (`packet(7)`).
const PACKET_OUTGOING: u32 = 4;

/// Shows packets until the count or the time is reached, or a signal arrives.
pub(super) fn listen(arguments: &Arguments, sniffer: &mut Sniffer) -> Result<(), Ending> {
    let failed = |error: io::Error| Ending::Failed(failure(&error));
    let socket = open(arguments.interface.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let came = runtime.block_on(watch(arguments, &socket, sniffer));
    sniffer.summary.dropped = sys::packets_dropped(socket.as_fd()).map_err(failed)?.into();
    came
}

fn failure(error: &io::Error) -> Failure {
    let problem = |kind, message: String, remedy| Problem::error(kind, message, remedy);
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            let message = "listening on interfaces needs root or CAP_NET_RAW".to_owned();
            Failure::new(
                Outcome::Refused,
                problem("not_allowed", message, "run it as root, or read a capture with --read"),
            )
        }
        _ => Failure::new(
            Outcome::Failed,
            problem("network", format!("cannot listen: {error}"), "check the interfaces of this host"),
        ),
    }
}

fn open(interface: Option<&str>) -> Result<Socket, Ending> {
    let failed = |error: io::Error| Ending::Failed(failure(&error));
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).map_err(failed)?;
    // The new socket receives unfiltered packets at once: block all, empty it, then attach the real filter.
    socket.attach_filter(&[ret(0)]).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    while (&socket).read(&mut [0; 1]).is_ok() {}
    let index = interface.map(|name| name_to_index(&socket, name)).transpose().map_err(|_| {
        let message = format!("{}: no such interface", interface.unwrap_or_default());
        let remedy = "see `ip link` for the interfaces, or leave out -i to listen on all of them";
        Ending::Failed(Failure::new(Outcome::Config, Problem::error("no_interface", message, remedy)))
    })?;
    // Needs CAP_NET_ADMIN; without it, the system's limit applies.
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES).map_err(|error| failed(error.into()))?;
    }
    socket.attach_filter(&filter(index)).map_err(failed)?;
    Ok(socket)
}

async fn watch(arguments: &Arguments, socket: &Socket, sniffer: &mut Sniffer) -> Result<(), Ending> {
    let failed = |error: io::Error| Ending::Failed(failure(&error));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let ready = sys::watch(socket.as_fd().try_clone_to_owned().map_err(failed)?).map_err(failed)?;
    let end = async {
        match arguments.seconds {
            Some(secs) => tokio::time::sleep(Duration::from_secs(secs)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let place = arguments.interface.as_deref().unwrap_or("all interfaces");
    // A script may wait for this line; failing to write it does no harm.
    drop(writeln!(io::stderr(), "listening on {place}; Ctrl-C ends and counts"));
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => return drain(socket, sniffer).map(drop),
            _ = terminate.recv() => return drain(socket, sniffer).map(drop),
            () = &mut end => return drain(socket, sniffer).map(drop),
            guard = ready.readable() => {
                let mut guard = guard.map_err(failed)?;
                if drain(socket, sniffer)? == Drained::Empty {
                    guard.clear_ready();
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// Nothing is waiting.
    Empty,
    /// There may be more.
    More,
}

fn drain(socket: &Socket, sniffer: &mut Sniffer) -> Result<Drained, Ending> {
    let mut buffer = [0; SNAPSHOT_BYTES as usize];
    for _ in 0..BATCH_MAX {
        match { socket }.read(&mut buffer) {
            Ok(read) => {
                // For each packet: the keys may have changed since the one before it.  One read of procfs, some microseconds.
                sniffer.refresh_keys();
                let now = clock::precise();
                sniffer.see(CapturedAt { secs: now.as_secs(), nanos: now.subsec_nanos() }, &buffer[..read])?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Drained::Empty),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An interface went down: keep listening on the others, and it may come back.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NETDOWN) => {}
            Err(error) => return Err(Ending::Failed(failure(&error))),
        }
    }
    Ok(Drained::More)
}

/// Offset of the packet's metadata (`SKF_AD_OFF`, Linux `include/uapi/linux/filter.h`).
const METADATA: u32 = libc::SKF_AD_OFF.cast_unsigned();
const METADATA_PROTOCOL: u32 = METADATA + libc::SKF_AD_PROTOCOL.cast_unsigned();
const METADATA_PACKET_TYPE: u32 = METADATA + libc::SKF_AD_PKTTYPE.cast_unsigned();
const METADATA_INTERFACE: u32 = METADATA + libc::SKF_AD_IFINDEX.cast_unsigned();

/// The kernel's filter (`Documentation/networking/filter.rst`): TCP packets with SYN, of one interface or all.
///
/// Every test either skips the `ret(0)` that follows it, or falls through to it.
fn filter(interface: Option<u32>) -> Vec<SockFilter> {
    let mut program = vec![load_word(METADATA_INTERFACE)];
    if let Some(index) = interface {
        program.extend([if_equal(index, 1, 0), ret(0)]);
    }
    // A packet on the loopback is seen twice, outgoing and incoming: drop the outgoing copy.
    program.extend([if_equal(LOOPBACK_INDEX, 0, 3), load_word(METADATA_PACKET_TYPE)]);
    program.extend([if_equal(PACKET_OUTGOING, 0, 1), ret(0)]);
    let v4 = filter_v4();
    let over_v4 = u8::try_from(v4.len() + 2).expect("a few instructions");
    program.extend([
        load_half(METADATA_PROTOCOL),
        if_equal(ETH_P_IPV6, over_v4, 0),
        if_equal(ETH_P_IPV4, 1, 0),
        ret(0),
    ]);
    program.extend(v4);
    program.extend(filter_v6());
    program
}

/// Tests the protocol, that it is the first fragment, and the TCP flags, behind an IP header of any length.
fn filter_v4() -> [SockFilter; 11] {
    [
        load_byte(9),
        if_equal(TCP, 1, 0),
        ret(0),
        load_half(6),
        if_any(0x1fff, 0, 1),
        ret(0),
        v4_header_to_index(),
        load_byte_behind_index(13),
        if_any(SYN, 1, 0),
        ret(0),
        ret(SNAPSHOT_BYTES),
    ]
}

/// Tests the TCP flags if TCP follows at once.  Packets with extension headers pass: a filter cannot walk them, the reader does.
fn filter_v6() -> [SockFilter; 13] {
    [
        load_byte(6),
        if_equal(TCP, 0, 4),
        load_byte(40 + 13),
        if_any(SYN, 1, 0),
        ret(0),
        ret(SNAPSHOT_BYTES),
        if_equal(0, 5, 0),
        if_equal(43, 4, 0),
        if_equal(44, 3, 0),
        if_equal(51, 2, 0),
        if_equal(60, 1, 0),
        ret(0),
        ret(SNAPSHOT_BYTES),
    ]
}
