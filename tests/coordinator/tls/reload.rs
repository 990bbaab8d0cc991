//! New files without a restart, and what becomes of open connections.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use rustls::{AlertDescription as Alert, HandshakeKind};
use tfo_coordinator::server::{Limits, Reason};
use tfo_tls::server::{Reload, ServerTls};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::harness::{Bench, Files, alert, ask, closed, send, until, within};
use tfo_model::problem::{Problem, Severity};
use tfo_testbed::pki::{Ca, DAY, Identity, Leaf, put};

/// Kinds of problems.
fn kinds(reload: &Reload) -> Vec<&'static str> {
    match reload {
        Reload::Kept(problems) | Reload::Done { problems, .. } => problems.iter().map(|problem| problem.kind).collect(),
        Reload::Unchanged => vec!["unchanged"],
    }
}

fn done(closed: usize) -> Reload {
    Reload::Done { closed, problems: Vec::new() }
}

/// Whether a connection still answers.
async fn answers(stream: &mut TlsStream<TcpStream>) -> bool {
    ask(stream, "/who").await.is_ok_and(|answer| answer.status == 200)
}

/// An open connection of a client, used once.
async fn open(bench: &Bench, identity: &Identity) -> TlsStream<TcpStream> {
    let mut stream = bench.client(identity).connect().await.expect("let in");
    assert!(answers(&mut stream).await);
    stream
}

/// The alert that a client gets instead of an answer.
async fn alert_for(bench: &Bench, identity: &Identity) -> Option<Alert> {
    alert(&bench.client(identity).get("/who").await.expect_err("refused"))
}

#[tokio::test]
async fn a_revoked_certificate_loses_its_connections_and_comes_back_neither_fresh_nor_resumed() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let (bad, good) = (ca.client(&["bad.example.org"]), ca.client(&["good.example.org"]));
    let client = bench.client(&bad);
    let mut idle = client.connect().await.unwrap();
    assert!(answers(&mut idle).await);
    // With a ticket this would be a resumed session, which the server does not verify again.
    let mut polling = client.connect().await.unwrap();
    send(&mut polling, "GET /poll HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(polling.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    let mut other = open(&bench, &good).await;

    assert_eq!(bench.tls.reload_if_changed(), Reload::Unchanged);
    bench.files.put("crl.pem", &ca.crl(&[&bad]));
    assert_eq!(bench.tls.reload_if_changed(), done(2));
    closed(&mut idle).await;
    closed(&mut polling).await;
    assert!(answers(&mut other).await, "the connection of another certificate lives");

    for client in [client, bench.client(&bad)] {
        let error = client.get("/who").await.expect_err("refused");
        assert_eq!(alert(&error), Some(Alert::CertificateRevoked));
    }
    until(|| bench.server.connections() == 1).await;
    assert_eq!(bench.tls.reload_if_changed(), Reload::Unchanged);
}

#[tokio::test]
async fn the_ca_is_rotated_even_under_the_same_name() {
    let (old, new) = (Ca::new("fleet ca"), Ca::new("fleet ca"));
    let (old_node, new_node) = (old.client(&["old.example.org"]), new.client(&["new.example.org"]));
    let old_revoked = old.client(&["gone.example.org"]);
    let bench = Bench::start(&old, Limits::default());
    let mut before = open(&bench, &old_node).await;
    let error = bench.client(&new_node).get("/who").await.expect_err("not yet");
    assert_eq!(alert(&error), Some(Alert::UnknownCA));

    // In between, the bundle names a CA that no list speaks for: the order of the two files locks no client out.
    bench.files.put("ca.crt", &(old.pem.clone() + &new.pem));
    assert_eq!(kinds(&bench.tls.reload_if_changed()), ["tls_crl_missing"]);
    assert!(answers(&mut before).await);
    bench.files.put("crl.pem", &(new.crl(&[]) + &old.crl(&[&old_revoked])));
    assert_eq!(bench.tls.reload_if_changed(), done(0));
    let mut after = open(&bench, &new_node).await;
    assert!(answers(&mut before).await);
    drop(open(&bench, &old_node).await);
    let error = bench.client(&old_revoked).get("/who").await.expect_err("refused");
    assert_eq!(alert(&error), Some(Alert::CertificateRevoked));

    bench.files.put("crl.pem", &new.crl(&[]));
    bench.files.put("ca.crt", &new.pem);
    until(|| bench.server.connections() == 2).await;
    assert_eq!(bench.tls.reload_if_changed(), done(1));
    closed(&mut before).await;
    assert!(answers(&mut after).await);
    let error = bench.client(&old_node).get("/who").await.expect_err("no longer");
    assert_eq!(alert(&error), Some(Alert::UnknownCA));
}

