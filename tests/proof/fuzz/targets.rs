//! What is fuzzed: each target takes any bytes, must not panic, and checks what must hold for whatever it accepts.  It returns what became
//! of the input, so that the driver can tell a new case from an old one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use axum::http::{Request, Response};
use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tfo_agent::contact::Instructed;
use tfo_config::agent::AgentSettings;
use tfo_config::coordinator::CoordinatorSettings;
use tfo_config::ctl::CtlFile;
use tfo_config::reader::ConfigFile;
use tfo_crypto::fingerprint::pair_print;
use tfo_ctl::host::link::Link;
use tfo_ctl::host::packet::Packet;
use tfo_ctl::host::pcap::Capture;
use tfo_ctl::host::tcp_option::{FastOpen, options};
use tfo_host::kernel::netstat::TfoCounters;
use tfo_host::kernel::sysctl_d::{self, Persisted};
use tfo_model::key_text::{self, KeyText};
use tfo_model::problem::Problem;
use tfo_pki::token::Token;
use tfo_tls::identity::Peer;
use tfo_wire::error::ErrorBody;
use tfo_wire::v1::sync::{SyncAnswer, SyncRequest};
use tokio::io::{AsyncRead, ReadBuf};

/// What became of an input; equal for inputs that went the same way.
pub(crate) fn class(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// An IP packet with its TCP options; and the same bytes behind each link header.
pub(crate) fn packet(bytes: &[u8]) -> u64 {
    for number in [0, 1, 12, 101, 108, 113, 228, 229, 276] {
        let link = Link::of(number).expect("it is one of ours");
        if let Some(inner) = link.ip_packet(bytes) {
            assert!(inner.len() <= bytes.len());
            Packet::parse(inner).ok();
        }
    }
    let kinds_of = |bytes: &[u8]| -> Vec<u8> { options(bytes).map(|(kind, _)| kind).collect() };
    kinds_of(bytes);
    match Packet::parse(bytes) {
        Ok(packet) => {
            let segment = packet.segment;
            let options = segment.header.options();
            assert!(options.len() <= 40 && segment.data_bytes <= 65_535.max(bytes.len()));
            assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
            let fast_open = FastOpen::among(options);
            if let Some(cookie) = fast_open.and_then(|option| option.cookie) {
                assert!((1..=38).contains(&cookie.as_bytes().len()) && !cookie.to_string().is_empty());
            }
            class((packet.source.is_ipv4(), kinds_of(options), fast_open.is_some(), segment.is_syn()))
        }
        Err(error) => class(error.to_string()),
    }
}

/// A capture of any kind, and every packet in it.
pub(crate) fn capture(bytes: &[u8]) -> u64 {
    let mut capture = match Capture::open(bytes) {
        Ok(capture) => capture,
        Err(error) => return class(error.to_string()),
    };
    let (mut frames, mut total) = (0_u32, 0);
    loop {
        match capture.next_frame() {
            Ok(Some(frame)) => {
                frames += 1;
                total += frame.bytes.len();
                assert!(total <= bytes.len(), "more bytes in frames than in the file");
                assert!(frame.at.nanos < 1_000_000_000);
                if let Some(inner) = frame.link.ip_packet(frame.bytes) {
                    Packet::parse(inner).ok();
                }
            }
            Ok(None) => return class((frames, "end")),
            Err(error) => return class((frames, error.to_string())),
        }
    }
}

/// The kernel's key text: what is accepted prints as it was read.
pub(crate) fn key_text(bytes: &[u8]) -> u64 {
    let shown = key_text::parse_shown(bytes);
    match key_text::parse(bytes) {
        Ok(keys) => {
            assert_eq!(KeyText::of(&keys).expose(), bytes.strip_suffix(b"\n").unwrap_or(bytes));
            let (primary, _) = shown.expect("it is stricter than what the kernel shows").expect("and not unset");
            assert!(primary.same_as(keys.primary()));
            class(keys.backup().is_some())
        }
        Err(error) => class((error.to_string(), shown.is_ok())),
    }
}

/// `/proc/net/netstat`.
pub(crate) fn netstat(bytes: &[u8]) -> u64 {
    let counters = TfoCounters::parse(&String::from_utf8_lossy(bytes));
    let names = [
        "TCPFastOpenActive",
        "TCPFastOpenPassive",
        "TCPFastOpenPassiveFail",
        "TCPFastOpenPassiveAltKey",
        "TCPSynRetrans",
    ];
    class(names.map(|name| counters.get(name).is_some()))
}

/// A node's request: what is accepted is written as it would be read.
pub(crate) fn sync_request(bytes: &[u8]) -> u64 {
    match serde_json::from_slice::<SyncRequest>(bytes) {
        Ok(request) => {
            let written = serde_json::to_vec(&request).expect("it can be written");
            let again: SyncRequest = serde_json::from_slice(&written).expect("and read");
            assert_eq!(again, request);
            class((request.installed.is_some(), request.error.is_some(), request.source as u8))
        }
        // Positions differ with every byte; the sort of complaint does not.
        Err(error) => {
            class((error.to_string().split(" at line").next().map(str::len), error.is_syntax(), error.is_data()))
        }
    }
}

/// An enrolment token: what is accepted is written as it was read, and what is not is not quoted.
pub(crate) fn token(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    match Token::parse(&text) {
        Ok(token) => {
            let again = Token::parse(&token.reveal()).expect("it reads what it writes");
            assert_eq!((&again.id, again.pin, &again.urls), (&token.id, token.pin, &token.urls));
            assert_eq!(again.secret.hash(), token.secret.hash());
            class(token.urls.len())
        }
        Err(bad) => class(bad.to_string()),
    }
}

/// A coordinator's answer: what an agent takes for told fits itself.
pub(crate) fn sync_answer(bytes: &[u8]) -> u64 {
    match serde_json::from_slice::<SyncAnswer>(bytes) {
        Ok(answer) => match Instructed::of(&answer, &answer.pool) {
            Ok(told) => {
                assert_eq!(told.instruction.slots.primary.fingerprint, answer.primary.fingerprint);
                assert_eq!(told.instruction.slots.backup.is_some(), answer.backup.is_some());
                class((told.phase as u8, answer.backup.is_some()))
            }
            Err(bad) => class(bad.to_string()),
        },
        Err(error) => class((error.is_syntax(), error.is_data())),
    }
}

/// What a coordinator says instead of an answer.
pub(crate) fn error_body(bytes: &[u8]) -> u64 {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => class((body.kind, body.ordinal.is_some())),
        Err(error) => class((error.is_syntax(), error.is_data())),
    }
}

