//! Who is let in.

use rcgen::ExtendedKeyUsagePurpose;
use rustls::{AlertDescription as Alert, CipherSuite};
use tfo_coordinator::server::{Limits, Reason};
use tfo_wire::error::ErrorKind;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::harness::{Bench, Files, alert, ask, closed, until, within};
use tfo_testbed::pki::{Ca, DAY, Leaf};

#[tokio::test]
async fn a_peer_is_the_dns_names_of_its_certificate() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let names = ["b.example.org", "A.Example.ORG", "*.example.org", "192.0.2.1"];
    let client = bench.client(&ca.issue(&Leaf { common_name: "ops.example.org", ..Leaf::client(&names) }));
    let mut stream = client.connect().await.unwrap();
    for _ in 0..3 {
        let answer = ask(&mut stream, "/who").await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "a.example.org,b.example.org"));
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    assert_eq!(stream.get_ref().1.alpn_protocol(), None, "the client asked for none");
    let suite = stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
    assert_eq!(
        suite,
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256),
        "the client prefers another one, and the server decides"
    );
}

#[tokio::test]
async fn only_whole_names_of_a_certificate_are_names() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let (label, host) = ("x".repeat(64), format!("{}.example.org", "x".repeat(63)));
    let long = vec!["y".repeat(63); 4].join(".");
    // What is left of an odd name would be another host's.
    let cases = [
        ("CP1.EXAMPLE.ORG", "cp1.example.org"),
        ("cp1.example.org.", ""),
        (".example.org", ""),
        ("cp1..example.org", ""),
        ("cp1.example.org\0.evil.org", ""),
        (" cp1.example.org", ""),
        ("cp1.example.org\n", ""),
        ("cp1 example org", ""),
        ("*", ""),
        ("*.example.org", ""),
        ("cp*.example.org", ""),
        ("-cp1.example.org", ""),
        ("cp1.example.org,ops1.example.org", ""),
        ("ops1@example.org", ""),
        ("https://cp1.example.org", ""),
        (&format!("{label}.example.org"), ""),
        (&long, ""),
        (&host, &host),
        ("xn--cp1-8ka.example.org", "xn--cp1-8ka.example.org"),
    ];
    for (name, who) in cases {
        // One more, so that the certificate names somebody.
        let client = bench.client(&ca.client(&[name, "zz.example.org"]));
        let expected = if who.is_empty() { "zz.example.org".to_owned() } else { format!("{who},zz.example.org") };
        assert_eq!(client.get("/who").await.unwrap().body, expected, "{name:?}");
    }
    let many: Vec<String> = (0..300).map(|index| format!("n{index:03}.example.org")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(bench.client(&ca.client(&many)).get("/who").await.unwrap().body, many.join(","));
}

#[tokio::test]
async fn a_certificate_that_names_nobody_is_told_so_and_reaches_no_handler() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    for names in [&[][..], &["*.example.org"], &["192.0.2.1"]] {
        // The common name looks like a node's.
        let client = bench.client(&ca.issue(&Leaf { common_name: "cp1.example.org", ..Leaf::client(names) }));
        for path in ["/who", "/nowhere"] {
            let answer = client.get(path).await.unwrap();
            assert_eq!(answer.refusal(), (403, ErrorKind::NotAllowed), "{names:?}");
            assert!(answer.body.contains("subjectAltName"), "{answer:?}");
        }
    }
    assert_eq!(bench.refused(Reason::Nameless), 6);
}