#[tokio::test]
async fn the_servers_certificate_is_renewed_without_a_restart() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let node = ca.client(&["cp1.example.org"]);
    let mut before = open(&bench, &node).await;
    let renewed = ca.issue(&Leaf { until_secs: 90 * DAY, ..Leaf::server() });
    // First one file, then the other: in between they do not belong together.
    put(&bench.files.path("server.crt"), &renewed.cert_pem);
    assert_eq!(kinds(&bench.tls.reload_if_changed()), ["tls_key_mismatch"]);
    drop(open(&bench, &node).await);
    put(&bench.files.path("server.key"), &renewed.key_pem);
    assert_eq!(bench.tls.reload_if_changed(), done(0));
    let after = open(&bench, &node).await;
    assert_eq!(after.get_ref().1.peer_certificates(), Some(&*renewed.chain()));
    assert!(answers(&mut before).await, "the old connection lives");
    let left = bench.tls.expiries().certificate.secs_since(tfo_host::runtime::clock::now());
    assert!(left > 89 * 86_400);
}

#[tokio::test]
async fn broken_new_files_leave_the_old_ones_in_use_until_they_are_mended() {
    let ca = Ca::new("ca");
    let other = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let node = ca.client(&["cp1.example.org"]);
    let mut stream = open(&bench, &node).await;
    let good = ["server.crt", "server.key", "ca.crt", "crl.pem"]
        .map(|name| (name, std::fs::read_to_string(bench.files.path(name)).unwrap()));
    let cut = |text: &str| text[..text.len() / 2].to_owned();
    let cases = [
        ("server.crt", String::new(), "tls_not_pem"),
        ("server.crt", cut(&good[0].1), "tls_not_pem"),
        ("server.crt", node.cert_pem.clone(), "tls_key_mismatch"),
        ("server.key", "no key".to_owned(), "tls_not_pem"),
        ("ca.crt", good[3].1.clone(), "tls_not_pem"),
        ("ca.crt", node.cert_pem.clone(), "tls_bad_ca"),
        ("ca.crt", Ca::until("ca", -DAY / 2).pem, "tls_ca_expired"),
        ("crl.pem", ca.crl_until(&[], -60), "tls_crl_expired"),
        ("crl.pem", other.crl(&[]), "tls_crl_missing"),
        ("crl.pem", cut(&good[3].1), "tls_not_pem"),
    ];
    for (name, text, kind) in cases {
        bench.files.put(name, &text);
        let Reload::Kept(problems) = bench.tls.reload_if_changed() else { panic!("{name} {kind}: taken") };
        assert!(problems.iter().any(|problem| problem.kind == kind), "{name} {kind}: {problems:?}");
        let blamed = problems
            .iter()
            .all(|problem| problem.file.as_ref().is_some_and(|file| file.starts_with(bench.files.dir.path())));
        assert!(blamed && problems.iter().all(|problem| !problem.remedy.is_empty()), "{problems:?}");
        assert_eq!(bench.tls.broken(), problems);
        assert!(answers(&mut stream).await, "{kind}: what is open lives");
        drop(open(&bench, &node).await);
        // Each look reports the problem again until it is fixed.
        assert_eq!(bench.tls.reload_if_changed(), Reload::Kept(problems));
        let (_, text) = good.iter().find(|(other, _)| *other == name).unwrap();
        bench.files.put(name, text);
        assert_eq!(bench.tls.reload_if_changed(), done(0), "{kind}");
        assert!(bench.tls.broken().is_empty());
    }
    std::fs::remove_file(bench.files.path("ca.crt")).unwrap();
    assert_eq!(kinds(&bench.tls.reload_if_changed()), ["tls_file_missing"]);
    drop(open(&bench, &node).await);
    bench.files.put("ca.crt", &ca.pem);
    assert_eq!(bench.tls.reload_if_changed(), done(0));
    std::fs::set_permissions(bench.files.path("server.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(kinds(&bench.tls.reload_if_changed()), ["secret_exposed"]);
    drop(open(&bench, &node).await);
}

#[test]
fn all_problems_of_the_files_come_at_once() {
    let ca = Ca::new("ca");
    let files = Files::of(&ca);
    assert_eq!(ServerTls::check(&files.server()), []);
    files.put("ca.crt", &(ca.pem.clone() + &ca.client(&["x"]).cert_pem));
    files.put("crl.pem", &ca.crl_until(&[], -60));
    files.put("server.key", "no key");
    let expired = ca.issue(&Leaf { from_secs: -2 * DAY, until_secs: -DAY, ..Leaf::server() });
    files.put("server.crt", &expired.cert_pem);
    let problems = ServerTls::load(files.server(), None).expect_err("broken");
    let mut found: Vec<_> = problems
        .iter()
        .map(|problem| (problem.kind, problem.file.as_deref().unwrap().file_name().unwrap().to_str().unwrap()))
        .collect();
    found.sort_unstable();
    let expected = [
        ("certificate_expired", "server.crt"),
        ("tls_bad_ca", "ca.crt"),
        ("tls_crl_expired", "crl.pem"),
        ("tls_not_pem", "server.key"),
    ];
    assert_eq!(found, expected);
    assert_eq!(ServerTls::check(&files.server()), problems);
    assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));
}