/// The agent's file in sysctl.d: one that is taken for ours holds the keys that its header names.
pub(crate) fn sysctl_file(bytes: &[u8], place: &Path) -> u64 {
    std::fs::write(place, bytes).expect("the scratch directory takes it");
    match sysctl_d::read(place).expect("it is there") {
        Persisted::Ours { record, keys } => {
            assert_eq!(record.prints.pair(), pair_print(&keys));
            class((record.pool_id.is_some(), record.generation.is_some(), record.joints.len(), keys.backup().is_some()))
        }
        Persisted::Foreign => class("foreign"),
        Persisted::Absent => panic!("it was written"),
    }
}

/// The configuration of a program.  Whatever is wrong with it, each problem is one line, bounded, and without control characters.
pub(crate) fn configuration(program: &str, bytes: &[u8]) -> u64 {
    let file = Path::new("x.toml");
    let text = String::from_utf8_lossy(bytes);
    let problems: Vec<Problem> = match program {
        "agent" => AgentSettings::parse(file, &text).err(),
        "coordinator" => CoordinatorSettings::parse(file, &text).err(),
        _ => CtlFile::parse(file, &text).err(),
    }
    .unwrap_or_default();
    for problem in &problems {
        let shown = problem.to_string();
        assert!(!shown.contains('\u{1b}') && shown.len() < super::INPUT_BYTES_MAX, "{shown:?}");
    }
    let kinds: Vec<&str> = problems.iter().map(|problem| problem.kind).take(3).collect();
    class((problems.len().min(4), kinds))
}

