//! A peer of rustls' buffered kind, over a wire that splits and blocks as a case says.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, ServerName};

use super::*;
use crate::authorities::provider;

/// What the server's end of the wire does next: takes or gives so many bytes at most; 0: blocks.
type Steps = VecDeque<usize>;

#[derive(Default)]
struct Wire {
    to_server: VecDeque<u8>,
    from_server: Vec<u8>,
    reads: Steps,
    writes: Steps,
    is_ended: bool,
    is_shut: bool,
}

/// What the next step allows of `most`; none: it blocks.  Without steps everything passes.
fn step(steps: &mut Steps, most: usize) -> Option<usize> {
    let step = steps.pop_front().unwrap_or(most).min(most);
    (step > 0 || most == 0).then_some(step)
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = self.to_server.len().min(into.remaining());
        if most == 0 {
            return if self.is_ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let Some(now) = step(&mut self.reads, most) else { return Poll::Pending };
        for byte in self.to_server.drain(..now) {
            into.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(now) = step(&mut self.writes, bytes.len()) else { return Poll::Pending };
        self.from_server.extend_from_slice(&bytes[..now]);
        Poll::Ready(Ok(now))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

struct Pair {
    client: ClientConnection,
    server: TlsStream<Wire>,
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    static MADE: std::sync::OnceLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = std::sync::OnceLock::new();
    let make = || {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let versions = &[&rustls::version::TLS13];
        let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let mut server = server.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        server.send_tls13_tickets = 0;
        (Arc::new(client.with_root_certificates(roots).with_no_client_auth()), Arc::new(server))
    };
    MADE.get_or_init(make).clone()
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Moves what the client has to say onto the wire.
fn client_writes(client: &mut ClientConnection, wire: &mut Wire) {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    wire.to_server.extend(bytes);
}

/// Lets the client read what is on the wire: the plaintext, and whether that is the end in order.
fn client_reads(client: &mut ClientConnection, wire: &mut Wire) -> Result<(Vec<u8>, bool), rustls::Error> {
    let bytes = std::mem::take(&mut wire.from_server);
    let (mut unread, mut plain) = (&bytes[..], Vec::new());
    let mut is_closed = false;
    while !unread.is_empty() {
        client.read_tls(&mut unread).unwrap();
        is_closed |= client.process_new_packets()?.peer_has_closed();
        // It ends with "would block".
        drop(client.reader().read_to_end(&mut plain));
    }
    Ok((plain, is_closed))
}

impl Pair {
    /// After the handshake, over a wire with these steps.
    fn shaken((reads, writes): (Steps, Steps)) -> Self {
        let (client, server) = configs();
        let mut client = ClientConnection::new(client, ServerName::try_from("localhost").unwrap()).unwrap();
        let socket = Wire { reads, writes, ..Wire::default() };
        let mut stream = TlsStream::before_handshake(socket, UnbufferedServerConnection::new(server).unwrap());
        loop {
            client_writes(&mut client, &mut stream.socket);
            let shaken = stream.poll_handshake(&mut context());
            client_reads(&mut client, &mut stream.socket).unwrap();
            if let Poll::Ready(shaken) = shaken {
                shaken.unwrap();
                break;
            }
        }
        assert!(!client.is_handshaking());
        Self { client, server: stream }
    }

    /// The server reads once, at most so many bytes; none if nothing has come.
    fn read(&mut self, most: usize) -> Option<io::Result<Vec<u8>>> {
        let mut bytes = vec![0; most];
        let mut into = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.server).poll_read(&mut context(), &mut into) {
            Poll::Ready(read) => Some(read.map(|()| into.filled().to_vec())),
            Poll::Pending => None,
        }
    }

    /// The server reads until nothing more comes, or it fails.
    fn read_all(&mut self, wanted: usize, most: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < wanted {
            let blocked = self.server.socket.reads.len();
            match self.read(most) {
                Some(read) => all.extend(read?),
                // A step of the wire was a pause.
                None if self.server.socket.reads.len() < blocked => {}
                None => break,
            }
        }
        Ok(all)
    }

    /// The server writes all of it, and flushes.
    fn write(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            if let Poll::Ready(written) = Pin::new(&mut self.server).poll_write(&mut context(), left) {
                left = &left[written.unwrap()..];
            }
        }
        while Pin::new(&mut self.server).poll_flush(&mut context()).is_pending() {}
    }

    /// What the client has of plaintext.
    fn client_has(&mut self) -> Vec<u8> {
        client_reads(&mut self.client, &mut self.server.socket).unwrap().0
    }

    fn client_says(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let taken = self.client.writer().write(left).unwrap();
            left = &left[taken..];
            client_writes(&mut self.client, &mut self.server.socket);
        }
    }
}

/// What happens between the two.
#[derive(Debug, Clone)]
enum Event {
    /// The client says this, and the server reads in portions of so many bytes.
    Asks(Vec<u8>, usize),
    /// The server says this.
    Answers(Vec<u8>),
    /// The client changes its keys, and asks the server to change its own.
    NewKeys,
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = || prop_oneof![vec(any::<u8>(), 0..900), (30_000_usize..40_000).prop_map(|len| vec![7; len])];
    prop_oneof![
        4 => (bytes(), prop_oneof![Just(1_usize), Just(700), Just(70_000)]).prop_map(|(said, most)| {
            let most = most.max(said.len() / 100);
            Event::Asks(said, most)
        }),
        4 => bytes().prop_map(Event::Answers),
        1 => Just(Event::NewKeys),
    ]
}

fn steps() -> impl Strategy<Value = Steps> {
    vec(prop_oneof![Just(0_usize), 1_usize..8, 1_usize..3_000], 0..100).prop_map(Steps::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However records are split, and wherever a write blocks: what one side says the other one hears, in order, and the end.
    #[test]
    fn everything_arrives(wire in (steps(), steps()), events in vec(event(), 0..12)) {
        let mut pair = Pair::shaken(wire);
        for event in events {
            match event {
                Event::Asks(said, most) => {
                    pair.client_says(&said);
                    prop_assert_eq!(pair.read_all(said.len(), most).unwrap(), said);
                }
                Event::Answers(said) => {
                    pair.write(&said);
                    prop_assert_eq!(pair.client_has(), said);
                }
                Event::NewKeys => pair.client.refresh_traffic_keys().unwrap(),
            }
            prop_assert!(pair.server.plain.is_empty() && pair.server.outgoing.bytes.is_empty());
        }
        // The client ends its side: the server reads the end, and may still answer.
        pair.client.send_close_notify();
        client_writes(&mut pair.client, &mut pair.server.socket);
        pair.server.socket.is_ended = true;
        let end = loop {
            if let Some(read) = pair.read(100) {
                break read.unwrap();
            }
        };
        prop_assert_eq!(end, b"");
        pair.write(b"last");
        while Pin::new(&mut pair.server).poll_shutdown(&mut context()).is_pending() {}
        prop_assert!(pair.server.socket.is_shut);
        let last = client_reads(&mut pair.client, &mut pair.server.socket).unwrap();
        prop_assert_eq!(last, (b"last".to_vec(), true), "and close_notify");
    }
}

#[test]
fn a_stream_that_is_cut_is_no_end_in_order() {
    let mut pair = Pair::shaken(Default::default());
    pair.client_says(b"more comes");
    let cut = pair.server.socket.to_server.len() - 1;
    pair.server.socket.to_server.truncate(cut);
    pair.server.socket.is_ended = true;
    assert_eq!(pair.read(100).unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let mut pair = Pair::shaken(Default::default());
    pair.server.socket.is_ended = true;
    assert_eq!(pair.read(100).unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "without close_notify");
}

#[test]
fn what_is_wrong_is_answered_with_an_alert_even_if_the_socket_blocks() {
    for writes in [Steps::new(), [0, 1, 0, 2].into()] {
        let mut pair = Pair::shaken((Steps::new(), writes));
        pair.client_says(b"first");
        pair.client_says(b"changed on its way");
        let last = pair.server.socket.to_server.back_mut().unwrap();
        *last ^= 1;
        assert_eq!(pair.read_all(5, 100).unwrap(), b"first", "what came before is good");
        let error = loop {
            if let Some(read) = pair.read(100) {
                break read.unwrap_err();
            }
        };
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        assert_eq!((error.kind(), cause), (io::ErrorKind::InvalidData, Some(&rustls::Error::DecryptError)));
        let told = client_reads(&mut pair.client, &mut pair.server.socket).unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
        // And again; nothing is sent after it.
        assert_eq!(pair.read(100).unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(matches!(Pin::new(&mut pair.server).poll_write(&mut context(), b"x"), Poll::Ready(Err(_))));
        assert!(Pin::new(&mut pair.server).poll_shutdown(&mut context()).is_ready());
        assert_eq!(pair.server.socket.from_server, b"");
    }
}

#[test]
fn a_handshake_message_is_bounded_by_what_is_sent_for_it() {
    let tls = UnbufferedServerConnection::new(configs().1).unwrap();
    // A ClientHello of 65 535 bytes, by its own word, one byte of which is in each record.
    let hello = [1, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat_n(0, 60_000));
    let to_server = hello.flat_map(|byte| [22, 3, 1, 0, 1, byte]).collect();
    let mut stream = TlsStream::before_handshake(Wire { to_server, ..Wire::default() }, tls);
    let Poll::Ready(Err(error)) = stream.poll_handshake(&mut context()) else { panic!("it is not refused") };
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    assert_eq!(cause, Some(&rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge)));
    assert!(stream.incoming.len() <= KEPT_BYTES_MAX);
    assert!(stream.socket.to_server.len() > 200_000, "most of it was not read");
}

#[test]
fn a_connection_at_rest_keeps_no_buffer() {
    let mut pair = Pair::shaken(Default::default());
    for _ in 0..3 {
        pair.client_says(&[7; 20_000]);
        assert_eq!(pair.read_all(20_000, 70_000).unwrap().len(), 20_000);
        pair.write(&[8; 20_000]);
        assert_eq!(pair.client_has().len(), 20_000);
        let TlsStream { incoming, plain, outgoing, .. } = &pair.server;
        assert_eq!((incoming.capacity(), plain.bytes.capacity(), outgoing.bytes.capacity()), (0, 0, 0));
    }
    // Of a socket that takes nothing, one record is kept, and no more.
    pair.server.socket.writes = vec![0; 1_000].into();
    assert!(matches!(Pin::new(&mut pair.server).poll_write(&mut context(), &[9; 40_000]), Poll::Ready(Ok(16_384))));
    assert!(Pin::new(&mut pair.server).poll_write(&mut context(), &[9; 40_000]).is_pending());
    assert!(pair.server.outgoing.bytes.len() < RECORD_BYTES_MAX);
}

#[test]
fn room_of_the_thread_keeps_no_plaintext() {
    let mut pair = Pair::shaken(Default::default());
    pair.client_says(b"secret of an import");
    assert_eq!(pair.read_all(19, 100).unwrap().len(), 19);
    let holds = |bytes: &[u8]| bytes.windows(6).any(|six| six == b"secret");
    ROOM.with_borrow(|room| assert!(!holds(&room.incoming) && !holds(&room.outgoing)));
}