#[tokio::test]
async fn without_a_good_certificate_nobody_is_let_in() {
    let ca = Ca::new("ca");
    let files = Files::of(&ca);
    let node = &["cp1.example.org"][..];
    let revoked = ca.client(node);
    files.put("crl.pem", &ca.crl(&[&revoked]));
    let bench = Bench::with(files, &ca, Limits::default());
    let other = Ca::new("ca");
    let expired = ca.issue(&Leaf { from_secs: -2 * DAY, until_secs: -DAY, ..Leaf::client(node) });
    let early = ca.issue(&Leaf { from_secs: DAY, ..Leaf::client(node) });
    let server = ca.issue(&Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Leaf::client(node) });
    let cases = [
        (bench.nobody(), Alert::CertificateRequired, Reason::NoCertificate),
        (bench.client(&expired), Alert::CertificateExpired, Reason::CertificateExpired),
        (bench.client(&early), Alert::CertificateExpired, Reason::CertificateExpired),
        (bench.client(&revoked), Alert::CertificateRevoked, Reason::CertificateRevoked),
        (bench.client(&other.client(node)), Alert::UnknownCA, Reason::UnknownAuthority),
        (bench.client(&server), Alert::UnsupportedCertificate, Reason::CertificateInvalid),
    ];
    for (client, expected, reason) in cases {
        let before = bench.refused(reason);
        let mut stream = client.connect().await.expect("the client cannot know yet");
        let error = ask(&mut stream, "/who").await.expect_err("refused");
        assert_eq!(alert(&error), Some(expected), "{reason}: {error:?}");
        assert_eq!(bench.refused(reason), before + 1, "{reason}");
        // Who sends on is read for a while: a reset could overtake the alert.
        for _ in 0..3 {
            stream.get_mut().0.write_all(&[0; 1000]).await.unwrap();
        }
    }
    assert_eq!(bench.client(&ca.client(node)).get("/who").await.unwrap().status, 200, "the others are");
}

#[tokio::test]
async fn a_node_below_an_intermediate_ca_is_let_in_and_can_be_revoked() {
    let root = Ca::new("root");
    let middle = root.intermediate("middle");
    let node = middle.client(&["cp1.example.org"]).below(&middle);
    let files = Files::of(&root);
    files.put("crl.pem", &(root.crl(&[]) + &middle.crl(&[])));
    let bench = Bench::with(files, &root, Limits::default());
    assert_eq!(bench.client(&node).get("/who").await.unwrap().body, "cp1.example.org");

    bench.files.put("crl.pem", &(root.crl(&[]) + &middle.crl(&[&node])));
    bench.tls.reload_if_changed();
    let error = bench.client(&node).get("/who").await.expect_err("refused");
    assert_eq!(alert(&error), Some(Alert::CertificateRevoked));
}

#[tokio::test]
async fn only_tls_1_3_with_http_1_1() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let node = ca.client(&["cp1.example.org"]);
    let error = bench.speaking(Some(&node), &[&rustls::version::TLS12]).connect().await.expect_err("refused");
    assert_eq!(alert(&error), Some(Alert::ProtocolVersion), "{error:?}");

    for (protocols, expected) in
        [(&["h2"][..], Err(Some(Alert::NoApplicationProtocol))), (&["h2", "http/1.1"], Ok(Some(b"http/1.1".to_vec())))]
    {
        let mut client = bench.client(&node);
        let mut config = (*client.config).clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        client.config = config.into();
        let connected = client.connect().await;
        let got = connected.map(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
        assert_eq!(got.map_err(|error| alert(&error)), expected, "{protocols:?}");
    }
    assert_eq!(bench.refused(Reason::Protocol), 2);
}

#[tokio::test]
async fn what_is_no_tls_is_closed_and_the_others_are_served() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let garbage = [
        &b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        &[0; 4096],
        &[0xff; 70_000],
        // A record that says that it is a handshake of 2^14 bytes, and then is none.
        &[&[22, 3, 1, 0x40, 0][..], &[0x5a; 0x4000]].concat(),
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        // The server may be gone before all is sent.
        drop(within(stream.write_all(bytes)).await);
        closed(&mut stream).await;
    }
    let refused = || bench.refused(Reason::Protocol) + bench.refused(Reason::HandshakeAborted);
    until(|| refused() == 4).await;
    // One that comes and goes.
    drop(TcpStream::connect(bench.address).await.unwrap());
    until(|| refused() == 5 && bench.server.connections() == 0).await;
    assert_eq!(bench.client(&ca.client(&["cp1.example.org"])).get("/who").await.unwrap().status, 200);
}