/// A peer's certificate: it has a name and a purpose by a SPIFFE ID only if exactly that is in it.
pub(crate) fn peer(bytes: &[u8]) -> u64 {
    let domain = "fleet.example.org".parse().expect("a trust domain");
    let Ok(peer) = Peer::within(&CertificateDer::from(bytes), Some(&domain)) else { return class("unreadable") };
    assert!(peer.bad_id.is_none() || (peer.names.is_empty() && peer.purpose.is_none()));
    if let Some(purpose) = peer.purpose {
        let names: Vec<_> = peer.names.iter().collect();
        let [name] = names[..] else { panic!("{names:?}") };
        let segment = format!("{purpose:?}").to_lowercase();
        let id = format!("spiffe://{domain}/tfo/{segment}/{name}");
        assert!(bytes.windows(id.len()).any(|part| part == id.as_bytes()), "{id}");
    }
    class((peer.names.len(), peer.purpose.map(|purpose| purpose as u8), peer.bad_id.map(|bad| bad.to_string())))
}

/// A request for a certificate: its body, and the certificate request in it.
pub(crate) fn enrol_request(bytes: &[u8]) -> u64 {
    match serde_json::from_slice::<tfo_wire::v1::enrol::EnrolRequest>(bytes) {
        Ok(request) => {
            let secret = tfo_pki::token::TokenSecret::parse(request.secret.expose()).is_some();
            let checked = tfo_pki::request::check(&request.csr, &request.name);
            assert!(checked.as_ref().is_ok_and(|key| key.len() == 91) || checked.is_err());
            class((secret, checked.map(drop).map_err(|error| error.to_string())))
        }
        Err(error) => class(error.classify() as u8),
    }
}

/// Bytes that have come; more of them may.
struct Open(std::io::Cursor<Vec<u8>>);

impl AsyncRead for Open {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let mut room = vec![0; into.remaining()];
        match self.0.read(&mut room)? {
            0 => Poll::Pending,
            read => {
                into.put_slice(&room[..read]);
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// What hyper makes of bytes: the requests, each with its body, and whether nothing else is left of them.
fn by_hyper(bytes: &[u8]) -> (Vec<Request<Bytes>>, bool) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&heard);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let collected = Arc::clone(&collected);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(axum::body::Body::new(body), usize::MAX).await?;
            collected.lock().unwrap().push(Request::from_parts(head, body));
            Ok::<_, axum::Error>(Response::new(axum::body::Body::empty()))
        })
    });
    let stream = tokio::io::join(Open(std::io::Cursor::new(bytes.to_vec())), tokio::io::sink());
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(8_192).max_headers(64).header_read_timeout(None);
    let mut connection = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service);
    // Everything is there: what one poll leaves to be done, the next ones do.
    let polls = (0..100).map(|_| connection.poll_without_shutdown(&mut Context::from_waker(Waker::noop())));
    let is_content = !matches!(polls.into_iter().find(Poll::is_ready), Some(Poll::Ready(Err(_))));
    let parts = connection.into_parts();
    let unread = parts.read_buf.len() + bytes.len() - usize::try_from(parts.io.inner().reader().0.position()).unwrap();
    (std::mem::take(&mut heard.lock().unwrap()), is_content && unread == 0)
}

/// A node's request as its connection has it: what is taken without hyper is all that hyper takes of it, and the same.
pub(crate) fn whole_request(bytes: &[u8]) -> u64 {
    let (heard, is_content) = by_hyper(bytes);
    let taken = tfo_coordinator::server::whole_request(bytes);
    if let Some(taken) = &taken {
        assert!(is_content && heard.len() == 1, "{} requests for hyper", heard.len());
        let shown = |request: &Request<Bytes>| {
            let (head, body) = (request.uri().to_string(), request.body().to_vec());
            (request.method().clone(), head, request.version(), request.headers().clone(), body)
        };
        assert_eq!(shown(taken), shown(&heard[0]));
    }
    class((taken.is_some(), heard.len(), is_content, taken.map(|taken| taken.headers().len())))
}