#[test]
fn a_revocation_list_that_another_made_under_the_cas_name_is_refused() {
    let (ca, impostor) = (Ca::new("ca"), Ca::new("ca"));
    let files = Files::of(&ca);
    files.put("crl.pem", &(ca.crl(&[]) + &impostor.crl(&[])));
    let problems = ServerTls::load(files.server(), None).expect_err("refused");
    assert_eq!(problems.iter().map(|problem| problem.kind).collect::<Vec<_>>(), ["tls_bad_crl"]);
}

#[tokio::test]
async fn the_newest_list_of_a_ca_counts() {
    let ca = Ca::new("ca");
    let node = ca.client(&["cp1.example.org"]);
    let files = Files::of(&ca);
    // The older list knows nothing of the revocation.
    files.put("crl.pem", &(ca.crl_of(-3 * DAY, &[]) + &ca.crl_of(-DAY, &[&node])));
    let bench = Bench::with(files, &ca, Limits::default());
    let error = bench.client(&node).get("/who").await.expect_err("refused");
    assert_eq!(alert(&error), Some(Alert::CertificateRevoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_ask_for_new_files_and_expired_certificates_lose_their_connections() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let (revoked, good) = (ca.client(&["bad.example.org"]), ca.client(&["good.example.org"]));
    let short = ca.issue(&Leaf { until_secs: 3, ..Leaf::client(&["short.example.org"]) });
    let (mut first, mut second) = (open(&bench, &revoked).await, open(&bench, &short).await);
    let mut third = open(&bench, &good).await;
    // Each by itself: new files have all connections looked at.
    closed(&mut second).await;
    assert!(answers(&mut first).await);
    bench.files.put("crl.pem", &ca.crl(&[&revoked]));
    closed(&mut first).await;
    assert!(answers(&mut third).await);
    let error = bench.client(&short).get("/who").await.expect_err("refused");
    assert_eq!(alert(&error), Some(Alert::CertificateExpired));
}

#[tokio::test]
async fn an_outdated_revocation_list_lets_nobody_in_and_closes_nothing() {
    let ca = Ca::new("ca");
    let files = Files::of(&ca);
    files.put("crl.pem", &ca.crl_until(&[], 3));
    let bench = Bench::with(files, &ca, Limits::default());
    let node = ca.client(&["cp1.example.org"]);
    let mut stream = open(&bench, &node).await;
    until(|| matches!(bench.tls.reload_if_changed(), Reload::Kept(_))).await;
    assert_eq!(bench.tls.broken()[0].kind, "tls_crl_expired");
    assert!(answers(&mut stream).await);
    let error = bench.client(&node).get("/who").await.expect_err("refused");
    assert_eq!(alert(&error), Some(Alert::AccessDenied), "an alert of its own");
    assert_eq!(bench.refused(Reason::RevocationOverdue), 1);
    bench.files.put("crl.pem", &ca.crl(&[]));
    assert_eq!(bench.tls.reload_if_changed(), done(0));
    drop(open(&bench, &node).await);
}

#[tokio::test]
async fn an_outdated_revocation_list_never_keeps_operators_out() {
    let ca = Ca::new("ca");
    let [operator, fired, node] =
        ["ops1.example.org", "ops2.example.org", "cp1.example.org"].map(|name| ca.client(&[name]));
    let files = Files::of(&ca);
    files.put("crl.pem", &ca.crl_until(&[&fired], -DAY));
    let kinds_of = |problems: &[Problem]| problems.iter().map(|one| (one.kind, one.severity)).collect::<Vec<_>>();
    assert_eq!(kinds_of(&ServerTls::check(&files.server())), [("tls_crl_expired", Severity::Warning)]);
    // It starts with such a list.
    let bench = Bench::with(files, &ca, Limits::default());
    let mut stream = open(&bench, &operator).await;
    assert_eq!(alert_for(&bench, &node).await, Some(Alert::AccessDenied));
    assert_eq!(alert_for(&bench, &fired).await, Some(Alert::CertificateRevoked), "what it revokes stays revoked");
    assert_eq!(kinds_of(&bench.tls.broken()), [("tls_crl_expired", Severity::Warning)]);
    // Another one that is out of date too may revoke more.
    assert!(answers(&mut stream).await);
    bench.files.put("crl.pem", &ca.crl_until(&[&fired, &operator], -DAY / 2));
    assert!(matches!(bench.tls.reload_if_changed(), Reload::Done { closed: 1, .. }));
    closed(&mut stream).await;
    assert_eq!(alert_for(&bench, &operator).await, Some(Alert::CertificateRevoked));
    bench.files.put("crl.pem", &ca.crl(&[&fired]));
    assert_eq!(bench.tls.reload_if_changed(), done(0));
    drop(open(&bench, &node).await);
    // And no list that is out of date takes the place of a good one.
    bench.files.put("crl.pem", &ca.crl_until(&[], -DAY));
    assert_eq!(kinds(&bench.tls.reload_if_changed()), ["tls_crl_expired"]);
    assert_eq!(alert_for(&bench, &fired).await, Some(Alert::CertificateRevoked));
}

#[test]
fn the_end_of_a_revocation_list_is_told_in_time() {
    let ca = Ca::new("ca");
    let files = Files::of(&ca);
    let now = tfo_host::runtime::clock::now();
    let year = |until_days: i64| ca.crl_long((until_days - 365) * DAY, until_days * DAY);
    for (list, kinds, notice) in [
        (year(31), vec![], None),
        (year(29), vec!["tls_crl_expiring"], Some("ends at")),
        (year(-1), vec!["tls_crl_expired"], Some("ended at")),
        // A list that lives for nine days ends in two.
        (ca.crl_until(&[], 3 * DAY), vec![], None),
        (ca.crl_until(&[], DAY / 2), vec!["tls_crl_expiring"], Some("ends at")),
    ] {
        files.put("crl.pem", &list);
        let problems = ServerTls::check(&files.server());
        assert_eq!(problems.iter().map(|problem| problem.kind).collect::<Vec<_>>(), kinds);
        let tls = ServerTls::load(files.server(), None).unwrap();
        let told = tls.list_notice(now);
        assert_eq!(told.is_some(), notice.is_some(), "{told:?}");
        assert!(notice.is_none_or(|part| told.as_ref().is_some_and(|told| told.contains(part))), "{told:?}");
    }
}

#[tokio::test]
async fn an_expired_ca_takes_its_clients_with_it() {
    let (short, long) = (Ca::until("short", 3), Ca::new("long"));
    let files = Files::of(&long);
    files.put("ca.crt", &(short.pem.clone() + &long.pem));
    files.put("crl.pem", &(short.crl(&[]) + &long.crl(&[])));
    let bench = Bench::with(files, &long, Limits::default());
    // The leaf's own time is not over.
    let (short_node, long_node) = (short.client(&["a.example.org"]), long.client(&["b.example.org"]));
    let (mut first, mut second) = (open(&bench, &short_node).await, open(&bench, &long_node).await);
    until(|| kinds(&bench.tls.reload_if_changed()) == ["tls_ca_expired"]).await;
    closed(&mut first).await;
    assert!(answers(&mut second).await);
    assert!(bench.client(&short_node).get("/who").await.is_err());
    drop(open(&bench, &long_node).await);
}

#[tokio::test]
async fn an_expired_ca_is_no_longer_believed_even_if_there_is_no_other() {
    let (short, servers) = (Ca::until("short", 3), Ca::new("servers"));
    let files = Files::of(&servers);
    files.put("ca.crt", &short.pem);
    files.put("crl.pem", &short.crl(&[]));
    let bench = Bench::with(files, &servers, Limits::default());
    let node = short.client(&["a.example.org"]);
    let mut stream = open(&bench, &node).await;
    until(|| matches!(bench.tls.reload_if_changed(), Reload::Kept(_))).await;
    assert_eq!(kinds(&bench.tls.reload_if_changed()), ["tls_ca_expired"]);
    closed(&mut stream).await;
    assert!(bench.client(&node).get("/who").await.is_err());
    assert_eq!(bench.refused(Reason::UnknownAuthority), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_began_before_a_reload_is_judged_by_the_new_files() {
    let ca = Ca::new("ca");
    let bench = Bench::start(&ca, Limits::default());
    let node = ca.client(&["cp1.example.org"]);
    let config = bench.client(&node).config;
    let mut tls = rustls::ClientConnection::new(config, bench.address.ip().into()).unwrap();
    let mut socket = std::net::TcpStream::connect(bench.address).unwrap();
    // The server's flight is here, our certificate is not sent.
    tls.write_tls(&mut socket).unwrap();
    while tls.is_handshaking() {
        assert_ne!(tls.read_tls(&mut socket).unwrap(), 0);
        tls.process_new_packets().unwrap();
    }
    bench.files.put("crl.pem", &ca.crl(&[&node]));
    assert_eq!(bench.tls.reload_if_changed(), done(0));
    tls.writer().write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut socket).unwrap();
    }
    let read = tokio::task::spawn_blocking(move || {
        let mut answer = Vec::new();
        drop(rustls::StreamOwned::new(tls, socket).read_to_end(&mut answer));
        answer
    });
    assert_eq!(within(read).await.unwrap(), b"", "no answer");
    until(|| bench.server.connections() == 0).await;
}
